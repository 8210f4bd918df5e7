"""The stages: search, training, and what is made of the trained network; those that have ended are left as they are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

import genotypes
from genotypes.messages import one_line
from nas import data, evaluate, screen
from nas.auto import speed
from nas.auto.duration import search_seconds, told, train_seconds, typical_seconds
from nas.auto.plan import AutoConfig, Plan, planned
from nas.data import ImageData, manifest
from nas.engine.device import resolve_device
from nas.errors import Stopped, UsageError, users_mistakes
from nas.evaluate import EvaluateConfig
from nas.latency import LatencyConfig, latency
from nas.networks import latency_table, weights
from nas.networks.export import check_packages
from nas.networks.latency_table import LatencyModel, LatencyTable
from nas.report import run as report
from nas.runs import record
from nas.runs.directory import RunDirectory, read_json
from nas.runs.record import TrainRecord
from nas.search import search
from nas.study.cells import SEARCH, TRAIN, run_in
from nas.study.page import write_report
from nas.train import train

_ONNX = "network.onnx"


class Made(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trained network, as the result for scripts: its figures, and where its files are."""

    run_dir: str
    test_accuracy: float
    test_error: float
    params: int
    macs: int
    latency_ms: float
    """Median of an image by PyTorch."""
    onnx_latency_ms: float | None
    """The same by ONNX Runtime, where that is installed."""
    predicted_latency_ms: float | None = None
    """What the search predicted; None without --max-latency."""
    seconds: float
    """Of the search and the training."""
    weights: str
    onnx: str | None
    report: str
    predict: str
    """The command that names the class of an image."""


def auto(config: AutoConfig) -> Made:
    """Searches, trains, tests, exports and reports what is not there yet.

    Raises UsageError for a user's mistake, before anything is computed; NonFiniteLossError, OSError; Stopped.
    """
    with users_mistakes():
        device = resolve_device(config.device)
        directory = _directory(config, device)
        plan = planned(config)
    with directory.opened():
        _check_same_images(plan.images, directory.path / SEARCH)
        plan, table = _fast_enough(config, plan, directory.path, device)
        # Nothing has been written yet: what is stopped here begins anew.
        with _told_how_to_resume(directory):
            directory.begin()
            if table is not None:
                latency_table.write(table, directory.path / speed.NAME)
            for line in plan.images.found:
                directory.log(one_line(line))
            _compute(plan, directory, device)
            if not _is_finished(directory.path):
                made = _finish(plan.images, directory.path, str(device))
                directory.write_json(record.RESULT, msgspec.to_builtins(made))
        return _placed(read_json(directory.path / record.RESULT, Made), directory.path)


def _is_finished(path: Path) -> bool:
    """Whether there is a result, and the network as ONNX unless the packages for that are missing."""
    if not (path / record.RESULT).exists():
        return False
    try:
        check_packages()
    except ValueError:
        return True
    return (path / _ONNX).exists()


def _fast_enough(config: AutoConfig, plan: Plan, path: Path, device: torch.device) -> tuple[Plan, LatencyTable | None]:
    """The plan within --max-latency, and the table to keep; None without a limit, and at the end."""
    if config.max_latency is None or (path / record.RESULT).exists():
        return plan, None
    kept = path / speed.NAME
    if (path / SEARCH).exists() and not kept.exists():
        raise UsageError(f"{kept} is gone, by which the network was chosen; restore it, or choose another --out")
    with users_mistakes():
        table = speed.table_for(config, plan, kept, device)
    return speed.limited(plan, table, config.max_latency, kept), table


def _directory(config: AutoConfig, device: torch.device) -> RunDirectory:
    folder = os.path.abspath(os.path.expanduser(config.folder))
    path = Path(os.path.expanduser(config.out or f"runs/auto-{os.path.basename(folder) or 'images'}"))
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise UsageError(f"{path} lies among the images, of which it would become a class; choose another --out")
    kept = replace(config, folder=folder)
    return RunDirectory(path, kept, resume=(path / "config.json").exists(), device=device, flag="--out")


def _check_same_images(images: ImageData, begun: Path) -> None:
    """Raises UsageError where the search learnt from other images than the folder now has."""
    if not (begun / manifest.NAME).exists():
        return
    with users_mistakes():
        changed = manifest.changes(manifest.read(begun), images.manifest())
    if changed:
        raise UsageError(
            f"the images are not those that {begun.parent} began with: {'; '.join(changed)}; restore them, or choose "
            "another --out"
        )


