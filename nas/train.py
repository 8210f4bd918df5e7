"""The training: a network rebuilt from a genotype, or a hand-made one, is trained from scratch on all training images.

The test images choose nothing: the figure of a run is that of its last epoch.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from msgspec import UNSET
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import spaces
from nas import data
from nas.data import Batch, DataConfig, ImageData
from nas.engine.device import Precision, PrecisionChoice, algorithms, autocast, resolve_device, resolve_precision
from nas.engine.graphs import captured
from nas.engine.meter import Meter, measure
from nas.engine.optimizers import OptimizerState, ScheduleState, learning_rate, sgd
from nas.errors import MAX_EPOCHS, SEEDS, UsageError, check_ranges, users_mistakes
from nas.networks import architecture, handmade, weights
from nas.networks.architecture import Architecture, Resolved
from nas.networks.cells import Network, NetworkConfig
from nas.networks.cost import count_macs, count_parameters
from nas.networks.export import to_onnx
from nas.networks.handmade import HandmadeConfig
from nas.networks.weights import TrainedNetwork
from nas.runs import record
from nas.runs.directory import RunDirectory, read_config
from nas.runs.record import EvaluationResult, TrainRecord, TrainResult
from nas.runs.run import Run, RunConfig, directory_of
from nas.runs.same_data import SameData, report_test_images
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides an evaluation training; the defaults are DARTS's for CIFAR."""

    arch: str = ""
    """What to train: the directory of a search run, a genotype file, the name of a published genotype, or that of a
    hand-made network: resnet, hbnet, dmrnet, densenet or agdnet and a depth, such as hbnet56."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the genotype has."""
    init_from: str | None = None
    """Start with the weights of this finished run's directory, of the same architecture, instead of new ones."""
    preset: Literal["paper", "smoke"] = "paper"
    """Sets all other defaults: paper, the published protocol; smoke, minutes on a CPU."""
    evaluate: str | None = None
    """Train nothing: load the weights of this finished run's directory and measure them on the test images."""
    onnx: str | None = None
    """With --evaluate: also write the network, with its normalization, to this ONNX file."""
    seed: int = 0
    """Seed of the weights and of the order and augmentation of the images."""
    epochs: int = 600
    """Passes over the training images (DARTS sec. 3.2: 600 on CIFAR, sec. 3.4: 250 on ImageNet; hand-made networks:
    300 and 100)."""
    learning_rate: float = 0.025
    """Initial learning rate, SGD (DARTS sec. A.2; 0.1 on ImageNet, and for hand-made networks)."""
    learning_rate_min: float = 0.0
    """Learning rate at the end of the cosine schedule (DARTS sec. A.2)."""
    schedule: Literal["cosine", "exponential", "step"] = "cosine"
    """Learning rate by epoch: cosine (DARTS on CIFAR), times --gamma an epoch (exponential, DARTS on ImageNet), or
    times --gamma at each of --milestones (step, hand-made networks)."""
    gamma: float = 0.97
    """Factor of the exponential schedule (DARTS sec. 3.4) and of the step schedule."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the epochs after which the step schedule lowers the learning rate."""
    momentum: float = 0.9
    """Momentum of SGD (DARTS sec. A.2)."""
    nesterov: bool = False
    """Take Nesterov's form of the momentum."""
    weight_decay: float = 3e-4
    """Weight decay (DARTS sec. A.2; 3e-5 on ImageNet, 1e-4 for hand-made networks)."""
    grad_clip: float | None = 5.0
    """Largest norm of the gradient (DARTS's code); None: any."""
    label_smoothing: float = 0.0
    """Label smoothing (DARTS sec. 3.4: 0.1 on ImageNet)."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss (DARTS sec. 3.2)."""
    ema_decay: float | None = None
    """Measure and save, not the weights but their exponential moving average over the steps, with this decay, such as
    0.9999 (Szegedy et al., CVPR 2016, sec. 8, after Polyak and Juditsky 1992); None: the weights."""
    precision: PrecisionChoice = "auto"
    """Forward passes in fp32, or in bf16 with weights and statistics in fp32; auto: bf16 on GPUs that compute in it
    (NVIDIA from A100 on)."""
    report_best: bool = False
    """Also report the best epoch's test accuracy, which the test images chose and which is optimistic."""
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=lambda: DataConfig(batch_size=96))
    network: NetworkConfig = field(default_factory=NetworkConfig)
    handmade: HandmadeConfig = field(default_factory=HandmadeConfig)

    def __post_init__(self) -> None:
        if self.onnx and not self.evaluate:
            raise ValueError("--onnx goes with --evaluate RUN, the run whose network is to be written")
        if any(not 0 < share < 1 for share in self.milestones):
            raise ValueError(f"--milestones are {self.milestones}; each must lie between 0 and 1")
        if self.nesterov and not self.momentum:
            raise ValueError("--nesterov needs a --momentum larger than 0")
        if self.grad_clip is not None and not 0 < self.grad_clip < math.inf:
            raise ValueError(f"--grad-clip is {self.grad_clip:g}; it must be more than 0, or None for no clipping")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(
                f"--ema-decay is {self.ema_decay:g}; it must lie between 0 and 1, or be None for no average"
            )
        anything = (0, math.inf)
        check_ranges(
            self,
            {
                **dict.fromkeys(("learning_rate", "learning_rate_min", "weight_decay"), anything),
                **dict.fromkeys(("auxiliary_weight", "gamma"), anything),
                **dict.fromkeys(("momentum", "label_smoothing"), (0, 1)),
                "epochs": (1, MAX_EPOCHS),
                "seed": SEEDS,
            },
        )


