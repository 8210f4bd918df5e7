"""What the benchmarks count, compute and report; not how fast anything is."""

from __future__ import annotations

import importlib
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import Tensor, nn

import spaces
from benchmarks import (
    data_pipeline,
    epoch,
    evaluation_step,
    report,
    roofline,
    scaling,
    search_step,
    suite,
    timing,
)
from benchmarks.command import run_benchmark
from benchmarks.counting import OperatorCounter, computes
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.supernet import SupernetConfig
from reference.bilevel import PlainBilevel
from reference.supernet import PlainSupernet
from spaces import SpaceConfig

CPU = torch.device("cpu")


# ---- counting -------------------------------------------------------------------------------------------------------


def test_views_and_allocations_are_not_counted() -> None:
    x = torch.ones(4, 6)
    with OperatorCounter() as counter:
        x.view(6, 4).t()[1:].unsqueeze(0).expand(3, 3, 6).detach()
        x.unbind()
        torch.empty(5)
        torch.empty_like(x)
    assert (counter.operators, counter.bytes) == (0, 0)


def test_bytes_are_those_of_distinct_arguments_and_results() -> None:
    x, row = torch.ones(4, 6), torch.ones(6)
    for run, floats in (
        (lambda: x + row, 24 + 6 + 24),
        (lambda: x * x, 24 + 24),  # one tensor, read once
        (lambda: x.add_(row), 24 + 6 + 24),  # in place: read and written
        (lambda: x + row.expand(4, 6), 24 + 6 + 24),  # what is expanded is there once
        (lambda: torch.cat([x, x, row[None]]), 24 + 6 + 54),
    ):
        with OperatorCounter() as counter:
            run()
        assert (counter.operators, counter.bytes) == (1, 4 * floats)


def test_the_backward_pass_is_counted() -> None:
    x, w = torch.ones(4, 6), torch.ones(3, 6, requires_grad=True)
    with OperatorCounter() as counter:
        y = (x @ w.t()).relu()
    forward = counter.operators
    with OperatorCounter() as counter:
        torch.autograd.grad(y, w, torch.ones_like(y))
    assert forward == 2
    assert counter.operators == 3  # ones_like, threshold_backward, mm


def test_an_operator_in_place_computes_and_a_view_does_not() -> None:
    aten = torch.ops.aten
    assert computes(aten.add_.Tensor)
    assert computes(aten.clone.default)
    assert computes(aten.convolution_backward.default)
    assert not computes(aten.split.Tensor)
    assert not computes(aten.alias.default)


def test_peak_memory_does_not_depend_on_what_was_measured_before() -> None:
    kept: list[Tensor] = []

    def run() -> None:
        kept.extend((torch.zeros(1000), torch.zeros(1000)))

    # Freed outside the profiler, which then still has them in its total.
    first = timing.peak_bytes(run, CPU)
    kept.clear()
    assert first == timing.peak_bytes(run, CPU) == 8000
    assert timing.peak_bytes(lambda: None, CPU) == 0


# ---- the plain engine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unrolled", [False, True])
def test_the_plain_steps_are_the_same_mathematics(unrolled: bool) -> None:
    config = BilevelConfig(unrolled=unrolled)
    after = []
    for stepper in (Bilevel, PlainBilevel):
        torch.manual_seed(0)
        space = spaces.build(SpaceConfig(space="hb", nodes=1, init="random")).double()
        size = SupernetConfig(layers=3, init_channels=2)
        supernet = PlainSupernet(space, size, in_channels=3, image_size=(8, 8), num_classes=3).double()
        batches = [(torch.randn(6, 3, 8, 8).double(), torch.randint(3, (6,))) for _ in range(2)]
        bilevel: Any = stepper(supernet, space, config, nn.CrossEntropyLoss())
        bilevel.weight_step(batches[0])  # so that there is momentum
        bilevel.architecture_step(*batches)
        gradient = [p.grad.clone() for p in space.parameters()]
        bilevel.weight_step(batches[1])
        after.append([*gradient, *space.parameters(), *supernet.parameters()])
    for ours, plain in zip(*after, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)


# ---- the limit ------------------------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Two 1x1 convolutions and twice the same pool of one tensor, each before a BatchNorm, summed."""

    def __init__(self) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(2, 2, 1, bias=False) for _ in range(2)]
        pools = [nn.MaxPool2d(3, stride=1, padding=1) for _ in range(2)]
        self.branches = nn.ModuleList(nn.Sequential(first, nn.BatchNorm2d(2)) for first in (*convolutions, *pools))

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = sum(branch(x) for branch in self.branches)
        return total


class OneCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([Branches()])

    def forward(self, x: Tensor) -> Tensor:
        return self.cells[0](x)


