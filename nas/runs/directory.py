"""A run's directory: written to by one process at a time, and usable again after whatever ended that process.

`Directory` has the files and the lock; `RunDirectory` knows the run too: its configuration, which a resumed one must
share, its environment and its metrics.
"""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EDQUOT, EIO, ENOLCK, ENOSPC
from pathlib import Path
from typing import Any

import filelock
import msgspec
import torch
from tqdm import tqdm

from genotypes.atomic import is_leftover, remove_leftovers, write_atomically
from genotypes.config import Config, KeptInCheckpoint, MayDiffer, WhenChanged, flag, marked
from genotypes.messages import one_line, reason_of
from nas import screen
from nas.errors import UsageError
from nas.runs import checkpoint, environment

#: The operating system takes the lock from a process that has ended, however it ended; the file stays.
LOCK = ".lock"

#: What a run writes beside its checkpoints, and which of it are folders.
_FILES = (
    *("config.json", "env.json", "log.txt", "metrics.csv", "record.json", "result.json"),
    *("genotype.json", "normal.svg", "reduce.svg", "weights.safetensors"),
    *("predictions.csv", "classes.csv", "confusion.csv", "confusion.svg", "mistakes.png", "mistakes.csv"),
)
_FOLDERS = ("tb", "genotypes", "mixing")

#: Bytes of a configuration or a record. ImageNet's classes are the longest part of either, with 30,000.
_LARGEST_JSON = 4_000_000


