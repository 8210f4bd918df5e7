"""Search methods by name: from this package, from installed packages, or from a module of your own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from genotypes.config import Common, Config
from genotypes.registry import Registry
from nas.methods.relaxation import Relaxation


@dataclass(frozen=True, kw_only=True)
class Method(Config):
    """A search method with its constants: the base class of the configurations that `--method` chooses from."""

    method: Annotated[str, Common] = ""
    """Search method: darts, gdas and so on, one of an installed package, or "package.module:Class"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.method:  # made in Python, by its class
            object.__setattr__(self, "method", _METHODS.name_of(type(self)))

    def build(self) -> Relaxation:
        """What turns the logits of a space into weights of its operations."""
        raise NotImplementedError


_METHODS = Registry("search method", group="optinas.methods", base=Method, defines="build")
register, names = _METHODS.register, _METHODS.names


def named(name: str) -> Method:
    """The method of that name, or of the class at "package.module:Class", with its default constants.

    Raises ValueError for an unknown name (the message lists the known ones), a module that cannot be imported, or an
    object that is not a `Method`.
    """
    return _METHODS.get(name)(method=name)