def paper(dataset: str) -> TrainConfig:
    """DARTS sec. 3.2 (CIFAR-10: 2.76 +- 0.09 % error, DARTS_V2) and 3.4 (ImageNet: 26.7 % top-1)."""
    if dataset == "imagenet":
        return TrainConfig(
            epochs=250,
            learning_rate=0.1,
            schedule="exponential",
            weight_decay=3e-5,
            label_smoothing=0.1,
            data=DataConfig(dataset=dataset, batch_size=128),
            network=NetworkConfig(layers=14, init_channels=48, stem="imagenet", auxiliary=True),
        )
    return TrainConfig(
        data=DataConfig(dataset=dataset, batch_size=96, cutout=True),
        network=NetworkConfig(auxiliary=True, drop_path_prob=0.2),
    )


def smoke(dataset: str) -> TrainConfig:
    """Three cells of 16 channels, 20 epochs: about a minute on two CPU cores for digits."""
    return TrainConfig(
        preset="smoke",
        epochs=20,
        learning_rate=0.05,
        data=DataConfig(dataset=dataset, batch_size=64),
        network=NetworkConfig(layers=3, init_channels=16, auxiliary=True),
    )


def handmade_paper(dataset: str) -> TrainConfig:
    """Sec. 8.1 of the paper of HB-Net and AGD-Net.

    On ImageNet its initial learning rate is not stated, and images are augmented as in DARTS, colours included.
    """
    imagenet = dataset == "imagenet"
    return TrainConfig(
        epochs=100 if imagenet else 300,
        learning_rate=0.1,
        schedule="step",
        milestones=(0.3, 0.6, 0.9) if imagenet else (0.5, 0.75),
        gamma=0.1,
        nesterov=True,
        weight_decay=1e-4,
        grad_clip=None,
        data=DataConfig(dataset=dataset, batch_size=256 if imagenet else 64),
    )


def handmade_smoke(dataset: str) -> TrainConfig:
    """The protocol of `handmade_paper` for CIFAR, on any images, in 20 epochs."""
    config = handmade_paper("cifar10")
    return replace(config, preset="smoke", epochs=20, data=DataConfig(dataset=dataset, batch_size=64))


#: By the value of --preset.
PRESETS = {"paper": paper, "smoke": smoke}
HANDMADE_PRESETS = {"paper": handmade_paper, "smoke": handmade_smoke}


def presets_for(arch: str) -> Mapping[str, Callable[[str], TrainConfig]]:
    """The presets of an architecture: each kind of network has its own published protocol."""
    return HANDMADE_PRESETS if handmade.is_handmade(arch) else PRESETS


