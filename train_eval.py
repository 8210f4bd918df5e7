#!/usr/bin/env python
"""Train and test a network: `python train_eval.py --arch DARTS_V2 --dataset cifar10 --data data --download`.

To measure a trained one, or to write it for other programs: `python train_eval.py --evaluate RUN [--onnx FILE] [--pt2
FILE]`; `--evaluate RUN --help` shows the flags of that.
"""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
from typing import Any

from nas import cli
from nas.errors import UsageError, users_mistakes
from nas.evaluate import EvaluateConfig, as_trained, evaluate, report_table
from nas.networks.architecture import check_given
from nas.runs.record import EvaluationResult, as_json
from nas.train import TrainConfig, train
from nas.training_recipes import presets_for


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, trains (or with --evaluate only measures), prints the table, returns the result."""
    given = cli.peek(argv, evaluate="", onnx="", pt2="", arch="")
    for flag in ("onnx", "pt2"):
        if given[flag] and not given["evaluate"]:
            raise UsageError(f"--{flag} goes with --evaluate RUN, the run whose network is to be written")
    result = _evaluated(given["evaluate"], argv) if given["evaluate"] else _trained(given["arch"], argv)
    print(report_table(result))
    return as_json(result)


def _trained(arch: str, argv: list[str]) -> EvaluationResult:
    default = cli.preset(presets_for(arch), argv)
    with users_mistakes():
        check_given(arch, cli.fields_given(argv, of=TrainConfig))
    return train(cli.parse(TrainConfig, argv, description=__doc__ or "", default=default))


def _evaluated(run: str, argv: list[str]) -> EvaluationResult:
    default = as_trained(run)
    for flag in cli.foreign_flags(argv, of=TrainConfig, to=EvaluateConfig):
        raise UsageError(f"{flag} is for training; with --evaluate it is as the run had it, leave it out")
    config = cli.parse(EvaluateConfig, argv, description=__doc__ or "", default=default)
    result = evaluate(config)
    for path in filter(None, (config.onnx, config.pt2)):
        print(f"network written to {path}")
    return result


def main() -> None:
    """The console command `optinas-eval`."""
    cli.run(command)


if __name__ == "__main__":
    main()
