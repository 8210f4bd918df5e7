"""Whether a search leaves HB-Net: `python -m benchmarks.hb_start --data FOLDER`.

Searches Space-HB from HB-Net (`--init hb`) with several gaps and seeds on a folder of images. After each epoch, it
counts the slots whose strongest operation is no longer the initial one: at each node the identity of o2 and the
negative identity of o, hence 8 in a cell of four nodes. The learning rate of the architecture is chosen so that the
number of steps times the learning rate is that of the paper's search, 19,550 Adam steps of 3e-4: a logit can move as
far in fewer steps. The final values of the peaked logits are reported too: weight decay moves all of them alike, so
the differences between slots are due to the images. Prints a table; --out also writes it as JSON. A search that has
ended is not run again.
"""

from __future__ import annotations

import csv
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import genotypes
import spaces
from benchmarks.command import run_benchmark
from benchmarks.timing import write_result
from genotypes import CELL_NAMES, Genotype
from genotypes.config import Config as _Config
from genotypes.config import Count, Epochs, NotNegative, Seed
from nas import search
from nas.data import DataConfig, load
from nas.methods.bilevel import BilevelConfig
from nas.methods.config import SearchConfig
from nas.runs import checkpoint, record
from nas.runs.record import SearchRecord
from nas.runs.run import RunConfig
from nas.screen import table
from nas.supernet import SupernetConfig
from spaces import KINDS, SpaceConfig

#: The published protocol: 50 epochs of 391 steps.
PAPER_STEPS, PAPER_RATE = 19_550, 3e-4


@dataclass(frozen=True, kw_only=True)
class Config(_Config):
    """The images, the small supernet, and the values to compare."""

    data: str = ""
    """Folder of images, with train/ and test/."""
    image_size: Count = 16
    """Side of the images in pixels."""
    gaps: tuple[NotNegative, ...] = (2, 3, 5, 10)
    """How far a peaked logit starts above the others."""
    seeds: tuple[Seed, ...] = (1, 2, 3)
    """Seeds of the searches."""
    layers: Count = 4
    """Cells of the supernet."""
    channels: Count = 8
    """Channels of its first cells."""
    epochs: Epochs = 10
    """Epochs of a search."""
    batch_size: Count = 32
    """Images per batch."""
    runs: str = "runs/hb_start"
    """Directory of the search runs."""
    out: str | None = None
    """Also write the results to this file, as JSON."""


def main(config: Config) -> None:
    """Searches with every gap and seed, and prints how many slots have left their start."""
    data = DataConfig(dataset="folder", data=config.data, image_size=config.image_size, batch_size=config.batch_size)
    images = len(load(data).train_labels)
    steps = config.epochs * -(-(images // 2) // config.batch_size)
    rows = []
    for seed in config.seeds:  # all gaps of a seed first, so that a study stopped early can be compared
        for gap in config.gaps:
            rows.append({"gap": gap, "seed": seed, **_searched(config, data, steps, gap, seed)})
            print(json.dumps(rows[-1]), flush=True)
            write_result(config.out, config, torch.device("cpu"), [*_summary(config, rows), *rows])
    print(table(_summary(config, rows)))


def _searched(config: Config, data: DataConfig, steps: int, gap: float, seed: int) -> dict[str, Any]:
    """The results of one search, which runs unless it has already ended."""
    directory = Path(config.runs) / f"gap{gap:g}-seed{seed}"
    start = SpaceConfig(space="hb", init="hb", init_gap=gap)
    if not (directory / record.NAME).exists():
        search.search(
            SearchConfig(
                seed=seed,
                epochs=config.epochs,
                run=RunConfig(run_dir=str(directory), resume=(directory / "config.json").exists(), device="cpu"),
                data=data,
                space=start,
                supernet=SupernetConfig(layers=config.layers, init_channels=config.channels),
                bilevel=BilevelConfig(arch_learning_rate=PAPER_STEPS * PAPER_RATE / steps),
            )
        )
    found = record.read(directory)
    assert isinstance(found, SearchRecord)
    return {
        **_left_start(directory),
        "logits": _peaked_logits(directory, start),
        "steps": steps,
        "valid_accuracy": found.result.valid_accuracy,
        "genotype": found.result.genotype,
        "parameter_free": _parameter_free(genotypes.load(directory / "genotype.json")),
        "seconds": found.result.seconds,
    }


def _left_start(directory: Path) -> dict[str, list[int]]:
    """By kind of cell, how many slots had left their start after each epoch, from the metrics of the search."""
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {f"left_{kind}": [int(row[f"{CELL_NAMES[kind]}_left_start"]) for row in rows] for kind in KINDS}


def _peaked_logits(directory: Path, start: SpaceConfig) -> list[float]:
    """The final logits of the operations that slots started with, those of the normal cell first."""
    state = checkpoint.load(directory)
    assert state is not None
    space = spaces.build(start)
    space.load_state_dict(state["tracked"]["space"])
    return [
        space.alpha[kind][edge, space.operations.index(operation)].item()
        for kind in KINDS
        for edge, operation in space.peaked[kind].items()
    ]


def _parameter_free(genotype: Genotype) -> int:
    cells = (genotype.normal, genotype.reduce)
    return sum("conv" not in edge.operation for cell in cells for node in cell.nodes for edge in node)


def _summary(config: Config, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each gap: the slots that have left at the end, logits and accuracy, averaged over the seeds."""
    summary = []
    for gap in config.gaps:
        if not (group := [row for row in rows if row["gap"] == gap]):
            continue
        summary.append(
            {
                "gap": gap,
                "n": len(group),
                **{f"left, {kind}": statistics.mean(row[f"left_{kind}"][-1] for row in group) for kind in KINDS},
                "left, each": " ".join("+".join(str(row[f"left_{kind}"][-1]) for kind in KINDS) for row in group),
                **_spread([logit for row in group for logit in row["logits"]]),
                "parameter-free of 24": statistics.mean(row["parameter_free"] for row in group),
                "valid %": statistics.mean(row["valid_accuracy"] for row in group),
            }
        )
    return summary


def _spread(logits: list[float]) -> dict[str, float]:
    return {"logit": statistics.mean(logits), "std of it": statistics.stdev(logits)}


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
