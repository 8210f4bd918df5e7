"""Precision and algorithms by device; no GPU is needed, only its name."""

from __future__ import annotations

import os

import pytest
import torch

from nas.engine.device import algorithms, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "capability", "exactly", "expected"),
    [
        (CPU, None, False, "fp32"),
        (GPU, (7, 5), False, "fp32"),
        (GPU, (8, 0), False, "bf16"),
        (GPU, (9, 0), False, "bf16"),
        (GPU, (9, 0), True, "fp32"),
    ],
)
def test_auto_is_bf16_where_a_gpu_computes_in_it(
    device: torch.device,
    capability: tuple[int, int] | None,
    exactly: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", device, exactly=exactly) == expected
    assert resolve_precision("fp32", device, exactly=exactly) == "fp32"
    assert resolve_precision("bf16", device, exactly=exactly) == "bf16"


def settings() -> tuple[bool, bool, bool, str | None]:
    cudnn = torch.backends.cudnn
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    return cudnn.benchmark, cudnn.deterministic, torch.are_deterministic_algorithms_enabled(), workspace


def test_algorithms_are_chosen_for_a_while() -> None:
    before = settings()
    with algorithms(CPU, deterministic=True):
        assert settings() == before
    with algorithms(GPU, deterministic=False):
        assert settings() == (True, False, False, None)
    with algorithms(GPU, deterministic=True):
        assert settings() == (False, True, True, ":4096:8")
    assert settings() == before


def test_a_users_workspace_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with algorithms(GPU, deterministic=True):
        assert settings()[-1] == ":16:8"
    assert settings()[-1] == ":16:8"
