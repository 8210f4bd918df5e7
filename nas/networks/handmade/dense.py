"""DenseNet and AGD-Net: blocks of eq. (19) and eq. (21) between a stem and a classifier.

The convolution of a dense layer on the concatenation of z_0, ..., z_k is the sum over j of convolutions of the z_j
with its blocks of input channels, and BatchNorm and ReLU act on each channel by itself. So DenseNet is eq. (18) with
alpha = 1, beta = 0 and T_{k+1,j} = Conv_{k+1,j} ReLU BN_{k+1,j}, and another alpha scales the blocks of the kernel.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.errors import UsageError
from nas.networks.handmade.units import conv, imagenet_stem, initialize
from nas.theory.iterations import nesterov_momentum

#: Layers of each block of DenseNet-121 (Huang et al., CVPR 2017, table 1).
LAYERS_121 = (6, 12, 24, 16)


class DenseLayer(nn.Module):
    """T_{k+1,0}, ..., T_{k+1,k} of a dense block as one layer: BN-ReLU-Conv3x3, or BN-ReLU-Conv1x1-BN-ReLU-Conv3x3.

    Args:
        widths: channels of z_0, ..., z_k.
        growth: channels of z_{k+1}.
        bottleneck: channels between the two convolutions; None for a single convolution. Only the first convolution
            sees the z_j separately.
        learn_alpha: scale the block of each z_j by a trainable number, `alpha` (k+1,), initially 1; else alpha is 1.
    """

    block_of_channel: Tensor

    def __init__(self, widths: Sequence[int], growth: int, bottleneck: int | None, *, learn_alpha: bool) -> None:
        super().__init__()
        channels = sum(widths)
        self.norm1 = nn.BatchNorm2d(channels)
        if bottleneck is None:
            self.conv1 = conv(channels, growth, 3)
            self.rest = nn.Sequential()
        else:
            self.conv1 = conv(channels, bottleneck, 1)
            self.rest = nn.Sequential(nn.BatchNorm2d(bottleneck), nn.ReLU(inplace=True), conv(bottleneck, growth, 3))
        self.alpha = nn.Parameter(torch.ones(len(widths))) if learn_alpha else None
        blocks = torch.repeat_interleave(torch.tensor(widths), output_size=channels)
        self.register_buffer("block_of_channel", blocks, persistent=False)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Maps z_0, ..., z_k, (N, widths[j], H, W) each, to z_{k+1} (N, growth, H, W)."""
        h = F.relu(self.norm1(torch.cat(list(states), dim=1)), inplace=True)
        if self.alpha is None:
            return self.rest(self.conv1(h))
        # Scale the kernel, not the image: it is smaller by orders of magnitude.
        kernel = self.conv1.weight * self.alpha[self.block_of_channel, None, None]
        return self.rest(F.conv2d(h, kernel, padding=self.conv1.padding))


class DenseBlock(nn.Module):
    """A dense block with the momentum of AGD-Net, eq. (21).

    z_{k+1} = sum_{j<=k} alpha_{k+1,j} T_{k+1,j}(z_j) + beta (z_k - sum_{j<=k} h_{k+1,j} z_j), h from eq. (5), its index
    starting anew in every block. beta = 0 without learned alpha is DenseNet, eq. (19).

    The channels of z_0 differ from the others, but its weight in the momentum is zero: h_{1,0} = 1, and h_{k,0} = 0
    afterwards. With r_k = z_k - sum_j h_{k+1,j} z_j, eq. (5) gives r_0 = 0 and r_k = b_{k+1} (r_{k-1} - z_k): two
    operations per layer instead of k.

    Args:
        in_channels: of z_0.
        layers: m, how many states z_1, ..., z_m follow.
        growth: see `DenseLayer`.
        bottleneck: see `DenseLayer`.
        beta: the weight of the momentum, not trained.
        learn_alpha: see `DenseLayer`.
    """

    def __init__(
        self,
        in_channels: int,
        layers: int,
        growth: int,
        bottleneck: int | None = None,
        *,
        beta: float = 0.0,
        learn_alpha: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer([in_channels] + [growth] * k, growth, bottleneck, learn_alpha=learn_alpha) for k in range(layers)
        )
        self.beta = beta
        self.momentum = nesterov_momentum(layers + 1)
        self.out_channels = in_channels + layers * growth

    def states(self, z: Tensor) -> list[Tensor]:
        """z_0, ..., z_m for the input z_0."""
        states = [z]
        r: Tensor | None = None  # r_0 is zero, and has another number of channels
        for k, layer in enumerate(self.layers):
            z_next = layer(states)
            if self.beta and k >= 1:
                b = self.momentum[k + 1]
                r = -b * states[k] if r is None else b * (r - states[k])
                z_next = torch.add(z_next, r, alpha=self.beta)
            states.append(z_next)
        return states

    def forward(self, z: Tensor) -> Tensor:
        """From z_0 (N, in_channels, H, W) to the concatenation of all states (N, out_channels, H, W)."""
        return torch.cat(self.states(z), dim=1)


