"""The macro structure that supernet and evaluation network share: the stems, and which cell goes where.

This is DARTS's macro structure (Liu et al., ICLR 2019, sec. 3.1 and 3.3, and the authors' code): a stem, a
stack of cells of which those at 1/3 and 2/3 of the depth reduce, global average pooling, a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from spaces import KINDS, Kind
from spaces.ops import FactorizedReduce, ReLUConvBN

StemName = Literal["auto", "cifar", "imagenet"]

#: The channels of the CIFAR stem are this many times those of the first cells (DARTS's stem_multiplier).
STEM_MULTIPLIER = 3

#: For images at least this large, `auto` is the ImageNet stem: at stride 8, the cells then see 12x12 or more.
IMAGENET_STEM_FROM = 96


class CifarStem(nn.Sequential):
    """3x3 convolution and BatchNorm; both inputs of the first cell are its output (N, 3C, H, W)."""

    reduces = False

    def __init__(self, in_channels: int, channels: int) -> None:
        width = STEM_MULTIPLIER * channels
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.widths = (width, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (N, in_channels, H, W) to the inputs of the first cell, twice the same (N, 3C, H, W)."""
        s = super().forward(x)
        return s, s


class ImageNetStem(nn.Module):
    """Three stride-2 convolutions; gives (N, C, H/4, W/4) and (N, C, H/8, W/8)."""

    reduces = True

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stem0 = nn.Sequential(
            nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.stem1 = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.widths = (channels, channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps images (N, in_channels, H, W) to (N, C, H/4, W/4) and (N, C, H/8, W/8)."""
        s0 = self.stem0(x)
        return s0, self.stem1(s0)


def resolve_stem(stem: StemName, image_size: tuple[int, int]) -> Literal["cifar", "imagenet"]:
    """The stem that "auto" stands for on images of (H, W) pixels."""
    if stem != "auto":
        return stem
    return "imagenet" if min(image_size) >= IMAGENET_STEM_FROM else "cifar"


def build_stem(stem: Literal["cifar", "imagenet"], in_channels: int, channels: int) -> CifarStem | ImageNetStem:
    """The stem for images of `in_channels` and first cells of `channels` channels."""
    return (ImageNetStem if stem == "imagenet" else CifarStem)(in_channels, channels)


@dataclass(frozen=True)
class CellPlan:
    """The place of a cell: channels of its two inputs and of its nodes, and whether it or the one before reduces."""

    c_prev_prev: int
    c_prev: int
    channels: int
    reduction: bool
    reduction_prev: bool

    @property
    def kind(self) -> Kind:
        """The key of the cell in genotypes and mixing weights."""
        return "reduce" if self.reduction else "normal"


def plan_cells(
    layers: int, channels: int, stem: CifarStem | ImageNetStem, concatenated: Mapping[Kind, int]
) -> Iterator[CellPlan]:
    """The `layers` cells after `stem`, in order; those at layers//3 and 2*layers//3 reduce and double C.

    `concatenated` is, for each kind, the number of nodes that are concatenated to the cell's output.
    """
    c_prev_prev, c_prev = stem.widths
    reduction_prev = stem.reduces
    for layer in range(layers):
        reduction = layer in _reductions(layers)
        if reduction:
            channels *= 2
        plan = CellPlan(c_prev_prev, c_prev, channels, reduction, reduction_prev)
        yield plan
        c_prev_prev, c_prev = c_prev, concatenated[plan.kind] * channels
        reduction_prev = reduction


def _reductions(layers: int) -> tuple[int, int]:
    """The cells that reduce, of so many; of a single one twice the same."""
    return layers // 3, 2 * layers // 3


def kinds_of(layers: int) -> tuple[Kind, ...]:
    """The kinds of cells that networks of so many have: with 1 or 2, all reduce."""
    return ("reduce",) if layers <= len(set(_reductions(layers))) else KINDS


def build_preprocessing(plan: CellPlan, affine: bool) -> tuple[FactorizedReduce | ReLUConvBN, ReLUConvBN]:
    """The two modules that convert a cell's inputs to its number of channels and to one size.

    Both start with a ReLU, as do those of the next cell, which reads one of the same tensors.
    """
    first: FactorizedReduce | ReLUConvBN
    if plan.reduction_prev:
        first = FactorizedReduce(plan.c_prev_prev, plan.channels, affine)
    else:
        first = ReLUConvBN(plan.c_prev_prev, plan.channels, 1, 1, 0, affine)
    return first, ReLUConvBN(plan.c_prev, plan.channels, 1, 1, 0, affine)


def edge_stride(plan: CellPlan, source: int) -> int:
    """2 on the edges that leave the two inputs of a reduction cell, otherwise 1."""
    return 2 if plan.reduction and source < 2 else 1
