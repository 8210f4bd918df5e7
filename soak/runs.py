"""Searches and trainings that take a second, and the comparison of what they leave behind."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

import nas.runs.tensorboard
import spaces
import train_eval
import train_search
from nas import cli
from nas.networks import weights
from nas.runs import checkpoint, record
from soak import faults, processes
from soak.processes import Ended

_DATA: tuple[str, ...] = (
    "--dataset",
    "fake",
    "--fake-train",
    "24",
    "--fake-test",
    "10",
    "--image-size",
    "8",
    "--batch-size",
    "8",
)
_DATA += ("--fake-classes", "3", "--device", "cpu", "--epochs", "2")
_SEARCH: tuple[str, ...] = (
    *_DATA,
    "--layers",
    "3",
    "--init-channels",
    "2",
    "--nodes",
    "2",
    "--operations",
    "sep_conv_3x3",
)
_SEARCH += ("avg_pool_3x3", "skip_connect", "neg_skip_connect", "none")
_TRAIN: tuple[str, ...] = (
    *_DATA,
    "--arch",
    "DARTS_V2",
    "--layers",
    "3",
    "--init-channels",
    "2",
    "--auxiliary",
    "--ema-decay",
    "0.5",
)
_TRAIN += ("--drop-path-prob", "0.3", "--cutout")

SECONDS = 120.0
"""A run that takes longer hangs; on an idle machine it takes a second or two."""


@dataclass(frozen=True)
class Job:
    """A command with its flags, except --run-dir and --resume."""

    name: str
    command: Callable[[list[str]], dict[str, Any]]
    flags: tuple[str, ...]


def jobs() -> dict[str, Job]:
    """The jobs by name: searches, of which one draws and two unroll, and a training of each kind of network."""
    # Those of RobustDARTS are DARTS's with other operations: one is enough, in which an operation draws.
    names = [name for name in spaces.names() if spaces.get(name).__module__ != "spaces.robustdarts"]
    found = [Job(f"search-{name}", train_search.command, (*_SEARCH, "--space", name)) for name in names]
    found.append(Job("search-s4", train_search.command, (*_SEARCH, "noise", "--space", "s4")))
    found += [
        Job(f"search-{name}-unrolled", train_search.command, (*_SEARCH, "--space", name, "--unrolled"))
        for name in ("darts", "agd")
    ]
    found.append(Job("train", train_eval.command, _TRAIN))
    found.append(Job("train-hand-made", train_eval.command, (*_DATA, "--arch", "resnet20")))
    return {job.name: job for job in found}


def warm_up(scratch: Path) -> None:
    """Imports everything that runs import on their way, so that forked processes need not."""
    torch.set_num_threads(1)
    for job in (jobs()["search-agd"], jobs()["train"]):
        ended = processes.call(partial(_imported, job, scratch / job.name), seconds=SECONDS)
        for name in ended.stdout.rpartition("\n\n")[2].split():
            with contextlib.suppress(Exception):  # not everything can be imported by itself
                importlib.import_module(name)
    # Drawing takes longer than everything else in these runs, and TensorBoard's files are not compared anyway.
    still = io.BytesIO()
    Image.new("RGB", (4, 4)).save(still, "png")
    nas.runs.tensorboard.picture = lambda *_: still.getvalue()  # type: ignore[attr-defined]


def _imported(job: Job, directory: Path) -> None:
    """Runs the job, and then prints the names of all imported modules."""
    job.command([*job.flags, "--run-dir", str(directory)])
    print("\n\n" + "\n".join(name for name in sys.modules if not name.startswith("__")))


def start(
    job: Job,
    directory: Path,
    *more: str,
    fault: faults.Fault | None = None,
    killed_after: float | None = None,
    watched: bool = True,
) -> Ended:
    """Runs the job in a process of its own; its journal of file operations is written next to the run directory."""

    def run() -> None:
        if watched:
            faults.watch(directory, journal_of(directory), fault)
        cli.run(job.command, [*job.flags, "--run-dir", str(directory), *more])

    return processes.call(run, seconds=SECONDS, killed_after=killed_after)


def journal_of(directory: Path) -> Path:
    """The journal of the file operations in a run directory, next to the directory."""
    return directory.with_name(f"{directory.name}.journal")


def operations(directory: Path) -> list[str]:
    """The file operations of the process that last ran in the directory."""
    return journal_of(directory).read_text().splitlines()


def finals(directory: Path) -> dict[str, str]:
    """Digests of whatever exists of the things that must be the same however often a run was interrupted."""
    found: dict[str, Callable[[Path], object]] = {
        checkpoint.NAME: _checkpoint,
        "metrics.csv": _metrics,
        record.RESULT: _result,
        record.NAME: _record,
        weights.NAME: weights_content,
        "genotype.json": Path.read_bytes,
        "normal.svg": Path.read_bytes,
        "reduce.svg": Path.read_bytes,
    }
    digests = {name: digest(read(directory / name)) for name, read in found.items() if (directory / name).exists()}
    names = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.parent.name != "tb")
    folders = {
        folder: digest({path.name: path.read_bytes() for path in (directory / folder).glob("*.json")})
        for folder in ("genotypes", "mixing")
    }
    return {**digests, **folders, "names of files": "\n".join(names)}


def _checkpoint(path: Path) -> object:
    state = checkpoint.read(path)
    metrics = [{**row, "seconds": None} for row in json.loads(state["metrics"])]
    return {**state, "seconds": None, "metrics": metrics}


def _metrics(path: Path) -> object:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def _result(path: Path) -> object:
    return _without_place_and_time(json.loads(path.read_text()))


def _record(path: Path) -> object:
    saved = json.loads(path.read_text())
    return {**saved, "result": _without_place_and_time(saved["result"])}


def _without_place_and_time(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("run_dir", "seconds")}


def weights_content(path: Path) -> object:
    """The header and tensors of a weights file, but not its digest, because the order of the header is arbitrary."""
    with safe_open(str(path), framework="pt") as file:
        return {**file.metadata(), "sha256": None}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


def digest(value: object) -> str:
    """A digest that is equal for values of the same types, containers and tensors included, that agree bit for bit."""
    hashed = hashlib.sha256()
    _feed(hashed.update, value)
    return hashed.hexdigest()


def _feed(update: Callable[[bytes], None], value: Any) -> None:
    update(type(value).__name__.encode())
    if isinstance(value, torch.Tensor):
        update(f"{value.dtype}{tuple(value.shape)}".encode())
        update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            _feed(update, key)
            _feed(update, value[key])
    elif isinstance(value, list | tuple):
        update(str(len(value)).encode())
        for item in value:
            _feed(update, item)
    else:
        update(repr(value).encode())


def differences(found: dict[str, str], expected: dict[str, str]) -> set[str]:
    """The names of what differs; those of files follow the words "missing" or "left behind"."""
    told = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    files = "names of files"
    if files in told:
        before, now = (set(value.get(files, "").split("\n")) for value in (expected, found))
        told |= {f"missing {name}" for name in before - now} | {f"left behind {name}" for name in now - before}
    return told - {files}
