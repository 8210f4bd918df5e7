"""Runs and their data: resumed on others, evaluated on others, and predictions of single images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import train_eval
import train_search
from nas.data import DataConfig, DataError, load, manifest
from nas.data import datasets as registry
from nas.errors import UsageError
from nas.networks import weights
from nas.predict import predict
from nas.runs.same_data import report_test_images

TINY = ("--layers", "1", "--init-channels", "2", "--epochs", "1", "--batch-size", "4", "--device", "cpu")
TRAIN = (*TINY, "--arch", "DARTS_V2", "--dataset", "folder", "--workers", "0")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def write(path: Path, *, seed: int = 0, size: tuple[int, int] = (8, 8), channels: tuple[int, ...] = (3,)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def train(images: Path, run: Path, *more: str) -> dict[str, Any]:
    return train_eval.command([*TRAIN, "--data", str(images), "--run-dir", str(run), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images`, and a training on them as `run`."""
    root = tmp_path_factory.mktemp("finished")
    for label, name in enumerate(("ant", "bee")):
        for part, count in (("train", 6), ("test", 3)):
            for number in range(count):
                seed = 100 * label + number + 10 * (part == "test")
                write(root / "images" / part / name / f"{number}.png", seed=seed)
    train(root / "images", root / "run")
    return root


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of it: folders may be moved."""
    return shutil.copytree(finished, tmp_path / "place")


def evaluate(place: Path, *more: str) -> dict[str, Any]:
    return train_eval.command(
        ["--evaluate", str(place / "run"), "--data", str(place / "images"), "--device", "cpu", *more]
    )


def rename_class(root: Path) -> None:
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "cat")


def add_class(root: Path) -> None:
    for part in ("train", "test"):
        write(root / part / "cat" / "0.png")


def make_grey(root: Path) -> None:
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)


def enlarge(root: Path) -> None:
    for path in root.rglob("*.png"):
        Image.open(path).resize((9, 9)).save(path)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "class renamed": (rename_class, "1 class(es) gone (bee); 1 class(es) new (cat)"),
    "class added": (add_class, "1 class(es) new (cat)"),
    "images added": (lambda r: write(r / "train/ant/9.png"), "training images: 1 new, 0 gone, 0 changed"),
    "image removed": (lambda r: (r / "test/ant/0.png").unlink(), "test images: 0 new, 1 gone, 0 changed"),
    "image changed": (lambda r: write(r / "train/bee/0.png", seed=9), "training images: 0 new, 0 gone, 1 changed"),
    "image renamed": (lambda r: (r / "train/ant/0.png").rename(r / "train/ant/z.png"), "1 new, 1 gone, 0 changed"),
    "channels": (make_grey, "channels was 3, is 1"),
    "size": (enlarge, "image size was 8x8, is 9x9"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_no_run_is_resumed_on_other_images(case: str, place: Path) -> None:
    change, told = CHANGES[case]
    change(place / "images")
    with pytest.raises(UsageError, match="the images are not those that the run began with") as caught:
        train(place / "images", place / "run", "--resume")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_has_only_moved_is_the_same(place: Path) -> None:
    train(place / "images", place / "run", "--resume")
    rows = (place / "run" / "predictions.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1::3]] == [["test/ant/0.png", "ant"], ["test/bee/0.png", "bee"]]


def test_a_search_is_not_resumed_on_other_images(place: Path) -> None:
    data, run = place / "images", place / "search"
    flags = [*TINY, "--dataset", "folder", "--data", str(data), "--run-dir", str(run), "--nodes", "1"]
    train_search.command(flags)
    kept = manifest.read(run)
    assert (kept.classes, kept.train.per_class, kept.test.per_class) == (("ant", "bee"), (6, 6), (3, 3))
    write(data / "train/ant/9.png")
    with pytest.raises(UsageError, match="training images: 1 new, 0 gone, 0 changed"):
        train_search.command([*flags, "--resume"])


def test_the_log_begins_with_what_was_found(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "images/train/ant/notes.txt").touch()
    (place / "run" / "log.txt").unlink()
    train(place / "images", place / "run", "--resume")
    found = "found 18 images of 2 classes: 12 to train on, 6 to test on; colour, resized to 8x8 pixels"
    for text in (capsys.readouterr().out, (place / "run" / "log.txt").read_text()):
        assert text.startswith(found)
        assert text.splitlines()[1].startswith("left out: 1 .txt files")


EVALUATED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda r: None, ""),
    "a new image": (lambda r: write(r / "test/ant/9.png", seed=77), "1 new, 0 gone, 0 changed; 0 of 7 were trained on"),
    "one gone": (lambda r: (r / "test/ant/0.png").unlink(), "0 new, 1 gone, 0 changed; 0 of 5 were trained on"),
    "a copy of a training image": (
        lambda r: (r / "test/ant/9.png").write_bytes((r / "train/ant/1.png").read_bytes()),
        "1 new, 0 gone, 0 changed; 1 of 7 were trained on",
    ),
    "other sizes": (enlarge, "0 new, 0 gone, 6 changed; 0 of 6 were trained on"),
}


@pytest.mark.parametrize("case", EVALUATED)
def test_an_evaluation_says_which_test_images_are_others(
    case: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = EVALUATED[case]
    change(place / "images")
    evaluate(place)
    out = capsys.readouterr().out
    assert "resized to 8x8 pixels" in out  # as the network was trained, whatever the files are
    assert told in out
    assert bool(told) == ("note:" in out)


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"version": 2}', b"[" * 10**5, b"\xff"])
def test_an_evaluation_goes_on_without_a_manifest(
    content: bytes | None, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place / "run" / manifest.NAME
    path.unlink() if content is None else path.write_bytes(content)
    report_test_images(load(DataConfig()), place / "run")
    assert "cannot tell whether the test images are those of the training run" in capsys.readouterr().out


def test_an_evaluation_at_another_size_is_refused(place: Path) -> None:
    with pytest.raises(ValueError, match=r"--image-size is 16, but the network was trained on images of 8x8 pixels"):
        evaluate(place, "--image-size", "16")


def test_the_manifest_tells_arrays_apart(tmp_path: Path) -> None:
    fake = {"dataset": "fake", "fake_train": 12, "fake_test": 4, "fake_classes": 2, "image_size": 4}
    first, other = (load(DataConfig(**fake, split_seed=seed)).manifest() for seed in (0, 1))
    assert manifest.changes(first, first) == []
    assert manifest.changes(first, other) == [
        "training images: 12 then, 12 now, but different",
        "test images: 4 then, 4 now, but different",
    ]
    assert manifest.from_text(manifest.to_text(first)) == first
    assert json.loads(manifest.to_text(first))["train"]["per_class"] == [6, 6]


def test_the_manifest_of_many_files_is_short(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(dataset="folder", data=str(place / "images"))
    monkeypatch.setattr(manifest, "MOST_FILES", 5)
    before = load(config).manifest()
    assert (before.train.entries, before.train.images) == (b"", 12)
    write(place / "images/train/ant/9.png")
    assert manifest.changes(before, load(config).manifest()) == ["training images: 12 then, 13 now"]


# --- Predictions ------------------------------------------------------------------------------------------------


def turned() -> tuple[Image.Image, dict[str, Any]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(noise(20, 12, 3)), {"exif": exif}


def palette() -> Image.Image:
    return Image.fromarray(noise(9, 11, 3)).quantize(16)


#: Images by the name of their file.
KINDS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "16 bits.png": (Image.fromarray(noise(10, 10).astype(np.uint16) * 15), {}),
    "12 bits.tif": (Image.fromarray(noise(9, 9).astype(np.int32) * 16), {}),
    "turned.jpg": turned(),
    "wide.jpg": (Image.fromarray(noise(8, 200, 3)), {}),
    "large.jpg": (Image.fromarray(noise(300, 400, 3)), {"quality": 90}),
    "tall.png": (Image.fromarray(noise(40, 8, 3)), {}),
    "transparent.png": (Image.fromarray(noise(12, 12, 4)), {}),
    "grey.png": (Image.fromarray(noise(13, 13)), {}),
    "palette.gif": (palette(), {}),
    "small.bmp": (Image.fromarray(noise(3, 3, 3)), {}),
    "one bit.png": (Image.fromarray(noise(14, 14)).convert("1"), {}),
    "print.tif": (Image.fromarray(noise(14, 10, 4), "CMYK"), {}),
}

GREY = ("16 bits.png", "12 bits.tif", "grey.png", "one bit.png")


class Seen(torch.nn.Module):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x)
        return torch.stack([x.mean(dim=(1, 2, 3)), -x.mean(dim=(1, 2, 3))], dim=1)


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_prediction_sees_what_the_evaluation_sees(
    streamed: bool, grey: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor by tensor, for files of every kind."""
    if streamed:
        monkeypatch.setattr(registry, "MEMORY_LIMIT", 0)
    kinds = {
        k: v for k, v in KINDS.items() if not grey or k in ("16 bits.png", "12 bits.tif", "grey.png", "one bit.png")
    }
    for part in ("train", "test"):
        for label in ("ant", "bee"):
            (tmp_path / part / label).mkdir(parents=True)
            for name, (image, options) in kinds.items():
                image.save(tmp_path / part / label / name, **options)
    images = load(DataConfig(dataset="folder", data=str(tmp_path), workers=0, batch_size=5))
    assert (images.channels, images.streamed, images.view.depth) == (1 if grey else 3, streamed, 12)
    expected = torch.cat([x for x, _ in images.test_loader().epoch(0)])
    mean, std = (tuple((values.double() / 255).tolist()) for values in (images.mean, images.std))
    view, network = images.view, Seen()
    trained = weights.TrainedNetwork(
        network, None, view.channels, view.image_size, images.classes, mean, std, view.resize, view.depth
    )
    paths = [tmp_path / "test" / label / name for label in ("ant", "bee") for name in sorted(kinds)]
    predicted = trained.predict(paths, batch_size=7)
    seen = torch.cat(network.batches)
    assert torch.equal(seen, expected)
    files = [str(path) for path in paths]
    assert list(predict(trained, files, batch_size=7)) == list(zip(files, predicted, strict=True))
    assert [p.probabilities[0] for p in predicted] == pytest.approx(
        torch.sigmoid(2 * expected.mean(dim=(1, 2, 3))).tolist(), abs=1e-6
    )


