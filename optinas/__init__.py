"""Differentiable architecture search from Python: what the commands do, as functions that return their results.

    import optinas

    found = optinas.search(space="hb", dataset="digits", preset="smoke")
    trained = optinas.train(found, dataset="digits", preset="smoke")
    trained.network.predict(image)

Images of your own are passed as `Arrays`. `load` and `evaluate` take trained networks, `genotype` and `draw` cells.
Below these functions lie the packages `nas`, `spaces` and `genotypes`.
"""

from nas import __version__
from optinas.api import draw, evaluate, genotype, load, search, train
from optinas.arrays import Arrays
from optinas.results import Evaluation, Found, Picture, Trained

__all__ = [
    "Arrays",
    "Evaluation",
    "Found",
    "Picture",
    "Trained",
    "__version__",
    "draw",
    "evaluate",
    "genotype",
    "load",
    "search",
    "train",
]
