"""The record that a finished run leaves for other programs; read and written only here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from genotypes.messages import below
from nas.data.manifest import Manifest
from nas.engine.calibration import Calibration
from nas.errors import UsageError
from nas.runs.directory import Directory, read_json

NAME = "record.json"
#: The result alone, for scripts; the same as the last line of the output.
RESULT = "result.json"

_Count = Annotated[int, Meta(ge=0, le=2**62)]
_Percent = Annotated[float, Meta(ge=0, le=100)]
_Seconds = Annotated[float, Meta(ge=0)]
_Milliseconds = Annotated[float, Meta(ge=0)]
_Value = bool | int | float | str | None

Settings = dict[str, _Value | list[_Value]]
"""A flat configuration with dotted names."""


class SearchResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a search; the names of the fields are the documented keys of `result.json`."""

    run_dir: str
    space: str
    dataset: str
    genotype: str
    """In the notation of the literature."""
    valid_accuracy: _Percent
    """The supernet's, on the architecture's half of the training images."""
    params: _Count | UnsetType = UNSET
    """Of the genotype's evaluation network, in the form for the data set; searches of earlier versions lack it."""
    macs: _Count | UnsetType = UNSET
    """Multiply-adds of that network for one image."""
    latency_ms: _Milliseconds | UnsetType = UNSET
    """Predicted milliseconds of that network; only with --latency-table."""
    epochs: _Count
    seconds: _Seconds


class EvaluationResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The figures of a trained network; the names of the fields are the documented keys of `result.json`."""

    run_dir: str
    arch: str
    dataset: str
    test_accuracy: _Percent
    test_error: _Percent
    test_top5_error: _Percent | UnsetType = UNSET
    """Only for more than 5 classes."""
    params: _Count
    macs: _Count
    """Multiply-adds of one image."""
    seconds: _Seconds
    """Of the training, or of the measurement if nothing was trained."""
    epochs: _Count


class TrainResult(EvaluationResult, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a training run."""

    space: str | None
    """That of the search that found the genotype; None if no search is known."""
    search_seconds: _Seconds | None
    best_test_accuracy_chosen_on_test: _Percent | UnsetType = UNSET
    calibration: Calibration | UnsetType = UNSET
    """On the training images that were held out, if there were any."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    seed: int
    settings: Settings
    """Everything else that decides the result, except the architecture and the images."""
    data: Manifest
    """The identity of the images, without single files."""


class SearchRecord(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="search"):
    """A finished search."""

    result: SearchResult


class TrainRecord(_Record, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="training"):
    """A finished training run."""

    result: TrainResult
    architecture: str
    """What was trained: the genotype in the notation of the literature, or the name of a network, such as hbnet56 or
    torchvision:resnet18."""
    search: SearchRecord | None
    """The search that found the genotype. Training runs copy it, so that it survives when directories are moved."""


def write(directory: Directory, record: SearchRecord | TrainRecord) -> None:
    """Writes the record, and the result for scripts, to the run's directory. Raises OSError."""
    directory.write_json(NAME, msgspec.to_builtins(record))
    directory.write_json(RESULT, as_json(record.result))


def as_json(result: SearchResult | EvaluationResult) -> dict[str, Any]:
    """A result as JSON data."""
    return msgspec.to_builtins(result)


def read(directory: Path) -> SearchRecord | TrainRecord:
    """The record of the run in a directory. Raises UsageError if there is none, or it is faulty."""
    try:
        return read_json(directory / NAME, SearchRecord | TrainRecord)
    except FileNotFoundError:
        raise UsageError(
            f"{directory} has no {NAME}, which a run writes when it ends; name the directory of a finished run"
            f"{below(directory, NAME)}, or finish this one with --resume"
        ) from None


def search_behind(directory: Path) -> SearchRecord | None:
    """The search that found the genotype in a run's directory; None if no record names one.

    Raises UsageError for a faulty record.
    """
    if not os.path.isfile(directory / NAME):  # which is false where the name is too long
        return None
    record = read(directory)
    return record if isinstance(record, SearchRecord) else record.search
