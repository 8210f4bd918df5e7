"""Searches in stages: what is dropped between them, how they are planned, and that they are resumed."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

import spaces
import train_search
from nas.methods.stages import Stage, StagesConfig, check_drop, plan, without_weakest
from nas.runs import checkpoint
from spaces import KINDS, SpaceConfig
from tests.tiny import OPERATIONS, SEARCH


def test_stages_are_equally_long() -> None:
    config = StagesConfig(drop=(3, 2), stage_layers=(5, 11, 17), warm_up_epochs=10)
    assert plan(config, 75) == tuple(
        Stage(number=i, begin=25 * i, epochs=25, layers=layers, warm_up=10) for i, layers in enumerate((5, 11, 17))
    )
    assert plan(StagesConfig(), 50) == (Stage(number=0, begin=0, epochs=50, layers=None, warm_up=0),)


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


STAGES = ("--epochs", "4", "--drop", "2", "--stage-layers", "2", "3", "--warm-up-epochs", "1")


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
