"""Which classes are taken for which, as a picture: a matrix with a row for each class and a column for each prediction.

SVG written by hand: matplotlib would cost every training half a second. It has no style sheet, only `style` attributes
with `fill: #rrggbb` and `stroke: #rrggbb`, so that a page can replace its colours.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from genotypes.messages import escaped

NAME = "confusion.svg"

#: Images by the numbers of their class and of the predicted one; pairs without images may be missing.
Pairs = Mapping[tuple[int, int], int]

#: With more classes than this the matrix has no names and numbers, and the largest confusions are listed beside it.
NAMED = 30
#: With more than this only the classes with the largest confusions are shown, so many of them.
WHOLE, CHOSEN = 100, 20
_LISTED = 14
_LONGEST = 22  # characters of a name

_INK, _FAINT, _PAPER = "#222222", "#dddddd", "#ffffff"
#: Of Okabe and Ito's colours the two that differ most for every eye.
_RIGHT, _WRONG = "#0072b2", "#d55e00"
#: The darkest shade below a number. With it the contrast is at least 4.5 on white paper, and on black with light ink.
_DARKEST = 0.5
#: Shades of a matrix without numbers; cells of one shade are one path.
_SHADES = 12

# Points.
_MARGIN, _TEXT, _NUMBER, _LINE = 8.0, 8.0, 7.5, 13.0
_DENSE = 400.0


class Confusion(NamedTuple):
    """Images of a class that are taken for another."""

    images: int
    of: int
    """All images of the class."""
    true: int
    predicted: int


def largest(pairs: Pairs) -> list[Confusion]:
    """All confusions, the largest first; of equal ones in the order of the classes."""
    of = _by_class(pairs)
    found = [Confusion(n, of[true], true, guess) for (true, guess), n in pairs.items() if n and true != guess]
    return sorted(found, key=lambda one: (-one.images, one.true, one.predicted))


def in_words(classes: Sequence[str], pairs: Pairs, most: int) -> list[str]:
    """The largest confusions as text, a line each."""
    return [
        f"{_short(classes[one.true])} taken for {_short(classes[one.predicted])}: {one.images:,} of {one.of:,}"
        for one in largest(pairs)[:most]
    ]


def svg(classes: Sequence[str], pairs: Pairs) -> bytes:
    """The picture as the content of a file; the same arguments give the same bytes.

    A cell is blue where class and prediction are the same and orange elsewhere; its shade is the square root of its
    share in the images of its class, so that small shares can be told apart.
    """
    rows = _shown(len(classes), pairs)
    right, total = sum(n for (a, b), n in pairs.items() if a == b), sum(pairs.values())
    head = [f"{right:,} of {total:,} test images are classified correctly"]
    if len(rows) < len(classes):
        head.append(f"The {len(rows)} classes with the largest confusions, of {len(classes):,}")
    names = [_short(classes[row]) for row in rows]
    draw = _named if len(rows) <= NAMED else _dense
    top = _MARGIN + len(head) * _LINE
    drawn, width, height = draw(names, rows, pairs, top)
    drawn += [_text(_MARGIN, _MARGIN + i * _LINE + 8, line) for i, line in enumerate(head)]
    legend, legend_width = _legend(height + 4)
    width = max(width, legend_width, *(_MARGIN + _width(line) for line in head)) + _MARGIN
    return _file(width, height + 2 * _LINE + _MARGIN, [*drawn, *legend])


def _by_class(pairs: Pairs) -> dict[int, int]:
    """The images of each class."""
    of: dict[int, int] = {}
    for (true, _), images in pairs.items():
        of[true] = of.get(true, 0) + images
    return of


def _shown(classes: int, pairs: Pairs) -> list[int]:
    """The classes of the matrix, in their order."""
    if classes <= WHOLE:
        return list(range(classes))
    chosen: dict[int, None] = {}
    for one in largest(pairs):
        chosen |= dict.fromkeys((one.true, one.predicted))
        if len(chosen) >= CHOSEN:
            break
    # Where there are fewer confusions, others fill the places.
    return sorted([*chosen, *(c for c in range(classes) if c not in chosen)][:CHOSEN])


def _named(names: Sequence[str], rows: Sequence[int], pairs: Pairs, top: float) -> tuple[list[str], float, float]:
    """A matrix with names and numbers below `top`; its elements, and where they end to the right and below."""
    of, n = _by_class(pairs), len(rows)
    digits = max((len(str(images)) for images in pairs.values()), default=1)
    cell = max(min(36.0, 240 / n), 18, 0.66 * _NUMBER * digits + 5)
    widths = [_width(name) for name in names]
    slanted = max(widths) > cell - 4
    left = _MARGIN + _LINE + max(widths) + 5
    above = math.sqrt(0.5) * max(widths) + 9 if slanted else _LINE
    top += _LINE + above
    drawn = _axes(left, top, n * cell, top - above - 3)
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell
        drawn.append(_text(left - 5, top + middle + 3, name, "end"))
        turned = f"rotate(-45 {left + middle:.2f} {top - 5:.2f})" if slanted else None
        drawn.append(_text(left + middle, top - 5, name, "start" if slanted else "middle", transform=turned))
    for r, true in enumerate(rows):
        for c, guess in enumerate(rows):
            if images := pairs.get((true, guess), 0):
                x, y = left + c * cell, top + r * cell
                shade, colour = _DARKEST * math.sqrt(images / of[true]), _RIGHT if true == guess else _WRONG
                drawn.append(_square(x, y, cell, colour, shade))
                drawn.append(_text(x + cell / 2, y + cell / 2 + 2.7, str(images), "middle", size=_NUMBER))
    drawn.append(_grid(left, top, cell, n))
    reach = [(i + 0.5) * cell + math.sqrt(0.5) * (w + _TEXT) for i, w in enumerate(widths)] if slanted else [0.0]
    return drawn, left + max(n * cell, *reach), top + n * cell


def _dense(names: Sequence[str], rows: Sequence[int], pairs: Pairs, top: float) -> tuple[list[str], float, float]:
    """As `_named`, without names and numbers, but with a list of the largest confusions, which are framed."""
    of, n = _by_class(pairs), len(rows)
    cell, left, top = _DENSE / n, _MARGIN + _LINE, top + _LINE + 3
    shapes: dict[tuple[str, int], list[str]] = {}
    for (true, guess), images in sorted(pairs.items()):
        if images:
            shade = math.ceil(_SHADES * math.sqrt(images / of[true]))
            corner = f"M{left + guess * cell:.2f} {top + true * cell:.2f}"
            colour = _RIGHT if true == guess else _WRONG
            shapes.setdefault((colour, shade), []).append(f"{corner}h{cell:.2f}v{cell:.2f}h-{cell:.2f}z")
    drawn = _axes(left, top, _DENSE, top - 5)
    drawn += [
        f'<path d="{"".join(corners)}" fill-opacity="{shade / _SHADES:.3f}" style="fill: {colour}"/>'
        for (colour, shade), corners in sorted(shapes.items())
    ]
    for one in largest(pairs)[:_LISTED]:
        x, y, side = left + one.predicted * cell - 1, top + one.true * cell - 1, cell + 2
        drawn.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}" fill="none" style="stroke: {_INK}"/>'
        )
    drawn.append(_grid(left, top, _DENSE, 1))
    lines = in_words(names, pairs, _LISTED)
    lines = ["In frames, the largest confusions:", *lines] if lines else []
    beside = left + _DENSE + 14
    drawn += [_text(beside, top + 8 + i * _LINE, line) for i, line in enumerate(lines)]
    return drawn, max([left + _DENSE, *(beside + _width(line) for line in lines)]), top + _DENSE


def _axes(left: float, top: float, side: float, above: float) -> list[str]:
    """What rows and columns are: the former beside the matrix, the latter above it, at the height `above`."""
    x, y = _MARGIN + 8, top + side / 2
    turned = f"rotate(-90 {x:.2f} {y:.2f})"
    return [
        _text(x, y, "true class", "middle", transform=turned, weight="bold"),
        _text(left, above, "predicted class", weight="bold"),
    ]


def _legend(top: float) -> tuple[list[str], float]:
    """What colours and shades mean, below the matrix, and where that ends to the right."""
    drawn, x = [], _MARGIN
    shades = "the stronger the colour, the larger the share of its row"
    for colour, text in ((_RIGHT, "right"), (_WRONG, "wrong"), (None, shades)):
        if colour is not None:
            drawn.append(_square(x, top + 6, 9, colour, _DARKEST))
            x += 13
        drawn.append(_text(x, top + 13.5, text))
        x += _width(text) + 12
    return drawn, x


def _grid(left: float, top: float, cell: float, cells: int) -> str:
    side = cell * cells
    ends = [i * cell for i in range(cells + 1)]
    lines = [f"M{left:.2f} {top + end:.2f}h{side:.2f}M{left + end:.2f} {top:.2f}v{side:.2f}" for end in ends]
    return f'<path d="{"".join(lines)}" fill="none" stroke-width="0.6" style="stroke: {_FAINT}"/>'


def _square(x: float, y: float, side: float, colour: str, opacity: float) -> str:
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}" fill-opacity="{opacity:.3f}" '
        f'style="fill: {colour}"/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    *,
    size: float = _TEXT,
    weight: str | None = None,
    transform: str | None = None,
) -> str:
    more = "".join(f' {k}="{v}"' for k, v in (("font-weight", weight), ("transform", transform)) if v is not None)
    return (
        f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" text-anchor="{anchor}"{more} style="fill: {_INK}">'
        f"{html.escape(text)}</text>"
    )


def _short(name: str) -> str:
    """A name that is readable in a picture, and leaves room for the rest."""
    name = escaped(name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def _width(text: str) -> float:
    """About the width of a text, in points: letters of DejaVu Sans, the widest font of the list, are 0.6 sizes wide."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return _TEXT * (0.62 * (len(text) - wide) + wide)


def _file(width: float, height: float, elements: Iterable[str]) -> bytes:
    size = f'width="{width:.0f}pt" height="{height:.0f}pt" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n'
        f'<rect width="100%" height="100%" style="fill: {_PAPER}"/>\n'
        '<g font-family="DejaVu Sans, Verdana, Arial, Helvetica, sans-serif">\n'
        + "\n".join(elements)
        + "\n</g>\n</svg>\n"
    ).encode()
