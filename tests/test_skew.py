"""A network in use sees each kind of image file as its training did: no skew between training and serving."""

from __future__ import annotations

import csv
import itertools
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image, TiffImagePlugin

import train_eval
from nas import data, predict
from nas.data import DataConfig, DataError, View, datasets
from nas.engine.meter import Meter, Predictions, evaluation_step, measure
from nas.networks import weights
from nas.networks.weights import TrainedNetwork

SERVE = Path(__file__).parent.parent / "examples" / "serve.py"
CLASSES = ("ant", "bee", "cat")
#: (width, height); the networks take 12x12 and 10x12.
SIZES = ((12, 12), (10, 12), (5, 4), (37, 23), (1, 1), (3, 150), (150, 3), (1, 60), (60, 1), (12, 10), (11, 13))
#: Mode, and the formats that files of it have.
FILES = {
    **{"1": ("png", "tiff"), "L": ("png", "jpg", "bmp"), "LA": ("png",), "P": ("png", "gif")},
    **{
        "RGB": ("png", "jpg", "webp", "tiff"),
        "RGBA": ("png", "webp"),
        "CMYK": ("jpg", "tiff"),
        "YCbCr": ("jpg", "tiff"),
    },
    **{"I;16": ("png", "tiff"), "I": ("tiff",)},
}
ORIENTATION = 0x0112


def noise(mode: str, size: tuple[int, int], bits: int = 12) -> Image.Image:
    """Random pixels; `bits` of them where the mode has more than 8."""
    stream, (W, H) = np.random.default_rng(sum(size)), size
    if mode in ("I;16", "I"):
        return Image.fromarray(stream.integers(2**bits, size=(H, W)).astype(np.uint16 if mode == "I;16" else np.int32))
    channels = 4 if mode in ("RGBA", "CMYK") else 3
    image = Image.fromarray(stream.integers(256, size=(H, W, channels), dtype=np.uint8))
    if mode == "CMYK":
        return Image.merge(mode, image.split())
    return image.quantize(16) if mode == "P" else image.convert(mode)


def write_files(folder: Path, bits: int) -> None:
    """About a hundred files of every mode and size, in three classes."""
    places, sizes = itertools.cycle(CLASSES), itertools.cycle(SIZES)

    def save(image: Image.Image, name: str, **options: Any) -> None:
        image.save(folder / next(places) / name, **options)

    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for mode, kinds in FILES.items():
        for kind, _ in itertools.product(kinds, range(4)):
            size = next(sizes)
            name = f"{mode.replace(';', '')}-{size[0]}x{size[1]}.{kind}"
            save(noise(mode, size, bits), name)
    for mode, key in (("P", 3), ("L", 7), ("RGB", (1, 2, 3))):
        image = noise(mode, (9, 14))
        image.putpixel((0, 0), key)
        save(image, f"{mode}-transparent.png", transparency=key)
    for turned in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = turned
        for kind in ("jpg", "png"):
            save(noise("RGB", (9, 17)), f"turned{turned}.{kind}", exif=exif)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = 6
    save(noise("RGB", (9, 17)), "turned.tiff", tiffinfo=tags)
    for mode in ("L", "RGB", "CMYK"):  # decoded smaller where that is done
        save(noise(mode, (320, 200)), f"large-{mode}.jpg")


def write_images(part: Path, modes: tuple[str, ...], size: tuple[int, int], bits: int) -> None:
    """A part of a data set whose images have all that size, and pixels of so many bits."""
    for name in CLASSES:
        (part / name).mkdir(parents=True)
        for number, mode in enumerate(modes):
            image = noise(mode, size, bits)
            if mode == "I;16":
                image.putpixel((0, 0), 2**bits - 1)
            image.save(part / name / f"{number}.png")


def evaluated(trained: TrainedNetwork, config: DataConfig) -> tuple[list[int], list[float]]:
    """The class and the probability of each test image, as a training measures them."""
    images, found = trained.normalized(data.load(config, trained.view)), Predictions(trained.temperature)
    step = partial(evaluation_step, trained.network, precision="fp32")
    measure(step, images.test_loader().epoch(0), Meter(), found)
    return found.read()


def served(monkeypatch: pytest.MonkeyPatch, *argv: str) -> dict[str, Any]:
    """What the example defines, after it has printed the classes of the files."""
    monkeypatch.setattr(sys, "argv", [str(SERVE), *argv])
    return runpy.run_path(str(SERVE))


