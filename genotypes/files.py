"""Genotypes in files, and the one way this package writes a file."""

import contextlib
import os
import re
import uuid
from pathlib import Path

from genotypes.genotype import MAX_TEXT, Genotype, GenotypeError, from_json, to_json
from genotypes.notation import from_text, without_fences


def load(path: str | os.PathLike[str], choose: str | None = None) -> Genotype:
    """Read a genotype from a file that holds either JSON or the literature's `Genotype(...)` text.

    `choose` is the name of one of several. Raises GenotypeError if the file cannot be read or does not hold a valid
    genotype.
    """
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise GenotypeError(f"{where}: cannot be read: {reason}; check the path") from error
    if len(content) > MAX_TEXT:
        raise GenotypeError(f"{where}: holds more than {MAX_TEXT} bytes; no genotype is that long")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GenotypeError(f"{where}: byte {error.start}: is not UTF-8 text") from error
    text = without_fences(text)
    if choose is None and text.lstrip().startswith("{"):
        return from_json(text, where)
    return from_text(text, where=where, choose=choose)


def save(genotype: Genotype, path: str | os.PathLike[str]) -> None:
    """Write a genotype as JSON; a reader never sees half a file.

    Raises GenotypeError if the genotype is not valid, OSError if the file cannot be written.
    """
    write_atomically(path, to_json(genotype).encode("utf-8"))


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
