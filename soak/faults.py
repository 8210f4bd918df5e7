"""Counts the file operations of this process, and makes a chosen one fail or kill the process."""

from __future__ import annotations

import builtins
import errno
import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["kill", "torn", "ENOSPC", "EROFS", "EACCES"]

KILLED = 137
"""Exit code of a process killed here; the one a shell reports for SIGKILL."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = {
    "os.rename": "rename",
    "os.remove": "remove",
    "os.mkdir": "mkdir",
    "os.rmdir": "rmdir",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.truncate": "truncate",
}


@dataclass(frozen=True)
class Fault:
    """What happens at file operation number `at`, counted from 0.

    kill: the process ends before it. torn: the process ends after half of the write. ENOSPC, EROFS: the operation and
    all later ones fail (on a full disk, files can still be removed). EACCES: only this operation fails.
    """

    at: int
    kind: Kind


def watch(directory: Path, journal: Path, fault: Fault | None = None) -> None:
    """Writes each file operation below `directory` to the file `journal`, one per line, and makes `fault` happen.

    This cannot be undone. It covers opening for writing, writes of Python's files, fsync, rename, remove, mkdir and the
    like, but not what native code writes by itself.
    """
    watched = _Watched(directory, os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fault)
    fsync = os.fsync

    def watching_fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        watched.happens("fsync", os.readlink(f"/proc/self/fd/{number}"))
        fsync(file)

    os.fsync = watching_fsync  # type: ignore[assignment]
    builtins.open = io.open = watched.opening(io.open)
    sys.addaudithook(watched.audit)


class _Watched:
    def __init__(self, directory: Path, journal: int, fault: Fault | None) -> None:
        self._directory, self._journal, self._fault = os.path.realpath(directory), journal, fault
        self._count = 0

    def inside(self, path: str) -> bool:
        return f"{os.path.abspath(path)}/".startswith(f"{self._directory}/")

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook. Raises OSError for an operation that is to fail."""
        if event == "open":
            if isinstance(arguments[0], str | bytes | os.PathLike) and arguments[2] & _WRITING:
                self.happens("open", os.fsdecode(arguments[0]))
        elif event in _EVENTS and isinstance(arguments[0], str | bytes | os.PathLike):
            target = f" to {os.path.basename(os.fsdecode(arguments[1]))}" if event == "os.rename" else ""
            self.happens(_EVENTS[event] + target, os.fsdecode(arguments[0]))

    def happens(self, verb: str, path: str, tear: Callable[[], object] | None = None) -> None:
        if not self.inside(path):
            return
        number, fault = self._count, self._fault
        self._count += 1
        os.write(self._journal, f"{verb} {_shown(os.path.relpath(path, self._directory))}\n".encode())
        if fault is None or number < fault.at:
            return
        if fault.kind in ("kill", "torn"):
            if fault.kind == "torn" and tear:
                tear()
            os._exit(KILLED)
        once, freeing = fault.kind == "EACCES", fault.kind == "ENOSPC" and verb == "remove"
        if not freeing and (number == fault.at or not once):
            code = getattr(errno, fault.kind)
            raise OSError(code, os.strerror(code), path)

    def opening(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """A form of `open` whose files below the directory report their writes."""

        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            path = file if isinstance(file, str | bytes | os.PathLike) else None
            if path is None or not set(mode) & set("wax+") or not self.inside(os.fsdecode(path)):
                return plain(file, mode, buffering, *args, **kwargs)
            raw = _WatchedFile(os.fsdecode(path), "".join(c for c in mode if c not in "bt"))
            raw.happens = self.happens
            if buffering == 0:
                return raw
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer, *args, **kwargs)

        return opened


class _WatchedFile(io.FileIO):
    happens: Callable[..., None]

    def write(self, content: Any, /) -> int:
        half = bytes(content)[: len(content) // 2]
        self.happens("write", str(self.name), lambda: super(_WatchedFile, self).write(half))
        return super().write(content)


def _shown(path: str) -> str:
    """The path without the parts that differ from run to run."""
    return re.sub(r"[0-9a-f]{32}", "UUID", re.sub(r"events\.out\.\S+", "events", path))
