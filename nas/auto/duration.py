"""How long a search and a training will take, by a few steps of each."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import torch

import spaces
from genotypes import Genotype
from nas.auto.plan import Plan
from nas.data import ImageData
from nas.engine.device import resolve_precision
from nas.engine.training import Training
from nas.methods.config import SearchConfig
from nas.networks import architecture
from nas.search import Search
from nas.train import TrainConfig
from spaces.sampling import Sampler


def search_seconds(config: SearchConfig, images: ImageData, device: torch.device) -> float:
    """How long a search will take, by a few steps of it."""
    precision = resolve_precision(config.precision, device, exactly=config.bilevel.needs_fp32)
    torch.manual_seed(config.seed)
    running = Search(config, images, device, precision)
    batch, held_out = (next(iter(loader.epoch(0))) for loader in (running.loaders.weights, running.loaders.held_out))
    both = _seconds(
        lambda: running.steps.architecture(batch, held_out)[0].item() + running.steps.weights(batch)[0].item()
    )
    tested = _seconds(lambda: running.steps.evaluation(held_out)[0].item())
    return running.epochs * (len(running.loaders.weights) * both + len(running.loaders.held_out) * tested)


def train_seconds(config: TrainConfig, genotype: Genotype, images: ImageData, device: torch.device) -> float:
    """How long the training of a genotype will take, by a few steps of it."""
    built = architecture.resolve(genotype, config.network, config.handmade).architecture.build(
        in_channels=images.channels, image_size=images.image_size, num_classes=images.num_classes
    )
    training = Training(config.training, built.to(device).train(), resolve_precision(config.precision, device))
    kept, _ = images.hold_out(config.hold_out)
    loader = images.train_loader(seed=config.seed, indices=kept, device=device)
    tests = images.test_loader(device=device)
    batch = next(iter(loader.epoch(0)))
    step = _seconds(lambda: training.training_step(batch)[0].item())
    # Of a step, a third is the forward pass, which is all that a test needs.
    return config.epochs * step * (len(loader) + len(tests) / 3)


def typical_seconds(plan: Plan, device: torch.device) -> float:
    """How long the training of some genotype will take; that of the search is not known yet."""
    genotype = Sampler(spaces.build(plan.search.space)).draw(random.Random(0))
    return train_seconds(plan.train, genotype, plan.images, device)


def _seconds(step: Callable[[], float]) -> float:
    """The mean of two calls, after one that warms up."""
    step()
    started = time.perf_counter()
    step()
    step()
    return (time.perf_counter() - started) / 2


def told(seconds: float) -> str:
    """A time as what it is, a guess."""
    if seconds < 90:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
