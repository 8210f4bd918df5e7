"""Pages that show a run or a study: `optinas-report RUN_OR_STUDY`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import genotypes
import spaces
from genotypes import CELL_NAMES, GenotypeError
from genotypes.atomic import write_atomically
from genotypes.config import Config, IsPath, NoneMeans
from nas import cli
from nas.errors import UsageError, users_mistakes
from nas.report import page, plots, run
from nas.report.page import Html, element
from nas.report.plots import Point, Strip
from nas.study.statistics import Interval
from nas.study.table import COLUMNS, CellResult, RowResult, Table
from nas.study.table import read as read_table
from spaces import KINDS

#: In the directory of a study.
TABLE = "table.json"
#: So many different genotypes of a row are drawn, the best of them: a picture takes 10 kB and a tenth of a second.
_DRAWN = 12
_KINDS = {"search": "searched", "random": "random", "arch": "given", "every": "all"}


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Write a page that shows a search, a training or a study, finished or not, in one file that needs nothing else."""

    directory: Annotated[str, IsPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_STUDY")]
    """Directory of the run or the study."""
    out: Annotated[str | None, IsPath, NoneMeans("report.html in the directory")] = None
    """File to write."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that a genotype has."""


def write_report(directory: str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the page of a run or a study, to its report.html if no other file is named; returns that file.

    Raises UsageError where there is nothing to show, or the file cannot be written.
    """
    spaces.load_installed()  # whose operations a genotype may have
    directory = Path(directory)
    target = directory / run.NAME if out is None else Path(out)
    text = of_study(read_table(directory / TABLE)) if (directory / TABLE).exists() else run.of_run(directory)
    try:
        write_atomically(target, text.encode())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written ({error.strerror}); choose another --out") from error
    return target


def of_study(table: Table) -> str:
    """The page of a study."""
    numbered = list(enumerate(table.rows, start=1))
    return page.page(
        table.title,
        "study",
        page.notes([note for row in table.rows for note in _missing(row)]),
        page.section("Results", _results(numbered), _verdicts(numbered)),
        page.section("Every seed", _every_seed(table.rows)),
        page.section("Cost and error", _costs(numbered)),
        page.section("Order", _order(table)),
        page.section("Rows", *(_row(number, row) for number, row in numbered)),
        page.section(
            "How to repeat it",
            run.environment(table.environment),
            *(run.settings(f"Flags of all rows: {name}", flags) for name, flags in table.settings.items()),
        ),
    )


def _missing(row: RowResult) -> list[str]:
    """The cells of a row that have no result."""
    told = [f"{row.name}, seed {failed.seed} failed: {failed.why}" for failed in row.failed]
    left = row.planned - row.n - len(row.failed)
    return told + ([f"{row.name}: {left} of {row.planned} cells have not been computed"] if left > 0 else [])


# --- results --------------------------------------------------------------------------------------------------


def _results(numbered: Sequence[tuple[int, RowResult]]) -> Html:
    name, *others = COLUMNS
    rows = [
        (f"{number}. {COLUMNS[name](row)}", *(COLUMNS[column](row) for column in others)) for number, row in numbered
    ]
    caption = (
        "Test error in percent of the last epoch: mean and standard deviation over n seeds, and the 95 % t-interval of "
        "the mean. RI: relative improvement of the accuracy over the random architectures of the row's baseline, with "
        "Welch's 95 % interval"
    )
    return page.table(caption, (name, *others), rows, right=range(1, len(COLUMNS)))


def _verdicts(numbered: Sequence[tuple[int, RowResult]]) -> Html | None:
    """A sentence for each row that is compared with another."""
    told = [
        element("li", element("b", row.name), f": {row.verdict}, at 95 % and n = {row.n}, against {row.baseline}.")
        for _, row in numbered
        if row.verdict
    ]
    return element("ul", *told) if told else None


def _every_seed(rows: Sequence[RowResult]) -> Html | None:
    by_name = {row.name: row for row in rows}
    strips = [
        Strip(
            row.name,
            [cell.test_error for cell in row.cells],
            row.test_error.mean,
            _ends(row.test_error),
            _band(by_name.get(row.baseline or "")),
        )
        for row in rows
        if row.test_error is not None
    ]
    if not strips:
        return None
    title = "Test error of every seed"
    caption = (
        f"{title} (dots), mean (diamond) and its 95 % interval (line); the band is the 95 % interval of the row's "
        "random baseline, with its mean"
    )
    return page.figure(page.scrolled(plots.strips("seeds", title, "test error %", strips)), caption, class_="strips")


def _ends(interval: Interval) -> tuple[float, float] | None:
    return None if interval.low is None or interval.high is None else (interval.low, interval.high)


def _band(baseline: RowResult | None) -> tuple[float, float, float] | None:
    if baseline is None or baseline.test_error is None:
        return None
    mean = baseline.test_error.mean
    low, high = _ends(baseline.test_error) or (mean, mean)
    return low, mean, high


# --- cost and order -------------------------------------------------------------------------------------------


def _costs(numbered: Sequence[tuple[int, RowResult]]) -> Html | None:
    charts: list[Html] = []
    for unit, cost in (("parameters", _parameters), ("seconds of search and training", _seconds)):
        points = [
            Point(number, _KINDS.get(row.kind, row.kind), cost(row), row.test_error.mean, _ends(row.test_error))
            for number, row in numbered
            if row.test_error is not None
        ]
        title = f"Test error against {unit}"
        if points:
            chart = plots.scatter(f"cost-{len(charts)}", title, (unit, "test error %"), points)
            charts.append(page.figure(chart, title))
    if not charts:
        return None
    told = element("p", "Means and 95 % intervals; the numbers are those of the table of results.")
    return page.join([told, element("div", *charts, class_="charts")])


def _parameters(row: RowResult) -> float:
    return row.params or 0


def _seconds(row: RowResult) -> float:
    return (row.search_seconds or 0) + (row.train_seconds or 0)


def _order(table: Table) -> Html | None:
    """The rows that have a published error, by ours and by that."""
    both = [row for row in table.rows if row.published is not None and row.test_error is not None]
    if len(both) < 2:
        return None
    ours = sorted(both, key=_mean_error)
    published = sorted(both, key=_published_error)
    rows = [
        (row.name, place, f"{_mean_error(row):.2f}", published.index(row) + 1, f"{_published_error(row):.2f}")
        for place, row in enumerate(ours, start=1)
    ]
    agreement = "" if table.agreement is None else f"; Kendall's tau of the two is {table.agreement:+.2f}"
    caption = f"Order by test error here, and by the published one, which is of another protocol{agreement}"
    columns = ("architecture", "place here", "test error %", "published place", "published error %")
    return page.table(caption, columns, rows, right=range(1, 5))


def _mean_error(row: RowResult) -> float:
    assert row.test_error is not None
    return row.test_error.mean


def _published_error(row: RowResult) -> float:
    assert row.published is not None
    return row.published


# --- rows -----------------------------------------------------------------------------------------------------


def _row(number: int, row: RowResult) -> Html:
    """The cells of a row and their genotypes, shown on a click."""
    columns = ("seed", "test error %", "parameters", "multiply-adds", "search s", "training s", "directory")
    rows = [
        (
            *(str(cell.seed), f"{cell.test_error:.2f}", cell.params, cell.macs),
            *("" if seconds is None else f"{seconds:,.0f}" for seconds in (cell.search_seconds, cell.train_seconds)),
            cell.directory,
        )
        for cell in row.cells
    ]
    shown = [page.table(f"Cells of {row.name}", columns, rows, right=range(1, 6))] if rows else []
    device = element("p", f"Computed on {row.device}.") if row.device else None
    return page.folded(f"{number}. {row.name}: {row.n} of {row.planned} cells", *shown, device, *_pictures(row.cells))


def _pictures(cells: Sequence[CellResult]) -> list[Html]:
    """The different genotypes of a row's cells, the best first."""
    seeds: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda cell: cell.test_error):
        seeds.setdefault(cell.genotype, []).append(f"{cell.seed} ({cell.test_error:.2f} %)")
    found = []
    for text, own in list(seeds.items())[:_DRAWN]:
        caption = f"seed {', '.join(own)}" if len(own) == 1 else f"seeds {', '.join(own)}"
        try:
            genotype = genotypes.from_text(text)
        except GenotypeError:  # a hand-made network, or one of operations that are not here
            found.append(element("p", f"{text}: {caption}"))
            continue
        for kind in KINDS:
            title = f"{CELL_NAMES[kind].capitalize()} cell, {caption}"
            drawn = page.scrolled(plots.cell(getattr(genotype, kind), title))
            found.append(page.figure(drawn, title, class_="cell"))
    if len(seeds) > _DRAWN:
        found.append(element("p", f"These are the best {_DRAWN} of {len(seeds)} different genotypes."))
    return found


# --- the command ----------------------------------------------------------------------------------------------


def command(argv: list[str]) -> dict[str, Any]:
    """Parses the command line, writes the page and returns where it is."""
    config = cli.parse(ReportConfig, argv, description=__doc__ or "")
    with users_mistakes():
        spaces.import_modules(config.operations_from)
    return {"report": str(write_report(config.directory, config.out))}


def main() -> None:
    """The console command `optinas-report`."""
    cli.run(command)


if __name__ == "__main__":
    main()
