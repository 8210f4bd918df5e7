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
from collections.abc import Callable
from functools import lru_cache

import torch
from scipy.special import spence
from torch import Tensor
from torch.special import xlog1py, xlogy

from nas.optimization.activations import ACTIVATIONS, Activation


def f(activation: Activation, x: Tensor) -> Tensor:
    """f(x) elementwise, for a floating tensor of any shape; +inf outside the range of the activation.

    Raises ValueError for an activation that is not in `LIFTABLE`.
    """
    check_liftable(activation)
    least, largest = activation.range
    inside = (x >= least) & (x <= largest)
    return torch.where(inside, _F[activation.name](activation, x), math.inf)


def g(activation: Activation, a: Tensor) -> Tensor:
    """g(a) = psi(a) - a^2 / 2 elementwise, for a floating tensor of any shape."""
    return activation.psi(a) - a * a / 2


def gap(activation: Activation, x: Tensor, a: Tensor) -> Tensor:
    """f(x) + g(a) + (x - a)^2 / 2 less its least value: elementwise, never negative, 0 exactly at x = phi(a).

    The least value is a constant, 0 except for phi > 0 everywhere (sigmoid -log 2, softplus -pi^2 / 12).
    Raises ValueError for an activation that is not in `LIFTABLE`.
    """
    return f(activation, x) + g(activation, a) + (x - a).square() / 2 - _least(activation)


def check_liftable(activation: Activation) -> None:
    """Raises ValueError for an activation without f, such as Swish, which is not monotone."""
    if activation.name not in _F:
        raise ValueError(
            f"activation {activation.name!r} cannot be lifted: it has no inverse; use one of {', '.join(_F)}"
        )


@lru_cache
def _least(activation: Activation) -> float:
    """The infimum of psi, which is psi where phi vanishes: at 0, or at -inf for a positive phi."""
    zero = torch.zeros((), dtype=torch.float64)
    return 0.0 if activation.phi(zero) == 0 else float(activation.psi(zero - math.inf))


def _sigmoid(_: Activation, x: Tensor) -> Tensor:
    return xlogy(x, x) + xlog1py(1 - x, -x) - x * x / 2


def _tanh(_: Activation, x: Tensor) -> Tensor:
    return (xlog1py(1 - x, -x) + xlog1py(1 + x, x) - x * x) / 2


def _softplus(_: Activation, x: Tensor) -> Tensor:
    """Li2(e^-x) - pi^2 / 6; scipy's spence(z) is Li2(1 - z)."""
    dilogarithm = torch.as_tensor(spence(-torch.expm1(-x.detach().double()).cpu().numpy()))
    return (dilogarithm - math.pi**2 / 6).to(x)


def _softsign(_: Activation, x: Tensor) -> Tensor:
    """Not in the slides' table: the integral of y / (1 - |y|) - y."""
    return -x.abs() - torch.log1p(-x.abs()) - x * x / 2


def _leaky_relu(activation: Activation, x: Tensor) -> Tensor:
    """(1 - alpha) x^2 / (2 alpha) for x < 0, where the inverse is x / alpha."""
    assert activation.inverse is not None
    return (activation.inverse(x) - x) * x / 2


def _elu(activation: Activation, x: Tensor) -> Tensor:
    """(alpha + x) (log(1 + x / alpha) - 1) + alpha - x^2 / 2 for x < 0."""
    alpha, below = -activation.range[0], x.clamp(max=0)
    return xlog1py(alpha + below, below / alpha) - below - below * below / 2


def _zero(_: Activation, x: Tensor) -> Tensor:
    return torch.zeros_like(x)


#: f on the range of the activation; outside its values do not matter.
_F: dict[str, Callable[[Activation, Tensor], Tensor]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
    "softsign": _softsign,
    "relu": _zero,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "identity": _zero,
}

#: The activations that an LPOM can have.
LIFTABLE: tuple[str, ...] = tuple(name for name in ACTIVATIONS if name in _F)
