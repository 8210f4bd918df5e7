"""Search, train and test many architectures over several seeds: `optinas-study studies/digits.toml --out runs/digits`.

The file names the rows of a table (docs/STUDIES.md). Each seed of a row is a run of the other commands, in a folder of
its own. The same command resumes a study that was stopped, computes no cell twice, and tries those that failed again.
"""

from __future__ import annotations

# isort: off
import nas.interrupts  # noqa: F401 - before all that takes long

# isort: on
import json
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path
from signal import Signals
from typing import Annotated, Any, Literal

import torch
import tyro

from genotypes.atomic import is_leftover, write_atomically
from genotypes.config import Common, Config, Count, IsPath, NoneMeans
from nas import cli, data
from nas.data import DataConfig
from nas.data.manifest import Manifest
from nas.errors import Stopped, UsageError, users_mistakes
from nas.report.run import NAME as REPORT
from nas.runs import environment
from nas.runs.directory import LOCK, Directory
from nas.study import cells, local, page, table
from nas.study.cells import Reader
from nas.study.local import Ended
from nas.study.plan import Cell, Plan
from nas.study.planning import read


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Config):
    """Which study, and where and how it is computed."""

    file: Annotated[str, Common, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The study, a file in TOML."""
    out: Annotated[str, IsPath, Common]
    """Folder of the study: its cells, and the table in several forms."""
    jobs: Annotated[Count | None, Common, NoneMeans("one for each GPU, or one")] = None
    """Cells computed at the same time; they share the cores of the CPU."""
    device: Annotated[str, Common] = "auto"
    """cpu, cuda (all GPUs), cuda:1 and so on, or auto: the GPUs if there are any."""
    dataset: Annotated[str | None, Common, NoneMeans("that of the file")] = None
    """Data set in place of the file's: digits, cifar10, cifar100, imagenet or folder."""
    data: Annotated[str | None, IsPath, Common, NoneMeans("that of the file")] = None
    """Folder that holds the data."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own that the study may name, for their spaces, methods and operations: no others are imported."""
    executor: Annotated[Literal["local", "slurm"], Common] = "local"
    """Compute on this machine, or as an array of jobs of Slurm."""
    slurm_options: tuple[str, ...] = ()
    """Options of Slurm by submitit's names, such as slurm_partition=gpu timeout_min=1440 gpus_per_node=1."""


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, computes what is left of the study, writes and prints its table; returns what has been done.

    Raises SystemExit, after the result, where cells have failed.
    """
    result = study(cli.parse(StudyConfig, argv, description=__doc__ or ""))
    if result["failed"]:
        print(json.dumps(result), flush=True)
        raise SystemExit(1)
    return result


def study(config: StudyConfig) -> dict[str, Any]:
    """Computes what is left of a study, and returns how much of it there is now.

    Raises UsageError, before anything is computed, for what is not right in its file; Stopped; OSError.
    """
    named = {"dataset": config.dataset, "data": config.data}
    given = {name: value for name, value in named.items() if value is not None}
    plan = read(Path(config.file), given, config.operations_from)
    reader = Reader(Path(config.out))
    begun = reader.root.is_dir()
    pending = [cell for cell in plan.cells if not (begun and reader.finished(cell))]
    with users_mistakes():
        places = local.places(config.jobs, config.device, most=len(plan.cells))
        if pending:
            _check_images(plan)  # what is wrong with them is told before anything is written
    directory = _made(reader.root)
    directory.lock()
    try:
        write_atomically(directory.path / "study.toml", Path(config.file).read_bytes())
        directory.log(f"{plan.title}: {len(plan.cells)} cells, {len(pending)} of them to compute, in {directory.path}")
        seen = {**environment.describe(torch.device("cpu")), "command": ["optinas-study", *sys.argv[1:]]}
        _write(plan, reader, seen)
        # Closed before the lock is given up: whatever ends the study ends its cells first.
        with closing(_ended(config, pending, directory.path, places)) as ended:
            _compute(plan, ended, len(pending), reader, directory, seen)
        found = _write(plan, reader, seen)
        with directory.auxiliary(REPORT):
            write_atomically(directory.path / REPORT, page.of_study(found).encode())
    except Stopped as stopped:
        directory.log(f"stopped by {Signals(stopped.signal).name}; the same command goes on from here")
        raise
    finally:
        directory.unlock()
    print((directory.path / "table.md").read_text(encoding="utf-8"))
    return {
        "out": str(directory.path),
        "planned": len(plan.cells),
        "done": sum(row.n for row in found.rows),
        "failed": sum(len(row.failed) for row in found.rows),
    }


def _check_images(plan: Plan) -> None:
    """Raises ValueError for images that cannot be loaded, and where not all cells train and test with the same ones."""
    loaded: dict[DataConfig, Manifest] = {}
    first = plan.cells[0]
    for cell in plan.cells:
        own = [cell.train.data, *([] if cell.search is None else [cell.search.data])]
        for config in own:
            if config not in loaded:
                loaded[config] = data.load(config).manifest()
        if loaded[cell.train.data] != loaded[first.train.data]:
            raise ValueError(
                f"row {cell.row!r} trains or tests with other images than row {first.row!r}, which one table cannot "
                "compare; give all rows the same ones in [data], or write two studies"
            )


def _made(path: Path) -> Directory:
    """The folder of the study. Raises UsageError for one that cannot be made, or that holds something else."""
    folder = path / "cells"
    try:
        path.mkdir(parents=True, exist_ok=True)
        others = [] if folder.is_dir() else [own for own in path.iterdir() if own.name != LOCK]
        if not all(is_leftover(own.name) for own in others):
            raise UsageError(f"{path} is not empty and holds no study (no folder cells); choose another --out")
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT, EIO):
            raise
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another --out") from error
    return Directory(path, flag="--out")


def _compute(
    plan: Plan, ended: Iterator[Ended], pending: int, reader: Reader, directory: Directory, seen: dict[str, Any]
) -> None:
    """Keeps the table up to date while cells end, of which `pending` will."""
    began, total = time.monotonic(), len(plan.cells)
    for number, (cell, failure) in enumerate(ended, start=1):
        found = _write(plan, reader, seen)
        error = _test_error(found, cell)
        known = "error not known yet" if error is None else f"{error:.2f} % test error"
        outcome = f"failed: {failure}" if failure else known
        left = pending - number
        directory.log(
            f"{total - left} of {total}  {cell.row}, seed {cell.seed}: {outcome}; "
            f"{_time((time.monotonic() - began) / number * left)} to go"
        )


def _ended(
    config: StudyConfig, pending: Sequence[Cell], root: Path, places: Sequence[local.Place]
) -> Generator[Ended, None, None]:
    for cell in pending:
        cells.forget_failure(cell, root)
    if config.executor == "local":
        return local.run(pending, root, places)
    from nas.study import slurm  # its library is an extra

    with users_mistakes():
        return slurm.run(pending, root, jobs=config.jobs, device=config.device, options=config.slurm_options)


def _write(plan: Plan, reader: Reader, seen: dict[str, Any]) -> table.Table:
    found = table.build(plan, reader, seen)
    table.write(found, reader.root)
    return found


def _test_error(found: table.Table, cell: Cell) -> float | None:
    """None where it is looked up, and not known yet."""
    row = next(row for row in found.rows if row.name == cell.row)
    return next((done.test_error for done in row.cells if done.directory == str(cell.path)), None)


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """The console command `optinas-study`."""
    cli.run(command)


if __name__ == "__main__":
    main()
