"""How a network sees an image: the only path from a file to pixels, for tests, evaluations and predictions.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nas.data.pixels import in_parallel, read_image, to_eight_bits

if TYPE_CHECKING:
    from torchvision.transforms import v2

#: fit: scale to cover the size, keep the centre. crop: ImageNet's test view (scale to 256, keep the centre 224).
Resize = Literal["fit", "crop"]


@dataclass(frozen=True)
class View:
    """What a network expects of an image, apart from its normalization.

    Attributes:
        channels: 1 or 3 for files; any in memory.
        image_size: (H, W) in pixels.
        resize: how an image is resized to that.
        depth: significant bits of grey pixels that have more than 8.
    """

    channels: int
    image_size: tuple[int, int]
    resize: Resize = "fit"
    depth: int = 16

    def read(self, path: str) -> np.ndarray:
        """Return the pixels (C, H, W) uint8 of an image file.

        Raises:
            DataError: the file cannot be decoded; names it.
        """
        cover = max(self.image_size) if self.resize == "fit" else None
        return self._sized(read_image(path, self.channels, depth=self.depth, cover=cover))

    def of(self, image: Image.Image) -> np.ndarray:
        """Return the pixels (C, H, W) uint8 of an image.

        Raises:
            ValueError: its pixels are floating-point numbers, or beyond `depth` bits.
        """
        return self._sized(to_eight_bits(image, self.channels, depth=self.depth))

    def _sized(self, image: Image.Image) -> np.ndarray:
        H, W = self.image_size
        if self.resize == "crop":
            image = eval_transform(self.image_size)(image)
        elif image.size != (W, H):
            image = ImageOps.fit(image, (W, H), method=Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(H, W, self.channels).transpose(2, 0, 1)

    def decode(self, paths: Sequence[str]) -> tuple[Tensor, list[bytes]]:
        """Decode N files in threads.

        Returns:
            (N, C, H, W) uint8, and 8 bytes for each file that depend on its content.

        Raises:
            DataError: an image cannot be decoded; names it.
        """
        images = torch.empty(len(paths), self.channels, *self.image_size, dtype=torch.uint8)
        into = images.numpy()  # writing single images into a tensor would be much slower

        def decode_one(index: int) -> bytes:
            into[index] = self.read(paths[index])
            return content_digest(paths[index])

        return images, in_parallel(decode_one, range(len(paths)), "reading images")


def content_digest(path: str) -> bytes:
    """Return 8 bytes that depend on a file's content; a file that was just read is still in the system's cache."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


def eval_transform(image_size: tuple[int, int]) -> v2.Transform:
    """Return the usual test view of ImageNet (scale to 256, keep the centre 224), PIL image to PIL image."""
    from torchvision.transforms import v2  # takes long to import

    return v2.Compose([v2.Resize(round(min(image_size) * 256 / 224)), v2.CenterCrop(image_size)])
