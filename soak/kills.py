"""Runs that are killed at random moments or at a file operation, and then resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from soak import faults, runs
from soak.cases import Case, Reference, Result, at_every_operation, finish, generator
from soak.processes import Ended

_RANDOM = 10
"""Runs of each job that are killed at random moments, each up to three times."""

_EVERY_POINT = ("search-agd", "train", "train-hand-made")
"""The jobs that are killed at every file operation; the other searches have the same operations."""


def cases(references: list[Reference], seed: int) -> list[Case]:
    """The cases; their number depends on the file operations of the jobs."""
    found = []
    for reference in references:
        name = reference.job.name
        for number in range(_RANDOM):
            case = f"kills/random/{name}/{number}"
            found.append(Case(case, partial(_at_random, reference, seed, case)))
        if name in _EVERY_POINT:
            found += at_every_operation("kills", reference, _kinds, _judge)
    return found


def _kinds(number: int, operation: str) -> tuple[faults.Kind, ...]:
    return ("kill", "torn") if operation.startswith("write ") else ("kill",)


def _at_random(reference: Reference, seed: int, name: str, scratch: Path, result: Result) -> None:
    random = generator(seed, name)
    directory = scratch / reference.directory.name
    for _ in range(random.randint(1, 3)):
        for flags in (("--resume",), ()):
            after = random.uniform(0.02, reference.seconds)
            ended = runs.start(reference.job, directory, *flags, killed_after=after)
            # Without a configuration there is nothing to resume yet; the command without --resume starts the run.
            if ended.code != 2:
                break
        if ended.code not in (0, -9):
            result.problem("exit code", f"{ended.code}: {ended.stderr.strip()[-600:]}")
        result.counts["killed" if ended.code == -9 else "ended before"] += 1
    finish(reference, directory, result)


def _judge(reference: Reference, directory: Path, ended: Ended, result: Result) -> None:
    result.counts["killed" if ended.code == faults.KILLED else "ended before"] += 1
    if ended.code not in (faults.KILLED, 0):
        result.problem("exit code", f"{ended.code}: {ended.stderr.strip()[-600:]}")
    finish(reference, directory, result)
