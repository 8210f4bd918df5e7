"""The algorithms on a quadratic, against matrix powers, the defining equations, and each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas.theory import iterations

A = torch.tensor([[0.9, 0.1, 0.0], [0.1, 0.5, 0.05], [0.0, 0.05, 0.1]], dtype=torch.float64)
B = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
Z0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
SOLUTION = torch.linalg.solve(A, B)

momenta = st.lists(st.floats(-1.5, 1.5), min_size=9, max_size=9)


def gradient(z: Tensor) -> Tensor:
    return z @ A - B


def close(value: Tensor, reference: Tensor | list[float], tolerance: float = 1e-13) -> None:
    torch.testing.assert_close(value, torch.as_tensor(reference, dtype=torch.float64), rtol=tolerance, atol=tolerance)


# --- momentum ---------------------------------------------------------------------------------------------


def test_theta_solves_its_equation() -> None:
    theta = iterations.thetas(2000)
    assert theta[:2] == pytest.approx([1, (math.sqrt(5) - 1) / 2], abs=1e-15)
    for before, after in itertools.pairwise(theta):
        assert after**2 == pytest.approx((1 - after) * before**2, rel=1e-12)


def test_momentum_of_the_slides_is_the_same_sequence() -> None:
    lam = [0.0]
    for _ in range(20):
        lam.append((1 + math.sqrt(1 + 4 * lam[-1] ** 2)) / 2)
    slides = [-(1 - lam[k]) / lam[k + 1] for k in range(1, 20)]
    assert iterations.nesterov_momentum(20)[1:] == pytest.approx(slides, abs=1e-14)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_sequences_have_the_length_asked_for(count: int) -> None:
    assert len(iterations.thetas(count)) == len(iterations.nesterov_momentum(count)) == count
    assert len(iterations.h_table(iterations.nesterov_momentum(count))) == count


def test_the_table_of_h() -> None:
    table = iterations.h_table(iterations.nesterov_momentum(5))
    assert table[:2] == [[], [1.0]]
    assert table[3] == pytest.approx([0, 0.122293084104, 1.43404278278], abs=1e-11)
    assert table[4] == pytest.approx([0, 0.0649454306187, 0.230504411932, 1.5310638054], abs=1e-11)


@settings(deadline=None)
@given(momentum=momenta)
def test_h_in_closed_form_is_h_by_recursion(momentum: list[float]) -> None:
    for k, row in enumerate(iterations.h_table(momentum)):
        assert len(row) == k
        assert row == pytest.approx([iterations.h_coefficient(momentum, k, j) for j in range(k)], rel=1e-9, abs=1e-12)


def test_constant_momentum() -> None:
    assert iterations.strongly_convex_momentum(4.0, 1.0) == pytest.approx(1 / 3)
    assert iterations.strongly_convex_momentum(2.0, 2.0) == 0
    for smoothness, convexity in ((1.0, 2.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="0 < mu <= L"):
            iterations.strongly_convex_momentum(smoothness, convexity)


def test_a_short_momentum_is_refused_and_a_long_one_cut() -> None:
    with pytest.raises(ValueError, match=r"a momentum of 3 numbers for 3 steps; give 4, b_0 to b_3"):
        iterations.accelerated(gradient, Z0, 3, momentum=[0.0, 0.1, 0.2])
    long = iterations.accelerated_h(gradient, Z0, 3, momentum=[0.0, 0.1, 0.2, 0.3, 9.0])
    close(long, iterations.accelerated_h(gradient, Z0, 3, momentum=(0.0, 0.1, 0.2, 0.3)))


# --- algorithms -------------------------------------------------------------------------------------------


def test_gradient_descent_is_a_matrix_power() -> None:
    power = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - A, 7)
    close(iterations.gradient_descent(gradient, Z0, 7)[7], SOLUTION + (Z0 - SOLUTION) @ power)


@pytest.mark.parametrize("method", ["hb", "agd"])
def test_methods_with_constant_momentum_are_powers_of_the_companion_matrix(method: str) -> None:
    one = torch.eye(3, dtype=torch.float64)
    step = one - A
    if method == "hb":
        z = iterations.heavy_ball(gradient, Z0, 6, beta=0.3)
        companion = torch.cat([torch.cat([step + 0.3 * one, -0.3 * one], 1), torch.cat([one, 0 * one], 1)])
    else:
        z = iterations.accelerated(gradient, Z0, 6, momentum=0.3).z
        companion = torch.cat([torch.cat([1.3 * step, -0.3 * step], 1), torch.cat([one, 0 * one], 1)])
    error = torch.linalg.matrix_power(companion, 6) @ torch.cat([Z0 - SOLUTION, Z0 - SOLUTION])
    close(z[6], SOLUTION + error[:3])


def test_heavy_ball_takes_a_step_size_and_a_momentum_of_every_step() -> None:
    """Theorem 2 of the slides, as a recurrence in numpy."""
    alpha, beta = np.linspace(1.2, 0.4, 7), np.linspace(0.9, -0.2, 7)
    a, z = A.numpy(), [Z0.numpy(), Z0.numpy()]
    for k in range(6):
        slope = a @ (z[-1] - SOLUTION.numpy())
        z.append(z[-1] - alpha[k] * slope + beta[k] * (z[-1] - z[-2]))
    found = iterations.heavy_ball(gradient, Z0, 6, beta, iter(alpha))  # both are longer by one
    np.testing.assert_allclose(found, z[1:], rtol=1e-12, atol=1e-12)
    constant = iterations.heavy_ball(gradient, Z0, 6, [0.3] * 6, 1.0)
    assert torch.equal(constant, iterations.heavy_ball(gradient, Z0, 6, 0.3))
    with pytest.raises(ValueError, match="beta has 5 numbers for 6 steps; give one for each step, or one for all"):
        iterations.heavy_ball(gradient, Z0, 6, [0.3] * 5)


def test_states_of_the_paper_s_sequence() -> None:
    z, y = iterations.accelerated(gradient, Z0, 5)
    close(z[5], [0.392276458788, -0.541125903437, 0.776533173599], 1e-11)
    close(y[5], [0.392743857058, -0.546760928497, 0.844983380628], 1e-11)
    close(z[0], Z0)
    close(z[:2], y[:2])  # b_1 = 0


@settings(deadline=None)
@given(momentum=momenta)
def test_both_forms_of_accelerated_gradient_descent_agree(momentum: list[float]) -> None:
    y = iterations.accelerated(gradient, Z0, 8, momentum).y
    close(iterations.accelerated_h(gradient, Z0, 8, momentum), y, 1e-9)


def test_both_forms_agree_with_the_paper_s_sequence() -> None:
    close(iterations.accelerated_h(gradient, Z0, 30), iterations.accelerated(gradient, Z0, 30).y, 1e-12)


def test_admm_solves_the_minima_of_eq_6() -> None:
    z, y, multiplier = iterations.linearized_admm(gradient, Z0, 6)
    for k in range(6):
        # The gradients of both augmented, linearized problems vanish at their solutions.
        first = gradient(z[k]) + (z[k + 1] - z[k]) + multiplier[k] + (z[k + 1] - y[k])
        second = gradient(y[k]) + (y[k + 1] - y[k]) - multiplier[k] + (y[k + 1] - z[k + 1])
        close(first, torch.zeros(3))
        close(second, torch.zeros(3))
        close(multiplier[k + 1], multiplier[k] + z[k + 1] - y[k + 1])


@pytest.mark.parametrize(
    "method", [iterations.gradient_descent, iterations.heavy_ball, iterations.accelerated_h], ids=lambda m: m.__name__
)
def test_all_converge_to_the_minimum(method: object) -> None:
    close(method(gradient, Z0, 600)[-1], SOLUTION, 1e-6)
    close(iterations.accelerated(gradient, Z0, 600).z[-1], SOLUTION, 1e-6)
    close(iterations.linearized_admm(gradient, Z0, 600).y[-1], SOLUTION, 1e-6)


def test_shapes_dtype_and_zero_steps() -> None:
    z0 = torch.randn(2, 4, 3)
    results = [
        lambda steps: iterations.gradient_descent(torch.sin, z0, steps),
        lambda steps: iterations.heavy_ball(torch.sin, z0, steps),
        lambda steps: iterations.accelerated_h(torch.sin, z0, steps),
        *(lambda steps, i=i: iterations.accelerated(torch.sin, z0, steps)[i] for i in range(2)),
        *(lambda steps, i=i: iterations.linearized_admm(torch.sin, z0, steps)[i] for i in range(3)),
    ]
    for steps in (0, 1, 4):
        for result in results:
            trajectory = result(steps)
            assert trajectory.shape == (steps + 1, 2, 4, 3)
            assert trajectory.dtype == torch.float32
