"""The spaces S1 to S4 of RobustDARTS (Zela et al., ICLR 2020, sec. 3), in which plain DARTS derives bad networks.

They are that of DARTS with fewer operations; the lists are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spaces.darts import DARTSSpace
from spaces.registry import name_of, register
from spaces.space import Kind

#: The two operations of each edge, in the order of the topology: a line for each node, from its source 0 on.
S1_OPERATIONS: dict[Kind, tuple[tuple[str, str], ...]] = {
    "normal": (
        *(("skip_connect", "dil_conv_3x3"), ("skip_connect", "dil_conv_5x5")),
        *(("skip_connect", "dil_conv_5x5"), ("skip_connect", "sep_conv_3x3"), ("skip_connect", "dil_conv_3x3")),
        *(("max_pool_3x3", "skip_connect"), ("skip_connect", "sep_conv_3x3"), ("skip_connect", "sep_conv_3x3")),
        *(("skip_connect", "dil_conv_3x3"),),
        *(("skip_connect", "sep_conv_3x3"), ("max_pool_3x3", "skip_connect"), ("skip_connect", "dil_conv_3x3")),
        *(("dil_conv_3x3", "dil_conv_5x5"), ("dil_conv_3x3", "dil_conv_5x5")),
    ),
    "reduce": (
        *(("max_pool_3x3", "avg_pool_3x3"), ("max_pool_3x3", "dil_conv_3x3")),
        *(("max_pool_3x3", "avg_pool_3x3"), ("max_pool_3x3", "avg_pool_3x3"), ("skip_connect", "dil_conv_5x5")),
        *(("max_pool_3x3", "avg_pool_3x3"), ("max_pool_3x3", "sep_conv_3x3"), ("skip_connect", "dil_conv_3x3")),
        *(("skip_connect", "dil_conv_5x5"),),
        *(("max_pool_3x3", "avg_pool_3x3"), ("max_pool_3x3", "avg_pool_3x3"), ("skip_connect", "dil_conv_5x5")),
        *(("skip_connect", "dil_conv_5x5"), ("skip_connect", "dil_conv_5x5")),
    ),
}


class _Listed(DARTSSpace):
    """A space that is defined by its operations. Raises ValueError for others."""

    def __init__(self, *, operations: Sequence[str] = (), **fields: Any) -> None:
        own = self.operations_default
        if operations and tuple(operations) != own:
            raise ValueError(
                f"--space {name_of(type(self))} has operations of its own; leave out --operations, and with a --preset "
                f"that lists others pass --operations {' '.join(own)}"
            )
        super().__init__(operations=operations, **fields)


@register("s1")
class S1Space(_Listed):
    """Two operations on each edge, not the same on all: what is left when the least important are dropped in turn.

    Raises ValueError for another number of nodes, since the table is of the edges between four.
    """

    # In DARTS's order, in which the table has those of an edge too, so that the same one is derived from a tie.
    operations_default = (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
        *("sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"),
    )

    def __init__(self, *, nodes: int = 4, **fields: Any) -> None:
        if nodes != 4:
            raise ValueError(
                f"--space s1 gives each edge between 4 nodes its own operations, but --nodes is {nodes}; leave that out"
            )
        super().__init__(nodes=nodes, **fields)

    def allowed_operations(self, kind: Kind, edge: int) -> Sequence[str]:
        """The two of the edge."""
        return S1_OPERATIONS[kind][edge]


@register("s2")
class S2Space(_Listed):
    """Identity or 3x3 separable convolution."""

    operations_default = ("skip_connect", "sep_conv_3x3")


@register("s3")
class S3Space(_Listed):
    """Zero, identity or 3x3 separable convolution."""

    operations_default = ("none", "skip_connect", "sep_conv_3x3")


@register("s4")
class S4Space(_Listed):
    """Noise, which can only harm, or 3x3 separable convolution.

    What a search computes then differs from pass to pass: cells that are computed again and steps of second order are
    refused.
    """

    operations_default = ("noise", "sep_conv_3x3")
