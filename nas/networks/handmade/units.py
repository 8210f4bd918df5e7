"""The parts of the hand-made networks: the layers T, shortcuts, stems, and the initialization of weights.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from spaces.ops import convolution

#: Which convolution of a bottleneck halves the image.
BottleneckStride = Literal["1x1", "3x3"]
Shortcut = Literal["pad", "projection"]


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image's size, or halves it with stride 2."""
    return convolution(in_channels, out_channels, kernel, stride, kernel // 2)


def basic_unit(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """T of two weight layers, 3x3 each (He et al., CVPR 2016, fig. 5 left)."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(in_channels, out_channels, 3, stride),
            bn1=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(inplace=True),
            conv2=conv(out_channels, out_channels, 3),
            bn2=nn.BatchNorm2d(out_channels),
        )
    )


def bottleneck_unit(
    in_channels: int, out_channels: int, stride: int = 1, *, strided: BottleneckStride = "1x1"
) -> nn.Sequential:
    """T of three weight layers, 1x1, 3x3, 1x1, a quarter as wide inside (He et al., CVPR 2016, fig. 5 right).

    The stride is in the first convolution as in that paper, or, with "3x3", in the second as in torchvision.
    """
    width = out_channels // 4
    return nn.Sequential(
        OrderedDict(
            conv1=conv(in_channels, width, 1, stride if strided == "1x1" else 1),
            bn1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(inplace=True),
            conv2=conv(width, width, 3, stride if strided == "3x3" else 1),
            bn2=nn.BatchNorm2d(width),
            relu2=nn.ReLU(inplace=True),
            conv3=conv(width, out_channels, 1),
            bn3=nn.BatchNorm2d(out_channels),
        )
    )


class PadShortcut(nn.Module):
    """Every stride-th pixel, and zeros in the new channels: a shortcut without weights (option A of He et al.)."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C + new_channels, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def build_shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut from a block's input to its x_0: the identity if the shape does not change."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(out_channels - in_channels, stride)
    return nn.Sequential(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def cifar_stem(in_channels: int, channels: int) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU; the image keeps its size."""
    return nn.Sequential(conv(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def imagenet_stem(in_channels: int, channels: int) -> nn.Sequential:
    """7x7 convolution, BatchNorm, ReLU and max pooling, to a quarter of the image's side."""
    return nn.Sequential(
        conv(in_channels, channels, 7, 2),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def initialize(network: nn.Module) -> None:
    """He's initialization of convolutions, Glorot's of the classifier, whose bias is zero (the paper, sec. 8.1)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
