#!/usr/bin/env python
"""Draws the pictures of the documents: `python docs/draw_figures.py` writes them into docs/pictures.

They are the block diagrams of THEORY.md, PERFORMANCE.md's plot of every benchmarks/results/scaling_*.json, and the cell
of the README.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from genotypes import from_text
from genotypes.draw import draw as draw_cell

STATE, LAYER, SUM = "state", "layer", "sum"
FILL = {STATE: "#e8f0fb", LAYER: "#fdf0d9", SUM: "#ffffff"}
LINE = "#333333"

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
#: Of the plots of costs: the figures that are drawn, and colour and line of each engine.
COSTS = {"median ms": "search step, ms", "kernels": "kernels of a pass", "peak MiB": "memory of a pass, MiB"}
ENGINES = {"plain": ("#c0504d", "s--"), "ours": ("#1f5fa8", "o-")}


#: The normal cell that `make demo` finds in Space-HB (seed 0, PyTorch 2.14.1).
DEMO = """
[[('sep_conv_5x5', 1), ('skip_connect', 1), ('neg_skip_connect', 0)],
 [('max_pool_3x3', 2), ('skip_connect', 2), ('neg_skip_connect', 1)],
 [('max_pool_3x3', 3), ('skip_connect', 3), ('neg_skip_connect', 2)],
 [('max_pool_3x3', 4), ('skip_connect', 4), ('neg_skip_connect', 3)]]
"""


@dataclass(frozen=True)
class Node:
    """A state, a layer T, or a sum, at a place of the drawing."""

    kind: str
    x: float
    y: float
    text: str = "+"


@dataclass(frozen=True)
class Edge:
    """What flows where, times which coefficient; `bend` is the arc's height in units of its length."""

    source: str
    target: str
    text: str = ""
    bend: float = 0.0
    at: float = 0.5
    """Where on the arc, from 0 to 1, the text stands."""
    dotted: bool = False


@dataclass(frozen=True)
class Diagram:
    """A figure: its formula as the title, its nodes by name, and its edges."""

    title: str
    nodes: dict[str, Node]
    edges: tuple[Edge, ...]


HEAVY_BALL = Diagram(
    r"(16)  $x_{k+1} = T_k(x_k) + \beta_1 x_k + \beta_2 x_{k-1}$",
    {
        "before": Node(STATE, 0, 0, r"$x_{k-1}$"),
        "x": Node(STATE, 1.8, 0, r"$x_k$"),
        "T": Node(LAYER, 3.4, 0, r"$T_k$"),
        "sum": Node(SUM, 5.0, 0),
        "next": Node(STATE, 6.4, 0, r"$x_{k+1}$"),
    },
    (
        Edge("before", "x", dotted=True),
        Edge("x", "T"),
        Edge("T", "sum"),
        Edge("sum", "next"),
        Edge("x", "sum", r"$\beta_1$", -0.35),
        Edge("before", "sum", r"$\beta_2$", 0.3),
    ),
)

ACCELERATED = Diagram(
    r"(17)  $x_{k+1} = T_k(\beta_1 x_k + \beta_2 x_{k-1})$",
    {
        "before": Node(STATE, 0, 0, r"$x_{k-1}$"),
        "x": Node(STATE, 1.8, 0, r"$x_k$"),
        "sum": Node(SUM, 3.4, 0),
        "T": Node(LAYER, 4.8, 0, r"$T_k$"),
        "next": Node(STATE, 6.4, 0, r"$x_{k+1}$"),
    },
    (
        Edge("before", "x", dotted=True),
        Edge("x", "sum", r"$\beta_1$"),
        Edge("sum", "T"),
        Edge("T", "next"),
        Edge("before", "sum", r"$\beta_2$", 0.35),
    ),
)

