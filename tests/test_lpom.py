"""Lifted proximal operator machines against quadrature, finite differences, and the formulas written out in columns."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from torch import Tensor
from torch.autograd.functional import hessian

from nas.errors import NonFiniteLossError
from nas.theory.activations import ACTIVATIONS, Activation, elu, get, leaky_relu
from nas.theory.lpom import LIFTABLE, LOSSES, LPOM, MLP, LPOMConfig, f, g, gap
from nas.theory.lpom.machine import squared_spectral_norm, update_weight
from nas.theory.monotone import from_function

#: Of a user: from the function alone, and with an inverse but without f. The names of built-in ones must not matter.
OF_A_USER = [
    from_function("sigmoid", lambda t: t + torch.tanh(t) / 2),
    dataclasses.replace(get("softplus"), name="tanh", f=None),
]
LIFTED = [*map(get, LIFTABLE), leaky_relu(0.3), leaky_relu(1.5), elu(2.5), *OF_A_USER]
SMOOTH = [a for a in LIFTED if a.name not in ("relu", "leaky_relu")]
any_activation = pytest.mark.parametrize("activation", LIFTED, ids=lambda a: f"{a.name}, slopes {a.slopes}")
any_smooth = pytest.mark.parametrize("activation", SMOOTH, ids=lambda a: f"{a.name}, slopes {a.slopes}")


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def machine(
    *activations: Activation | str,
    widths: tuple[int, ...] = (4, 5, 3, 2),
    gain: float = 1.0,
    bias: bool = True,
    **config: Any,
) -> LPOM:
    """An LPOM in float64 with random biases."""
    network = MLP(widths, activations, init_gain=gain, bias=bias, dtype=torch.float64)
    for weight in network.weights if bias else ():
        weight.detach()[:, -1].normal_()
    return LPOM(network.requires_grad_(False), LPOMConfig(**config))


def batch(lpom: LPOM, samples: int = 6) -> tuple[Tensor, Tensor]:
    """Random inputs and one-hot targets."""
    inputs, outputs = lpom.network.matrix(0).shape[1], lpom.network.weights[-1].shape[0]
    return torch.randn(samples, inputs, dtype=torch.float64), torch.eye(outputs).double()[
        torch.arange(samples) % outputs
    ]


def interior(lpom: LPOM, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """States inside the ranges of the activations, each from an input of its own, with their pre-activations."""
    x = [inputs, *(lpom.network.states(torch.randn_like(inputs))[0][k] for k in range(1, len(lpom.mu) + 1))]
    return x, preactivations(lpom, x)


def preactivations(lpom: LPOM, x: list[Tensor], weights: list[Tensor] | None = None) -> list[Tensor]:
    weights = weights or list(lpom.network.weights)
    return [
        torch.cat([state, torch.ones_like(state[:, :1])], 1)[:, : weight.shape[1]] @ weight.T
        for state, weight in zip(x[:-1], weights, strict=True)
    ]


def objective(lpom: LPOM, x: list[Tensor], targets: Tensor, weights: list[Tensor] | None = None) -> Tensor:
    return lpom.objective(x, preactivations(lpom, x, weights), targets)


def differences(function: Callable[[Tensor], Any], point: Tensor) -> Tensor:
    """The gradient of a scalar function by central differences."""
    gradient, step = torch.empty_like(point), 1e-6
    for index in np.ndindex(*point.shape):
        unit = torch.zeros_like(point)
        unit[index] = step
        gradient[index] = (function(point + unit) - function(point - unit)) / (2 * step)
    return gradient


def replaced(items: list[Tensor], k: int, item: Tensor) -> list[Tensor]:
    return [*items[:k], item, *items[k + 1 :]]


# ---- f, g and the gap -----------------------------------------------------------------------------------------------


def inside(activation: Activation) -> list[float]:
    """Points of the range, both signs where it has them."""
    return [float(activation.phi(tensor(a))) for a in (-2.0, -0.4, 0.3, 1.7)]


@any_activation
def test_f_and_g_are_the_integrals_of_their_definition(activation: Activation) -> None:
    for x in inside(activation):
        integral, _ = quad(lambda y: float(activation.inverse(tensor(y))) - y, 0, x, epsabs=1e-12, epsrel=1e-11)
        assert float(f(activation, tensor(x))) == pytest.approx(integral, abs=1e-9)
    for a in (-2.0, -0.5, 0.0, 1.5):
        integral, _ = quad(lambda y: float(activation.phi(tensor(y))) - y, 0, a, epsabs=1e-12, epsrel=1e-11)
        assert float(g(activation, tensor(a))) == pytest.approx(integral, abs=1e-10)


@any_activation
def test_f_is_finite_or_infinite_at_the_ends_of_the_range_and_infinite_beyond(activation: Activation) -> None:
    for dtype in (torch.float32, torch.float64):
        for end, outwards in zip(activation.range, (-1, 1), strict=True):
            if math.isfinite(end):
                points = torch.tensor([end - 1e-7 * outwards, end, end + 1e-3 * outwards], dtype=dtype)
                near, at, beyond = f(activation, points).tolist()
                assert beyond == math.inf
                assert at == (math.inf if activation.name == "softsign" else pytest.approx(near, abs=1e-5))


def test_values_of_f_and_g_worked_out_by_hand() -> None:
    assert f(get("sigmoid"), tensor(0, 0.5, 1)) == pytest.approx([0, -math.log(2) - 1 / 8, -1 / 2])
    assert f(get("tanh"), tensor(-1, 1)) == pytest.approx([math.log(2) - 1 / 2] * 2)
    assert f(elu(2.0), tensor(-2, 5)) == pytest.approx([0, 0], abs=1e-15)
    assert f(leaky_relu(0.1), tensor(-0.5, 0.5)) == pytest.approx([1.125, 0])
    assert f(get("softplus"), tensor(0, 200)) == pytest.approx([0, -(math.pi**2) / 6])
    assert g(get("relu"), tensor(-2, 2)) == pytest.approx([-2, 0])


@any_activation
@given(x=st.floats(-6, 6), a=st.floats(-6, 6))
def test_the_gap_is_never_negative_and_zero_at_the_activation(activation: Activation, x: float, a: float) -> None:
    state, other = activation.phi(tensor(x)), activation.phi(tensor(a))
    assert float(gap(activation, state, tensor(a))) >= -1e-12
    assert float(gap(activation, other, tensor(a))) == pytest.approx(0, abs=1e-12)


@any_activation
@given(ends=st.tuples(*[st.floats(-6, 6)] * 3), share=st.floats(0, 1))
def test_the_gap_is_convex_in_either_argument(activation: Activation, ends: tuple[float, ...], share: float) -> None:
    first, second, other = map(tensor, ends)
    x, y = activation.phi(first), activation.phi(second)

    def between(u: Tensor, v: Tensor) -> Tensor:
        return u + share * (v - u)

    in_x = [float(gap(activation, point, other)) for point in (x, between(x, y), y)]
    in_a = [float(gap(activation, x, point)) for point in (other, between(other, first), first)]
    for left, middle, right in (in_x, in_a):
        assert middle <= (1 - share) * left + share * right + 1e-11


def test_all_monotone_activations_can_be_lifted_and_no_other() -> None:
    assert set(LIFTABLE) == {*ACTIVATIONS} - {"swish"}
    with pytest.raises(ValueError, match=r"'swish' cannot be lifted: it decreases near t = -2\.4, and so has no inv"):
        machine("relu", "swish", "identity")
    with pytest.raises(ValueError, match="'swish' cannot be lifted"):
        f(get("swish"), tensor(1))


@pytest.mark.parametrize("activation", [get("tanh"), get("softplus"), leaky_relu(0.3), elu(2.5)], ids=lambda a: a.name)
def test_an_activation_from_its_function_alone_is_the_one_in_closed_form(activation: Activation) -> None:
    made = from_function("made", activation.phi)
    t = torch.linspace(-9, 9, 400, dtype=torch.float64)
    assert made.slopes == pytest.approx(activation.slopes, abs=2e-3)
    assert made.range == pytest.approx(activation.range, abs=1e-5)
    torch.testing.assert_close(made.psi(t), activation.psi(t), rtol=1e-12, atol=1e-12)
    x = activation.phi(t)
    torch.testing.assert_close(made.inverse(x), activation.inverse(x), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(f(made, x), f(activation, x), rtol=1e-9, atol=1e-9)
    for values in (made.phi, made.inverse, made.psi):
        assert values(x.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kink_anywhere_a_plateau_and_a_range_without_zero(dtype: torch.dtype) -> None:
    """Psi*(X) + Psi(A) - X A is the integral of Phi - X from Phi^-1(X) to A."""
    activation = from_function("hard", lambda t: 0.7 + t.clamp(-1 / 3, 1 / 7))
    a = torch.tensor([-1e6, -4.0, -1 / 3, -0.1, 0.0, 0.05, 1 / 7, 2.0, 1e6], dtype=dtype)
    assert activation.slopes == pytest.approx((0, 1))
    for t in (-0.3, 0.1):
        x = torch.tensor(0.7 + t, dtype=dtype)
        expected = [
            quad(lambda s, t=t: min(max(s, -1 / 3), 1 / 7) - t, t, float(end), points=(-1 / 3, 1 / 7))[0]
            for end in a[1:-1]
        ]
        torch.testing.assert_close(
            gap(activation, x, a[1:-1]),
            tensor(*expected).to(dtype),
            rtol=1e-6,
            atol=1e-10 if dtype == torch.float64 else 1e-5,
        )
    assert gap(activation, activation.phi(a), a)[1:-1].abs().max() <= (1e-10 if dtype == torch.float64 else 1e-5)
    assert torch.isinf(f(activation, tensor(0.3, 0.9))).all()


def test_a_users_copy_of_an_activation_trains_as_the_built_in_one() -> None:
    inputs, targets = torch.randn(30, 4), torch.eye(2)[torch.arange(30) % 2]
    tanh = get("tanh")
    copies = [dataclasses.replace(tanh, name="relu"), dataclasses.replace(tanh, f=None), from_function("x", torch.tanh)]
    (expected, objective), *others = (
        (network.weights, LPOM(network, LPOMConfig()).epoch([(inputs, targets)] * 5))
        for network in (
            MLP((4, 6, 2), (a, "identity"), generator=torch.Generator().manual_seed(0)) for a in (tanh, *copies)
        )
    )
    for (weights, its_objective), exact in zip(others, (True, True, False), strict=True):
        tolerance = 0 if exact else 1e-4
        torch.testing.assert_close(list(weights), list(expected), rtol=tolerance, atol=tolerance)
        assert its_objective == pytest.approx(objective, rel=1e-5)
    assert others[0][1] == objective


REFUSED = {
    "'x' cannot be lifted: it decreases near t = 1.57": torch.cos,
    "'x' cannot be lifted: it is constant": torch.zeros_like,
    "'x' is not finite at t = 1.02e": lambda t: t.exp().log1p(),
    "'x' is not finite at t = -0.000": lambda t: t.sqrt(),
    "'x' changes the shape or the dtype": lambda t: t.float(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_functions_that_cannot_be_lifted_are_refused_in_one_line(message: str) -> None:
    by_hand = dataclasses.replace(get("tanh"), name="x", phi=REFUSED[message])
    for refused in (lambda: from_function("x", REFUSED[message]), lambda: machine("tanh", by_hand, "tanh")):
        with pytest.raises(ValueError, match=message) as told:
            refused()
        assert "\n" not in str(told.value)


def test_an_activation_without_its_inverse_is_refused() -> None:
    with pytest.raises(ValueError, match="'mine' cannot be lifted: its inverse is None; give it one, or make"):
        machine("tanh", dataclasses.replace(get("tanh"), name="mine", inverse=None), "tanh")


# ---- the objective --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_of_a_loss_and_its_lipschitz_constant(loss: str) -> None:
    outputs, targets = torch.randn(5, 3, dtype=torch.float64), torch.eye(3).double()[[0, 1, 2, 0, 1]]
    assert torch.autograd.gradcheck(lambda x: LOSSES[loss].value(x, targets), outputs.requires_grad_())
    (by_autograd,) = torch.autograd.grad(LOSSES[loss].value(outputs, targets), outputs)
    torch.testing.assert_close(LOSSES[loss].gradient(outputs, targets), by_autograd)
    second = hessian(lambda x: LOSSES[loss].value(x[None], targets[:1]), tensor(0, 0, 0))
    assert torch.linalg.eigvalsh(second)[-1] <= LOSSES[loss].lipschitz


@any_activation
def test_the_objective_of_a_forward_pass_is_the_loss(activation: Activation) -> None:
    lpom = machine(activation, activation, activation, mu=(3.0, 0.5, 2.0))
    inputs, targets = batch(lpom)
    x, a = lpom.network.states(inputs)
    torch.testing.assert_close(lpom.objective(x, a, targets), lpom.loss.value(lpom.network(inputs), targets))


@any_smooth
def test_gradients_of_the_objective(activation: Activation) -> None:
    """The stationarity conditions of the slides, by finite differences."""
    lpom = machine(activation, activation, activation, mu=(3.0, 0.5, 2.0), gain=0.5)
    inputs, targets = batch(lpom, 2)
    x, a = interior(lpom, inputs)
    weights, mu = list(lpom.network.weights), lpom.mu
    residuals = [activation.phi(a_k) - x_k for a_k, x_k in zip(a, x[1:], strict=True)]
    for k in range(1, 4):
        formula = mu[k - 1] * (activation.inverse(x[k]) - a[k - 1])
        formula += x[3] - targets if k == 3 else mu[k] * residuals[k] @ weights[k][:, :-1]
        numeric = differences(lambda state, k=k: objective(lpom, replaced(x, k, state), targets), x[k])
        torch.testing.assert_close(numeric, formula, atol=1e-6, rtol=1e-6)
    for k in range(3):
        formula = mu[k] * residuals[k].T @ torch.cat([x[k], torch.ones(2, 1).double()], 1)
        numeric = differences(lambda w, k=k: objective(lpom, x, targets, replaced(weights, k, w)), weights[k])
        torch.testing.assert_close(numeric, formula, atol=1e-6, rtol=1e-6)


@any_smooth
def test_a_forward_pass_is_stationary_but_for_the_loss(activation: Activation) -> None:
    lpom = machine(activation, activation, activation, mu=(3.0, 0.5, 2.0), gain=0.5)
    inputs, targets = batch(lpom, 2)
    x, _ = lpom.network.states(inputs)
    weights = list(lpom.network.weights)
    for k in range(1, 4):
        numeric = differences(lambda state, k=k: objective(lpom, replaced(x, k, state), targets), x[k])
        expected = x[3] - targets if k == 3 else torch.zeros_like(x[k])
        torch.testing.assert_close(numeric, expected, atol=1e-6, rtol=0)
    for k in range(3):
        numeric = differences(lambda w, k=k: objective(lpom, x, targets, replaced(weights, k, w)), weights[k])
        torch.testing.assert_close(numeric, torch.zeros_like(weights[k]), atol=1e-6, rtol=0)


@any_activation
def test_the_objective_is_convex_in_every_block(activation: Activation) -> None:
    lpom = machine(activation, activation, activation, mu=(3.0, 0.5, 2.0))
    inputs, targets = batch(lpom)
    x, _ = interior(lpom, inputs)
    y, _ = interior(lpom, inputs)
    weights = list(lpom.network.weights)
    others = [weight + torch.randn_like(weight) for weight in weights]
    blocks = [(lambda s, k=k: objective(lpom, replaced(x, k, s), targets), x[k], y[k]) for k in range(1, 4)]
    blocks += [
        (lambda w, k=k: objective(lpom, x, targets, replaced(weights, k, w)), weights[k], others[k]) for k in range(3)
    ]
    for function, start, end in blocks:
        for share in (0.2, 0.5, 0.7):
            chord = (1 - share) * function(start) + share * function(end)
            assert function(start + share * (end - start)) <= chord + 1e-9


def test_the_objective_is_not_convex_in_all_blocks_together() -> None:
    """For tanh, at w = 2, x = 0 and the next state 1/2, the Hessian has a negative eigenvalue."""

    def one_unit(point: Tensor) -> Tensor:
        weight, state, output = point
        return gap(get("tanh"), output, weight * state)

    assert torch.linalg.eigvalsh(hessian(one_unit, tensor(2, 0, 0.5)))[0] < -0.01


# ---- one step -------------------------------------------------------------------------------------------------------


def step_in_columns(lpom: LPOM, inputs: Tensor, targets: Tensor) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The algorithm of the slides, damped, with samples as columns, in numpy: the states and the new weights."""
    config, mu = lpom.config, lpom.mu
    phis = [lambda t, a=a: a.phi(torch.from_numpy(t)).numpy() for a in lpom.network.activations]
    slopes = [a.lipschitz for a in lpom.network.activations]
    weights = [weight.numpy() for weight in lpom.network.weights]
    labels, n = targets.numpy().T, len(weights)

    def ones(state: np.ndarray) -> np.ndarray:
        return np.vstack([state, np.ones((1, state.shape[1]))]) if lpom.network.bias else state

    def loss_gradient(state: np.ndarray) -> np.ndarray:
        if config.loss == "squared_error":
            return state - labels
        return np.exp(state) / np.exp(state).sum(0) - labels

    x = [inputs.numpy().T]
    for weight, phi in zip(weights, phis, strict=True):
        x.append(phi(weight @ ones(x[-1])))
    order = [*range(1, n), n] if config.order == "forward" else range(n, 0, -1)
    for _ in range(config.sweeps):
        for k in order:
            if k == n:
                rho = slopes[-1] * lpom.loss.lipschitz / mu[-1]
            else:
                ratio = mu[k] / mu[k - 1]
                rho = ratio * slopes[k - 1] * slopes[k] * np.linalg.norm(weights[k][:, : len(x[k])], 2) ** 2
            tau = 2 / (2 + rho) if config.damping is None else config.damping
            for _ in range(config.x_steps):
                if k == n:
                    pull = loss_gradient(x[k]) / mu[-1]
                else:
                    pull = ratio * weights[k][:, : len(x[k])].T @ (phis[k](weights[k] @ ones(x[k])) - x[k + 1])
                x[k] = x[k] + tau * (phis[k - 1](weights[k - 1] @ ones(x[k - 1]) - pull) - x[k])
    new = []
    for k in range(n):
        gram = ones(x[k]) @ ones(x[k]).T
        inverse = ones(x[k]).T @ np.linalg.inv(gram + config.ridge * np.trace(gram) / len(gram) * np.eye(len(gram)))
        before, now, t = weights[k], weights[k], 1.0
        for _ in range(config.w_steps):
            t, t_before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            extrapolation = 0 if now is before else (t_before - 1) / t
            y = now + extrapolation * (now - before)
            before, now = now, y - (phis[k](y @ ones(x[k])) - x[k + 1]) @ inverse / slopes[k]
        new.append(now)
    return x, new


