"""The batch augmentation against a plain computation for each image, and the chances of what it draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from nas.data.augment import Augmentation, Draws, crop_and_flip, cutout
from nas.data.memory import channel_statistics


def reference(
    image: Tensor, offset: list[int], flip: bool, center: list[int], padding: int, length: int | None
) -> Tensor:
    """One image the way DARTS does it: PIL until the normalization, then a loop over the square."""
    picture = ImageOps.expand(F.to_pil_image(image), border=padding, fill=0)
    _, H, W = image.shape
    top, left = offset
    picture = picture.crop((left, top, left + W, top + H))
    if flip:
        picture = ImageOps.mirror(picture)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    result = F.normalize(pixels, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25])
    if length is not None:
        for row in range(center[0] - length // 2, center[0] + length // 2):
            for column in range(center[1] - length // 2, center[1] + length // 2):
                if 0 <= row < H and 0 <= column < W:
                    result[:, row, column] = 0
    return result


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_batch_equals_plain_computation_of_each_image(data: st.DataObject) -> None:
    H, W, N = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    padding = data.draw(st.integers(0, 3))
    length = data.draw(st.sampled_from([None, 2, 4, 8]))
    images = torch.randint(256, (N, 3, H, W), dtype=torch.uint8)
    place = st.integers(0, 2 * padding)
    offsets = data.draw(st.lists(st.tuples(place, place), min_size=N, max_size=N))
    flips = data.draw(st.lists(st.booleans(), min_size=N, max_size=N))
    spot = st.tuples(st.integers(0, H - 1), st.integers(0, W - 1))
    centers = data.draw(st.lists(spot, min_size=N, max_size=N))
    augmentation = Augmentation(image_size=(H, W), crop_padding=padding, flip=True, cutout_length=length)

    batch = augmentation.apply(
        images,
        Draws(torch.tensor(offsets), torch.tensor(flips), torch.tensor(centers)),
        mean=torch.tensor([0.5, 0.4, 0.3]) * 255,
        std=torch.tensor([0.2, 0.3, 0.25]) * 255,
    )

    expected = [
        reference(image, list(offset), flip, list(center), padding, length)
        for image, offset, flip, center in zip(images, offsets, flips, centers, strict=True)
    ]
    torch.testing.assert_close(batch, torch.stack(expected))


def test_crop_of_the_middle_changes_nothing() -> None:
    images = torch.randint(256, (2, 1, 5, 6), dtype=torch.uint8)
    middle = torch.full((2, 2), 3)
    assert torch.equal(crop_and_flip(images, middle, torch.tensor([False, False]), 3), images)


def test_cutout_removes_from_6_to_25_percent_and_19_on_average() -> None:
    # DARTS's 16x16 on 32x32, at every centre there is.
    centers = torch.cartesian_prod(torch.arange(32), torch.arange(32))
    removed = (cutout(torch.ones(1024, 1, 32, 32), centers, 16) == 0).float().mean(dim=(1, 2, 3))
    assert removed.min() == 0.0625
    assert removed.max() == 0.25
    assert removed.mean() == pytest.approx((14 / 32) ** 2)


def test_cutout_of_odd_length_removes_the_whole_square() -> None:
    removed = cutout(torch.ones(1, 1, 7, 7), torch.tensor([[3, 2]]), 3)[0, 0] == 0
    assert removed.nonzero().tolist() == [[row, column] for row in (2, 3, 4) for column in (1, 2, 3)]


def assert_uniform(values: Tensor, count: int) -> None:
    """Check that each of 0..count-1 occurs about equally often (five standard deviations; fixed seed)."""
    counts = torch.bincount(values, minlength=count).double()
    assert len(counts) == count
    expected = len(values) / count
    assert (counts - expected).abs().max() < 5 * expected**0.5


def test_every_crop_flip_and_centre_is_equally_likely() -> None:
    draws = Augmentation(image_size=(4, 6), crop_padding=2, flip=True, cutout_length=2).draw(50_000, key=(1,), epoch=0)
    top, left = draws.offsets.unbind(1)
    row, column = draws.centers.unbind(1)
    assert_uniform((top * 5 + left) * 2 + draws.flips, 5 * 5 * 2)
    assert_uniform(row * 6 + column, 4 * 6)
    assert_uniform(row * 5 + top, 4 * 5)  # the one does not tell the other


def test_no_flips_unless_asked() -> None:
    draws = Augmentation(image_size=(4, 4), crop_padding=0, flip=False, cutout_length=None).draw(500, key=(0,), epoch=0)
    assert not draws.flips.any()
    assert not draws.offsets.any()


def test_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(256, (1500, 3, 4, 5), dtype=torch.uint8)  # more than one chunk
    images[:, 2] = 7  # a channel that never changes must not lead to a division by zero
    mean, std = channel_statistics(images)
    pixels = images.double()
    torch.testing.assert_close(mean, pixels.mean(dim=(0, 2, 3)).float())
    torch.testing.assert_close(std[:2], pixels.std(dim=(0, 2, 3), correction=0).float()[:2])
    assert std[2] > 0
