"""The weights file: read to its end only if whole, and only if it holds what its header describes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

import genotypes
from nas.data import View
from nas.networks import handmade, weights
from nas.networks.architecture import CellArchitecture, HandmadeArchitecture
from nas.networks.cells import NetworkConfig
from nas.networks.handmade import HandmadeConfig

IMAGES: Any = SimpleNamespace(
    channels=1,
    image_size=(8, 8),
    view=View(1, (8, 8), "crop", 12),
    classes=("cat", "dog"),
    mean=torch.tensor([100.0]),
    std=torch.tensor([50.0]),
)
ARCHITECTURE = CellArchitecture(
    genotype=genotypes.get("DARTS_V2").genotype, config=NetworkConfig(layers=1, init_channels=2)
)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a file as a training writes it."""
    path = tmp_path_factory.mktemp("weights") / weights.NAME
    network = ARCHITECTURE.build(in_channels=1, image_size=(8, 8), num_classes=2)
    weights.save(path, network, ARCHITECTURE, IMAGES)
    return path.read_bytes()


def end_of_header(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def refusal(path: Path, content: bytes) -> str:
    """The one line with which a file of that content is refused."""
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a network of this toolkit: ") as caught:
        weights.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    return message


def sealed(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> bytes:
    """A file with a digest that is right, whatever it holds."""
    unsealed = to_safetensors(tensors, {"optinas": json.dumps(header), "sha256": "0" * 64})
    end = end_of_header(unsealed)
    digest = weights._digest(unsealed[:end], unsealed[end:], "0" * 64)
    return unsealed[:end].replace(b"0" * 64, digest.encode()) + unsealed[end:]


def parts(content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    header = json.loads(content[8 : end_of_header(content)])["__metadata__"]["optinas"]
    return from_safetensors(content), json.loads(header)


def test_a_file_is_read_as_it_was_written(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(sealed(*parts(content)))
    loaded = weights.load(tmp_path / "a")
    assert (loaded.architecture, loaded.classes, loaded.view) == (ARCHITECTURE, ("cat", "dog"), IMAGES.view)
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, parts(content)[0][name])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_noticed(content: bytes, tmp_path: Path, data: st.DataObject) -> None:
    end = end_of_header(content)
    # The header is a small part of a file of weights, and its end is padding.
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, end - 1) | st.integers(end - 8, end - 1))
    flipped = bytearray(content)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    refusal(tmp_path / "flipped", bytes(flipped))


@pytest.mark.parametrize("share", range(10))
def test_a_truncated_file_is_refused(share: int, content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "truncated", content[: len(content) * share // 10])
    refusal(tmp_path / "longer", content + bytes(share + 1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"version": 4}, "its format is version 4, and this release reads version 3"),
        ({"version": "x"}, "Expected `int`"),
        ({"mean": [0.5, 0.5]}, "a number for each of the 1 channels"),
        ({"mean": []}, "a number for each of the 1 channels"),
        ({"std": [0.0]}, "std more than 0"),
        ({"std": [-1.0]}, "std more than 0"),
        ({"std": [1e999]}, "malformed"),
        ({"mean": [float("nan")]}, "malformed"),
        ({"image_size": [0, 0]}, "`int` >= 1"),
        ({"image_size": [8, 8193]}, "`int` <= 8192"),
        ({"image_size": [8]}, "length 2"),
        ({"classes": []}, "length >= 1"),
        ({"temperature": 0}, "`float` > 0"),
        ({"temperature": 1e999}, "malformed"),
        ({"classes": ["a"] * 3}, "'classifier.bias' .another"),
        ({"in_channels": 0}, "`int` >= 1"),
        ({"in_channels": 10**7, "mean": [0] * 2}, "a number for each"),
        ({"colour": "red"}, "unknown field"),
        ({"col\x7four": "red"}, r"unknown field `col\\x7four`"),
        ({"architecture": {"type": "shell", "command": "true"}}, "Invalid value 'shell'"),
        ({"architecture": {"type": "cells", "genotype": "{}", "config": {}}}, "genotype: .: Expected `object`"),
        ({"architecture": {"type": "cells", "genotype": "x" * 100_001, "config": {}}}, "is longer than 100000"),
        ({"architecture": {"type": "handmade", "name": "agdnet3004", "config": {}}}, "too few for"),
        ({"architecture": {"type": "handmade", "name": "x" * 5000, "config": {}}}, "unknown hand-made network"),
        (
            {"architecture": {"type": "library", "name": "torchvision:system"}},
            "has no classification network",
        ),
        (
            {"architecture": {"type": "library", "name": "timm:hf-hub:someone/network"}},
            "has no classification|'timm'",
        ),
        ({"architecture": {"type": "library", "name": "os:system"}}, "unknown library 'os'"),
        # 2.6 GB, of which nothing is allocated.
        (
            {"architecture": {"type": "library", "name": "torchvision:regnet_y_128gf"}},
            "are not those of",
        ),
        ({"architecture": {"type": "library", "name": "torchvision:resnet18"}}, "tensors are not those of a network"),
    ],
)
def test_a_faulty_header_is_refused(changed: dict[str, Any], message: str, content: bytes, tmp_path: Path) -> None:
    tensors, header = parts(content)
    assert re.search(message, refusal(tmp_path / "faulty", sealed(tensors, header | changed)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": 100_000}, "too few for 100000 cells"),
        ({"layers": 2}, "too few for 2 cells"),
        ({"init_channels": 1000}, "the tensors are not those of"),
        ({"init_channels": 10**9}, "cannot be built"),
        ({"init_channels": 10**30}, "cannot be built"),
        ({"layers": 0}, "at least 1"),
        ({"stem": "sh"}, "Invalid enum value 'sh'"),
    ],
)
def test_a_network_that_the_tensors_are_not_of_is_never_built(
    config: dict[str, Any], message: str, content: bytes, tmp_path: Path
) -> None:
    tensors, header = parts(content)
    header["architecture"]["config"] |= config
    assert re.search(message, refusal(tmp_path / "other", sealed(tensors, header)))


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"][0, 0] = torch.nan


def with_another_dtype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = tensors["classifier.weight"].half()


def with_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weight"] = tensors["classifier.weight"].int()


def with_one_more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["\x1b[31m"] = torch.zeros(1)


def with_one_less(tensors: dict[str, torch.Tensor]) -> None:
    tensors["classifier.weights"] = tensors.pop("classifier.weight")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, "classifier.weight holds values that are not finite"),
        (with_another_dtype, "classifier.weight is in torch.float16, not in torch.float32"),
        (with_integers, "classifier.weight is in torch.int32"),
        (with_one_more, r"'\x1b[31m' (no place for it)"),
        (with_one_less, "'classifier.weight' (no such tensor)"),
    ],
)
def test_tensors_that_are_not_the_networks_are_refused(
    change: Callable[[dict[str, torch.Tensor]], None], message: str, content: bytes, tmp_path: Path
) -> None:
    tensors, header = parts(content)
    change(tensors)
    assert message in refusal(tmp_path / "other", sealed(tensors, header))


