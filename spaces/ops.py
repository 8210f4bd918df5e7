"""The candidate operations: one table, name -> constructor(channels, stride, affine).

The nine of Table 6 of the search-space paper (3x3 and 5x5 separable convolution, 3x3 and 5x5 dilated
convolution, 3x3 max and average pooling, identity, negative identity, zero), the two more that published
genotypes need, and the noise of RobustDARTS's space S4. Their composition is that of DARTS (Liu et al., ICLR 2019,
sec. 3.1), so published genotypes and weights carry over; only the negative identity is new.

Every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)), odd sizes included.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import ClassVar, NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from genotypes import OPERATIONS as DECLARED
from genotypes import declare_operation
from spaces.kernels.depthwise import DepthwiseConv2d
from spaces.kernels.norm import FoldedBatchNorm2d
from spaces.kernels.pointwise import StridedPointwiseConv2d

OperationBuilder = Callable[[int, int, bool], nn.Module]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

#: name -> constructor(channels, stride, affine); `affine` is that of the operation's BatchNorms.
OPERATIONS: dict[str, OperationBuilder] = {}

#: The nine of Table 6, in the paper's order; of equally strong operations the first is derived.
TABLE_6 = (
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "neg_skip_connect",
    "none",
)


def operation(name: str, label: str | None = None) -> Callable[[OperationBuilder], OperationBuilder]:
    """Decorator that adds a constructor(channels, stride, affine) to the table under `name`.

    `label` is the short name in pictures (default: `name`). Raises ValueError where `name` is taken.
    """

    def add(build: OperationBuilder) -> OperationBuilder:
        if name in OPERATIONS:
            raise ValueError(f"operation {name!r} is already registered; choose another name")
        if name not in DECLARED:
            declare_operation(name, label or name)
        OPERATIONS[name] = build
        return build

    return add


def build_operation(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """The operation `name` on `channels` channels with `stride` 1 or 2.

    Raises ValueError for a name that is not in the table (the message lists what is).
    """
    if name not in OPERATIONS:
        raise ValueError(f"unknown operation {name!r}; known: {', '.join(OPERATIONS)}")
    return OPERATIONS[name](channels, stride, affine)


@functools.cache
def is_parameter_free(name: str) -> bool:
    """Whether the operation has no parameters at stride 1: pools, identities, zero.

    Raises ValueError for a name that is not in the table.
    """
    with torch.device("meta"):  # takes no memory and no random numbers
        return not any(True for _ in build_operation(name, 16, 1).parameters())


def convolution(c_in: int, c_out: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    """A convolution without bias that every CPU computes correctly; use it in operations of your own."""
    if kernel == 1 and stride > 1 and padding == 0:
        return StridedPointwiseConv2d(c_in, c_out, stride)
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, bias=False)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What is known about an operation, for code that has a faster way to compute it; by default, nothing."""

    pool: bool = False
    """A pool, without a BatchNorm of its own: the supernet appends one."""
    sign: float | None = None
    """The identity times this sign."""
    zero: bool = False
    """Zero for every input."""
    relu_first: bool = False
    """A `StartsWithReLU` whose first module is a ReLU, unless it was replaced by another module."""
    random: bool = False
    """Draws random numbers from torch's generator, so that two passes over the same input differ."""


_TRAITS: dict[type[nn.Module], Traits] = {nn.Identity: Traits(sign=1.0)}


def known_as(traits: Traits) -> Callable[[type[ModuleT]], type[ModuleT]]:
    """Decorator that states the traits of an operation's class."""

    def declare(cls: type[ModuleT]) -> type[ModuleT]:
        _TRAITS[cls] = traits
        return cls

    return declare


def traits(module: nn.Module) -> Traits:
    """The traits of the class of `module`. They are not inherited: a subclass may compute something else."""
    return _TRAITS.get(type(module), Traits())


def draws(module: nn.Module) -> bool:
    """Whether a pass through the module in training mode draws random numbers, as noise and dropout do."""
    return any(traits(m).random or isinstance(m, _DropoutNd) for m in module.modules())


def is_random(name: str) -> bool:
    """Whether the operation draws random numbers, in its form of stride 1.

    Raises ValueError for a name that is not in the table.
    """
    with torch.device("meta"):  # takes no memory and no random numbers
        return draws(build_operation(name, 16, 1))


