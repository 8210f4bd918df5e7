"""What is computed for a folder of images: decided by the folder and the flags, before anything is."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro

import nas.recipes
import nas.training_recipes
import spaces
from genotypes.config import (
    AtLeast,
    AtMost,
    Common,
    Config,
    Count,
    Epochs,
    IsPath,
    MayDiffer,
    MoreThan,
    NoneMeans,
    Seed,
)
from nas import data
from nas.data import ImageData
from nas.data.folder import Folder, read_folder
from nas.data.pixels import survey
from nas.engine.training import TrainingConfig
from nas.methods.config import SearchConfig
from nas.networks.edge_costs import costs_in
from nas.networks.forms import Form
from nas.options import configured
from nas.train import TrainConfig
from spaces.sampling import Sampler

#: Larger images are resized to this side unless --image-size says otherwise: the time of a step grows with its square.
LARGEST_SIDE = 48
#: Images that a training or a search learns from, each as often as it comes: what decides the time (LOG.md).
TRAIN_VIEWS, SEARCH_VIEWS = 96_000, 7_200
#: Fewest and most epochs of a training and of a search, for many and for few images.
TRAIN_EPOCHS, SEARCH_EPOCHS = (20, 300), (6, 50)
#: Share of the training images that calibrates the probabilities, where each class has so many that it can spare them.
HELD_OUT, ENOUGH = 0.1, 20
#: Random genotypes that say how large a network of some width usually is.
_TYPICAL = 25


@dataclass(frozen=True, kw_only=True)
class AutoConfig(Config):
    """Search, train and test a small network for the images in a folder; the same command resumes what was stopped."""

    folder: Annotated[str, IsPath, Common, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder of images: one folder a class, or train/ and test/ with class folders in each (docs/DATA.md)."""
    out: Annotated[str | None, IsPath, Common, MayDiffer, NoneMeans("runs/auto- and the folder's name")] = None
    """Directory for the runs, the network and the report."""
    max_params: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most parameters of the network."""
    max_macs: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most multiply-adds of the network for one image."""
    max_latency: Annotated[float | None, MoreThan(0), AtMost(10**9), Common, NoneMeans("any time")] = None
    """Most milliseconds of the network for one image on this machine, as a table predicts them, which is measured first
    unless --latency-table names one."""
    latency_table: Annotated[str | None, IsPath, MayDiffer, NoneMeans("one is measured for --max-latency")] = None
    """File of optinas-latency-table, or the latency.json of another run, for networks like these; the network gets its
    number of channels."""
    image_size: Annotated[
        int | None, AtLeast(8), AtMost(8192), Common, NoneMeans("the images' own, but at most 48, which suits a CPU")
    ] = None
    """Resize images to this side, in pixels. Finer details need more; the time grows with its square."""
    flip: Annotated[bool, Common] = True
    """Mirror half of the training images; --no-flip is for letters, digits and whatever has a left and a right."""
    epochs: Annotated[Epochs | None, Common, NoneMeans("the fewer images, the more: 20 to 300")] = None
    """Passes of the training over its images."""
    search_epochs: Annotated[Epochs | None, Common, NoneMeans("the fewer images, the more: 6 to 50")] = None
    """Passes of the search over half of the training images."""
    seed: Annotated[Seed, Common] = 0
    """Seed of the search and of the training."""
    device: Annotated[str, Common, MayDiffer] = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latency_table is not None and self.max_latency is None:
            raise ValueError(f"--latency-table {self.latency_table} is for --max-latency; set a limit, or leave it out")


class Plan(NamedTuple):
    """What will be computed, decided by the folder and the flags alone."""

    images: ImageData
    """Those of the training; a search augments them otherwise, and loads them anew."""
    search: SearchConfig
    train: TrainConfig


