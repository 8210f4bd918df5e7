"""Pictures of a cell as SVG, PNG or PDF, drawn by matplotlib in our own layout; also its DOT source."""

import functools
import io
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import graphviz

from genotypes.atomic import write_atomically
from genotypes.genotype import CellGenotype, Genotype, GenotypeError, validate
from genotypes.layout import GENEROUS, LEAST_LABEL, Item, Layout, Link, Sizes, compact, fit, place
from genotypes.operations import OPERATIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Form = Literal["svg", "png", "pdf"]
FORMS: tuple[Form, ...] = get_args(Form)
#: Metadata to leave out: without a date, the same cell gives the same file.
_DATES = {"svg": "Date", "pdf": "CreationDate"}
_DOTS_PER_INCH = 200
_DOTS_PER_INCH_IN_PRINT = 300
_MOST_DOTS = 12_000  # per side; bounds the memory for absurdly large cells
#: The first ships with matplotlib, so that pictures look the same everywhere. The next ones, which are no wider,
#: replace it in an SVG on systems where it is not installed.
_FONTS = ("DejaVu Sans", "Verdana", "Arial", "Helvetica")
_SETTINGS = {
    "svg.hashsalt": "optinas",
    "svg.fonttype": "none",  # text that can be searched, copied and edited, as in the PDF
    "pdf.fonttype": 42,  # TrueType, which every publisher takes
    "font.sans-serif": list(_FONTS),
}
_MM = 1 / 25.4  # inches
_LINE_HEIGHT = 1.25  # of a title, in sizes of its letters
_INK = "#222222"
_WIRE = "#555555"
_CONCAT = "#bbbbbb"

# Okabe-Ito colours, which colour-blind readers can tell apart; (prefix of the name, line, fill).
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
    """The cell as DOT source, left to right, one labelled edge per operation.

    Raises GenotypeError if the cell is not valid.
    """
    _check(cell)
    return _digraph(cell, title).source


def draw(cell: CellGenotype, path: str | os.PathLike[str], title: str = "", *, width_mm: float | None = None) -> None:
    """Write a picture of the cell as `.svg`, `.png` or `.pdf`; a reader never sees half a file.

    Raises GenotypeError for another suffix and as `picture` does, OSError if the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix[1:] not in FORMS:
        raise GenotypeError(f"{os.fspath(path)}: cannot draw {suffix or 'no suffix'}; name it .svg, .png or .pdf")
    form = FORMS[FORMS.index(suffix[1:])]
    write_atomically(path, picture(cell, form, title, width_mm=width_mm))


def picture(cell: CellGenotype, form: Form, title: str = "", *, width_mm: float | None = None) -> bytes:
    """A picture of the cell as the bytes of a file of the given form.

    Without a width, it runs from left to right and is as wide as necessary. With `width_mm`, it is exactly that wide,
    with letters of at least 6 points (8 or more if there is room), and may run downwards. With the same version of
    matplotlib, the same arguments give the same bytes, whatever its settings and whatever else is installed.

    Raises GenotypeError if the cell is not valid, or does not fit into the width.
    """
    _check(cell)
    # Imported here: drawing is optional, and matplotlib takes half a second to import.
    from matplotlib import style

    with style.context(["default", _SETTINGS]):
        return _render(cell, title, form, width_mm)


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


def _render(cell: CellGenotype, title: str, form: Form, width_mm: float | None) -> bytes:
    from matplotlib.figure import Figure

    layout = _laid_out(cell, width_mm)
    sizes = layout.sizes
    title_width = math.inf if width_mm is None else width_mm * _MM - 2 * sizes.margin
    lines = _broken(title, sizes.title, title_width) if title else []
    natural = max(layout.width, *(_text_width(line, sizes.title) for line in lines), 0.0) + 2 * sizes.margin
    width = natural if width_mm is None else width_mm * _MM
    line_height = _LINE_HEIGHT * sizes.title / 72
    title_height = len(lines) * line_height + 1.2 * sizes.margin if lines else 0.0
    height = layout.height + title_height + 2 * sizes.margin
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    left = (width - layout.width) / 2
    axes.set_xlim(-left, width - left)
    axes.set_ylim(-sizes.margin, height - sizes.margin)
    _paint(axes, layout)
    for number, line in enumerate(lines):
        y = height - 2 * sizes.margin - (number + 0.5) * line_height
        _write(axes, layout.width / 2, y, line, sizes.title)
    content = io.BytesIO()
    dots = _DOTS_PER_INCH if width_mm is None else _DOTS_PER_INCH_IN_PRINT
    dpi = min(dots, _MOST_DOTS / max(width, height))
    figure.savefig(content, format=form, dpi=dpi, metadata={_DATES[form]: None} if form in _DATES else None)
    return content.getvalue()


def _laid_out(cell: CellGenotype, width_mm: float | None) -> Layout:
    """The layout of the picture. Raises GenotypeError if it does not fit into the width."""
    labels = {edge.operation: OPERATIONS[edge.operation] for node in cell.nodes for edge in node}

    def label_width(size: float) -> float:
        return max(_text_width(label, size) for label in labels.values())

    if width_mm is None:
        return place(cell, labels, label_width(GENEROUS.label) + GENEROUS.padding)
    layout = fit(cell, labels, label_width, width_mm * _MM - 2 * compact(LEAST_LABEL).margin)
    if layout is None:
        raise GenotypeError(
            f"a cell of {len(cell.nodes)} nodes and {sum(map(len, cell.nodes))} edges cannot be drawn {width_mm:g} mm "
            f"wide with letters of {LEAST_LABEL:g} points; choose a larger width"
        )
    return layout


def _broken(text: str, size: float, width: float) -> list[str]:
    """Breaks a text into lines, between words, and within words that are too long."""
    lines = [""]
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)  # as in a path
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if _text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return [line for line in lines if line]


def _paint(axes: "Axes", layout: Layout) -> None:
    from matplotlib.lines import Line2D

    for link in sorted(layout.links, key=lambda link: not link.concat):
        _paint_link(axes, link, layout)
    for layer in layout.layers:
        for item in layer:
            if item.kind == "wire":
                colour = _wire_colour(item.operation, item.concat)
                axes.add_artist(
                    Line2D(
                        *_span(item),
                        color=colour,
                        lw=layout.sizes.line,
                        solid_capstyle="round",
                        snap=False,
                        clip_on=False,
                    )
                )
            else:
                _paint_box(axes, item, layout.sizes)


def _wire_colour(operation: str, concat: bool) -> str:
    return _colours(operation)[0] if operation else _CONCAT if concat else _WIRE


def _span(item: Item) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ends of a wire as (xs, ys); it has a length only in the direction in which the picture runs."""
    x, y = item.width / 2, item.height / 2
    return (item.x - x, item.x + x), (item.y + y, item.y - y)


