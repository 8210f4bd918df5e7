"""SNAS and GDAS: the operations of an edge are sampled, by their logits and Gumbel noise, at a falling temperature.

Argmax of logits + G, with independent Gumbel noise G, is a draw from the softmax of the logits; a softmax at the
temperature tau takes the place of the argmax (Maddison et al.; Jang et al., both ICLR 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from genotypes.config import MoreThan
from nas.methods.registry import Method, register
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import KINDS, SearchSpace

Temperature = Annotated[float, MoreThan(0)]


class GumbelSoftmax(Relaxation):
    """SNAS: softmax((logits + G) / tau), with one draw of G for all cells of a kind.

    tau falls linearly from `start`, in epoch 0, towards `end`, which the epoch after the last one would have.

    Args:
        start: tau of the first epoch.
        end: where it falls to.
    """

    temperature: Tensor

    def __init__(self, start: float, end: float) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.register_buffer("temperature", torch.tensor(start))

    def draw(self, space: SearchSpace) -> Noise:
        """Gumbel noise (E, O) for each kind of cell."""
        return {kind: gumbel_like(space.alpha[kind]) for kind in KINDS}

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """The softmax of the perturbed logits at the temperature of the epoch; its rows sum to 1."""
        return {kind: ((space.logits(kind) + noise[kind]) / self.temperature).softmax(dim=-1) for kind in KINDS}

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets tau to (1 - epoch / epochs) (start - end) + end."""
        self.temperature.fill_((1 - epoch / epochs) * (self.start - self.end) + self.end)


class StraightThroughGumbel(GumbelSoftmax):
    """GDAS: one operation an edge, argmax(logits + G); its gradient is that of the softmax at tau.

    tau falls linearly from `start`, in epoch 0, to `end`, in the last epoch.

    Args:
        start: tau of the first epoch.
        end: tau of the last epoch.
        selected_only: only the weight of the drawn operation passes a gradient on, instead of all of them.
    """

    def __init__(self, start: float, end: float, *, selected_only: bool = False) -> None:
        super().__init__(start, end)
        self.selected_only = selected_only

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """Rows that are one-hot to the bit."""
        return {kind: self._one_hot(space.logits(kind) + noise[kind]) for kind in KINDS}

    def _one_hot(self, perturbed_EO: Tensor) -> Tensor:
        # GDAS adds the noise to the log-softmax of the logits. It differs from the logits by one number for each row,
        # which neither the softmax nor the argmax sees.
        soft_EO = (perturbed_EO / self.temperature).softmax(dim=-1)
        hard_EO = torch.zeros_like(soft_EO).scatter_(1, perturbed_EO.argmax(dim=-1, keepdim=True), 1)
        # The difference is 0 to the bit and has the gradient of `soft`; hard - soft.detach() + soft would be rounded.
        no_change_EO = soft_EO - soft_EO.detach()
        return hard_EO + (hard_EO * no_change_EO if self.selected_only else no_change_EO)

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets tau to start - (start - end) epoch / (epochs - 1)."""
        self.temperature.fill_(self.start - (self.start - self.end) * epoch / max(1, epochs - 1))


def gumbel_like(tensor: Tensor) -> Tensor:
    """Standard Gumbel noise G = -log(E) of the shape of `tensor`, with E exponential; always finite."""
    exponential = torch.empty_like(tensor, requires_grad=False).exponential_()
    # A draw may round to 0, and a loop that draws again cannot be in a CUDA graph.
    return exponential.clamp_(min=torch.finfo(tensor.dtype).tiny).log_().neg_()


@register("snas")
@dataclass(frozen=True, kw_only=True)
class SNAS(Method):
    """SNAS (Xie et al., ICLR 2019): a softmax of logits with Gumbel noise, drawn in each step for all cells of a kind.

    Here the architecture has its half of the images, as in DARTS; the authors' code steps both levels on one batch.
    """

    temperature: Temperature = 1.0
    """Temperature of the samples in the first epoch (SNAS's code: 1)."""
    temperature_end: Temperature = 0.03
    """Temperature to which it falls linearly; the last epoch is one part in --epochs of the way above it (SNAS's code:
    0.03)."""

    def build(self) -> GumbelSoftmax:
        """The sampled softmax."""
        return GumbelSoftmax(self.temperature, self.temperature_end)


@register("gdas")
@dataclass(frozen=True, kw_only=True)
class GDAS(Method):
    """GDAS (Dong and Yang, CVPR 2019): one sampled operation an edge, with the gradient of the softmax.

    The supernet computes all operations, and multiplies those that are not drawn by 0: this saves no time. The weights
    that are not drawn have no gradient, but weight decay and momentum go on.
    """

    temperature: Temperature = 10.0
    """Temperature of the gradient in the first epoch (GDAS's code: 10)."""
    temperature_end: Temperature = 0.1
    """Temperature of the gradient in the last epoch, to which it falls linearly (GDAS's code: 0.1)."""
    selected_only: bool = False
    """Pass the gradient on through the drawn operation alone (GDAS sec. 3.2), not through all of them."""

    def build(self) -> StraightThroughGumbel:
        """The sampled one-hot weights."""
        return StraightThroughGumbel(self.temperature, self.temperature_end, selected_only=self.selected_only)