class StartsWithReLU(ABC):
    """A module that reads only the ReLU of its input; a caller that has it already passes it to `after_relu`.

    This bypasses `forward` and its hooks. `starts_with_relu` tells whether both give the same result.
    """

    @property
    @abstractmethod
    def first(self) -> nn.Module:
        """The module that the input goes through first."""

    @abstractmethod
    def after_relu(self, x: Tensor) -> Tensor:
        """The result, given the ReLU `x` of the input."""


def starts_with_relu(module: nn.Module) -> TypeGuard[StartsWithReLU]:
    """Whether `module(x)` is `module.after_relu(x.relu())`.

    False for subclasses, and for modules whose ReLU was replaced by another activation.
    """
    return traits(module).relu_first and isinstance(module, StartsWithReLU) and type(module.first) is nn.ReLU


@known_as(Traits(relu_first=True))
class _ReLUSequence(nn.Sequential, StartsWithReLU):
    """Modules one after another, of which the first is a ReLU."""

    @property
    def first(self) -> nn.Module:
        return self[0]

    def after_relu(self, x: Tensor) -> Tensor:
        for module in islice(self, 1, None):
            x = module(x)
        return x


class _OneSequence(nn.Module, StartsWithReLU):
    """A module with a sequence `op`, as in DARTS's code: its names for weights are kept."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.op = _ReLUSequence(*modules)

    @property
    def first(self) -> nn.Module:
        return self.op.first

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)

    def after_relu(self, x: Tensor) -> Tensor:
        return self.op.after_relu(x)


@known_as(Traits(relu_first=True))
class ReLUConvBN(_OneSequence):
    """ReLU - convolution - BatchNorm."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, padding: int, affine: bool = True) -> None:
        super().__init__(
            nn.ReLU(), convolution(c_in, c_out, kernel, stride, padding), FoldedBatchNorm2d(c_out, affine=affine)
        )


@known_as(Traits(relu_first=True))
class FactorizedReduce(nn.Module, StartsWithReLU):
    """Halves H and W: two 1x1 convolutions, of the pixels at even and at odd coordinates, side by side."""

    #: Factor of the result.
    sign: ClassVar[float] = 1.0

    def __init__(self, c_in: int, c_out: int, affine: bool = True) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(c_in, c_out // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out - c_out // 2, 1, bias=False)
        self.bn = FoldedBatchNorm2d(c_out, affine=affine)

    @property
    def first(self) -> nn.Module:
        """The ReLU, for `starts_with_relu`."""
        return self.relu

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, c_in, H, W) to (N, c_out, ceil(H / 2), ceil(W / 2))."""
        return self.after_relu(self.relu(x))

    def after_relu(self, x: Tensor) -> Tensor:
        """The same, from the ReLU of the input."""
        even, odd = even_and_odd_pixels(x)
        return self.bn(torch.cat([self.conv_1(even), self.conv_2(odd)], dim=1))


def even_and_odd_pixels(x: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels of (N, C, H, W) whose row and column are even, and those of both odd, (N, C, H', W')."""
    even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    # An odd side has one pixel less at odd coordinates: zeros take the place of what is outside the image.
    missing = [even.shape[dim] - odd.shape[dim] for dim in (2, 3)]
    if any(missing):
        odd = F.pad(odd, (0, missing[1], 0, missing[0]))
    return even, odd


@known_as(Traits(relu_first=True))
class NegativeFactorizedReduce(FactorizedReduce):
    """Minus the factorized reduce: the negative identity at stride 2."""

    sign = -1.0

    def after_relu(self, x: Tensor) -> Tensor:
        """Minus the reduced image, from the ReLU of the input."""
        return -super().after_relu(x)


@known_as(Traits(pool=True))
class MaxPool(nn.MaxPool2d):
    """Maximum over 3x3 pixels."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1)


@known_as(Traits(pool=True))
class AvgPool(nn.AvgPool2d):
    """Mean over those of 3x3 pixels that lie inside the image."""

    def __init__(self, stride: int) -> None:
        super().__init__(3, stride=stride, padding=1, count_include_pad=False)


@known_as(Traits(sign=-1.0))
class NegativeIdentity(nn.Module):
    """x -> -x."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps x, of any shape, to -x."""
        return -x


