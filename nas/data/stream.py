"""Data sets too large for memory: images are read from disk by worker processes when needed.

Shape letters: N images, C channels, H height, W width.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from nas.data.augment import Augmentation, cutout, normalize
from nas.data.config import DataConfig
from nas.data.errors import DataError
from nas.data.folder import ImageFiles
from nas.data.images import Batch, ImageData, Key, Loader, generator, send
from nas.data.manifest import Contents, Part, part_of_files
from nas.data.pixels import read_image
from nas.data.view import View

# One batch to read: the epoch, and the images by their position in the data set.
Request = tuple[int, list[int]]


def train_transform(image_size: tuple[int, int], *, flip: bool) -> v2.Transform:
    """Return the augmentation of DARTS (Liu et al. 2019, `train_imagenet.py`), PIL image to PIL image."""
    H, W = image_size
    aspect = W / H  # 1 in DARTS
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, ratio=(3 / 4 * aspect, 4 / 3 * aspect)),
            v2.RandomHorizontalFlip(0.5 if flip else 0.0),
            v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2),
        ]
    )


class BatchReader(Dataset[Tensor | str]):
    """Reads the batches that a loader asks for: (N, C, H, W) uint8, or what is wrong with one of the images.

    The random numbers of an image depend on (key, epoch, position) alone, so that any worker may read it.
    """

    def __init__(self, paths: Sequence[str], view: View, transform: v2.Transform | None, key: Key | None) -> None:
        self._paths = paths
        self._view = view
        self._transform = transform
        self._key = key

    def __getitem__(self, request: Request) -> Tensor | str:
        epoch, positions = request
        try:
            return torch.stack([self._image(position, epoch) for position in positions])
        except DataError as error:
            # As text: an exception raised here would reach the user wrapped in the worker's traceback.
            return str(error)

    def _image(self, position: int, epoch: int) -> Tensor:
        path, view = self._paths[position], self._view
        if self._transform is None or self._key is None:
            return torch.from_numpy(view.read(path).copy())
        image = read_image(path, view.channels, depth=view.depth)
        # The transforms draw from torch's global state; without workers, that is the caller's.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(generator("image", *self._key, epoch, position).get_state())
            pixels: Tensor = v2.functional.pil_to_tensor(self._transform(image))
            return pixels


class StreamLoader(Loader):
    """Batches read by worker processes, which stay alive from epoch to epoch."""

    def __init__(
        self,
        indices: Tensor,
        *,
        batch_size: int,
        key: Key | None,
        device: torch.device,
        reader: BatchReader,
        labels: Tensor,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation,
        workers: int,
    ) -> None:
        super().__init__(indices, batch_size=batch_size, key=key, device=device)
        self._labels = labels.to(device)
        self._mean = mean.to(device)
        self._std = std.to(device)
        self._augmentation = augmentation
        # Refilled for each epoch, so that the workers can stay: a new sampler would need a new DataLoader.
        self._requests: list[Request] = []
        self._reading: DataLoader[Any] = DataLoader(
            reader,
            batch_size=None,  # a request is a batch already
            sampler=self._requests,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # without one it would draw a seed from the global state
        )

    def _batches(self, epoch: int, order: Tensor, start_step: int) -> Iterator[Batch]:
        steps = list(self._rows(start_step))
        self._requests[:] = [(epoch, order[rows].tolist()) for rows in steps]
        labels = self._labels[send(order, self.device)]
        length = self._augmentation.cutout_length
        draws = None
        if self._key is not None:
            draws = self._augmentation.draw(len(order), key=self._key, epoch=epoch).to(self.device)
        for rows, images in zip(steps, self._reading, strict=True):
            if isinstance(images, str):
                raise DataError(images)
            batch = normalize(images.to(self.device, non_blocking=True), self._mean, self._std)
            if draws is not None and length is not None:
                batch = cutout(batch, draws.centers[rows], length)
            yield batch, labels[rows]


class StreamedData(ImageData):
    """Images read from files whenever needed.

    Args:
        name: of the data set.
        classes: names of the classes.
        view: how the network sees a file.
        train: the training files.
        test: the test files.
        mean: (C,) of the pixels, in units of 0..255.
        std: (C,) likewise.
        config: the configuration of the data.

    Raises:
        DataError: an option is set that does not apply to streamed data.
    """

    streamed = True

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        view: View,
        train: ImageFiles,
        test: ImageFiles,
        mean: Tensor,
        std: Tensor,
        config: DataConfig,
    ) -> None:
        if config.crop_padding is not None:
            raise DataError(
                f"--crop-padding is for data in memory, but {name} is read from disk and cropped at varying "
                "scales; leave it out"
            )
        super().__init__(
            name,
            classes=classes,
            view=view,
            train_labels=train.labels,
            test_labels=test.labels,
            config=config,
        )
        self._parts = {"train": train, "test": test}
        self.mean = mean
        self.std = std
        self._flip = True if config.flip is None else config.flip
        self._augmentation = Augmentation(
            image_size=view.image_size, crop_padding=0, flip=False, cutout_length=self._cutout_length()
        )

    @property
    def train_names(self) -> Sequence[str]:
        """Names of the training images."""
        return self._parts["train"].names

    @property
    def test_names(self) -> Sequence[str]:
        """Names of the test images."""
        return self._parts["test"].names

    def test_image(self, index: int) -> Tensor:
        """Return a test image, (C, H, W) uint8; reads its file again."""
        return torch.from_numpy(self.view.read(self._parts["test"].paths[index]).copy())

    def _loader(self, part: str, indices: Tensor, *, batch_size: int, key: Key | None, device: torch.device) -> Loader:
        files = self._parts[part]
        augmented = key is not None and self._config.augment
        transform = train_transform(self.image_size, flip=self._flip) if augmented else None
        return StreamLoader(
            indices,
            batch_size=batch_size,
            key=key,
            device=device,
            reader=BatchReader(files.paths, self.view, transform, key),
            labels=files.labels,
            mean=self.mean,
            std=self.std,
            augmentation=self._augmentation,
            workers=self._config.workers,
        )

    def _manifest_of(self, part: str, labels: Tensor) -> Part:
        # Sizes instead of contents: reading every file for its content would take as long as an epoch.
        files = self._parts[part]
        sizes = [os.path.getsize(path).to_bytes(8, "big") for path in files.paths]
        return part_of_files(Contents("size", files.names, sizes), labels, self.num_classes)
