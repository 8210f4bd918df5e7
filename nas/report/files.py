"""What there is to show of a run, read from its directory; what cannot be read is left out, and named."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

import genotypes
from genotypes import Genotype, GenotypeError
from genotypes.messages import below, reason_of
from nas.data import manifest
from nas.data.manifest import Manifest
from nas.errors import UsageError
from nas.methods.derivation import DerivationConfig
from nas.networks.cells import NetworkConfig
from nas.networks.forms import Form, chosen, form_of
from nas.runs import mixing, record
from nas.runs.directory import read_config, read_json
from nas.runs.mixing import EpochMixing
from nas.runs.record import SearchRecord, TrainRecord

T = TypeVar("T")
Row = Mapping[str, float]

#: Bytes of a table: 100,000 epochs of a search have fewer in metrics.csv, a million test images in confusion.csv.
_LARGEST_TABLE = 50_000_000


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a search or training run, finished or not."""

    directory: Path
    kind: Literal["search", "training"]
    config: Mapping[str, Any]
    """Empty if it cannot be read, like the others here."""
    env: Mapping[str, Any]
    record: SearchRecord | TrainRecord | None
    rows: tuple[Row, ...]
    """Of metrics.csv: an epoch each, with the figures that are numbers."""
    genotype: Genotype | None
    """That of the finished run."""
    genotypes: Mapping[int, Genotype]
    """By epoch."""
    mixing: Mapping[int, EpochMixing]
    """By epoch."""
    images: Manifest | None
    faults: tuple[str, ...]
    """What is damaged, a line each."""

    @property
    def form(self) -> Form | None:
        """The evaluation network of the run's genotype; None if the files do not say which that is."""
        if self.images is None:
            return None
        images = self.images
        try:
            if self.kind == "training":
                network = msgspec.convert(self.config.get("network"), NetworkConfig)
                return Form(network, images.image_size, len(images.classes), images.channels)
            own = form_of(
                images.dataset,
                in_channels=images.channels,
                image_size=images.image_size,
                num_classes=len(images.classes),
            )
            return chosen(msgspec.convert(self.config.get("derivation"), DerivationConfig), own)
        except msgspec.ValidationError:
            return None


def read(directory: Path) -> RunFiles:
    """Reads what there is. Raises UsageError where there is no search and no training."""
    faults: list[str] = []
    config = read_or_none(lambda: read_config(directory), faults) or {}
    found = read_or_none(lambda: record.read(directory), faults) if (directory / record.NAME).exists() else None
    weights, damaged = mixing.read(directory)
    by_epoch = _genotypes(directory, faults)
    kind = _kind(config, found, searched=bool(weights or by_epoch))
    if kind is None:
        raise UsageError(
            faults[0]
            if faults and not config
            else f"{directory} holds neither a search nor a training; name one{below(directory, 'config.json')}"
        )
    final = directory / "genotype.json"
    return RunFiles(
        directory=directory,
        kind=kind,
        config=config,
        env=read_or_none(lambda: read_json(directory / "env.json", dict[str, Any]), faults) or {},
        record=found,
        rows=read_or_none(lambda: _rows(directory / "metrics.csv"), faults) or (),
        genotype=read_or_none(lambda: genotypes.load(final), faults) if final.exists() else None,
        genotypes=by_epoch,
        mixing=weights,
        images=read_or_none(lambda: manifest.read(directory), faults),
        faults=(*faults, *damaged),
    )


def read_or_none(read: Callable[[], T], faults: list[str]) -> T | None:
    """What is read, or None and a line of why it cannot be."""
    try:
        return read()
    except FileNotFoundError as error:
        faults.append(f"{error.filename} is missing")
    except OSError as error:
        faults.append(f"{error.filename} cannot be read: {error.strerror}")
    except ValueError as error:
        faults.append(reason_of(error))
    return None


def _kind(
    config: Mapping[str, Any], found: SearchRecord | TrainRecord | None, *, searched: bool
) -> Literal["search", "training"] | None:
    if "space" in config or isinstance(found, SearchRecord) or searched:
        return "search"
    return "training" if "training" in config or found is not None else None


def _genotypes(directory: Path, faults: list[str]) -> dict[int, Genotype]:
    found = {}
    for path in sorted((directory / "genotypes").glob("epoch_*.json")):
        number = re.fullmatch(r"epoch_(\d{3,6})\.json", path.name)
        if number is None:
            continue
        try:
            found[int(number[1])] = genotypes.load(path)
        except (GenotypeError, OSError) as error:
            faults.append(reason_of(error))
    return found


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises ValueError for what is not a table, OSError."""
    with path.open("rb") as file:
        content = file.read(_LARGEST_TABLE + 1)
    if len(content) > _LARGEST_TABLE:
        raise ValueError(f"{path} cannot be read: it holds more than {_LARGEST_TABLE:,} bytes")
    try:
        return list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read: {reason_of(error)}") from error


def _rows(path: Path) -> tuple[Row, ...]:
    """The rows with an epoch. Raises ValueError for what is not a table, OSError."""
    lines = read_table(path)
    rows = [{name: value for name, text in line.items() if (value := _number(text)) is not None} for line in lines]
    return tuple(row for row in rows if "epoch" in row)


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
