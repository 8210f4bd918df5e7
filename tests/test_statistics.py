"""Intervals and comparisons of a study, against their textbook formulas and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from nas.study import statistics

#: Quantiles 0.975 of Student's t from printed tables, by degrees of freedom.
T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}

samples = st.lists(st.floats(0, 100), min_size=2, max_size=8)


@pytest.mark.parametrize("freedom", T)
def test_the_interval_of_a_mean_is_students(freedom: int) -> None:
    values = [float(k * k) for k in range(freedom + 1)]
    n, center = len(values), sum(values) / len(values)
    std = math.sqrt(sum((value - center) ** 2 for value in values) / (n - 1))
    found = statistics.mean(values)
    assert found.mean == pytest.approx(center)
    assert found.std == pytest.approx(std)
    assert found.low is not None
    assert found.high is not None
    assert center - found.low == pytest.approx(T[freedom] * std / math.sqrt(n), rel=2e-4)
    assert found.high - center == pytest.approx(center - found.low)


def test_one_value_has_no_interval() -> None:
    assert statistics.mean([3.0]) == statistics.Interval(mean=3.0, std=None, low=None, high=None)
    alone = statistics.difference([1.0], [2.0, 3.0])
    assert (alone.mean, alone.low, alone.high) == (-1.5, None, None)


@given(samples, samples)
def test_intervals_are_those_of_scipy(a: list[float], b: list[float]) -> None:
    assume(min(np.std(a), np.std(b)) > 1e-3)  # scipy warns of less
    one, two = statistics.mean(a), statistics.difference(a, b)
    expected = stats.t.interval(0.95, len(a) - 1, loc=np.mean(a), scale=stats.sem(a))
    assert (one.low, one.high) == pytest.approx(expected)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (two.low, two.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_without_spread_the_interval_is_a_point() -> None:
    found = statistics.difference([5.0, 5.0], [7.0, 7.0])
    assert (found.mean, found.low, found.high) == (-2, -2, -2)


def test_intervals_hold_what_they_promise() -> None:
    """95 % of them: within four standard errors of 4,000 simulated studies."""
    random = np.random.default_rng(0)
    hits = {"mean": 0, "difference": 0}
    for _ in range(4000):
        a, b = random.normal(3, 1, 4), random.normal(5, 4, 8)
        one, two = statistics.mean(a), statistics.difference(a, b)
        hits["mean"] += one.low < 3 < one.high
        hits["difference"] += two.low < -2 < two.high
    for count in hits.values():
        assert abs(count / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


@given(samples, samples)
def test_relative_improvement_is_of_accuracies(errors: list[float], baseline: list[float]) -> None:
    errors, baseline = ([min(e, 99.0) for e in sample] for sample in (errors, baseline))
    accuracy, random = 100 - np.mean(errors), 100 - np.mean(baseline)
    found = statistics.relative_improvement(errors, baseline)
    assert found is not None
    assert found.mean == pytest.approx(100 * (accuracy - random) / random, abs=1e-6)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9
    # Better than random without doubt: the interval of the difference in error is below zero, and only then.
    compared = statistics.difference(errors, baseline)
    assert compared.high is not None
    assert (found.low > 0) == (compared.high < 0)


def test_samples_at_the_ends_have_statistics_too() -> None:
    assert statistics.relative_improvement([50.0, 60.0], [100.0, 100.0]) is None  # not even one image by chance
    assert statistics.difference([0.0, 0.0], [0.0, 9e-157]).mean == pytest.approx(0)  # a variance whose square is zero


def test_agreement_of_two_orders() -> None:
    ours = {"a": 1.0, "b": 2.0, "c": 3.0, "only ours": 0.0}
    assert statistics.agreement(ours, {"a": 10.0, "b": 20.0, "c": 30.0, "only theirs": 1.0}) == pytest.approx(1)
    assert statistics.agreement(ours, {"a": 30.0, "b": 20.0, "c": 10.0}) == pytest.approx(-1)
    assert statistics.agreement(ours, {"a": 10.0, "b": 30.0, "c": 20.0}) == pytest.approx(1 / 3)
    assert statistics.agreement(ours, {"a": 1.0}) is None
    assert statistics.agreement(ours, {"a": 1.0, "b": 1.0}) is None
