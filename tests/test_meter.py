"""Figures of an epoch against plain sums over all its images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nas.engine.meter import Meter


@pytest.mark.parametrize("classes", [3, 10])
def test_figures_are_means_over_images(classes: int) -> None:
    logits, labels = torch.randn(7, classes), torch.randint(classes, (7,))
    meter = Meter()
    for rows in (slice(0, 5), slice(5, 7)):
        meter.update(F.cross_entropy(logits[rows], labels[rows]), logits[rows], labels[rows])
    order = logits.argsort(dim=1, descending=True)
    ranks = [row.tolist().index(int(label)) for row, label in zip(order, labels, strict=True)]
    assert meter.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert meter.accuracy == pytest.approx(100 * sum(rank < 1 for rank in ranks) / 7)
    assert meter.top5_accuracy == pytest.approx(100 * sum(rank < 5 for rank in ranks) / 7)
