"""What the last evaluation of a network predicted for each test image, as tables and pictures in a run's directory."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from genotypes.atomic import write_atomically
from genotypes.messages import one_row
from nas.data import ImageData
from nas.data.folder import shown
from nas.engine.meter import Predictions
from nas.runs import confusion, mistakes
from nas.runs.mistakes import Mistake

#: One row an image; one a class; one for each true and predicted class that occur together.
IMAGES, CLASSES, CONFUSION = TABLES = ("predictions.csv", "classes.csv", "confusion.csv")
_OF_IMAGES = ("image", "class", "predicted", "probability")
#: What is always written; the sheet of mistakes is not where there are none.
NAMES = (*TABLES, confusion.NAME, mistakes.TABLE)

#: Within it, a failure to write the file of a name is told and costs no other file.
Auxiliary = Callable[[str], AbstractContextManager[None]]


def complete(directory: Path) -> bool:
    """Whether the tables and pictures are there."""
    return all((directory / name).is_file() for name in NAMES)


def write(directory: Path, predictions: Predictions, images: ImageData, auxiliary: Auxiliary) -> None:
    """Writes the tables of all test images, the picture of the confusions, and the worst mistakes."""
    predicted, probabilities = predictions.read()
    true = images.test_labels.tolist()
    classes = [one_row(name) for name in images.classes]
    # Without a part of its own for testing, the name of that part is empty.
    files = images.test_names
    names = range(len(true)) if files is None else [one_row(shown(name)).lstrip("/") for name in files]
    rows = [
        Mistake(str(name), classes[label], classes[guess], probability)
        for name, label, guess, probability in zip(names, true, predicted, probabilities, strict=True)
    ]
    with auxiliary(IMAGES):
        _write(directory, IMAGES, _OF_IMAGES, rows)
    pairs = Counter(zip(true, predicted, strict=True))
    counts = Counter(true)
    with auxiliary(CLASSES):
        _write(
            directory,
            CLASSES,
            ("class", "images", "correct", "accuracy"),
            (
                (name, counts[label], pairs[label, label], _percent(pairs[label, label], counts[label]))
                for label, name in enumerate(classes)
            ),
        )
    with auxiliary(CONFUSION):
        _write(
            directory,
            CONFUSION,
            ("class", "predicted", "images"),
            ((classes[label], classes[guess], count) for (label, guess), count in sorted(pairs.items())),
        )
    with auxiliary(confusion.NAME):
        write_atomically(directory / confusion.NAME, confusion.svg(classes, pairs))
    with auxiliary(mistakes.SHEET):
        _write_mistakes(directory, mistakes.worst(true, predicted, probabilities), rows, images)


def _write_mistakes(directory: Path, chosen: Sequence[int], rows: Sequence[Mistake], images: ImageData) -> None:
    """The worst mistakes. Where their table is, the picture beside it is that of its rows: it is written last."""
    sheet, table = directory / mistakes.SHEET, directory / mistakes.TABLE
    table.unlink(missing_ok=True)
    if chosen:
        drawn = mistakes.sheet([images.test_image(i).numpy() for i in chosen], [rows[i] for i in chosen])
        content = io.BytesIO()
        drawn.save(content, "PNG")
        write_atomically(sheet, content.getvalue())
    else:
        sheet.unlink(missing_ok=True)
    _write(directory, mistakes.TABLE, _OF_IMAGES, [rows[i] for i in chosen])


def _percent(correct: int, images: int) -> float | None:
    """None, an empty cell, for a class without test images."""
    return 100 * correct / images if images else None


def _write(directory: Path, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(directory / name, text.getvalue().encode())
