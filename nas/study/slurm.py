"""Cells of a study as an array of jobs of Slurm, by submitit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genotypes.messages import one_line
from nas.study import cells, local
from nas.study.local import Ended
from nas.study.plan import Cell

#: How many jobs of the array run at the same time, unless --jobs says otherwise.
PARALLEL = 16


@dataclass(frozen=True)
class Task:
    """What a job does. Preempted, or out of time, it saves its run and is queued again, and then resumes."""

    root: Path
    device: str

    def __call__(self, cell: Cell) -> str | None:
        """Computes a cell in a process of its own; returns why that failed, if it did."""
        return next(local.run([cell], self.root, local.places(1, self.device, most=1))).failure

    def checkpoint(self, cell: Cell) -> Any:
        """What submitit queues again."""
        import submitit

        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
        return submitit.helpers.DelayedSubmission(self, cell)


def run(
    pending: Sequence[Cell],
    root: Path,
    *,
    jobs: int | None,
    device: str,
    options: Sequence[str] = (),
    cluster: str = "slurm",
) -> Generator[Ended, None, None]:
    """Submits a job for each cell, and yields it when it has ended; to stop waiting leaves the jobs in the queue.

    Raises ValueError where submitit or Slurm is missing, and for options that it does not take.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--executor slurm needs submitit: pip install submitit") from None
    folder = (root / "slurm").resolve()
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(name="optinas", **_parsed(options))
        if cluster == "slurm":
            executor.update_parameters(slurm_array_parallelism=jobs or PARALLEL)
    except (RuntimeError, NameError, TypeError) as error:
        raise ValueError(f"--executor slurm: {one_line(str(error))}") from error
    submitted = executor.map_array(Task(root.resolve(), device), pending)
    return _ended(dict(zip(submitted, pending, strict=True)), root)


def _parsed(options: Sequence[str]) -> dict[str, int | str]:
    parsed: dict[str, int | str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals and value):
            raise ValueError(f"--slurm-options has {option!r}; write name=value, such as slurm_partition=gpu")
        parsed[name] = int(value) if value.isdecimal() else value
    return parsed


def _ended(submitted: dict[Any, Cell], root: Path) -> Generator[Ended, None, None]:
    import submitit

    for job in submitit.helpers.as_completed(list(submitted)):
        cell, error = submitted[job], job.exception()
        if error is not None:
            cells.fail(cell, root, f"its job {job.job_id} failed: {error}")
        yield Ended(cell, cells.failure(cell, root))
