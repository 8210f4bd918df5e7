"""The times of networks: their statistics on a clock of ours, what is printed, and errors in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch

import train_eval
from nas import cli, latency
from nas.networks import weights
from tests.tiny import TRAIN

SMALL = ("--image-size", "8", "--rounds", "2", "--device", "cpu")
CELLS = ("DARTS_V2", "--layers", "2", "--init-channels", "2", "--classes", "3")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("runs") / "run"
    train_eval.command([*TRAIN, "--epochs", "1", "--run-dir", str(directory)])
    return str(directory)


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def test_passes_before_the_first_that_counts_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # The k-th pass takes k seconds: it starts at the sum of those before it.
    ticks = (tick for k in count(1) for tick in (k * (k - 1) / 2, k * (k + 1) / 2))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    calls: list[None] = []
    assert latency.timed(lambda: calls.append(None), 3, CPU) == [6000, 7000, 8000]
    assert len(calls) == 8


def test_the_spread_is_the_median_and_the_outer_deciles() -> None:
    assert latency.spread([float(n) for n in range(10, -1, -1)]) == {"median": 5, "low": 1, "high": 9}
    assert latency.spread([1.0, 2.0]) == {"median": 1.5, "low": 1.1, "high": 1.9}


@pytest.mark.usefixtures("without_onnx")
def test_a_table_and_a_result(run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    for arch, image in ((run, [3, 8, 8]), (CELLS[0], [1, 8, 8])):
        flags = [*CELLS[1:], *SMALL, "--channels", "1"] if arch != run else ["--rounds", "2", "--device", "cpu"]
        with pytest.raises(SystemExit) as end:
            cli.run(latency.command, [arch, *flags, "--batch", "1", "3", "--threads", "3"])
        assert end.value.code == 0
        said, heads, _, *rows, last = capsys.readouterr().out.splitlines()
        assert said.startswith("ONNX Runtime is not timed: ONNX needs the package 'onnxruntime'; pip install onnx ")
        assert heads.split()[:3] == ["batch", "PyTorch", "ms"]
        result = json.loads(last)
        assert (result["arch"], result["image"]) == (arch, image)
        assert {"processor", "cores", "threads", "device", "packages", "onnxruntime"} <= result.keys()
        assert [row["batch"] for row in result["rows"]] == [1, 3]
        for row, line in zip(result["rows"], rows, strict=True):
            assert row["torch_ms"]["low"] <= row["torch_ms"]["median"] <= row["torch_ms"]["high"]
            assert row["onnx_ms"] is None
            assert line.split()[0] == str(row["batch"])
            assert line.split()[-3:-1] == ["-", "-"]
    assert set_to == [3, torch.get_num_threads()] * 2


def test_onnx_runtime_beside_pytorch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What it computes is compared in the tests of the export."""
    given: list[object] = []

    def runner(content: bytes, *, threads: int) -> Callable[[torch.Tensor], object]:
        given.extend([content, threads])
        return lambda images: given.append(tuple(images.shape))

    monkeypatch.setattr(latency, "onnx_bytes", lambda network, example: b"graph")
    monkeypatch.setattr(latency, "onnx_runner", runner)
    result = latency.command(["hbnet8", *SMALL, "--batch", "2"])
    assert given == [b"graph", torch.get_num_threads(), *[(2, 3, 8, 8)] * 7]
    assert result["rows"][0]["onnx_ms"].keys() == {"median", "low", "high"}
    assert result["onnxruntime"]
    assert "-" not in capsys.readouterr().out.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["NOWHERE"], "NOWHERE"),
        ([""], "--arch is missing"),
        (["hbnet8", "--layers", "2"], "--layers is for networks of cells, which hbnet8 is not"),
        (["DARTS_V2", "--beta", "0.1"], "--beta is for hand-made networks"),
        (["hbnet8", "--device", "nowhere"], "unknown device 'nowhere'"),
        (["hbnet8", "--batch"], "--batch is empty"),
        (["hbnet8", "--batch", "0"], "--batch has 0; each must be at least 1"),
        (["hbnet8", "--image-size", "9000"], "--image-size is 9000; it must be at most 8192"),
        (["hbnet8", "--rounds", "1"], "--rounds is 1; it must be at least 2"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(latency.command, flags)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_what_a_run_decided_is_refused(run: str, tmp_path: Path) -> None:
    for name in ("image_size", "layers", "classes", "beta"):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} is for new networks"):
            latency.command([run, f"--{name.replace('_', '-')}", "1"])
    (tmp_path / "config.json").write_bytes((Path(run) / "config.json").read_bytes())
    with pytest.raises(ValueError, match=f"{weights.NAME} does not exist; a training run writes it when it ends"):
        latency.command([str(tmp_path)])


@pytest.mark.usefixtures("without_onnx")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory")])
def test_a_batch_without_memory_is_told_in_one_line(error: RuntimeError, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> list[float]:
        raise error

    monkeypatch.setattr(latency, "timed", full)
    with pytest.raises(ValueError, match="--batch 7 does not fit into the memory of the device cpu; give fewer"):
        latency.command([*CELLS, *SMALL, "--batch", "7"])
