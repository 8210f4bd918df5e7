"""Where and how precisely a run computes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one.

    Raises ValueError for a name torch does not know or a device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); --device cpu always works") from error
    return device


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Forward passes in `precision`: in "bf16" under autocast, with weights and statistics in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
