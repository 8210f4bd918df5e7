"""What one pass of a network costs the device: kernels, operators that compute, and bytes read and written.

**Operators** are what PyTorch dispatches below autograd, in the forward and in the backward pass. Those that compute
or copy are counted. Views and other metadata changes (according to the schema: results that share the memory of an
argument and are not written to) and uninitialized allocations (`empty` and the like) are not. A custom operator that
the dispatcher sees as one counts as one.

**Bytes** are the sizes of all tensor arguments and all results of those operators, added up; a tensor changed in place
counts twice, as read and as written. An expanded dimension (stride 0) counts once. This is the least that operators
move if no cache keeps anything from one to the next. BatchNorm passes over its input more than once and moves more; a
small tensor that stays in the cache moves less.

**Kernels** are, on a GPU, the kernels that the profiler saw, without memory copies and fills. A CPU has no kernels;
there each operator counts as one.
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

#: Allocations and metadata changes that their schemas do not reveal.
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
    """The cost of one pass; on a CPU, `kernels` is the number of operators."""

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
    """Measures the cost of `run`, as the module defines it, and its peak memory."""
    counter = OperatorCounter()

    def counted() -> None:
        with counter:
            run()

    if device.type == "cuda":
        kernels = device_kernels(run, device)  # first: libraries choose their algorithms by trials in the first run
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
    """Whether an operator does more than allocate, or view its argument differently."""
    returned = [result.alias_info for result in operator._schema.returns]
    is_view = bool(returned) and all(alias is not None and not alias.is_write for alias in returned)
    return not is_view and operator._schema.name not in _FREE


def device_kernels(run: Step, device: torch.device) -> int:
    """The number of kernels in the second call of `run` on a GPU."""
    run()
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize(device)
    on_device = (event for event in profiler.events() if event.device_type == DeviceType.CUDA)
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)


def _bytes(tree: Any) -> int:
    """Bytes of all tensors in nested containers, each tensor counted once."""
    tensors = {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}
    return sum(_elements(tensor) * tensor.element_size() for tensor in tensors.values())


def _elements(tensor: Tensor) -> int:
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements
