"""Activations Phi and their antiderivatives Psi, the rows of Table 1 (H. Li, Y. Yang, D. Chen, Z. Lin).

Psi' = Phi makes a layer x -> Phi(W x) a gradient step (Lemma 1, `nas.theory.objectives`). Every Psi here satisfies
Psi(0) = 0. The published rows of sigmoid and tanh are larger by log 2, and those of softplus (with C = 0) and Swish
by pi^2 / 12, which changes no gradient. The sources are corrected in these places:

- sigmoid and tanh: the rows are logarithms of sums of exponentials, which overflow (in float64 for t < -709);
  here they are expressed through softplus.
- softsign: the row for t <= 0 is the logarithm of a negative number; it must be -t - log(1 - t).
- ELU: the row for t <= 0, a (e^t - t), jumps by a at 0; it must be a (e^t - t - 1).
- leaky ReLU: the slides on LPOM give alpha^2 t^2 / 2 for t <= 0; alpha t^2 / 2, as in the papers, is correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.special import spence
from torch import Tensor
from torch.special import xlog1py, xlogy

Elementwise = Callable[[Tensor], Tensor]

_LOG_2 = math.log(2)
#: -Li2(-1), the constant that makes Psi of softplus and Swish vanish at 0.
_PI2_12 = math.pi**2 / 12


@dataclass(frozen=True)
class Activation:
    """An activation. Its functions work elementwise on tensors of any shape and any floating-point dtype."""

    name: str
    """Its name in messages, and its key if it is one of `ACTIVATIONS`."""
    phi: Elementwise
    """Phi(t)."""
    psi: Elementwise
    """Psi(t), the integral of Phi from 0 to t; its derivatives by autograd are Phi and Phi'."""
    inverse: Elementwise | None
    """The inverse of Phi on the interior of `range` (ReLU: y > 0); None where Phi has none (Swish)."""
    range: tuple[float, float]
    """Smallest closed interval that contains the values of Phi."""
    slopes: tuple[float, float]
    """Infimum and supremum of Phi'."""
    f: Elementwise | None = None
    """On `range`, the integral of inverse(y) - y from 0 to x, for LPOM; if None, computed from psi and inverse."""

    @property
    def lipschitz(self) -> float:
        """The Lipschitz constant of Phi."""
        return max(abs(slope) for slope in self.slopes)

    @property
    def monotone(self) -> bool:
        """Whether Phi never decreases."""
        return self.slopes[0] >= 0


class _KnownDerivative(torch.autograd.Function):
    """function(t) with a derivative that is given instead of found by autograd."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, function: Elementwise, derivative: Elementwise) -> Tensor:
        ctx.save_for_backward(t)
        ctx.derivative = derivative
        return function(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (t,) = ctx.saved_tensors
        return gradients[0] * ctx.derivative(t), None, None


def with_derivative(function: Elementwise, derivative: Elementwise) -> Elementwise:
    """The function, with `derivative` as its derivative for autograd.

    It can be differentiated once more often than `derivative` itself.
    """
    return lambda t: _KnownDerivative.apply(t, function, derivative)


def _li2(t: Tensor) -> Tensor:
    # scipy's spence(z) is Li2(1 - z). Li2(-e^-|t|) cannot overflow; for t > 0 Li2's inversion formula turns it into
    # Li2(-e^t).
    exponential = torch.exp(-t.detach().double().abs())
    near = torch.as_tensor(spence(1 + exponential.cpu().numpy())).to(t.device)
    far = -2 * _PI2_12 - t.double().square() / 2 - near
    return torch.where(t > 0, far, near).to(t.dtype)


#: Li2(-e^t), the form of the dilogarithm in Psi of softplus and Swish.
_dilogarithm = with_derivative(_li2, lambda t: -_softplus(t))


def _softplus(t: Tensor) -> Tensor:
    """log(1 + e^t). With torch's default threshold of 20, the result just above 20 would be off by 2e-9."""
    return F.softplus(t, threshold=40)


def _softplus_inverse(y: Tensor) -> Tensor:
    """log(e^y - 1) without overflow."""
    return y + torch.log(-torch.expm1(-y))


def _softplus_f(x: Tensor) -> Tensor:
    """Li2(e^-x) - pi^2 / 6; scipy's spence(z) is Li2(1 - z)."""
    dilogarithm = torch.as_tensor(spence(-torch.expm1(-x.detach().double()).cpu().numpy()))
    return (dilogarithm - math.pi**2 / 6).to(x)


def _softsign_psi(t: Tensor) -> Tensor:
    # Not abs(): its derivative at t = 0 is 0, which would make the second derivative there 0 instead of 1.
    size = torch.where(t < 0, -t, t)
    return size - torch.log1p(size)


def _not_positive(t: Tensor) -> Tensor:
    """min(t, 0), with derivative 1 at 0.

    It keeps the branch for t <= 0 finite for t > 0 too: torch.where passes on nan gradients of the branch not taken.
    """
    return torch.where(t > 0, 0.0, t)


