"""Feed-forward networks that are optimization algorithms (H. Li, Y. Yang, D. Chen, Z. Lin, eq. (7), (11)-(14)).

Layers T_0, ..., T_{n-1} are any functions of a tensor that keep its shape, such as x -> Phi(W_k x). If all layers are
Phi(W x) with the same symmetric positive definite W, a network is the algorithm of the same name applied to the
objective of Lemma 1 (`nas.theory.equivalence`). All networks return the states x_0, ..., x_n; x_n is the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nas.theory.iterations import Momentum, PerStep, momentum_sequence, per_step

Layer = Callable[[Tensor], Tensor]
Layers = Sequence[Layer]
States = list[Tensor]


def gd(layers: Layers, x0: Tensor) -> States:
    """Gradient descent, eq. (7): x_{k+1} = T_k(x_k)."""
    x = [x0]
    for layer in layers:
        x.append(layer(x[-1]))
    return x


def hb(layers: Layers, x0: Tensor, beta: PerStep = 0.3, alpha: PerStep = 1.0) -> States:
    """Heavy ball: x_{k+1} = x_k + alpha_k (T_k(x_k) - x_k) + beta_k (x_k - x_{k-1}), x_{-1} = x_0.

    Eq. (11) has alpha_k = 1 and a constant beta, 0.3 in sec. 6.2; for sequences see `iterations.heavy_ball`.

    Raises ValueError for a sequence with fewer entries than there are layers.
    """
    sizes, momentum = per_step("alpha", alpha, len(layers)), per_step("beta", beta, len(layers))
    x = [x0, x0]
    for layer, a, b in zip(layers, sizes, momentum, strict=True):
        step = layer(x[-1]) if a == 1 else torch.lerp(x[-1], layer(x[-1]), a)
        x.append(step + b * (x[-1] - x[-2]))
    return x[1:]


def agd(layers: Layers, x0: Tensor, momentum: Momentum = None) -> States:
    """Accelerated gradient descent, eq. (12): x_{k+1} = T_k(x_k + b_k (x_k - x_{k-1})), x_{-1} = x_0.

    Raises ValueError for a momentum sequence that is too short.
    """
    return _accelerated(layers, x0, momentum)[0]


def agd2(layers: Layers, x0: Tensor, momentum: Momentum = None) -> States:
    """Accelerated gradient descent, eq. (13): x_{k+1} = x_k + sum over j <= k of h_{k+1,j} (T_j(x_j) - x_j).

    These states are y of the algorithm, and those of (12) are its z. So each is x_k + b_k (x_k - x_{k-1}) for the x of
    (12), even if every layer is different. Computed like that, n layers need n additions; the sum needs about n^2.

    Raises ValueError for a momentum sequence that is too short.
    """
    return _accelerated(layers, x0, momentum)[1]


def _accelerated(layers: Layers, x0: Tensor, momentum: Momentum) -> tuple[States, States]:
    """The states z of (12), and y, the inputs of the layers, which are the states of (13)."""
    b = momentum_sequence(momentum, len(layers))
    z, y = [x0], [x0]
    for k, layer in enumerate(layers):
        z.append(layer(y[-1]))
        y.append(z[-1] + b[k + 1] * (z[-1] - z[-2]) if b[k + 1] else z[-1])  # b_1 is 0 in the paper's sequence
    return z, y


def admm(layers: Layers, x0: Tensor) -> States:
    """Linearized ADMM, eq. (14), whose two paths share their layers. Returns the states x_k, without x'_k."""
    return admm_paths(layers, layers, x0)[1]


def admm_paths(primed: Layers, layers: Layers, x0: Tensor) -> tuple[States, States]:
    """The two paths x'_0, ..., x'_n and x_0, ..., x_n of linearized ADMM, eq. (14), with x'_0 = x_0.

    x'_{k+1} = (T'_k(x'_k) + x_k - S_k) / 2 and x_{k+1} = (T_k(x_k) + x'_{k+1} + S_k) / 2, where S_k is the sum of
    x'_t - x_t over 1 <= t <= k. In the paper, T' = T.

    Args:
        primed: T'_k, the layers of the path x'.
        layers: T_k, the layers of the path x.
        x0: the start of both paths, of any shape that the layers keep.

    Raises ValueError unless both paths have the same number of layers.
    """
    if len(primed) != len(layers):
        raise ValueError(f"{len(primed)} layers for x' and {len(layers)} for x; give as many")
    xp, x, difference = [x0], [x0], torch.zeros_like(x0)
    for layer_p, layer in zip(primed, layers, strict=True):
        xp.append((layer_p(xp[-1]) + (x[-1] - difference)) / 2)
        x.append((layer(x[-1]) + (xp[-1] + difference)) / 2)
        difference = difference + (xp[-1] - x[-1])
    return xp, x


#: The networks by name, in the order of the paper; each takes (layers, x0).
NETWORKS: dict[str, Callable[[Layers, Tensor], States]] = {"gd": gd, "hb": hb, "agd": agd, "agd2": agd2, "admm": admm}
