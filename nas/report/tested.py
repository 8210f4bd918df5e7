"""What a trained network takes for what: the accuracy of each class, the confusions, and the worst mistakes.

It is read from the tables and pictures that `nas.runs.predictions` leaves in a run's directory.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from PIL import Image

from genotypes.messages import reason_of
from nas.report import page, plots
from nas.report.files import read_or_none, read_table
from nas.report.page import Html, element
from nas.runs import confusion, mistakes, predictions
from nas.runs.record import TrainRecord

T = TypeVar("T")

#: With more classes than this the table is shown on a click.
_OPEN = 20
#: So many classes are in it, of more the least accurate.
_MOST = 100
#: Confusions in the text of the picture.
_TOLD = 8
#: Counts that a table may hold; larger ones would overflow a float.
_Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class OfClass(msgspec.Struct, frozen=True):
    """A row of classes.csv: the test images of a class."""

    name: str = msgspec.field(name="class")
    images: _Count
    correct: _Count


class _Pair(msgspec.Struct, frozen=True):
    """A row of confusion.csv."""

    true: str = msgspec.field(name="class")
    predicted: str
    images: _Count


class OfImage(msgspec.Struct, frozen=True):
    """A row of mistakes.csv."""

    image: str
    true: str = msgspec.field(name="class")
    predicted: str
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What there is of the predictions for the test images; parts that are missing or damaged are empty."""

    classes: Sequence[OfClass] = ()
    pairs: confusion.Pairs | None = None
    mistakes: Sequence[OfImage] | None = None
    tiles: Sequence[Image.Image] = ()
    """The pictures of the mistakes, in their order."""
    channels: int = 3
    """Of the images that the network sees."""
    faults: tuple[str, ...] = ()


def read(directory: Path, image_size: tuple[int, int] | None, channels: int) -> Tested:
    """Reads the tables and the pictures of a training, whose network sees images of (H, W) pixels."""
    if not (directory / predictions.CLASSES).exists():
        return Tested()
    faults: list[str] = []
    classes = read_or_none(lambda: _table(directory / predictions.CLASSES, OfClass), faults) or ()
    pairs = read_or_none(lambda: _pairs(directory / predictions.CONFUSION, classes), faults) if classes else None
    found = None
    if (directory / mistakes.TABLE).exists():  # earlier runs have none
        found = read_or_none(lambda: _table(directory / mistakes.TABLE, OfImage)[: mistakes.MOST], faults)
    tiles: Sequence[Image.Image] = ()
    if found and image_size:
        number, size = len(found), image_size
        tiles = read_or_none(lambda: mistakes.tiles(directory / mistakes.SHEET, number, size), faults) or ()
    return Tested(classes=classes, pairs=pairs, mistakes=found, tiles=tiles, channels=channels, faults=tuple(faults))


def section(found: Tested, training: TrainRecord | None) -> Html:
    """The part of the page; nothing where nothing is known.

    Args:
        found: what the last evaluation left.
        training: with the result that the page shows, if the training has ended.
    """
    return page.section(
        "Test images", _of_others(found, training), _accuracies(found), _confusions(found), _worst(found)
    )


# --- reading --------------------------------------------------------------------------------------------------


def _table(path: Path, row: type[T]) -> list[T]:
    """The rows of a table. Raises ValueError for what is not such a table, OSError."""
    try:
        return msgspec.convert(read_table(path), list[row], strict=False)  # type: ignore[valid-type]
    except msgspec.ValidationError as error:
        raise ValueError(f"{path} cannot be read: {reason_of(error)}") from error


def _pairs(path: Path, classes: Sequence[OfClass]) -> dict[tuple[int, int], int]:
    numbers = {one.name: number for number, one in enumerate(classes)}
    try:
        return {(numbers[one.true], numbers[one.predicted]): one.images for one in _table(path, _Pair)}
    except KeyError as error:
        raise ValueError(f"{path} cannot be read: {predictions.CLASSES} does not have the class {error}") from error


