"""Augmentation of whole batches with its own randomness for each image.

The order is that of DARTS (Liu et al. 2019, `data_transforms_cifar10`): pad with black and crop, mirror,
normalize, cut out. Random numbers are drawn separately from being applied, so that their application can be
checked against a plain computation for each image.

Shape letters: N images, C channels, H height, W width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data.images import Key, generator, send


@dataclass(frozen=True)
class Draws:
    """The random choices for N images.

    Attributes:
        offsets: (N, 2) int64, top and left of the crop in the padded image.
        flips: (N,) bool, which images to mirror.
        centers: (N, 2) int64, row and column of the cutout's centre.
    """

    offsets: Tensor
    flips: Tensor
    centers: Tensor

    def to(self, device: torch.device) -> "Draws":
        """Return the same choices on a device; the copy to a GPU is asynchronous."""
        return Draws(send(self.offsets, device), send(self.flips, device), send(self.centers, device))

    def rows(self, rows: slice) -> "Draws":
        """Return the choices of a batch, given its rows in the order of the epoch."""
        return Draws(self.offsets[rows], self.flips[rows], self.centers[rows])


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad with zeros on all sides, crop a window of the old size from each image, and mirror some.

    Args:
        images: (N, C, H, W).
        offsets: (N, 2) int64 in 0..2*padding.
        flips: (N,) bool.
        padding: in pixels.

    Returns:
        (N, C, H, W) of the same type.
    """
    N, C, H, W = images.shape
    rows = offsets[:, :1] + torch.arange(H, device=images.device)
    columns = torch.arange(W, device=images.device).expand(N, W)
    columns = offsets[:, 1:] + torch.where(flips[:, None], W - 1 - columns, columns)
    padded = F.pad(images, (padding,) * 4)
    # Two gathers, rows and then columns, are one kernel each for the whole batch; a loop over images would be N slices.
    bands = padded.gather(2, rows[:, None, :, None].expand(N, C, H, padded.shape[3]))
    return bands.gather(3, columns[:, None, None, :].expand(N, C, H, W))


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn uint8 images (N, C, H, W) into float32 of about mean 0 and deviation 1.

    `mean` and `std` are (C,) and, like the pixels, in units of 0..255.
    """
    return images.float().sub_(mean[:, None, None]).div_(std[:, None, None])


def cutout(images: Tensor, centers: Tensor, length: int) -> Tensor:
    """Zero a square of each image, clipped at the border (DeVries & Taylor 2017, arXiv:1708.04552).

    Args:
        images: (N, C, H, W).
        centers: (N, 2) int64, row and column anywhere in the image.
        length: side of the square in pixels; row r and column c start it at r - length // 2, c - length // 2.
    """
    H, W = images.shape[-2:]
    start = centers - length // 2

    def covered(first: Tensor, side: int) -> Tensor:
        distance = torch.arange(side, device=images.device) - first[:, None]
        return (distance >= 0) & (distance < length)

    square = covered(start[:, 0], H)[:, :, None] & covered(start[:, 1], W)[:, None, :]
    return images.masked_fill(square[:, None], 0)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are varied.

    Attributes:
        image_size: (H, W).
        crop_padding: pixels of black around an image before the crop.
        flip: whether half of the images are mirrored.
        cutout_length: side of the square to blank out, in pixels; None for no cutout.
    """

    image_size: tuple[int, int]
    crop_padding: int
    flip: bool
    cutout_length: int | None

    def draw(self, num_images: int, *, key: Key, epoch: int) -> Draws:
        """Draw the choices of a whole epoch.

        They are drawn at once on the CPU, so that they are the same on every device and need one transfer per epoch.
        """
        stream = generator("augment", *key, epoch)
        rows, columns = (torch.randint(side, (num_images,), generator=stream) for side in self.image_size)
        return Draws(
            offsets=torch.randint(2 * self.crop_padding + 1, (num_images, 2), generator=stream),
            flips=torch.rand(num_images, generator=stream) < (0.5 if self.flip else 0.0),
            centers=torch.stack([rows, columns], dim=1),
        )

    def apply(self, images: Tensor, draws: Draws, mean: Tensor, std: Tensor) -> Tensor:
        """Augment and normalize uint8 images (N, C, H, W) to float32."""
        moved = crop_and_flip(images, draws.offsets, draws.flips, self.crop_padding)
        normalized = normalize(moved, mean, std)
        if self.cutout_length is None:
            return normalized
        return cutout(normalized, draws.centers, self.cutout_length)
