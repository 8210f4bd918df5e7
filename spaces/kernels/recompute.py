"""Functions whose intermediate results are computed again in the backward pass instead of being kept.

It is `torch.utils.checkpoint` for a search: BatchNorms count a batch once, and gradients can be differentiated again.
`Supernet` runs its cells this way with `checkpoint_cells`: less than a third of the memory for a third more time
(measured by benchmarks/search_step.py). tests/test_supernet.py compares results, gradients and second derivatives with
those of cells that keep everything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from spaces.kernels.norm import frozen_statistics


def recomputed(function: Callable[..., Any], module: nn.Module, *tensors: Tensor) -> Any:
    """`function(*tensors)`, a tensor or a tuple of tensors, of which only `tensors` are kept for the gradient.

    All that the gradient should reach must be among `tensors`, parameters included. `module` is the one whose
    BatchNorms `function` runs: their running statistics are left alone the second time. Under the compiler it is the
    function itself, for the compiler decides what to keep.
    """
    if torch.compiler.is_compiling():
        return function(*tensors)
    return _Recomputed.apply(function, module, *tensors)


class _Recomputed(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Any], module: nn.Module, *tensors: Tensor) -> Any:
        ctx.function, ctx.module = function, module
        ctx.autocast = _autocast_now(tensors[0].device.type)
        ctx.save_for_backward(*tensors)
        return function(*tensors)  # without a graph: gradients are off in a Function's forward

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        # Gradients are on in here only if this pass itself is to be differentiated (create_graph=True).
        again = torch.is_grad_enabled()
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad(), ctx.autocast, frozen_statistics(ctx.module):
            if again:
                # Connected with the tensors, so that the second derivative reaches them. But views: `grad` below must
                # end at them, and not go on from one input into another's history.
                inputs = [tensor.view_as(tensor) for tensor in ctx.saved_tensors]
            else:
                # Leaves of a graph of their own, which is gone after this call.
                inputs = [
                    tensor.detach().requires_grad_(need) for tensor, need in zip(ctx.saved_tensors, needed, strict=True)
                ]
            outputs = ctx.function(*inputs)
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need]
        found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=again, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)


def _autocast_now(device: str) -> AbstractContextManager[object]:
    """The present state of autocast, to be entered again in the backward pass, where it is off."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))
