"""Valid files, from which faulty ones are made: the same wherever and whenever the runs were computed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
import torch
from PIL import Image, features

import genotypes
from genotypes.config import Config
from nas.networks.latency_table import Calibration, LatencyTable, MeasuredForm, OperationLatency
from nas.runs import mistakes, predictions
from nas.runs.mistakes import Mistake
from nas.runs.run import Run, RunConfig, directory_of
from nas.study.statistics import Interval
from nas.study.table import CellResult, Failed, RowResult, Table

STUDIES = (
    b"""title = "Searched and drawn"
seeds = 1
[data]
dataset = "fake"
image_size = 8
[search]
epochs = 1
nodes = 2
temperature = 5.0
[train]
preset = "smoke"
[[row]]
name = "GDAS"
search = { space = "hb", method = "gdas", init = "zero" }
train = { layers = 2 }
[[row]]
name = "random"
random = { space = "hb", nodes = 2 }
seeds = [0, 3]
""",
    b"""title = "Given"
[[row]]
name = "DARTS"
arch = "DARTS_V2"
published = 2.76
[[row]]
name = "HB-Net"
arch = "hbnet8"
train = { learning-rate = 0.1, cutout = true }
""",
)
"""Studies with the kinds of rows that are planned fast."""

TABLES = (predictions.CLASSES, predictions.CONFUSION, mistakes.TABLE)
TABLES_SIZE = (8, 8)
"""Height and width of the images that they are of."""

#: What differs between two runs of the same command, and what takes its place.
_OWN = (
    (re.compile(rb'("run_dir": )"[^"]*"'), rb'\1"runs/seed"'),
    (re.compile(rb'("(?:search_)?seconds": )[\d.e+-]+'), rb"\g<1>1.5"),
    (re.compile(rb'("pid": )\d+'), rb"\g<1>1"),
    (re.compile(rb'("host": )"[^"]*"'), rb'\1"here"'),
    # The last digits of what was computed depend on the processor.
    (re.compile(rb"(\d\.\d\d)\d{3,}"), rb"\1"),
)
NO_DIGEST = "0" * 64


def of_run(directory: Path, file: str) -> bytes:
    """A file of a run, without what differs between two runs of the same command."""
    content = (directory / file).read_bytes()
    for own, instead in _OWN:
        content = own.sub(instead, content)
    return content


def weights_of(path: Path) -> bytes:
    """The file of weights with zeros for all values."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"]["sha256"] = NO_DIGEST
    return sealed_weights(json.dumps(header).encode(), bytes(len(content) - end))


def sealed_weights(header: bytes, values: bytes) -> bytes:
    """A file of weights with a header whose digest is zeros, under its right digest."""
    file = len(header).to_bytes(8, "little") + header + values
    return file.replace(NO_DIGEST.encode(), hashlib.sha256(file).hexdigest().encode())