def with_resize(path: Path, resize: str) -> None:
    """Changes what an ONNX file says."""
    model = onnx.load(path)
    (rule,) = [entry for entry in model.metadata_props if entry.key == "resize"]
    rule.value = resize
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modes", "size", "bits", "own"),
    [(("L", "LA", "L", "I;16"), (12, 12), 12, "fit"), (("RGB", "RGBA", "L", "I;16"), (10, 12), 16, "crop")],
    ids=["grey", "colour"],
)
def test_training_and_serving_agree_on_every_file(
    modes: tuple[str, ...],
    size: tuple[int, int],
    bits: int,
    own: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Evaluation, predict, ONNX and torch.export: the first with its own loaders, the last two read by the example."""
    run, others, file, pt2 = (str(tmp_path / name) for name in ("run", "others", "network.onnx", "network.pt2"))
    write_images(tmp_path / "images" / "train", modes, size, bits)
    write_images(tmp_path / "images" / "test", modes, size, bits)
    write_images(tmp_path / "others" / "train", modes[:2], size, bits)
    write_files(tmp_path / "others" / "test", bits)
    if own == "crop":
        monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    folder = ("--dataset", "folder", "--workers", "0", "--device", "cpu", "--data")
    small = ("--arch", "resnet8", "--preset", "smoke", "--epochs", "1", "--batch-size", "4", "--hold-out", "0.2")
    train_eval.command([*folder, str(tmp_path / "images"), *small, "--run-dir", run])
    train_eval.command(["--evaluate", run, *folder, others, "--onnx", file, "--pt2", pt2])
    trained, exported = weights.load(run), torch.export.load(pt2).module()
    assert trained.temperature != 1
    assert trained.view == View(1 if own == "fit" else 3, size[::-1], own, bits)
    with open(f"{run}/predictions.csv", newline="") as rows:
        tables = {row["image"]: (row["predicted"], float(row["probability"])) for row in csv.DictReader(rows)}
    paths = [f"{others}/{name}" for name in tables]
    assert len(paths) > 100

    for resize in ("fit", "crop"):
        view = replace(trained, resize=resize)
        with_resize(Path(file), resize)
        capsys.readouterr()
        example = served(monkeypatch, file, *paths)
        printed = [line.rsplit(" ", 2) for line in capsys.readouterr().out.splitlines()]
        pixels = np.concatenate([example["pixels_of"](path) for path in paths])
        np.testing.assert_array_equal(np.rint(255 * pixels), np.stack([view.view.read(path) for path in paths]))

        expected = [prediction.probabilities for prediction in view.predict(paths)]
        (onnx_logits,) = example["session"].run(["logits"], {"images": pixels})
        with torch.no_grad():
            pt2_logits = exported(torch.from_numpy(pixels))
        for logits in (torch.from_numpy(onnx_logits), pt2_logits):
            np.testing.assert_allclose(logits.softmax(dim=1), expected, rtol=0, atol=1e-5)

        best, probabilities = evaluated(view, DataConfig(dataset="folder", data=others, workers=0))
        np.testing.assert_allclose(probabilities, np.max(expected, axis=1), rtol=0, atol=1e-5)
        assert [CLASSES[index] for index in best] == [prediction.name for prediction in view.predict(paths)]
        if resize == own:
            assert list(tables.values()) == list(zip([CLASSES[index] for index in best], probabilities, strict=True))
            commanded = predict.predict(trained, paths, batch_size=64)
            assert [outcome.probabilities for _, outcome in commanded] == expected
        for path, line, row in zip(paths, printed, expected, strict=True):
            assert line[:2] == [f"{path}:", CLASSES[int(np.argmax(row))]]
            assert float(line[2]) == pytest.approx(max(row), abs=1e-4)

    floats, brighter = str(tmp_path / "floats.tiff"), str(tmp_path / "brighter.tiff")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(floats)
    Image.fromarray(np.full((4, 4), 2**bits, np.int32)).save(brighter)
    for path, told in ((floats, "floating-point"), (brighter, f"{2**bits - 1}")):
        with pytest.raises(DataError, match=told):
            trained.predict(path)
        with pytest.raises(ValueError, match=told):
            example["pixels_of"](path)
