"""Writes the tables of docs/PERFORMANCE.md from benchmarks/results: `python -m benchmarks.report`.

A table stands between `<!-- table NAME -->` and `<!-- end -->` and is made from all result files of its kind; the rest
of the page is written by hand. A test checks that the page agrees with the files.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from genotypes.atomic import write_atomically

_ROOT = Path(__file__).resolve().parent.parent
RESULTS = _ROOT / "benchmarks" / "results"
PAGE = _ROOT / "docs" / "PERFORMANCE.md"

#: In place of a table without results, so that the page says what is missing.
UNMEASURED = "Not measured yet."

Row = dict[str, str]


@dataclass(frozen=True)
class Result:
    """A result file: its name without .json, and the content that `timing.write_result` wrote."""

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    machine: dict[str, float]
    passes: list[dict[str, Any]]

    @property
    def device(self) -> str:
        """The device, for the first column of a table: the GPU's name, or the CPU with its threads."""
        if "cores" in self.environment:
            threads = self.environment["threads"]
            limited = f", {self.environment['instructions']}" if self.environment.get("instruction limits") else ""
            return f"CPU, {threads} thread{'s' if threads > 1 else ''}{limited}"
        return str(self.environment["device"])

    @property
    def network(self) -> Row:
        """What was measured, for the first columns of a table."""
        config = self.config
        what = {"space": config["space"]} if "space" in config else {"network": config["arch"]}
        size = {
            "cells": str(config["layers"]),
            "channels": str(config["init_channels"]),
            "batch": str(config["batch_size"]),
        }
        return {"device": self.device, **what, **size, "precision": config["precision"]}

    @property
    def variant(self) -> bool:
        """Whether it has a table of its own: partial channels, fewer operations, or fewer instructions."""
        config = self.config
        parts = config.get("partial_channels", 1) > 1 or config.get("operations_left") is not None
        return parts or bool(self.environment.get("instruction limits"))


def read_results(folder: Path) -> list[Result]:
    """The result files in a folder that the page has a table for, sorted by name."""
    results = []
    for path in sorted(folder.glob("*.json")):
        if path.stem.startswith(tuple(KINDS)):
            raw = json.loads(path.read_text())
            parts = {"machine": {}, "passes": [], **raw}
            results.append(Result(name=path.stem, **parts))
    return results


def rendered(page: str, results: Sequence[Result]) -> str:
    """The page, its tables made from the results. Raises KeyError for a table that is not in TABLES."""

    def replaced(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]](results)}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", replaced, page, flags=re.DOTALL)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _search_steps(results: Sequence[Result]) -> str:
    return _markdown(
        {
            **result.network,
            "step": row["step"],
            "ms (least to most)": _spread(row),
            "plain, ms": _number(row["plain ms"]),
            "**plain / ours**": _times(row["plain / ours"]),
            "lean / ours": _times(row["lean / ours"]),
            "limit, ms": _number(row["limit ms"]),
            "limit / ours": _percent(row["fraction of limit"]),
        }
        for result in _of("search_step", results)
        if not result.variant
        for row in result.rows
    )


def _passes(results: Sequence[Result]) -> str:
    return _markdown(
        {
            **result.network,
            "gradients of": row["gradients of"],
            "engine": row["engine"],
            "kernels": _number(row["kernels"]),
            "GB moved": _number(row["moved GB"]),
            "peak MiB": _number(row["peak MiB"]),
            "kernels / plain": _times(row["kernels / plain"]),
            "GB / plain": _times(row["moved GB / plain"]),
            "MiB / plain": _times(row["peak MiB / plain"]),
        }
        for result in _of("search_step", results)
        if not result.variant
        for row in result.passes
    )


def _evaluation_steps(results: Sequence[Result]) -> str:
    return _markdown(
        {
            **result.network,
            "engine": row["engine"],
            "ms (least to most)": _spread(row),
            "**plain / this**": _times(row["plain / this"]),
            "limit, ms": _number(row["limit ms"]),
            "limit / this": _percent(row["fraction of limit"]),
            "kernels": _number(row["kernels"]),
            "GB moved": _number(row["moved GB"]),
            "peak MiB": _number(row["peak MiB"]),
            "MiB / plain": _times(row["peak MiB / plain"]),
        }
        for result in _of("evaluation_step", results)
        if not result.variant
        for row in result.rows
    )


def _variants(results: Sequence[Result]) -> str:
    return _markdown(
        {
            "device": result.device,
            "network": network,
            "batch": str(result.config["batch_size"]),
            "n": str(result.config["rounds"]),
            "step": step,
            "ms (least to most)": _spread(row),
            "**plain / ours**": _times(row.get("plain / ours", row.get("plain / this"))),
            "all operations, ms": _number(row.get("whole ms")),
            "**ours / all operations**": _times(row["median ms"] / row["whole ms"] if row.get("whole ms") else None),
        }
        for result in results
        if result.variant
        for network, step, row in _variant_rows(result)
    )


