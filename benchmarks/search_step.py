"""Times the steps of the search against the plain engine: `python -m benchmarks.search_step --space hb`.

Three engines take the same steps in turn: ours, on a GPU as CUDA graphs, as in the search; *plain*, the literature's
(reference/bilevel.py); and *lean*, the plain supernet without the gradients that nobody uses. Then it counts kernels,
bytes and memory of one forward and backward pass, for ours with and without checkpointed cells and for the plain
supernet. docs/PERFORMANCE.md has the definitions. Prints tables; --out also writes them as JSON.

With --operations-left, ours is compared with itself before any operation is dropped, *whole*, and with nothing else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

import spaces
from benchmarks.command import StepConfig, run_benchmark
from benchmarks.counting import measure_pass
from benchmarks.roofline import ARCHITECTURE_PASS, WEIGHT_PASS, Machine, least_work, measure_machine
from benchmarks.timing import Step, spread, time_rounds, write_result
from genotypes.config import Count, NoneMeans
from nas.data import Batch
from nas.engine.device import Precision, algorithms, autocast, resolve_device
from nas.engine.graphs import captured
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.methods.relaxation import Relaxation
from nas.methods.stages import without_weakest
from nas.screen import table
from nas.supernet import Supernet, SupernetConfig
from reference.bilevel import PlainBilevel
from reference.supernet import PlainSupernet
from spaces import SearchSpace, SpaceConfig

Engine = Literal["ours", "plain", "lean", "whole"]
Steps = dict[tuple[str, Engine], Step]
Seconds = dict[tuple[str, Engine], list[float]]

ENGINES: tuple[Engine, ...] = ("ours", "plain", "lean")
STAGE: tuple[Engine, ...] = ("ours", "whole")
OTHERS: tuple[Engine, ...] = ("plain", "lean")
SUPERNETS: dict[Engine, Callable[..., nn.Module]] = {
    "ours": Supernet,
    "plain": PlainSupernet,
    "lean": PlainSupernet,
    "whole": Supernet,
}

WEIGHTS = "weights"
FIRST = "architecture, first order"
COMBINED = "weights + architecture, first order"
FINITE = "architecture, second order, finite-difference"
EXACT = "architecture, second order, exact"
STEPS = (WEIGHTS, FIRST, COMBINED, FINITE, EXACT)


@dataclass(frozen=True, kw_only=True)
class Config(StepConfig):
    """What to time; the default is DARTS's supernet with a batch that a CPU can handle."""

    space: str = "darts"
    """Search space."""
    operations: tuple[str, ...] = ()
    """Candidate operations by name, or "all" (default: the space's own)."""
    nodes: Count = 4
    """Intermediate nodes of a cell."""
    layers: Count = 8
    """Number of cells."""
    init_channels: Count = 16
    """Channels of the first cells."""
    partial_channels: Count = 1
    """Show the operations one in this many channels."""
    operations_left: Annotated[Count | None, NoneMeans("all of them")] = None
    """Leave each edge this many operations, as a later stage of a search does; which, is drawn."""
    second_order: bool = False
    """Also time the second-order architecture steps."""
    precision: Precision = "fp32"
    """Forward passes in fp32 or bf16 (without the finite-difference step)."""


def main(config: Config) -> None:
    """Prints the tables of one configuration."""
    device = resolve_device(config.device)
    torch.manual_seed(0)
    machine = measure_machine(device, config.precision)
    with algorithms(device, deterministic=False):
        steps = first_order_steps(config, device, ENGINES if config.operations_left is None else STAGE)
        if config.second_order:
            steps |= _second_order_steps(config, device)
        seconds = with_sums(time_rounds(steps, config.rounds, device))
        del steps  # and with them the memory of what was captured
        passes = measure_passes(config, device) if config.operations_left is None else []
    rows = rows_of(seconds, _limits(config, machine) if config.operations_left is None else {})
    print(table(rows))
    if passes:
        print(f"\n{table(passes)}")
    write_result(config.out, config, device, rows, machine=machine.described(), passes=passes)


