"""Networks of torchvision and timm through the same training as all others."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import optinas
import train_eval
from nas.errors import Stopped, UsageError
from nas.networks import library, pretrained, weights
from nas.networks.export import to_onnx
from nas.networks.library import LibraryArchitecture, build
from nas.networks.library_recipes import recipe
from nas.runs.run import Run
from nas.training_recipes import presets_for
from tests.tiny import DATA, assert_same, final_state

ARCH = "torchvision:mobilenet_v3_small"
SHAPE: dict[str, Any] = {"in_channels": 3, "image_size": (32, 32), "num_classes": 5}


def run(directory: Path, *flags: str, arch: str = ARCH) -> dict[str, Any]:
    argv = [*DATA, "--arch", arch, "--preset", "smoke", "--epochs", "2", "--run-dir", str(directory), *flags]
    return train_eval.command(argv)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    directory = tmp_path_factory.mktemp("library") / "run"
    return directory, run(directory)


def test_a_network_is_the_librarys_own_to_the_bit() -> None:
    torch.manual_seed(3)
    expected = torchvision.models.squeezenet1_1(num_classes=5)
    torch.manual_seed(3)
    found = build("torchvision:squeezenet1_1", **SHAPE)
    images = torch.rand(2, 3, 32, 32)
    for name, value in found.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    assert found.training
    expected.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(found.eval()(images), expected.eval()(images))


# Depths computed as tensors, auxiliary heads, tensors of the image's size, and buffers of indices.
@pytest.mark.parametrize("name", ["regnet_y_400mf", "googlenet", "vit_b_32", "swin_t"])
def test_families_that_build_in_their_own_way_are_built_on_the_meta_device(name: str) -> None:
    with torch.device("meta"):
        network = build(f"torchvision:{name}", in_channels=2, image_size=(224, 224), num_classes=5)
        assert network(torch.zeros(2, 2, 224, 224)).shape == (2, 5)
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}


def test_training_goes_on_bit_for_bit_and_leaves_a_network_that_is_read_again(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = trained
    assert (result["arch"], result["space"]) == (ARCH, None)
    evaluated = train_eval.command(["--evaluate", str(whole), "--device", "cpu"])
    for key in ("arch", "test_accuracy", "params", "macs"):
        assert evaluated[key] == result[key]
    loaded = weights.load(whole)
    assert loaded.architecture == LibraryArchitecture(name=ARCH)
    assert not any("auxiliary" in name for name, _ in loaded.network.named_modules())

    steps, check = iter(range(100)), Run.check_finite

    def stopping(self: Run) -> None:
        check(self)
        if next(steps) == 3:
            self._on_signal(15, None)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "check_finite", stopping)
        with pytest.raises(Stopped):
            run(tmp_path / "parts")
    run(tmp_path / "parts", "--resume")
    assert_same(final_state(tmp_path / "parts"), final_state(whole))


@pytest.mark.slow
def test_a_network_is_exported(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    to_onnx(weights.load(trained[0]), tmp_path / "network.onnx")  # which compares the logits


def test_from_python() -> None:
    flags = {"dataset": "fake", "fake_train": 8, "fake_test": 4, "image_size": 8, "fake_classes": 2, "batch_size": 4}
    found = optinas.train("torchvision:shufflenet_v2_x0_5", preset="smoke", epochs=1, device="cpu", **flags)
    assert found.config.training == recipe("torchvision:shufflenet_v2_x0_5").scaled(epochs=20, batch_size=64).training


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--arch", "torchvision:resnet19"), "has no classification network 'resnet19'; did you mean .*:resnet18"),
        (("--arch", "torchvision:fasterrcnn_resnet50_fpn"), "has no classification network"),
        (("--arch", "torchvision:"), "torchvision has no classification network ''; it has .* such as"),
        (("--arch", "torchvision:alexnet"), "cannot take images of 8x8 pixels and 3 channels .*; pass another --image"),
        (("--arch", "torchvision:vit_b_16"), "cannot take images of 8x8 pixels .*224"),
        (("--arch", ARCH, "--layers", "5"), "--layers is for networks of cells, which torchvision:mobile"),
        (("--arch", ARCH, "--no-learn-betas"), "--learn-betas is for hand-made networks"),
        (("--arch", "hbnet8", "--pretrained"), "--pretrained is for networks of torchvision and timm, which hbnet8"),
        (("--arch", "DARTS_V2", "--no-pretrained"), "--pretrained is for networks of torchvision and timm"),
        (("--arch", ARCH, "--optimizer", "rmsprop", "--nesterov"), "--nesterov is for --optimizer sgd; leave it out"),
        (("--arch", ARCH, "--pretrained", "--init-from", "run"), "--init-from and --pretrained both"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        train_eval.command([*DATA, "--run-dir", str(tmp_path / "run"), *flags])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("error", [TypeError("no size"), IndexError("list index out of range"), KeyError()])
def test_whatever_a_library_raises_for_a_size_is_one_line(error: Exception) -> None:
    class Picky(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise error

    with pytest.raises(UsageError, match=r"timm:picky cannot take images of 8x9 pixels and 3 channels \(.+\); pass"):
        library._check_images("timm:picky", Picky(), (3, 8, 9))


def test_without_timm_one_line_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    library._names.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="need the package 'timm'; pip install timm"):
        build("timm:resnet18", **SHAPE)


def test_networks_of_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(3)
    expected = timm.create_model("mobilenetv3_small_050", num_classes=5, in_chans=1)
    torch.manual_seed(3)
    found = build("timm:mobilenetv3_small_050", **{**SHAPE, "in_channels": 1})
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(images), expected.eval()(images))
    with pytest.raises(ValueError, match="timm has no classification network 'hf-hub:someone/network'"):
        build("timm:hf-hub:someone/network", **SHAPE)
    with pytest.raises(ValueError, match="cannot take images of 32x32 pixels .*such as 384"), torch.device("meta"):
        build("timm:vit_tiny_patch16_384", **SHAPE)


def test_each_family_has_its_own_published_protocol() -> None:
    """Figures of the README of torchvision's references."""
    told = {
        name: (own.epochs, own.batch_size, own.training.learning_rate, own.training.weight_decay, own.training.gamma)
        for name in ("resnet18", "vgg11", "vgg11_bn", "resnext50_32x4d", "mobilenet_v2", "mobilenet_v3_small")
        for own in [recipe(f"torchvision:{name}")]
    }
    assert told == {
        "resnet18": (90, 256, 0.1, 1e-4, 0.1),
        "vgg11": (90, 256, 0.01, 1e-4, 0.1),
        "vgg11_bn": (90, 256, 0.1, 1e-4, 0.1),
        "resnext50_32x4d": (100, 256, 0.1, 1e-4, 0.1),
        "mobilenet_v2": (300, 256, 0.045, 4e-5, 0.98),
        "mobilenet_v3_small": (600, 1024, 0.064, 1e-5, 0.973),
    }
    assert recipe("timm:mobilenetv3_small_100") == recipe(ARCH)
    assert (recipe(ARCH).training.optimizer, recipe(ARCH).training.decay_every) == ("rmsprop", 2)


