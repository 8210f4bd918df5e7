"""`python -m soak --out FILE`: runs all cases, or those named, and writes the outcomes to a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch

from benchmarks.timing import write_result
from genotypes.config import Config, Count, NoneMeans, NotNegative
from nas import cli
from soak import damage, disk, fuzz, kills, processes, runs
from soak.cases import Case, Reference, Result, generator, killed_before


class Part(NamedTuple):
    """How the cases of a part are made, and the jobs that they need (empty: all jobs)."""

    cases: Callable[[list[Reference], int], list[Case]]
    jobs: tuple[str, ...] = ()


PARTS = {
    "kills": Part(kills.cases),
    "disk": Part(disk.cases, disk.JOBS),
    "damage": Part(damage.cases, damage.JOBS),
    "fuzz": Part(fuzz.cases, fuzz.JOBS),
}


@dataclass(frozen=True, kw_only=True)
class SoakConfig(Config):
    """Kills, failing disks, damaged files and mutated inputs; exit code 1 if any case has a fault."""

    out: str = "soak.json"
    """JSON file for the counts and the faults."""
    minutes: NotNegative = 60.0
    """Start no case after this time; cases left over count as a failure."""
    seed: int = 0
    """Seed of all random choices."""
    only: str = ""
    """Run only the cases whose names begin with this: kills, disk, damage, fuzz, fuzz/weights, kills/kill/train/17/."""
    cases: Annotated[Count | None, NoneMeans("all")] = None
    """Run at most this many cases of each kind, drawn at random."""


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Parses, runs the cases, writes the file, returns the counts of outcomes and faults."""
    config = cli.parse(SoakConfig, argv, description=__doc__ or "", default=SoakConfig())
    started = time.monotonic()
    # As an exception, SIGTERM lets the disks be unmounted.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with _workspace() as workspace:
        runs.warm_up(workspace / "warm-up")
        chosen = _chosen(workspace, config)
        print(f"{len(chosen)} cases", file=sys.stderr, flush=True)
        deadline = started + 60 * config.minutes
        ended = list(
            processes.in_parallel(partial(_run, workspace), chosen, processes=os.cpu_count() or 1, deadline=deadline)
        )
    rows, found = _rows(ended), _distinct(ended)
    counts = {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cases": len(ended),
        "not run": len(chosen) - len(ended),
        "killed": sum(row["outcomes"]["killed"] for row in rows),
        "inputs": sum(sum(row["outcomes"].values()) for row in rows if row["group"].startswith("fuzz/")),
        "faults": sum(fault["times"] for fault in found),
    }
    write_result(config.out, config, torch.device("cpu"), rows, **counts, found=found)
    return counts


@contextmanager
def _workspace() -> Iterator[Path]:
    """A directory in memory if possible: fsync on a disk would take most of the time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="soak-", dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def _references(workspace: Path, only: str) -> list[Reference]:
    """The references needed by the cases whose names begin with `only`."""
    parts = [part for name, part in PARTS.items() if name.startswith(only.partition("/")[0])]
    needed = {name for part in parts for name in part.jobs or runs.jobs()}
    named = {name for name in needed if f"/{name}/" in only} or needed
    jobs = [job for job in runs.jobs().values() if job.name in named]
    done = processes.in_parallel(
        partial(_reference, workspace), jobs, processes=os.cpu_count() or 1, deadline=float("inf")
    )
    found = {job.name: Reference(job, **_as_paths(result)) for job, result in done}
    return [found[job.name] for job in jobs]


def _as_paths(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "directory": Path(result["directory"]), "half": Path(result["half"])}


def _reference(workspace: Path, job: runs.Job) -> dict[str, Any]:
    """The fields of the job's reference, as JSON data."""
    directory, half, resumed = (workspace / job.name / part / "run" for part in ("whole", "half", "resumed"))
    started = time.monotonic()
    directory.parent.mkdir(parents=True)
    ended = runs.start(job, directory)
    seconds = time.monotonic() - started
    if ended.code != 0:
        raise RuntimeError(f"{job.name} fails by itself: {ended.stderr}")
    operations = runs.operations(directory)
    half.parent.mkdir()
    killed_before(job, half, operations, "rename to metrics.csv .UUID.tmp", 2)
    shutil.copytree(half, resumed)
    runs.start(job, resumed, "--resume")
    return {
        "directory": str(directory),
        "finals": runs.finals(directory),
        "operations": operations,
        "half": str(half),
        "resuming": runs.operations(resumed),
        "seconds": seconds,
    }


def _chosen(workspace: Path, config: SoakConfig) -> list[Case]:
    """The cases in random order, so that the first ones are a fair sample wherever the time runs out."""
    references = {reference.job.name: reference for reference in _references(workspace, config.only)}
    every = []
    for part in PARTS.values():
        jobs = [references[name] for name in part.jobs or references if name in references]
        every += part.cases(jobs, config.seed)
    every = [case for case in every if f"{case.name}/".startswith(config.only)]
    generator(config.seed, "order").shuffle(every)
    taken: Counter[str] = Counter()
    chosen = []
    for case in every:
        taken[case.group] += 1
        if config.cases is None or taken[case.group] <= config.cases:
            chosen.append(case)
    return chosen


def _run(workspace: Path, case: Case) -> dict[str, Any]:
    """Runs a case and returns its result as JSON data."""
    result = Result()
    with tempfile.TemporaryDirectory(dir=workspace) as scratch:
        try:
            case.run(Path(scratch), result)
        except Exception as error:
            result.problem("the case itself", f"{type(error).__name__}: {error}")
    for problem in result.problems:
        print(f"{case.name}: {problem['kind']}: {problem.get('at', '')} {problem['what']}", file=sys.stderr, flush=True)
    return vars(result)


def _rows(ended: Sequence[tuple[Case, dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each group of cases how many there are, what came out, and the most time and memory of an input."""
    groups: dict[str, dict[str, Any]] = {}
    for case, result in sorted(ended, key=lambda pair: pair[0].name):
        group = groups.setdefault(case.group, {"group": case.group, "cases": 0, "outcomes": Counter(), "peaks": {}})
        group["cases"] += 1
        group["outcomes"].update(result["counts"])
        for name, peak in result["peaks"].items():
            group["peaks"][name] = max(peak, group["peaks"].get(name, 0))
    return list(groups.values())


def _distinct(ended: Sequence[tuple[Case, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The first of each kind of fault, with how many there are; cases that differ in their number are one."""
    kinds: dict[str, dict[str, Any]] = {}
    for case, result in sorted(ended, key=lambda pair: pair[0].name):
        for problem in result["problems"]:
            what = re.sub(r"\d+|/\S+", "", problem["what"])[:60]
            fault = {"case": case.name, **problem, "times": 0}
            kind = kinds.setdefault(f"{case.name.rpartition('/')[0]} {problem['kind']} {what}", fault)
            kind["times"] += 1
    return list(kinds.values())


def command(argv: list[str]) -> dict[str, Any]:
    """As `main`, but exits with 1 where there is a fault or a case was not begun."""
    counts = main(argv)
    if counts["faults"] or counts["not run"]:
        print(json.dumps(counts), flush=True)
        sys.exit(1)
    return counts


if __name__ == "__main__":
    cli.run(command)