# ---- time -----------------------------------------------------------------------------------------------------------


def first_order_steps(config: Config, device: torch.device, engines: Sequence[Engine]) -> Steps:
    """The step of the weights and the first-order step of the architecture, for each engine."""
    train, valid = random_batch(config, device), random_batch(config, device)
    steps: Steps = {}
    for engine in engines:
        bilevel = _bilevel(engine, BilevelConfig(), config, device)
        weights, architecture = captured(
            bilevel.weight_step, bilevel.architecture_step, device=device, enabled=engine == "ours"
        )
        steps[WEIGHTS, engine] = partial(weights, train)
        steps[FIRST, engine] = partial(architecture, train, valid)
    return steps


def _second_order_steps(config: Config, device: torch.device) -> Steps:
    """Second-order steps of the architecture; DARTS's code has no exact product."""
    train, valid = random_batch(config, device), random_batch(config, device)
    finite, exact = BilevelConfig(unrolled=True), BilevelConfig(unrolled=True, hessian_product="exact")
    wanted: list[tuple[str, Engine, BilevelConfig]] = [(EXACT, "ours", exact), (EXACT, "lean", exact)]
    if config.precision == "fp32":
        wanted += [(FINITE, engine, finite) for engine in ENGINES]
    steps: Steps = {}
    for step, engine, order in wanted:
        bilevel = _bilevel(engine, order, config, device)
        (architecture,) = captured(bilevel.architecture_step, device=device, enabled=engine == "ours")
        steps[step, engine] = partial(architecture, train, valid)
    return steps


def _bilevel(engine: Engine, bilevel: BilevelConfig, config: Config, device: torch.device) -> Bilevel | PlainBilevel:
    space = build_space(replace(config, operations_left=None) if engine == "whole" else config).to(device)
    supernet: Any = build_supernet(SUPERNETS[engine], space, config).to(device)
    stepper = PlainBilevel if engine == "plain" else Bilevel
    return stepper(supernet, space, bilevel, nn.CrossEntropyLoss(), config.precision)


def with_sums(seconds: Seconds) -> Seconds:
    """The seconds, with the sum of both first-order steps in each round added."""
    sums = {
        (COMBINED, engine): [sum(pair) for pair in zip(seconds[WEIGHTS, engine], seconds[FIRST, engine], strict=True)]
        for engine in SUPERNETS
        if (WEIGHTS, engine) in seconds
    }
    return {**seconds, **sums}