def test_files_of_the_formats_before_are_refused_as_such(content: bytes, tmp_path: Path) -> None:
    tensors, header = parts(content)
    header["version"] = 2
    header["architecture"]["genotype_json"] = json.dumps(header["architecture"].pop("genotype"))
    second = sealed(tensors, header)
    del header["version"]
    first = to_safetensors(tensors, {"optinas": json.dumps(header)})
    for version, old in ((1, first), (2, second)):
        told = f"its format is version {version}, and this release reads version 3; train again"
        assert told in refusal(tmp_path / "old", old)


@pytest.mark.parametrize(
    "header",
    [b"", b"{}", b"[" * 100_000, b'{"__metadata__":{"optinas":"' + b"[" * 90_000 + b'"}}', b"not a network" * 10],
)
def test_what_is_no_network_is_refused(header: bytes, tmp_path: Path) -> None:
    refusal(tmp_path / "other", len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize("length", [10**9, 2**63, 2**64 - 1])
def test_no_header_of_a_gigabyte_is_read(length: int, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(min(length, 2**30))
    with pytest.raises(ValueError, match="does not begin with the header of a safetensors file"):
        weights.load(path)


def test_no_gigabyte_of_values_is_read(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.write_bytes(content)
    os.truncate(path, 2**40)
    with pytest.raises(ValueError, match="its size is not the one that its header states"):
        weights.load(path)


@pytest.mark.parametrize("name", ["hbnet20", "agdnet40", "densenet121", "resnet50", "dmrnet20"])
def test_the_lower_bound_of_the_tensors_is_one(name: str) -> None:
    config = HandmadeConfig()
    with torch.device("meta"):
        network = handmade.build(name, config, image_size=(224, 224))
    assert HandmadeArchitecture(name=name, config=config).fewest_tensors <= len(network.state_dict())


@pytest.mark.parametrize("layers", [1, 8])
@pytest.mark.parametrize("name", genotypes.names())
def test_the_lower_bound_of_the_tensors_of_cells_is_close(name: str, layers: int) -> None:
    architecture = CellArchitecture(
        genotype=genotypes.get(name).genotype,
        config=NetworkConfig(layers=layers, init_channels=2),
    )
    with torch.device("meta"):
        tensors = len(architecture.build(in_channels=1, image_size=(8, 8), num_classes=2).state_dict())
    assert 0.5 * tensors <= architecture.fewest_tensors <= tensors


def test_networks_that_nobody_trains_are_refused_before_they_are_built() -> None:
    with pytest.raises(ValueError, match="agdnet3004: a depth of 3004 is more than the maximum of 2000"):
        handmade.build("agdnet3004")
    architecture = CellArchitecture(genotype=ARCHITECTURE.genotype, config=NetworkConfig(layers=100_000))
    with pytest.raises(ValueError, match="--layers is 100000, which makes 800000 operations; at most 20000"):
        architecture.build(in_channels=1, image_size=(8, 8), num_classes=2)
