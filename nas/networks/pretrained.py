"""Pretrained weights of torchvision and timm, from this machine's caches: nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from genotypes.messages import reason_of
from nas.data import ImageData
from nas.errors import UsageError
from nas.networks.library import build, import_timm, parsed

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

#: Networks whose weights are for pixels in -1..1; torchvision rescales in them what was normalized for the others.
_INCEPTIONS = ("googlenet", "inception_v3")


def normalized(images: ImageData, name: str) -> ImageData:
    """The same images, normalized as the pretrained weights of the network called `name` expect.

    Raises UsageError for images of other than 3 channels, and for a network that has no pretrained weights.
    """
    if images.channels != 3:
        raise UsageError(
            f"--pretrained is for images of 3 channels, and those of {images.name} have {images.channels}; leave it out"
        )
    mean, std = _statistics(*parsed(name))
    return images.normalized_by(*(torch.tensor(values, dtype=torch.float32) * 255 for values in (mean, std)))


def load(network: nn.Module, name: str, images: ImageData) -> None:
    """Gives the network that was built by `name` for `images` its library's weights, but for the last layers.

    These are all the tensors whose shapes depend on the number of classes; they are left as they are.

    Raises UsageError where the weights are not on this machine, damaged, or those of another form of the network.
    """
    library, model = parsed(name)
    saved = _torchvision(model) if library == "torchvision" else _timm(model)
    shape = {"in_channels": images.channels, "image_size": images.image_size}
    with torch.device("meta"):
        few, more = (build(name, **shape, num_classes=classes).state_dict() for classes in (2, 3))  # type: ignore[arg-type]
    own = network.state_dict()
    for key, value in own.items():
        if few[key].shape != more[key].shape or key.endswith("num_batches_tracked"):
            continue
        if key not in saved or saved[key].shape != value.shape:
            raise UsageError(
                f"the pretrained weights of {name} are those of another form of it ({key}); leave --pretrained out, or "
                "pass the --image-size that they were trained on"
            )
        own[key] = saved[key]
    network.load_state_dict(own)


def _statistics(library: str, model: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of each channel, in units of 0..1."""
    if library == "timm":
        config = _timm_config(model)
        return config.mean, config.std
    if model in _INCEPTIONS:
        return (0.5,) * 3, (0.5,) * 3
    transforms = _default_weights(model).transforms()
    return transforms.mean, transforms.std


def _default_weights(model: str) -> WeightsEnum:
    from torchvision import models  # takes long to import

    weights = models.get_model_weights(model)
    if not len(weights):
        raise UsageError(f"torchvision has no pretrained weights for {model}; leave --pretrained out")
    default: WeightsEnum = weights["DEFAULT"]
    return default


def _torchvision(model: str) -> dict[str, Tensor]:
    url = _default_weights(model).url
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        raise UsageError(
            f"the pretrained weights of torchvision:{model} are not on this machine, and nothing is downloaded; put "
            f"{url} into the folder {path.parent}"
        )
    # As torch.hub names them: the file's SHA-256 begins with what is between the last hyphen and the ending.
    prefix = re.search(r"-([0-9a-f]{8,})\.[a-z]+$", name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if prefix is None or not digest.startswith(prefix[1]):
        raise UsageError(f"{path} is damaged: its SHA-256 begins with {digest[:8]}, unlike its name; download it again")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise UsageError(f"{path} does not hold weights: {reason_of(error)}") from error
    # DenseNets were saved when their layers had other names.
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key): value for key, value in saved.items()}


def _timm_config(model: str):  # type: ignore[no-untyped-def]
    config = import_timm().models.get_pretrained_cfg(model)
    if config is None or not config.hf_hub_id:
        raise UsageError(f"timm has no pretrained weights for {model}; leave --pretrained out")
    return config


def _timm(model: str) -> dict[str, Tensor]:
    from huggingface_hub import try_to_load_from_cache

    repository = _timm_config(model).hf_hub_id
    path = try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(path, str | os.PathLike):
        raise UsageError(
            f"the pretrained weights of timm:{model} are not in the cache of huggingface_hub, and nothing is "
            f"downloaded; fetch them with: hf download {repository} model.safetensors"
        )
    overlay = {"file": os.fspath(path)}
    try:
        network: nn.Module = import_timm().create_model(model, pretrained=True, pretrained_cfg_overlay=overlay)
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise UsageError(f"{path} does not hold the weights of {model}: {reason_of(error)}") from error
    return network.state_dict()
