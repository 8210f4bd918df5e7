"""A network written as ONNX computes what it computes here."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import train_eval
from nas.networks import weights
from nas.networks.export import Classifier, to_onnx
from tests.tiny import TRAIN


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train_eval.command([*TRAIN, "--epochs", "1", "--auxiliary", "--run-dir", str(tmp_path / "run")])
    return tmp_path / "run"


@pytest.mark.slow
def test_onnx_gives_the_same_logits_for_any_batch(run: Path, tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    path = tmp_path / "network.onnx"
    train_eval.command(["--evaluate", str(run), "--device", "cpu", "--onnx", str(path)])
    model = onnx.load(path)
    onnx.checker.check_model(model)
    trained = weights.load(run / weights.NAME)
    for batch in (1, 5):
        images = torch.rand(batch, 3, 8, 8)
        (logits,) = ReferenceEvaluator(model).run(None, {"images": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, Classifier(trained)(images), rtol=1e-4, atol=1e-4)


def test_the_classifier_normalizes(run: Path) -> None:
    trained = weights.load(run / weights.NAME)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (trained.mean, trained.std))
    assert torch.equal(Classifier(trained)(images), trained.network((images - mean) / std))


def test_missing_packages_are_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"ONNX needs the package 'onnxscript'; install optinas\[onnx\]"):
        to_onnx(weights.load(run / weights.NAME), tmp_path / "network.onnx")


def test_onnx_without_a_run_is_refused() -> None:
    with pytest.raises(ValueError, match="--onnx goes with --evaluate"):
        train_eval.command([*TRAIN, "--onnx", "network.onnx"])
