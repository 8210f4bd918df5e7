"""FairDARTS: each operation has a weight of its own, which a loss pushes to 0 or 1 (Chu et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genotypes import Genotype
from genotypes.config import NotNegative, Share
from nas.methods.registry import Method, register
from nas.methods.relaxation import Relaxation, Weights
from spaces import KINDS, SearchSpace


class Sigmoid(Relaxation):
    """The sigmoid of each logit: the operations of an edge do not compete.

    Args:
        zero_one_weight: factor of the zero-one loss.
        threshold: a node keeps an edge beside its strongest only if its weight reaches this.
    """

    rows_sum_to_one: bool = False

    def __init__(self, zero_one_weight: float, threshold: float) -> None:
        super().__init__()
        self.zero_one_weight, self.threshold = zero_one_weight, threshold

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space with peaked logits, such as Space-HB's own start."""
        if space.peaked:
            raise ValueError(
                "--method fairdarts cannot start from peaked logits (--init hb): its sigmoid leaves the weights of the "
                "other operations at a half, and the zero-one loss would hold the peaks; use --init zero"
            )

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The sigmoids of the logits; 0 for a masked operation."""
        return {kind: space.logits(kind).sigmoid() for kind in KINDS}

    def penalty(self, space: SearchSpace) -> Tensor | None:
        """The zero-one loss -mean (sigmoid - 1/2)^2 over the operations of both kinds, times its weight."""
        if self.zero_one_weight == 0:
            return None
        allowed = torch.stack([space.mask[kind] for kind in KINDS])
        weights = torch.stack([space.logits(kind).sigmoid() for kind in KINDS])
        distances = (weights - 0.5).square().masked_fill(~allowed, 0)
        return -self.zero_one_weight * distances.sum() / allowed.sum()

    def derive(self, space: SearchSpace) -> Genotype:
        """The strongest edges of each node, without those below the threshold.

        Not so where all edges are kept, as in Space-HB, whose cells would not be its own without some, nor where edges
        are normalized: the threshold is of a sigmoid, not of its product with the weight of an edge.
        """
        if space.edges_kept is None or space.edge_normalized:
            return super().derive(space)
        return space.derive(self.expected(space), threshold=self.threshold)


@register("fairdarts")
@dataclass(frozen=True, kw_only=True)
class FairDARTS(Method):
    """FairDARTS (Chu et al., ECCV 2020): a sigmoid for each operation, and a loss that pushes it to 0 or 1.

    A node keeps its strongest edge whatever its weight, where the authors' code may leave a node without any.
    """

    zero_one_weight: NotNegative = 10.0
    """Weight of the zero-one loss in the loss of the architecture (FairDARTS's code: 10); no gradient where logits are
    0."""
    threshold: Share = 0.85
    """A node drops its second edge if all operations of that edge weigh less (FairDARTS's code: 0.85); without effect
    in Space-HB and where edges are normalized."""

    def build(self) -> Sigmoid:
        """The sigmoids."""
        return Sigmoid(self.zero_one_weight, self.threshold)