ACCELERATED_SUM = Diagram(
    r"(18)  $x_{k+1} = \sum_j \alpha_{k+1,j} T_{k+1,j}(x_j) + \sum_j \beta_{k+1,j} x_j$",
    {
        "x0": Node(STATE, 0, 2.0, r"$x_0$"),
        "x1": Node(STATE, 0, 0.0, r"$x_1$"),
        "xk": Node(STATE, 0, -2.0, r"$x_k$"),
        "T0": Node(LAYER, 1.9, 2.0, r"$T_{k+1,0}$"),
        "T1": Node(LAYER, 1.9, 0.0, r"$T_{k+1,1}$"),
        "Tk": Node(LAYER, 1.9, -2.0, r"$T_{k+1,k}$"),
        "sum": Node(SUM, 5.0, 0),
        "next": Node(STATE, 6.4, 0, r"$x_{k+1}$"),
    },
    (
        Edge("x0", "T0"),
        Edge("x1", "T1"),
        Edge("xk", "Tk"),
        Edge("x0", "x1", dotted=True),
        Edge("x1", "xk", dotted=True),
        Edge("T0", "sum", r"$\alpha_{k+1,0}$", at=0.35),
        Edge("T1", "sum", r"$\alpha_{k+1,1}$", at=0.45),
        Edge("Tk", "sum", r"$\alpha_{k+1,k}$", at=0.35),
        Edge("x0", "sum", r"$\beta_{k+1,0}$", 0.56, 0.66),
        Edge("x1", "sum", r"$\beta_{k+1,1}$", -0.3, 0.5),
        Edge("xk", "sum", r"$\beta_{k+1,k}$", -0.56, 0.66),
        Edge("sum", "next"),
    ),
)

ADMM = Diagram(
    r"(20)  both paths add $\sum_t (\alpha_{k+1,t} x'_t + \beta_{k+1,t} x_t)$ to their layer",
    {
        "before'": Node(STATE, 0, 1.5, r"$x'_{t<k}$"),
        "x'": Node(STATE, 1.8, 1.5, r"$x'_k$"),
        "T'": Node(LAYER, 3.4, 1.5, r"$T'_k$"),
        "sum'": Node(SUM, 5.0, 1.5),
        "next'": Node(STATE, 6.4, 1.5, r"$x'_{k+1}$"),
        "shared": Node(SUM, 3.4, 0),
        "before": Node(STATE, 0, -1.5, r"$x_{t<k}$"),
        "x": Node(STATE, 1.8, -1.5, r"$x_k$"),
        "T": Node(LAYER, 3.4, -1.5, r"$T_k$"),
        "sum": Node(SUM, 5.0, -1.5),
        "next": Node(STATE, 6.4, -1.5, r"$x_{k+1}$"),
    },
    (
        Edge("before'", "x'", dotted=True),
        Edge("x'", "T'"),
        Edge("T'", "sum'"),
        Edge("sum'", "next'"),
        Edge("before", "x", dotted=True),
        Edge("x", "T"),
        Edge("T", "sum"),
        Edge("sum", "next"),
        Edge("before'", "shared", r"$\alpha_{k+1,t}$", at=0.35),
        Edge("x'", "shared", r"$\alpha_{k+1,k}$"),
        Edge("before", "shared", r"$\beta_{k+1,t}$", at=0.35),
        Edge("x", "shared", r"$\beta_{k+1,k}$"),
        Edge("shared", "sum'"),
        Edge("shared", "sum"),
    ),
)

#: File name -> diagram.
DIAGRAMS = {
    "heavy_ball": HEAVY_BALL,
    "accelerated": ACCELERATED,
    "accelerated_sum": ACCELERATED_SUM,
    "admm": ADMM,
}


def shape_of(node: Node) -> Patch:
    """The outline of a node, where arrows end."""
    if node.kind == LAYER:
        box = (node.x - 0.46, node.y - 0.3)
        return FancyBboxPatch(box, 0.92, 0.6, "round,pad=0.02,rounding_size=0.08", fc=FILL[LAYER], ec=LINE, zorder=2)
    return Circle((node.x, node.y), 0.2 if node.kind == SUM else 0.42, fc=FILL[node.kind], ec=LINE, zorder=2)


