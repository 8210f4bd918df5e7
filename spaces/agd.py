"""Space-AGD: the search space of Nesterov's accelerated gradient descent."""

from __future__ import annotations

from spaces.registry import register
from spaces.space import SearchSpace, fully_connected


@register("agd")
class AGDSpace(SearchSpace):
    """Space-AGD, eq. (28)-(29): x_t = sum_i p_it * mixed_it(x_i) over all earlier nodes i.

    The p_it that enter node t sum to 1 (edge normalization). The strength of an operation is p_it times its weight;
    each node keeps its two strongest edges, which come from distinct nodes.
    """

    edge_normalized = True

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        """One edge from every earlier node to every later one."""
        return fully_connected(nodes)
