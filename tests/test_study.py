"""Studies: what their files may say, their cells, and that one that was stopped or has failed goes on."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import genotypes
from nas import cli, data
from nas.errors import UsageError
from nas.genotype_commands import Random
from nas.options import leaves
from nas.runs import record
from nas.study import cells, local, page, slurm, table
from nas.study.__main__ import command
from nas.study.plan import Cell
from nas.study.planning import read

ROOT = Path(__file__).resolve().parent.parent

HEAD = """
title = "Small"
[data]
dataset = "fake"
fake-train = 24
fake_test = 10
image_size = 8
batch_size = 8
fake_classes = 3
[search]
epochs = 1
layers = 2
init-channels = 2
nodes = 2
[train]
epochs = 1
layers = 2
init_channels = 4
"""
RANDOM = '[[row]]\nname = "random, Space-HB"\nrandom = { space = "hb", nodes = 2 }\nseeds = 2\n'
SEARCHED = '[[row]]\nname = "Space-HB"\nsearch = { space = "hb" }\n'
HANDMADE = '[[row]]\nname = "HB-Net"\narch = "hbnet8"\n'


def write(folder: Path, *rows: str, head: str = HEAD) -> Path:
    path = folder / "study.toml"
    path.write_text(head + "".join(rows), encoding="utf-8")
    return path


def run(folder: Path, *flags: str) -> dict[str, Any]:
    return command([str(folder / "study.toml"), "--out", str(folder / "out"), "--device", "cpu", *flags])


def result(folder: Path) -> table.Table:
    return table.read(folder / "out" / "table.json")


def figures(found: table.Table) -> Any:
    """What must be the same however a study was computed: all but seconds and commands."""
    rows = [
        msgspec.structs.replace(
            row,
            search_seconds=None,
            train_seconds=None,
            cells=[msgspec.structs.replace(cell, search_seconds=None, train_seconds=0.0) for cell in row.cells],
        )
        for row in found.rows
    ]
    return found.title, found.settings, rows


def compute_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells are computed in this process, and the page has a title alone; returns the cells' paths as they begin."""
    begun = []
    monkeypatch.setattr(page, "of_study", lambda found: found.title)

    def one_after_another(pending: Sequence[Cell], root: Path, where: Sequence[local.Place]) -> Any:
        for cell in pending:
            begun.append(str(cell.path))
            try:
                cells.compute(cell, root, where[0].device)
            except ValueError as error:
                cells.fail(cell, root, str(error))
            yield local.Ended(cell, cells.failure(cell, root))

    monkeypatch.setattr(local, "run", one_after_another)
    return begun


def test_a_study_is_runs_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    begun = compute_here(monkeypatch)
    write(tmp_path, SEARCHED, RANDOM, HANDMADE)
    done = run(tmp_path)
    assert (done["planned"], done["done"], done["failed"]) == (4, 4, 0)
    # The first seeds of all rows come first.
    assert begun == [f"cells/{name}" for name in ("space-hb/0", "random-space-hb/0", "hb-net/0", "random-space-hb/1")]
    rows = {row.name: row for row in result(tmp_path).rows}
    assert [row.n for row in rows.values()] == [1, 2, 1]
    assert (rows["Space-HB"].baseline, rows["HB-Net"].baseline) == ("random, Space-HB", None)
    # Each cell is what the commands make of the same flags.
    for row in rows.values():
        for cell in row.cells:
            trained = record.read(tmp_path / "out" / cell.directory / "train")
            assert isinstance(trained, record.TrainRecord)
            assert (trained.seed, trained.result.test_error) == (cell.seed, cell.test_error)
            assert trained.settings["test_at_end"] is True
            assert (trained.search is not None) == (row.kind == "search") == (cell.search_seconds is not None)
    drawn = Random(space="hb", nodes=2).drawn(range(2))
    assert [cell.genotype for cell in rows["random, Space-HB"].cells] == [
        genotypes.to_text(found.genotype) for found in drawn.values()
    ]
    assert rows["HB-Net"].cells[0].genotype == "hbnet8"
    # Once more: nothing is left to compute.
    before = (tmp_path / "out" / "table.md").read_bytes()
    begun.clear()
    run(tmp_path)
    assert begun == []
    assert (tmp_path / "out" / "table.md").read_bytes() == before
    with (tmp_path / "out" / "table.csv").open(newline="", encoding="utf-8") as file:
        assert [line["row"] for line in csv.DictReader(file)] == [
            "Space-HB", "random, Space-HB", "random, Space-HB", "HB-Net",
        ]  # fmt: skip
    assert (tmp_path / "out" / "report.html").read_text() == result(tmp_path).title
    assert "random, Space-HB & 2 &" in (tmp_path / "out" / "table.tex").read_text()


