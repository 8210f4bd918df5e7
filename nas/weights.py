"""A trained network in one file: weights as safetensors, and what rebuilds the network in its header."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from genotypes.files import write_atomically
from nas.architecture import Architecture
from nas.data import ImageData

NAME = "weights.safetensors"


@dataclass(frozen=True)
class TrainedNetwork:
    """A network as it was saved, in evaluation mode, and what it expects of images.

    Images are (N, in_channels, H, W) in 0..1, normalized by `mean` and `std` of each channel; logit i is that
    of `classes[i]`.
    """

    network: nn.Module
    architecture: Architecture
    in_channels: int
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, images: ImageData) -> None:
        """Has `images` normalized as those that the network was trained on."""
        images.mean, images.std = (
            (torch.tensor(values, dtype=torch.float64) * 255).float() for values in (self.mean, self.std)
        )


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    architecture: Architecture
    in_channels: int
    image_size: tuple[int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def save(path: Path, network: nn.Module, architecture: Architecture, images: ImageData) -> None:
    """Writes the network that `architecture` built and that was trained on `images`."""
    header = _Header(
        architecture=architecture,
        in_channels=images.channels,
        image_size=images.image_size,
        classes=tuple(images.classes),
        mean=_in_unit(images.mean),
        std=_in_unit(images.std),
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_atomically(path, to_safetensors(tensors, {"optinas": json.dumps(msgspec.to_builtins(header))}))


def load(path: str | Path) -> TrainedNetwork:
    """The network of a weights file, on the CPU and in evaluation mode.

    Raises ValueError for a file that is not there, damaged, or not written by `save`.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; a training run writes it when it ends")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = msgspec.json.decode((file.metadata() or {})["optinas"], type=_Header)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        network = header.architecture.build(
            in_channels=header.in_channels, image_size=header.image_size, num_classes=len(header.classes)
        )
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no network of this toolkit: {error}") from error
    return TrainedNetwork(
        network.eval(),
        header.architecture,
        header.in_channels,
        header.image_size,
        header.classes,
        header.mean,
        header.std,
    )


def _in_unit(values: Tensor) -> tuple[float, ...]:
    """From 0..255 to 0..1, in double precision so that the way back gives the same float32."""
    return tuple((values.double() / 255).tolist())
