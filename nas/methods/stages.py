"""Searches in stages: each has a deeper supernet with fewer operations on each edge (P-DARTS, Chen et al., ICCV 2019).

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from genotypes.config import AtLeast, Config, Count, LessThan, flag
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
    stage_partial_channels: tuple[Count, ...] = ()
    """--partial-channels of each stage (DrNAS: 6 4; default: the same in all)."""
    skip_dropout: tuple[Annotated[float, AtLeast(0), LessThan(1)], ...] = ()
    """Rate of the dropout after identities of stride 1 with which each stage begins (P-DARTS: 0 0.4 0.7; default:
    none). It falls during --warm-up-epochs, and from the full rate again after them."""
    keep_logits: bool = False
    """Keep the logits of the operations that are left (DrNAS), instead of starting again from --init (P-DARTS)."""
    warm_up_epochs: Annotated[int, AtLeast(0)] = 0
    """Epochs at the beginning of each stage that train only the weights (PC-DARTS: 15 of 50; P-DARTS: 10 of 25)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number = len(self.drop) + 1
        for name in ("stage_layers", "stage_partial_channels", "skip_dropout"):
            values = getattr(self, name)
            if values and len(values) != number:
                raise ValueError(
                    f"{flag(name)} has {len(values)} values, but --drop makes {number} stages; give one for each"
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
    partial_channels: int | None
    """K of its partial channels; None for that of the supernet's configuration."""
    skip_dropout: float
    """Rate of the dropout after identities with which it begins."""
    warm_up: int
    """Epochs at its beginning without architecture steps."""
    projection: bool = False
    """Whether it decides edge after edge by measurement, with the supernet of the stage before."""

    def supernet(self, config: SupernetConfig) -> SupernetConfig:
        """The configuration of its supernet, given that of the whole search."""
        return replace(
            config,
            layers=config.layers if self.layers is None else self.layers,
            partial_channels=config.partial_channels if self.partial_channels is None else self.partial_channels,
        )

    def skip_dropout_rate(self, epoch: int) -> float:
        """The rate of the dropout after identities in an epoch, counted within the stage from 0 on.

        It falls linearly while only the weights are trained, so that it would be 0 after the last epoch, starts again
        at the full rate with the first architecture step, and decays exponentially from there (P-DARTS's code).
        """
        if epoch < self.warm_up:
            return self.skip_dropout * (self.epochs - epoch - 1) / self.epochs
        return self.skip_dropout * math.exp(-0.2 * (epoch - self.warm_up))


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
    partial_channels = config.stage_partial_channels or [None] * number
    skip_dropout = config.skip_dropout or [0.0] * number
    return tuple(
        Stage(
            number=i,
            begin=i * each,
            epochs=each,
            layers=layers[i],
            partial_channels=partial_channels[i],
            skip_dropout=skip_dropout[i],
            warm_up=config.warm_up_epochs,
        )
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
