"""Depthwise convolution, with faster gradients where those of the library are slow on a CPU.

With the channels innermost, oneDNN is fast at the convolution itself, and at the weight gradient of filters up to
three wide. For the rest it falls back to general code, up to thirty times slower. Everything can be reduced to the
fast cases:

- The gradient of the input is a convolution of the output's gradient with the mirrored filter (stride 1).
- A 5x5 filter is two filters three wide. Its columns -1, 0, 1 see pixels that are neighbours. Its columns -2, 0, 2 see
  pixels that are neighbours in the image of the even columns, or in that of the odd ones.
- Dilation 2 is no dilation on a quarter of the pixels: even and odd rows and columns are four images for the undilated
  filter. Stride 2 needs only the first of them.

Measured against the library's own gradients: 5x5 with dilation 2 in 10.3 instead of 23.3 ms, at stride 2 in 3.1 instead
of 55.6 ms, undilated in 0.68 instead of 1.17 ms (LOG.md has the shapes). tests/test_depthwise.py compares results and
derivatives of first and second order. On other devices, and for other layouts, the library's convolution is taken.

Shape letters: N images, C channels, F filters of a channel, H W size, K side of a filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

#: Numbers in an image below which the library is as fast at the gradients of a 3x3 filter.
_SMALL = 2**20

#: Filters of a channel up to which adding them up one by one is faster than a reduction, which takes as long for two of
#: them as for five: (16, F * 16, 32, 32) in 0.04 ms for 2, 0.15 for 4, instead of 0.44 (AMD EPYC, one thread).
_FEW = 4


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution of a square filter with odd side, padded so that stride 1 keeps the size."""

    def __init__(self, channels: int, kernel: int, stride: int, dilation: int) -> None:
        super().__init__(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel - 1) // 2,
            dilation=dilation,
            groups=channels,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        return depthwise(x, self.weight, stride=self.stride[0], dilation=self.dilation[0])


