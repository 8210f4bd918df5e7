"""BatchNorm: faster where PyTorch's is slow on a CPU, several of them side by side, and without a change of statistics.

**Folding.** With the channels innermost, PyTorch's kernels go from pixel to pixel and through the channels of each in
vectors. Channels that do not fill the last vector cost several times as much as if they did: 36, the width of DARTS's
networks, three times the time of 48. `FoldedBatchNorm2d` takes a few neighbouring pixels as one whose channels fill the
vectors, and combines the statistics of a channel from those at each place. Measured against `nn.BatchNorm2d`: 0.34
instead of 1.30 ms forward and 0.66 instead of 2.03 ms backward for (64, 36, 32, 32) (LOG.md). tests/test_norm.py
compares both.

**Stacking.** `StackedNorm` is the BatchNorms of many operations as one, so that a node's edges cost one kernel.

Shape letters: N images, C channels, H W size, P places: pixels that are taken as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

#: float32 numbers in a vector of AVX-512; AVX2's are half as long.
_VECTOR = 16

#: Numbers in the input from which on the kernels weigh more than what is done around them.
_LEAST = 2**19

#: Those of PyTorch's BatchNorm, which `StackedNorm` takes the place of.
MOMENTUM, EPS = 0.1, 1e-5


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorms in training mode use the batch's statistics and leave the running ones alone.

    BatchNorms, `StackedNorm` included, are known by their attribute `track_running_stats`. InstanceNorm has it too, but
    updates its statistics whatever it says.
    """
    tracking = [m for m in module.modules() if getattr(m, "track_running_stats", False)]
    for m in tracking:
        m.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for m in tracking:
            m.track_running_stats = True  # type: ignore[assignment]


# ---- stacked ---------------------------------------------------------------------------------------------------------


class NormSlice(NamedTuple):
    """Neighbouring channels of a `StackedNorm`, with all that is needed to apply it to them alone."""

    running_mean: Tensor | None
    """(channels,), a view; None where the batch's statistics are used and the running ones left alone."""
    running_var: Tensor | None
    """As `running_mean`."""
    training: bool
    """Whether the batch's statistics are used."""

    def __call__(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """(N, channels, H, W) normalized and multiplied by `scale`, (channels,)."""
        return F.batch_norm(x, self.running_mean, self.running_var, scale, None, self.training, MOMENTUM, EPS)

    def with_statistics(self, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The result, and the mean and the inverse standard deviation that it took, for `gradients`."""
        return torch.native_batch_norm(
            x, scale, None, self.running_mean, self.running_var, self.training, MOMENTUM, EPS
        )

    def without_update(self) -> NormSlice:
        """Gives the same results, but counts nothing towards the running statistics: they have this batch already."""
        return NormSlice(None, None, True) if self.training else self

    def gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor | None, mean: Tensor, inverse_std: Tensor, scale_needed: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The gradients in `x` and, if needed, in `scale`, from that of the result; to be differentiated again.

        `mean` and `inverse_std` are those of `with_statistics`.
        """
        for_x, for_scale, _ = torch.ops.aten.native_batch_norm_backward(
            # A gradient with gaps, as that of a slice is, would take PyTorch's general kernel: ten times slower.
            gradient.contiguous(memory_format=torch.channels_last),
            x,
            scale,
            self.running_mean,
            self.running_var,
            mean,
            inverse_std,
            self.training,
            EPS,
            [True, scale_needed, False],
        )
        return for_x, for_scale if scale_needed else None


class StackedNorm(nn.Module):
    """Several BatchNorms that are not affine, side by side: one with the statistics of all, (channels,).

    Its output can be multiplied by `scale`, (channels,): the mixing weights then cost no pass of their own.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.track_running_stats = True
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """Maps (N, channels, H, W) to the same shape, normalized and multiplied by `scale`, (channels,)."""
        (whole,) = self.slices([len(self.running_mean)])
        return whole(x, scale)

    def slices(self, widths: Sequence[int]) -> list[NormSlice]:
        """The parts of its channels with the given numbers of them, in order."""
        if self.training and not self.track_running_stats:
            return [NormSlice(None, None, True)] * len(widths)
        # Views, so that what a slice writes into its statistics stands here.
        statistics = zip(self.running_mean.split(list(widths)), self.running_var.split(list(widths)), strict=True)
        return [NormSlice(mean, var, self.training) for mean, var in statistics]


# ---- folded ----------------------------------------------------------------------------------------------------------


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, of which the training mode is faster on a CPU where channels do not fill its vectors."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to the same shape, as `nn.BatchNorm2d` does."""
        self._check_input_dim(x)
        # The fewest pixels whose channels together fill whole vectors: 4 for 36 channels, 144 = 9 vectors.
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
                # The batch is normalized by its own variance; the running one estimates that of all images (Bessel).
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
        # Every place has its own statistics of a channel, each of as many pixels. The variance of all of them is the
        # mean of the variances plus the variance of the means.
        means, variances = (t.view(places, -1) for t in torch.batch_norm_update_stats(folded, None, None, 0.0))
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + means.var(dim=0, correction=0)
        # Normalization and affine map in one: x * scale + shift, a single pass.
        scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        result = torch.empty_like(x)  # not a view: it may be changed in place
        torch.addcmul(_at_each_place(shift, places), folded, _at_each_place(scale, places), out=_folded(result, places))
        ctx.save_for_backward(x, weight, bias, mean, variance)
        ctx.mark_non_differentiable(mean, variance)
        ctx.eps, ctx.places = eps, places
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, bias, mean, variance = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():  # it is to be differentiated again, which the formulas below are not made for
            return *_library_gradients(ctx, x, weight, bias, gradient), None, None
        folded, gradient = _folded(x, ctx.places), _folded(gradient, ctx.places)
        statistics = [t.repeat(ctx.places) for t in (mean, variance)]
        # With the statistics taken as given (False: evaluation mode) the kernel only sums the gradient and its product
        # with the normalized input. These are the gradients of bias and weight, and all that the input's needs too. It
        # wants some weight where the weight's gradient is asked for, but does not use it.
        _, by_place, sums = torch.ops.aten.native_batch_norm_backward(
            gradient, folded, statistics[1], *statistics, None, None, False, ctx.eps, [False, True, True]
        )
        for_weight, for_bias = by_place.view(ctx.places, -1).sum(dim=0), sums.view(ctx.places, -1).sum(dim=0)
        for_x = None
        if ctx.needs_input_grad[0]:
            # The gradient in x is scale * (g - mean(g) - normalized x * mean(g * normalized x)). Multiplied out, it is
            # constant + of_x * x + scale * g, with factors that are the same for all pixels of a channel.
            number = x.numel() // x.shape[1]
            inverse_std = (variance + ctx.eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            of_x = -scale * inverse_std * for_weight / number
            constant = -scale * for_bias / number - of_x * mean
            constant, of_x, scale = (_at_each_place(t, ctx.places) for t in (constant, of_x, scale))
            for_x = torch.empty_like(x)
            torch.addcmul(constant, folded, of_x, out=_folded(for_x, ctx.places)).addcmul_(gradient, scale)
        return for_x, None if weight is None else for_weight, None if bias is None else for_bias, None, None


def _at_each_place(values: Tensor, places: int) -> Tensor:
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
