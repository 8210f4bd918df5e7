"""Trainings with published constants, by the value of --preset; each kind of network has protocols of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

from nas.data import DataConfig
from nas.engine.training import TrainingConfig
from nas.networks import handmade
from nas.networks.cells import NetworkConfig
from nas.networks.forms import FORMS
from nas.networks.library import is_library
from nas.networks.library_recipes import recipe
from nas.train import TrainConfig


def paper(dataset: str) -> TrainConfig:
    """DARTS sec. 3.2 (CIFAR-10: 2.76 +- 0.09 % error, DARTS_V2) and 3.4 (ImageNet: 26.7 % top-1)."""
    if dataset == "imagenet":
        return TrainConfig(
            epochs=250,
            data=DataConfig(dataset=dataset, batch_size=128),
            training=TrainingConfig(learning_rate=0.1, schedule="exponential", weight_decay=3e-5, label_smoothing=0.1),
            network=FORMS["imagenet"].network,
        )
    return TrainConfig(
        data=DataConfig(dataset=dataset, batch_size=96, cutout=True),
        network=FORMS["cifar"].network,
    )


def smoke(dataset: str) -> TrainConfig:
    """Three cells of 16 channels, 20 epochs: about a minute on two CPU cores for digits."""
    return TrainConfig(
        preset="smoke",
        epochs=20,
        data=DataConfig(dataset=dataset, batch_size=64),
        training=TrainingConfig(learning_rate=0.05),
        network=NetworkConfig(layers=3, init_channels=16, auxiliary=True),
    )


def small(dataset: str) -> TrainConfig:
    """Five cells of 16 channels, for a few hundred to a few thousand images.

    80.1 % on 1,200 images of five classes of CIFAR-10, in 11 minutes of CPU time; 78.7 % in half as many epochs, with
    or without cutout, where such a network without smoothed labels learns its images by heart (LOG.md). The average is
    over about the last 100 of 3,000 steps.
    """
    return TrainConfig(
        preset="small",
        epochs=80,
        data=DataConfig(dataset=dataset, batch_size=32, cutout=True),
        training=TrainingConfig(learning_rate=0.05, weight_decay=1e-3, label_smoothing=0.1, ema_decay=0.99),
        network=NetworkConfig(layers=5, init_channels=16),
    )


def handmade_paper(dataset: str) -> TrainConfig:
    """Sec. 8.1 of the paper of HB-Net and AGD-Net.

    On ImageNet its initial learning rate is not stated, and images are augmented as in DARTS, colours included.
    """
    imagenet = dataset == "imagenet"
    return TrainConfig(
        epochs=100 if imagenet else 300,
        data=DataConfig(dataset=dataset, batch_size=256 if imagenet else 64),
        training=TrainingConfig(
            learning_rate=0.1,
            schedule="step",
            milestones=(0.3, 0.6, 0.9) if imagenet else (0.5, 0.75),
            gamma=0.1,
            nesterov=True,
            weight_decay=1e-4,
            grad_clip=None,
        ),
    )


def handmade_smoke(dataset: str) -> TrainConfig:
    """The protocol of `handmade_paper` for CIFAR, on any images, in 20 epochs."""
    config = handmade_paper("cifar10")
    return replace(config, preset="smoke", epochs=20, data=DataConfig(dataset=dataset, batch_size=64))


def library_paper(arch: str, dataset: str) -> TrainConfig:
    """The protocol of torchvision's reference for ImageNet, see `nas.networks.library_recipes`, on any images."""
    own = recipe(arch)
    return TrainConfig(
        epochs=own.epochs, data=DataConfig(dataset=dataset, batch_size=own.batch_size), training=own.training
    )


def library_smoke(arch: str, dataset: str) -> TrainConfig:
    """The same protocol in 20 epochs of batch 64."""
    return _library_scaled(arch, dataset, "smoke", epochs=20)


def library_small(arch: str, dataset: str) -> TrainConfig:
    """The same protocol in 80 epochs of batch 64, for a few thousand images."""
    return _library_scaled(arch, dataset, "small", epochs=80)


def _library_scaled(arch: str, dataset: str, preset: Literal["smoke", "small"], *, epochs: int) -> TrainConfig:
    own = recipe(arch).scaled(epochs=epochs, batch_size=64)
    return TrainConfig(
        preset=preset,
        epochs=epochs,
        data=DataConfig(dataset=dataset, batch_size=own.batch_size),
        training=own.training,
    )


#: By the value of --preset.
PRESETS = {"paper": paper, "smoke": smoke, "small": small}
HANDMADE_PRESETS = {"paper": handmade_paper, "smoke": handmade_smoke}
#: These take the name of the network first: each has its own protocol.
LIBRARY_PRESETS = {"paper": library_paper, "smoke": library_smoke, "small": library_small}


def presets_for(arch: str) -> Mapping[str, Callable[[str], TrainConfig]]:
    """The presets of an architecture: each kind of network has its own published protocol."""
    if is_library(arch):
        return {name: partial(preset, arch) for name, preset in LIBRARY_PRESETS.items()}
    return HANDMADE_PRESETS if handmade.is_handmade(arch) else PRESETS
