"""The hand-made networks by name: a family and a depth, such as hbnet56."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import torch

from genotypes.config import Config, Count, NoneMeans
from nas.errors import UsageError
from nas.networks.handmade.dense import DenseNetwork, cifar_dense, imagenet_dense
from nas.networks.handmade.relaxed import FirstUnit
from nas.networks.handmade.residual import (
    IMAGENET_UNITS,
    HeavyBallNetwork,
    MergeAndRunNetwork,
    Plan,
    cifar_plan,
    imagenet_plan,
)
from nas.networks.handmade.units import BottleneckStride, Shortcut

Form = Literal["cifar", "imagenet"]


@dataclass(frozen=True, kw_only=True)
class HandmadeConfig(Config):
    """Variants of the hand-made networks; where nothing is given they are as in their papers."""

    form: Annotated[Form | None, NoneMeans("imagenet")] = None
    """Which form, where a depth has both: 50 is also 6n + 2, 121 also 3m + 4."""
    growth: Annotated[Count | None, NoneMeans("12 on CIFAR, 32 for 121 layers")] = None
    """densenet, agdnet: channels that each layer adds."""
    shortcut: Annotated[Shortcut | None, NoneMeans("pad on CIFAR, projection on ImageNet")] = None
    """resnet, hbnet, dmrnet: what changes a state's shape."""
    bottleneck_stride: Annotated[BottleneckStride | None, NoneMeans("1x1")] = None
    """resnet, hbnet of 50 or 101 layers: the convolution that halves the image; torchvision has 3x3."""
    first_unit: Annotated[FirstUnit | None, NoneMeans("plain")] = None
    """hbnet: x_{-1}, which a stage lacks, is left out (plain) or is x_0 (hb)."""
    relu_after_sum: bool = False
    """hbnet: apply ReLU to every sum, as resnet does; the formula has none."""
    beta1: Annotated[tuple[float, ...] | None, NoneMeans("1, as in sec. 7.1")] = None
    """hbnet: beta1 of eq. (16), the weight of x_k: one number, or one for each unit."""
    beta2: Annotated[tuple[float, ...] | None, NoneMeans("-1, as in sec. 7.1")] = None
    """hbnet: beta2 of eq. (16), the weight of x_{k-1}: one number, or one for each unit."""
    learn_betas: bool = False
    """hbnet: learn beta1 and beta2 of every unit, starting from those of --beta1 and --beta2."""
    beta: Annotated[float | None, NoneMeans("0.1, as in sec. 7.2")] = None
    """agdnet: beta of eq. (21), the weight of the momentum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            if getattr(self, name) == ():
                raise ValueError(f"--{name} is empty; give one number, or one for each unit")


HandmadeNetwork = HeavyBallNetwork | MergeAndRunNetwork | DenseNetwork
Build = Callable[[int, HandmadeConfig, int, int], HandmadeNetwork]


@dataclass(frozen=True)
class Family:
    """Networks that differ in their depth.

    Attributes:
        name: of the family, such as hbnet.
        build: (depth, config, in_channels, num_classes) to the network; raises ValueError for an unsupported depth.
        listed: the depths that `names` lists; they are tested.
        imagenet: the depths that are built as on ImageNet unless `form` says otherwise.
        options: the fields of `HandmadeConfig` that it accepts.
    """

    name: str
    build: Build
    listed: tuple[int, ...]
    imagenet: tuple[int, ...]
    options: tuple[str, ...]


FAMILIES: dict[str, Family] = {}
#: Layers; the deepest published residual network has 1202 (He et al., CVPR 2016, sec. 4.2).
DEEPEST = 2000

_RESIDUAL_IMAGENET, _DENSE_IMAGENET = tuple(IMAGENET_UNITS), (121,)
_RESIDUAL_OPTIONS = ("form", "shortcut", "bottleneck_stride")


def family(
    name: str, *, listed: tuple[int, ...], imagenet: tuple[int, ...] = (), options: tuple[str, ...]
) -> Callable[[Build], Build]:
    """Decorator that registers a constructor as a family. Raises ValueError if the name is taken."""

    def register(build: Build) -> Build:
        if name in FAMILIES:
            raise ValueError(f"family {name!r} is already registered; choose another name")
        FAMILIES[name] = Family(name, build, listed, imagenet, options)
        return build

    return register


@family(
    "resnet",
    listed=(20, 56, 110, 34, 50, 101),
    imagenet=_RESIDUAL_IMAGENET,
    options=_RESIDUAL_OPTIONS,
)
def _resnet(depth: int, config: HandmadeConfig, in_channels: int, num_classes: int) -> HandmadeNetwork:
    return HeavyBallNetwork(
        _plan(depth, config), beta2=0.0, relu_after_sum=True, in_channels=in_channels, num_classes=num_classes
    )


@family(
    "hbnet",
    listed=(20, 56, 110, 34, 50, 101),
    imagenet=_RESIDUAL_IMAGENET,
    options=(*_RESIDUAL_OPTIONS, "first_unit", "relu_after_sum", "beta1", "beta2", "learn_betas"),
)
def _hbnet(depth: int, config: HandmadeConfig, in_channels: int, num_classes: int) -> HandmadeNetwork:
    return HeavyBallNetwork(
        _plan(depth, config),
        beta1=_one_or_all(config.beta1, 1.0),
        beta2=_one_or_all(config.beta2, -1.0),
        learn_betas=config.learn_betas,
        first=config.first_unit or "plain",
        relu_after_sum=config.relu_after_sum,
        in_channels=in_channels,
        num_classes=num_classes,
    )


@family("dmrnet", listed=(20, 56), options=("shortcut",))
def _dmrnet(depth: int, config: HandmadeConfig, in_channels: int, num_classes: int) -> HandmadeNetwork:
    plan = cifar_plan(depth, config.shortcut or "pad")
    return MergeAndRunNetwork(plan, in_channels=in_channels, num_classes=num_classes)


@family("densenet", listed=(40, 52, 121), imagenet=_DENSE_IMAGENET, options=("form", "growth"))
def _densenet(depth: int, config: HandmadeConfig, in_channels: int, num_classes: int) -> HandmadeNetwork:
    return _dense(depth, config, in_channels, num_classes, beta=0.0, learn_alpha=False)


@family("agdnet", listed=(40, 52, 121), imagenet=_DENSE_IMAGENET, options=("form", "growth", "beta"))
def _agdnet(depth: int, config: HandmadeConfig, in_channels: int, num_classes: int) -> HandmadeNetwork:
    beta = 0.1 if config.beta is None else config.beta  # sec. 7.2
    return _dense(depth, config, in_channels, num_classes, beta=beta, learn_alpha=True)


def _one_or_all(given: tuple[float, ...] | None, default: float) -> float | tuple[float, ...]:
    if given is None:
        return default
    return given[0] if len(given) == 1 else given


def _plan(depth: int, config: HandmadeConfig) -> Plan:
    imagenet = depth in _RESIDUAL_IMAGENET if config.form is None else config.form == "imagenet"
    strided = config.bottleneck_stride
    if strided and not (imagenet and depth in (50, 101)):
        raise UsageError("--bottleneck-stride is for the ImageNet networks of 50 and 101 layers; leave it out")
    if imagenet:
        return imagenet_plan(depth, config.shortcut or "projection", strided=strided or "1x1")
    return cifar_plan(depth, config.shortcut or "pad")


def _dense(
    depth: int, config: HandmadeConfig, in_channels: int, num_classes: int, *, beta: float, learn_alpha: bool
) -> HandmadeNetwork:
    imagenet = depth in _DENSE_IMAGENET if config.form is None else config.form == "imagenet"
    make = imagenet_dense if imagenet else cifar_dense
    return make(
        depth,
        config.growth or (32 if imagenet else 12),
        beta=beta,
        learn_alpha=learn_alpha,
        in_channels=in_channels,
        num_classes=num_classes,
    )


def names() -> tuple[str, ...]:
    """The names of the listed networks; other depths have names too."""
    return tuple(f"{family.name}{depth}" for family in FAMILIES.values() for depth in family.listed)


def is_handmade(name: str) -> bool:
    """Whether `name` is a family followed by a number, whether or not the family has that depth."""
    return _parse(name) is not None


def is_imagenet(name: str) -> bool:
    """Whether the network of that name is built as on ImageNet if its configuration does not set `form`."""
    parsed = _parse(name)
    return parsed is not None and parsed[1] in parsed[0].imagenet


def depth(name: str) -> int:
    """The depth in a name. Raises ValueError for an unknown name."""
    return _parsed(name)[1]


def _parse(name: str) -> tuple[Family, int] | None:
    parsed = re.fullmatch(r"([a-z]+)([1-9]\d{0,3})", name)
    return (FAMILIES[parsed[1]], int(parsed[2])) if parsed and parsed[1] in FAMILIES else None


def _parsed(name: str) -> tuple[Family, int]:
    parsed = _parse(name)
    if parsed is None:
        raise ValueError(f"unknown hand-made network {name[:60]!a}; known: {describe()}")
    return parsed


def describe() -> str:
    """The known names in words, for messages."""
    return f"{', '.join(FAMILIES)}, each with a depth, such as hbnet56"


def build(
    name: str,
    config: HandmadeConfig | None = None,
    *,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    num_classes: int = 10,
) -> HandmadeNetwork:
    """The network called `name`, with new weights, for images (N, in_channels, *image_size).

    The image size is only checked: every network accepts any that is not too small. Raises UsageError for one that is,
    for an unknown family or depth, and for an option that the family does not have.
    """
    config = config or HandmadeConfig()
    family, depth = _parsed(name)
    if depth > DEEPEST:
        raise UsageError(f"{name}: a depth of {depth} is more than the maximum of {DEEPEST}; choose a smaller one")
    for field in fields(config):
        if getattr(config, field.name) != field.default and field.name not in family.options:
            raise UsageError(f"--{field.name.replace('_', '-')} is not for {family.name}; leave it out")
    try:
        network = family.build(depth, config, in_channels, num_classes)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    if min(image_size) < network.smallest_side:
        raise UsageError(
            f"{name} needs images of at least {network.smallest_side} pixels per side, but these have "
            f"{min(image_size)}; pass --image-size or choose another network"
        )
    # As in the networks of cells, so that a loaded network computes the same bits.
    return network.to(memory_format=torch.channels_last)
