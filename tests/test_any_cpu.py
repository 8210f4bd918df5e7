"""One training step of all that is registered is right in float32 on any CPU, also on one without AVX-512.

Libraries choose their kernels by the CPU, and a kernel of oneDNN for AVX2 has written past its buffer (see
`spaces.kernels.pointwise`). So everything is compared with float64, which takes other kernels: here as the CPU is, and
once more in a process that oneDNN is told has AVX2 alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import spaces
from nas.methods.relaxation import Relaxation
from nas.networks import handmade
from nas.networks.cells import Network, NetworkConfig
from nas.networks.handmade import HandmadeConfig
from nas.networks.handmade.registry import FAMILIES, Family
from nas.networks.handmade.units import bottleneck_unit, build_shortcut
from nas.supernet import Supernet, SupernetConfig
from spaces import SpaceConfig, build_operation
from spaces.ops import ReLUConvBN, convolution
from tests.architectures import random_genotype
from tests.tiny import ANY_OPERATIONS, REPEATABLE

WIDTHS = range(2, 49)
softmax = Relaxation().expected

#: Modules with a stride by the number of their input channels, beside the registered operations.
STRIDED: dict[str, Callable[[int], nn.Module]] = {
    "ReLUConvBN": lambda c: ReLUConvBN(c, 2 * c, 1, 2, 0),
    "convolution": lambda c: convolution(c, c + 1, 1, 3, 0),
    "projection": lambda c: build_shortcut("projection", c, 2 * c, 2),
    "bottleneck": lambda c: bottleneck_unit(c, 8 * c, 2),
    **{
        f"{name}, stride {stride}": partial(build_operation, name, stride=stride)
        for name in REPEATABLE
        for stride in (1, 2)
    },
}


def check_step(module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> None:
    """The output, and the gradients of a random linear function of it, are those of float64."""
    exact = deepcopy(module).double()
    ours, theirs = _step(module, call, x), _step(exact, call, x.double())
    largest = max(b.norm() for b in theirs)
    for a, b in zip(ours, theirs, strict=True):
        # A pixel at the kink of a ReLU, or two that are nearly equal in a pool, may go the other way.
        assert (a.double() - b).norm() <= 0.03 * b.norm() + 1e-3 * largest


def _step(module: nn.Module, call: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone(memory_format=torch.channels_last).requires_grad_()
    y = call(module, x)
    if not y.requires_grad:  # zero
        return [y]
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    y.backward(direction)
    return [y.detach(), *(p.grad for p in [x, *module.parameters()] if p.grad is not None)]


@pytest.mark.parametrize("name", STRIDED)
def test_a_step_of_every_operation_at_every_width(name: str) -> None:
    for width in WIDTHS:
        module = STRIDED[name](width).to(memory_format=torch.channels_last)
        check_step(module, lambda module, x: module(x), torch.randn(2, width, 8, 8))


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("space", ANY_OPERATIONS)
def test_a_step_of_every_supernet(space: str, channels: int) -> None:
    searched = spaces.build(SpaceConfig(space=space, nodes=2, operations=tuple(REPEATABLE)))
    config = SupernetConfig(layers=3, init_channels=channels)
    supernet = Supernet(searched, config, in_channels=3, image_size=(12, 12), num_classes=3)

    def call(module: nn.Module, x: Tensor) -> Tensor:
        logits: Tensor = module(x, {kind: weights.to(x.dtype) for kind, weights in softmax(searched).items()})
        return logits

    check_step(supernet, call, torch.randn(6, 3, 12, 12))


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_a_step_of_the_evaluation_network(stem: str, channels: int) -> None:
    config = NetworkConfig(layers=3, init_channels=channels, stem=stem)
    side = 12 if stem == "cifar" else 64
    network = Network(random_genotype(channels), config, in_channels=3, image_size=(side, side), num_classes=3)
    check_step(network, lambda module, x: module(x), torch.randn(6, 3, side, side))


def smallest_of(family: Family, config: HandmadeConfig) -> nn.Module:
    for depth in range(1, 200):
        with contextlib.suppress(ValueError):
            return family.build(depth, config, 3, 3)
    raise AssertionError("no depth of this family can be built")


def variants() -> Iterator[tuple[str, HandmadeConfig]]:
    """Each family as it is, and with the options that change its convolutions."""
    for name, family in FAMILIES.items():
        yield name, HandmadeConfig()
        if "shortcut" in family.options:
            yield name, HandmadeConfig(shortcut="projection")
        if "growth" in family.options:
            yield name, HandmadeConfig(growth=3)


@pytest.mark.parametrize(("name", "config"), list(variants()))
def test_a_step_of_every_hand_made_family(name: str, config: HandmadeConfig) -> None:
    network = smallest_of(FAMILIES[name], config).to(memory_format=torch.channels_last)
    check_step(network, lambda module, x: module(x), torch.randn(6, 3, 16, 16))


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_no_strided_1x1_convolution_reaches_the_library(name: str) -> None:
    """Too large to be run here: those that would, by their shapes."""
    with torch.device("meta"):
        network = handmade.build(name, image_size=(224, 224), num_classes=10)
    plain = [m for m in network.modules() if type(m) is nn.Conv2d]
    assert plain
    assert not [m for m in plain if m.kernel_size == (1, 1) and m.stride != (1, 1)]


@pytest.mark.slow
def test_the_same_steps_with_avx2_alone() -> None:
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