def train(config: TrainConfig, *, images: ImageData | None = None, resolved: Resolved | None = None) -> TrainResult:
    """Trains (or resumes) in the run directory and returns the result, as kept in `result.json`.

    `images` and `resolved` take the place of what `config.data` and `config.arch` name.

    Raises UsageError for a user's mistake, before anything is written; NonFiniteLossError; Stopped.
    """
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        resolved = resolved or architecture.resolve(config.arch, config.network, config.handmade)
        device = resolve_device(config.run.device)
        precision = resolve_precision(config.precision, device)
        config = replace(config, precision=precision)  # for config.json, which a resumed run must have too
        images = data.load(config.data) if images is None else images
    torch.manual_seed(config.seed)
    arch = resolved.architecture
    network = arch.build(in_channels=images.channels, image_size=images.image_size, num_classes=images.num_classes).to(
        device
    )
    if config.init_from:
        origin = os.path.abspath(config.init_from)
        config = replace(config, init_from=origin)  # for a resumption from another folder
        _load_weights(network, arch, images, Path(origin) / weights.NAME)
    train_loader = images.train_loader(seed=config.seed, device=device)
    test_loader = images.test_loader(device=device)
    training = Training(config, network, precision)
    plain = (training.training_step, training.evaluation_step)
    training_step, evaluation_step = captured(*plain, device=device, enabled=config.run.cuda_graph)
    schedule = _schedule(config, training.optimizer)
    same_data = SameData(images)
    train_meter, test_meter, best = Meter(), Meter(), Best()
    name = f"eval-{config.data.dataset}-{Path(config.arch).stem}-seed{config.seed}"
    directory = directory_of(config.run, config, default_name=name, device=device)
    run = Run(
        directory,
        {
            "data": same_data,  # first, as the next one: what was made for others would not load
            "architecture": SameArchitecture(arch),
            "network": network,
            "optimizer": OptimizerState(training.optimizer),
            "schedule": ScheduleState(schedule),
            **({} if training.average is None else {"average": training.average}),
            "train_meter": train_meter,
            "test_meter": test_meter,
            "best": best,
        },
        device=device,
        deterministic=config.run.deterministic,
        epochs=config.epochs,
        steps=len(train_loader),
    )
    with run:
        same_data.report(directory)
        directory.log(
            f"training {config.arch} on {config.data.dataset}: {arch.summary}, "
            f"{count_parameters(network):,} parameters, {config.epochs} epochs of {len(train_loader)} steps on "
            f"{device} in {precision}, in {directory.path}"
        )
        for epoch in run.epochs():
            if isinstance(network, Network):
                network.schedule_drop_path(epoch / config.epochs)
            network.train()
            for batch in run.steps(train_loader.epoch(epoch, run.step), train_meter):
                loss, logits = training_step(batch)
                train_meter.update(loss, logits, batch[1])
            training.measured.eval()
            measure(evaluation_step, run.interruptible(test_loader.epoch(epoch)), test_meter)
            run.check_finite()
            best.accuracy = max(best.accuracy, test_meter.accuracy)
            _report_epoch(run, train_meter, test_meter, learning_rate(training.optimizer))
            schedule.step()
            train_meter.reset()
        arch.write(directory)
        weights.save(directory.path / weights.NAME, training.measured, arch, images)
        result = _result(run, config, resolved, _figures(training.measured, test_meter, images), best)
        record.write(directory, _record(directory, config, resolved, same_data, result))
        return result


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


