"""Times the strongest genotype within limits: `python -m benchmarks.derivation`.

Cases are random: mixing weights, and latencies of 0.3 to 12 ms that have nothing to do with parameters. Parameters and
multiply-adds are those of the CIFAR-10 form. Each limit lies on the way from the least to the most that a genotype can
have: 20, 30 or 40 % of it from the least, or 2 %, where each limit can be kept, but hardly latency with another one.
Prints a row for each space and set of limits; --out also writes them as JSON.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch

import spaces
from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import timed, write_result
from genotypes.config import AtLeast
from nas.latency import processor, using_threads
from nas.networks.cells import NetworkConfig
from nas.networks.edge_costs import EdgeCosts, edge_costs
from nas.screen import table
from spaces import KINDS, Mixing, SearchSpace, SpaceConfig
from spaces.derivation import best_within
from spaces.limits import Limit, extreme, nodes_of

_SPACES = ("hb", "darts", "agd")
#: Which of parameters, multiply-adds and latency are limited.
_LIMITED = ((0,), (0, 1), (0, 2), (0, 1, 2))
#: How much of the way the limits are from the least.
_WAYS = ((0.2, 0.3, 0.4), (0.02,))


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """How many cases."""

    cases: Annotated[int, AtLeast(2)] = 30
    """Random cases of each row."""


def main(config: Config) -> None:
    """Prints and writes the rows."""
    device, rows = torch.device("cpu"), []
    with using_threads(1):
        for name in _SPACES:
            space = spaces.build(SpaceConfig(space=name, init="zero"))
            costs = edge_costs(space, NetworkConfig(), in_channels=3, image_size=(32, 32), num_classes=10)
            for limited in _LIMITED:
                for ways in _WAYS:
                    cases = [
                        case(space, costs, limited, ways[seed % len(ways)], seed) for seed in range(config.cases + 1)
                    ]
                    # The first imports what all need.
                    found = [within_limits(space, *one) for one in cases][1:]
                    seconds = [timed(partial(within_limits, space, *one), device) for one in cases[1:]]
                    rows.append(
                        {
                            "space": name,
                            "limits": ", ".join(limit.name for limit in cases[0][1]),
                            "from the least": ", ".join(f"{way:.0%}" for way in ways),
                            "possible": f"{sum(found)} of {len(found)}",
                            "ms, mean": 1e3 * statistics.mean(seconds),
                            "std": 1e3 * statistics.stdev(seconds),
                            "most": 1e3 * max(seconds),
                        }
                    )
        print(table(rows))
        write_result(config.out, config, device, rows, processor=processor())


def case(
    space: SearchSpace, costs: EdgeCosts, limited: Sequence[int], way: float, seed: int
) -> tuple[Mixing, list[Limit]]:
    """Random mixing weights, and the limits."""
    generator, latencies = torch.Generator().manual_seed(seed), random.Random(seed)
    shape = edges, operations = len(space.topology.edges), len(space.operations)
    mixing = {kind: torch.randn(shape, generator=generator).softmax(1) for kind in KINDS}
    microseconds = {
        kind: [[latencies.randint(300, 12_000) for _ in range(operations)] for _ in range(edges)] for kind in KINDS
    }
    every = [*costs.limits(0, 0), Limit(name="microseconds of latency", most=0, costs=microseconds)]
    return mixing, [_limit(space, every[i], way) for i in limited]


def _limit(space: SearchSpace, limit: Limit, way: float) -> Limit:
    nodes = nodes_of(space)
    least, most = (sum(extreme(node, limit.costs, largest=largest) for node in nodes) for largest in (False, True))
    return replace(limit, most=limit.rest + round(least + way * (most - least)))


def within_limits(space: SearchSpace, mixing: Mixing, limits: Sequence[Limit]) -> bool:
    """Whether there is a genotype."""
    try:
        best_within(space, mixing, limits)
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
