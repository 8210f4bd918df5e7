"""The cost of hand-made networks: `python -m nas.networks.handmade hbnet56`; without names, of all listed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro

from genotypes.config import Config, Count, NoneMeans
from nas import cli
from nas.errors import UsageError, users_mistakes
from nas.networks import handmade
from nas.networks.cost import count_macs, count_parameters
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class Costs(Config):
    """Parameters and multiply-adds of one image, of hand-made networks as their papers have them."""

    networks: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NETWORKS...")] = handmade.names()
    """Names, such as hbnet56 (default: all that are listed)."""
    image_size: Annotated[Count | None, NoneMeans("32, or 224 for the networks of ImageNet")] = None
    """Side of the images in pixels."""
    classes: Annotated[Count | None, NoneMeans("10, or 1000 for the networks of ImageNet")] = None
    """Number of classes."""
    channels: Count = 3
    """Channels of the images."""


def costs(config: Costs) -> list[dict[str, Any]]:
    """A row for each network. Raises UsageError for an unknown name, or images too small for the network."""
    return [_row(config, name) for name in config.networks]


def _row(config: Costs, name: str) -> dict[str, Any]:
    with users_mistakes():
        imagenet = handmade.is_imagenet(name)
        side, classes = config.image_size or (224 if imagenet else 32), config.classes or (1000 if imagenet else 10)
        with torch.device("meta"):
            network = handmade.build(name, in_channels=config.channels, image_size=(side, side), num_classes=classes)
    return {
        "network": name,
        "image size": side,
        "classes": classes,
        "parameters": count_parameters(network),
        "multiply-adds": count_macs(network, config.channels, (side, side)),
    }


def command(argv: list[str]) -> dict[str, Any]:
    """Parses the command line, prints the table and returns its rows."""
    config = cli.parse(Costs, argv, description=__doc__ or "", default=Costs())
    if not config.networks:
        raise UsageError("no network is named; leave the names out for all of them")
    rows = costs(config)
    print(table(rows))
    return {"rows": rows}


def main() -> None:
    """The console command `optinas-handmade`."""
    cli.run(command)


if __name__ == "__main__":
    main()
