"""The relaxed forms of the optimization-inspired networks, eq. (16), (17), (18) and (20), for any layers T.

Each is an optimization algorithm whose step -grad f became a layer T, and whose constants became free: fixed numbers or
trainable parameters. ResNet, DenseNet and DMRNet are special cases. x_0 is the input of a block, n layers give x_1 to
x_n, and states of an earlier block are never used (every recurrence starts anew). A layer must not change its input in
place: the states are needed again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from nas.theory.iterations import per_step

#: What takes the place of x_{-1}, see `HeavyBallBlock`.
FirstUnit = Literal["plain", "hb"]


class Coefficients(nn.Module):
    """Rows of numbers, of any lengths: fixed, or all in one parameter `values`, (sum of the lengths,).

    Args:
        rows: row k belongs to layer k.
        learnable: whether they are trained, starting from `rows`.
    """

    def __init__(self, rows: Iterable[Sequence[float]], *, learnable: bool) -> None:
        super().__init__()
        self._fixed = [tuple(float(value) for value in row) for row in rows]
        self._ends = list(accumulate(len(row) for row in self._fixed))
        self.values = nn.Parameter(torch.tensor([value for row in self._fixed for value in row])) if learnable else None

    def row(self, k: int) -> Sequence[float | Tensor]:
        """The coefficients of layer k: floats if they are fixed, otherwise scalar tensors."""
        if self.values is None:
            return self._fixed[k]
        return self.values[self._ends[k] - len(self._fixed[k]) : self._ends[k]].unbind()


def weighted_sum(coefficients: Sequence[float | Tensor], states: Sequence[Tensor]) -> Tensor:
    """Sum of c_j x_j; a fixed 0 is skipped and a fixed 1 not multiplied, so that special cases are exact."""
    total: Tensor | None = None
    for c, x in zip(coefficients, states, strict=True):
        if isinstance(c, Tensor):
            total = c * x if total is None else torch.addcmul(total, c, x)
        elif total is None:
            total = None if c == 0 else x if c == 1 else c * x
        elif c != 0:
            total = torch.add(total, x, alpha=c)
    return torch.zeros_like(states[0]) if total is None else total


class HeavyBallBlock(nn.Module):
    """Eq. (16): x_{k+1} = T_k(x_k) + beta1 x_k + beta2 x_{k-1}.

    HB-Net has beta1 = 1 and beta2 = -1, ResNet beta1 = 1 and beta2 = 0; eq. (11) is beta1 = beta, beta2 = -beta with
    first = "hb".

    Args:
        layers: T_0, ..., T_{n-1}; T_0 may change the shape of its input u if `shortcut` does the same.
        beta1: the weight of x_k: one number for all layers, or one for each.
        beta2: the weight of x_{k-1}, in the same forms.
        learnable: train those of every layer, starting from these numbers.
        first: the first layer has no x_{-1}: "plain" leaves its term out, so that the first unit is one of a ResNet;
            "hb" takes x_{-1} = x_0, as eq. (2) does.
        shortcut: x_0 = shortcut(u); default: the identity.
        activation: applied to every sum; default: none, as in the formula.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        *,
        beta1: float | Sequence[float] = 1.0,
        beta2: float | Sequence[float] = -1.0,
        learnable: bool = False,
        first: FirstUnit = "plain",
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if first not in get_args(FirstUnit):
            raise ValueError(f"first is {first!r}; it must be 'plain' or 'hb'")
        self.layers = nn.ModuleList(layers)
        length = len(self.layers)
        pairs = [per_step(name, value, length) for name, value in (("beta1", beta1), ("beta2", beta2))]
        rows: list[tuple[float, ...]] = list(zip(*pairs, strict=True))
        if first == "plain":
            rows[:1] = [row[:1] for row in rows[:1]]  # x_{-1} is left out, so its coefficient would never be trained
        self.coefficients = Coefficients(rows, learnable=learnable)
        self.first = first
        self.shortcut = shortcut or nn.Identity()
        self.activation = activation or nn.Identity()

    def states(self, u: Tensor) -> list[Tensor]:
        """x_0, ..., x_n for the input u."""
        states = [self.shortcut(u)]
        before = states[:1] if self.first == "hb" else []  # x_{-1}
        for k, layer in enumerate(self.layers):
            terms = [layer(u if k == 0 else states[k]), states[k], *before]
            states.append(self.activation(weighted_sum([1.0, *self.coefficients.row(k)], terms)))
            before = [states[k]]
        return states

    def forward(self, u: Tensor) -> Tensor:
        """Maps the input u (N, C, H, W) to the last state x_n."""
        return self.states(u)[-1]