def _paint_link(axes: "Axes", link: Link, layout: Layout) -> None:
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Curve

    source, target = link.source, link.target
    arrow = layout.sizes.arrow if target.kind == "state" else 0.0
    if layout.downwards:
        # In the coordinates of a picture that runs to the right: along it, and across it.
        start = (-source.y + source.height / 2, source.x)
        end = (-target.y - target.height / 2, target.x)
    else:
        start = (source.x + source.width / 2, source.y)
        end = (target.x - target.width / 2, target.y)
    (x0, y0), (x1, y1) = start, end
    middle = (x0 + x1 - arrow) / 2
    points = [(x0, y0), (middle, y0), (middle, y1), (x1 - arrow, y1)]
    tip = [(x1, y1), (x1 - arrow, y1 + 0.4 * arrow), (x1 - arrow, y1 - 0.4 * arrow)]
    if layout.downwards:
        points, tip = [(y, -x) for x, y in points], [(y, -x) for x, y in tip]
    curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
    colour = _wire_colour(source.operation, link.concat)
    axes.add_artist(PathPatch(curve, fill=False, edgecolor=colour, lw=layout.sizes.line, clip_on=False))
    if arrow:
        axes.add_artist(Polygon(tip, facecolor=_CONCAT if link.concat else _WIRE, lw=0, clip_on=False))


def _paint_box(axes: "Axes", item: Item, sizes: Sizes) -> None:
    from matplotlib.patches import FancyBboxPatch

    line, fill = _colours(item.operation) if item.kind == "operation" else (_INK, "white")
    axes.add_artist(
        FancyBboxPatch(
            (item.x - item.width / 2, item.y - item.height / 2),
            item.width,
            item.height,
            boxstyle=f"round,pad=0,rounding_size={0.05 if item.kind == 'operation' else item.height / 2}",
            facecolor=fill,
            edgecolor=line,
            lw=0.9 * sizes.line,
            clip_on=False,
        )
    )
    state = item.kind == "state"
    _write(axes, item.x, item.y, item.label, sizes.state if state else sizes.label, formula=state)


def _write(axes: "Axes", x: float, y: float, text: str, size: float, formula: bool = False) -> None:
    axes.text(
        x,
        y,
        text,
        size=size,
        family="sans-serif",
        math_fontfamily="dejavusans",
        color=_INK,
        ha="center",
        va="center_baseline",
        parse_math=formula,
        usetex=False,
    )


@functools.lru_cache(maxsize=1024)
def _text_width(text: str, size: float) -> float:
    """The width of a text in inches, set in the first of the fonts."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text.replace("$", r"\$"), size=size, prop=FontProperties(family=_FONTS[0]))
    return float(path.get_extents().width) / 72
