"""From a user's argument to a genotype: the name of a published one, a file, or the directory of a run."""

import os

from genotypes.files import load
from genotypes.genotype import Genotype, GenotypeError, unknown_name
from genotypes.messages import below
from genotypes.zoo import ZOO, find


def resolve(name_or_path: str | os.PathLike[str]) -> Genotype:
    """The genotype of a published architecture, of a file (see `load`), or of the directory of a run.

    FILE:NAME is one of several in a file. Names may be spelled as in the authors' code, in upper or lower case.

    Raises GenotypeError if it is none of them, or if the file is faulty.
    """
    text = os.fspath(name_or_path)
    if text in ZOO:
        return ZOO[text].genotype
    file, _, chosen = text.rpartition(":")
    if os.path.isdir(text):
        path = os.path.join(text, "genotype.json")
        if not os.path.isfile(path):
            raise GenotypeError(
                f"{text}: holds no genotype.json; name the directory of a finished run{below(text, 'genotype.json')}"
            )
        return load(path)
    if os.path.exists(text):
        return load(text)
    if chosen.isidentifier() and os.path.isfile(file):
        return load(file, choose=chosen)
    entry = find(text)
    if entry is not None:
        return entry.genotype
    raise GenotypeError(f"no such file, and {unknown_name('architecture', text, ZOO)}")
