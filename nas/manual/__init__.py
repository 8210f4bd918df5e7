"""Networks made by hand from the optimization algorithms: HB-Net, AGD-Net, and ResNet, DenseNet, DMRNet beside them.

`relaxed` has the recurrences as blocks for any layers, `residual` and `dense` the networks, `registry` their names.
"""

from nas.manual.registry import FAMILIES, ManualConfig, build, depth, describe, is_imagenet, is_manual, names

__all__ = ["FAMILIES", "ManualConfig", "build", "depth", "describe", "is_imagenet", "is_manual", "names"]
