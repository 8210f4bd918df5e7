"""A small network for the images in a folder: `optinas-auto my_images`.

It searches, trains, tests and exports, each stage in a run directory of its own; the same command resumes it.
"""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
from typing import Any

import msgspec

from nas import cli, screen
from nas.auto.plan import AutoConfig
from nas.auto.stages import Made, auto


def _table(made: Made) -> str:
    row = {
        "parameters": made.params,
        "multiply-adds": made.macs,
        "test accuracy %": made.test_accuracy,
        "ms an image, PyTorch": made.latency_ms,
        **({} if made.predicted_latency_ms is None else {"predicted": made.predicted_latency_ms}),
        "ONNX Runtime": made.onnx_latency_ms,
    }
    return screen.table([row])


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, computes, prints what there is now, returns the result."""
    made = auto(cli.parse(AutoConfig, argv, description=__doc__ or ""))
    print(_table(made))
    for name in ("weights", "onnx", "report", "predict"):
        if getattr(made, name) is not None:
            print(f"{name}: {getattr(made, name)}")
    return msgspec.to_builtins(made)


def main() -> None:
    """The console command `optinas-auto`."""
    cli.run(command)


if __name__ == "__main__":
    main()