class Training:
    """A network, its optimizer, and the average of its weights where one is kept.

    Attributes:
        measured: what is tested and saved, the average or the network itself.
    """

    def __init__(self, config: TrainConfig, network: nn.Module, precision: Precision) -> None:
        self.network, self.precision = network, precision
        self.optimizer = sgd(
            network.parameters(),
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
        )
        self.average: AveragedModel | None = None
        if config.ema_decay is not None:
            # The statistics of BatchNorm too. It counts its updates on the CPU, which waits for nothing, and does
            # not count those of a captured step, which does not matter after the first.
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True)
        self.measured = network if self.average is None else self.average.module
        self._criterion = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
        self._auxiliary_weight = config.auxiliary_weight
        self._grad_clip = config.grad_clip

    def training_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One SGD step on a batch; gives its loss and its logits (N, classes)."""
        self.optimizer.zero_grad()
        with autocast(batch[0].device, self.precision):
            loss, logits = self._loss(*batch)
        loss.backward()
        if self._grad_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.detach(), logits.detach()

    def evaluation_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The cross entropy and the logits of a batch, by the network that is measured."""
        return evaluation_step(self.measured, batch, self.precision)

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, with the weighted one of the auxiliary head where the network has it, and the logits."""
        output = self.network(x)
        if isinstance(output, Tensor):
            return self._criterion(output, y), output
        logits, auxiliary = output
        return self._criterion(logits, y) + self._auxiliary_weight * self._criterion(auxiliary, y), logits


class SameArchitecture:
    """Refuses to go on with another one: `--arch` may name a file that has changed since."""

    def __init__(self, arch: Architecture) -> None:
        self._text = arch.identity

    def state_dict(self) -> dict[str, str]:
        return {"text": self._text}

    def load_state_dict(self, state: dict[str, str]) -> None:
        if state["text"] != self._text:
            raise UsageError(f"--arch was {state['text']} when the run began and is now {self._text}; start a new run")


class Best:
    """The best test accuracy of any epoch, for --report-best."""

    accuracy = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"accuracy": self.accuracy}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.accuracy = state["accuracy"]


def _schedule(config: TrainConfig, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "exponential":
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, config.gamma)
    if config.schedule == "step":
        # Rounded up and never 0: the first epoch has the initial rate. 1e-9 is for shares such as 0.1 * 3.
        epochs = [max(1, math.ceil(share * config.epochs - 1e-9)) for share in config.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, epochs, config.gamma)
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs, eta_min=config.learning_rate_min)


@torch.no_grad()
def evaluation_step(network: nn.Module, batch: Batch, precision: Precision) -> tuple[Tensor, Tensor]:
    """The cross entropy of a batch and its logits (N, classes)."""
    x, y = batch
    with autocast(x.device, precision):
        logits = network(x)
        return nn.functional.cross_entropy(logits, y), logits


def _report_epoch(run: Run, train_meter: Meter, test_meter: Meter, learning_rate: float) -> None:
    run.add_metrics(
        {
            "train_loss": train_meter.loss,
            "train_accuracy": train_meter.accuracy,
            "test_loss": test_meter.loss,
            "test_accuracy": test_meter.accuracy,
            "test_top5_accuracy": test_meter.top5_accuracy,
            "learning_rate": learning_rate,
        }
    )
    run.log_epoch("test", train_meter, test_meter)


def _result(run: Run, config: TrainConfig, resolved: Resolved, figures: Mapping[str, Any], best: Best) -> TrainResult:
    search = resolved.search
    return TrainResult(
        run_dir=str(run.directory.path),
        arch=config.arch,
        dataset=config.data.dataset,
        **figures,
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


def report_table(result: EvaluationResult) -> str:
    """What a user wants to see of a result, as a table of one row."""
    space, seconds = (result.space, result.search_seconds) if isinstance(result, TrainResult) else (None, None)
    row = {
        "space": space or "-",
        "architecture": result.arch,
        "parameters": result.params,
        "multiply-adds": result.macs,
        "search seconds": "-" if seconds is None else f"{seconds:.0f}",
        "test accuracy %": result.test_accuracy,
    }
    return table([row])


def _figures(network: nn.Module, meter: Meter, images: ImageData) -> dict[str, Any]:
    """What a network costs, and how well it did on the test images."""
    return {
        "test_accuracy": meter.accuracy,
        "test_error": 100 - meter.accuracy,
        "test_top5_error": 100 - meter.top5_accuracy if images.num_classes > 5 else UNSET,
        "params": count_parameters(network),
        "macs": count_macs(network, images.channels, images.image_size),
    }


def read_run(directory: str) -> TrainConfig:
    """The configuration of a training run in `directory`. Raises UsageError where there is none."""
    described = read_config(Path(directory))
    try:
        if "network" not in described:  # every field has a default: a search's configuration would do
            raise ValueError("its configuration has no network")
        # Where it was computed does not bind who measures it, and no file may name a module to import.
        return msgspec.convert({**described, "run": {}, "operations_from": ()}, TrainConfig)
    except ValueError as error:
        raise UsageError(f"{directory} is not the directory of a training run: {error}") from error


def evaluate(config: TrainConfig) -> EvaluationResult:
    """Measures the saved weights of the run `config.evaluate` on the test images of `config.data`.

    Raises UsageError for a directory without weights, for other classes or images than it was trained on, for
    a flag that belongs to training, or an ONNX file that cannot be written.
    """
    assert config.evaluate is not None
    _refuse_training_flags(config, read_run(config.evaluate))
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        trained = weights.load(Path(config.evaluate) / weights.NAME)
        images = data.load(config.data, trained.view)
        trained.normalize(images)
        if config.onnx:
            to_onnx(trained, config.onnx)
    report_test_images(images, Path(config.evaluate))
    return EvaluationResult(
        run_dir=config.evaluate,
        arch=config.arch,
        dataset=config.data.dataset,
        **figures_of(trained, images, config),
        epochs=config.epochs,
    )


def figures_of(trained: TrainedNetwork, images: ImageData, config: TrainConfig) -> dict[str, Any]:
    """What a trained network costs, how well it does on the test images, and the seconds that took.

    `images` must be normalized for it; of `config`, the device, its algorithms and the precision are taken.
    Raises UsageError where these are not to be had.
    """
    with users_mistakes():
        device = resolve_device(config.run.device)
        precision = resolve_precision(config.precision, device)
    started = time.monotonic()
    meter, network = Meter(), trained.network.to(device)
    with algorithms(device, deterministic=config.run.deterministic):
        # Not captured: one pass is over before that would pay.
        measure(
            partial(evaluation_step, network, precision=precision), images.test_loader(device=device).epoch(0), meter
        )
    figures = _figures(network, meter, images)
    return {**figures, "seconds": round(time.monotonic() - started, 3)}


def _refuse_training_flags(config: TrainConfig, trained: TrainConfig) -> None:
    for name in TrainConfig.__dataclass_fields__:
        if name not in ("run", "data", "precision", "evaluate", "onnx", "operations_from") and getattr(
            config, name
        ) != getattr(trained, name):
            flag = "a flag of the network" if name in ("network", "handmade") else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is for training; with --evaluate it is as the run had it, leave it out")
    if config.data.split_seed != trained.data.split_seed:
        raise UsageError("--split-seed must be that of the run: with another, training images would be tested on")
