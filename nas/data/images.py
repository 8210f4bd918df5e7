"""The interface of every data set, in memory or on disk: labels, splits and loaders.

Shape letters: N images, C channels, H height, W width.
"""

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nas.data.config import DataConfig
from nas.data.errors import DataError
from nas.data.folder import chosen_by_name
from nas.data.manifest import Manifest, Part
from nas.data.view import View

#: Normalized images (N, C, H, W), float32, and labels (N,), int64.
Batch = tuple[Tensor, Tensor]

#: What a stream of random numbers depends on.
Key = tuple[str | int, ...]


def generator(*key: str | int) -> torch.Generator:
    """Return a CPU generator whose stream depends on `key` alone, such as `("order", seed, epoch)`.

    The key is hashed because torch's CPU generator keeps only 32 bits of a seed: numbers packed into
    higher bits would be lost.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def stratified_split(labels: Tensor, *, first: float, seed: int, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Split images in two so that each class is divided in the same proportion.

    Args:
        labels: (N,) int64.
        first: share of the first part, between 0 and 1; its size is rounded down.
        seed: any integer; the same seed always gives the same split.
        classes: names of the classes, for the error.

    Returns:
        Two ascending int64 index tensors, disjoint, which together hold 0..N-1.

    Raises:
        DataError: a class has fewer than two images, or there are too few images for both parts.
    """
    from sklearn.model_selection import train_test_split  # takes long to import

    counts = torch.bincount(labels, minlength=len(classes))
    if (smallest := int(counts.min())) < 2:
        raise DataError(
            f"class '{classes[int(counts.argmin())]}' has {smallest} image(s), too few to split; give it two or more"
        )
    try:
        parts = train_test_split(
            torch.arange(len(labels)).numpy(),
            train_size=first,
            stratify=labels.numpy(),
            # scikit-learn accepts only non-negative seeds of 32 bits.
            random_state=generator("split", seed).initial_seed(),
        )
    except ValueError as error:
        raise DataError(
            f"{len(labels)} images of {len(classes)} classes cannot be split {first:g} to {1 - first:g}: {error}"
        ) from error
    chosen, others = (torch.from_numpy(part).sort().values for part in parts)
    return chosen, others


