"""Genotypes within limits, with few identities, and random ones; what edges cost in the evaluation network."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import genotype_tool
import genotypes
import optinas
import spaces
import train_search
from genotypes import CellGenotype, Edge, Genotype
from nas.errors import UsageError
from nas.methods.derivation import Derivation, DerivationConfig
from nas.methods.relaxation import Relaxation
from nas.methods.stops import OrderStop, Seen
from nas.networks import architecture, latency_table
from nas.networks.budget import BudgetConfig
from nas.networks.cells import NetworkConfig
from nas.networks.cost import network_cost
from nas.networks.edge_costs import EdgeCosts, edge_costs, genotype_costs
from nas.networks.forms import FORMS, Form, chosen, form_of
from nas.networks.handmade import HandmadeConfig
from optinas import Derived
from spaces import KINDS, Kind, Mixing, SearchSpace, SpaceConfig
from spaces.derivation import best_within, capped
from spaces.limits import Limit, skip_limit
from spaces.sampling import Sampler
from tests.tiny import SEARCH, SPACES, nodes_of, params_table

CIFAR = {"in_channels": 3, "image_size": (32, 32), "num_classes": 10}
#: Odd sizes, an odd number of cells, not square.
ODD = {"in_channels": 1, "image_size": (11, 9), "num_classes": 3}
TINY = NetworkConfig(layers=4, init_channels=3)
FOUR = ("sep_conv_3x3", "dil_conv_5x5", "skip_connect", "none")


def build(name: str, **fields: object) -> SearchSpace:
    return spaces.build(SpaceConfig(space=name, init="zero", **fields))


def random_mixing(space: SearchSpace, seed: int, *, levels: int | None = None) -> dict[Kind, torch.Tensor]:
    """Uniform weights; with `levels`, multiples of 1 / levels, so that many are equal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(space.topology.edges), len(space.operations))
    weights = {kind: torch.rand(shape, generator=generator) for kind in KINDS}
    return weights if levels is None else {kind: (levels * w).floor() / levels for kind, w in weights.items()}


@functools.cache
def full_costs(name: str = "darts") -> EdgeCosts:
    return edge_costs(build(name), NetworkConfig(), **CIFAR)


#: (edge, operation) of each kept edge, node by node.
Cell = tuple[tuple[int, int], ...]


def all_cells(space: SearchSpace, kind: Kind) -> list[Cell]:
    """Every way to choose the edges of a cell, in lexicographic order."""
    names = list(enumerate(space.operations))
    operations = [[o for o, name in names if name != "none" and allowed[o]] for allowed in space.mask[kind].tolist()]
    nodes = []
    for target in range(2, 2 + space.topology.nodes):
        entering = space.topology.entering(target)
        sets = itertools.combinations(entering, min(space.edges_kept or len(entering), len(entering)))
        nodes.append([itertools.product(*(itertools.product([e], operations[e]) for e in kept)) for kept in sets])
    choices = [list(itertools.chain(*ways)) for ways in nodes]
    return sorted(tuple(itertools.chain(*cell)) for cell in itertools.product(*choices))


def as_cell(space: SearchSpace, chosen: Cell) -> CellGenotype:
    edges = [(space.topology.edges[e], space.operations[o]) for e, o in chosen]
    concat = tuple(range(2, 2 + space.topology.nodes))
    return CellGenotype(tuple(tuple(Edge(o, i) for (i, t), o in edges if t == target) for target in concat), concat)


