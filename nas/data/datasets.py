"""The data sets, one function each. To add one, write a function under `@dataset("name")`."""

from __future__ import annotations

import difflib
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from nas.data.config import DataConfig
from nas.data.errors import DataError
from nas.data.folder import Folder, read_folder, read_parts
from nas.data.images import ImageData, generator, sample, stratified_split
from nas.data.manifest import Contents
from nas.data.memory import MemoryData, channel_statistics
from nas.data.pixels import survey
from nas.data.view import View

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

Builder = Callable[[DataConfig], ImageData]
B = TypeVar("B", bound=Builder)
BUILDERS: dict[str, Builder] = {}

TRAIN_PORTION = 0.8
"""Share of the digits to train on."""

MEMORY_LIMIT = 2 * 2**30
"""Bytes of decoded images up to which a folder is held in memory."""

STATISTICS_SAMPLE = 2000
"""Training images from which the mean and deviation of a folder too large for memory are taken."""


def dataset(name: str) -> Callable[[B], B]:
    """Register a function that builds the data set `name` from the flags."""

    def register(builder: B) -> B:
        assert name not in BUILDERS, f"two data sets are called {name}"
        BUILDERS[name] = builder
        return builder

    return register


def load(config: DataConfig, view: View | None = None) -> ImageData:
    """Load the data set that the configuration names; with `view`, in the form that a trained network expects.

    Raises:
        DataError: there is no such data set, or its images are missing, faulty, or do not fit `view`.
    """
    if config.dataset not in BUILDERS:
        close = difflib.get_close_matches(config.dataset, BUILDERS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise DataError(f"there is no data set '{config.dataset}'; {hint}--dataset is one of {', '.join(BUILDERS)}")
    if view is None:
        return BUILDERS[config.dataset](config)
    if config.image_size is not None and view.image_size != (config.image_size, config.image_size):
        raise DataError(
            f"--image-size is {config.image_size}, but the network was trained on images of {_size(view)} pixels; "
            "leave it out"
        )
    images = VIEWED[config.dataset](config, view) if config.dataset in VIEWED else BUILDERS[config.dataset](config)
    if images.image_size != view.image_size:
        raise DataError(
            f"{images.name} has images of {_size(images.view)} pixels, but the network was trained on {_size(view)}; "
            f"pass --image-size {view.image_size[0]}"
        )
    return images


def _size(view: View) -> str:
    return f"{view.image_size[0]}x{view.image_size[1]}"


@dataset("digits")
def digits(config: DataConfig) -> ImageData:
    """scikit-learn's 1,797 handwritten digits of 8x8 grey pixels: 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits  # takes long to import, as does torchvision below

    _refuse_folder(config)
    pixels, labels = load_digits(return_X_y=True)
    # The values 0..16 become 0..255.
    images = torch.from_numpy(pixels).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    targets = torch.from_numpy(labels).long()
    classes = [str(digit) for digit in range(10)]
    train, test = stratified_split(targets, first=TRAIN_PORTION, seed=config.split_seed, classes=classes)
    return MemoryData(
        "digits",
        classes=classes,
        train_images=images[train],
        train_labels=targets[train],
        test_images=images[test],
        test_labels=targets[test],
        config=config,
        flip=False,
    )


@dataset("cifar10")
def cifar10(config: DataConfig) -> ImageData:
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32x32, ten classes."""
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, config)


@dataset("cifar100")
def cifar100(config: DataConfig) -> ImageData:
    """CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32x32, a hundred classes."""
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, config)


@dataset("imagenet")
def imagenet(config: DataConfig, view: View | None = None) -> ImageData:
    """ImageNet (Russakovsky et al. 2015) from train/ and val/ with one folder per class, streamed."""
    from nas.data.stream import StreamedData

    root = _folder_of(config)
    files = read_parts(root / "train", root / "val", skip_unreadable=config.skip_unreadable)
    found = _sampled(files, config)
    side = config.image_size or 224
    images = StreamedData(
        "imagenet",
        classes=found.classes,
        view=view or View(3, (side, side), resize="crop"),
        train=found.train,
        test=found.test,
        # The constants of DARTS's train_imagenet.py, in units of 0..255.
        mean=torch.tensor([0.485, 0.456, 0.406]) * 255,
        std=torch.tensor([0.229, 0.224, 0.225]) * 255,
        config=config,
    )
    images.left_out = tuple(found.left_out)
    return images


@dataset("folder")
def folder(config: DataConfig, view: View | None = None) -> ImageData:
    """Your own images: class folders in train/ and test/ (or val/), or class folders that are split here."""
    files = read_folder(_folder_of(config), config.split_seed, skip_unreadable=config.skip_unreadable)
    found = _sampled(files, config)
    view = view or _common_view(config, found)
    pixels = view.channels * view.image_size[0] * view.image_size[1]
    held = view.resize == "fit" and pixels * (len(found.train.paths) + len(found.test.paths)) <= MEMORY_LIMIT
    images = _held(config, found, view) if held else _streamed(config, found, view)
    images.left_out = tuple(found.left_out)
    return images


