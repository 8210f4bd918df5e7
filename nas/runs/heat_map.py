"""A matrix as a picture: shades, the numbers in them, and a name for each row and column."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels.
_TEXT = 13
_ROW = 24
_PAD = 10
_LINE = 1

_INK = (34, 34, 34)
# From white through the blue of Okabe and Ito to a darker one: enough contrast, also for colour-blind readers.
_SHADES = np.array([[255, 255, 255], [0, 114, 178], [0, 46, 92]])


def heat_map(values_RC: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> np.ndarray:
    """The picture (H, W, 3) of a matrix of weights between 0 and 1, in 8 bits a channel.

    A shade is the square root of the weight, so that small weights can be told apart too, and means the same weight in
    every picture, so that pictures of several epochs can be compared.
    """
    # With Pillow: a search draws some of these every epoch, and matplotlib takes ten times as long.
    font = _font()
    shades_RC = np.sqrt(np.clip(values_RC, 0, 1))
    colours_RC3 = np.stack([np.interp(shades_RC, (0, 0.6, 1), shade) for shade in _SHADES.T], axis=-1).astype(int)
    left = 2 * _PAD + _width(rows)
    cell = max(_width(columns), _width(["0.00"])) + 2 * _PAD
    top = 2 * _ROW + _PAD // 2
    size = (max(left + cell * len(columns), _width([title]) + _PAD) + _PAD, top + _ROW * len(rows) + _PAD)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.text((_PAD, _PAD // 2 + _ROW / 2), title, _INK, font, anchor="lm")
    for c, column in enumerate(columns):
        pen.text((left + cell * (c + 0.5), top - _ROW / 2), column, _INK, font, anchor="mm")
    for r, row in enumerate(rows):
        y = top + _ROW * r
        pen.text((left - _PAD, y + _ROW / 2), row, _INK, font, anchor="rm")
        for c in range(len(columns)):
            x = left + cell * c
            pen.rectangle((x, y, x + cell - 1 - _LINE, y + _ROW - 1 - _LINE), tuple(colours_RC3[r, c].tolist()))
            # Dark text is not legible on the darker half of the shades.
            ink = "white" if shades_RC[r, c] > 0.5 else _INK
            pen.text((x + cell / 2, y + _ROW / 2), f"{values_RC[r, c]:.2f}", ink, font, anchor="mm")
    return np.asarray(image)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib  # here, because it takes half a second; for its font, which is also that of the cells' pictures

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), _TEXT)


def _width(texts: Sequence[str]) -> int:
    """The width of the longest of some texts, in pixels."""
    return max(int(_font().getlength(text)) + 1 for text in texts)
