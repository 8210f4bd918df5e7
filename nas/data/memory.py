"""Data sets small enough to be held in memory, on the device that trains on them.

Shape letters: N images, C channels, H height, W width.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from nas.data.augment import Augmentation, normalize
from nas.data.config import DataConfig
from nas.data.images import Batch, ImageData, Key, Loader, sample, send
from nas.data.manifest import Contents, Part, part_of_arrays, part_of_files
from nas.data.view import View


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (C,) float32 of uint8 images (N, C, H, W), in units of 0..255."""
    # Counting how often each of the 256 values occurs is exact, and needs no copy of the images as floats.
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for chunk in images.split(1024):
        counts += torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in chunk.unbind(1)])
    values = torch.arange(256, dtype=torch.float64)
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]).square()).sum(dim=1)
    # A constant channel must not be divided by zero; one grey level is the smallest difference there is.
    return mean.float(), variance.sqrt().clamp(min=1).float()


def brought_to(images: Tensor, side: int | None) -> Tensor:
    """Resize uint8 images (N, C, H, W) to squares of the given side in pixels; None leaves them as they are."""
    if side is None or images.shape[-2:] == (side, side):
        return images
    from torchvision.transforms.v2.functional import resize  # takes long to import

    return torch.cat([resize(chunk, [side, side], antialias=True) for chunk in images.split(1024)])


def _sampled(images: Tensor, labels: Tensor, config: DataConfig, part: str) -> tuple[Tensor, Tensor]:
    """The images and labels that --train-images or --test-images leave."""
    most = config.train_images if part == "train" else config.test_images
    if most is None:
        return images, labels  # without a copy
    chosen = sample(labels, most, seed=config.split_seed, part=part)
    return images[chosen], labels[chosen]


class MemoryLoader(Loader):
    """Batches cut from one tensor, augmented as a whole."""

    def __init__(
        self,
        indices: Tensor,
        *,
        batch_size: int,
        key: Key | None,
        device: torch.device,
        images: Tensor,
        labels: Tensor,
        mean: Tensor,
        std: Tensor,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(indices, batch_size=batch_size, key=key, device=device)
        self._images = images
        self._labels = labels
        self._mean = mean.to(device)
        self._std = std.to(device)
        self._augmentation = augmentation

    def _batches(self, epoch: int, order: Tensor, start_step: int) -> Iterator[Batch]:
        order = send(order, self.device)
        draws = None
        if self._key is not None:
            draws = self._augmentation.draw(len(order), key=self._key, epoch=epoch).to(self.device)
        for rows in self._rows(start_step):
            images = self._images[order[rows]]
            if draws is None:
                images = normalize(images, self._mean, self._std)
            else:
                images = self._augmentation.apply(images, draws.rows(rows), self._mean, self._std)
            yield images, self._labels[order[rows]]


class MemoryData(ImageData):
    """Images held in memory as uint8.

    Args:
        name: of the data set.
        classes: names of the classes.
        train_images: (N, C, H, W) uint8.
        train_labels: (N,) int64.
        test_images: (N, C, H, W) uint8.
        test_labels: (N,) int64.
        config: the configuration of the data.
        flip: whether to mirror training images, unless the configuration says otherwise.
        depth: see `View`.
        contents: for images from files: for each part, names of files and bytes that depend on their content.
    """

    streamed = False

    def __init__(
        self,
        name: str,
        *,
        classes: Sequence[str],
        train_images: Tensor,
        train_labels: Tensor,
        test_images: Tensor,
        test_labels: Tensor,
        config: DataConfig,
        flip: bool = True,
        depth: int = 16,
        contents: Mapping[str, Contents] | None = None,
    ) -> None:
        if contents is None:  # files are chosen before they are read
            train_images, train_labels = _sampled(train_images, train_labels, config, "train")
            test_images, test_labels = _sampled(test_images, test_labels, config, "test")
        train_images = brought_to(train_images, config.image_size)
        test_images = brought_to(test_images, config.image_size)
        _, C, H, W = train_images.shape
        super().__init__(
            name,
            classes=classes,
            view=View(C, (H, W), depth=depth),
            train_labels=train_labels,
            test_labels=test_labels,
            config=config,
        )
        padding = min(H, W) // 8 if config.augment else 0
        self._augmentation = Augmentation(
            image_size=(H, W),
            crop_padding=padding if config.crop_padding is None else config.crop_padding,
            flip=flip and config.augment if config.flip is None else config.flip,
            cutout_length=self._cutout_length(),
        )
        self.mean, self.std = channel_statistics(train_images)
        self._parts = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
        self._contents = contents
        self._resident: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    @property
    def train_names(self) -> Sequence[str] | None:
        """Names of the training images, if they are files."""
        return None if self._contents is None else self._contents["train"].names

    @property
    def test_names(self) -> Sequence[str] | None:
        """Names of the test images, if they are files."""
        return None if self._contents is None else self._contents["test"].names

    def test_image(self, index: int) -> Tensor:
        """Return a test image, (C, H, W) uint8."""
        return self._parts["test"][0][index]

    def _loader(self, part: str, indices: Tensor, *, batch_size: int, key: Key | None, device: torch.device) -> Loader:
        images, labels = self._on(device, part)
        return MemoryLoader(
            indices,
            batch_size=batch_size,
            key=key,
            device=device,
            images=images,
            labels=labels,
            mean=self.mean,
            std=self.std,
            augmentation=self._augmentation,
        )

    def _manifest_of(self, part: str, labels: Tensor) -> Part:
        if self._contents is None:
            return part_of_arrays(self._parts[part][0], labels, self.num_classes)
        return part_of_files(self._contents[part], labels, self.num_classes)

    def _on(self, device: torch.device, part: str) -> tuple[Tensor, Tensor]:
        """Return images and labels on the device; all loaders there share one copy."""
        if (part, device) not in self._resident:
            images, labels = self._parts[part]
            self._resident[part, device] = (images.to(device), labels.to(device))
        return self._resident[part, device]
