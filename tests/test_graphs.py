"""Captured steps: the logic on any machine with a graph that is none, and the loops on a GPU where there is one."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spaces
import train_eval
import train_search
from nas.data import Batch
from nas.engine import graphs
from nas.engine.graphs import CapturedStep, CudaGraph, GraphMemory, Outputs, captured
from nas.engine.meter import Meter
from nas.errors import Stopped, UsageError
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.runs.run import Run
from nas.supernet import Supernet, SupernetConfig
from spaces import SpaceConfig
from tests.tiny import OPERATIONS, OWN, SEARCH, TRAIN, assert_same, final_state

SLOW = pytest.param("exact", marks=pytest.mark.slow)
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

#: Batches of 7, and a last one of 5 (in the search) or 3.
ODD = ("--batch-size", "7", "--epochs", "3")
SMALL = (*SEARCH, "--nodes", "1", *OPERATIONS, *ODD)
LOOPS: dict[str, tuple[Callable[[list[str]], dict[str, Any]], tuple[str, ...]]] = {
    # It draws noise within the step.
    "first": (train_search.command, (*SMALL, *OWN)),
    "finite-difference": (train_search.command, (*SMALL, "--unrolled")),
    "exact": (train_search.command, (*SMALL, "--unrolled", "--hessian-product", "exact")),
    "training": (
        train_eval.command,
        (*TRAIN, *ODD, "--auxiliary", "--drop-path-prob", "0.3", "--ema-decay", "0.9"),
    ),
}


class FakeMemory:
    """In the place of GraphMemory."""

    def __init__(self, device: torch.device) -> None:
        self.eager = self.recorded = 0
        self.outputs: list[Tensor] = []

    @contextmanager
    def beside(self) -> Iterator[None]:
        self.eager += 1
        yield


class FakeGraph:
    """In the place of CudaGraph: replays by calling, and spoils the outputs of whatever was replayed before."""

    def __init__(self, function: Callable[[], Outputs], memory: FakeMemory) -> None:
        self.function, self.memory = function, memory
        memory.recorded += 1

    def replay(self) -> Outputs:
        for output in self.memory.outputs:
            output.fill_(torch.nan)
        outputs = self.function()
        self.memory.outputs = [output.clone() for output in outputs]
        return tuple(self.memory.outputs)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`captured` works on this machine, whatever it has, and after a single call."""
    monkeypatch.setattr(graphs, "WARM_UP", 1)
    monkeypatch.setattr(graphs, "GraphMemory", FakeMemory)
    monkeypatch.setattr(graphs, "CudaGraph", FakeGraph)

    def anywhere(*steps: graphs.Step, device: torch.device, enabled: bool) -> tuple[graphs.Step, ...]:
        return captured(*steps, device=torch.device("cuda"), enabled=enabled)

    monkeypatch.setattr("nas.search.captured", anywhere)
    monkeypatch.setattr("nas.train.captured", anywhere)


def batch(images: int, value: float) -> Batch:
    return torch.full((images, 2), value), torch.zeros(images, dtype=torch.int64)


@pytest.mark.usefixtures("fakes")
def test_every_shape_is_captured_once_and_every_batch_counts_once() -> None:
    total = torch.zeros(())
    seen: list[int] = []

    def step(data: Batch) -> Outputs:
        seen.append(data[0].data_ptr())
        total.add_(data[0].sum())
        return (total.clone(),)

    memory = FakeMemory(torch.device("cpu"))
    captured_step = CapturedStep(step, memory)
    expected = 0.0
    for epoch in range(graphs.WARM_UP + 3):
        for images in (4, 4, 3):
            value = 10.0 * epoch + images
            expected += 2 * images * value
            (output,) = captured_step(batch(images, value))
            assert output == total == expected
    assert memory.eager == 2 * graphs.WARM_UP
    assert memory.recorded == 2
    assert len(set(seen[-6:])) == 2  # always the same inputs, one for each shape


