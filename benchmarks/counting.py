"""What one pass of a network asks of the device: kernels, operators that compute, bytes they read and write.

**Operators** are what PyTorch dispatches below autograd, in the forward and in the backward pass. Counted are those
that compute or copy. Left out are views and other changes of metadata (by the operator's schema: what it returns
shares its argument's memory and is not written to), and allocations without a value (`empty` and its kin). An
operator of ours that is a single one to the dispatcher counts as one.

**Bytes** are the sum over those operators of the bytes of every tensor argument and of every result, so that what is
changed in place counts twice, read and written. A dimension that is expanded (stride 0) is there once. It is what
an operator must at least move when no cache keeps anything from one operator to the next; BatchNorm, which passes
over its input more than once, moves more, and a small tensor that stays in the cache less.

**Kernels** are, on a GPU, the kernels that the profiler saw the device run, without copies between host and device
and without memory fills. A CPU has none; there an operator counts as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.timing import Step, peak_bytes

#: Allocation and metadata that a schema does not give away.
_FREE = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_permuted",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
}


@dataclass(frozen=True)
class Pass:
    """What one pass takes; `kernels` is the number of operators on a CPU."""

    kernels: int
    operators: int
    moved_bytes: int
    peak_bytes: int

    def described(self) -> dict[str, float]:
        """In the units of the tables."""
        return {
            "kernels": self.kernels,
            "operators": self.operators,
            "moved GB": self.moved_bytes / 1e9,
            "peak MiB": self.peak_bytes / 2**20,
        }


def measure_pass(run: Step, device: torch.device) -> Pass:
    """Counts what `run` asks of the device, and its peak memory; see the module for what is counted."""
    counter = OperatorCounter()

    def counted() -> None:
        with counter:
            run()

    if device.type == "cuda":
        kernels = device_kernels(run, device)  # first: libraries choose their algorithms by trying them
        peak = peak_bytes(counted, device)
        return Pass(kernels, counter.operators, counter.bytes, peak)
    peak = peak_bytes(counted, device)
    return Pass(counter.operators, counter.operators, counter.bytes, peak)


class OperatorCounter(TorchDispatchMode):
    """Counts operators that compute, and the bytes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if computes(func):
            self.operators += 1
            self.bytes += _bytes((args, kwargs)) + _bytes(result)
        return result


def computes(operator: Any) -> bool:
    """Whether an operator does more than look at its argument in another way, or allocate."""
    returned = [result.alias_info for result in operator._schema.returns]
    is_view = bool(returned) and all(alias is not None and not alias.is_write for alias in returned)
    return not is_view and operator._schema.name not in _FREE


def device_kernels(run: Step, device: torch.device) -> int:
    """Kernels that a GPU runs for `run` the second time."""
    run()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize(device)
    on_device = (event for event in profiler.events() if event.device_type == DeviceType.CUDA)
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)


def _bytes(tree: Any) -> int:
    """Bytes of the tensors in nested containers, each tensor once."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    return sum(_elements(tensor) * tensor.element_size() for tensor in tensors.values())


def _elements(tensor: Tensor) -> int:
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements
