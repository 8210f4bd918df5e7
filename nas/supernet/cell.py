"""A cell of mixed operations, whose work is ordered by the node that edges leave, not by edge.

Shape letters: N C H W images, E edges (of a cell, or those that leave one node), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas.networks.macro import CellPlan, build_preprocessing, edge_stride
from nas.supernet.stacked import SharedOperations, Source, StackedOperations, stack
from spaces import Kind, Topology, build_operation
from spaces.ops import traits


class LeavingEdges(nn.Module):
    """The mixed operations on all edges that leave one node (DARTS eq. (2)).

    BatchNorms are not affine, and pools are followed by one, so that no operation can rescale itself against
    its mixing weight (DARTS's code).

    Args:
        candidates: the O modules of each of the E edges.
        channels: C.
    """

    _of_channel: Tensor

    def __init__(self, candidates: Sequence[Sequence[nn.Module]], channels: int) -> None:
        super().__init__()
        edges, operations = len(candidates), len(candidates[0])
        pools: dict[int, nn.Module] = {}
        identities: dict[int, float] = {}
        others: dict[int, list[nn.Module]] = {}
        for o, module in enumerate(candidates[0]):
            known = traits(module)
            if known.pool:
                pools[o] = module  # that of any edge will do: a pool has no weights
            elif known.sign is not None:
                identities[o] = known.sign
            elif not known.zero:  # zero adds nothing, so it is left out
                others[o] = [modules[o] for modules in candidates]
        self.shared = SharedOperations(pools, identities, operations, channels) if pools or identities else None
        groups = stack(others)
        #: The columns of the mixing weights that belong to each of `stacked`.
        self.columns = [columns for columns, _ in groups]
        self.stacked = nn.ModuleList(group for _, group in groups)
        # The index, among the E * O mixing weights, of the one that scales each channel of the groups' results:
        # operation after operation, within it edge after edge. One look-up then gives all groups their scales.
        rows = torch.arange(edges)[:, None] * operations
        of_channel = [(rows + o).expand(-1, channels).flatten() for columns in self.columns for o in columns]
        self._channels_of = [len(columns) * edges * channels for columns in self.columns]
        self.register_buffer("_of_channel", torch.cat(of_channel) if of_channel else None, persistent=False)

    def forward(self, x: Tensor, weights_EO: Tensor) -> Tensor:
        """Maps (N, C, H, W) and the mixing weights (E, O) to the mixed results (N, E * C, H', W')."""
        total = None if self.shared is None else self.shared(x, weights_EO)
        if self.stacked:
            source = Source(x, x.relu())
            # A copy: batch_norm's gradient is wrong for a scale whose values lie on each other (torch 2.13 to 2.15).
            scales = weights_EO.flatten().index_select(0, self._of_channel).split(self._channels_of)
            for operations, scale in zip(self.stacked, scales, strict=True):
                result = operations(source, scale)
                # In place: each result is a new tensor, which nothing else holds.
                total = result if total is None else total.add_(result)
        assert total is not None, "a space has an operation other than zero"
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
            # All edges have the same statistics of a pool: those of the first are taken.
            found |= {f"shared.{ours}": [(0, name) for name in names] for ours, names in self.shared.origins().items()}
        return found


class SearchCell(nn.Module):
    """A cell of mixed operations; (N, nodes * C, H, W), half the size for a reduction cell.

    Its inputs are the ReLUs of the two outputs before: each of them is read by two cells, which share the ReLU.
    """

    kind: Kind
    _order: Tensor

    def __init__(self, topology: Topology, operations: Sequence[str], plan: CellPlan) -> None:
        super().__init__()
        self.topology, self.kind, self.channels = topology, plan.kind, plan.channels
        self.preprocess0, self.preprocess1 = build_preprocessing(plan, affine=False)
        # Built edge by edge, so that a seed gives every edge the weights that separate modules would have.
        candidates = [
            [build_operation(name, plan.channels, edge_stride(plan, source), affine=False) for name in operations]
            for source, _ in topology.edges
        ]
        #: The edges that leave each node; only of nodes that any edge leaves.
        self.edges_of = {
            source: [e for e, (node, _) in enumerate(topology.edges) if node == source]
            for source in sorted({source for source, _ in topology.edges})
        }
        self.leaving = nn.ModuleDict(
            {
                str(source): LeavingEdges([candidates[e] for e in edges], plan.channels)
                for source, edges in self.edges_of.items()
            }
        )
        # Reorders the rows of the mixing weights by the node that their edges leave.
        self.register_buffer("_order", torch.tensor(sum(self.edges_of.values(), start=[])), persistent=False)

    def forward(self, relu0: Tensor, relu1: Tensor, weights_EO: Tensor) -> Tensor:
        """Maps the ReLUs of the two outputs before, and the mixing weights (E, O), to (N, nodes * C, H', W')."""
        weights = weights_EO.index_select(0, self._order).split([len(edges) for edges in self.edges_of.values()])
        states = {0: self.preprocess0.after_relu(relu0), 1: self.preprocess1.after_relu(relu1)}
        # Edges lead to nodes with higher numbers, so a node is complete once the edges of all nodes before it are done.
        # Until then, the sums of several nodes grow at the same time.
        for (source, edges), of_source in zip(self.edges_of.items(), weights, strict=True):
            results = self.leaving[str(source)](states[source], of_source).split(self.channels, dim=1)
            for e, result in zip(edges, results, strict=True):
                target = self.topology.edges[e][1]
                states[target] = states[target] + result if target in states else result
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
