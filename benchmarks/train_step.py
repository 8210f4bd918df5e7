"""Times a training step of hand-made networks: `python -m benchmarks.train_step --archs densenet40 agdnet40`.

Prints medians over the rounds, also as ratios to the first network, and the peak memory of the tensors; --out also
writes everything as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.command import StepConfig, run_benchmark
from benchmarks.timing import Step, peak_bytes, spread, time_rounds, write_result
from genotypes.config import Count
from nas.engine.device import autocast, resolve_device
from nas.networks import handmade
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class Config(StepConfig):
    """The networks to time."""

    archs: tuple[str, ...] = ("densenet40", "agdnet40")
    """Networks; times and memory are compared with those of the first."""
    classes: Count = 10
    """Number of classes."""
    rounds: Count = 9
    compile: bool = False
    """Compile the networks."""


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    device = resolve_device(config.device)
    torch.manual_seed(0)
    side = config.image_size
    batch = (
        torch.randn(config.batch_size, 3, side, side, device=device),
        torch.randint(config.classes, (config.batch_size,), device=device),
    )
    builders = {arch: partial(_step, config, arch, device, batch) for arch in config.archs}
    steps = {arch: build() for arch, build in builders.items()}
    rows: list[dict[str, Any]] = [
        {"step": arch, **spread(seconds)} for arch, seconds in time_rounds(steps, config.rounds, device).items()
    ]
    for row in rows:
        row["peak MiB"] = peak_bytes(partial(twice, builders[row["step"]]), device) / 2**20
    for row in rows:
        row["time ratio"] = row["median ms"] / rows[0]["median ms"]
        row["memory ratio"] = row["peak MiB"] / rows[0]["peak MiB"]
    print(table(rows))
    write_result(config.out, config, device, rows)


def twice(build: Callable[[], Step]) -> None:
    """Builds a network and trains it for two steps, after which the optimizer has its momentum."""
    step = build()
    step()
    step()


def _step(config: Config, arch: str, device: torch.device, batch: tuple[Tensor, Tensor]) -> Step:
    side = config.image_size
    network: nn.Module = handmade.build(arch, image_size=(side, side), num_classes=config.classes).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    forward = torch.compile(network) if config.compile else network

    def step() -> None:
        optimizer.zero_grad()
        with autocast(device, config.precision):
            loss = F.cross_entropy(forward(batch[0]), batch[1])
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
