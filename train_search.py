#!/usr/bin/env python
"""Search an architecture: `python train_search.py --space hb --dataset cifar10 --data data --download`."""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
from typing import Any

from nas import cli
from nas.errors import users_mistakes
from nas.methods.config import SearchConfig, with_method
from nas.recipes import PRESETS
from nas.runs.record import as_json
from nas.search import search


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, searches, returns the result."""
    default = cli.preset(PRESETS, argv)
    with users_mistakes():
        default = with_method(default, cli.peek(argv, method=default.method.method)["method"])
    config = cli.parse(SearchConfig, argv, description=__doc__ or "", default=default)
    return as_json(search(config))


def main() -> None:
    """The console command `optinas-search`."""
    cli.run(command)


if __name__ == "__main__":
    main()
