"""What each operation costs on each edge of a space, or of a genotype, in the evaluation network.

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
from spaces.limits import Limit
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
        """Limits of the network's total, for `best_within`; None sets none."""
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


class Place(NamedTuple):
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
    for plan, size in cells_of(config, dict.fromkeys(KINDS, nodes), in_channels, image_size):
        for edges, source in ((from_inputs, 0), (~from_inputs, CELL_INPUTS)):
            place = place_of(plan, size, source)
            costs_O2 = torch.tensor([_operation_cost(name, place) for name in space.operations], dtype=torch.float64)
            params[plan.kind][edges] += costs_O2[:, 0]
            macs[plan.kind][edges] += costs_O2[:, 1]
    rest = _rest(nodes, nodes, config, in_channels, image_size, num_classes)
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


class GenotypeEdge(NamedTuple):
    """An edge of a genotype with what it costs, summed over the cells of its kind."""

    kind: Kind
    target: int
    edge: Edge
    params: int
    macs: int


class GenotypeCosts(NamedTuple):
    """The costs of a genotype's network: of its edges, and of all that is on no edge."""

    edges: tuple[GenotypeEdge, ...]
    rest_params: int
    rest_macs: int

    @property
    def params(self) -> int:
        """Parameters of the network, without an auxiliary head."""
        return self.rest_params + sum(edge.params for edge in self.edges)

    @property
    def macs(self) -> int:
        """Multiply-adds of the network for one image."""
        return self.rest_macs + sum(edge.macs for edge in self.edges)


def genotype_costs(genotype: Genotype, form: Form) -> GenotypeCosts:
    """The costs of the edges of a genotype in a network of that form, in the order of the genotype."""
    concatenated: dict[Kind, int] = {"normal": len(genotype.normal.concat), "reduce": len(genotype.reduce.concat)}
    plans = list(cells_of(form.network, concatenated, form.in_channels, form.image_size))
    edges = []
    for kind in KINDS:
        own = [(plan, size) for plan, size in plans if plan.kind == kind]
        for target, node in enumerate(getattr(genotype, kind).nodes, CELL_INPUTS):
            for edge in node:
                costs = [_operation_cost(edge.operation, place_of(plan, size, edge.source)) for plan, size in own]
                params, macs = (sum(cost[i] for cost in costs) for i in range(2))
                edges.append(GenotypeEdge(kind, target, edge, params, macs))
    rest = _rest(*concatenated.values(), form.network, form.in_channels, form.image_size, form.num_classes)
    return GenotypeCosts(tuple(edges), rest.params, rest.macs)


def place_of(plan: CellPlan, size: tuple[int, int], source: int) -> Place:
    """Where an operation on the output of node `source` stands, in a cell whose inputs have the (H, W) `size`."""
    own = size if source < CELL_INPUTS else _after(plan, size)
    return Place(plan.channels, edge_stride(plan, source), own)


@cache
def _operation_cost(name: str, place: Place) -> tuple[int, int]:
    with torch.device("meta"):
        operation = build_operation(name, place.channels, place.stride)
    return count_parameters(operation), count_macs(operation, place.channels, place.size)


def cells_of(
    config: NetworkConfig, concatenated: Mapping[Kind, int], in_channels: int, image_size: tuple[int, int]
) -> Iterator[tuple[CellPlan, tuple[int, int]]]:
    """The cells of the network, and the (H, W) of their preprocessed inputs.

    `concatenated` is, for each kind, the number of nodes that are concatenated to the cell's output.
    """
    with torch.device("meta"):
        stem = build_stem(resolve_stem(config.stem, image_size), in_channels, config.init_channels).eval()
        # What a cell reduces is its newer input; the older one is brought to the same size.
        _, H, W = stem(torch.zeros(1, in_channels, *image_size))[1].shape[1:]
    size = (H, W)
    for plan in plan_cells(config.layers, config.init_channels, stem, concatenated):
        yield plan, size
        size = _after(plan, size)


def _after(plan: CellPlan, size: tuple[int, int]) -> tuple[int, int]:
    """The (H, W) of the cell's intermediate nodes and of its output."""
    return (-(-size[0] // 2), -(-size[1] // 2)) if plan.reduction else size


@cache
def _rest(
    normal: int,
    reduction: int,
    config: NetworkConfig,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
) -> Cost:
    """The cost of a network of operations that cost nothing, whose cells concatenate so many nodes."""
    genotype = Genotype(normal=_without_operations(normal), reduce=_without_operations(reduction))
    return network_cost(genotype, config, in_channels=in_channels, image_size=image_size, num_classes=num_classes)


def _without_operations(nodes: int) -> CellGenotype:
    targets = range(CELL_INPUTS, CELL_INPUTS + nodes)
    return CellGenotype(nodes=tuple((Edge("none", 0),) for _ in targets), concat=tuple(targets))
