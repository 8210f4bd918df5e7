"""The soak test in small, and that it sees what it is there to see."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch

import genotypes
from soak import fuzz, runs, seeds
from soak.cases import LONGEST_MESSAGE, Reference, generator, message_fault, one_line
from soak.damage import damaged
from soak.fuzz import Reader
from soak.mutate import mutated
from soak.processes import Ended


def genotype_reader(read: object = fuzz.read_genotype) -> Reader:
    seeds = (genotypes.to_json(genotypes.get("DARTS_V2").genotype).encode(),)
    return Reader("genotype-json", read, ValueError, seeds, "genotype.json")


def test_an_input_depends_on_its_name_and_the_seed_alone() -> None:
    reader = genotype_reader()
    first = [fuzz.inputs(reader, 0, number) for number in range(20)]
    assert first == [fuzz.inputs(reader, 0, number) for number in range(20)]
    assert first != [fuzz.inputs(reader, 1, number) for number in range(20)]
    assert len(set(first)) > 15


def test_images_of_every_format_are_mutated() -> None:
    found = seeds.images()
    assert {"png", "jpg", "bmp", "gif", "tif", "ppm", "tga"} <= found.keys()
    assert all(mutated(image, Random(3)) for images in found.values() for image in images)


def test_the_files_that_are_mutated_do_not_depend_on_where_and_when(tmp_path: Path) -> None:
    found = []
    for name, seconds in (("a", 1.25), ("longer", 12.5)):
        directory = seeds.run_of_nothing(tmp_path / name)
        result = {"run_dir": str(directory), "seconds": seconds, "search_seconds": seconds, "test_error": 200 / 3}
        (directory / "record.json").write_text(json.dumps({"result": result}, indent=2))
        files = ("config.json", "env.json", "metrics.csv", "record.json")
        found.append([(directory / "checkpoint.pt").read_bytes(), *(seeds.of_run(directory, file) for file in files)])
    assert found[0] == found[1]
    assert json.loads(found[0][-1])["result"] == {
        "run_dir": "runs/seed",
        "seconds": 1.5,
        "search_seconds": 1.5,
        "test_error": 66.66,
    }
    assert fuzz._words(b"b a,c\nb") == (b"a", b"b", b"c")


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> list[Reference]:
    """The runs whose files are mutated, of one epoch."""
    found = []
    for name in fuzz.JOBS:
        job, directory = runs.jobs()[name], tmp_path_factory.mktemp(name) / "run"
        job.command([*job.flags, "--epochs", "1", "--run-dir", str(directory)])
        found.append(Reference(job, directory, {}, [], directory, [], 0.0))
    return found


@pytest.mark.slow
def test_every_reader_takes_or_refuses_mutated_files(
    references: list[Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.runs.environment.describe", lambda device: {})  # which would ask git each time
    for reader in fuzz.readers(references):
        folder = tmp_path / reader.name
        shutil.copytree(reader.folder, folder) if reader.folder else folder.mkdir()
        for content in reader.seeds:
            assert fuzz.read(reader, content, folder) == ("valid", None), reader.name
        for number in range(200):
            outcome, wrong = fuzz.read(reader, fuzz.inputs(reader, 0, number), folder)
            assert wrong is None, f"fuzz/{reader.name}, input {number}: {outcome}: {wrong}"


@pytest.mark.slow
def test_runs_killed_at_two_file_operations_end_as_if_they_were_not(tmp_path: Path) -> None:
    """As the soak test does it, since only a process that has computed nothing can fork others that compute."""
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "soak", "--only", "kills/kill/train-hand-made/", "--cases", "2", "--out", str(out)]
    ended = subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, capture_output=True, text=True)
    report = json.loads(out.read_text())
    assert (report["cases"], report["killed"], report["found"]) == (2, 2, []), ended.stderr
    assert ended.returncode == 0


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("read", "outcome"),
    [
        (lambda path: path, "valid"),
        (lambda path: _raise(genotypes.GenotypeError(f"{path}: no")), "refused"),
        (lambda path: _raise(ValueError("no")), "message"),
        (lambda path: _raise(ValueError(f"{path}: \x1b[31m")), "message"),
        (lambda path: _raise(ValueError(f"{path}: " + 1000 * "x")), "message"),
        (lambda path: _raise(RecursionError("deep")), "traceback of RecursionError"),
    ],
)
def test_what_a_reader_does_is_told_apart(read: object, outcome: str, tmp_path: Path) -> None:
    assert fuzz.read(genotype_reader(read), b"{}", tmp_path)[0] == outcome


def test_an_input_is_shortened_as_long_as_it_shows_the_fault() -> None:
    assert fuzz.shortened(b"a" * 100 + b"!" + b"b" * 100, lambda content: b"!" in content) == b"!"


def test_damage_is_a_cut_or_one_bit() -> None:
    content = bytes(range(200))
    assert [len(damaged(content, number, Random(0))) for number in (0, 4, 8)] == [20, 100, 180]
    for number in range(9, 30):
        changed = damaged(content, number, generator(0, str(number)), within=50)
        places = [i for i, (a, b) in enumerate(zip(changed, content, strict=True)) if a != b]
        assert len(places) == 1
        assert places[0] < 50
        assert (changed[places[0]] ^ content[places[0]]).bit_count() == 1


@pytest.mark.parametrize(
    ("stderr", "fine"),
    [
        ("error: the disk is full\n", True),
        ("warning: no picture\nerror: the disk is full\n", True),
        ("", False),
        ("error: one\nerror: two\n", False),
        ("Traceback (most recent call last):\nOSError\n", False),
        ("error: \x1b[31m\n", False),
    ],
)
def test_one_line_of_error(stderr: str, fine: bool) -> None:
    assert (one_line(Ended(1, "", stderr, False)) is None) is fine


def test_a_message_is_bounded() -> None:
    assert message_fault("x" * LONGEST_MESSAGE) is None
    assert message_fault("x" * (LONGEST_MESSAGE + 1)) is not None


def test_a_digest_sees_one_bit() -> None:
    state = {"a": [torch.zeros(2), 1.0], "b": None}
    assert runs.digest(state) == runs.digest({"b": None, "a": [torch.zeros(2), 1.0]})
    for other in ([torch.tensor([0.0, -0.0]), 1.0], [torch.zeros(2), 1], [torch.zeros(2, dtype=torch.int32), 1.0]):
        assert runs.digest(state) != runs.digest({**state, "a": other})


def test_every_space_is_killed() -> None:
    assert {
        "search-darts",
        "search-hb",
        "search-agd",
        "search-s4",
        "search-darts-unrolled",
        "train",
    } <= runs.jobs().keys()
