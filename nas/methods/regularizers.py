"""Regularizers of the architecture: terms that a search adds to the loss of the architecture, and to nothing else.

They depend on the architecture alone. Their gradient is added to that of the validation loss once; the virtual step and
the Hessian product of a second-order step do not see them, and reported losses do not contain them.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genotypes.config import Config, NotNegative
from nas.methods.relaxation import Relaxation
from spaces import KINDS, Kind, SearchSpace

#: What a cost is counted in.
CostUnit = Literal["params", "macs"]


@dataclass(frozen=True, kw_only=True)
class RegularizerConfig(Config):
    """Terms added to the loss of the architecture; by default none."""

    beta_decay: NotNegative = 0.0
    """Weight of beta decay, reached linearly from 0 over the epochs: a penalty on the logsumexp of an edge's logits,
    averaged over the edges (beta-DARTS, Ye et al., CVPR 2022; code: 50)."""
    entropy_weight: float = 0.0
    """Weight of the entropy of an edge's operations, in nats, averaged over the edges. Positive sharpens the choice,
    negative keeps it open (Jing et al., Neural Networks 2023)."""
    cost_weight: NotNegative = 0.0
    """Weight of the expected cost of the cells, as a share of that of the most expensive ones, so that it means the
    same for networks of any size (after the resource constraint of SNAS, Xie et al., ICLR 2019)."""
    cost: CostUnit = "params"
    """What --cost-weight counts: params (parameters) or macs (multiply-adds)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost != "params" and not self.cost_weight:
            raise ValueError(f"--cost {self.cost} does nothing without --cost-weight; add that, or leave it out")

    def build(self, space: SearchSpace, costs: Mapping[Kind, Tensor] | None = None) -> Regularizer | None:
        """The regularizer, on the device of the space; None if all weights are 0, so that nothing is computed.

        Args:
            space: whose architecture it is for.
            costs: of each operation on each edge, (E, O) by cell kind, in the unit `cost`; read for `cost_weight` only.

        Raises ValueError if every operation of the space costs nothing, and `cost_weight` is not 0.
        """
        if not (self.beta_decay or self.entropy_weight or self.cost_weight):
            return None
        shares = {}
        if self.cost_weight:
            assert costs is not None, "a weight of the cost needs the costs"
            shares = cost_shares(space, costs)
            if not any(bool(share.any()) for share in shares.values()):
                raise ValueError(
                    f"--cost-weight has nothing to reduce: by --cost {self.cost}, every operation of the space is free"
                )
        return Regularizer(self, shares).to(space.alpha[KINDS[0]].device)


class Regularizer(nn.Module):
    """The sum of the terms whose weight is not 0.

    A mask excludes operations by logits of -inf. They count in no term, and no gradient reaches them.

    Args:
        config: the weights.
        cost_shares: (E, O) by cell kind, as the function of that name gives them; read for `cost_weight` only.
    """

    decay: Tensor

    def __init__(self, config: RegularizerConfig, cost_shares: Mapping[Kind, Tensor]) -> None:
        super().__init__()
        self.config = config
        # Not saved: `schedule` fills it before each epoch.
        self.register_buffer("decay", torch.zeros(()), persistent=False)
        for kind, share in cost_shares.items():
            self.register_buffer(f"cost_{kind}", share, persistent=False)

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets the weight of beta decay for epoch number `epoch`, from 0 on, of a search of `epochs`."""
        # The code of beta-DARTS divides by 100, its number of epochs on NAS-Bench-201, whatever the search has.
        self.decay.fill_(self.config.beta_decay * epoch / epochs)

    def forward(self, space: SearchSpace, relaxation: Relaxation) -> Tensor:
        """The terms' sum, a scalar, differentiable with respect to the architecture."""
        terms = []
        if self.config.beta_decay:
            terms.append(self.decay * mean_logsumexp(space))
        if self.config.entropy_weight or self.config.cost_weight:
            shares = {kind: shares_of(weights) for kind, weights in relaxation.expected_weights(space).items()}
            if self.config.entropy_weight:
                entropy = torch.stack([entropies(shares[kind]).mean() for kind in KINDS]).sum()
                terms.append(self.config.entropy_weight * entropy)
            if self.config.cost_weight:
                costs = [(self.get_buffer(f"cost_{kind}") * shares[kind]).sum() for kind in KINDS]
                terms.append(self.config.cost_weight * torch.stack(costs).sum())
        return torch.stack(terms).sum()


def mean_logsumexp(space: SearchSpace) -> Tensor:
    """The logsumexp of an edge's logits, averaged over the edges, added over the two kinds of cells.

    Its gradient in a logit is that logit's softmax over E: the larger a logit, the more it is pulled down. Where
    beta-DARTS was run (NAS-Bench-201) there is one kind of cell; to add two is a choice of ours.
    """
    return torch.stack([space.logits(kind).logsumexp(dim=1).mean() for kind in KINDS]).sum()


def shares_of(weights_EO: Tensor) -> Tensor:
    """The weights (E, O), not negative, scaled to add up to 1 on each edge."""
    return weights_EO / weights_EO.sum(dim=1, keepdim=True)


def entropies(shares_EO: Tensor) -> Tensor:
    """The entropy (E,) of the weights of each edge, which add up to 1, in nats; its gradient is finite."""
    # The derivative of x log x is -inf at 0, where masked operations are: 0 * inf would be NaN.
    safe_EO = torch.where(shares_EO > 0, shares_EO, 1)
    return -(safe_EO * safe_EO.log()).sum(dim=1)


def cost_shares(space: SearchSpace, costs: Mapping[Kind, Tensor]) -> dict[Kind, Tensor]:
    """The costs (E, O) of each kind, of which the choice of the dearest operation on all edges adds up to 1.

    With weights A (E, O) that add up to 1 on each edge and costs c, the expected cost is

        sum over kinds, e, o of A_eo c_eo   /   sum over kinds, e of max over o of c_eo,

    between 0 and 1. Edges count alike, whether or not the derivation would keep them. Operations that the space
    excludes count in neither sum.
    """
    kept = {kind: costs[kind].double().to(space.mask[kind].device).where(space.mask[kind], 0) for kind in KINDS}
    dearest = sum(float(kept[kind].amax(dim=1).sum()) for kind in KINDS)
    return {kind: (kept[kind] / max(dearest, 1.0)).float() for kind in KINDS}
