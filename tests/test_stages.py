"""Searches in stages: what is dropped between them, how they are planned, and that they are resumed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

import spaces
import train_search
from nas.errors import UsageError
from nas.methods.stages import StagesConfig, check_drop, plan, without_weakest
from nas.runs import checkpoint
from nas.supernet import SupernetConfig
from spaces import KINDS, SpaceConfig
from tests.tiny import OPERATIONS, SEARCH


def test_stages_are_equally_long() -> None:
    dropout = (0.0, 0.4, 0.7)
    config = StagesConfig(drop=(3, 2), stage_layers=(5, 11, 17), skip_dropout=dropout, warm_up_epochs=10)
    assert [(s.number, s.begin, s.epochs, s.layers, s.skip_dropout, s.warm_up) for s in plan(config, 75)] == [
        (i, 25 * i, 25, layers, dropout[i], 10) for i, layers in enumerate((5, 11, 17))
    ]
    (only,) = plan(StagesConfig(), 50)
    assert (only.begin, only.epochs, only.warm_up, only.skip_dropout) == (0, 50, 0, 0.0)
    assert only.supernet(SupernetConfig(layers=4, partial_channels=2)) == SupernetConfig(layers=4, partial_channels=2)
    progressive = plan(StagesConfig(drop=(3,), stage_partial_channels=(6, 4)), 50)
    assert [stage.supernet(SupernetConfig()).partial_channels for stage in progressive] == [6, 4]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (0.4, {0: 0.384, 9: 0.24, 10: 0.4, 15: 0.147151776469, 24: 0.0243240250501}),
        (0.7, {0: 0.672, 9: 0.42, 10: 0.7, 15: 0.25751560882, 24: 0.0425670438377}),
    ],
)
def test_the_dropout_after_identities_is_that_of_p_darts(rate: float, expected: dict[int, float]) -> None:
    (stage,) = plan(StagesConfig(skip_dropout=(rate,), warm_up_epochs=10), 25)
    assert {epoch: stage.skip_dropout_rate(epoch) for epoch in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--skip-dropout", "0.1", "--unrolled"), "--skip-dropout draws anew in each evaluation of the loss"),
        (("--skip-dropout", "0.1", "--checkpoint-cells"), "--checkpoint-cells computes each cell twice"),
        (("--drop", "1", "--stage-partial-channels", "1", "3"), "--partial-channels 3 gives operations 1/3"),
        (
            ("--partial-channels", "1", "--method", "random-ws", "--warm-up-epochs", "1"),
            "--warm-up-epochs does nothing",
        ),
        (
            ("--drop", "1", "--stage-partial-channels", "1", "2", "--init-channels", "4", "--method", "fairdarts"),
            "--partial-channels needs weights of the operations that sum to 1",
        ),
    ],
)
def test_what_cannot_be_combined_is_refused_before_anything_is_written(
    flags: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=told):
        train_search.command([*SEARCH, "--epochs", "2", *flags, "--run-dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "epochs", "told"),
    [
        ({"drop": (3,)}, 25, "--epochs 25 cannot be shared equally by 2 stages; give a multiple of 2"),
        ({"warm_up_epochs": 3}, 3, "--warm-up-epochs 3 leaves no epoch of 3 for the architecture"),
        ({"drop": (1,), "stage_layers": (5,)}, 2, "--stage-layers has 1 values, but --drop makes 2 stages"),
        ({"keep_logits": True}, 2, "--keep-logits is about what follows a stage, but there is only one; add --drop"),
    ],
)
def test_stages_that_cannot_be(fields: dict[str, object], epochs: int, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        plan(StagesConfig(**fields), epochs)


def test_too_few_operations_for_the_stages() -> None:
    space = spaces.build(SpaceConfig())
    check_drop(StagesConfig(drop=(3, 2)), space)
    with pytest.raises(ValueError, match="--drop 3 3 takes 6 of the 8 operations of an edge, and at least two"):
        check_drop(StagesConfig(drop=(3, 3)), space)


def test_the_weakest_operations_are_dropped() -> None:
    """Against P-DARTS's definition: smallest softmax weight first, ties to the first; the last but zero stays."""
    space = spaces.build(SpaceConfig(nodes=1, operations=("skip_connect", "sep_conv_3x3", "max_pool_3x3", "none")))
    weights = torch.tensor([[0.1, 0.4, 0.1, 0.4], [0.2, 0.1, 0.1, 0.6]])
    space.restrict(without_weakest(space, dict.fromkeys(KINDS, weights), 1))
    assert space.mask["normal"].tolist() == [[False, True, True, True], [True, False, True, True]]
    space.restrict(without_weakest(space, dict.fromkeys(KINDS, weights), 2))
    assert space.mask["reduce"].tolist() == [[False, True, False, False], [True, False, False, False]]


STAGES = (
    "--epochs",
    "4",
    "--drop",
    "2",
    "--stage-layers",
    "2",
    "3",
    "--warm-up-epochs",
    "1",
    "--skip-dropout",
    "0",
    "0.5",
)


@pytest.mark.parametrize("space", ["darts", "hb"])
def test_each_stage_has_a_supernet_of_its_own(space: str, tmp_path: Path) -> None:
    flags = (*SEARCH, *OPERATIONS, *STAGES, "--space", space, "--run-dir", str(tmp_path))
    assert train_search.command([*flags])["epochs"] == 4
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert state["tracked"]["stage"] == {"number": 1}
    for kind in KINDS:
        assert (state["tracked"]["space"][f"{kind}_mask"].sum(dim=1) == 3).all()
    layers = {name.split(".")[1] for name in state["tracked"]["supernet"] if name.startswith("cells.")}
    assert layers == {"0", "1", "2"}
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["arch_loss"] == "" for row in rows] == [True, False, True, False]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([0.025, 0.0125, 0.025, 0.0125])
    assert "stage 2 of 2: 3 operations on each edge" in (tmp_path / "log.txt").read_text()
