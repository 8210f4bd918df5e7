"""Reading and writing genotype files."""

import os

from genotypes.atomic import write_atomically
from genotypes.genotype import MAX_TEXT, Genotype, GenotypeError, from_json, to_json
from genotypes.notation import from_text, without_fences


def load(path: str | os.PathLike[str], choose: str | None = None) -> Genotype:
    """Read a genotype from a file that holds either JSON or the literature's `Genotype(...)` text.

    `choose` names one of several in the file.

    Raises GenotypeError if the file cannot be read or does not hold a valid genotype.
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
