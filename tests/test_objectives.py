"""Lemma 1: gradients by autograd, the Hessian's eigenvalues, and the layer as a gradient step."""

from __future__ import annotations

import pytest
import torch

from nas.theory import equivalence
from nas.theory.activations import ACTIVATIONS, Activation
from nas.theory.objectives import LayerObjective

every = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=lambda a: a.name)
W = torch.tensor([[0.6, 0.2, 0.1], [0.2, 0.5, -0.1], [0.1, -0.1, 0.4]], dtype=torch.float64)
Z = torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64)


@every
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_gradients_against_autograd(activation: Activation, scale: float) -> None:
    objective = LayerObjective(scale * equivalence.random_weight(5), activation)
    points = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    for value, gradient in ((objective.f, objective.grad_f), (objective.F, objective.grad_F)):
        assert value(points).shape == (7,)
        (expected,) = torch.autograd.grad(value(points).sum(), points)
        torch.testing.assert_close(gradient(points), expected, rtol=1e-12, atol=1e-12)


@every
def test_a_layer_is_a_gradient_step(activation: Activation) -> None:
    objective = LayerObjective(W, activation)
    torch.testing.assert_close(objective.root @ objective.root, W, rtol=1e-14, atol=1e-14)
    x = torch.randn(4, 3, dtype=torch.float64)
    z = x @ objective.root
    layer = activation.phi(x @ W)
    torch.testing.assert_close(objective.to_x(z - objective.grad_f(z)), layer, rtol=1e-13, atol=1e-13)
    preconditioned = x - objective.grad_F(x) @ torch.linalg.inv(W)
    torch.testing.assert_close(preconditioned, layer, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(objective.F(x), objective.f(z))


def test_values_for_tanh() -> None:
    objective = LayerObjective(W, ACTIVATIONS["tanh"])
    assert objective.f(Z).item() == pytest.approx(0.707600907474, abs=1e-11)
    assert objective.grad_f(Z).tolist() == pytest.approx([0.493295225302, -0.851346169117, 0.0680065490921], abs=1e-11)


@every
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_hessian_lies_within_the_curvature(activation: Activation, scale: float) -> None:
    objective = LayerObjective(scale * W, activation)
    least, largest = objective.curvature
    for z in 3 * torch.randn(20, 3, dtype=torch.float64):
        hessian = torch.autograd.functional.hessian(objective.f, z)
        eigenvalues = torch.linalg.eigvalsh(hessian)
        assert least - 1e-12 <= eigenvalues[0]
        assert eigenvalues[-1] <= largest + 1e-12


def test_curvature_of_known_cases() -> None:
    largest = torch.linalg.eigvalsh(W)[-1].item()
    # Greatest slope 1, and 0 far out.
    assert LayerObjective(W, ACTIVATIONS["tanh"]).curvature == pytest.approx((1 - largest, 1.0))
    assert LayerObjective(W, ACTIVATIONS["sigmoid"]).curvature == pytest.approx((1 - largest / 4, 1.0))
    assert LayerObjective(W, ACTIVATIONS["swish"]).curvature[1] == pytest.approx(1 + 0.0998 * largest, abs=1e-4)


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (torch.ones(3), "must be a square matrix"),
        (torch.ones(2, 3), "must be a square matrix"),
        (torch.tensor([[1.0, 0.5], [0.4, 1.0]]), r"not symmetric .* by 1.0e-01\); pass \(W \+ W.T\) / 2"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), r"least eigenvalue -1.0e\+00\); add a multiple of the identity"),
        (torch.ones(2, 2), "not positive definite"),
        (torch.zeros(2, 2), "not positive definite"),
        (torch.full((2, 2), torch.nan), "not finite"),
    ],
)
def test_other_matrices_are_refused(weight: torch.Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LayerObjective(weight, ACTIVATIONS["relu"])
