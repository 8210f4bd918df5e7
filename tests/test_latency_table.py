"""Latencies predicted from a table: their sum, limits, files, and what is refused. No test depends on a clock."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import genotype_tool
import genotypes
import optinas
import spaces
from genotypes import CellGenotype, Edge, Genotype
from nas import latency_table as measuring
from nas.errors import UsageError
from nas.methods.derivation import Derivation, DerivationConfig
from nas.methods.relaxation import Relaxation
from nas.networks import latency_table
from nas.networks.cells import NetworkConfig
from nas.networks.cost import count_macs
from nas.networks.edge_costs import costs_in
from nas.networks.forms import Form
from nas.networks.latency_table import LatencyModel
from spaces import KINDS, SearchSpace, SpaceConfig
from spaces.derivation import best_within
from spaces.sampling import Sampler
from tests.tiny import SPACES, nodes_of, params_table

#: Odd sizes, not square.
ODD = Form(NetworkConfig(layers=4, init_channels=3), (11, 9), 3, 1)
IMAGENET = Form(NetworkConfig(layers=2, init_channels=4, stem="imagenet"), (75, 50), 10)
OPERATIONS = ("sep_conv_3x3", "dil_conv_5x5", "skip_connect", "none")


def build(name: str = "darts", nodes: int = 1, operations: tuple[str, ...] = ()) -> SearchSpace:
    return spaces.build(SpaceConfig(space=name, nodes=nodes, operations=operations, init="zero"))


@pytest.fixture(scope="module")
def model() -> LatencyModel:
    return LatencyModel(params_table(build(operations=OPERATIONS), ODD), "table.json", ODD)


@pytest.fixture
def file(model: LatencyModel, tmp_path: Path) -> Path:
    path = tmp_path / "table.json"
    latency_table.write(model.table, path)
    return path


@pytest.mark.parametrize("name", SPACES)
def test_the_sum_over_the_edges_is_the_latency_of_the_network(name: str) -> None:
    """On a machine that takes a millisecond for each parameter, which another program counts."""
    space, form = build(name, nodes_of(name, 2)), ODD if name == "hb" else IMAGENET
    model = LatencyModel(params_table(space, form), "table.json", form)
    expected = costs_in(space, form)
    assert model.table.calibration.rest_ms == pytest.approx(expected.rest_params)
    assert model.table.calibration.largest_error == 0
    for kind in KINDS:
        found = torch.tensor(model.costs(space)[kind]).double() / 1000
        torch.testing.assert_close(found, expected.params[kind], rtol=1e-6, atol=0)
    genotype = Sampler(space).draw(random.Random(5))
    assert model.predicted(genotype) == pytest.approx(expected.total(space, genotype)[0])


def test_an_operation_is_measured_at_each_place() -> None:
    """The multiply-adds of a cell that reduces, on edges from its inputs and from its first node."""
    space, form = build(nodes=2, operations=OPERATIONS[:2]), Form(NetworkConfig(layers=1, init_channels=2), (8, 6), 3)
    bare = measuring.BareNetwork(space, form)
    assert [(place.stride, place.size) for place in bare.places] == [(2, (8, 6)), (1, (4, 3))]
    expected = costs_in(space, form).macs["reduce"]
    for place, edge in zip(bare.places, (0, 4), strict=True):
        found = [bare.operation_ms(name, place, 1, multiply_adds) for name in space.operations]
        assert found == expected[edge].tolist()
    assert bare.milliseconds(1, multiply_adds) == costs_in(space, form).rest_macs


def multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> float:
    return count_macs(network, shape[1], (shape[2], shape[3]))


def test_the_best_within_a_latency_is_that_of_full_enumeration(model: LatencyModel) -> None:
    space = build(operations=OPERATIONS)
    generator = torch.Generator().manual_seed(0)
    mixing = {kind: torch.rand(2, 4, generator=generator).double() for kind in KINDS}
    strengths = {}
    for picks in itertools.product(range(3), repeat=4):  # two edges of each kind, any operation but zero
        edges = [Edge(OPERATIONS[o], i % 2) for i, o in enumerate(picks)]
        cells = [CellGenotype((tuple(pair),), (2,)) for pair in (edges[:2], edges[2:])]
        rows = [mixing[KINDS[i // 2]][i % 2, o].item() for i, o in enumerate(picks)]
        strengths[Genotype(*cells)] = sum(rows)
    latencies = {genotype: model.predicted(genotype) for genotype in strengths}
    limits = sorted({*latencies.values()})
    found = set()
    for most in limits:
        best = max((g for g in strengths if latencies[g] <= most), key=strengths.__getitem__)
        assert best_within(space, mixing, model.limits(space, most)) == best
        found.add(best)
    assert len(found) > 3
    with pytest.raises(
        ValueError, match=r"at most [\d,.]+ ms of predicted latency; the smallest possible has [\d,.]+ ms of"
    ):
        best_within(space, mixing, model.limits(space, limits[0] - 0.001))
    assert model.limits(space, None) == []
    assert model.limits(space, 1.001)[0].most == 1001


def test_the_rest_and_the_factor_are_fitted_and_not_negative() -> None:
    fit = measuring.fitted([0, 1, 2, 3], [2, 3.5, 5, 6.5])
    assert (fit.rest_ms, fit.factor) == pytest.approx((2, 1.5))
    assert (fit.networks, fit.mean_error, fit.largest_error) == (4, 0, 0)
    fit = measuring.fitted([1, 2, 4], [1, 2, 5])
    assert (fit.rest_ms, fit.factor) == pytest.approx((0, (1 + 1 + 0.8) / (1 + 1 + 0.64)))
    assert fit.largest_error == pytest.approx(15.152)


def test_a_table_is_read_as_it_was_written(model: LatencyModel, file: Path) -> None:
    assert latency_table.read(file) == model.table
    kept = json.loads(file.read_text())
    assert (kept["version"], kept["runtime"], kept["edges"]) == (1, "pytorch", [2])
    assert {row["operation"] for row in kept["operations"]} == {*OPERATIONS} - {"none"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda kept: kept.update(version=2), "version"),
        (lambda kept: kept.update(runtime="guess"), "runtime"),
        (lambda kept: kept.update(more=1), "more"),
        (lambda kept: kept["operations"][0].update(ms=-1), "ms"),
        (lambda kept: kept["operations"][0].update(ms="1"), "ms"),
        (lambda kept: kept["form"].update(layers=10**9), "layers"),
        (lambda kept: kept["operations"].append(kept["operations"][0]), "two times of an operation at one place"),
    ],
)
def test_faulty_tables_are_refused(change: Callable[[dict[str, Any]], object], told: str, file: Path) -> None:
    kept = json.loads(file.read_text())
    change(kept)
    file.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match=f"{file} cannot be read: .*{told}"):
        latency_table.read(file)


def test_what_was_not_measured_is_refused(model: LatencyModel, file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere.json does not exist; optinas-latency-table writes such a file"):
        latency_table.read("nowhere.json")
    with pytest.raises(
        ValueError,
        match="4 cells of 3 channels .* on 11x9 pixels of 1 channels, 3 classes, and the network here has 2 cells .*; "
        "measure another with optinas-latency-table --space darts --eval-form imagenet --eval-layers 2 "
        "--eval-channels 4 --image-size 75 50 --channels 3 --classes 10",
    ):
        LatencyModel.read(str(file), IMAGENET)
    with pytest.raises(ValueError, match="of the space darts, whose nodes have 2 edges; those here have 3, and 1 of"):
        model.costs(build("hb"))
    with pytest.raises(ValueError, match="table.json has no time of the operation sep_conv_5x5"):
        model.costs(build())
    with pytest.raises(ValueError, match="--max-latency 5 needs --latency-table, a file that optinas-latency-table"):
        DerivationConfig(max_latency=5.0)
    with pytest.raises(UsageError, match="cannot be written: No such file or directory; choose another --out"):
        latency_table.write(model.table, tmp_path / "no" / "table.json")


def test_a_search_keeps_to_its_table(model: LatencyModel, file: Path) -> None:
    space, flags = build(operations=OPERATIONS), {"eval_layers": 4, "eval_channels": 3, "latency_table": str(file)}
    least = Sampler(space, model.limits(space, 10**6)).draw(random.Random(0))
    begun = Derivation(DerivationConfig(**flags, max_latency=10.0**6), space, Relaxation(), ODD)
    begun.load_state_dict(begun.state_dict())
    assert begun.latency is not None
    assert begun.latency.predicted(least) == model.predicted(least)
    kept = json.loads(file.read_text())
    kept["operations"][0]["ms"] += 1
    file.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match=f"--latency-table {file} is not the file that the search began with"):
        Derivation(DerivationConfig(**flags), space, Relaxation(), ODD).load_state_dict(begun.state_dict())
    with pytest.raises(ValueError, match="no time of the operation"):
        Derivation(DerivationConfig(**flags), build(), Relaxation(), ODD)


def test_a_table_is_measured_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the clock, so that nothing is known of the times but that they are there."""
    file, same = str(tmp_path / "table.json"), ("--space", "hb", "--nodes", "1", "--operations", "skip_connect", "none")
    small = ("--eval-layers", "1", "--eval-channels", "2")
    result = measuring.command([*same, *small, "--out", file, "--rounds", "2", "--networks", "2", "--device", "cpu"])
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"written to {file}")
    table = latency_table.read(file)
    assert result["calibration"]["networks"] == table.calibration.networks == 3
    assert [(row.channels, row.stride, row.height) for row in table.operations] == [(4, 2, 32)]
    flags = (*same, *small, "--latency-table", file, "--max-latency", "1e8")
    (drawn,) = genotype_tool.command(["random", *flags, "--out", str(tmp_path / "g.json")])["genotypes"]
    shown = genotype_tool.command(["show", str(tmp_path / "g.json"), "--latency-table", file, "--json"])
    assert {name: shown[name] for name in ("params", "macs", "latency_ms")} == {
        name: drawn[name] for name in ("params", "macs", "latency_ms")
    }
    genotype_tool.command(["show", str(tmp_path / "g.json"), "--latency-table", file])
    assert f"{drawn['latency_ms']:>13,}" in capsys.readouterr().out
    from_python = optinas.random_genotype(
        space="hb", nodes=1, operations=same[-2:], eval_layers=1, eval_channels=2, latency_table=file, max_latency=1e8
    )
    assert from_python == genotypes.load(tmp_path / "g.json")
    with pytest.raises(UsageError, match="was measured for 1 cells of 2 channels .* has 20 cells of 36 channels"):
        genotype_tool.command(["show", str(tmp_path / "g.json"), "--cost", "cifar", "--latency-table", file])
    with pytest.raises(UsageError, match="--classes is for the form that --cost names"):
        genotype_tool.command(["show", str(tmp_path / "g.json"), "--classes", "3", "--latency-table", file])
    with pytest.raises(UsageError, match="--image-size takes the side, or height and width"):
        measuring.command([*same, "--out", file, "--image-size", "1", "2", "3"])


@pytest.mark.parametrize(("out", "told"), [("no/table.json", "does not exist; make it first"), ("", "is a folder")])
def test_a_table_that_cannot_be_written_is_not_measured(
    out: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "measured", None)
    with pytest.raises(UsageError, match=told):
        measuring.command(["--space", "hb", "--out", str(tmp_path / out)])