# --- showing --------------------------------------------------------------------------------------------------


def _of_others(found: Tested, training: TrainRecord | None) -> Html | None:
    """That the tables are not those of the training's result, where `--evaluate` has written others since."""
    images = sum(one.images for one in found.classes)
    if training is None or not images:
        return None
    accuracy = 100 * sum(one.correct for one in found.classes) / images
    # One image more or less is a larger difference.
    if images == training.data.test.images and abs(accuracy - training.result.test_accuracy) < 1e-6:
        return None
    text = (
        f"What follows is of a later evaluation (--evaluate), of {images:,} images, {accuracy:.2f}\N{NO-BREAK SPACE}% "
        "of them right. The result above is that of the training."
    )
    return element("p", text)


def _accuracies(found: Tested) -> Html | None:
    """A table with a row for each class, and what it is most often taken for."""
    if not found.classes:
        return None
    most: dict[int, str] = {}
    for one in confusion.largest(found.pairs or {}):
        most.setdefault(one.true, f"{found.classes[one.predicted].name} ({one.images:,})")
    numbers = list(range(len(found.classes)))
    if len(numbers) > _MOST:
        numbers = sorted(numbers, key=lambda i: (_share(found.classes[i]), i))[:_MOST]
    rows = [
        (one.name, one.images, one.correct, f"{100 * _share(one):.1f}" if one.images else "-", most.get(i, "-"))
        for i, one in ((i, found.classes[i]) for i in numbers)
    ]
    caption = "Accuracy of each class"
    if len(numbers) < len(found.classes):
        caption = f"The {_MOST} least accurate of {len(found.classes):,} classes; {predictions.CLASSES} has them all"
    columns = ("class", "images", "right", "accuracy %", "most often taken for")
    table = page.table(caption, columns, rows, right=(1, 2, 3))
    return table if len(rows) <= _OPEN else page.folded(f"Accuracy of {len(rows)} classes", table)


def _share(one: OfClass) -> float:
    """Of right images in those of a class; classes without images count as right."""
    return one.correct / one.images if one.images else 1.0


def _confusions(found: Tested) -> Html | None:
    if not found.pairs:
        return None
    names = [one.name for one in found.classes]
    told = ["Which classes are taken for which", *confusion.in_words(names, found.pairs, _TOLD)]
    picture = plots.inline(confusion.svg(names, found.pairs), "confusion", ". ".join(told))
    return page.figure(page.scrolled(picture), "Which classes are taken for which", class_="confusion")


def _worst(found: Tested) -> Html | None:
    """The wrong images with the highest probabilities."""
    if found.mistakes is None:
        return None
    title = element("h3", "Worst mistakes")
    if not found.mistakes:
        return page.join([title, element("p", "No test image is classified wrongly.")])
    text = "The wrong test images of which the network is most certain, as it sees them, the most certain first."
    if found.channels not in (1, 3):
        text += f" Of their {found.channels} channels the first is shown."
    tiles: Sequence[Image.Image | None] = found.tiles or [None] * len(found.mistakes)
    shown = [
        element("li", element("figure", _picture(tile, one), element("figcaption", *_caption(one))))
        for tile, one in zip(tiles, found.mistakes, strict=True)
    ]
    return page.join([title, element("p", text), element("ol", *shown, class_="mistakes", role="list")])


def _picture(tile: Image.Image | None, one: OfImage) -> Html | None:
    if tile is None:
        return None
    content = io.BytesIO()
    tile.save(content, "PNG")
    address = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
    # The caption says the rest.
    return element("img", src=address, alt=f"Test image {one.image}", width=tile.width, height=tile.height)


def _caption(one: OfImage) -> list[Html]:
    return [
        element("strong", one.true),
        element("span", f"taken for {one.predicted}, {100 * one.probability:.1f}\N{NO-BREAK SPACE}%"),
        element("code", one.image),
    ]
