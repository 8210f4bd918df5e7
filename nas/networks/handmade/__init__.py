"""Networks made by hand from optimization algorithms: HB-Net and AGD-Net, and ResNet, DenseNet, DMRNet to compare.

`relaxed` has the recurrences as blocks for any layers, `residual` and `dense` the networks, `registry` their names.
"""

from nas.networks.handmade.registry import (
    FAMILIES,
    HandmadeConfig,
    build,
    depth,
    describe,
    is_handmade,
    is_imagenet,
    names,
)

__all__ = ["FAMILIES", "HandmadeConfig", "build", "depth", "describe", "is_handmade", "is_imagenet", "names"]
