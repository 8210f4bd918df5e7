"""Order, resumption, splits and randomness of the loaders, in memory and streamed alike."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nas.data import DataConfig, DataError, ImageData, Loader, load
from nas.data import datasets as registry
from nas.data.images import generator, stratified_split
from nas.data.memory import MemoryData

# Python 3.12 and later warn when a process with threads forks; the workers do nothing but read images.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of seven images of 12x10 to train on, and of two to test on."""
    root = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for part, count in (("train", 7), ("test", 2)):
        for name in ("ant", "bee", "cat"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(pixels.integers(0, 256, (12, 10, 3), dtype=np.uint8))
                image.save(folder / f"{number}.png")
    return root


def build(
    kind: str,
    image_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    workers: int = 0,
    cutout: bool = True,
) -> ImageData:
    """Return 21 training and 6 test images of three classes."""
    if kind == "memory":
        return load(
            DataConfig(
                dataset="fake",
                fake_train=21,
                fake_test=6,
                fake_classes=3,
                image_size=8,
                batch_size=4,
                cutout=cutout,
            )
        )
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 0)
    return load(DataConfig(dataset="folder", data=str(image_folder), batch_size=4, cutout=cutout, workers=workers))


@pytest.fixture(params=["memory", "streamed"])
def data(request: pytest.FixtureRequest, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ImageData:
    return build(request.param, image_folder, monkeypatch)


def equal(first: Batches, second: Batches) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(first, second, strict=True)
    )


def test_batches_are_normalized_floats_with_labels(data: ImageData) -> None:
    assert data.streamed == (data.name == "folder")
    images, labels = next(data.train_loader(seed=0).epoch(0))
    assert images.shape == (4, 3, *data.image_size)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    plain = torch.cat([batch for batch, _ in data.train_loader(seed=0, augment=False).epoch(0)])
    torch.testing.assert_close(plain.mean(dim=(0, 2, 3)), torch.zeros(3), atol=0.1, rtol=0)
    if not data.streamed:  # whose test view is scaled, hence smoother than the images
        torch.testing.assert_close(plain.std(dim=(0, 2, 3)), torch.ones(3), atol=0.01, rtol=0)


def test_epoch_can_be_resumed_at_any_step(data: ImageData) -> None:
    batches = list(data.train_loader(seed=5).epoch(3))
    for step in range(len(batches) + 1):
        assert equal(list(data.train_loader(seed=5).epoch(3, step)), batches[step:])


def test_seed_and_epoch_change_the_order(data: ImageData) -> None:
    first = list(data.train_loader(seed=5).epoch(0))
    for seed, epoch in ((5, 1), (6, 0)):
        other = list(data.train_loader(seed=seed).epoch(epoch))
        assert [y.tolist() for _, y in other] != [y.tolist() for _, y in first]


