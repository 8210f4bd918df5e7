"""Timing in rounds: each round times every step once, in turn, so that a drift of the machine falls on all alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from nas.environment import describe


def time_rounds(steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """A row of milliseconds for each step: median, least and most over the rounds after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            seconds[name].append(_timed(step, device))
    return [
        {
            "step": name,
            "median ms": 1e3 * statistics.median(times[1:]),
            "min ms": 1e3 * min(times[1:]),
            "max ms": 1e3 * max(times[1:]),
        }
        for name, times in seconds.items()
    ]


def write_result(out: str | None, config: Any, device: torch.device, rows: list[dict[str, Any]]) -> None:
    """Writes the rows as JSON, with the configuration and what they were measured on, if `out` names a file."""
    if out:
        result = {"config": asdict(config), "environment": describe(device), "rows": rows}
        Path(out).write_text(json.dumps(result, indent=2) + "\n")


def _timed(step: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
