"""The commands as a user meets them: one clear line and exit code 2 for bad input, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import genotype_tool
import genotypes
import nas
import train_eval
import train_search
from genotypes import ZOO
from nas import cli
from nas.errors import UsageError
from tests.tiny import DATA, OPERATIONS, SEARCH, TRAIN

Command = Callable[[list[str]], dict[str, Any] | None]
ROOT = Path(__file__).resolve().parent.parent


def call(command: Command, *argv: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as end:
        cli.run(command, argv)
    assert isinstance(end.value.code, int)
    return end.value.code


def complaint(capsys: pytest.CaptureFixture[str], command: Command, *argv: str) -> str:
    """The one line of a refused call."""
    assert call(command, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def image_folder(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (i, i, i)).save(root / name / f"{i}.png")
    root.mkdir(exist_ok=True)
    return root


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dataset", "cifr10"], "did you mean cifar10"),
        (["--space", "hbb"], "did you mean 'hb'? known: agd, darts, hb"),
        (["--space", "no_module:Space"], "could not be imported"),
        (["--operations", "sep_conv"], "unknown operation 'sep_conv'; known: sep_conv_3x3"),
        (["--init", "hb"], "DARTSSpace has no initialization 'hb'; it has: zero, random"),
        (["--preset", "papr"], "--preset takes paper or smoke"),
        (["--preset"], "expected one argument"),
        (["--layers", "0"], "--layers is 0; it must be at least 1"),
        (["--layers", "three"], "--layers"),
        (["--layer", "3"], "--layers"),
        (["--nodes", "101"], "--nodes is 101; it must be at least 1 and at most 100"),
        (["--operations", "all", "none"], '"all" means all of them; pass it alone'),
        (["--seed", str(2**64)], "--seed is 18446744073709551616; it must be at least"),
        (["--epochs", "9" * 400], "it must be at least 1 and at most 1000000000"),
        (["--device", "mps"], "no usable device 'mps'; --device cpu always works"),
        (["--run-dir", "a\0b"], "a path cannot hold a NUL"),
        (["--run-dir", "run\udcff"], "is not UTF-8 text"),
        (["--nodes", "0"], "--nodes is 0; it must be at least 1"),
        (["--epochs", "0"], "--epochs is 0"),
        (["--grad-clip", "-1"], "--grad-clip is -1; it must be more than 0"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--init-gap", "inf"], "--init-gap is inf"),
        (["--device", "meta"], "--device cpu always works"),
        (["--batch-size", "13"], "a batch of 13 images is larger than the 12"),
        (["--train-portion", "1"], "--train-portion is 1; it must be more than 0 and less than 1"),
        (["--device", "gpu"], "--device cpu always works"),
        (["--unrolled", "--precision", "bf16"], "--hessian-product exact"),
        (["--hessian-product", "exact"], "does nothing without --unrolled"),
        (["--precision", "fp8"], "invalid choice 'fp8'"),
        (["--max-params", "10", "--eval-layers", "2"], "2 cells of 36 channels on 8x8 pixels (--eval-layers"),
        (["--max-skips", "2", "--space", "hb"], "--max-skips 2 replaces identities, from which --init hb starts"),
        (["--max-skips", "2", "--derivation", "projection"], "which --max-skips cannot limit; drop one"),
        (["--max-macs", "9999999", "--drop", "2"], "out of reach of the operations that --drop leaves; search without"),
        (["--max-params", "9999999", "--method", "fairdarts"], "this --method has a derivation of its own"),
        (["--eval-layers", "2"], "the network that --max-params, --max-macs, --latency-table and --cost-weight"),
        (["--dataset", "folder", "--data", "nowhere"], "nowhere"),
        (["--dataset", "cifar10", "--data", "nowhere"], "--download"),
        (["surplus"], "surplus"),
    ],
)
def test_a_search_refuses(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in complaint(capsys, train_search.command, *SEARCH, *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--arch", "DARTS"], "did you mean"),
        (["--arch", ""], "--arch is missing"),
        (["--arch", "."], "holds no genotype.json"),
        (["--evaluate", "."], "holds no run"),
        (["--drop-path-prob", "1"], "--drop-path-prob is 1; it must be at least 0 and less than 1"),
        (["--batch-size", "25"], "a batch of 25 images is larger than the 24"),
        (["--init-channels", "1"], "--init-channels is 1; it must be at least 2"),
        (["--label-smoothing", "2"], "--label-smoothing is 2; it must be at least 0 and at most 1"),
        (["--momentum", "-1"], "--momentum is -1"),
        (["--ema-decay", "1"], "--ema-decay is 1; it must be more than 0 and less than 1, or None: no average"),
        (["--grad-clip", "none"], "--grad-clip: 'none' is none of {None}|FLOAT; see --help"),
    ],
)
def test_a_training_refuses(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in complaint(capsys, train_eval.command, *TRAIN, *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({}, "folder"),
        ({"ant": 6}, "ant"),
        ({"ant": 6, "bee": 0}, "bee"),
    ],
)
def test_faulty_image_folders_are_refused(
    counts: dict[str, int], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(tmp_path / "folder", **counts)
    run = tmp_path / "run"
    flags = ("--dataset", "folder", "--data", str(root), "--run-dir", str(run), "--epochs", "1")
    assert told in complaint(capsys, train_search.command, *flags)
    assert not run.exists()


def test_an_unreadable_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image_folder(tmp_path / "images", ant=6, bee=6)
    (root / "bee" / "3.png").write_bytes(b"no image")
    flags = ("--dataset", "folder", "--data", str(root), "--run-dir", str(tmp_path / "run"), "--batch-size", "2")
    assert str(root / "bee" / "3.png") in complaint(capsys, train_search.command, *flags)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda d: d["normal"]["nodes"][1][0].update(source=9), "$.normal.nodes[1][0].source"),
        (lambda d: d["reduce"]["nodes"][0][1].update(operation="sep"), "$.reduce.nodes[0][1].operation"),
        (lambda d: d["reduce"]["nodes"][0][1].pop("source"), "$.reduce.nodes[0][1]"),
        (lambda d: d.update(version=99), "version"),
    ],
)
def test_a_malformed_genotype_is_told_with_its_path(
    change: Callable[[Any], object], path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(genotypes.to_json(ZOO["DARTS_V2"].genotype))
    change(document)
    file = tmp_path / "genotype.json"
    file.write_text(json.dumps(document))
    for command, argv in (
        (genotype_tool.command, ("check", str(file))),
        (train_eval.command, (*TRAIN, "--arch", str(file), "--run-dir", str(tmp_path / "run"))),
    ):
        told = complaint(capsys, command, *argv)
        assert path in told
        assert str(file) in told
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    flags = (*SEARCH, "--run-dir", str(tmp_path))
    assert "is not empty; choose another --run-dir" in complaint(capsys, train_search.command, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    flags = (*SEARCH, "--run-dir", str(tmp_path / "file" / "run"))
    assert "cannot be written" in complaint(capsys, train_search.command, *flags)


def test_resuming_with_another_configuration_lists_the_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*SEARCH, *OPERATIONS, "--epochs", "1", "--run-dir", str(tmp_path / "run"))
    train_search.command(list(flags))
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    capsys.readouterr()
    told = complaint(capsys, train_search.command, *flags, "--resume", "--epochs", "3", "--unrolled")
    assert "--epochs was 1, is 3" in told
    assert "--unrolled was False, is True" in told
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_the_same_architecture_may_be_spelled_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ~ in the directory's name is the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "found").mkdir()
    genotypes.save(ZOO["DARTS_V1"].genotype, tmp_path / "found" / "genotype.json")
    flags = [*DATA, "--layers", "2", "--init-channels", "2", "--epochs", "1", "--run-dir", "~/run", "--arch"]
    train_eval.command([*flags, "found"])
    for spelling in ("found/", "./found", str(tmp_path / "found")):
        assert train_eval.command([*flags, spelling, "--resume"])["run_dir"] == str(tmp_path / "home" / "run")


@pytest.mark.parametrize("told", ["\x1b[31mred\x1b[0m", "two\nlines\r", "\u202egnirts", "n" * 5000])
def test_a_complaint_is_one_line_that_no_terminal_obeys(told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: list[str]) -> None:
        raise UsageError(f"{told}; here is how to fix it")

    err = complaint(capsys, command)
    assert err[:-1].isprintable()
    assert len(err) < 2100
    assert err.endswith("; here is how to fix it\n")


@pytest.mark.parametrize(
    ("command", "flags", "called"),
    [
        (train_search.command, SEARCH, "nas.search.Supernet"),
        (train_eval.command, TRAIN, "nas.networks.architecture.Network"),
        (train_eval.command, TRAIN, "nas.evaluate.count_macs"),
    ],
    ids=["search", "network", "cost"],
)
def test_a_fault_of_ours_is_not_told_as_the_users(
    command: Command, flags: tuple[str, ...], called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(called, broken)
    with pytest.raises(ValueError, match="a fault of ours") as fault:
        cli.run(command, [*flags, "--epochs", "1", "--run-dir", str(tmp_path / "run")])
    assert not isinstance(fault.value, UsageError)


@pytest.mark.parametrize(
    "started",
    ["python train_search.py", "python train_eval.py", "python genotype_tool.py", "optinas-eval", "optinas-auto"],
)
def test_ctrl_c_is_quiet_while_a_program_still_imports(started: str) -> None:
    """Here it comes when tyro is imported, which is before PyTorch."""
    *_, name = started.split()
    modules = {"optinas-eval": "train_eval", "optinas-auto": "nas.auto.__main__"}
    run = (
        f"import {modules[name]}" if name in modules else f"import runpy; runpy.run_path({name!r}, run_name='__main__')"
    )
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
class Interrupting:
    def find_spec(self, name, *_):
        if name == "tyro":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.path.insert(0, {str(ROOT)!r})
sys.argv = [{name!r}, "--no-such-flag"]
{run}
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_resuming_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*SEARCH, "--run-dir", str(tmp_path / "run"), "--resume")
    assert "holds no run" in complaint(capsys, train_search.command, *flags)
    assert not (tmp_path / "run").exists()


def test_a_search_run_is_no_training_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    train_search.command([*SEARCH, *OPERATIONS, "--epochs", "1", "--run-dir", str(run)])
    capsys.readouterr()
    assert "not the directory of a training run" in complaint(capsys, train_eval.command, "--evaluate", str(run))


# --- output -----------------------------------------------------------------------------------------------


def test_the_last_line_is_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = (*SEARCH, *OPERATIONS, "--epochs", "1", "--run-dir", str(tmp_path / "search"))
    assert call(train_search.command, *search) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"run_dir", "genotype", "space", "seconds", "valid_accuracy"} <= set(result)
    assert call(train_eval.command, *TRAIN, "--epochs", "1", "--run-dir", str(tmp_path / "eval")) == 0
    *_, header, _, row, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    keys = {"run_dir", "test_accuracy", "test_error", "params", "macs", "seconds", "epochs"}
    assert keys <= set(result)
    for word in ("space", "parameters", "multiply-adds", "search seconds", "test accuracy"):
        assert word in header
    assert f"{result['params']:,}" in row


def test_a_loss_that_is_not_finite_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (*TRAIN, "--learning-rate", "1e30", "--epochs", "3", "--run-dir", str(tmp_path / "run"))
    assert call(train_eval.command, *flags) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "the loss is" in err


def unboxed(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_help_is_short_and_help_all_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (train_search.command, train_eval.command):
        call(command, "--epochs", "3", "--help")
        raw = capsys.readouterr().out
        assert "\n\n\n" not in raw
        short = unboxed(raw)
        assert "--image-size INT Resize images" in short  # None is no value to type
        call(command, "--help-all")
        whole = unboxed(capsys.readouterr().out)
        assert len(short) < 0.7 * len(whole)
        for name in ("--epochs", "--dataset", "--help-all", "--version", "data options", "May differ with --resume."):
            assert name in short
        for name in ("--momentum", "--fake-train", "(default: yes, except for digits)"):
            assert name not in short
            assert name in whole


def test_the_version_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(genotype_tool.command, "--version") == 0
    assert capsys.readouterr().out == f"optinas {nas.__version__}, torch {version('torch')}\n"


def test_help_shows_the_presets_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    call(train_eval.command, "--dataset", "imagenet", "--help")
    assert "(default: 250)" in capsys.readouterr().out


# --- the genotype tool ------------------------------------------------------------------------------------


def test_show_costs_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(genotype_tool.command, "show", "DARTS_V2", "--cost", "cifar", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["params"], shown["macs"], shown["params_with_auxiliary"]) == (3_349_342, 528_359_040, 3_825_768)
    call(genotype_tool.command, "show", "DARTS_V2", "--cost", "cifar", "--classes", "100", "--json")
    # 90 more classes on 576 features and a bias.
    assert json.loads(capsys.readouterr().out)["params"] == 3_349_342 + 90 * 577
    call(genotype_tool.command, "show", "DARTS_V2", "--cost", "imagenet", "--json")
    assert json.loads(capsys.readouterr().out)["params"] == 4_718_752


def test_show_refuses_no_classes(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("show", "DARTS_V2", "--cost", "cifar", "--classes", "0")
    assert "--classes is 0" in complaint(capsys, genotype_tool.command, *flags)


@pytest.mark.parametrize("name", ZOO)
def test_convert_there_and_back(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(genotype_tool.command, "convert", name, "--to", "text")
    (tmp_path / "g.txt").write_text(capsys.readouterr().out)
    call(genotype_tool.command, "convert", str(tmp_path / "g.txt"), "--to", "json")
    (tmp_path / "g.json").write_text(capsys.readouterr().out)
    assert genotypes.load(tmp_path / "g.json") == ZOO[name].genotype
    assert call(genotype_tool.command, "check", str(tmp_path / "g.json")) == 0


def test_list_names_every_published_genotype(capsys: pytest.CaptureFixture[str]) -> None:
    call(genotype_tool.command, "list")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(ZOO)
    call(genotype_tool.command, "list", "--json")
    assert set(json.loads(capsys.readouterr().out)) == set(ZOO)


@pytest.mark.parametrize("form", ["svg", "png", "pdf", "dot"])
def test_draw(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(genotype_tool.command, "draw", "NASNet", "--out", str(tmp_path), "--format", form) == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    assert pictures == [str(tmp_path / f"{kind}.{form}") for kind in ("normal", "reduce")]
    assert all(Path(path).stat().st_size > 500 for path in pictures)


def test_draw_takes_a_title_and_a_width(tmp_path: Path) -> None:
    for flags, title in (((), "NASNet"), (("--title", "Own"), "Own"), (("--no-title",), None)):
        call(genotype_tool.command, "draw", "NASNet", "--out", str(tmp_path), "--width", "84", *flags)
        for kind, name in (("normal", "normal cell"), ("reduce", "reduction cell")):
            svg = (tmp_path / f"{kind}.svg").read_text()
            assert 'width="238.110' in svg
            assert (f">{title}, {name}</text>" in svg) if title else (name not in svg)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--width", "0"), "--width is 0; it must be more than 0 and at most 2000"),
        (("--width", "nan"), "--width is nan; it must be"),
        (("--width", "10"), "cannot be drawn 10 mm wide with letters of 6 points; choose a larger width"),
        (("--width", "84", "--format", "dot"), "--width is for pictures"),
        (("--title", "a", "--no-title"), "--title and --no-title exclude each other"),
    ],
)
def test_draw_refuses(flags: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in complaint(capsys, genotype_tool.command, "draw", "NASNet", "--out", str(tmp_path), *flags)
    assert not list(tmp_path.iterdir())


def test_draw_refuses_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("draw", "NASNet", "--out", str(tmp_path / "no"))
    assert "is not a directory" in complaint(capsys, genotype_tool.command, *flags)
