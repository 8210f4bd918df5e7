"""Search spaces small enough that every network in them is trained: which are distinct, and how good each is.

Two genotypes are the same here if their evaluation networks compute the same functions once parameters are renamed, or
change their sign. They then also have the same distribution of trained networks, since both initialization and training
treat a parameter and its negative alike. That is so for

- the order of the edges that enter a node, whose results are added;
- the numbers of the nodes, where they do not read each other, as the next cell reads them through its own weights;
- the negative identity at stride 2, a factorized reduce whose convolution and offset have the other sign;
- cells of a kind that the network does not have: those of 1 or 2 layers all reduce.

Finding the smallest form of a cell compares the orders of its nodes, which is for small cells only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

import genotypes
import spaces
from genotypes import CellGenotype, Edge, Genotype
from genotypes.atomic import write_atomically
from nas.errors import UsageError
from nas.networks.macro import kinds_of
from nas.runs.directory import read_json
from spaces import Kind, SearchSpace, SpaceConfig
from spaces.space import CELL_INPUTS

#: Choices of a space up to which it is enumerated.
MOST_CHOICES = 20_000
#: Nodes of a cell up to which it is brought to its smallest form: 6 have at most 720 orders.
MOST_NODES = 6

#: Operations that at stride 2 are another one with parameters of the other sign.
_SAME_AT_STRIDE_2 = {"neg_skip_connect": "skip_connect"}

#: A node: whether it is left out of the output, and its edges as (source, operation).
_Node = tuple[bool, tuple[tuple[int, str], ...]]


# --- which genotypes are the same ---------------------------------------------------------------------------------


def canonical(genotype: Genotype, *, layers: int) -> Genotype:
    """The genotype that stands for all that are the same as this one in networks of so many cells.

    A kind of cell that these do not have is replaced by the other one. The result has no name.

    Raises ValueError for a cell of more than `MOST_NODES` nodes, GenotypeError for a genotype that is not valid.
    """
    genotypes.validate(genotype)
    present = {kind: _smallest_cell(getattr(genotype, kind), kind) for kind in kinds_of(layers)}
    reduction = present["reduce"]
    return Genotype(normal=present.get("normal", reduction), reduce=reduction)


def _smallest_cell(cell: CellGenotype, kind: Kind) -> CellGenotype:
    if len(cell.nodes) > MOST_NODES:
        raise ValueError(f"a cell has {len(cell.nodes)} nodes; those of more than {MOST_NODES} are not compared")
    described = _smallest(cell, kind, {node: node for node in range(CELL_INPUTS)})
    return CellGenotype(
        nodes=tuple(tuple(Edge(operation=name, source=source) for source, name in edges) for _, edges in described),
        concat=tuple(node for node, (left_out, _) in enumerate(described, CELL_INPUTS) if not left_out),
    )


def _smallest(cell: CellGenotype, kind: Kind, numbers: Mapping[int, int]) -> tuple[_Node, ...]:
    """The smallest description of the nodes without a number, over all orders in which each reads earlier ones."""
    ready = {
        node: (node not in cell.concat, _edges(edges, kind, numbers))
        for node, edges in enumerate(cell.nodes, CELL_INPUTS)
        if node not in numbers and all(edge.source in numbers for edge in edges)
    }
    if not ready:
        return ()
    first = min(ready.values())
    rests = (_smallest(cell, kind, {**numbers, node: len(numbers)}) for node, own in ready.items() if own == first)
    return first, *min(rests)


def _edges(edges: Sequence[Edge], kind: Kind, numbers: Mapping[int, int]) -> tuple[tuple[int, str], ...]:
    def name(edge: Edge) -> str:
        halves = kind == "reduce" and edge.source < CELL_INPUTS
        return _SAME_AT_STRIDE_2.get(edge.operation, edge.operation) if halves else edge.operation

    return tuple(sorted((numbers[edge.source], name(edge)) for edge in edges))


# --- all of a space -----------------------------------------------------------------------------------------------


def choices(space: SearchSpace, *, layers: int) -> dict[Genotype, int]:
    """Every distinct genotype that a space derives, in its canonical form, with the number of choices that give it.

    A choice is one of the edges that each node keeps and of the operations on them, in the cells that networks of so
    many layers have. `genotype_tool.py random` draws all choices alike.

    Raises ValueError for a space of more than `MOST_CHOICES`, or of cells that are too large for `canonical`.
    """
    kinds = kinds_of(layers)
    number = math.prod(_number_of_cells(space, kind) for kind in kinds)
    if number > MOST_CHOICES:
        raise ValueError(
            f"the space has {number:,} choices of edges and operations; at most {MOST_CHOICES:,} are enumerated: take "
            "fewer --nodes or --operations"
        )
    found: dict[Kind, Counter[CellGenotype]] = {
        kind: Counter(_smallest_cell(cell, kind) for cell in _cells(space, kind)) for kind in kinds
    }
    reductions = found["reduce"].items()
    if "normal" not in found:
        return {Genotype(normal=cell, reduce=cell): ways for cell, ways in reductions}
    return {
        Genotype(normal=normal, reduce=cell): own * ways
        for (normal, own), (cell, ways) in product(found["normal"].items(), reductions)
    }


def distinct(space: SearchSpace, *, layers: int) -> list[Genotype]:
    """Every distinct genotype that a space derives, in its canonical form. Raises ValueError as `choices`."""
    return list(choices(space, layers=layers))


def _number_of_cells(space: SearchSpace, kind: Kind) -> int:
    return math.prod(
        sum(math.prod(len(space.candidates(kind, edge)) for edge in kept) for kept in _kept(space, node))
        for node in _nodes(space)
    )


def _cells(space: SearchSpace, kind: Kind) -> Iterator[CellGenotype]:
    """A cell for each choice."""
    ways = [[edges for kept in _kept(space, node) for edges in _filled(space, kind, kept)] for node in _nodes(space)]
    for nodes in product(*ways):
        yield CellGenotype(nodes=nodes, concat=tuple(_nodes(space)))


def _filled(space: SearchSpace, kind: Kind, kept: Sequence[int]) -> Iterator[tuple[Edge, ...]]:
    """The edges `kept`, with each choice of operations."""
    sources = [space.topology.edges[edge][0] for edge in kept]
    for columns in product(*(space.candidates(kind, edge) for edge in kept)):
        names = (space.operations[column] for column in columns)
        yield tuple(Edge(operation=name, source=source) for name, source in zip(names, sources, strict=True))


def _kept(space: SearchSpace, node: int) -> Iterator[tuple[int, ...]]:
    """The edges that a node may keep."""
    entering = space.topology.entering(node)
    return combinations(entering, len(entering[: space.edges_kept]))


def _nodes(space: SearchSpace) -> range:
    return range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes)


# --- the table ----------------------------------------------------------------------------------------------------


class Trained(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A distinct genotype, and its networks trained with one seed after another."""

    genotype: str
    """Its canonical form in the notation of the literature."""
    choices: Annotated[int, Meta(ge=1)]
    """So many choices of edges and operations give it."""
    test_errors: Annotated[list[Annotated[float, Meta(ge=0, le=100)]], Meta(min_length=1)]
    """Percent, by seed from 0 on."""
    params: Annotated[int, Meta(ge=0)]
    macs: Annotated[int, Meta(ge=0)]
    train_seconds: list[Annotated[float, Meta(ge=0)]]
    """By seed."""


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was enumerated and how it was trained."""

    space: str
    nodes: Annotated[int, Meta(ge=1)]
    operations: list[str]
    layers: Annotated[int, Meta(ge=1)]
    settings: dict[str, Any]
    """All settings of a training, but for the genotype and the seed."""
    environment: dict[str, Any]
    """Of the study: command, commit, versions, hardware."""

    def build(self) -> SearchSpace:
        """The space."""
        config = SpaceConfig(space=self.space, nodes=self.nodes, operations=tuple(self.operations), init="zero")
        return spaces.build(config)


class Entry(NamedTuple):
    """What is known of a genotype; of genotypes that are the same, the same.

    Attributes:
        genotype: its canonical form.
        choices: how many choices of edges and operations give it.
        test_error: percent, the mean over the seeds.
        test_errors: by seed.
        rank: 1 for the lowest mean; of equals, the smallest.
        regret: by how much the mean exceeds the lowest, in percentage points.
    """

    genotype: Genotype
    choices: int
    test_error: float
    test_errors: tuple[float, ...]
    params: int
    macs: int
    rank: int
    regret: float


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    protocol: Protocol
    cells: Annotated[list[Trained], Meta(min_length=1)]


class Benchmark:
    """The test errors of all distinct genotypes of a space.

    Args:
        protocol: what was enumerated and how it was trained.
        cells: every distinct genotype once, all with the same seeds.

    Attributes:
        entries: from the best to the worst.
        train_seconds: of a training, the mean.

    Raises ValueError for a genotype that is missing, no canonical form, or there twice, and for different seeds.
    """

    def __init__(self, protocol: Protocol, cells: Sequence[Trained]) -> None:
        self.protocol, self._cells = protocol, tuple(cells)
        trained = {genotypes.from_text(cell.genotype): cell for cell in cells}
        _check_whole(protocol, cells, trained)
        means = {genotype: sum(cell.test_errors) / len(cell.test_errors) for genotype, cell in trained.items()}
        self.entries: tuple[Entry, ...] = ()
        order = sorted(means, key=means.__getitem__)
        best = means[order[0]]
        rank = 0
        for place, genotype in enumerate(order, 1):
            cell, mean = trained[genotype], means[genotype]
            rank = rank if self.entries and self.entries[-1].test_error == mean else place
            errors = tuple(cell.test_errors)
            entry = Entry(genotype, cell.choices, mean, errors, cell.params, cell.macs, rank, mean - best)
            self.entries += (entry,)
        self._found = {entry.genotype: entry for entry in self.entries}
        seconds = [second for cell in cells for second in cell.train_seconds]
        self.train_seconds = sum(seconds) / len(seconds)

    @classmethod
    def load(cls, path: Path) -> Benchmark:
        """The benchmark in a file, as `save` writes it. Raises UsageError for one that cannot be read or is faulty."""
        try:
            file = read_json(path, _File)
            return cls(file.protocol, file.cells)
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist; name the table of a benchmark") from error
        except ValueError as error:
            raise UsageError(f"{path} is not the table of a benchmark: {error}") from error

    def save(self, path: Path) -> None:
        """Writes the benchmark to a file, a line for each genotype. Raises OSError."""
        cells = ",\n".join(f"  {msgspec.json.encode(cell).decode()}" for cell in self._cells)
        protocol = msgspec.json.encode(self.protocol).decode()
        write_atomically(path, f'{{"protocol": {protocol},\n"cells": [\n{cells}\n]}}\n'.encode())

    def look_up(self, genotype: Genotype) -> Entry:
        """What is known of a genotype. Raises ValueError for one that the space does not derive, or not valid."""
        found = self._found.get(canonical(genotype, layers=self.protocol.layers))
        if found is None:
            protocol = self.protocol
            raise ValueError(
                f"no network of the benchmark is that of {genotypes.to_text(genotype)}; it has those of the space "
                f"{protocol.space} with {protocol.nodes} nodes and the operations {', '.join(protocol.operations)}"
            )
        return found

    def random_search(self, number: int) -> float:
        """The expected regret of the best of `number` random choices, in percentage points.

        The choices are independent and all alike, as `genotype_tool.py random` draws them. One is chosen by its error
        with one seed, and its error is that with the other seeds: chosen and measured by the same errors, luck would
        count as quality. The mean over which seed chooses. Of one choice, it is the mean regret.

        Raises ValueError for fewer than 1, and for a benchmark of one seed.
        """
        seeds = len(self.entries[0].test_errors)
        if number < 1 or seeds < 2:
            raise ValueError(f"the best of {number} by one of {seeds} seeds cannot be measured by another seed")
        best = self.entries[0].test_error
        return sum(self._expected(number, seed) for seed in range(seeds)) / seeds - best

    def _expected(self, number: int, seed: int) -> float:
        """The expected error, with the other seeds, of the best of `number` choices by the error with `seed`."""
        total, left, expected = sum(entry.choices for entry in self.entries), 1.0, 0.0
        for _, equal in groupby(sorted(self.entries, key=_error_of(seed)), key=_error_of(seed)):
            group = [(entry.choices / total, entry) for entry in equal]
            share = sum(weight for weight, _ in group)
            # All choices are of this group or worse, but not all are worse.
            chance = left**number - max(0.0, left - share) ** number
            expected += chance * sum(weight * _without(entry.test_errors, seed) for weight, entry in group) / share
            left -= share
        return expected


def _error_of(seed: int) -> Callable[[Entry], float]:
    return lambda entry: entry.test_errors[seed]


def _without(errors: Sequence[float], seed: int) -> float:
    """The mean of the errors but for one seed's."""
    return (sum(errors) - errors[seed]) / (len(errors) - 1)


def _check_whole(protocol: Protocol, cells: Sequence[Trained], trained: Mapping[Genotype, Trained]) -> None:
    """Raises ValueError where cells are not those of the space, each once and with the same seeds."""
    expected = choices(protocol.build(), layers=protocol.layers)
    ways = {genotype: cell.choices for genotype, cell in trained.items()}
    if len(cells) != len(trained) or ways != expected:
        both = sum(ways.get(genotype) == number for genotype, number in expected.items())
        raise ValueError(
            f"it has {len(cells):,} genotypes, and {both:,} of the {len(expected):,} that the space derives; each must "
            "be there once, in its canonical form and with its number of choices"
        )
    if len({len(cell.test_errors) for cell in cells}) > 1:
        raise ValueError("some genotypes were trained with more seeds than others; all need the same")
