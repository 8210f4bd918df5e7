"""The file of a study, in TOML: rows, each of several seeds, which make cells that are searched, trained and tested.

    title = "Space-HB against chance"
    seeds = 4

    [data]
    dataset = "digits"
    [search]
    preset = "smoke"
    [train]
    preset = "smoke"

    [[row]]
    name = "Space-HB, HB start"
    search = { space = "hb", init = "hb" }
    [[row]]
    name = "random, Space-HB"
    random = { space = "hb" }
    seeds = 8

The keys of [data], [search], [train] and of a row's own `search`, `train` and `random` are the flags of the commands,
with underscores or hyphens. Everything is checked before a cell begins.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

import genotypes
import nas.recipes
import nas.train
import spaces
from genotypes import Genotype
from genotypes.config import KeptInCheckpoint, MayDiffer, marked
from genotypes.messages import reason_of
from genotypes.zoo import ZOO
from nas.errors import UsageError
from nas.genotype_commands import Random
from nas.methods import combinations
from nas.methods.config import SearchConfig, with_method
from nas.methods.stages import plan as stages_of
from nas.networks import architecture
from nas.networks.handmade import is_handmade
from nas.networks.library import is_library
from nas.options import configured, leaves
from nas.runs.directory import described, flat
from nas.study.exhaustive import distinct
from nas.train import TrainConfig
from spaces import SpaceConfig

C = TypeVar("C")
_Value = bool | int | float | str
Flags = dict[str, _Value | list[_Value]]
#: Text in one line of a table: without line breaks and without what a terminal would obey.
_Line = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z")]
_Seeds = Annotated[int, Meta(ge=1, le=10_000)] | Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]

#: Bytes of a study's file; the longest that make sense have a few thousand.
_LARGEST = 1_000_000
#: What the study decides, and no flag of its file may.
_OWN = ("seed", "run_dir", "resume", "device", "arch", "test_at_end", "report_best")


class RowOfFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row of the file: what is searched, drawn or named, and what is otherwise about it."""

    name: _Line
    search: Flags | None = None
    random: Flags | None = None
    arch: str | None = None
    every: Flags | None = None
    look_up: str | None = None
    train: Flags = {}
    seeds: _Seeds | None = None
    baseline: str | None = None
    published: Annotated[float, Meta(ge=0, le=100)] | None = None


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as it is written."""

    title: _Line
    row: Annotated[list[RowOfFile], Meta(min_length=1)]
    seeds: _Seeds = 1
    data: Flags = {}
    search: Flags = {}
    train: Flags = {}


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
    ignored = {**marked(config, MayDiffer), **marked(config, KeptInCheckpoint)}
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


def read(path: Path, data: Mapping[str, _Value]) -> Plan:
    """The study in a file.

    Args:
        path: of the file. Where `arch` names a file, it may be relative to the folder of this one.
        data: flags of the data that take the place of those in the file.

    Raises UsageError for a file that cannot be read, and for whatever in it is not right.
    """
    file = _decoded(path)
    try:
        own = _named(file.data)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    if "dataset" in data:
        own.pop("data", None)  # the folder of another one
    file = msgspec.structs.replace(file, data={**own, **data})
    rows, folders = [], dict[str, str]()
    for row in file.row:
        try:
            if (other := folders.get(slug(row.name))) is not None:
                raise ValueError(f"its folder would be that of row {other!r}, {slug(other)!r}; rename one of them")
            folders[slug(row.name)] = row.name
            rows.append(_row(row, file, path.parent))
        except ValueError as error:
            raise UsageError(f"{path}, row {row.name!r}: {error}") from error
    settings = {name: getattr(file, name) for name in ("data", "search", "train")}
    return Plan(title=file.title, settings=settings, rows=tuple(rows))


def _decoded(path: Path) -> File:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name the file of a study") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{path} has {len(content):,} bytes, which is no study; name the file of one")
    try:
        return msgspec.toml.decode(content, type=File)
    except RecursionError:
        raise UsageError(f"{path} is not the file of a study: it is nested too deeply; see docs/STUDIES.md") from None
    except (msgspec.DecodeError, ValueError) as error:  # a ValidationError is a DecodeError
        raise UsageError(f"{path} is not the file of a study: {reason_of(error)}; see docs/STUDIES.md") from error


def _row(row: RowOfFile, file: File, folder: Path) -> Row:
    kinds = [name for name in ("search", "random", "arch", "every") if getattr(row, name) is not None]
    if len(kinds) != 1:
        raise ValueError(
            f"it has {' and '.join(kinds) or 'neither search nor random nor arch nor every'}; give one of the four, "
            "which says where its architectures are from"
        )
    seeds = file.seeds if row.seeds is None else row.seeds
    seeds = list(range(seeds)) if isinstance(seeds, int) else seeds
    if len(set(seeds)) < len(seeds):
        raise ValueError("its seeds repeat; name each once")
    _check_look_up(row, file)
    make = {"search": _searched, "random": _drawn, "arch": _given, "every": _every}[kinds[0]]
    return Row(
        name=row.name,
        kind=kinds[0],
        space=_space(row, file),
        baseline=_baseline(row, file),
        published=row.published,
        every=None if row.every is None else _space_of_every(row.every),
        look_up=row.look_up,
        cells=tuple(make(row, file, folder, seeds)),
    )


def _space(row: RowOfFile, file: File) -> str | None:
    if row.random is not None:
        return str(row.random.get("space", Random().space))
    if row.search is None:
        return None
    return _searched_space(row, file).space


def _baseline(row: RowOfFile, file: File) -> str | None:
    """The row of random architectures that a search is compared with. Raises ValueError for one that is none."""
    rivals = {other.name: other for other in file.row if other.random is not None and "seed" not in other.random}
    if row.baseline is not None:
        if row.baseline not in rivals:
            raise ValueError(
                f"its baseline {row.baseline!r} is not a row that draws a random architecture with each seed; name one "
                "that does"
            )
        if row.baseline == row.name:
            raise ValueError("it is its own baseline; name another row, or leave baseline out")
        return row.baseline
    if row.search is None:
        return None
    own = _derivable(_searched_space(row, file))
    same = [name for name, other in rivals.items() if _derivable(_drawn_space(other)) == own]
    return same[0] if len(same) == 1 else None


def _searched_space(row: RowOfFile, file: File) -> SpaceConfig:
    return _search_config({**_named(file.data), **_named(file.search), **_named(row.search or {})}).space


def _drawn_space(row: RowOfFile) -> SpaceConfig:
    drawn = _random_config(row)
    return SpaceConfig(space=drawn.space, nodes=drawn.nodes, operations=drawn.operations, init="zero")


def _derivable(config: SpaceConfig) -> Any:
    """What decides which genotypes can be derived: two spaces have the same ones if this is the same of both."""
    space = spaces.build(config)
    candidates = [
        {space.operations[column] for column in space.candidates(kind, edge)}
        for kind in spaces.KINDS
        for edge in range(len(space.topology.edges))
    ]
    return space.topology, space.edges_kept, candidates


def _searched(row: RowOfFile, file: File, folder: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    config = _search_config({**_named(file.data), **_named(file.search), **_named(row.search or {})})
    _check(config)
    for seed in seeds:
        train = _train_config(row, file, arch="", seed=seed)
        yield _cell(row, seed, search=replace(config, seed=seed), train=train, trained=row.look_up is None)


def _drawn(row: RowOfFile, file: File, folder: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    flags, config = _named(row.random or {}), _random_config(row)
    drawn = config.drawn([config.seed] if "seed" in flags else seeds)
    for seed in seeds:
        genotype = drawn[config.seed if "seed" in flags else seed].genotype
        yield _cell(row, seed, genotype=genotype, train=_train_config(row, file, arch="", seed=seed))


def _random_config(row: RowOfFile) -> Random:
    return _configured("random", Random(), _named(row.random or {}), without=("number", "out"))


def _space_of_every(flags: Flags) -> SpaceConfig:
    return _configured("every", SpaceConfig(init="zero"), _named(flags), without=("init", "init_gap"))


def _every(row: RowOfFile, file: File, folder: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    """All distinct genotypes of a space with the first seed, then with the second; they are numbered from 0 on."""
    train = _train_config(row, file, arch="", seed=0)
    found = distinct(spaces.build(_space_of_every(row.every or {})), layers=train.network.layers)
    for seed in seeds:
        for number, genotype in enumerate(found):
            cell = _cell(row, seed, genotype=genotype, train=replace(train, seed=seed))
            yield replace(cell, path=cell.path.with_name(f"{number}-{seed}"))


def _check_look_up(row: RowOfFile, file: File) -> None:
    """Raises ValueError where a row cannot look up the errors of what it finds."""
    if row.look_up is None:
        return
    if row.search is None:
        raise ValueError("look_up is for rows that search; leave it out")
    if row.train:
        raise ValueError("it looks up errors instead of training; leave out train, or look_up")
    if row.look_up not in [other.name for other in file.row if other.every is not None]:
        raise ValueError(f"it looks up in {row.look_up!r}, which is not a row with every = ...; name one that is")


def _given(row: RowOfFile, file: File, folder: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    arch = _beside(folder, row.arch or "")
    config = _train_config(row, file, arch=arch, seed=0)
    spaces.import_modules(config.operations_from)
    found = architecture.resolve(arch, config.network, config.handmade, config.library).architecture
    genotype = found.genotype if isinstance(found, architecture.CellArchitecture) else None
    for seed in seeds:
        yield _cell(row, seed, genotype=genotype, train=replace(config, seed=seed, arch="" if genotype else arch))


def _beside(folder: Path, name: str) -> str:
    """The path of a file of that name in a folder, if it is there and the name is not an architecture's; else the name.

    FILE:NAME is one of several genotypes in a file.
    """
    if not name or is_handmade(name) or is_library(name) or name in ZOO:
        return name
    file, colon, chosen = name.rpartition(":")
    if os.path.exists(folder / name):
        return str((folder / name).resolve())
    return f"{(folder / file).resolve()}:{chosen}" if colon and os.path.isfile(folder / file) else name


def _cell(row: RowOfFile, seed: int, **parts: Any) -> Cell:
    path = Path("cells") / slug(row.name) / str(seed)
    return Cell(row=row.name, seed=seed, path=path, **{"search": None, "genotype": None, **parts})


def _search_config(flags: Mapping[str, Any]) -> SearchConfig:
    default = _preset(nas.recipes.PRESETS, flags)
    if (method := flags.get("method")) is not None:
        default = with_method(default, str(method))
    return _configured("search", default, flags, without=_OWN, taken=("preset", "method"))


def _train_config(row: RowOfFile, file: File, *, arch: str, seed: int) -> TrainConfig:
    # What all rows share is for networks of every kind: each takes what is about itself.
    others = architecture.foreign_options(arch)
    shared = {name: value for name, value in _named(file.train).items() if name not in others}
    flags = {**_named(file.data), **shared, **_named(row.train)}
    presets = nas.train.presets_for(arch)
    config = _configured("train", _preset(presets, flags), flags, without=_OWN, taken=("preset",))
    return replace(config, arch=arch, seed=seed, test_at_end=True)


def _preset(presets: Mapping[str, Any], flags: Mapping[str, Any]) -> Any:
    name = flags.get("preset", "paper")
    if not isinstance(name, str) or name not in presets:
        raise ValueError(f"unknown preset {name!r}; preset is one of {', '.join(presets)}")
    return presets[name](str(flags.get("dataset", "digits")))


def _configured(
    part: str, default: C, flags: Mapping[str, Any], *, without: Sequence[str], taken: Sequence[str] = ()
) -> C:
    """`default` with the values of flags. Raises ValueError for one that is not there, or not for the file to set."""
    known = [*taken, *(name for name in leaves(default) if name not in without)]
    for name in flags:
        if name in without:
            raise ValueError(f"{part} sets {name}, which the study itself decides; leave it out")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{part} has no flag {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return configured(default, {name: value for name, value in flags.items() if name not in taken})


def _check(config: SearchConfig) -> None:
    """Raises ValueError for what the search would refuse, so that the study does not find out in a week."""
    space, relaxation = spaces.build(config.space, seed=config.seed), config.method.build()
    combinations.check(config, space, relaxation, stages_of(config.stages, config.epochs))


def _named(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with underscores. Raises ValueError for one that is there with hyphens too."""
    named = {name.replace("-", "_"): value for name, value in flags.items()}
    if len(named) < len(flags):
        both = next(name for name in flags if "-" in name and name.replace("-", "_") in flags)
        raise ValueError(f"{both} is set twice, once with underscores; leave one out")
    return named


def slug(name: str) -> str:
    """A name for a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "row"
