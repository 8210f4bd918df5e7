"""The search: weights and architecture of a supernet are trained in turns, and a genotype is derived."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn

import genotypes
import spaces
from genotypes.config import Common, Config, Epochs, LessThan, MayDiffer, MoreThan, Seed
from nas import data
from nas.data import Batch, DataConfig, ImageData, Loader
from nas.engine.device import Precision, PrecisionChoice, resolve_device, resolve_precision
from nas.engine.graphs import Step, captured
from nas.engine.meter import Meter, evaluation_step, measure
from nas.engine.optimizers import OptimizerState, ScheduleState, learning_rate
from nas.errors import users_mistakes
from nas.methods import DARTS, Method, Relaxation, named
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.methods.diagnostics import diagnose
from nas.runs import record, tensorboard
from nas.runs.record import SearchRecord, SearchResult
from nas.runs.run import Run, RunConfig, directory_of
from nas.runs.same_data import SameData
from nas.supernet import Supernet, SupernetConfig
from spaces import KINDS, SearchSpace, SpaceConfig


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Config):
    """Everything that decides a search; the defaults are DARTS's protocol, which is also the spaces' paper's."""

    preset: Annotated[Literal["paper", "smoke"], Common] = "paper"
    """Sets all other defaults: paper, the published protocol; smoke, minutes on a CPU."""
    seed: Annotated[Seed, Common] = 0
    """Seed of the split, the weights, the architecture's random start and the order of the images."""
    epochs: Annotated[Epochs, Common] = 50
    """Passes over the weights' half of the training images (DARTS sec. A.1: 50)."""
    train_portion: Annotated[float, MoreThan(0), LessThan(1)] = 0.5
    """Share of the training images for the weights; the others are the architecture's (DARTS sec. 3.1: 0.5)."""
    precision: Annotated[PrecisionChoice, Common] = "auto"
    """Forward passes in fp32, or in bf16 with weights and statistics in fp32; auto: bf16 on GPUs that compute in it
    (NVIDIA from A100 on), but fp32 for --unrolled by finite differences."""
    log_logits: Annotated[bool, MayDiffer] = False
    """Also write a TensorBoard curve of every architecture parameter: a few hundred of them."""
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    supernet: SupernetConfig = field(default_factory=SupernetConfig)
    bilevel: BilevelConfig = field(default_factory=BilevelConfig)
    method: Method = field(default_factory=DARTS)


def paper(dataset: str) -> SearchConfig:
    """DARTS sec. 3.1 and A.1: on CIFAR-10 0.4 GPU-days (first order) and 1 GPU-day (second) in the paper."""
    return SearchConfig(data=DataConfig(dataset=dataset, batch_size=64))


def smoke(dataset: str) -> SearchConfig:
    """Three narrow cells, 8 epochs: a minute or two on a CPU core for digits, twice that for --unrolled."""
    return SearchConfig(
        preset="smoke",
        epochs=8,
        data=DataConfig(dataset=dataset, batch_size=64),
        supernet=SupernetConfig(layers=3, init_channels=8),
        # 96 steps instead of 19,550: both levels must move faster to get anywhere.
        bilevel=BilevelConfig(learning_rate=0.05, arch_learning_rate=3e-3),
    )


PRESETS = {"paper": paper, "smoke": smoke}


def with_method(config: SearchConfig, method: str | Method) -> SearchConfig:
    """The configuration with another method, by name with its default constants; one that it has keeps its constants.

    Raises ValueError as `nas.methods.named` does.
    """
    if isinstance(method, str):
        method = config.method if method == config.method.method else named(method)
    return replace(config, method=method)


class Loaders(NamedTuple):
    """Batches for the weights, for the architecture, and the latter's images without augmentation, for evaluation."""

    weights: Loader
    architecture: Loader
    held_out: Loader


class Steps(NamedTuple):
    """The three steps on batches, of the bilevel problem itself or as CUDA graphs."""

    architecture: Step
    weights: Step
    evaluation: Step


class Meters(NamedTuple):
    """Loss and accuracy of an epoch: of the two kinds of steps, and of the held-out images after them."""

    weights: Meter
    architecture: Meter
    held_out: Meter


