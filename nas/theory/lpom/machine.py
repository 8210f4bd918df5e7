"""Lifted proximal operator machines: training a multilayer perceptron by block coordinate descent (slides on LPOM).

The states X^2, ..., X^n of the layers are variables in their own right, in addition to the weights:

    F = loss(X^n, L) + sum_{i=2..n} mu_i gap(X^i, W^{i-1} X^{i-1})

where `gap` has its minimum exactly at X^i = phi(W^{i-1} X^{i-1}). F is convex in each X^i and in each W^i. One step on
a mini-batch initializes the X^i by a forward pass, updates each by a fixed-point iteration, and then moves all W^i
towards the new X^i. No derivative goes through more than one layer, and no update of a W^i depends on another one.

Differences from the slides, and why:

- The fixed-point iteration is damped. As printed (`damping=1`) it converges only if its Lipschitz constant rho is
  below 1; the damping 2 / (2 + rho) is the best for any rho.
- A sweep goes from the last layer to the first. In the slides' order (`order="forward"`), the first sweep leaves all
  states but the last as the forward pass set them, because they are stationary there.
- The pseudo-inverse in the update of W is regularized. With the exact one, a layer that is wider than the mini-batch
  interpolates it.
- The subproblem of X^n is printed with f(X^i) instead of f(X^n).

Shapes: N samples, I and O units before and after a layer; samples are rows (`nas.theory.lpom.network`).
Indices: the list `x` holds X^1, ..., X^n, so weight k maps x[k] to x[k + 1], and mu[k] is the weight of the gap there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.errors import NonFiniteLossError
from nas.theory.activations import Activation, get
from nas.theory.lpom.network import MLP, affine
from nas.theory.lpom.penalty import check_liftable, gap

LossName = Literal["squared_error", "cross_entropy"]
Order = Literal["backward", "forward"]

#: Up to this many rows or columns, computing all eigenvalues is faster than Lanczos's iteration.
_EXACT = 128
_LANCZOS_STEPS = 16


@dataclass(frozen=True)
class Loss:
    """A loss of the last state (N, O) and the targets (N, O), whose rows are one-hot for classification."""

    value: Callable[[Tensor, Tensor], Tensor]
    """Summed over the samples, so that mu need not depend on the batch size."""
    gradient: Callable[[Tensor, Tensor], Tensor]
    """With respect to the last state, (N, O)."""
    lipschitz: float
    """Lipschitz constant of the gradient."""


LOSSES: dict[LossName, Loss] = {
    "squared_error": Loss(
        value=lambda x, targets: (x - targets).square().sum() / 2,
        gradient=lambda x, targets: x - targets,
        lipschitz=1.0,
    ),
    "cross_entropy": Loss(
        value=lambda x, targets: -(targets * F.log_softmax(x, dim=1)).sum(),
        gradient=lambda x, targets: x.softmax(dim=1) - targets,
        lipschitz=0.5,
    ),
}


@dataclass(frozen=True, kw_only=True)
class LPOMConfig:
    """The objective and how it is minimized. Raises ValueError for a value that is out of range."""

    loss: LossName = "squared_error"
    """squared_error, or cross_entropy of the softmax of the outputs, for which the last activation is the identity."""
    mu: float | tuple[float, ...] = 2.0
    """Weight of the gap at each layer except the input, one for all or one for each."""
    x_steps: int = 10
    """Steps of the fixed-point iteration for a state."""
    w_steps: int = 1
    """Steps of accelerated proximal gradient (APG) for a weight."""
    sweeps: int = 1
    """Updates of all states before the weights are updated."""
    order: Order = "backward"
    """Sweep from the last layer to the first, or from the first to the last as on the slides."""
    damping: float | None = None
    """Step size of the fixed-point iteration, in (0, 1]; the slides have 1. None means 2 / (2 + rho)."""
    ridge: float = 1e-2
    """Regularization of the pseudo-inverse, in units of the mean eigenvalue of X X'."""

    def __post_init__(self) -> None:
        _check_choice("loss", self.loss, tuple(LOSSES))
        _check_choice("order", self.order, ("backward", "forward"))
        for name in ("x_steps", "w_steps", "sweeps"):
            _check(name, getattr(self, name), "a whole number, 1 or more", lambda n: isinstance(n, Integral) and n >= 1)
        for weight in self.mu if isinstance(self.mu, tuple) else (self.mu,):
            _check("mu", weight, "a number greater than 0", lambda m: m > 0)
        if self.damping is not None:
            _check("damping", self.damping, "a number greater than 0 and at most 1", lambda d: 0 < d <= 1)
        _check("ridge", self.ridge, "a number greater than 0", lambda r: r > 0)


