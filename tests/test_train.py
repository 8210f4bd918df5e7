"""The evaluation training: its run directory, its figures, saved weights, what it refuses."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import train_eval
import train_search
from genotypes import ZOO
from nas import data
from nas.data import DataConfig
from nas.engine.calibration import best_temperature, calibration_error
from nas.engine.meter import Meter, Predictions
from nas.engine.training import TrainingConfig
from nas.errors import UsageError
from nas.networks import weights
from nas.networks.cells import Network, NetworkConfig
from nas.networks.cost import network_cost
from nas.runs import record
from nas.runs.predictions import NAMES, TABLES
from nas.runs.record import TrainRecord
from nas.train import TrainConfig
from nas.training_recipes import PRESETS
from tests.tiny import OPERATIONS, SEARCH, TRAIN


def run(directory: Path, *more: str) -> dict[str, Any]:
    return train_eval.command([*TRAIN, "--epochs", "2", "--run-dir", str(directory), *more])


def test_the_run_directory_holds_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run"
    result = run(directory, "--auxiliary")
    assert {path.name for path in directory.iterdir()} == {
        *(".lock", "config.json", "data.json", "env.json", "log.txt", "metrics.csv", "tb", "checkpoint.pt"),
        "checkpoint.previous.pt",
        *("genotype.json", "normal.svg", "reduce.svg", "record.json", "result.json", "weights.safetensors"),
        *("predictions.csv", "classes.csv", "confusion.csv", "confusion.svg", "mistakes.csv"),
        *(("mistakes.png",) if result["test_error"] else ()),
    }
    assert json.loads((directory / "result.json").read_text()) == result
    assert result["test_accuracy"] + result["test_error"] == 100
    assert result["epochs"] == 2
    assert "best_test_accuracy_chosen_on_test" not in result
    check_predictions(directory, result)
    written = [(directory / name).read_bytes() for name in NAMES]
    for again in (
        lambda: run(directory, "--auxiliary", "--resume"),
        lambda: train_eval.command(["--evaluate", str(directory), "--device", "cpu"]),
    ):
        (directory / NAMES[2]).unlink()
        assert again()["test_accuracy"] == result["test_accuracy"]
        assert [(directory / name).read_bytes() for name in NAMES] == written
    # What cannot be written or drawn costs neither the run nor the other files.
    for name in NAMES:
        (directory / name).unlink()
    (directory / NAMES[0]).mkdir()
    monkeypatch.setattr("nas.runs.confusion.svg", lambda classes, pairs: 1 / 0)
    capsys.readouterr()
    train_eval.command(["--evaluate", str(directory), "--device", "cpu"])
    out = capsys.readouterr().out
    assert f"note: {directory / NAMES[0]} cannot be written (Is a directory)\n" in out
    assert f"note: {directory / 'confusion.svg'} cannot be written (ZeroDivisionError: division by zero)\n" in out
    assert [(directory / name).is_file() for name in NAMES] == [False, True, True, False, True]
    assert run(directory, "--auxiliary", "--resume")["test_accuracy"] == result["test_accuracy"]
    assert "confusion.svg cannot be written (ZeroDivisionError" in capsys.readouterr().err


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_predictions(directory: Path, result: dict[str, Any]) -> None:
    """The tables of the predictions say what the result says."""
    images, classes, confusion = (rows_of(directory / name) for name in TABLES)
    assert [row["image"] for row in images] == [str(number) for number in range(10)]
    right = [row for row in images if row["class"] == row["predicted"]]
    assert 100 * len(right) / len(images) == pytest.approx(result["test_accuracy"])
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in images)
    for row in classes:
        own = [image for image in images if image["class"] == row["class"]]
        assert (len(own), sum(image in right for image in own)) == (int(row["images"]), int(row["correct"]))
        assert float(row["accuracy"]) == 100 * int(row["correct"]) / int(row["images"])
    pairs = Counter((row["class"], row["predicted"]) for row in images)
    assert {(row["class"], row["predicted"]): int(row["images"]) for row in confusion} == pairs


@pytest.mark.parametrize("flag", ["--deterministic", "--no-deterministic"])
def test_the_algorithms_are_as_the_flag_says(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the training and in the measurement of a trained network."""
    seen = []

    def algorithms(device: torch.device, *, deterministic: bool) -> nullcontext[None]:
        seen.append((device.type, deterministic))
        return nullcontext()

    monkeypatch.setattr("nas.runs.run.algorithms", algorithms)
    monkeypatch.setattr("nas.evaluate.algorithms", algorithms)
    run(tmp_path, "--epochs", "1", flag)
    train_eval.command(["--evaluate", str(tmp_path), "--device", "cpu", flag])
    assert seen == [("cpu", flag == "--deterministic")] * 2


