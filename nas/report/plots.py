"""Charts and cells as SVG in a page: in its colours, light or dark, with a text for those who do not see them.

Colours are drawn as numbers and then replaced by CSS variables of the same name, which page.css has other values for
where the page is dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from genotypes import OPERATIONS, CellGenotype
from genotypes.draw import picture
from nas.report.page import Html, element

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
BAND = "#fdf0d5"
#: Okabe and Ito's colours, which colour-blind readers can tell apart, in an order in which neighbours differ in
#: lightness too.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLES = ("-", "--", "-.", ":")
#: Shades of a heat map.
SHADES = 24
_LONGEST = 44  # characters of a name in a chart

#: Inches of a chart; it is scaled to the width of its place.
_WIDE, _HIGH = 4.4, 2.5
_SETTINGS = {
    "svg.hashsalt": "optinas",
    "svg.fonttype": "none",  # text that can be searched, copied, and read aloud
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.2,
}
#: With these two decimals, which are a hundredth of a point, no eye sees a difference.
_LONG_NUMBER = re.compile(r"(\d\.\d\d)\d+")
_COLOUR = re.compile(r"(fill|stroke): #([0-9a-f]{6})")


class Series(NamedTuple):
    """A curve of a chart."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def curves(name: str, title: str, unit: str, series: Sequence[Series]) -> Html:
    """A chart of curves over the epochs.

    Args:
        name: distinguishes it from the other charts of the page.
        title: what it shows, for its text.
        unit: of the vertical axis.
        series: at most six.
    """
    with drawing() as (figure, axes):
        for number, (label, x, y) in enumerate(series):
            colour, style = SERIES[number % len(SERIES)], _STYLES[number % len(_STYLES)]
            # Few points are marked, so that a single one is seen too.
            axes.plot(x, y, style, color=colour, label=label, marker="o" if len(x) < 12 else "")
        axes.set_xlabel("epoch")
        axes.set_ylabel(unit)
        axes.locator_params("x", integer=True)
        counts = [value for one in series for value in one.y]
        if all(value == round(value) for value in counts):
            axes.locator_params("y", integer=True)
            axes.set_ylim(min(0, *counts), max(1, *counts) * 1.05)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=3, borderaxespad=0.1, handlelength=2.4)
        return inline(_rendered(figure), name, f"{title}. {_ends(series)}")


def _ends(series: Sequence[Series]) -> str:
    """The first and the last value of each curve."""
    told = [f"{s.name}: {s.y[0]:.4g} in epoch {s.x[0]:g}, {s.y[-1]:.4g} in epoch {s.x[-1]:g}" for s in series]
    return "; ".join(told)


class Strip(NamedTuple):
    """The values of a row, and what they are compared with."""

    name: str
    values: Sequence[float]
    mean: float
    interval: tuple[float, float] | None
    """Of the mean."""
    baseline: tuple[float, float, float] | None
    """Lower end, mean and upper end of the interval of what the row is compared with."""


def strips(name: str, title: str, unit: str, rows: Sequence[Strip]) -> Html:
    """A row of dots for each of `rows`, with its mean and interval, over the band of what it is compared with."""
    with drawing(wide=10.0, high=0.75 + 0.36 * len(rows)) as (figure, axes):
        for y, row in enumerate(rows):
            if row.baseline is not None:
                low, middle, high = row.baseline
                axes.fill_betweenx((y - 0.4, y + 0.4), low, high, color=BAND, lw=0)
                axes.plot((middle, middle), (y - 0.4, y + 0.4), color=SERIES[4], lw=1.2)
            # Dots of equal values lie beside one another.
            offsets = [0.09 * (i % 5 - 2) for i in range(len(row.values))]
            axes.plot(row.values, [y + offset for offset in offsets], "o", color=SERIES[0], ms=4.4, alpha=0.8, mew=0)
            if row.interval is not None:
                axes.plot(row.interval, (y, y), color=INK, lw=1.4)
            axes.plot((row.mean,), (y,), "D", color=INK, ms=4)
        axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        told = "; ".join(f"{row.name}: mean {row.mean:.2f} of {len(row.values)}" for row in rows)
        return inline(_rendered(figure), name, f"{title}. {told}")


class Point(NamedTuple):
    """A point of a scatter plot."""

    number: int
    """Written beside it."""
    group: str
    x: float
    y: float
    interval: tuple[float, float] | None
    """Of y."""


