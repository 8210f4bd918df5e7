"""1x1 convolutions with a stride.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


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
        vertical, horizontal = self.stride
        return F.conv2d(x[:, :, ::vertical, ::horizontal], self.weight)
