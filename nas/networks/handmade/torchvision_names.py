"""Renames weights of torchvision's ResNets and DenseNets to the names used here.

| torchvision | here |
|---|---|
| `conv1`, `bn1` | `stem.0`, `stem.1` |
| `layer{s}.{k}.conv1`, `.bn1`, ... | `stages.{s-1}.layers.{k}.conv1`, `.bn1`, ... |
| `layer{s}.0.downsample` | `stages.{s-1}.shortcut` |
| `fc` | `classifier` |
| `features.conv0`, `.norm0` | `stem.0`, `stem.1` |
| `features.denseblock{b}.denselayer{k}.norm1`, `.conv1` | `blocks.{b-1}.layers.{k-1}.norm1`, `.conv1` |
| `features.denseblock{b}.denselayer{k}.norm2`, `.conv2` | `blocks.{b-1}.layers.{k-1}.rest.0`, `.rest.2` |
| `features.transition{t}.norm`, `.conv` | `transitions.{t-1}.0`, `.2` |
| `features.norm5` | `norm` |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

_RULES: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"conv1|features\.conv0", lambda m: "stem.0"),
    (r"bn1|features\.norm0", lambda m: "stem.1"),
    (r"layer(\d+)\.0\.downsample\.(\d)", lambda m: f"stages.{int(m[1]) - 1}.shortcut.{m[2]}"),
    (r"layer(\d+)\.(\d+)\.(\w+)", lambda m: f"stages.{int(m[1]) - 1}.layers.{m[2]}.{m[3]}"),
    (r"features\.denseblock(\d+)\.denselayer(\d+)\.(\w+)", lambda m: _dense_layer(int(m[1]), int(m[2]), m[3])),
    (r"features\.transition(\d+)\.norm", lambda m: f"transitions.{int(m[1]) - 1}.0"),
    (r"features\.transition(\d+)\.conv", lambda m: f"transitions.{int(m[1]) - 1}.2"),
    (r"features\.norm5", lambda m: "norm"),
    (r"fc|classifier", lambda m: "classifier"),
)


def _dense_layer(block: int, layer: int, module: str) -> str:
    return f"blocks.{block - 1}.layers.{layer - 1}." + {"norm2": "rest.0", "conv2": "rest.2"}.get(module, module)


def from_torchvision_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the weights of a torchvision resnet34, 50, 101 or densenet121 for the network of the same name here.

    torchvision's bottlenecks halve the image in the 3x3 convolution: build those of 50 and 101 layers with
    `HandmadeConfig(bottleneck_stride="3x3")`, otherwise the outputs differ. An hbnet accepts the weights of the resnet
    of its depth too. Raises ValueError for a name that torchvision does not use.
    """
    return {_renamed(name): value for name, value in state_dict.items()}


def _renamed(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    for pattern, rename in _RULES:
        match = re.fullmatch(pattern, module)
        if match:
            return f"{rename(match)}.{parameter}"
    raise ValueError(f"{name!r} is not a weight of a ResNet or DenseNet of torchvision")
