"""Partial channels: the operations of a node see one in K of its channels (PC-DARTS, Xu et al., ICLR 2020, eq. (2)).

The other channels bypass them. With the first C / K channels x1 of a node's tensor and the other channels x2, an edge
brings

    shuffle(cat(sum over o of M_eo o(x1), (sum over o of M_eo) rest(x2)))

to its node, where `rest` is the identity or, at stride 2, a 2x2 max pooling, and the shuffle interleaves the K parts,
so that the next node's operations see other channels. In PC-DARTS the weights of the operations sum to 1 and those of
the edges are p, so that the sum of a row is p_e. A node adds up its edges before it joins and shuffles: `rest` is
computed once for each node that edges leave, the shuffle once for each that they enter.

A negative identity counts negatively in the sum: on an edge of Space-HB that is all negative identity, eq. (26) then
holds for the channels that bypass it as well.

Shape letters: N C H W images, E edges of a cell, O candidate operations, K parts of the channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import UsageError
from nas.networks.macro import CellPlan, edge_stride
from spaces import SearchSpace


def check_partial_channels(parts: int, channels: int) -> None:
    """Raises UsageError if C channels cannot be shared out to K parts of which the operations get one."""
    # A factorized reduce needs two channels, one for each of its halves.
    if parts > 1 and (channels % parts or channels < 2 * parts):
        raise UsageError(
            f"--partial-channels {parts} gives operations 1/{parts} of the channels, at least 2, which "
            f"--init-channels {channels} cannot be divided into; use a multiple of {parts} from {2 * parts} on"
        )


class Bypass(nn.Module):
    """The channels of a cell's nodes that no operation sees.

    Called with the mixing weights (E, O), it returns what a pass through the cell needs.

    Args:
        space: gives the topology, and which operation is the negative identity.
        plan: the cell's place in the supernet.
        parts: K, 2 or more.
    """

    _sign: Tensor
    _pair_of_edge: Tensor

    def __init__(self, space: SearchSpace, plan: CellPlan, parts: int) -> None:
        super().__init__()
        self.parts, self.plan = parts, plan
        #: Several edges between the same nodes are one in the bypass: their coefficients are added up.
        self.pairs = sorted(set(space.topology.edges))
        sign = torch.tensor([-1.0 if name == "neg_skip_connect" else 1.0 for name in space.operations])
        self.register_buffer("_sign", sign, persistent=False)
        pair_of_edge = torch.tensor([self.pairs.index(edge) for edge in space.topology.edges])
        self.register_buffer("_pair_of_edge", pair_of_edge, persistent=False)

    def forward(self, weights_EO: Tensor) -> Bypassed:
        """Maps the mixing weights (E, O) to the bypass of one pass."""
        of_edges = (weights_EO * self._sign).sum(dim=1)
        of_pairs = of_edges.new_zeros(len(self.pairs)).index_add(0, self._pair_of_edge, of_edges)
        return Bypassed(self, dict(zip(self.pairs, of_pairs.unbind(), strict=True)))


class Bypassed:
    """The sums of the channels that bypass the operations, in one pass through a cell.

    Args:
        bypass: of the cell.
        coefficients: a scalar for each (source, target).
    """

    def __init__(self, bypass: Bypass, coefficients: Mapping[tuple[int, int], Tensor]) -> None:
        self._parts, self._plan, self._coefficients = bypass.parts, bypass.plan, coefficients
        #: By node, the sum of what entered it so far; only of nodes that are not joined yet.
        self._sums: dict[int, Tensor] = {}

    def part(self, source: int, states: dict[int, Tensor]) -> Tensor:
        """The channels of a node that the operations see, (N, C / K, H, W); the others go to the nodes after it.

        A node other than the cell's inputs is first made of its sum over the operations, `states[source]`, and of the
        channels that bypassed them.
        """
        if source in self._sums:
            states[source] = self._joined(states[source], self._sums.pop(source))
        x = states[source]
        width = x.shape[1] // self._parts
        # Copies: the kernels of the operations, and the sums of the rest, are much slower on channels with gaps.
        part, rest = (t.contiguous(memory_format=torch.channels_last) for t in x.split([width, x.shape[1] - width], 1))
        if edge_stride(self._plan, source) == 2:
            # Rounded up, as all operations round odd sizes.
            rest = F.max_pool2d(rest, 2, stride=2, ceil_mode=True)
        for (of, target), coefficient in self._coefficients.items():
            if of == source:
                weighted = coefficient * rest
                self._sums[target] = self._sums[target] + weighted if target in self._sums else weighted
        return part

    def join_rest(self, states: dict[int, Tensor]) -> None:
        """Completes the nodes that no edge leaves."""
        for node in list(self._sums):
            states[node] = self._joined(states[node], self._sums.pop(node))

    def _joined(self, mixed: Tensor, rest: Tensor) -> Tensor:
        x = torch.cat([mixed, rest], dim=1)
        # Channel k * C / K + c becomes channel c * K + k; in the order of memory, in which channels are innermost.
        shuffled = x.permute(0, 2, 3, 1).unflatten(3, (self._parts, -1)).transpose(3, 4).flatten(3)
        return shuffled.permute(0, 3, 1, 2)