def test_without_a_gpu_or_if_not_wanted_a_step_is_itself() -> None:
    for device, enabled in (("cpu", True), ("cuda", False)):
        assert captured(abs, device=torch.device(device), enabled=enabled) == (abs,)


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("loop", [name if name != "exact" else SLOW for name in LOOPS])
def test_captured_loops_are_the_loops(loop: str, tmp_path: Path) -> None:
    command, flags = LOOPS[loop]
    for name, graph in (("plain", "--no-cuda-graph"), ("graph", "--cuda-graph")):
        command([*flags, graph, "--run-dir", str(tmp_path / name)])
    assert_same(final_state(tmp_path / "graph"), final_state(tmp_path / "plain"))


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("loop", ["first", "training"])
def test_a_captured_run_is_resumed_by_a_plain_one(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, flags = LOOPS[loop]
    command([*flags, "--run-dir", str(tmp_path / "whole")])
    stop_in_step(monkeypatch, 5)
    with pytest.raises(Stopped):
        command([*flags, "--run-dir", str(tmp_path / "parts")])
    monkeypatch.undo()
    command([*flags, "--no-cuda-graph", "--run-dir", str(tmp_path / "parts"), "--resume"])
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def stop_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    steps = Run.steps

    count = itertools.count(1)

    def stopping(self: Run, batches: Any, meter: Meter) -> Iterator[Any]:
        for data in steps(self, batches, meter):
            if next(count) == number:
                self._on_signal(15, None)
            yield data

    monkeypatch.setattr(Run, "steps", stopping)


# --- on a GPU ---------------------------------------------------------------------------------------------


def losses(run: Path) -> Tensor:
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return torch.tensor([[float(v) for k, v in row.items() if k.endswith("loss")] for row in rows])


def on_gpu(loop: str, run: Path, *more: str) -> dict[str, Any]:
    """A run of ten steps at least, the most of them replayed."""
    command, flags = LOOPS[loop]
    cuda = ("--device", "cuda", "--precision", "fp32", "--deterministic", "--epochs", "6")
    return command([*flags, *cuda, "--run-dir", str(run), *more])


@ON_GPU
@pytest.mark.parametrize("loop", LOOPS)
def test_graphs_compute_what_the_steps_compute(loop: str, tmp_path: Path) -> None:
    on_gpu(loop, tmp_path / "eager", "--no-cuda-graph")
    on_gpu(loop, tmp_path / "graph")
    torch.testing.assert_close(losses(tmp_path / "graph"), losses(tmp_path / "eager"), rtol=1e-4, atol=1e-5)


@ON_GPU
@pytest.mark.parametrize("loop", ["first", "training"])
def test_a_run_with_graphs_is_resumed(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the GPU, and on the CPU, where it needs no more than to go on."""
    on_gpu(loop, tmp_path / "whole")
    stop_in_step(monkeypatch, 5)
    for name in ("parts", "elsewhere"):
        with pytest.raises(Stopped):
            on_gpu(loop, tmp_path / name)
    monkeypatch.undo()
    on_gpu(loop, tmp_path / "parts", "--resume")
    torch.testing.assert_close(losses(tmp_path / "parts"), losses(tmp_path / "whole"), rtol=1e-4, atol=1e-5)
    on_gpu(loop, tmp_path / "elsewhere", "--resume", "--device", "cpu")
    assert losses(tmp_path / "elsewhere").isfinite().all()


@ON_GPU
@pytest.mark.parametrize("product", [None, "finite-difference", "exact"])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature")
def test_no_step_waits_for_the_gpu(product: Any) -> None:
    device = torch.device("cuda")
    space = spaces.build(SpaceConfig(space="darts", nodes=2)).to(device)
    shape: dict[str, Any] = {"in_channels": 3, "image_size": (8, 8), "num_classes": 3}
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=4), **shape).to(device)
    config = BilevelConfig(unrolled=product is not None, hessian_product=product or "finite-difference")
    bilevel = Bilevel(supernet, space, config, nn.CrossEntropyLoss())
    data = torch.randn(8, 3, 8, 8, device=device), torch.arange(8, device=device) % 3
    meter = Meter()
    try:
        for mode in ("default", "error"):  # the first time the optimizers make their buffers
            torch.cuda.set_sync_debug_mode(mode)
            bilevel.architecture_step(data, data)
            meter.update(*bilevel.weight_step(data), data[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


@ON_GPU
def test_a_step_that_cannot_be_captured_is_refused_in_one_line() -> None:
    memory = GraphMemory(torch.device("cuda"))
    x = torch.ones(2, device="cuda")
    with pytest.raises(UsageError, match="try --no-cuda-graph") as caught:
        CudaGraph(lambda: (x * x.sum().item(),), memory)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("fakes")
def test_the_shapes_of_all_batches_decide_the_graph() -> None:
    memory = FakeMemory(torch.device("cpu"))
    step = CapturedStep(lambda a, b: (a[0].sum() + b[0].sum(),), memory)
    for _ in range(graphs.WARM_UP + 2):
        for images in (4, 3):
            (output,) = step(batch(4, 1.0), batch(images, 1.0))
            assert output == 2 * (4 + images)
    assert memory.recorded == 2