class Derived:
    """The genotype of the last epoch as JSON, saved because another device might round a tie the other way."""

    genotype = ""

    def state_dict(self) -> dict[str, str]:
        """The JSON text of the genotype; empty before the first epoch has ended."""
        return {"genotype": self.genotype}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Takes over the genotype of a checkpoint."""
        self.genotype = state["genotype"]


def search(config: SearchConfig, *, images: ImageData | None = None) -> SearchResult:
    """Runs (or resumes) a search in its run directory and returns its result, as in `result.json`.

    Args:
        config: everything that decides the search.
        images: replace those that `config.data` names.

    Raises UsageError for a user error, before anything is written; NonFiniteLossError; Stopped.
    """
    with users_mistakes():
        device = resolve_device(config.run.device)
        precision = resolve_precision(config.precision, device, exactly=config.bilevel.needs_fp32)
        # Goes into config.json, which must be the same for a resumed run.
        config = replace(config, precision=precision)
        images = data.load(config.data) if images is None else images
        torch.manual_seed(config.seed)
        space = spaces.build(config.space, seed=config.seed).to(device)
        relaxation = config.method.build().to(device)
        relaxation.check(space)
    bilevel = _bilevel(config, space, relaxation, images, device, precision)
    loaders = _loaders(config, images, device)
    same_data = SameData(images)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        bilevel.weight_optimizer, config.epochs, eta_min=config.bilevel.learning_rate_min
    )
    evaluation = partial(evaluation_step, bilevel.predict, precision=precision)
    plain = Steps(bilevel.architecture_step, bilevel.weight_step, evaluation)
    steps = Steps(*captured(*plain, device=device, enabled=config.run.cuda_graph))
    meters, derived = Meters(Meter(), Meter(), Meter()), Derived()
    name = f"search-{config.data.dataset}-{config.space.space.replace(':', '.')}-seed{config.seed}"
    directory = directory_of(config.run, config, default_name=name, device=device)
    run = Run(
        directory,
        {
            "data": same_data,  # first: for other classes, loading the network would fail without saying why
            "relaxation": relaxation,
            "supernet": bilevel.supernet,
            "space": bilevel.space,
            "weight_optimizer": OptimizerState(bilevel.weight_optimizer),
            "architecture_optimizer": OptimizerState(bilevel.architecture_optimizer),
            "schedule": ScheduleState(schedule),
            **{f"{name}_meter": meter for name, meter in meters._asdict().items()},
            "derived": derived,
        },
        device=device,
        deterministic=config.run.deterministic,
        epochs=config.epochs,
        steps=len(loaders.weights),
    )
    with run:
        same_data.report(directory)
        directory.log(
            f"searching {config.space.space} on {config.data.dataset}: {config.supernet.layers} cells of "
            f"{config.supernet.init_channels} channels, {config.epochs} epochs of {len(loaders.weights)} steps on "
            f"{device} in {precision}, in {directory.path}"
        )
        for epoch in run.epochs():
            relaxation.schedule(epoch, config.epochs)
            bilevel.supernet.train()
            _search_epoch(run, steps, loaders, meters, epoch)
            bilevel.supernet.eval()
            measure(steps.evaluation, run.interruptible(loaders.held_out.epoch(epoch)), meters.held_out)
            run.check_finite()
            _report_epoch(run, bilevel, meters, derived, config.log_logits)
            schedule.step()
            meters.weights.reset()
            meters.architecture.reset()
        return _finish(run, config, derived, meters.held_out, same_data)


def _bilevel(
    config: SearchConfig,
    space: SearchSpace,
    relaxation: Relaxation,
    images: ImageData,
    device: torch.device,
    precision: Precision,
) -> Bilevel:
    supernet = Supernet(
        space,
        config.supernet,
        in_channels=images.channels,
        image_size=images.image_size,
        num_classes=images.num_classes,
    ).to(device)
    return Bilevel(supernet, space, config.bilevel, nn.CrossEntropyLoss(), precision, relaxation)


def _loaders(config: SearchConfig, images: ImageData, device: torch.device) -> Loaders:
    weights, architecture = images.search_split(seed=config.seed, train_portion=config.train_portion)
    return Loaders(
        images.train_loader(seed=config.seed, indices=weights, device=device),
        # A purpose, not another seed: no random numbers are shared with the other half, nor with another run.
        images.train_loader(seed=config.seed, purpose="architecture", indices=architecture, device=device),
        images.train_loader(seed=config.seed, indices=architecture, augment=False, device=device),
    )


def _search_epoch(run: Run, steps: Steps, loaders: Loaders, meters: Meters, epoch: int) -> None:
    """Alternates both steps over the rest of an epoch (DARTS, algorithm 1)."""
    number = len(loaders.weights)
    train_batches = loaders.weights.epoch(epoch, run.step)
    valid_batches = endless(loaders.architecture, epoch * number + run.step)
    for train, valid in run.steps(zip(train_batches, valid_batches, strict=False), meters.weights):
        # Read at once: the outputs of a captured step are overwritten by the next step.
        loss, logits = steps.architecture(train, valid)
        meters.architecture.update(loss, logits, valid[1])
        loss, logits = steps.weights(train)
        meters.weights.update(loss, logits, train[1])


def endless(loader: Loader, start: int) -> Iterator[Batch]:
    """Yields the batches of epoch after epoch of a loader, from step number `start` on, counted over all epochs."""
    epoch, step = divmod(start, len(loader))
    yield from loader.epoch(epoch, step)
    for later in itertools.count(epoch + 1):
        yield from loader.epoch(later)


def _report_epoch(run: Run, bilevel: Bilevel, meters: Meters, derived: Derived, log_logits: bool) -> None:
    space, number = bilevel.space, run.epoch + 1
    mixing = bilevel.relaxation.expected(space)
    genotype = space.derive(mixing)
    derived.genotype = genotypes.to_json(genotype)
    with run.directory.auxiliary("genotypes"):
        (run.directory.path / "genotypes").mkdir(exist_ok=True)
        genotypes.save(genotype, run.directory.path / "genotypes" / f"epoch_{number:03d}.json")
    run.add_metrics(
        {
            "train_loss": meters.weights.loss,
            "train_accuracy": meters.weights.accuracy,
            "arch_loss": meters.architecture.loss,
            "arch_accuracy": meters.architecture.accuracy,
            "valid_loss": meters.held_out.loss,
            "valid_accuracy": meters.held_out.accuracy,
            "learning_rate": learning_rate(bilevel.weight_optimizer),
            **diagnose(space, mixing, genotype),
        }
    )
    with run.directory.auxiliary("tb"):
        tensorboard.add_mixing(run.tensorboard, space, mixing, number)
        if log_logits:
            tensorboard.add_logits(run.tensorboard, space, number)
        tensorboard.add_genotype(run.tensorboard, genotype, number)
    left, slots = sum(space.left_start(mixing).values()), len(KINDS) * len(space.peaked)
    note = f", {left} of {slots} slots have left the start" if slots else ""
    run.log_epoch("valid", meters.weights, meters.held_out, note)


def _finish(run: Run, config: SearchConfig, derived: Derived, held_out: Meter, same_data: SameData) -> SearchResult:
    genotype = genotypes.from_json(derived.genotype, "the checkpoint")
    directory = run.directory
    genotypes.save(genotype, directory.path / "genotype.json")
    tensorboard.draw_cells(directory, genotype, f"{config.space.space}, ")
    result = SearchResult(
        run_dir=str(directory.path),
        space=config.space.space,
        dataset=config.data.dataset,
        genotype=genotypes.to_text(genotype),
        valid_accuracy=held_out.accuracy,
        epochs=config.epochs,
        seconds=round(run.seconds, 3),
    )
    found = SearchRecord(seed=config.seed, settings=directory.settings, data=same_data.summary, result=result)
    record.write(directory, found)
    directory.log(
        f"genotype and pictures of its cells written to {directory.path}: genotype.json, normal.svg, reduce.svg"
    )
    return result
