"""A trained network in one file: weights as safetensors, and what rebuilds the network in its header."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
import torch
from msgspec import Meta
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import genotypes
import spaces
from genotypes.atomic import write_atomically
from genotypes.messages import below, reason_of
from nas.data import ImageData, View
from nas.data.augment import normalize
from nas.data.view import Resize
from nas.networks.architecture import Architecture, CellArchitecture, HandmadeArchitecture
from nas.networks.cells import NetworkConfig
from nas.networks.handmade import HandmadeConfig
from nas.networks.library import LibraryArchitecture, parsed

NAME = "weights.safetensors"
#: Of the header; 1 had no digest, and 2 the genotype as JSON within a string.
VERSION = 3
_NO_DIGEST = "0" * 64
_LARGEST_HEADER = 4_000_000  # bytes; 20 cells of Space-HB need a tenth

# Larger images do not fit into the memory of a training, and whoever predicts brings images to this size.
_Side = Annotated[int, Meta(ge=1, le=8192)]


#: A file's path, a PIL image, or (H, W) or (H, W, C) uint8.
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What a network says of an image: the probability of each class."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def name(self) -> str:
        """The most probable class."""
        return self.classes[self.probabilities.index(self.probability)]

    @property
    def probability(self) -> float:
        """That of the most probable class."""
        return max(self.probabilities)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The `count` most probable classes with their probabilities, the most probable first."""
        ranked = sorted(zip(self.classes, self.probabilities, strict=True), key=lambda pair: -pair[1])
        return ranked[:count]


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
    resize: Resize
    depth: int
    temperature: float = 1.0
    """The logits are divided by it for probabilities (`nas.engine.calibration`)."""

    @property
    def view(self) -> View:
        """How the network sees an image file."""
        return View(self.in_channels, self.image_size, self.resize, self.depth)

    def predict(self, images: ImageLike | Sequence[ImageLike], *, batch_size: int = 64) -> list[Prediction]:
        """The classes of images, which are brought to what the network expects as its test images were.

        Args:
            images: one image or several: a file's path, a PIL image, or an array, (H, W) or (H, W, 1, 3 or 4) uint8.
            batch_size: images that the network takes at once.

        Returns one prediction an image. Raises DataError for a file that cannot be read, and names it; ValueError for
        what is not an image.
        """
        items = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
        predictions = []
        for first in range(0, len(items), batch_size):
            predictions += self.classify([self._pixels(item) for item in items[first : first + batch_size]])
        return predictions

    def classify(self, pixels: Sequence[np.ndarray]) -> list[Prediction]:
        """The classes of one batch of images as `view` gives them, each (C, H, W) uint8."""
        device = next(self.network.parameters()).device
        mean, std = (values.to(device) for values in self._statistics())
        with torch.no_grad():
            logits = self.network(normalize(torch.from_numpy(np.stack(pixels)).to(device), mean, std))
        probabilities = (logits.float() / self.temperature).softmax(dim=1)
        return [Prediction(self.classes, tuple(row)) for row in probabilities.tolist()]

    def _pixels(self, image: ImageLike) -> np.ndarray:
        """(C, H, W) uint8."""
        if isinstance(image, str | os.PathLike):
            return self.view.read(os.fspath(image))
        if isinstance(image, np.ndarray):
            channels = image.shape[2] if image.ndim == 3 else 1
            if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4):
                raise ValueError(
                    f"an array {image.shape} of {image.dtype} is not an image; "
                    "give (H, W) or (H, W, 1, 3 or 4) of uint8"
                )
            image = Image.fromarray(image.reshape(image.shape[:2]) if channels == 1 else image)
        if not isinstance(image, Image.Image):
            raise ValueError(f"{type(image).__name__} is not an image; give paths, PIL images or uint8 arrays")
        return self.view.of(image)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation (C,) float32, in units of 0..255."""
        mean, std = ((torch.tensor(values, dtype=torch.float64) * 255).float() for values in (self.mean, self.std))
        return mean, std

    def normalized(self, images: ImageData) -> ImageData:
        """The same images, normalized as those that the network was trained on.

        Raises ValueError for other classes or another number of channels.
        """
        if tuple(images.classes) != self.classes or images.channels != self.in_channels:
            raise ValueError(
                f"the network was trained on {len(self.classes)} classes of images with {self.in_channels} channels; "
                f"{images.name} has {images.num_classes} with {images.channels}, or under other names"
            )
        return images.normalized_by(*self._statistics())


class _Cells(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="cells"):
    """A CellArchitecture in the header."""

    genotype: msgspec.Raw
    """In its versioned JSON form."""
    config: NetworkConfig

    def decoded(self) -> CellArchitecture:
        """Raises GenotypeError for what is not a valid genotype."""
        spaces.load_installed()  # whose operations the genotype may have
        genotype = genotypes.from_json(bytes(self.genotype).decode(), where="the saved genotype")
        return CellArchitecture(genotype=genotype, config=self.config)


class _Handmade(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="handmade"):
    """A HandmadeArchitecture in the header."""

    name: str
    config: HandmadeConfig

    def decoded(self) -> HandmadeArchitecture:
        return HandmadeArchitecture(name=self.name, config=self.config)


class _Library(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag="library"):
    """A LibraryArchitecture in the header."""

    name: str

    def decoded(self) -> LibraryArchitecture:
        """Raises UsageError for a name that is not in the registry of its library."""
        parsed(self.name)
        return LibraryArchitecture(name=self.name)


def _encoded(architecture: Architecture) -> _Cells | _Handmade | _Library:
    if isinstance(architecture, HandmadeArchitecture):
        return _Handmade(name=architecture.name, config=architecture.config)
    if isinstance(architecture, LibraryArchitecture):
        return _Library(name=architecture.name)
    genotype = msgspec.json.format(genotypes.to_json(architecture.genotype).encode(), indent=-1)  # on one line
    return _Cells(genotype=msgspec.Raw(genotype), config=architecture.config)


class _Header(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What rebuilds a network; every field is checked before anything is built of it."""

    version: int = VERSION
    architecture: _Cells | _Handmade | _Library
    in_channels: Annotated[int, Meta(ge=1)]
    image_size: tuple[_Side, _Side]
    classes: Annotated[tuple[str, ...], Meta(min_length=1)]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "fit"
    depth: Annotated[int, Meta(ge=8, le=16)] = 16
    temperature: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(f"mean and std must have a number for each of the {self.in_channels} channels")
        if not (all(map(math.isfinite, self.mean)) and all(0 < value < math.inf for value in self.std)):
            raise ValueError("mean and std must be finite, and std more than 0")
        if not math.isfinite(self.temperature):
            raise ValueError("the temperature must be finite")


