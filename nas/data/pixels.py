"""Image files to pixels: which files are opened, and how each kind becomes 8 bits. docs/DATA.md has it for users.

Shape letters: N images, C channels, H height, W width.
"""

import functools
import os
import statistics
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from nas import screen
from nas.data.errors import DataError

#: Pillow's names of the formats that are read. All are decoded within Pillow: EPS would start Ghostscript, WMF is drawn
#: by Windows, and others pass the file to programs that may be installed.
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "PSD", "QOI"),
    *("SGI", "SUN", "TIFF", "WEBP"),
)
#: TGA has no signature, so that any file could be taken for one: it is tried only on files with that extension.
UNSIGNED = "TGA"

#: TIFF tags (TIFF 6.0).
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281

#: Possible numbers of significant bits: those of common sensors, and a full word.
DEPTHS = (8, 10, 12, 14, 16)

# Pillow refuses images with twice as many pixels as it warns about; photographs of 100 megapixels are in between.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

S = TypeVar("S")
T = TypeVar("T")


class Survey(NamedTuple):
    """The common form of images: (H, W), 1 or 3 channels, and the bits of those that have more than 8."""

    image_size: tuple[int, int]
    channels: int
    depth: int


class _Head(NamedTuple):
    image_size: tuple[int, int]  # after rotation as the camera was held
    grey: bool
    deep: bool


@functools.cache
def extensions() -> frozenset[str]:
    """Return the extensions, in lower case with their dot, of the files that are read."""
    _register_heif()
    known = Image.registered_extensions()
    readable = {*Image.OPEN, "MPO"}  # MPO has no reader of its own: that of JPEG reads it
    return frozenset(e for e, name in known.items() if name in readable and name in (*FORMATS, UNSIGNED))


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # the extra `heif` is not installed
        return
    register_heif_opener()


@functools.cache
def _formats(extension: str) -> list[str]:
    extensions()  # makes Pillow load all its plug-ins
    named = [UNSIGNED] if Image.registered_extensions().get(extension) == UNSIGNED else []
    return [name for name in (*named, *FORMATS) if name in Image.OPEN]


def _open(path: str) -> Image.Image:
    return Image.open(path, formats=_formats(Path(path).suffix.lower()))


