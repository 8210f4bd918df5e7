"""`optinas-predict`: the classes of image files, whatever they are called, and those that cannot be read."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nas import cli, predict
from nas.data import DataError, View
from nas.networks import weights
from nas.networks.architecture import HandmadeArchitecture
from nas.networks.handmade import HandmadeConfig

#: The last could steer a terminal, and takes two lines.
CLASSES = ("cat", "dog", "ant", 'a\nb\x1b[31m, "c"')


def save(path: Path, *, channels: int = 3) -> None:
    """The weights of a network that was not trained."""
    images: Any = SimpleNamespace(
        channels=channels,
        image_size=(8, 8),
        view=View(channels, (8, 8)),
        classes=CLASSES,
        mean=torch.full((channels,), 100.0),
        std=torch.full((channels,), 50.0),
    )
    architecture = HandmadeArchitecture(name="resnet8", config=HandmadeConfig())
    torch.manual_seed(0)
    network = architecture.build(in_channels=channels, image_size=(8, 8), num_classes=len(CLASSES))
    weights.save(path / weights.NAME, network, architecture, images)


def write(path: bytes, seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG")
    return os.fsdecode(path)


NAMES = (b"-a.png", b"b\nc.png", b"caf\xe9.png", b"d  e.png", b"g\x1b[2J.png", b'h,"i.png', "j\u202fk.png".encode())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `run`, and `images` of all names, one of them in a folder of its own, beside other files."""
    root = tmp_path_factory.mktemp("place")
    (root / "run").mkdir()
    save(root / "run")
    folder = os.fsencode(root / "images")
    os.makedirs(folder + b"/f.png")
    for seed, name in enumerate((*NAMES, b"f.png/f.JPG")):
        write(folder + b"/" + name, seed)
    (root / "images" / "notes.txt").touch()
    (root / "images" / ".hidden.png").touch()
    return root


@pytest.fixture(autouse=True)
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


PATHS = sorted(os.fsdecode(b"images/" + name) for name in (*NAMES, b"f.png/f.JPG"))


def call(*argv: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as end:
        cli.run(predict.command, ["run", *argv, "--device", "cpu"])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_predictions_are_those_of_the_network(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = weights.load("run").predict(PATHS)
    assert call("images", "images", "--json", "--top", "99") == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    assert json.loads(line)["unreadable"] == []
    found = json.loads(line)["predictions"]
    assert [row["path"] for row in found] == [path.replace("\udce9", "\\xe9") for path in PATHS]
    for row, prediction in zip(found, expected, strict=True):
        assert {c["class"]: c["probability"] for c in row["top"]} == dict(
            zip(CLASSES, prediction.probabilities, strict=True)
        )
        assert row["top"][0]["class"] == prediction.name
        assert [c["probability"] for c in row["top"]] == sorted(prediction.probabilities, reverse=True)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 99])
def test_batches_of_any_size_give_the_same(size: int) -> None:
    """Those of the same size to the last bit, also where files in between cannot be read."""
    trained = weights.load(Path("run", weights.NAME))
    paths = [path for name in PATHS for path in ("nowhere.png", name)]
    outcomes = list(predict.predict(trained, paths, batch_size=size))
    assert [path for path, outcome in outcomes if isinstance(outcome, DataError)] == ["nowhere.png"] * len(PATHS)
    predicted = [(path, outcome) for path, outcome in outcomes if not isinstance(outcome, DataError)]
    assert predicted == list(zip(PATHS, trained.predict(PATHS, batch_size=size), strict=True))
    for (_, outcome), alone in zip(predicted, trained.predict(PATHS, batch_size=1), strict=True):
        assert outcome.probabilities == pytest.approx(alone.probabilities, abs=1e-6)


def test_an_image_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("images", "--top", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PATHS)
    for name, line in zip((b"-a.png", "b\\nc.png", "caf\\xe9.png", "d  e.png"), lines, strict=False):
        assert line.startswith(f"images/{os.fsdecode(name)}: ")
    assert all(line.isprintable() and line.count(" %") == 4 for line in lines)


def test_a_csv_file_can_be_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.csv"
    assert call("images", "--csv", str(out), "--top", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    text = out.read_text(encoding="utf-8")
    assert len(text.splitlines()) == 1 + 2 * len(PATHS)
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["rank"] for row in rows] == ["1", "2"] * len(PATHS)
    told = [c for image in found for c in image["top"]]
    assert [(float(row["probability"]), row["class"]) for row in rows] == [
        (c["probability"], c["class"].replace("\n", "\\n").replace("\x1b", "\\x1b")) for c in told
    ]
    readable = [row["path"] for row in rows[::2] if os.path.exists(row["path"])]
    assert len(readable) == len(PATHS) - 3  # but for the line break, the escape and what is not UTF-8


def test_files_that_cannot_be_read_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "bro\nken.png"
    broken.write_text("no image")
    out = tmp_path / "out.csv"
    assert call(str(broken), PATHS[0], "nowhere.png", "--csv", str(out)) == 1
    printed, err = capsys.readouterr()
    assert printed == ""
    first, second = err.splitlines()
    assert first.startswith(f"left out: cannot read the image {tmp_path}/bro\\nken.png (its content is not an image")
    assert second.startswith("left out: cannot read the image nowhere.png (")
    assert {row["path"] for row in csv.DictReader(out.read_text().splitlines())} == {PATHS[0]}
    assert call("nowhere.png", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"predictions": [], "unreadable": ["nowhere.png"]}


def test_outputs_that_are_not_finite_are_no_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    trained = weights.load("run")
    for parameter in trained.network.parameters():
        torch.nn.init.constant_(parameter, 3e38)
    ((path, outcome),) = predict.predict(trained, PATHS[:1], batch_size=8)
    assert (path, str(outcome)) == (PATHS[0], f"the network's outputs for {PATHS[0]} are not finite")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["run"], "no images are named; name image files or folders of them"),
        (["run", "empty"], "there are no images in empty (left out: 1 .txt files, such as empty/notes.txt); name"),
        (["images", "images"], "images/weights.safetensors does not exist; a training run writes it"),
        (["nowhere", "images"], "nowhere does not exist"),
        (["images/notes.txt", "images"], "images/notes.txt is damaged or not a network of this toolkit"),
        (["five", "images"], "five was trained on images of 5 channels"),
        (["run", "images", "--top", "0"], "--top is 0; it must be at least 1"),
        (["run", "images", "--batch-size", "0"], "--batch-size is 0"),
        (["run", "images", "--device", "gpu"], "--device cpu always works"),
        (["run", "images", "--csv", "no/where.csv"], "no/where.csv is in a folder that does not exist"),
        (
            ["run", "images/-a.png", "--csv", "images"],
            "images cannot be written (Is a directory); choose another --csv",
        ),
        ([], "Directory of a training run"),
    ],
)
def test_what_is_refused(argv: list[str], told: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("empty", "five"):
        (place / name).mkdir(exist_ok=True)
    (place / "empty" / "notes.txt").touch()
    if argv[:1] == ["five"]:
        save(place / "five", channels=5)
    with pytest.raises(SystemExit) as end:
        cli.run(predict.command, argv)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert told in err


def test_a_name_that_begins_with_a_dash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir("images")
    for argv in (["./-a.png"], ["--", "-a.png"]):
        with pytest.raises(SystemExit) as end:
            cli.run(predict.command, ["../run", "--device", "cpu", *argv])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith(f"{argv[-1]}: ")
