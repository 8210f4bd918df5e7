"""Starts a benchmark like the commands of the toolkit: a user's mistake gives one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from genotypes.config import Config, Count, IsPath
from nas.cli import parse, run
from nas.engine.device import Precision
from nas.errors import users_mistakes


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Config):
    """Where a benchmark runs, and where its results go."""

    device: str = "auto"
    """Where to compute."""
    out: Annotated[str | None, IsPath] = None
    """Also write the results to this file, as JSON."""


@dataclass(frozen=True, kw_only=True)
class StepConfig(BenchmarkConfig):
    """The size of a step to time."""

    batch_size: Count = 16
    """Images per batch."""
    image_size: Count = 32
    """Side of the images in pixels."""
    rounds: Count = 5
    """Timed rounds, after one of warm-up."""
    precision: Precision = "fp32"
    """Forward passes in fp32 or bf16."""


def run_benchmark(main: Callable[[Any], None], config: Any, description: str | None) -> None:
    """Runs `main` with the configuration from the command line, and exits."""

    def command(argv: list[str]) -> None:
        default = config() if isinstance(config, type) else None  # a union of subcommands has none
        try:
            with users_mistakes():
                parsed = parse(config, argv, description=description or "", default=default)
                main(parsed)
        except subprocess.CalledProcessError as error:
            sys.exit(error.returncode)  # the program that failed has already said why

    run(command)
