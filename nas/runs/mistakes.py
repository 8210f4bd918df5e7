"""The worst mistakes of a network: the wrong test images with the highest probabilities, as one picture and a table.

Shape letters: C channels, H height, W width.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from genotypes.messages import escaped

#: One picture of all; and its captions, a row an image in the order in which one reads.
SHEET, TABLE = "mistakes.png", "mistakes.csv"
#: So many at most.
MOST = 24
COLUMNS = 6

# Pixels.
_USUAL, _LARGEST = 96, 128
_GAP, _TEXT, _LINE = 12, 11, 14
#: Leaves room for the names of classes below small images.
_NARROWEST = 104

_INK, _WRONG = (34, 34, 34), (176, 74, 0)


class Mistake(NamedTuple):
    """A test image that is taken for another class."""

    image: str
    """Its file, or its number."""
    true: str
    predicted: str
    probability: float
    """Of the predicted class."""


def worst(true: Sequence[int], predicted: Sequence[int], probabilities: Sequence[float]) -> list[int]:
    """The numbers of the images with the most probable wrong predictions; of equal ones the earlier image first."""
    wrong = (i for i, (label, guess) in enumerate(zip(true, predicted, strict=True)) if label != guess)
    return heapq.nsmallest(MOST, wrong, key=lambda i: (-probabilities[i], i))


def tile_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """The size (H, W) at which an image is shown.

    Its longer side is about 96 pixels: a multiple of its own, so that its pixels stay squares. Images of more than 128
    pixels are reduced to that.
    """
    longer = max(image_size)
    factor = _LARGEST / longer if longer > _LARGEST else max(1, round(_USUAL / longer))
    H, W = (max(1, round(side * factor)) for side in image_size)
    return H, W


def tile(pixels_CHW: np.ndarray) -> Image.Image:
    """An image as it is shown, from its pixels in 8 bits: grey, colour, or the first channel of any other number."""
    H, W = tile_size((pixels_CHW.shape[1], pixels_CHW.shape[2]))
    colour = pixels_CHW.shape[0] == 3
    image = Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0) if colour else pixels_CHW[0]))
    enlarged = pixels_CHW.shape[1] <= H
    return image.convert("RGB").resize((W, H), Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX)


def sheet(images: Sequence[np.ndarray], mistakes: Sequence[Mistake]) -> Image.Image:
    """The picture: images (C, H, W) of 8 bits, all of one size, with their captions."""
    size = (images[0].shape[1], images[0].shape[2])
    whole = Image.new("RGB", _sheet_size(len(images), size), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(_TEXT)
    width = _pitch(size)[0] - _GAP
    for number, (box, pixels, mistake) in enumerate(zip(_boxes(len(images), size), images, mistakes, strict=True), 1):
        whole.paste(tile(pixels), box[:2])
        share = f" {mistake.probability:.0%}"
        lines = ((f"{number}. ", mistake.true, "", _INK), ("as ", mistake.predicted, share, _WRONG))
        for i, (before, name, after, colour) in enumerate(lines):
            text = before + _cut(name, font, width - font.getlength(before + after)) + after
            pen.text((box[0], box[3] + 3 + i * _LINE), text, colour, font)
    return whole


def _cut(name: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of a name as fits into a width in pixels."""
    shown = escaped(name)[:100]
    if font.getlength(shown) <= width:
        return shown
    while shown and font.getlength(f"{shown}...") > width:
        shown = shown[:-1]
    return f"{shown}..."


def tiles(path: Path, number: int, image_size: tuple[int, int]) -> list[Image.Image]:
    """The single images of a sheet of `number` images that were (H, W) pixels large.

    Raises ValueError if it is not that of such images, OSError.
    """
    try:
        with Image.open(path, formats=["PNG"]) as whole:
            expected = _sheet_size(number, image_size)
            if whole.size != expected:  # before anything is decoded, so that a small file cannot fill the memory
                raise ValueError(f"it is {whole.size[0]}x{whole.size[1]} pixels large, not {expected[0]}x{expected[1]}")
            shown = whole.convert("RGB")
    except FileNotFoundError:
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise ValueError(f"{path} cannot be read: {error}") from error
    return [shown.crop(box) for box in _boxes(number, image_size)]


def _pitch(image_size: tuple[int, int]) -> tuple[int, int]:
    """From an image to the one beside it, and to the one below, in pixels."""
    H, W = tile_size(image_size)
    return max(W, _NARROWEST) + _GAP, H + 3 + 2 * _LINE + _GAP


def _sheet_size(number: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Width and height."""
    across, down = _pitch(image_size)
    return min(number, COLUMNS) * across + _GAP, -(-number // COLUMNS) * down + _GAP


def _boxes(number: int, image_size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and lower end of each image."""
    (H, W), (across, down) = tile_size(image_size), _pitch(image_size)
    for i in range(number):
        x, y = _GAP + i % COLUMNS * across, _GAP + i // COLUMNS * down
        yield x, y, x + W, y + H
