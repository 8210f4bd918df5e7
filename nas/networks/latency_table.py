"""How long the networks of a space take, predicted from a measured table of operations.

A table is for one form of the networks, one device, one number of threads and one batch. It has the milliseconds of
each operation at each place of the evaluation network. A network takes the sum over its edges, times a factor, and the
rest: stem, preprocessing, the sums of the nodes, classifier. Factor and rest are fitted to measured networks.
`nas/latency_table.py` measures tables; here they are read and used.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from genotypes import CellGenotype, Genotype
from genotypes.atomic import write_atomically
from genotypes.genotype import MAX_NODES
from nas.errors import UsageError
from nas.networks.budget import BudgetConfig
from nas.networks.cells import NetworkConfig
from nas.networks.edge_costs import Place, cells_of, place_of
from nas.networks.forms import Form
from nas.networks.macro import CellPlan, resolve_stem
from nas.runs.directory import read_json
from spaces import KINDS, Kind, SearchSpace
from spaces.limits import Limit
from spaces.space import CELL_INPUTS

# The bounds keep what a stranger's file makes us compute small.
_Count = Annotated[int, Meta(ge=1, le=2**20)]
_Side = Annotated[int, Meta(ge=1, le=8192)]
_Number = Annotated[float, Meta(ge=0, le=1e9)]
_Text = Annotated[str, Meta(max_length=500)]
#: Such as hb, or package.module:Class; messages quote it.
_Name = Annotated[str, Meta(pattern=r"^[\w.:-]{1,100}\Z")]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a table, as it stands in the file."""


class OperationLatency(_Part, frozen=True, kw_only=True):
    """The time of an operation at a place: on so many channels, with a stride, on an input of (height, width)."""

    operation: _Text
    channels: _Count
    stride: Literal[1, 2]
    height: _Side
    width: _Side
    ms: _Number
    """Milliseconds for the table's batch."""

    @property
    def place(self) -> Place:
        """Where it was measured."""
        return Place(self.channels, self.stride, (self.height, self.width))


class MeasuredForm(_Part, frozen=True, kw_only=True):
    """The form of the networks that a table is for."""

    layers: Annotated[int, Meta(ge=1, le=1000)]
    init_channels: Annotated[int, Meta(ge=2, le=2**16)]
    stem: Literal["cifar", "imagenet"]
    in_channels: Annotated[int, Meta(ge=1, le=2**16)]
    height: _Side
    width: _Side
    classes: _Count

    @classmethod
    def of(cls, form: Form) -> MeasuredForm:
        """What of a form decides how long its networks take."""
        height, width = form.image_size
        return cls(
            layers=form.network.layers,
            init_channels=form.network.init_channels,
            stem=resolve_stem(form.network.stem, form.image_size),
            in_channels=form.in_channels,
            height=height,
            width=width,
            classes=form.num_classes,
        )

    def as_form(self) -> Form:
        """The form itself."""
        network = NetworkConfig(layers=self.layers, init_channels=self.init_channels, stem=self.stem)
        return Form(network, (self.height, self.width), self.classes, self.in_channels)

    def __str__(self) -> str:
        return (
            f"{self.layers} cells of {self.init_channels} channels after the {self.stem} stem on {self.height}x"
            f"{self.width} pixels of {self.in_channels} channels, {self.classes} classes"
        )

    @property
    def flags(self) -> str:
        """Those of the command that measures a table for it."""
        sides = f"{self.height}" if self.height == self.width else f"{self.height} {self.width}"
        return (
            f"{'--eval-form imagenet ' if self.stem == 'imagenet' else ''}--eval-layers {self.layers} --eval-channels "
            f"{self.init_channels} --image-size {sides} --channels {self.in_channels} --classes {self.classes}"
        )


class Calibration(_Part, frozen=True, kw_only=True):
    """How the sum of a network's operations becomes its latency, fitted to measured networks by least squares."""

    networks: _Count
    """To so many: the random ones, and the one without any operation."""
    rest_ms: _Number
    """Milliseconds of all that is on no edge."""
    factor: _Number
    """Of the sum over the edges."""
    mean_error: _Number
    """Mean of |predicted - measured| / measured over these networks, in percent."""
    largest_error: _Number
    """The largest of them, in percent."""


class LatencyTable(_Part, frozen=True, kw_only=True):
    """A table, and what it was measured for and on."""

    version: Literal[1] = 1
    runtime: Literal["pytorch"]
    """What computes: PyTorch operator by operator, in fp32."""
    space: _Name
    """The search space, as it was named."""
    edges: Annotated[tuple[_Count, ...], Meta(min_length=1, max_length=MAX_NODES)]
    """The edges that are kept of each node of its cells."""
    form: MeasuredForm
    batch: _Count
    """Images of a pass."""
    rounds: _Count
    """Passes of which a time is the median."""
    device: _Text
    processor: _Text
    threads: _Count
    torch: _Text
    """Version of PyTorch."""
    operations: tuple[OperationLatency, ...]
    calibration: Calibration


def read(path: str | Path) -> LatencyTable:
    """Reads a table; nothing in it is executed. Raises UsageError for a file that is not there, or holds no table."""
    try:
        table: LatencyTable = read_json(Path(path), LatencyTable)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; optinas-latency-table writes such a file") from None
    if len({(row.operation, row.place) for row in table.operations}) < len(table.operations):
        raise UsageError(f"{path} cannot be read: it has two times of an operation at one place")
    return table


