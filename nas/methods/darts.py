"""DARTS: a softmax over the operations of each edge (Liu et al., ICLR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from nas.methods.registry import Method, register
from nas.methods.relaxation import Relaxation


@register("darts")
@dataclass(frozen=True, kw_only=True)
class DARTS(Method):
    """DARTS (Liu et al., ICLR 2019, sec. 2.2): all operations of an edge, weighted by a softmax of its logits."""

    def build(self) -> Relaxation:
        """The softmax."""
        return Relaxation()
