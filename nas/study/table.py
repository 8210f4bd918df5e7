"""What a study has found so far: one row for each of its rows, as JSON, CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
import statistics as means
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

import genotypes
from genotypes import Genotype
from genotypes.atomic import write_atomically
from nas.errors import UsageError
from nas.runs.directory import read_json
from nas.runs.record import SearchRecord, TrainRecord
from nas.study import cells, statistics
from nas.study.cells import Reader
from nas.study.exhaustive import canonical
from nas.study.file import Flags
from nas.study.plan import Cell, Plan, Row
from nas.study.statistics import Interval

#: Bytes of table.json; 100,000 cells have fewer.
_LARGEST = 50_000_000


# The bounds keep small what a stranger's file makes us draw.
_Name = Annotated[str, Meta(max_length=100)]  # as in the file of a study
_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Amount = Annotated[float, Meta(ge=0, le=1e18)]


class CellResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of one cell."""

    seed: int
    test_error: Annotated[float, Meta(ge=0, le=100)]
    """Percent."""
    params: _Count
    macs: _Count
    search_seconds: _Amount | None
    train_seconds: _Amount | None
    """None where the errors are looked up."""
    genotype: str
    """In the notation of the literature, or the name of a hand-made network."""
    directory: str
    """Relative to that of the study."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cell without a result."""

    seed: int
    why: str


class RowResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row over its seeds; what needs a result is None as long as there is none."""

    name: _Name
    kind: _Name
    """search, random, arch or every."""
    baseline: _Name | None
    """The row of random architectures that it is compared with."""
    published: float | None
    """Test error in percent of another protocol, for the order alone."""
    planned: int
    n: int
    test_error: Interval | None
    params: _Amount | None
    macs: _Amount | None
    search_seconds: _Amount | None
    train_seconds: _Amount | None
    device: str | None
    difference: Interval | None
    """Of the test error from that of the baseline; negative: fewer errors."""
    relative_improvement: Interval | None
    """Of the accuracy over that of the baseline, in percent of it."""
    cells: list[CellResult]
    failed: list[Failed]

    @property
    def verdict(self) -> str:
        """The comparison with random architectures in words."""
        if self.baseline is None or self.difference is None:
            return ""
        low, high = self.difference.low, self.difference.high
        if low is None or high is None:
            return "undecided: too few seeds for an interval"
        if high < 0:
            return f"better than random architectures by {-high:.2f} to {-low:.2f} points"
        if low > 0:
            return f"worse than random architectures by {low:.2f} to {high:.2f} points"
        return f"not told apart from random architectures ({low:+.2f} to {high:+.2f} points)"


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The results of a study, as in `table.json`."""

    title: _Name
    environment: dict[str, Any]
    """Of the process that wrote it: commit, command, versions, hardware."""
    settings: dict[str, Flags]
    """The flags of all rows: data, search, train."""
    agreement: float | None
    """Kendall's tau of the rows' order by mean test error and their published one."""
    rows: list[RowResult]


def build(plan: Plan, reader: Reader, environment: Mapping[str, Any]) -> Table:
    """The table of the cells that have ended. Raises UsageError for cells that learned from different images."""
    found = {row.name: _Found.of(row, reader) for row in plan.rows if row.look_up is None}
    every = {row.name: row for row in plan.rows if row.every is not None}
    for row in plan.rows:
        if row.look_up is not None:
            found[row.name] = _Found.looked_up(row, reader, every[row.look_up], found[row.look_up])
    _check_images(found)
    rows = [_row(row, found) for row in plan.rows]
    ours = {row.name: row.test_error.mean for row in rows if row.test_error is not None}
    published = {row.name: row.published for row in rows if row.published is not None}
    return Table(
        title=plan.title,
        environment=dict(environment),
        settings=plan.settings,
        agreement=statistics.agreement(ours, published),
        rows=rows,
    )


