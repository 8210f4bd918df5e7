"""The size that an evaluation network may have. No torch, because a command line is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genotypes.config import AtLeast, Common, Config, Count, NoneMeans, flag


@dataclass(frozen=True, kw_only=True)
class BudgetConfig(Config):
    """Limits of the evaluation network, and which network that is."""

    max_params: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most parameters of the evaluation network, without its auxiliary head."""
    max_macs: Annotated[Count | None, Common, NoneMeans("any number")] = None
    """Most multiply-adds of the evaluation network for one image."""
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

    @property
    def limited(self) -> bool:
        """Whether the size of a network is limited."""
        return self.max_params is not None or self.max_macs is not None

    def check_counted(self, counted: bool, flags: str) -> None:
        """Raises ValueError if a network is described that nothing counts: neither a limit nor those `flags`."""
        described = {flag(name): getattr(self, name) for name in ("eval_form", "eval_layers", "eval_channels")}
        for name, value in described.items():
            if value is not None and not (self.limited or counted):
                raise ValueError(
                    f"{name} {value} describes the network that --max-params, --max-macs and {flags} count; "
                    "add one of them, or leave it out"
                )