def _sampled(found: Folder, config: DataConfig) -> Folder:
    """The images that --train-images and --test-images leave."""
    train = sample(found.train.labels, config.train_images, seed=config.split_seed, part="train")
    test = sample(found.test.labels, config.test_images, seed=config.split_seed, part="test")
    return replace(found, train=found.train[train], test=found.test[test])


def _common_view(config: DataConfig, found: Folder) -> View:
    paths = found.train.paths + found.test.paths
    image_size, channels, depth = survey(paths)
    if config.image_size is not None:
        image_size = (config.image_size, config.image_size)
    in_memory = len(paths) * channels * image_size[0] * image_size[1] <= MEMORY_LIMIT
    return View(channels, image_size, "fit" if in_memory else "crop", depth)


def _held(config: DataConfig, found: Folder, view: View) -> ImageData:
    parts = {"train": found.train, "test": found.test}
    decoded = {part: view.decode(files.paths) for part, files in parts.items()}
    return MemoryData(
        "folder",
        classes=found.classes,
        train_images=decoded["train"][0],
        train_labels=found.train.labels,
        test_images=decoded["test"][0],
        test_labels=found.test.labels,
        # The view has a size already, which need not be square.
        config=replace(config, image_size=None),
        depth=view.depth,
        contents={part: Contents("content", files.names, decoded[part][1]) for part, files in parts.items()},
    )


def _streamed(config: DataConfig, found: Folder, view: View) -> ImageData:
    from nas.data.stream import StreamedData

    # Evenly spaced, because the files are sorted by class.
    sample = found.train.paths[:: -(-len(found.train.paths) // STATISTICS_SAMPLE)]
    mean, std = channel_statistics(replace(view, resize="fit").decode(sample)[0])
    return StreamedData(
        "folder",
        classes=found.classes,
        view=view,
        train=found.train,
        test=found.test,
        mean=mean,
        std=std,
        config=config,
    )


@dataset("fake")
def fake(config: DataConfig) -> ImageData:
    """Random pixels with balanced labels, for benchmarks and tests; the same for the same `split_seed`."""
    _refuse_folder(config)
    stream = generator("fake", config.split_seed)
    side = config.image_size or 32
    sizes = (config.fake_train, config.fake_test)
    train, test = (
        torch.randint(256, (n, config.fake_channels, side, side), generator=stream, dtype=torch.uint8) for n in sizes
    )
    train_labels, test_labels = (torch.arange(n) % config.fake_classes for n in sizes)
    return MemoryData(
        "fake",
        classes=[str(label) for label in range(config.fake_classes)],
        train_images=train,
        train_labels=train_labels,
        test_images=test,
        test_labels=test_labels,
        config=config,
    )


#: Builders of data sets that consist of files, which can be converted for any trained network.
VIEWED: dict[str, Callable[[DataConfig, View | None], ImageData]] = {"imagenet": imagenet, "folder": folder}


def _refuse_folder(config: DataConfig) -> None:
    # Who names a folder does not want to train on 8x8 digits.
    if config.data is not None:
        raise DataError(
            f"--dataset {config.dataset} reads no folder, but --data is {config.data}; "
            "for your own images pass --dataset folder"
        )


def _folder_of(config: DataConfig) -> Path:
    if config.data is None:
        raise DataError(f"--dataset {config.dataset} needs --data FOLDER, the folder with the images")
    if config.download:
        raise DataError(f"--download fetches cifar10 and cifar100 only, not {config.dataset}; leave it out")
    return Path(config.data)


def _cifar(source: type[CIFAR10], config: DataConfig) -> ImageData:
    root = Path(config.data or "data")
    if config.download:
        _download(source, root)
    train, test = (_read_cifar(source, root, train=part) for part in (True, False))
    (train_images, test_images) = (torch.from_numpy(part.data).permute(0, 3, 1, 2) for part in (train, test))
    return MemoryData(
        config.dataset,
        classes=train.classes,
        train_images=train_images.contiguous(),
        train_labels=torch.tensor(train.targets),
        test_images=test_images.contiguous(),
        test_labels=torch.tensor(test.targets),
        config=config,
    )


def _read_cifar(source: type[CIFAR10], root: Path, *, train: bool) -> CIFAR10:
    with warnings.catch_warnings():
        # The files were written by numpy in 2009; numpy 2.4.0 to 2.4.4 warn about the spelling of a flag in them.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")
        try:
            return source(str(root), train=train)
        except RuntimeError as error:
            raise DataError(
                f"{source.__name__} is missing from {root / source.base_folder}, or incomplete; pass --download "
                f"to fetch it, or --data FOLDER if {source.base_folder} is in another folder"
            ) from error


def _download(source: type[CIFAR10], root: Path) -> None:
    """Fetch the files if they are missing; they appear under their name only when complete."""
    try:
        _read_cifar(source, root, train=True)
    except DataError:
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                source(scratch, download=True)
                shutil.rmtree(root / source.base_folder, ignore_errors=True)
                (Path(scratch) / source.base_folder).rename(root / source.base_folder)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"could not fetch {source.__name__} into {root} ({error}); check the network, "
                f"or put {source.base_folder} there yourself"
            ) from error