class _Found(NamedTuple):
    """What is in the cells of a row."""

    cells: list[CellResult]
    failed: list[Failed]
    devices: list[str]
    images: dict[str, bytes]

    @classmethod
    def of(cls, row: Row, reader: Reader) -> _Found:
        found = cls([], [], [], {})
        for cell in row.cells:
            ended = reader.finished(cell)
            if ended is None:
                if (why := cells.failure(cell, reader.root)) is not None:
                    found.failed.append(Failed(seed=cell.seed, why=why))
                continue
            trained = ended.record
            assert isinstance(trained, TrainRecord)
            searched, result = trained.search, trained.result
            found.cells.append(
                CellResult(
                    seed=cell.seed,
                    test_error=result.test_error,
                    params=result.params,
                    macs=result.macs,
                    search_seconds=None if searched is None else searched.result.seconds,
                    train_seconds=result.seconds,
                    genotype=trained.architecture,
                    directory=str(cell.path),
                )
            )
            found.devices.append(ended.device)
            found.images[str(cell.path)] = msgspec.json.encode(trained.data)
        return found

    @classmethod
    def looked_up(cls, row: Row, reader: Reader, every: Row, known: _Found) -> _Found:
        """The cells of a row that trains none: its genotypes have the mean errors of the same ones in `known`."""
        layers = every.cells[0].train.network.layers
        trained: dict[Genotype, list[CellResult]] = {}
        for done in known.cells:
            trained.setdefault(genotypes.from_text(done.genotype), []).append(done)
        found = cls([], [], [], {})
        for cell in row.cells:
            ended, why = reader.finished(cell), cells.failure(cell, reader.root)
            if ended is not None:
                searched = ended.record
                assert isinstance(searched, SearchRecord)
                same = trained.get(canonical(genotypes.from_text(searched.result.genotype), layers=layers))
                if same is not None:
                    found.cells.append(_as_trained(cell, searched, same))
                    found.devices.append(ended.device)
                    found.images[str(cell.path)] = msgspec.json.encode(searched.data)
                elif len(known.cells) == len(every.cells):
                    why = f"{searched.result.genotype} is not in the row {every.name!r}"
                    found.failed.append(Failed(seed=cell.seed, why=why))
            elif why is not None:
                found.failed.append(Failed(seed=cell.seed, why=why))
        return found


def _as_trained(cell: Cell, searched: SearchRecord, same: Sequence[CellResult]) -> CellResult:
    """The result of a search, with the mean error of its genotype's trainings."""
    return CellResult(
        seed=cell.seed,
        test_error=means.mean(done.test_error for done in same),
        params=same[0].params,
        macs=same[0].macs,
        search_seconds=searched.result.seconds,
        train_seconds=None,
        genotype=searched.result.genotype,
        directory=str(cell.path),
    )


def _check_images(found: Mapping[str, _Found]) -> None:
    images = {path: seen for row in found.values() for path, seen in row.images.items()}
    first = next(iter(images), None)
    for path, seen in images.items():
        if first is not None and seen != images[first]:
            raise UsageError(
                f"{path} learned from other images than {first}; compute both from the same ones, the second in "
                "another --out"
            )


def _row(row: Row, found: Mapping[str, _Found]) -> RowResult:
    done = found[row.name].cells
    errors = [cell.test_error for cell in done]
    baseline = [cell.test_error for cell in found[row.baseline].cells] if row.baseline else []
    compared = bool(errors and baseline)
    return RowResult(
        name=row.name,
        kind=row.kind,
        baseline=row.baseline,
        published=row.published,
        planned=len(row.cells),
        n=len(done),
        test_error=statistics.mean(errors) if errors else None,
        params=_mean([cell.params for cell in done]),
        macs=_mean([cell.macs for cell in done]),
        search_seconds=_mean([cell.search_seconds for cell in done if cell.search_seconds is not None]),
        train_seconds=_mean([cell.train_seconds for cell in done if cell.train_seconds is not None]),
        device=", ".join(dict.fromkeys(found[row.name].devices)) or None,
        difference=statistics.difference(errors, baseline) if compared else None,
        relative_improvement=statistics.relative_improvement(errors, baseline) if compared else None,
        cells=done,
        failed=found[row.name].failed,
    )


def _mean(values: Sequence[float]) -> float | None:
    return means.mean(values) if values else None


# --- as files ---------------------------------------------------------------------------------------------


