"""Export of trained networks for other programs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from genotypes.atomic import write_atomically
from nas.networks.weights import TrainedNetwork


class Classifier(nn.Module):
    """A trained network with its normalization: images (N, C, H, W) in 0..1 to logits (N, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: TrainedNetwork) -> None:
        super().__init__()
        self.network = trained.network
        self.register_buffer("mean", torch.tensor(trained.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(trained.std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in 0..1 to logits (N, classes)."""
        return self.network((images - self.mean) / self.std)


def to_onnx(trained: TrainedNetwork, path: str | Path) -> None:
    """Writes the network and its normalization as ONNX, for any batch size.

    The graph maps `images` (N, C, H, W), float32 in 0..1, to `logits` (N, classes).

    Raises ValueError if the packages for it are missing or the file cannot be written.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name!r}; install optinas[onnx]") from error
    # Two images: the exporter would take a batch of one as a constant, not as the dimension N.
    example = torch.zeros(2, trained.in_channels, *trained.image_size)
    program = torch.onnx.export(
        Classifier(trained).eval(),
        (example,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    # `save` writes in place: to a scratch file first, so that `path` only ever holds a whole file.
    with tempfile.TemporaryDirectory() as scratch:
        written = os.path.join(scratch, "network.onnx")
        program.save(written, include_initializers=True)
        try:
            write_atomically(path, Path(written).read_bytes())
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
