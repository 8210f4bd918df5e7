"""A cell of a study: a search and a training in ordinary run directories, resumed where they stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import genotypes
from genotypes.atomic import write_atomically
from genotypes.messages import one_line
from nas import screen
from nas.errors import UsageError
from nas.runs import record
from nas.runs.directory import Directory, changes, described, read_json
from nas.runs.record import SearchRecord, TrainRecord
from nas.runs.run import RunConfig
from nas.search import search
from nas.study.plan import Cell
from nas.train import train

#: Below the directory of a cell.
SEARCH, TRAIN, GENOTYPE = "search", "train", "genotype.json"
_SETTINGS, _FAILED = "cell.json", "failed.txt"


def finished(cell: Cell, root: Path) -> SearchRecord | TrainRecord | None:
    """The record of a cell's training, or of its search if it trains nothing; None until that has ended.

    Raises UsageError for a faulty record, and for a cell that another study, or an earlier form of this one, computed.
    """
    check_same(cell, root)
    directory, kind = _last_run(cell, root), TrainRecord if cell.trained else SearchRecord
    if not (directory / record.NAME).exists():
        return None
    found = record.read(directory)
    if not isinstance(found, kind):
        raise UsageError(f"{directory} is another kind of run; delete it, or choose another --out")
    return found


class Finished(NamedTuple):
    """What a cell that has ended has left, and what it last computed on."""

    record: SearchRecord | TrainRecord
    device: str


class Reader:
    """Reads the cells of the study in `root`, each of those that have ended once, because they change no more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ended: dict[Path, Finished] = {}

    def finished(self, cell: Cell) -> Finished | None:
        """What `finished` gives of a cell, and its device. Raises UsageError as that does."""
        if cell.path not in self._ended and (found := finished(cell, self.root)) is not None:
            self._ended[cell.path] = Finished(found, _device(_last_run(cell, self.root)))
        return self._ended.get(cell.path)


def _last_run(cell: Cell, root: Path) -> Path:
    return root / cell.path / (TRAIN if cell.trained else SEARCH)


def _device(directory: Path) -> str:
    env = Directory(directory).read_object("env.json")
    resumed = env.get("resumed")
    latest = resumed[-1] if isinstance(resumed, list) and resumed else env
    return str(latest.get("device", "unknown")) if isinstance(latest, dict) else "unknown"


def check_same(cell: Cell, root: Path) -> None:
    """Raises UsageError where the directory of a cell was begun with other settings."""
    try:
        before = read_json(root / cell.path / _SETTINGS, dict[str, Any])
    except FileNotFoundError:
        return
    if before != (now := described(cell.settings)):
        what = changes(before, now) or "flags of another version of this program"
        raise UsageError(
            f"{root / cell.path} was begun with other settings: {what}; choose another --out, or delete that folder"
        )


def compute(cell: Cell, root: Path, device: str) -> None:
    """Searches, trains and tests what has not been, on `device`.

    Raises UsageError, NonFiniteLossError and OSError as `search` and `train` do, and Stopped after a signal.
    """
    directory = root / cell.path
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / _SETTINGS, cell.settings)
    arch = cell.train.arch
    with screen.shown_by(None):
        if cell.search is not None:
            if not (directory / SEARCH / record.NAME).exists():
                search(replace(cell.search, run=run_in(cell.search.run, directory / SEARCH, device)))
            arch = str(directory / SEARCH)
        if cell.genotype is not None:
            genotypes.save(cell.genotype, directory / GENOTYPE)
            arch = str(directory / GENOTYPE)
        if cell.trained and not (directory / TRAIN / record.NAME).exists():
            train(replace(cell.train, arch=arch, run=run_in(cell.train.run, directory / TRAIN, device)))


def run_in(config: RunConfig, directory: Path, device: str) -> RunConfig:
    """A run in a directory, which continues the one that has begun there."""
    begun = (directory / "config.json").exists()
    return replace(config, run_dir=str(directory), resume=begun, device=device)


def settings_of(cell: Cell, root: Path) -> dict[str, Any]:
    """The settings that a cell was begun with. Raises UsageError where there are none to be read."""
    try:
        return read_json(root / cell.path / _SETTINGS, dict[str, Any])
    except FileNotFoundError as error:
        raise UsageError(f"{root / cell.path} has no {_SETTINGS}; it is no cell of a study that was begun") from error


def fail(cell: Cell, root: Path, why: str) -> None:
    """Leaves why a cell failed in its directory."""
    (root / cell.path).mkdir(parents=True, exist_ok=True)
    write_atomically(root / cell.path / _FAILED, f"{one_line(why)}\n".encode())


def failure(cell: Cell, root: Path) -> str | None:
    """Why a cell failed when it was last tried; None if it did not."""
    try:
        return (root / cell.path / _FAILED).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def forget_failure(cell: Cell, root: Path) -> None:
    """Lets a cell be tried once more."""
    (root / cell.path / _FAILED).unlink(missing_ok=True)


def _write_json(path: Path, settings: dict[str, Any]) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")