def test_parameters_and_multiply_adds_leave_the_auxiliary_head_out(tmp_path: Path) -> None:
    plain, auxiliary = run(tmp_path / "a"), run(tmp_path / "b", "--auxiliary")
    config = NetworkConfig(layers=3, init_channels=4)
    expected = network_cost(ZOO["DARTS_V2"].genotype, config, in_channels=3, image_size=(8, 8), num_classes=3)
    for result in (plain, auxiliary):
        assert (result["params"], result["macs"]) == (expected.params, expected.macs)


def test_the_figure_is_the_last_epochs_and_the_best_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = iter([5, 9, 2])  # of 10 test images, by epoch

    def measure(step: object, batches: object, meter: Meter, predictions: Predictions | None) -> None:
        meter.reset()
        labels = torch.zeros(10, dtype=torch.int64)
        logits = torch.eye(3)[(torch.arange(10) >= next(right)).long()]
        meter.update(torch.tensor(1.0), logits, labels)
        if predictions is not None:
            predictions.update(logits)

    monkeypatch.setattr("nas.train.measure", measure)
    result = run(tmp_path / "run", "--report-best", "--epochs", "3")
    assert result["test_accuracy"] == 20
    assert result["test_error"] == 80
    assert result["best_test_accuracy_chosen_on_test"] == 90
    assert [row["predicted"] for row in rows_of(tmp_path / "run" / NAMES[0])] == ["0"] * 2 + ["1"] * 8


def test_the_test_images_may_be_measured_at_the_end_only(tmp_path: Path) -> None:
    """With the same result: they choose nothing."""
    results = [run(tmp_path / name, *more) for name, more in (("each", ()), ("end", ("--test-at-end",)))]
    for result in results:
        del result["run_dir"], result["seconds"]
    assert results[0] == results[1]
    with (tmp_path / "end" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["test_accuracy"]) for row in rows] == [False, True]
    assert all(row["train_accuracy"] for row in rows)
    assert "test" not in (tmp_path / "end" / "log.txt").read_text().split("epoch   2")[0].split("epoch   1")[1]
    with pytest.raises(UsageError, match="--report-best needs the test of each epoch"):
        run(tmp_path / "both", "--test-at-end", "--report-best")


@pytest.mark.parametrize(
    "flags", [(), ("--auxiliary", "--drop-path-prob", "0.2", "--precision", "bf16"), ("--ema-decay", "0.5")]
)
def test_saved_weights_give_identical_logits(flags: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    """The network at the end of training and the one loaded from its file, on the test images."""
    trained: list[Network] = []
    save = weights.save

    def keeping(path: Path, network: Network, *rest: Any, **more: Any) -> None:
        trained.append(network)
        save(path, network, *rest, **more)

    monkeypatch.setattr(weights, "save", keeping)
    result = run(tmp_path / "run", *flags)
    loaded = weights.load(tmp_path / "run" / weights.NAME)
    config = DataConfig(dataset="fake", fake_train=24, fake_test=10, image_size=8, batch_size=8, fake_classes=3)
    images = data.load(config)
    for x, _ in images.test_loader().epoch(0):
        assert torch.equal(loaded.network(x), trained[0].eval()(x))
    evaluated = train_eval.command(["--evaluate", str(tmp_path / "run"), "--device", "cpu"])
    for key in ("test_accuracy", "test_error", "params", "macs"):
        assert evaluated[key] == result[key]


def test_the_weights_file_says_what_it_expects_of_images(tmp_path: Path) -> None:
    run(tmp_path / "run")
    loaded = weights.load(tmp_path / "run" / weights.NAME)
    assert (loaded.in_channels, loaded.image_size, loaded.classes) == (3, (8, 8), ("0", "1", "2"))
    # Uniform pixels: mean 1/2, deviation 1/sqrt(12).
    assert loaded.mean == pytest.approx([0.5] * 3, abs=0.02)
    assert loaded.std == pytest.approx([12**-0.5] * 3, abs=0.02)
    assert not loaded.network.training


def test_other_classes_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="was trained on 3 classes"):
        train_eval.command(["--evaluate", str(tmp_path / "run"), "--fake-classes", "4"])