def scatter(name: str, title: str, units: tuple[str, str], points: Sequence[Point]) -> Html:
    """Points with their numbers, in a colour and shape for each group; x is logarithmic if it spans much."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    groups = list(dict.fromkeys(point.group for point in points))
    with drawing() as (figure, axes):
        for g, group in enumerate(groups):
            own = [point for point in points if point.group == group]
            colour, shape = SERIES[g % len(SERIES)], "osD^vP"[g % 6]
            for point in own:
                if point.interval is not None:
                    axes.plot((point.x, point.x), point.interval, color=colour, lw=1)
                axes.annotate(str(point.number), (point.x, point.y), (4, 3), textcoords="offset points", size=7.5)
            axes.plot([p.x for p in own], [p.y for p in own], shape, color=colour, ms=4.5, label=group)
        xs = [point.x for point in points]
        if min(xs) > 0 and max(xs) > 20 * min(xs):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # without powers of ten, which come as TeX
        axes.set_xlabel(units[0])
        axes.set_ylabel(units[1])
        axes.margins(0.08)
        figure.legend(loc="outside upper left", ncols=4, borderaxespad=0.1, handletextpad=0.2)
        told = "; ".join(f"{point.number}: {point.x:.4g} and {point.y:.4g}" for point in points)
        return inline(_rendered(figure), name, f"{title}, {units[0]} and {units[1]}. {told}")


def _short(name: str) -> str:
    """A name that leaves room for the chart."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def over_time(name: str, title: str, rows: Sequence[str], epochs: Sequence[int], values: Sequence[list[float]]) -> Html:
    """A heat map with a row for each of `rows` and a column for each epoch; `values` has a list for each epoch."""
    with drawing(high=0.8 + 0.17 * len(rows)) as (figure, axes):
        edges = [epoch - 0.5 for epoch in epochs] + [epochs[-1] + 0.5]
        columns = list(map(list, zip(*values, strict=True)))
        mesh = axes.pcolormesh(edges, range(len(rows) + 1), columns, cmap=_viridis(), vmin=0)
        axes.set_yticks([r + 0.5 for r in range(len(rows))], rows)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_xlabel("epoch")
        axes.locator_params("x", integer=True)
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.06)
        bar.outline.set_linewidth(0)
        for solid in bar.ax.collections:
            solid.set_rasterized(False)  # shapes rather than a picture within the picture
        largest = max(range(len(rows)), key=lambda r: columns[r][-1])
        told = f"{title}. Largest in epoch {epochs[-1]}: {rows[largest]} with {columns[largest][-1]:.3g}"
        return inline(_rendered(figure), name, told)


def _viridis() -> Colormap:
    """The shades of all heat maps, which differ in lightness for every eye."""
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(SHADES)


def shades() -> list[tuple[str, str]]:
    """Background and text colour of each shade of a heat map, from the smallest value to the largest."""
    from matplotlib.colors import to_hex

    found, viridis = [], _viridis()
    for shade in range(SHADES):
        colour = viridis(shade)[:3]
        red, green, blue = (((part + 0.055) / 1.055) ** 2.4 for part in colour)
        # Above this luminance black has the larger contrast (WCAG 2.2, relative luminance).
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179
        found.append((to_hex(colour), "#000000" if light else PAPER))
    return found


def cell(genotype: CellGenotype, title: str) -> Html:
    """The picture of a cell. Raises GenotypeError for one that is not valid."""
    return inline(picture(genotype, "svg"), "", f"{title}: {in_words(genotype)}")


def label(operation: str) -> str:
    """What an operation is called in pictures."""
    return OPERATIONS.get(operation, operation)


def in_words(genotype: CellGenotype) -> str:
    """A cell as a sentence for each node."""
    names = ["c_k-2", "c_k-1", *map(str, range(len(genotype.nodes)))]
    nodes = [
        f"node {number} is " + " + ".join(f"{label(edge.operation)} of {names[edge.source]}" for edge in node)
        for number, node in enumerate(genotype.nodes)
    ]
    return "; ".join(nodes)


@contextmanager
def drawing(*, wide: float = _WIDE, high: float = _HIGH) -> Iterator[tuple[Figure, Axes]]:
    """A figure in the page's style, in inches, with axes; it must be rendered within."""
    # Imported here: it takes half a second.
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _SETTINGS]):
        figure = Figure(figsize=(wide, high), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _rendered(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def inline(svg: bytes, name: str, told: str) -> Html:
    """An SVG file of matplotlib as an element of a page.

    Args:
        svg: the file.
        name: put before its identifiers, which must differ from all others in the page.
        told: the text for those who do not see it.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    opening, _, inner = text.partition(">")
    box = re.search(r'viewBox="([^"]*)"', opening)
    assert box is not None
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', inner))

    def tag(found: re.Match[str]) -> str:
        tag = re.sub(r'\s*id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", found[0])
        tag = tag.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
        return _LONG_NUMBER.sub(r"\1", _COLOUR.sub(_variable, tag))

    inner = re.sub(r"<[^>]*>", tag, inner)
    inner = re.sub(r"<defs>\s*</defs>", "", inner)
    inner = re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", inner))
    inner = inner.removesuffix("</svg>").removesuffix("</svg> ")
    width = float(box[1].split()[2])
    return element(
        "svg", Html(inner), viewBox=box[1], width=f"{width:.0f}pt", role="img", aria_label=told, class_="picture"
    )


def _variable(colour: re.Match[str]) -> str:
    return f"{colour[1]}:var(--c-{colour[2]},#{colour[2]})"
