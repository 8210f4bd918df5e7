"""What all parts share: cases with names, their outcomes, and their faults."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from soak import faults, runs
from soak.processes import Ended
from soak.runs import Job

LONGEST_MESSAGE = 1000
"""Characters in the longest message that somebody would still read."""


@dataclass
class Result:
    """The result of a case.

    Attributes:
        counts: the number of times that each outcome occurred.
        problems: each fault in words, with the input if one reproduces it.
        peaks: the most seconds and bytes that a single input took.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)

    def problem(self, kind: str, what: str, **more: str) -> None:
        """Adds a fault of a kind, described in words; `more` holds what reproduces it."""
        self.problems.append({"kind": kind, "what": what, **more})


@dataclass(frozen=True)
class Case:
    """A case: needs an empty directory, where it may leave files."""

    name: str
    run: Callable[[Path, Result], None]

    @property
    def group(self) -> str:
        """The name without its last part; a report counts the cases of a group together."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        directory: of the finished run.
        finals: what every run of the job must end with.
        operations: its file operations, by name.
        half: the directory of a run killed just before its second and last epoch was saved.
        resuming: the file operations of the process that resumes that run.
        seconds: duration of the run.
    """

    job: Job
    directory: Path
    finals: dict[str, str]
    operations: list[str]
    half: Path
    resuming: list[str]
    seconds: float


def generator(seed: int, name: str) -> random.Random:
    """Random numbers of a case; they depend on nothing else that runs."""
    return random.Random(f"{seed} {name}")


def copied(directory: Path, scratch: Path) -> Path:
    """A copy of a run's directory, with the same name."""
    return Path(shutil.copytree(directory, Path(tempfile.mkdtemp(dir=scratch)) / directory.name))


def one_line(ended: Ended) -> str | None:
    """What is wrong with how a process reported its failure; None if it is one line that a terminal can show."""
    if ended.hung:
        return "it hangs"
    if "Traceback" in ended.stderr:
        return f"traceback: {ended.stderr.strip()[-600:]}"
    errors = [line for line in ended.stderr.splitlines() if not line.startswith("warning: ")]
    if len(errors) != 1 or not errors[0].startswith("error: "):
        return f"not one line of error: {ended.stderr.strip()[-600:]!r}"
    return message_fault(errors[0])


def message_fault(message: str) -> str | None:
    """What is wrong with a message; None if it is one printable line of bounded length."""
    if not message.isprintable() or not message:
        return f"not one printable line: {message[:300]!r}"
    if len(message) > LONGEST_MESSAGE:
        return f"{len(message)} characters long: {message[:200]!r} ..."
    return None


def finish(reference: Reference, directory: Path, result: Result, *, lost: frozenset[str] = frozenset()) -> None:
    """Resumes a run after a fault until it ends, and compares; `lost` names what may differ because a warning said so.

    --resume may refuse a directory in which nothing was saved yet; the run is then started again.
    """
    ended = runs.start(reference.job, directory, "--resume")
    how = "resumed"
    if ended.code == 2 and one_line(ended) is None and not any(directory.glob("checkpoint*")):
        ended, how = runs.start(reference.job, directory), "started again"
    if ended.code != 0 or "Traceback" in ended.stderr:
        result.counts["not resumed"] += 1
        result.problem("not resumed", f"exit code {ended.code}: {ended.stderr.strip()[-600:]}")
        return
    compare(reference, directory, result, how, lost=lost)


def compare(
    reference: Reference, directory: Path, result: Result, how: str, *, lost: frozenset[str] = frozenset()
) -> None:
    """Counts the outcome `how` if the finished run equals the reference, bit for bit."""
    different = runs.differences(runs.finals(directory), reference.finals) - lost
    if different:
        result.problem("another result", f"{how}, but other {', '.join(sorted(different))}")
    result.counts["another result" if different else how] += 1


#: Judges how a process ended that had a fault at a file operation, and what it left in its directory.
Judge = Callable[[Reference, Path, Ended, Result], None]


def at_every_operation(
    part: str, reference: Reference, kinds: Callable[[int, str], Sequence[faults.Kind]], judge: Judge
) -> list[Case]:
    """A case for each file operation of a run and of its resumption, and for each kind of fault there.

    `kinds` takes the number and the name of an operation.
    """
    found = []
    for suffix, resuming, operations in (("", False, reference.operations), ("-resuming", True, reference.resuming)):
        for number, operation in enumerate(operations):
            for kind in kinds(number, operation):
                run = partial(_at_operation, reference, faults.Fault(number, kind), operation, resuming, judge)
                found.append(Case(f"{part}/{kind}{suffix}/{reference.job.name}/{number}", run))
    return found


def _at_operation(
    reference: Reference,
    fault: faults.Fault,
    operation: str,
    resuming: bool,
    judge: Judge,
    scratch: Path,
    result: Result,
) -> None:
    directory = copied(reference.half, scratch) if resuming else scratch / reference.directory.name
    ended = runs.start(reference.job, directory, *(["--resume"] if resuming else []), fault=fault)
    judge(reference, directory, ended, result)
    for problem in result.problems:
        problem["at"] = f"operation {fault.at}: {operation}"


def killed_before(job: Job, directory: Path, operations: list[str], name: str, occurrence: int) -> None:
    """Runs the job, whose file operations are given, until just before the given occurrence of the operation `name`."""
    numbers = [i for i, operation in enumerate(operations) if operation == name]
    runs.start(job, directory, fault=faults.Fault(numbers[occurrence - 1], "kill"))
