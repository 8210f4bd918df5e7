"""Differentiable architecture search from Python: what the commands do, as functions that return their results.

    import optinas

    found = optinas.search(space="hb", dataset="digits", preset="smoke")
    trained = optinas.train(found, dataset="digits", preset="smoke")
    trained.network.predict(image)

Images of your own are passed as `Arrays`, or as a folder to `auto`, which searches and trains a small network for them.
`load` and `evaluate` take trained networks; `genotype`, `derive` and `random_genotype` give genotypes, and `draw` draws
their cells.
Below these functions lie the packages `nas`, `spaces` and `genotypes`.
"""

from nas import __version__
from nas.study.page import write_report
from optinas.api import auto, derive, draw, evaluate, genotype, load, random_genotype, search, train
from optinas.arrays import Arrays
from optinas.results import Automatic, Derived, Evaluation, Found, Picture, Trained

__all__ = [
    "Arrays",
    "Automatic",
    "Derived",
    "Evaluation",
    "Found",
    "Picture",
    "Trained",
    "__version__",
    "auto",
    "derive",
    "draw",
    "evaluate",
    "genotype",
    "load",
    "random_genotype",
    "search",
    "train",
    "write_report",
]
