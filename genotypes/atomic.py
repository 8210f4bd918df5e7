"""The one way in which this package writes a file: whole or not at all."""

import contextlib
import os
import re
import uuid
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file or leave what was there.

    Raises OSError, whose `filename` is `path`, also where the disk is full.
    """
    target = Path(path)
    # tempfile would create it readable by the owner only, and the rename would keep that.
    temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the first failure is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A failed write names no file, and a failed open the temporary one.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what `write_atomically` leaves behind when its process is killed."""
    return re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) is not None


def remove_leftovers(directory: Path) -> None:
    """Remove what killed processes left of their writes; no other process may be writing into `directory`.

    Raises OSError.
    """
    for path in directory.iterdir():
        if is_leftover(path.name) and path.is_file():
            path.unlink(missing_ok=True)
