"""DrNAS: the weights of an edge's operations are drawn from a Dirichlet distribution (Chen et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genotypes.config import NotNegative
from nas.methods.registry import Method, register
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import KINDS, SearchSpace

#: The smallest concentration: a gamma variate of a smaller one is 0 in float32.
SMALLEST = 1e-6


class Dirichlet(Relaxation):
    """Weights of an edge from Dir(c) with the concentrations c = elu(logits) + 1; their expectation is c / sum c.

    A Dirichlet variate is not a function of its concentrations and of noise that does not depend on them. Therefore the
    noise of a step is the variate A itself, drawn at the architecture of that moment, and its pathwise derivative; the
    weights of the step are the line through A along this derivative. The architecture stays the same within a step, so
    that in all of its evaluations they are A, and their gradient is the pathwise one.

    Args:
        kl_weight: factor of the Kullback-Leibler divergence from the flat Dir(1), summed over the edges.
    """

    def __init__(self, kl_weight: float = 0.0) -> None:
        super().__init__()
        self.kl_weight = kl_weight

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space with peaked logits, such as Space-HB's own start."""
        if space.peaked:
            raise ValueError(
                "--method drnas cannot start from peaked logits (--init hb): the expectation of a Dirichlet variate is "
                "linear in large logits, so the peaks would be no identities (0.58 at a gap of 10, not 0.9996); use "
                "--init zero"
            )

    @torch.no_grad()
    def draw(self, space: SearchSpace) -> Noise:
        """For each kind of cell (3, E, O): the drawn weights, their derivative, the concentrations of both.

        The derivative of a row A in c_o is (e_o - A) times the entry of o, e_o being the unit vector.
        """
        return {kind: sample(concentrations(space.logits(kind))) for kind in KINDS}

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """The weights that were drawn; their rows sum to 1."""
        found = {}
        for kind in KINDS:
            drawn_EO, derivative_EO, at_EO = noise[kind]
            change_EO = derivative_EO * (concentrations(space.logits(kind)) - at_EO)
            found[kind] = drawn_EO + (change_EO - drawn_EO * change_EO.sum(dim=1, keepdim=True))
        return found

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The mean c / sum c of the distribution."""
        found = {kind: concentrations(space.logits(kind)) for kind in KINDS}
        return {kind: c_EO / c_EO.sum(dim=1, keepdim=True) for kind, c_EO in found.items()}

    def penalty(self, space: SearchSpace) -> Tensor | None:
        """`kl_weight` times the divergence from Dir(1), summed over the edges of both kinds of cells."""
        if self.kl_weight == 0:
            return None
        divergences = [divergence_from_flat(concentrations(space.logits(kind))).sum() for kind in KINDS]
        return self.kl_weight * torch.stack(divergences).sum()


def concentrations(logits_EO: Tensor) -> Tensor:
    """elu(logits) + 1, at least `SMALLEST`; 0 for a masked operation, whose logit is -inf."""
    # exp, because elu(x) + 1 is rounded to 0 for x < -17. Where it is not taken it could overflow, and its gradient
    # would be 0 times inf. In the place of masked_fill, clamp has no gradient at 0, where a search starts.
    positive = logits_EO > 0
    found = torch.where(positive, logits_EO + 1, logits_EO.masked_fill(positive, 0).exp()).clamp(min=SMALLEST)
    return found.masked_fill(logits_EO == -torch.inf, 0)


def sample(c_EO: Tensor) -> Tensor:
    """A draw from Dir(c) for each row, its derivative, and c, stacked (3, E, O); see `Dirichlet.draw`.

    Entries with c = 0 are no part of the distribution: their weight and derivative are 0.
    """
    masked_EO, positive_EO = c_EO == 0, c_EO.clamp(min=SMALLEST)
    # Some entries of a Dirichlet variate, divided by their sum, are a Dirichlet variate, whatever c the others have.
    drawn_EO = torch._sample_dirichlet(positive_EO).masked_fill(masked_EO, 0)
    drawn_EO = drawn_EO / drawn_EO.sum(dim=1, keepdim=True)
    total_EO = c_EO.sum(dim=1, keepdim=True).expand_as(c_EO)
    # What torch.distributions.Dirichlet differentiates with: from the distribution function of one entry, the others
    # keeping their proportions.
    inside_EO = drawn_EO.clamp(min=torch.finfo(drawn_EO.dtype).tiny)
    derivative_EO = torch._dirichlet_grad(inside_EO, positive_EO, total_EO).masked_fill(masked_EO, 0)
    return torch.stack([drawn_EO, derivative_EO, c_EO])


def divergence_from_flat(c_EO: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of Dir(c) from Dir(1) for each row, (E,); entries with c = 0 do not count."""
    masked_EO, total_E1 = c_EO == 0, c_EO.sum(dim=1, keepdim=True)
    number_E = (~masked_EO).sum(dim=1).to(c_EO.dtype)
    c_EO = c_EO.masked_fill(masked_EO, 1)  # which makes their terms 0
    terms_EO = (c_EO - 1) * (c_EO.digamma() - total_E1.digamma()) - c_EO.lgamma()
    return total_E1.squeeze(1).lgamma() - number_E.lgamma() + terms_EO.sum(dim=1)


@register("drnas")
@dataclass(frozen=True, kw_only=True)
class DrNAS(Method):
    """DrNAS (Chen et al., ICLR 2021): the weights of an edge are a Dirichlet variate, drawn in each step.

    Derivation takes the mean of the distribution, where the authors' code takes the softmax of the logits: both order
    the operations of an edge alike, but not those of different edges.
    """

    kl_weight: NotNegative = 0.0
    """Weight of the divergence from the flat Dirichlet distribution in the loss of the architecture; with it, turn off
    --arch-weight-decay (DrNAS's code: 1e-3 with decay 0, but by default 0 with decay 1e-3)."""

    def build(self) -> Dirichlet:
        """The Dirichlet distribution."""
        return Dirichlet(self.kl_weight)