class _Version(msgspec.Struct):
    version: int = 1  # which had no such field, and no digest


class _Tensor(msgspec.Struct):
    shape: list[int]
    data_offsets: tuple[int, int]


class _Metadata(msgspec.Struct, forbid_unknown_fields=True):
    optinas: str
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] = _NO_DIGEST


def save(
    path: Path, network: nn.Module, architecture: Architecture, images: ImageData, *, temperature: float = 1.0
) -> None:
    """Writes the network that `architecture` built and that was trained on `images`.

    For probabilities its logits are divided by `temperature`.

    Raises ValueError for a mean or deviation that `load` would refuse, OSError.
    """
    header = _Header(
        architecture=_encoded(architecture),
        in_channels=images.channels,
        image_size=images.image_size,
        classes=tuple(images.classes),
        mean=_in_unit(images.mean),
        std=_in_unit(images.std),
        resize=images.view.resize,
        depth=images.view.depth,
        temperature=temperature,
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    metadata = {"optinas": msgspec.json.encode(header).decode(), "sha256": _NO_DIGEST}
    content = to_safetensors(tensors, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    digest = _digest(content[:end], content[end:], _NO_DIGEST)
    write_atomically(path, content[:end].replace(_NO_DIGEST.encode(), digest.encode()) + content[end:])


def load(path: str | os.PathLike[str]) -> TrainedNetwork:
    """The network of a weights file, or of the directory of a training run, on the CPU and in evaluation mode.

    The file may come from a stranger: nothing in it is executed or imported, and only a file that is whole, and holds
    exactly the tensors of the network that its header describes, is read to its end. A network with operations of a
    module of yours needs that module imported first.

    Raises ValueError, in one line, for a file that is not there, damaged, or not written by `save`.
    """
    path = Path(path) / NAME if os.path.isdir(path) else Path(path)
    if not path.is_file():
        other = below(path.parent, NAME)
        raise ValueError(f"{path} does not exist; a training run writes it when it ends{other}")
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, RecursionError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a network of this toolkit: {reason_of(error)}") from error


def _read(file: BinaryIO) -> TrainedNetwork:
    head, shapes, metadata = _read_head(file)
    version = msgspec.json.decode(metadata.optinas, type=_Version).version
    if version != VERSION:
        raise ValueError(f"its format is version {version}, and this release reads version {VERSION}; train again")
    header = msgspec.json.decode(metadata.optinas, type=_Header)
    architecture = header.architecture.decoded()
    build = partial(
        architecture.build,
        in_channels=header.in_channels,
        image_size=header.image_size,
        num_classes=len(header.classes),
    )
    _check_shapes(architecture, build, shapes)
    data = file.read()
    if _digest(head, data, metadata.sha256) != metadata.sha256:
        raise ValueError("its content does not match its digest; copy the file again or train again")
    tensors = from_safetensors(head + data)
    network = build()
    for name, value in network.state_dict().items():
        if tensors[name].dtype != value.dtype:
            raise ValueError(f"{name} is in {tensors[name].dtype}, not in {value.dtype}")
        if not tensors[name].isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")
    network.load_state_dict(tensors)
    return TrainedNetwork(
        network.eval(),
        architecture,
        header.in_channels,
        header.image_size,
        header.classes,
        header.mean,
        header.std,
        header.resize,
        header.depth,
        header.temperature,
    )


def _read_head(file: BinaryIO) -> tuple[bytes, dict[str, tuple[int, ...]], _Metadata]:
    """All that stands before the values: its bytes, the shape of each tensor, and the metadata.

    Raises ValueError where it is longer than any network needs, or where the file's size is not the one it states.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > _LARGEST_HEADER:
        raise ValueError("it does not begin with the header of a safetensors file")
    text = file.read(length)
    entries = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if "__metadata__" not in entries:
        raise ValueError("its header has no metadata")
    metadata = msgspec.json.decode(entries.pop("__metadata__"), type=_Metadata)
    tensors = {name: msgspec.json.decode(entry, type=_Tensor) for name, entry in entries.items()}
    end = max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if os.fstat(file.fileno()).st_size != 8 + length + end:
        raise ValueError("its size is not the one that its header states")
    return start + text, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, metadata


def _check_shapes(
    architecture: Architecture, build: Callable[[], nn.Module], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ValueError where the file's tensors are not those of the network, of which no value is computed here."""
    try:
        if architecture.fewest_tensors > len(shapes):
            raise ValueError(f"it holds {len(shapes)} tensors, too few for {architecture.summary}")
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    except (OverflowError, RuntimeError, TypeError) as error:  # torch's, for sizes that no memory has
        raise ValueError(f"{architecture.summary} cannot be built") from error
    for name in sorted(expected.keys() | shapes.keys()):
        if expected.get(name) != shapes.get(name):
            kind = "no such tensor" if name not in shapes else "no place for it" if name not in expected else "another"
            raise ValueError(f"the tensors are not those of {architecture.summary}: {name[:100]!a} ({kind})")


def _digest(head: bytes, data: bytes, claimed: str) -> str:
    """SHA-256 of a file, in hexadecimal, with zeros in the place of the digest that it claims."""
    digest = hashlib.sha256(head.replace(claimed.encode(), _NO_DIGEST.encode()))
    digest.update(data)
    return digest.hexdigest()


def _in_unit(values: Tensor) -> tuple[float, ...]:
    """From 0..255 to 0..1, in double precision so that the way back gives the same float32."""
    return tuple((values.double() / 255).tolist())
