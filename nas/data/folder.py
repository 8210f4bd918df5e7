"""Image folders: finding the files, and decoding whatever is in them.

Shape letters: N images, C channels, H height, W width.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from tqdm import tqdm

from nas.data.errors import DataError

LAYOUT = "a folder of class folders, or train/ and test/ (or val/) with class folders in each"

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class ImageFiles:
    """Labelled files: N paths and their labels, (N,) int64."""

    paths: list[str]
    labels: Tensor

    def __getitem__(self, indices: Tensor) -> "ImageFiles":
        return ImageFiles([self.paths[index] for index in indices.tolist()], self.labels[indices])


def subfolders(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted.

    Raises:
        DataError: the folder does not exist or cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise DataError(f"cannot read the folder {folder} ({error.strerror}); --data must name {LAYOUT}") from error


def find_classes(folder: Path) -> list[str]:
    """Return the names of the class folders of a training folder, sorted.

    Raises:
        DataError: there are fewer than two.
    """
    classes = subfolders(folder)
    if len(classes) < 2:
        found = f"only one class folder, '{classes[0]}'" if classes else "no class folders"
        raise DataError(f"{folder} has {found}; two or more are needed: --data must name {LAYOUT}")
    return classes


def find_images(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """List the images of the class folders, with the position of their class in `classes` as label.

    Raises:
        DataError: there are no class folders, one of them is not among `classes`, or one has no images.
    """
    present = subfolders(folder)
    if not present:
        raise DataError(f"{folder} has no class folders; --data must name {LAYOUT}")
    if unknown := sorted(set(present) - set(classes)):
        raise DataError(
            f"{folder / unknown[0]} is a class that the training images lack; "
            f"add it there or remove it here (known: {_shortened(classes)})"
        )
    labels = {name: classes.index(name) for name in present}
    found = make_dataset(str(folder), class_to_idx=labels, extensions=IMG_EXTENSIONS, allow_empty=True)
    # Some systems leave hidden files such as ._cat.jpg, which are no images.
    found = [(path, label) for path, label in found if not os.path.basename(path).startswith(".")]
    filled = {label for _, label in found}
    for name, label in labels.items():
        if label not in filled:
            kinds = " ".join(IMG_EXTENSIONS)
            raise DataError(f"{folder / name} has no images; add some ({kinds}) or remove it")
    return ImageFiles([path for path, _ in found], torch.tensor([label for _, label in found]))


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def read_image(path: str, channels: int, *, cover: int | None = None) -> Image.Image:
    """Decode an image of any common kind to 8 bits: grey if `channels` is 1, else RGB.

    The camera's orientation is applied, transparency is laid on white, and of 16 bits the upper 8 are kept.

    Args:
        path: of the file.
        channels: 1 or 3.
        cover: a side in pixels; a large JPEG may then be decoded smaller, but not below twice that side.

    Raises:
        DataError: the file cannot be decoded; names it.
    """
    try:
        with Image.open(path) as file:
            if cover is not None:
                file.draft(None, (2 * cover, 2 * cover))
            upright = ImageOps.exif_transpose(file) if "exif" in file.info else file
            return _to_mode(upright, "L" if channels == 1 else "RGB")
    except Exception as error:  # each decoder has errors of its own, from OSError to struct.error
        raise DataError(f"cannot read the image {path} ({error}); replace or remove it") from error


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, not 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(mode)


def survey(paths: Sequence[str]) -> tuple[tuple[int, int], int]:
    """Choose one size and one number of channels for images, from their headers.

    Returns:
        (H, W): the size if all have the same, else a square of the median short side; and 1 if all
        are grey, else 3.

    Raises:
        DataError: a file is not an image.
    """
    headers = _in_parallel(_read_header, paths, "looking at images")
    sizes = {size for size, _ in headers}
    channels = 1 if all(grey for _, grey in headers) else 3
    if len(sizes) == 1:
        return sizes.pop(), channels
    side = statistics.median_low(min(size) for size, _ in headers)
    return (side, side), channels


def _read_header(path: str) -> tuple[tuple[int, int], bool]:
    """Return (H, W) as seen by the viewer, and whether the image is grey."""
    try:
        with Image.open(path) as file:
            W, H = file.size
            turned = "exif" in file.info and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (W, H) if turned else (H, W), file.mode in ("1", "L", "LA") or file.mode.startswith("I")
    except Exception as error:
        raise DataError(f"cannot read the image {path} ({error}); replace or remove it") from error


def decode(paths: Sequence[str], image_size: tuple[int, int], channels: int) -> Tensor:
    """Decode images to one size: scaled to cover it, the centre kept.

    Returns:
        (N, C, H, W) uint8.

    Raises:
        DataError: an image cannot be decoded; names it.
    """
    H, W = image_size
    images = torch.empty(len(paths), channels, H, W, dtype=torch.uint8)
    into = images.numpy()  # much cheaper to write to than a tensor, image by image

    def decode_one(index: int) -> None:
        image = read_image(paths[index], channels, cover=max(H, W))
        if image.size != (W, H):
            image = ImageOps.fit(image, (W, H), method=Image.Resampling.BILINEAR)
        into[index] = np.asarray(image).reshape(H, W, channels).transpose(2, 0, 1)

    _in_parallel(decode_one, range(len(paths)), "reading images")
    return images


def _in_parallel(function: Callable[[S], T], items: Sequence[S], what: str) -> list[T]:
    """Map in threads (Pillow decodes without holding Python's lock), with a progress bar on a terminal."""
    # Handing over tiny images one by one would cost more than decoding them.
    chunks = [items[first : first + 16] for first in range(0, len(items), 16)]

    def run(chunk: Sequence[S]) -> list[T]:
        return [function(item) for item in chunk]

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        # disable=None: no bar unless on a terminal
        tqdm(total=len(items), desc=what, leave=False, disable=None) as bar,
    ):
        results: list[T] = []
        for part in pool.map(run, chunks):
            results += part
            bar.update(len(part))
    return results
