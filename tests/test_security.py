"""What SECURITY.md promises of files from strangers."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import genotype_tool
import genotypes
import spaces
import train_eval
import train_search
from genotypes import GenotypeError
from nas import cli
from nas.data import manifest
from nas.errors import UsageError
from nas.evaluate import read_run
from nas.networks import weights
from nas.runs import checkpoint, record
from nas.runs.directory import Directory
from nas.runs.record import SearchRecord, SearchResult
from nas.study import compare
from tests.tiny import SEARCH, TRAIN

EVIL = "downloaded_module"
EVIL_CODE = "import pathlib; pathlib.Path('executed').touch()\n"


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a training that has ended."""
    run = tmp_path_factory.mktemp("training") / "run"
    train_eval.command([*TRAIN, "--epochs", "1", "--run-dir", str(run)])
    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a module beside what was downloaded; nothing in it may run."""
    (tmp_path / f"{EVIL}.py").write_text(EVIL_CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    assert not (tmp_path / "executed").exists()
    assert EVIL not in sys.modules


def rewritten(path: Path, **changed: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def downloaded_search(folder: Path, training: Path) -> Path:
    run = folder / "downloaded"
    run.mkdir()
    genotypes.save(genotypes.get("DARTS_V2").genotype, run / "genotype.json")
    result = SearchResult(
        run_dir="", space=f"{EVIL}:Space", dataset="fake", genotype="", valid_accuracy=50.0, epochs=1, seconds=1.5
    )
    images = record.read(training).data
    record.write(Directory(run), SearchRecord(seed=0, settings={}, data=images, result=result))
    return run


def test_no_module_that_a_record_names_is_imported(folder: Path, training: Path) -> None:
    run = downloaded_search(folder, training)
    result = train_eval.command([*TRAIN, "--epochs", "1", "--arch", str(run), "--run-dir", str(folder / "eval")])
    assert (result["space"], result["search_seconds"]) == (f"{EVIL}:Space", 1.5)


def test_no_module_that_a_configuration_names_is_imported(folder: Path, training: Path) -> None:
    run = folder / "downloaded"
    shutil.copytree(training, run)
    rewritten(run / "config.json", operations_from=[EVIL], space={"space": f"{EVIL}:Space"})
    assert train_eval.command(["--evaluate", str(run), "--device", "cpu"])["arch"] == "DARTS_V2"
    with pytest.raises(UsageError, match="no module that a file names is imported; if you trust it"):
        genotype_tool.command(["derive", str(run)])
    with pytest.raises(UsageError):
        train_search.command([*SEARCH, "--epochs", "1", "--run-dir", str(run), "--resume"])


@pytest.mark.parametrize("name", [EVIL, f"{EVIL}:Space", f"{EVIL}.Space", "../../../x"])
def test_no_module_that_a_genotype_names_is_imported(name: str, folder: Path) -> None:
    text = genotypes.to_json(genotypes.get("DARTS_V2").genotype)
    (folder / "genotype.json").write_text(text.replace("sep_conv_3x3", name))
    with pytest.raises(GenotypeError, match="unknown operation .* name its module with --operations-from"):
        genotype_tool.command(["check", "genotype.json"])
    (folder / "genotype.txt").write_text(f"import {EVIL}\nDARTS = {EVIL}.Genotype(normal=[('none', 0)])")
    with pytest.raises(GenotypeError):
        genotype_tool.command(["check", "genotype.txt"])


def test_no_module_that_a_weights_file_names_is_imported(folder: Path, training: Path) -> None:
    content = (training / weights.NAME).read_bytes()
    (folder / weights.NAME).write_bytes(content.replace(b"sep_conv_3x3", b"downloaded_m"))
    with pytest.raises(ValueError, match="is damaged or not a network of this toolkit"):
        weights.load(folder / weights.NAME)


def test_a_module_that_the_user_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side: this is how a genotype with operations of one's own is used."""
    for registered in (genotypes.OPERATIONS, spaces.OPERATIONS):
        monkeypatch.setitem(registered, "of_my_own", None)
        monkeypatch.delitem(registered, "of_my_own")
    (tmp_path / "my_operations.py").write_text(
        "from torch import nn\nfrom spaces import operation\n"
        "operation('of_my_own')(lambda channels, stride, affine: nn.Conv2d(channels, channels, 1, stride))\n"
    )
    text = genotypes.to_json(genotypes.get("DARTS_V2").genotype)
    (tmp_path / "genotype.json").write_text(text.replace("dil_conv_3x3", "of_my_own"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(GenotypeError, match="unknown operation 'of_my_own'"):
        genotype_tool.command(["check", "genotype.json"])
    with pytest.raises(UsageError, match="module 'no_such_module' could not be imported"):
        genotype_tool.command(["check", "genotype.json", "--operations-from", "no_such_module"])
    genotype_tool.command(["check", "genotype.json", "--operations-from", "my_operations"])
    own = ("--operations-from", "my_operations")
    flags = ("--epochs", "1", "--arch", "genotype.json", "--run-dir", "run")
    train_eval.command([*TRAIN, *flags, *own])
    train_eval.command([*TRAIN, *flags, *own, "--resume"])
    train_eval.command(["--evaluate", "run", "--device", "cpu", *own])


def test_a_file_that_is_quoted_is_quoted_in_part(tmp_path: Path) -> None:
    """The messages of the library that decodes it hold the whole of a faulty text."""
    text = 100_000 * "x"
    (tmp_path / "config.json").write_text(json.dumps({"arch": "", "epochs": 1, "precision": text, "data": {}}))
    (tmp_path / "data.json").write_text(json.dumps({"version": text}))
    genotype = json.dumps({"version": 1, "kind": text})
    reads = (
        lambda: read_run(str(tmp_path)),
        lambda: manifest.read(tmp_path),
        lambda: genotypes.from_json(genotype, "genotype"),
    )
    for read in reads:
        with pytest.raises(ValueError) as refused:
            read()
        assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    "content", ["null", "[]", "{", "{}", '{"kind": "\\u001b[31m"}', "[" * 10**5, " " * 4_000_001], ids=range(7)
)
def test_a_faulty_record_of_a_search_is_refused_in_one_line(content: str, folder: Path, training: Path) -> None:
    run = downloaded_search(folder, training)
    (run / record.NAME).write_text(content)
    told = "record.json cannot be read: .*; to train without it, pass --arch "
    with pytest.raises(UsageError, match=told) as refusal:
        train_eval.command([*TRAIN, "--arch", str(run), "--run-dir", str(folder / "eval")])
    assert str(refusal.value).isprintable()


class Bomb:
    """What a pickle would do to whoever unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def as_checkpoint(payload: bytes) -> bytes:
    return b"optinas checkpoint 1 sha256 %s\n" % hashlib.sha256(payload).hexdigest().encode() + payload


def saved_by_torch(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [bytes, as_checkpoint])
@pytest.mark.parametrize("dump", [pickle.dumps, saved_by_torch])
def test_no_pickle_is_executed(
    wrap: Callable[[bytes], bytes], dump: Callable[[object], bytes], folder: Path, training: Path
) -> None:
    run = folder / "downloaded"
    shutil.copytree(training, run)
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (run / name).write_bytes(wrap(dump({"epoch": 1, "tracked": Bomb()})))
    (run / weights.NAME).write_bytes(dump(Bomb()))
    with pytest.raises(UsageError, match="no checkpoint can be (read|used)"):
        train_eval.command([*TRAIN, "--epochs", "1", "--run-dir", str(run), "--resume"])
    with pytest.raises(UsageError, match="is damaged or not a network of this toolkit"):
        train_eval.command(["--evaluate", str(run), "--device", "cpu"])


def test_names_in_files_never_become_names_of_files(folder: Path) -> None:
    genotype = replace(genotypes.get("DARTS_V2").genotype, name="../../escaped")
    genotypes.save(genotype, folder / "genotype.json")
    (folder / "inner" / "out").mkdir(parents=True)
    before = set(folder.rglob("*"))
    genotype_tool.command(["draw", "genotype.json", "--out", "inner/out", "--format", "dot"])
    assert {path.name for path in set(folder.rglob("*")) - before} == {"normal.dot", "reduce.dot"}
    train_eval.command([*TRAIN, "--epochs", "1", "--arch", "genotype.json", "--run-dir", "inner/run"])
    assert not list(folder.rglob("*escaped*"))
    assert {path.name for path in folder.iterdir()} == {path.name for path in before if path.parent == folder}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("sep_conv_3x3", "\\u001b[31m\\u0007"),
        lambda text: text.replace("sep_conv_3x3", "x" * 5000),
        lambda text: text.replace('"normal"', '"\\u001b]0;title\\u0007"'),
        lambda text: text.replace('"normal"', f'"{"x" * 5000}"'),
        lambda text: text.replace("DARTS_V2", "\\u009b31m\\u202e"),
        lambda text: text.replace('"format"', "\x1b[31m"),
        lambda text: f"\x1b[31m = {genotypes.to_text(genotypes.from_json(text))}",
    ],
)
def test_no_message_steers_the_terminal(
    change: Callable[[str], str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "g.json").write_text(change(genotypes.to_json(genotypes.get("DARTS_V2").genotype)))
    with pytest.raises(SystemExit):
        cli.run(genotype_tool.command, ["check", "g.json"])
    told = capsys.readouterr()
    assert (told.out + told.err).rstrip("\n").isprintable()
    assert len(told.out + told.err) < 1000


def test_no_table_steers_the_terminal(folder: Path, training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "downloaded"
    shutil.copytree(training, run)
    rewritten(run / "config.json", arch="\x1b]0;title\x07")
    rewritten(run / record.NAME, result=json.loads((run / record.RESULT).read_text()) | {"arch": "\x1b]0;title\x07"})
    capsys.readouterr()
    train_eval.command(["--evaluate", str(run), "--device", "cpu"])
    compare.command([str(run)])
    assert capsys.readouterr().out.replace("\n", "").isprintable()


def test_every_promise_names_its_test() -> None:
    root = Path(__file__).parent.parent
    named = set(re.findall(r"`(tests/\w+\.py)`", (root / "SECURITY.md").read_text()))
    assert len(named) >= 4
    assert all((root / name).is_file() for name in named)