@contextmanager
def _told_how_to_resume(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        directory.log(f"stopped; the same command continues in {directory.path}")
        raise


def _compute(plan: Plan, directory: RunDirectory, device: torch.device) -> None:
    """Searches and trains what has not ended, with a line for each stage."""
    searched, trained = ((directory.path / name / record.NAME).exists() for name in (SEARCH, TRAIN))
    if not searched:
        images = data.load(plan.search.data)
        seconds = (search_seconds(plan.search, images, device), typical_seconds(plan, device))
        directory.log(
            f"{told(sum(seconds))} on {device}: {told(seconds[0])} to search, {told(seconds[1])} to train; Ctrl-C "
            "stops, and the same command continues"
        )
        directory.log(f"searching: {plan.search.epochs} epochs, {told(seconds[0])}{_resumed(directory, SEARCH)}")
        with _quietly():
            search(
                replace(plan.search, run=run_in(plan.search.run, directory.path / SEARCH, str(device))),
                images=images,
            )
    if not trained:
        genotype = genotypes.load(directory.path / SEARCH / "genotype.json")
        seconds_left = train_seconds(plan.train, genotype, plan.images, device)
        directory.log(f"training: {plan.train.epochs} epochs, {told(seconds_left)}{_resumed(directory, TRAIN)}")
        config = replace(
            plan.train,
            arch=str(directory.path / SEARCH),
            run=run_in(plan.train.run, directory.path / TRAIN, str(device)),
        )
        with _quietly():
            train(config, images=plan.images)


def _resumed(directory: RunDirectory, stage: str) -> str:
    return " in all; resumed" if (directory.path / stage / "config.json").exists() else ""


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the lines of a run, which are in its log; its progress bar is shown where there is a terminal."""
    if screen.silent():
        yield
    else:
        with screen.shown_by(lambda line: None):
            yield


def _finish(images: ImageData, path: Path, device: str) -> Made:
    """Exports, times and reports the trained network."""
    found = record.read(path / TRAIN)
    if not isinstance(found, TrainRecord):
        raise UsageError(f"{path / TRAIN} is another kind of run; choose another --out")
    onnx = _exported(images, path)
    with screen.shown_by(None):
        (times,) = latency(LatencyConfig(arch=str(path / TRAIN), batch=(1,), device=device))["rows"]
    for name in (SEARCH, TRAIN):
        write_report(path / name)
    return Made(
        **{name: getattr(found.result, name) for name in ("test_accuracy", "test_error", "params", "macs")},
        latency_ms=times["torch_ms"]["median"],
        onnx_latency_ms=times["onnx_ms"] and times["onnx_ms"]["median"],
        predicted_latency_ms=_predicted(path),
        seconds=round(found.result.seconds + (found.result.search_seconds or 0), 3),
        **_paths(path, onnx),
    )


def _predicted(path: Path) -> float | None:
    if not (path / speed.NAME).exists():
        return None
    return LatencyModel.read(str(path / speed.NAME)).predicted(genotypes.load(path / SEARCH / "genotype.json"))


def _paths(path: Path, onnx: bool) -> dict[str, Any]:
    """Where the files lie, as fields of a result."""
    return {
        "run_dir": str(path),
        "weights": str(path / TRAIN / weights.NAME),
        "onnx": str(path / _ONNX) if onnx else None,
        "report": str(path / TRAIN / report.NAME),
        "predict": f"optinas-predict {shlex.quote(str(path / TRAIN))} photo.jpg",
    }


def _placed(made: Made, path: Path) -> Made:
    """The result with the paths of today: the directory may have been moved."""
    return msgspec.structs.replace(made, **_paths(path, made.onnx is not None))


def _exported(images: ImageData, path: Path) -> bool:
    """Writes the network as ONNX; a line says why where that cannot be done."""
    with users_mistakes():
        trained = weights.load(path / TRAIN / weights.NAME)
    config = EvaluateConfig(evaluate=str(path / TRAIN), onnx=str(path / _ONNX))
    try:
        check_packages()
        evaluate.export(trained, trained.normalized(images), config)
    except ValueError as error:
        screen.say(one_line(f"no {_ONNX}: {error}; the same command tries again"))
        return False
    return True
