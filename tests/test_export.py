"""A network written for other programs computes what it computes here."""

from __future__ import annotations

import itertools
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image

import nas
import spaces
import train_eval
from nas import data
from nas.data import DataConfig
from nas.networks import export, weights
from nas.networks.architecture import HandmadeArchitecture
from nas.networks.export import METADATA, Classifier, to_onnx, to_pt2
from nas.networks.handmade import HandmadeConfig
from nas.networks.weights import TrainedNetwork
from tests.tiny import TRAIN

SERVE = Path(__file__).parent.parent / "examples" / "serve.py"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train_eval.command([*TRAIN, "--epochs", "1", "--auxiliary", "--run-dir", str(tmp_path / "run")])
    return tmp_path / "run"


def trained_network(channels: int = 3, **others: Any) -> TrainedNetwork:
    """A hand-made network of random weights for images (channels, 12, 10)."""
    architecture = HandmadeArchitecture(name="hbnet8", config=HandmadeConfig())
    network = architecture.build(in_channels=channels, image_size=(12, 10), num_classes=2).eval()
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2,) * channels
    found = TrainedNetwork(network, architecture, channels, (12, 10), ("cat", "dog"), mean, std, "fit", 16)
    return replace(found, **others)


@pytest.mark.slow
def test_exported_networks_give_the_same_logits_for_any_batch(run: Path, tmp_path: Path) -> None:
    file, pt2 = tmp_path / "network.onnx", tmp_path / "network.pt2"
    train_eval.command(["--evaluate", str(run), "--device", "cpu", "--onnx", str(file), "--pt2", str(pt2)])
    extra = {METADATA: ""}
    loaded = torch.export.load(pt2, extra_files=extra).module()
    trained = weights.load(run / weights.NAME)
    for batch in (1, 5):
        images = torch.rand(batch, 3, 8, 8)
        with torch.no_grad():
            expected = Classifier(trained)(images)
            torch.testing.assert_close(loaded(images), expected, rtol=0, atol=1e-4)
            torch.testing.assert_close(export.onnx_runner(file.read_bytes())(images), expected, rtol=0, atol=1e-4)
    told = json.loads(extra[METADATA])
    assert told == export.metadata(trained)
    assert told["optinas"] == nas.__version__
    assert (told["classes"], told["channels"], told["image_size"]) == (list(trained.classes), 3, [8, 8])
    assert (tuple(told["mean"]), tuple(told["std"])) == (trained.mean, trained.std)


#: Files of every kind that people have: mode, format, and what is saved with them.
KINDS: list[tuple[str, str, dict[str, Any]]] = [
    *(("RGB", name, {}) for name in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")),
    *(("L", name, {}) for name in ("PNG", "JPEG", "TIFF", "PPM")),
    *(("LA", "PNG", {}), ("P", "PNG", {}), ("P", "GIF", {}), ("P", "PNG", {"transparency": 3})),
    *(("RGB", "PNG", {"transparency": (9, 9, 9)}), ("L", "PNG", {"transparency": 9})),
    *(("RGBA", name, {}) for name in ("PNG", "WEBP", "TIFF")),
    *(("CMYK", "JPEG", {}), ("CMYK", "TIFF", {}), ("YCbCr", "JPEG", {}), ("1", "PNG", {}), ("1", "TIFF", {})),
    *(("I;16", "PNG", {}), ("I;16", "TIFF", {}), ("I", "TIFF", {})),
]
#: Width and height: one pixel, the network's own, smaller, tall, wide, and one that JPEG decodes smaller.
SIZES = [(1, 1), (10, 12), (7, 5), (3, 50), (60, 9), (97, 130)]


def write_every_kind(folder: Path, *, number: int) -> None:
    """As many images of all kinds and sizes in turn; half of the JPEG files were taken with the camera turned."""
    for i in range(number):
        (mode, kind, options), (width, height) = KINDS[i % len(KINDS)], SIZES[i % len(SIZES)]
        pixels = np.random.default_rng(i).integers(4096, size=(height, width, 3), dtype=np.uint16)
        if mode.startswith("I"):  # 12 bits of 16
            image = Image.fromarray(pixels[..., 0].astype(np.int32) if mode == "I" else pixels[..., 0].copy())
        else:
            image = Image.fromarray((pixels >> 4).astype(np.uint8))
            if mode in ("LA", "RGBA"):
                image.putalpha(Image.fromarray((pixels[..., 0] & 255).astype(np.uint8)))
            image = image.convert(mode)
        if kind == "JPEG" and i % 2:
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 1 + i % 8
            options = {**options, "exif": exif}
        image.save(folder / f"{i}.{kind.lower()}", kind, **options)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 1])