def leaky_relu(alpha: float = 0.01) -> Activation:
    """Phi(t) = t for t > 0, else alpha t. Raises ValueError unless alpha > 0."""
    _check_positive("leaky_relu", alpha)

    def inverse(y: Tensor) -> Tensor:
        return torch.where(y > 0, y, y / alpha)

    return Activation(
        "leaky_relu",
        phi=lambda t: F.leaky_relu(t, alpha),
        psi=lambda t: torch.where(t > 0, t, alpha * t) * t / 2,
        inverse=inverse,
        range=(-math.inf, math.inf),
        slopes=(min(1.0, alpha), max(1.0, alpha)),
        f=lambda x: (inverse(x) - x) * x / 2,
    )


def elu(alpha: float = 1.0) -> Activation:
    """Phi(t) = t for t > 0, else alpha (e^t - 1). Raises ValueError unless alpha > 0."""
    _check_positive("elu", alpha)

    def f(x: Tensor) -> Tensor:
        """(alpha + x) log(1 + x / alpha) - x - x^2 / 2 for x < 0, otherwise 0."""
        below = x.clamp(max=0)
        # xlog1py(0, -1) is 0, the limit at the end of the range.
        return xlog1py(alpha + below, below / alpha) - below - below * below / 2

    return Activation(
        "elu",
        phi=lambda t: F.elu(t, alpha),
        psi=lambda t: torch.where(t > 0, t * t / 2, alpha * (torch.expm1(_not_positive(t)) - t)),
        inverse=lambda y: torch.where(y > 0, y, torch.log1p(_not_positive(y) / alpha)),
        range=(-alpha, math.inf),
        slopes=(0.0, max(1.0, alpha)),
        f=f,
    )


def _check_positive(name: str, alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"{name} with alpha = {alpha:g}: alpha must be greater than 0")


_SIGMOID = Activation(
    "sigmoid",
    phi=torch.sigmoid,
    psi=lambda t: _softplus(t) - _LOG_2,
    inverse=torch.logit,
    range=(0.0, 1.0),
    slopes=(0.0, 0.25),
    f=lambda x: xlogy(x, x) + xlog1py(1 - x, -x) - x * x / 2,  # 0 log 0 = 0 at both ends of the range
)
_TANH = Activation(
    "tanh",
    phi=torch.tanh,
    psi=lambda t: _softplus(2 * t) - t - _LOG_2,  # log cosh t
    inverse=torch.atanh,
    range=(-1.0, 1.0),
    slopes=(0.0, 1.0),
    f=lambda x: (xlog1py(1 - x, -x) + xlog1py(1 + x, x) - x * x) / 2,
)
_SOFTPLUS = Activation(
    "softplus",
    phi=_softplus,
    psi=lambda t: -_dilogarithm(t) - _PI2_12,
    inverse=_softplus_inverse,
    range=(0.0, math.inf),
    slopes=(0.0, 1.0),
    f=_softplus_f,
)
_SOFTSIGN = Activation(
    "softsign",
    phi=F.softsign,
    psi=_softsign_psi,
    inverse=lambda y: y / (1 - y.abs()),
    range=(-1.0, 1.0),
    slopes=(0.0, 1.0),
    f=lambda x: -x.abs() - torch.log1p(-x.abs()) - x * x / 2,  # not in the slides' table
)
_RELU = Activation(
    "relu",
    phi=torch.relu,
    psi=lambda t: torch.relu(t).square() / 2,
    inverse=lambda y: y,
    range=(0.0, math.inf),
    slopes=(0.0, 1.0),
    f=torch.zeros_like,
)
#: The minimum of Swish, where t + 1 = -e^t, and its largest slope, where t tanh(t / 2) = 2. The slope at -t is 1 minus
#: that at t, which gives the smallest slope.
_SWISH_LEAST = -0.2784645427610738
_SWISH_SLOPE = 1.0998393201288668
_SWISH = Activation(
    "swish",
    phi=F.silu,
    psi=lambda t: t * _softplus(t) + _dilogarithm(t) + _PI2_12,
    inverse=None,
    range=(_SWISH_LEAST, math.inf),
    slopes=(1 - _SWISH_SLOPE, _SWISH_SLOPE),
)
#: Not in Table 1; the usual activation of an LPOM's last layer.
_IDENTITY = Activation(
    "identity",
    phi=lambda t: t,
    psi=lambda t: t * t / 2,
    inverse=lambda y: y,
    range=(-math.inf, math.inf),
    slopes=(1.0, 1.0),
    f=torch.zeros_like,
)

#: The activations of Table 1 in its order, followed by the identity.
ACTIVATIONS: dict[str, Activation] = {
    activation.name: activation
    for activation in (_SIGMOID, _TANH, _SOFTPLUS, _SOFTSIGN, _RELU, leaky_relu(), elu(), _SWISH, _IDENTITY)
}


def get(name: str) -> Activation:
    """The activation of that name, with its default parameter. Raises ValueError for another name."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
