"""BatchNorm, for the widths that PyTorch's is slow at on a CPU.

With the channels innermost, its kernels go from pixel to pixel and through the channels of each in vectors. Channels
that do not fill the last vector cost several times as much as if they did: 36, the width of DARTS's networks, three
times the time of 48 (LOG.md). Here a few neighbouring pixels are seen as one, whose channels fill the vectors, and the
statistics of a channel are combined of those that it has at each place.

Shape letters: N images, C channels, H W size, P places: pixels that are seen as one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

#: float32 numbers in a vector of AVX-512; AVX2's are half as long.
_VECTOR = 16

#: Numbers in the input from which on the kernels weigh more than what is done around them.
_LEAST = 2**19


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, of which the training mode is faster on a CPU where channels do not fill its vectors."""

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        places = _VECTOR // math.gcd(self.num_features, _VECTOR)
        if not (self.training and self.momentum is not None and _pays(x, places)):
            return super().forward(x)
        result: Tensor
        result, mean, variance = _FoldedBatchNorm.apply(x, self.weight, self.bias, self.eps, places)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            number = x.numel() // x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (number / (number - 1)), self.momentum)
                self.num_batches_tracked.add_(1)
        return result


def _pays(x: Tensor, places: int) -> bool:
    return (
        places > 1
        and x.numel() >= _LEAST
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.shape[2] * x.shape[3] % places == 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def _folded(x: Tensor, places: int) -> Tensor:
    """(N, C, H, W) to (N, P * C, H * W / P, 1), a view."""
    N, C, H, W = x.shape
    return x.permute(0, 2, 3, 1).view(N, H * W // places, 1, places * C).permute(0, 3, 1, 2)


class _FoldedBatchNorm(Function):
    """Gives the result, and mean and variance (C,) of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, places: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        folded = _folded(x, places)
        means, variances = (t.view(places, -1) for t in torch.batch_norm_update_stats(folded, None, None, 0.0))
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + means.var(dim=0, correction=0)
        scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        result = torch.empty_like(x)  # not a view: it may be changed in place
        torch.addcmul(_everywhere(shift, places), folded, _everywhere(scale, places), out=_folded(result, places))
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.places = eps, places
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, bias, mean, variance = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            return *_library_gradients(ctx, x, weight, bias, gradient), None, None
        folded, gradient = _folded(x, ctx.places), _folded(gradient, ctx.places)
        statistics = [t.repeat(ctx.places) for t in (mean, variance)]
        # As if the statistics were given: the gradients of weight and bias are the sums that are needed here.
        _, by_place, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, folded, statistics[1], *statistics, None, None, False, ctx.eps, [False, True, True]
        )
        for_weight, for_bias = by_place.view(ctx.places, -1).sum(dim=0), sums.view(ctx.places, -1).sum(dim=0)
        for_x = None
        if ctx.needs_input_grad[0]:
            number = x.numel() // x.shape[1]
            inverse_std = (variance + ctx.eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            of_x = -scale * inverse_std * for_weight / number
            constant = -scale * for_bias / number - of_x * mean
            constant, of_x, scale = (_everywhere(t, ctx.places) for t in (constant, of_x, scale))
            for_x = torch.empty_like(x)
            torch.addcmul(constant, folded, of_x, out=_folded(for_x, ctx.places)).addcmul_(gradient, scale)
        return for_x, None if weight is None else for_weight, None if bias is None else for_bias, None, None


def _everywhere(values: Tensor, places: int) -> Tensor:
    """(C,) to (P * C, 1, 1)."""
    return values.repeat(places)[:, None, None]


def _library_gradients(
    ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, gradient: Tensor
) -> list[Tensor | None]:
    """The gradients in the inputs, to be differentiated again."""
    result = F.batch_norm(x, None, None, weight, bias, True, 0.0, ctx.eps)
    needed = ctx.needs_input_grad[:3]
    wanted = [t for t, need in zip((x, weight, bias), needed, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(result, wanted, gradient, create_graph=True))
    return [next(found) if need else None for need in needed]
