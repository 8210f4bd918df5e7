"""The mixing weights after each epoch of a search, as files in its directory.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta
from torch import Tensor

from genotypes.atomic import write_atomically
from nas.errors import UsageError
from nas.runs.directory import read_json
from spaces import KINDS, Kind, SearchSpace

#: The folder in a run's directory.
FOLDER = "mixing"
#: Weights are rounded to so many decimals: a picture shows two of them, and digits beyond these change nothing in it.
_DECIMALS = 6

_Node = Annotated[int, Meta(ge=0)]


class CellMixing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mixing weights of one kind of cell."""

    weights: tuple[tuple[float, ...], ...]
    """(E, O), without noise: those of the operations times those of their edges."""
    edges: tuple[float, ...] | None = None
    """(E,), the weights of the edges; None where they are not normalized."""


class EpochMixing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mixing weights of a search after an epoch."""

    operations: tuple[str, ...]
    edges: tuple[tuple[_Node, _Node], ...]
    """(source, target) of each edge; nodes 0 and 1 are the cell's inputs."""
    normal: CellMixing
    reduce: CellMixing

    def __post_init__(self) -> None:
        """Raises ValueError for weights of another shape, or that are not finite."""
        for kind in KINDS:
            cell: CellMixing = getattr(self, kind)
            rows = list(cell.weights) if cell.edges is None else [*cell.weights, cell.edges]
            widths = [len(self.operations)] * len(self.edges) + ([] if cell.edges is None else [len(self.edges)])
            if [len(row) for row in rows] != widths:
                raise ValueError(f"{kind} has weights of another shape than {len(self.edges)} x {len(self.operations)}")
            if any(source >= target for source, target in self.edges):
                raise ValueError("an edge does not run forward")
            if not all(math.isfinite(weight) for row in rows for weight in row):
                raise ValueError(f"{kind} has weights that are not finite")


def write(directory: Path, space: SearchSpace, mixing: Mapping[Kind, Tensor], epoch: int) -> None:
    """Writes the weights (E, O) of each kind of cell after an epoch, counted from 1. Raises OSError."""
    (directory / FOLDER).mkdir(exist_ok=True)
    cells = {kind: _cell(space, mixing[kind], kind) for kind in KINDS}
    found = EpochMixing(operations=space.operations, edges=space.topology.edges, **cells)
    write_atomically(directory / FOLDER / f"epoch_{epoch:03d}.json", msgspec.json.encode(found) + b"\n")


def _cell(space: SearchSpace, weights_EO: Tensor, kind: Kind) -> CellMixing:
    edges = _rounded(space.edge_weights(kind).tolist()) if space.edge_normalized else None
    return CellMixing(weights=tuple(map(_rounded, weights_EO.tolist())), edges=edges)


def _rounded(weights: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(weight, _DECIMALS) for weight in weights)


def edge_names(edges: Sequence[tuple[int, int]]) -> list[str]:
    """Source and target of every edge, named as in the pictures of cells; parallel edges are numbered."""
    nodes = ["c_k-2", "c_k-1", *map(str, range(max((target for _, target in edges), default=1) - 1))]
    names = [f"{nodes[source]} \u2192 {nodes[target]}" for source, target in edges]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: e + 1].count(name)})" for e, name in enumerate(names)
    ]


def read(directory: Path) -> tuple[dict[int, EpochMixing], list[str]]:
    """The weights after each epoch that a file is there for, by its number, and what is wrong with other files."""
    found, faults = {}, []
    for path in sorted((directory / FOLDER).glob("epoch_*.json")):
        number = re.fullmatch(r"epoch_(\d{3,6})\.json", path.name)
        if number is None:
            continue
        try:
            found[int(number[1])] = read_json(path, EpochMixing)
        except (UsageError, FileNotFoundError) as error:
            faults.append(str(error))
    return found, faults