def test_the_least_work_of_a_small_network() -> None:
    with torch.device("meta"):
        network, x = OneCell(), torch.empty(5, 2, 4, 4)
        work = roofline.least_work(network, lambda: network(x), element_size=2)
    # Two convolutions' outputs, one pool's, the cell's.
    assert work.bytes == 5 * 2 * 4 * x.numel()
    assert work.forward_flops == 2 * (2 * x.numel() * 2)
    assert not any(module._forward_hooks for module in network.modules())
    assert work.limit(roofline.Machine(bandwidth=work.bytes, rate=math.inf), roofline.WEIGHT_PASS) == 1
    assert work.limit(roofline.Machine(bandwidth=math.inf, rate=work.forward_flops), roofline.WEIGHT_PASS) == 3


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_ratios_are_of_medians_and_sums_of_rounds() -> None:
    seconds: search_step.Seconds = {
        (search_step.WEIGHTS, "ours"): [1.0, 5.0, 2.0],
        (search_step.FIRST, "ours"): [3.0, 1.0, 1.0],
        (search_step.WEIGHTS, "plain"): [4.0, 4.0, 8.0],
        (search_step.FIRST, "plain"): [2.0, 2.0, 2.0],
        (search_step.EXACT, "ours"): [1.0, 1.0, 1.0],
    }
    summed = search_step.with_sums(seconds)
    weights, _, both, exact = search_step.rows_of(summed, {search_step.WEIGHTS: 0.5})
    assert (weights["median ms"], weights["min ms"], weights["max ms"]) == (2000, 1000, 5000)
    assert (weights["plain / ours"], weights["lean / ours"], weights["fraction of limit"]) == (2, None, 0.25)
    assert both["step"] == search_step.COMBINED
    assert (both["median ms"], both["plain ms"], both["plain / ours"]) == (4000, 6000, 1.5)
    assert (exact["plain ms"], exact["limit ms"]) == (None, None)


def test_each_line_of_the_scaling_varies_one_size() -> None:
    points = scaling.points(scaling.Config())
    base = {name: getattr(scaling.Config(), of_base) for name, (of_base, _, _) in scaling.VARIED.items()}
    for varied, value, point in points:
        assert {name: getattr(point, name) for name in base} == base | {varied: value}
    for varied in base:
        assert base[varied] in [value for name, value, _ in points if name == varied]


def test_epochs_need_one_that_is_timed() -> None:
    with pytest.raises(ValueError, match="--epochs"):
        epoch.Config(epochs=1)


@pytest.mark.parametrize("program", [search_step, evaluation_step, data_pipeline, epoch, scaling])
def test_a_size_of_nothing_is_refused_in_one_line(
    program: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = "--search-batch-size" if program is epoch else "--batch-size"
    monkeypatch.setattr("sys.argv", ["program", flag, "0"])
    with pytest.raises(SystemExit, match="2"):
        run_benchmark(program.main, program.Config, program.__doc__)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"{flag} (is 0; it|has 0; each) must be at least 1", line)


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_files_hold() -> None:
    page = report.PAGE.read_text()
    assert report.rendered(page, report.read_results(report.RESULTS)) == page, "run python -m benchmarks.report"
    assert set(re.findall(r"<!-- table (\w+) -->", page)) == set(report.TABLES)


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_result_says_what_it_was_measured_on_and_not_where_it_lay(path: Path) -> None:
    text = path.read_text()
    result = json.loads(text)
    assert result.keys() >= {"config", "environment", "rows"}
    assert result["environment"].keys() >= {"commit", "device", "threads", "packages"}
    assert result["rows"]
    assert not re.search(r'"/|[\\/]home[\\/]', text)


def test_every_command_of_a_suite_can_be_parsed_and_has_its_table() -> None:
    for name, commands in suite.SUITES.items():
        for stem, command in commands.items():
            program, *flags = command.split()
            module = importlib.import_module(f"benchmarks.{program}")
            tyro.cli(module.Config, args=flags)
            assert stem.startswith(program)
            assert name == "quick" or stem.startswith(report.KINDS)


def test_an_exponent_is_the_slope_of_logarithms() -> None:
    rows = [{"value": value, "ms": 3.0 * value**2} for value in (1, 2, 5)]
    assert report.exponent(rows, "ms") == pytest.approx(2)


@pytest.mark.slow
def test_every_program_writes_what_its_tables_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_COPIED_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(roofline, "_MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr("sys.argv", [f"{tmp_path}/program.py", "--out", "given separately"])
    tiny = {"init_channels": 2, "image_size": 8, "batch_size": 2, "rounds": 1, "device": "cpu"}

    def out(name: str) -> str:
        return str(tmp_path / "results" / f"{name}.json")

    search_step.main(search_step.Config(**tiny, nodes=1, layers=3, second_order=True, out=out("search_step_x")))
    search_step.main(search_step.Config(**tiny, nodes=1, layers=1, precision="bf16", out=out("search_step_y")))
    stage = {"nodes": 1, "layers": 1, "init_channels": 4, "partial_channels": 2, "operations_left": 2}
    search_step.main(search_step.Config(**(tiny | stage), out=out("search_step_z")))
    evaluation_step.main(evaluation_step.Config(**tiny, layers=3, out=out("evaluation_step_x")))
    data_pipeline.main(
        data_pipeline.Config(
            **{"images": 8, "jpegs": 6, "jpeg_size": (40, 30), "image_size": 32, "batch_size": 3, "workers": 0},
            **{"rounds": 1, "device": "cpu", "out": out("data_pipeline_x")},
        )
    )
    sizes = {"channels": (2, 4), "layers": (1, 2), "nodes": (1, 2), "batch_size": (2, 4), "image_size": (8, 16)}
    base = {"base_channels": 2, "base_layers": 1, "base_nodes": 1, "base_batch_size": 2, "base_image_size": 8}
    scaling.main(scaling.Config(**sizes, **base, rounds=1, device="cpu", out=out("scaling_x")))
    row = {"task": "search", "images": 8, "first epoch s": 1.0, "epoch s": 1.0, "protocol": "all", "extrapolated h": 1}
    timing.write_result(out("epoch_x"), epoch.Config(), CPU, [row])

    page = report.rendered(report.PAGE.read_text(), report.read_results(tmp_path / "results"))
    assert report.UNMEASURED not in page
    assert "No GPU has been measured" in page
    assert str(tmp_path) not in "".join(path.read_text() for path in (tmp_path / "results").iterdir())
