"""ResNet, HB-Net and DMRNet: stages of eq. (16) and eq. (20) between a stem and a classifier.

The depth of a CIFAR network is 6n + 2: three stages of n units with 16, 32 and 64 channels. The ImageNet networks
have four stages, of basic units (34) or bottlenecks (50, 101). The first unit of every later stage halves the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from torch import Tensor, nn

from nas.errors import UsageError
from nas.networks.handmade.relaxed import ADMMBlock, FirstUnit, HeavyBallBlock
from nas.networks.handmade.units import (
    BottleneckStride,
    Shortcut,
    basic_unit,
    bottleneck_unit,
    build_shortcut,
    cifar_stem,
    imagenet_stem,
    initialize,
)

#: Units of each stage of the ImageNet networks (He et al., CVPR 2016, table 1).
IMAGENET_UNITS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True)
class Stage:
    """A stage: its number of units, and the channels before and after it."""

    units: int
    in_channels: int
    out_channels: int
    stride: int


@dataclass(frozen=True)
class Plan:
    """A residual network without its recurrence."""

    stem: Callable[[int, int], nn.Module]
    unit: Callable[..., nn.Module]
    stages: tuple[Stage, ...]
    shortcut: Shortcut

    def layers(self, stage: Stage) -> Iterator[nn.Module]:
        """T_0, ..., T_{n-1} of a stage."""
        yield self.unit(stage.in_channels, stage.out_channels, stage.stride)
        for _ in range(stage.units - 1):
            yield self.unit(stage.out_channels, stage.out_channels)

    def build_shortcut(self, stage: Stage) -> nn.Module:
        """The shortcut from the input of a stage to its x_0."""
        return build_shortcut(self.shortcut, stage.in_channels, stage.out_channels, stage.stride)


def cifar_plan(depth: int, shortcut: Shortcut = "pad") -> Plan:
    """The plan of a network of 6n + 2 layers of basic units. Raises UsageError for another depth."""
    n, remainder = divmod(depth - 2, 6)
    if n < 1 or remainder:
        raise UsageError(f"a depth of {depth} is not 6n + 2 with n at least 1; the nearest is {_near(depth)}")
    return Plan(cifar_stem, basic_unit, _stages((n, n, n), (16, 16, 32, 64)), shortcut)


def _near(depth: int) -> int:
    return 6 * max(1, round((depth - 2) / 6)) + 2


def imagenet_plan(depth: int, shortcut: Shortcut = "projection", *, strided: BottleneckStride = "1x1") -> Plan:
    """The plan of a network of 34, 50 or 101 layers. Raises UsageError for another depth."""
    if depth not in IMAGENET_UNITS:
        raise UsageError(
            f"a depth of {depth} is not available on ImageNet; use one of {', '.join(map(str, IMAGENET_UNITS))}"
        )
    units = IMAGENET_UNITS[depth]
    if depth == 34:
        return Plan(imagenet_stem, basic_unit, _stages(units, (64, 64, 128, 256, 512)), shortcut)
    unit = partial(bottleneck_unit, strided=strided)
    return Plan(imagenet_stem, unit, _stages(units, (64, 256, 512, 1024, 2048)), shortcut)


def _stages(units: tuple[int, ...], widths: tuple[int, ...]) -> tuple[Stage, ...]:
    return tuple(Stage(n, widths[s], widths[s + 1], stride=1 if s == 0 else 2) for s, n in enumerate(units))


def _of_stages(flag: str, beta: float | Sequence[float], plan: Plan) -> list[list[float]]:
    """The coefficient of every unit, stage by stage. Raises UsageError unless there is one, or one for each unit."""
    units = [stage.units for stage in plan.stages]
    values = [float(beta)] * sum(units) if isinstance(beta, int | float) else list(beta)
    if len(values) != sum(units):
        raise UsageError(f"{flag} has {len(values)} numbers; give one, or {sum(units)}, one for each unit")
    return [values[end - n : end] for n, end in zip(units, accumulate(units), strict=True)]


class HeavyBallNetwork(nn.Module):
    """Stages of eq. (16): ResNet with beta2 = 0, HB-Net with beta2 = -1.

    Args:
        plan: stem, units and stages.
        beta1: one number for all units, or one for each unit, from the first stage on.
        beta2: in the same forms.
        learn_betas: of every stage, see `HeavyBallBlock`.
        first: of every stage, see `HeavyBallBlock`.
        relu_after_sum: apply ReLU to every sum, as ResNet does. The formula has none, so that otherwise there is a
            single ReLU before the pooling.
        in_channels: of the images.
        num_classes: of the images.

    Images may have any size. Raises UsageError for sequences of another length.
    """

    smallest_side = 1

    def __init__(
        self,
        plan: Plan,
        *,
        beta1: float | Sequence[float] = 1.0,
        beta2: float | Sequence[float] = -1.0,
        learn_betas: bool = False,
        first: FirstUnit = "plain",
        relu_after_sum: bool = False,
        in_channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        betas = zip(_of_stages("--beta1", beta1, plan), _of_stages("--beta2", beta2, plan), strict=True)
        self.stem = plan.stem(in_channels, plan.stages[0].in_channels)
        self.stages = nn.ModuleList(
            HeavyBallBlock(
                plan.layers(stage),
                beta1=of_stage[0],
                beta2=of_stage[1],
                learnable=learn_betas,
                first=first,
                shortcut=plan.build_shortcut(stage),
                activation=nn.ReLU(inplace=True) if relu_after_sum else None,
            )
            for stage, of_stage in zip(plan.stages, betas, strict=True)
        )
        self.last_activation = nn.Identity() if relu_after_sum else nn.ReLU()
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plan.stages[-1].out_channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, in_channels, H, W) to logits (N, num_classes)."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.classifier(self.global_pooling(self.last_activation(x)).flatten(1))


class MergeAndRunNetwork(nn.Module):
    """DMRNet (Zhao et al., IJCAI 2018): stages of eq. (20), two paths that are averaged before the classifier.

    Both paths start from the output of the stem; ReLU is applied to every sum. Arguments as for `HeavyBallNetwork`.
    """

    smallest_side = 1

    def __init__(self, plan: Plan, *, in_channels: int = 3, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = plan.stem(in_channels, plan.stages[0].in_channels)
        self.stages = nn.ModuleList(
            ADMMBlock(
                plan.layers(stage),
                plan.layers(stage),
                shortcut_prime=plan.build_shortcut(stage),
                shortcut=plan.build_shortcut(stage),
                activation=nn.ReLU(inplace=True),
            )
            for stage in plan.stages
        )
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plan.stages[-1].out_channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, in_channels, H, W) to logits (N, num_classes)."""
        x_prime = x = self.stem(x)
        for stage in self.stages:
            x_prime, x = stage(x_prime, x)
        return self.classifier(self.global_pooling((x_prime + x) / 2).flatten(1))
