"""What an LPOM pays for a state X that is not the activation phi of its pre-activation A (slides on LPOM).

    f(X) + g(A) + (X - A)^2 / 2,   f(x) = int_0^x (phi^-1(y) - y) dy,   g(a) = int_0^a (phi(y) - y) dy

For a phi that never decreases this is convex in X and in A, and least exactly where X = phi(A): with
psi = int_0 phi and its conjugate psi* it is psi*(X) + psi(A) - X A up to a constant, the gap of the Fenchel-Young
inequality. f is +inf outside the range of phi.

The slides' table of f and g is followed except where it errs:

- ELU, f for x < 0 lacks + alpha and g for a < 0 lacks - alpha; both would jump at 0.
- sigmoid, g is larger by log 2 than its definition, which changes no minimizer.
- ReLU, the inverse at 0 is printed as (-inf, 0); 0 belongs to it.
- softplus is printed as having "No analytic expression"; both integrals are dilogarithms.
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

    Where the range does not contain 0, the integral begins at its nearest end.
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
    """f(x) + g(a) + (x - a)^2 / 2 less its least value: elementwise, never negative, 0 exactly at x = phi(a).

    The least value is a constant, 0 where phi(0) = 0 (sigmoid -log 2, softplus -pi^2 / 12).
    Raises ValueError for an activation that cannot be lifted.
    """
    return f(activation, x) + g(activation, a) + (x - a).square() / 2 - _least(activation)


@lru_cache
def check_liftable(activation: Activation) -> None:
    """Raises ValueError for an activation that decreases somewhere, such as Swish, or comes without its inverse."""
    check_increasing(activation.name, activation.phi)
    if activation.inverse is None:
        raise ValueError(
            f"activation {activation.name!r} cannot be lifted: its inverse is None; give it one, or make the "
            "activation by nas.theory.monotone.from_function"
        )


@lru_cache
def _least(activation: Activation) -> float:
    """The least value of f(x) + g(a) + (x - a)^2 / 2: x^2 / 2 - psi*(x) at the x where the integral f begins.

    That is the infimum of psi where the range contains 0.
    """
    zero = torch.zeros((), dtype=torch.float64)
    if activation.phi(zero) == 0:
        return 0.0
    start = zero.clamp(*activation.range)
    return float(start * start / 2 - _conjugate(activation, start))


def _by_conjugate(activation: Activation, x: Tensor) -> Tensor:
    """The function f from psi and the inverse: the integral of the inverse is psi*(x) up to a constant."""
    wide = x.double()
    return (_conjugate(activation, wide) - wide * wide / 2 + _least(activation)).to(x.dtype)


def _conjugate(activation: Activation, x: Tensor) -> Tensor:
    """psi*(x) = x t - psi(t) at t = phi^-1(x). At the ends of the range t may be infinite, and the limit is meant."""
    assert activation.inverse is not None
    t = activation.inverse(x).clamp(-FAR, FAR)
    return x * t - activation.psi(t)


#: The activations of `ACTIVATIONS` that an LPOM can have.
LIFTABLE: tuple[str, ...] = tuple(name for name, activation in ACTIVATIONS.items() if activation.monotone)
