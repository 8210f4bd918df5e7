"""What a search tells of itself: heat maps of mixing weights and the figures of an epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import spaces
from genotypes import CellGenotype, Edge, Genotype
from nas.methods.diagnostics import diagnose, mean_entropy
from nas.methods.relaxation import Relaxation
from nas.runs.heat_map import heat_map
from nas.runs.tensorboard import add_mixing

softmax = Relaxation().expected


class RecordingBoard:
    def __init__(self) -> None:
        self.pictures: dict[str, np.ndarray] = {}

    def add_picture(self, tag: str, pixels_HWC: np.ndarray, epoch: int) -> None:
        self.pictures[tag] = pixels_HWC


def test_the_entropy_is_of_an_edges_operations_whatever_the_edge_weighs() -> None:
    one_hot, even = torch.eye(4)[:1], torch.full((1, 4), 0.25)
    assert mean_entropy(torch.cat([one_hot, 0.1 * even])) == pytest.approx(math.log(4) / 2)


def test_an_epochs_figures() -> None:
    space = spaces.get("hb")(nodes=2)
    space.initialize("hb", generator=torch.Generator().manual_seed(0))
    edges = [Edge("sep_conv_3x3", 1), Edge("skip_connect", 1), Edge("neg_skip_connect", 0)]
    normal = CellGenotype((tuple(edges), (Edge("max_pool_3x3", 0), Edge("avg_pool_3x3", 0), Edge("none", 1))), (2, 3))
    reduction = CellGenotype((tuple(edges[:1]), (Edge("conv_7x1_1x7", 0), Edge("dil_conv_5x5", 2))), (2, 3))
    figures = diagnose(space, softmax(space), Genotype(normal, reduction))
    assert (figures["normal_parameter_free"], figures["reduction_parameter_free"]) == (5, 0)
    assert (figures["normal_left_start"], figures["reduction_left_start"]) == (0, 0)
    assert 0 < figures["normal_entropy"] < math.log(9)
    space.initialize("zero")
    figures = diagnose(space, softmax(space), Genotype(normal, reduction))
    assert figures["reduction_entropy"] == pytest.approx(math.log(9))
    assert not any(name.endswith("left_start") for name in figures)


def test_an_operation_without_parameters_takes_no_random_numbers_to_tell() -> None:
    spaces.is_parameter_free.cache_clear()
    before = torch.get_rng_state()
    assert [name for name in spaces.OPERATIONS if spaces.is_parameter_free(name)] == [
        *("max_pool_3x3", "avg_pool_3x3", "skip_connect", "neg_skip_connect", "none")
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
