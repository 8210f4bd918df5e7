"""The temperature against a search of a grid, and the calibration error against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.engine import calibration
from nas.engine.calibration import BINS, LOWEST, best_temperature, calibrate, calibration_error


def overconfident(*, seed: int, sharpness: float, images: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (images, 4) that are `sharpness` times too large for labels drawn of their softmax."""
    stream = torch.Generator().manual_seed(seed)
    true = 2 * torch.randn(images, 4, generator=stream, dtype=torch.float64)
    labels = torch.multinomial(true.softmax(dim=1), 1, generator=stream)[:, 0]
    return sharpness * true, labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_likeliest(sharpness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = overconfident(seed=0, sharpness=sharpness)
    found = best_temperature(logits, labels)
    grid = np.geomspace(LOWEST, 1 / LOWEST, 4001)
    losses = [float(F.cross_entropy(logits / temperature, labels)) for temperature in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=2e-3)
    assert found == pytest.approx(sharpness, rel=0.2)
    told = calibrate(lambda batch: (torch.zeros(()), batch[0]), zip(logits.split(70), labels.split(70), strict=True))
    assert told.temperature == found
    # Of many images some after another.
    monkeypatch.setattr(calibration, "_AT_ONCE", 7 * 4)
    assert best_temperature(logits, labels) == pytest.approx(found, rel=1e-6)
    assert calibration_error(logits, labels, 2.0) == pytest.approx(calibration_error(logits / 2, labels), rel=1e-12)
    assert told.nll_calibrated <= told.nll
    assert told.images == 300


def test_the_temperature_is_bounded_where_all_are_right() -> None:
    logits = torch.eye(3, dtype=torch.float64)
    assert best_temperature(logits, torch.arange(3)) == pytest.approx(LOWEST, rel=1e-3)


def test_the_calibration_error_is_its_definition() -> None:
    logits, labels = overconfident(seed=1, sharpness=3.0)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        shares = [math.exp(value - max(row)) for value in row]
        confidence = max(shares) / sum(shares)
        number = next(m for m in range(BINS) if m / BINS < confidence <= (m + 1) / BINS + 1e-15)
        bins[number].append((confidence, row.index(max(row)) == label))
    expected = 0.0
    for found in filter(None, bins):
        accuracy = sum(right for _, right in found) / len(found)
        confidence = sum(value for value, _ in found) / len(found)
        expected += len(found) / len(labels) * abs(accuracy - confidence)
    assert calibration_error(logits, labels) == pytest.approx(100 * expected)
