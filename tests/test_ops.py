"""The candidate operations: shapes, values against independent computations, composition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spaces import OPERATIONS, TABLE_6, build_operation, operation
from spaces.ops import FactorizedReduce

# Weights at C = 16, stride 1, affine BatchNorms, counted by hand: depthwise k*k*C, pointwise C*C, BatchNorm 2C.
PARAMETERS_AT_16 = {
    "sep_conv_3x3": 2 * (9 * 16 + 16 * 16 + 32),
    "sep_conv_5x5": 2 * (25 * 16 + 16 * 16 + 32),
    "sep_conv_7x7": 2 * (49 * 16 + 16 * 16 + 32),
    "dil_conv_3x3": 9 * 16 + 16 * 16 + 32,
    "dil_conv_5x5": 25 * 16 + 16 * 16 + 32,
    "conv_7x1_1x7": 2 * 7 * 16 * 16 + 32,
    "max_pool_3x3": 0,
    "avg_pool_3x3": 0,
    "skip_connect": 0,
    "neg_skip_connect": 0,
    "none": 0,
    "noise": 0,
}


def test_the_table_has_the_papers_and_three_more() -> None:
    assert set(OPERATIONS) >= {*TABLE_6, "sep_conv_7x7", "conv_7x1_1x7", "noise"} == set(PARAMETERS_AT_16)
    assert len(TABLE_6) == 9


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (2, 5)])
def test_shape_and_finite_gradient(name: str, stride: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, 4, *size, requires_grad=True)
    y = build_operation(name, 4, stride)(x)
    assert y.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))
    (y.sum() + 0 * x.sum()).backward()  # zero and noise do not depend on x
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", PARAMETERS_AT_16)
def test_parameters(name: str) -> None:
    assert sum(p.numel() for p in build_operation(name, 16, 1).parameters()) == PARAMETERS_AT_16[name]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_affine_reaches_every_batchnorm(name: str, stride: int) -> None:
    for affine in (True, False):
        norms = [m for m in build_operation(name, 4, stride, affine).modules() if isinstance(m, nn.BatchNorm2d)]
        assert all(m.affine is affine for m in norms)


@pytest.mark.parametrize("stride", [1, 2])
def test_negative_identity_is_minus_the_identity(stride: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    identity, negative = (build_operation(n, 4, stride) for n in ("skip_connect", "neg_skip_connect"))
    negative.load_state_dict(identity.state_dict())
    assert torch.equal(negative(x), -identity(x))


def test_zero_is_zero_for_any_input() -> None:
    x = torch.full((1, 2, 4, 4), torch.nan)
    assert torch.equal(build_operation("none", 2, 2)(x), torch.zeros(1, 2, 2, 2))


def test_average_pooling_leaves_the_padding_out() -> None:
    x = torch.ones(1, 1, 5, 5)
    assert torch.equal(build_operation("avg_pool_3x3", 1, 1)(x), x)


def test_factorized_reduce_sees_both_diagonals() -> None:
    x = torch.rand(1, 1, 4, 6) + 1
    reduce = FactorizedReduce(1, 2).eval()
    for conv in (reduce.conv_1, reduce.conv_2):
        nn.init.ones_(conv.weight)
    scale = (1 + reduce.bn.eps) ** -0.5
    expected = torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]], dim=1) * scale
    torch.testing.assert_close(reduce(x), expected)


@pytest.mark.parametrize(("name", "kernel", "dilation"), [("dil_conv_3x3", 3, 2), ("dil_conv_5x5", 5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_dilated_convolution_against_functional(name: str, kernel: int, dilation: int, stride: int) -> None:
    op = build_operation(name, 4, stride)
    weights = [w for w in op.state_dict().values() if w.dim() == 4]
    x = torch.randn(3, 4, 8, 8)
    y = F.conv2d(
        x.relu(),
        weights[0],
        stride=stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        groups=4,
    )
    y = F.conv2d(y, weights[1])
    torch.testing.assert_close(op(x), F.batch_norm(y, None, None, training=True))


def test_separable_convolution_is_two_with_the_stride_in_the_first() -> None:
    op = build_operation("sep_conv_3x3", 4, 2)
    convolutions = [m for m in op.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.groups, m.kernel_size, m.stride) for m in convolutions] == [
        (4, (3, 3), (2, 2)),
        (1, (1, 1), (1, 1)),
        (4, (3, 3), (1, 1)),
        (1, (1, 1), (1, 1)),
    ]


def test_unknown_and_taken_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown operation 'sep'; known: sep_conv_3x3"):
        build_operation("sep", 4, 1)
    with pytest.raises(ValueError, match="already registered"):
        operation("none")(lambda channels, stride, affine: nn.Identity())