def test_processes_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at a time; a cell that fails is named, the others go on, and it is tried again."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, RANDOM, HANDMADE)
    broken = tmp_path / "there" / "out" / "cells" / "random-space-hb" / "0" / "train"
    broken.mkdir(parents=True)
    (broken / "something").write_text("in the way")
    with pytest.raises(SystemExit, match="1"):
        run(tmp_path / "there", "--jobs", "2")
    failed = result(tmp_path / "there").rows[0].failed
    assert [cell.seed for cell in failed] == [0]
    assert "is not empty" in failed[0].why
    assert "seed 0, failed:" in (tmp_path / "there" / "out" / "table.md").read_text()
    (broken / "something").unlink()
    assert run(tmp_path / "there")["failed"] == 0
    compute_here(monkeypatch)
    run(tmp_path / "here")
    assert figures(result(tmp_path / "there")) == figures(result(tmp_path / "here"))


@pytest.mark.slow
@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM"])
def test_a_study_that_was_killed_goes_on(number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, SEARCHED, RANDOM, HANDMADE)
    program = [sys.executable, "-m", "nas.study", str(tmp_path / "killed" / "study.toml"), "--device", "cpu"]
    command = [*program, "--out", str(tmp_path / "killed" / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as begun:
        assert begun.stdout is not None
        for line in begun.stdout:
            if line.startswith("1 of 4"):
                break
        os.kill(begun.pid, getattr(signal, number))
        told = begun.stdout.read()  # until the last process that may write to it has ended
        assert ("stopped by SIGTERM; the same command goes on from here" in told) == (number == "SIGTERM")
        assert begun.wait() == (-9 if number == "SIGKILL" else 143)
    for path in (tmp_path / "killed" / "out" / "cells").rglob(".lock"):  # a cell that saves itself is waited for
        wait_until_free(path)
    compute_here(monkeypatch)
    run(tmp_path / "whole")
    run(tmp_path / "killed")
    monkeypatch.setattr(data, "load", None)  # nothing is left for which images would be loaded
    run(tmp_path / "killed")
    assert figures(result(tmp_path / "killed")) == figures(result(tmp_path / "whole"))


def wait_until_free(path: Path) -> None:
    import filelock

    with filelock.FileLock(path):
        return


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")  # its open files
def test_a_module_that_the_user_has_named_is_imported(tmp_path: Path) -> None:
    row = SEARCHED.replace('"hb"', '"spaces.hb:HBSpace"')
    (cell,) = read(write(tmp_path, row), {}, modules=("spaces.hb",)).cells
    assert cell.search is not None
    assert cell.search.space.space == "spaces.hb:HBSpace"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # those of submitit's stand-in
def test_jobs_of_a_cluster_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By submitit's stand-in for Slurm, which runs a job in this process."""
    pytest.importorskip("submitit")
    path = write(tmp_path, HANDMADE)
    pending = read(path, {}).cells
    ended = list(slurm.run(pending, tmp_path / "out", jobs=None, device="cpu", cluster="debug"))
    assert [(end.cell, end.failure) for end in ended] == [(pending[0], None)]
    assert cells.finished(pending[0], tmp_path / "out") is not None
    task = slurm.Task(tmp_path, "cpu")
    again = task.checkpoint(pending[0])
    assert (again.function, again.args) == (task, (pending[0],))
    for option in ("partition", "=x", "a="):
        with pytest.raises(ValueError, match="write name=value"):
            slurm.run(pending, tmp_path, jobs=1, device="cpu", options=(option,), cluster="debug")
    gc.collect()  # while the warning is ignored


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        ('[[row]]\nname = "a"\n', HEAD, "row 'a': it has neither search nor random nor arch"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\nrandom = {}\n', HEAD, "row 'a': it has random and arch"),
        ('[[row]]\nname = "a"\nsearch = { spce = "hb" }\n', HEAD, "search has no flag 'spce'; did you mean 'space'"),
        ('[[row]]\nname = "a"\nsearch = { space = "hbb" }\n', HEAD, "row 'a': .*hbb"),
        ('[[row]]\nname = "a"\nsearch = { seed = 3 }\n', HEAD, "search sets seed, which the study itself decides"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\ntrain = { layers = 3 }\n', HEAD, "--layers is for networks of cells"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\ntrain = { epochs = "3" }\n', HEAD, "--epochs is '3'"),
        ('[[row]]\nname = "a"\narch = "nowhere"\n', HEAD, "row 'a': .*nowhere"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\nseeds = [1, 1]\n', HEAD, "its seeds repeat"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\nseeds = 0\n', HEAD, "not the file of a study: .*>= 1"),
        ('[[row]]\nname = "a"\narch = "hbnet8"\nbaseline = "b"\n', HEAD, "its baseline 'b' is not a row"),
        ('[[row]]\nname = "a"\nrandom = {}\nbaseline = "a"\n', HEAD, "its own baseline"),
        (
            '[[row]]\nname = "随机"\nrandom = {}\n[[row]]\nname = "搜索"\nrandom = {}\n',
            HEAD,
            "of row '随机', 'row'; rename",
        ),
        ('[[row]]\nname = "a\\nb"\narch = "hbnet8"\n', HEAD, "not the file of a study: .*row.0..name"),
        ('[[row]]\nname = "a"\nsearch = { preset = ["smoke"] }\n', HEAD, "unknown preset"),
        ('[[row]]\nname = "a"\nrandom = { nodes = ' + "[" * 3000 + "]" * 3000 + " }\n", HEAD, "nested too deeply"),
        ('[[row]]\nname = "a"\narch = "' + "x" * 5000 + '"\n', HEAD, "row 'a': .*no such file"),
        ('[[row]]\nname = "a"\nsearch = { "init-gap" = 1.0, init_gap = 2.0 }\n', HEAD, "init-gap is set twice"),
        (
            '[[row]]\nname = "a!"\narch = "hbnet8"\n[[row]]\nname = "A"\narch = "hbnet8"\n',
            HEAD,
            "row 'A': its folder would be",
        ),
        ('[[row]]\nname = "a"\narc = "hbnet8"\n', HEAD, "unknown field `arc`"),
        (
            '[[row]]\nname = "a"\nsearch = { space = "os:path" }\n',
            HEAD,
            "row 'a': it names the module 'os', .*name it with --operations-from os",
        ),
        ('[[row]]\nname = "a"\nrandom = { space = "os:path" }\n', HEAD, "row 'a': it names the module 'os'"),
        ('[[row]]\nname = "a"\nevery = { space = "os:path" }\n', HEAD, "row 'a': it names the module 'os'"),
        ('[[row]]\nname = "a"\nsearch = { method = "os:path" }\n', HEAD, "row 'a': it names the module 'os'"),
        ('[[row]]\nname = "a"\narch = "x"\ntrain = { operations-from = ["os"] }\n', HEAD, "it names the module 'os'"),
        (RANDOM, HEAD.replace("[search]", '[search]\noperations-from = ["os"]'), "it names the module 'os'"),
        ('[[row]]\nname = "a"\nsearch = { preset = "papre" }\n', HEAD, "unknown preset 'papre'"),
        ('[[row]]\nname = "a"\nsearch = { method = "ista", init = "hb", space = "hb" }\n', HEAD, "--method ista"),
        (
            '[[row]]\nname = "a"\nsearch = { method = "gdas", samples = 3 }\n',
            HEAD,
            "row 'a': search sets samples, which is for the method random-ws, and this row's is gdas; leave it out",
        ),
        (SEARCHED, HEAD.replace("[search]", "[search]\nkl_weight = 0.5"), "row 'Space-HB': .* for the method drnas"),
        ('[[row]]\nname = "a"\nrandom = { max_params = 10 }\n', HEAD, "row 'a': .*10"),
        ("", HEAD, "required field `row`"),
        ("[[row", HEAD, "not the file of a study"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_before_anything_begins(
    rows: str, head: str, message: str, tmp_path: Path
) -> None:
    write(tmp_path, rows, head=head)
    with pytest.raises(UsageError, match=message) as error:
        run(tmp_path)
    assert "study.toml" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_each_row_takes_the_shared_flags_of_its_own_method(tmp_path: Path) -> None:
    head = HEAD.replace("[search]", '[search]\nmethod = "gdas"\ntemperature = 7.0\n"kl-weight" = 0.5')
    others = ('method = "snas", temperature = 8.0', 'method = "drnas"', 'method = "darts"', "")
    rows = [f'[[row]]\nname = "{number}"\nsearch = {{ {flags} }}\n' for number, flags in enumerate(others)]
    taken = [leaves(cell.search.method) for cell in read(write(tmp_path, *rows, head=head), {}).cells if cell.search]
    assert [(own.get("temperature"), own.get("kl_weight")) for own in taken] == [
        (8.0, None),
        (None, 0.5),
        (None, None),
        (7.0, None),
    ]


def test_commands_refuse_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, HANDMADE)
    for argv in (
        [str(tmp_path / "nowhere.toml"), "--out", str(tmp_path / "out")],
        [str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"), "--dataset", "nothing"],
        [str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"), "--device", "cuda:77"],
        [str(tmp_path / "study.toml")],
    ):
        with pytest.raises(SystemExit) as end:
            cli.run(command, argv)
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_folder_of_a_study_holds_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, HANDMADE)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for out, message in (("study.toml", "cannot be written"), (".", "is not empty and holds no study")):
        with pytest.raises(SystemExit) as end:
            cli.run(command, [str(tmp_path / "study.toml"), "--out", str(tmp_path / out), "--device", "cpu"])
        assert end.value.code == 2
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_all_rows_have_the_same_images(tmp_path: Path) -> None:
    write(tmp_path, HANDMADE, '[[row]]\nname = "fewer"\narch = "hbnet8"\ntrain = { test_images = 5 }\n')
    with pytest.raises(UsageError, match="row 'fewer' trains or tests with other images than row 'HB-Net'"):
        run(tmp_path)
    write(tmp_path, HANDMADE, '[[row]]\nname = "b"\nsearch = { train_images = 999 }\n')
    with pytest.raises(UsageError, match="--train-images is 999"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_process_that_fails_without_a_word_has_failed(tmp_path: Path) -> None:
    """As after an error that no command expects, with which Python ends with exit code 1."""

    class Process:
        exitcode = 1

    cell = read(write(tmp_path, HANDMADE), {}).cells[0]
    process: Any = Process()
    assert "output.txt" in (local._why(process, cell, tmp_path) or "")
    assert "output.txt" in (cells.failure(cell, tmp_path) or "")


def test_a_study_may_gain_and_lose_rows_and_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = compute_here(monkeypatch)
    write(tmp_path, HANDMADE)
    run(tmp_path)
    write(tmp_path, RANDOM.replace("seeds = 2", "seeds = [4]"), HANDMADE + "seeds = 2\n")
    run(tmp_path)
    write(tmp_path, HANDMADE + "seeds = [1]\n")
    run(tmp_path)
    assert begun == ["cells/hb-net/0", "cells/random-space-hb/4", "cells/hb-net/1"]
    assert [(row.name, [cell.seed for cell in row.cells]) for row in result(tmp_path).rows] == [("HB-Net", [1])]


def test_names_stand_in_every_table_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_here(monkeypatch)
    write(tmp_path, "[[row]]\nname = 'a|b\\c <i> *d* e_f _g_ & 5% $x$'\narch = 'hbnet8'\n")
    (tmp_path / "out" / "cells" / "a-b-c-i-d-e-f-g-5-x" / "0" / "train").mkdir(parents=True)
    run(tmp_path)
    out = tmp_path / "out"
    assert "| a\\|b\\\\c \\<i> \\*d\\* e_f \\_g\\_ & 5% $x$ | 1 |" in (out / "table.md").read_text()
    assert "a|b\\textbackslash{}c <i> *d* e\\_f \\_g\\_ \\& 5\\% \\$x\\$ & 1 &" in (out / "table.tex").read_text()


def test_a_baseline_is_of_the_same_space(tmp_path: Path) -> None:
    """Not of the same name alone: a genotype of one can be derived from the other."""
    convolutions = [f"{kind}_conv_{size}x{size}" for kind in ("sep", "dil") for size in (3, 5)]
    darts = ["max_pool_3x3", "avg_pool_3x3", "skip_connect", *convolutions]
    larger = '[[row]]\nname = "four nodes"\nrandom = { space = "hb" }\n'
    renamed = f'[[row]]\nname = "PC"\nsearch = {{ space = "agd", operations = {["none", *darts]} }}\n'
    same = '[[row]]\nname = "random, DARTS"\nrandom = { space = "darts", nodes = 2 }\n'
    rows = {row.name: row for row in read(write(tmp_path, SEARCHED, larger, renamed, same), {}).rows}
    assert rows["Space-HB"].baseline is None
    assert rows["PC"].baseline == "random, DARTS"


def test_a_cell_of_other_settings_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_here(monkeypatch)
    write(tmp_path, HANDMADE)
    run(tmp_path)
    kept = (tmp_path / "out" / "table.json").read_bytes()
    write(tmp_path, HANDMADE, head=HEAD.replace("epochs = 1\nlayers = 2\ninit_channels", "epochs = 2\ninit_channels"))
    with pytest.raises(UsageError, match=r"hb-net/0 was begun with other settings: --epochs was 1, is 2"):
        run(tmp_path)
    assert (tmp_path / "out" / "table.json").read_bytes() == kept


def test_cells_that_learned_from_other_images_share_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_here(monkeypatch)
    write(tmp_path, RANDOM)
    run(tmp_path)
    path = tmp_path / "out" / "cells" / "random-space-hb" / "1" / "train" / record.NAME
    content = json.loads(path.read_text())
    content["data"]["train"]["digest"] = "0" * len(content["data"]["train"]["digest"])
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"random-space-hb/1 learned from other images than .*random-space-hb/0"):
        run(tmp_path)


def test_files_are_named_from_the_folder_of_the_study(tmp_path: Path) -> None:
    genotype = Random(space="hb").drawn([0])[0].genotype
    genotypes.save(genotype, tmp_path / "my own.json")
    (tmp_path / "genotypes.py").write_text(f"mine = {genotypes.to_text(genotype)}\n")
    for name in ("my own.json", "genotypes.py:mine"):
        (cell,) = read(write(tmp_path, f'[[row]]\nname = "a"\narch = "{name}"\n'), {}).cells
        assert cell.genotype is not None
        assert (cell.genotype.normal, cell.genotype.reduce) == (genotype.normal, genotype.reduce)
    (tmp_path / "hbnet8").mkdir()  # the names of architectures come first
    assert read(write(tmp_path, HANDMADE), {}).cells[0].train.arch == "hbnet8"


def test_a_random_architecture_with_a_seed_is_the_same_in_each_cell(tmp_path: Path) -> None:
    one = '[[row]]\nname = "one"\nrandom = { space = "hb", nodes = 2, seed = 1 }\nseeds = [1, 5]\n'
    plan = read(write(tmp_path, SEARCHED, RANDOM, one), {})
    searched, several, same = plan.rows
    assert [cell.genotype for cell in same.cells] == [several.cells[1].genotype] * 2
    assert [cell.train.seed for cell in same.cells] == [1, 5]
    assert several.cells[0].genotype != several.cells[1].genotype
    assert searched.baseline == several.name  # one architecture is no sample of the space


def test_another_data_set_brings_its_own_images(tmp_path: Path) -> None:
    path = write(tmp_path, SEARCHED)
    assert read(path, {}).cells[0].train.data.fake_train == 24
    (cell,) = read(path, {"dataset": "digits"}).cells
    assert cell.search is not None
    assert cell.search.data.dataset == "digits"
    assert (cell.train.data.dataset, cell.train.data.image_size) == ("digits", 8)
    write(tmp_path, SEARCHED, head=HEAD.replace('"fake"', '"folder"\ndata = "here"'))
    assert [read(path, more).cells[0].train.data.data for more in ({}, {"dataset": "cifar10"})] == ["here", None]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_that_ships_is_right(path: Path) -> None:
    plan = read(path, {})
    assert plan.cells
    assert len({cell.path for cell in plan.cells}) == len(plan.cells)
    assert all(row.baseline or row.look_up for row in plan.rows if row.kind == "search")


@pytest.mark.slow
def test_two_cells_of_the_digits(tmp_path: Path) -> None:
    """A search and a random architecture of the study that ships, for fewer epochs."""
    text = (ROOT / "studies" / "digits.toml").read_text()
    head, *rows = text.replace("seeds = 2\n", "seeds = 1\n").replace("seeds = 4\n", "").split("[[row]]")
    for part, epochs in (("search", 1), ("train", 4)):
        head = head.replace(f'[{part}]\npreset = "smoke"', f'[{part}]\npreset = "smoke"\nepochs = {epochs}')
    chosen = [row for row in rows if "Space-HB" in row]
    assert len(chosen) == 2
    (tmp_path / "study.toml").write_text("[[row]]".join([head, *chosen]))
    done = run(tmp_path, "--jobs", "2")
    assert (done["done"], done["failed"]) == (2, 0)
    searched, drawn = result(tmp_path).rows
    assert searched.baseline == drawn.name
    assert searched.search_seconds is not None
    for row in (searched, drawn):
        assert row.test_error is not None
        assert row.test_error.mean < 80  # ten classes


def test_a_row_of_a_library_has_its_own_protocol_and_takes_no_options_of_cells(tmp_path: Path) -> None:
    row = '[[row]]\nname = "ResNet-18"\narch = "torchvision:resnet18"\ntrain = { preset = "small" }\n'
    (cell,) = read(write(tmp_path, row), {}).cells
    assert (cell.train.arch, cell.genotype) == ("torchvision:resnet18", None)
    assert (cell.train.training.schedule, cell.train.epochs) == ("step", 1)  # of the row's preset; of the file
    with pytest.raises(ValueError, match="row 'a': torchvision has no classification network 'resnet19'"):
        read(write(tmp_path, '[[row]]\nname = "a"\narch = "torchvision:resnet19"\n'), {})
