"""A run's directory: written to by one process at a time, and usable again after whatever ended that process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import ENOLCK
from pathlib import Path
from typing import Any

import filelock
import msgspec
from tqdm import tqdm

from genotypes.files import is_leftover, remove_leftovers, write_atomically
from genotypes.messages import one_line
from nas import checkpoint
from nas.errors import UsageError

#: The operating system takes the lock from a process that has ended, however it ended; the file stays.
LOCK = ".lock"

#: What a run writes beside its checkpoints, and which of it are folders.
_FILES = (
    *("config.json", "env.json", "log.txt", "metrics.csv", "record.json", "result.json"),
    *("genotype.json", "normal.svg", "reduce.svg", "weights.safetensors"),
)
_FOLDERS = ("tb", "genotypes")

#: Bytes of a configuration or a record. ImageNet's classes are the longest part of either, with 30,000.
_LARGEST_JSON = 4_000_000
_LONGEST_REASON = 300  # characters


class Directory:
    """The directory of a run that is being computed.

    Auxiliary files (log, metrics, environment, pictures, TensorBoard) never stop it: what cannot be read is set aside,
    what cannot be written is told once. Its other methods raise OSError where a file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = filelock.FileLock(path / LOCK)
        self._told: set[str] = set()

    # --- whose it is --------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Keeps other processes out until `unlock`. Raises UsageError where one is at work, OSError."""
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise UsageError(
                f"{self.path} is in use by {self._holder()}; wait until it has ended, or choose another --run-dir"
            ) from None
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno != ENOLCK:
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            self.warn(f"{self.path} is on a file system without locks; see to it that no other process uses it")

    def unlock(self) -> None:
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
            raise UsageError(
                f"{self.path} is not empty; choose another --run-dir, or continue the run in it with --resume"
            )

    def never_began(self) -> bool:
        """Whether a run was killed in it before its configuration was written."""
        names = [path.name for path in self.path.iterdir()] if self.path.is_dir() else []
        return bool(names) and all(map(_means_nothing, names))

    def holds_run(self) -> bool:
        return (self.path / "config.json").exists() or checkpoint.exists(self.path)

    def tidy(self) -> None:
        """Removes what killed processes left, and sets aside what is in the place of a file or folder of the run."""
        remove_leftovers(self.path)
        (self.path / checkpoint.NEW).unlink(missing_ok=True)
        if (self.path / "genotypes").is_dir():
            remove_leftovers(self.path / "genotypes")
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
            value = msgspec.json.decode((self.path / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def add_environment(self, environment: Mapping[str, Any]) -> None:
        """Adds a resumption's environment to `env.json`."""
        env = self.read_object("env.json")
        if not (env and isinstance(env.get("resumed", []), list)):
            self.set_aside("env.json", "cannot be read")
            env = {}
        with self.auxiliary("env.json"):
            self.write_json("env.json", {**env, "resumed": [*env.get("resumed", []), environment]})

    def log(self, text: str) -> None:
        """Prints a line and appends it to `log.txt`."""
        tqdm.write(text)
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
        """Within it a failure to write the auxiliary file `name` is told, the first time, and goes no further."""
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


def read_json(file: Path, kind: Any) -> Any:
    """What a JSON file holds, of the type `kind`.

    Raises UsageError where it cannot be read or holds something else, FileNotFoundError.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_JSON + 1)
        if len(content) > _LARGEST_JSON:
            raise ValueError(f"it holds more than {_LARGEST_JSON:,} bytes")
        return msgspec.json.decode(content, type=kind)
    except FileNotFoundError:
        raise
    except RecursionError:
        raise UsageError(f"{file} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        # The message may quote what the file holds.
        raise UsageError(f"{file} cannot be read: {one_line(str(error))[:_LONGEST_REASON]}") from error


def _means_nothing(name: str) -> bool:
    return name == LOCK or is_leftover(name)


def _cannot_be_written(path: Path, error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    return f"{path} cannot be written ({reason}); the run continues without it"
