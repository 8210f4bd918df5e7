"""Measuring for benchmarks: time in rounds, peak memory, and a file for the results."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

from nas.engine.graphs import WARM_UP
from nas.runs.environment import describe

Step = Callable[[], object]
K = TypeVar("K", bound=Hashable)

#: Environment variables that keep oneDNN and PyTorch from instructions that the processor has.
_INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")

# Otherwise the profiler always reports on stderr that there is no GPU.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def time_rounds(steps: Mapping[K, Step], rounds: int, device: torch.device) -> dict[K, list[float]]:
    """Seconds of each step in each round, after a warm-up of one round, or on a GPU until everything is captured.

    Each round times every step once, in turn, so that drifts in the machine's speed affect all alike.
    """
    seconds: dict[K, list[float]] = {name: [] for name in steps}
    uncounted = WARM_UP + 1 if device.type == "cuda" else 1
    for _ in range(uncounted + rounds):
        for name, step in steps.items():
            seconds[name].append(timed(step, device))
    return {name: times[uncounted:] for name, times in seconds.items()}


def timed(step: Step, device: torch.device) -> float:
    """Seconds until the device has finished what `step` asks of it; on one thread of a CPU, seconds of CPU time."""
    clock = time.process_time if _counts_cpu_time(device) else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _counts_cpu_time(device: torch.device) -> bool:
    """Whether CPU time is measured: on one thread it is what time would be if nothing else ran on the machine."""
    return device.type == "cpu" and torch.get_num_threads() == 1


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most, in milliseconds."""
    return {
        "median ms": 1e3 * statistics.median(seconds),
        "min ms": 1e3 * min(seconds),
        "max ms": 1e3 * max(seconds),
    }


def peak_bytes(run: Step, device: torch.device) -> int:
    """The most bytes that the tensors made by `run` occupy at once."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # The profiler also sees allocations within an operation; the peak of the process would mostly be torch itself.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    allocations = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda event: event["ts"])
    if not allocations:
        return 0
    # The total includes what an earlier call allocated and nobody has freed under a profiler since.
    first = allocations[0]["args"]
    return max(e["args"]["Total Allocated"] for e in allocations) - (first["Total Allocated"] - first["Bytes"])


def write_result(out: str | None, config: Any, device: torch.device, rows: list[dict[str, Any]], **more: Any) -> None:
    """Writes the rows, the entries of `more`, the configuration and the environment to a file, as JSON.

    Writes nothing if `out` is None. The file does not reveal its own path or that of the program.
    """
    if out is None:
        return
    settings = {name: value for name, value in asdict(config).items() if name != "out"}
    environment = describe(device) | {"command": _command(out), **_hardware(device)}
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    result = {"config": settings, "environment": environment, **more, "rows": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")


def _command(out: str) -> list[str]:
    program, *flags = sys.argv
    kept = [flag for flag in flags if flag not in ("--out", out, f"--out={out}")]
    return ["/".join(Path(program).parts[-2:]), *kept]


def _hardware(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return {"cuda": torch.version.cuda, "memory GiB": round(properties.total_memory / 2**30, 1)}
    return {
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "instruction limits": {name: os.environ[name] for name in _INSTRUCTION_LIMITS if name in os.environ},
        "clock": "CPU time" if _counts_cpu_time(device) else "wall",
    }
