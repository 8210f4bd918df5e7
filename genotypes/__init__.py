"""Discrete architectures as data: reading, writing, checking and drawing them needs no torch.

Pictures are in `genotypes.draw`, which is imported only when needed.
"""

from genotypes.files import load, save
from genotypes.genotype import CELL_NAMES, CellGenotype, Edge, Genotype, GenotypeError, from_json, to_json, validate
from genotypes.notation import from_text, to_text
from genotypes.operations import OPERATIONS, declare_operation
from genotypes.resolve import resolve
from genotypes.zoo import ZOO, ZooEntry, get, names

__all__ = [
    "CELL_NAMES",
    "OPERATIONS",
    "ZOO",
    "CellGenotype",
    "Edge",
    "Genotype",
    "GenotypeError",
    "ZooEntry",
    "declare_operation",
    "from_json",
    "from_text",
    "get",
    "load",
    "names",
    "resolve",
    "save",
    "to_json",
    "to_text",
    "validate",
]