def depthwise(x: Tensor, weight: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """Convolves each channel with its own filters, zeros around the image.

    Args:
        x: (N, C, H, W).
        weight: (F * C, 1, K, K), K odd; filter f * C + c belongs to channel c.
        stride: any; up to 2 it has the faster gradients.
        dilation: any; up to 2 it has the faster gradients.

    Returns:
        (N, F * C, ceil(H / stride), ceil(W / stride)); channel f * C + c is channel c under filter f * C + c.
    """
    return depthwise_each(x, [weight], stride=stride, dilation=dilation)[0]


def depthwise_each(x: Tensor, weights: Sequence[Tensor], *, stride: int = 1, dilation: int = 1) -> list[Tensor]:
    """`depthwise` of one image with each of several weights; with as many filters, they share what they can."""
    if len({len(weight) for weight in weights}) > 1:
        return [depthwise(x, weight, stride=stride, dilation=dilation) for weight in weights]
    # Only gradients have faster ways: without them, the library's convolution is as good and needs no function.
    fast = torch.is_grad_enabled() and _library_is_slow(x) and stride <= 2 and dilation <= 2
    if not fast or _is_small(x, weights, dilation):
        return _library_convolutions(x, weights, stride, dilation)
    x, *weights = as_autocast(x, *weights)
    if dilation == 1:
        return _convolved(x, weights, stride)
    if stride == 2:
        # Steps of two pixels, from pixels of even coordinates, never leave those.
        return _convolved(_innermost(x[:, :, ::2, ::2]), weights, 1)
    if x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
        return [_from_parities(result) for result in _convolved(_to_parities(x), weights, 1)]
    # An odd side has one even pixel more than odd ones: the four images would differ in size.
    return _library_convolutions(x, weights, 1, 2)


def _is_small(x: Tensor, weights: Sequence[Tensor], dilation: int) -> bool:
    """Whether the library's gradients are as fast as ours, and the function around those would only cost."""
    undilated_3x3 = dilation == 1 and all(len(weight) == x.shape[1] and weight.shape[2] <= 3 for weight in weights)
    return undilated_3x3 and x.numel() < _SMALL


def _library_convolutions(x: Tensor, weights: Sequence[Tensor], stride: int, dilation: int) -> list[Tensor]:
    x = _repeated(x, len(weights[0]) // x.shape[1])
    return [
        F.conv2d(x, weight, None, stride, dilation * (weight.shape[2] // 2), dilation, x.shape[1]) for weight in weights
    ]


def as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the precision in which autocast, where it is on, has convolutions computed.

    It does that by itself for the library's functions, but not for gradients that are written by hand.
    """
    device = tensors[0].device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def _repeated(x: Tensor, filters: int) -> Tensor:
    """(N, C, H, W) to (N, filters * C, H, W), all channels again and again; the gradient is a single sum."""
    if filters == 1:
        return x
    N, C, H, W = x.shape
    # A copy of an expanded view, not `cat`: the gradient of that is a slice for each copy, added one by one, and the
    # gradient of `expand` is one sum over the dimension that it made.
    copies = x.permute(0, 2, 3, 1).unsqueeze(3).expand(N, H, W, filters, C)
    return copies.reshape(N, H, W, filters * C).permute(0, 3, 1, 2)


def depthwise_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, wanted: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `depthwise(x, weight)` in `x` and `weight`, each if it is wanted, for functions of one's own.

    `weight` has one filter a channel, (C, 1, K, K). `gradient` is that of the result. Both can be differentiated again.
    """
    if not _library_is_slow(x):
        return _library_gradients(x, weight, gradient, 1, wanted)
    return (
        _input_gradient(x, [weight], [gradient], 1) if wanted[0] else None,
        _weight_gradients(x, [gradient], [weight.shape[2]], 1)[0] if wanted[1] else None,
    )


def _library_is_slow(x: Tensor) -> bool:
    """Whether there are faster gradients than the library's."""
    return (
        x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def _innermost(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _to_parities(x: Tensor) -> Tensor:
    """(N, C, H, W) to (4 N, C, H / 2, W / 2): even and odd rows and columns as images of their own."""
    N, C, H, W = x.shape
    # Row 2i + a is index (i, a) after the reshape, column 2j + b is (j, b); a and b go in front of the images. All of
    # it in the order of memory, (N, H, W, C); the last permutation is only a view.
    split = x.permute(0, 2, 3, 1).reshape(N, H // 2, 2, W // 2, 2, C)
    return split.permute(2, 4, 0, 1, 3, 5).reshape(4 * N, H // 2, W // 2, C).permute(0, 3, 1, 2)


def _from_parities(x: Tensor) -> Tensor:
    """The inverse of `_to_parities`."""
    N, C, H, W = len(x) // 4, *x.shape[1:]
    split = x.permute(0, 2, 3, 1).reshape(2, 2, N, H, W, C)
    return split.permute(2, 3, 0, 4, 1, 5).reshape(N, 2 * H, 2 * W, C).permute(0, 3, 1, 2)


def _convolved(x: Tensor, weights: Sequence[Tensor], stride: int) -> list[Tensor]:
    return list(_Depthwise.apply(stride, x, *weights))


def _weight_gradients(x: Tensor, gradients: Sequence[Tensor], kernels: Sequence[int], stride: int) -> list[Tensor]:
    return list(_WeightGradients.apply(stride, kernels, x, *gradients))


class _Depthwise(Function):
    """One image under several weights, undilated, each as many times wider than the image.

    Its gradients are made of itself and `_WeightGradients`, so that it can be differentiated again.
    """

    @staticmethod
    def forward(ctx: Any, stride: int, x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *weights)
        ctx.stride = stride
        x = _copies(x, len(weights[0]) // x.shape[1])
        return tuple(F.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, x.shape[1]) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, *weights = ctx.saved_tensors
        gradients = tuple(_innermost(gradient) for gradient in gradients)
        _, needed_x, *needed = ctx.needs_input_grad
        for_x = _input_gradient(x, weights, gradients, ctx.stride) if needed_x else None
        for_weights: list[Tensor | None] = [None] * len(weights)
        if any(needed):
            for_weights = [*_weight_gradients(x, gradients, [weight.shape[2] for weight in weights], ctx.stride)]
        return None, for_x, *for_weights


class _WeightGradients(Function):
    """The gradients of `_Depthwise` in its weights; bilinear in the input and the outputs' gradients."""

    @staticmethod
    def forward(ctx: Any, stride: int, kernels: Sequence[int], x: Tensor, *gradients: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *gradients)
        ctx.stride = stride
        filters = gradients[0].shape[1] // x.shape[1]
        wide = _copies(x, filters)
        found = []
        for kernel, gradient in zip(kernels, gradients, strict=True):
            if kernel == 5 and stride == 1 and x.shape[3] % 2 == 0:
                # As a 5x3 filter it has the columns -1, 0, 1; on the column parities these are the columns -2, 0, 2.
                # Column 0 is in both.
                middle = _library_weight_gradient(wide, gradient, (5, 3), 1)
                columns = _copies(_to_column_parities(x), filters)
                outer = _library_weight_gradient(columns, _to_column_parities(gradient), (5, 3), 1)
                found.append(torch.cat([outer[..., :1], middle, outer[..., 2:]], dim=3))
            else:
                found.append(_library_weight_gradient(wide, gradient, (kernel, kernel), stride))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *directions: Any) -> Any:
        x, *gradients = ctx.saved_tensors
        _, _, needed_x, *needed = ctx.needs_input_grad
        for_x = _input_gradient(x, directions, gradients, ctx.stride) if needed_x else None
        for_gradients = _convolved(x, directions, ctx.stride) if any(needed) else [None] * len(gradients)
        return None, None, for_x, *for_gradients


def _copies(x: Tensor, filters: int) -> Tensor:
    """`_repeated` in half the time, for where no gradient is recorded."""
    return torch.cat([x] * filters, dim=1) if filters > 1 else x


def _input_gradient(x: Tensor, weights: Sequence[Tensor], gradients: Sequence[Tensor], stride: int) -> Tensor:
    """The gradient of `_Depthwise` in its input (N, C, H, W), from those of its outputs, each (N, F * C, ...)."""
    filters = len(weights[0]) // x.shape[1]
    wide_x = x if stride == 1 else _repeated(x, filters)
    wide = None
    for weight, gradient in zip(weights, gradients, strict=True):
        if stride == 1:
            # A convolution with the mirrored filter, at which the library is fast. By our function, so that what is
            # differentiated again goes the fast ways too.
            (of_one,) = _convolved(gradient, [weight.flip(2, 3)], 1)
        else:
            of_one = _library_gradients(wide_x, weight, gradient, stride, (True, False))[0]
        wide = of_one if wide is None else wide.add_(of_one)  # a new tensor, which nothing else holds
    assert wide is not None
    # Every filter of a channel saw the same copy of it.
    return wide if filters == 1 else _sum_over_filters(wide, filters)


def _sum_over_filters(wide: Tensor, filters: int) -> Tensor:
    """(N, F * C, H, W) of two or more filters to their sum (N, C, H, W)."""
    N, channels, H, W = wide.shape
    by_filter = wide.permute(0, 2, 3, 1).reshape(N, H, W, filters, channels // filters)
    if filters > _FEW:
        return by_filter.sum(dim=3).permute(0, 3, 1, 2)
    first, second, *others = by_filter.unbind(3)
    total = first + second
    for other in others:
        total += other
    return total.permute(0, 3, 1, 2)


def _to_column_parities(x: Tensor) -> Tensor:
    """(N, C, H, W) to (2 N, C, H, W / 2): even and odd columns as images of their own."""
    N, C, H, W = x.shape
    split = x.permute(0, 2, 3, 1).reshape(N, H, W // 2, 2, C)
    return split.permute(3, 0, 1, 2, 4).reshape(2 * N, H, W // 2, C).permute(0, 3, 1, 2)


def _library_weight_gradient(x: Tensor, gradient: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
    # A convolution is linear in its weight, so that the gradient does not depend on it: only its shape is read.
    return _library_gradients(x, x.new_empty(x.shape[1], 1, *kernel), gradient, stride, (False, True))[1]


def _library_gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, stride: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """PyTorch's own gradients of a depthwise convolution in input and weight."""
    padding = [side // 2 for side in weight.shape[2:]]
    groups = x.shape[1]
    for_x, for_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, padding, [1, 1], False, [0, 0], groups, [*wanted, False]
    )
    return for_x, for_weight
