"""Classes by name: registered ones, those of installed packages, or one in a module of the user's own."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class Registry(Generic[T]):
    """The subclasses of `base` by name.

    Args:
        what: what they are, for messages, such as "search space".
        group: the entry point group under which installed packages offer theirs.
        base: their base class.
        defines: the method that each of them must define, since the base has none.
    """

    def __init__(self, what: str, *, group: str, base: type[T], defines: str) -> None:
        self.what, self.group, self.base, self.defines = what, group, base, defines
        self.classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator that registers a class as `name`. Raises ValueError if the name is taken."""

        def add(cls: C) -> C:
            if name in self.classes:
                raise ValueError(f"{self.what} {name!r} is already registered; choose another name")
            self.classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All known names, sorted."""
        return sorted({*self.classes, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> type[T]:
        """The class of that name, or the class at "package.module:Class".

        Raises ValueError for an unknown name (the message lists the known ones), a module that cannot be imported, or
        an object that is not such a class.
        """
        if name in self.classes:
            return self.classes[name]
        if ":" in name:
            return self._checked(self._from_module(name), name)
        for point in entry_points(group=self.group, name=name):
            return self._loaded(point)
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f'unknown {self.what} {name!r}; {hint}known: {", ".join(self.names())}, or "package.module:Class"'
        )

    def name_of(self, cls: type[T]) -> str:
        """The name under which `get` finds a class: the one that it is registered by, or "package.module:Class"."""
        registered = (name for name, known in self.classes.items() if known is cls)
        return next(registered, f"{cls.__module__}:{cls.__qualname__}")

    def load_installed(self) -> None:
        """Imports the classes of installed packages, for what else their modules declare."""
        for point in entry_points(group=self.group):
            try:
                self._loaded(point)
            except ValueError as error:  # a broken package must not stop those who do not use it
                warnings.warn(str(error), stacklevel=2)

    def _from_module(self, name: str) -> object:
        module_name, _, attribute = name.partition(":")
        module = _import(module_name, f"{self.what} {name!r}")
        try:
            return getattr(module, attribute)
        except AttributeError as error:
            raise ValueError(f"{self.what} {name!r} could not be imported: {error}") from error

    def _loaded(self, point: EntryPoint) -> type[T]:
        try:
            cls = point.load()
        except Exception as error:  # a stranger's module may raise anything
            raise ValueError(
                f"{self.what} {point.name!r}, installed as {point.value}, could not be imported: "
                f"{type(error).__name__}: {error}"
            ) from error
        return self._checked(cls, point.name)

    def _checked(self, cls: object, name: str) -> type[T]:
        base = f"{self.base.__module__.rpartition('.')[0]}.{self.base.__name__}"
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise ValueError(f"{self.what} {name!r} is not a subclass of {base}")
        if getattr(cls, self.defines) is getattr(self.base, self.defines):  # the base itself, or a half-written class
            raise ValueError(f"{self.what} {name!r} does not define {self.defines}, as a subclass of {base} must")
        return cls


def discover(package: str) -> None:
    """Imports every module of a package, so that a new file in it registers what it has."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


def check_trusted(module: str, trusted: Collection[str], told: str) -> None:
    """Raises ValueError for a module that a file names and the user does not; `told` says where the file names it."""
    if module not in trusted:
        raise ValueError(
            f"{told}, and no module that a file names is imported; if you trust it, name it with --operations-from "
            f"{module}"
        )


def import_modules(names: Iterable[str]) -> None:
    """Imports modules, from installed packages or the working directory, for the operations that they declare.

    Importing runs code: names must come from the user, never from a file. Raises ValueError for a module that cannot be
    imported.
    """
    for name in names:
        _import(name, f"module {name!r}")


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
