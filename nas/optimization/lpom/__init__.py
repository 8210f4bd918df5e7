"""Lifted proximal operator machines: multilayer perceptrons trained without back-propagation (slides on LPOM)."""

from nas.optimization.lpom.classifier import LPOMClassifier
from nas.optimization.lpom.machine import LOSSES, LPOM, LPOMConfig
from nas.optimization.lpom.network import MLP
from nas.optimization.lpom.penalty import LIFTABLE, f, g, gap

__all__ = ["LIFTABLE", "LOSSES", "LPOM", "MLP", "LPOMClassifier", "LPOMConfig", "f", "g", "gap"]
