"""The penalty of an LPOM for a state X that differs from phi(A), the activation of its pre-activation (slides on LPOM).

    f(X) + g(A) + (X - A)^2 / 2,   f(x) = int_0^x (phi^-1(y) - y) dy,   g(a) = int_0^a (phi(y) - y) dy

For a phi that never decreases, this is convex in X and in A and has its minimum exactly where X = phi(A). With
psi = int_0 phi and its conjugate psi*, it is psi*(X) + psi(A) - X A up to a constant: the gap of the Fenchel-Young
inequality. f is +inf outside the range of phi.

The slides' table of f and g is corrected in these places:

- ELU: f for x < 0 lacks + alpha, and g for a < 0 lacks - alpha; as printed, both jump at 0.
- sigmoid: g is larger than its definition by log 2, which changes no minimizer.
- ReLU: the inverse at 0 is printed as (-inf, 0); it also contains 0.
- softplus: printed as having "No analytic expression"; both integrals are dilogarithms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from nas.theory.activations import ACTIVATIONS, Activation
from nas.theory.monotone import FAR, check_increasing


def f(activation: Activation, x: Tensor) -> Tensor:
    """The function f, elementwise, for a floating-point tensor of any shape; +inf outside the activation's range.

    If the range does not contain 0, the integral begins at the end closest to 0.

    Raises ValueError for an activation that cannot be lifted.
    """
    check_liftable(activation)
    least, largest = activation.range
    inside = (x >= least) & (x <= largest)
    return torch.where(inside, _by_conjugate(activation, x) if activation.f is None else activation.f(x), math.inf)


def g(activation: Activation, a: Tensor) -> Tensor:
    """The function g = psi(a) - a^2 / 2, elementwise, for a floating-point tensor of any shape."""
    return activation.psi(a) - a * a / 2


def gap(activation: Activation, x: Tensor, a: Tensor) -> Tensor:
    """f(x) + g(a) + (x - a)^2 / 2 minus its minimum: elementwise, never negative, 0 exactly at x = phi(a).

    The minimum is a constant: 0 if phi(0) = 0, -log 2 for sigmoid, -pi^2 / 12 for softplus.

    Raises ValueError for an activation that cannot be lifted.
    """
    return f(activation, x) + g(activation, a) + (x - a).square() / 2 - _least(activation)


@lru_cache
def check_liftable(activation: Activation) -> None:
    """Checks that an LPOM can have an activation.

    Raises ValueError for one that decreases anywhere, such as Swish, or has no inverse.
    """
    check_increasing(activation.name, activation.phi)
    if activation.inverse is None:
        raise ValueError(
            f"activation {activation.name!r} cannot be lifted: its inverse is None; give it one, or make the "
            "activation by nas.theory.monotone.from_function"
        )


@lru_cache
def _least(activation: Activation) -> float:
    """The minimum of f(x) + g(a) + (x - a)^2 / 2: x^2 / 2 - psi*(x) at the x where the integral f begins.

    If the range contains 0, that is the infimum of psi.
    """
    zero = torch.zeros((), dtype=torch.float64)
    if activation.phi(zero) == 0:
        return 0.0
    start = zero.clamp(*activation.range)
    return float(start * start / 2 - _conjugate(activation, start))


def _by_conjugate(activation: Activation, x: Tensor) -> Tensor:
    """Computes f from psi and the inverse: the integral of the inverse is psi*(x) up to a constant."""
    wide = x.double()
    return (_conjugate(activation, wide) - wide * wide / 2 + _least(activation)).to(x.dtype)


def _conjugate(activation: Activation, x: Tensor) -> Tensor:
    """psi*(x) = x t - psi(t) at t = phi^-1(x); where t is infinite, at the ends of the range, `FAR` stands for it."""
    assert activation.inverse is not None
    t = activation.inverse(x).clamp(-FAR, FAR)
    return x * t - activation.psi(t)


#: The names in `ACTIVATIONS` that an LPOM can use.
LIFTABLE: tuple[str, ...] = tuple(name for name, activation in ACTIVATIONS.items() if activation.monotone)