@pytest.fixture
def network(finished: Path) -> weights.TrainedNetwork:
    return weights.load(finished / "run" / weights.NAME)


def test_paths_images_and_arrays_are_predicted_alike(network: weights.TrainedNetwork, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write(path, seed=5, size=(12, 10))
    with Image.open(path) as image:
        image.load()
    array = np.asarray(image)
    (alone,) = network.predict(path)
    for prediction in network.predict([str(path), image, array], batch_size=2):
        # Of another size a batch may be computed in another order.
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
    assert alone.name == alone.classes[int(np.argmax(alone.probabilities))]
    assert alone.probability == max(alone.probabilities)
    assert sum(alone.probabilities) == pytest.approx(1)
    assert network.predict([]) == []
    for grey in (array[:, :, 0], array[:, :, :1]):
        assert network.predict(grey) == network.predict(Image.fromarray(array[:, :, 0]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "cannot read the image nowhere.png"),
        (np.zeros((4, 4), np.float32), "of float32 is not an image"),
        (np.zeros((3, 5, 5), np.uint8), r"\(3, 5, 5\) of uint8 is not an image"),
        (np.zeros((2, 4, 4, 3), np.uint8), "is not an image"),
        (torch.zeros(3, 4, 4), "Tensor is not an image"),
    ],
)
def test_what_cannot_be_predicted(image: Any, message: str, network: weights.TrainedNetwork) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        network.predict(image)
    assert isinstance(caught.value, DataError) == isinstance(image, str)
