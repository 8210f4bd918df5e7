"""Trained networks for other programs: as ONNX, and as programs of `torch.export`.

Shape letters: N images, C channels, H height, W width.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nas
from genotypes.atomic import write_atomically
from nas.networks.weights import TrainedNetwork
from spaces.ops import traits

#: Name of the extra file of a .pt2 archive that holds `metadata`, as JSON.
METADATA = "metadata.json"

#: The largest differences from PyTorch that an exported network may have on the images it is checked on.
LOGITS_DIFFER_BY = 1e-4
PROBABILITIES_DIFFER_BY = 1e-5

_RESIZE = {
    "fit": "scale to cover image_size and keep the centre: Pillow's ImageOps.fit, bilinear; a JPEG file goes "
    "through Pillow's Image.draft, with twice the longer side of image_size",
    "crop": "scale the shorter side to round(min(image_size) * 256 / 224), bilinear, and keep the centre of "
    "image_size, on black where the image is smaller",
}

_CONVERSION = (
    "turned as EXIF says, transparency on white, 8 bits, grey (1 channel) or RGB (3), divided by 255; of grey "
    "pixels with more than 8 bits, the upper 8 of `depth` bits"
)

#: Maps images (N, C, H, W) to logits (N, classes).
Runner = Callable[[Tensor], Tensor]


class Classifier(nn.Module):
    """A trained network with its normalization and temperature: images (N, C, H, W) in 0..1 to logits (N, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: TrainedNetwork) -> None:
        super().__init__()
        self.network = trained.network
        self.temperature = trained.temperature
        self.register_buffer("mean", torch.tensor(trained.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(trained.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in 0..1 to logits (N, classes), whose softmax are the probabilities."""
        logits = self.network((images - self.mean) / self.std)
        return logits if self.temperature == 1 else logits / self.temperature


def metadata(trained: TrainedNetwork) -> dict[str, Any]:
    """What a program that serves the network must know, as values of JSON.

    `mean`, `std` and `temperature` are informative: the exported network applies them itself.
    """
    return {
        "optinas": nas.__version__,
        "classes": list(trained.classes),
        "input": "images (N, channels, *image_size), float32 in 0..1",
        "channels": trained.in_channels,
        "conversion": _CONVERSION,
        "depth": trained.depth,
        "image_size": list(trained.image_size),
        "resize": trained.resize,
        "resize_rule": _RESIZE[trained.resize],
        "mean": list(trained.mean),
        "std": list(trained.std),
        "normalization": "(images - mean) / std, in units of 0..1; part of the network",
        "temperature": trained.temperature,
    }


def check_packages() -> None:
    """Raises ValueError where a package that ONNX needs is missing, and says which."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name!r}; pip install onnx onnxruntime onnxscript") from error


def to_onnx(trained: TrainedNetwork, path: str | Path, images: Tensor | None = None) -> None:
    """Writes the network and its normalization as ONNX, for any batch size.

    The graph maps `images` (N, C, H, W), float32 in 0..1, to `logits` (N, classes). The metadata of the file are those
    of `metadata`; what is not text is written as JSON.

    Args:
        trained: the network.
        path: of the file.
        images: (N, C, H, W) float32 in 0..1, on which ONNX Runtime must give what PyTorch gives; default: random ones.

    Raises ValueError if a package is missing, the network draws random numbers, ONNX Runtime gives something else, or
    the file cannot be written.
    """
    check_packages()
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata(trained).items()}
    content = onnx_bytes(_classifier(trained), _example(trained), texts)
    _check(trained, onnx_runner(content), images, "ONNX Runtime")
    _write(path, content)


def to_pt2(trained: TrainedNetwork, path: str | Path, images: Tensor | None = None) -> None:
    """Writes the network and its normalization as a program of `torch.export`, for any batch size.

    `torch.export.load(path).module()` maps images (N, C, H, W), float32 in 0..1, to logits (N, classes). The extra file
    `METADATA` holds `metadata` as JSON.

    Args and errors are those of `to_onnx`.
    """
    # A contiguous copy: PyTorch warns when it saves weights in channels_last.
    classifier = copy.deepcopy(_classifier(trained)).to(memory_format=torch.contiguous_format)
    batch = ({0: torch.export.Dim("N")},)
    program = torch.export.export(classifier, (_example(trained),), dynamic_shapes=batch)
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "network.pt2"
        torch.export.save(program, written, extra_files={METADATA: json.dumps(metadata(trained))})
        _check(trained, torch.export.load(written).module(), images, "torch.export")
        content = written.read_bytes()
    _write(path, content)


def onnx_bytes(network: nn.Module, example: Tensor, metadata: dict[str, str] | None = None) -> bytes:
    """The content of an ONNX file of a network, which takes any number of images of the size of `example`.

    Args:
        network: in evaluation mode, maps images (N, C, H, W) to logits (N, classes).
        example: two images (2, C, H, W); of a batch of one the exporter would make a constant, not the dimension N.
        metadata: what the file says besides.
    """
    program = torch.onnx.export(
        network,
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "network.onnx"
        program.save(written, include_initializers=True)
        return written.read_bytes()


def onnx_runner(content: bytes, *, threads: int = 0) -> Runner:
    """ONNX Runtime on the CPU with the content of an ONNX file.

    Args:
        content: of the file.
        threads: that compute an operation together; 0: as ONNX Runtime decides.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def onnx_version() -> str:
    """The version of ONNX Runtime, whichever of its packages is installed."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _classifier(trained: TrainedNetwork) -> Classifier:
    if any(traits(module).random for module in trained.network.modules()):
        raise ValueError("the network has an operation that draws random numbers (noise); it cannot be exported")
    return Classifier(trained).eval()


def _example(trained: TrainedNetwork) -> Tensor:
    return torch.zeros(2, trained.in_channels, *trained.image_size)


@torch.no_grad()
def _check(trained: TrainedNetwork, exported: Runner, images: Tensor | None, program: str) -> None:
    """Raises ValueError where `exported` gives other logits or probabilities than PyTorch, for one image or several."""
    if images is None:
        images = torch.rand(8, *_example(trained).shape[1:], generator=torch.Generator().manual_seed(0))
    for batch in (images, images[:1]):
        expected, logits = _classifier(trained)(batch), exported(batch)
        off = float((logits - expected).abs().max())
        off_probability = float((logits.softmax(dim=1) - expected.softmax(dim=1)).abs().max())
        # Written so that nan is refused too.
        if not (off <= LOGITS_DIFFER_BY and off_probability <= PROBABILITIES_DIFFER_BY):
            raise ValueError(
                f"the exported network is not written: on {len(batch)} images {program} and PyTorch differ by up to "
                f"{off:.1e} in a logit and {off_probability:.1e} in a probability; at most {LOGITS_DIFFER_BY:.0e} and "
                f"{PROBABILITIES_DIFFER_BY:.0e} are allowed"
            )


def _write(path: str | Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
