"""Networks against the equations written out, and against the algorithms they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas import cli
from nas.theory import __main__, equivalence, iterations, networks
from nas.theory.activations import ACTIVATIONS, Activation
from nas.theory.networks import NETWORKS, Layers

every = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)


def own_layers(depth: int, seed: int = 0) -> Layers:
    """Layers with weights of their own, which need be neither symmetric nor definite."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(depth, 4, 4, generator=generator, dtype=torch.float64)
    return [lambda x, w=w: torch.tanh(x @ w) for w in weights]


def start() -> Tensor:
    return torch.randn(3, 4, dtype=torch.float64)


def close(states: list[Tensor], expected: list[Tensor], tolerance: float = 1e-13) -> None:
    torch.testing.assert_close(torch.stack(states), torch.stack(expected), rtol=tolerance, atol=tolerance)


# --- the equations ----------------------------------------------------------------------------------------


def test_heavy_ball_and_gradient_descent_are_eq_11_and_7() -> None:
    layers, x = own_layers(5), [start()]
    for k in range(5):
        x.append(layers[k](x[k]) + 0.7 * (x[k] - x[max(k - 1, 0)]))
    close(networks.hb(layers, x[0], beta=0.7), x)
    close(networks.hb(layers, x[0], beta=0.0), networks.gd(layers, x[0]))


def test_heavy_ball_with_sequences() -> None:
    alpha, beta = [0.5, 1.0, 0.8, 1.2, 0.9], [0.4, 0.1, -0.2, 0.7, 0.3]
    layers, x = own_layers(5), [start()]
    for k in range(5):
        x.append((1 - alpha[k]) * x[k] + alpha[k] * layers[k](x[k]) + beta[k] * (x[k] - x[max(k - 1, 0)]))
    close(networks.hb(layers, x[0], beta, alpha), x)
    errors = equivalence.errors(equivalence.random_weight(4), ACTIVATIONS["tanh"], depth=5, beta=beta, alpha=alpha)
    assert errors["hb"] < 1e-13


