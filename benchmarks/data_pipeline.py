"""Images a second that the loaders serve: `python -m benchmarks.data_pipeline`.

*In memory* are random images of CIFAR's shape, held and augmented on the device. *Streamed* are JPEGs that this program
writes to a temporary folder; worker processes read them as they read ImageNet's, and they are copied to the device.
Both are served with augmentation, as in training, and without, as in testing. Prints a table; --out also writes it as
JSON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import Step, spread, time_rounds, write_result
from genotypes.config import AtLeast, Count
from nas.data import DataConfig, Loader, load
from nas.engine.device import resolve_device
from nas.screen import table


@dataclass(frozen=True, kw_only=True)
class Config(BenchmarkConfig):
    """The images and how they are served."""

    images: Count = 50_000
    """Images in memory, of 32x32 pixels."""
    batch_size: Count = 64
    """Images per batch."""
    jpegs: Count = 2_000
    """Streamed images."""
    jpeg_size: tuple[Count, Count] = (500, 375)
    """Width and height of the files, about as in ImageNet."""
    image_size: Count = 224
    """Resize streamed images to this side in pixels."""
    workers: Annotated[int, AtLeast(0)] = 2
    """Processes that read them."""
    rounds: Count = 3
    """Timed epochs, after one of warm-up."""


def main(config: Config) -> None:
    """Prints the table of one configuration."""
    device = resolve_device(config.device)
    with _loaders(config, device) as loaders:
        steps: dict[tuple[str, str], Step] = {name: partial(_serve, loader) for name, loader in loaders.items()}
        rows = []
        for (images, served), seconds in time_rounds(steps, config.rounds, device).items():
            times = spread(seconds)
            number = loaders[images, served].num_images
            rows.append(
                {
                    "images": images,
                    "served": served,
                    "images/s": 1e3 * number / times["median ms"],
                    "least": 1e3 * number / times["max ms"],
                    "most": 1e3 * number / times["min ms"],
                }
            )
    print(table(rows))
    write_result(config.out, config, device, rows)


def _serve(loader: Loader) -> None:
    for _ in loader.epoch(0):
        pass


@contextmanager
def _loaders(config: Config, device: torch.device) -> Iterator[dict[tuple[str, str], Loader]]:
    memory = DataConfig(dataset="fake", fake_train=config.images, batch_size=config.batch_size, cutout=True)
    with tempfile.TemporaryDirectory() as folder:
        write_jpegs(Path(folder), config.jpegs, config.jpeg_size)
        streamed = DataConfig(
            dataset="imagenet",
            data=folder,
            image_size=config.image_size,
            batch_size=config.batch_size,
            workers=config.workers,
        )
        loaders = {}
        for name, data in (("in memory", memory), ("streamed", streamed)):
            served: Callable[..., Loader] = partial(load(data).train_loader, seed=0, device=device)
            loaders[name, "augmented"] = served()
            loaders[name, "as they are"] = served(augment=False)
        yield loaders


def write_jpegs(folder: Path, number: int, size: tuple[int, int]) -> None:
    """Writes `number` JPEGs of (width, height) for training and two for testing to a folder laid out like ImageNet."""
    width, height = size
    random = np.random.default_rng(0)
    # Blotches compress about as photographs do; noise in every pixel is what JPEG compresses worst.
    blotches = random.integers(256, size=(number + 2, height // 25 + 1, width // 25 + 1, 3), dtype=np.uint8)
    for i, pixels in enumerate(blotches):
        path = folder / ("train" if i < number else "val") / f"class_{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(path, quality=90)


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