def draw_edge(axes: Axes, diagram: Diagram, edge: Edge, shapes: dict[str, Patch]) -> None:
    """An arrow between two outlines, with its coefficient on the arc."""
    a, b = diagram.nodes[edge.source], diagram.nodes[edge.target]
    arrow = FancyArrowPatch(
        (a.x, a.y),
        (b.x, b.y),
        connectionstyle=f"arc3,rad={-edge.bend}",
        arrowstyle="-|>",
        mutation_scale=11,
        patchA=shapes[edge.source],
        patchB=shapes[edge.target],
        shrinkA=0,
        shrinkB=0,
        linestyle=":" if edge.dotted else "-",
        color=LINE,
        zorder=1,
    )
    axes.add_patch(arrow)
    if edge.text:
        # arc3 is a quadratic curve whose control point lies `bend` of the length beside the middle.
        t, dx, dy = edge.at, b.x - a.x, b.y - a.y
        control = ((a.x + b.x) / 2 - edge.bend * dy, (a.y + b.y) / 2 + edge.bend * dx)
        x, y = (
            (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
            for start, middle, end in zip((a.x, a.y), control, (b.x, b.y), strict=True)
        )
        axes.text(
            x, y, edge.text, ha="center", va="center", fontsize=11, bbox={"fc": "white", "ec": "none", "pad": 1.0}
        )


def draw(diagram: Diagram, path: Path) -> None:
    """Writes one diagram, as SVG or PNG by the file's name."""
    # Without a salt and a date the same drawing gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "optinas", "mathtext.fontset": "cm"}):
        tall = any(node.y for node in diagram.nodes.values())
        low, high = (-2.9, 3.6) if tall else (-0.9, 1.7)
        figure = Figure(figsize=(7.2, (high - low) * 0.72))
        axes = figure.add_axes((0, 0, 1, 1))
        shapes = {name: shape_of(node) for name, node in diagram.nodes.items()}
        for name, node in diagram.nodes.items():
            axes.add_patch(shapes[name])
            axes.text(node.x, node.y, node.text, ha="center", va="center", fontsize=13, zorder=3)
        for edge in diagram.edges:
            draw_edge(axes, diagram, edge, shapes)
        axes.text(3.2, high - 0.4, diagram.title, ha="center", va="center", fontsize=13)
        axes.set(xlim=(-1.8, 8.2), ylim=(low, high), aspect="equal")
        axes.axis("off")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)


def plot_costs(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes the costs of a result of `benchmarks.scaling`: a row of panels for each cost, a column for each size."""
    sizes = list(dict.fromkeys(row["varied"] for row in rows))
    with matplotlib.rc_context({"svg.hashsalt": "optinas", "font.size": 8}):
        figure = Figure(figsize=(10, 5.6), layout="constrained")
        panels = figure.subplots(len(COSTS), len(sizes), sharex="col", sharey="row")
        for line, (cost, label) in zip(panels, COSTS.items(), strict=True):
            line[0].set_ylabel(label)
            for axes, size in zip(line, sizes, strict=True):
                plot_cost(axes, [row for row in rows if row["varied"] == size], cost)
        for axes, size in zip(panels[-1], sizes, strict=True):
            axes.set_xlabel(size)
        panels[0][0].legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def plot_cost(axes: Axes, rows: list[dict[str, Any]], cost: str) -> None:
    """One panel: a cost of both engines over one size, both logarithmic."""
    for engine, (colour, style) in ENGINES.items():
        points = [(row["value"], row[cost]) for row in rows if row["engine"] == engine]
        axes.loglog(*zip(*points, strict=True), style, color=colour, label=engine, markersize=4, linewidth=1.2)
    axes.set_xticks(sorted({row["value"] for row in rows}))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(True, which="major", linewidth=0.4, alpha=0.6)


def main(folder: Path) -> None:
    """Writes all pictures into a folder."""
    for name, diagram in DIAGRAMS.items():
        draw(diagram, folder / f"{name}.svg")
    text = f"Genotype(normal={DEMO}, normal_concat=range(2, 6), reduce={DEMO}, reduce_concat=range(2, 6))"
    draw_cell(from_text(text).normal, folder / "cell.svg")
    for result in sorted(RESULTS.glob("scaling_*.json")):
        plot_costs(json.loads(result.read_text())["rows"], folder / f"{result.stem}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "pictures")
