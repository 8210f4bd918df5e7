"""The supernet: a stack of cells whose edges mix all candidate operations.

It knows a search space only through its topology, its operations and the mixing weights it is called with. The work
is ordered by the node that edges leave, not by edge: see `nas.stacked`.

Shape letters: N C H W images, E edges (mixed operations of a cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.dropout import _DropoutNd

from nas.errors import UsageError
from nas.macro import (
    CellPlan,
    StemName,
    build_preprocessing,
    build_stem,
    edge_stride,
    plan_cells,
    resolve_stem,
)
from nas.stacked import SharedOperations, Source, StackedOperations, concatenated, stack
from spaces import Kind, Topology, build_operation
from spaces.kernels.recompute import recomputed
from spaces.ops import POOLS, NegativeIdentity, Zero

#: The identities, and the sign of each. A subclass may compute something else.
SIGNS: dict[type[nn.Module], float] = {nn.Identity: 1.0, NegativeIdentity: -1.0}


class LeavingEdges(nn.Module):
    """The mixed operations on all edges that leave one node (DARTS eq. (2)).

    BatchNorms are not affine, and pools are followed by one, so that no operation can rescale itself against
    its mixing weight (DARTS's code).

    Args:
        operations: names of the O candidates.
        candidates: the O modules of each of the E edges.
        channels: C.
    """

    _of_channel: Tensor

    def __init__(self, operations: Sequence[str], candidates: Sequence[Sequence[nn.Module]], channels: int) -> None:
        super().__init__()
        self.channels = channels
        pools: dict[int, nn.Module] = {}
        identities: dict[int, float] = {}
        convolutions: dict[int, list[nn.Module]] = {}
        for o, name in enumerate(operations):
            separate = [modules[o] for modules in candidates]
            if name in POOLS:
                pools[o] = separate[0]
            elif type(separate[0]) in SIGNS:
                identities[o] = SIGNS[type(separate[0])]
            elif type(separate[0]) is not Zero:
                convolutions[o] = separate
        self.shared = SharedOperations(pools, identities, len(operations), channels) if pools or identities else None
        groups = stack(convolutions)
        #: The columns of the mixing weights that belong to each of `stacked`.
        self.columns = [columns for columns, _ in groups]
        self.stacked = nn.ModuleList(group for _, group in groups)
        # Which mixing weight belongs to each channel of the results: operation, edge, channel.
        edges = torch.arange(len(candidates))[:, None]
        of_channel = [
            (edges * len(operations) + o).expand(-1, channels).flatten() for columns in self.columns for o in columns
        ]
        self._channels_of = [len(columns) * len(candidates) * channels for columns in self.columns]
        self.register_buffer("_of_channel", torch.cat(of_channel) if of_channel else None, persistent=False)

    def forward(self, x: Tensor, weights_EO: Tensor) -> Tensor:
        """(N, C, H, W) to the mixed results (N, E * C, H', W')."""
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
        """For each tensor of this module, the (edge, name) of those of separate candidates that it concatenates."""
        found = {}
        for group, (columns, operations) in enumerate(zip(self.columns, self.stacked, strict=True)):
            assert isinstance(operations, StackedOperations)
            for ours, origins in operations.origins().items():
                found[f"stacked.{group}.{ours}"] = [
                    (edge, f"candidates.{columns[operation]}.{name}") for operation, edge, name in origins
                ]
        if self.shared is not None:
            found |= {f"shared.{ours}": [(0, name) for name in names] for ours, names in self.shared.origins().items()}
        return found


class SearchCell(nn.Module):
    """A cell of mixed operations; (N, nodes * C, H, W), half the size for a reduction cell.

    It is called with the ReLUs of the outputs of the two cells before: each is read by two cells, which share it.
    """

    kind: Kind
    _order: Tensor

    def __init__(self, topology: Topology, operations: Sequence[str], plan: CellPlan) -> None:
        super().__init__()
        self.topology, self.kind, self.channels = topology, plan.kind, plan.channels
        self.preprocess0, self.preprocess1 = build_preprocessing(plan, affine=False)
        # Edge by edge, so that a seed gives every edge the weights it had if they were separate modules.
        candidates = [
            [build_operation(name, plan.channels, edge_stride(plan, source), affine=False) for name in operations]
            for source, _ in topology.edges
        ]
        #: The edges that leave each node which edges leave.
        self.edges_of = {
            source: [e for e, (node, _) in enumerate(topology.edges) if node == source]
            for source in sorted({source for source, _ in topology.edges})
        }
        self.leaving = nn.ModuleDict(
            {
                str(source): LeavingEdges(operations, [candidates[e] for e in edges], plan.channels)
                for source, edges in self.edges_of.items()
            }
        )
        self.register_buffer("_order", torch.tensor(sum(self.edges_of.values(), start=[])), persistent=False)

    def forward(self, relu0: Tensor, relu1: Tensor, weights_EO: Tensor) -> Tensor:
        weights = weights_EO.index_select(0, self._order).split([len(edges) for edges in self.edges_of.values()])
        states = {0: self.preprocess0.after_relu(relu0), 1: self.preprocess1.after_relu(relu1)}
        for (source, edges), of_source in zip(self.edges_of.items(), weights, strict=True):
            results = self.leaving[str(source)](states[source], of_source).split(self.channels, dim=1)
            for e, result in zip(edges, results, strict=True):
                target = self.topology.edges[e][1]
                states[target] = states[target] + result if target in states else result
        return torch.cat([states[2 + node] for node in range(self.topology.nodes)], dim=1)

    def per_edge_names(self) -> dict[str, list[str]]:
        """For each tensor of the leaving edges, the names of those of the per-edge layout that it concatenates."""
        found = {}
        for source, edges in self.edges_of.items():
            leaving = self.leaving[str(source)]
            assert isinstance(leaving, LeavingEdges)
            for ours, origins in leaving.origins().items():
                found[f"leaving.{source}.{ours}"] = [f"edges.{edges[e]}.{name}" for e, name in origins]
        return found


class Supernet(nn.Module):
    """The network that the search trains (DARTS sec. 3.1).

    Args:
        topology, operations: of the search space.
        in_channels, image_size, num_classes: of the data; `image_size` (H, W) only decides the stem "auto".
        channels: of the first cells (DARTS: 16).
        layers: number of cells (DARTS: 8).
        stem: "cifar" (stride 1), "imagenet" (stride 8) or "auto".
        checkpoint_cells: keep only the cells' inputs for the gradient, and compute each cell again: less memory,
            more time. When compiled, the compiler decides.

    Called with images (N, in_channels, H, W) and the mixing weights (E, O) of each cell kind, it gives logits
    (N, num_classes).

    Raises ValueError for cells to be computed again that have an operation with dropout.
    """

    def __init__(
        self,
        topology: Topology,
        operations: Sequence[str],
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        channels: int = 16,
        layers: int = 8,
        stem: StemName = "auto",
        checkpoint_cells: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_cells = checkpoint_cells
        self.stem = build_stem(resolve_stem(stem, image_size), in_channels, channels)
        nodes: dict[Kind, int] = {"normal": topology.nodes, "reduce": topology.nodes}
        plans = list(plan_cells(layers, channels, self.stem, nodes))
        self.cells = nn.ModuleList(SearchCell(topology, operations, plan) for plan in plans)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(topology.nodes * plans[-1].channels, num_classes)
        if checkpoint_cells and any(isinstance(m, _DropoutNd) for m in self.cells.modules()):
            raise UsageError(
                "an operation has dropout, which a cell that is computed again would draw anew; leave "
                "--checkpoint-cells out"
            )
        # Stacked channels are innermost in memory, so that what is stacked lies side by side.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, mixing: Mapping[Kind, Tensor]) -> Tensor:
        s0, last = self.stem(x)
        relu0 = s0.relu()
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            relu1 = last.relu()
            last = self._run(cell, relu0, relu1, mixing[cell.kind])
            relu0 = relu1
        return self.classifier(self.global_pooling(last).flatten(1))

    def _run(self, cell: SearchCell, relu0: Tensor, relu1: Tensor, weights_EO: Tensor) -> Tensor:
        if not (self.checkpoint_cells and torch.is_grad_enabled()):
            return cell(relu0, relu1, weights_EO)

        names, parameters = zip(*cell.named_parameters(), strict=True)

        def function(relu0: Tensor, relu1: Tensor, weights_EO: Tensor, *parameters: Tensor) -> Tensor:
            return functional_call(cell, dict(zip(names, parameters, strict=True)), (relu0, relu1, weights_EO))

        return recomputed(function, cell, relu0, relu1, weights_EO, *parameters)


def from_per_edge_state_dict(state_dict: Mapping[str, Tensor], supernet: Supernet) -> dict[str, Tensor]:
    """The state of a supernet whose edges are separate modules, in the layout of `supernet`.

    There, `cells.3.edges.5.candidates.0...` belongs to operation 0 on edge 5 of cell 3, as in DARTS's code, whose
    names `_ops.5._ops.0` are the same but for that. Raises KeyError for a tensor that is missing.
    """
    converted = {}
    for layer, cell in enumerate(supernet.cells):
        assert isinstance(cell, SearchCell)
        for ours, theirs in cell.per_edge_names().items():
            parts = [state_dict[f"cells.{layer}.{name}"] for name in theirs]
            converted[f"cells.{layer}.{ours}"] = concatenated(parts)
    return {name: converted[name] if name in converted else state_dict[name] for name in supernet.state_dict()}
