"""Hand-made networks through the same training as those of genotypes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import train_eval
from nas import data
from nas.data import DataConfig
from nas.errors import Stopped
from nas.networks import handmade, weights
from nas.runs.run import Run
from nas.train import TrainConfig
from nas.training_recipes import HANDMADE_PRESETS, presets_for
from tests.tiny import DATA, assert_same, final_state

FLAGS = (*DATA, "--epochs", "2", "--learning-rate", "0.01")
ARCHITECTURES = ("resnet8", "hbnet8", "dmrnet8", "densenet7", "agdnet7")


def run(directory: Path, *flags: str) -> dict[str, Any]:
    return train_eval.command([*FLAGS, "--run-dir", str(directory), *flags])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_saving_and_measuring_again(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    save = weights.save

    def keeping(path: Path, network: torch.nn.Module, *rest: Any, **more: Any) -> None:
        trained.append(network)
        save(path, network, *rest, **more)

    monkeypatch.setattr(weights, "save", keeping)
    result = run(tmp_path / "run", "--arch", arch)
    assert result["arch"] == arch
    assert result["space"] is None
    assert result["params"] == sum(p.numel() for p in trained[0].parameters())
    assert not (tmp_path / "run" / "genotype.json").exists()
    loaded = weights.load(tmp_path / "run" / weights.NAME)
    images = data.load(DataConfig(dataset="fake", fake_train=24, fake_test=10, image_size=8, fake_classes=3))
    for x, _ in images.test_loader().epoch(0):
        assert torch.equal(loaded.network(x), trained[0].eval()(x))
    evaluated = train_eval.command(["--evaluate", str(tmp_path / "run"), "--device", "cpu"])
    for key in ("arch", "test_accuracy", "params", "macs"):
        assert evaluated[key] == result[key]


def test_every_family_is_trained_here() -> None:
    assert {name.rstrip("0123456789") for name in ARCHITECTURES} == set(handmade.FAMILIES)


def test_variants_reach_the_network_and_its_file(tmp_path: Path) -> None:
    small, large = (
        run(tmp_path / growth, "--arch", "agdnet7", "--growth", growth, "--epochs", "1")["params"] for growth in "48"
    )
    assert large > small
    loaded = weights.load(tmp_path / "8" / weights.NAME)
    assert sum(p.numel() for p in loaded.network.parameters()) == large
    assert loaded.network.transitions[0][2].in_channels == 16 + 8


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--arch", "agdnet7", "--epochs", "3")
    run(tmp_path / "whole", *flags)
    steps = iter(range(100))
    check = Run.check_finite

    def stopping(self: Run) -> None:
        check(self)
        if next(steps) == 5:
            self._on_signal(15, None)

    monkeypatch.setattr(Run, "check_finite", stopping)
    with pytest.raises(Stopped):
        run(tmp_path / "parts", *flags)
    run(tmp_path / "parts", *flags, "--resume")
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def test_the_presets_are_the_papers_protocol() -> None:
    cifar, imagenet = HANDMADE_PRESETS["paper"]("cifar10"), HANDMADE_PRESETS["paper"]("imagenet")
    for config in (cifar, imagenet):
        of = config.training
        assert (of.learning_rate, of.momentum, of.nesterov, of.weight_decay) == (0.1, 0.9, True, 1e-4)
        assert (of.schedule, of.gamma, of.grad_clip, of.label_smoothing) == ("step", 0.1, None, 0)
        assert config.data.augment
        assert not config.data.cutout
    assert (cifar.epochs, cifar.data.batch_size, cifar.training.milestones) == (300, 64, (0.5, 0.75))
    assert (imagenet.epochs, imagenet.data.batch_size, imagenet.training.milestones) == (100, 256, (0.3, 0.6, 0.9))


def test_the_smoke_preset_is_the_protocol_of_cifar_in_few_epochs() -> None:
    for dataset in ("digits", "imagenet"):
        data = DataConfig(dataset=dataset, batch_size=64)
        expected = replace(HANDMADE_PRESETS["paper"]("cifar10"), preset="smoke", epochs=20, data=data)
        assert HANDMADE_PRESETS["smoke"](dataset) == expected


@pytest.mark.parametrize(("epochs", "rates"), [(1, [1]), (2, [1, 0.1]), (3, [1, 1, 0.1]), (4, [1, 1, 0.1, 0.01])])
def test_the_rate_falls_after_its_share_of_the_epochs_and_never_before_the_first(
    epochs: int, rates: list[float], tmp_path: Path
) -> None:
    run(tmp_path / "run", "--arch", "resnet8", "--epochs", str(epochs), "--learning-rate", "1")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        assert [float(row["learning_rate"]) for row in csv.DictReader(file)] == pytest.approx(rates)


def test_the_kind_of_network_chooses_the_protocol() -> None:
    assert presets_for("hbnet56")["paper"]("cifar10").epochs == 300
    assert presets_for("DARTS_V2")["paper"]("cifar10").epochs == 600
    assert presets_for("./hbnet56")["paper"]("cifar10").epochs == 600  # a file or folder of that name


def test_nesterov_and_no_clipping_are_obeyed(tmp_path: Path) -> None:
    """Each changes the weights after one epoch; the learning rate is large enough for the gradients to be clipped."""
    results = {}
    for name, flags in {
        "as the preset has it": (),
        "without nesterov": ("--no-nesterov",),
        "clipped": ("--grad-clip", "0.01"),
    }.items():
        run(tmp_path / name, "--arch", "resnet8", "--epochs", "1", *flags)
        results[name] = weights.load(tmp_path / name / weights.NAME).network.classifier.weight
    first, *others = results.values()
    assert all(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--arch", "hbnet8", "--layers", "5"), "--layers is for networks of cells, which hbnet8 is not"),
        (("--arch", "hbnet8", "--auxiliary"), "--auxiliary is for networks of cells"),
        # With its default too.
        (("--arch", "hbnet8", "--layers=20"), "--layers is for networks of cells, which hbnet8 is not; leave it out"),
        (("--no-relu-after-sum", "--arch", "DARTS_V2"), "--relu-after-sum is for hand-made networks"),
        (("--arch", "DARTS_V2", "--growth", "5"), "--growth is for hand-made networks, which DARTS_V2 is not"),
        (("--arch", "hbnet9"), "hbnet9: a depth of 9 is not 6n"),
        (("--arch", "hbnet"), "no such file, and unknown architecture 'hbnet'.*hand-made networks: resnet, hbnet, "),
        (("--arch", "densenet7", "--image-size", "3"), "densenet7 needs images of at least 4 pixels per side"),
        (("--arch", "hbnet8", "--milestones", "1.5"), "each must be more than 0 and less than 1"),
        (("--arch", "hbnet8", "--grad-clip", "0"), "--grad-clip is 0; it must be more than 0, or None"),
        (("--arch", "hbnet8", "--nesterov", "--momentum", "0"), "--nesterov needs a --momentum"),
        (("--arch", "hbnet8", "--no-augment", "--flip", "True"), "--no-augment leaves nothing for --flip"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train_eval.command([*DATA, "--run-dir", str(tmp_path / "run"), *flags])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_variants_of_a_run_are_not_changed_in_an_evaluation(tmp_path: Path) -> None:
    run(tmp_path / "run", "--arch", "agdnet7")
    with pytest.raises(ValueError, match="--growth is for training"):
        train_eval.command(["--evaluate", str(tmp_path / "run"), "--growth", "5"])


def test_one_configuration_holds_both_kinds() -> None:
    assert TrainConfig().handmade == handmade.HandmadeConfig()
