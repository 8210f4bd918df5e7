"""What a search has found so far, read from its directory, whether it has ended or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import torch
from torch import nn

import spaces
from genotypes.messages import reason_of
from genotypes.registry import check_trusted
from nas.data import manifest
from nas.errors import UsageError
from nas.methods.registry import Method, named
from nas.methods.relaxation import Relaxation
from nas.networks.forms import Form, form_of
from nas.runs import checkpoint
from nas.runs.directory import flat, read_config
from spaces import SearchSpace, SpaceConfig

T = TypeVar("T")


class SavedSearch(NamedTuple):
    """A search, as its newest checkpoint has it."""

    space: SearchSpace
    relaxation: Relaxation
    own: Form
    """The form of the networks that are trained on its images."""
    epochs: int
    """How many have ended."""
    taken: int | None
    """The number, from 1 on, of the epoch whose genotype a rule has taken as the result; None if none has."""


def read(directory: Path, modules: Sequence[str] = ()) -> SavedSearch:
    """Reads a search's directory, in which nothing is changed. It may be computing.

    Args:
        directory: of the search.
        modules: those that the user has named. No other module is imported, even if the configuration names it.

    Raises UsageError for a directory that holds no search with a checkpoint, for files that are damaged or do not fit
    together, and for a space or a method in another module.
    """
    config = read_config(directory)
    try:
        if not isinstance(config.get("space"), dict):
            raise ValueError("it is not a search")
        if flat(config).get("derivation.derivation") == "projection":
            raise ValueError("it derives by --derivation projection, not by strength; see its genotype.json")
        spaces.import_modules(modules)
        spaces.load_installed()
        space = spaces.build(_converted(config["space"], SpaceConfig, "space", modules))
        relaxation = _method(config.get("method"), modules).build()
        relaxation.begin(space, seed=0)  # all that is drawn is in the checkpoint
        state = checkpoint.newest(directory)
        tracked: Any = state.get("tracked")
        for name, module in {"space": space, "relaxation": relaxation}.items():
            _load(module, tracked.get(name) if isinstance(tracked, dict) else None, name)
        images = manifest.read(directory)
        own = form_of(
            images.dataset,
            in_channels=images.channels,
            image_size=images.image_size,
            num_classes=len(images.classes),
        )
        return SavedSearch(space, relaxation, own, int(state.get("epoch", 0)), _taken(tracked))
    except ValueError as error:
        # The message may quote a name of any length in the configuration.
        raise UsageError(f"{directory}: {reason_of(error)}") from error


def _taken(tracked: Mapping[str, Any]) -> int | None:
    rule = tracked.get("stop")
    take = rule.get("take") if isinstance(rule, dict) else None
    return take + 1 if isinstance(take, int) and take >= 0 else None


def _converted(saved: Any, kind: type[T], name: str, modules: Sequence[str]) -> T:
    """A block of the configuration. Raises ValueError for one that does not fit, or names a module that no user has."""
    chosen = saved.get(name) if isinstance(saved, dict) else None
    if not isinstance(chosen, str):
        raise ValueError(f"config.json does not say which {name} the search has")
    module, colon, _ = chosen.partition(":")
    if colon:
        check_trusted(module, modules, f"the search's {name} is {chosen!r}")
    try:
        return msgspec.convert(saved, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"config.json does not fit this version: {reason_of(error)}") from error


def _method(saved: Any, modules: Sequence[str]) -> Method:
    name = _converted(saved, Method, "method", modules).method
    return _converted(saved, type(named(name)), "method", modules)


def _load(module: nn.Module, state: Any, name: str) -> None:
    checkpoint.check_like(state, dict(module.state_dict()), name)
    if any(not torch.isfinite(value).all() for value in state.values() if value.is_floating_point()):
        raise ValueError(f"its {name} is not finite")
    module.load_state_dict(state)