class LPOM:
    """Trains a network.

    Args:
        network: its weights are updated in place; they need no gradients.
        config: the objective and how it is minimized.

    Raises ValueError for an activation that cannot be lifted, for values of mu that do not match the layers in number,
    and for cross_entropy after an activation other than the identity.
    """

    def __init__(self, network: MLP, config: LPOMConfig) -> None:
        layers = len(network.activations)
        for activation in network.activations:
            check_liftable(activation)
        if isinstance(config.mu, tuple) and len(config.mu) != layers:
            raise ValueError(
                f"{len(config.mu)} values of mu for {layers} layers after the input; give one each, or one"
            )
        if config.loss == "cross_entropy" and network.activations[-1] != get("identity"):
            raise ValueError(
                f"the last activation is {network.activations[-1].name!r}; cross_entropy takes the softmax of the "
                "outputs, so give 'identity'"
            )
        self.network, self.config = network, config
        self.loss = LOSSES[config.loss]
        self.mu = config.mu if isinstance(config.mu, tuple) else (config.mu,) * layers

    def epoch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Takes a step on each batch of inputs (N, I) and targets (N, O), and returns the objective per sample.

        Raises NonFiniteLossError for an objective that is not finite; ValueError for no batches.
        """
        total, samples = torch.zeros(()), 0
        try:
            for inputs, targets in batches:
                total = total + self.step(inputs, targets)
                samples += len(inputs)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            # Weights that are not finite have no eigenvalues.
            raise _diverged(math.nan) from error
        if not samples:
            raise ValueError("there are no batches to train on")
        objective = float(total) / samples
        if not math.isfinite(objective):
            raise _diverged(objective)
        return objective

    @torch.no_grad()
    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One step on a mini-batch: a forward pass, the sweeps over the states, and the update of all weights.

        Args:
            inputs: (N, I).
            targets: (N, O), one-hot rows for classification.

        Returns:
            The objective after the sweeps and before the update of the weights, summed over the batch; a scalar.
        """
        x, a = self.network.states(inputs)
        for _ in range(self.config.sweeps):
            self.sweep(x, a, targets)
        objective = self.objective(x, a, targets)
        for weight, new in zip(self.network.weights, self.new_weights(x, a), strict=True):
            weight.copy_(new)
        return objective

    def objective(self, x: list[Tensor], a: list[Tensor], targets: Tensor) -> Tensor:
        """F at the states x and the pre-activations a = W x of the same weights; a scalar.

        If the states are those of a forward pass, it is the loss.
        """
        total = self.loss.value(x[-1], targets)
        for mu, activation, state, preactivation in zip(self.mu, self.network.activations, x[1:], a, strict=True):
            total = total + mu * gap(activation, state, preactivation).sum()
        return total

    def sweep(self, x: list[Tensor], a: list[Tensor], targets: Tensor) -> None:
        """Updates every state except the input once, in the list `x`, and the pre-activations in `a` accordingly."""
        last = len(x) - 1
        hidden = range(1, last)
        if self.config.order == "forward":
            for k in hidden:
                self._update_hidden(k, x, a)
        self._update_last(x, a, targets)
        if self.config.order == "backward":
            for k in reversed(hidden):
                self._update_hidden(k, x, a)

    def _update_last(self, x: list[Tensor], a: list[Tensor], targets: Tensor) -> None:
        """X^n = phi(A^{n-1} - loss'(X^n) / mu_n)."""
        mu, activation = self.mu[-1], self.network.activations[-1]

        def target(state: Tensor) -> Tensor:
            return activation.phi(a[-1] - self.loss.gradient(state, targets) / mu)

        x[-1] = self._fixed_point(x[-1], target, self._damping(len(x) - 1))

    def _update_hidden(self, k: int, x: list[Tensor], a: list[Tensor]) -> None:
        """X^i = phi(A^{i-1} - (mu_{i+1} / mu_i) (W^i)' (phi(W^i X^i) - X^{i+1})), for X^i = x[k]."""
        weight, matrix, ratio = self.network.weights[k], self.network.matrix(k), self.mu[k] / self.mu[k - 1]
        below, above = self.network.activations[k - 1], self.network.activations[k]

        def target(state: Tensor) -> Tensor:
            residual = above.phi(affine(state, weight)) - x[k + 1]
            return below.phi(torch.addmm(a[k - 1], residual, matrix, alpha=-ratio))

        x[k] = self._fixed_point(x[k], target, self._damping(k))
        a[k] = affine(x[k], weight)

    def _damping(self, k: int) -> float | Tensor:
        """The step of the fixed-point iteration of x[k].

        The derivative of the iterated map has its eigenvalues in [-rho, 0]. With 2 / (2 + rho), an error is multiplied
        by at most rho / (2 + rho) in each step, the smallest bound possible.
        """
        if self.config.damping is not None:
            return self.config.damping
        rho: float | Tensor = self.network.activations[k - 1].lipschitz / self.mu[k - 1]
        if k == len(self.mu):
            rho = rho * self.loss.lipschitz
        else:
            squared_norm = squared_spectral_norm(self.network.matrix(k))
            rho = rho * self.mu[k] * self.network.activations[k].lipschitz * squared_norm
        return 2 / (2 + rho)

    def _fixed_point(self, state: Tensor, target: Callable[[Tensor], Tensor], damping: float | Tensor) -> Tensor:
        for _ in range(self.config.x_steps):
            state = torch.lerp(state, target(state), damping)
        return state

    def new_weights(self, x: list[Tensor], a: list[Tensor]) -> list[Tensor]:
        """All weights after their update; each depends only on its old value and on the states next to it."""
        network, config = self.network, self.config
        return [
            update_weight(weight, *around, steps=config.w_steps, ridge=config.ridge)
            for weight, around in zip(
                network.weights, zip(x[:-1], a, x[1:], network.activations, strict=True), strict=True
            )
        ]


