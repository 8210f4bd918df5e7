"""Options by name: a flag's name with underscores sets the field that the flag sets, however deep it lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast, get_type_hints

import msgspec
import numpy as np

C = TypeVar("C")


def leaves(config: object) -> dict[str, Any]:
    """The options of a configuration with their values, however deep their fields lie; no two have the same name."""
    found: dict[str, Any] = {}
    for field in fields(cast(Any, config)):
        value = getattr(config, field.name)
        found |= leaves(value) if is_dataclass(value) else {field.name: value}
    return found


def configured(config: C, options: Mapping[str, object]) -> C:
    """`config` with other values for some of its options.

    Raises ValueError for a value of the wrong type, or one that the configuration refuses.
    """
    kinds = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for field in fields(cast(Any, config)):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = configured(value, options)
        elif field.name in options:
            changes[field.name] = _plain(options[field.name], kinds[field.name])
    return cast(C, replace(cast(Any, config), **changes))


def _plain(value: object, kind: Any) -> Any:
    """`value` as a configuration has it: a number of numpy as one of Python, a path as text, a list as a tuple.

    What cannot be one of `kind` stays as it is, for the configuration to refuse.
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, os.PathLike):
        plain = os.fspath(plain)
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError:
        return value
