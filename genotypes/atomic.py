"""Atomic writes: a file is written whole or not at all. All files of the toolkit are written here."""

import contextlib
import os
import re
import uuid
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file, or leave what was there.

    Raises OSError with `path` as its `filename`, a full disk included.
    """
    target = Path(path)
    # Not by tempfile: its files are readable by the owner only, and a rename would keep that.
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            # Before the rename: otherwise a crash could leave an empty file under the final name.
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first failure is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # The error of a failed write has no file name, that of a failed open the temporary one.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def is_leftover(name: str) -> bool:
    """Whether a file of this name was left by a process killed in `write_atomically`."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) is not None


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files of killed processes; no other process may be writing into `directory`.

    Raises OSError.
    """
    for path in directory.iterdir():
        if is_leftover(path.name) and path.is_file():
            path.unlink(missing_ok=True)
