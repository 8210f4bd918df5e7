"""Runs that are killed at random moments, or at a file operation, and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from soak import faults, runs
from soak.cases import Case, Reference, Result, copied, finish, generator
from soak.faults import Fault

_RANDOM = 10
"""Runs of each job that are killed at random moments, each up to three times."""

_EVERY_POINT = ("search-agd", "train", "train-hand-made")
"""The jobs of which every file operation is a crash point; those of the other searches are the same."""


def cases(references: list[Reference], seed: int) -> list[Case]:
    """The cases; how many depends on the file operations that the jobs do."""
    found = []
    for reference in references:
        name = reference.job.name
        for number in range(_RANDOM):
            case = f"kills/random/{name}/{number}"
            found.append(Case(case, partial(_at_random, reference, seed, case)))
        if name in _EVERY_POINT:
            for number, operation in enumerate(reference.operations):
                for kind in _kinds(operation):
                    point = partial(_at_point, reference, Fault(number, kind))
                    found.append(Case(f"kills/{kind}/{name}/{number}", point))
            for number, operation in enumerate(reference.resuming):
                for kind in _kinds(operation):
                    point = partial(_at_point_of_resumption, reference, Fault(number, kind))
                    found.append(Case(f"kills/{kind}-resuming/{name}/{number}", point))
    return found


def _kinds(operation: str) -> tuple[faults.Kind, ...]:
    return ("kill", "torn") if operation.startswith("write ") else ("kill",)


def _at_random(reference: Reference, seed: int, name: str, scratch: Path, result: Result) -> None:
    random = generator(seed, name)
    directory = scratch / reference.directory.name
    for _ in range(random.randint(1, 3)):
        for flags in (("--resume",), ()):
            after = random.uniform(0.02, reference.seconds)
            ended = runs.start(reference.job, directory, *flags, killed_after=after)
            # Without a configuration there is nothing to resume yet, and the same command starts.
            if ended.code != 2:
                break
        if ended.code not in (0, -9):
            result.problem("exit code", f"{ended.code}: {ended.stderr.strip()[-600:]}")
        result.counts["killed" if ended.code == -9 else "ended before"] += 1
    finish(reference, directory, result)


def _at_point(reference: Reference, fault: Fault, scratch: Path, result: Result) -> None:
    _crash(reference, scratch / reference.directory.name, fault, result)


def _at_point_of_resumption(reference: Reference, fault: Fault, scratch: Path, result: Result) -> None:
    _crash(reference, copied(reference.half, scratch), fault, result, "--resume")


def _crash(reference: Reference, directory: Path, fault: Fault, result: Result, *flags: str) -> None:
    ended = runs.start(reference.job, directory, *flags, fault=fault)
    result.counts["killed" if ended.code == faults.KILLED else "ended before"] += 1
    if ended.code not in (faults.KILLED, 0):
        result.problem("exit code", f"{ended.code}: {ended.stderr.strip()[-600:]}")
    before = len(result.problems)
    finish(reference, directory, result)
    for problem in result.problems[before:]:
        problem["at"] = runs.named(reference.operations if not flags else reference.resuming, fault.at)
