"""The subcommands of `genotype_tool.py`: list, show, draw, convert, check, derive and draw at random.

All but `show` with costs, `derive` and `random` need no torch, and what needs it is imported only where it is used.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

import genotypes
from genotypes import CELL_NAMES, ZOO, CellGenotype, Genotype
from genotypes.atomic import write_atomically
from genotypes.config import AtLeast, AtMost, Common, Config, Count, IsPath, MoreThan, NoneMeans
from genotypes.genotype import MAX_NODES
from nas.errors import UsageError, users_mistakes
from nas.networks.budget import BudgetConfig

#: Of a picture, in millimetres; a poster is less.
WIDEST_MM = 2000

GenotypeName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GENOTYPE")]


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
    """Print a genotype, and with --cost or --latency-table what its evaluation network costs."""

    cost: Annotated[Literal["cifar", "imagenet"] | None, NoneMeans("that of --latency-table, if there is one")] = None
    """Form of the network: cifar (20 cells, 36 channels, 32x32) or imagenet (14 cells, 48 channels, 224x224)."""
    classes: Annotated[Count | None, NoneMeans("10 for cifar, 1000 for imagenet")] = None
    """Number of classes."""
    latency_table: Annotated[str | None, IsPath, NoneMeans("no latency is predicted")] = None
    """File of optinas-latency-table, which predicts how many milliseconds the network takes."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes is not None and self.cost is None:
            raise ValueError("--classes is for the form that --cost names; add --cost, or leave it out")

    def run(self) -> dict[str, Any] | None:
        """Prints the genotype, or returns the object to print. Raises UsageError, GenotypeError."""
        genotype = self.read()
        cost = self._cost(genotype) if self.cost or self.latency_table else {}
        if self.json:
            return {"genotype": genotypes.to_text(genotype), **cost}
        print(genotypes.to_text(genotype))
        for name, value in cost.items():
            print(f"{name:21} {value:>13,}")
        return None

    def _cost(self, genotype: Genotype) -> dict[str, float]:
        from nas.networks.cost import network_cost
        from nas.networks.forms import FORMS
        from nas.networks.latency_table import LatencyModel

        form = FORMS[self.cost] if self.cost else None
        if form is not None and self.classes is not None:
            form = form._replace(num_classes=self.classes)
        latency = {}
        if self.latency_table is not None:
            with users_mistakes():
                model = LatencyModel.read(self.latency_table, form)
                form, latency = model.form, {"latency_ms": model.predicted(genotype)}
        assert form is not None, "--cost or the table has one"
        cost = network_cost(
            genotype,
            form.network,
            in_channels=form.in_channels,
            image_size=form.image_size,
            num_classes=form.num_classes,
        )
        return asdict(cost) | latency


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


class Sized(NamedTuple):
    """A genotype, with the parameters and multiply-adds (of one image) of its network, and its predicted latency."""

    genotype: Genotype
    params: int
    macs: int
    latency_ms: float | None
    """Milliseconds; None without --latency-table."""

    @property
    def figures(self) -> dict[str, float]:
        """Those that there are, by the keys of results."""
        latency = {} if self.latency_ms is None else {"latency_ms": self.latency_ms}
        return {"params": self.params, "macs": self.macs, **latency}


class Derived(NamedTuple):
    """What `derive` gives."""

    found: Sized
    epochs: int
    """Those after which the search was in the state that it is from."""
    note: str | None
    """That the search took the genotype of an earlier epoch, if it did."""


