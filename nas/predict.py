"""The classes of images, by a trained network: `optinas-predict RUN_OR_WEIGHTS IMAGES_OR_FOLDERS...`."""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from tqdm import tqdm

import spaces
from genotypes.atomic import write_atomically
from genotypes.config import Config, Count, IsPath, NoneMeans
from genotypes.messages import escaped, one_line, one_row
from nas import cli, screen
from nas.data import DataError, View
from nas.data.folder import find_images, shown
from nas.engine.device import resolve_device
from nas.errors import UsageError, users_mistakes
from nas.networks import weights
from nas.networks.weights import Prediction, TrainedNetwork

#: Files that are read before the first of them goes on, which bounds the memory of decoded images.
_READ_AHEAD = 64


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Predict the classes of images with a trained network, which sees them as it saw its test images."""

    network: Annotated[str, IsPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_WEIGHTS")]
    """Directory of a training run, or a weights.safetensors."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES_OR_FOLDERS...")]
    """Image files, and folders, of which all images are taken, those of folders in them included."""
    top: Count = 3
    """How many classes to name for each image, the most probable first."""
    csv: Annotated[str | None, IsPath, NoneMeans("print them")] = None
    """Write the predictions to this file, one row a class, instead of printing them."""
    json: bool = False
    """Print the predictions as one JSON object instead of lines."""
    batch_size: Count = 64
    """Images that the network takes at once."""
    device: str = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the network has."""


class Predicted(NamedTuple):
    """An image file, and its most probable classes with their probabilities."""

    path: str
    top: list[tuple[str, float]]


def load(config: PredictConfig) -> TrainedNetwork:
    """The network, on its device. Raises UsageError where it cannot be had, or does not take image files."""
    with users_mistakes():
        device = resolve_device(config.device)
        spaces.import_modules(config.operations_from)
        trained = weights.load(config.network)
    if trained.in_channels not in (1, 3):
        raise UsageError(
            f"{config.network} was trained on images of {trained.in_channels} channels, which image files do not have; "
            "name a network for 1 or 3"
        )
    trained.network.to(device)
    return trained


def find(names: Sequence[str]) -> list[str]:
    """The files that are named, and the image files of the folders that are named, each once.

    Raises UsageError where there are none, or a folder cannot be read.
    """
    if not names:
        raise UsageError("no images are named; name image files or folders of them")
    files, left_out = [], []
    for name in names:
        if os.path.isdir(name):
            with users_mistakes():
                found, reasons = find_images(name)
            files += found
            left_out += reasons
        else:
            files.append(name)
    if not files:
        told = f" ({'; '.join(left_out)})" if left_out else ""
        raise UsageError(f"there are no images in {shown(', '.join(names))}{told}; name files or other folders")
    return list(dict.fromkeys(files))


def predict(
    trained: TrainedNetwork, files: Sequence[str], *, batch_size: int
) -> Iterator[tuple[str, Prediction | DataError]]:
    """Each file with what the network predicts, or with the error for which it is left out.

    A batch is filled with files that can be read, so that the predictions are those of `TrainedNetwork.predict` for
    these files, to the last bit.
    """
    batch: dict[str, np.ndarray] = {}
    for number, (path, pixels) in enumerate(_read(trained.view, files), start=1):
        if isinstance(pixels, DataError):
            yield path, pixels
        else:
            batch[path] = pixels
        if batch and (len(batch) == batch_size or number == len(files)):
            for name, prediction in zip(batch, trained.classify(list(batch.values())), strict=True):
                # Weights from a stranger are finite, but may be so large that what they compute is not.
                finite = all(map(math.isfinite, prediction.probabilities))
                yield name, prediction if finite else DataError(f"the network's outputs for {name} are not finite")
            batch = {}


def _read(view: View, files: Sequence[str]) -> Iterator[tuple[str, np.ndarray | DataError]]:
    """Each file with its pixels (C, H, W) uint8, decoded in threads; a progress bar on a terminal."""

    def read(path: str) -> np.ndarray | DataError:
        try:
            return view.read(path)
        except DataError as error:
            return error

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        # disable=None shows the bar only on a terminal
        tqdm(total=len(files), desc="predicting", leave=False, disable=screen.silent() or None) as bar,
    ):
        for first in range(0, len(files), _READ_AHEAD):
            ahead = files[first : first + _READ_AHEAD]
            for path, pixels in zip(ahead, pool.map(read, ahead), strict=True):
                yield path, pixels
                bar.update()


def as_line(predicted: Predicted) -> str:
    """What a user wants to see of an image, on one line."""
    classes = ", ".join(f"{escaped(name)} {100 * probability:.1f} %" for name, probability in predicted.top)
    return f"{escaped(shown(predicted.path))}: {classes}"


def as_csv(predictions: Sequence[Predicted]) -> bytes:
    """The predictions with a row for each class of an image; no name spans two lines."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "rank", "class", "probability"])
    for path, top in predictions:
        for rank, (name, probability) in enumerate(top, start=1):
            writer.writerow([one_row(shown(path)), rank, one_row(name), probability])
    return text.getvalue().encode("utf-8", "backslashreplace")


def as_json(predictions: Sequence[Predicted], unreadable: Sequence[str]) -> dict[str, Any]:
    """The predictions, and the paths of files without one."""
    rows = [
        {"path": shown(path), "top": [{"class": name, "probability": probability} for name, probability in top]}
        for path, top in predictions
    ]
    return {"predictions": rows, "unreadable": [shown(path) for path in unreadable]}


def command(argv: list[str]) -> None:
    """Parses, predicts, and prints or writes the predictions.

    Raises SystemExit, after all else is done, where files could not be read.
    """
    config = cli.parse(PredictConfig, argv, description=__doc__ or "")
    if config.csv is not None:
        cli.check_folder(config.csv, "--csv")
    predictions, unreadable = _predicted(config, load(config), find(config.images))
    if config.csv is not None:
        _write(config.csv, as_csv(predictions))
    if config.json:
        print(json.dumps(as_json(predictions, unreadable)), flush=True)
    if unreadable:
        raise SystemExit(1)


def _predicted(
    config: PredictConfig, trained: TrainedNetwork, files: Sequence[str]
) -> tuple[list[Predicted], list[str]]:
    """The predictions that are not printed yet, and the files that could not be read, which are named."""
    predictions: list[Predicted] = []
    unreadable: list[str] = []
    for path, outcome in predict(trained, files, batch_size=config.batch_size):
        if isinstance(outcome, DataError):
            unreadable.append(path)
            told = str(outcome).replace(path, escaped(shown(path)))
            tqdm.write(f"left out: {one_line(told)}", file=sys.stderr)
            continue
        predicted = Predicted(path, outcome.top(config.top))
        if config.csv is None and not config.json:
            screen.say(as_line(predicted))
        else:
            predictions.append(predicted)
    return predictions, unreadable


def _write(path: str, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another --csv") from error


def main() -> None:
    """The console command `optinas-predict`."""
    cli.run(command)


if __name__ == "__main__":
    main()
