"""What a run writes to TensorBoard: curves, texts, and pictures of mixing weights and cells."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from genotypes import CELL_NAMES, OPERATIONS, Genotype, to_text
from genotypes.atomic import write_atomically
from genotypes.draw import picture
from nas.runs.directory import Directory
from nas.runs.heat_map import heat_map
from nas.runs.mixing import edge_names
from spaces import KINDS, Kind, SearchSpace


class Board:
    """The TensorBoard writer of a run; a failure to write warns once and does not stop the run.

    Args:
        directory: of the run; TensorBoard's files go into its folder tb.
        purge_step: a resumed run repeats the epochs from this one on; TensorBoard hides those written before.
    """

    def __init__(self, directory: Directory, purge_step: int | None) -> None:
        self._directory = directory
        self._writer: SummaryWriter | None = None
        self._hook, threading.excepthook = threading.excepthook, self._on_error_in_thread
        with directory.auxiliary("tb"):
            self._writer = SummaryWriter(str(directory.path / "tb"), purge_step=purge_step)

    def add_scalar(self, tag: str, value: float, epoch: int) -> None:
        """Adds a point to the curve `tag`."""
        self._call("add_scalar", tag, value, epoch)

    def add_text(self, tag: str, text: str, epoch: int) -> None:
        """Adds Markdown text under `tag`."""
        self._call("add_text", tag, text, epoch)

    def add_picture(self, tag: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        """Adds a picture (H, W, 3) uint8 under `tag`."""
        self._call("add_image", tag, pixels_HWC, epoch, dataformats="HWC")

    def close(self) -> None:
        """Writes what is buffered, and ends the thread of the writer."""
        self._call("close")
        threading.excepthook = self._hook

    def _call(self, method: str, *arguments: Any, **options: Any) -> None:
        """Calls the writer, unless an earlier call has failed."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with self._directory.auxiliary("tb"):
                getattr(writer, method)(*arguments, **options)
                self._writer = writer

    def _on_error_in_thread(self, failed: threading.ExceptHookArgs) -> None:
        # An error in the writer's thread is raised again by the next call of the writer, which then warns.
        if not isinstance(failed.exc_value, OSError):
            self._hook(failed)


def draw_cells(directory: Directory, genotype: Genotype, title: str) -> None:
    """Writes pictures of both cells to a run's directory, as normal.svg and reduce.svg."""
    for kind in KINDS:
        with directory.auxiliary(f"{kind}.svg"):
            svg = picture(getattr(genotype, kind), "svg", f"{title}{CELL_NAMES[kind]} cell")
            write_atomically(directory.path / f"{kind}.svg", svg)


def add_mixing(board: Board, space: SearchSpace, mixing: Mapping[Kind, Tensor], epoch: int) -> None:
    """Adds pictures of the mixing weights, (E, O) for each kind of cell, and of the edge weights if there are any.

    The weight of an edge is the sum over its operations. If that is 1 for all edges, they are not weighted.
    """
    edges = edge_names(space.topology.edges)
    operations = [OPERATIONS[name] for name in space.operations]
    for kind in KINDS:
        name = CELL_NAMES[kind]
        title = f"{name} cell, epoch {epoch}"
        weights_EO = mixing[kind].detach().double().cpu().numpy()
        board.add_picture(f"mixing/{name}", heat_map(weights_EO, edges, operations, f"Mixing weights, {title}"), epoch)
        sums_E1 = weights_EO.sum(axis=1, keepdims=True)
        if not np.allclose(sums_E1, 1, atol=1e-3):
            board.add_picture(f"edges/{name}", heat_map(sums_E1, edges, ["edge"], f"Edge weights, {title}"), epoch)


def add_logits(board: Board, space: SearchSpace, epoch: int) -> None:
    """Adds every architecture parameter: alpha per edge and operation, beta per edge, others per entry."""
    for name, parameter in space.named_parameters():
        if parameter.shape not in ((len(space.topology.edges),), (len(space.topology.edges), len(space.operations))):
            for i, value in enumerate(parameter.flatten().tolist()):  # a parameter that only this space has
                board.add_scalar(f"{name.replace('.', '/')}/{i}", value, epoch)
            continue
        for e, (source, target) in enumerate(space.topology.edges):
            tag = f"{name.replace('.', '/')}/{e:02d}_{source}-{target}"
            if parameter.dim() == 1:
                board.add_scalar(tag, parameter[e].item(), epoch)
                continue
            for operation, value in zip(space.operations, parameter[e].tolist(), strict=True):
                board.add_scalar(f"{tag}/{operation}", value, epoch)


def add_genotype(board: Board, genotype: Genotype, epoch: int) -> None:
    """Adds the genotype as text, and pictures of both cells."""
    board.add_text("genotype", f"    {to_text(genotype)}", epoch)
    for kind in KINDS:
        png = picture(getattr(genotype, kind), "png", f"{CELL_NAMES[kind]} cell, epoch {epoch}")
        board.add_picture(f"cell/{CELL_NAMES[kind]}", np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), epoch)
