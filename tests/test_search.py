"""The search: what it learns from, what it leaves in its run directory, what it refuses."""

from __future__ import annotations

import csv
import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import genotypes
import spaces
import train_search
from nas import data
from nas.data import DataConfig
from nas.methods.config import SearchConfig
from nas.methods.relaxation import Relaxation
from nas.recipes import PRESETS
from nas.runs import checkpoint, mixing
from nas.runs.mixing import CellMixing
from nas.search import endless, search
from spaces import KINDS, SpaceConfig
from tests.tiny import OPERATIONS, OWN, SEARCH, SPACES, nodes_of


def run(directory: Path, *more: str) -> dict[str, object]:
    return train_search.command([*SEARCH, "--epochs", "2", "--run-dir", str(directory), *more])


SECOND = ("--unrolled", "--hessian-product", "exact", "--epochs", "1")


@pytest.mark.parametrize(
    ("space", "order"),
    [*((name, ("--epochs", "1")) for name in spaces.names()), *((name, SECOND) for name in SPACES)],
    ids=[*(f"first-{name}" for name in spaces.names()), *(f"second-{name}" for name in SPACES)],
)
def test_every_space_searches(space: str, order: tuple[str, ...], tmp_path: Path) -> None:
    result = run(tmp_path / "run", "--space", space, "--nodes", str(nodes_of(space, 2)), *order)
    assert result["space"] == space
    assert isinstance(result["genotype"], str)
    text = genotypes.from_text(result["genotype"])
    assert text == genotypes.load(tmp_path / "run" / "genotype.json")
    edges = 3 if space == "hb" else 2
    assert {len(node) for node in text.normal.nodes} == {edges}


def test_bf16_search(tmp_path: Path) -> None:
    assert math.isfinite(float(str(run(tmp_path / "run", *OPERATIONS, "--precision", "bf16")["valid_accuracy"])))


