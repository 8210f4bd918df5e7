"""What a pass would take if it did nothing twice: its roofline (Williams, Waterman, Patterson, CACM 2009).

    limit = max(FLOPs / matmul rate, minimal bytes / copy bandwidth),    fraction = limit / measured time

Both speeds are measured here, in the precision of the pass, on tensors far larger than the caches. On a GPU, fp32 is
multiplied in TF32 where PyTorch lets convolutions do so, as it does by default.

**FLOPs** are those of the convolutions and linear layers, two a multiply-add, counted on the plain network's forward
pass. A backward pass does as many again for the gradient of the inputs, and as many again for that of the weights:
three times the forward pass for a step of the weights, twice for a step of the architecture, which has no gradient
of weights. (`FlopCounterMode` has the weight gradient of a depthwise convolution too high by the number of channels,
so that it is not asked for the backward pass.)

**Minimal bytes** are a model of the traffic of a pass that computes nothing twice: a BatchNorm must have seen its whole
input before it can give any output, so that its input is stored; and so is the output of a cell, which others read.
Each of these is written and read in the forward pass, read once more in the backward pass, and its gradient is
written and read: five transfers. A pool does not depend on the edge it is on, so the same pool of the same node counts
once. All else (ReLU, the convolutions between, mixing, sums, identities, the optimizer's step) counts as fused, and
free. A pass that computes some of it again moves less, so the limit is a yardstick and no bound.
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

#: Written and read; read again in the backward pass; the gradient written and read.
TRANSFERS = 5

#: Times the FLOPs of the forward pass, for forward and backward together.
WEIGHT_PASS, ARCHITECTURE_PASS = 3, 2

_COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32}
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_TRIES = 5


@dataclass(frozen=True)
class Machine:
    """The speeds of a device: bytes a second when it copies, FLOPs a second in a product of square matrices."""

    bandwidth: float
    rate: float

    def described(self) -> dict[str, float]:
        """In the units of the tables."""
        return {"copy GB/s": self.bandwidth / 1e9, "matmul GFLOP/s": self.rate / 1e9}


@dataclass(frozen=True)
class Work:
    """FLOPs of a forward pass, and minimal bytes of forward and backward."""

    forward_flops: int
    bytes: int

    def limit(self, machine: Machine, passes: int) -> float:
        """Seconds that forward and backward take at least; `passes` is WEIGHT_PASS or ARCHITECTURE_PASS."""
        return max(passes * self.forward_flops / machine.rate, self.bytes / machine.bandwidth)


def measure_machine(device: torch.device, precision: Precision) -> Machine:
    """Measures both speeds, the best of a few tries each."""
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
    """Within it products in fp32 may use TF32 on a GPU if convolutions may, which is PyTorch's default."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def least_work(network: nn.Module, forward: Callable[[], object], element_size: int) -> Work:
    """The work of a plain `network` whose forward pass is `forward`; both on the meta device, which only has shapes.

    Args:
        network: has its cells as `cells`, and a module for every operation of every edge.
        forward: calls it in training mode on a whole batch.
        element_size: bytes of a number.
    """
    with _stored_elements(network) as elements, FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return Work(counter.get_total_flops(), TRANSFERS * element_size * sum(elements))


@contextmanager
def _stored_elements(network: nn.Module) -> Iterator[list[int]]:
    """Within it, a list of the sizes of what has to be stored, as the forward pass comes to it."""
    elements: list[int] = []
    pooled: dict[tuple[type[nn.Module], int], Tensor] = {}  # the inputs too, so that no id is used again
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
