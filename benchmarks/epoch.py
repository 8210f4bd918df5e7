"""Seconds per epoch of the actual commands on random images of CIFAR's shape: `python -m benchmarks.epoch`.

Runs `train_search.py` and `train_eval.py` as a user would, with data, metrics, checkpoints and pictures. The time of an
epoch is the time between two rows of the run's `metrics.csv`. The first epoch, which also allocates, compiles and
captures, is reported separately. The time of the paper's protocol on all of CIFAR-10 is *extrapolated* in proportion to
images and epochs. Prints a table; --out also writes it as JSON.
"""

from __future__ import annotations

import csv
import itertools
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import nas.recipes
import nas.training_recipes
from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import write_result
from genotypes.config import AtLeast, Count
from nas.engine.device import Precision, resolve_device
from nas.screen import table

_ROOT = Path(__file__).resolve().parent.parent

#: Training images of CIFAR-10.
_CIFAR = 50_000


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """What to run; the defaults are the paper's protocol on as many images as CIFAR-10 has."""

    spaces: tuple[str, ...] = ("darts", "hb", "agd")
    """Search spaces to search in; none for no search."""
    unrolled: bool = False
    """Search with second-order architecture steps."""
    archs: tuple[str, ...] = ("DARTS_V2",)
    """Networks to train; none for no training."""
    images: Count = 50_000
    """Training images; a fifth of that number is added for testing."""
    epochs: Annotated[int, AtLeast(2)] = 3
    """Epochs of each run; all but the first are timed."""
    search_layers: Count = 8
    """Cells of the supernet."""
    search_channels: Count = 16
    """Channels of its first cells."""
    search_batch_size: Count = 64
    """Images per batch in the search."""
    train_layers: Count = 20
    """Cells of the network."""
    train_channels: Count = 36
    """Channels of its first cells."""
    train_batch_size: Count = 96
    """Images per batch in the training."""
    image_size: Count = 32
    """Side of the images in pixels."""
    precision: Precision = "fp32"
    """Forward passes in fp32 or bf16."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.spaces or self.archs):
            raise ValueError("--spaces and --archs are both empty; name something to run")


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    order = ["--unrolled"] if config.unrolled else []
    kind = "search, second order" if config.unrolled else "search, first order"
    epochs = nas.recipes.paper("cifar10").epochs
    rows = [_row(config, f"{kind}, {space}", _search(config, space) + order, epochs) for space in config.spaces]
    epochs = nas.training_recipes.paper("cifar10").epochs
    rows += [_row(config, f"training, {arch}", _training(config, arch), epochs) for arch in config.archs]
    print(table(rows))
    write_result(config.out, config, resolve_device(config.device), rows)


def _search(config: Config, space: str) -> list[str]:
    size = _size(config.search_layers, config.search_channels, config.search_batch_size)
    return ["train_search.py", "--space", space, *size]


def _training(config: Config, arch: str) -> list[str]:
    size = _size(config.train_layers, config.train_channels, config.train_batch_size)
    return ["train_eval.py", "--arch", arch, *size]


def _size(layers: int, channels: int, batch_size: int) -> list[str]:
    return ["--layers", str(layers), "--init-channels", str(channels), "--batch-size", str(batch_size)]


def _row(config: Config, task: str, command: list[str], protocol_epochs: int) -> dict[str, Any]:
    """The time of one run, and the extrapolated time of `protocol_epochs` epochs on CIFAR-10."""
    first, *others = epoch_seconds(config, command)
    epoch = statistics.median(others)
    return {
        "task": task,
        "images": config.images,
        "first epoch s": first,
        "epoch s": epoch,
        "protocol": f"{protocol_epochs} epochs of CIFAR-10",
        "extrapolated h": epoch * _CIFAR / config.images * protocol_epochs / 3600,
    }


def epoch_seconds(config: Config, command: list[str]) -> list[float]:
    """Seconds of each epoch in a run of `command`, a script of the checkout with its flags."""
    script, *flags = command
    data = ["--dataset", "fake", "--fake-train", str(config.images), "--fake-test", str(max(1, config.images // 5))]
    data += ["--image-size", str(config.image_size), "--device", config.device, "--precision", config.precision]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        subprocess.run(
            [
                *(sys.executable, str(_ROOT / script)),
                *flags,
                *data,
                *("--epochs", str(config.epochs), "--run-dir", str(run)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with (run / "metrics.csv").open() as file:
            elapsed = [0.0, *(float(row["seconds"]) for row in csv.DictReader(file))]
    return [later - earlier for earlier, later in itertools.pairwise(elapsed)]


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
