"""What distinguishes search methods: how logits are relaxed to weights, the bilevel steps, and what is derived."""

from genotypes.registry import discover
from nas.methods.darts import DARTS
from nas.methods.registry import Method, named, names, register
from nas.methods.relaxation import Noise, Relaxation, Weights

__all__ = ["DARTS", "Method", "Noise", "Relaxation", "Weights", "named", "names", "register"]

discover("nas.methods")
