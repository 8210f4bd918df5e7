"""The configuration of the data."""

import os
from dataclasses import dataclass

from nas.data.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images to learn from, and how they are served.

    Raises:
        DataError: a value is out of its range.
    """

    dataset: str = "digits"
    """Data set: digits, cifar10, cifar100, imagenet, folder (your own images) or fake (random images)."""

    data: str | None = None
    """Folder that holds the data; cifar10 and cifar100 look in ./data unless told otherwise."""

    download: bool = False
    """Fetch cifar10 or cifar100 if it is not there yet."""

    image_size: int | None = None
    """Side in pixels to which every image is brought; default: the data set's own size."""

    split_seed: int = 0
    """Seed of the test split of data that come without one; keep it the same in search and evaluation."""

    batch_size: int = 64
    """Images in a batch."""

    workers: int = 2
    """Processes that read images from disk; data that fit in memory need none."""

    augment: bool = True
    """Vary the training images by shifts (crops of varying size, if they are read from disk) and mirroring; not
    with --no-augment, which is the papers' "CIFAR-10" beside "CIFAR-10+"."""

    cutout: bool = False
    """Blank out a random square of each training image."""

    cutout_length: int | None = None
    """Side of that square in pixels; default: half the image's short side."""

    flip: bool | None = None
    """Mirror half of the training images; default: yes, except for digits."""

    crop_padding: int | None = None
    """Pixels by which training images in memory are shifted at most; default: an eighth of the short side."""

    fake_train: int = 512
    """Training images of the fake data set."""

    fake_test: int = 128
    """Test images of the fake data set."""

    fake_classes: int = 10
    """Classes of the fake data set."""

    fake_channels: int = 3
    """Channels of the fake data set's images."""

    def __post_init__(self) -> None:
        # BatchNorm cannot train on one image, hence batches of two at least.
        lowest = {
            "image_size": 1,
            "batch_size": 2,
            "workers": 0,
            "cutout_length": 1,
            "crop_padding": 0,
            "fake_train": 2,
            "fake_test": 1,
            "fake_classes": 2,
            "fake_channels": 1,
        }
        if self.data is not None:
            _check_path(self.data)
        if self.cutout_length is not None and not self.cutout:
            raise DataError("--cutout-length is the side of the square that --cutout blanks out; add --cutout")
        if not self.augment and (self.flip or self.crop_padding):
            raise DataError("--no-augment leaves nothing for --flip and --crop-padding to do; leave them out")
        for field, least in lowest.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise DataError(f"--{field.replace('_', '-')} is {value}; it must be {least} or more")


def _check_path(path: str) -> None:
    if "\0" in path:
        raise DataError(f"--data is {path!r}; a path cannot hold a NUL character")
    try:
        path.encode()
    except UnicodeEncodeError as error:  # the configuration is kept as UTF-8
        told = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise DataError(f"--data is '{told}', which is not UTF-8; rename the folder or link to it") from error
