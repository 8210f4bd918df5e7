"""What can be trained: a network of cells, as a genotype says, a hand-made one, or one of torchvision or timm.

An architecture is data: it builds its network, says what it is, and is kept in the header of a weights file
(`nas.networks.weights`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import genotypes
import spaces
from genotypes import CellGenotype, Genotype, GenotypeError
from nas.errors import UsageError
from nas.networks import handmade
from nas.networks import library as library_networks
from nas.networks.cells import Network, NetworkConfig
from nas.networks.handmade import HandmadeConfig
from nas.networks.library import LibraryArchitecture, LibraryConfig, is_library
from nas.runs import record
from nas.runs.directory import Directory
from nas.runs.record import SearchRecord
from nas.runs.tensorboard import draw_cells
from spaces import build_operation

#: In all cells together. It bounds what a stranger's file can have built; 20 cells of Space-HB have 240.
MAX_OPERATIONS = 20_000
_PREPROCESSING_TENSORS = 12  # of a cell: two convolutions, and two BatchNorms of five tensors


@dataclass(frozen=True, kw_only=True)
class CellArchitecture:
    """The evaluation network of a genotype."""

    genotype: Genotype
    config: NetworkConfig

    @property
    def identity(self) -> str:
        """What a resumed run must share, for messages."""
        return genotypes.to_text(self.genotype)

    @property
    def summary(self) -> str:
        """Its size in words, for messages."""
        return f"{self.config.layers} cells of {self.config.init_channels} channels"

    @property
    def fewest_tensors(self) -> int:
        """A lower bound of the length of the network's `state_dict`, found without building it."""
        operations = [_operations(cell) for cell in (self.genotype.normal, self.genotype.reduce)]
        with torch.device("meta"):
            tensors = {
                name: len(build_operation(name, self.config.init_channels, 1).state_dict())
                for name in {*operations[0], *operations[1]}
            }
        normal, reduction = (_PREPROCESSING_TENSORS + sum(map(tensors.__getitem__, names)) for names in operations)
        reductions = min(2, self.config.layers)
        return reductions * min(normal, reduction) + (self.config.layers - reductions) * normal

    def build(self, *, in_channels: int, image_size: tuple[int, int], num_classes: int) -> Network:
        """The network for images (N, in_channels, *image_size), with new weights.

        Raises ValueError for one of more operations than anybody trains.
        """
        cells = self.genotype.normal, self.genotype.reduce
        operations = self.config.layers * max(len(_operations(cell)) for cell in cells)
        if operations > MAX_OPERATIONS:
            raise ValueError(
                f"--layers is {self.config.layers}, which makes {operations} operations; at most "
                f"{MAX_OPERATIONS} are possible"
            )
        return Network(
            self.genotype, self.config, in_channels=in_channels, image_size=image_size, num_classes=num_classes
        )

    def write(self, directory: Directory) -> None:
        """Leaves `genotype.json` and the cells' pictures in a run's directory."""
        genotypes.save(self.genotype, directory.path / "genotype.json")
        draw_cells(directory, self.genotype, "")


def _operations(cell: CellGenotype) -> list[str]:
    return [edge.operation for node in cell.nodes for edge in node]


