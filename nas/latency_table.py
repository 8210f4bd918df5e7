"""Measure a table for --max-latency: `optinas-latency-table --space hb --threads 1 --out hb.json`.

Each operation is timed at each place of the evaluation network, then whole networks, to which the sums are fitted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

import spaces
from genotypes import CellGenotype, Edge, Genotype
from genotypes.config import AtLeast, AtMost, Common, Count, IsPath, NoneMeans
from genotypes.genotype import MAX_NODES
from nas import cli
from nas.engine.device import algorithms, resolve_device
from nas.errors import UsageError, users_mistakes
from nas.latency import memory_refused, processor, spread, timed, using_threads
from nas.networks import latency_table
from nas.networks.budget import FormConfig
from nas.networks.cells import Cell, Network
from nas.networks.edge_costs import Place, place_of
from nas.networks.forms import FORMS, Form, chosen
from nas.networks.latency_table import (
    Calibration,
    LatencyModel,
    LatencyTable,
    MeasuredForm,
    OperationLatency,
    cells_with_places,
    edges_kept,
)
from nas.runs.environment import device_name
from nas.screen import say
from spaces import SearchSpace, build_operation
from spaces.sampling import Sampler
from spaces.space import CELL_INPUTS


@dataclass(frozen=True, kw_only=True)
class LatencyTableConfig(FormConfig):
    """The operations and the networks that are timed, and how."""

    out: Annotated[str, IsPath, Common]
    """File to write the table to, for --latency-table."""
    space: Annotated[str, Common] = "darts"
    """Search space: darts, hb, agd, s1 to s4, one of an installed package, or "package.module:Class"."""
    nodes: Annotated[Count, AtMost(MAX_NODES), Common] = 4
    """Intermediate nodes of a cell (DARTS sec. 3.1: 4)."""
    operations: tuple[str, ...] = ()
    """Operations by name, or "all" for the nine of Table 6 (default: the space's own)."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations of the space."""
    batch: Annotated[Count, AtMost(10**6), Common] = 1
    """Images in a batch."""
    rounds: Annotated[int, AtLeast(2), Common] = 30
    """Timed passes, of which the median counts."""
    networks: Annotated[int, AtLeast(2), AtMost(1000)] = 12
    """Random networks that the prediction is fitted to."""
    device: Annotated[str, Common] = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""
    threads: Annotated[Count | None, NoneMeans("as PyTorch decides"), Common] = None
    """Threads of the CPU that compute an operation together."""
    image_size: Annotated[tuple[Annotated[Count, AtMost(8192)], ...], Common] = ()
    """Side of the images in pixels, or height and width (default: those of the form)."""
    channels: Annotated[Count | None, NoneMeans("3"), Common] = None
    """Channels of the images."""
    classes: Annotated[Count | None, NoneMeans("those of the form"), Common] = None
    """Number of classes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.image_size) > 2:
            raise ValueError("--image-size takes the side, or height and width")

    @property
    def form(self) -> Form:
        """The form of the networks."""
        form = chosen(self, FORMS["cifar"])
        return form._replace(
            image_size=(self.image_size[0], self.image_size[-1]) if self.image_size else form.image_size,
            in_channels=self.channels or form.in_channels,
            num_classes=self.classes or form.num_classes,
        )


#: Gives the milliseconds of a pass of a network on a batch of the shape (N, C, H, W).
Stopwatch = Callable[[nn.Module, tuple[int, ...]], float]


def stopwatch(rounds: int, device: torch.device) -> Stopwatch:
    """Times passes in evaluation mode on a device, as `optinas-latency` does: the median of so many."""

    def milliseconds(network: nn.Module, shape: tuple[int, ...]) -> float:
        network = network.eval().to(device).to(memory_format=torch.channels_last)
        images = torch.rand(shape).to(device)
        return spread(timed(lambda: network(images), rounds, device))["median"]

    return milliseconds


def measured(config: LatencyTableConfig, time: Stopwatch | None = None) -> LatencyTable:
    """Measures a table on this machine.

    Args:
        config: of what.
        time: gives the milliseconds of a pass; default: by the clock.

    Raises UsageError for a space, an operation or a device that is not there, and for a batch that does not fit into
    the memory.
    """
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        device = resolve_device(config.device)
        space = spaces.build(
            spaces.SpaceConfig(space=config.space, nodes=config.nodes, operations=config.operations, init="zero")
        )
    with (
        using_threads(config.threads),
        torch.no_grad(),
        algorithms(device, deterministic=False),
        memory_refused(config.batch, device),
    ):
        table = LatencyTable(
            runtime="pytorch",
            space=config.space,
            edges=edges_kept(space),
            form=MeasuredForm.of(config.form),
            batch=config.batch,
            rounds=config.rounds,
            device=device_name(device),
            processor=processor(),
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),
            operations=(),
            # Until it has been fitted: the sum alone.
            calibration=Calibration(networks=1, rest_ms=0, factor=1, mean_error=0, largest_error=0),
        )
        return completed(table, space, time or stopwatch(config.rounds, device), config.networks)


def completed(table: LatencyTable, space: SearchSpace, time: Stopwatch, networks: int) -> LatencyTable:
    """The table with the times of the operations, fitted to so many random networks and to the one without any."""
    form = table.form.as_form()
    bare = BareNetwork(space, form)
    operations = tuple(_operations(space, bare, table.batch, time))
    say(f"{len(operations)} times of operations; now those of {networks} networks")
    table = msgspec.structs.replace(table, operations=operations)
    model = LatencyModel(table, "the table")
    drawn = list(calibration_genotypes(space, networks))
    sums = [0.0, *map(model.predicted, drawn)]
    times = [bare.milliseconds(table.batch, time), *(network_ms(found, form, table.batch, time) for found in drawn)]
    return msgspec.structs.replace(table, calibration=fitted(sums, times))


class BareNetwork:
    """The network of a space whose operations take no time: identities, and a part of the pixels at stride 2.

    What it takes is the rest. With an operation on all edges of a place it takes that operation's time longer, as it is
    in a network: with the caches, the shared ReLUs and the launches of the operations around it. By itself, over and
    over on the same input, an operation would be faster.
    """

    def __init__(self, space: SearchSpace, form: Form) -> None:
        genotype = _identities(space)
        self._network = build_network(genotype, form)
        self._image = (form.in_channels, *form.image_size)
        #: The edges at each place: in which list of modules, and where.
        self._edges: dict[Place, list[tuple[nn.ModuleList, int]]] = {}
        for cell, (plan, size) in zip(self._network.cells, cells_with_places(form, space.topology.nodes), strict=True):
            assert isinstance(cell, Cell)
            nodes = getattr(genotype, plan.kind).nodes
            for i, edge in enumerate(chain.from_iterable(nodes)):
                place = place_of(plan, size, edge.source)
                self._edges.setdefault(place, []).append((cell.edges, i))
                if place.stride == 2:
                    cell.edges[i] = Part()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where its operations stand."""
        return tuple(self._edges)

    def milliseconds(self, batch: int, time: Stopwatch) -> float:
        """Milliseconds of a pass."""
        return time(self._network, (batch, *self._image))

    def operation_ms(self, name: str, place: Place, batch: int, time: Stopwatch) -> float:
        """Milliseconds of an operation on one edge of a place."""
        edges = self._edges[place]
        if isinstance(build_operation(name, place.channels, place.stride), nn.Identity):
            return 0.0  # which is what the others are compared with
        # One right after the other, because the speed of a machine changes.
        without = self.milliseconds(batch, time)
        before = [modules[i] for modules, i in edges]
        for modules, i in edges:
            modules[i] = build_operation(name, place.channels, place.stride)
        within = self.milliseconds(batch, time)
        for (modules, i), module in zip(edges, before, strict=True):
            modules[i] = module
        return max(0.0, within - without) / len(edges)


class Part(nn.Module):
    """Every second pixel in both directions, without copying any."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C, ceil(H / 2), ceil(W / 2))."""
        return x[:, :, ::2, ::2]


def _identities(space: SearchSpace) -> Genotype:
    """A genotype whose edges stand at all places: of each node those from the nodes just before it."""
    nodes = []
    for target, kept in enumerate(edges_kept(space), CELL_INPUTS):
        sources = sorted(space.topology.edges[edge][0] for edge in space.topology.entering(target))
        nodes.append(tuple(Edge("skip_connect", source) for source in sources[-kept:]))
    cell = CellGenotype(tuple(nodes), tuple(range(CELL_INPUTS, CELL_INPUTS + len(nodes))))
    return Genotype(normal=cell, reduce=cell)


def _operations(space: SearchSpace, bare: BareNetwork, batch: int, time: Stopwatch) -> Iterator[OperationLatency]:
    """The time of each operation but zero, which no genotype keeps, at each place of the network."""
    for place, name in product(bare.places, space.operations):
        if name != "none":
            yield OperationLatency(
                operation=name,
                channels=place.channels,
                stride=2 if place.stride == 2 else 1,
                height=place.size[0],
                width=place.size[1],
                ms=bare.operation_ms(name, place, batch, time),
            )


def build_network(genotype: Genotype, form: Form) -> Network:
    """The network of a genotype in a form, without drop path and auxiliary head, which no pass to be timed has."""
    network = replace(form.network, auxiliary=False, drop_path_prob=0.0)
    return Network(
        genotype, network, in_channels=form.in_channels, image_size=form.image_size, num_classes=form.num_classes
    )


def network_ms(genotype: Genotype, form: Form, batch: int, time: Stopwatch) -> float:
    """Milliseconds of a pass of a genotype's network."""
    return time(build_network(genotype, form), (batch, form.in_channels, *form.image_size))


def calibration_genotypes(space: SearchSpace, networks: int) -> Iterator[Genotype]:
    """So many random genotypes of the space, always the same."""
    generator, sampler = random.Random(0), Sampler(space)
    return (sampler.draw(generator) for _ in range(networks))


def fitted(sums: Sequence[float], times: Sequence[float]) -> Calibration:
    """The rest and the factor that fit times = rest + factor * sums best: least squares of the relative errors.

    Neither is negative.
    """
    from scipy.optimize import nnls  # takes long to import

    s, t = np.array(sums), np.array(times)
    (rest, factor), _ = nnls(np.stack([1 / t, s / t], axis=1), np.ones(len(t)))
    errors = 100 * np.abs((rest + factor * s) / t - 1)
    return Calibration(
        networks=len(t),
        rest_ms=float(rest),
        factor=float(factor),
        mean_error=round(float(errors.mean()), 3),
        largest_error=round(float(errors.max()), 3),
    )


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, measures, writes the table, returns what scripts want to know of it."""
    config = cli.parse(LatencyTableConfig, argv, description=__doc__ or "")
    cli.check_folder(config.out, "--out")
    if os.path.isdir(config.out):
        raise UsageError(f"{config.out} is a folder; name a file with --out")
    table = measured(config)
    latency_table.write(table, config.out)
    fit = table.calibration
    say(
        f"the prediction misses these networks by {fit.mean_error:.1f} % on average and {fit.largest_error:.1f} % at "
        f"most; written to {config.out}"
    )
    kept = msgspec.to_builtins(table)
    return {"out": config.out, **{name: kept[name] for name in _TOLD}}


#: What of a table is in the result of the command.
_TOLD = ("space", "form", "batch", "rounds", "runtime", "device", "processor", "threads", "torch", "calibration")


def main() -> None:
    """The console command `optinas-latency-table`."""
    cli.run(command)


if __name__ == "__main__":
    main()
