"""Times the steps of the search: `python -m benchmarks.search_step --space hb --batch-size 16`.

Each round times every step once, in turn, so that a drift of the machine's speed falls on all alike; medians
over the rounds are printed, and written as JSON with --out.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import nn

import spaces
from nas.bilevel import Bilevel, BilevelConfig
from nas.device import Precision, resolve_device
from nas.environment import describe
from nas.report import table
from nas.supernet import Supernet
from spaces import SpaceConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed; the default is DARTS's supernet at a batch that a CPU can bear."""

    space: str = "darts"
    """Search space."""
    layers: int = 8
    """Number of cells."""
    init_channels: int = 16
    """Channels of the first cells."""
    batch_size: int = 16
    """Images a batch."""
    image_size: int = 32
    """Side of the images in pixels."""
    rounds: int = 5
    """Timed rounds, after one that is not counted."""
    device: str = "auto"
    """Where to compute."""
    precision: Precision = "fp32"
    """Forward passes in fp32 or bf16 (which leaves the finite-difference step out)."""
    out: str | None = None
    """Also write the figures as JSON to this file."""


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    device = resolve_device(config.device)
    batch = (
        torch.randn(config.batch_size, 3, config.image_size, config.image_size, device=device),
        torch.randint(10, (config.batch_size,), device=device),
    )
    steps = _steps(config, device, batch)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(config.rounds + 1):
        for name, step in steps.items():
            seconds[name].append(_timed(step, device))
    rows = [
        {
            "step": name,
            "median ms": 1e3 * statistics.median(times[1:]),
            "min ms": 1e3 * min(times[1:]),
            "max ms": 1e3 * max(times[1:]),
        }
        for name, times in seconds.items()
    ]
    print(table(rows))
    if config.out:
        result = {"config": asdict(config), "environment": describe(device), "rows": rows}
        Path(config.out).write_text(json.dumps(result, indent=2) + "\n")


def _steps(
    config: Config, device: torch.device, batch: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Callable[[], object]]:
    first = _bilevel(config, device)
    steps: dict[str, Callable[[], object]] = {
        "weights": lambda: first.weight_step(batch),
        "architecture, first order": lambda: first.architecture_step(batch, batch),
    }
    products: tuple[Literal["finite-difference", "exact"], ...] = ("finite-difference", "exact")
    for product in products:
        if product == "finite-difference" and config.precision != "fp32":
            continue
        second = _bilevel(config, device, BilevelConfig(unrolled=True, hessian_product=product))
        steps[f"architecture, second order, {product}"] = lambda b=second: b.architecture_step(batch, batch)  # type: ignore[misc]
    return steps


def _bilevel(config: Config, device: torch.device, bilevel: BilevelConfig | None = None) -> Bilevel:
    space = spaces.build(SpaceConfig(space=config.space)).to(device)
    supernet = Supernet(
        space.topology,
        space.operations,
        in_channels=3,
        image_size=(config.image_size, config.image_size),
        num_classes=10,
        channels=config.init_channels,
        layers=config.layers,
    ).to(device)
    return Bilevel(supernet, space, bilevel or BilevelConfig(), nn.CrossEntropyLoss(), config.precision)


def _timed(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
