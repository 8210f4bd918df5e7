"""From the command line to a configuration, and from what happened to an exit code."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro

import nas
from genotypes import GenotypeError
from genotypes.config import Common, Config, MayDiffer, NoneMeans, Resumes, marks, texts
from genotypes.messages import one_line
from nas import interrupts
from nas.errors import NonFiniteLossError, Stopped, UsageError, users_mistakes

C = TypeVar("C")

ALL = "--help-all"
_MORE_HELP = f"These are the flags that most people set; {ALL} shows every flag, --version the versions."


def peek(argv: Sequence[str], **defaults: str) -> dict[str, str]:
    """The values of the flags that decide what the defaults of all others are, such as preset="paper".

    Raises UsageError for a flag without a value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default)
    try:
        known, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from error
    return vars(known)


def foreign_flags(argv: Sequence[str], *, of: type, to: type) -> list[str]:
    """The flags on a command line that the dataclass `of` has and the dataclass `to` does not."""
    foreign = _flags(of) - _flags(to)
    given = (argument.partition("=")[0].replace("_", "-") for argument in argv)
    return [flag for flag in given if {flag, flag.replace("--no-", "--", 1)} & foreign]


def fields_given(argv: Sequence[str], *, of: type) -> list[str]:
    """The fields of the dataclass `of`, however deep they lie, that a command line sets, even to their default."""
    given = [argument.partition("=")[0].replace("_", "-") for argument in argv]
    flags = [flag if flag in _flags(of) else flag.replace("--no-", "--", 1) for flag in given]
    return [flag.removeprefix("--").replace("-", "_") for flag in flags if flag in _flags(of)]


def _flags(config: type) -> set[str]:
    """The flags that `parse` makes of a dataclass; those of a bool also have a form with no-."""
    flags: set[str] = set()
    for name, kind in get_type_hints(config).items():
        flags |= _flags(kind) if isinstance(kind, type) and is_dataclass(kind) else {f"--{name.replace('_', '-')}"}
    return flags


def preset(presets: Mapping[str, Callable[[str], C]], argv: Sequence[str]) -> C:
    """The configuration that --preset and --dataset ask for, before the other flags change it.

    Raises UsageError for an unknown preset.
    """
    flags = peek(argv, preset="paper", dataset="digits")
    if flags["preset"] not in presets:
        raise UsageError(f"unknown preset {flags['preset']!r}; --preset takes {' or '.join(presets)}")
    return presets[flags["preset"]](flags["dataset"])


def parse(config: Any, argv: Sequence[str], *, description: str, default: Any = None) -> Any:
    """An instance of the dataclass (or union of subcommands) `config` made from a command line.

    Flags that are not given have the value they have in `default`. Raises UsageError, one line, for what cannot be
    parsed, and SystemExit after `--help` (the flags marked Common, if any are) and `--help-all`.
    """
    interrupts.raise_again()  # all is imported by now
    argv, short = list(argv), False
    resumable = is_dataclass(config) and _has(config, Resumes)
    if is_dataclass(config) and {"-h", "--help", ALL} & {*argv}:
        short = ALL not in argv and _has(config, Common)
        description = f"{description.strip()}\n\n{_MORE_HELP}" if short else description
        argv = ["--help"]
    complaint = io.StringIO()
    try:
        with users_mistakes(), contextlib.redirect_stderr(complaint):
            return tyro.cli(
                config,
                prog=_program(),
                description=description,
                args=["--help" if argument == ALL else argument for argument in argv],
                default=tyro.MISSING if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
                registry=_registry(short=short, resumable=resumable),
            )
    except _Refused as refused:
        raise UsageError(str(refused)) from refused.__cause__
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(complaint.getvalue())) from None
        raise


class _Refused(Exception):
    """A ValueError of a configuration, which tyro would put into a box with the name of the class."""


