"""Runs whose file operations fail, and runs on a disk that is really full; once the disk works again, they resume."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from soak import runs
from soak.cases import Case, Reference, Result, at_every_operation, compare, finish, one_line
from soak.faults import Kind
from soak.processes import Ended

JOBS = ("search-agd", "train")

#: With a file for each epoch.
_FOLDERS = ("genotypes", "mixing")

#: What a run can do without: it warns that it could not write this, and continues.
_AUXILIARY = frozenset(
    {
        *("metrics.csv", "normal.svg", "reduce.svg", *_FOLDERS),
        *(f"missing {name}" for name in ("metrics.csv", "normal.svg", "reduce.svg", "log.txt", "tb", *_FOLDERS)),
        *(f"missing {folder}/epoch_{epoch:03d}.json" for folder in _FOLDERS for epoch in (1, 2)),
    }
)

#: Sizes of a small disk, as fractions of what a finished run takes.
_SHARES = (0.02, 0.1, 0.25, 0.4, 0.6, 0.75, 0.9, 0.97)


def cases(references: list[Reference], seed: int) -> list[Case]:
    """The cases; nothing in them is random."""
    found = []
    for reference in references:
        found += at_every_operation("disk", reference, _errors, judge)
        for number, share in enumerate(_SHARES):
            found.append(Case(f"disk/full/{reference.job.name}/{number}", partial(_full, reference, share)))
    return found


def _errors(number: int, operation: str) -> tuple[Kind, ...]:
    # All error codes take the same path through the program, so a sample of the other two will do.
    return ("ENOSPC", "EROFS", "EACCES") if number % 3 == 0 else ("ENOSPC",)


def judge(reference: Reference, directory: Path, ended: Ended, result: Result) -> None:
    """Checks how a process handled a failing disk, and that a run on a working disk can continue from there.

    The process may have run to its end if it could do without the file, but must then have said so.
    """
    lost: frozenset[str] = frozenset()
    if ended.code == 0 and "Traceback" not in ended.stderr:
        lost = _AUXILIARY if "warning: " in ended.stderr else frozenset()
        result.counts["went on with a warning" if lost else "went on"] += 1
        compare(reference, directory, result, "ended", lost=lost)
    else:
        wrong = one_line(ended)
        if wrong is None and ended.code not in (1, 2):
            wrong = f"exit code {ended.code}"
        if wrong is not None:
            result.problem("failure", wrong)
        result.counts["one line" if wrong is None else "wrong failure"] += 1
    finish(reference, directory, result, lost=lost)


def _full(reference: Reference, share: float, scratch: Path, result: Result) -> None:
    disk = scratch / "disk"
    disk.mkdir()
    whole = sum(path.stat().st_size for path in reference.directory.rglob("*") if path.is_file())
    try:
        with _mounted(disk, int(share * whole)):
            directory = disk / reference.directory.name
            ended = runs.start(reference.job, directory, watched=False)
            subprocess.run(["mount", "-o", f"remount,size={10 * whole}", str(disk)], check=True)
            judge(reference, directory, ended, result)
    except (OSError, subprocess.CalledProcessError):
        result.counts["skipped: no disk can be mounted here"] += 1


@contextlib.contextmanager
def _mounted(disk: Path, size: int) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(disk)], check=True)
