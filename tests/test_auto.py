"""From a folder of images to a trained network in one command, which resumes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import nas.recipes
import nas.training_recipes
import optinas
from benchmarks import five_folder
from nas import latency_table, screen
from nas.auto import duration, speed, stages
from nas.auto.__main__ import command
from nas.auto.duration import told
from nas.auto.plan import HELD_OUT, LARGEST_SIDE, AutoConfig, planned
from nas.errors import UsageError
from nas.latency_table import LatencyTableConfig
from nas.methods.config import SearchConfig
from nas.networks import latency_table as latency_table_files
from nas.networks import weights
from nas.networks.cells import NetworkConfig
from nas.networks.cost import count_parameters
from nas.networks.latency_table import LatencyTable
from nas.runs import record
from nas.search import Search
from nas.supernet import SupernetConfig
from nas.train import TrainConfig
from spaces import SpaceConfig
from tests.tiny import assert_same

TINY: dict[str, Any] = {"epochs": 1, "search_epochs": 1, "device": "cpu"}
OPERATIONS = ("sep_conv_3x3", "skip_connect")


def make_images(folder: Path, *, classes: str = "ab", number: int = 8, size: tuple[int, int] = (8, 8)) -> Path:
    """Random grey images with a line of text beside them; the second class is brighter."""
    pixels = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            image = pixels.integers(100 * label, 100 * label + 100, size=size, dtype=np.uint8)
            Image.fromarray(image).save(folder / name / f"{i}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def tiny_search(dataset: str) -> SearchConfig:
    config = SMALL_SEARCH(dataset)
    space = SpaceConfig(space="darts", nodes=2, operations=OPERATIONS)
    return replace(config, space=space, supernet=SupernetConfig(layers=2, init_channels=2))


def tiny_training(dataset: str) -> TrainConfig:
    return replace(SMALL_TRAINING(dataset), network=NetworkConfig(layers=2, init_channels=4))


SMALL_SEARCH, SMALL_TRAINING = nas.recipes.PRESETS["small"], nas.training_recipes.PRESETS["small"]


def no_packages() -> None:
    raise ValueError("onnx is not installed")


@pytest.fixture(scope="module")
def tiny() -> Iterator[pytest.MonkeyPatch]:
    """Networks of two cells; export and report have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(nas.recipes.PRESETS, "small", tiny_search)
        patch.setitem(nas.training_recipes.PRESETS, "small", tiny_training)
        patch.setattr(stages, "check_packages", no_packages)
        patch.setattr("nas.latency.check_packages", no_packages)
        patch.setattr(stages, "write_report", lambda directory: (directory / "report.html").touch())
        yield patch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("auto") / "my_images")


@pytest.fixture(scope="module")
def whole(folder: Path, tiny: pytest.MonkeyPatch) -> tuple[stages.Made, list[str]]:
    """A finished run, and what it has shown."""
    lines: list[str] = []
    with screen.shown_by(lines.append):
        made = stages.auto(AutoConfig(folder=str(folder), out=str(folder.parent / "whole"), **TINY))
    return made, lines


def must_not_run(*_: object, **__: object) -> None:
    raise AssertionError("it has ended before")


def test_a_line_for_each_stage_and_a_table_at_the_end(
    folder: Path, whole: tuple[stages.Made, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made, lines = whole
    out = folder.parent / "whole"
    begins = (
        "found 16 images of 2 classes",
        "left out: 1 files",
        "about ",
        "searching: 1 epochs, about ",
        "training: ",
    )
    assert len(lines) == 6
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=False))
    assert lines[-1] == "no network.onnx: onnx is not installed; the same command tries again"
    assert (out / "log.txt").read_text().splitlines() == lines[:-1]
    assert (out / "search" / "report.html").exists()
    found = record.read(out / "train")
    assert (made.test_accuracy, made.params, made.macs) == (
        found.result.test_accuracy,
        found.result.params,
        found.result.macs,
    )

    with pytest.raises(ValueError, match=f"a training run writes it when it ends, such as {out / 'train'}$"):
        weights.load(out)

    # Nothing is computed again, not even how fast the network is; a moved directory has other paths.
    for stage in ("search", "train", "latency", "write_report"):
        monkeypatch.setattr(stages, stage, must_not_run)
    moved = out.rename(out.with_name("moved"))
    flags = ["--epochs", "1", "--search-epochs", "1", "--device", "cpu"]
    result = command([str(folder), "--out", str(moved), *flags])
    moved.rename(out)
    assert result["latency_ms"] == made.latency_ms
    assert result["weights"] == str(moved / "train" / weights.NAME)
    assert result["onnx"] is None
    shown = capsys.readouterr().out
    assert "multiply-adds" in shown
    assert f"predict: optinas-predict {moved / 'train'} photo.jpg" in shown


