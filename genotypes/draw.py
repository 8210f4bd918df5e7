"""Pictures of a cell as SVG, PNG or PDF, drawn by matplotlib in a layout of our own; the cell as DOT source."""

import functools
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import graphviz

from genotypes.files import write_atomically
from genotypes.genotype import CellGenotype, Genotype, GenotypeError, validate
from genotypes.layout import Item, Layout, Link, place
from genotypes.operations import OPERATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Form = Literal["svg", "png", "pdf"]
FORMS: tuple[Form, ...] = get_args(Form)
#: Without a date the same cell gives the same file.
_DATES = {"svg": "Date", "pdf": "CreationDate"}
_DOTS_PER_INCH = 200
_MOST_DOTS = 12_000  # a side; keeps the memory for absurdly large cells bounded
_FONT = "DejaVu Sans"  # comes with matplotlib, so that pictures are alike everywhere
_LABEL_SIZE = 8.5  # points
_STATE_SIZE = 10.0
_TITLE_SIZE = 11.0
_MARGIN = 0.12  # inches
_ARROW = 0.09
_LINE = 1.1  # points
_INK = "#222222"
_WIRE = "#555555"
_CONCAT = "#bbbbbb"

# Okabe-Ito colours, told apart by colour-blind readers too; (name's beginning, line, fill).
_FAMILIES = (
    ("sep_conv", "#0072B2", "#dcecf7"),
    ("dil_conv", "#009E73", "#d9f2ea"),
    ("max_pool", "#B87500", "#fdf0d5"),
    ("avg_pool", "#B87500", "#fdf0d5"),
    ("skip_connect", "#666666", "#eeeeee"),
    ("neg_skip_connect", "#C23B00", "#fbe3d9"),
    ("none", "#aaaaaa", "#ffffff"),
)
_OTHER_FAMILY = ("#A3487B", "#f7e4ee")


def to_dot(cell: CellGenotype, title: str = "") -> str:
    """The cell as DOT source, left to right, one labelled edge an operation.

    Raises GenotypeError if the cell is not valid.
    """
    _check(cell)
    return _digraph(cell, title).source


def draw(cell: CellGenotype, path: str | os.PathLike[str], title: str = "") -> None:
    """Write a picture of the cell as `.svg`, `.png` or `.pdf`; a reader never sees half a file.

    Raises GenotypeError if the cell is not valid or the suffix is another, OSError if the file cannot be
    written.
    """
    suffix = Path(path).suffix.lower()
    if suffix[1:] not in FORMS:
        raise GenotypeError(f"{os.fspath(path)}: cannot draw {suffix or 'no suffix'}; name it .svg, .png or .pdf")
    form = FORMS[FORMS.index(suffix[1:])]
    write_atomically(path, picture(cell, form, title))


def picture(cell: CellGenotype, form: Form, title: str = "") -> bytes:
    """A picture of the cell as the bytes of a file of the given form.

    The same cell and title give the same bytes with the same version of matplotlib, whatever its settings and
    whatever else is installed. Raises GenotypeError if the cell is not valid.
    """
    _check(cell)
    # Here, because drawing is optional and matplotlib takes half a second to import.
    from matplotlib import style

    with style.context(["default", {"svg.hashsalt": "optinas"}]):
        return _render(cell, title, form)


def _check(cell: CellGenotype) -> None:
    validate(Genotype(cell, cell))


def _colours(operation: str) -> tuple[str, str]:
    """Line and fill of the operation's family."""
    for beginning, line, fill in _FAMILIES:
        if operation.startswith(beginning):
            return line, fill
    return _OTHER_FAMILY


def _digraph(cell: CellGenotype, title: str) -> graphviz.Digraph:
    font = {"fontname": "Helvetica", "fontsize": "12"}
    graph = graphviz.Digraph(
        graph_attr={"rankdir": "LR", **font},
        node_attr={"shape": "box", "style": "rounded,filled", "fillcolor": "white", "height": "0.4", **font},
        edge_attr={"arrowsize": "0.7", **font},
    )
    if title:
        graph.attr(label=graphviz.escape(title), labelloc="t")
    output = len(cell.nodes) + 2
    for index in range(output + 1):
        inner = 2 <= index < output
        graph.node(str(index), label=_dot_label(index, output), shape="circle" if inner else "box")
    for target, node in enumerate(cell.nodes, start=2):
        for edge in node:
            line, _ = _colours(edge.operation)
            label = graphviz.escape(f" {OPERATIONS[edge.operation]} ")
            graph.edge(str(edge.source), str(target), label=label, color=line, fontcolor=line)
    for source in cell.concat:
        graph.edge(str(source), str(output), color=_CONCAT)
    return graph