def _unreadable(path: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "its content is not an image of a format that is read"
    return DataError(f"cannot read the image {path} ({reason}); replace or remove it")


def read_image(path: str, channels: int, *, depth: int = 16, cover: int | None = None) -> Image.Image:
    """Decode the first frame of an image file to 8 bits: grey if `channels` is 1, else RGB.

    Args:
        path: of the file.
        channels: 1 or 3.
        depth: see `to_eight_bits`.
        cover: a side in pixels: a large JPEG may be decoded at a smaller size, but at least twice that side.

    Raises:
        DataError: the file cannot be decoded; names it.
    """
    try:
        with _open(path) as file:
            if cover is not None:
                file.draft(None, (2 * cover, 2 * cover))
            return to_eight_bits(file, channels, depth=depth)
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise _unreadable(path, error) from error


def undecodable(paths: Sequence[str]) -> dict[str, str]:
    """Decode image files in threads, and return for each that cannot be decoded a line that says why."""
    faults = in_parallel(_fault, paths, "checking images")
    return {path: line for path, line in zip(paths, faults, strict=True) if line is not None}


def _fault(path: str) -> str | None:
    try:
        found = os.stat(path)
    except OSError as error:  # removed since it was listed
        return str(_unreadable(path, error))
    return _fault_of(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(2**17)  # optinas-auto comes three times
def _fault_of(path: str, size: int, changed: int) -> str | None:
    try:
        read_image(path, 3, cover=1)  # a JPEG as small as can be, which is faster
    except DataError as error:
        return str(error)
    return None


def to_eight_bits(image: Image.Image, channels: int, *, depth: int = 16) -> Image.Image:
    """Convert an image of any mode to 8 bits: grey if `channels` is 1, else RGB.

    The camera's orientation is applied, and transparent images are composed on white. Of grey pixels with more than 8
    bits, the upper 8 of `depth` bits are kept.

    Raises:
        ValueError: pixels are floating-point numbers, or beyond `depth` bits.
    """
    _check_colour_depth(image)
    image.load()  # a PNG may state its orientation after its pixels
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is not known; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_upper_bits(np.asarray(image), depth))
    elif image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        premultiplied = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
        straight = image.convert(premultiplied) if premultiplied else image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _upper_bits(values: np.ndarray, depth: int) -> np.ndarray:
    least, largest = int(values.min()), int(values.max())
    if least < 0 or largest >= 2**depth:
        raise ValueError(
            f"its pixels range from {least} to {largest}, those of the data set from 0 to {2**depth - 1}; "
            "convert all images to the same range"
        )
    return (values >> (depth - 8)).astype(np.uint8)


def _check_colour_depth(image: Image.Image) -> None:
    # Pillow keeps the upper 8 of 16 bits of a colour, which are zero or nearly so if only 12 bits are used.
    if image.mode not in ("RGB", "RGBA"):
        return
    tags = getattr(image, "tag_v2", {})
    bits, largest = (max(np.ravel(tags.get(tag, 0)).tolist()) for tag in (BITS_PER_SAMPLE, MAX_SAMPLE_VALUE))
    if bits > 8 and 0 < largest < 2**15:
        raise ValueError(f"its colours have 16 bits, but none is above {largest}; convert it to 8 bits")


def survey(paths: Sequence[str]) -> Survey:
    """Choose one size, number of channels and depth for all images.

    The size is their common size, or else a square of the median short side; there is 1 channel if all are grey, else
    3. The depth is that of the largest pixel of all images with more than 8 bits: many cameras store 12 bits in 16.

    Raises:
        DataError: a file is not an image.
    """
    heads = in_parallel(_read_head, paths, "looking at images")
    sizes = {head.image_size for head in heads}
    channels = 1 if all(head.grey for head in heads) else 3
    depth = _depth([path for path, head in zip(paths, heads, strict=True) if head.deep])
    if len(sizes) == 1:
        return Survey(sizes.pop(), channels, depth)
    side = statistics.median_low(min(head.image_size) for head in heads)
    return Survey((side, side), channels, depth)


def _read_head(path: str) -> _Head:
    try:
        with _open(path) as file:
            W, H = file.size
            turned = "exif" in file.info and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            deep = file.mode.startswith("I")
            return _Head((W, H) if turned else (H, W), deep or file.mode in ("1", "L", "LA", "La"), deep)
    except Exception as error:
        raise _unreadable(path, error) from error


def _depth(paths: Sequence[str]) -> int:
    """Return the least of DEPTHS that holds every pixel of the files; the largest if none does, or without files.

    Larger pixels are refused when decoded. Reading ends at the first chunk that needs the largest depth.
    """
    largest = -1
    for first in range(0, len(paths), 64):
        largest = max(largest, *in_parallel(_largest_pixel, paths[first : first + 64], "looking at deep pixels"))
        if largest >= 2 ** DEPTHS[-2]:
            break
    fitting = [depth for depth in DEPTHS if 0 <= largest < 2**depth]
    return fitting[0] if fitting else DEPTHS[-1]


def _largest_pixel(path: str) -> int:
    try:
        with _open(path) as file:
            return int(np.asarray(file).max())
    except Exception as error:
        raise _unreadable(path, error) from error


def in_parallel(function: Callable[[S], T], items: Sequence[S], what: str) -> list[T]:
    """Map in threads (Pillow decodes without holding Python's lock), with a progress bar on a terminal."""
    # In chunks: passing tiny images to the threads one by one would cost more than decoding them.
    chunks = [items[first : first + 16] for first in range(0, len(items), 16)]

    def run(chunk: Sequence[S]) -> list[T]:
        return [function(item) for item in chunk]

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        # disable=None shows the bar only on a terminal
        tqdm(total=len(items), desc=what, leave=False, disable=screen.silent() or None) as bar,
    ):
        results: list[T] = []
        for part in pool.map(run, chunks):
            results += part
            bar.update(len(part))
    return results