def planned(config: AutoConfig) -> Plan:
    """The images, and the configurations of the search and the training.

    Raises ValueError for a folder that cannot be learnt from, and limits that no network is within.
    """
    found = read_folder(Path(config.folder), split_seed=0, skip_unreadable=True)
    fewest = _fewest(found, config.folder)
    number = len(found.train.paths)
    base, trained = nas.recipes.PRESETS["small"]("folder"), nas.training_recipes.PRESETS["small"]("folder")
    served = {
        "data": config.folder,
        "skip_unreadable": True,
        "image_size": config.image_size or _side(found),
        "flip": config.flip,
        # A search needs a batch of each half of the images.
        "batch_size": max(2, min(trained.data.batch_size, number // 2)),
    }
    hold_out = HELD_OUT if fewest >= ENOUGH else 0.0
    trained = replace(trained, hold_out=hold_out, data=configured(trained.data, served))
    images = data.load(trained.data)
    searched = replace(
        base,
        seed=config.seed,
        data=configured(base.data, served),
        epochs=config.search_epochs or _epochs(SEARCH_VIEWS, math.ceil(number / 2), SEARCH_EPOCHS),
    )
    searched, network = _within_limits(config, searched, trained, images)
    epochs = config.epochs or _epochs(TRAIN_VIEWS, number, TRAIN_EPOCHS)
    training = _averaged(network.training, epochs * max(1, number // trained.data.batch_size))
    return Plan(images, searched, replace(network, seed=config.seed, epochs=epochs, training=training))


def _averaged(training: TrainingConfig, steps: int) -> TrainingConfig:
    """With an average of the weights that forgets the first of them, which keep exp(-5) of it, in however few steps."""
    if training.ema_decay is None:
        return training
    return replace(training, ema_decay=min(training.ema_decay, max(0.5, 1 - 5 / steps)))


def _fewest(found: Folder, folder: str) -> int:
    """Training images of the smallest class. Raises ValueError where these are too few for a search."""
    counts = torch.bincount(found.train.labels, minlength=len(found.classes))
    if (fewest := int(counts.min())) < 2:
        raise ValueError(
            f"class '{found.classes[int(counts.argmin())]}' of {folder} has {fewest} image to train on, but each class "
            "needs two or more, one to train the weights and one to choose the architecture; add some, or remove the "
            "class"
        )
    return fewest


def _side(found: Folder) -> int | None:
    """The side to resize images to; None where all have the same small size."""
    size = survey(found.train.paths + found.test.paths).image_size
    return None if max(size) <= LARGEST_SIDE else min(*size, LARGEST_SIDE)


def _epochs(views: int, images: int, bounds: tuple[int, int]) -> int:
    fewest, most = bounds
    return min(most, max(fewest, round(views / images)))


def _within_limits(
    config: AutoConfig, searched: SearchConfig, trained: TrainConfig, images: ImageData
) -> tuple[SearchConfig, TrainConfig]:
    """Both with the network that the limits allow, and the search with the limits."""
    if config.max_params is None and config.max_macs is None:
        return searched, trained
    space = spaces.build(searched.space)
    sampler = Sampler(space)
    typical = [sampler.draw(random.Random(number)) for number in range(_TYPICAL)]
    for width in range(trained.network.init_channels, 1, -2):
        network = replace(trained.network, init_channels=width)
        costs = costs_in(space, Form(network, images.image_size, images.num_classes, images.channels))
        sizes = [costs.total(space, genotype) for genotype in typical]
        params, macs = (sorted(size)[_TYPICAL // 2] for size in zip(*sizes, strict=True))
        if params <= (config.max_params or math.inf) and macs <= (config.max_macs or math.inf):
            break
    Sampler(space, costs.limits(config.max_params, config.max_macs))  # for what it refuses
    derivation = replace(
        searched.derivation,
        max_params=config.max_params,
        max_macs=config.max_macs,
        eval_layers=network.layers,
        eval_channels=network.init_channels,
    )
    return replace(searched, derivation=derivation), replace(trained, network=network)
