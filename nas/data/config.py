"""The configuration of the data."""

from dataclasses import dataclass
from typing import Annotated

from genotypes.config import AtLeast, Common, Config, Count, IsPath, MayDiffer, NoneMeans


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which images to learn from, and how they are served."""

    dataset: Annotated[str, Common] = "digits"
    """Data set: digits, cifar10, cifar100, imagenet, folder (your own images) or fake (random images)."""

    data: Annotated[str | None, IsPath, Common, MayDiffer, NoneMeans("./data for cifar10 and cifar100")] = None
    """Folder that holds the data."""

    download: Annotated[bool, Common, MayDiffer] = False
    """Fetch cifar10 or cifar100 if it is not there yet."""

    skip_unreadable: Annotated[bool, MayDiffer] = False
    """Decode all images of a folder before the first step, and leave out those that cannot be decoded; each is named.
    Otherwise the first one ends the run."""

    image_size: Annotated[Count | None, Common, NoneMeans("the data set's own size")] = None
    """Resize images to this side, in pixels."""

    train_images: Annotated[Count | None, NoneMeans("all")] = None
    """Train on only so many images, the same share of each class; --split-seed decides which."""

    test_images: Annotated[Count | None, NoneMeans("all")] = None
    """Test on only so many images, the same share of each class; --split-seed decides which."""

    split_seed: int = 0
    """Seed of the test split of data that come without one; keep it the same in search and evaluation."""

    # BatchNorm cannot train on one image.
    batch_size: Annotated[int, AtLeast(2), Common] = 64
    """Images in a batch."""

    workers: Annotated[int, AtLeast(0), MayDiffer] = 2
    """Processes that read images from disk; data that fit in memory need none."""

    augment: bool = True
    """Vary the training images by shifts (crops of varying size, if they are read from disk) and mirroring; not
    with --no-augment, which is the papers' "CIFAR-10" beside "CIFAR-10+"."""

    cutout: Annotated[bool, Common] = False
    """Blank out a random square of each training image."""

    cutout_length: Annotated[Count | None, NoneMeans("half the image's short side")] = None
    """Side of the square that --cutout blanks out, in pixels."""

    flip: Annotated[bool | None, NoneMeans("yes, except for digits")] = None
    """Mirror half of the training images."""

    crop_padding: Annotated[int | None, AtLeast(0), NoneMeans("an eighth of the short side")] = None
    """Largest shift of training images in memory, in pixels."""

    fake_train: Annotated[int, AtLeast(2)] = 512
    """Training images of the fake data set."""

    fake_test: Count = 128
    """Test images of the fake data set."""

    fake_classes: Annotated[int, AtLeast(2)] = 10
    """Classes of the fake data set."""

    fake_channels: Count = 3
    """Channels of the fake data set's images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cutout_length is not None and not self.cutout:
            raise ValueError("--cutout-length is the side of the square that --cutout blanks out; add --cutout")
        if not self.augment and (self.flip or self.crop_padding):
            raise ValueError("--no-augment leaves nothing for --flip and --crop-padding to do; leave them out")