class Directory:
    """A directory that one process at a time writes to.

    Auxiliary files (log, metrics, environment, pictures, TensorBoard) never stop a run: one that cannot be read is set
    aside, one that cannot be written causes a single warning. Other methods raise OSError if a file cannot be written.

    Args:
        path: where it is; nothing is read or written before a method is called.
        flag: which names it on the command line, for messages.
    """

    def __init__(self, path: Path, *, flag: str = "--run-dir") -> None:
        self.path, self.flag = path, flag
        self._lock = filelock.FileLock(path / LOCK)
        self._told: set[str] = set()

    # --- whose it is --------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Keeps other processes out until `unlock`. Raises UsageError where one is at work, OSError."""
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise UsageError(
                f"{self.path} is in use by {self._holder()}; wait until it has ended, or choose another {self.flag}"
            ) from None
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno != ENOLCK:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self.warn(f"{self.path} is on a file system without locks; make sure that no other process uses it")

    def unlock(self) -> None:
        """Lets other processes in again; does nothing if it is not locked."""
        self._lock.release()

    def _holder(self) -> str:
        env = self.read_object("env.json")
        latest = (env.get("resumed") or [env])[-1] if isinstance(env.get("resumed", []), list) else env
        process = latest.get("process") if isinstance(latest, dict) else None
        if not isinstance(process, dict):
            return "another process"
        return f"process {process.get('pid')} on {process.get('host')}"

    def check_free(self) -> None:
        """Raises UsageError where it holds more than what a process killed before it had begun leaves; OSError."""
        if not all(_means_nothing(path.name) for path in self.path.iterdir()):
            more = ", or continue the run in it with --resume" if self.holds_run() else ""
            raise UsageError(f"{self.path} is not empty; choose another {self.flag}{more}")

    def never_began(self) -> bool:
        """Whether a run was killed in it before its configuration was written."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        return bool(names) and all(map(_means_nothing, names))

    def holds_run(self) -> bool:
        """Whether a run has begun in it: there is a configuration or a checkpoint."""
        return (self.path / "config.json").exists() or checkpoint.exists(self.path)

    def tidy(self) -> None:
        """Removes leftovers of killed processes, and sets aside what blocks a file or folder of the run."""
        remove_leftovers(self.path)
        (self.path / checkpoint.NEW).unlink(missing_ok=True)
        for name in ("genotypes", "mixing"):
            if (self.path / name).is_dir():
                remove_leftovers(self.path / name)
        for name in (*_FILES, *_FOLDERS):
            path = self.path / name
            if os.path.lexists(path) and not (path.is_dir() if name in _FOLDERS else path.is_file()):
                self.set_aside(name, f"is not a {'folder' if name in _FOLDERS else 'file'}")

    # --- its files ----------------------------------------------------------------------------------------

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` as indented JSON to the file `name`."""
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def read_object(self, name: str) -> dict[str, Any]:
        """What the JSON object in an auxiliary file holds; nothing where there is none that can be read."""
        try:
            return read_json(self.path / name, dict[str, Any])
        except (FileNotFoundError, UsageError):
            return {}

    def log(self, text: str) -> None:
        """Shows a line and appends it to `log.txt`."""
        screen.say(text)
        self._append(text)

    def warn(self, text: str) -> None:
        """Prints a warning to stderr and appends it to `log.txt`."""
        line = f"warning: {one_line(text)}"
        tqdm.write(line, file=sys.stderr)
        self._append(line)

    def _append(self, text: str) -> None:
        try:
            with (self.path / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            if "log.txt" not in self._told:
                self._told.add("log.txt")
                self.warn(_cannot_be_written(self.path / "log.txt", error))

    @contextmanager
    def auxiliary(self, name: str) -> Iterator[None]:
        """Within it, a failure to write the auxiliary file `name` is caught; the first one is a warning."""
        try:
            yield
        except Exception as error:  # of whatever library draws or writes it
            if name not in self._told:
                self._told.add(name)
                self.warn(_cannot_be_written(self.path / name, error))

    def set_aside(self, name: str, why: str) -> None:
        """Renames a file that is not what it should be, and says so; nothing where it is not there."""
        path = self.path / name
        if not os.path.lexists(path):
            return
        kept = path.with_name(f"{path.stem}.damaged{path.suffix}")
        number = 2
        while os.path.lexists(kept):
            kept = path.with_name(f"{path.stem}.damaged-{number}{path.suffix}")
            number += 1
        os.replace(path, kept)
        self.warn(f"{path} {why}; it is kept as {kept.name}")


class RunDirectory(Directory):
    """The directory of a run: configuration, environment, log, metrics, results.

    Args:
        path: where it is.
        config: the whole configuration; the marks of its fields say what a resumed run may have otherwise.
        resume: whether the run in it goes on.
        device: where the run computes.
        flag: which names the directory on the command line, for messages.

    Attributes:
        binding: the rest of the configuration, flat, which decides the results.
        rows: of `metrics.csv`.
        reopened: whether it is one of before, once it is opened.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        *,
        resume: bool,
        device: torch.device,
        flag: str = "--run-dir",
    ) -> None:
        super().__init__(path, flag=flag)
        self._may_differ = frozenset({**marked(config, MayDiffer), **marked(config, KeptInCheckpoint)})
        self._when_changed = {name: mark.text for name, mark in marked(config, WhenChanged).items()}
        self._configuration = described(config)
        self.binding = self._binding_of(self._configuration)
        self.rows: list[dict[str, float]] = []
        self._resume, self._device = resume, device
        self.reopened = False
        self._intact = True  # the configuration in it

    def _binding_of(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in flat(configuration).items() if name not in self._may_differ}

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result but for the seed."""
        return {name: value for name, value in self.binding.items() if name != "seed"}

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keeps other processes out. Nothing in it is changed but for leftovers before `begin` is called.

        Raises UsageError for a directory that is not empty (without `resume`), that holds no run or another
        configuration (with it), or that cannot be written; OSError where the disk is full, or one to be resumed
        cannot be written.
        """
        try:
            self.reopened = self._resume and not self.never_began()
            if self.reopened:
                self._reopen()
            else:
                self._make()
            yield
        finally:
            self.unlock()

    def _make(self) -> None:
        with self._unwritable_refused():
            self.path.mkdir(parents=True, exist_ok=True)
            self.check_free()
            self.lock()
            self.check_free()  # another process may have been faster
            self.tidy()

    def _reopen(self) -> None:
        if not self.holds_run():
            raise UsageError(
                f"{self.path} holds no run (no config.json); name the directory of a run, or start one without --resume"
            )
        self.lock()
        self._check_same()
        self.tidy()

    def begin(self, *, restored: bool = False, at: Mapping[str, Any] | None = None) -> None:
        """Writes what is known before the run computes: configuration, environment, metrics so far.

        Args:
            restored: whether the run goes on from a state of its own, so that its configuration is there already.
            at: where it goes on, for `env.json`.

        Raises UsageError for a new directory that cannot be written, OSError.
        """
        if not self.reopened:
            with self._unwritable_refused():
                self.write_json("config.json", self._configuration)
                self.write_json("env.json", self._environment())
            return
        if not self._intact:
            self.set_aside("config.json", "cannot be read")
        if not (self._intact and restored):
            self.write_json("config.json", self._configuration)
        self._write_rows(resuming=True)
        self._add_environment({**(at or {}), **self._environment()})

    @contextmanager
    def _unwritable_refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT, EIO):
                raise
            raise UsageError(f"{self.path} cannot be written ({error.strerror}); choose another {self.flag}") from error

    def _check_same(self) -> None:
        """Raises UsageError where the saved configuration is another one, or cannot be read and nothing else tells."""
        try:
            before = self._binding_of(read_config(self.path))
        except UsageError:
            self._intact = False
            if checkpoint.exists(self.path):  # which holds what binds of it
                return
            raise
        if changed := changes(before, self.binding):
            instead = [text for name, text in self._when_changed.items() if before.get(name) != self.binding.get(name)]
            raise UsageError(
                f"{self.path} was run with another configuration: {changed}; "
                + "; ".join([f"resume with the same one, or start a run in another {self.flag}", *instead])
            )
        if before.keys() != self.binding.keys():
            raise UsageError(
                f"{self.path} was made by another version of this program and cannot be resumed; start a run "
                f"in another {self.flag}"
            )

    def _environment(self) -> dict[str, Any]:
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        return {"process": process, **environment.describe(self._device)}

    def _add_environment(self, resumed: Mapping[str, Any]) -> None:
        env = self.read_object("env.json")
        if not (env and isinstance(env.get("resumed", []), list)):
            self.set_aside("env.json", "cannot be read")
            env = {}
        with self.auxiliary("env.json"):
            self.write_json("env.json", {**env, "resumed": [*env.get("resumed", []), resumed]})

    def add_row(self, row: Mapping[str, float]) -> None:
        """Adds a row to `metrics.csv`, whose columns may be others than before."""
        self.rows.append(dict(row))
        self._write_rows()

    def _write_rows(self, *, resuming: bool = False) -> None:
        """Writes all rows; a checkpoint holds them too, so that nothing depends on what the file has become."""
        path, content = self.path / "metrics.csv", _as_csv(self.rows)
        with self.auxiliary("metrics.csv"):
            if resuming and path.exists():
                found = path.read_bytes()
                # It may be one epoch ahead of the checkpoint, or behind it.
                if not (found.startswith(content) or content.startswith(found)):
                    self.set_aside("metrics.csv", "is damaged")
            if self.rows:
                write_atomically(path, content)
            else:
                path.unlink(missing_ok=True)


def described(config: object) -> dict[str, Any]:
    """A configuration as JSON data, as it will be read back. Raises UsageError for a name that is not text."""
    try:
        return msgspec.json.decode(msgspec.json.encode(config))
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r} is not UTF-8 text, which a run's config.json is; rename it") from error


def flat(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration without nesting, with dotted names."""
    found: dict[str, Any] = {}
    for key, item in configuration.items():
        if isinstance(item, Mapping):
            found |= flat(item, f"{prefix}{key}.")
        else:
            found[prefix + key] = item
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two flat configurations in the fields of both, in words; empty where nothing does.

    Where a field decides which others there are, as that of a search method, it differs too.
    """
    both = sorted(before.keys() & now.keys())
    return "; ".join(f"{flag(key)} was {before[key]!r}, is {now[key]!r}" for key in both if before[key] != now[key])


def _as_csv(rows: list[dict[str, float]]) -> bytes:
    """All rows below the names of all their columns."""
    text = io.StringIO(newline="")
    # A later version may have had more columns than the one that began.
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode() if rows else b""


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a directory. Raises UsageError where there is none to be read."""
    try:
        return read_json(path / "config.json", dict[str, Any])
    except FileNotFoundError:
        raise UsageError(f"{path} holds no run (no config.json); name the directory of a run") from None


def read_json(file: Path, kind: Any, *, largest: int = _LARGEST_JSON) -> Any:
    """What a JSON file of at most `largest` bytes holds, of the type `kind`.

    Raises UsageError where it cannot be read or holds something else, FileNotFoundError.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(largest + 1)
        if len(content) > largest:
            raise ValueError(f"it holds more than {largest:,} bytes")
        return msgspec.json.decode(content, type=kind)
    except FileNotFoundError:
        raise
    except RecursionError:
        raise UsageError(f"{file} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {reason_of(error)}") from error


def _means_nothing(name: str) -> bool:
    return name == LOCK or is_leftover(name)


def _cannot_be_written(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return f"{path} cannot be written ({reason}); the run continues without it"