def test_every_program_predicts_the_same_of_every_kind_of_image(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As measured in a training: `predict`, ONNX Runtime in the example that serves, and a program of torch.export."""
    for part, name in itertools.product(("train", "test"), ("cat", "dog")):
        (tmp_path / "images" / part / name).mkdir(parents=True)
        write_every_kind(tmp_path / "images" / part / name, number=len(KINDS) if part == "train" else 100)
    trained = trained_network(channels, depth=12, temperature=1.5)
    file, pt2 = tmp_path / "network.onnx", tmp_path / "network.pt2"
    to_onnx(trained, file)
    to_pt2(trained, pt2)
    exported = torch.export.load(pt2).module()
    for own in (trained, replace(trained, resize="crop")):
        images = data.load(DataConfig(dataset="folder", data=str(tmp_path / "images"), workers=0), own.view)
        assert len(images.test_labels) == 200
        assert images.test_names is not None
        paths = [str(tmp_path / "images" / name) for name in images.test_names]
        with torch.no_grad():
            logits = torch.cat([own.network(batch) for batch, _ in own.normalized(images).test_loader().epoch(0)])
            expected = (logits / 1.5).softmax(dim=1)
            pixels = torch.from_numpy(np.stack([own.view.read(path) for path in paths])) / 255
            torch.testing.assert_close(exported(pixels).softmax(dim=1), expected, rtol=0, atol=1e-5)
        predicted = own.predict(paths)
        found = torch.tensor([prediction.probabilities for prediction in predicted])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        model = onnx.load(file)
        (rule,) = [entry for entry in model.metadata_props if entry.key == "resize"]
        rule.value = own.resize
        onnx.save(model, file)
        monkeypatch.setattr(sys, "argv", ["serve.py", str(file), *paths])
        runpy.run_path(str(SERVE))
        lines = [line.rsplit(" ", 2) for line in capsys.readouterr().out.splitlines()]
        for path, (told, name, probability), prediction in zip(paths, lines, predicted, strict=True):
            assert (told, name) == (f"{path}:", prediction.name)
            assert float(probability) == pytest.approx(prediction.probability, abs=1e-5)


def test_what_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, path = trained_network(), tmp_path / "network.onnx"
    monkeypatch.setattr(export, "onnx_bytes", lambda *_: b"")
    for wrong, told in ((0.5, "5.0e-01 in a logit and 0.0e"), (float("nan"), "nan in a logit")):
        monkeypatch.setattr(export, "onnx_runner", lambda _, wrong=wrong: lambda x: Classifier(trained)(x) + wrong)
        with pytest.raises(ValueError, match=f"8 images ONNX Runtime and PyTorch differ by up to {told}"):
            to_onnx(trained, path)
    assert not path.exists()


def test_random_operations_are_refused(tmp_path: Path) -> None:
    network = torch.nn.Sequential(spaces.build_operation("noise", 3, 1))
    with pytest.raises(ValueError, match="draws random numbers"):
        to_pt2(trained_network(network=network), tmp_path / "network.pt2")


def test_the_classifier_normalizes() -> None:
    trained = trained_network()
    images = torch.rand(2, 3, 12, 10)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (trained.mean, trained.std))
    assert torch.equal(Classifier(trained)(images), trained.network((images - mean) / std))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"ONNX needs the package 'onnxscript'; install optinas\[onnx\]"):
        to_onnx(trained_network(), tmp_path / "network.onnx")


@pytest.mark.parametrize("flag", ["--onnx", "--pt2"])
def test_an_export_without_a_run_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=f"{flag} goes with --evaluate"):
        train_eval.command([*TRAIN, flag, "network"])
