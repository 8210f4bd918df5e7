"""One table of many training runs: `python -m nas.results runs/*`.

Runs that differ in nothing but the seed are one row, with mean and standard deviation. Trainings of genotypes that
searches found with the same configuration are one row too, as every seed of a search has a genotype of its own.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import tyro

from nas import cli
from nas.errors import UsageError
from nas.report import table
from nas.run import binding, read_config

#: What a row needs of a result.
_KEYS = {"arch", "space", "dataset", "epochs", "params", "macs", "test_accuracy", "seconds"}


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Training runs side by side; runs that differ only in their seed are one row."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Directories of training runs that have ended; others are left out, and named."""


class TrainingRun(NamedTuple):
    """A training run that has ended: its result, and what decided it, flat (of the search too where there was one)."""

    result: dict[str, Any]
    settings: dict[str, Any]


def read_training_run(directory: Path) -> TrainingRun:
    """Raises UsageError for a directory that holds none, or one that has not ended."""
    config = read_config(directory)
    if "network" not in config:
        raise UsageError(f"{directory} is no training run")
    path = directory / "result.json"
    if not path.exists():
        raise UsageError(f"{directory} has no result yet; go on with that run by --resume")
    try:
        result = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if missing := _KEYS - result.keys():
        raise UsageError(f"{path} has no {', '.join(sorted(missing))}; train again")
    return TrainingRun(result, _settings(config, result))


def _settings(config: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    settings = binding(config)
    search = Path(result["arch"])
    if result["space"] and (search / "config.json").exists():
        found = {f"search.{name}": value for name, value in binding(read_config(search)).items()}
        settings = {**settings, **found, "arch": None}
    return {name: value for name, value in settings.items() if name not in ("seed", "search.seed")}


def compare(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """A row for every architecture and configuration, in the order in which they come."""
    groups: dict[bytes, list[TrainingRun]] = {}
    for run in runs:
        groups.setdefault(msgspec.json.encode(run.settings, order="sorted"), []).append(run)
    return [_row(group, list(groups.values())) for group in groups.values()]


def _row(group: list[TrainingRun], groups: list[list[TrainingRun]]) -> dict[str, Any]:
    results = [run.result for run in group]
    accuracies = [result["test_accuracy"] for result in results]
    first = results[0]
    return {
        "architecture": _name(group[0]),
        "setting": _distinction(group[0], [other[0] for other in groups if _name(other[0]) == _name(group[0])]),
        "dataset": first["dataset"],
        "epochs": first["epochs"],
        "parameters": round(statistics.mean(result["params"] for result in results)),
        "multiply-adds": round(statistics.mean(result["macs"] for result in results)),
        "runs": len(results),
        "test accuracy %": statistics.mean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "training s": statistics.mean(result["seconds"] for result in results),
    }


def _name(run: TrainingRun) -> str:
    return f"searched, {run.result['space']}" if run.result["space"] else run.result["arch"]


def _distinction(run: TrainingRun, rivals: Sequence[TrainingRun]) -> str:
    """The settings that tell a row from others of the same architecture."""
    names = sorted({name for rival in rivals for name in rival.settings})
    differing = [n for n in names if any(rival.settings.get(n) != run.settings.get(n) for rival in rivals)]
    return ", ".join(f"{name.split('.')[-1]} {run.settings.get(name)}" for name in differing)


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, prints the table, returns its rows."""
    config = cli.parse(ResultsConfig, argv, description=__doc__ or "")
    runs = []
    # A directory named twice is one run.
    for directory in dict.fromkeys(Path(name).resolve() for name in config.runs):
        try:
            runs.append(read_training_run(directory))
        except UsageError as error:
            print(f"left out: {error}", file=sys.stderr)
    if not runs:
        raise UsageError("there is no ended training run among these directories; name those of train_eval.py")
    rows = compare(runs)
    print(table(rows))
    return {"rows": rows}


if __name__ == "__main__":
    cli.run(command)
