"""One operation on many edges at once: the edges that leave a node share its tensor, so they share the work.

Run one by one, the candidates of a supernet are thousands of small kernels, and each reads its input from memory
anew. Here the weights of one operation on all E edges that leave a node are stacked along the channels, edge after
edge: channel e * C + c of a result is channel c of edge e. The results are those of the separate operations.

Shape letters: N C H W images, E edges that leave one node, J results that all of them share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

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
)

STATISTICS = ("running_mean", "running_var")


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


class StackedOperations(nn.Module, ABC):
    """M operations of one kind on E edges, made from separate modules, whose weights they take over.

    Called with the source and the scales (M * E * C,) of the results, operation after operation, it returns the
    weighted sums over the operations, (N, E * C, H', W'), as a new tensor.

    Args:
        separate: the modules of each operation, one for each edge.
    """

    def __init__(self, separate: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__()
        self.operations, self.edges = len(separate), len(separate[0])

    @classmethod
    @abstractmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """A key that is equal for modules which this class can compute together; None for what it cannot compute.

        A user's operation may look like one of ours and differ: the key is None unless every detail is known.
        """

    @abstractmethod
    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Maps the source and a scale (M * E * C,) to the weighted sums (N, E * C, H', W')."""

    @abstractmethod
    def origins(self) -> dict[str, list[Origin]]:
        """For each tensor of this module, those of separate modules that are concatenated to it."""

    def take(self, separate: Sequence[Sequence[nn.Module]]) -> None:
        """Loads the weights and statistics of the separate modules."""
        states = [[module.state_dict() for module in edges] for edges in separate]
        self.load_state_dict(
            {
                ours: concatenated([states[origin.operation][origin.edge][origin.name] for origin in origins])
                for ours, origins in self.origins().items()
            }
        )

    def of_all_edges(self, name: str, operations: Iterable[int] | None = None) -> list[Origin]:
        """The tensors of that name, operation after operation (default: all), within each edge after edge."""
        operations = range(self.operations) if operations is None else operations
        return [Origin(m, e, name) for m in operations for e in range(self.edges)]


class OfPass(NamedTuple):
    """The weights of a round of separable convolutions for the operations that are computed in one pass."""

    filters: Tensor
    """Depthwise, (M' * E * C, 1, K, K) of the M' operations in the pass."""
    pointwise: Tensor
    """(M' * E * C, C, 1, 1)."""
    norm: NormSlice