STEPS = {
    "default": {},
    "undamped": {"damping": 1.0},
    "half damped": {"damping": 0.4},
    "slide order": {"order": "forward", "sweeps": 3},
    "two sweeps": {"sweeps": 2, "x_steps": 3},
    "accelerated": {"w_steps": 4, "mu": (1.0, 4.0, 0.5)},
    "ridge": {"ridge": 0.3},
    "without bias": {"bias": False, "w_steps": 2},
}


@pytest.mark.parametrize("samples", [3, 20], ids=["fewer samples than units", "more"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("config", STEPS.values(), ids=STEPS)
def test_a_step_is_the_slides_step(config: dict, loss: str, samples: int) -> None:
    lpom = machine("elu", "sigmoid", "identity", loss=loss, **config)
    inputs, targets = batch(lpom, samples)
    x, weights = step_in_columns(lpom, inputs, targets)
    expected = objective(lpom, [torch.from_numpy(state.T.copy()) for state in x], targets)
    torch.testing.assert_close(lpom.step(inputs, targets), expected)
    for weight, column_weight in zip(lpom.network.weights, weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), column_weight, rtol=1e-9, atol=1e-10)


def test_one_step_worked_out_by_hand() -> None:
    """One unit a layer, identities, w = 1, x = 1, label 3, mu = 2; X moves to (2 * 1 + 3) / 3 and W by 2/3 of P."""
    network = MLP((1, 1), ("identity",), dtype=torch.float64).requires_grad_(False)
    network.weights[0].copy_(torch.tensor([[1.0, 0.0]]))
    lpom = LPOM(network, LPOMConfig(mu=2.0, x_steps=60, ridge=0.5))
    assert float(lpom.step(tensor(1)[:, None], tensor(3)[:, None])) == pytest.approx((4 / 3) ** 2 / 2 + (2 / 3) ** 2)
    # X with its one is (1, 1)'; trace 2 over two rows times 0.5 is 0.5, so the pseudo-inverse is (1, 1) / 2.5.
    assert network.weights[0].tolist()[0] == pytest.approx([1 + 2 / 3 / 2.5, 2 / 3 / 2.5])


@any_activation
@pytest.mark.parametrize("ratio", [0.1, 1.0, 8.0])
def test_the_damped_iteration_converges_to_a_stationary_point(activation: Activation, ratio: float) -> None:
    lpom = machine(activation, activation, "identity", mu=(1.0, ratio, 1.0), x_steps=3000)
    inputs, targets = batch(lpom)
    x, a = interior(lpom, inputs)
    before = float(lpom.objective(x, a, targets))
    lpom._update_hidden(1, x, a)
    residual = activation.phi(a[1]) - x[2]
    target = activation.phi(a[0] - ratio * residual @ lpom.network.weights[1][:, :-1])
    torch.testing.assert_close(x[1], target, atol=1e-7, rtol=1e-7)
    assert float(lpom.objective(x, a, targets)) <= before


def test_the_undamped_iteration_does_not_converge_beyond_its_bound() -> None:
    lpom = machine("leaky_relu", "identity", widths=(3, 4, 2), mu=(1.0, 50.0), x_steps=30, damping=1.0)
    x, a = interior(lpom, batch(lpom)[0])
    lpom._update_hidden(1, x, a)
    assert x[1].abs().max() > 1e6


def test_in_the_slides_order_the_hidden_states_stay_in_the_first_sweep() -> None:
    lpom = machine("tanh", "tanh", "identity", order="forward")
    inputs, targets = batch(lpom)
    x, a = lpom.network.states(inputs)
    moved = list(x)
    lpom.sweep(moved, a, targets)
    torch.testing.assert_close(moved[:-1], x[:-1])
    assert not torch.allclose(moved[-1], x[-1])


def test_no_weight_is_updated_from_another() -> None:
    lpom = machine("tanh", "relu", "identity", w_steps=3)
    x, a = interior(lpom, batch(lpom)[0])
    old = [weight.clone() for weight in lpom.network.weights]
    new = lpom.new_weights(x, a)
    torch.testing.assert_close(list(lpom.network.weights), old, rtol=0, atol=0)
    for k, expected in enumerate(new):
        for j in {0, 1, 2} - {k}:
            lpom.network.weights[j].fill_(math.nan)
        assert torch.equal(lpom.new_weights(x, a)[k], expected)
        for weight, value in zip(lpom.network.weights, old, strict=True):
            weight.copy_(value)


@any_activation
@pytest.mark.parametrize("samples", [3, 30])
def test_an_update_of_a_weight_lowers_the_gap(activation: Activation, samples: int) -> None:
    lpom = machine(activation, activation, activation)
    inputs, _ = batch(lpom, samples)
    x, a = interior(lpom, inputs)
    for k, weight in enumerate(lpom.network.weights):
        new = update_weight(weight, x[k], a[k], x[k + 1], activation, steps=1, ridge=1e-2)
        (after,) = preactivations(lpom, x[k : k + 2], [new])
        assert gap(activation, x[k + 1], after).sum() < gap(activation, x[k + 1], a[k]).sum()


@pytest.mark.parametrize("shape", [(10, 40), (40, 10), (150, 140), (300, 300)])
def test_the_spectral_norm(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    exact = torch.linalg.matrix_norm(matrix, 2) ** 2
    assert 0.99 * exact <= squared_spectral_norm(matrix) <= (1 + 1e-9) * exact


@pytest.mark.parametrize(
    "matrix",
    [torch.zeros(150, 150), torch.ones(150, 200), 3 * torch.eye(150)],
    ids=["zero", "rank one", "identity"],
)
def test_the_spectral_norm_where_the_krylov_space_is_small(matrix: Tensor) -> None:
    exact = torch.linalg.matrix_norm(matrix, 2) ** 2
    torch.testing.assert_close(squared_spectral_norm(matrix), exact, rtol=1e-4, atol=1e-6)


# ---- the machine as a user meets it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
@any_activation
def test_training_lowers_the_loss(activation: Activation, loss: str, dtype: torch.dtype) -> None:
    network = MLP((6, 12, 3), (activation, "identity"), dtype=dtype)
    inputs = torch.randn(60, 6, dtype=dtype)
    targets = torch.eye(3, dtype=dtype)[inputs[:, :3].argmax(dim=1)]
    lpom = LPOM(network, LPOMConfig(loss=loss))
    history = [lpom.epoch(zip(inputs.split(20), targets.split(20), strict=True)) for _ in range(20)]
    assert history[-1] < 0.6 * history[0]
    assert all(weight.dtype == dtype and weight.grad is None for weight in network.weights)
    with torch.no_grad():
        assert lpom.loss.value(network(inputs), targets) / 60 < 0.6 * history[0]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "elu", "softplus"])
