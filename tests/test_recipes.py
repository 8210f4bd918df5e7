"""The presets of the search: each runs, and is what the page of methods says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import train_search
from nas import cli
from nas.methods.config import SearchConfig
from nas.recipes import PRESETS
from tests.tiny import SEARCH


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_knows_its_name_and_takes_flags(name: str) -> None:
    default = PRESETS[name]("cifar10")
    assert default.preset == name
    assert default.data.dataset == "cifar10"
    parsed = cli.parse(SearchConfig, ["--preset", name, "--seed", "3"], description="", default=default)
    assert (parsed.seed, parsed.method) == (3, default.method)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_searches(name: str, tmp_path: Path) -> None:
    """On a tiny network and few epochs, with all else as it is."""
    config = PRESETS[name]("fake")
    stages = len(config.stages.drop) + 1
    short = ["--epochs", str(stages), "--warm-up-epochs", "0", "--projection-every", "1", "--nodes", "1"]
    if config.stages.stage_partial_channels or config.supernet.partial_channels > 1:
        short += ["--init-channels", "12", "--layers", "2"]
    if config.stages.stage_layers:
        short += ["--stage-layers", *["2"] * stages]
    result = train_search.command([*SEARCH, "--preset", name, *short, "--run-dir", str(tmp_path / "run")])
    assert result["genotype"]


def test_the_page_of_methods_lists_the_presets() -> None:
    page = (Path(__file__).parent.parent / "docs" / "METHODS.md").read_text()
    section = page.split("## Published searches")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == PRESETS.keys() - {"paper", "smoke", "small"}
