"""Functions in forked processes: with time and memory limits, and several at a time."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: the exit code, or minus the signal that ended it.
        hung: it had to be ended because its time was over.
    """

    code: int
    stdout: str
    stderr: str
    hung: bool


def call(function: Callable[[], object], *, seconds: float, killed_after: float | None = None) -> Ended:
    """Calls `function` in a forked process whose output is kept.

    It is killed where it takes longer than `seconds`, which is a hang, or than `killed_after`, which is meant. An
    exception is printed as Python would, and the exit code is 1; SystemExit has its own.
    """
    alive, held = os.pipe()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = _fork()
        if process == 0:
            os.close(alive)
            os.dup2(stdout.fileno(), 1)
            os.dup2(stderr.fileno(), 2)
            exit_with(function)
        os.close(held)
        limit = seconds if killed_after is None else killed_after
        late = True
        try:
            late = not select.select([alive], [], [], limit)[0]
        finally:  # this process may be interrupted while it waits
            os.close(alive)
            if late:
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, _read(stdout), _read(stderr), late and killed_after is None)


def _fork() -> int:
    # What is in the buffers would be written by both processes.
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def exit_with(function: Callable[[], object]) -> NoReturn:
    """Calls `function` and ends this process as the interpreter would, but for what the parent has registered."""
    code: object = 0
    try:
        function()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def limit_memory(additional: int) -> None:
    """Lets this process allocate no more than `additional` bytes beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + additional
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def largest_memory() -> int:
    """The most bytes that this process has held in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_parallel(
    function: Callable[[T], Any], items: Sequence[T], *, processes: int, deadline: float
) -> Iterator[tuple[T, Any]]:
    """Yields (item, result) in any order; results must be JSON data.

    Items that are not begun by `deadline`, on the clock of `time.monotonic`, are left out, and so are those at which a
    process of ours died.
    """
    with contextlib.ExitStack() as open_files:
        files = [open_files.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        children = []
        try:
            for first, file in enumerate(files):
                child = _fork()
                if child == 0:
                    exit_with(partial(_work, function, items, range(first, len(items), processes), file, deadline))
                children.append(child)
            while children:
                os.waitpid(children[-1], 0)
                children.pop()
        finally:
            for child in children:
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
        for file in files:
            for line in _read(file).splitlines():
                index, result = json.loads(line)
                yield items[index], result


def _work(
    function: Callable[[T], Any], items: Sequence[T], indices: Sequence[int], file: IO[bytes], deadline: float
) -> None:
    for index in indices:
        if time.monotonic() > deadline:
            break
        file.write(json.dumps([index, function(items[index])]).encode() + b"\n")
        file.flush()
