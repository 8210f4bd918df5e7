"""Compares predicted with measured latencies of random genotypes: `python -m benchmarks.latency_table`.

For each space and form a table is measured as `optinas-latency-table` does, then the networks of random genotypes that
the table was not fitted to, twice. Prints the errors, relative to the time measured first, of the predictions and of
the second measurements, which are noise; --out also writes them as JSON.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import torch
from torch import nn

import genotypes
import spaces
from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import timed, write_result
from genotypes.config import AtLeast, Count
from nas import latency, latency_table
from nas.latency_table import LatencyTableConfig, Stopwatch, network_ms
from nas.networks.latency_table import LatencyModel
from nas.screen import table
from spaces.sampling import Sampler

#: Space, cells and channels of each table.
_FORMS = (("darts", 5, 16), ("hb", 8, 24), ("agd", 20, 16), ("darts", 20, 36), ("hb", 5, 36), ("agd", 14, 24))
#: Passes before those that count.
_WARM_UP = 3
#: Of the genotypes that are predicted: far from those of the calibration.
_FIRST_SEED = 1000


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """How often is measured what."""

    genotypes: Count = 5
    """Random genotypes of each table."""
    rounds: Annotated[int, AtLeast(2)] = 15
    """Timed passes, of which the median counts."""
    networks: Annotated[int, AtLeast(2)] = 12
    """Random networks that a table is fitted to."""
    forms: Annotated[int, AtLeast(1)] = len(_FORMS)
    """How many of the tables to measure."""
    threads: Count = 1
    """Threads of the CPU."""


def main(config: Config) -> None:
    """Prints a row for each table, and the errors of all genotypes together."""
    device = torch.device("cpu")
    rows, tables = [], []
    with latency.using_threads(config.threads):
        time = _stopwatch(config.rounds, device)
        for space, layers, channels in _FORMS[: config.forms]:
            model = _measured(config, space, layers, channels, time)
            own = list(_predicted(config, model, time))
            name = {"space": space, "cells": layers, "channels": channels}
            tables.append({**name, **msgspec.structs.asdict(model.table.calibration)})
            rows += [{**name, **row} for row in own]
            print(table([{**name, **_distribution([row["error %"] for row in own])}]))
        errors = _distribution([row["error %"] for row in rows])
        noise = _distribution([row["of another measurement %"] for row in rows])
        print(table([{"of": "predictions", **errors}, {"of": "second measurements", **noise}]))
        more = {"errors": errors, "second measurements": noise, "tables": tables, "processor": latency.processor()}
        write_result(config.out, config, device, rows, **more)


def _measured(config: Config, space: str, layers: int, channels: int, time: Stopwatch) -> LatencyModel:
    asked = LatencyTableConfig(
        out="",
        space=space,
        eval_layers=layers,
        eval_channels=channels,
        threads=config.threads,
        rounds=config.rounds,
        networks=config.networks,
        device="cpu",
    )
    return LatencyModel(latency_table.measured(asked, time), space)


def _predicted(config: Config, model: LatencyModel, time: Stopwatch) -> Iterator[dict[str, Any]]:
    """A row for each genotype."""
    sampler = Sampler(spaces.build(spaces.SpaceConfig(space=model.table.space, init="zero")))
    for seed in range(_FIRST_SEED, _FIRST_SEED + config.genotypes):
        genotype = sampler.draw(random.Random(seed))
        with torch.no_grad():
            measured, again = (network_ms(genotype, model.form, model.table.batch, time) for _ in range(2))
        predicted = model.predicted(genotype)
        yield {
            "seed": seed,
            "predicted ms": predicted,
            "measured ms": measured,
            "measured again ms": again,
            "error %": 100 * (predicted / measured - 1),
            "of another measurement %": 100 * (again / measured - 1),
            "genotype": genotypes.to_text(genotype),
        }


def _stopwatch(rounds: int, device: torch.device) -> Stopwatch:
    """As that of the command, but on one thread by CPU time, which other programs on the machine change less."""

    def milliseconds(network: nn.Module, shape: tuple[int, ...]) -> float:
        network = network.eval().to(memory_format=torch.channels_last)
        images = torch.rand(shape)
        times = [timed(lambda: network(images), device) for _ in range(_WARM_UP + rounds)]
        return 1e3 * statistics.median(times[_WARM_UP:])

    return milliseconds


def _distribution(errors: Sequence[float]) -> dict[str, float]:
    """Of relative errors in percent."""
    sizes = [abs(error) for error in errors]
    return {
        "n": len(errors),
        "mean": statistics.mean(errors),
        "std": statistics.stdev(errors) if len(errors) > 1 else 0.0,
        "mean size": statistics.mean(sizes),
        "largest size": max(sizes),
        "within 15 %": 100 * statistics.mean(size <= 15 for size in sizes),
    }


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
