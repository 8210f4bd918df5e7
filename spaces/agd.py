"""Space-AGD: the search space of Nesterov's accelerated gradient descent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spaces.registry import register
from spaces.space import KINDS, Kind, SearchSpace, fully_connected


@register("agd")
class AGDSpace(SearchSpace):
    """Space-AGD, eq. (28)-(29): x_t = sum_i p_it * mixed_it(x_i) over all earlier nodes i.

    The edge weight p_it is the softmax of `beta` over the edges that enter node t (edge normalization), the
    mixed operation a softmax over its operations. The strength of an operation is p_it times its weight; each
    node keeps its two strongest edges, which come from distinct nodes.

    Attributes:
        beta: logits of the edges, (E,) for each cell kind.
    """

    _same_target: Tensor

    def __init__(self, *, nodes: int = 4, operations: Sequence[str] = ()) -> None:
        super().__init__(nodes=nodes, operations=operations)
        targets = torch.tensor([target for _, target in self.topology.edges])
        self.beta = nn.ParameterDict({kind: nn.Parameter(torch.zeros(len(targets))) for kind in KINDS})
        self.register_buffer("_same_target", targets[:, None] == targets, persistent=False)

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        return fully_connected(nodes)

    def edge_weights(self, kind: Kind) -> Tensor:
        """p, (E,): the softmax of beta over the edges that enter the same node, eq. (29)."""
        beta = self.beta[kind]
        rivals_EE = beta.expand(len(beta), -1).masked_fill(~self._same_target, -torch.inf)
        return (beta - rivals_EE.logsumexp(dim=1)).exp()

    def mixing_weights(self, kind: Kind) -> Tensor:
        """The weights (E, O): p_it times the softmax over the operations, eq. (28)."""
        return self.edge_weights(kind)[:, None] * super().mixing_weights(kind)
