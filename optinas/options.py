"""How the functions of the package take the options of a configuration, and speak of them."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from genotypes import GenotypeError
from nas.errors import NonFiniteLossError, UsageError

F = TypeVar("F", bound=Callable[..., object])


def check_names(function: str, given: Mapping[str, object], known: Mapping[str, object]) -> None:
    """Raises TypeError for an option that `function` does not have, with the one that may have been meant."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def shows(options: Mapping[str, object]) -> Callable[[F], F]:
    """Decorator of a function with `**options`: help and completion show each of them with its default."""

    def decorate(function: F) -> F:
        own = inspect.signature(function).parameters
        named = [parameter for parameter in own.values() if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in options.items()
            if name not in own
        ]
        cast(Any, function).__signature__ = inspect.signature(function).replace(parameters=[*named, *more])
        return function

    return decorate


@contextmanager
def errors_worded(wording: Callable[[str], str]) -> Iterator[None]:
    """Within it, `wording` is applied to the message of an error that a user sees."""
    try:
        yield
    except (UsageError, GenotypeError, NonFiniteLossError) as error:
        error.args = (wording(str(error)),)
        raise error from None  # its cause says the same in other words


def spelled(text: str, flags: Mapping[str, object]) -> str:
    """A line with options in the place of flags: `--batch-size` is batch_size, `--no-augment` is augment=False.

    `flags` are the options with their defaults; those that are bool are switches.
    """

    def option(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        if name.startswith("no_") and name not in flags:
            return f"{name.removeprefix('no_')}=False"
        return f"{name}=True" if isinstance(flags.get(name), bool) else name

    return re.sub(r"(?<![\w-])--([a-z][a-z0-9-]*[a-z0-9])", option, text)
