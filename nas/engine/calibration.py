"""Probabilities that can be believed: the temperature of Guo et al. (ICML 2017).

Shape letters: N images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import Batch
from nas.engine.meter import evaluated

#: Confidences are compared with accuracies in so many intervals of the same width (sec. 2 of the paper).
BINS = 15
#: The temperature stays between this and its inverse: where all held-out images are right, the lowest would be best.
LOWEST = 0.1
#: Logits that are computed with in float64 at once; ImageNet's would need gigabytes.
_AT_ONCE = 2**22


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well the probabilities of a network fit images that it was not trained on, before and after."""

    images: int
    accuracy: float
    """Percent."""
    temperature: float
    """The logits are divided by it."""
    nll: float
    """Mean negative log likelihood in nats, at temperature 1."""
    nll_calibrated: float
    ece: float
    """Expected calibration error (eq. 5) in percent, at temperature 1."""
    ece_calibrated: float


def calibrate(step: Callable[[Batch], tuple[Tensor, ...]], batches: Iterable[Batch]) -> Calibration:
    """Fits the temperature on images that the network was not trained on.

    Args:
        step: gives the loss and the logits (N, K) of a batch, such as `evaluation_step` of one in evaluation mode.
        batches: at least one.
    """
    # As they come, in float32 or less: float64 would only take more memory.
    found = [(logits.cpu(), labels.cpu()) for _, logits, labels in evaluated(step, batches)]
    logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    temperature = best_temperature(logits, labels)
    return Calibration(
        images=len(labels),
        accuracy=100 * float((logits.argmax(dim=1) == labels).double().mean()),
        temperature=temperature,
        nll=_nll(logits, labels, 1.0),
        nll_calibrated=_nll(logits, labels, temperature),
        ece=calibration_error(logits, labels),
        ece_calibrated=calibration_error(logits, labels, temperature),
    )


def _nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """The mean negative log likelihood in nats."""
    parts = _divided(logits, labels, temperature)
    return sum(float(F.cross_entropy(part, own, reduction="sum")) for part, own in parts) / len(labels)


def _divided(logits: Tensor, labels: Tensor, temperature: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the logits in float64, divided by the temperature, and the labels, some images after another."""
    images = max(1, _AT_ONCE // logits.shape[1])
    for part, own in zip(logits.split(images), labels.split(images), strict=True):
        yield part.double() / temperature, own


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature from `LOWEST` to its inverse with the least negative log likelihood (sec. 4.2).

    The likelihood is a convex function of the inverse of the temperature, so that there is one minimum.

    Args:
        logits: (N, K).
        labels: (N,) int64.
    """
    from scipy.optimize import minimize_scalar  # takes long to import

    def loss(log_temperature: float) -> float:
        return _nll(logits, labels, math.exp(log_temperature))

    bound = -math.log(LOWEST)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}).x)


def calibration_error(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """The expected calibration error in percent (eq. 5): how far confidence and accuracy lie apart, over all images.

    Args:
        logits: (N, K).
        labels: (N,) int64.
        temperature: the logits are divided by it.
    """
    gaps = torch.zeros(BINS, dtype=torch.float64)
    for part, own in _divided(logits, labels, temperature):
        confidence, predicted = part.softmax(dim=1).max(dim=1)
        gap = (predicted == own).double() - confidence
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # open on the left, as in the paper
        gaps.index_add_(0, bins, gap)
    return 100 * float(gaps.abs().sum()) / len(labels)
