"""The spaces S1 to S4 of RobustDARTS (Zela et al., ICLR 2020, sec. 3), in which plain DARTS derives bad networks.

They are that of DARTS with fewer operations; the lists are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spaces.darts import DARTSSpace
from spaces.registry import register
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


@register("s1")
class S1Space(DARTSSpace):
    """Two operations on each edge, not the same on all: what is left when the least important are dropped in turn.

    Raises ValueError for other nodes or operations than its own, since the table is of these.
    """

    # In DARTS's order, in which the table has those of an edge too, so that the same one is derived from a tie.
    operations_default = (
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect"),
        *("sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"),
    )

    def __init__(self, *, nodes: int = 4, operations: Sequence[str] = (), **fields: Any) -> None:
        if nodes != 4:
            raise ValueError(
                f"--space s1 gives each edge between 4 nodes its own operations, but --nodes is {nodes}; leave that out"
            )
        if operations and tuple(operations) != self.operations_default:
            raise ValueError(
                "--space s1 gives each edge its own operations; leave out --operations, and a --preset that lists some"
            )
        super().__init__(nodes=nodes, operations=operations, **fields)

    def allowed_operations(self, kind: Kind, edge: int) -> Sequence[str]:
        """The two of the edge."""
        return S1_OPERATIONS[kind][edge]


@register("s2")
class S2Space(DARTSSpace):
    """Identity or 3x3 separable convolution."""

    operations_default = ("skip_connect", "sep_conv_3x3")


@register("s3")
class S3Space(DARTSSpace):
    """Zero, identity or 3x3 separable convolution."""

    operations_default = ("none", "skip_connect", "sep_conv_3x3")


@register("s4")
class S4Space(DARTSSpace):
    """Noise, which can only harm, or 3x3 separable convolution.

    What a search computes then differs from pass to pass: cells that are computed again and steps of second order are
    refused.
    """

    operations_default = ("noise", "sep_conv_3x3")
