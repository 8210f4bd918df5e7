"""A cell of mixed operations, whose work is ordered by the node that edges leave, not by edge.

Shape letters: N C H W images, E edges (of a cell, or those that leave one node), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.networks.macro import CellPlan, build_preprocessing, edge_stride
from nas.supernet.partial import Bypass
from nas.supernet.stacked import SharedOperations, Source, StackedOperations, Sums, first_of, stack
from spaces import Kind, SearchSpace, build_operation
from spaces.ops import Traits, traits


class LeavingEdges(nn.Module):
    """The mixed operations on all edges that leave one node (DARTS eq. (2)).

    BatchNorms are not affine, and pools are followed by one, so that no operation can rescale itself against
    its mixing weight (DARTS's code).

    Args:
        candidates: the modules of each of the E edges, by the column of the mixing weights that is theirs. What an edge
            excludes is not computed for it, whatever its mixing weight.
        operations: O.
        channels: C.
    """

    _of_channel: Tensor

    def __init__(self, candidates: Sequence[Mapping[int, nn.Module]], operations: int, channels: int) -> None:
        super().__init__()
        shared: dict[int, dict[int, nn.Module]] = {}
        others: dict[int, dict[int, nn.Module]] = {}
        for o in range(operations):
            of_edge = {e: modules[o] for e, modules in enumerate(candidates) if o in modules}
            known = traits(first_of(of_edge)) if of_edge else Traits(zero=True)
            if known.pool or known.sign is not None:
                shared[o] = of_edge
            elif not known.zero:  # zero adds nothing, so it is left out
                others[o] = of_edge
        self.shared = SharedOperations(shared, (len(candidates), operations), channels) if shared else None
        groups = stack(others)
        #: The columns of the mixing weights that belong to each of `stacked`.
        self.columns = [columns for columns, _ in groups]
        self.stacked = nn.ModuleList(group for _, group in groups)
        # The index, among the E * O mixing weights, of the one that scales each channel of the groups' results:
        # operation after operation, within it edge after edge. One look-up then gives all groups their scales.
        of_pair = [[e * operations + o for o in columns for e in others[o]] for columns in self.columns]
        self._channels_of = [len(of_group) * channels for of_group in of_pair]
        of_channel = torch.tensor(sum(of_pair, start=[]), dtype=torch.int64).repeat_interleave(channels)
        self.register_buffer("_of_channel", of_channel, persistent=False)

    def forward(self, x: Tensor, weights_EO: Tensor, skip_dropout: Tensor | None = None) -> Sums:
        """Maps (N, C, H, W) and the mixing weights (E, O) to the mixed results, of every edge one or more to add up.

        `skip_dropout` is the rate of the dropout after identities of stride 1, a scalar; None drops nothing.
        """
        total = Sums()
        if self.shared is not None:
            total.add(self.shared.edges, self.shared(x, weights_EO, skip_dropout))
        if self.stacked:
            source = Source(x, x.relu())
            # A copy: batch_norm's gradient is wrong for a scale whose values lie on each other (torch 2.13 to 2.15).
            scales = weights_EO.flatten().index_select(0, self._of_channel).split(self._channels_of)
            for operations, scale in zip(self.stacked, scales, strict=True):
                total.merge(operations(source, scale))
        return total

    def origins(self) -> dict[str, list[tuple[int, str]]]:
        """For each tensor of this module, the (edge, name) of the separate candidates' tensors that it concatenates."""
        found = {}
        for group, (columns, operations) in enumerate(zip(self.columns, self.stacked, strict=True)):
            assert isinstance(operations, StackedOperations)
            for ours, origins in operations.origins().items():
                found[f"stacked.{group}.{ours}"] = [
                    (edge, f"candidates.{columns[operation]}.{name}") for operation, edge, name in origins
                ]
        if self.shared is not None:
            found |= {f"shared.{ours}": origins for ours, origins in self.shared.origins().items()}
        return found


class SearchCell(nn.Module):
    """A cell of mixed operations; (N, nodes * C, H, W), half the size for a reduction cell.

    Its inputs are the ReLUs of the two outputs before: each of them is read by two cells, which share the ReLU.

    Args:
        space: gives the topology, the names of the operations, and which of them each edge may have.
        plan: the cell's place in the supernet.
        partial_channels: operations see one in this many channels of a node (`nas.supernet.partial`).
    """

    kind: Kind
    _order: Tensor

    def __init__(self, space: SearchSpace, plan: CellPlan, partial_channels: int = 1) -> None:
        super().__init__()
        topology = space.topology
        self.topology, self.kind = topology, plan.kind
        #: Of the operations.
        self.channels = plan.channels // partial_channels
        self.bypass = Bypass(space, plan, partial_channels) if partial_channels > 1 else None
        self.preprocess0, self.preprocess1 = build_preprocessing(plan, affine=False)
        # Built edge by edge, so that a seed gives every edge the weights that separate modules would have.
        candidates = [
            {
                o: build_operation(name, self.channels, edge_stride(plan, source), affine=False)
                for o, name in enumerate(space.operations)
                if allowed[o]
            }
            for (source, _), allowed in zip(topology.edges, space.mask[plan.kind].tolist(), strict=True)
        ]
        #: The edges that leave each node; only of nodes that any edge leaves.
        self.edges_of = {
            source: [e for e, (node, _) in enumerate(topology.edges) if node == source]
            for source in sorted({source for source, _ in topology.edges})
        }
        self.leaving = nn.ModuleDict(
            {
                str(source): LeavingEdges([candidates[e] for e in edges], len(space.operations), self.channels)
                for source, edges in self.edges_of.items()
            }
        )
        # Reorders the rows of the mixing weights by the node that their edges leave.
        self.register_buffer("_order", torch.tensor(sum(self.edges_of.values(), start=[])), persistent=False)

    def forward(self, relu0: Tensor, relu1: Tensor, weights_EO: Tensor, skip_dropout: Tensor | None = None) -> Tensor:
        """Maps the ReLUs of the two outputs before, and the mixing weights (E, O), to (N, nodes * C, H', W').

        `skip_dropout` as for `LeavingEdges`.
        """
        weights = weights_EO.index_select(0, self._order).split([len(edges) for edges in self.edges_of.values()])
        states = {0: self.preprocess0.after_relu(relu0), 1: self.preprocess1.after_relu(relu1)}
        # Edges lead to nodes with higher numbers, so a node is complete once the edges of all nodes before it are done.
        # Until then, the sums of several nodes grow at the same time.
        sums = Sums()  # by the node that edges lead to
        bypassed = None if self.bypass is None else self.bypass(weights_EO)
        for (source, edges), of_source in zip(self.edges_of.items(), weights, strict=True):
            if source not in states:
                states[source] = sums.take((source,))
            x = states[source] if bypassed is None else bypassed.part(source, states)
            for position, result, part in self.leaving[str(source)](x, of_source, skip_dropout).by_edge():
                sums.add((self.topology.edges[edges[position]][1],), result, part=part)
        states |= {2 + node: sums.take((2 + node,)) for node in range(self.topology.nodes) if 2 + node not in states}
        if bypassed is not None:
            bypassed.join_rest(states)
        return torch.cat([states[2 + node] for node in range(self.topology.nodes)], dim=1)

    def per_edge_names(self) -> dict[str, list[str]]:
        """For each tensor of the leaving edges, the names of the per-edge tensors that it concatenates."""
        found = {}
        for source, edges in self.edges_of.items():
            leaving = self.leaving[str(source)]
            assert isinstance(leaving, LeavingEdges)
            for ours, origins in leaving.origins().items():
                found[f"leaving.{source}.{ours}"] = [f"edges.{edges[e]}.{name}" for e, name in origins]
        return found
