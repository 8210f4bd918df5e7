"""How the cost of a search step grows: `python -m benchmarks.scaling`.

Starting from a base, varies channels, cells, nodes, batch or image size, one at a time. For ours and for the plain
engine (reference/bilevel.py), it measures the time of a search step (weights and architecture, first order), and the
kernels, bytes moved and peak memory of one pass with the gradient of the weights. Prints a table; --out also writes it
as JSON, which `docs/draw_figures.py` draws.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import search_step
from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.counting import measure_pass
from benchmarks.timing import spread, time_rounds, write_result
from genotypes.config import Count
from nas.engine.device import Precision, resolve_device
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """The base, and the values of each size; the defaults are small enough for a CPU."""

    space: str = "darts"
    """Search space."""
    base_channels: Count = 8
    """Channels of the first cells while something else varies."""
    base_layers: Count = 4
    """Cells while something else varies."""
    base_nodes: Count = 4
    """Intermediate nodes of a cell while something else varies."""
    base_batch_size: Count = 16
    """Images per batch while something else varies."""
    base_image_size: Count = 16
    """Side of the images in pixels while something else varies."""
    channels: tuple[Count, ...] = (4, 8, 16, 32)
    """Channels of the first cells."""
    layers: tuple[Count, ...] = (2, 4, 8, 16)
    """Cells."""
    nodes: tuple[Count, ...] = (2, 3, 4, 6)
    """Intermediate nodes of a cell."""
    batch_size: tuple[Count, ...] = (4, 8, 16, 32)
    """Images per batch."""
    image_size: tuple[Count, ...] = (8, 16, 24, 32)
    """Side of the images in pixels."""
    rounds: Count = 3
    """Timed rounds of each point."""
    precision: Precision = "fp32"
    """Forward passes in fp32 or bf16."""


ENGINES: tuple[search_step.Engine, ...] = ("ours", "plain")

#: By the field of `search_step.Config` that varies: the fields of its base and of its values, and its name in words.
VARIED = {
    "init_channels": ("base_channels", "channels", "channels"),
    "layers": ("base_layers", "layers", "cells"),
    "nodes": ("base_nodes", "nodes", "nodes of a cell"),
    "batch_size": ("base_batch_size", "batch_size", "batch"),
    "image_size": ("base_image_size", "image_size", "image side"),
}


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    device = resolve_device(config.device)
    torch.manual_seed(0)
    measured: dict[search_step.Config, dict[str, dict[str, float]]] = {}
    rows: list[dict[str, Any]] = []
    for name, value, point in points(config):
        if point not in measured:  # every series contains the base
            measured[point] = _measure(point, device)
        _, _, words = VARIED[name]
        rows += [
            {"varied": words, "value": value, "engine": engine, **figures}
            for engine, figures in measured[point].items()
        ]
    print(table(rows))
    write_result(config.out, config, device, rows)


def points(config: Config) -> list[tuple[str, int, search_step.Config]]:
    """The field that varies, its value, and the search step to measure."""
    given = asdict(config)
    base = {name: given[of_base] for name, (of_base, _, _) in VARIED.items()}
    common = {name: given[name] for name in ("space", "rounds", "device", "precision")}
    return [
        (name, value, search_step.Config(**common, **(base | {name: value})))
        for name, (_, values, _) in VARIED.items()
        for value in given[values]
    ]


def _measure(point: search_step.Config, device: torch.device) -> dict[str, dict[str, float]]:
    """By engine, milliseconds of a search step, and kernels, bytes and memory of a pass."""
    steps = search_step.first_order_steps(point, device, ENGINES)
    seconds = search_step.with_sums(time_rounds(steps, point.rounds, device))
    return {
        engine: {
            **spread(seconds[search_step.COMBINED, engine]),
            **measure_pass(search_step.one_pass(point, device, search_step.SUPERNETS[engine]), device).described(),
        }
        for engine in ENGINES
    }


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
