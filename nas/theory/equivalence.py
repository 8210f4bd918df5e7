"""Compares networks with the algorithms that they correspond to (H. Li, Y. Yang, D. Chen, Z. Lin, sec. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.theory import iterations, networks
from nas.theory.activations import Activation
from nas.theory.iterations import Momentum, PerStep
from nas.theory.objectives import LayerObjective


def errors(
    weight: Tensor,
    activation: Activation,
    x0: Tensor | None = None,
    *,
    depth: int = 10,
    beta: PerStep = 0.3,
    alpha: PerStep = 1.0,
    momentum: Momentum = None,
) -> dict[str, float]:
    """How far each network is from its algorithm on the objective of Lemma 1.

    The states of network (7) are compared with U^{-1} times those of algorithm (1). In the same way, (11) is compared
    with (2), (12) with z of (3), (13) with y of (4), and (14) with y of (6), whose z corresponds to x' of (14).

    Args:
        weight: W, (n, n), symmetric positive definite; pass float64 to keep rounding errors negligible.
        activation: Phi and Psi.
        x0: start, (..., n); None draws one from N(0, I).
        depth: number of layers.
        beta: momentum of heavy ball, one number or a sequence of `depth`.
        alpha: step size of heavy ball, one number or a sequence of `depth`.
        momentum: momentum of accelerated gradient descent; None takes the paper's sequence.

    Returns:
        For each network, by name, the largest difference between its states and the algorithm's, divided by the
        largest absolute value among the latter, or by 1 if that is smaller.

    Raises ValueError for a W that is not symmetric positive definite, and for an x0 that does not match W in shape or
    dtype.
    """
    objective = LayerObjective(weight, activation)
    if x0 is not None and (x0.dtype != weight.dtype or x0.shape[-1:] != weight.shape[:1]):
        raise ValueError(f"x0 is {tuple(x0.shape)} of {x0.dtype}; give (..., {len(weight)}) of {weight.dtype} as W is")
    if x0 is None:
        x0 = torch.randn(len(weight), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(weight)
    layers = [lambda x: activation.phi(x @ weight)] * depth
    z0, g = x0 @ objective.root, objective.grad_f
    pairs = {
        "gd": (networks.gd(layers, x0), iterations.gradient_descent(g, z0, depth)),
        "hb": (networks.hb(layers, x0, beta, alpha), iterations.heavy_ball(g, z0, depth, beta, alpha)),
        "agd": (networks.agd(layers, x0, momentum), iterations.accelerated(g, z0, depth, momentum).z),
        "agd2": (networks.agd2(layers, x0, momentum), iterations.accelerated_h(g, z0, depth, momentum)),
        "admm": (networks.admm(layers, x0), iterations.linearized_admm(g, z0, depth).y),
    }
    return {name: _difference(torch.stack(x), objective.to_x(z)) for name, (x, z) in pairs.items()}


def _difference(states: Tensor, reference: Tensor) -> float:
    return ((states - reference).abs().max() / reference.abs().max().clamp(min=1)).item()


def random_weight(size: int, seed: int = 0) -> Tensor:
    """A symmetric positive definite matrix (size, size) in float64 with eigenvalues from 0.1 to 0.9."""
    generator = torch.Generator().manual_seed(seed)
    vectors, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    weight = (vectors * torch.linspace(0.1, 0.9, size, dtype=torch.float64)) @ vectors.T
    return (weight + weight.T) / 2
