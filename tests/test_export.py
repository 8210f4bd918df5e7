"""A network written for other programs computes what it computes here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nas
import spaces
import train_eval
from nas.networks import export, weights
from nas.networks.architecture import HandmadeArchitecture
from nas.networks.export import METADATA, Classifier, to_onnx, to_pt2
from nas.networks.handmade import HandmadeConfig
from nas.networks.weights import TrainedNetwork
from tests.tiny import TRAIN


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train_eval.command([*TRAIN, "--epochs", "1", "--auxiliary", "--run-dir", str(tmp_path / "run")])
    return tmp_path / "run"


def trained_network(**others: Any) -> TrainedNetwork:
    """A hand-made network of random weights for images (3, 12, 10)."""
    architecture = HandmadeArchitecture(name="hbnet8", config=HandmadeConfig())
    network = architecture.build(in_channels=3, image_size=(12, 10), num_classes=2).eval()
    found = TrainedNetwork(network, architecture, 3, (12, 10), ("cat", "dog"), (0.5, 0.4, 0.3), (0.2,) * 3, "fit", 16)
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


def test_the_classifier_normalizes_and_calibrates() -> None:
    trained = trained_network(temperature=1.5)
    images = torch.rand(2, 3, 12, 10)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (trained.mean, trained.std))
    assert torch.equal(Classifier(trained)(images), trained.network((images - mean) / std) / 1.5)


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        ValueError, match=r"ONNX needs the package 'onnxscript'; pip install onnx onnxruntime onnxscript"
    ):
        to_onnx(trained_network(), tmp_path / "network.onnx")


@pytest.mark.parametrize("flag", ["--onnx", "--pt2"])
def test_an_export_without_a_run_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match=f"{flag} goes with --evaluate"):
        train_eval.command([*TRAIN, flag, "network"])
