"""The device and the precision in which a run computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
#: What a user may ask for; `resolve_precision` turns it into a Precision.
PrecisionChoice = Literal["auto", "fp32", "bf16"]

#: What cuBLAS needs to be deterministic, read when it starts (cuBLAS documentation, "Results Reproducibility").
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def resolve_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    Raises ValueError for a name that torch does not know, or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"unknown device {name!r}; name one such as cuda or cuda:1, --device cpu always works"
        ) from error
    try:
        torch.zeros(1, device=device).item()  # a meta tensor has no value to read
    except Exception as error:  # each kind of device raises its own, some of them pages long
        raise ValueError(f"this machine has no usable device {name!r}; --device cpu always works") from error
    return device


def resolve_precision(choice: PrecisionChoice, device: torch.device, *, exactly: bool = False) -> Precision:
    """The precision on a device; "auto" is bf16 on a GPU with bf16 arithmetic, unless results must be exact.

    That is a GPU of compute capability 8.0 (Ampere) or later. Elsewhere bf16 is emulated, and slower than fp32.
    """
    if choice != "auto":
        return choice
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if native and not exactly else "fp32"


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Within it, forward passes run in `precision`; bf16 is autocast, with weights and statistics in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def repeatable(device: torch.device, seed: int) -> Iterator[None]:
    """Within it, torch's generators draw what `seed` gives; afterwards they stand where they stood.

    For measurements with an operation that draws: they are then the same each time, and change nothing.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def full_fp32() -> Iterator[None]:
    """Within it, a GPU does not round inputs of float32 convolutions and products to TF32 (10 bits of mantissa)."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


@contextmanager
def algorithms(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Within it, a GPU uses the fastest algorithms or, if `deterministic`, only bitwise reproducible ones.

    The fastest are found by timing, for each shape of tensors (`cudnn.benchmark`), so that two runs may pick different
    ones. An operation without a deterministic algorithm raises torch's RuntimeError. On a CPU all are deterministic.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    cudnn_before = cudnn.benchmark, cudnn.deterministic
    torch_before = torch.are_deterministic_algorithms_enabled()
    only_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True)
        os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = cudnn_before
        torch.use_deterministic_algorithms(torch_before, warn_only=only_warning)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
