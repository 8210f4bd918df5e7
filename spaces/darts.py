"""The search space of DARTS."""

from __future__ import annotations

from spaces.ops import TABLE_6
from spaces.registry import register
from spaces.space import SearchSpace, fully_connected


@register("darts")
class DARTSSpace(SearchSpace):
    """DARTS (Liu et al., ICLR 2019, sec. 2.1-2.2 and 3.1).

    Every earlier node feeds every later one (14 edges for 4 nodes), mixed by a softmax over the operations of
    each edge; each node keeps its two strongest edges. Eight operations: Table 6 without the negative
    identity.
    """

    operations_default = tuple(name for name in TABLE_6 if name != "neg_skip_connect")

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        """One edge from every earlier node to every later one."""
        return fully_connected(nodes)