def update_weight(
    weight: Tensor, x: Tensor, a: Tensor, x_next: Tensor, activation: Activation, *, steps: int, ridge: float
) -> Tensor:
    """Minimizes the gap between X^{i+1} and W X^i, which is convex in W, by steps of APG that start from W.

    With W_{-1} = W_0 = W, t_0 = 1, and the Lipschitz constant beta of phi:

        t_{s+1} = (1 + sqrt(1 + 4 t_s^2)) / 2
        Y = W_s + (t_s - 1) / t_{s+1} (W_s - W_{s-1})
        W_{s+1} = Y - (phi(Y X^i) - X^{i+1}) (X^i)^+ / beta

    Args:
        weight: W (O, I + 1), or (O, I) without bias.
        x: X^i (N, I).
        a: W X^i (N, O).
        x_next: X^{i+1} (N, O).
        activation: phi.
        steps: number of steps of APG.
        ridge: r in (X^i)^+ = X' (X X' + eps I)^-1, eps = r trace(X X') / (I + 1), where X includes the row of ones
            (without bias: X alone, and I in place of I + 1).

    Returns:
        The new weight, of the shape of W.
    """
    has_bias = weight.shape[1] > x.shape[1]
    times_pseudo_inverse = _pseudo_inverse(torch.cat([x, x.new_ones(len(x), 1)], dim=1) if has_bias else x, ridge)
    previous, point, t = weight, weight, 1.0
    for step in range(steps):
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        if step > 0:  # the first point is W itself, whose `a` is known
            point = weight + (t - 1) / t_next * (weight - previous)
            a = affine(x, point)
        previous, t = weight, t_next
        weight = point - times_pseudo_inverse(activation.phi(a) - x_next) / activation.lipschitz
    return weight


def _pseudo_inverse(x_NI: Tensor, ridge: float) -> Callable[[Tensor], Tensor]:
    """Maps R (N, O) to R' times the regularized pseudo-inverse of X, (O, I); I includes the bias, if any.

    X' (X X' + eps I)^-1 = (X' X + eps I)^-1 X', so the smaller of the two matrices can be factored.
    """
    eps = ridge * x_NI.square().sum() / x_NI.shape[1]
    eps = torch.where(eps > 0, eps, 1)  # X = 0, as after dead units without bias: the pseudo-inverse is 0
    few = len(x_NI) < x_NI.shape[1]
    gram = x_NI @ x_NI.T if few else x_NI.T @ x_NI
    gram.diagonal().add_(eps)
    factor, failed = torch.linalg.cholesky_ex(gram)
    # nan reaches the next objective, which is checked; a check here would have to wait for the device.
    factor = torch.where(failed > 0, math.nan, factor)
    if few:
        return lambda residual: torch.cholesky_solve(residual, factor).T @ x_NI
    return lambda residual: torch.cholesky_solve(x_NI.T @ residual, factor).T


def squared_spectral_norm(matrix: Tensor) -> Tensor:
    """The largest eigenvalue of M' M, a scalar; for a large M a lower bound, by Lanczos's iteration.

    For random matrices up to 1,000 x 1,000 it is 0.03 % too low; the damping only needs it to about 1 / rho.
    """
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    if len(small) <= _EXACT:
        return torch.linalg.eigvalsh(small @ small.T)[-1]
    tiny = torch.finfo(matrix.dtype).tiny
    # The longest row has a component in the leading direction, and unlike a random start it is reproducible.
    z = small[small.square().sum(dim=1).argmax()]
    norm, before = z.norm(), torch.zeros_like(z)
    diagonal, beside = [], [torch.zeros_like(norm)]
    for _ in range(_LANCZOS_STEPS):
        v = z / norm.clamp(min=tiny)
        z = small.T @ (small @ v) - beside[-1] * before
        diagonal.append(z @ v)
        z = z - diagonal[-1] * v
        norm, before = z.norm(), v
        beside.append(norm)
    upper = torch.diag(torch.stack(beside[1:-1]), 1)
    return torch.linalg.eigvalsh(torch.stack(diagonal).diag() + upper + upper.T)[-1]


def _diverged(objective: float) -> NonFiniteLossError:
    return NonFiniteLossError(
        f"the objective of the LPOM is {objective}; leave the damping at its default, scale the inputs to about 1, "
        "or raise the ridge"
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be {' or '.join(choices)}")


def _check(name: str, value: float, bound: str, holds: Callable[[float], bool]) -> None:
    if not (isinstance(value, Real) and math.isfinite(value) and holds(value)):
        raise ValueError(f"{name} is {value!r}; it must be {bound}")
