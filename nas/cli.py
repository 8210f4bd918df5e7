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
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

import tyro

from genotypes import GenotypeError
from genotypes.messages import one_line
from nas import interrupts
from nas.errors import NonFiniteLossError, Stopped, UsageError, users_mistakes

C = TypeVar("C")


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

    Flags that are not given have the value they have in `default`. Raises UsageError, one line, for what
    cannot be parsed.
    """
    interrupts.raise_again()  # all is imported by now
    complaint = io.StringIO()
    try:
        with users_mistakes(), contextlib.redirect_stderr(complaint):
            return tyro.cli(
                config,
                prog=_program(),
                description=description,
                args=list(argv),
                default=tyro.MISSING if default is None else default,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(complaint.getvalue())) from None
        raise


def _program() -> str:
    """How the running program was called: a script's name, or `python -m package`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return os.path.basename(sys.argv[0])
    return f"python -m {spec.name.removesuffix('.__main__')}"


def run(command: Callable[[list[str]], dict[str, Any] | None], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done (its result, if any, the last line as JSON), 1 failed, 2 usage, 128 + signal."""
    code = 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A path may hold what the terminal's encoding cannot show.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = command(list(sys.argv[1:] if argv is None else argv))
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


def _complain(error: object, code: int) -> int:
    """The one way in which a user is told that a command failed."""
    print(f"error: {one_line(str(error))}", file=sys.stderr)
    return code


def _one_line(box: str) -> str:
    """The text of tyro's boxed message, without the box, its title, and its pointer to --help."""
    lines = [re.sub(r"[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    # Rules are drawn in ASCII where the output is not in UTF-8.
    parts = re.split(r"[─-]{10,}", " ".join(line for line in lines if line))
    told = [part.strip() for part in parts[1:]]
    line = "; ".join(part for part in told if part and not part.startswith(("For full", "Argument helptext")))
    line = re.sub(r"no type matching (\S+) could be instantiated from \['(.*?)'\]\..*", r"'\2' is none of \1", line)
    line = re.sub(r"^Error parsing [^-:]\S*: ", "", line)  # the name of a class of ours, or of a part of it
    return line if re.search("you meant|subcommands", line) else f"{line.rstrip('.')}; --help tells all flags"