def write(table: LatencyTable, path: str | Path) -> None:
    """Writes a table as JSON. Raises UsageError where it cannot be written."""
    try:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(table), indent=2) + b"\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}; choose another --out") from error


def model_of(config: BudgetConfig, form: Form) -> LatencyModel | None:
    """What predicts the latency of networks of that form; None where no table is named.

    Raises ValueError for a table that cannot be read, or is for another form.
    """
    return None if config.latency_table is None else LatencyModel.read(config.latency_table, form)


class LatencyModel:
    """Predicts the latency of networks from a table, as a sum over the edges of their genotype.

    Times are rounded to whole microseconds edge by edge, so that a limit on their sum is exact.

    Args:
        table: measured for the form.
        name: of its file, for messages.
        form: of the networks; default: that of the table.

    Raises ValueError for a table that was measured for another form.
    """

    def __init__(self, table: LatencyTable, name: str, form: Form | None = None) -> None:
        self.table, self._name = table, name
        self.form = table.form.as_form() if form is None else form
        wanted = MeasuredForm.of(self.form)
        if wanted != table.form:
            raise ValueError(
                f"{name} was measured for {table.form}, and the network here has {wanted}; measure another with "
                f"optinas-latency-table --space {table.space} {wanted.flags}"
            )
        self._ms = {(row.operation, row.place): row.ms for row in table.operations}
        self._cells = cells_with_places(self.form, len(table.edges))

    @classmethod
    def read(cls, path: str, form: Form | None = None) -> LatencyModel:
        """With the table of a file. Raises ValueError as above, and for a file that holds no table."""
        return cls(read(path), path, form)

    @property
    def digest(self) -> str:
        """SHA-256 of the table."""
        return hashlib.sha256(msgspec.json.encode(self.table)).hexdigest()

    def predicted(self, genotype: Genotype) -> float:
        """Milliseconds of the network of a genotype.

        Raises ValueError for a genotype of other cells or operations than were measured.
        """
        total = self._rest
        for kind in KINDS:
            cell: CellGenotype = getattr(genotype, kind)
            self._check_cells(map(len, cell.nodes), len(cell.concat))
            total += sum(self._microseconds(kind, edge.operation, edge.source) for node in cell.nodes for edge in node)
        return total / 1000

    def limits(self, space: SearchSpace, max_ms: float | None) -> list[Limit]:
        """The limit of the network's latency, for `best_within`; None sets none. Raises ValueError as `costs`."""
        if max_ms is None:
            return []
        # Rounded first: 1000 * 1.001 is a little less than 1001.
        most = math.floor(round(1000 * max_ms, 3))
        return [
            Limit(name="ms of predicted latency", most=most, costs=self.costs(space), rest=self._rest, per_unit=1000)
        ]

    def costs(self, space: SearchSpace) -> Mapping[Kind, list[list[int]]]:
        """Microseconds (E, O) of each operation on each edge, for each cell kind, summed over the cells of that kind.

        Raises ValueError for a space of other cells or operations than were measured.
        """
        self._check_cells(edges_kept(space), space.topology.nodes)
        sources = [source for source, _ in space.topology.edges]
        return {
            # Zero is never derived, and not measured.
            kind: [
                [0 if name == "none" else self._microseconds(kind, name, source) for name in space.operations]
                for source in sources
            ]
            for kind in KINDS
        }

    @property
    def _rest(self) -> int:
        return round(1000 * self.table.calibration.rest_ms)

    def _microseconds(self, kind: Kind, operation: str, source: int) -> int:
        places = [place_of(plan, size, source) for plan, size in self._cells if plan.kind == kind]
        try:
            total = math.fsum(self._ms[operation, place] for place in places)
        except KeyError:
            raise ValueError(
                f"{self._name} has no time of the operation {operation} at every place of this network; measure "
                "another with optinas-latency-table, and name it and the others with --operations"
            ) from None
        return round(1000 * self.table.calibration.factor * total)

    def _check_cells(self, edges: Iterable[int], concatenated: int) -> None:
        """The rest is that of cells like those that were measured: their nodes, sums and concatenation."""
        found = tuple(edges)
        if found != self.table.edges or concatenated != len(found):
            raise ValueError(
                f"{self._name} was measured for the cells of the space {self.table.space}, whose nodes have "
                f"{_listed(self.table.edges)} edges; those here have {_listed(found)}, and {concatenated} of them are "
                "concatenated; measure another for their space with optinas-latency-table --space"
            )


def edges_kept(space: SearchSpace) -> tuple[int, ...]:
    """The edges that the derivation keeps of each node."""
    targets = range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes)
    return tuple(len(space.topology.entering(target)[: space.edges_kept]) for target in targets)


def cells_with_places(form: Form, nodes: int) -> list[tuple[CellPlan, tuple[int, int]]]:
    """The cells of the networks of a form that concatenate so many nodes, and the (H, W) of their inputs."""
    return list(cells_of(form.network, dict.fromkeys(KINDS, nodes), form.in_channels, form.image_size))


def _listed(numbers: Sequence[int]) -> str:
    """The first of them: a file may have many."""
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
