"""Lifted proximal operator machines: multilayer perceptrons trained without back-propagation (slides on LPOM)."""

from nas.theory.lpom.classifier import LPOMClassifier
from nas.theory.lpom.machine import LOSSES, LPOM, LPOMConfig
from nas.theory.lpom.network import MLP
from nas.theory.lpom.penalty import LIFTABLE, f, g, gap

__all__ = ["LIFTABLE", "LOSSES", "LPOM", "MLP", "LPOMClassifier", "LPOMConfig", "f", "g", "gap"]