def test_saturated_states_stay_in_the_range_of_the_activation(activation: str) -> None:
    """f is infinite beyond it, so that one rounding too far would end the training."""
    network = MLP((6, 50, 50, 3), (activation, activation, "identity"), init_gain=30.0)
    lpom = LPOM(network, LPOMConfig())
    for _ in range(5):
        assert math.isfinite(lpom.step(torch.randn(40, 6), torch.eye(3)[torch.arange(40) % 3]))


def test_a_network_is_the_one_of_torchs_layers_and_can_be_trained_by_back_propagation() -> None:
    network = MLP((4, 3, 2), ("tanh", "identity"))
    inputs = torch.randn(5, 4)
    (first, first_bias), (last, last_bias) = ((weight[:, :-1], weight[:, -1]) for weight in network.weights)
    hidden = torch.tanh(torch.nn.functional.linear(inputs, first, first_bias))
    torch.testing.assert_close(network(inputs), torch.nn.functional.linear(hidden, last, last_bias))
    network(inputs).sum().backward()
    assert all(weight.grad is not None for weight in network.weights)


@pytest.mark.parametrize("samples", [3, 30])
def test_without_bias_the_update_of_a_weight_is_a_least_squares_solution(samples: int) -> None:
    """|V X - X^+|^2 + eps |V - W|^2 is least at it, for the identity."""
    lpom = machine("identity", widths=(7, 2), bias=False, ridge=0.2)
    (x, target), weight = batch(lpom, samples), lpom.network.weights[0]
    assert {name: value.shape for name, value in lpom.network.state_dict().items()} == {"weights.0": (2, 7)}
    torch.testing.assert_close(lpom.network(x), x @ weight.T)
    root = math.sqrt(0.2 * float(x.square().sum()) / 7)
    rows, values = np.vstack([x, root * np.eye(7)]), np.vstack([target, root * weight.numpy().T])
    expected, *_ = np.linalg.lstsq(rows, values, rcond=None)
    (new,) = lpom.new_weights([x, target], [x @ weight.T])
    np.testing.assert_allclose(new.numpy(), expected.T, atol=1e-12)


