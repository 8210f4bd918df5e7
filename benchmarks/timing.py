"""What the benchmarks measure with: time in rounds, peak memory, and a file for the figures."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nas.environment import describe


def time_rounds(steps: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """A row of milliseconds for each step: median, least and most over the rounds after one that is not counted.

    Each round times every step once, in turn, so that a drift of the machine's speed falls on all alike.
    """
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


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes that the tensors made by `run` hold at once."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler sees what is allocated inside an operation too; the process's own peak would be mostly torch.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max((event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]"), default=0)


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
