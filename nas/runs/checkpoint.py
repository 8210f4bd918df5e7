"""Checkpoints: tensors and primitives with a digest, written atomically; the last two are kept."""

from __future__ import annotations

import hashlib
import io
import os
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genotypes.atomic import write_atomically
from nas.errors import UsageError

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
NEW = "checkpoint.new.pt"
DAMAGED = "checkpoint.damaged.pt"

#: The first line of a file, with the SHA-256 of the rest, which is what `torch.save` writes.
_HEADER = re.compile(rb"optinas checkpoint 1 sha256 ([0-9a-f]{64})\n")

#: What `torch.save` names in a file of tensors and primitives. `weights_only` accepts more, with which a file of a
#: hundred bytes could allocate any amount of memory.
_GLOBALS = re.compile(r"collections (OrderedDict|Counter)|torch Size|torch \w+Storage|torch\._utils _rebuild_tensor_v2")


def save(directory: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and primitives) as the directory's checkpoint, and keeps the previous one.

    Raises OSError, for example on a full disk; both older checkpoints are then left as they were.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    current, new = directory / NAME, directory / NEW
    write_atomically(new, sealed(buffer.getvalue()))
    if current.exists():
        # If the process is killed between this and the next line, only the previous one is there; `load` uses that.
        os.replace(current, directory / PREVIOUS)
    os.replace(new, current)


def sealed(payload: bytes) -> bytes:
    """Prepends a line with the digest of `payload`."""
    return f"optinas checkpoint 1 sha256 {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def exists(directory: Path) -> bool:
    """Whether there is a checkpoint, intact or damaged."""
    return (directory / NAME).exists() or (directory / PREVIOUS).exists()


def load(
    directory: Path,
    restore: Callable[[dict[str, Any]], None] = lambda state: None,
    warn: Callable[[str], None] = lambda text: None,
) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and that `restore` accepts; None if there is none.

    Args:
        directory: of the run.
        restore: raises ValueError for a state that it cannot take, and UsageError if no other should be tried.
        warn: gets a line about the newest checkpoint if that was passed over. It is then renamed, so that the next
            `save` does not put it in the place of the good one.

    Raises UsageError if there are checkpoints but none of them can be used.
    """
    failures = []
    for path in (directory / NAME, directory / PREVIOUS):
        if not path.exists():
            continue
        try:
            state = read(path)
            restore(state)
        except UsageError:
            raise
        except ValueError as error:
            failures.append(f"{path}: {error}")
            continue
        if failures:
            os.replace(directory / NAME, directory / DAMAGED)
            warn(f"{failures[0]}; it is kept as {DAMAGED}, and the run continues from the previous one, {path}")
        return state
    if failures:
        raise UsageError(f"no checkpoint can be read ({'; '.join(failures)}); start a new run in another --run-dir")
    return None


def newest(directory: Path) -> dict[str, Any]:
    """The newest checkpoint that can be read, where nothing is renamed: the run may be computing.

    Raises ValueError if there is none.
    """
    failures = []
    for path in (directory / NAME, directory / PREVIOUS):
        try:
            return read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            failures.append(f"{path.name}: {error}")
    raise ValueError(f"no checkpoint can be read ({'; '.join(failures) or 'there is none yet'})")


def read(path: Path) -> dict[str, Any]:
    """The state in a file. Raises ValueError for a file that is not exactly as `save` wrote it; OSError."""
    content = memoryview(path.read_bytes())
    header = _HEADER.match(content[:200])
    if header is None or hashlib.sha256(content[header.end() :]).hexdigest().encode() != header[1]:
        raise ValueError("it is damaged (its content does not match its digest)")
    payload = io.BytesIO(content[header.end() :])
    try:
        _check_archive(payload)
        state = torch.load(payload, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise ValueError(f"it is not a checkpoint of tensors and numbers ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint of a run")
    return state


def _check_archive(payload: io.BytesIO) -> None:
    """Raises ValueError if reading would need more memory than the file, or call anything that `save` does not."""
    with zipfile.ZipFile(payload) as archive:
        entries = archive.infolist()
        # torch.save never compresses; a compressed entry could be a zip bomb.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        for entry in entries:
            if not entry.filename.endswith("data.pkl"):
                continue
            for code, argument, _ in pickletools.genops(archive.read(entry)):
                if "GLOBAL" in code.name and not _GLOBALS.fullmatch(str(argument)):
                    raise ValueError(f"it names {argument}")
    payload.seek(0)


def check_like(saved: object, own: object, where: str) -> None:
    """Raises ValueError if a saved state is not structured like our own: keys, types, shapes.

    An empty mapping in `own` accepts any: an optimizer has no buffers before its first step, and checks them itself.
    """
    if isinstance(own, Tensor):
        fits = isinstance(saved, Tensor) and (saved.shape, saved.dtype) == (own.shape, own.dtype)
    elif isinstance(own, Mapping):
        fits = isinstance(saved, Mapping) and (not own or saved.keys() == own.keys())
    elif isinstance(own, list | tuple):
        fits = isinstance(saved, list | tuple) and len(saved) == len(own)
    else:
        fits = type(saved) is type(own)
    if not fits:
        raise ValueError(f"its {where} does not fit this run")
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        for key in own:
            check_like(saved[key], own[key], f"{where}.{key}")
    elif isinstance(own, list | tuple) and isinstance(saved, list | tuple):
        for i, (item, own_item) in enumerate(zip(saved, own, strict=True)):
            check_like(item, own_item, f"{where}[{i}]")
