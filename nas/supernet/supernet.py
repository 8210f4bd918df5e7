"""The supernet: a stack of cells whose edges mix all candidate operations.

It knows a search space only through its topology, its operations, its masks and the mixing weights it is called with.

Shape letters: N C H W images, E edges (mixed operations of a cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.func import functional_call

from genotypes.config import AtLeast, Common, Config, Count, MayDiffer
from nas.errors import UsageError
from nas.networks.macro import StemName, build_stem, plan_cells, resolve_stem
from nas.supernet.cell import SearchCell
from nas.supernet.partial import check_partial_channels
from nas.supernet.stacked import concatenated
from spaces import Kind, SearchSpace
from spaces.kernels.recompute import recomputed
from spaces.ops import draws


@dataclass(frozen=True, kw_only=True)
class SupernetConfig(Config):
    """The supernet; the defaults are DARTS's (Liu et al., ICLR 2019, sec. 3.1)."""

    layers: Annotated[Count, Common] = 8
    """Number of cells (DARTS sec. 3.1: 8)."""
    init_channels: Annotated[int, AtLeast(2), Common] = 16
    """Channels of the first cells (DARTS sec. A.1: 16)."""
    stem: StemName = "auto"
    """First layers: cifar (stride 1), imagenet (stride 8), or auto by the image's size."""
    partial_channels: Count = 1
    """Show the operations one in this many channels of a node, and let the others bypass them: less time and memory
    (PC-DARTS, Xu et al., ICLR 2020: 4, with --space agd; in the others nothing normalizes what bypasses)."""
    checkpoint_cells: Annotated[bool, MayDiffer] = False
    """Keep only the inputs of the cells and compute each cell again for its gradient: less than a third of the memory,
    a third more time, the same results but for rounding."""


class Supernet(nn.Module):
    """The network that the search trains (DARTS sec. 3.1).

    Args:
        space: only its topology, the names of its operations and its masks are read. Operations that are excluded now
            are not built.
        config: depth, width, stem, partial channels, and whether cells are computed again for the gradient.
        in_channels: channels of the images.
        image_size: (H, W) in pixels; it only decides what the stem "auto" is.
        num_classes: classes of the data.
        skip_dropout: whether there is dropout after the identities of stride 1, while training (P-DARTS, Chen et al.,
            ICCV 2019). Its rate is the buffer `skip_dropout_rate`, at first 0, which the caller fills in place.
            All edges that leave a node share what is dropped in a step.

    Raises UsageError for `checkpoint_cells` with dropout or noise, and for channels that `partial_channels` does not
    divide.
    """

    skip_dropout_rate: Tensor

    def __init__(
        self,
        space: SearchSpace,
        config: SupernetConfig,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        skip_dropout: bool = False,
    ) -> None:
        super().__init__()
        topology = space.topology
        check_partial_channels(config.partial_channels, config.init_channels)
        self.checkpoint_cells = config.checkpoint_cells
        self.stem = build_stem(resolve_stem(config.stem, image_size), in_channels, config.init_channels)
        nodes: dict[Kind, int] = {"normal": topology.nodes, "reduce": topology.nodes}
        plans = list(plan_cells(config.layers, config.init_channels, self.stem, nodes))
        self.cells = nn.ModuleList(SearchCell(space, plan, config.partial_channels) for plan in plans)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(topology.nodes * plans[-1].channels, num_classes)
        if config.checkpoint_cells and draws(self.cells):
            raise UsageError(
                "--checkpoint-cells computes each cell twice, but an operation draws random numbers (noise, dropout), "
                "which would be others the second time; leave out one of the two"
            )
        if config.checkpoint_cells and skip_dropout:
            raise UsageError(
                "--checkpoint-cells computes each cell twice, but --skip-dropout would drop other numbers the second "
                "time; leave out one of the two"
            )
        self.skip_dropout = skip_dropout
        self.register_buffer("skip_dropout_rate", torch.tensor(0.0), persistent=False)
        # The channels innermost in memory, so that stacked channels lie side by side.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, mixing: Mapping[Kind, Tensor]) -> Tensor:
        """Maps images (N, in_channels, H, W) and mixing weights, (E, O) for each kind, to logits (N, num_classes)."""
        skip_dropout = self.skip_dropout_rate if self.skip_dropout and self.training else None
        s0, last = self.stem(x)
        relu0 = s0.relu()
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            relu1 = last.relu()
            last = self._run(cell, relu0, relu1, mixing[cell.kind], skip_dropout)
            relu0 = relu1
        return self.classifier(self.global_pooling(last).flatten(1))

    def _run(
        self, cell: SearchCell, relu0: Tensor, relu1: Tensor, weights_EO: Tensor, skip_dropout: Tensor | None
    ) -> Tensor:
        if not (self.checkpoint_cells and torch.is_grad_enabled()):
            return cell(relu0, relu1, weights_EO, skip_dropout)

        # Only arguments get a gradient, so the cell is called as a function of its parameters.
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
