"""One operation on many edges at once: the edges that leave a node share its tensor, so they share the work.

Run one by one, the candidates of a supernet are thousands of small kernels, and each reads its input from memory
anew. Here the weights of one operation on all edges that leave a node and may have it are stacked along the channels,
edge after edge: with all E edges, channel e * C + c of a result is channel c of edge e. The results are those of the
separate operations.

Shape letters: N C H W images, E edges that leave one node, O operations of the space, M operations and P pairs of an
operation and an edge in a group (M * E if no edge excludes any), J results that all edges share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.kernels.depthwise import depthwise_each
from spaces.kernels.norm import EPS, MOMENTUM, NormSlice, StackedNorm
from spaces.kernels.pointwise import gradient_without_gaps, pointwise_norm, pointwise_norm_relu_depthwise
from spaces.ops import (
    DilConv,
    FactorizedReduce,
    NegativeFactorizedReduce,
    Separable,
    SepConv,
    even_and_odd_pixels,
    starts_with_relu,
    traits,
)

STATISTICS = ("running_mean", "running_var")
ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Origin(NamedTuple):
    """A tensor of a separate module: the operation's and the edge's number, and the name in its state."""

    operation: int
    edge: int
    name: str


@dataclass(frozen=True)
class Source:
    """A node that edges leave: its tensor and the ReLU of that, both (N, C, H, W)."""

    x: Tensor
    relu: Tensor


#: The numbers of some of the edges that leave a node, in order.
Edges = tuple[int, ...]


class Sums:
    """Sums of results, (N, E' * C, H', W') for E' edges, under the numbers of these edges.

    Where no edge excludes an operation there is a single sum, of all edges. A cell has such sums too, one under the
    number of each node.
    """

    def __init__(self) -> None:
        self._sums: dict[Edges, Tensor] = {}
        # Those that are a part of a larger tensor, to which autograd lets nothing be added in place.
        self._parts: set[Edges] = set()

    def by_edge(self) -> Iterator[tuple[int, Tensor, bool]]:
        """Of each sum and edge: the edge, its result (N, C, H', W'), and whether that is a part of a larger tensor."""
        for edges, x in self._sums.items():
            if len(edges) == 1:  # as it is: the gradient of a split would be copied
                yield edges[0], x, edges in self._parts
            else:
                yield from ((edge, part, True) for edge, part in zip(edges, x.chunk(len(edges), dim=1), strict=True))

    def take(self, edges: Edges) -> Tensor:
        """Removes a sum, to which nothing is to be added any more."""
        self._parts.discard(edges)
        return self._sums.pop(edges)

    def add(self, edges: Edges, x: Tensor, *, part: bool = False) -> None:
        """Adds a result, which nothing else holds; `part` says that it is a part of a larger tensor."""
        if edges not in self._sums:
            self._sums[edges] = x
            if part:
                self._parts.add(edges)
        elif edges in self._parts:
            self._sums[edges] = self._sums[edges] + x
            self._parts.remove(edges)
        else:
            self._sums[edges] = self._sums[edges].add_(x)

    def add_each(self, edges: Sequence[Edges], x: Tensor) -> None:
        """Adds the results of several operations, side by side in one tensor; `edges` are those of each."""
        if len(edges) == 1:
            self.add(edges[0], x)
            return
        channels = x.shape[1] // sum(map(len, edges))
        # One by one: a reduction over the parts would not walk through memory in order.
        for of_one, part in zip(edges, x.split([len(of_one) * channels for of_one in edges], dim=1), strict=True):
            self.add(of_one, part, part=True)

    def merge(self, others: Sums) -> None:
        """Adds all sums of `others`, which is not used any more."""
        for edges, x in others._sums.items():
            self.add(edges, x, part=edges in others._parts)


class StackedOperations(nn.Module, ABC):
    """M operations of one kind on the edges that have them, made from separate modules, whose weights they take over.

    Called with the source and the scales (P * C,) of the results, operation after operation and in it edge after edge,
    it returns the weighted sums over the operations.

    Args:
        separate: the modules of each operation, by the edge that has it.
    """

    def __init__(self, separate: Sequence[Mapping[int, nn.Module]]) -> None:
        super().__init__()
        #: The edges of each operation.
        self.edges: list[Edges] = [tuple(of_edge) for of_edge in separate]
        self.operations, self.pairs = len(separate), sum(map(len, separate))

    @classmethod
    @abstractmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """A key that is equal for modules which this class can compute together; None for what it cannot compute.

        A user's operation may look like one of ours and differ: the key is None unless every detail is known.
        """

    @abstractmethod
    def forward(self, source: Source, scale: Tensor) -> Sums:
        """Maps the source and a scale (P * C,) to the weighted sums."""

    @abstractmethod
    def origins(self) -> dict[str, list[Origin]]:
        """For each tensor of this module, those of separate modules that are concatenated to it."""

    def take(self, separate: Sequence[Mapping[int, nn.Module]]) -> None:
        """Loads the weights and statistics of the separate modules."""
        states = [{edge: module.state_dict() for edge, module in of_edge.items()} for of_edge in separate]
        self.load_state_dict(
            {
                ours: concatenated([states[origin.operation][origin.edge][origin.name] for origin in origins])
                for ours, origins in self.origins().items()
            }
        )

    def of_all_edges(self, name: str, operations: Iterable[int] | None = None) -> list[Origin]:
        """The tensors of that name, operation after operation (default: all), within each edge after edge."""
        operations = range(self.operations) if operations is None else operations
        return [Origin(m, e, name) for m in operations for e in self.edges[m]]


def first_of(of_edge: Mapping[int, ModuleT]) -> ModuleT:
    """The module of the first edge."""
    return next(iter(of_edge.values()))


class OfPass(NamedTuple):
    """The weights of a round of separable convolutions for the operations that are computed in one pass."""

    filters: Tensor
    """Depthwise, (P' * C, 1, K, K) of the P' pairs in the pass."""
    pointwise: Tensor
    """(P' * C, C, 1, 1)."""
    norm: NormSlice


class StackedSeparable(StackedOperations):
    """Depthwise convolution, pointwise convolution and BatchNorm, once (dilated) or twice (separable)."""

    def __init__(self, separate: Sequence[Mapping[int, Separable]]) -> None:
        super().__init__(separate)
        first = [first_of(of_edge).first_depthwise for of_edge in separate]
        self.stride, self.dilation, self.channels = first[0].stride[0], first[0].dilation[0], first[0].out_channels
        self.rounds = first_of(separate[0]).rounds
        C, width = self.channels, self.pairs * self.channels
        # Filters may differ in size, so each operation has a tensor of its own; all else is one tensor per round.
        self.depthwise = nn.ModuleList(
            nn.ParameterList(
                torch.empty(len(edges) * C, 1, *conv.kernel_size) for edges, conv in zip(self.edges, first, strict=True)
            )
            for _ in self.rounds
        )
        self.pointwise = nn.ParameterList(torch.empty(width, C, 1, 1) for _ in self.rounds)
        self.norms = nn.ModuleList(StackedNorm(width) for _ in self.rounds)
        self.take(separate)

    @classmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """Modules of one class that agree in stride and dilation; the size of their filters may differ."""
        if type(module) not in (SepConv, DilConv) or not _norms_are_plain(module):
            return None
        assert isinstance(module, Separable)
        if not module.is_as_built():
            return None
        return type(module), module.first_depthwise.stride, module.first_depthwise.dilation

    def forward(self, source: Source, scale: Tensor) -> Sums:
        """Maps the source and a scale (P * C,) to the weighted sums."""
        passes = passes_over(self.edges, source.x.device)
        widths = [sum(map(len, edges)) * self.channels for edges in passes]
        rounds = [self._passes_of_round(i, widths) for i in range(len(self.rounds))]
        # All passes begin with the same tensor, so their convolutions share its rearrangements.
        filters = [of_pass.filters for of_pass in rounds[0]]
        convolved = depthwise_each(source.relu, filters, stride=self.stride, dilation=self.dilation)
        of_passes = zip(passes, convolved, zip(*rounds, strict=True), scale.split(widths), strict=True)
        total = Sums()
        for edges, x, of_pass, scale_of_pass in of_passes:
            # The inner part of two rounds is one function, from a depthwise convolution to the next.
            for this, following in pairwise(of_pass):
                x = pointwise_norm_relu_depthwise(x, this.pointwise, this.norm, following.filters)
            # The mixing weight is the scale of the last BatchNorm, where it costs nothing.
            x = pointwise_norm(x, of_pass[-1].pointwise, of_pass[-1].norm, scale_of_pass)
            total.add_each(edges, x)
        return total

    def _passes_of_round(self, index: int, widths: Sequence[int]) -> list[OfPass]:
        norm = self.norms[index]
        assert isinstance(norm, StackedNorm)
        parts = self._filters(index, len(widths)), self.pointwise[index].split(list(widths)), norm.slices(widths)
        return [OfPass(*of_pass) for of_pass in zip(*parts, strict=True)]

    def _filters(self, index: int, passes: int) -> list[Tensor]:
        """The depthwise filters of each pass; in one pass, those of all operations, padded to the largest size."""
        of_operations = self.depthwise[index]
        assert isinstance(of_operations, nn.ParameterList)
        filters = list(of_operations)
        if passes == len(filters):
            return filters
        # A filter padded with zeros is the same convolution, since the image is padded so that it keeps its size.
        largest = max(f.shape[2] for f in filters)
        borders = [(largest - f.shape[2]) // 2 for f in filters]
        return [torch.cat([F.pad(f, [b] * 4) if b else f for f, b in zip(filters, borders, strict=True)])]

    def origins(self) -> dict[str, list[Origin]]:
        """The filters of one operation each; for all else, the tensors of all operations."""
        found = {}
        for i, names in enumerate(self.rounds):
            for m in range(self.operations):
                found[f"depthwise.{i}.{m}"] = self.of_all_edges(f"{names.depthwise}.weight", [m])
            found[f"pointwise.{i}"] = self.of_all_edges(f"{names.pointwise}.weight")
            for name in STATISTICS:
                found[f"norms.{i}.{name}"] = self.of_all_edges(f"{names.norm}.{name}")
        return found


class StackedReductions(StackedOperations):
    """Factorized reduces, the identity at stride 2, and their negatives."""

    sign: Tensor

    def __init__(self, separate: Sequence[Mapping[int, FactorizedReduce]]) -> None:
        super().__init__(separate)
        first = first_of(separate[0])
        channels = first.bn.num_features
        self.halves = nn.ParameterList(
            torch.empty(self.pairs * half.out_channels, half.in_channels, 1, 1) for half in (first.conv_1, first.conv_2)
        )
        self.norm = StackedNorm(self.pairs * channels)
        signs = [module.sign for of_edge in separate for module in of_edge.values()]
        self.register_buffer("sign", torch.tensor(signs).repeat_interleave(channels), persistent=False)
        self.take(separate)

    @classmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """Factorized reduces of either sign."""
        if type(module) not in (FactorizedReduce, NegativeFactorizedReduce) or not _norms_are_plain(module):
            return None
        return "both signs" if starts_with_relu(module) else None

    def forward(self, source: Source, scale: Tensor) -> Sums:
        """Maps the source and a scale (P * C,) to the weighted sums."""
        pixels = even_and_odd_pixels(source.relu)
        halves = [F.conv2d(x, weight) for x, weight in zip(pixels, self.halves, strict=True)]
        # A factorized reduce has its two halves side by side, so they are joined within each operation and edge.
        by_edge = [half.unflatten(1, (self.pairs, -1)) for half in halves]
        total = Sums()
        # The sign goes into the scale, where it costs nothing.
        total.add_each(self.edges, self.norm(torch.cat(by_edge, dim=2).flatten(1, 2), self.sign * scale))
        return total

    def origins(self) -> dict[str, list[Origin]]:
        """Both halves and the statistics, each from the tensors of all operations."""
        names = {"halves.0": "conv_1.weight", "halves.1": "conv_2.weight"}
        names |= {f"norm.{name}": f"bn.{name}" for name in STATISTICS}
        return {ours: self.of_all_edges(theirs) for ours, theirs in names.items()}


class SeparateOperations(StackedOperations):
    """Any other operations, one by one and edge by edge."""

    def __init__(self, separate: Sequence[Mapping[int, nn.Module]]) -> None:
        super().__init__(separate)
        self.separate = nn.ModuleList(
            nn.ModuleDict({str(edge): module for edge, module in of_edge.items()}) for of_edge in separate
        )

    @classmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """Any module."""
        return "any"

    def forward(self, source: Source, scale: Tensor) -> Sums:
        """Maps the source and a scale (P * C,) to the weighted sums."""
        results = [module(source.x) for of_edge in self._by_edge() for module in of_edge.values()]
        total = Sums()
        total.add_each(self.edges, torch.cat(results, dim=1) * scale[:, None, None])
        return total

    def origins(self) -> dict[str, list[Origin]]:
        """Each tensor from one tensor of one module."""
        return {
            f"separate.{m}.{edge}.{name}": [Origin(m, int(edge), name)]
            for m, of_edge in enumerate(self._by_edge())
            for edge, module in of_edge.items()
            for name in module.state_dict()
        }

    def _by_edge(self) -> list[nn.ModuleDict]:
        return [of_edge for of_edge in self.separate if isinstance(of_edge, nn.ModuleDict)]


#: In order of preference; the last can compute any operation.
CLASSES: tuple[type[StackedOperations], ...] = (StackedSeparable, StackedReductions, SeparateOperations)


def stack(candidates: Mapping[int, Mapping[int, nn.Module]]) -> list[tuple[list[int], StackedOperations]]:
    """Gathers operations that can be computed together.

    Args:
        candidates: for each operation, under its column in the mixing weights, its modules by edge.

    Returns:
        The columns of the operations of each group, and the group.
    """
    groups: dict[tuple[type[StackedOperations], Hashable], list[int]] = {}
    for o, of_edge in candidates.items():
        kinds = ((cls, cls.kind(first_of(of_edge))) for cls in CLASSES)
        groups.setdefault(next((cls, kind) for cls, kind in kinds if kind is not None), []).append(o)
    return [(columns, cls([candidates[o] for o in columns])) for (cls, _), columns in groups.items()]


def _norms_are_plain(module: nn.Module) -> bool:
    """Whether all BatchNorms in `module` are of the kind that a `StackedNorm` computes."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    return all((m.affine, m.momentum, m.eps, m.track_running_stats) == (False, MOMENTUM, EPS, True) for m in norms)


def concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors along their first dimension; a single one may be a scalar."""
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


class SharedOperations(nn.Module):
    """Pools, each with its BatchNorm, and identities: the same for all edges, which only weight them.

    Called with (N, C, H, W) and the mixing weights (E, O), it returns the weighted sums (N, E' * C, H', W') of the E'
    edges that have any of them.

    Args:
        candidates: for each operation, under its column in the mixing weights, its modules by edge.
        size: E and O.
        channels: C.
    """

    eye: Tensor
    selection: Tensor

    def __init__(self, candidates: Mapping[int, Mapping[int, nn.Module]], size: tuple[int, int], channels: int) -> None:
        super().__init__()
        modules = {o: first_of(of_edge) for o, of_edge in candidates.items()}  # of any edge: they have no weights
        signs = {o: traits(module).sign for o, module in modules.items()}
        self.pools = {o: module for o, module in modules.items() if signs[o] is None}  # not registered: no state
        self.norm = StackedNorm(len(self.pools) * channels) if self.pools else None
        self.has_identity = len(self.pools) < len(modules)
        #: The edges that have any of the operations.
        self.edges: Edges = tuple(sorted({edge for of_edge in candidates.values() for edge in of_edge}))
        #: Of each pool, the first edge that has it.
        self.first_edge = {o: next(iter(candidates[o])) for o in self.pools}
        # Which of the mixing weights make up the weight of each shared result on each edge. Identity and negative
        # identity are one result, whose weight is the difference of both.
        rows = {o: row for row, o in enumerate(self.pools)}
        selection = torch.zeros(len(self.edges), len(self.pools) + self.has_identity, *size)
        for o, of_edge in candidates.items():
            for edge in of_edge:
                sign = signs[o]
                selection[self.edges.index(edge), rows.get(o, -1), edge, o] = 1 if sign is None else sign
        self.register_buffer("selection", selection, persistent=False)
        self.register_buffer("eye", torch.eye(channels), persistent=False)

    def forward(self, x: Tensor, weights_EO: Tensor, skip_dropout: Tensor | None = None) -> Tensor:
        """Maps (N, C, H, W) and the mixing weights (E, O) to the weighted sums (N, E' * C, H', W').

        `skip_dropout` is the rate, a scalar, at which numbers of the identities are dropped; None drops nothing.
        """
        shared = []
        if self.norm is not None:
            pooled = self.norm(torch.cat([pool(x) for pool in self.pools.values()], dim=1))
            shared.append(gradient_without_gaps(pooled))
        if self.has_identity:
            shared.append(x if skip_dropout is None else dropped(x, skip_dropout))
        # A product with a matrix, but in fp32: autocast would round a matrix product.
        weights_EJ = (weights_EO * self.selection).sum(dim=(2, 3))
        # A pointwise convolution, whose matrix (E' * C, J * C) has a multiple of the unit matrix for each edge and
        # result. Of C products C - 1 are with zero, but it is one kernel, which writes the edges side by side.
        matrix = weights_EJ[:, None, :, None] * self.eye[:, None, :]
        return F.conv2d(torch.cat(shared, dim=1), matrix.flatten(2).flatten(0, 1)[:, :, None, None])

    def origins(self) -> dict[str, list[tuple[int, str]]]:
        """For each tensor of this module, the (edge, name) of the candidates' tensors that it concatenates."""
        # All edges have the same statistics of a pool: those of the first are taken.
        return {
            f"norm.{name}": [(edge, f"candidates.{o}.1.{name}") for o, edge in self.first_edge.items()]
            for name in STATISTICS
            if self.pools
        }


def dropped(x: Tensor, rate: Tensor) -> Tensor:
    """Elementwise dropout whose rate, a scalar below 1, is a tensor, which a CUDA graph reads anew at each replay."""
    kept = torch.rand_like(x, dtype=torch.float32) >= rate
    return x * kept / (1 - rate)


def passes_over(edges: Sequence[Edges], device: torch.device) -> list[list[Edges]]:
    """In which passes several operations are computed on a device: the edges of each operation, pass by pass.

    A GPU is faster with fewer kernels. On a CPU the results of one operation on all edges fill the cache, and the
    gradient of a padded filter would cost as much as that of a large one.
    """
    return [[of_one] for of_one in edges] if device.type == "cpu" else [list(edges)]
