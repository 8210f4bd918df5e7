"""The table of many runs."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import genotypes
import train_eval
import train_search
from genotypes import ZOO
from nas import cli
from nas.errors import UsageError
from nas.runs import record
from nas.study import compare
from tests.tiny import DATA, OPERATIONS, SEARCH


def train(folder: Path, name: str, *flags: str) -> dict[str, Any]:
    return train_eval.command([*DATA, "--epochs", "1", *flags, "--run-dir", str(folder / name)])


def table_of(
    capsys: pytest.CaptureFixture[str], *directories: Path, flags: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], str]:
    """The rows, and what was said of directories left out."""
    capsys.readouterr()
    rows = compare.command([*map(str, directories), *flags])["rows"]
    return rows, capsys.readouterr().err


def test_seeds_are_one_row_and_anything_else_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = train(tmp_path, "1", "--arch", "hbnet8")
    two = train(tmp_path, "2", "--arch", "hbnet8", "--seed", "1", "--workers", "0")  # workers change no result
    other = train(tmp_path, "3", "--arch", "hbnet8", "--first-unit", "hb")
    rows, _ = table_of(capsys, *(tmp_path / name for name in "1321"))
    told = [(row["architecture"], row["setting"], row["runs"], row["seeds"]) for row in rows]
    assert told == [("hbnet8", "first_unit None", 2, "0, 1"), ("hbnet8", "first_unit hb", 1, "0")]
    accuracies = [one["test_accuracy"], two["test_accuracy"]]
    assert rows[0]["test accuracy %"] == statistics.mean(accuracies)
    assert rows[0]["std"] == pytest.approx(statistics.stdev(accuracies))
    assert (rows[1]["test accuracy %"], rows[1]["std"]) == (other["test_accuracy"], None)
    assert rows[0]["parameters"] == one["params"]
    assert "latency ms" not in rows[0]

    threads, timed = torch.get_num_threads(), []
    monkeypatch.setattr("nas.latency.timed", lambda run, *_: [run(), timed.append(torch.get_num_threads()), 1, 3][2:])
    (tmp_path / "3" / "weights.safetensors").unlink()
    rows, said = table_of(capsys, *(tmp_path / name for name in "123"), flags=["--latency"])
    assert [row["latency ms"] for row in rows] == [2, None]
    assert (timed, torch.get_num_threads()) == ([1], threads)
    assert f"not timed: {tmp_path / '3'}" in said


def test_genotypes_of_one_kind_of_search_are_one_row_and_searches_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, flags in (("0", ()), ("1", ("--seed", "1")), ("2", ("--init", "random"))):
        search = tmp_path / f"search{name}"
        train_search.command([*SEARCH, *OPERATIONS, "--epochs", "1", "--space", "hb", *flags, "--run-dir", str(search)])
        train(tmp_path, name, "--arch", str(search), "--layers", "2", "--init-channels", "2")
    rows, said = table_of(capsys, *sorted(tmp_path.iterdir()))
    told = [(row["architecture"], row["setting"], row["runs"], row["seeds"]) for row in rows]
    assert told == [("searched, hb", "init None", 2, "0/0, 1/0"), ("searched, hb", "init random", 1, "0/0")]
    assert said.count("is a search; name the training of its genotype") == 3
    shutil.rmtree(tmp_path / "search0")  # what a row needs of it went with the training
    assert table_of(capsys, *(tmp_path / name for name in "012"))[0] == rows


def test_repeated_runs_are_no_replicates_however_their_genotype_was_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found").mkdir()
    genotypes.save(ZOO["DARTS_V1"].genotype, tmp_path / "found" / "genotype.json")
    tiny = ("--layers", "2", "--init-channels", "2")
    for name, arch, seed in (("a", "found", 0), ("b", "./found/", 1), ("c", str(tmp_path / "found"), 1)):
        train(tmp_path, name, "--arch", arch, *tiny, "--seed", str(seed))
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    monkeypatch.chdir("/")
    rows, said = table_of(capsys, *(tmp_path / name for name in ("a", "b", "c", "copy")))
    assert [(row["runs"], row["seeds"], row["setting"]) for row in rows] == [(2, "0, 1", "")]
    for name, first in (("c", "b"), ("copy", "a")):
        assert f"left out: {tmp_path / name} repeats {tmp_path / first} with the same configuration and seed" in said


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "run", "--arch", "resnet8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.run(compare.command, [str(tmp_path / "run")])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "resnet8" in lines[2]
    assert json.loads(lines[-1])["rows"][0]["architecture"] == "resnet8"


def test_what_is_no_ended_run_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, "good", "--arch", "resnet8")
    wrong = (tmp_path / "good" / record.NAME).read_text().replace('"params": ', '"params": "many", "_": ')
    damaged = (
        ("cut", "{"),
        ("empty", "{}"),
        ("null", "null"),
        ("deep", '{"x": ' + "[" * 10**5),
        ("list", "[]"),
        ("type", wrong),
    )
    for name, content in damaged:
        (tmp_path / name).mkdir()
        (tmp_path / name / record.NAME).write_text(content)
    (tmp_path / "nothing").mkdir()
    rows, said = table_of(capsys, *sorted(tmp_path.iterdir()))
    assert [row["runs"] for row in rows] == [1]
    assert len(said.splitlines()) == 7
    for text in (
        "missing required field `kind`",
        "Expected `int`, got `str` - at `$.result.params`",
        "nested too deeply",
    ):
        assert text in said
    for text in ("truncated", "got `null`", "has no record.json, which a run writes when it ends"):
        assert text in said
    with pytest.raises(UsageError, match="none of these directories holds a finished training run"):
        compare.command([str(tmp_path / "nothing")])
