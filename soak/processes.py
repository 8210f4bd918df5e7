"""Runs functions in forked processes, with limits on time and memory, and in parallel."""

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
        code: the exit code, or minus the number of the signal that ended it.
        hung: whether it had to be killed because it exceeded its time.
    """

    code: int
    stdout: str
    stderr: str
    hung: bool


def call(function: Callable[[], object], *, seconds: float, killed_after: float | None = None) -> Ended:
    """Calls `function` in a forked process and captures its output.

    The process is killed after `seconds`, which counts as a hang, or after `killed_after`, which does not. An exception
    is printed as Python would print it and gives exit code 1; SystemExit gives its own.
    """
    alive, held = os.pipe()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = _fork()
        # The child holds the only open end of the pipe to write to, so `alive` becomes readable when the child ends.
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
        finally:  # the wait may be interrupted, and the child must not outlive it
            os.close(alive)
            if late:
                os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, _read(stdout), _read(stderr), late and killed_after is None)


def _fork() -> int:
    # Otherwise both processes would write what is in the buffers.
    sys.stdout.flush()
    sys.stderr.flush()
    return os.fork()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def exit_with(function: Callable[[], object]) -> NoReturn:
    """Calls `function` and ends this process as the interpreter would, but without the parent's exit handlers."""
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
    """Limits this process to `additional` bytes of memory beyond what it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + additional
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def largest_memory() -> int:
    """The peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_parallel(
    function: Callable[[T], Any], items: Sequence[T], *, processes: int, deadline: float
) -> Iterator[tuple[T, Any]]:
    """Yields (item, result) in any order; results must be JSON data.

    Left out are items not started by `deadline`, a time of `time.monotonic`, and those whose worker died.
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
