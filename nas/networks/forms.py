"""The two forms in which the network of a genotype is published, so that genotypes can be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

from nas.networks.budget import FormConfig
from nas.networks.cells import NetworkConfig

FormName = Literal["cifar", "imagenet"]


class Form(NamedTuple):
    """A network with the images that it is for."""

    network: NetworkConfig
    image_size: tuple[int, int]
    """(H, W) in pixels."""
    num_classes: int
    in_channels: int = 3

    def __str__(self) -> str:
        """For messages."""
        H, W = self.image_size
        return f"{self.network.layers} cells of {self.network.init_channels} channels on {H}x{W} pixels"


#: DARTS (Liu et al., ICLR 2019), sec. 3.2 and sec. 3.4.
FORMS: dict[FormName, Form] = {
    "cifar": Form(NetworkConfig(layers=20, init_channels=36, auxiliary=True, drop_path_prob=0.2), (32, 32), 10),
    "imagenet": Form(NetworkConfig(layers=14, init_channels=48, stem="imagenet", auxiliary=True), (224, 224), 1000),
}


def form_of(dataset: str, *, in_channels: int, image_size: tuple[int, int], num_classes: int) -> Form:
    """The form of the networks that are trained on a data set by the published protocol."""
    network = FORMS["imagenet" if dataset == "imagenet" else "cifar"].network
    return Form(network, image_size, num_classes, in_channels)


def chosen(config: FormConfig, own: Form) -> Form:
    """The form that a configuration means, which is `own` where it names no other."""
    form = own if config.eval_form is None else FORMS[config.eval_form]
    layers = config.eval_layers or form.network.layers
    channels = config.eval_channels or form.network.init_channels
    return form._replace(network=replace(form.network, layers=layers, init_channels=channels))