class AcceleratedBlock(nn.Module):
    """Eq. (17): x_{k+1} = T_k(beta1_k x_k + beta2_k x_{k-1}), with x_{-1} = x_0.

    Eq. (12) is beta1_k = 1 + b_k, beta2_k = -b_k with the momentum sequence b of Nesterov's method.

    Args:
        layers: T_0, ..., T_{n-1}.
        coefficients: (beta1_k, beta2_k) for each layer.
        learnable: train them, starting from those.
    """

    def __init__(
        self, layers: Iterable[nn.Module], coefficients: Iterable[tuple[float, float]], *, learnable: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        rows = list(coefficients)
        _check_lengths("coefficients", rows, [2] * len(self.layers))
        self.coefficients = Coefficients(rows, learnable=learnable)

    def states(self, x: Tensor) -> list[Tensor]:
        """x_0, ..., x_n for the input x_0."""
        states = [x]
        for k, layer in enumerate(self.layers):
            pair = (states[k], states[max(k - 1, 0)])
            states.append(layer(weighted_sum(self.coefficients.row(k), pair)))
        return states

    def forward(self, x: Tensor) -> Tensor:
        """Maps the input x_0 to the last state x_n, of the same shape."""
        return self.states(x)[-1]


class AcceleratedSumBlock(nn.Module):
    """Eq. (18): x_{k+1} = sum_{j<=k} alpha_{k+1,j} T_{k+1,j}(x_j) + sum_{j<=k} beta_{k+1,j} x_j.

    Eq. (13) is alpha = h, beta_{k+1,j} = [j = k] - h_{k+1,j} and T_{k+1,j} = T_j; DenseNet, eq. (19), is alpha = 1,
    beta = 0 (see `nas.networks.handmade.dense`, which computes it with one convolution a layer).

    Args:
        layers: row k holds T_{k+1,0}, ..., T_{k+1,k}. A module that occurs in several rows is computed once for each
            source x_j.
        alpha: the weights of the T_{k+1,j}, in rows of the same lengths.
        beta: the weights of the x_j, in rows of the same lengths.
        learnable: train alpha and beta, starting from those.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[nn.Module]],
        alpha: Sequence[Sequence[float]],
        beta: Sequence[Sequence[float]],
        *,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        lengths = list(range(1, len(layers) + 1))
        for name, rows in (("layers", layers), ("alpha", alpha), ("beta", beta)):
            _check_lengths(name, rows, lengths)
        self.layers = nn.ModuleList(nn.ModuleList(row) for row in layers)
        self.alpha = Coefficients(alpha, learnable=learnable)
        self.beta = Coefficients(beta, learnable=learnable)

    def states(self, x: Tensor) -> list[Tensor]:
        """x_0, ..., x_n for the input x_0."""
        states = [x]
        computed: dict[tuple[nn.Module, int], Tensor] = {}
        for k, row in enumerate(self.layers):
            assert isinstance(row, nn.ModuleList)
            for j, layer in enumerate(row):
                if (layer, j) not in computed:
                    computed[layer, j] = layer(states[j])
            images = [computed[layer, j] for j, layer in enumerate(row)]
            coefficients = [*self.alpha.row(k), *self.beta.row(k)]
            states.append(weighted_sum(coefficients, [*images, *states]))
        return states

    def forward(self, x: Tensor) -> Tensor:
        """Maps the input x_0 to the last state x_n, of the same shape."""
        return self.states(x)[-1]


class ADMMBlock(nn.Module):
    """Eq. (20), two paths that exchange their states.

    x'_{k+1} = T'_k(x'_k) + sum_{t<=k} (alpha_{k+1,t} x'_t + beta_{k+1,t} x_t), and x_{k+1} = T_k(x_k) + the same sum.
    The sum is over t = 0, ..., k; eq. (20) as printed starts at t = 1, which would leave the first layer without one.
    DMRNet has alpha_{k+1,k} = beta_{k+1,k} = 1/2 and zero otherwise.

    Args:
        layers_prime: T'_0, ..., T'_{n-1}.
        layers: T_0, ..., T_{n-1}; other modules than T', or both paths would be the same for equal inputs.
        alpha: row k holds the weights of x'_0, ..., x'_k; default: DMRNet's.
        beta: row k holds the weights of x_0, ..., x_k; default: DMRNet's.
        learnable: train them, starting from those.
        shortcut_prime: x'_0 = shortcut_prime(u'); default: the identity.
        shortcut: x_0 = shortcut(u); default: the identity.
        activation: applied to every sum; default: none.
    """

    def __init__(
        self,
        layers_prime: Iterable[nn.Module],
        layers: Iterable[nn.Module],
        *,
        alpha: Sequence[Sequence[float]] | None = None,
        beta: Sequence[Sequence[float]] | None = None,
        learnable: bool = False,
        shortcut_prime: nn.Module | None = None,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layers_prime, self.layers = nn.ModuleList(layers_prime), nn.ModuleList(layers)
        lengths = list(range(1, len(self.layers) + 1))
        merge = [[0.0] * (length - 1) + [0.5] for length in lengths]
        alpha, beta = alpha or merge, beta or merge
        for name, rows in (("alpha", alpha), ("beta", beta)):
            _check_lengths(name, rows, lengths)
        if len(self.layers_prime) != len(self.layers):
            raise ValueError(
                f"the paths have {len(self.layers_prime)} and {len(self.layers)} layers; give both the same number"
            )
        self.alpha = Coefficients(alpha, learnable=learnable)
        self.beta = Coefficients(beta, learnable=learnable)
        self.shortcut_prime, self.shortcut = shortcut_prime or nn.Identity(), shortcut or nn.Identity()
        self.activation = activation or nn.Identity()

    def states(self, u_prime: Tensor, u: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(x'_0, x_0), ..., (x'_n, x_n) for the inputs u' and u."""
        primes, states = [self.shortcut_prime(u_prime)], [self.shortcut(u)]
        for k, (layer_prime, layer) in enumerate(zip(self.layers_prime, self.layers, strict=True)):
            inputs = (u_prime, u) if k == 0 else (primes[k], states[k])
            merged = weighted_sum([*self.alpha.row(k), *self.beta.row(k)], [*primes, *states])
            primes.append(self.activation(layer_prime(inputs[0]) + merged))
            states.append(self.activation(layer(inputs[1]) + merged))
        return list(zip(primes, states, strict=True))

    def forward(self, u_prime: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Maps the inputs u' and u to the last states (x'_n, x_n)."""
        return self.states(u_prime, u)[-1]


def _check_lengths(name: str, rows: Sequence[Sequence[object]], lengths: Sequence[int]) -> None:
    found = [len(row) for row in rows]
    if found != list(lengths):
        raise ValueError(f"{name} has rows of {found} entries; they must have {list(lengths)}")
