"""Iterations against condition numbers: reference counts, the algorithms themselves, exponents, the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from nas import cli
from nas.theory import __main__, iterations, rates
from nas.theory.rates import RatesConfig, iterations_needed

#: Counts of an independent program, in the order of the methods.
COUNTS = {10.0: [115, 62, 39, 24, 39, 127, 72], 100.0: [1185, 612, 140, 85, 139, 1007, 823]}


def test_counts() -> None:
    needed = iterations_needed(RatesConfig(kappas=tuple(COUNTS)))
    for i, expected in enumerate(COUNTS.values()):
        for counts, count in zip(needed.values(), expected, strict=True):
            assert abs(counts[i] - count) <= 1


@pytest.mark.slow
def test_exponents_and_counts_up_to_ten_thousand() -> None:
    result = rates.measure(RatesConfig())
    measured = {name: round(method["exponent"], 2) for name, method in result["methods"].items()}
    assert measured["GD"] == measured["HB, beta = 0.3"] == 1.0
    assert measured["HB"] == measured["AGD"] == 0.51
    assert measured["AGD, theta_k"] == 0.75
    last = [method["iterations"][-1] for method in result["methods"].values()]
    assert last == pytest.approx([118627, 61039, 1459, 972, 1455, 31804, 83032], abs=1)


def test_counts_are_those_of_the_algorithms() -> None:
    kappa, dimension = 30.0, 7
    needed = iterations_needed(RatesConfig(kappas=(2.0, kappa), dimension=dimension, tolerance=1e-3))
    eigenvalues = torch.logspace(-math.log10(kappa), 0, dimension, dtype=torch.float64)
    z0 = torch.ones(dimension, dtype=torch.float64)
    for name, method in rates.methods(kappa).items():

        def gradient(z: torch.Tensor, step: float = method.step) -> torch.Tensor:
            return step * eigenvalues * z

        if method.nesterov:
            z = iterations.accelerated(gradient, z0, 1000, method.momentum).z
        else:
            assert method.momentum is not None
            z = iterations.heavy_ball(gradient, z0, 1000, method.momentum)
        reached = z.norm(dim=1) <= 1e-3 * z0.norm()
        assert needed[name][1] == reached.int().argmax().item(), name


def test_the_sequence_outlasts_its_first_block() -> None:
    needed = iterations_needed(RatesConfig(kappas=(300.0,), dimension=5))["AGD, theta_k"][0]
    eigenvalues = torch.logspace(-math.log10(300), 0, 5, dtype=torch.float64)
    z = iterations.accelerated(lambda z: eigenvalues * z, torch.ones(5, dtype=torch.float64), needed).z
    assert needed > 1024
    assert z[-1].norm() <= 1e-6 * z[0].norm() < z[-2].norm()


def test_exponents_are_slopes() -> None:
    assert rates.exponent((10.0, 100.0, 1000.0), [20, 200, 2000]) == pytest.approx(1)
    assert rates.exponent((10.0, 1000.0), [20, 200]) == pytest.approx(0.5)
    assert rates.exponent((10.0,), [20]) is None


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_command(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "made" / f"rates{suffix}"
    with pytest.raises(SystemExit) as end:
        cli.run(__main__.command, ["rates", "--kappas", "10", "4", "--plot", str(plot)])
    assert end.value.code == 0
    out = capsys.readouterr().out.splitlines()
    assert "kappa 10" in out[0]
    result = json.loads(out[-1])
    assert result["kappas"] == [10.0, 4.0]
    assert result["methods"]["GD"]["iterations"][0] == COUNTS[10.0][0]
    assert plot.read_bytes().startswith(b"<?xml" if suffix == ".svg" else b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--kappas", "10", "1"], "--kappas has 1; each must be more than 1 and at most 1e+06"),
        (["--kappas"], "--kappas"),
        (["--kappas", "nan"], "--kappas has nan"),
        (["--tolerance", "0"], "--tolerance is 0"),
        (["--dimension", "1"], "--dimension is 1; it must be at least 2"),
        (["--plot", "rates.gif"], "rates.gif: cannot draw .gif; name it .svg or .png"),
    ],
)
def test_mistakes(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(__main__.command, ["rates", *flags])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err


def test_a_plot_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be created .*; choose another"):
        rates.measure(RatesConfig(plot=str(tmp_path / "file" / "rates.svg")))