def rows_of(seconds: Seconds, limits: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each step: our milliseconds, the speedup over each other engine, and the limit."""
    rows = []
    for step in (name for name in STEPS if (name, "ours") in seconds):
        ours = statistics.median(seconds[step, "ours"])
        row: dict[str, Any] = {"step": step, **spread(seconds[step, "ours"])}
        for engine in OTHERS:
            theirs = statistics.median(seconds[step, engine]) if (step, engine) in seconds else None
            row[f"{engine} ms"] = None if theirs is None else 1e3 * theirs
            row[f"{engine} / ours"] = None if theirs is None else theirs / ours
        if (step, "whole") in seconds:
            row["whole ms"] = 1e3 * statistics.median(seconds[step, "whole"])
            row["whole / ours"] = row["whole ms"] / row["median ms"]
        limit = limits.get(step)
        row["limit ms"] = None if limit is None else 1e3 * limit
        row["fraction of limit"] = None if limit is None else limit / ours
        rows.append(row)
    return rows


def _limits(config: Config, machine: Machine) -> dict[str, float]:
    """The least time of each step in seconds. The exact product is left out: its passes are not as simple to count."""
    space = build_space(config).to("meta")  # built elsewhere, because it reads its own mask
    with torch.device("meta"):
        supernet = build_supernet(PlainSupernet, space, config)
        images = torch.empty(config.batch_size, 3, config.image_size, config.image_size)
        relaxed = Relaxation()  # called within the pass, which is counted without gradients
        work = least_work(
            supernet, lambda: supernet(images, relaxed.expected(space)), 2 if config.precision == "bf16" else 4
        )
    weights, architecture = work.limit(machine, WEIGHT_PASS), work.limit(machine, ARCHITECTURE_PASS)
    return {
        WEIGHTS: weights,
        FIRST: architecture,
        COMBINED: weights + architecture,
        # Two passes compute gradients of weights, and two, one for each side of the quotient, that of the architecture.
        FINITE: 2 * weights + 2 * architecture,
    }


# ---- kernels, bytes, memory -----------------------------------------------------------------------------------------


def measure_passes(config: Config, device: torch.device) -> list[dict[str, Any]]:
    """A row for each engine and gradient: kernels, operators, bytes moved, peak memory, and their ratios to plain."""
    builders: dict[str, Callable[..., nn.Module]] = {
        "plain": PlainSupernet,
        "ours": Supernet,
        "ours, checkpointed cells": _checkpointed,
    }
    rows = []
    for gradients in ("weights", "weights and architecture"):
        plain: dict[str, float] = {}
        for engine, build in builders.items():
            run = one_pass(config, device, build, architecture=gradients != "weights")
            figures = measure_pass(run, device).described()
            plain = plain or figures
            ratios = {f"{name} / plain": figures[name] / plain[name] for name in ("kernels", "moved GB", "peak MiB")}
            rows.append({"gradients of": gradients, "engine": engine, **figures, **ratios})
    return rows


def one_pass(
    config: Config, device: torch.device, build: Callable[..., nn.Module], *, architecture: bool = False
) -> Step:
    """A forward and backward pass, with the gradient of the weights and, if `architecture`, of the architecture too."""
    space = build_space(config).to(device)
    supernet = build_supernet(build, space, config).to(device)
    images, labels = random_batch(config, device)
    sources = [*supernet.parameters(), *(space.parameters() if architecture else ())]

    def run() -> None:
        with torch.set_grad_enabled(architecture):
            mixing = Relaxation().expected(space)
        with autocast(device, config.precision):
            loss = nn.functional.cross_entropy(supernet(images, mixing), labels)
        torch.autograd.grad(loss, sources, allow_unused=True)

    return run


# ---- what is measured -----------------------------------------------------------------------------------------------


def random_batch(config: Config, device: torch.device) -> Batch:
    """Images (N, 3, H, W) of noise, and labels (N,) of ten classes."""
    side = config.image_size
    images: Tensor = torch.randn(config.batch_size, 3, side, side, device=device)
    return images, torch.randint(10, (config.batch_size,), device=device)


def build_space(config: Config) -> SearchSpace:
    """The search space, with equal weights for all operations that are left.

    Raises ValueError for more operations left than there are.
    """
    space = spaces.build(SpaceConfig(space=config.space, operations=config.operations, nodes=config.nodes, init="zero"))
    if config.operations_left is not None:
        dropped = len(space.operations) - config.operations_left
        if dropped < 0:
            raise ValueError(
                f"--operations-left {config.operations_left}: there are {len(space.operations)}; leave fewer"
            )
        generator = torch.Generator().manual_seed(0)
        drawn = {kind: torch.rand(mask.shape, generator=generator) for kind, mask in space.mask.items()}
        space.restrict(without_weakest(space, drawn, dropped))
    return space


def build_supernet(build: Callable[..., nn.Module], space: SearchSpace, config: Config) -> nn.Module:
    """A supernet of either engine."""
    size = SupernetConfig(
        layers=config.layers,
        init_channels=config.init_channels,
        stem="cifar",
        partial_channels=config.partial_channels,
    )
    return build(space, size, in_channels=3, image_size=(config.image_size, config.image_size), num_classes=10)


def _checkpointed(space: SearchSpace, config: SupernetConfig, **shape: Any) -> Supernet:
    return Supernet(space, replace(config, checkpoint_cells=True), **shape)


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
