"""Checkpoints: tensors and primitives, written whole or not at all, the last two of them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from genotypes.files import write_atomically

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
NEW = "checkpoint.new.pt"
DAMAGED = "checkpoint.damaged.pt"


def save(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and primitives) as the directory's checkpoint; keeps the one before it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    current, new = directory / NAME, directory / NEW
    write_atomically(new, buffer.getvalue())  # on a full disk both older ones stay
    if current.exists():
        # Between this and the next line only the previous one has its name, which `load` falls back on.
        os.replace(current, directory / PREVIOUS)
    os.replace(new, current)


def load(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none.

    A damaged newest one is renamed, so that the next `save` does not put it in the place of the good one.

    Raises ValueError where checkpoints are there but none can be read.
    """
    failures = []
    for path in (directory / NAME, directory / PREVIOUS):
        if not path.exists():
            continue
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            failures.append(f"{path}: {type(error).__name__}")
            if path.name == NAME and (directory / PREVIOUS).exists():
                os.replace(path, directory / DAMAGED)
    if failures:
        raise ValueError(f"no checkpoint can be read ({'; '.join(failures)}); start anew with another --run-dir")
    return None