def run_of_nothing(directory: Path) -> Path:
    """The directory of a run that computes nothing, so that it resumes in no time, after two of its three epochs."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        mock.patch.object(Run, "seconds", 1.5),
        mock.patch("nas.runs.environment.describe", return_value={"command": ["soak"], "packages": {"torch": "2"}}),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)
        epochs_of_nothing(directory, 2)
    return directory


def epochs_of_nothing(directory: Path, number: int, *, resume: bool = False) -> None:
    """So many epochs of that run, which is then stopped."""
    config = RunConfig(run_dir=str(directory), resume=resume)
    cpu = torch.device("cpu")
    kept = directory_of(config, _Anything(config), default_name="", device=cpu)
    run = Run(kept, {}, device=cpu, deterministic=False, epochs=3, steps=1)
    with run:
        for _ in itertools.islice(run.epochs(), number + 1):
            if number:
                run.add_metrics({"train_loss": 1.0})
            number -= 1


@dataclass(frozen=True)
class _Anything(Config):
    run: RunConfig


def tables(directory: Path) -> Path:
    """The directory of what was predicted for six images of two classes; the names of its files are in `TABLES`."""
    directory.mkdir()
    wrong = [Mistake("ant/1.png", "ant", "bee", 0.9), Mistake('bee/2, "b".png', "bee", "ant", 0.75)]
    rows = {
        predictions.CLASSES: "class,images,correct,accuracy\nant,3,2,66.66\nbee,3,2,66.66\n",
        predictions.CONFUSION: "class,predicted,images\nant,ant,2\nant,bee,1\nbee,ant,1\nbee,bee,2\n",
        mistakes.TABLE: 'image,class,predicted,probability\nant/1.png,ant,bee,0.9\n"bee/2, ""b"".png",bee,ant,0.75\n',
    }
    for name, text in rows.items():
        (directory / name).write_text(text)
    mistakes.sheet([np.zeros((3, *TABLES_SIZE), np.uint8)] * 2, wrong).save(directory / mistakes.SHEET)
    return directory


def table_of_study() -> Table:
    """A search of two seeds against two random architectures."""
    apart = Interval(mean=-1.0, std=None, low=-3.0, high=1.0)
    rows = []
    for name, kind in (("hb", "search"), ("random", "random")):
        cells = [
            CellResult(
                seed=seed,
                test_error=3.0 + seed,
                params=300_000 + seed,
                macs=5_000_000,
                search_seconds=20.0 if kind == "search" else None,
                train_seconds=70.5,
                genotype="resnet20",
                directory=f"cells/{name}/{seed}",
            )
            for seed in range(2)
        ]
        row = RowResult(
            name=name,
            kind=kind,
            baseline="random" if kind == "search" else None,
            published=2.5,
            planned=3,
            n=2,
            test_error=Interval(mean=3.5, std=0.7, low=-2.8, high=9.8),
            params=300_000.5,
            macs=5_000_000.0,
            search_seconds=20.0 if kind == "search" else None,
            train_seconds=70.5,
            device="cpu (x86_64)",
            difference=apart if kind == "search" else None,
            relative_improvement=apart if kind == "search" else None,
            cells=cells,
            failed=[Failed(seed=2, why="the disk is full")],
        )
        rows.append(row)
    environment = {"commit": None, "command": ["soak"], "packages": {"torch": "2"}}
    return Table(
        title="Small", environment=environment, settings={"data": {"dataset": "fake"}}, agreement=0.0, rows=rows
    )


def latency_table() -> LatencyTable:
    """A table of networks of a single cell, which reduces."""
    form = MeasuredForm(layers=1, init_channels=2, stem="cifar", in_channels=3, height=8, width=8, classes=10)
    first = [
        OperationLatency(operation=name, channels=4, stride=2, height=8, width=8, ms=0.5)
        for name in genotypes.OPERATIONS
    ]
    times = (*first, *(msgspec.structs.replace(time, stride=1, height=4, width=4) for time in first))
    return LatencyTable(
        runtime="pytorch",
        space="darts",
        edges=(2, 2, 2, 2),
        form=form,
        batch=1,
        rounds=30,
        device="cpu",
        processor="some",
        threads=1,
        torch="2.14.1",
        operations=times,
        calibration=Calibration(networks=13, rest_ms=1.5, factor=0.9, mean_error=3, largest_error=9),
    )


def images() -> dict[str, tuple[bytes, ...]]:
    """Small images in several modes, in every format that Pillow can write and that users may have."""
    formats = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "ppm": "PPM", "webp": "WEBP"}
    formats |= {"tga": "TGA", "ico": "ICO"}
    formats |= {"jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    formats |= {"avif": "AVIF"} if features.check("avif") else {}
    gradient = Image.linear_gradient("L").resize((19, 17))
    found: dict[str, tuple[bytes, ...]] = {}
    for ending, name in formats.items():
        for mode in ("L", "RGB", "RGBA", "P", "I;16", "1"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):
                gradient.convert(mode).save(buffer, name)
                found[ending] = (*found.get(ending, ()), buffer.getvalue())
    return found
