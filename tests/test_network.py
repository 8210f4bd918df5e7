"""The evaluation network: published sizes, auxiliary head, drop path, any genotype, any image size."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import genotypes
from genotypes import ZOO, CellGenotype, Edge, Genotype, GenotypeError
from nas.networks.cells import Network, NetworkConfig, _pool_to_2x2, drop_path_mask, from_darts_state_dict
from nas.networks.cost import count_parameters, network_cost
from reference.network import PlainNetwork
from spaces.ops import OPERATIONS, TABLE_6, FactorizedReduce
from tests.architectures import random_genotype, sep_conv_with_gelu
from tests.tiny import REPEATABLE

CIFAR = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
IMAGENET = {"in_channels": 3, "image_size": (224, 224), "num_classes": 1000}
IMAGENET_FORM = NetworkConfig(layers=14, init_channels=48, stem="imagenet")
SMALL = NetworkConfig(layers=3, init_channels=4)


def small(genotype: Genotype, config: NetworkConfig = SMALL, **shape: object) -> Network:
    return Network(genotype, config, **{**CIFAR, **shape})


def size(name: str, dataset: str) -> int:
    """Parameters of a published genotype's network in the form for a data set."""
    config, shape = (NetworkConfig(), CIFAR) if dataset == "cifar10" else (IMAGENET_FORM, IMAGENET)
    with torch.device("meta"):
        return count_parameters(Network(ZOO[name].genotype, config, **shape))


@pytest.mark.parametrize("name", ZOO)
def test_every_published_genotype_has_its_size(name: str) -> None:
    assert size(name, ZOO[name].dataset) == ZOO[name].params


def test_published_sizes() -> None:
    """Counted by the authors' code (auxiliary head apart)."""
    counted = {
        "DARTS_V1": 3_169_414,
        "DARTS_V2": 3_349_342,
        "PC_DARTS_CIFAR": 3_634_678,
        "PC_DARTS_IMAGENET": 5_342_464,
    }
    assert {name: ZOO[name].params for name in counted} == counted
    assert size("DARTS_V2", "imagenet") == 4_718_752


def test_published_multiply_adds() -> None:
    cost = network_cost(ZOO["DARTS_V2"].genotype, NetworkConfig(), **CIFAR)
    assert cost.macs == 528_359_040
    # 128 C + 2*128 + 4*128*768 + 2*768 + (768 + 1) * 10 with C = 4 * 144
    assert cost.params_with_auxiliary - cost.params == 476_426


def independent_macs(network: Network, x: torch.Tensor) -> int:
    """Counted by hooks: output places x channels x inputs of each, and the linear layers."""
    total = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels // module.groups * module.weight[0, 0].numel()
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    for module in network.modules():
        module.register_forward_hook(count)
    network.eval()(x)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_multiply_adds_against_hooks(seed: int) -> None:
    genotype = random_genotype(seed, edges=3)
    shape = {"in_channels": 1, "image_size": (9, 11), "num_classes": 7}
    network = Network(genotype, SMALL, **shape)
    cost = network_cost(genotype, SMALL, **shape)
    assert cost.macs == independent_macs(network, torch.randn(1, 1, 9, 11))
    assert cost.params == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", ZOO)
