#!/usr/bin/env python
"""List, show, draw, convert, check and derive genotypes: `python genotype_tool.py show DARTS_V2 --cost cifar`."""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
from typing import Any

from nas import cli
from nas.genotype_commands import Command


def command(argv: list[str]) -> dict[str, Any] | None:
    """Parses and runs one of the subcommands."""
    return cli.parse(Command, argv, description="List, show, draw, convert, check and derive genotypes.").run()


def main() -> None:
    """The console command `optinas-genotype`."""
    cli.run(command)


if __name__ == "__main__":
    main()