def _variant_rows(result: Result) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """What was measured, the step, and the row."""
    config = result.config
    if "arch" in config:
        return [(config["arch"], "training", row) for row in result.rows if row["engine"] == "ours"]
    network = config["space"]
    if config["partial_channels"] > 1:
        network += f", 1 of {config['partial_channels']} channels"
    if config["operations_left"] is not None:
        network += f", {config['operations_left']} operations left"
    return [(network, row["step"], row) for row in result.rows]


def _data_pipeline(results: Sequence[Result]) -> str:
    return _markdown(
        {
            "device": result.device,
            "images": row["images"],
            "served": row["served"],
            "images a second (least to most)": f"{_number(row['images/s'])} ({_number(row['least'])} to "
            f"{_number(row['most'])})",
        }
        for result in _of("data_pipeline", results)
        for row in result.rows
    )


def _epochs(results: Sequence[Result]) -> str:
    return _markdown(
        {
            "device": result.device,
            "precision": result.config["precision"],
            "task": row["task"],
            "images": _number(row["images"]),
            "first epoch, s": _number(row["first epoch s"]),
            "epoch, s": _number(row["epoch s"]),
            "*extrapolated* protocol": f"{row['protocol']}: {_number(row['extrapolated h'])} h",
        }
        for result in _of("epoch", results)
        for row in result.rows
    )


def _scaling(results: Sequence[Result]) -> str:
    """A plot and a table of exponents for each file."""
    found = _of("scaling", results)
    if not found:
        return UNMEASURED
    parts = []
    for result in found:
        lines = [
            {
                "varied": varied,
                "engine": engine,
                **{name: f"{exponent(rows, cost):.2f}" for cost, name in _COSTS.items()},
            }
            for varied in dict.fromkeys(row["varied"] for row in result.rows)
            for engine in ("ours", "plain")
            if (rows := [row for row in result.rows if row["varied"] == varied and row["engine"] == engine])
        ]
        picture = f"![How the cost of a search step grows, {result.device}](pictures/{result.name}.svg)"
        parts.append(f"{result.device}, `{result.config['precision']}`:\n\n{picture}\n\n{_markdown(lines)}")
    return "\n\n".join(parts)


def _sources(results: Sequence[Result]) -> str:
    return _markdown(
        {
            "file of benchmarks/results": f"`{result.name}.json`",
            "device": result.device,
            "PyTorch": result.environment["packages"]["torch"],
            "commit": str(result.environment["commit"])[:7] + (", changed" if result.environment["dirty"] else ""),
            "copy, GB/s": _number(result.machine.get("copy GB/s")),
            "matmul, GFLOP/s": _number(result.machine.get("matmul GFLOP/s")),
        }
        for result in results
    )


def _gpu(results: Sequence[Result]) -> str:
    devices = sorted({result.device for result in results if "cores" not in result.environment})
    if devices:
        return f"GPUs measured: {', '.join(devices)}."
    return "**No GPU has been measured.** All figures are those of a CPU; the parts for CUDA are written, not timed."


#: Prefixes of the names of the result files that the page has tables for.
KINDS = ("search_step", "evaluation_step", "data_pipeline", "epoch", "scaling")

TABLES: Mapping[str, Callable[[Sequence[Result]], str]] = {
    "gpu": _gpu,
    "search_steps": _search_steps,
    "passes": _passes,
    "evaluation_steps": _evaluation_steps,
    "variants": _variants,
    "data_pipeline": _data_pipeline,
    "epochs": _epochs,
    "scaling": _scaling,
    "sources": _sources,
}

_COSTS = {"median ms": "time", "kernels": "kernels", "moved GB": "bytes moved", "peak MiB": "memory"}


def exponent(rows: Sequence[Mapping[str, Any]], cost: str) -> float:
    """The p that fits cost ~ value^p best: the slope of the least-squares line through the logarithms."""
    x = [math.log(row["value"]) for row in rows]
    y = [math.log(row[cost]) for row in rows]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


# ---- cells ----------------------------------------------------------------------------------------------------------


def _of(kind: str, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.name.startswith(kind)]


def _spread(row: Mapping[str, float]) -> str:
    return f"{_number(row['median ms'])} ({_number(row['min ms'])} to {_number(row['max ms'])})"


def _number(value: float | None) -> str:
    """A number with three significant digits, or all digits before the decimal point if those are more."""
    if value is None:
        return ""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _markdown(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows with the same keys as a table, or `UNMEASURED` if there are none."""
    lines = [(list(row), list(row.values())) for row in rows]
    if not lines:
        return UNMEASURED
    header = lines[0][0]
    return "\n".join(
        f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *(values for _, values in lines))
    )


def main() -> None:
    """Rewrites the page."""
    results = read_results(RESULTS)
    write_atomically(PAGE, rendered(PAGE.read_text(), results).encode())
    print(f"{PAGE.name}: {len(TABLES)} tables from {len(results)} files")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
