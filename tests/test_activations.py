"""Every activation of the table: Psi against quadrature, its derivatives, the inverse, the slopes."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor

from nas.theory import activations
from nas.theory.activations import ACTIVATIONS, Activation

#: With other parameters than the table's too.
ALL = [*ACTIVATIONS.values(), activations.leaky_relu(0.3), activations.leaky_relu(1.5), activations.elu(1.7)]
TABLE_1 = ["sigmoid", "tanh", "softplus", "softsign", "relu", "leaky_relu", "elu", "swish"]

every = pytest.mark.parametrize("activation", ALL, ids=lambda a: f"{a.name}, slopes {a.slopes}")


def grid(dtype: torch.dtype = torch.float64) -> Tensor:
    """Both tails, both sides of 0 and 0 itself, and of torch's threshold of softplus."""
    right = torch.tensor([1e-8, 1e-3, 0.5, 1.0, 5.0, 19.9, 20.1, 39.9, 40.1, 100.0, 1e4], dtype=dtype)
    return torch.cat([-right.flip(0), torch.zeros(1, dtype=dtype), right])


def derivative(function: activations.Elementwise, t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(t).sum(), t)
    return gradient


def value(function: activations.Elementwise, t: float) -> float:
    return function(torch.tensor(t, dtype=torch.float64)).item()


def test_the_table_has_the_rows_of_the_paper_in_its_order() -> None:
    assert list(ACTIVATIONS) == [*TABLE_1, "identity"]
    assert all(activations.get(name) is activation for name, activation in ACTIVATIONS.items())
    with pytest.raises(ValueError, match="unknown activation 'gelu'; known: sigmoid, tanh"):
        activations.get("gelu")


@every
@settings(deadline=None)
@given(t=st.floats(-60, 60))
def test_psi_is_the_integral_of_phi(activation: Activation, t: float) -> None:
    integral, _ = quad(lambda s: value(activation.phi, s), 0, t, epsabs=1e-12, epsrel=1e-12, limit=200)
    assert value(activation.psi, t) == pytest.approx(integral, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "at_minus_2", "at_2"),
    [
        ("sigmoid", -0.566219169517, 1.43378083048),
        ("tanh", 1.32500274736, 1.32500274736),
        ("softplus", -0.69145454871, 2.69145454871),
        ("softsign", 0.901387711332, 0.901387711332),
        ("relu", 0.0, 2.0),
        ("leaky_relu", 0.02, 2.0),
        ("elu", 1.13533528324, 2.0),
        ("swish", 0.437598526624, 1.56240147338),
    ],
)
def test_psi_at_two_points(name: str, at_minus_2: float, at_2: float) -> None:
    psi = ACTIVATIONS[name].psi
    assert [value(psi, -2.0), value(psi, 2.0)] == pytest.approx([at_minus_2, at_2], abs=1e-11)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_psi_is_finite_far_out_and_zero_at_zero(activation: Activation, dtype: torch.dtype) -> None:
    psi = activation.psi(grid(dtype))
    assert psi.dtype == dtype
    assert psi.isfinite().all()
    assert psi[len(psi) // 2].abs() <= 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(psi.double(), activation.psi(grid(dtype).double()), rtol=1e-6, atol=3e-7)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_first_and_second_derivatives_by_autograd(activation: Activation, dtype: torch.dtype) -> None:
    t = grid(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(derivative(activation.psi, t), activation.phi(t), rtol=4 * eps, atol=4 * eps)
    leaf = t.clone().requires_grad_()
    (first,) = torch.autograd.grad(activation.psi(leaf).sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    torch.testing.assert_close(second, derivative(activation.phi, t), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("name", ["softplus", "swish"])
def test_the_dilogarithm_against_finite_differences(name: str) -> None:
    t = torch.tensor([-3.0, -0.1, 0.0, 0.1, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS[name].psi, t)
    assert torch.autograd.gradgradcheck(ACTIVATIONS[name].psi, t)


@every
def test_values_lie_in_the_range_and_reach_its_ends(activation: Activation) -> None:
    lowest, highest = activation.range
    values = activation.phi(torch.linspace(-1e4, 1e4, 2_000_001, dtype=torch.float64))
    assert lowest <= values.min() + 1e-12
    assert values.max() - 1e-12 <= highest
    assert values.min().item() == pytest.approx(lowest, abs=1e-3) if math.isfinite(lowest) else values.min() < -99
    assert values.max().item() == pytest.approx(highest, abs=1e-3) if math.isfinite(highest) else values.max() > 99


@every
def test_slopes_are_the_extremes_of_the_derivative(activation: Activation) -> None:
    slopes = derivative(activation.phi, torch.linspace(-50, 50, 1_000_001, dtype=torch.float64))
    assert activation.slopes == pytest.approx((slopes.min().item(), slopes.max().item()), abs=1e-3)
    assert slopes.min() >= activation.slopes[0] - 1e-12
    assert slopes.max() <= activation.slopes[1] + 1e-12
    assert activation.lipschitz == pytest.approx(slopes.abs().max().item(), abs=1e-9)
    assert activation.monotone == bool((slopes >= 0).all())


@every
def test_the_inverse_undoes_phi(activation: Activation) -> None:
    assert (activation.inverse is None) == (not activation.monotone)
    if activation.inverse is None:
        return
    t = torch.linspace(0.01 if activation.name == "relu" else -8, 8, 200, dtype=torch.float64)
    torch.testing.assert_close(activation.inverse(activation.phi(t)), t, rtol=1e-8, atol=1e-8)
    if activation.range[1] == math.inf:
        far = torch.tensor([1e4], dtype=torch.float64)
        assert activation.inverse(far) == far


def test_the_inverse_of_elu_has_the_derivative_of_both_sides() -> None:
    inverse = activations.elu(0.5).inverse
    assert inverse is not None
    got = derivative(inverse, torch.tensor([-0.25, 0.0, 2.0], dtype=torch.float64))
    np.testing.assert_allclose(got, [1 / 0.25, 1 / 0.5, 1.0])


@pytest.mark.parametrize("constructor", [activations.leaky_relu, activations.elu])
@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
def test_alpha_must_be_positive(constructor: object, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be greater than 0"):
        constructor(alpha)


def test_an_activation_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ACTIVATIONS["relu"].name = "other"
