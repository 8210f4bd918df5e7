"""The cost of a network: parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from genotypes import Genotype
from nas.networks.cells import Network, NetworkConfig


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds of a forward pass of one image, without the auxiliary head."""

    params: int
    macs: int
    params_with_auxiliary: int


def count_parameters(module: nn.Module, *, auxiliary: bool = False) -> int:
    """The number of trainable weights; those of an auxiliary head only if asked for."""
    return sum(
        p.numel() for name, p in module.named_parameters() if auxiliary or not name.startswith("auxiliary_head.")
    )


def count_macs(module: nn.Module, in_channels: int, image_size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and linear layers for one image (half of FlopCounterMode's figure).

    The module is put into evaluation mode while counting, so that no auxiliary head is counted.
    """
    training = module.training
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("meta"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, in_channels, *image_size, device=device))
    module.train(training)
    return counter.get_total_flops() // 2


def network_cost(
    genotype: Genotype,
    config: NetworkConfig,
    *,
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
) -> Cost:
    """The cost of the evaluation network of `genotype`, without allocating its weights."""
    auxiliary = NetworkConfig(
        layers=config.layers, init_channels=config.init_channels, stem=config.stem, auxiliary=True
    )
    with torch.device("meta"):
        network = Network(genotype, auxiliary, in_channels=in_channels, image_size=image_size, num_classes=num_classes)
    return Cost(
        params=count_parameters(network),
        macs=count_macs(network, in_channels, image_size),
        params_with_auxiliary=count_parameters(network, auxiliary=True),
    )
