"""The spaces of RobustDARTS: their lists, what S1 refuses, and the operation that draws."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import genotypes
import spaces
import train_eval
import train_search
from genotypes import CellGenotype, Edge, Genotype
from nas.data import Batch
from nas.engine.device import repeatable
from nas.engine.meter import Meter, measure
from nas.errors import UsageError
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.methods.diagnostics import discretization_gap
from nas.methods.relaxation import Relaxation
from nas.networks.cells import Network, NetworkConfig
from nas.supernet import Supernet, SupernetConfig
from reference.supernet import PlainSupernet
from spaces import KINDS, Kind, SpaceConfig, build_operation
from spaces.ops import Noise
from tests.tiny import SEARCH, TRAIN

SKIP, MAX, AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"
SEP3, DIL3, DIL5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"
#: The lists of the authors' code, edge after edge.
S1: dict[Kind, list[set[str]]] = {
    "normal": [
        {SKIP, DIL3},
        {SKIP, DIL5},
        {SKIP, DIL5},
        {SKIP, SEP3},
        {SKIP, DIL3},
        {MAX, SKIP},
        {SKIP, SEP3},
        {SKIP, SEP3},
        {SKIP, DIL3},
        {SKIP, SEP3},
        {MAX, SKIP},
        {SKIP, DIL3},
        {DIL3, DIL5},
        {DIL3, DIL5},
    ],
    "reduce": [
        {MAX, AVG},
        {MAX, DIL3},
        {MAX, AVG},
        {MAX, AVG},
        {SKIP, DIL5},
        {MAX, AVG},
        {MAX, SEP3},
        {SKIP, DIL3},
        {SKIP, DIL5},
        {MAX, AVG},
        {MAX, AVG},
        {SKIP, DIL5},
        {SKIP, DIL5},
        {SKIP, DIL5},
    ],
}
ALONE = CellGenotype(nodes=((Edge("noise", 0), Edge("sep_conv_3x3", 1)),), concat=(2,))
SHAPE: dict[str, Any] = {"in_channels": 3, "image_size": (8, 8), "num_classes": 3}


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("s1", (MAX, AVG, SKIP, SEP3, DIL3, DIL5)),
        ("s2", (SKIP, SEP3)),
        ("s3", ("none", SKIP, SEP3)),
        ("s4", ("noise", SEP3)),
    ],
)
def test_they_have_the_edges_of_darts_and_the_published_operations(name: str, operations: tuple[str, ...]) -> None:
    space = spaces.build(SpaceConfig(space=name))
    assert space.topology.edges == tuple((source, target) for target in range(2, 6) for source in range(target))
    assert space.operations == operations
    for kind in KINDS:
        allowed = [{operations[o] for o, is_ in enumerate(row) if is_} for row in space.mask[kind].tolist()]
        assert allowed == (S1[kind] if name == "s1" else [set(operations)] * 14)
    assert spaces.build(SpaceConfig(space=name, operations=operations)).operations == operations


def test_genotypes_of_s1_have_operations_of_its_edges() -> None:
    """However strong the others are."""
    space = spaces.build(SpaceConfig(space="s1", init="random"))
    mixing = {kind: torch.rand(14, 6, generator=torch.Generator().manual_seed(0)) for kind in KINDS}
    for weights in (mixing, Relaxation().expected(space)):
        genotype = space.derive(weights)
        for kind in KINDS:
            for target, node in enumerate(getattr(genotype, kind).nodes, start=2):
                for edge in node:
                    assert edge.operation in S1[kind][space.topology.edges.index((edge.source, target))]


def test_an_edge_of_s1_computes_its_two_operations_only() -> None:
    space = spaces.build(SpaceConfig(space="s1"))
    config = SupernetConfig(layers=3, init_channels=2)
    sizes = [sum(p.numel() for p in net(space, config, **SHAPE).parameters()) for net in (Supernet, PlainSupernet)]
    assert sizes[0] < 0.5 * sizes[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--space s1",
            "--space s1 gives each edge between 4 nodes its own operations, but --nodes is 2; leave that out",
        ),
        (
            "--space s1 --nodes 4 --operations sep_conv_3x3",
            "--space s1 has operations of its own; leave out --operations",
        ),
        (
            "--space s2 --preset drnas",
            "with a --preset that lists others pass --operations skip_connect sep_conv_3x3",
        ),
        ("--space s4 --unrolled", "operation 'noise' draws random numbers anew in each evaluation of the loss"),
        ("--space s4 --checkpoint-cells", "--checkpoint-cells computes each cell twice, but an operation draws random"),
    ],
)
def test_refusals(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ValueError), match=re.escape(message)) as refused:
        train_search.command([*SEARCH, "--run-dir", str(tmp_path / "run"), *flags.split()])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


# --- noise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
def test_noise_is_normal_and_tells_nothing_of_the_image(stride: int) -> None:
    noise = build_operation("noise", 8, stride)
    x = torch.full((16, 8, 33, 32), 7.0, requires_grad=True)
    torch.manual_seed(0)
    first, second = noise(x), noise.eval()(x)
    assert not first.requires_grad
    assert not torch.equal(first, second)
    n = first.numel() ** 0.5
    assert abs(first.mean()) < 5 / n
    assert abs(first.var() - 1) < 5 * 2**0.5 / n
    assert abs((first * second).mean()) < 5 / n
    torch.manual_seed(0)
    assert torch.equal(noise(2 * x), first)
    assert noise(x.bfloat16()).dtype == torch.bfloat16


def test_noise_is_weighted_like_any_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is the same on all edges, the supernet computes what the plain one computes, gradients included."""

    def pattern(self: Noise, x: Tensor) -> Tensor:
        x = torch.ones_like(x[:, :, :: self.stride, :: self.stride])
        return x.flatten(1).cumsum(1).sin().view(x.shape)

    monkeypatch.setattr(Noise, "forward", pattern)
    space = spaces.build(SpaceConfig(space="s4", nodes=2))
    config = SupernetConfig(layers=3, init_channels=4)
    torch.manual_seed(1)
    plain = PlainSupernet(space, config, **SHAPE).double()
    torch.manual_seed(1)
    ours = Supernet(space, config, **SHAPE).double()
    mixing = {kind: torch.rand(5, 2, dtype=torch.float64, requires_grad=True) for kind in KINDS}
    x, found = torch.randn(2, 3, 8, 8, dtype=torch.float64), []
    for net in (ours, plain):
        logits = net(x, mixing)
        found.append((logits, *torch.autograd.grad(logits.square().sum(), list(mixing.values()))))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


