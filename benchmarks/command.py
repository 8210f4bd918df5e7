"""How a benchmark is started: as the commands of the toolkit, with one line for a mistake and exit code 2."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nas.cli import parse, run
from nas.errors import check_ranges, users_mistakes


def run_benchmark(main: Callable[[Any], None], config: Any, description: str | None) -> None:
    """Runs `main` with the `config` that the command line gives, and exits."""

    def command(argv: list[str]) -> None:
        default = config() if isinstance(config, type) else None  # a union of subcommands has none
        try:
            with users_mistakes():
                parsed = parse(config, argv, description=description or "", default=default)
                _check_sizes(parsed)
                main(parsed)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)  # the program that was started has said why

    run(command)


def _check_sizes(config: Any) -> None:
    """Raises ValueError for a whole number less than 1; only of workers there may be none."""
    whole = {
        name
        for name, value in asdict(config).items()
        if all(type(number) is int for number in (value if isinstance(value, tuple) else (value,)))
    }
    check_ranges(config, {name: (0 if name == "workers" else 1, math.inf) for name in whole})