def _dot_label(index: int, output: int) -> str:
    subscript = {0: "k-2", 1: "k-1", output: "k"}.get(index)
    return f"<c<sub>{subscript}</sub>>" if subscript else str(index - 2)


def _render(cell: CellGenotype, title: str, form: Form) -> bytes:
    from matplotlib.figure import Figure

    labels = {edge.operation: OPERATIONS[edge.operation] for node in cell.nodes for edge in node}
    operation_width = max(_text_width(label, _LABEL_SIZE) for label in labels.values()) + 0.16
    layout = place(cell, labels, operation_width)
    title_height = _TITLE_SIZE / 72 + 0.14 if title else 0.0
    width = max(layout.width, _text_width(title, _TITLE_SIZE)) + 2 * _MARGIN
    height = layout.height + title_height + 2 * _MARGIN
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    left = (width - layout.width) / 2
    axes.set_xlim(-left, width - left)
    axes.set_ylim(-_MARGIN, height - _MARGIN)
    _paint(axes, layout)
    if title:
        _write(axes, layout.width / 2, layout.height + title_height / 2, title, _TITLE_SIZE)
    content = io.BytesIO()
    dpi = min(_DOTS_PER_INCH, _MOST_DOTS / max(width, height))
    figure.savefig(content, format=form, dpi=dpi, metadata={_DATES[form]: None} if form in _DATES else None)
    return content.getvalue()


def _paint(axes: "Axes", layout: Layout) -> None:
    for link in sorted(layout.links, key=lambda link: not link.concat):
        _paint_link(axes, link)
    for layer in layout.layers:
        for item in layer:
            if item.kind == "wire":
                axes.plot(*_span(item), color=_CONCAT if item.concat else _WIRE, lw=_LINE, clip_on=False)
            else:
                _paint_box(axes, item)


def _span(item: Item) -> tuple[tuple[float, float], tuple[float, float]]:
    return (item.x - item.width / 2, item.x + item.width / 2), (item.y, item.y)


def _paint_link(axes: "Axes", link: Link) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    colour = _CONCAT if link.concat else _WIRE
    if link.source.kind == "operation":
        colour, _ = _colours(link.source.operation)
    arrow = _ARROW if link.target.kind == "state" else 0.0
    x0, y0 = link.source.x + link.source.width / 2, link.source.y
    x1, y1 = link.target.x - link.target.width / 2 - arrow, link.target.y
    middle = (x0 + x1) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1, y1)]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    axes.add_patch(PathPatch(curve, fill=False, edgecolor=colour, lw=_LINE, clip_on=False))
    if arrow:
        tip = [(x1 + arrow, y1), (x1, y1 + 0.4 * arrow), (x1, y1 - 0.4 * arrow)]
        axes.add_patch(Polygon(tip, facecolor=_CONCAT if link.concat else _WIRE, lw=0, clip_on=False))


def _paint_box(axes: "Axes", item: Item) -> None:
    from matplotlib.patches import FancyBboxPatch

    line, fill = _colours(item.operation) if item.kind == "operation" else (_INK, "white")
    axes.add_patch(
        FancyBboxPatch(
            (item.x - item.width / 2, item.y - item.height / 2),
            item.width,
            item.height,
            boxstyle=f"round,pad=0,rounding_size={0.05 if item.kind == 'operation' else item.height / 2}",
            facecolor=fill,
            edgecolor=line,
            lw=1.0,
            clip_on=False,
        )
    )
    state = item.kind == "state"
    _write(axes, item.x, item.y, item.label, _STATE_SIZE if state else _LABEL_SIZE, formula=state)


def _write(axes: "Axes", x: float, y: float, text: str, size: float, formula: bool = False) -> None:
    axes.text(
        x,
        y,
        text,
        size=size,
        family=_FONT,
        math_fontfamily="dejavusans",
        color=_INK,
        ha="center",
        va="center_baseline",
        parse_math=formula,
        usetex=False,
    )


@functools.lru_cache(maxsize=1024)
def _text_width(text: str, size: float) -> float:
    """Inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", r"\$"), size=size, prop=FontProperties(family=_FONT))
    return float(path.get_extents().width) / 72
