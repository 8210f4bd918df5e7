"""The multilayer perceptron that an LPOM trains: an ordinary module, which back-propagation can train as well.

Shapes: N samples, I and O units before and after a layer. Samples are rows here and columns in the papers, so that
their W X is `x_NI @ w_OI.T`. The bias, if any, is the last column of a weight, where the papers add a row of ones to X.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from nas.theory.activations import Activation, get


class MLP(nn.Module):
    """Layers X^{k+1} = phi_k(W^k X^k), either all with a bias or all without.

    Args:
        widths: units of each layer from input to output, at least two numbers.
        activations: one for each layer but the input, by name or as `Activation`.
        init_gain: factor of He's initial standard deviation sqrt(2 / I) (He et al., ICCV 2015). A network that ends
            with ReLU needs a small one, such as 0.3, or outputs die.
        bias: whether layers have a bias.
        generator: draws the weights; None takes torch's default generator.
        device: of the weights.
        dtype: of the weights.

    Attributes:
        weights: one a layer, (O, I + 1) with the bias, initially zero, as the last column; (O, I) without bias.
        activations: one a layer.

    Raises ValueError for widths, activations, an init_gain or a bias out of range.
    """

    def __init__(
        self,
        widths: Sequence[int],
        activations: Sequence[Activation | str],
        *,
        init_gain: float = 1.0,
        bias: bool = True,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths are {tuple(widths)}; give two layers or more of one unit or more")
        if len(activations) != len(widths) - 1:
            raise ValueError(
                f"{len(activations)} activations for {len(widths)} layers; give one for each layer but the input"
            )
        if not (isinstance(init_gain, int | float) and math.isfinite(init_gain) and init_gain > 0):
            raise ValueError(f"init_gain is {init_gain!r}; it must be a number greater than 0")
        if bias not in (True, False):
            raise ValueError(f"bias is {bias!r}; it must be True or False")
        self.activations = tuple(map(_activation, activations))
        self.bias = bool(bias)
        self.weights = nn.ParameterList()
        for inputs, outputs in pairwise(widths):
            weight = torch.zeros(outputs, inputs + self.bias, dtype=dtype)
            weight[:, :inputs].normal_(std=init_gain * math.sqrt(2 / inputs), generator=generator)
            self.weights.append(nn.Parameter(weight.to(device)))

    @classmethod
    def from_weights(
        cls, weights: Sequence[Tensor], activations: Sequence[Activation | str], *, bias: bool = True
    ) -> MLP:
        """A network that holds the given weights themselves, each (O, I + 1) with the bias last, or (O, I) without."""
        widths = (*(weight.shape[1] - bias for weight in weights), len(weights[-1]))
        with torch.device("meta"):  # draws no weights, which would only be replaced
            network = cls(widths, activations, bias=bias, device="meta")
        network.weights = nn.ParameterList(nn.Parameter(weight) for weight in weights)
        return network

    def matrix(self, k: int) -> Tensor:
        """The k-th weight without its bias, (O, I)."""
        weight = self.weights[k]
        return weight[:, : weight.shape[1] - self.bias]

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs (N, I) to the outputs of the last layer (N, O)."""
        return self.states(x)[0][-1]

    def states(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """All states X^1 = x, ..., X^n, and the pre-activations A^k = W^k X^k between them, each (N, O)."""
        states, preactivations = [x], []
        for weight, activation in zip(self.weights, self.activations, strict=True):
            preactivations.append(affine(states[-1], weight))
            states.append(activation.phi(preactivations[-1]))
        return states, preactivations


def affine(x_NI: Tensor, weight: Tensor) -> Tensor:
    """W X, (N, O), of inputs (N, I) and a weight: (O, I + 1), whose last column is the bias, or (O, I) without bias."""
    inputs = x_NI.shape[1]
    if weight.shape[1] == inputs:
        return x_NI @ weight.T
    return torch.addmm(weight[:, inputs], x_NI, weight[:, :inputs].T)


def _activation(given: Activation | str) -> Activation:
    if isinstance(given, str):
        return get(given)
    if not isinstance(given, Activation):
        raise ValueError(
            f"activation {given!r} is neither a name nor an Activation; "
            "nas.theory.monotone.from_function makes one of a function"
        )
    return given
