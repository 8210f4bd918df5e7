"""From the file of a study to its plan: which cells each of its rows makes; all is checked before one begins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import nas.recipes
import nas.training_recipes
import spaces
from genotypes.messages import one_line
from genotypes.registry import check_trusted
from genotypes.zoo import ZOO
from nas import methods
from nas.errors import UsageError
from nas.genotype_commands import Random
from nas.methods import combinations
from nas.methods.config import SearchConfig, with_method
from nas.methods.stages import plan as stages_of
from nas.networks import architecture
from nas.networks.handmade import is_handmade
from nas.networks.library import is_library
from nas.options import configured, leaves
from nas.study.exhaustive import distinct
from nas.study.file import File, Flags, RowOfFile, decoded, named
from nas.study.plan import Cell, Plan, Row, slug
from nas.train import TrainConfig
from spaces import SpaceConfig

C = TypeVar("C")
#: What the study decides, and no flag of its file may.
_OWN = ("seed", "run_dir", "resume", "device", "arch", "test_at_end", "report_best")


def read(path: Path, data: Mapping[str, bool | int | float | str], modules: Collection[str] = ()) -> Plan:
    """The study in a file.

    Args:
        path: of the file. Where `arch` names a file, it may be relative to the folder of this one.
        data: flags of the data that take the place of those in the file.
        modules: those that the user has named. No other module is imported, even if the file names it.

    Raises UsageError for a file that cannot be read, and for whatever in it is not right.
    """
    file = decoded(path)
    with _naming(str(path)):
        own = named(file.data)
        _check_modules([file.search, file.train], modules)
    if "dataset" in data:
        own.pop("data", None)  # the folder of another one
    file = msgspec.structs.replace(file, data={**own, **data})
    of_methods = set[str]()
    for row in file.row:
        with _naming(f"{path}, row {row.name!r}"):
            _check_modules([row.search, row.random, row.every, row.train], modules)
            of_methods |= _flags_of_method(row, file)
    rows, folders = [], dict[str, str]()
    for row in file.row:
        with _naming(f"{path}, row {row.name!r}"):
            if (other := folders.get(slug(row.name))) is not None:
                raise ValueError(f"its folder would be that of row {other!r}, {slug(other)!r}; rename one of them")
            folders[slug(row.name)] = row.name
            rows.append(_row(_with_shared(row, file, of_methods), file, path.parent))
    settings = {name: getattr(file, name) for name in ("data", "search", "train")}
    return Plan(title=file.title, settings=settings, rows=tuple(rows))


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Within it, what is wrong is told with its place, and shortened: it may quote all that the file holds."""
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{place}: {one_line(str(error), longest=700)}") from error


def _check_modules(tables: Iterable[Flags | None], modules: Collection[str]) -> None:
    """Raises ValueError for a module that would be imported and that the user has not named: importing runs code."""
    for flags in filter(None, tables):
        given = named(flags)
        classes = [str(given[name]).partition(":") for name in ("space", "method") if name in given]
        listed = given.get("operations_from", [])
        wanted = [module for module, colon, _ in classes if colon]
        wanted += listed if isinstance(listed, list) else [listed]
        for module in wanted:
            check_trusted(module, modules, f"it names the module {module!r}")


def _with_shared(row: RowOfFile, file: File, of_methods: Collection[str]) -> RowOfFile:
    """The row with all flags of its search.

    What all rows share may be for several methods, and `of_methods` are the flags that are of one: each row takes those
    of its own.
    """
    if row.search is None:
        return row
    own = _flags_of_method(row, file)
    shared = {name: value for name, value in named(file.search).items() if name in own or name not in of_methods}
    return msgspec.structs.replace(row, search={**named(file.data), **shared, **named(row.search)})


def _flags_of_method(row: RowOfFile, file: File) -> set[str]:
    """The flags that are of the method of a row, but for its name; none where nothing is searched."""
    if row.search is None:
        return set()
    method = _default_search({**named(file.data), **named(file.search), **named(row.search)}).method
    return {*leaves(method)} - {"method"}


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
    return _search_config(row.search).space.space


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
    own = _derivable(_search_config(row.search).space)
    same = [name for name, other in rivals.items() if _derivable(_drawn_space(other)) == own]
    return same[0] if len(same) == 1 else None


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
    config = _search_config(row.search or {})
    _check(config)
    for seed in seeds:
        train = _train_config(row, file, arch="", seed=seed)
        yield _cell(row, seed, search=replace(config, seed=seed), train=train, trained=row.look_up is None)


def _drawn(row: RowOfFile, file: File, folder: Path, seeds: Sequence[int]) -> Iterator[Cell]:
    flags, config = named(row.random or {}), _random_config(row)
    drawn = config.drawn([config.seed] if "seed" in flags else seeds)
    for seed in seeds:
        genotype = drawn[config.seed if "seed" in flags else seed].genotype
        yield _cell(row, seed, genotype=genotype, train=_train_config(row, file, arch="", seed=seed))


def _random_config(row: RowOfFile) -> Random:
    return _configured("random", Random(), named(row.random or {}), without=("number", "out"))


def _space_of_every(flags: Flags) -> SpaceConfig:
    return _configured("every", SpaceConfig(init="zero"), named(flags), without=("init", "init_gap"))


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


def _default_search(flags: Mapping[str, Any]) -> SearchConfig:
    """That of the preset and the method."""
    default: SearchConfig = _preset(nas.recipes.PRESETS, flags)
    method = flags.get("method")
    return default if method is None else with_method(default, str(method))


def _search_config(flags: Mapping[str, Any]) -> SearchConfig:
    default = _default_search(flags)
    for name in [name for name in flags if name not in (*leaves(default), "preset")]:
        if whose := [other for other in methods.names() if name in leaves(methods.named(other))]:
            raise ValueError(
                f"search sets {name}, which is for the method {' or '.join(whose)}, and this row's is "
                f"{default.method.method}; leave it out"
            )
    return _configured("search", default, flags, without=_OWN, taken=("preset", "method"))


def _train_config(row: RowOfFile, file: File, *, arch: str, seed: int) -> TrainConfig:
    # What all rows share is for networks of every kind: each takes what is about itself.
    others = architecture.foreign_options(arch)
    shared = {name: value for name, value in named(file.train).items() if name not in others}
    flags = {**named(file.data), **shared, **named(row.train)}
    presets = nas.training_recipes.presets_for(arch)
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