def test_installed_later_the_packages_of_onnx_are_used(
    folder: Path, whole: tuple[stages.Made, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "check_packages", lambda: None)
    monkeypatch.setattr("nas.evaluate.export", lambda trained, images, config: Path(config.onnx).touch())
    for stage in ("search", "train"):
        monkeypatch.setattr(stages, stage, must_not_run)
    out = Path(shutil.copytree(folder.parent / "whole", tmp_path / "out"))
    assert stages.auto(AutoConfig(folder=str(folder), out=str(out), **TINY)).onnx == str(out / "network.onnx")


def test_stopped_between_the_stages_the_same_command_gives_the_same_network(
    folder: Path, whole: tuple[stages.Made, list[str]], tmp_path: Path
) -> None:
    config = AutoConfig(folder=str(folder), out=str(tmp_path / "out"), **TINY)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch, screen.shown_by(lines.append):
        patch.setattr(stages, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.auto(config)
        assert lines[-1] == f"stopped; the same command continues in {tmp_path / 'out'}"
        patch.undo()
        patch.setattr(stages, "search", must_not_run)
        made = stages.auto(config)
    assert (made.test_accuracy, made.params) == (whole[0].test_accuracy, whole[0].params)
    own, other = (weights.load(made.weights).network.state_dict() for made in (made, whole[0]))
    assert_same(dict(own), dict(other))


def test_from_python(folder: Path, whole: tuple[stages.Made, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "search", must_not_run)
    made = optinas.auto(folder, folder.parent / "whole", **TINY)
    assert made.test_accuracy == whole[0].test_accuracy
    assert made.network.predict(folder / "a" / "0.png")[0].classes == ("a", "b")
    assert made.weights.exists()
    assert made.report.exists()
    assert optinas.evaluate(made).test_accuracy == made.test_accuracy
    with pytest.raises(TypeError, match="did you mean 'max_params'"):
        optinas.auto(folder, folder.parent / "whole", max_param=1)


def test_another_configuration_or_other_images_are_refused(
    folder: Path, whole: tuple[stages.Made, list[str]], tmp_path: Path
) -> None:
    config = AutoConfig(folder=str(folder), out=str(folder.parent / "whole"), **TINY)
    with pytest.raises(UsageError, match=r"--seed was 0, is 1; .* in another --out"):
        stages.auto(replace(config, seed=1))
    with pytest.raises(UsageError, match=r"--folder was .*my_images"):
        stages.auto(replace(config, folder=str(make_images(tmp_path / "others"))))
    more = folder / "a" / "more.png"
    more.write_bytes((folder / "a" / "1.png").read_bytes())
    with pytest.raises(UsageError, match="the images are not those that .* began with: .*; restore them, or choose"):
        stages.auto(config)
    more.unlink()


@pytest.mark.parametrize(
    ("options", "number", "message"),
    [
        ({"out": "my_images/out"}, 8, "lies among the images, of which it would become a class; choose another --out"),
        ({}, 1, "class 'a' has a single image"),
        ({}, 2, "class 'a' of my_images has 1 image to train on, but each class needs two or more"),
        ({"max_params": 10}, 8, "no genotype of this space has at most 10 parameters; the smallest possible has"),
        ({"folder": "nowhere"}, 8, "cannot read the folder nowhere"),
    ],
)
def test_what_cannot_work_is_told_in_one_line_before_anything_is_written(
    options: dict[str, Any], number: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_images(Path("my_images"), number=number)
    with pytest.raises(UsageError, match=message) as refused:
        stages.auto(AutoConfig(**{"folder": "my_images", **options}))
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["my_images"]


@pytest.mark.usefixtures("tiny")
def test_the_plan_suits_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = planned(AutoConfig(folder=str(make_images(tmp_path / "few"))))
    assert (few.images.channels, few.images.image_size) == (1, (8, 8))
    assert (few.search.epochs, few.train.epochs) == (50, 300)
    assert few.search.data.batch_size == len(few.images.train_labels) // 2
    assert few.train.network == tiny_training("folder").network
    short = planned(AutoConfig(folder=str(tmp_path / "few"), epochs=20))
    assert (few.train.training.ema_decay, short.train.training.ema_decay) == (0.99, 1 - 5 / 40)

    large = planned(AutoConfig(folder=str(make_images(tmp_path / "large", number=40, size=(100, 60))), flip=False))
    assert large.images.image_size == (LARGEST_SIDE, LARGEST_SIDE)
    assert (few.train.hold_out, large.train.hold_out) == (0.0, HELD_OUT)
    assert (large.search.data.flip, large.train.data.flip) == (False, False)
    # A step takes a second: what is held out is not trained on, and a test takes a third.
    monkeypatch.setattr(duration, "_seconds", lambda step: 1.0)
    kept, tested = len(large.images.hold_out(HELD_OUT)[0]), len(large.images.test_labels)
    steps = [-(-number // large.train.data.batch_size) for number in (kept, tested)]
    expected = large.train.epochs * (steps[0] + steps[1] / 3)
    assert duration.typical_seconds(large, torch.device("cpu")) == pytest.approx(expected)


def test_a_limit_makes_the_network_narrower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nas.recipes.PRESETS, "small", SMALL_SEARCH)
    monkeypatch.setitem(nas.training_recipes.PRESETS, "small", SMALL_TRAINING)
    folder = make_images(tmp_path / "my_images")
    plan = planned(AutoConfig(folder=str(folder), max_params=40_000))
    limits = plan.search.derivation
    assert (limits.max_params, limits.eval_layers) == (40_000, plan.train.network.layers)
    assert limits.eval_channels == plan.train.network.init_channels
    assert 2 < plan.train.network.init_channels < SMALL_TRAINING("folder").network.init_channels


def test_a_limit_of_the_latency_is_kept_by_a_table_that_is_measured_once(
    folder: Path, tiny: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int | None] = []

    def by_size(config: LatencyTableConfig) -> LatencyTable:
        """On a machine that takes a millisecond for each parameter."""
        widths.append(config.eval_channels)
        return latency_table.measured(config, lambda network, _: count_parameters(network))

    monkeypatch.setattr(speed, "measured", by_size)
    config = AutoConfig(folder=str(folder), out=str(tmp_path / "out"), max_latency=1.0, **TINY)
    with pytest.raises(UsageError, match=r"at most 1 ms .*the smallest .* 2 cells of 2 channels on 8x8"):
        stages.auto(config)
    assert widths == [4, 2]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    config = replace(config, max_latency=1500.0, max_macs=15_000)

    # Stopped within the search, and gone on with elsewhere.
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Search, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            stages.auto(config)
    monkeypatch.setattr(speed, "measured", must_not_run)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    made = stages.auto(replace(config, out=str(moved)))
    assert made.predicted_latency_ms is not None
    assert made.predicted_latency_ms == pytest.approx(made.params, rel=0.01)
    assert made.predicted_latency_ms <= 1500
    assert made.macs <= 15_000
    assert stages.auto(replace(config, out=str(moved))) == made

    # Another run takes the table, and with it the number of channels.
    table = str(moved / speed.NAME)
    config = replace(config, latency_table=table)
    plan, _ = stages._fast_enough(config, planned(config), tmp_path / "new", torch.device("cpu"))
    found = latency_table_files.read(table)
    assert plan.train.network.init_channels == plan.search.derivation.eval_channels == found.form.init_channels
    for change, message in (
        ({"image_size": 9}, "was measured for .* on 8x8 pixels"),
        ({"max_latency": 9.0}, "at most 9 ms of"),
    ):
        with pytest.raises(UsageError, match=message):
            stages.auto(replace(config, out=str(tmp_path / "other"), **change))
    other = str(tmp_path / "other.json")
    latency_table_files.write(msgspec.structs.replace(found, rounds=3), other)
    (moved / record.RESULT).unlink()
    with pytest.raises(UsageError, match=r"other.json is not the table that the run began with"):
        stages.auto(replace(config, out=str(moved), latency_table=other))
    (moved / speed.NAME).unlink()
    with pytest.raises(UsageError, match=r"latency.json is gone"):
        stages.auto(replace(config, out=str(moved)))
    with pytest.raises(ValueError, match="--latency-table .* is for --max-latency"):
        replace(config, max_latency=None)


def test_a_folder_as_a_user_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of all kinds are read, and what is no image is named and left out."""
    for part, number in (("train", 8), ("test", 1)):
        for name in five_folder.CLASSES:
            (tmp_path / "cifar" / part / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (8, 8), (20 * i, 0, 0)).save(tmp_path / "cifar" / part / name / f"{i}.jpg")
    monkeypatch.setattr(five_folder, "NUMBERS", {"train": 8, "test": 1})
    made = five_folder.command([str(tmp_path / "cifar"), str(tmp_path / "five")])
    assert made["images"] == 5 * 9 + 1
    broken = tmp_path / "five" / "train" / five_folder.CLASSES[0] / "broken.jpg"
    broken.write_bytes((tmp_path / "cifar" / "train" / broken.parent.name / "0.jpg").read_bytes()[:-100])
    plan = planned(AutoConfig(folder=str(tmp_path / "five")))
    images = plan.images
    assert plan.search.data.skip_unreadable
    assert (len(images.train_labels), len(images.test_labels), images.channels) == (41, 5, 3)
    told = "\n".join(images.left_out)
    assert f"left out: cannot read the image {broken}" in told
    for reason in ("2 hidden or system", "1 files outside", "1 .txt", "1 .heic", "1 links to folders"):
        assert f"left out: {reason}" in told
    with pytest.raises(UsageError, match="is there already"):
        five_folder.command([str(tmp_path / "cifar"), str(tmp_path / "five")])


def test_times_are_guesses() -> None:
    assert [told(seconds) for seconds in (0.1, 42, 700, 9000)] == [
        "about 5 s",
        "about 40 s",
        "about 12 min",
        "about 2.5 h",
    ]
