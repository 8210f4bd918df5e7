"""Images that are in memory already, as a data set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from nas.data import DataConfig, DataError, ImageData
from nas.data.datasets import TRAIN_PORTION
from nas.data.images import stratified_split
from nas.data.memory import MemoryData

#: What a run on arrays says of its data set.
NAME = "arrays"


class Arrays:
    """Labelled images in memory, to be passed as `dataset`.

    Without test images a fifth of the images of each class is kept for testing; which ones depends on `split_seed`
    alone, so that searches, trainings and evaluations keep the same. The images are copied.

    Args:
        images: to train on, uint8: an array (N, H, W) or (N, H, W, C), or a tensor (N, H, W) or (N, C, H, W), where
            C is 1 (grey) or 3 (colour).
        labels: (N,), whole numbers or text; the sorted ones are the classes.
        test_images: images to test on, likewise.
        test_labels: their labels.

    Raises:
        ValueError: images or labels are not like that, or do not belong together.

    Example:
        >>> import numpy as np, optinas
        >>> pixels = np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)
        >>> optinas.Arrays(pixels, ["cat", "dog"] * 20)
        Arrays(40 images of 8x8 pixels, 2 classes)
    """

    def __init__(
        self,
        images: np.ndarray | Tensor,
        labels: ArrayLike | Tensor,
        *,
        test_images: np.ndarray | Tensor | None = None,
        test_labels: ArrayLike | Tensor | None = None,
    ) -> None:
        self._images, names = _pixels("images", images), _labels("labels", labels)
        known, encoded = np.unique(names, return_inverse=True)
        self.classes = tuple(map(str, known.tolist()))
        if len(self.classes) < 2:
            raise ValueError(f"labels hold {len(self.classes)} class(es); there must be two or more")
        self._labels = torch.from_numpy(encoded).long()
        _check_lengths("images", self._images, "labels", self._labels)
        self._test: tuple[Tensor, Tensor] | None = None
        if test_images is None and test_labels is None:
            return
        if test_images is None or test_labels is None:
            raise ValueError("test_images and test_labels belong together; give both or neither")
        tests, test_names = _pixels("test_images", test_images), _labels("test_labels", test_labels)
        if unknown := sorted(set(test_names.tolist()) - set(known.tolist()), key=str):
            raise ValueError(f"test_labels hold {unknown[0]!r}, which labels do not")
        if tests.shape[1:] != self._images.shape[1:]:
            raise ValueError(
                f"test_images are {_shown(tests)} and images {_shown(self._images)} (channels, height, width); "
                "bring them to one shape"
            )
        self._test = (tests, torch.from_numpy(np.searchsorted(known, test_names)).long())
        _check_lengths("test_images", tests, "test_labels", self._test[1])

    def __repr__(self) -> str:
        number = len(self._images) + (len(self._test[0]) if self._test else 0)
        H, W = self._images.shape[2:]
        return f"Arrays({number:,} images of {H}x{W} pixels, {len(self.classes)} classes)"

    def data(self, config: DataConfig) -> ImageData:
        """The images as a search or a training takes them.

        Raises DataError for options of images on disk, and for classes too small to split.
        """
        if config.data is not None or config.download:
            raise DataError("--data and --download are for images on disk, not for arrays; leave them out")
        images, labels = self._images, self._labels
        if self._test is None:
            train, test = stratified_split(labels, first=TRAIN_PORTION, seed=config.split_seed, classes=self.classes)
            images, labels, tests = images[train], labels[train], (images[test], labels[test])
        else:
            tests = self._test
        return MemoryData(
            NAME,
            classes=self.classes,
            train_images=images,
            train_labels=labels,
            test_images=tests[0],
            test_labels=tests[1],
            config=config,
        )


def _pixels(name: str, images: np.ndarray | Tensor) -> Tensor:
    """A copy, (N, C, H, W) uint8."""
    if isinstance(images, Tensor):
        array = images.detach().cpu().numpy()
        planes = array[:, None] if array.ndim == 3 else array
        wanted = "(N, H, W) or (N, C, H, W)"
    else:
        array = np.asarray(images)
        planes = array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
        wanted = "(N, H, W) or (N, H, W, C)"
    if planes.ndim != 4 or planes.shape[1] not in (1, 3) or not planes.size:
        raise ValueError(f"{name} have the shape {array.shape}; it must be {wanted}, where C is 1 or 3")
    if planes.dtype != np.uint8:
        raise ValueError(f"{name} are {planes.dtype}; scale them to 0..255 and convert them to uint8")
    return torch.from_numpy(planes.copy(order="C"))


def _labels(name: str, labels: ArrayLike | Tensor) -> np.ndarray:
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iubU":
        raise ValueError(f"{name} are {array.dtype} of the shape {array.shape}; give (N,) whole numbers or text")
    return array


def _check_lengths(images: str, pixels: Tensor, labels: str, encoded: Tensor) -> None:
    if len(pixels) != len(encoded):
        raise ValueError(
            f"{images} are {len(pixels):,} and {labels} {len(encoded):,}; there must be one label an image"
        )


def _shown(images: Tensor) -> str:
    return str(tuple(images.shape[1:]))
