"""The size and the speed that an evaluation network may have. No torch, because a command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from genotypes.config import AtLeast, AtMost, Common, Config, Count, IsPath, KeptInCheckpoint, MoreThan, NoneMeans, flag


@dataclass(frozen=True, kw_only=True)
class FormConfig(Config):
    """Which evaluation network is meant, where none has been built yet."""

    eval_form: Annotated[
        Literal["cifar", "imagenet"] | None,
        NoneMeans("that of the search's data set, on its own images; without a search, cifar"),
    ] = None
    """Evaluation network that is counted: cifar (20 cells, 36 channels, 32x32 pixels, 10 classes) or imagenet
    (14 cells, 48 channels, 224x224 pixels, 1000 classes)."""
    eval_layers: Annotated[Count | None, NoneMeans("that of the form")] = None
    """Number of cells of that network."""
    eval_channels: Annotated[int | None, AtLeast(2), NoneMeans("that of the form")] = None
    """Channels of its first cells."""


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(FormConfig):
    """Limits of the evaluation network, and which network that is."""

    max_params: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most parameters of the evaluation network, without its auxiliary head."""
    max_macs: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most multiply-adds of the evaluation network for one image."""
    max_latency: Annotated[float | None, MoreThan(0), AtMost(10**9), Common, NoneMeans("any time")] = None
    """Longest forward pass of the evaluation network in milliseconds, as --latency-table predicts it."""
    latency_table: Annotated[str | None, IsPath, Common, KeptInCheckpoint, NoneMeans("no latency is predicted")] = None
    """File of optinas-latency-table, measured for that network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_latency is not None and self.latency_table is None:
            raise ValueError(
                f"--max-latency {self.max_latency:g} needs --latency-table, a file that optinas-latency-table writes"
            )

    @property
    def limited(self) -> bool:
        """Whether the size or the speed of a network is limited."""
        return any(most is not None for most in (self.max_params, self.max_macs, self.max_latency))

    def check_counted(self, counted: bool, flags: str) -> None:
        """Raises ValueError if a network is described that nothing counts: neither a limit nor those `flags`."""
        counted = counted or self.limited or self.latency_table is not None
        for name in (field.name for field in fields(FormConfig)):
            value = getattr(self, name)
            if value is not None and not counted:
                raise ValueError(
                    f"{flag(name)} {value} describes the network that --max-params, --max-macs, --latency-table and "
                    f"{flags} count; add one of them, or leave it out"
                )
