"""The evaluation network: cells rebuilt from a genotype.

The structure, and so the parameter counts and weights, are those of DARTS's evaluation networks (Liu et al.,
ICLR 2019, sec. 3.2-3.4 and the authors' code), for any genotype, number of classes and image size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genotypes import CellGenotype, Genotype, validate
from genotypes.config import AtLeast, Common, Config, Count, LessThan
from nas.networks.macro import (
    CellPlan,
    ImageNetStem,
    StemName,
    build_preprocessing,
    build_stem,
    edge_stride,
    plan_cells,
    resolve_stem,
)
from spaces import Kind, build_operation
from spaces.ops import starts_with_relu


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Config):
    """The evaluation network; the defaults are DARTS's for CIFAR."""

    layers: Annotated[Count, Common] = 20
    """Number of cells (DARTS sec. 3.2: 20 on CIFAR, sec. 3.4: 14 on ImageNet)."""
    init_channels: Annotated[int, AtLeast(2), Common] = 36
    """Channels of the first cells (DARTS sec. 3.2: 36 on CIFAR, sec. 3.4: 48 on ImageNet)."""
    stem: StemName = "auto"
    """First layers: cifar (stride 1), imagenet (stride 8), or auto by the image's size."""
    auxiliary: Annotated[bool, Common] = False
    """Train with an auxiliary head at 2/3 of the depth (DARTS sec. 3.2)."""
    drop_path_prob: Annotated[float, AtLeast(0), LessThan(1), Common] = 0.0
    """Drop path probability at the end of training, reached linearly (DARTS sec. 3.2: 0.2)."""


def drop_path_mask(x: Tensor, prob: Tensor) -> Tensor:
    """Factors (N, 1, 1, 1) that zero whole samples of `x` with probability `prob` and rescale the others.

    That is drop path (Larsson et al., ICLR 2017). `prob` is a tensor, not a number, so that a captured or compiled step
    reads the current value.
    """
    keep = 1 - prob
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) < keep
    return (kept / keep).to(x.dtype)


class Cell(nn.Module):
    """One cell of a genotype; (N, concatenated nodes * C, H, W), half the size for a reduction cell.

    Its inputs are the ReLUs of the two outputs before: each of them is read by two cells, which share the ReLU, just
    as the edges that leave a node share the ReLU of the node.
    """

    def __init__(self, genotype: CellGenotype, plan: CellPlan) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = build_preprocessing(plan, affine=True)
        self.concat = genotype.concat
        self.sources = [[edge.source for edge in node] for node in genotype.nodes]
        self.edges = nn.ModuleList()
        # DARTS drops every path but the identities; the negative identity is the same kind of path.
        self.drops: list[bool] = []
        for edge in (edge for node in genotype.nodes for edge in node):
            stride = edge_stride(plan, edge.source)
            self.edges.append(build_operation(edge.operation, plan.channels, stride))
            self.drops.append(stride == 2 or edge.operation not in ("skip_connect", "neg_skip_connect"))

    def forward(self, relu0: Tensor, relu1: Tensor, drop_path_prob: Tensor | None) -> Tensor:
        """Maps the ReLUs of the two outputs before, (N, C_prev, H, W) each, to (N, concatenated nodes * C, H', W').

        `drop_path_prob` is a scalar tensor; None drops nothing.
        """
        states = [self.preprocess0.after_relu(relu0), self.preprocess1.after_relu(relu1)]
        rectified: dict[int, Tensor] = {}
        edges = iter(zip(self.edges, self.drops, strict=True))
        for sources in self.sources:
            total = None
            for source in sources:
                edge, drops = next(edges)
                if starts_with_relu(edge):
                    if source not in rectified:
                        rectified[source] = states[source].relu()
                    path = edge.after_relu(rectified[source])
                else:
                    path = edge(states[source])
                prob = drop_path_prob if drops else None
                total = _plus(total, path, None if prob is None else drop_path_mask(path, prob))
            assert total is not None, "a node has an edge"
            states.append(total)
        return torch.cat([states[node] for node in self.concat], dim=1)


def _plus(total: Tensor | None, path: Tensor, mask: Tensor | None) -> Tensor:
    """Add mask * path to the total in one pass; no total counts as 0, and no mask as 1."""
    if total is None:
        return path if mask is None else path * mask
    return total + path if mask is None else torch.addcmul(total, path, mask)