@pytest.mark.parametrize(
    ("flags", "exactly"),
    [((), False), (("--unrolled",), True), (("--unrolled", "--hessian-product", "exact"), False)],
)
def test_finite_differences_are_not_taken_in_bf16_by_themselves(
    flags: tuple[str, ...], exactly: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(choice: str, device: torch.device, *, exactly: bool) -> str:
        asked.append((choice, exactly))
        raise ValueError("enough")

    monkeypatch.setattr("nas.search.resolve_precision", resolve)
    with pytest.raises(ValueError, match="enough"):
        run(tmp_path / "run", *flags)
    assert asked == [("auto", exactly)]


def test_the_run_directory_holds_everything(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    result = run(directory, "--space", "agd", "--seed", "3")
    assert {path.name for path in directory.iterdir()} == {
        *(".lock", "config.json", "data.json", "env.json", "log.txt", "metrics.csv", "tb", "checkpoint.pt"),
        "checkpoint.previous.pt",
        *("genotype.json", "genotypes", "mixing", "normal.svg", "reduce.svg", "record.json", "result.json"),
    }
    assert [p.name for p in sorted((directory / "genotypes").iterdir())] == ["epoch_001.json", "epoch_002.json"]
    assert sorted(path.name for path in (directory / "mixing").iterdir()) == ["epoch_001.json", "epoch_002.json"]
    weights, faults = mixing.read(directory)
    assert (list(weights), faults) == ([1, 2], [])
    space = spaces.build(SpaceConfig(space="agd", nodes=2))
    state: Any = checkpoint.load(directory)
    space.load_state_dict(state["tracked"]["space"])
    for kind in KINDS:
        cell: CellMixing = getattr(weights[2], kind)
        assert cell.edges == pytest.approx(space.edge_weights(kind).tolist(), abs=1e-6)
        np.testing.assert_allclose(cell.weights, Relaxation().expected(space)[kind].detach(), atol=1e-6)
    assert (weights[2].operations, weights[2].edges) == (space.operations, space.topology.edges)
    assert json.loads((directory / "result.json").read_text()) == result
    config = json.loads((directory / "config.json").read_text())
    assert (config["seed"], config["space"]["space"], config["supernet"]["init_channels"]) == (3, "agd", 2)
    assert config["precision"] == "fp32"  # what auto meant
    assert json.loads((directory / "env.json").read_text())["packages"]["torch"]
    with (directory / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["valid_accuracy"]) == result["valid_accuracy"]
    lines = (directory / "log.txt").read_text().splitlines()
    assert lines[0].startswith("found 34 images of 3 classes: 24 to train on, 10 to test on")
    assert lines[1].startswith("searching agd on fake: 3 cells of 2 channels, 2 epochs of 2 steps on cpu in fp32, in ")
    assert lines[2].startswith("epoch   1  train ")


def test_a_search_that_draws(tmp_path: Path) -> None:
    """Its genotypes and its held-out figures are of no draw, and a seed gives it again."""
    flags = (*SEARCH, *OPERATIONS, *OWN, "--epochs", "2", "--arch-learning-rate", "0.3")
    seeds = {"run": "0", "again": "0", "other": "1"}
    results = {
        name: train_search.command([*flags, "--seed", seeds[name], "--run-dir", str(tmp_path / name)]) for name in seeds
    }
    genotype = {name: genotypes.load(tmp_path / name / "genotype.json") for name in seeds}
    assert genotype["run"] == genotypes.load(tmp_path / "run" / "genotypes" / "epoch_002.json")
    assert genotype["run"] == genotype["again"] != genotype["other"]
    assert results["run"]["valid_accuracy"] == results["again"]["valid_accuracy"]
    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    assert state["tracked"]["relaxation"]["temperature"] == 0.75
    space = spaces.build(SpaceConfig(nodes=2, operations=OPERATIONS[1:]))
    space.load_state_dict(state["tracked"]["space"])
    assert genotype["run"] == space.derive(Relaxation().expected(space))
    for other, told in (
        ((*flags, "--start", "2"), "--start was 1.0, is 2.0"),
        ((*flags, "--method", "darts"), "--method was 'tests.tiny:Own', is 'darts'"),
    ):
        with pytest.raises(ValueError, match=told):
            train_search.command([*other, "--run-dir", str(tmp_path / "run"), "--resume"])


def of_both_cells(*names: str) -> set[str]:
    return {f"{cell}_{name}" for cell in ("normal", "reduction") for name in names}


def test_tensorboard_shows_the_architecture(tmp_path: Path) -> None:
    tags = {}
    for space, *more in (["hb"], ["agd", "--log-logits"]):
        run(tmp_path / space, "--space", space, *OPERATIONS, *more)
        (events,) = (tmp_path / space / "tb").iterdir()  # no stray sub-runs
        tags[space] = EventAccumulator(str(events)).Reload().Tags()
        assert "genotype/text_summary" in tags[space]["tensors"]
    figures = {"train_loss", "train_accuracy", "arch_loss", "arch_accuracy", "valid_loss", "valid_accuracy"}
    figures |= {"learning_rate"} | of_both_cells(
        *("entropy", "normalized_entropy", "effective_operations", "margin"),
        *("parameter_free_share", "parameter_free", "skips"),
    )
    figures.add("discretization_gap")
    assert set(tags["hb"]["scalars"]) == figures | of_both_cells("left_start")
    logits = set(tags["agd"]["scalars"]) - figures - of_both_cells("edge_entropy", "edge_normalized_entropy")
    assert {"alpha/normal/00_0-2/sep_conv_3x3", "beta/reduce/04_2-3"} <= logits
    assert len(logits) == 2 * 5 * (5 + 1)
    both = {f"{what}/{kind}" for what in ("cell", "mixing") for kind in ("normal", "reduction")}
    assert set(tags["hb"]["images"]) == both
    assert set(tags["agd"]["images"]) == {*both, "edges/normal", "edges/reduction"}


def test_a_rule_ends_a_search_once_its_architecture_is_trained(tmp_path: Path) -> None:
    """The genotype of the epoch without architecture steps has two skip connections too."""
    skips = ("--space", "darts", "--operations", "skip_connect", "sep_conv_3x3", "--arch-learning-rate", "0")
    result = run(tmp_path / "run", *skips, "--epochs", "4", "--warm-up-epochs", "1", "--stop", "skips")
    assert result["epochs"] == 2
    assert [path.name for path in sorted((tmp_path / "run" / "genotypes").iterdir())][-1] == "epoch_002.json"
    assert (
        "the normal cell has 4 skip connections; taking the genotype of epoch 2"
        in (tmp_path / "run" / "log.txt").read_text()
    )


def test_what_is_only_reported_changes_nothing(tmp_path: Path) -> None:
    rows = {}
    for name, flags in (("plain", ()), ("measured", ("--eigenvalue-every", "1"))):
        run(tmp_path / name, *OPERATIONS, *OWN, "--nodes", "1", *flags)
        with (tmp_path / name / "metrics.csv").open() as file:
            rows[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    eigenvalues = [float(row.pop("eigenvalue")) for row in rows["measured"]]
    assert rows["measured"] == rows["plain"]
    assert all(map(math.isfinite, eigenvalues))
    assert [bool(row["discretization_gap"]) for row in rows["plain"]] == [False, True]


def test_the_test_images_are_never_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the search asked for test images")

    monkeypatch.setattr(data.ImageData, "test_loader", forbidden)
    run(tmp_path / "run", *OPERATIONS, "--nodes", "1")


def test_the_halves_are_disjoint_and_stratified() -> None:
    images = data.load(DataConfig())
    weights, architecture = images.search_split(seed=1)
    assert set(weights.tolist()).isdisjoint(architecture.tolist())
    assert len(weights) + len(architecture) == len(images.train_labels) == 1437
    counts = [torch.bincount(images.train_labels[half]) for half in (weights, architecture)]
    assert (counts[0] - counts[1]).abs().max() <= 1


def test_one_stream_of_batches_wherever_it_is_resumed() -> None:
    loader = data.load(DataConfig(batch_size=400)).train_loader(seed=0)
    assert len(loader) == 4
    whole = [labels for _, labels in islice(endless(loader, 0), 10)]
    for start in (1, 4, 7):
        resumed = [labels for _, labels in islice(endless(loader, start), 10 - start)]
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], resumed, strict=True))


