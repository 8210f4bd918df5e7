"""Times a training step of an evaluation network against its plain form: `python -m benchmarks.evaluation_step`.

The step is that of `Training`: drop path, auxiliary loss, clipped SGD. *Plain* is the network as in the literature: in
NCHW, edge by edge and operator by operator (reference/network.py). On a GPU, ours is a CUDA graph, as in the training.
Prints a table; --out also writes it as JSON.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genotypes
from benchmarks.command import StepConfig, run_benchmark
from benchmarks.counting import measure_pass
from benchmarks.roofline import WEIGHT_PASS, Work, least_work, measure_machine
from benchmarks.timing import Step, spread, time_rounds, write_result
from genotypes.config import AtLeast, Count, LessThan
from nas.data import Batch
from nas.engine.device import algorithms, autocast, resolve_device
from nas.engine.graphs import captured
from nas.engine.training import Training, TrainingConfig
from nas.networks.cells import Network, NetworkConfig
from nas.screen import table
from reference.network import PlainNetwork


@dataclass(frozen=True, kw_only=True)
class Config(StepConfig):
    """The network to time; the default is that of DARTS's protocol for CIFAR-10."""

    arch: str = "DARTS_V2"
    """Published genotype by name."""
    layers: Count = 20
    """Number of cells."""
    init_channels: Count = 36
    """Channels of the first cells."""
    drop_path_prob: Annotated[float, AtLeast(0), LessThan(1)] = 0.2
    """Drop path probability."""
    batch_size: Count = 96


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    device = resolve_device(config.device)
    torch.manual_seed(0)
    builders: dict[str, Callable[[], nn.Module]] = {
        "plain": lambda: PlainNetwork(build(config)).to(device),
        "ours": lambda: build(config).to(device),
    }
    machine = measure_machine(device, config.precision)
    with algorithms(device, deterministic=False):
        rows = _rows(config, device, builders, _work(config).limit(machine, WEIGHT_PASS))
    print(table(rows))
    write_result(config.out, config, device, rows, machine=machine.described())


def _rows(
    config: Config, device: torch.device, builders: Mapping[str, Callable[[], nn.Module]], limit: float
) -> list[dict[str, Any]]:
    """A row for each engine, with its ratios to the first."""
    batch = (
        torch.randn(config.batch_size, 3, config.image_size, config.image_size, device=device),
        torch.randint(10, (config.batch_size,), device=device),
    )
    steps = {}
    for engine, network in builders.items():
        training = Training(TrainingConfig(), network(), config.precision)
        (step,) = captured(training.training_step, device=device, enabled=engine == "ours")
        steps[engine] = partial(step, batch)
    seconds = time_rounds(steps, config.rounds, device)
    plain: dict[str, Any] = {}
    rows = []
    for engine, network in builders.items():
        run = forward_and_backward(network(), config, batch)
        row: dict[str, Any] = {
            "engine": engine,
            **spread(seconds[engine]),
            "limit ms": 1e3 * limit,
            "fraction of limit": limit / statistics.median(seconds[engine]),
            **measure_pass(run, device).described(),
        }
        plain = plain or row
        row["plain / this"] = plain["median ms"] / row["median ms"]
        row["peak MiB / plain"] = row["peak MiB"] / plain["peak MiB"]
        rows.append(row)
    return rows


def build(config: Config) -> Network:
    """The network, at its final drop path probability and with an auxiliary head."""
    network = Network(
        genotypes.resolve(config.arch),
        NetworkConfig(
            layers=config.layers,
            init_channels=config.init_channels,
            stem="cifar",
            auxiliary=True,
            drop_path_prob=config.drop_path_prob,
        ),
        in_channels=3,
        image_size=(config.image_size, config.image_size),
        num_classes=10,
    )
    network.schedule_drop_path(1.0)
    return network


def forward_and_backward(network: nn.Module, config: Config, batch: Batch) -> Step:
    """A forward and backward pass, without the optimizer."""
    weights = list(network.parameters())
    return lambda: torch.autograd.grad(_loss(network, config, batch), weights)


def _loss(network: nn.Module, config: Config, batch: Batch) -> Tensor:
    images, labels = batch
    with autocast(images.device, config.precision):
        logits, auxiliary = network(images)
        return F.cross_entropy(logits, labels) + TrainingConfig().auxiliary_weight * F.cross_entropy(auxiliary, labels)


def _work(config: Config) -> Work:
    with torch.device("meta"):
        network = build(config)
        images = torch.empty(config.batch_size, 3, config.image_size, config.image_size)
        return least_work(network, lambda: network(images), 2 if config.precision == "bf16" else 4)


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