def sample(labels: Tensor, most: int | None, *, seed: int, part: str) -> Tensor:
    """Choose images so that each class keeps the same share of its own, and at least one.

    Args:
        labels: (N,) int64.
        most: how many to choose; None chooses all.
        seed: any integer; the same seed always chooses the same.
        part: train or test, for the error.

    Returns:
        Ascending int64 indices.

    Raises:
        DataError: there are fewer images than that, or more classes.
    """
    if most is None:
        return torch.arange(len(labels))
    sizes = torch.bincount(labels)
    classes = int((sizes > 0).sum())
    if not classes <= most <= len(labels):
        raise DataError(
            f"--{part}-images is {most:,}, but there are {len(labels):,} of {classes} classes to {part} on; choose "
            "between the two numbers"
        )
    shuffled = torch.randperm(len(labels), generator=generator("sample", part, seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    own = labels[by_class]
    # The share of its class that comes before each image, in a random order: 0 for one of each class.
    before = (torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[own]) / sizes[own]
    return by_class[before.argsort(stable=True)[:most]].sort().values


class Loader(ABC):
    """Batches of labelled images, epoch after epoch.

    A batch is a function of (key, epoch, step) and of nothing else, so that a run can be resumed in the
    middle of an epoch. Torch's global random state is neither read nor changed.

    Args:
        indices: (N,) int64, the images to serve.
        batch_size: images per batch; the last batch of an epoch may be smaller.
        key: of the order and the augmentation, such as `(seed,)`. Without one the images come in the order of
            `indices`, each once and as they are.
        device: where the batches are put.

    Attributes:
        num_images: images in an epoch. A training epoch leaves out a last batch of a single image, because
            BatchNorm cannot train on one value per channel.
    """

    def __init__(self, indices: Tensor, *, batch_size: int, key: Key | None, device: torch.device) -> None:
        lone = key is not None and len(indices) % batch_size == 1
        self.num_images = len(indices) - int(lone)
        self.device = device
        self._indices = indices
        self._batch_size = batch_size
        self._key = key

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-self.num_images // self._batch_size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Iterate over one epoch, from `start_step` on.

        Only one epoch of a loader can be read at a time; the next one may begin before the last has been
        read to its end.

        Yields:
            Batches on the device.
        """
        if not 0 <= start_step <= len(self):
            raise ValueError(f"an epoch has {len(self)} steps; cannot start at step {start_step}")
        return self._batches(epoch, self._order(epoch), start_step)

    def _order(self, epoch: int) -> Tensor:
        """Return the images of an epoch in their order, (num_images,) int64."""
        if self._key is None:
            return self._indices
        shuffled = torch.randperm(len(self._indices), generator=generator("order", *self._key, epoch))
        return self._indices[shuffled[: self.num_images]]

    def _rows(self, start_step: int) -> Iterator[slice]:
        """Yield for each step the part of the epoch's order that is its batch."""
        for step in range(start_step, len(self)):
            first = step * self._batch_size
            yield slice(first, min(first + self._batch_size, self.num_images))

    @abstractmethod
    def _batches(self, epoch: int, order: Tensor, start_step: int) -> Iterator[Batch]: ...


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; to a GPU by an asynchronous copy through pinned memory."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class ImageData(ABC):
    """A labelled image data set with its training and its test images.

    Attributes:
        name: of the data set.
        classes: names of the classes; label i means `classes[i]`.
        view: channels, size in pixels, and how image files are resized to it.
        train_labels: (N,) int64.
        test_labels: (N,) int64.
        mean: (C,) float32 of the training pixels, in units of 0..255.
        std: (C,) float32 likewise.
        streamed: whether images are read from disk when needed, not held in memory.
        left_out: lines that say which files of a folder were left out, and why.
    """

    streamed: bool
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        view: View,
        train_labels: Tensor,
        test_labels: Tensor,
        config: DataConfig,
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.view = view
        self.left_out: tuple[str, ...] = ()
        self.train_labels = train_labels
        self.test_labels = test_labels
        self._config = config

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def channels(self) -> int:
        """C, the channels of an image: 1 for grey, 3 for colour, others only in memory."""
        return self.view.channels

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.view.image_size

    @property
    def found(self) -> list[str]:
        """Lines for the start of a run: what there is, and what was left out and why."""
        train, test, (H, W) = len(self.train_labels), len(self.test_labels), self.image_size
        kind = {1: "grey", 3: "colour"}.get(self.channels, f"{self.channels}-channel")
        return [
            f"found {train + test:,} images of {self.num_classes} classes: {train:,} to train on, {test:,} to test on; "
            f"{kind}, resized to {H}x{W} pixels (height x width)",
            *self.left_out,
        ]

    @property
    @abstractmethod
    def train_names(self) -> Sequence[str] | None:
        """Names of the training images, if they are files, that do not depend on where their folder is."""

    @property
    @abstractmethod
    def test_names(self) -> Sequence[str] | None:
        """Those of the test images."""

    @abstractmethod
    def test_image(self, index: int) -> Tensor:
        """Return a test image as the network sees it before it is normalized, (C, H, W) uint8.

        Raises:
            DataError: its file cannot be decoded; names it.
        """

    def normalized_by(self, mean: Tensor, std: Tensor) -> "ImageData":
        """Give the same images, normalized by other statistics, (C,) float32 in units of 0..255."""
        other = copy.copy(self)
        other.mean, other.std = mean, std
        return other

    def manifest(self) -> Manifest:
        """Return what identifies these data, for a run that is resumed."""
        return Manifest(
            dataset=self.name,
            classes=self.classes,
            channels=self.channels,
            image_size=self.image_size,
            resize=self.view.resize,
            depth=self.view.depth,
            train=self._manifest_of("train", self.train_labels),
            test=self._manifest_of("test", self.test_labels),
        )

    @abstractmethod
    def _manifest_of(self, part: str, labels: Tensor) -> Part: ...

    def train_loader(
        self,
        *,
        seed: int,
        purpose: str | None = None,
        indices: Tensor | None = None,
        augment: bool = True,
        device: torch.device | str = "cpu",
    ) -> Loader:
        """Serve training images.

        Args:
            seed: of the order and the augmentation.
            purpose: distinguishes the loaders of one run, so that their random numbers are independent.
            indices: (N,) int64, which training images; default: all.
            augment: shuffle and augment. If not, the images come in the order of `indices`, each once and unchanged.
            device: where the batches are put.

        Raises:
            DataError: a batch is larger than the set to shuffle.
        """
        chosen = torch.arange(len(self.train_labels)) if indices is None else indices.cpu()
        batch_size = self._config.batch_size
        if augment and batch_size > len(chosen):
            raise DataError(
                f"a batch of {batch_size} images is larger than the {len(chosen)} training images of "
                f"{self.name} that it is drawn from; pass --batch-size {len(chosen)} or less"
            )
        return self._loader(
            "train",
            chosen,
            batch_size=batch_size,
            key=(seed, *(() if purpose is None else (purpose,))) if augment else None,
            device=torch.device(device),
        )

    def test_loader(self, *, device: torch.device | str = "cpu", batch_size: int | None = None) -> Loader:
        """Serve every test image once, in order and unchanged; `batch_size` defaults to the configured one."""
        return self._loader(
            "test",
            torch.arange(len(self.test_labels)),
            batch_size=batch_size or self._config.batch_size,
            key=None,
            device=torch.device(device),
        )

    def search_split(self, *, seed: int, train_portion: float = 0.5) -> tuple[Tensor, Tensor]:
        """Split the training images for the search, each class in the same proportion.

        Returns:
            Ascending int64 indices of the images for the weights (`train_portion` of all) and of
            those for the architecture; they are disjoint and together hold every training image.

        Raises:
            DataError: `train_portion` is not between 0 and 1, or a class is too small to split.
        """
        if not 0 < train_portion < 1:
            raise DataError(f"--train-portion is {train_portion:g}; it must be between 0 and 1")
        return stratified_split(self.train_labels, first=train_portion, seed=seed, classes=self.classes)

    def hold_out(self, portion: float) -> tuple[Tensor, Tensor]:
        """Set training images aside, of each class about the same portion; --split-seed decides which.

        Files are chosen by their names alone, so that adding some moves no other; images in memory are drawn by lot.

        Returns:
            Ascending int64 indices of the images to train on, and of those held out: none if `portion` is 0.

        Raises:
            DataError: a class is too small to split.
        """
        everything = torch.arange(len(self.train_labels))
        if portion == 0:
            return everything, everything[:0]
        # Not the key of the test split, by which all training files have high numbers.
        key = f"hold-out/{self._config.split_seed}"
        if self.train_names is not None:
            held = chosen_by_name(self.train_names, self.train_labels, self.classes, portion=portion, key=key)
            return everything[~held], everything[held]
        seed = generator(key).initial_seed()
        return stratified_split(self.train_labels, first=1 - portion, seed=seed, classes=self.classes)

    def _cutout_length(self) -> int | None:
        """Return the side of the square to blank out: 16 for images of 32 as in DARTS; None without cutout."""
        if not self._config.cutout:
            return None
        return self._config.cutout_length or max(1, min(self.image_size) // 2)

    @abstractmethod
    def _loader(
        self, part: str, indices: Tensor, *, batch_size: int, key: Key | None, device: torch.device
    ) -> Loader: ...
