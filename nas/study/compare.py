"""One table of many training runs: `python -m nas.study.compare runs/*`.

Runs that differ only in their seed share a row, with mean and standard deviation. So do training runs of genotypes from
searches with the same configuration, since every seed of a search finds a genotype of its own. A run that repeats
another, with the same configuration and seed, is left out and named.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import tyro

from genotypes.config import Config
from genotypes.messages import one_line
from nas import cli
from nas.errors import UsageError
from nas.latency import of_one_image
from nas.networks import weights
from nas.runs import record
from nas.runs.record import SearchRecord, TrainRecord, TrainResult
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class ResultsConfig(Config):
    """Training runs side by side; runs that differ only in their seed are one row."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUNS...")]
    """Directories of training runs that have ended; others are left out, and named."""
    latency: bool = False
    """Also time each row's network: the median milliseconds of one image on this machine's CPU with one thread, of the
    row's first run."""


class TrainingRun(NamedTuple):
    """A finished training run: its result, and the settings that decided it, those of the search included.

    Two runs with the same settings and seeds are the same. `seeds` is "0", or "1/0" with that of the search first.
    """

    directory: Path
    result: TrainResult
    settings: dict[str, Any]
    seeds: str


def read_training_run(directory: Path) -> TrainingRun:
    """The training run in a directory. Raises UsageError if there is none, or it has not ended."""
    found = record.read(directory)
    if not isinstance(found, TrainRecord):
        raise UsageError(f"{directory} is a search; name the training of its genotype")
    settings = {**found.settings, "images": _images(found)}
    if found.search is None:
        settings["architecture"] = _digest(found.architecture.encode())
        return TrainingRun(directory, found.result, settings, str(found.seed))
    # Every seed of a search finds a genotype of its own, so the genotype is not a setting.
    searched = {**found.search.settings, "images": _images(found.search)}
    settings |= {f"search.{name}": value for name, value in searched.items()}
    return TrainingRun(directory, found.result, settings, f"{found.search.seed}/{found.seed}")


def _images(found: SearchRecord | TrainRecord) -> str:
    return _digest(msgspec.json.encode(found.data))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def compare(runs: Sequence[TrainingRun], *, latency: bool = False) -> list[dict[str, Any]]:
    """A row for each architecture and configuration, in the order of first appearance; with `latency`, timed."""
    groups: dict[bytes, list[TrainingRun]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    rows = [_row(group, list(groups.values())) for group in groups.values()]
    if latency:
        rows = [{**row, "latency ms": _latency(group[0])} for row, group in zip(rows, groups.values(), strict=True)]
    return rows


def _key(run: TrainingRun) -> bytes:
    return msgspec.json.encode(run.settings, order="sorted")


def _row(group: list[TrainingRun], groups: list[list[TrainingRun]]) -> dict[str, Any]:
    results = [run.result for run in group]
    accuracies = [result.test_accuracy for result in results]
    first = results[0]
    return {
        "architecture": _name(group[0]),
        "setting": _distinction(group[0], [other[0] for other in groups if _name(other[0]) == _name(group[0])]),
        "dataset": first.dataset,
        "epochs": first.epochs,
        "parameters": round(statistics.mean(result.params for result in results)),
        "multiply-adds": round(statistics.mean(result.macs for result in results)),
        "runs": len(results),
        "seeds": ", ".join(run.seeds for run in group),
        "test accuracy %": statistics.mean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "training s": statistics.mean(result.seconds for result in results),
    }


def _latency(run: TrainingRun) -> float | None:
    """Milliseconds of one image; None, and a line that says why, where the run has no network that can be read."""
    try:
        return of_one_image(weights.load(run.directory))
    except ValueError as error:
        print(f"not timed: {one_line(str(error))}", file=sys.stderr)
        return None


def _name(run: TrainingRun) -> str:
    return f"searched, {run.result.space}" if run.result.space else run.result.arch


def _distinction(run: TrainingRun, rivals: Sequence[TrainingRun]) -> str:
    """The settings that distinguish a row from others with the same architecture."""
    names = sorted({name for rival in rivals for name in rival.settings})
    differing = [n for n in names if any(rival.settings.get(n) != run.settings.get(n) for rival in rivals)]
    return ", ".join(f"{name.split('.')[-1]} {run.settings.get(name)}" for name in differing)


def command(argv: list[str]) -> dict[str, Any]:
    """Parses the command line, prints the table and returns its rows."""
    config = cli.parse(ResultsConfig, argv, description=__doc__ or "")
    runs: dict[tuple[bytes, str], TrainingRun] = {}
    # A directory that is named twice, or by two paths, is one run.
    for directory in dict.fromkeys(Path(os.path.realpath(name)) for name in config.runs):
        try:
            run = read_training_run(directory)
            first = runs.setdefault((_key(run), run.seeds), run)
            if first is not run:
                raise UsageError(f"{directory} repeats {first.directory} with the same configuration and seed")
        except UsageError as error:
            print(f"left out: {one_line(str(error))}", file=sys.stderr)
    if not runs:
        raise UsageError(
            "none of these directories holds a finished training run; name those of train_eval.py, and of optinas-auto "
            "the folder train in its --out"
        )
    rows = compare(list(runs.values()), latency=config.latency)
    print(table(rows))
    return {"rows": rows}


def main() -> None:
    """The console command `optinas-results`."""
    cli.run(command)


if __name__ == "__main__":
    main()