@dataclass(frozen=True, kw_only=True)
class Derive(BudgetConfig):
    """Derive the strongest genotype within limits from the newest checkpoint of a search, ended or not."""

    run_dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Directory of the search."""
    max_skips: Annotated[int | None, AtLeast(0), Common, NoneMeans("any number")] = None
    """Most identities in the normal cell (P-DARTS: 2). The weakest are replaced as in P-DARTS; with --max-params,
    --max-macs or --max-latency the genotype is the strongest within all limits, which is exact and may be another
    one."""
    out: Annotated[str | None, Common, NoneMeans("print it only")] = None
    """File to write the genotype to, for --arch."""
    operations_from: Annotated[tuple[str, ...], Common] = ()
    """Modules of your own to import first, if the search's space, method or operations are from there."""

    def run(self) -> dict[str, Any]:
        """Derives the genotype, and returns it with what its network costs. Raises UsageError, GenotypeError."""
        found, epochs, note = self.derived()
        if note is not None:
            print(note)
        return {**_written(found.genotype, self.out), **found.figures, "epochs": epochs}

    def derived(self) -> Derived:
        """Derives the genotype. Raises UsageError."""
        from nas.methods import saved
        from nas.methods.derivation import Derivation, DerivationConfig
        from nas.networks.edge_costs import costs_in

        found = saved.read(Path(self.run_dir), self.operations_from)
        limits = {field.name: getattr(self, field.name) for field in fields(BudgetConfig)}
        with users_mistakes():
            config = DerivationConfig(max_skips=self.max_skips, **limits)
            derivation = Derivation(config, found.space, found.relaxation, found.own)
        genotype = derivation.derive(found.space, found.relaxation)
        params, macs = costs_in(found.space, derivation.form).total(found.space, genotype)
        latency = None if derivation.latency is None else derivation.latency.predicted(genotype)
        note = None
        if found.taken not in (None, found.epochs):
            # Only the genotypes of earlier epochs are kept, not their logits.
            note = (
                f"derived from the state after epoch {found.epochs}, the newest; the search took the genotype of epoch "
                f"{found.taken}, whose state is not kept"
            )
        return Derived(Sized(genotype, params, macs, latency), found.epochs, note)


@dataclass(frozen=True, kw_only=True)
class Random(BudgetConfig):
    """Draw genotypes of a search space at random, all that are within the limits being equally likely."""

    space: Annotated[str, Common] = "darts"
    """Search space: darts, hb, agd, one of an installed package, or "package.module:Class"."""
    nodes: Annotated[Count, AtMost(MAX_NODES), Common] = 4
    """Intermediate nodes of a cell (DARTS sec. 3.1: 4)."""
    operations: Annotated[tuple[str, ...], Common] = ()
    """Candidate operations by name, or "all" for the nine of Table 6 (default: the space's own)."""
    seed: Annotated[int, AtLeast(0), Common] = 0
    """Seed of the first genotype; the next has the next seed."""
    number: Annotated[Count, AtMost(100_000), Common] = 1
    """How many to draw."""
    out: Annotated[str | None, Common, NoneMeans("print them only")] = None
    """File to write the genotype to, for --arch; of several, each has its seed in the name: out-0.json."""

    def run(self) -> dict[str, Any]:
        """Draws the genotypes, and returns them with what their networks cost. Raises UsageError, GenotypeError."""
        rows = []
        for seed, found in self.drawn(range(self.seed, self.seed + self.number)).items():
            written = _written(found.genotype, self._file(seed))
            rows.append({"seed": seed, **written, **found.figures})
        return {"genotypes": rows}

    def drawn(self, seeds: Iterable[int]) -> dict[int, Sized]:
        """Draws the genotype of each seed. Raises UsageError."""
        import spaces
        from nas.networks.edge_costs import costs_in
        from nas.networks.forms import FORMS, chosen
        from nas.networks.latency_table import model_of
        from spaces.sampling import Sampler

        with users_mistakes():
            space = spaces.build(
                spaces.SpaceConfig(space=self.space, nodes=self.nodes, operations=self.operations, init="zero")
            )
            form = chosen(self, FORMS["cifar"])
            costs, model = costs_in(space, form), model_of(self, form)
            limits = costs.limits(self.max_params, self.max_macs)
            if model is not None:
                model.costs(space)  # for what it refuses
                limits += model.limits(space, self.max_latency)
            sampler = Sampler(space, limits)
            genotypes_drawn = {seed: sampler.draw(random.Random(seed)) for seed in seeds}
        return {
            seed: Sized(found, *costs.total(space, found), None if model is None else model.predicted(found))
            for seed, found in genotypes_drawn.items()
        }

    def _file(self, seed: int) -> str | None:
        if self.out is None or self.number == 1:
            return self.out
        return str(Path(self.out).with_stem(f"{Path(self.out).stem}-{seed}"))


def _written(genotype: Genotype, out: str | None) -> dict[str, Any]:
    """The genotype as text, and in a file if there is to be one. Raises UsageError."""
    if out is None:
        return {"genotype": genotypes.to_text(genotype)}
    try:
        genotypes.save(genotype, out)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{out} cannot be written: {reason}; choose another --out") from error
    return {"genotype": genotypes.to_text(genotype), "out": out}


Command = List | Show | Draw | Convert | Check | Derive | Random