@settings(deadline=None)
@given(momentum=st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_agd_is_eq_12(momentum: list[float]) -> None:
    layers, x = own_layers(7), [start()]
    for k in range(7):
        x.append(layers[k](x[k] + momentum[k] * (x[k] - x[max(k - 1, 0)])))
    close(networks.agd(layers, x[0], momentum), x)


@settings(deadline=None)
@given(momentum=st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_agd2_is_the_double_sum_of_eq_13(momentum: list[float]) -> None:
    layers, x = own_layers(7), [start()]
    h = iterations.h_table(momentum)
    for k in range(7):
        x.append(x[k] + sum(h[k + 1][j] * (layers[j](x[j]) - x[j]) for j in range(k + 1)))
    close(networks.agd2(layers, x[0], momentum), x, 1e-10)


def test_agd2_is_the_double_sum_with_the_paper_s_sequence() -> None:
    layers, x = own_layers(20), [start()]
    h = iterations.h_table(iterations.nesterov_momentum(21))
    for k in range(20):
        x.append(x[k] + sum(h[k + 1][j] * (layers[j](x[j]) - x[j]) for j in range(k + 1)))
    close(networks.agd2(layers, x[0]), x, 1e-11)


def test_both_paths_of_admm_are_eq_14() -> None:
    primed, layers = own_layers(6, seed=1), own_layers(6)
    xp, x = [start()], []
    x.append(xp[0])
    for k in range(6):
        s = sum((xp[t] - x[t] for t in range(1, k + 1)), torch.zeros_like(x[0]))
        xp.append(primed[k](xp[k]) / 2 + x[k] / 2 - s / 2)
        x.append(layers[k](x[k]) / 2 + xp[k + 1] / 2 + s / 2)
    got_primed, got = networks.admm_paths(primed, layers, x[0])
    close(got_primed, xp)
    close(got, x)
    close(networks.admm(layers, x[0]), networks.admm_paths(layers, layers, x[0])[1])


def test_the_paths_of_admm_need_as_many_layers_each() -> None:
    with pytest.raises(ValueError, match="2 layers for x' and 3 for x; give as many"):
        networks.admm_paths(own_layers(2), own_layers(3), start())


@pytest.mark.parametrize("name", NETWORKS)
def test_states_and_number_of_layer_evaluations(name: str) -> None:
    for depth in (0, 1, 6):
        calls = [0] * depth
        plain = own_layers(depth)

        def counted(k: int, calls: list[int] = calls, plain: Layers = plain) -> networks.Layer:
            def layer(x: Tensor) -> Tensor:
                calls[k] += 1
                return plain[k](x)

            return layer

        x0 = start()
        states = NETWORKS[name]([counted(k) for k in range(depth)], x0)
        assert len(states) == depth + 1
        assert states[0] is x0
        assert calls == [2 if name == "admm" else 1] * depth


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_layer(name: str) -> None:
    weights = [torch.randn(4, 4, dtype=torch.float64, requires_grad=True) for _ in range(5)]
    x0 = torch.randn(2, 4, dtype=torch.float64)

    def output(*weights: Tensor) -> Tensor:
        return NETWORKS[name]([lambda x, w=w: torch.tanh(x @ w) for w in weights], x0)[-1]

    assert torch.autograd.gradcheck(output, weights)


# --- the algorithms ---------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("momentum", [None, 0.4])
def test_every_network_is_its_algorithm(activation: Activation, momentum: float | None) -> None:
    weight = equivalence.random_weight(6, seed=3)
    x0 = torch.randn(2, 6, dtype=torch.float64)
    errors = equivalence.errors(weight, activation, x0, depth=12, momentum=momentum)
    assert list(errors) == list(NETWORKS)
    assert max(errors.values()) < 1e-13


@pytest.mark.parametrize("name", NETWORKS)
def test_the_check_notices_another_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = NETWORKS[name]

    def other(*arguments: Any) -> list[Tensor]:
        *states, last = right(*arguments)
        return [*states, 1.01 * last]

    monkeypatch.setattr(networks, name, other)
    errors = equivalence.errors(equivalence.random_weight(4), ACTIVATIONS["sigmoid"], momentum=0.4)
    assert errors.pop(name) > 1e-3
    assert max(errors.values()) < 1e-13


def test_agd2_of_a_constant_momentum_is_not_agd() -> None:
    layers = own_layers(4)
    x0 = start()
    agd, agd2 = networks.agd(layers, x0, 0.4), networks.agd2(layers, x0, 0.4)
    for k in range(1, 5):
        torch.testing.assert_close(agd2[k], agd[k] + 0.4 * (agd[k] - agd[k - 1]))
        assert (agd2[k] - agd[k]).abs().max() > 1e-3


def test_a_weight_that_is_not_definite_is_refused() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        equivalence.errors(-torch.eye(2, dtype=torch.float64), ACTIVATIONS["relu"])
    for wrong in (torch.eye(2, dtype=torch.int64), [[1.0, 0.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="W is not a tensor of floating-point numbers"):
            equivalence.errors(wrong, ACTIVATIONS["relu"])
    for x0 in (torch.zeros(2), torch.zeros(3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"x0 is .*; give \(\.\.\., 2\) of torch.float64 as W is"):
            equivalence.errors(equivalence.random_weight(2), ACTIVATIONS["relu"], x0)


@settings(deadline=None)
@given(seed=st.integers(0, 100), size=st.integers(1, 9))
def test_random_weights_are_symmetric_and_definite(seed: int, size: int) -> None:
    weight = equivalence.random_weight(size, seed)
    assert torch.equal(weight, weight.T)
    assert torch.linalg.eigvalsh(weight)[0] > 0.099


def test_the_command_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(__main__.command, ["check", "--size", "4", "--depth", "3", "--seed", "1"])
    assert end.value.code == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["errors"]) == list(ACTIVATIONS)
    assert all(list(row) == list(NETWORKS) for row in result["errors"].values())
    assert 0 < result["largest_error"] < 1e-13