def _registry(*, short: bool, resumable: bool) -> tyro.constructors.ConstructorRegistry:
    """How tyro takes a configuration to pieces.

    Args:
        short: hide the fields that are not Common.
        resumable: say of each flag whether it may differ when the run is resumed.
    """
    registry = tyro.constructors.ConstructorRegistry()

    @registry.struct_rule
    def configuration(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
        if not (isinstance(info.type, type) and issubclass(info.type, Config)):  # tyro has dataclasses of its own
            return None

        def instantiate(**values: Any) -> Any:
            try:
                return info.type(**values)
            except ValueError as error:
                raise _Refused(str(error)) from error

        return tyro.constructors.StructConstructorSpec(
            instantiate=instantiate,
            fields=tuple(
                _flag(info.type, field, info.default, short=short, resumable=resumable) for field in fields(info.type)
            ),
        )

    return registry


def _flag(
    config: type, field: Field[Any], default: Any, *, short: bool, resumable: bool
) -> tyro.constructors.StructFieldSpec:
    """What tyro is told of a field: its type, its default, and its help, made from its text and its marks."""
    hint, found = get_type_hints(config, include_extras=True)[field.name], marks(config, field.name)
    if isinstance(default, config):
        value = getattr(default, field.name)
    elif field.default_factory is not MISSING:
        value = field.default_factory()
    else:
        value = tyro.MISSING_NONPROP if field.default is MISSING else field.default
    if short and Common not in found and not is_dataclass(value) and value is not tyro.MISSING_NONPROP:
        hint = Annotated[hint, tyro.conf.Suppress]
    none = [mark.text for mark in found if isinstance(mark, NoneMeans)]
    if none and value is None:
        name = _metavar(get_type_hints(config)[field.name])
        hint = Annotated[hint, tyro.conf.arg(metavar=name, help_behavior_hint=f"(default: {none[0]})")]
    text = texts(config).get(field.name)
    if text and resumable and MayDiffer in found and Resumes not in found:
        text += " May differ with --resume."
    return tyro.constructors.StructFieldSpec(field.name, hint, value, text)


def _metavar(hint: Any) -> str | None:
    """What stands for a value in the help where leaving the flag out means None; None leaves that to tyro."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0].__name__.upper() if len(kinds) == 1 and kinds[0] in (int, float, str) else None


def _has(config: Any, mark: type) -> bool:
    """Whether a field of a dataclass has a mark, however deep it lies."""
    hints = get_type_hints(config).items()
    return any(_has(kind, mark) if is_dataclass(kind) else mark in marks(config, name) for name, kind in hints)


def _program() -> str:
    """How the running program was called: a script's name, or `python -m package`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return os.path.basename(sys.argv[0])
    return f"python -m {spec.name.removesuffix('.__main__')}"


def run(command: Callable[[list[str]], dict[str, Any] | None], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done (its result, if any, the last line as JSON), 1 failed, 2 usage, 128 + signal.

    With `--version` it only prints the versions.
    """
    code = 0
    argv = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if "--version" in argv:
            print(f"optinas {nas.__version__}, torch {version('torch')}")
            sys.exit(0)
        result = command(argv)
        if result is not None:
            print(json.dumps(result), flush=True)
    except (UsageError, GenotypeError) as error:
        code = _complain(error, 2)
    except NonFiniteLossError as error:
        code = _complain(error, 1)
    except Stopped as stop:
        code = 128 + stop.signal
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # Whoever read the output has had enough (head, less); what is left of it must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        if error.strerror is None:  # not the system's
            raise
        code = _complain(f"{error.filename or 'the output'}: {error.strerror}; what was saved before is as it was", 1)
    sys.exit(code)


def check_folder(path: str, flag: str) -> None:
    """Raises UsageError, before anything is computed for it, where the file that a flag names could not be made."""
    if not Path(path).parent.is_dir():
        raise UsageError(f"{path} is in a folder that does not exist; make it first, or choose another {flag}")


def _complain(error: object, code: int) -> int:
    """The one way in which a user is told that a command failed."""
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    return code


def _one_line(box: str) -> str:
    """The text of tyro's boxed message, without the box, its title, and what the help says of the flag."""
    rows = [line.strip("│| ") for line in box.splitlines()[1:]]
    # Rules and borders are drawn in ASCII where the output is not in UTF-8.
    parts = [" ".join(part) for drawn, part in groupby(rows, key=lambda row: not row.strip("─-╰╯+")) if not drawn]
    told = "; ".join(part for part in parts if not part.startswith(("For full helptext", "Argument helptext")))
    told = told.removeprefix("Error parsing ")
    told = re.sub(r"no type matching (\S+) could be instantiated from \['(.*?)'\]\..*", r"'\2' is none of \1", told)
    return f"{' '.join(told.split()).rstrip('.')}; see --help"
