"""The two forms in which the network of a genotype is published, so that genotypes can be compared."""

from __future__ import annotations

from typing import Literal, NamedTuple

from nas.networks.cells import NetworkConfig

FormName = Literal["cifar", "imagenet"]


class Form(NamedTuple):
    """A network with the images that it is for, which have three channels."""

    network: NetworkConfig
    image_size: tuple[int, int]
    """(H, W) in pixels."""
    num_classes: int


#: DARTS (Liu et al., ICLR 2019), sec. 3.2 and sec. 3.4.
FORMS: dict[FormName, Form] = {
    "cifar": Form(NetworkConfig(layers=20, init_channels=36, auxiliary=True, drop_path_prob=0.2), (32, 32), 10),
    "imagenet": Form(NetworkConfig(layers=14, init_channels=48, stem="imagenet", auxiliary=True), (224, 224), 1000),
}
