"""What a search tells of itself: heat maps of mixing weights and the figures of an epoch."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import spaces
from genotypes import CellGenotype, Edge, Genotype
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.methods.diagnostics import diagnose, discretization_gap, one_hot
from nas.methods.relaxation import Relaxation
from nas.runs.heat_map import heat_map
from nas.runs.tensorboard import add_mixing
from nas.supernet import Supernet, SupernetConfig
from spaces import SearchSpace
from tests.tiny import MaskedSpace, waves

softmax = Relaxation().expected


class RecordingBoard:
    def __init__(self) -> None:
        self.pictures: dict[str, np.ndarray] = {}

    def add_picture(self, tag: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        self.pictures[tag] = pixels_HWC


def test_figures_of_weights_by_their_numbers() -> None:
    """Whatever the edges themselves weigh, here in Space-AGD."""
    space = spaces.get("agd")(nodes=2, operations=("sep_conv_3x3", "skip_connect", "avg_pool_3x3", "dil_conv_3x3"))
    space.double()
    with torch.no_grad():
        space.alpha["normal"][:3] = space.alpha["normal"][2:] = waves(3, 4)
        space.beta["normal"].copy_(torch.tensor([0.0, 0, 40, 0, 0]))
    figures = diagnose(space, softmax(space), space.derive(softmax(space)))
    nats, gaps = [1.26705772296, 1.27659647582, 1.07625720107], [0.0224094302778, 0.00911505463481, 0.335985673919]
    effective = [3.55039094564, 3.58441928336, 2.93367880723]
    rows = [0, 1, 0, 1, 2]
    assert figures["normal_entropy"] == pytest.approx(sum(nats[row] for row in rows) / 5)
    assert figures["normal_normalized_entropy"] == pytest.approx(sum(nats[row] for row in rows) / 5 / math.log(4))
    assert figures["normal_effective_operations"] == pytest.approx(sum(effective[row] for row in rows) / 5)
    assert figures["normal_margin"] == pytest.approx(sum(gaps[row] for row in rows) / 5)
    free = softmax(space)["normal"].detach()[:, 1:3].sum(dim=1) / space.edge_weights("normal").detach()
    assert figures["normal_parameter_free_share"] == pytest.approx(float(free.mean()))
    # Of node 2 both edges weigh the same, of node 3 one has all the weight; in the other cell all are even.
    assert figures["normal_edge_entropy"] == pytest.approx(math.log(2) / 2, abs=1e-9)
    assert figures["normal_edge_normalized_entropy"] == pytest.approx(1 / 2, abs=1e-9)
    assert (figures["reduction_edge_normalized_entropy"], figures["reduction_entropy"]) == pytest.approx(
        (1, math.log(4))
    )


def test_figures_of_decided_edges() -> None:
    """Edges with one operation left, with one other than zero, and with a mask."""
    for operations, expected in ((("sep_conv_3x3",), 1.0), (("none", "sep_conv_3x3"), 0.5)):
        space = spaces.get("darts")(nodes=1, operations=operations)
        figures = diagnose(space, softmax(space), space.derive(softmax(space)))
        assert figures["normal_margin"] == expected
        assert figures["normal_normalized_entropy"] == pytest.approx(2 - 2 * expected)
        assert not any("edge" in name for name in figures)
    masked = MaskedSpace(nodes=1)
    figures = diagnose(masked, softmax(masked), masked.derive(softmax(masked)))
    assert figures["normal_normalized_entropy"] == pytest.approx(1)
    assert figures["normal_effective_operations"] == pytest.approx((3 + 4) / 2)


@pytest.mark.parametrize("name", ["darts", "hb", "agd"])
def test_a_genotype_as_mixing_weights(name: str) -> None:
    """It is derived again from them; the parallel edges of Space-HB keep their order."""
    space = spaces.get(name)(nodes=3)
    space.initialize("random", generator=torch.Generator().manual_seed(0))
    mixing = softmax(space)
    genotype = space.derive(mixing)
    weights = one_hot(space, mixing, genotype)
    assert weights is not None
    assert space.derive(weights) == genotype
    for kind, rows in weights.items():
        assert set(rows.unique().tolist()) <= {0, 1}
        assert int(rows.sum()) == sum(len(node) for node in getattr(genotype, kind).nodes)


class Forked(SearchSpace):
    """Two edges between the same two nodes, of which the derivation keeps one."""

    edges_kept = 1

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        return [(0, 2), (0, 2)]


def test_of_parallel_edges_the_stronger_one_is_taken() -> None:
    space = Forked(nodes=1, operations=("sep_conv_3x3", "skip_connect"))
    with torch.no_grad():
        space.alpha["normal"].copy_(torch.tensor([[1.0, 0], [2, 0]]))
    mixing = softmax(space)
    weights = one_hot(space, mixing, space.derive(mixing))
    assert weights is not None
    assert (weights["normal"].tolist(), weights["reduce"].tolist()) == ([[0, 0], [1, 0]], [[1, 0], [0, 0]])


def test_the_discretization_gap() -> None:
    space = spaces.get("agd")(nodes=2, operations=("sep_conv_3x3", "skip_connect"))
    space.initialize("random", generator=torch.Generator().manual_seed(0))
    supernet = Supernet(
        space, SupernetConfig(layers=3, init_channels=2), in_channels=1, image_size=(8, 8), num_classes=3
    )
    bilevel = Bilevel(supernet.eval(), space, BilevelConfig(), nn.CrossEntropyLoss())
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(n, 1, 8, 8, generator=generator), torch.arange(n) % 3) for n in (4, 2)]
    before = copy.deepcopy(supernet.state_dict())
    mixing = softmax(space)
    genotype = space.derive(mixing)
    discrete = one_hot(space, mixing, genotype)
    assert discrete is not None
    gap = discretization_gap(bilevel, genotype, batches)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    assert not supernet.training
    supernet.train()
    losses = [
        sum(len(labels) * bilevel.loss((images, labels), weights)[0].item() for images, labels in batches) / 6
        for weights in (mixing, discrete)
    ]
    assert gap == pytest.approx(abs(losses[0] - losses[1]), rel=1e-5)
    assert losses[0] != losses[1]
    foreign = Genotype(CellGenotype(((Edge("skip_connect", 0),) * 2,) * 2, (2, 3)), genotype.reduce)
    unknown = Genotype(CellGenotype(((Edge("conv_7x1_1x7", 0),),) * 2, (2, 3)), genotype.reduce)
    assert discretization_gap(bilevel, foreign, batches) is discretization_gap(bilevel, unknown, batches) is None


def test_an_epochs_figures() -> None:
    space = spaces.get("hb")(nodes=2)
    space.initialize("hb", generator=torch.Generator().manual_seed(0))
    edges = [Edge("sep_conv_3x3", 1), Edge("skip_connect", 1), Edge("neg_skip_connect", 0)]
    normal = CellGenotype((tuple(edges), (Edge("max_pool_3x3", 0), Edge("avg_pool_3x3", 0), Edge("none", 1))), (2, 3))
    reduction = CellGenotype((tuple(edges[:1]), (Edge("conv_7x1_1x7", 0), Edge("dil_conv_5x5", 2))), (2, 3))
    figures = diagnose(space, softmax(space), Genotype(normal, reduction))
    assert (figures["normal_parameter_free"], figures["reduction_parameter_free"]) == (5, 0)
    assert (figures["normal_skips"], figures["reduction_skips"]) == (1, 0)
    assert (figures["normal_left_start"], figures["reduction_left_start"]) == (0, 0)
    assert 0 < figures["normal_entropy"] < math.log(9)
    assert 1 < figures["normal_effective_operations"] < 9
    space.initialize("zero")
    figures = diagnose(space, softmax(space), Genotype(normal, reduction))
    assert figures["reduction_entropy"] == pytest.approx(math.log(9))
    assert not any(name.endswith("left_start") for name in figures)


def test_an_operation_without_parameters_takes_no_random_numbers_to_tell() -> None:
    spaces.is_parameter_free.cache_clear()
    before = torch.get_rng_state()
    assert [name for name in spaces.OPERATIONS if spaces.is_parameter_free(name)] == [
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "neg_skip_connect", "none", "noise")
    ]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("space", "weighted"), [("darts", False), ("hb", False), ("agd", True)])
def test_heat_maps_show_edge_weights_only_where_edges_are_weighted(space: str, weighted: bool) -> None:
    board: Any = RecordingBoard()
    built = spaces.get(space)(nodes=2)
    add_mixing(board, built, softmax(built), 1)
    kinds = ("normal", "reduction")
    expected = {f"{what}/{kind}" for what in ("mixing", "edges")[: 1 + weighted] for kind in kinds}
    assert set(board.pictures) == expected


def test_a_heat_map_has_a_cell_for_each_weight_and_is_darker_for_larger_ones() -> None:
    rows, columns = ["a", "a longer name"], ["first", "second", "third"]
    values = np.array([[0.0, 0.02, 0.1], [0.3, 0.6, 1.0]])
    picture = heat_map(values, rows, columns, "title")
    assert picture.dtype == np.uint8
    assert picture.shape == heat_map(np.ones((2, 3)), rows, columns, "title").shape
    brightness = picture.astype(float).mean(axis=2)
    # The corner of a cell, where no number stands; from one cell to the next the grid is white.
    blank = heat_map(np.zeros((2, 3)), rows, columns, "title").astype(float).mean(axis=2)
    filled = np.argwhere(heat_map(np.ones((2, 3)), rows, columns, "title").astype(float).mean(axis=2) < blank - 100)
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0)
    height, width = (bottom - top + 2) // 2, (right - left + 2) // 3
    corners = [brightness[top + r * height + 1, left + c * width + 1] for r in range(2) for c in range(3)]
    assert corners == sorted(corners, reverse=True)
    assert corners[0] == 255
    assert len(set(corners)) == 6
    wider = heat_map(values, ["a", "a much, much longer name"], columns, "title")
    assert wider.shape[1] > picture.shape[1]
