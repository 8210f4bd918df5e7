"""What a run shows: pictures and curves in TensorBoard, and the table at the end."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from genotypes import Genotype, to_text
from genotypes.draw import picture
from spaces import KINDS, SearchSpace


def add_architecture(board: SummaryWriter, space: SearchSpace, epoch: int) -> None:
    """Writes every architecture parameter: alpha per edge and operation, others (beta) per edge."""
    for name, parameter in space.named_parameters():
        if parameter.shape not in ((len(space.topology.edges),), (len(space.topology.edges), len(space.operations))):
            for i, value in enumerate(parameter.flatten().tolist()):  # of a space's own kind
                board.add_scalar(f"{name.replace('.', '/')}/{i}", value, epoch)
            continue
        for e, (source, target) in enumerate(space.topology.edges):
            tag = f"{name.replace('.', '/')}/{e:02d}_{source}-{target}"
            if parameter.dim() == 1:
                board.add_scalar(tag, parameter[e].item(), epoch)
                continue
            for operation, value in zip(space.operations, parameter[e].tolist(), strict=True):
                board.add_scalar(f"{tag}/{operation}", value, epoch)


def add_genotype(board: SummaryWriter, genotype: Genotype, epoch: int) -> None:
    """Writes the genotype as text and the pictures of both cells."""
    board.add_text("genotype", f"    {to_text(genotype)}", epoch)
    for kind in KINDS:
        png = picture(getattr(genotype, kind), "png", f"{kind} cell, epoch {epoch}")
        board.add_image(
            f"cell/{kind}", np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), epoch, dataformats="HWC"
        )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as an aligned table, numbers to the right."""
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)
