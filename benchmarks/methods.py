"""Searches once with every method: `python -m benchmarks.methods --spaces darts hb agd`.

All rows have the same small supernet and the same number of epochs, far fewer than published; `ROWS` has the flags that
a row adds. Each search is a process of its own, whose peak memory is measured, and a search that has ended is not run
again. What is derived after so short a search says little about a method. The table shows that each runs, and what it
costs; --out also writes it as JSON.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import write_result
from genotypes import Genotype, from_text
from genotypes.config import Count
from nas.runs import record
from nas.runs.record import SearchRecord
from nas.screen import table
from spaces import is_parameter_free

#: What each row adds to the common flags.
ROWS: dict[str, tuple[str, ...]] = {
    "first order": (),
    "second order": ("--unrolled",),
    "SNAS": ("--method", "snas"),
    "GDAS": ("--method", "gdas"),
    "DrNAS": ("--method", "drnas"),
    "FairDARTS": ("--method", "fairdarts"),
    "DARTS-": ("--method", "darts-minus"),
    "partial channels": ("--partial-channels", "2", "--edge-normalized", "True"),
    "stages (P-DARTS)": ("--drop", "3", "2", "--skip-dropout", "0", "0.4", "0.7"),
    "beta decay": ("--beta-decay", "50"),
    "SDARTS-RS": ("--perturb", "random"),
    "SDARTS-ADV": ("--perturb", "adversarial"),
    "projection (DARTS-PT)": ("--derivation", "projection", "--projection-every", "1"),
    "at most 1.5 M": ("--max-params", "1500000"),
    "random, shared weights": ("--method", "random-ws", "--samples", "100", "--init", "zero"),
    "ISTA-NAS": ("--method", "ista", "--init", "zero"),
}


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """The images, the spaces and the small supernet."""

    data: str = ""
    """Folder of images, with train/; default: digits."""
    image_size: Count = 16
    """Side of the images in pixels, if --data is given."""
    spaces: tuple[str, ...] = ("darts",)
    """Search spaces."""
    epochs: Count = 6
    """Epochs of a search; a multiple of 3."""
    layers: Count = 4
    """Cells of the supernet."""
    channels: Count = 8
    """Channels of its first cells."""
    runs: str = "runs/methods"
    """Directory of the runs."""


def main(config: Config) -> None:
    """Searches with each method in each space, and prints the table."""
    rows = []
    for space in config.spaces:
        for name, flags in ROWS.items():
            rows.append({"space": space, "method": name, **_row(config, space, name, flags)})
            write_result(config.out, config, torch.device("cpu"), rows)
    print(table(rows))


def _row(config: Config, space: str, name: str, flags: tuple[str, ...]) -> dict[str, Any]:
    directory = Path(config.runs) / f"{space} {name}"
    memory = directory.with_suffix(".memory")
    if not (directory / record.NAME).exists():
        folder = ("folder", "--data", config.data, "--image-size", str(config.image_size))
        images = folder if config.data else ("digits",)
        common = {"--epochs": config.epochs, "--layers": config.layers, "--init-channels": config.channels}
        command = ["--dataset", *images, "--device", config.device, "--init", "random", "--arch-learning-rate", "3e-3"]
        command += [part for flag, value in common.items() for part in (flag, str(value))]
        resume = ["--resume"] if (directory / "config.json").exists() else []
        program = [sys.executable, "-m", "train_search", "--space", space, *command, *flags]
        process = subprocess.Popen([*program, "--run-dir", str(directory), *resume], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if code := os.waitstatus_to_exitcode(status):
            return {"exit code": code}
        memory.write_text(json.dumps(usage.ru_maxrss))
    return _figures(directory, json.loads(memory.read_text()))


def _figures(directory: Path, kilobytes: int) -> dict[str, Any]:
    found = record.read(directory)
    assert isinstance(found, SearchRecord)
    with (directory / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    genotype = from_text(found.result.genotype)
    return {
        "held-out %": round(found.result.valid_accuracy, 1),
        "entropy": round(float(last["normal_entropy"]), 3),
        "skips": int(float(last["normal_skips"])),
        "parameter-free": _parameter_free(genotype),
        "seconds": round(found.result.seconds, 1),
        "peak MiB": round(kilobytes / 2**10),
        "normal cell": " ".join(edge.operation for node in genotype.normal.nodes for edge in node),
    }


def _parameter_free(genotype: Genotype) -> int:
    cells = genotype.normal, genotype.reduce
    return sum(is_parameter_free(edge.operation) for cell in cells for node in cell.nodes for edge in node)


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
