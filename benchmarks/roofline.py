"""The time of a pass that computes nothing twice: its roofline (Williams, Waterman, Patterson, CACM 2009).

    limit = max(FLOPs / matmul rate, minimal bytes / copy bandwidth),    fraction = limit / measured time

Both rates are measured here, in the precision of the pass, on tensors far larger than the caches. On a GPU, fp32
products use TF32 if PyTorch allows it for convolutions, which is the default.

**FLOPs** are those of the convolutions and linear layers, two per multiply-add, counted in the forward pass of the
plain network. A backward pass takes as many for the gradient of the inputs, and as many for the gradient of the
weights: a step of the weights costs three forward passes; a step of the architecture, which needs no gradient of the
weights, costs two.
(`FlopCounterMode` overestimates the weight gradient of a depthwise convolution by a factor of the number of channels,
so it does not count the backward pass.)

**Minimal bytes** model the traffic of a pass that computes nothing twice. A BatchNorm must have seen its whole input
before it produces any output, so its input is stored; so is the output of a cell, which other cells read. Each of these
is written and read in the forward pass, read once more in the backward pass, and its gradient is written and read: five
transfers. A pool does not depend on its edge, so the same pool of the same node counts once. Everything else (ReLU, the
convolutions in between, mixing, sums, identities, the optimizer's step) counts as fused and free. A pass that
recomputes some of this moves less, so the limit is a yardstick rather than a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import timed
from nas.engine.device import Precision

#: Write and read; another read in the backward pass; write and read of the gradient.
TRANSFERS = 5

#: FLOPs of forward and backward pass together, in units of those of the forward pass.
WEIGHT_PASS, ARCHITECTURE_PASS = 3, 2

_COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32}
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_TRIES = 5


@dataclass(frozen=True)
class Machine:
    """The speed of a device: bytes per second in a copy, FLOPs per second in a product of square matrices."""

    bandwidth: float
    rate: float

    def described(self) -> dict[str, float]:
        """In the units of the tables."""
        return {"copy GB/s": self.bandwidth / 1e9, "matmul GFLOP/s": self.rate / 1e9}


@dataclass(frozen=True)
class Work:
    """FLOPs of a forward pass, and minimal bytes of forward and backward pass."""

    forward_flops: int
    bytes: int

    def limit(self, machine: Machine, passes: int) -> float:
        """The least time of forward and backward pass in seconds; `passes` is WEIGHT_PASS or ARCHITECTURE_PASS."""
        return max(passes * self.forward_flops / machine.rate, self.bytes / machine.bandwidth)


def measure_machine(device: torch.device, precision: Precision) -> Machine:
    """Measures both speeds; each is the best of a few tries."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    source = torch.ones(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copying = min(timed(lambda: target.copy_(source), device) for _ in range(_TRIES))
    side = _MATRIX_SIDE[device.type]
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    product = torch.empty_like(matrix)
    with _rounded_as_convolutions():
        multiplying = min(timed(lambda: torch.mm(matrix, matrix, out=product), device) for _ in range(_TRIES))
    return Machine(bandwidth=2 * source.numel() / copying, rate=2 * side**3 / multiplying)


@contextmanager
def _rounded_as_convolutions() -> Iterator[None]:
    """A context in which fp32 products on a GPU may use TF32 if convolutions may, which is PyTorch's default."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def least_work(network: nn.Module, forward: Callable[[], object], element_size: int) -> Work:
    """The work of a plain network; it and its inputs are on the meta device, because only shapes matter.

    Args:
        network: with its cells in `cells`, and a module for every operation of every edge.
        forward: calls it in training mode on a whole batch.
        element_size: bytes per number.
    """
    with _stored_elements(network) as elements, FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return Work(counter.get_total_flops(), TRANSFERS * element_size * sum(elements))


@contextmanager
def _stored_elements(network: nn.Module) -> Iterator[list[int]]:
    """A context that yields a list, to which a forward pass adds the number of elements of each stored tensor."""
    elements: list[int] = []
    pooled: dict[tuple[type[nn.Module], int], Tensor] = {}  # keeps the inputs alive, so that no id is reused
    repeated: list[Tensor] = []

    def batch_norm(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not any(inputs[0] is tensor for tensor in repeated):
            elements.append(inputs[0].numel())

    def pool(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        key = (type(module), id(inputs[0]))
        if key in pooled:
            repeated.append(output)
        pooled[key] = inputs[0]

    def cell(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        elements.append(output.numel())

    handles = [m.register_forward_hook(batch_norm) for m in network.modules() if isinstance(m, _BatchNorm)]
    handles += [m.register_forward_hook(pool) for m in network.modules() if isinstance(m, nn.MaxPool2d | nn.AvgPool2d)]
    handles += [m.register_forward_hook(cell) for m in network.get_submodule("cells").children()]
    try:
        yield elements
    finally:
        for handle in handles:
            handle.remove()