class Transition(nn.Sequential):
    """The layers between two blocks: BN-ReLU-Conv1x1, and average pooling to half the side."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            conv(in_channels, out_channels, 1),
            nn.AvgPool2d(2),
        )


class DenseNetwork(nn.Module):
    """DenseNet, or AGD-Net with `beta` and `learn_alpha`.

    Args:
        stem: from images to `channels` channels.
        channels: of the stem.
        layers: of each block.
        growth: of every block, see `DenseBlock`.
        bottleneck: of every block.
        compression: the share of the channels that a transition keeps.
        beta: of every block.
        learn_alpha: of every block.
        smallest_side: the smallest image side in pixels that stem and transitions can halve.
        num_classes: of the images.
    """

    def __init__(
        self,
        stem: nn.Module,
        channels: int,
        layers: Sequence[int],
        *,
        growth: int,
        bottleneck: int | None = None,
        compression: float = 1.0,
        beta: float = 0.0,
        learn_alpha: bool = False,
        smallest_side: int,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.smallest_side = smallest_side
        self.stem = stem
        self.blocks = nn.ModuleList()
        self.transitions = nn.ModuleList()
        for i, m in enumerate(layers):
            if i > 0:
                kept = int(channels * compression)
                self.transitions.append(Transition(channels, kept))
                channels = kept
            block = DenseBlock(channels, m, growth, bottleneck, beta=beta, learn_alpha=learn_alpha)
            self.blocks.append(block)
            channels = block.out_channels
        self.norm = nn.BatchNorm2d(channels)
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to logits (N, num_classes)."""
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else self.transitions[i - 1](x))
        return self.classifier(self.global_pooling(F.relu(self.norm(x), inplace=True)).flatten(1))


def cifar_dense(
    depth: int, growth: int, *, beta: float, learn_alpha: bool, in_channels: int, num_classes: int
) -> DenseNetwork:
    """Depth 3m + 4: a stem of 16 channels, three blocks of m layers without bottleneck, and no compression.

    Raises UsageError for another depth.
    """
    m, remainder = divmod(depth - 4, 3)
    if m < 1 or remainder:
        raise UsageError(
            f"a depth of {depth} is not 3m + 4 with m at least 1; the nearest is "
            f"{3 * max(1, round((depth - 4) / 3)) + 4}"
        )
    return DenseNetwork(
        conv(in_channels, 16, 3),
        16,
        (m, m, m),
        growth=growth,
        beta=beta,
        learn_alpha=learn_alpha,
        smallest_side=4,
        num_classes=num_classes,
    )


def imagenet_dense(
    depth: int, growth: int, *, beta: float, learn_alpha: bool, in_channels: int, num_classes: int
) -> DenseNetwork:
    """DenseNet-121 (Huang et al., CVPR 2017, table 1): bottlenecks of 4 * growth channels, compression 1/2.

    Raises UsageError for another depth than 121.
    """
    if depth != 121:
        raise UsageError(f"a depth of {depth} is not available on ImageNet; use 121")
    channels = 2 * growth
    return DenseNetwork(
        imagenet_stem(in_channels, channels),
        channels,
        LAYERS_121,
        growth=growth,
        bottleneck=4 * growth,
        compression=0.5,
        beta=beta,
        learn_alpha=learn_alpha,
        smallest_side=29,  # 8 after the stem, then halved by three transitions
        num_classes=num_classes,
    )