def test_noise_in_bf16_moves_the_architecture() -> None:
    space = spaces.build(SpaceConfig(space="s4", nodes=2))
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=2), **SHAPE)
    bilevel = Bilevel(supernet, space, BilevelConfig(), nn.CrossEntropyLoss(), "bf16")
    batch = torch.randn(4, 3, 8, 8), torch.randint(3, (4,))
    bilevel.architecture_step(batch, batch)
    loss, logits = bilevel.weight_step(batch)
    assert (loss.isfinite(), logits.dtype) == (True, torch.bfloat16)
    assert all((alpha != 0).all() for alpha in space.alpha.values())


def test_a_measurement_draws_the_same_each_time_and_leaves_the_random_state() -> None:
    network = Network(Genotype(ALONE, ALONE), NetworkConfig(layers=2, init_channels=2), **SHAPE).eval()
    images, labels = torch.randn(4, 3, 8, 8), torch.randint(3, (4,))
    state = torch.get_rng_state()
    losses = []
    for _ in range(2):
        meter = Meter()
        measure(lambda batch: (network(batch[0]).square().mean(), network(batch[0])), [(images, labels)] * 2, meter)
        losses.append(meter.loss)
    assert losses[0] == losses[1]
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(network(images), network(images))
    with repeatable(images.device, 0):
        first = network(images)
    with repeatable(images.device, 1):
        assert not torch.equal(network(images), first)


def test_the_discretization_gap_draws_the_same_each_time_and_can_be_saved_between_batches() -> None:
    space = spaces.build(SpaceConfig(space="s4", nodes=2, init="random"))
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=2), **SHAPE)
    bilevel = Bilevel(supernet, space, BilevelConfig(), nn.CrossEntropyLoss())
    genotype = space.derive(Relaxation().expected(space))
    batch = torch.randn(4, 3, 8, 8), torch.randint(3, (4,))
    before = torch.get_rng_state()
    states: list[Tensor] = []

    def batches() -> Iterator[Batch]:
        for _ in range(2):
            states.append(torch.get_rng_state())
            yield batch

    assert discretization_gap(bilevel, genotype, batches()) == discretization_gap(bilevel, genotype, batches())
    assert all(torch.equal(state, before) for state in states)


def test_a_genotype_with_noise_is_trained_and_measured_again(tmp_path: Path) -> None:
    genotypes.save(Genotype(ALONE, ALONE), tmp_path / "noisy.json")
    flags = [*TRAIN, "--arch", str(tmp_path / "noisy.json"), "--epochs", "1", "--drop-path-prob", "0.2"]
    trained = train_eval.command([*flags, "--run-dir", str(tmp_path / "run")])
    measured = train_eval.command(["--evaluate", str(tmp_path / "run"), "--device", "cpu"])
    assert measured["test_accuracy"] == trained["test_accuracy"]
