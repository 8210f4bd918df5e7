"""Configurations whose fields say everything about themselves.

    @dataclass(frozen=True, kw_only=True)
    class OptimizerConfig(Config):
        momentum: Annotated[float, AtLeast(0), AtMost(1)] = 0.9
        \"\"\"Momentum of SGD (DARTS: 0.9).\"\"\"

The annotation gives the type and the marks below; the text under a field explains it. Values are checked by them, the
help of the command line is made of them, and a run that is resumed reads from them what may differ.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import msgspec


@dataclass(frozen=True)
class Bound:
    """A bound of a number, or of each number of a tuple."""

    number: float
    words: ClassVar[str]
    compare: ClassVar[Callable[[float, float], bool]]

    def holds(self, value: float) -> bool:
        """Whether `value` keeps to it."""
        return type(self).compare(value, self.number)

    def __str__(self) -> str:
        return f"{self.words} {_shown(self.number)}"


class AtLeast(Bound):
    """The smallest value."""

    words, compare = "at least", operator.ge


class MoreThan(Bound):
    """All values are larger."""

    words, compare = "more than", operator.gt


class AtMost(Bound):
    """The largest value."""

    words, compare = "at most", operator.le


class LessThan(Bound):
    """All values are smaller."""

    words, compare = "less than", operator.lt


@dataclass(frozen=True)
class NoneMeans:
    """What the value None stands for, which help shows as the default."""

    text: str


@dataclass(frozen=True)
class WhenChanged:
    """What to do instead of changing this field of a run that is resumed."""

    text: str


class IsPath:
    """The text is the name of a file or folder."""


class Resumes:
    """The flag that resumes a run."""


class MayDiffer:
    """A resumed run may have another value: it decides where or how the run computes, not what."""


class KeptInCheckpoint:
    """A resumed run may have another value: it names something that the checkpoint holds, and that is compared."""


class Common:
    """Among the flags that most people set, which `--help` shows; `--help-all` shows all."""


#: A seed that PyTorch takes.
Seed = Annotated[int, AtLeast(-(2**63)), AtMost(2**64 - 1)]
Count = Annotated[int, AtLeast(1)]
#: Far fewer than this is all that anybody has time for.
Epochs = Annotated[int, AtLeast(1), AtMost(10**9)]
NotNegative = Annotated[float, AtLeast(0)]
Share = Annotated[float, AtLeast(0), AtMost(1)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all configurations: raises ValueError for a value that its field's annotation rules out."""

    def __post_init__(self) -> None:
        own: type = type(self)
        for name, hint in _hints(own).items():
            _check(name, getattr(self, name), hint)


def flag(name: str) -> str:
    """How a field is spelled on the command line; of a dotted name, the last part counts."""
    return f"--{name.rpartition('.')[2].replace('_', '-')}"


def marks(config: type, name: str) -> tuple[Any, ...]:
    """The marks of a field, the class of those that have no arguments."""
    return tuple(_marks(_hints(config)[name]))


def marked(config: object, mark: type, prefix: str = "") -> dict[str, Any]:
    """The dotted names of all fields with a mark, however deep they lie, and the mark of each."""
    found: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]
        value = getattr(config, field.name)
        for own in marks(type(config), field.name):
            if own is mark or isinstance(own, mark):
                found[prefix + field.name] = own
        if is_dataclass(value):
            found |= marked(value, mark, f"{prefix}{field.name}.")
    return found


@cache
def texts(config: type) -> dict[str, str]:
    """The text under each field of a dataclass, as one line; none where the source is not there."""
    found: dict[str, str] = {}
    for part in reversed([cls for cls in config.__mro__ if is_dataclass(cls)]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(part))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


@cache
def _hints(config: type) -> dict[str, Any]:
    return get_type_hints(config, include_extras=True)


def _marks(hint: Any) -> Iterator[Any]:
    """All marks in an annotation, of the parts of a union or a tuple too."""
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
        yield from _marks(hint.__origin__)
    elif get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _marks(part)


def _check(name: str, value: Any, hint: Any) -> None:
    if is_dataclass(value):  # it has checked itself
        return
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        raise ValueError(f"{flag(name)} is {_shown(value)}; it must be {_described(hint)}") from None
    found = list(_marks(hint))
    if isinstance(value, str) and IsPath in found:
        _check_path(name, value)
    bounds = [mark for mark in found if isinstance(mark, Bound)]
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        finite = isinstance(number, int) or math.isfinite(number)
        if not (finite and all(bound.holds(number) for bound in bounds)):
            told = " and ".join(map(str, bounds)) or "a finite number"
            none = "".join(f", or None: {mark.text}" for mark in found if isinstance(mark, NoneMeans))
            verb, it = ("has", "each") if isinstance(value, tuple) else ("is", "it")
            raise ValueError(f"{flag(name)} {verb} {_shown(number)}; {it} must be {told}{none}")


def _check_path(name: str, path: str) -> None:
    if "\0" in path:
        raise ValueError(f"{flag(name)} is {path!r}; a path cannot hold a NUL character")
    try:
        path.encode()
    except UnicodeEncodeError:  # what is kept of a run is UTF-8
        told = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise ValueError(f"{flag(name)} is '{told}', which is not UTF-8 text; rename it or link to it") from None


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "None"}


def _described(hint: Any) -> str:
    """The values that a type has, in words."""
    if get_origin(hint) is Annotated:
        return _described(hint.__origin__)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_described, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a tuple of which each is {_described(get_args(hint)[0])}"
    return _WORDS.get(hint, str(hint))


def _shown(value: Any) -> str:
    # The digits of a float that nobody typed are noise.
    return f"{value:g}" if isinstance(value, float) else repr(value)