def test_a_protocol_is_scaled_to_other_epochs_and_batches() -> None:
    assert presets_for(ARCH)["paper"]("digits").epochs == 600
    resnet = presets_for("torchvision:resnet18")["small"]("digits")
    assert (resnet.preset, resnet.epochs, resnet.data.batch_size) == ("small", 80, 64)
    assert resnet.training == replace(recipe("torchvision:resnet18").training, learning_rate=0.025)
    mobile = presets_for(ARCH)["smoke"]("digits")
    assert mobile.training.learning_rate == pytest.approx(0.004)
    assert mobile.training.gamma**20 == pytest.approx(0.973**300)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A cache that holds weights of SqueezeNet for 1000 classes, of random values, under a name with their digest."""
    state = torchvision.models.squeezenet1_1().state_dict()
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()
    path = (folder / "weights").rename(folder / f"squeezenet1_1-{digest[:8]}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    default = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value
    monkeypatch.setattr(default, "url", f"https://download.pytorch.org/models/{path.name}")
    return path, state


PRETRAINED = ("--pretrained", "--image-size", "20", "--learning-rate", "0", "--weight-decay", "0", "--epochs", "1")


def test_pretrained_weights_come_from_the_cache_with_their_normalization(
    cached: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    run(tmp_path / "run", *PRETRAINED, arch="torchvision:squeezenet1_1")
    found = weights.load(tmp_path / "run")
    for name, value in found.network.state_dict().items():
        if name.startswith("classifier"):
            assert value.shape[0] == 3  # classes
        else:
            assert torch.equal(value, cached[1][name]), name
    assert (found.mean, found.std) == (pytest.approx((0.485, 0.456, 0.406)), pytest.approx((0.229, 0.224, 0.225)))
    # The checkpoint has all weights.
    cached[0].unlink()
    run(tmp_path / "run", *PRETRAINED, "--resume", arch="torchvision:squeezenet1_1")
    assert_same(dict(weights.load(tmp_path / "run").network.state_dict()), dict(found.network.state_dict()))


def test_pretrained_weights_that_are_not_as_they_should_be(
    cached: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = cached
    flags = (*PRETRAINED, "--run-dir", str(tmp_path / "run"))

    def refused(*more: str) -> str:
        with pytest.raises(UsageError) as caught:
            train_eval.command([*DATA, "--arch", "torchvision:squeezenet1_1", *flags, *more])
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    assert "--pretrained is for images of 3 channels, and those of fake have 1" in refused("--fake-channels", "1")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert f"{path} is damaged: its SHA-256 begins with " in refused()
    path.unlink()
    assert f"put https://download.pytorch.org/models/{path.name} into the folder {path.parent}" in refused()
    # Weights of another network under the right digest, and what would be executed.
    for saved, message in (
        (torchvision.models.alexnet, "does not hold"),
        ({"a": torch.ones(1)}, "of another form of it"),
    ):
        torch.save(saved, path)
        name = f"squeezenet1_1-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
        path.rename(path.with_name(name))
        monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights.DEFAULT.value, "url", f"https://a/{name}")
        assert message in refused()


@pytest.mark.slow
def test_pretrained_weights_of_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    images: Any = SimpleNamespace(name="fake", channels=3, image_size=(32, 32))
    network = build("timm:test_resnet", **SHAPE)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ValueError, match="hf download timm/test_resnet.* model.safetensors"):
        pretrained.load(network, "timm:test_resnet", images)
    saved = timm.create_model("test_resnet").state_dict()
    save_file(saved, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(tmp_path / "model.safetensors"))
    pretrained.load(network, "timm:test_resnet", images)
    new = [name for name, value in network.state_dict().items() if not torch.equal(value, saved[name])]
    assert new == ["fc.weight", "fc.bias"]
