"""Search spaces by name: from this package, from installed packages, or from a module of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from genotypes.config import AtMost, Common, Config, Count, NoneMeans, NotNegative
from genotypes.genotype import MAX_NODES
from genotypes.registry import Registry
from spaces.ops import TABLE_6
from spaces.space import INIT_GAP, SearchSpace

_SPACES = Registry("search space", group="optinas.spaces", base=SearchSpace, defines="edges_between")
register, names, get, load_installed = _SPACES.register, _SPACES.names, _SPACES.get, _SPACES.load_installed
name_of = _SPACES.name_of


@dataclass(frozen=True, kw_only=True)
class SpaceConfig(Config):
    """Which search space, and where in it the search starts."""

    space: Annotated[str, Common] = "darts"
    """Search space: darts, hb, agd, s1 to s4, one of an installed package, or "package.module:Class"."""
    nodes: Annotated[Count, AtMost(MAX_NODES), Common] = 4
    """Intermediate nodes of a cell (DARTS sec. 3.1: 4)."""
    operations: tuple[str, ...] = ()
    """Candidate operations by name, or "all" for the nine of Table 6 (default: the space's own)."""
    edge_normalized: Annotated[bool | None, NoneMeans("only in Space-AGD")] = None
    """Whether the edges entering a node have trained weights that sum to 1, as in PC-DARTS."""
    init: Annotated[str | None, NoneMeans("hb in Space-HB, otherwise zero")] = None
    """Initial architecture parameters: zero, random, or in Space-HB hb."""
    init_gap: NotNegative = INIT_GAP
    """How far above the others a peaked logit of --init hb starts: larger is closer to HB-Net, and slower to leave; at
    10 weight decay alone decides, not the images (LOG.md)."""


def build(config: SpaceConfig, *, seed: int = 0) -> SearchSpace:
    """The search space that `config` names, initialized with random numbers from `seed`.

    Raises ValueError as `get`, the space and its `initialize` do.
    """
    if "all" in config.operations and len(config.operations) > 1:
        raise ValueError('--operations "all" means all of them; pass it alone, or leave it out')
    operations = TABLE_6 if config.operations == ("all",) else config.operations
    space = get(config.space)(nodes=config.nodes, operations=operations, edge_normalized=config.edge_normalized)
    generator = torch.Generator().manual_seed(seed)
    space.initialize(config.init, gap=config.init_gap, generator=generator)
    return space
