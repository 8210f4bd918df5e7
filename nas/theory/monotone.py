"""Activations from Phi alone: all else that an LPOM needs of them is computed numerically, in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nas.theory.activations import Activation, Elementwise, with_derivative

#: Takes the place of infinity: functions are checked, integrated and inverted up to here.
FAR = 2.0**26
_TAIL = 2.0 ** torch.arange(5, 27, dtype=torch.float64)
#: The points at which Phi is checked: every 2^-10 up to |t| = 32, then in octaves up to +-FAR.
_GRID = torch.cat([-_TAIL.flip(0), torch.linspace(-32, 32, 2**16 + 1, dtype=torch.float64)[1:-1], _TAIL])
_BISECTIONS = 40
_MOST_PANELS = 10_000
#: Gauss's rule on an interval of length 1 around 0.
_NODES, _WEIGHTS = (torch.from_numpy(part / 2) for part in np.polynomial.legendre.leggauss(10))


def from_function(name: str, phi: Elementwise) -> Activation:
    """Makes an activation of a function that never decreases and is Lipschitz continuous.

    Psi is integrated by Gauss's rule and the inverse is found by bisection (it has no derivative for autograd), both
    to 1e-9 relative to 1 + |t| or better. The slopes are those of secants of length 2^-10 for |t| <= 32, beyond which
    Phi should be almost straight; they are accurate to about 1e-3. The objective then takes most of the time of an
    LPOM step; setting a closed-form inverse by `dataclasses.replace(activation, inverse=...)` halves that.

    Args:
        name: its name in messages.
        phi: the function: elementwise on tensors of any shape in float32 and float64, and finite for |t| <= `FAR`.

    Raises ValueError for a function that decreases anywhere, is constant or not finite, or changes shape or dtype.
    """
    slopes = check_increasing(name, phi)
    ends = _end(phi, -1), _end(phi, 1)
    return Activation(name, phi, psi=_integral(phi), inverse=_inverse(phi), range=ends, slopes=slopes)


def check_increasing(name: str, phi: Elementwise) -> tuple[float, float]:
    """The smallest and largest slope of Phi between neighbouring points of a grid.

    Raises ValueError for a Phi that decreases there, is constant or not finite, or changes shape or dtype.
    """
    values = phi(_GRID)
    if values.shape != _GRID.shape or values.dtype != _GRID.dtype:
        raise ValueError(f"activation {name!r} changes the shape or the dtype of its argument; it must be elementwise")
    if not values.isfinite().all():
        wrong = _GRID[~values.isfinite()]
        at = wrong[wrong.abs().argmin()]
        raise ValueError(f"activation {name!r} is not finite at t = {at:.3g}; write it so that it does not overflow")
    slopes = values.diff() / _GRID.diff()
    # Rounding may make a function that levels off decrease by an ulp.
    if (values.diff() < -1e-12 * (1 + values[1:].abs())).any():
        at = _GRID[slopes.argmin()]
        raise ValueError(
            f"activation {name!r} cannot be lifted: it decreases near t = {at:.3g}, and so has no inverse; "
            "use one that never decreases, such as softplus"
        )
    if not slopes.any():
        raise ValueError(f"activation {name!r} cannot be lifted: it is constant")
    return max(0.0, slopes.min().item()), slopes.max().item()


def _end(phi: Elementwise, sign: int) -> float:
    """One end of the range: infinite if Phi still changes at `FAR`, otherwise widened a little for float32 rounding."""
    halfway, end = phi(sign * torch.tensor([FAR / 2, FAR], dtype=torch.float64)).tolist()
    tolerance = 1e-6 * (1 + abs(end))
    return sign * math.inf if abs(end - halfway) > tolerance else end + sign * tolerance


def _inverse(phi: Elementwise) -> Elementwise:
    """Maps y to the t closest to 0 at which Phi reaches y, or to +-FAR if it never does."""
    reach = phi(torch.tensor([-FAR, FAR], dtype=torch.float64)).tolist()

    def inverse(y: Tensor) -> Tensor:
        target = y.detach().double().clamp(*reach)
        sign = torch.where(target < phi(torch.zeros_like(target)), -1.0, 1.0).double()
        # Bisection in log(1 + |t|) finds small and large t to the same relative precision.
        low, high = torch.zeros_like(target), torch.full_like(target, math.log1p(FAR))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            short = sign * (phi(sign * middle.expm1()) - target) < 0
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (sign * high.expm1()).to(y.dtype)

    return inverse


def _integral(phi: Elementwise) -> Elementwise:
    """Maps t to the integral of Phi from 0 to t: tabulated up to the panel of t, and Gauss's rule within it."""
    edges = _panels(phi)
    pieces = _gauss(phi, edges[:-1], edges[1:])
    below, above = pieces[edges[:-1] < 0], pieces[edges[:-1] >= 0]
    # Summed outwards from 0: sums that begin at -FAR would have no precision left around 0.
    sums = torch.cat([-below.flip(0).cumsum(0).flip(0), torch.zeros_like(edges[:1]), above.cumsum(0)])

    def integral(t: Tensor) -> Tensor:
        wide = t.detach().double()
        starts, sums_there = edges.to(t.device), sums.to(t.device)
        panel = (torch.searchsorted(starts, wide.contiguous(), right=True) - 1).clamp(0, len(starts) - 2)
        return (sums_there[panel] + _gauss(phi, starts[panel], wide)).to(t.dtype)

    return with_derivative(integral, phi)


def _panels(phi: Elementwise) -> Tensor:
    """Edges of panels, including 0. Panels are halved until Gauss's rule agrees on the halves and on the whole."""
    octaves = 2.0 ** torch.arange(-3, 27, dtype=torch.float64)
    edges = torch.cat([-octaves.flip(0), torch.zeros(1, dtype=torch.float64), octaves])
    while len(edges) < _MOST_PANELS:
        left, right = edges[:-1], edges[1:]
        middle = (left + right) / 2
        halves = _gauss(phi, left, middle) + _gauss(phi, middle, right)
        rough = (halves - _gauss(phi, left, right)).abs() > 1e-13 * (1 + halves.abs())
        if not rough.any():
            break
        edges = torch.cat([edges, middle[rough]]).sort().values
    return edges


def _gauss(phi: Elementwise, start: Tensor, end: Tensor) -> Tensor:
    """Gauss's rule for the integral of Phi from start to end, elementwise."""
    width = (end - start)[..., None]
    points = start[..., None] + width * (_NODES.to(end.device) + 0.5)
    return (phi(points) * width) @ _WEIGHTS.to(end.device)
