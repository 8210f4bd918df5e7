"""1x1 convolutions: with a stride, and as the middle of a separable convolution of which only the input is kept.

`StridedPointwiseConv2d` avoids a kernel of oneDNN that gives wrong gradients. tests/test_any_cpu.py compares whatever
has one with float64.

`pointwise_norm` and `pointwise_norm_relu_depthwise` save memory. Autograd keeps the input of every operator: of
convolution, BatchNorm, ReLU and convolution that is four tensors of one size. Here only the first is kept, and the
backward pass computes the others from it, for the price of one grouped 1x1 convolution and one BatchNorm. Measured
against `spaces.kernels.recompute`, which does so for any function by running autograd a second time: a step of the
search went from 3.0 to 3.5 times as fast as the plain supernet's (LOG.md). tests/test_supernet.py compares results,
gradients and the memory kept with the separate operations.

Shape letters: N images, C channels, H height, W width, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from spaces.kernels.depthwise import as_autocast, depthwise, depthwise_gradients
from spaces.kernels.norm import NormSlice


class StridedPointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution (N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride)) without bias.

    It takes every stride-th pixel first and then has stride 1, which is the same sum. The strided kernel of oneDNN for
    CPUs with AVX2 but not AVX-512 (as of 3.x, `jit_avx2_1x1_convolution_bwd_weights`) must not be reached: with the
    channels innermost and fewer than 8 of them, its weight gradient writes past its buffer, which aborts the process or
    gives wrong gradients without a word (uxlfoundation/oneDNN, issue 6035).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        vertical, horizontal = self.stride
        return F.conv2d(x[:, :, ::vertical, ::horizontal], self.weight)


def pointwise_norm(x: Tensor, weight: Tensor, norm: NormSlice, scale: Tensor) -> Tensor:
    """Grouped pointwise convolution and scaled BatchNorm, of which only the input is kept for the gradient.

    Args:
        x: (N, G * C, H, W).
        weight: (G * C, C, 1, 1).
        norm: of G * C channels; its running statistics are updated.
        scale: (G * C,).

    Returns:
        (N, G * C, H, W).
    """
    groups = x.shape[1] // weight.shape[1]
    if torch.compiler.is_compiling():  # the compiler decides what to keep
        return norm(F.conv2d(x, weight, groups=groups), scale)
    x, weight = as_autocast(x, weight)
    result: Tensor = _PointwiseNorm.apply(x, weight, scale, norm, groups)
    return result


def pointwise_norm_relu_depthwise(x: Tensor, weight: Tensor, norm: NormSlice, filters: Tensor) -> Tensor:
    """Grouped pointwise convolution, BatchNorm, ReLU and depthwise convolution; only the input is kept.

    Args:
        x: (N, G * C, H, W).
        weight: (G * C, C, 1, 1).
        norm: of G * C channels; its running statistics are updated.
        filters: (G * C, 1, K, K), K odd.

    Returns:
        (N, G * C, H, W).
    """
    groups = x.shape[1] // weight.shape[1]
    if torch.compiler.is_compiling():
        return depthwise(norm(F.conv2d(x, weight, groups=groups)).relu(), filters)
    x, weight, filters = as_autocast(x, weight, filters)
    result: Tensor = _PointwiseNormReLUDepthwise.apply(x, weight, filters, norm, groups)
    return result


def gradient_without_gaps(x: Tensor) -> Tensor:
    """`x` itself, whose gradient is copied to where its channels lie innermost and side by side.

    The gradient of a tensor that was concatenated is a slice, with gaps in memory; PyTorch's BatchNorm is ten times
    slower on such (LOG.md).
    """
    if torch.compiler.is_compiling():
        return x
    result: Tensor = _GradientWithoutGaps.apply(x)
    return result


class _GradientWithoutGaps(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].contiguous(memory_format=torch.channels_last)


class _PointwiseNorm(Function):
    """Computes the convolution again in the backward pass.

    That pass is made of operators that autograd knows, so that the exact second-order step can differentiate it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, norm: NormSlice, groups: int) -> Tensor:
        convolved = F.conv2d(x, weight, groups=groups)
        result, mean, inverse_std = norm.with_statistics(convolved, scale)
        # Two numbers a channel are worth keeping: with them the BatchNorm needs no second pass forward. Running
        # statistics are saved like inputs, so that autograd notices if they change before the backward pass.
        ctx.save_for_backward(x, weight, scale, mean, inverse_std, *norm.without_update()[:2])
        ctx.training, ctx.groups = norm.training, groups
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, scale, mean, inverse_std, running_mean, running_var = ctx.saved_tensors
        norm = NormSlice(running_mean, running_var, ctx.training)
        convolved = F.conv2d(x, weight, groups=ctx.groups)
        needed_x, needed_weight, needed_scale, *_ = ctx.needs_input_grad
        at_convolved, for_scale = norm.gradients(gradients[0], convolved, scale, mean, inverse_std, needed_scale)
        needed = (needed_x, needed_weight)
        for_x, for_weight = _pointwise_gradients(at_convolved, x, weight, ctx.groups, needed)
        return for_x, for_weight, for_scale, None, None


class _PointwiseNormReLUDepthwise(Function):
    """As `_PointwiseNorm`; all but the depthwise convolution is computed again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, filters: Tensor, norm: NormSlice, groups: int) -> Tensor:
        normalized = norm(F.conv2d(x, weight, groups=groups))
        ctx.save_for_backward(x, weight, filters, *norm.without_update()[:2])
        ctx.training, ctx.groups = norm.training, groups
        return depthwise(normalized.relu_(), filters)  # in place: nothing else holds the normalized tensor

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, filters, running_mean, running_var = ctx.saved_tensors
        norm = NormSlice(running_mean, running_var, ctx.training)
        needed_x, needed_weight, needed_filters, *_ = ctx.needs_input_grad
        convolved = F.conv2d(x, weight, groups=ctx.groups)
        normalized, mean, inverse_std = norm.with_statistics(convolved)
        activated = normalized.relu()
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        at_activated, for_filters = depthwise_gradients(activated, filters, gradient, (True, needed_filters))
        # The ReLU's gradient: zero wherever its result is not above 0.
        at_normalized = torch.ops.aten.threshold_backward(at_activated, activated, 0)
        at_convolved, _ = norm.gradients(at_normalized, convolved, None, mean, inverse_std, False)
        needed = (needed_x, needed_weight)
        for_x, for_weight = _pointwise_gradients(at_convolved, x, weight, ctx.groups, needed)
        return for_x, for_weight, for_filters, None, None


def _pointwise_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, groups: int, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a grouped pointwise convolution in its input and its weight, each if it is needed."""
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups, [*needed, False]
    )
    return for_x, for_weight
