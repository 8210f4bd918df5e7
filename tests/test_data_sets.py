"""The registry, and each data set in it but the image folders."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from nas.data import DataConfig, DataError, dataset, load
from nas.data import datasets as registry
from nas.data.images import sample


def test_unknown_data_set_lists_what_there_is() -> None:
    with pytest.raises(
        DataError, match=r"no data set 'cifr10'; did you mean cifar10.*digits, cifar10, cifar100, imagenet"
    ):
        load(DataConfig(dataset="cifr10"))


def test_a_new_data_set_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BUILDERS", dict(registry.BUILDERS))

    @dataset("tiny")
    def tiny(config: DataConfig) -> Any:
        return registry.fake(dataclasses.replace(config, fake_train=4, fake_classes=2))

    assert len(load(DataConfig(dataset="tiny")).train_labels) == 4


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 1), ("workers", -1), ("image_size", 0), ("fake_classes", 1)]
)
def test_values_out_of_range(field: str, value: int) -> None:
    flag = field.replace("_", "-")
    with pytest.raises(ValueError, match=f"--{flag} is {value}; it must be"):
        DataConfig(**{field: value})


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_folder_given_to_a_data_set_without_one(name: str) -> None:
    with pytest.raises(DataError, match="--dataset folder"):
        load(DataConfig(dataset=name, data="images"))


@pytest.mark.parametrize("name", ["imagenet", "folder"])
def test_data_set_in_a_folder_needs_one(name: str) -> None:
    with pytest.raises(DataError, match=f"--dataset {name} needs --data FOLDER"):
        load(DataConfig(dataset=name))
    with pytest.raises(DataError, match="--download fetches cifar10 and cifar100 only"):
        load(DataConfig(dataset=name, data=".", download=True))


def test_digits() -> None:
    data = load(DataConfig())
    assert (data.name, data.num_classes, data.channels, data.image_size) == ("digits", 10, 1, (8, 8))
    assert (len(data.train_labels), len(data.test_labels), data.streamed) == (1437, 360, False)
    for labels in (data.train_labels, data.test_labels):
        counts = torch.bincount(labels)
        assert counts.min() / counts.max() > 0.94
    # A mirrored digit is no digit.
    plain, _ = next(data.train_loader(seed=0, augment=False).epoch(0))
    still = load(DataConfig(crop_padding=0)).train_loader(seed=0, indices=torch.arange(64))
    shuffled, _ = next(still.epoch(0))
    assert sorted(plain.flatten(1).tolist()) == sorted(shuffled.flatten(1).tolist())


def test_without_augmentation_images_are_only_shuffled() -> None:
    config = {"dataset": "fake", "fake_train": 40, "fake_test": 4, "image_size": 8, "batch_size": 40}
    plain, _ = next(load(DataConfig(**config)).train_loader(seed=0, augment=False).epoch(0))
    for augment in (False, True):
        images, _ = next(load(DataConfig(**config, augment=augment)).train_loader(seed=0).epoch(0))
        assert not torch.equal(images, plain)
        same = sorted(images.flatten(1).tolist()) == sorted(plain.flatten(1).tolist())
        assert same == (not augment)


def test_digits_are_scaled_on_demand() -> None:
    assert next(load(DataConfig(image_size=16)).test_loader().epoch(0))[0].shape == (64, 1, 16, 16)


def test_fake() -> None:
    config = DataConfig(
        dataset="fake",
        fake_train=30,
        fake_test=6,
        fake_classes=3,
        fake_channels=2,
        image_size=5,
        batch_size=30,
    )
    data = load(config)
    assert (data.channels, data.image_size, data.num_classes) == (2, (5, 5), 3)
    assert torch.bincount(data.train_labels).tolist() == [10, 10, 10]
    again, _ = next(load(config).train_loader(seed=0, augment=False).epoch(0))
    images, _ = next(data.train_loader(seed=0, augment=False).epoch(0))
    assert torch.equal(images, again)


def test_some_of_the_images_keep_the_share_of_each_class() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    for most in (3, 10, 50, 99, 100):
        chosen = sample(labels, most, seed=0, part="train")
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        counts = torch.bincount(labels[chosen], minlength=3)
        assert counts.sum() == most
        assert ((counts - most * torch.tensor([0.6, 0.3, 0.1])).abs() < 2).all()
        assert counts.min() >= 1
    keys = ((0, "train"), (1, "train"), (0, "test"))
    first, other_seed, other_part = (sample(labels, 50, seed=seed, part=part).tolist() for seed, part in keys)
    assert first == sample(labels, 50, seed=0, part="train").tolist()
    assert first != other_seed != other_part != first
    for most in (2, 101):
        with pytest.raises(DataError, match=f"--test-images is {most}, but there are 100 of 3 classes to test on"):
            sample(labels, most, seed=0, part="test")


def test_some_of_the_images_are_the_same_wherever_they_are() -> None:
    config = {"dataset": "fake", "fake_train": 40, "fake_test": 20, "image_size": 8}
    whole = load(DataConfig(**config))
    data = load(DataConfig(**config, train_images=20, test_images=10))
    chosen = sample(whole.train_labels, 20, seed=0, part="train")
    everything = next(whole.train_loader(seed=0, indices=chosen, augment=False).epoch(0))
    some = next(data.train_loader(seed=0, augment=False).epoch(0))
    assert torch.equal(everything[1], some[1])
    # Normalized by the statistics of what they learn from.
    assert not torch.equal(everything[0], some[0])
    assert (len(data.train_labels), len(data.test_labels)) == (20, 10)


def test_cutout_is_half_the_short_side_unless_given() -> None:
    def removed(**fields: Any) -> float:
        config = DataConfig(dataset="fake", fake_train=128, batch_size=128, crop_padding=0, **fields)
        images, _ = next(load(config).train_loader(seed=0).epoch(0))
        return float((images == 0).all(dim=1).float().mean(dim=(1, 2)).max())

    assert removed() == 0
    assert removed(cutout=True) == 0.25
    assert removed(cutout=True, cutout_length=8) == 0.0625


def test_imagenet_is_streamed_from_train_and_val(tmp_path: Path) -> None:
    for part, count in (("train", 2), ("val", 1), ("test", 3)):
        for name in ("n01440764", "n01443537"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (60, 40)).save(tmp_path / part / name / f"{number}.JPEG")
    config = DataConfig(dataset="imagenet", data=str(tmp_path), batch_size=2, workers=0)
    data = load(config)
    assert (data.streamed, data.image_size, data.channels) == (True, (224, 224), 3)
    assert data.classes == ("n01440764", "n01443537")
    assert (len(data.train_labels), len(data.test_labels)) == (4, 2)
    images, _ = next(data.test_loader().epoch(0))
    assert images.shape == (2, 3, 224, 224)
    # Black, normalized with the published constants.
    black = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(images[0, :, 0, 0], black)
    small = load(dataclasses.replace(config, image_size=32))
    assert next(small.train_loader(seed=0).epoch(0))[0].shape == (2, 3, 32, 32)


# CIFAR: torchvision's own reader on tiny files of the same format.


def tiny(source: type[CIFAR10]) -> type[CIFAR10]:
    """Return the data set with few images and without checksums."""

    class Tiny(source):
        train_list: ClassVar = [["train_file", None]]
        test_list: ClassVar = [["test_file", None]]
        meta: ClassVar = {"filename": "meta_file", "key": source.meta["key"], "md5": None}

        def download(self) -> None:
            write_tiny(source, Path(self.root))

    Tiny.__name__ = source.__name__
    return Tiny


def write_tiny(source: type[CIFAR10], root: Path) -> None:
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    labels = "labels" if source is CIFAR10 else "fine_labels"
    for name, count in (("train_file", 6), ("test_file", 4)):
        pixels = np.arange(count * 3072).reshape(count, 3072) % 251
        entry = {"data": pixels.astype(np.uint8), labels: [0, 1] * (count // 2)}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "meta_file").write_bytes(pickle.dumps({source.meta["key"]: ["ant", "bee"]}))


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for source in (CIFAR10, CIFAR100):
        monkeypatch.setattr(torchvision.datasets, source.__name__, tiny(source))
    return str(request.param)


def test_cifar(cifar: str, tmp_path: Path) -> None:
    write_tiny(CIFAR10 if cifar == "cifar10" else CIFAR100, tmp_path)
    data = load(DataConfig(dataset=cifar, data=str(tmp_path), batch_size=6))
    assert (data.name, data.classes, data.image_size) == (cifar, ("ant", "bee"), (32, 32))
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1] * 3, [0, 1] * 2)
    # The rows of the file are channel by channel; undo the normalization to see that they still are.
    images, _ = next(data.train_loader(seed=0, augment=False).epoch(0))
    pixels = torch.from_numpy((np.arange(6 * 3072) % 251).reshape(6, 3, 32, 32)).float()
    mean, std = (
        pixels.mean(dim=(0, 2, 3), keepdim=True),
        pixels.std(dim=(0, 2, 3), keepdim=True, correction=0),
    )
    torch.testing.assert_close(images * std + mean, pixels, atol=1e-2, rtol=0)


def test_cifar_that_is_not_there(cifar: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is missing from .*; pass --download") as caught:
        load(DataConfig(dataset=cifar, data=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_download_leaves_the_data_set_and_nothing_else(cifar: str, tmp_path: Path) -> None:
    config = DataConfig(dataset=cifar, data=str(tmp_path / "data"), download=True)
    load(dataclasses.replace(config, batch_size=2))
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == [
        getattr(torchvision.datasets, cifar.upper()).base_folder
    ]


def test_failed_download_leaves_nothing_half_written(
    cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: CIFAR10) -> None:
        (Path(self.root) / "half.tar.gz").write_text("half")
        raise OSError("no network")

    monkeypatch.setattr(getattr(torchvision.datasets, cifar.upper()), "download", fail)
    with pytest.raises(DataError, match=r"could not fetch .*\(no network\); check the network"):
        load(DataConfig(dataset=cifar, data=str(tmp_path), download=True))
    assert not list(tmp_path.iterdir())


def test_no_second_download(cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(dataset=cifar, data=str(tmp_path), download=True)
    load(config)
    monkeypatch.setattr(getattr(torchvision.datasets, cifar.upper()), "download", lambda self: pytest.fail("again"))
    load(config)