@dataclass(frozen=True, kw_only=True)
class HandmadeArchitecture:
    """A hand-made network, see `nas.networks.handmade`."""

    name: str
    config: HandmadeConfig

    @property
    def identity(self) -> str:
        """What a resumed run must share, for messages."""
        return self.name

    @property
    def summary(self) -> str:
        """Its kind and the options that are not the defaults, in words, for messages."""
        return ", ".join(["a hand-made network", *(f"{name} {value}" for name, value in _changed(self.config).items())])

    @property
    def fewest_tensors(self) -> int:
        """A lower bound of the length of the network's `state_dict`: a layer is a convolution and a BatchNorm."""
        return 5 * handmade.depth(self.name)

    def build(self, *, in_channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
        """The network for images (N, in_channels, *image_size), with new weights.

        Raises ValueError for a name or an option that is not there, or images too small for it.
        """
        return handmade.build(
            self.name, self.config, in_channels=in_channels, image_size=image_size, num_classes=num_classes
        )

    def write(self, directory: Directory) -> None:
        """Leaves nothing: the name says it all."""


Architecture = CellArchitecture | HandmadeArchitecture | LibraryArchitecture
_Options = NetworkConfig | HandmadeConfig | LibraryConfig
#: The options of each kind of network, and whose they are, in words.
_WHOSE: dict[type[_Options], str] = {
    NetworkConfig: "for networks of cells",
    HandmadeConfig: "for hand-made networks",
    LibraryConfig: "for networks of torchvision and timm",
}


class Resolved(NamedTuple):
    """What `--arch` names, and the search that found it where a record tells of one."""

    architecture: Architecture
    search: SearchRecord | None


def resolve(
    arch: str | Genotype, network: NetworkConfig, hand_made: HandmadeConfig, library: LibraryConfig | None = None
) -> Resolved:
    """The architecture of a genotype, a published one's name, a hand-made network's, a library's, a file or a run.

    Nothing that the files name is imported: a module that declares operations of the genotype must have been imported
    before.

    Raises ValueError for anything else, and for flags that belong to another kind of network.
    """
    options = (network, hand_made, library or LibraryConfig())
    if isinstance(arch, Genotype):
        _refuse_foreign(options, NetworkConfig, "a genotype")
        genotypes.validate(arch)
        return Resolved(CellArchitecture(genotype=arch, config=network), None)
    if not arch:
        raise ValueError(
            "--arch is missing; name a published genotype (optinas-genotype list), a hand-made network such as "
            "hbnet56, one of a library such as torchvision:resnet18, a genotype file, or the directory of a search run"
        )
    _refuse_foreign(options, _options_of(arch), arch)
    if is_library(arch):
        library_networks.parsed(arch)
        return Resolved(LibraryArchitecture(name=arch), None)
    if handmade.is_handmade(arch):
        return Resolved(HandmadeArchitecture(name=arch, config=hand_made), None)
    search = _search_behind(Path(arch))
    # The genotype may have operations that an installed space declares. A module that a file names is not imported.
    spaces.load_installed()
    try:
        genotype = genotypes.resolve(arch)
    except GenotypeError as error:
        if os.path.exists(arch):
            raise
        raise ValueError(
            f"{error}; hand-made networks: {handmade.describe()}; those of libraries: torchvision:NAME and timm:NAME"
        ) from error
    return Resolved(CellArchitecture(genotype=genotype, config=network), search)


def _search_behind(directory: Path) -> SearchRecord | None:
    try:
        return record.search_behind(directory)
    except UsageError as error:
        raise UsageError(f"{error}; to train without it, pass --arch {directory / 'genotype.json'}") from error


def check_given(arch: str, names: Iterable[str]) -> None:
    """Raises ValueError for an option, whatever its value, that belongs to another kind of network than `arch` is.

    Args:
        arch: what `--arch` names, perhaps nothing.
        names: the options that the user has given; those that are of no network are of no interest here.
    """
    foreign = foreign_options(arch) if arch else {}
    for name in names:
        if name in foreign:
            raise ValueError(_foreign(name, foreign[name], arch))


def foreign_options(arch: str) -> dict[str, str]:
    """The options of other kinds of network than what `--arch` names, and whose each is, in words."""
    own = _options_of(arch)
    return {field.name: whose for other, whose in _WHOSE.items() if other is not own for field in fields(other)}


def _options_of(arch: str) -> type[_Options]:
    if is_library(arch):
        return LibraryConfig
    return HandmadeConfig if handmade.is_handmade(arch) else NetworkConfig


def _refuse_foreign(given: Iterable[_Options], own: type[_Options], arch: str) -> None:
    """Raises ValueError where options of another kind of network than `arch` are not the defaults."""
    for config in given:
        for name in _changed(config) if type(config) is not own else ():
            raise ValueError(_foreign(name, _WHOSE[type(config)], arch))


def _foreign(name: str, whose: str, arch: str) -> str:
    return f"--{name.replace('_', '-')} is {whose}, which {arch} is not; leave it out"


def _changed(config: _Options) -> dict[str, Any]:
    """The fields that have another value than their default."""
    values = ((field.name, getattr(config, field.name), field.default) for field in fields(config))
    return {name: value for name, value, default in values if value != default}