@pytest.mark.parametrize("kind", ["memory", "streamed"])
def test_seed_and_epoch_change_how_an_image_is_seen(
    kind: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = build(kind, image_folder, monkeypatch, cutout=False)
    # One image only, so that the order plays no part.
    loaders = [data.train_loader(seed=seed, indices=torch.tensor([2] * 4)) for seed in (5, 6)]
    first = list(loaders[0].epoch(0))
    assert not equal(first, list(loaders[0].epoch(1)))
    assert not equal(first, list(loaders[1].epoch(0)))


def test_unaugmented_training_images_come_in_order_and_complete(data: ImageData) -> None:
    indices = torch.tensor([20, 3, 3, 7, 0])
    loader = data.train_loader(seed=0, indices=indices, augment=False)
    batches = list(loader.epoch(0))
    assert (loader.num_images, len(loader)) == (5, 2)
    assert torch.cat([y for _, y in batches]).equal(data.train_labels[indices])
    assert torch.equal(batches[0][0][1], batches[0][0][2])
    assert equal(batches, list(loader.epoch(1)))


def test_test_images_come_once_in_order(data: ImageData) -> None:
    loader = data.test_loader(batch_size=5)
    assert (loader.num_images, len(loader)) == (6, 2)
    assert torch.cat([y for _, y in loader.epoch(0)]).equal(data.test_labels)


def test_global_random_state_is_neither_read_nor_changed(data: ImageData) -> None:
    before = torch.get_rng_state()
    data.search_split(seed=0)
    first = list(data.train_loader(seed=0).epoch(0))
    list(data.test_loader().epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert equal(list(data.train_loader(seed=0).epoch(0)), first)


def test_workers_change_nothing(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = build("streamed", image_folder, monkeypatch, workers=0).train_loader(seed=1)
    before = torch.get_rng_state()
    together = build("streamed", image_folder, monkeypatch, workers=2).train_loader(seed=1)
    # An epoch left in the middle must not leak into the next.
    next(together.epoch(7))
    for epoch, step in ((0, 0), (1, 3), (1, 5)):
        assert equal(list(together.epoch(epoch, step)), list(alone.epoch(epoch, step)))
    assert torch.equal(torch.get_rng_state(), before)


def numbered(count: int, batch_size: int) -> Loader:
    """A shuffled loader of images, each of a class of its own, so that the label tells the image."""
    data = MemoryData(
        "numbered",
        classes=[str(number) for number in range(count)],
        train_images=torch.zeros(count, 1, 2, 2, dtype=torch.uint8),
        train_labels=torch.arange(count),
        test_images=torch.zeros(count, 1, 2, 2, dtype=torch.uint8),
        test_labels=torch.arange(count),
        config=DataConfig(batch_size=batch_size),
    )
    return data.train_loader(seed=0)


def labels_of(batches: Iterator[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_each_training_image_comes_once_an_epoch() -> None:
    loader = numbered(10, batch_size=4)
    batches = labels_of(loader.epoch(0))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert (len(loader), loader.num_images) == (3, 10)
    assert sorted(itertools.chain(*batches)) == list(range(10))


def test_lone_last_training_image_is_left_out_but_another_one_each_epoch() -> None:
    loader = numbered(9, batch_size=4)
    assert (len(loader), loader.num_images) == (2, 8)
    left_out = set()
    for epoch in range(30):
        batches = labels_of(loader.epoch(epoch))
        assert [len(batch) for batch in batches] == [4, 4]
        left_out |= set(range(9)).difference(*batches)
    assert len(left_out) > 5


def test_every_order_is_equally_likely() -> None:
    loader = numbered(3, batch_size=3)
    orders = [tuple(labels_of(loader.epoch(epoch))[0]) for epoch in range(600)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert max(abs(count - 100) for count in counts) < 50


def test_start_beyond_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="3 steps; cannot start at step 4"):
        numbered(10, batch_size=4).epoch(0, 4)


def test_batch_larger_than_the_split_is_refused(data: ImageData) -> None:
    few = torch.arange(3)
    with pytest.raises(DataError, match=r"batch of 4 images is larger than the 3 .* --batch-size 3 or less"):
        data.train_loader(seed=0, indices=few)
    assert len(data.train_loader(seed=0, indices=few, augment=False)) == 1


def test_search_halves_are_disjoint_complete_and_depend_on_the_seed(data: ImageData) -> None:
    weights, architecture = data.search_split(seed=0)
    assert (len(weights), len(architecture)) == (10, 11)
    assert sorted(weights.tolist() + architecture.tolist()) == list(range(21))
    again, _ = data.search_split(seed=0)
    other, _ = data.search_split(seed=-1)
    assert torch.equal(weights, again)
    assert not torch.equal(weights, other)


@pytest.mark.parametrize("portion", [0.0, 1.0, -1.0])
def test_search_portion_must_leave_both_halves_something(data: ImageData, portion: float) -> None:
    with pytest.raises(DataError, match="--train-portion"):
        data.search_split(seed=0, train_portion=portion)


@settings(deadline=None, max_examples=40)
@given(
    counts=st.lists(st.integers(4, 30), min_size=2, max_size=6),
    portion=st.floats(0.3, 0.7),
    seed=st.integers(-(2**70), 2**70),
)
def test_split_divides_each_class_alike(counts: list[int], portion: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    names = [str(count) for count in counts]
    first, second = stratified_split(labels, first=portion, seed=seed, classes=names)
    assert torch.cat([first, second]).sort().values.equal(torch.arange(len(labels)))
    share = len(first) / len(labels)
    for label, count in enumerate(counts):
        assert abs((labels[first] == label).sum() - share * count) < 1


def test_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"class 'bee' has 1 image\(s\)"):
        stratified_split(torch.tensor([0, 0, 1]), first=0.5, seed=0, classes=["ant", "bee"])


def test_too_few_images_for_a_tiny_part() -> None:
    with pytest.raises(DataError, match=r"cannot be split 0\.9 to 0\.1"):
        stratified_split(torch.tensor([0, 0, 1, 1]), first=0.9, seed=0, classes=["ant", "bee"])


def test_random_streams_differ_in_every_part_of_the_key() -> None:
    keys = [("a", 0, 1), ("a", 1, 0), ("a", 0), ("b", 0, 1), ("a", 2**32, 1), ("a", -1, 1), ("a", 0, 1, 0)]
    seeds = {generator(*key).initial_seed() for key in keys}
    assert len(seeds) == len(keys)
    assert len({generator("a", 0, epoch).initial_seed() for epoch in range(1000)}) == 1000


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_the_gpu_are_those_of_the_cpu(data: ImageData) -> None:
    on_gpu = [(x.cpu(), y.cpu()) for x, y in data.train_loader(seed=0, device="cuda").epoch(0)]
    for (x, y), (other_x, other_y) in zip(on_gpu, data.train_loader(seed=0).epoch(0), strict=True):
        torch.testing.assert_close(x, other_x)
        assert torch.equal(y, other_y)
