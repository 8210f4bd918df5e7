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


def save(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and primitives) as the directory's checkpoint; keeps the one before it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    current = directory / NAME
    if current.exists():
        # Between this and the write below only the previous one is there, which `load` falls back on.
        os.replace(current, directory / PREVIOUS)
    write_atomically(current, buffer.getvalue())


def load(directory: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; None where there is none.

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
    if failures:
        raise ValueError(f"no checkpoint can be read ({'; '.join(failures)}); start anew with another --run-dir")
    return None