class StackedSeparable(StackedOperations):
    """Depthwise convolution, pointwise convolution and BatchNorm, once (dilated) or twice (separable)."""

    def __init__(self, separate: Sequence[Sequence[Separable]]) -> None:
        super().__init__(separate)
        first = [edges[0].first_depthwise for edges in separate]
        self.stride, self.dilation, C = first[0].stride[0], first[0].dilation[0], first[0].out_channels
        self.rounds = separate[0][0].rounds
        width = self.operations * self.edges * C
        # Filters may differ in size, so each operation has a tensor of its own; all else is one tensor per round.
        self.depthwise = nn.ModuleList(
            nn.ParameterList(torch.empty(self.edges * C, 1, *conv.kernel_size) for conv in first) for _ in self.rounds
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

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Maps the source and a scale (M * E * C,) to the weighted sums (N, E * C, H', W')."""
        passes = passes_over(self.operations, source.x.device)
        rounds = [self._passes_of_round(i, passes) for i in range(len(self.rounds))]
        # All passes begin with the same tensor, so their convolutions share its rearrangements.
        filters = [of_pass.filters for of_pass in rounds[0]]
        convolved = depthwise_each(source.relu, filters, stride=self.stride, dilation=self.dilation)
        total = None
        for x, of_pass, scale_of_pass in zip(convolved, zip(*rounds, strict=True), scale.chunk(passes), strict=True):
            # The inner part of two rounds is one function, from a depthwise convolution to the next.
            for this, following in pairwise(of_pass):
                x = pointwise_norm_relu_depthwise(x, this.pointwise, this.norm, following.filters)
            # The mixing weight is the scale of the last BatchNorm, where it costs nothing.
            x = pointwise_norm(x, of_pass[-1].pointwise, of_pass[-1].norm, scale_of_pass)
            # In place: x is a new tensor, which nothing else holds and no gradient needs.
            total = x if total is None else total.add_(x)
        assert total is not None
        return sum_of_parts(total, self.operations // passes)

    def _passes_of_round(self, index: int, passes: int) -> list[OfPass]:
        norm = self.norms[index]
        assert isinstance(norm, StackedNorm)
        parts = self._filters(index, passes), self.pointwise[index].chunk(passes), norm.slices(passes)
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

    def __init__(self, separate: Sequence[Sequence[FactorizedReduce]]) -> None:
        super().__init__(separate)
        first = separate[0][0]
        parts = self.operations * self.edges
        self.halves = nn.ParameterList(
            torch.empty(parts * half.out_channels, half.in_channels, 1, 1) for half in (first.conv_1, first.conv_2)
        )
        self.norm = StackedNorm(parts * first.bn.num_features)
        sign = torch.tensor([edges[0].sign for edges in separate])
        self.register_buffer("sign", sign.repeat_interleave(self.edges * first.bn.num_features), persistent=False)
        self.take(separate)

    @classmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """Factorized reduces of either sign."""
        if type(module) not in (FactorizedReduce, NegativeFactorizedReduce) or not _norms_are_plain(module):
            return None
        return "both signs" if starts_with_relu(module) else None

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Maps the source and a scale (M * E * C,) to the weighted sums (N, E * C, H', W')."""
        pixels = even_and_odd_pixels(source.relu)
        halves = [F.conv2d(x, weight) for x, weight in zip(pixels, self.halves, strict=True)]
        # A factorized reduce has its two halves side by side, so they are joined within each operation and edge.
        by_edge = [half.unflatten(1, (self.operations * self.edges, -1)) for half in halves]
        # The sign goes into the scale, where it costs nothing.
        return sum_of_parts(self.norm(torch.cat(by_edge, dim=2).flatten(1, 2), self.sign * scale), self.operations)

    def origins(self) -> dict[str, list[Origin]]:
        """Both halves and the statistics, each from the tensors of all operations."""
        names = {"halves.0": "conv_1.weight", "halves.1": "conv_2.weight"}
        names |= {f"norm.{name}": f"bn.{name}" for name in STATISTICS}
        return {ours: self.of_all_edges(theirs) for ours, theirs in names.items()}


class SeparateOperations(StackedOperations):
    """Any other operations, one by one and edge by edge."""

    def __init__(self, separate: Sequence[Sequence[nn.Module]]) -> None:
        super().__init__(separate)
        self.separate = nn.ModuleList(nn.ModuleList(edges) for edges in separate)

    @classmethod
    def kind(cls, module: nn.Module) -> Hashable | None:
        """Any module."""
        return "any"

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Maps the source and a scale (M * E * C,) to the weighted sums (N, E * C, H', W')."""
        results = [edge(source.x) for edges in self._lists() for edge in edges]
        return sum_of_parts(torch.cat(results, dim=1) * scale[:, None, None], len(self.separate))

    def origins(self) -> dict[str, list[Origin]]:
        """Each tensor from one tensor of one module."""
        return {
            f"separate.{m}.{e}.{name}": [Origin(m, e, name)]
            for m, edges in enumerate(self._lists())
            for e, edge in enumerate(edges)
            for name in edge.state_dict()
        }

    def _lists(self) -> list[nn.ModuleList]:
        return [edges for edges in self.separate if isinstance(edges, nn.ModuleList)]


#: In order of preference; the last can compute any operation.
CLASSES: tuple[type[StackedOperations], ...] = (StackedSeparable, StackedReductions, SeparateOperations)


def stack(candidates: Mapping[int, Sequence[nn.Module]]) -> list[tuple[list[int], StackedOperations]]:
    """Gathers operations that can be computed together.

    Args:
        candidates: the modules of each operation on E edges, under its column in the mixing weights.

    Returns:
        The columns of the operations of each group, and the group.
    """
    groups: dict[tuple[type[StackedOperations], Hashable], list[int]] = {}
    for o, edges in candidates.items():
        kinds = ((cls, cls.kind(edges[0])) for cls in CLASSES)
        groups.setdefault(next((cls, kind) for cls, kind in kinds if kind is not None), []).append(o)
    return [(columns, cls([candidates[o] for o in columns])) for (cls, _), columns in groups.items()]


def _norms_are_plain(module: nn.Module) -> bool:
    """Whether all BatchNorms in `module` are of the kind that a `StackedNorm` computes."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    return all((m.affine, m.momentum, m.eps, m.track_running_stats) == (False, MOMENTUM, EPS, True) for m in norms)


def concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates tensors along their first dimension; a single one may be a scalar."""
    return torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]


def sum_of_parts(x: Tensor, parts: int) -> Tensor:
    """The sum of the `parts` equal parts of `x`, (N, parts * C, H, W), along the channels; of one part, `x` itself."""
    if parts == 1:
        return x
    # One by one: a reduction over the parts would not walk through memory in order.
    first, second, *others = x.chunk(parts, dim=1)
    total = first + second
    for part in others:
        total = total.add_(part)
    return total


class SharedOperations(nn.Module):
    """Pools, each with its BatchNorm, and identities: the same for all edges, which only weight them.

    Called with (N, C, H, W) and the mixing weights (E, O), it returns the weighted sums (N, E * C, H', W').

    Args:
        pools: the pools, under their columns in the mixing weights.
        identities: the signs of the identities, under their columns.
        operations: O.
        channels: C.
    """

    eye: Tensor
    selection: Tensor

    def __init__(
        self, pools: Mapping[int, nn.Module], identities: Mapping[int, float], operations: int, channels: int
    ) -> None:
        super().__init__()
        self.pools = dict(pools)  # not registered: they have no state
        self.norm = StackedNorm(len(pools) * channels) if pools else None
        # Which columns of the mixing weights make up the weight of each shared result. Identity and negative identity
        # are one result, whose weight is the difference of both.
        selection = torch.zeros(len(pools) + bool(identities), operations)
        for row, o in enumerate(pools):
            selection[row, o] = 1
        for o, sign in identities.items():
            selection[-1, o] = sign
        self.has_identity = bool(identities)
        self.register_buffer("selection", selection, persistent=False)
        self.register_buffer("eye", torch.eye(channels), persistent=False)

    def forward(self, x: Tensor, weights_EO: Tensor) -> Tensor:
        """Maps (N, C, H, W) and the mixing weights (E, O) to the weighted sums (N, E * C, H', W')."""
        shared = []
        if self.norm is not None:
            pooled = self.norm(torch.cat([pool(x) for pool in self.pools.values()], dim=1))
            shared.append(gradient_without_gaps(pooled))
        if self.has_identity:
            shared.append(x)
        # A product with the selection's transpose, but in fp32: autocast would round a matrix product.
        weights_EJ = (weights_EO[:, None] * self.selection).sum(dim=2)
        # A pointwise convolution, whose matrix (E * C, J * C) has a multiple of the unit matrix for each edge and
        # result. Of C products C - 1 are with zero, but it is one kernel, which writes the edges side by side.
        matrix = weights_EJ[:, None, :, None] * self.eye[:, None, :]
        return F.conv2d(torch.cat(shared, dim=1), matrix.flatten(2).flatten(0, 1)[:, :, None, None])

    def origins(self) -> dict[str, list[str]]:
        """For each tensor of this module, those that it concatenates, by their names in the candidates of any edge."""
        return {f"norm.{name}": [f"candidates.{o}.1.{name}" for o in self.pools] for name in STATISTICS if self.pools}


def passes_over(operations: int, device: torch.device) -> int:
    """The number of passes in which several operations are computed on a device.

    A GPU is faster with fewer kernels. On a CPU the results of one operation on all edges fill the cache, and the
    gradient of a padded filter would cost as much as that of a large one.
    """
    return operations if device.type == "cpu" else 1
