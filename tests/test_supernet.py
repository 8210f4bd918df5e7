"""The supernet: DARTS's macro structure, mixing, eq. (26), every space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import spaces
from nas.macro import resolve_stem
from nas.supernet import MixedOperation, SearchCell, Supernet
from spaces import KINDS, SpaceConfig

ALL = spaces.names()


def build(name: str, **fields: object) -> tuple[spaces.SearchSpace, Supernet]:
    space = spaces.build(SpaceConfig(space=name))
    shape: dict[str, object] = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
    return space, Supernet(space.topology, space.operations, **{**shape, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("in_channels", "size"), [(3, (16, 16)), (1, (9, 7))])
def test_every_weight_and_architecture_parameter_gets_a_gradient(
    name: str, in_channels: int, size: tuple[int, int]
) -> None:
    space, supernet = build(name, in_channels=in_channels, image_size=size, channels=4, layers=3)
    logits = supernet(torch.randn(3, in_channels, *size), space.mixing())
    assert logits.shape == (3, 10)
    logits.square().sum().backward()
    for parameter in [*supernet.parameters(), *space.parameters()]:
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_size_of_the_published_supernet() -> None:
    # DARTS's own search network, CIFAR-10, 8 cells, 16 channels: 1,930,618 weights.
    _, supernet = build("darts", channels=16, layers=8)
    assert sum(p.numel() for p in supernet.parameters()) == 1_930_618


def test_reductions_at_one_and_two_thirds() -> None:
    _, supernet = build("darts", channels=2, layers=8)
    assert [cell.kind for cell in supernet.cells] == ["normal"] * 2 + ["reduce"] + ["normal"] * 2 + ["reduce"] + [
        "normal"
    ] * 2


def test_batchnorms_of_the_cells_are_not_affine() -> None:
    _, supernet = build("hb", channels=2, layers=3)
    norms = [m for m in supernet.cells.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.affine for m in norms)


def test_pools_are_followed_by_a_batchnorm() -> None:
    mixed = MixedOperation(("max_pool_3x3", "avg_pool_3x3", "skip_connect"), 2, 1)
    assert [isinstance(c, nn.Sequential) for c in mixed.candidates] == [True, True, False]


def test_mixed_operation_is_the_weighted_sum() -> None:
    mixed = MixedOperation(spaces.TABLE_6, 4, 2).eval()
    x, weights = torch.randn(2, 4, 6, 6), torch.rand(9)
    expected = sum(w * candidate(x) for w, candidate in zip(weights, mixed.candidates, strict=True))
    torch.testing.assert_close(mixed(x, weights), expected)


def independent_cell(cell: SearchCell, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
    """DARTS eq. (1)-(2) over all pairs of nodes."""
    states = {0: cell.preprocess0(s0), 1: cell.preprocess1(s1)}
    for target in range(2, 6):
        states[target] = sum(
            weights[e, o] * candidate(states[source])
            for e, (source, t) in enumerate(cell.topology.edges)
            if t == target
            for o, candidate in enumerate(cell.edges[e].candidates)
        )
    return torch.cat([states[n] for n in range(2, 6)], dim=1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("layer", [0, 1])
def test_cell_against_the_formula(name: str, layer: int) -> None:
    space, supernet = build(name, channels=4, layers=3, image_size=(8, 8))
    cell = supernet.double().cells[layer]
    weights = space.double().mixing_weights(cell.kind)
    s0 = torch.randn(2, 12, 8, 8, dtype=torch.float64)
    s1 = torch.randn(2, 12 if layer == 0 else 16, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(cell(s0, s1, weights), independent_cell(cell, s0, s1, weights))


# At gap G each of the two peaked mixed operations misses by at most 8 e^-G w* (|x| + max |o(x)|), and the nodes
# after it inherit that; the docstring of HBSpace states the errors of a whole cell.
@pytest.mark.parametrize(("gap", "tolerance"), [(10.0, 2e-3), (20.0, 1e-7)])
def test_eq_26_in_a_normal_cell(gap: float, tolerance: float) -> None:
    """With the HB initialization x_t = F(x_{t-1}) + x_{t-1} - x_{t-2}, F the mixed operation o1."""
    space = spaces.build(SpaceConfig(space="hb", init_gap=gap), seed=3).double()
    supernet = Supernet(
        space.topology,
        space.operations,
        in_channels=3,
        image_size=(8, 8),
        num_classes=10,
        channels=8,
        layers=3,
    ).double()
    cell, weights = supernet.cells[0], space.mixing_weights("normal")
    s0, s1 = torch.randn(2, 4, 24, 8, 8, dtype=torch.float64)
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    for t in range(4):
        o1 = cell.edges[3 * t]
        states.append(o1(states[-1], weights[3 * t]) + states[-1] - states[-2])
    expected = torch.cat(states[2:], dim=1)
    error = (cell(s0, s1, weights) - expected).norm() / expected.norm()
    assert error <= tolerance


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    [("auto", (32, 32), "cifar"), ("auto", (224, 224), "imagenet"), ("cifar", (224, 224), "cifar")],
)
def test_stem_by_image_size(stem: str, size: tuple[int, int], expected: str) -> None:
    assert resolve_stem(stem, size) == expected  # type: ignore[arg-type]


def test_imagenet_stem_in_the_supernet() -> None:
    space, supernet = build("hb", channels=4, layers=3, stem="imagenet")
    assert supernet(torch.randn(2, 3, 64, 64), space.mixing()).shape == (2, 10)


def test_the_supernet_holds_no_architecture() -> None:
    for name in ALL:
        space, supernet = build(name, channels=2, layers=1)
        assert {id(p) for p in supernet.parameters()}.isdisjoint({id(p) for p in space.parameters()})
        assert set(space.mixing()) == set(KINDS)
