"""Networks of torchvision and timm by name, as baselines: torchvision:resnet18, timm:mobilenetv3_small_100."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from genotypes.config import Common, Config
from genotypes.messages import reason_of
from nas.errors import UsageError
from nas.runs.directory import Directory

_LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True, kw_only=True)
class LibraryConfig(Config):
    """How a network of torchvision or timm starts."""

    pretrained: Annotated[bool, Common] = False
    """torchvision:..., timm:...: start with the library's pretrained weights, which must be on this machine, and a new
    last layer; images are normalized as these weights expect."""


@dataclass(frozen=True, kw_only=True)
class LibraryArchitecture:
    """A network of torchvision or timm, such as torchvision:resnet18."""

    name: str

    @property
    def identity(self) -> str:
        """What a resumed run must share, for messages."""
        return self.name

    @property
    def summary(self) -> str:
        """What it is in words, for messages."""
        return f"a network of {self.name.partition(':')[0]}"

    @property
    def fewest_tensors(self) -> int:
        """A lower bound of the length of the network's `state_dict`; the registries hold nothing that is too large."""
        return 1

    def build(self, *, in_channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
        """As `build`, of its own name."""
        return build(self.name, in_channels=in_channels, image_size=image_size, num_classes=num_classes)

    def write(self, directory: Directory) -> None:
        """Leaves nothing: the name says it all."""


def is_library(arch: str) -> bool:
    """Whether `arch` is spelled as a network of a library, whether or not there is one of that name."""
    library, colon, _ = arch.partition(":")
    return bool(colon) and library in _LIBRARIES


def parsed(name: str) -> tuple[str, str]:
    """The library and the network in a name such as torchvision:resnet18.

    Raises UsageError for a network that the library's registry does not list, and for a library that is not installed.
    """
    library, _, network = name.partition(":")
    if library not in _LIBRARIES:
        raise UsageError(f"unknown library {library[:60]!a}; networks are those of {' and '.join(_LIBRARIES)}")
    known = _names(library)
    if network not in known:
        close = difflib.get_close_matches(network, known, n=1)
        hint = f"did you mean {library}:{close[0]}?" if close else f"it has {len(known)}, such as {library}:resnet18"
        raise UsageError(f"{library} has no classification network {network[:60]!a}; {hint}")
    return library, network


@cache
def _names(library: str) -> frozenset[str]:
    if library == "torchvision":
        from torchvision import models  # takes long to import

        return frozenset(models.list_models(module=models))
    return frozenset(import_timm().list_models())


def import_timm() -> Any:
    """The package timm. Raises UsageError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UsageError(
            f"networks of timm need the package {error.name!r}; pip install timm, or take one of torchvision"
        ) from error
    return timm


def build(name: str, *, in_channels: int, image_size: tuple[int, int], num_classes: int) -> nn.Module:
    """The network called `name` for images (N, in_channels, *image_size), with new weights: nothing is downloaded.

    With 3 channels it is the library's own to the bit, but for the auxiliary heads of torchvision's googlenet and
    inception_v3, which are left out. With other channels timm builds the stem for them; of torchvision's networks the
    first convolution is replaced by a new one.

    Raises UsageError for an unknown name, and for images that the network cannot take.
    """
    library, network = parsed(name)
    make: Callable[[str, int, int], nn.Module] = _torchvision if library == "torchvision" else _timm
    with _NumbersOnCpu():
        built = make(network, in_channels, num_classes)
    # Buffers made of numbers too, where the network is built on the meta device.
    built.to(next(built.parameters()).device)
    _check_images(name, built, (in_channels, *image_size))
    # As in the other networks, so that a loaded network computes the same bits.
    return built.to(memory_format=torch.channels_last)


class _NumbersOnCpu(TorchFunctionMode):
    """Keeps numbers on the CPU: constructors compute depths as tensors, whose values the meta device has not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.arange, torch.linspace, torch.tensor):
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def _torchvision(name: str, in_channels: int, num_classes: int) -> nn.Module:
    from torchvision import models

    # Both warn without init_weights, which will change.
    options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **options)
    if in_channels != 3:
        path, first = next((path, part) for path, part in network.named_modules() if isinstance(part, nn.Conv2d))
        parent, _, attribute = path.rpartition(".")
        setattr(network.get_submodule(parent), attribute, _with_channels(first, in_channels))
    return network


def _with_channels(first: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A new convolution as `first`, which has one group, for other images."""
    return nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )


def _timm(name: str, in_channels: int, num_classes: int) -> nn.Module:
    network: nn.Module = import_timm().create_model(
        name, pretrained=False, in_chans=in_channels, num_classes=num_classes
    )
    return network


@torch.no_grad()
def _check_images(name: str, network: nn.Module, image: tuple[int, int, int]) -> None:
    """Raises UsageError where `network` fails on images (C, H, W), found on the meta device, without computing any."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    network.eval()
    try:
        with torch.device("meta"):
            functional_call(network, on_meta, (torch.zeros(1, *image),))
    except Exception as error:  # what is wrong shows deep in a library, as any kind of error
        C, H, W = image
        own = getattr(network, "default_cfg", {"input_size": (3, 224, 224)})["input_size"][-1]  # timm's networks say it
        raise UsageError(
            f"{name} cannot take images of {H}x{W} pixels and {C} channels ({reason_of(error)[:150]}); pass "
            f"another --image-size, such as {own}"
        ) from error
    network.train()
