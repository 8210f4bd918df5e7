"""What the last evaluation of a network predicted for each test image, as tables in a run's directory."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from genotypes.atomic import write_atomically
from genotypes.messages import one_row
from nas.data import ImageData
from nas.data.folder import shown
from nas.engine.meter import Predictions

#: One row an image; one a class; one for each true and predicted class that occur together.
IMAGES, CLASSES, CONFUSION = NAMES = ("predictions.csv", "classes.csv", "confusion.csv")


def complete(directory: Path) -> bool:
    """Whether the tables are there."""
    return all((directory / name).is_file() for name in NAMES)


def write(directory: Path, predictions: Predictions, images: ImageData) -> None:
    """Writes the tables of all test images. Raises OSError."""
    predicted, probabilities = predictions.read()
    true = images.test_labels.tolist()
    classes = [one_row(name) for name in images.classes]
    # Without a part of its own for testing, the name of that part is empty.
    files = images.test_names
    names = range(len(true)) if files is None else [one_row(shown(name)).lstrip("/") for name in files]
    _write(
        directory,
        IMAGES,
        ("image", "class", "predicted", "probability"),
        (
            (name, classes[label], classes[guess], probability)
            for name, label, guess, probability in zip(names, true, predicted, probabilities, strict=True)
        ),
    )
    pairs = Counter(zip(true, predicted, strict=True))
    counts = Counter(true)
    _write(
        directory,
        CLASSES,
        ("class", "images", "correct", "accuracy"),
        (
            (name, counts[label], pairs[label, label], _percent(pairs[label, label], counts[label]))
            for label, name in enumerate(classes)
        ),
    )
    _write(
        directory,
        CONFUSION,
        ("class", "predicted", "images"),
        ((classes[label], classes[guess], count) for (label, guess), count in sorted(pairs.items())),
    )


def _percent(correct: int, images: int) -> float | None:
    """None, an empty cell, for a class without test images."""
    return 100 * correct / images if images else None


def _write(directory: Path, name: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(directory / name, text.getvalue().encode())
