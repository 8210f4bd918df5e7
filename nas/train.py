"""The training: a genotype's network, a hand-made one or one of a library is trained on all training images.

The test images choose nothing: the figure of a run is that of its last epoch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from msgspec import UNSET
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

import spaces
from genotypes.config import (
    AtLeast,
    Common,
    Config,
    Epochs,
    IsPath,
    KeptInCheckpoint,
    LessThan,
    NoneMeans,
    Seed,
    WhenChanged,
)
from nas import data
from nas.data import DataConfig, ImageData, Loader
from nas.engine.calibration import Calibration, calibrate
from nas.engine.device import Precision, PrecisionChoice, resolve_device, resolve_precision
from nas.engine.graphs import captured
from nas.engine.meter import Meter, Predictions, evaluation_step, measure
from nas.engine.optimizers import OptimizerState, ScheduleState, advance, learning_rate
from nas.engine.training import Training, TrainingConfig
from nas.errors import UsageError, users_mistakes
from nas.evaluate import figures
from nas.networks import architecture, pretrained, weights
from nas.networks.architecture import Architecture, Resolved
from nas.networks.cells import Network, NetworkConfig
from nas.networks.cost import count_parameters
from nas.networks.handmade import HandmadeConfig
from nas.networks.library import LibraryConfig
from nas.runs import checkpoint, predictions, record
from nas.runs.directory import RunDirectory
from nas.runs.record import TrainRecord, TrainResult
from nas.runs.run import Run, RunConfig, Stateful, directory_of
from nas.runs.same_data import SameData


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """Everything that decides an evaluation training; the defaults are DARTS's for CIFAR."""

    arch: Annotated[str, IsPath, Common, KeptInCheckpoint] = ""
    """What to train: the directory of a search run, a genotype file, the name of a published genotype, that of a
    hand-made network (resnet, hbnet, dmrnet, densenet or agdnet and a depth, such as hbnet56), or a classification
    network of torchvision or timm, such as torchvision:resnet18."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the genotype has."""
    init_from: Annotated[str | None, IsPath, NoneMeans("new weights")] = None
    """Start with the weights of this finished run's directory, of the same architecture."""
    preset: Annotated[Literal["paper", "smoke", "small"], Common] = "paper"
    """Sets all other defaults: paper, the published protocol; smoke, minutes on a CPU; small, for a few hundred to a
    few thousand images: a network of cells, or one of torchvision or timm."""
    seed: Annotated[Seed, Common] = 0
    """Seed of the weights and of the order and augmentation of the images."""
    epochs: Annotated[
        Epochs, Common, WhenChanged("to train a finished network further, start one with --init-from")
    ] = 600
    """Passes over the training images (DARTS sec. 3.2: 600 on CIFAR, sec. 3.4: 250 on ImageNet; hand-made networks:
    300 and 100; torchvision's ResNets: 90)."""
    precision: Annotated[PrecisionChoice, Common] = "auto"
    """Forward passes in fp32, or in bf16 with weights and statistics in fp32; auto: bf16 on GPUs that compute in it
    (NVIDIA from A100 on)."""
    hold_out: Annotated[float, AtLeast(0), LessThan(1)] = 0.0
    """Share of the training images of each class that is not trained on: on these the temperature is fitted with which
    probabilities are calibrated (Guo et al., ICML 2017), such as 0.1."""
    test_at_end: bool = False
    """Measure the test images once, after the last epoch, instead of after each."""
    report_best: bool = False
    """Also report the best epoch's test accuracy, which the test images chose and which is optimistic."""
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_size=96))
    training: TrainingConfig = field(default_factory=TrainingConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    handmade: HandmadeConfig = field(default_factory=HandmadeConfig)
    library: LibraryConfig = field(default_factory=LibraryConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.report_best and self.test_at_end:
            raise ValueError("--report-best needs the test of each epoch, which --test-at-end leaves out; drop one")
        if self.init_from and self.library.pretrained:
            raise ValueError("--init-from and --pretrained both say with which weights to start; drop one")

    def tests_after(self, epoch: int) -> bool:
        """Whether the test images are measured after an epoch, counted from 0."""
        return not self.test_at_end or epoch + 1 == self.epochs


class Meters(NamedTuple):
    """The figures of an epoch, and the best of all epochs."""

    train: Meter
    test: Meter
    best: Best


def train(config: TrainConfig, *, images: ImageData | None = None, resolved: Resolved | None = None) -> TrainResult:
    """Trains (or resumes) in the run directory and returns the result, as kept in `result.json`.

    `images` and `resolved` take the place of what `config.data` and `config.arch` name.

    Raises UsageError for a user's mistake, before anything is written; NonFiniteLossError; Stopped.
    """
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        resolved = resolved or architecture.resolve(config.arch, config.network, config.handmade, config.library)
        device = resolve_device(config.run.device)
        precision = resolve_precision(config.precision, device)
        config = _as_kept(config, precision)
        images = data.load(config.data) if images is None else images
        if config.library.pretrained:
            images = pretrained.normalized(images, config.arch)
        kept, held_out = images.hold_out(config.hold_out)
    directory = _directory(config, device)
    begun = config.run.resume and checkpoint.exists(directory.path)
    network = _network(config, resolved.architecture, images, device, begun=begun)
    train_loader = images.train_loader(seed=config.seed, indices=kept, device=device)
    test_loader = images.test_loader(device=device)
    training = Training(config.training, network, precision)
    plain = (training.training_step, partial(evaluation_step, training.measured, precision=precision))
    train_on, test_on = captured(*plain, device=device, enabled=config.run.cuda_graph)
    schedule = training.schedule(config.epochs)
    same_data, meters, tested = SameData(images), Meters(Meter(), Meter(), Best()), Predictions()
    run = Run(
        directory,
        _tracked(same_data, resolved.architecture, training, schedule, meters),
        device=device,
        deterministic=config.run.deterministic,
        epochs=config.epochs,
        steps=len(train_loader),
    )

    @cache
    def calibrated() -> Calibration | None:
        """Of the weights after the last epoch."""
        if not len(held_out):
            return None
        training.measured.eval()
        loader = images.train_loader(seed=config.seed, indices=held_out, augment=False, device=device)
        return calibrate(plain[1], run.interruptible(loader.epoch(0)))

    def test(epoch: int, meter: Meter) -> None:
        """Measures the test images; of the last epoch, what is predicted for each is kept too."""
        training.measured.eval()
        last = epoch + 1 == config.epochs
        if last:
            tested.temperature = _temperature(calibrated())
        measure(test_on, run.interruptible(test_loader.epoch(epoch)), meter, tested if last else None)

    with run:
        same_data.report(run.directory)
        _log_start(run.directory, config, resolved.architecture, training, train_loader, len(held_out))
        for epoch in run.epochs():
            if isinstance(network, Network):
                network.schedule_drop_path(epoch / config.epochs)
            network.train()
            for batch in run.steps(train_loader.epoch(epoch, run.step), meters.train):
                loss, logits = train_on(batch)
                meters.train.update(loss, logits, batch[1])
            if config.tests_after(epoch):
                test(epoch, meters.test)
            run.check_finite()
            _report_epoch(run, meters, learning_rate(training.optimizer))
            advance(schedule)
            meters.train.reset()
        if not (tested or predictions.complete(run.directory.path)):  # killed after the last epoch
            test(config.epochs - 1, Meter())
        if tested:
            predictions.write(run.directory.path, tested, images, run.directory.auxiliary)
        return _finish(run, config, resolved, training, meters, images, same_data, calibrated())


def _temperature(calibration: Calibration | None) -> float:
    return 1.0 if calibration is None else calibration.temperature


def _as_kept(config: TrainConfig, precision: Precision) -> TrainConfig:
    """The configuration for config.json, which a resumed run must have too, from whatever folder it is resumed."""
    origin = config.init_from and os.path.abspath(config.init_from)
    return replace(config, precision=precision, init_from=origin)


def _directory(config: TrainConfig, device: torch.device) -> RunDirectory:
    arch = Path(config.arch.replace(":", "-")).stem  # no system objects to that in a folder's name
    name = f"eval-{config.data.dataset}-{arch}-seed{config.seed}"
    return directory_of(config.run, config, default_name=name, device=device)


def _network(
    config: TrainConfig, arch: Architecture, images: ImageData, device: torch.device, *, begun: bool
) -> nn.Module:
    """The network to train, with new weights, pretrained ones, or those of `--init-from`.

    That of a run that has `begun` gets the weights of its checkpoint later, and does not need those it started with.
    """
    torch.manual_seed(config.seed)
    network = arch.build(in_channels=images.channels, image_size=images.image_size, num_classes=images.num_classes)
    if config.library.pretrained and not begun:
        pretrained.load(network, config.arch, images)
    network.to(device)
    if config.init_from and not begun:
        _load_weights(network, arch, images, Path(config.init_from) / weights.NAME)
    return network


def _load_weights(network: nn.Module, arch: Architecture, images: ImageData, path: Path) -> None:
    """Gives `network` the weights in a file. Raises UsageError for those of another one."""
    with users_mistakes():
        trained = weights.load(path)
    saved, own = trained.network.state_dict(), network.state_dict()
    if trained.architecture.identity != arch.identity or _shapes(saved) != _shapes(own):
        raise UsageError(f"{path} holds another network than this run trains; --init-from needs the same one")
    if trained.classes != tuple(images.classes):
        raise UsageError(f"{path} was trained on other classes than those of this run; --init-from needs the same ones")
    network.load_state_dict(saved)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


class SameArchitecture:
    """Refuses to go on with another one: `--arch` may name a file that has changed since."""

    def __init__(self, arch: Architecture) -> None:
        self._text = arch.identity

    def state_dict(self) -> dict[str, str]:
        """The identity of the architecture."""
        return {"text": self._text}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Compares a saved identity with that of this run. Raises UsageError if they differ."""
        if state["text"] != self._text:
            raise UsageError(f"--arch was {state['text']} when the run began and is now {self._text}; start a new run")


class Best:
    """The best test accuracy of any epoch, for --report-best."""

    accuracy = 0.0

    def state_dict(self) -> dict[str, float]:
        """The best accuracy so far, in percent."""
        return {"accuracy": self.accuracy}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes over the best accuracy of a checkpoint."""
        self.accuracy = state["accuracy"]


def _tracked(
    same_data: SameData, arch: Architecture, training: Training, schedule: LRScheduler, meters: Meters
) -> dict[str, Stateful]:
    """All that a resumed run must have again, by its name in the checkpoint."""
    return {
        # These two first: what was made for other images or another architecture would fail to load without saying why.
        "data": same_data,
        "architecture": SameArchitecture(arch),
        "network": training.network,
        "optimizer": OptimizerState(training.optimizer),
        "schedule": ScheduleState(schedule),
        **({} if training.average is None else {"average": training.average}),
        "train_meter": meters.train,
        "test_meter": meters.test,
        "best": meters.best,
    }


def _log_start(
    directory: RunDirectory,
    config: TrainConfig,
    arch: Architecture,
    training: Training,
    loader: Loader,
    held_out: int,
) -> None:
    directory.log(
        f"training {config.arch} on {config.data.dataset}: {arch.summary}, "
        f"{count_parameters(training.network):,} parameters, {config.epochs} epochs of {len(loader)} steps on "
        f"{loader.device} in {config.precision}, in {directory.path}"
    )
    if held_out:
        directory.log(f"{held_out:,} training images are held out for the temperature")


def _report_epoch(run: Run, meters: Meters, learning_rate: float) -> None:
    train, test = meters.train, meters.test
    meters.best.accuracy = max(meters.best.accuracy, test.accuracy)
    tested = {
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "test_top5_accuracy": test.top5_accuracy,
    }
    run.add_metrics(
        {
            "train_loss": train.loss,
            "train_accuracy": train.accuracy,
            **(tested if test.images else {}),
            "learning_rate": learning_rate,
        }
    )
    run.log_epoch({"train": train, **({"test": test} if test.images else {})})


def _finish(
    run: Run,
    config: TrainConfig,
    resolved: Resolved,
    training: Training,
    meters: Meters,
    images: ImageData,
    same_data: SameData,
    calibration: Calibration | None,
) -> TrainResult:
    """Leaves the genotype, the weights and the record in the run's directory, and gives the result."""
    resolved.architecture.write(run.directory)
    weights.save(
        run.directory.path / weights.NAME,
        training.measured,
        resolved.architecture,
        images,
        temperature=_temperature(calibration),
    )
    measured = {**figures(training.measured, meters.test, images), "calibration": calibration or UNSET}
    result = _result(run, config, resolved, measured, meters.best)
    record.write(run.directory, _record(run.directory, config, resolved, same_data, result))
    return result


def _result(run: Run, config: TrainConfig, resolved: Resolved, measured: Mapping[str, Any], best: Best) -> TrainResult:
    search = resolved.search
    return TrainResult(
        run_dir=str(run.directory.path),
        arch=config.arch,
        dataset=config.data.dataset,
        **measured,
        seconds=round(run.seconds, 3),
        epochs=config.epochs,
        space=search.result.space if search else None,
        search_seconds=search.result.seconds if search else None,
        best_test_accuracy_chosen_on_test=best.accuracy if config.report_best else UNSET,
    )


def _record(
    directory: RunDirectory, config: TrainConfig, resolved: Resolved, same_data: SameData, result: TrainResult
) -> TrainRecord:
    return TrainRecord(
        seed=config.seed,
        settings=directory.settings,
        data=same_data.summary,
        result=result,
        architecture=resolved.architecture.identity,
        search=resolved.search,
    )
