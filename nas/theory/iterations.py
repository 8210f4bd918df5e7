"""First-order algorithms that minimize f, given its gradient g (H. Li, Y. Yang, D. Chen, Z. Lin, eq. (1)-(6)).

Each is a function of g and the start z0, a tensor of any shape. It returns the whole trajectory: steps + 1 states
along a new first axis, in the dtype of z0. The step size and the penalty of ADMM are 1, as in the paper; for a step
size s, pass s * g.

The momentum b_0, b_1, ... takes one of three forms: None for the paper's sequence (`nesterov_momentum`); a number for
a constant momentum (`strongly_convex_momentum`); or a sequence, of which the first steps + 1 entries are used. b_0 has
no effect, because z_{-1} = z_0; it is there so that indices match the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

Gradient = Callable[[Tensor], Tensor]
Momentum = float | Iterable[float] | None
PerStep = float | Iterable[float]


class Accelerated(NamedTuple):
    """Trajectories of accelerated gradient descent, each (steps + 1, *z0.shape)."""

    z: Tensor
    y: Tensor


class Multipliers(NamedTuple):
    """Trajectories of ADMM, each (steps + 1, *z0.shape): the two copies of the variable, and the multiplier."""

    z: Tensor
    y: Tensor
    multiplier: Tensor


# --- momentum ---------------------------------------------------------------------------------------------


def thetas(count: int) -> list[float]:
    """theta_0 = 1, ..., theta_{count-1}, positive: 1 - theta_k = theta_k^2 / theta_{k-1}^2 (below eq. (3))."""
    values = [1.0]
    while len(values) < count:
        before = values[-1]
        # The positive root of t^2 + p^2 t - p^2, in a form that avoids the cancellation of the quadratic formula.
        values.append(2 * before / (before + math.sqrt(before**2 + 4)))
    return values[:count]


def nesterov_momentum(count: int) -> list[float]:
    """b_0 = 0, ..., b_{count-1}: b_k = theta_k (1 - theta_{k-1}) / theta_{k-1} (eq. (3)). b_1 = 0 as well."""
    t = thetas(count)
    return [0.0, *(t[k] * (1 - t[k - 1]) / t[k - 1] for k in range(1, count))][:count]


def strongly_convex_momentum(smoothness: float, strong_convexity: float) -> float:
    """The constant momentum (sqrt L - sqrt mu) / (sqrt L + sqrt mu) for a mu-strongly convex f (footnote 5).

    Raises ValueError unless 0 < mu <= L.
    """
    if not 0 < strong_convexity <= smoothness < math.inf:
        raise ValueError(f"L = {smoothness:g} and mu = {strong_convexity:g}: 0 < mu <= L must hold")
    large, small = math.sqrt(smoothness), math.sqrt(strong_convexity)
    return (large - small) / (large + small)


def momentum_sequence(momentum: Momentum, steps: int) -> list[float]:
    """b_0, ..., b_steps of a momentum in any of its three forms. Raises ValueError for a sequence that is too short."""
    if momentum is None:
        return nesterov_momentum(steps + 1)
    if isinstance(momentum, int | float):
        return [float(momentum)] * (steps + 1)
    b = [float(value) for value in momentum]
    if len(b) <= steps:
        raise ValueError(f"a momentum of {len(b)} numbers for {steps} steps; give {steps + 1}, b_0 to b_{steps}")
    return b[: steps + 1]


def per_step(name: str, value: PerStep, steps: int) -> list[float]:
    """The coefficient of each step, from one number for all steps or from the first `steps` entries of a sequence.

    Raises ValueError for a sequence that is too short; `name` is what the message calls the coefficient.
    """
    if isinstance(value, int | float):
        return [float(value)] * steps
    values = [float(entry) for entry in islice(value, steps)]
    if len(values) < steps:
        raise ValueError(f"{name} has {len(values)} numbers for {steps} steps; give one for each step, or one for all")
    return values


def h_table(momentum: Sequence[float]) -> list[list[float]]:
    """The coefficients of eq. (4) by the recursion (5): row k holds h_{k,0}, ..., h_{k,k-1}; row 0 is empty.

    Args:
        momentum: b_0, b_1, ...; the table has one row for each of them.
    """
    rows: list[list[float]] = [[]]
    for k in range(len(momentum) - 1):
        b, row = momentum[k + 1], rows[k]
        rows.append([*(b * h for h in row[:-1]), *(b * (h - 1) for h in row[-1:]), 1 + b])
    return rows[: len(momentum)]


def h_coefficient(momentum: Sequence[float], k: int, j: int) -> float:
    """h_{k,j}, 0 <= j < k, in closed form: 1 + b_k for j = k-1, else b_{j+1} ... b_k.

    With the paper's sequence, where b_1 = 0, the start no longer counts from the second step on: h_{k,0} = 0, k >= 2.
    """
    return 1 + momentum[k] if j == k - 1 else math.prod(momentum[j + 1 : k + 1])


# --- algorithms -------------------------------------------------------------------------------------------


def gradient_descent(gradient: Gradient, z0: Tensor, steps: int) -> Tensor:
    """Gradient descent, eq. (1): z_{k+1} = z_k - g(z_k)."""
    z = [z0]
    for _ in range(steps):
        z.append(z[-1] - gradient(z[-1]))
    return torch.stack(z)


def heavy_ball(gradient: Gradient, z0: Tensor, steps: int, beta: PerStep = 0.3, alpha: PerStep = 1.0) -> Tensor:
    """The heavy-ball method: z_{k+1} = z_k - alpha_k g(z_k) + beta_k (z_k - z_{k-1}), z_{-1} = z_0.

    Eq. (2) has alpha_k = 1 and a constant beta; Theorem 2 of the slides allows sequences. beta_0 has no effect.

    Args:
        gradient: g.
        z0: start, of any shape.
        steps: number of steps.
        beta: momentum, one number for all steps or a sequence beta_0, beta_1, ...
        alpha: step size, likewise.

    Raises ValueError for a sequence that is too short.
    """
    sizes, momentum = per_step("alpha", alpha, steps), per_step("beta", beta, steps)
    z = [z0, z0]
    for a, b in zip(sizes, momentum, strict=True):
        z.append(z[-1] - a * gradient(z[-1]) + b * (z[-1] - z[-2]))
    return torch.stack(z[1:])


def accelerated(gradient: Gradient, z0: Tensor, steps: int, momentum: Momentum = None) -> Accelerated:
    """Nesterov's accelerated gradient descent, eq. (3): y_k = z_k + b_k (z_k - z_{k-1}), z_{k+1} = y_k - g(y_k).

    Raises ValueError for a momentum sequence that is too short.
    """
    b = momentum_sequence(momentum, steps)
    z, y = [z0], [z0]
    for k in range(steps):
        z.append(y[-1] - gradient(y[-1]))
        y.append(z[-1] + b[k + 1] * (z[-1] - z[-2]))
    return Accelerated(torch.stack(z), torch.stack(y))


def accelerated_h(gradient: Gradient, z0: Tensor, steps: int, momentum: Momentum = None) -> Tensor:
    """Accelerated gradient descent in y alone, eq. (4)-(5): y_{k+1} = y_k - sum over j <= k of h_{k+1,j} g(y_j).

    This is y of `accelerated` for any momentum, because the last case of (5) gives h_{1,0} = 1 + b_1.

    Raises ValueError for a momentum sequence that is too short.
    """
    rows = h_table(momentum_sequence(momentum, steps))
    y, gradients = [z0], []
    for k in range(steps):
        gradients.append(gradient(y[-1]))
        y.append(y[-1] - sum(h * g for h, g in zip(rows[k + 1], gradients, strict=True)))
    return torch.stack(y)


def linearized_admm(gradient: Gradient, z0: Tensor, steps: int) -> Multipliers:
    """Linearized ADMM on f(z) + f(y) subject to z = y: eq. (6), its minimizers in closed form.

    It starts with y_0 = z_0 and the multiplier 0.
    """
    z, y, multiplier = [z0], [z0], [torch.zeros_like(z0)]
    for _ in range(steps):
        z.append((z[-1] - gradient(z[-1]) + y[-1] - multiplier[-1]) / 2)
        y.append((y[-1] - gradient(y[-1]) + z[-1] + multiplier[-1]) / 2)
        multiplier.append(multiplier[-1] + z[-1] - y[-1])
    return Multipliers(torch.stack(z), torch.stack(y), torch.stack(multiplier))
