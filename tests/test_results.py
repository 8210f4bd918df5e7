"""The table of many runs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from tiny import DATA, OPERATIONS, SEARCH

import train_eval
import train_search
from nas import cli, results
from nas.errors import UsageError


def train(folder: Path, name: str, *flags: str) -> dict[str, Any]:
    return train_eval.command([*DATA, "--epochs", "1", *flags, "--run-dir", str(folder / name)])


def test_seeds_are_one_row_and_anything_else_is_another(tmp_path: Path) -> None:
    one = train(tmp_path, "1", "--arch", "hbnet8")
    two = train(tmp_path, "2", "--arch", "hbnet8", "--seed", "1")
    other = train(tmp_path, "3", "--arch", "hbnet8", "--first-unit", "hb")
    rows = results.compare([str(tmp_path / name) for name in "132"])
    assert [(row["architecture"], row["runs"]) for row in rows] == [("hbnet8", 2), ("hbnet8", 1)]
    accuracies = [one["test_accuracy"], two["test_accuracy"]]
    assert rows[0]["test accuracy %"] == statistics.mean(accuracies)
    assert rows[0]["std"] == pytest.approx(statistics.stdev(accuracies))
    assert (rows[1]["test accuracy %"], rows[1]["std"]) == (other["test_accuracy"], None)
    assert rows[0]["parameters"] == one["params"]


def test_genotypes_of_one_kind_of_search_are_one_row_and_searches_are_passed_over(tmp_path: Path) -> None:
    for name, flags in (("0", ()), ("1", ("--seed", "1")), ("2", ("--init", "random"))):
        search = tmp_path / f"search{name}"
        train_search.command([*SEARCH, *OPERATIONS, "--epochs", "1", "--space", "hb", *flags, "--run-dir", str(search)])
        train(tmp_path, name, "--arch", str(search), "--layers", "2", "--init-channels", "2")
    rows = results.compare([str(path) for path in sorted(tmp_path.iterdir())])
    assert [(row["architecture"], row["runs"]) for row in rows] == [("searched, hb", 2), ("searched, hb", 1)]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "run", "--arch", "resnet8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.run(results.command, [str(tmp_path / "run")])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "resnet8" in lines[2]
    assert json.loads(lines[-1])["rows"][0]["architecture"] == "resnet8"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        results.compare([str(tmp_path)])
    train(tmp_path, "run", "--arch", "resnet8")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(UsageError, match="result.json cannot be read"):
        results.compare([str(tmp_path / "run")])
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(UsageError, match="has no result yet; leave it out"):
        results.compare([str(tmp_path / "run")])
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps({"space": {}}))
    with pytest.raises(UsageError, match="there is no training run among these"):
        results.compare([str(tmp_path / "run")])