def test_every_published_genotype_trains(name: str) -> None:
    network = small(ZOO[name].genotype, NetworkConfig(layers=3, init_channels=4, auxiliary=True))
    logits, auxiliary = network(torch.randn(2, 3, 32, 32))
    (logits.sum() + auxiliary.sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("edges", [1, 2, 3, 5])
@pytest.mark.parametrize("nodes", [1, 4])
def test_any_number_of_edges_and_nodes(nodes: int, edges: int) -> None:
    network = small(random_genotype(nodes + edges, nodes=nodes, edges=edges))
    assert network(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_cells_of_unlike_width_follow_each_other() -> None:
    normal = CellGenotype(nodes=((Edge("skip_connect", 0),), (Edge("skip_connect", 1),)), concat=(2, 3))
    reduce = CellGenotype(nodes=((Edge("max_pool_3x3", 0),),), concat=(2,))
    assert small(Genotype(normal, reduce)).eval()(torch.randn(1, 3, 8, 8)).shape == (1, 10)


def test_cell_against_the_sum_over_edges() -> None:
    genotype = random_genotype(4, edges=3)
    cell = small(genotype).double().eval().cells[0]
    s0, s1 = torch.randn(2, 2, 12, 8, 8, dtype=torch.float64).relu()
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    index = 0
    for node in genotype.normal.nodes:
        total = torch.zeros_like(states[0])
        for edge in node:
            total = total + cell.edges[index](states[edge.source])
            index += 1
        states.append(total)
    torch.testing.assert_close(cell(s0, s1, None), torch.cat(states[2:], dim=1))


@pytest.mark.parametrize(
    ("seed", "stem", "side"), [(0, "cifar", 16), (1, "cifar", 13), (2, "imagenet", 16), (3, "imagenet", 13)]
)
def test_network_against_its_plain_form(seed: int, stem: str, side: int) -> None:
    config = NetworkConfig(layers=6, init_channels=4, stem=stem, auxiliary=True, drop_path_prob=0.4)
    torch.manual_seed(seed)
    network = small(random_genotype(seed, edges=3), config).double()
    network.schedule_drop_path(1.0)
    plain = PlainNetwork(network)
    side = side * (4 if stem == "imagenet" else 1)
    x = torch.randn(4, 3, side, side, dtype=torch.float64)
    found = []
    for form in (network, plain):
        torch.manual_seed(seed)  # of drop path
        logits, auxiliary = form(x)
        (logits.square().sum() + auxiliary.square().sum()).backward()
        found.append((logits, auxiliary, form.eval()(x)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)
    for ours, theirs in ((gradients(network), gradients(plain.network)), (buffers(network), buffers(plain.network))):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_readers_of_a_node_share_its_relu() -> None:
    """In the five cells of DARTS_V2, each reads two outputs; in it sources 0, 1 and 2 have edges with a ReLU."""
    network = small(ZOO["DARTS_V2"].genotype, NetworkConfig(layers=5, init_channels=4))
    counted = {}
    for form in (network, PlainNetwork(network)):
        with Operators() as operators:
            form(torch.randn(2, 3, 16, 16))
        counted[type(form)] = operators.counts["aten.relu.default"]
    assert counted[Network] < counted[PlainNetwork] / 2


class Operators(TorchDispatchMode):
    """Counts the operators below autograd."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))


def _doubled(channels: int, stride: int, affine: bool) -> nn.Module:
    class Doubled(FactorizedReduce):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    return Doubled(channels, channels, affine) if stride == 2 else nn.Identity()


#: What is not known to begin with the ReLU of its input, though it looks so; and the operations outside Table 6.
OTHERS = {"doubled": _doubled, "gelu": sep_conv_with_gelu} | {
    name: OPERATIONS[name] for name in REPEATABLE if name not in TABLE_6
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations_against_the_plain_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, "sep_conv_3x3", OTHERS[name])
    cell = CellGenotype(nodes=((Edge("sep_conv_3x3", 0), Edge("sep_conv_3x3", 1)),), concat=(2,))
    network = small(Genotype(cell, cell)).double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x), PlainNetwork(network)(x), rtol=1e-9, atol=1e-10)


def gradients(network: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: weight.grad for name, weight in network.named_parameters()}


def buffers(network: nn.Module) -> dict[str, torch.Tensor]:
    return dict(network.named_buffers())


def test_a_faulty_genotype_is_refused_with_its_path() -> None:
    cell = CellGenotype(nodes=((Edge("sep", 0),),), concat=(2,))
    with pytest.raises(GenotypeError, match=re.escape("$.normal.nodes[0][0].operation")):
        small(Genotype(cell, cell))


# --- auxiliary head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (16, 16), (28, 28), (32, 32), (64, 48)])
def test_the_auxiliary_head_fires_at_any_size(size: tuple[int, int]) -> None:
    network = small(
        ZOO["DARTS_V2"].genotype,
        NetworkConfig(layers=6, init_channels=4, stem="cifar", auxiliary=True),
        image_size=size,
    )
    logits, auxiliary = network(torch.randn(3, 3, *size))
    assert auxiliary.shape == logits.shape == (3, 10)
    auxiliary.square().sum().backward()
    assert network.auxiliary_head is not None
    for parameter in network.auxiliary_head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    # It stands after the cell at 2/3 of the depth: cells behind it see nothing of its loss.
    assert network.cells[4].preprocess1.op[1].weight.grad.abs().max() > 0
    assert network.cells[5].preprocess1.op[1].weight.grad is None


@pytest.mark.parametrize("size", [8, 32, 64])
def test_the_auxiliary_head_fires_after_the_imagenet_stem(size: int) -> None:
    config = NetworkConfig(layers=3, init_channels=4, stem="imagenet", auxiliary=True)
    _, auxiliary = small(ZOO["DARTS_V1"].genotype, config)(torch.randn(2, 3, size, size))
    assert auxiliary.shape == (2, 10)


@pytest.mark.parametrize(("side", "stride"), [(8, 3), (7, 2)])
def test_the_auxiliary_pooling_is_darts_at_its_sizes(side: int, stride: int) -> None:
    x = torch.randn(2, 3, side, side)
    torch.testing.assert_close(_pool_to_2x2(x), nn.functional.avg_pool2d(x, 5, stride))


@pytest.mark.parametrize("side", range(1, 30))
def test_the_auxiliary_pooling_gives_2x2_and_reaches_both_borders(side: int) -> None:
    x = torch.zeros(1, 1, side, side)
    x[..., 0, 0] = x[..., -1, -1] = 1.0
    pooled = _pool_to_2x2(x)
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0, 0, 0] > 0
    assert pooled[0, 0, 1, 1] > 0


def test_no_auxiliary_output_in_evaluation() -> None:
    network = small(ZOO["DARTS_V2"].genotype, NetworkConfig(layers=3, init_channels=4, auxiliary=True))
    assert network.eval()(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    assert count_parameters(network) < count_parameters(network, auxiliary=True)


# --- drop path --------------------------------------------------------------------------------------------


def test_drop_path_drops_samples_and_keeps_the_mean() -> None:
    mask = drop_path_mask(torch.ones(20_000, 2, 3, 3), torch.tensor(0.2))
    assert mask.shape == (20_000, 1, 1, 1)
    assert drop_path_mask(torch.ones(2, dtype=torch.bfloat16), torch.tensor(0.2)).dtype == torch.bfloat16
    assert set(mask.unique().tolist()) == {0.0, 1.25}
    # The mean of n samples has the standard deviation sqrt(p / (1 - p) / n) = 0.0035.
    assert mask.mean().item() == pytest.approx(1, abs=0.015)


def test_drop_path_is_scheduled_and_rests_in_evaluation() -> None:
    config = NetworkConfig(layers=2, init_channels=4, drop_path_prob=0.5)
    network = small(random_genotype(1), config)
    assert network.drop_path_prob == 0
    network.schedule_drop_path(0.5)
    assert network.drop_path_prob == 0.25
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network.eval()(x), network(x))
    assert "drop_path_prob" not in network.state_dict()


def test_the_network_drops_paths_in_training() -> None:
    edges = (Edge("skip_connect", 0), Edge("sep_conv_3x3", 1))
    cell = CellGenotype(nodes=(edges,), concat=(2,))
    network = small(Genotype(cell, cell), NetworkConfig(layers=3, init_channels=4, drop_path_prob=0.99))
    network.schedule_drop_path(1.0)
    normal = network.cells[0]
    s0, s1 = torch.randn(2, 200, 12, 8, 8).relu()
    out = normal(s0, s1, network.drop_path_prob)
    identity = normal.preprocess0(s0)
    dropped = (out == identity).flatten(1).all(dim=1).double().mean()
    # Of 200 samples 198 lose their convolution, with a standard deviation of 1.4.
    assert dropped.item() == pytest.approx(0.99, abs=0.035)


def test_identities_are_never_dropped() -> None:
    edges = (Edge("skip_connect", 0), Edge("neg_skip_connect", 1), Edge("sep_conv_3x3", 1))
    cell = CellGenotype(nodes=(edges,), concat=(2,))
    network = small(Genotype(cell, cell), NetworkConfig(layers=3, init_channels=4, drop_path_prob=0.1))
    assert network.cells[0].drops == [False, False, True]
    assert network.cells[1].drops == [True, True, True]  # at stride 2 they are operations like any other


# --- DARTS's weights --------------------------------------------------------------------------------------


def as_darts_names(network: Network) -> dict[str, torch.Tensor]:
    """The names DARTS's own modules give to the same weights."""
    named = {}
    for name, value in network.state_dict().items():
        name = name.replace(".edges.", "._ops.").replace("stem.stem", "stem")
        if match := re.match(r"auxiliary_head\.features\.(\d)\.(.*)", name):
            name = f"auxiliary_head.features.{int(match[1]) + 2}.{match[2]}"
        named[name] = value
    return named


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("auxiliary", [True, False])
def test_weights_of_darts_code_load(stem: str, auxiliary: bool) -> None:
    genotype = ZOO["DARTS_V2"].genotype
    full = NetworkConfig(layers=3, init_channels=4, stem=stem, auxiliary=True)
    trained = small(genotype, full).eval()
    theirs = as_darts_names(trained)
    assert "cells.0._ops.0.op.1.weight" in theirs
    assert "auxiliary_head.features.2.weight" in theirs
    assert ("stem.0.weight" if stem == "cifar" else "stem0.0.weight") in theirs
    ours = small(genotype, NetworkConfig(layers=3, init_channels=4, stem=stem, auxiliary=auxiliary)).eval()
    ours.load_state_dict(from_darts_state_dict(theirs, ours))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours(x), trained(x))


def test_names_of_published_genotypes_resolve() -> None:
    assert genotypes.resolve("DARTS_V2") == ZOO["DARTS_V2"].genotype