def sums(cells: list[Cell], rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([sum(rows[e][o] for e, o in cell) for cell in cells])


def within(space: SearchSpace, limits: Sequence[Limit]) -> np.ndarray:
    """Whether the pair of the i-th normal and the j-th reduction cell is within the limits."""
    cells = {kind: all_cells(space, kind) for kind in KINDS}
    possible = np.ones([len(cells[kind]) for kind in KINDS], dtype=bool)
    for limit in limits:
        normal, reduce = (sums(cells[kind], limit.costs[kind]) for kind in KINDS)
        possible &= limit.rest + normal[:, None] + reduce <= limit.most
    return possible


def best_by_enumeration(space: SearchSpace, mixing: Mixing, limits: Sequence[Limit]) -> Genotype | None:
    cells = [all_cells(space, kind) for kind in KINDS]
    # Few float32 numbers below 1 are added exactly in float64.
    normal, reduce = (sums(of_kind, mixing[kind].tolist()) for of_kind, kind in zip(cells, KINDS, strict=True))
    strengths = np.where(within(space, limits), normal[:, None] + reduce, -np.inf)
    if not np.isfinite(strengths).any():
        return None
    i, j = np.unravel_index(strengths.argmax(), strengths.shape)  # the first of the largest
    return Genotype(as_cell(space, cells[0][i]), as_cell(space, cells[1][j]))


# --- within limits --------------------------------------------------------------------------------------------


def small(name: str, operations: Sequence[str]) -> SearchSpace:
    """A space of few genotypes; "masked" has edges of one or two operations, "one edge" keeps one a node."""
    space = (
        build("hb", nodes=1, operations=operations) if name == "hb" else build("darts", nodes=2, operations=operations)
    )
    if name == "masked":
        e, o = torch.arange(len(space.topology.edges))[:, None], torch.arange(len(operations))
        space.restrict({"normal": (e + o) % 3 < 2, "reduce": (e + o) % 2 == 0})
    if name == "one edge":
        space.edges_kept = 1
    return space


@pytest.mark.parametrize("levels", [None, 2, 1])
@pytest.mark.parametrize("name", ["darts", "hb", "one edge", "masked"])
def test_the_best_within_limits_is_that_of_full_enumeration(name: str, levels: int | None) -> None:
    space = small(name, FOUR)
    costs = edge_costs(space, TINY, **ODD)
    for seed in range(4):
        mixing = random_mixing(space, seed, levels=levels)
        params, macs = costs.total(space, Sampler(space).draw(random.Random(seed)))
        for limits in (
            costs.limits(params, None),
            costs.limits(None, (macs + costs.rest_macs) // 2),
            costs.limits(params, macs - 1),
            [*costs.limits(params, None), skip_limit(space, 1)],
        ):
            expected = best_by_enumeration(space, mixing, limits)
            with nullcontext() if expected else pytest.raises(ValueError, match="the smallest possible has"):
                assert best_within(space, mixing, limits) == expected


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("name", ["darts", "hb", "masked"])
def test_the_best_within_limits_that_are_unrelated_is_that_of_full_enumeration(name: str, levels: int | None) -> None:
    space, generator = small(name, FOUR), random.Random(0)
    for seed in range(12):
        mixing = random_mixing(space, seed, levels=levels)
        limits = []
        for i in range(2 + seed % 2):
            costs = {kind: [[generator.randrange(100) for _ in FOUR] for _ in space.topology.edges] for kind in KINDS}
            limits.append(Limit(name=f"cost {i}", most=generator.randrange(150, 400), costs=costs, rest=7))
        expected = best_by_enumeration(space, mixing, limits)
        with nullcontext() if expected else pytest.raises(ValueError, match="the smallest possible has"):
            assert best_within(space, mixing, limits) == expected


@pytest.mark.parametrize("name", ["darts", "hb", "agd"])
def test_limits_that_nothing_exceeds_change_nothing(name: str) -> None:
    space = build(name)
    limits = [*full_costs(name).limits(10**9, 10**12), skip_limit(space, 99)]
    for seed in range(3):
        mixing = random_mixing(space, seed)
        assert best_within(space, mixing, ()) == best_within(space, mixing, limits) == space.derive(mixing)


def test_strengths_are_added_exactly() -> None:
    """In float64 1e16 + 1 is 1e16, and another genotype would be the first of the strongest."""
    space = build("darts", nodes=1, operations=("skip_connect", "sep_conv_3x3"))
    weights = torch.tensor([[1e16, 1e16], [1, 0]], dtype=torch.float64)
    found = best_within(space, dict.fromkeys(KINDS, weights), [skip_limit(space, 1)])
    assert [edge.operation for edge in found.normal.nodes[0]] == ["sep_conv_3x3", "skip_connect"]


def trigonometric() -> Mixing:
    """The softmax of sin(0.9 e + 1.7 o + c), c = 0 in the normal and 0.5 in the reduction cell."""
    e, o = torch.arange(14.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64)
    return {kind: (0.9 * e + 1.7 * o + c).sin().softmax(1) for kind, c in zip(KINDS, (0.0, 0.5), strict=True)}


# Found by an independent program.
NORMAL = (
    "normal=[('sep_conv_5x5', 0), ('max_pool_3x3', 1), ('dil_conv_5x5', 1), ('skip_connect', 2), ('dil_conv_3x3', 0), "
    "('avg_pool_3x3', 1), ('dil_conv_3x3', 3), ('avg_pool_3x3', 4)], normal_concat=range(2, 6), "
)
REDUCE = (
    "reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1), ('dil_conv_5x5', 1), ('skip_connect', 2), ('dil_conv_3x3', 0), "
)
FREE = f"{REDUCE}('sep_conv_5x5', 1), ('skip_connect', 2), ('sep_conv_5x5', 4)], reduce_concat=range(2, 6))"
CUT = f"{REDUCE}('avg_pool_3x3', 1), ('skip_connect', 2), ('avg_pool_3x3', 4)], reduce_concat=range(2, 6))"


@pytest.mark.parametrize(
    ("most", "reduce", "cost"),
    [(3_300_000, FREE, (2_585_998, 408_145_536)), (2_500_000, CUT, (2_458_990, 394_763_904))],
)
def test_the_whole_space_of_darts_within_limits(most: int, reduce: str, cost: tuple[int, int]) -> None:
    space, costs = build("darts"), full_costs()
    found = best_within(space, trigonometric(), costs.limits(most, None))
    assert found == genotypes.from_text(f"Genotype({NORMAL}{reduce}")
    assert costs.total(space, found) == cost


def test_what_is_impossible_is_told_with_the_smallest_possible() -> None:
    space, costs = build("darts"), full_costs()
    with pytest.raises(
        ValueError, match=r"at most 1,370,133 parameters; the smallest possible has 1,370,134 parameters"
    ):
        best_within(space, trigonometric(), costs.limits(1_370_133, None))
    best_within(space, trigonometric(), costs.limits(1_370_134, 227_272_320))
    space = build("darts", nodes=1, operations=("sep_conv_3x3", "skip_connect"))
    costs = edge_costs(space, TINY, **ODD)
    # Each is possible: few parameters by identities, no identities by many parameters.
    limits = [*costs.limits(1_152, None), skip_limit(space, 0)]
    with pytest.raises(
        ValueError, match="; with at most 0 identities in the normal cell, the smallest .* parameters; raise"
    ):
        best_within(space, random_mixing(space, 0), limits)
    with pytest.raises(ValueError, match="not finite"):
        best_within(space, {kind: torch.full((2, 2), torch.nan) for kind in KINDS}, [])


# --- few identities -------------------------------------------------------------------------------------------

SEP3, SEP5, DIL3, AVG, SKIP = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "avg_pool_3x3", "skip_connect"


# Computed by an independent program; the cap of 4 rules out five weights, as others come in.
@pytest.mark.parametrize(
    ("most", "changed"),
    [
        (6, {}),
        (5, {1: [(SEP3, 1), (SKIP, 2)]}),
        (4, {1: [(SEP3, 1), (SKIP, 2)], 3: [(SKIP, 1), (AVG, 2)]}),
        (3, {1: [(SEP5, 0), (SEP3, 1)], 3: [(SKIP, 1), (AVG, 2)]}),
    ],
)
def test_the_cap_of_identities_of_p_darts(most: int, changed: dict[int, list[tuple[str, int]]]) -> None:
    space = build("darts")
    e, o = torch.arange(14.0, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64)
    logits = (0.31 * e[:, None] + 0.9 * o + 0.2).sin()
    logits[:, 6] += 1.5 * (1.1 * e).sin().abs()
    mixing = {kind: logits.softmax(1) for kind in KINDS}
    found = capped(space, mixing, most)
    uncapped = [
        [(DIL3, 0), (SEP5, 1)],
        [(SKIP, 0), (SKIP, 2)],
        [(SKIP, 2), (SKIP, 3)],
        [(SKIP, 0), (SKIP, 1)],
    ]
    expected = [changed.get(node, edges) for node, edges in enumerate(uncapped)]
    assert [[(edge.operation, edge.source) for edge in node] for node in found.normal.nodes] == expected
    assert found.reduce == space.derive(mixing).reduce


def test_the_cap_replaces_operations_where_all_edges_are_kept() -> None:
    space = build("hb")
    mixing = random_mixing(space, 0)
    mixing["normal"][:, space.operations.index(SKIP)] = 2 + torch.arange(12) / 12
    found = capped(space, mixing, 3)
    assert [[edge.source for edge in node] for node in found.normal.nodes] == [
        [t - 1, t - 1, t - 2] for t in range(2, 6)
    ]
    # The three strongest are the last.
    skips = [edge.operation == SKIP for node in found.normal.nodes for edge in node]
    assert skips == [False] * 9 + [True] * 3


def test_a_cap_that_no_genotype_keeps_is_refused() -> None:
    space = build("darts", operations=(SKIP, "none"))
    with pytest.raises(ValueError, match="at most 7 identities in the normal cell; the smallest possible has 8"):
        capped(space, random_mixing(space, 0), 7)
    assert capped(space, random_mixing(space, 0), 8) == space.derive(random_mixing(space, 0))


# --- random genotypes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hb", "one edge", "masked"])
@pytest.mark.parametrize("limited", ["by one", "by two", "not"])
def test_random_genotypes_are_uniform(name: str, limited: str) -> None:
    space = small(name, FOUR if name == "masked" else ("sep_conv_3x3", "max_pool_3x3", "none"))
    costs = edge_costs(space, TINY, **ODD)
    # The first excludes about half of the genotypes, the second some more.
    params, macs = costs.total(space, Sampler(space).draw(random.Random(1)))
    limits = {"by one": costs.limits(params, None), "by two": costs.limits(params, macs - 1), "not": []}[limited]
    normal, reduce = ([as_cell(space, cell) for cell in all_cells(space, kind)] for kind in KINDS)
    possible = [Genotype(normal[i], reduce[j]) for i, j in np.argwhere(within(space, limits))]
    sampler, generator = Sampler(space, limits), random.Random(0)
    drawn = Counter(sampler.draw(generator) for _ in range(20 * len(possible)))
    assert set(drawn) <= set(possible)
    chi_squared = sum((drawn[genotype] - 20) ** 2 / 20 for genotype in possible)
    freedom = len(possible) - 1
    assert abs(chi_squared - freedom) < 4 * math.sqrt(2 * freedom)


def test_random_genotypes_repeat_with_their_seed() -> None:
    space = build("agd")
    sampler = Sampler(space)
    first, again, other = ([sampler.draw(g) for _ in range(3)] for g in map(random.Random, (5, 5, 6)))
    assert first == again != other
    assert len(set(first)) == 3


def test_random_genotypes_within_the_tightest_limits() -> None:
    space, costs = build("darts"), full_costs()
    genotype = Sampler(space, costs.limits(1_370_134, 10**9)).draw(random.Random(0))
    assert costs.total(space, genotype) == (1_370_134, 227_272_320)
    with pytest.raises(ValueError, match="smallest possible has 1,370,134 parameters"):
        Sampler(space, costs.limits(10**6, None))


# --- what edges cost ------------------------------------------------------------------------------------------


def test_costs_of_the_edges_of_darts() -> None:
    costs = full_costs()
    assert (costs.rest_params, costs.rest_macs) == (1_370_134, 227_272_320)
    # sep and dil convolutions, both pools, identity, zero; over 18 cells of stride 1, and 2 of stride 2.
    assert costs.params["normal"][0].tolist() == [359_856, 408_240, 179_928, 204_120, 0, 0, 0, 0]
    assert costs.macs["normal"][13].tolist() == [54_743_040, 67_129_344, 27_371_520, 33_564_672, 0, 0, 0, 0]
    assert costs.params["reduce"][0].tolist() == [56_592, 63_504, 28_296, 31_752, 0, 0, 26_352, 0]
    assert costs.macs["reduce"][1].tolist() == [5_806_080, 6_690_816, 2_903_040, 3_345_408, 0, 0, 2_654_208, 0]
    # From an intermediate node the identity needs no convolution.
    assert costs.params["reduce"][4].tolist() == [56_592, 63_504, 28_296, 31_752, 0, 0, 0, 0]


SHAPES = [(TINY, ODD), (NetworkConfig(layers=2, init_channels=4, stem="imagenet"), {**CIFAR, "image_size": (75, 50)})]


@pytest.mark.parametrize(("config", "shape"), SHAPES)
@pytest.mark.parametrize("name", SPACES)
def test_the_sum_of_the_edges_is_the_cost_of_the_network(
    name: str, config: NetworkConfig, shape: dict[str, object]
) -> None:
    """Of the best and of random genotypes within random limits, which they keep."""
    space = build(name, nodes=nodes_of(name, 2))
    costs = edge_costs(space, config, **shape)
    generator = random.Random(0)
    some = [costs.total(space, Sampler(space).draw(generator)) for _ in range(2)]
    for seed, (params, macs) in enumerate(some):
        limits = costs.limits(params, macs)
        for genotype in (
            best_within(space, random_mixing(space, seed), limits),
            Sampler(space, limits).draw(generator),
        ):
            counted, by_edge = network_cost(genotype, config, **shape), genotype_costs(genotype, Form(config, **shape))
            assert costs.total(space, genotype) == (counted.params, counted.macs) == (by_edge.params, by_edge.macs)
            for kind, target, edge, own_params, own_macs in by_edge.edges:
                entry = space.topology.edges.index((edge.source, target)), space.operations.index(edge.operation)
                assert (own_params, own_macs) == (costs.params[kind][entry], costs.macs[kind][entry])
            assert counted.params <= params
            assert counted.macs <= macs


def test_cells_of_different_sizes_are_counted() -> None:
    normal = CellGenotype(((Edge("sep_conv_3x3", 0),),), (2,))
    reduce = CellGenotype(((Edge("dil_conv_3x3", 1), Edge("sep_conv_3x3", 0)),) * 3, (3, 2))
    counted = genotype_costs(Genotype(normal, reduce), Form(TINY, **ODD))
    whole = network_cost(Genotype(normal, reduce), TINY, **ODD)
    assert (counted.params, counted.macs) == (whole.params, whole.macs)


def test_operations_of_ones_own_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for registered in (genotypes.OPERATIONS, spaces.OPERATIONS):
        monkeypatch.setitem(registered, "conv_1x1", None)
        monkeypatch.delitem(registered, "conv_1x1")
    spaces.operation("conv_1x1")(lambda channels, stride, affine: nn.Conv2d(channels, channels, 1, stride))
    space = build("darts", nodes=1, operations=("conv_1x1", "skip_connect"))
    costs = edge_costs(space, NetworkConfig(layers=1, init_channels=2), **CIFAR)
    # One cell, which reduces: 4 channels and a bias.
    assert costs.params["reduce"][:, 0].tolist() == [20, 20]
    assert costs.macs["reduce"][:, 0].tolist() == [16 * 16 * 16] * 2
    assert not costs.params["normal"].any()


# --- the derivation of a search -------------------------------------------------------------------------------

OWN = form_of("fake", in_channels=3, image_size=(8, 8), num_classes=3)
SMALL = {"eval_layers": TINY.layers, "eval_channels": TINY.init_channels}
SMALL_FLAGS = ("--eval-layers", str(TINY.layers), "--eval-channels", str(TINY.init_channels))


def derivation(space: SearchSpace, relaxation: Relaxation | None = None, **fields: object) -> Derivation:
    return Derivation(DerivationConfig(**fields), space, relaxation or Relaxation(), OWN)


def of_seed(space: SearchSpace, seed: int) -> SearchSpace:
    with torch.no_grad():
        for kind in KINDS:
            space.alpha[kind].copy_(random_mixing(space, seed)[kind])
    return space


def test_a_search_derives_within_limits_and_without_any_what_its_method_derives() -> None:
    space, relaxation = of_seed(build("darts", nodes=2), 0), Relaxation()
    mixing = relaxation.expected(space)
    costs = edge_costs(space, TINY, in_channels=3, image_size=(8, 8), num_classes=3)
    free = derivation(space).derive(space, relaxation)
    assert free == relaxation.derive(space)
    most = costs.total(space, free)[0] - 1
    within = derivation(space, max_params=most, **SMALL).derive(space, relaxation)
    assert within == best_within(space, mixing, costs.limits(most, None)) != free
    assert derivation(space, max_skips=1).derive(space, relaxation) == capped(space, mixing, 1)
    both = derivation(space, max_params=most, max_skips=1, **SMALL).derive(space, relaxation)
    assert both == best_within(space, mixing, [*costs.limits(most, None), skip_limit(space, 1)])


def test_limits_are_of_the_network_that_is_asked_for() -> None:
    for flags, layers, channels, size, classes in (
        ({}, 20, 36, (8, 8), 3),
        ({"eval_form": "cifar"}, 20, 36, (32, 32), 10),
        ({"eval_form": "imagenet", "eval_layers": 2}, 2, 48, (224, 224), 1000),
        ({"eval_layers": 3, "eval_channels": 4}, 3, 4, (8, 8), 3),
    ):
        form = chosen(BudgetConfig(**flags), OWN)
        assert (form.network.layers, form.network.init_channels) == (layers, channels)
        assert (form.image_size, form.num_classes) == (size, classes)
    imagenet = form_of("imagenet", in_channels=3, image_size=(224, 224), num_classes=1000)
    assert imagenet.network == FORMS["imagenet"].network


class OwnDerivation(Relaxation):
    def derive(self, space: SearchSpace) -> Genotype:
        return space.derive(self.expected(space))


@pytest.mark.parametrize(
    ("fields", "space", "told"),
    [
        ({"max_skips": 2}, {"space": "hb", "init": None}, "--max-skips 2 replaces identities, from which --init hb"),
        (
            {"max_params": 10, **SMALL},
            {},
            "at most 10 parameters; the smallest possible has .*4 cells of 3 channels on 8x8 pixels",
        ),
        ({"max_skips": 3}, {"operations": ("skip_connect",)}, "at most 3 identities .*; the smallest possible has 4"),
        ({"derivation": "projection", "max_macs": 1}, {}, "--derivation projection .* which --max-macs cannot limit"),
    ],
)
def test_what_a_derivation_refuses(fields: dict[str, object], space: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        derivation(spaces.build(SpaceConfig(**{"space": "darts", "nodes": 2, **space})), **fields)


def test_a_derivation_of_ones_own_is_not_limited() -> None:
    space = build("darts", nodes=1)
    derivation(space, OwnDerivation())
    with pytest.raises(
        ValueError, match="this --method has a derivation of its own .OwnDerivation., which --max-skips"
    ):
        derivation(space, OwnDerivation(), max_skips=2)


# --- the commands ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def latency(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The flag of a table by which the search's networks take a millisecond for each parameter."""
    path = tmp_path_factory.mktemp("tables") / "latency.json"
    table = params_table(build("agd", nodes=2), Form(TINY, OWN.image_size, OWN.num_classes), "agd")
    latency_table.write(table, path)
    return "--latency-table", str(path)


@pytest.fixture(scope="module")
def searched(latency: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The directory of a search that has ended, and its limit of parameters, which was below what is strongest."""
    run = tmp_path_factory.mktemp("searched") / "run"
    space = build("agd", nodes=2)
    costs = edge_costs(space, TINY, in_channels=3, image_size=(8, 8), num_classes=3)
    # The search starts with equal weights, and one epoch leaves a genotype about as large as the first.
    most = costs.total(space, space.derive(random_mixing(space, 0, levels=1)))[0] // 2
    flags = ("--space", "agd", "--epochs", "1", "--max-params", str(most), *SMALL_FLAGS, *latency)
    train_search.command([*SEARCH, *flags, "--run-dir", str(run)])
    return run, most


def test_a_genotype_is_derived_from_a_search(
    searched: tuple[Path, int], latency: tuple[str, str], tmp_path: Path
) -> None:
    run, most = searched
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    plain = genotype_tool.command(["derive", str(run), *SMALL_FLAGS])
    assert plain["params"] > most
    assert plain["epochs"] == 1
    out = str(tmp_path / "g.json")
    limited = genotype_tool.command(["derive", str(run), *SMALL_FLAGS, "--max-params", str(most), "--out", out])
    assert limited["params"] <= most
    assert genotypes.load(out) == genotypes.resolve(run)
    result = json.loads((run / "result.json").read_text())
    assert (result["params"], result["macs"]) == (limited["params"], limited["macs"])
    by_latency = genotype_tool.command(["derive", str(run), *SMALL_FLAGS, "--max-latency", str(most), *latency])
    assert by_latency is not None
    assert limited is not None
    assert {**by_latency, "out": out} == {**limited, "latency_ms": result["latency_ms"]}
    assert result["latency_ms"] == pytest.approx(limited["params"])
    from_python = optinas.derive(run, **SMALL, max_params=most)
    assert from_python == Derived(
        genotype=genotypes.load(out), params=limited["params"], macs=limited["macs"], epochs=1, note=None
    )
    counted = network_cost(genotypes.load(out), TINY, in_channels=3, image_size=(8, 8), num_classes=3)
    assert (limited["params"], limited["macs"]) == (counted.params, counted.macs)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "checkpoint.pt").rename(copy / "checkpoint.previous.pt")  # as while one is being written
    assert genotype_tool.command(["derive", str(copy), *SMALL_FLAGS]) == plain


def test_it_is_told_if_the_search_took_an_earlier_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def update(rule: OrderStop, seen: Seen) -> None:
        if seen.epoch == 1:
            rule.take, rule.reason = 0, "it is enough"

    monkeypatch.setattr(OrderStop, "update", update)
    run = str(tmp_path / "run")
    train_search.command([*SEARCH, "--epochs", "3", "--stop", "order", "--run-dir", run])
    capsys.readouterr()
    assert genotype_tool.command(["derive", run])["epochs"] == 2
    told = capsys.readouterr().out.strip()
    assert "state after epoch 2, the newest; the search took the genotype of epoch 1, whose state is not kept" in told
    assert optinas.derive(run).note == told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: (run / "config.json").unlink(), "holds no run"),
        (lambda run: (run / "checkpoint.pt").unlink(), "no checkpoint can be read .there is none yet"),
        (lambda run: (run / "checkpoint.pt").write_bytes(b"x"), "checkpoint.pt: it is damaged"),
        (lambda run: (run / "data.json").unlink(), "data.json cannot be read"),
        (lambda run: changed(run, "space", None), "it is not a search"),
        (lambda run: changed(run, "space", {"space": "darts", "nodes": 3}), "its space"),
        (lambda run: changed(run, "space", {"space": "nowhere"}), "unknown search space 'nowhere'"),
        (lambda run: changed(run, "space", {"space": "hb", "nodes": "many"}), "config.json does not fit this version"),
        (lambda run: changed(run, "space", {"nodes": 4}), "config.json does not say which space the search has"),
        (lambda run: changed(run, "method", {}), "config.json does not say which method the search has"),
        (lambda run: changed(run, "derivation", {"derivation": "projection"}), "derives by --derivation projection"),
        (lambda run: changed(run, "method", {"method": "os:path"}), "no module that a file names is imported"),
    ],
)
def test_what_is_no_search_is_told(
    change: Callable[[Path], object], told: str, searched: tuple[Path, int], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(searched[0], tmp_path / "run"))
    change(run)
    with pytest.raises(UsageError, match=f"{run}.*{told}"):
        genotype_tool.command(["derive", str(run)])


def changed(run: Path, name: str, value: object) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, name: value}))


def test_a_search_in_a_space_of_ones_own(
    searched: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(searched[0], tmp_path / "run"))
    changed(run, "space", {"space": "space_of_my_own:Own", "nodes": 2})
    (tmp_path / "space_of_my_own.py").write_text("from spaces.agd import AGDSpace as Own\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match="if you trust it, name it with --operations-from space_of_my_own"):
        genotype_tool.command(["derive", "run", *SMALL_FLAGS])
    own = genotype_tool.command(["derive", "run", *SMALL_FLAGS, "--operations-from", "space_of_my_own"])
    assert own == genotype_tool.command(["derive", str(searched[0]), *SMALL_FLAGS])


def test_limits_that_nothing_keeps_are_a_users_mistake(searched: tuple[Path, int], tmp_path: Path) -> None:
    run = str(searched[0])
    with pytest.raises(UsageError, match="the smallest possible has"):
        genotype_tool.command(["derive", run, *SMALL_FLAGS, "--max-params", "5"])
    with pytest.raises(UsageError, match="cannot be written: No such file or directory; choose another --out"):
        genotype_tool.command(["derive", run, *SMALL_FLAGS, "--out", str(tmp_path / "no" / "g.json")])
    with pytest.raises(UsageError, match="the smallest possible has"):
        genotype_tool.command(["random", "--space", "hb", *SMALL_FLAGS, "--max-params", "5"])


def test_random_genotypes_are_written_for_a_training(tmp_path: Path) -> None:
    flags = ("--space", "hb", *SMALL_FLAGS, "--max-params", "9000", "--seed", "3")
    several = genotype_tool.command(["random", *flags, "--number", "2", "--out", str(tmp_path / "g.json")])["genotypes"]
    (one,) = genotype_tool.command(["random", *flags, "--out", str(tmp_path / "one.json")])["genotypes"]
    assert [row["out"] for row in several] == [str(tmp_path / f"g-{seed}.json") for seed in (3, 4)]
    assert one == {**several[0], "out": str(tmp_path / "one.json")}
    drawn = optinas.random_genotype(space="hb", **SMALL, max_params=9000, seed=3)
    assert drawn == genotypes.load(one["out"])
    for row in several:
        found = architecture.resolve(row["out"], TINY, HandmadeConfig()).architecture
        counted = network_cost(found.genotype, TINY, **CIFAR)
        assert (row["params"], row["macs"]) == (counted.params, counted.macs)
        assert counted.params <= 9000
