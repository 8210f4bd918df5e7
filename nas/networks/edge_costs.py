"""What each operation costs on each edge of a space, in the evaluation network of a genotype.

Shape letters: E edges (mixed operations of one cell), O candidate operations, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from genotypes import CellGenotype, Edge, Genotype
from nas.networks.cells import NetworkConfig
from nas.networks.cost import Cost, count_macs, count_parameters, network_cost
from nas.networks.forms import Form
from nas.networks.macro import CellPlan, build_stem, edge_stride, plan_cells, resolve_stem
from spaces import KINDS, Kind, SearchSpace, build_operation
from spaces.derivation import Limit
from spaces.space import CELL_INPUTS


@dataclass(frozen=True)
class EdgeCosts:
    """Parameters and multiply-adds by edge and operation; a network has the sum of its edges, and the rest.

    Exact, because all nodes of a cell are concatenated: stem, preprocessing and classifier are the same for every
    genotype. Multiply-adds are those of one image, and an auxiliary head is not counted, as in `network_cost`.

    Attributes:
        params, macs: (E, O) float64 for each cell kind, summed over the cells of that kind; whole numbers.
        rest_params, rest_macs: of all that is on no edge.
    """

    params: Mapping[Kind, Tensor]
    macs: Mapping[Kind, Tensor]
    rest_params: int
    rest_macs: int

    def limits(self, max_params: int | None, max_macs: int | None) -> list[Limit]:
        """Limits of the network's total, for `spaces.derivation`; None sets none."""
        rows = (
            ("parameters", max_params, self.params, self.rest_params),
            ("multiply-adds", max_macs, self.macs, self.rest_macs),
        )
        return [
            Limit(name=name, most=most, costs={kind: costs[kind].long().tolist() for kind in KINDS}, rest=rest)
            for name, most, costs, rest in rows
            if most is not None
        ]

    def total(self, space: SearchSpace, genotype: Genotype) -> tuple[int, int]:
        """Parameters and multiply-adds of the network of a genotype of this space."""
        params, macs = self.rest_params, self.rest_macs
        for kind in KINDS:
            for target, node in enumerate(getattr(genotype, kind).nodes, CELL_INPUTS):
                for edge in node:
                    # Of parallel edges the first: they cost the same.
                    e = space.topology.edges.index((edge.source, target))
                    o = space.operations.index(edge.operation)
                    params += int(self.params[kind][e, o])
                    macs += int(self.macs[kind][e, o])
        return params, macs


class _Place(NamedTuple):
    """Where an operation stands: its channels, its stride, and the (H, W) of its input."""

    channels: int
    stride: int
    size: tuple[int, int]


def edge_costs(
    space: SearchSpace,
    config: NetworkConfig,
    *,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
) -> EdgeCosts:
    """The costs in the evaluation networks of a space, counted without allocating weights.

    Args:
        space: its edges and operations.
        config: depth, width and stem of the network.
        in_channels: channels of the images.
        image_size: (H, W) in pixels.
        num_classes: classes of the data.
    """
    shape = (len(space.topology.edges), len(space.operations))
    params = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    macs = {kind: torch.zeros(shape, dtype=torch.float64) for kind in KINDS}
    nodes = space.topology.nodes
    from_inputs = torch.tensor([source < CELL_INPUTS for source, _ in space.topology.edges])
    for plan, size in _cells(config, nodes, in_channels, image_size):
        for edges, source, own_size in ((from_inputs, 0, size), (~from_inputs, CELL_INPUTS, _after(plan, size))):
            place = _Place(plan.channels, edge_stride(plan, source), own_size)
            costs_O2 = torch.tensor([_operation_cost(name, place) for name in space.operations], dtype=torch.float64)
            params[plan.kind][edges] += costs_O2[:, 0]
            macs[plan.kind][edges] += costs_O2[:, 1]
    rest = _rest(nodes, config, in_channels, image_size, num_classes)
    return EdgeCosts(params, macs, rest.params, rest.macs)


def costs_in(space: SearchSpace, form: Form) -> EdgeCosts:
    """The costs in a network of that form."""
    return edge_costs(
        space,
        form.network,
        in_channels=form.in_channels,
        image_size=form.image_size,
        num_classes=form.num_classes,
    )


@cache
def _operation_cost(name: str, place: _Place) -> tuple[int, int]:
    with torch.device("meta"):
        operation = build_operation(name, place.channels, place.stride)
    return count_parameters(operation), count_macs(operation, place.channels, place.size)


def _cells(
    config: NetworkConfig, nodes: int, in_channels: int, image_size: tuple[int, int]
) -> Iterator[tuple[CellPlan, tuple[int, int]]]:
    """The cells of the network, and the (H, W) of their preprocessed inputs."""
    with torch.device("meta"):
        stem = build_stem(resolve_stem(config.stem, image_size), in_channels, config.init_channels).eval()
        # What a cell reduces is its newer input; the older one is brought to the same size.
        _, H, W = stem(torch.zeros(1, in_channels, *image_size))[1].shape[1:]
    size = (H, W)
    for plan in plan_cells(config.layers, config.init_channels, stem, dict.fromkeys(KINDS, nodes)):
        yield plan, size
        size = _after(plan, size)


def _after(plan: CellPlan, size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of the cell's intermediate nodes and of its output."""
    return (-(-size[0] // 2), -(-size[1] // 2)) if plan.reduction else size


@cache
def _rest(nodes: int, config: NetworkConfig, in_channels: int, image_size: tuple[int, int], num_classes: int) -> Cost:
    """The cost of a network whose operations cost nothing."""
    targets = range(CELL_INPUTS, CELL_INPUTS + nodes)
    cell = CellGenotype(nodes=tuple((Edge("none", 0),) for _ in targets), concat=tuple(targets))
    genotype = Genotype(normal=cell, reduce=cell)
    return network_cost(genotype, config, in_channels=in_channels, image_size=image_size, num_classes=num_classes)
