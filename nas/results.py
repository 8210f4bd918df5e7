"""One table of many training runs: `python -m nas.results runs/*`.

Runs that differ in nothing but the seed are one row, with mean and standard deviation. Trainings of genotypes that
searches found with the same configuration are one row too, as every seed of a search has a genotype of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro

from nas import cli
from nas.errors import UsageError
from nas.report import table
from nas.run import read_config


@dataclass(frozen=True, kw_only=True)
class ResultsConfig:
    """Training runs side by side; runs that differ only in their seed are one row."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Directories of training runs that have ended; those of searches among them are passed over."""


def read_result(directory: Path) -> dict[str, Any] | None:
    """The result of a training run, with its configuration as "config"; None for the run of a search.

    Raises UsageError for a directory that holds no run, or one that has not ended.
    """
    config = read_config(directory)
    if "network" not in config:
        return None
    path = directory / "result.json"
    if not path.exists():
        raise UsageError(f"{directory} has no result yet; leave it out, or go on with that run by --resume")
    try:
        return {**msgspec.json.decode(path.read_bytes()), "config": config}
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def compare(directories: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every architecture, in the order in which they come.

    Raises UsageError as `read_result`, and where no training run is among the directories.
    """
    groups: dict[bytes, list[dict[str, Any]]] = {}
    for directory in directories:
        result = read_result(Path(directory))
        if result is not None:
            groups.setdefault(_key(result), []).append(result)
    if not groups:
        raise UsageError("there is no training run among these directories; name those of train_eval.py")
    return [_row(results) for results in groups.values()]


def _key(result: dict[str, Any]) -> bytes:
    """What runs of one row share: everything but the seed and the place, of the search too where there was one."""
    described = _without_seed(result["config"])
    search = Path(result["arch"])
    if result["space"] and (search / "config.json").exists():
        described["arch"] = _without_seed(read_config(search))
    return msgspec.json.encode(described, order="sorted")


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in ("seed", "run")}


def _row(results: list[dict[str, Any]]) -> dict[str, Any]:
    first = results[0]
    accuracies = [result["test_accuracy"] for result in results]
    return {
        "architecture": f"searched, {first['space']}" if first["space"] else first["arch"],
        "dataset": first["dataset"],
        "epochs": first["epochs"],
        "parameters": round(statistics.mean(result["params"] for result in results)),
        "multiply-adds": round(statistics.mean(result["macs"] for result in results)),
        "runs": len(results),
        "test accuracy %": statistics.mean(accuracies),
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "training s": statistics.mean(result["seconds"] for result in results),
    }


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, prints the table, returns its rows."""
    rows = compare(cli.parse(ResultsConfig, argv, description=__doc__ or "").runs)
    print(table(rows))
    return {"rows": rows}


if __name__ == "__main__":
    cli.run(command)