@pytest.mark.parametrize("flag", [("--arch", "DARTS_V1"), ("--epochs", "7"), ("--layers", "5"), ("--split-seed", "1")])
def test_flags_of_the_training_are_refused_in_an_evaluation(flag: tuple[str, str], tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(ValueError, match="--split-seed must be" if flag[0] == "--split-seed" else "is for training"):
        train_eval.command(["--evaluate", str(tmp_path / "run"), *flag])


def test_an_evaluation_normalizes_as_the_training_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(tmp_path / "run")
    load = data.load

    def darker_training_images(config: DataConfig, view: data.View | None = None) -> data.ImageData:
        images = load(config, view)
        images.mean, images.std = images.mean / 4, images.std / 4
        return images

    monkeypatch.setattr(data, "load", darker_training_images)
    evaluated = train_eval.command(["--evaluate", str(tmp_path / "run"), "--device", "cpu"])
    for key in ("test_accuracy", "params", "macs", "epochs", "arch"):
        assert evaluated[key] == result[key]


def test_a_training_from_the_weights_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the learning rate 0 they stay what they were, seed or not."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "first", "--auxiliary")
    still = ("--auxiliary", "--learning-rate", "0", "--seed", "1", "--init-from")
    run(tmp_path / "second", *still, "first")
    first, second = (weights.load(tmp_path / name / weights.NAME).network for name in ("first", "second"))
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    run(tmp_path / "second", *still, "./first/", "--resume")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a training, for others to begin from."""
    directory = tmp_path_factory.mktemp("trainings") / "first"
    run(directory, "--epochs", "1")
    return directory


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--arch", "DARTS_V1"), "holds another network than this run trains"),
        (("--no-auxiliary",), "holds another network than this run trains"),
        (("--fake-classes", "4"), "holds another network than this run trains"),
        (("--init-from", "nowhere"), "nowhere/weights.safetensors does not exist"),
    ],
)
def test_weights_that_do_not_fit_start_nothing(flags: tuple[str, ...], told: str, first: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        run(tmp_path / "second", "--init-from", str(first), *flags)
    assert not (tmp_path / "second").exists()


def test_more_epochs_are_a_run_of_their_own(tmp_path: Path) -> None:
    run(tmp_path / "run")
    with pytest.raises(
        UsageError, match="--epochs was 2, is 3.*; to train a finished network further, start one with --i"
    ):
        run(tmp_path / "run", "--epochs", "3", "--resume")


def test_the_search_behind_a_genotype_goes_from_training_to_training(tmp_path: Path) -> None:
    search = [*SEARCH, *OPERATIONS, "--space", "agd", "--epochs", "1", "--run-dir", str(tmp_path / "search")]
    searched = train_search.command(search)
    for arch, directory in (("search", "a"), ("a", "b")):
        result = run(tmp_path / directory, "--arch", str(tmp_path / arch), "--epochs", "1")
        assert (result["space"], result["search_seconds"]) == ("agd", searched["seconds"])
        shutil.rmtree(tmp_path / arch)
    found = record.read(tmp_path / "b")
    assert isinstance(found, TrainRecord)
    assert found.search is not None
    assert found.search.settings["space.space"] == "agd"
    (tmp_path / "b" / record.NAME).unlink()  # as an earlier version left it
    result = run(tmp_path / "c", "--arch", str(tmp_path / "b"), "--epochs", "1")
    assert (result["space"], result["search_seconds"]) == (None, None)


def test_drop_path_grows_with_the_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    schedule = Network.schedule_drop_path
    monkeypatch.setattr(
        Network, "schedule_drop_path", lambda self, progress: (seen.append(progress), schedule(self, progress))
    )
    run(tmp_path / "run", "--epochs", "4", "--drop-path-prob", "0.2")
    assert seen == [0, 0.25, 0.5, 0.75]


def test_every_training_image_is_used_and_no_test_image_trains(tmp_path: Path, monkeypatch: Any) -> None:
    loaders = []
    train_loader = data.ImageData.train_loader
    monkeypatch.setattr(
        data.ImageData,
        "train_loader",
        lambda self, **kw: loaders.append(train_loader(self, **kw)) or loaders[-1],
    )
    run(tmp_path / "run")
    assert [loader.num_images for loader in loaders] == [24]


def test_images_that_are_held_out_calibrate_and_do_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders: list[data.Loader] = []
    train_loader = data.ImageData.train_loader
    monkeypatch.setattr(
        data.ImageData, "train_loader", lambda self, **kw: loaders.append(train_loader(self, **kw)) or loaders[-1]
    )
    result = run(tmp_path / "run", "--hold-out", "0.25")
    served, held_out = (set(loader._indices.tolist()) for loader in loaders)
    assert (len(served), len(held_out)) == (18, 6)
    assert served | held_out == set(range(24))
    # The temperature is that of these images, and all probabilities are by it.
    trained = weights.load(tmp_path / "run")
    told = result["calibration"]
    with torch.no_grad():
        ((images, labels),) = loaders[1].epoch(0)
        logits = trained.network(images).double()
    assert trained.temperature == told["temperature"] == pytest.approx(best_temperature(logits, labels), rel=1e-4)
    assert told["images"] == 6
    assert told["accuracy"] == pytest.approx(100 * float((logits.argmax(1) == labels).double().mean()))
    for name, temperature in (("", 1.0), ("_calibrated", told["temperature"])):
        assert told[f"nll{name}"] == pytest.approx(float(F.cross_entropy(logits / temperature, labels)), rel=1e-4)
        assert told[f"ece{name}"] == pytest.approx(calibration_error(logits / temperature, labels), rel=1e-3, abs=1e-3)
    written = (tmp_path / "run" / "predictions.csv").read_bytes()
    test_images = data.load(DataConfig(dataset="fake", fake_train=24, fake_test=10, image_size=8, fake_classes=3))
    with torch.no_grad():
        tests = torch.cat(
            [trained.network(batch) for batch, _ in trained.normalized(test_images).test_loader().epoch(0)]
        )
    probabilities = (tests / trained.temperature).softmax(dim=1).max(dim=1).values.tolist()
    rows = rows_of(tmp_path / "run" / "predictions.csv")
    assert [float(row["probability"]) for row in rows] == pytest.approx(probabilities, abs=1e-6)
    # A training that was killed before it could say so, and a measurement of its weights, say the same.
    for name in ("record.json", "predictions.csv"):
        (tmp_path / "run" / name).unlink()
    again = run(tmp_path / "run", "--hold-out", "0.25", "--resume")
    assert again["calibration"] == told
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == written
    train_eval.command(["--evaluate", str(tmp_path / "run"), "--device", "cpu"])
    assert (tmp_path / "run" / "predictions.csv").read_bytes() == written


def test_too_few_images_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too few to split"):
        run(tmp_path / "run", "--hold-out", "0.01", "--fake-train", "4")


def test_the_presets_are_the_papers_protocols() -> None:
    cifar, imagenet = PRESETS["paper"]("cifar10"), PRESETS["paper"]("imagenet")
    assert cifar.training == TrainingConfig(
        learning_rate=0.025, schedule="cosine", momentum=0.9, weight_decay=3e-4, grad_clip=5.0, auxiliary_weight=0.4
    )
    assert (cifar.epochs, cifar.data.batch_size, cifar.data.cutout) == (600, 96, True)
    assert cifar.network == NetworkConfig(layers=20, init_channels=36, auxiliary=True, drop_path_prob=0.2)
    assert imagenet.training == TrainingConfig(
        learning_rate=0.1, schedule="exponential", gamma=0.97, weight_decay=3e-5, label_smoothing=0.1
    )
    assert imagenet.epochs == 250
    assert imagenet.network == NetworkConfig(layers=14, init_channels=48, stem="imagenet", auxiliary=True)


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        ((), [0.025 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(3)]),
        (("--schedule", "exponential"), [0.025 * 0.97**e for e in range(3)]),
        (("--schedule", "step", "--milestones", "0.3", "0.66", "--gamma", "0.5"), [0.025, 0.0125, 0.00625]),
    ],
)
def test_learning_rate_schedules(flags: tuple[str, ...], rates: list[float], tmp_path: Path) -> None:
    run(tmp_path / "run", "--epochs", "3", *flags)
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("learning_rate")
    assert [float(line.split(",")[column]) for line in lines[1:]] == pytest.approx(rates)


def test_the_auxiliary_loss_is_weighted(tmp_path: Path) -> None:
    """With weight 0 its head stays as it was initialized but for the weight decay; with 0.4 it learns."""
    states = {}
    for weight in ("0", "0.4"):
        directory = tmp_path / weight
        run(directory, "--auxiliary", "--auxiliary-weight", weight, "--weight-decay", "0", "--epochs", "1")
        states[weight] = weights.load(directory / weights.NAME).network.state_dict()
    torch.manual_seed(0)
    loaded = weights.load(tmp_path / "0" / weights.NAME)
    torch.manual_seed(0)
    initial = loaded.architecture.build(in_channels=3, image_size=(8, 8), num_classes=3).state_dict()
    key = "auxiliary_head.classifier.weight"
    assert torch.equal(states["0"][key], initial[key])
    assert not torch.equal(states["0.4"][key], initial[key])


def test_a_config_file_is_the_whole_configuration(tmp_path: Path) -> None:
    run(tmp_path / "run", "--label-smoothing", "0.05")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["training"]["label_smoothing"] == 0.05
    assert set(saved) == set(TrainConfig.__dataclass_fields__)


def test_the_run_directory_is_named_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = train_eval.command([*TRAIN, "--epochs", "1"])["run_dir"]
    assert re.fullmatch(r"runs/eval-fake-DARTS_V2-seed0-[0-9a-f]{6}", first)
    assert train_eval.command([*TRAIN, "--epochs", "1", "--label-smoothing", "0.1"])["run_dir"] != first
    assert train_eval.command([*TRAIN, "--epochs", "1", "--resume"])["run_dir"] == first
