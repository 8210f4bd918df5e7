"""Depthwise convolution against PyTorch's, with first and second derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.kernels.depthwise import DepthwiseConv2d, depthwise, depthwise_each

SIZES = [(8, 6), (7, 9), (4, 4), (1, 1), (2, 3)]


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spaces.kernels.depthwise._SMALL", 0)


def images(size: tuple[int, int], channels: int = 4, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, channels, *size, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def reference(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Each filter of each channel by itself."""
    padding = dilation * (weight.shape[2] // 2)
    channels = [
        F.conv2d(x[:, f % x.shape[1], None].contiguous(), weight[f, None], None, stride, padding, dilation)
        for f in range(len(weight))
    ]
    return torch.cat(channels, dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_values_and_derivatives(kernel: int, stride: int, dilation: int, filters: int, size: tuple[int, int]) -> None:
    x = images(size)
    weight = torch.randn(4 * filters, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    y, expected = depthwise(x, weight, stride=stride, dilation=dilation), reference(x, weight, stride, dilation)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)

    towards = torch.randn_like(y, requires_grad=True)
    first = torch.autograd.grad(y, (x, weight), towards, create_graph=True)
    first_expected = torch.autograd.grad(expected, (x, weight), towards, create_graph=True)
    torch.testing.assert_close(first, first_expected, rtol=1e-12, atol=1e-12)

    directions = [torch.randn_like(g) for g in first]
    second = torch.autograd.grad(first, (x, weight, towards), directions)
    second_expected = torch.autograd.grad(first_expected, (x, weight, towards), directions)
    torch.testing.assert_close(second, second_expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 6), (7, 9)])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_several_weights_of_one_image(
    stride: int, dilation: int, wanted: tuple[bool, bool], size: tuple[int, int]
) -> None:
    x = images(size)
    weights = [
        torch.randn(8, 1, k, k, dtype=torch.float64, requires_grad=w) for k, w in zip((3, 5), wanted, strict=True)
    ]
    results = depthwise_each(x, weights, stride=stride, dilation=dilation)
    expected = [reference(x, weight, stride, dilation) for weight in weights]
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)

    inputs = [x, *(weight for weight in weights if weight.requires_grad)]
    losses = [sum(y.square().sum() for y in of) for of in (results, expected)]
    firsts = [torch.autograd.grad(loss, inputs, create_graph=True) for loss in losses]
    torch.testing.assert_close(*firsts, rtol=1e-12, atol=1e-12)
    seconds = [torch.autograd.grad(sum(g.square().sum() for g in first), inputs) for first in firsts]
    torch.testing.assert_close(*seconds, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", [3, 5])
def test_only_what_is_wanted_is_computed(kernel: int) -> None:
    x, weight = images((8, 8)), torch.randn(4, 1, kernel, kernel, dtype=torch.float64)
    expected = torch.autograd.grad(reference(x, weight, 1, 1).square().sum(), x)
    torch.testing.assert_close(torch.autograd.grad(depthwise(x, weight).square().sum(), x), expected)
    x, weight = x.detach(), weight.requires_grad_()
    expected = torch.autograd.grad(reference(x, weight, 1, 1).square().sum(), weight)
    torch.testing.assert_close(torch.autograd.grad(depthwise(x, weight).square().sum(), weight), expected)


def test_channels_outermost_and_without_gradients() -> None:
    x, weight = images((8, 8)).detach(), torch.randn(12, 1, 5, 5, dtype=torch.float64)
    expected = reference(x, weight, 1, 2)
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.testing.assert_close(depthwise(x.contiguous(memory_format=layout), weight, dilation=2), expected)
    weight.requires_grad_()
    torch.testing.assert_close(depthwise(x.contiguous(), weight, dilation=2), expected)


def test_autocast_computes_in_bf16_and_gives_the_weight_its_own_precision() -> None:
    x = images((8, 8), dtype=torch.float32)
    module = DepthwiseConv2d(4, 5, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
    assert x.grad is not None
    exact = torch.autograd.grad(reference(x, module.weight, 1, 2).square().sum(), (x, module.weight))
    for ours, theirs in zip((x.grad, module.weight.grad), exact, strict=True):
        assert (ours - theirs).norm() <= 0.02 * theirs.norm()


def test_the_module_is_the_librarys_convolution() -> None:
    module = DepthwiseConv2d(4, 5, 2, 2).double()
    x = images((9, 8))
    torch.testing.assert_close(module(x), module._conv_forward(x.contiguous(), module.weight, None))
