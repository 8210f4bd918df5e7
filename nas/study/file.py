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
with underscores or hyphens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from genotypes.messages import reason_of
from nas.errors import UsageError

_Value = bool | int | float | str
Flags = dict[str, _Value | list[_Value]]
#: Text in one line of a table: without line breaks and without what a terminal would obey.
_Line = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]+\Z")]
_Seeds = Annotated[int, Meta(ge=1, le=10_000)] | Annotated[list[Annotated[int, Meta(ge=0)]], Meta(min_length=1)]

#: Bytes of a study's file; the longest that make sense have a few thousand.
_LARGEST = 1_000_000


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


def decoded(path: Path) -> File:
    """The content of a study's file. Raises UsageError for a file that is none."""
    try:
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); name the file of a study") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{path} has more than {_LARGEST:,} bytes, which is no study; name the file of one")
    try:
        return msgspec.toml.decode(content, type=File)
    except RecursionError:
        raise UsageError(f"{path} is not the file of a study: it is nested too deeply; see docs/STUDIES.md") from None
    except (msgspec.DecodeError, ValueError) as error:  # a ValidationError is a DecodeError
        raise UsageError(f"{path} is not the file of a study: {reason_of(error)}; see docs/STUDIES.md") from error


def named(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags with underscores. Raises ValueError for one that is there with hyphens too."""
    named = {name.replace("-", "_"): value for name, value in flags.items()}
    if len(named) < len(flags):
        both = next(name for name in flags if "-" in name and name.replace("-", "_") in flags)
        raise ValueError(f"{both} is set twice, once with underscores; leave one out")
    return named