def test_runs_are_reproducible_and_seeded(tmp_path: Path) -> None:
    flags = ("--space", "hb", "--nodes", "1", *OPERATIONS)
    results = [run(tmp_path / name, "--seed", seed, *flags) for name, seed in (("a", "0"), ("b", "0"), ("c", "1"))]
    metrics = []
    for name in "abc":
        with (tmp_path / name / "metrics.csv").open() as file:
            metrics.append([row["train_loss"] for row in csv.DictReader(file)])
    assert metrics[0] == metrics[1] != metrics[2]
    assert results[0]["valid_accuracy"] == results[1]["valid_accuracy"]


def test_the_paper_preset_is_the_papers_protocol() -> None:
    config = PRESETS["paper"]("cifar10")
    assert (config.epochs, config.data.batch_size, config.train_portion) == (50, 64, 0.5)
    assert (config.supernet.layers, config.supernet.init_channels) == (8, 16)
    bilevel = config.bilevel
    assert (bilevel.learning_rate, bilevel.learning_rate_min, bilevel.momentum) == (0.025, 0.0, 0.9)
    assert (bilevel.weight_decay, bilevel.grad_clip, bilevel.unrolled) == (3e-4, 5.0, False)
    assert (bilevel.arch_learning_rate, bilevel.arch_weight_decay) == (3e-4, 1e-3)
    assert config == SearchConfig(data=DataConfig(dataset="cifar10"))


def test_learning_rate_follows_the_cosine(tmp_path: Path) -> None:
    run(tmp_path / "run", *OPERATIONS, "--nodes", "1", "--epochs", "4")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.025 * (1 + math.cos(math.pi * e / 4)) / 2 for e in range(4)])


@pytest.mark.slow
def test_the_supernet_learns_digits(tmp_path: Path) -> None:
    config = PRESETS["smoke"]("digits")
    short = {"epochs": 3, "run": type(config.run)(run_dir=str(tmp_path / "run"), device="cpu")}
    fields = {name: getattr(config, name) for name in ("preset", "data", "space", "supernet", "bilevel")}
    result = search(SearchConfig(**{**fields, **short}))
    assert result.valid_accuracy > 60  # chance is 10
