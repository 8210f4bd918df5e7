"""Activations from a function alone: what an LPOM needs of them besides Phi, computed numerically in float64."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nas.theory.activations import Activation, Elementwise, with_derivative

#: Stands for infinity: functions are examined, integrated and inverted up to here.
FAR = 2.0**26
_TAIL = 2.0 ** torch.arange(5, 27, dtype=torch.float64)
#: Where Phi is examined: every 2^-10 around 0, and in octaves up to +-FAR.
_GRID = torch.cat([-_TAIL.flip(0), torch.linspace(-32, 32, 2**16 + 1, dtype=torch.float64)[1:-1], _TAIL])
_BISECTIONS = 40
_MOST_PANELS = 10_000
#: Gauss's rule on [0, 1].
_NODES, _WEIGHTS = (torch.from_numpy(part / 2) for part in np.polynomial.legendre.leggauss(10))


def from_function(name: str, phi: Elementwise) -> Activation:
    """The activation of a function that never decreases and is Lipschitz continuous.

    Psi is integrated by Gauss's rule, the inverse is found by bisection (without a derivative for autograd), both to
    1e-9 relative to 1 + |t| or better; the slopes, to about 1e-3, are those of secants of length 2^-10 for
    |t| <= 32, beyond which Phi should bend little. In a step of an LPOM, the objective then takes most of the time; an
    inverse in closed form, set by `dataclasses.replace(activation, inverse=...)`, halves it.

    Args:
        name: what messages call it.
        phi: takes and returns tensors of any shape, elementwise, in float32 and float64; finite for |t| <= `FAR`.

    Raises ValueError for a function that decreases somewhere, is constant or not finite, or changes shape or dtype.
    """
    slopes = check_increasing(name, phi)
    ends = _end(phi, -1), _end(phi, 1)
    return Activation(name, phi, psi=_integral(phi), inverse=_inverse(phi), range=ends, slopes=slopes)


def check_increasing(name: str, phi: Elementwise) -> tuple[float, float]:
    """The least and largest slope of Phi between points of a grid.

    Raises ValueError for a Phi that decreases there, is constant or not finite, or changes the shape or dtype.
    """
    values = phi(_GRID)
    if values.shape != _GRID.shape or values.dtype != _GRID.dtype:
        raise ValueError(f"activation {name!r} changes the shape or the dtype of its argument; it must be elementwise")
    if not values.isfinite().all():
        wrong = _GRID[~values.isfinite()]
        at = wrong[wrong.abs().argmin()]
        raise ValueError(f"activation {name!r} is not finite at t = {at:.3g}; write it so that it does not overflow")
    slopes = values.diff() / _GRID.diff()
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
    """The end of the range: infinite where Phi still moves far out, else a little beyond, for roundings in float32."""
    halfway, end = phi(sign * torch.tensor([FAR / 2, FAR], dtype=torch.float64)).tolist()
    tolerance = 1e-6 * (1 + abs(end))
    return sign * math.inf if abs(end - halfway) > tolerance else end + sign * tolerance


def _inverse(phi: Elementwise) -> Elementwise:
    """Maps y to the t next to 0 at which Phi reaches it, or +-FAR."""
    reach = phi(torch.tensor([-FAR, FAR], dtype=torch.float64)).tolist()

    def inverse(y: Tensor) -> Tensor:
        target = y.detach().double().clamp(*reach)
        sign = torch.where(target < phi(torch.zeros_like(target)), -1.0, 1.0).double()
        # In log(1 + |t|), so that small and large t are found to the same relative precision.
        low, high = torch.zeros_like(target), torch.full_like(target, math.log1p(FAR))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            short = sign * (phi(sign * middle.expm1()) - target) < 0
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return (sign * high.expm1()).to(y.dtype)

    return inverse


def _integral(phi: Elementwise) -> Elementwise:
    """Maps t to the integral of Phi from 0 to t: sums over whole panels, and Gauss's rule in the last one."""
    edges = _panels(phi)
    pieces = _gauss(phi, edges[:-1], edges[1:])
    below, above = pieces[edges[:-1] < 0], pieces[edges[:-1] >= 0]
    # Summed from 0 outwards; from -FAR on, the sums would have no precision left around 0.
    sums = torch.cat([-below.flip(0).cumsum(0).flip(0), torch.zeros_like(edges[:1]), above.cumsum(0)])

    def integral(t: Tensor) -> Tensor:
        wide = t.detach().double()
        starts, sums_there = edges.to(t.device), sums.to(t.device)
        panel = (torch.searchsorted(starts, wide.contiguous(), right=True) - 1).clamp(0, len(starts) - 2)
        return (sums_there[panel] + _gauss(phi, starts[panel], wide)).to(t.dtype)

    return with_derivative(integral, phi)


def _panels(phi: Elementwise) -> Tensor:
    """Edges of panels, 0 among them, halved until Gauss's rule gives the same on both halves as on the whole."""
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
