"""Searches in stages: each has a deeper supernet with fewer operations on each edge (P-DARTS, Chen et al., ICCV 2019).

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from genotypes.config import AtLeast, Config, Count
from nas.supernet import SupernetConfig
from spaces import KINDS, Kind, SearchSpace


@dataclass(frozen=True, kw_only=True)
class StagesConfig(Config):
    """Stages of a search, and its epochs without architecture steps; by default one stage and no such epochs.

    `epochs` is that of all stages together, which are equally long. Each begins with new weights, and its learning rate
    and all other schedules start again.
    """

    drop: tuple[Count, ...] = ()
    """Search in stages: how many operations each edge loses after each but the last, the weakest first
    (P-DARTS: 3 2)."""
    stage_layers: tuple[Count, ...] = ()
    """Number of cells in each stage (P-DARTS: 5 11 17; default: --layers in all)."""
    keep_logits: bool = False
    """Keep the logits of the operations that are left (DrNAS), instead of starting again from --init (P-DARTS)."""
    warm_up_epochs: Annotated[int, AtLeast(0)] = 0
    """Epochs at the beginning of each stage that train only the weights (PC-DARTS: 15 of 50; P-DARTS: 10 of 25)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number = len(self.drop) + 1
        for flag, values in (("--stage-layers", self.stage_layers),):
            if values and len(values) != number:
                raise ValueError(
                    f"{flag} has {len(values)} values, but --drop makes {number} stages; give one for each"
                )
        if self.keep_logits and not self.drop:
            raise ValueError("--keep-logits is about what follows a stage, but there is only one; add --drop")


@dataclass(frozen=True)
class Stage:
    """One stage of a search."""

    number: int
    """From 0 on."""
    begin: int
    """Its first epoch, counted over all stages from 0 on."""
    epochs: int
    layers: int | None
    """Number of cells; None for that of the supernet's configuration."""
    warm_up: int
    """Epochs at its beginning without architecture steps."""
    projection: bool = False
    """Whether it decides edge after edge by measurement, with the supernet of the stage before."""

    def supernet(self, config: SupernetConfig) -> SupernetConfig:
        """The configuration of its supernet, given that of the whole search."""
        return config if self.layers is None else replace(config, layers=self.layers)


def plan(config: StagesConfig, epochs: int) -> tuple[Stage, ...]:
    """The stages of a search of `epochs`. Raises ValueError for epochs that cannot be shared out."""
    number = len(config.drop) + 1
    each, rest = divmod(epochs, number)
    if rest:
        raise ValueError(f"--epochs {epochs} cannot be shared equally by {number} stages; give a multiple of {number}")
    if config.warm_up_epochs >= each:
        raise ValueError(
            f"--warm-up-epochs {config.warm_up_epochs} leaves no epoch of {each} for the architecture; give fewer"
        )
    layers = config.stage_layers or [None] * number
    return tuple(
        Stage(number=i, begin=i * each, epochs=each, layers=layers[i], warm_up=config.warm_up_epochs)
        for i in range(number)
    )


def check_drop(config: StagesConfig, space: SearchSpace) -> None:
    """Raises ValueError where the last stage would not have at least two operations other than zero on every edge."""
    if not config.drop:
        return
    fewest = min(int(space.mask[kind].sum(dim=1).min()) for kind in KINDS)
    zero = int("none" in space.operations)
    if fewest - sum(config.drop) - zero < 2:
        raise ValueError(
            f"--drop {' '.join(map(str, config.drop))} takes {sum(config.drop)} of the {fewest} operations of an edge, "
            "and at least two other than zero must be left; drop fewer"
        )


def without_weakest(space: SearchSpace, weights: Mapping[Kind, Tensor], number: int) -> dict[Kind, Tensor]:
    """The masks (E, O) that forbid, on each edge, the `number` weakest operations of those allowed so far.

    Of equally weak ones the first goes first. An edge keeps its strongest operation other than zero.

    Args:
        space: its mask says which operations are allowed.
        weights: of the operations, (E, O) for each kind, without noise.
        number: of operations that each edge loses.
    """
    return {kind: _without_weakest(space, weights[kind], space.mask[kind], number) for kind in KINDS}


def _without_weakest(space: SearchSpace, weights_EO: Tensor, mask_EO: Tensor, number: int) -> Tensor:
    zero = torch.tensor([name == "none" for name in space.operations], device=mask_EO.device)
    candidates = weights_EO.detach().masked_fill(~mask_EO | zero, -torch.inf)
    strongest = torch.nn.functional.one_hot(candidates.argmax(dim=1), len(space.operations)).bool()
    order = weights_EO.detach().masked_fill(~mask_EO | strongest, torch.inf).sort(dim=1, stable=True).indices
    return mask_EO.scatter(1, order[:, :number], False)