def test_without_bias_states_that_are_all_zero_do_not_end_the_training() -> None:
    lpom = machine("relu", "identity", widths=(3, 4, 2), bias=False)
    weight = lpom.network.weights[0].clone()
    for samples in (2, 9):
        assert math.isfinite(lpom.epoch([(torch.zeros(samples, 3).double(), torch.ones(samples, 2).double())]))
    torch.testing.assert_close(lpom.network.weights[0], weight)


def test_initial_weights_have_hes_deviation() -> None:
    weight = MLP((400, 300), ("relu",), init_gain=0.3).weights[0]
    assert weight[:, :-1].std().item() == pytest.approx(0.3 * math.sqrt(2 / 400), rel=0.02)
    assert not weight[:, -1].any()


MISTAKES = {
    "mu is -1; it must be a number greater than 0": {"mu": -1},
    "mu is 0; it must be a number greater than 0": {"mu": (1.0, 0)},
    "mu is 'big'; it must be a number greater than 0": {"mu": "big"},
    "3 values of mu for 2 layers after the input; give one each, or one": {"mu": (1.0, 1.0, 1.0)},
    "x_steps is 0; it must be a whole number, 1 or more": {"x_steps": 0},
    "w_steps is 1.5; it must be a whole number, 1 or more": {"w_steps": 1.5},
    "sweeps is nan; it must be": {"sweeps": math.nan},
    "damping is 1.5; it must be a number greater than 0 and at most 1": {"damping": 1.5},
    "ridge is 0; it must be a number greater than 0": {"ridge": 0},
    "loss is 'hinge'; it must be squared_error or cross_entropy": {"loss": "hinge"},
    "order is 'random'; it must be backward or forward": {"order": "random"},
    "the last activation is 'relu'; cross_entropy takes the softmax": {"loss": "cross_entropy"},
    "unknown activation 'gelu'; known:": {"activations": ("gelu", "relu")},
    "activation <built-in method tanh .*> is neither a name nor an Activation; nas.theory": {
        "activations": (torch.tanh, "relu")
    },
    "bias is 'no'; it must be True or False": {"bias": "no"},
    "the last activation is 'identity'; cross_entropy takes the softmax": {
        "loss": "cross_entropy",
        "activations": ("relu", dataclasses.replace(get("relu"), name="identity")),
    },
    "1 activations for 3 layers; give one for each layer but the input": {"activations": ("relu",)},
    r"widths are \(3, 0, 2\); give two layers or more of one unit or more": {"widths": (3, 0, 2)},
    "init_gain is 0.0; it must be a number greater than 0": {"init_gain": 0.0},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_in_one_line(message: str) -> None:
    network = {"widths": (3, 4, 2), "activations": ("relu", "relu"), "init_gain": 1.0, "bias": True}
    given = network | MISTAKES[message]
    with pytest.raises(ValueError, match=message) as told:
        LPOM(MLP(**{name: given.pop(name) for name in network}), LPOMConfig(**given))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("damping", [None, 1.0])
def test_an_objective_that_is_not_finite_ends_the_training(damping: float | None) -> None:
    network = MLP((3, 4, 4, 2), ("relu", "relu", "identity"))
    network.weights[1].detach().fill_(math.nan)
    lpom = LPOM(network, LPOMConfig(damping=damping))
    with pytest.raises(NonFiniteLossError, match="the objective of the LPOM is nan; leave the damping"):
        lpom.epoch([(torch.randn(5, 3), torch.randn(5, 2))])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@any_activation
def test_a_step_on_the_gpu_is_the_step_on_the_cpu(activation: Activation) -> None:
    lpom = machine(activation, activation, "identity", widths=(5, 140, 130, 3))
    other = MLP((5, 140, 130, 3), (activation, activation, "identity"), device="cuda", dtype=torch.float64)
    other.load_state_dict(lpom.network.state_dict())
    inputs, targets = batch(lpom)
    value = LPOM(other, lpom.config).step(inputs.cuda(), targets.cuda())
    torch.testing.assert_close(value.cpu(), lpom.step(inputs, targets))
    for weight, expected in zip(other.weights, lpom.network.weights, strict=True):
        torch.testing.assert_close(weight.detach().cpu(), expected.detach())


def test_the_lipschitz_constant_of_a_loss_is_reached() -> None:
    zero, one_hot = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for name, loss in LOSSES.items():
        hessian = torch.autograd.functional.hessian(lambda x, loss=loss: loss.value(x, one_hot), zero).view(2, 2)
        assert torch.linalg.eigvalsh(hessian)[-1].item() == pytest.approx(loss.lipschitz), name


def test_an_epoch_gives_the_objective_of_a_sample() -> None:
    first = machine("elu", "tanh", "identity")
    second = copy.deepcopy(first)
    inputs, targets = batch(first, 7)
    assert first.epoch([(inputs, targets)]) == pytest.approx(second.step(inputs, targets).item() / 7)
    with pytest.raises(ValueError, match="there are no batches"):
        first.epoch([])


def test_a_factorization_that_fails_is_not_passed_over() -> None:
    """Rank 1 in float32 with a ridge below its precision: a finite part of a factor would train on nonsense."""
    network = MLP((40, 30, 3), ("relu", "identity"), generator=torch.Generator().manual_seed(0))
    lpom = LPOM(network.requires_grad_(False), LPOMConfig(ridge=1e-12))
    inputs = torch.outer(torch.linspace(1, 2, 60), torch.linspace(-3, 3, 40))
    batches = [(inputs, torch.eye(3)[torch.arange(60) % 3])] * 3
    with pytest.raises(NonFiniteLossError):
        lpom.epoch(batches)
