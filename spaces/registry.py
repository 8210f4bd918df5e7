"""Search spaces by name: from this package, from installed packages, or from a module of your own."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeVar

import torch

from genotypes.config import AtMost, Common, Config, Count, NoneMeans, NotNegative
from genotypes.genotype import MAX_NODES
from spaces.ops import TABLE_6
from spaces.space import INIT_GAP, SearchSpace

S = TypeVar("S", bound=type[SearchSpace])

ENTRY_POINTS = "optinas.spaces"
_SPACES: dict[str, type[SearchSpace]] = {}


@dataclass(frozen=True, kw_only=True)
class SpaceConfig(Config):
    """Which search space, and where in it the search starts."""

    space: Annotated[str, Common] = "darts"
    """Search space: darts, hb, agd, one of an installed package, or "package.module:Class"."""
    nodes: Annotated[Count, AtMost(MAX_NODES), Common] = 4
    """Intermediate nodes of a cell (DARTS sec. 3.1: 4)."""
    operations: tuple[str, ...] = ()
    """Candidate operations by name, or "all" for the nine of Table 6 (default: the space's own)."""
    edge_normalized: Annotated[bool | None, NoneMeans("only in Space-AGD")] = None
    """Whether the edges entering a node have trained weights that sum to 1, as in PC-DARTS."""
    init: Annotated[str | None, NoneMeans("hb in Space-HB, otherwise zero")] = None
    """Initial architecture parameters: zero, random, or in Space-HB hb."""
    init_gap: NotNegative = INIT_GAP
    """How far above the others a peaked logit of --init hb starts: larger is closer to HB-Net, and slower to leave; at
    10 weight decay alone decides, not the images (LOG.md)."""


def register(name: str) -> Callable[[S], S]:
    """Decorator that registers a SearchSpace as `name`. Raises ValueError if the name is taken."""

    def add(space: S) -> S:
        if name in _SPACES:
            raise ValueError(f"search space {name!r} is already registered; choose another name")
        _SPACES[name] = space
        return space

    return add


def names() -> list[str]:
    """All known names, sorted."""
    return sorted({*_SPACES, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def get(name: str) -> type[SearchSpace]:
    """The search space of that name, or the class at "package.module:Class".

    Raises ValueError for an unknown name (the message lists the known ones), a module that cannot be imported, or
    an object that is not a SearchSpace.
    """
    if name in _SPACES:
        return _SPACES[name]
    if ":" in name:
        return _checked(_from_module(name), name)
    for point in entry_points(group=ENTRY_POINTS, name=name):
        return _loaded(point)
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(f'unknown search space {name!r}; {hint}known: {", ".join(names())}, or "package.module:Class"')


def build(config: SpaceConfig, *, seed: int = 0) -> SearchSpace:
    """The search space that `config` names, initialized with random numbers from `seed`.

    Raises ValueError as `get`, the space and its `initialize` do.
    """
    if "all" in config.operations and len(config.operations) > 1:
        raise ValueError('--operations "all" means all of them; pass it alone, or leave it out')
    operations = TABLE_6 if config.operations == ("all",) else config.operations
    space = get(config.space)(nodes=config.nodes, operations=operations, edge_normalized=config.edge_normalized)
    generator = torch.Generator().manual_seed(seed)
    space.initialize(config.init, gap=config.init_gap, generator=generator)
    return space


def discover() -> None:
    """Imports every module of this package, so that a new file registers its spaces and operations."""
    package = importlib.import_module("spaces")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"spaces.{module.name}")


def load_installed() -> None:
    """Imports the search spaces of installed packages, which may declare operations of their own."""
    for point in entry_points(group=ENTRY_POINTS):
        try:
            _loaded(point)
        except ValueError as error:  # a broken package must not stop those who do not use it
            warnings.warn(str(error), stacklevel=2)


def import_modules(names: Iterable[str]) -> None:
    """Imports modules, from installed packages or the working directory, for the operations that they declare.

    Importing runs code: names must come from the user, never from a file. Raises ValueError for a module that cannot be
    imported.
    """
    for name in names:
        _import(name, f"module {name!r}")


def _from_module(name: str) -> object:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name, f"search space {name!r}")
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise ValueError(f"search space {name!r} could not be imported: {error}") from error


def _import(name: str, what: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        # The path of an installed command lacks the working directory, where a user's own module is. It goes last, so
        # that nothing there shadows an installed module.
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"{what} could not be imported: {type(error).__name__}: {error}") from error


def _loaded(point: EntryPoint) -> type[SearchSpace]:
    try:
        space = point.load()
    except Exception as error:  # a stranger's module may raise anything
        raise ValueError(
            f"search space {point.name!r}, installed as {point.value}, could not be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _checked(space, point.name)


def _checked(space: object, name: str) -> type[SearchSpace]:
    if not (isinstance(space, type) and issubclass(space, SearchSpace)):
        raise ValueError(f"search space {name!r} is not a subclass of spaces.SearchSpace")
    return space
