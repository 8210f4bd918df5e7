"""Times the steps of the search: `python -m benchmarks.search_step --space hb --batch-size 16`.

Medians over the rounds are printed, and written as JSON with --out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import nn

import spaces
from benchmarks.timing import time_rounds, write_result
from nas.bilevel import Bilevel, BilevelConfig
from nas.device import Precision, resolve_device
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
    rows = time_rounds(steps, config.rounds, device)
    print(table(rows))
    write_result(config.out, config, device, rows)


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


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
