"""Algorithms as networks, measured: `python -m nas.theory simulate --quick`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from genotypes.config import AtLeast, AtMost, Config, Count
from nas import cli
from nas.screen import table
from nas.theory import equivalence, rates, simulation
from nas.theory.activations import ACTIVATIONS
from nas.theory.rates import RatesConfig
from nas.theory.simulation import SimulationConfig


@dataclass(frozen=True, kw_only=True)
class Simulate(SimulationConfig):
    """Regression of random pairs by every network and depth (Table 2)."""

    def run(self) -> dict[str, Any]:
        """Runs the experiment, prints its table and returns its figures."""
        result = simulation.simulate(self)
        print(table(simulation.rows(result)))
        return {"out": self.out, "baselines": result["baselines"], "rows": result["rows"]}


@dataclass(frozen=True, kw_only=True)
class Rates(RatesConfig):
    """Iterations of the algorithms against the condition number of a quadratic."""

    def run(self) -> dict[str, Any]:
        """Measures, prints the table and returns its figures."""
        result = rates.measure(self)
        print(table(rates.rows(result)))
        return result


@dataclass(frozen=True, kw_only=True)
class Check(Config):
    """Compare each network with its algorithm, layer by layer, for a random weight matrix."""

    size: Annotated[Count, AtMost(1000)] = 8
    """Width of the layers."""
    depth: Annotated[Count, AtMost(1000)] = 10
    """Number of layers."""
    seed: Annotated[int, AtLeast(0), AtMost(2**32)] = 0
    """Seed of the weight matrix."""

    def run(self) -> dict[str, Any]:
        """Compares, prints the table and returns the differences and the largest of them."""
        weight = equivalence.random_weight(self.size, self.seed)
        errors = {a.name: equivalence.errors(weight, a, depth=self.depth) for a in ACTIVATIONS.values()}
        lines = [
            {"activation": name, **{network: f"{error:.1e}" for network, error in row.items()}}
            for name, row in errors.items()
        ]
        print(table(lines))
        return {"largest_error": max(max(row.values()) for row in errors.values()), "errors": errors}


def command(argv: list[str]) -> dict[str, Any]:
    """Parses and runs one of the subcommands."""
    return cli.parse(Simulate | Rates | Check, argv, description=__doc__ or "").run()


def main() -> None:
    """The console command `optinas-theory`."""
    cli.run(command)


if __name__ == "__main__":
    main()