class AuxiliaryHead(nn.Module):
    """The classifier at 2/3 of the depth, whose loss is added in training (DARTS's code).

    DARTS pools 8x8 (CIFAR) and 7x7 (ImageNet) features to 2x2 by 5x5 windows with stride 3 and 2. Here the
    windows are 0.6 of the side and reach both borders: the same at these sizes, and defined at any other.
    """

    def __init__(self, channels: int, num_classes: int, *, imagenet: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            # DARTS's ImageNet head lacks this BatchNorm; ours must too, or published weights would not load.
            *([] if imagenet else [nn.BatchNorm2d(768)]),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps the output of a cell (N, channels, H, W) to logits (N, num_classes)."""
        return self.classifier(self.features(_pool_to_2x2(x.relu())).flatten(1))


def _pool_to_2x2(x: Tensor) -> Tensor:
    sides = x.shape[2:]
    # A side of 1 cannot be divided into windows: adaptive pooling repeats it.
    if min(sides) < 2:
        return F.adaptive_avg_pool2d(x, 2)
    kernel = [min(math.ceil(0.6 * side), side - 1) for side in sides]
    stride = [side - window for side, window in zip(sides, kernel, strict=True)]
    return F.avg_pool2d(x, kernel, stride)


class Network(nn.Module):
    """The evaluation network of a genotype.

    Args:
        genotype: any valid genotype.
        config: depth, width and regularization.
        in_channels: channels of the images.
        image_size: (H, W) in pixels; it only decides what the stem "auto" is.
        num_classes: classes of the data.

    In training mode, and with an auxiliary head, it returns the pair of the logits and the auxiliary logits.

    Raises GenotypeError for a genotype that is not valid.
    """

    drop_path_prob: Tensor

    def __init__(
        self,
        genotype: Genotype,
        config: NetworkConfig,
        *,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
    ) -> None:
        super().__init__()
        validate(genotype)
        stem = resolve_stem(config.stem, image_size)
        self.stem = build_stem(stem, in_channels, config.init_channels)
        kinds: dict[Kind, CellGenotype] = {"normal": genotype.normal, "reduce": genotype.reduce}
        concatenated = {kind: len(cell.concat) for kind, cell in kinds.items()}
        plans = list(plan_cells(config.layers, config.init_channels, self.stem, concatenated))
        self.cells = nn.ModuleList(Cell(kinds[plan.kind], plan) for plan in plans)
        widths = [concatenated[plan.kind] * plan.channels for plan in plans]
        self.auxiliary_at = 2 * config.layers // 3
        self.auxiliary_head = (
            AuxiliaryHead(widths[self.auxiliary_at], num_classes, imagenet=stem == "imagenet")
            if config.auxiliary
            else None
        )
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)
        self._final_drop_path_prob = config.drop_path_prob
        self.register_buffer("drop_path_prob", torch.tensor(0.0), persistent=False)
        # As in the supernet. Set here, not by the training, so that a loaded network computes the same bits.
        self.to(memory_format=torch.channels_last)

    def schedule_drop_path(self, progress: float) -> None:
        """Sets the drop path probability after the share `progress`, 0..1, of the training."""
        # In place, into a buffer: a CUDA graph reads it at the address that it has recorded.
        self.drop_path_prob.fill_(self._final_drop_path_prob * progress)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Maps images (N, in_channels, H, W) to logits (N, num_classes), or to the pair with the auxiliary logits."""
        prob = self.drop_path_prob if self.training and self._final_drop_path_prob > 0 else None
        auxiliary = None
        s0, last = self.stem(x)
        relu0 = s0.relu()
        for layer, cell in enumerate(self.cells):
            relu1 = last.relu()
            last = cell(relu0, relu1, prob)
            relu0 = relu1
            if layer == self.auxiliary_at and self.auxiliary_head is not None and self.training:
                auxiliary = self.auxiliary_head(last)
        logits = self.classifier(self.global_pooling(last).flatten(1))
        return logits if auxiliary is None else (logits, auxiliary)


def from_darts_state_dict(state_dict: Mapping[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Renames the weights of a network trained by DARTS's code to those of `network`.

    Only names differ: `_ops` is `edges` here; the ImageNet stem is one module; the pooling of the auxiliary head is
    not in its list of features, which shifts their numbers by two. An auxiliary head is dropped if `network` has
    none.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name.startswith("auxiliary_head.") and network.auxiliary_head is None:
            continue
        parts = name.replace("._ops.", ".edges.").split(".")
        if parts[:2] == ["auxiliary_head", "features"]:
            parts[2] = str(int(parts[2]) - 2)
        if isinstance(network.stem, ImageNetStem) and parts[0] in ("stem0", "stem1"):
            parts.insert(0, "stem")
        renamed[".".join(parts)] = value
    return renamed
