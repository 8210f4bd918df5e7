"""Measuring a trained network: what it costs, and how well it does on test images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec import UNSET
from torch import nn

import spaces
from genotypes.config import Common, Config, IsPath
from genotypes.messages import below, one_line, reason_of
from nas import data
from nas.data import DataConfig, ImageData
from nas.engine.device import PrecisionChoice, algorithms, resolve_device, resolve_precision
from nas.engine.meter import Meter, Predictions, evaluation_step, measure
from nas.errors import UsageError, users_mistakes
from nas.networks import weights
from nas.networks.cost import count_macs, count_parameters
from nas.networks.export import to_onnx, to_pt2
from nas.networks.weights import TrainedNetwork
from nas.runs import predictions
from nas.runs.directory import read_config
from nas.runs.record import EvaluationResult, TrainResult
from nas.runs.same_data import report_test_images
from nas.screen import table

#: Test images that an exported network is checked on.
_CHECKED = 16


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """What is measured, on which images and how; by default the images and the precision are those of the training."""

    evaluate: Annotated[str, IsPath, Common] = ""
    """Directory of the training run whose saved weights are measured on the test images; nothing is trained."""
    onnx: Annotated[str | None, IsPath, Common] = None
    """Also write the network, with its normalization, to this ONNX file."""
    pt2: Annotated[str | None, IsPath, Common] = None
    """Also write it to this file of torch.export (.pt2)."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the genotype has."""
    device: Annotated[str, Common] = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""
    deterministic: bool = False
    """On a GPU take only algorithms that give the same bits each time, which is slower; on a CPU all do."""
    precision: Annotated[PrecisionChoice, Common] = "auto"
    """Forward passes in fp32, or in bf16 with weights and statistics in fp32; auto: bf16 on GPUs that compute in it
    (NVIDIA from A100 on)."""
    data: DataConfig = field(default_factory=DataConfig)


class TrainedRun(msgspec.Struct, frozen=True):
    """What the configuration of a training says that a measurement needs; the rest of it is not looked at.

    In particular no module that it names is imported.
    """

    arch: str
    epochs: int
    precision: PrecisionChoice
    data: DataConfig


def read_run(directory: str) -> TrainedRun:
    """The training run in `directory`. Raises UsageError where there is none."""
    described = read_config(Path(directory))
    try:
        return msgspec.convert(described, TrainedRun)
    except ValueError as error:
        other = below(directory, weights.NAME)
        raise UsageError(
            f"{directory} is not the directory of a training run ({reason_of(error)}); name one{other}"
        ) from error


def as_trained(directory: str) -> EvaluateConfig:
    """Measures the network of the run in `directory` as it was trained. Raises UsageError where there is none."""
    run = read_run(directory)
    return EvaluateConfig(evaluate=directory, precision=run.precision, data=run.data)


def evaluate(config: EvaluateConfig) -> EvaluationResult:
    """Measures the saved weights of the run `config.evaluate` on the test images of `config.data`.

    Raises UsageError for a directory without weights, for other classes or images than it was trained on, or where the
    network cannot be exported.
    """
    run = read_run(config.evaluate)
    check_split(config.data, run.data)
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        trained = weights.load(Path(config.evaluate) / weights.NAME)
        images = trained.normalized(data.load(config.data, trained.view))
        export(trained, images, config)
    report_test_images(images, Path(config.evaluate))
    tested = Predictions(trained.temperature)
    result = EvaluationResult(
        run_dir=config.evaluate,
        arch=run.arch,
        dataset=config.data.dataset,
        **measured(trained, images, config, tested),
        epochs=run.epochs,
    )
    directory = Path(config.evaluate)
    predictions.write(directory, tested, images, partial(_noted, directory))
    return result


@contextmanager
def _noted(directory: Path, name: str) -> Iterator[None]:
    """Within it, a failure to write the auxiliary file `name` is a note."""
    try:
        yield
    except Exception as error:  # of whatever library draws or writes it
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        print(one_line(f"note: {directory / name} cannot be written ({reason})"))


def export(trained: TrainedNetwork, images: ImageData, config: EvaluateConfig) -> None:
    """Writes the files that `config.onnx` and `config.pt2` name, each checked on the first test images.

    `images` must be normalized for the network. Raises ValueError where a file cannot be written, or computes something
    else.
    """
    wanted = [(path, write) for path, write in ((config.onnx, to_onnx), (config.pt2, to_pt2)) if path]
    if not wanted:
        return
    normalized, _ = next(images.test_loader(batch_size=_CHECKED).epoch(0))
    mean, std = (torch.tensor(values)[:, None, None] for values in (trained.mean, trained.std))
    for path, write in wanted:
        write(trained, path, normalized * std + mean)


def check_split(now: DataConfig, trained: DataConfig) -> None:
    """Raises UsageError where images that a network was trained on could be among those to test on."""
    if now.split_seed != trained.split_seed:
        raise UsageError("--split-seed must be that of the training: with another, its images would be tested on")


def measured(
    trained: TrainedNetwork, images: ImageData, config: EvaluateConfig, tested: Predictions | None = None
) -> dict[str, Any]:
    """What a trained network costs, how well it does on the test images, and the seconds that took.

    `images` must be normalized for it; of `config`, the device, its algorithms and the precision are taken. The network
    is left on that device, and what it predicts in `tested`, if that is given. Raises UsageError where these are not to
    be had.
    """
    with users_mistakes():
        device = resolve_device(config.device)
        precision = resolve_precision(config.precision, device)
    started = time.monotonic()
    meter, network = Meter(), trained.network.to(device)
    with algorithms(device, deterministic=config.deterministic):
        # Not captured: one pass is over before that would pay.
        step = partial(evaluation_step, network, precision=precision)
        measure(step, images.test_loader(device=device).epoch(0), meter, tested)
    return {**figures(network, meter, images), "seconds": round(time.monotonic() - started, 3)}


def figures(network: nn.Module, meter: Meter, images: ImageData) -> dict[str, Any]:
    """What a network costs, and how well it did on the test images, as the fields of a result."""
    return {
        "test_accuracy": meter.accuracy,
        "test_error": 100 - meter.accuracy,
        "test_top5_error": 100 - meter.top5_accuracy if images.num_classes > 5 else UNSET,
        "params": count_parameters(network),
        "macs": count_macs(network, images.channels, images.image_size),
    }


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
