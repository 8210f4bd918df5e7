"""Cells of a study as processes of this machine, each GPU for one of them at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

from genotypes.messages import one_line
from nas.engine.device import resolve_device
from nas.errors import NonFiniteLossError, Stopped
from nas.study import cells
from nas.study.plan import Cell

#: What ends a study; its cells save themselves.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

#: Exit code of a cell that has said itself why it failed.
_TOLD = 1


class Place(NamedTuple):
    """Where one cell at a time computes."""

    device: str
    threads: int


class Ended(NamedTuple):
    """A cell whose process has ended; `failure` says why it did not succeed, if it did not."""

    cell: Cell
    failure: str | None


def places(jobs: int | None, device: str, *, most: int) -> list[Place]:
    """As many places as there are jobs, by default one for each GPU, but at most `most`; they share the CPU's cores.

    Raises ValueError for a device that is not there.
    """
    first = resolve_device(device)
    if first.type == "cuda":
        names = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if first.index is None else [str(first)]
    else:
        names = [str(first)]
    number = min(most, len(names) if jobs is None else jobs)
    threads = max(1, torch.get_num_threads() // number)
    return [Place(names[i % len(names)], threads) for i in range(number)]


def run(pending: Sequence[Cell], root: Path, where: Sequence[Place]) -> Generator[Ended, None, None]:
    """Computes cells, as many at a time as there are places, and yields each when its process has ended.

    A signal lets every process save itself and end; then Stopped is raised. A second one ends them at once.
    """
    context = _context()
    waiting, running = list(reversed(pending)), dict[int, tuple[BaseProcess, Cell, Place]]()
    free = list(reversed(where))
    with _stopping():
        try:
            while waiting or running:
                while waiting and free:
                    place, cell = free.pop(), waiting.pop()
                    started = context.Process(target=_compute, args=(cell, root, place))
                    started.start()
                    running[started.sentinel] = started, cell, place
                for sentinel in wait(list(running)):
                    assert isinstance(sentinel, int)
                    process, cell, place = running.pop(sentinel)
                    process.join()
                    free.append(place)
                    yield Ended(cell, _why(process, cell, root))
        except BaseException:
            _end([process for process, _, _ in running.values()])
            raise


def _context() -> SpawnContext | ForkServerContext:
    """Processes that have PyTorch from the beginning, where the system can do that; each is still one of its own."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # The last two are imported late, because they take long.
    context.set_forkserver_preload(["nas.study.local", "sklearn.model_selection", "torchvision.transforms.v2"])
    # Ctrl-C in a terminal reaches it while it imports, too; the study ends it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    return context


@contextmanager
def _stopping() -> Iterator[None]:
    """Within it a signal raises Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {s: signal.signal(s, stop) for s in _SIGNALS if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def _end(processes: Sequence[BaseProcess]) -> None:
    """Lets processes save themselves and end; at once where it is interrupted."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _why(process: BaseProcess, cell: Cell, root: Path) -> str | None:
    """Why a process has not done its cell, kept in the cell's directory; None if it has."""
    code = process.exitcode
    if code == 0:
        return None
    if code == _TOLD and (why := cells.failure(cell, root)) is not None:
        return why  # Python ends with the same code after an error that nobody expected
    if code is not None and code < 0:
        why = f"its process was ended by {signal.Signals(-code).name}"
        why += ", as the system does when memory runs out" if -code == getattr(signal, "SIGKILL", 9) else ""
    else:
        why = f"its process ended with exit code {code}; see output.txt in its folder"
    cells.fail(cell, root, why)
    return why


def _compute(cell: Cell, root: Path, place: Place) -> None:
    """The process of a cell."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in a terminal reaches the study alone, which passes it on once
    _end_with_parent()
    (root / cell.path).mkdir(parents=True, exist_ok=True)
    _print_into(root / cell.path / "output.txt")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(place.threads)
    try:
        cells.compute(cell, root, place.device)
    except Stopped as stopped:
        sys.exit(128 + stopped.signal)
    except (ValueError, NonFiniteLossError, OSError) as error:  # a UsageError is a ValueError
        cells.fail(cell, root, one_line(str(error)))
        sys.exit(_TOLD)


def _end_with_parent() -> None:
    """Has this process save its run and end when the study is killed, which can tell nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _print_into(path: Path) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