def write(table: Table, directory: Path) -> None:
    """Writes table.json, table.csv, table.md and table.tex. Raises OSError."""
    encoded = msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n"
    contents = {"json": encoded, "csv": _as_csv(table), "md": _as_markdown(table), "tex": _as_latex(table)}
    for ending, content in contents.items():
        write_atomically(directory / f"table.{ending}", content)


def read(path: Path) -> Table:
    """The table in a file `table.json`. Raises UsageError for a file that is none."""
    try:
        table: Table = read_json(path, Table, largest=_LARGEST)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name the table.json of a study") from None
    return table


def _as_csv(table: Table) -> bytes:
    """A line for each cell, for programs that make their own statistics."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    names = [name for name in CellResult.__struct_fields__ if name != "genotype"]
    writer.writerow(["row", *names, "genotype"])
    for row in table.rows:
        for cell in row.cells:
            writer.writerow([row.name, *(getattr(cell, name) for name in names), cell.genotype])
    return text.getvalue().encode()


#: The columns that a reader sees: heading, and what stands below it for a row.
COLUMNS: dict[str, Callable[[RowResult], str]] = {
    "architecture": lambda row: row.name,
    "n": lambda row: str(row.n) if row.n == row.planned else f"{row.n} of {row.planned}",
    "test error %": lambda row: shown(row.test_error),
    "95 % interval": lambda row: bounds(row.test_error),
    "RI %": lambda row: "" if row.relative_improvement is None else f"{row.relative_improvement.mean:+.2f}",
    "RI, 95 %": lambda row: bounds(row.relative_improvement, sign=True),
    "parameters": lambda row: "" if row.params is None else f"{row.params:,.0f}",
    "multiply-adds": lambda row: "" if row.macs is None else f"{row.macs:,.0f}",
    "search s": lambda row: "" if row.search_seconds is None else f"{row.search_seconds:,.0f}",
    "training s": lambda row: "" if row.train_seconds is None else f"{row.train_seconds:,.0f}",
}


def shown(interval: Interval | None) -> str:
    """Mean and standard deviation."""
    if interval is None:
        return ""
    return f"{interval.mean:.2f}" + ("" if interval.std is None else f" ± {interval.std:.2f}")


def bounds(interval: Interval | None, *, sign: bool = False) -> str:
    """An interval's two ends."""
    if interval is None or interval.low is None:
        return ""
    return f"{interval.low:+.2f} to {interval.high:+.2f}" if sign else f"{interval.low:.2f} to {interval.high:.2f}"


def _as_markdown(table: Table) -> bytes:
    lines = [f"# {_plain(table.title)}", "", _line(COLUMNS), _line("---" for _ in COLUMNS)]
    lines += [_line(_plain(column(row)) for column in COLUMNS.values()) for row in table.rows]
    told = [f"{row.name}: {row.verdict} (against {row.baseline})." for row in table.rows if row.verdict]
    told += [f"{row.name}, seed {cell.seed}, failed: {cell.why}" for row in table.rows for cell in row.failed]
    if table.agreement is not None:
        told += [f"Order of the rows against the published one: Kendall's tau {table.agreement:+.2f}."]
    lines += ["", *(f"- {_plain(text)}" for text in told), *([""] if told else [])]
    lines += ["Standard deviations and t-intervals are over the seeds; RI by Welch's interval."]
    return ("\n".join(lines) + "\n").encode()


def _plain(text: str) -> str:
    """Text that Markdown shows as it is; underscores within words are no markup."""
    return re.sub(r"[\\|<*`\[]|\b_|_\b|(?<!\w)_", r"\\\g<0>", text)


def _line(parts: Any) -> str:
    return f"| {' | '.join(parts)} |"


def _as_latex(table: Table) -> bytes:
    """A tabular for a paper, which needs the package booktabs."""
    numbers = "r" * (len(COLUMNS) - 1)
    lines = [f"\\begin{{tabular}}{{l{numbers}}}", "\\toprule", _latex_line(COLUMNS), "\\midrule"]
    lines += [_latex_line(column(row) for column in COLUMNS.values()) for row in table.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    return ("\n".join(lines) + "\n").encode()


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
}


def _latex_line(parts: Any) -> str:
    return " & ".join("".join(_LATEX.get(sign, sign) for sign in part) for part in parts) + " \\\\"
