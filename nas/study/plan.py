"""What a study computes: rows of a table, each with its cells, which are searched, trained and tested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import genotypes
from genotypes import Genotype
from genotypes.config import MayDiffer, marked
from nas.methods.config import SearchConfig
from nas.runs.directory import described, flat
from nas.study.file import Flags
from nas.train import TrainConfig
from spaces import SpaceConfig


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One architecture of one seed, and all that decides its result.

    Attributes:
        row: the name of its row.
        seed: of everything that is drawn in it.
        path: its directory, below that of the study.
        search: which finds its genotype; None if it has one.
        genotype: which is trained; None for what a search finds, and for networks
            that a name says all about: hand-made ones, and those of libraries.
        train: how; the architecture is named in `arch`, or is that of `search` or `genotype`.
        trained: whether it is; not where its errors are looked up.
    """

    row: str
    seed: int
    path: Path
    search: SearchConfig | None
    genotype: Genotype | None
    train: TrainConfig
    trained: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its result, flat, for the comparison with a cell of an earlier call."""
        found = {f"train.{name}": value for name, value in _binding(self.train).items()}
        if self.search is not None:
            found |= {f"search.{name}": value for name, value in _binding(self.search).items()}
        name = None if self.genotype is None else genotypes.to_text(self.genotype)
        return {**found, "arch": name or self.train.arch}


def _binding(config: SearchConfig | TrainConfig) -> dict[str, Any]:
    ignored = {*marked(config, MayDiffer), "arch"}  # the architecture is told by what it is
    return {name: value for name, value in flat(described(config)).items() if name not in ignored}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table, with its cells.

    Attributes:
        kind: search, random, arch or every.
        space: which its architectures are from; None for what is named.
        baseline: the row of random architectures that it is compared with, if there is one.
        published: test error in percent, for the published order.
        every: of which space it has every distinct genotype, if it does.
        look_up: the row that has every genotype which a search of this one may find, if it trains none itself.
    """

    name: str
    kind: str
    space: str | None
    baseline: str | None
    published: float | None
    every: SpaceConfig | None
    look_up: str | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole study; `settings` are the flags of all rows, for the reader of its results."""

    title: str
    settings: dict[str, Flags]
    rows: tuple[Row, ...]

    @property
    def cells(self) -> list[Cell]:
        """All cells in the order in which they are computed: the first seed of every row, then the second."""
        turns = zip_longest(*(row.cells for row in self.rows))
        return [cell for turn in turns for cell in turn if cell is not None]


def slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"
