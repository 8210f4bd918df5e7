"""The supernet as in the literature: the reference for `nas.supernet`.

The order of the work is that of DARTS's `model_search.py` (Liu et al., ICLR 2019): every candidate operation of every
edge is a separate module and is computed separately, in NCHW. Three equations define the network.

- An edge e mixes all candidate operations (DARTS eq. (2)). The search space computes their weights from its
  architecture parameters: in DARTS and Space-HB by a softmax over the operations; in Space-AGD each is also multiplied
  by the weight of the edge:

      mixed_e(x) = sum over o of  A[e, o] o(x)                            `PlainMixedOperation`

- A node j of a cell is the sum over its incoming edges (DARTS eq. (1); Space-HB eq. (23); Space-AGD eq. (28)). Nodes 0
  and 1 are the outputs of the two preceding cells, and the output is the concatenation of all other nodes:

      x_j = sum over the edges e = (i, j) of  mixed_e(x_i)                `PlainSearchCell`

- Cells of the same kind, normal or reduction, share one matrix A (DARTS sec. 2.1):

      s_k = cell_k(s_{k-2}, s_{k-1}; A[kind of k])                        `PlainSupernet`

With partial channels (PC-DARTS, Xu et al., ICLR 2020, eq. (2)), operations see the first C / K channels x1 of an edge's
input. The others, x2, bypass them: as they are, or pooled at stride 2. The result is shuffled:

    mixed_e(x) = shuffle(cat(sum over o of A[e, o] o(x1), (sum over o of s_o A[e, o]) rest(x2)))

with s = -1 for the negative identity, otherwise 1.

Shape letters: N C H W images, E edges (mixed operations of a cell), O candidate operations, K parts of the channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.networks.macro import (
    CellPlan,
    build_preprocessing,
    build_stem,
    edge_stride,
    plan_cells,
    resolve_stem,
)
from nas.supernet import SupernetConfig
from spaces import Kind, SearchSpace, Topology, build_operation
from spaces.ops import traits


def without_relu_in_place(module: nn.Module) -> None:
    """Makes every ReLU in `module` write to a new tensor, because several edges read its input here."""
    for part in module.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False


class PlainMixedOperation(nn.Module):
    """The weighted sum of all candidate operations on one edge (DARTS eq. (2)).

    BatchNorms are not affine, and pools are followed by one, so that no operation can compensate for its mixing weight
    by rescaling (DARTS's code).

    Maps images (N, C, H, W) and the weights (O,) of the edge to (N, C, H / stride, W / stride).
    """

    def __init__(self, operations: Sequence[str], channels: int, stride: int, partial_channels: int = 1) -> None:
        super().__init__()
        self.parts, width = partial_channels, channels // partial_channels
        self.candidates = nn.ModuleList(_candidate(name, width, stride) for name in operations)
        self.rest = nn.Identity() if stride == 1 else nn.MaxPool2d(2, ceil_mode=True)
        self.signs = [-1 if name == "neg_skip_connect" else 1 for name in operations]

    def forward(self, x: Tensor, weights_O: Tensor) -> Tensor:
        """Maps (N, C, H, W) and the edge's weights (O,) to their weighted sum (N, C, H / stride, W / stride)."""
        seen = x[:, : x.shape[1] // self.parts]
        outputs = (weight * candidate(seen) for weight, candidate in zip(weights_O, self.candidates, strict=True))
        total = next(outputs)
        for output in outputs:
            total = total + output
        if self.parts == 1:
            return total
        coefficient = sum(sign * weight for sign, weight in zip(self.signs, weights_O, strict=True))
        joined = torch.cat([total, coefficient * self.rest(x[:, seen.shape[1] :])], dim=1)
        # Channels of the K parts in turns.
        return joined.unflatten(1, (self.parts, -1)).transpose(1, 2).flatten(1, 2)


def _candidate(name: str, channels: int, stride: int) -> nn.Module:
    module = build_operation(name, channels, stride, affine=False)
    if traits(module).pool:
        return nn.Sequential(module, nn.BatchNorm2d(channels, affine=False))
    return module


class PlainSearchCell(nn.Module):
    """A cell of mixed operations (DARTS sec. 2.1).

    Maps the outputs of the two preceding cells and the mixing weights (E, O) of its kind to (N, nodes * C, H, W), with
    half the height and width in a reduction cell. Preprocessing first gives both inputs C channels and the same size.
    """

    kind: Kind

    def __init__(
        self, topology: Topology, operations: Sequence[str], plan: CellPlan, partial_channels: int = 1
    ) -> None:
        super().__init__()
        self.topology = topology
        self.kind = plan.kind
        self.preprocess0, self.preprocess1 = build_preprocessing(plan, affine=False)
        self.edges = nn.ModuleList(
            PlainMixedOperation(operations, plan.channels, edge_stride(plan, source), partial_channels)
            for source, _ in topology.edges
        )

    def forward(self, s0: Tensor, s1: Tensor, weights_EO: Tensor) -> Tensor:
        """Maps the outputs of the two preceding cells and the mixing weights (E, O) to (N, nodes * C, H', W')."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        weights = weights_EO.unbind()
        for target in range(2, 2 + self.topology.nodes):
            arriving = [
                self.edges[e](states[self.topology.edges[e][0]], weights[e]) for e in self.topology.entering(target)
            ]
            states.append(sum(arriving[1:], start=arriving[0]))
        return torch.cat(states[2:], dim=1)


class PlainSupernet(nn.Module):
    """The network that the search trains: stem, cells, global average pooling, classifier (DARTS sec. 3.1).

    Args:
        space: only its topology and the names of its operations are used.
        config: as for `nas.supernet`, except that cells are never checkpointed.
        in_channels, image_size, num_classes: of the data; `image_size` (H, W) only decides what the stem "auto" is.

    Maps images (N, in_channels, H, W) and the mixing weights (E, O) of each kind of cell to logits (N, num_classes).
    """

    def __init__(
        self,
        space: SearchSpace,
        config: SupernetConfig,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
    ) -> None:
        super().__init__()
        topology = space.topology
        self.stem = build_stem(resolve_stem(config.stem, image_size), in_channels, config.init_channels)
        concatenated: dict[Kind, int] = {"normal": topology.nodes, "reduce": topology.nodes}
        plans = list(plan_cells(config.layers, config.init_channels, self.stem, concatenated))
        self.cells = nn.ModuleList(
            PlainSearchCell(topology, space.operations, plan, config.partial_channels) for plan in plans
        )
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(topology.nodes * plans[-1].channels, num_classes)
        without_relu_in_place(self)

    def forward(self, x: Tensor, mixing: Mapping[Kind, Tensor]) -> Tensor:
        """Maps images (N, in_channels, H, W) and mixing weights, (E, O) for each kind, to logits (N, num_classes)."""
        s0, s1 = self.stem(x)
        for cell in self.cells:
            assert isinstance(cell, PlainSearchCell)
            s0, s1 = s1, cell(s0, s1, mixing[cell.kind])
        return self.classifier(self.global_pooling(s1).flatten(1))
