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


def table_of(capsys: pytest.CaptureFixture[str], *directories: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows, and what was said of directories left out."""
    capsys.readouterr()
    rows = results.command([str(directory) for directory in directories])["rows"]
    return rows, capsys.readouterr().err


def test_seeds_are_one_row_and_anything_else_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = train(tmp_path, "1", "--arch", "hbnet8")
    two = train(tmp_path, "2", "--arch", "hbnet8", "--seed", "1", "--workers", "0")  # workers change no result
    other = train(tmp_path, "3", "--arch", "hbnet8", "--first-unit", "hb")
    rows, _ = table_of(capsys, *(tmp_path / name for name in "1321"))
    told = [(row["architecture"], row["setting"], row["runs"]) for row in rows]
    assert told == [("hbnet8", "first_unit None", 2), ("hbnet8", "first_unit hb", 1)]
    accuracies = [one["test_accuracy"], two["test_accuracy"]]
    assert rows[0]["test accuracy %"] == statistics.mean(accuracies)
    assert rows[0]["std"] == pytest.approx(statistics.stdev(accuracies))
    assert (rows[1]["test accuracy %"], rows[1]["std"]) == (other["test_accuracy"], None)
    assert rows[0]["parameters"] == one["params"]


def test_genotypes_of_one_kind_of_search_are_one_row_and_searches_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, flags in (("0", ()), ("1", ("--seed", "1")), ("2", ("--init", "random"))):
        search = tmp_path / f"search{name}"
        train_search.command([*SEARCH, *OPERATIONS, "--epochs", "1", "--space", "hb", *flags, "--run-dir", str(search)])
        train(tmp_path, name, "--arch", str(search), "--layers", "2", "--init-channels", "2")
    rows, said = table_of(capsys, *sorted(tmp_path.iterdir()))
    told = [(row["architecture"], row["setting"], row["runs"]) for row in rows]
    assert told == [("searched, hb", "init None", 2), ("searched, hb", "init random", 1)]
    assert said.count("is no training run") == 3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "run", "--arch", "resnet8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.run(results.command, [str(tmp_path / "run")])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "resnet8" in lines[2]
    assert json.loads(lines[-1])["rows"][0]["architecture"] == "resnet8"


def test_what_is_no_ended_run_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "good", "--arch", "resnet8")
    for name, content in (("cut", "{"), ("empty", "{}"), ("unfinished", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text((tmp_path / "good" / "config.json").read_text())
        if content:
            (tmp_path / name / "result.json").write_text(content)
    (tmp_path / "nothing").mkdir()
    rows, said = table_of(capsys, *sorted(tmp_path.iterdir()))
    assert [row["runs"] for row in rows] == [1]
    assert len(said.splitlines()) == 4
    for text in ("result.json cannot be read", "result.json has no arch", "has no result yet", "holds no run"):
        assert text in said
    with pytest.raises(UsageError, match="there is no ended training run among these"):
        results.command([str(tmp_path / "nothing")])
