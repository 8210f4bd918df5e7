"""How far from the best possible the searches of a study are: `python -m nas.study.regret runs/exhaustive`.

A row `every` of the study has all networks of a space, so that what the rows with `look_up` have found has a rank among
them, and a regret: by how much its error exceeds the lowest. Beside them is random search of the same cost: so many
trainings as take the time of a search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Annotated, Any

import tyro

import genotypes
from genotypes.config import Config, IsPath, NoneMeans
from nas import cli
from nas.errors import UsageError
from nas.screen import table as aligned
from nas.study import cells, planning, statistics, table
from nas.study.exhaustive import Benchmark, Protocol, Trained, choices
from nas.study.plan import Row, slug
from nas.study.table import CellResult, RowResult


@dataclass(frozen=True, kw_only=True)
class RegretConfig(Config):
    """Rank and regret of the searches of a study, and the tables that they were looked up in."""

    study: Annotated[str, IsPath, tyro.conf.Positional, tyro.conf.arg(metavar="STUDY")]
    """Folder of the study, the --out of optinas-study."""
    save: Annotated[str | None, IsPath, NoneMeans("write none")] = None
    """Folder to write the tables of whole spaces to, each named after its row."""


#: So many trainings of random search are shown.
_RANDOM = (1, 2, 4, 8, 16)


def benchmark_of(row: Row, found: RowResult, environment: dict[str, Any], settings: dict[str, Any]) -> Benchmark:
    """All errors of a row `every`.

    Args:
        row: as planned.
        found: all of its results.
        environment: of the study.
        settings: of its first cell.

    Raises ValueError as `Benchmark` does.
    """
    assert row.every is not None
    protocol = Protocol(
        space=row.every.space,
        nodes=row.every.nodes,
        operations=list(row.every.operations),
        layers=row.cells[0].train.network.layers,
        settings={name: value for name, value in settings.items() if name not in ("arch", "train.seed")},
        environment=environment,
    )
    by_genotype: dict[str, list[CellResult]] = {}
    for cell in sorted(found.cells, key=lambda cell: cell.seed):
        by_genotype.setdefault(cell.genotype, []).append(cell)
    ways = choices(protocol.build(), layers=protocol.layers)
    return Benchmark(
        protocol,
        [
            Trained(
                genotype=text,
                choices=ways.get(genotypes.from_text(text), 1),
                test_errors=[cell.test_error for cell in same],
                params=same[0].params,
                macs=same[0].macs,
                train_seconds=[cell.train_seconds or 0.0 for cell in same],
            )
            for text, same in by_genotype.items()
        ],
    )


def compare(benchmark: Benchmark, found: RowResult) -> dict[str, Any]:
    """The regrets of a row of searches, which has at least one result."""
    entries = [benchmark.look_up(genotypes.from_text(cell.genotype)) for cell in found.cells]
    regret = statistics.mean([entry.regret for entry in entries])
    number = max(1, round((found.search_seconds or 0) / benchmark.train_seconds))
    return {
        "row": found.name,
        "n": found.n,
        "mean rank": statistics.mean([entry.rank for entry in entries]).mean,
        "regret": regret.mean,
        "from": regret.low,
        "to": regret.high,
        "random trainings": number,
        "their regret": benchmark.random_search(number),
    }


def described(name: str, benchmark: Benchmark) -> dict[str, Any]:
    """A space in figures: how far its networks lie apart, how far the seeds of one, and what random search reaches."""
    means = [entry.test_error for entry in benchmark.entries]
    variances = [variance(entry.test_errors) for entry in benchmark.entries]
    return {
        "space": name,
        "networks": len(means),
        "best %": min(means),
        "mean %": mean(means),
        "worst %": max(means),
        "std of means": stdev(means),
        "std of a seed": mean(variances) ** 0.5,
        **{f"regret of {number} at random": benchmark.random_search(number) for number in _RANDOM},
    }


def command(argv: list[str]) -> dict[str, Any]:
    """Parses the command line, prints the tables and returns their rows."""
    config = cli.parse(RegretConfig, argv, description=__doc__ or "")
    root = Path(config.study)
    planned, done = planning.read(root / "study.toml", {}), table.read(root / "table.json")
    found = {row.name: row for row in done.rows}
    benchmarks = {}
    for row in planned.rows:
        if row.every is not None and found[row.name].n == found[row.name].planned:
            if len({cell.seed for cell in row.cells}) < 2:
                raise UsageError(
                    f"the row {row.name!r} has one seed, but random search chooses by one and is measured by another; "
                    "give it two"
                )
            settings = cells.settings_of(row.cells[0], root)
            benchmarks[row.name] = benchmark_of(row, found[row.name], done.environment, settings)
    if not benchmarks:
        raise UsageError(f"no row of {root} has all networks of a space, each trained; finish the study first")
    if config.save is not None:
        _save(benchmarks, Path(config.save))
    spaces = [described(name, benchmark) for name, benchmark in benchmarks.items()]
    searched = [row for row in planned.rows if row.look_up in benchmarks and found[row.name].cells]
    rows = [compare(benchmarks[row.look_up or ""], found[row.name]) for row in searched]
    print("\n\n".join(aligned(part) for part in (spaces, rows) if part))
    return {"spaces": spaces, "rows": rows}


def _save(benchmarks: Mapping[str, Benchmark], directory: Path) -> None:
    for name, benchmark in benchmarks.items():
        path = directory / f"{slug(name)}.json"
        try:
            benchmark.save(path)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); make its folder first") from error


if __name__ == "__main__":
    cli.run(command)
