"""Means with intervals, and what a method gains over random architectures.

All intervals have the level 95 % and are those of Student's t: they hold for means of values that are roughly normally
distributed, as test errors over seeds are. The tests are not corrected for the number of rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

LEVEL = 0.95

#: In a file; what is larger could not be drawn.
_Number = Annotated[float, Meta(ge=-1e12, le=1e12)]


class Interval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An estimate with its interval; without one where there are too few values."""

    mean: _Number
    std: _Number | None
    """Standard deviation of the sample; None for one value, and for a difference."""
    low: _Number | None
    high: _Number | None

    def __post_init__(self) -> None:
        """Raises ValueError for an interval of one end, which a damaged file may have."""
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has only one end")


def _quantile(freedom: float) -> float:
    """What the absolute value of Student's t with these degrees of freedom exceeds with a probability of 5 %."""
    from scipy import stats  # takes long to import

    return float(stats.t.ppf((1 + LEVEL) / 2, freedom))


def mean(values: Sequence[float]) -> Interval:
    """The mean of at least one value, with its t-interval for two or more."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return Interval(mean=float(array[0]), std=None, low=None, high=None)
    center, std = float(array.mean()), float(array.std(ddof=1))
    half = _quantile(len(array) - 1) * std / math.sqrt(len(array))
    return Interval(mean=center, std=std, low=center - half, high=center + half)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The mean of `values` less that of `baseline`, with Welch's interval for two or more values of both.

    The two samples are independent, and need neither the same size nor the same spread (Welch, Biometrika 1947).
    """
    center = float(np.mean(values) - np.mean(baseline))
    if min(len(values), len(baseline)) < 2:
        return Interval(mean=center, std=None, low=None, high=None)
    errors = [float(np.var(sample, ddof=1)) / len(sample) for sample in (values, baseline)]
    if max(errors) < 1e-100:  # no spread, and no degrees of freedom to speak of: its square may be zero
        return Interval(mean=center, std=None, low=center, high=center)
    freedom = sum(errors) ** 2 / sum(
        error**2 / (len(sample) - 1) for error, sample in zip(errors, (values, baseline), strict=True)
    )
    half = _quantile(freedom) * math.sqrt(sum(errors))
    return Interval(mean=center, std=None, low=center - half, high=center + half)


def relative_improvement(errors: Sequence[float], baseline: Sequence[float]) -> Interval | None:
    """How much more accurate than random architectures, in percent of their mean accuracy.

    RI = 100 (accuracy - accuracy of random) / accuracy of random (Yang et al., ICLR 2020, sec. 3), with the interval of
    the difference divided by the baseline's mean accuracy, whose own relative error is small beside it.

    Args:
        errors: test errors in percent.
        baseline: those of random architectures of the same space, in percent.

    Returns:
        None where random architectures classify no image correctly.
    """
    gained, accuracy = difference(baseline, errors), 100 - float(np.mean(baseline))
    if accuracy <= 0:
        return None
    low, high = (None if bound is None else 100 * bound / accuracy for bound in (gained.low, gained.high))
    return Interval(mean=100 * gained.mean / accuracy, std=None, low=low, high=high)


def agreement(ours: Mapping[str, float], others: Mapping[str, float]) -> float | None:
    """Kendall's tau-b of two rankings of what both have; 1: the same order, -1: reversed, None: fewer than two."""
    both = sorted(ours.keys() & others.keys())
    pairs = [(ours[name], others[name]) for name in both]
    if len(pairs) < 2 or any(all(a == b for a, b in pairwise(column)) for column in zip(*pairs, strict=True)):
        return None
    from scipy import stats

    return float(stats.kendalltau(*zip(*pairs, strict=True)).statistic)
