#!/usr/bin/env python
"""Train and test a network: `python train_eval.py --arch DARTS_V2 --dataset cifar10 --data data --download`."""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
from typing import Any

from nas import cli
from nas.runs.record import as_json
from nas.train import TrainConfig, evaluate, presets_for, read_run, report_table, train


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, trains (or with --evaluate only measures), prints the table, returns the result."""
    given = cli.peek(argv, evaluate="", arch="")
    default = read_run(given["evaluate"]) if given["evaluate"] else cli.preset(presets_for(given["arch"]), argv)
    config = cli.parse(TrainConfig, argv, description=__doc__ or "", default=default)
    result = evaluate(config) if config.evaluate else train(config)
    print(report_table(result))
    return as_json(result)


def main() -> None:
    """The console command `optinas-eval`."""
    cli.run(command)


if __name__ == "__main__":
    main()
