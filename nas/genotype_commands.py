"""The subcommands of `genotype_tool.py`: list, show, draw, convert and check genotypes.

All but `show --cost` need no torch, and what needs it is imported only where it is used.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

import genotypes
from genotypes import CELL_NAMES, ZOO, CellGenotype, Genotype
from genotypes.atomic import write_atomically
from genotypes.config import AtMost, Config, Count, MoreThan, NoneMeans
from nas.errors import UsageError, users_mistakes

#: Of a picture, in millimetres; a poster is less.
WIDEST_MM = 2000

GenotypeName = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class List(Config):
    """List the published genotypes: error and size as claimed, exact size as built here."""

    json: bool = False
    """Print one JSON object instead of a table."""

    def run(self) -> dict[str, Any] | None:
        """Prints the table, or returns the object to print."""
        if self.json:
            return {name: {k: v for k, v in asdict(e).items() if k != "genotype"} for name, e in ZOO.items()}
        print(f"{'name':20} {'data':9} {'claimed error':>13} {'parameters':>11}  paper")
        for name, entry in ZOO.items():
            error = "-" if entry.claimed_error is None else f"{entry.claimed_error} %"
            print(f"{name:20} {entry.dataset:9} {error:>13} {entry.params:11,}  {entry.paper}")
        return None


@dataclass(frozen=True, kw_only=True)
class _OfOneGenotype(Config):
    genotype: GenotypeName
    """Name of a published genotype, a file (NAME of several in it: FILE:NAME), or the directory of a run."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the genotype has."""

    def read(self) -> Genotype:
        """Raises UsageError for a module that cannot be imported, GenotypeError."""
        if self.operations_from:
            # Here, because it needs torch.
            import spaces

            with users_mistakes():
                spaces.import_modules(self.operations_from)
        return genotypes.resolve(self.genotype)


@dataclass(frozen=True, kw_only=True)
class Show(_OfOneGenotype):
    """Print a genotype, and with --cost what its evaluation network costs."""

    cost: Literal["cifar", "imagenet"] | None = None
    """Form of the network: cifar (20 cells, 36 channels, 32x32) or imagenet (14 cells, 48 channels, 224x224)."""
    classes: Annotated[Count | None, NoneMeans("10 for cifar, 1000 for imagenet")] = None
    """Number of classes."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> dict[str, Any] | None:
        """Prints the genotype, or returns the object to print. Raises UsageError, GenotypeError."""
        genotype = self.read()
        cost = _cost(genotype, self.cost, self.classes) if self.cost else {}
        if self.json:
            return {"genotype": genotypes.to_text(genotype), **cost}
        print(genotypes.to_text(genotype))
        for name, value in cost.items():
            print(f"{name:21} {value:>13,}")
        return None


@dataclass(frozen=True, kw_only=True)
class Draw(_OfOneGenotype):
    """Draw the normal and the reduction cell, or write them as the source of Graphviz's dot."""

    out: str = "."
    """Directory for the pictures normal.* and reduce.*; it must exist."""
    format: Literal["svg", "png", "pdf", "dot"] = "svg"
    """Kind of picture; dot: source for the program dot, which is not run."""
    title: Annotated[str | None, NoneMeans("the genotype's name")] = None
    """What stands above the pictures, before ", normal cell"."""
    no_title: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Nothing stands above the pictures."""
    width: Annotated[float | None, MoreThan(0), AtMost(WIDEST_MM), NoneMeans("what the cells take")] = None
    """Width of the pictures in millimetres, with letters of at least 6 points."""

    def run(self) -> dict[str, Any]:
        """Writes the pictures and returns their paths. Raises UsageError, GenotypeError."""
        self._check()
        genotype, directory = self.read(), Path(self.out)
        pictures = {directory / f"{kind}.{self.format}": self._picture(genotype, kind) for kind in CELL_NAMES}
        for path, content in pictures.items():
            try:
                write_atomically(path, content)
            except OSError as error:
                raise UsageError(f"{path} cannot be written: {error.strerror}") from error
        return {"pictures": [str(path) for path in pictures]}

    def _check(self) -> None:
        if not Path(self.out).is_dir():
            raise UsageError(f"{self.out} is not a directory; make it first, or choose another --out")
        if self.title is not None and self.no_title:
            raise UsageError("--title and --no-title exclude each other; leave one out")
        if self.width is not None and self.format == "dot":
            raise UsageError("--width is for pictures; dot source has none, give it to the program dot")

    def _picture(self, genotype: Genotype, kind: str) -> bytes:
        from genotypes import draw

        cell: CellGenotype = getattr(genotype, kind)
        name = self.title or genotype.name or Path(self.genotype).stem
        title = "" if self.no_title else f"{name}, {CELL_NAMES[kind]} cell"
        if self.format == "dot":
            return draw.to_dot(cell, title).encode()
        return draw.picture(cell, self.format, title, width_mm=self.width)


@dataclass(frozen=True, kw_only=True)
class Convert(_OfOneGenotype):
    """Print a genotype as JSON, or in the text notation of the literature."""

    to: Literal["json", "text"] = "json"
    """The form to print."""

    def run(self) -> None:
        """Prints the genotype. Raises UsageError, GenotypeError."""
        genotype = self.read()
        print((genotypes.to_json if self.to == "json" else genotypes.to_text)(genotype).rstrip("\n"))


@dataclass(frozen=True, kw_only=True)
class Check(_OfOneGenotype):
    """Check a genotype: exit code 0 if it is valid, 2 if not, with the path of the fault."""

    def run(self) -> None:
        """Prints that it is valid. Raises UsageError, GenotypeError."""
        self.read()
        print(f"{self.genotype}: valid")


def _cost(genotype: Genotype, name: Literal["cifar", "imagenet"], classes: int | None) -> dict[str, int]:
    from nas.networks.cost import network_cost
    from nas.networks.forms import FORMS

    form = FORMS[name]
    num_classes = form.num_classes if classes is None else classes
    cost = network_cost(genotype, form.network, in_channels=3, image_size=form.image_size, num_classes=num_classes)
    return asdict(cost)


Command = List | Show | Draw | Convert | Check