@known_as(Traits(zero=True))
class Zero(nn.Module):
    """x -> 0, also for an x that is not finite."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to zeros (N, C, ceil(H / stride), ceil(W / stride))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


@known_as(Traits(random=True))
class Noise(nn.Module):
    """x -> N(0, 1) of the shape of x, drawn anew in every pass (RobustDARTS, Zela et al., ICLR 2020, space S4).

    In evaluation mode too, so that a network with it gives other logits each time. No gradient reaches x.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to random numbers (N, C, ceil(H / stride), ceil(W / stride))."""
        return torch.randn_like(x[:, :, :: self.stride, :: self.stride])


class Round(NamedTuple):
    """The names of the modules of a round of `Separable`, in order of computation."""

    relu: str
    depthwise: str
    pointwise: str
    norm: str


class Separable(_OneSequence):
    """Rounds of ReLU - depthwise convolution - pointwise convolution - BatchNorm.

    `rounds` has the names of their modules, as in the state and for `get_submodule`.
    """

    #: The classes of a round's modules.
    PARTS: ClassVar = (nn.ReLU, DepthwiseConv2d, nn.Conv2d, FoldedBatchNorm2d)

    def __init__(self, *rounds: Sequence[nn.Module]) -> None:
        super().__init__(*chain.from_iterable(rounds))
        numbers = range(len(self.op))
        size = len(self.PARTS)
        self.rounds = [Round(*(f"op.{i}" for i in numbers[start : start + size])) for start in numbers[::size]]

    @property
    def first_depthwise(self) -> DepthwiseConv2d:
        """The first depthwise convolution: all have its filter size, and it alone has the stride."""
        convolution = self.get_submodule(self.rounds[0].depthwise)
        assert isinstance(convolution, DepthwiseConv2d)
        return convolution

    def is_as_built(self) -> bool:
        """Whether no module was replaced by one of another class."""
        return [type(module) for module in self.op] == [*self.PARTS] * len(self.rounds)


@known_as(Traits(relu_first=True))
class DilConv(Separable):
    """A single round, dilated."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> None:
        super().__init__([nn.ReLU(), *_depthwise_separable(channels, kernel, stride, dilation, affine)])


@known_as(Traits(relu_first=True))
class SepConv(Separable):
    """Two rounds; only the first depthwise convolution has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool) -> None:
        super().__init__(
            [nn.ReLU(), *_depthwise_separable(channels, kernel, stride, 1, affine)],
            # In place: nothing else reads the result of the BatchNorm, and its gradient does not need it.
            [nn.ReLU(inplace=True), *_depthwise_separable(channels, kernel, 1, 1, affine)],
        )


def _depthwise_separable(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    return [
        DepthwiseConv2d(channels, kernel, stride, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
        FoldedBatchNorm2d(channels, affine=affine),
    ]


@operation("sep_conv_3x3")
def _sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return SepConv(channels, 3, stride, affine)


@operation("sep_conv_5x5")
def _sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return SepConv(channels, 5, stride, affine)


@operation("sep_conv_7x7")
def _sep_conv_7x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return SepConv(channels, 7, stride, affine)


@operation("dil_conv_3x3")
def _dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return DilConv(channels, 3, stride, 2, affine)


@operation("dil_conv_5x5")
def _dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return DilConv(channels, 5, stride, 2, affine)


@operation("conv_7x1_1x7")
def _conv_7x1_1x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return _ReLUSequence(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        FoldedBatchNorm2d(channels, affine=affine),
    )


@operation("max_pool_3x3")
def _max_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return MaxPool(stride)


@operation("avg_pool_3x3")
def _avg_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return AvgPool(stride)


@operation("skip_connect")
def _skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


@operation("neg_skip_connect")
def _neg_skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return NegativeIdentity() if stride == 1 else NegativeFactorizedReduce(channels, channels, affine)


@operation("none")
def _none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)


@operation("noise")
def _noise(channels: int, stride: int, affine: bool) -> nn.Module:
    return Noise(stride)
