"""The search spaces: topologies, initializations, mixing weights, derivation, registry."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import spaces
from genotypes import registry, validate
from nas.methods import named
from nas.methods.relaxation import Relaxation
from spaces import KINDS, TABLE_6, Kind, SearchSpace, SpaceConfig, Topology
from spaces.space import INIT_GAP
from tests.tiny import ANY_OPERATIONS, nodes_of

ALL = spaces.names()
softmax = Relaxation().expected


def build(name: str, **fields: object) -> SearchSpace:
    return spaces.build(SpaceConfig(space=name, **fields))


def randomized(space: SearchSpace, seed: int = 0) -> SearchSpace:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in space.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return space


# The counts of the reference: 14 x 8, 12 x 9 and 14 x 9 (+ 14 betas) numbers a cell.
@pytest.mark.parametrize(
    ("name", "edges", "operations", "parameters"),
    [("darts", 14, 8, 224), ("hb", 12, 9, 216), ("agd", 14, 9, 280)],
)
def test_sizes(name: str, edges: int, operations: int, parameters: int) -> None:
    space = build(name)
    assert len(space.topology.edges) == edges
    assert len(space.operations) == operations
    assert sum(p.numel() for p in space.parameters()) == parameters
    assert all(softmax(space)[kind].shape == (edges, operations) for kind in KINDS)


def test_edges_of_space_hb() -> None:
    assert build("hb", nodes=2).topology.edges == ((1, 2), (1, 2), (0, 2), (2, 3), (2, 3), (1, 3))


def test_edges_of_darts_and_space_agd() -> None:
    expected = tuple((i, t) for t in range(2, 6) for i in range(t))
    assert build("darts").topology.edges == build("agd").topology.edges == expected


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (0, (), "at least 1"),
        (1, ((2, 2),), "does not run forward"),
        (1, ((0, 3),), "does not run forward"),
        (2, ((0, 2),), "no edge enters node 3"),
    ],
)
def test_topology_refuses(nodes: int, edges: tuple[tuple[int, int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Topology(nodes, edges)


@pytest.mark.parametrize("name", ALL)
def test_architecture_is_saved_and_loaded(name: str) -> None:
    space, other = randomized(build(name)), build(name)
    other.load_state_dict(space.state_dict())
    for kind in KINDS:
        assert torch.equal(softmax(space)[kind], softmax(other)[kind])
    masks = {f"{kind}_mask" for kind in KINDS}
    assert set(space.state_dict()) == {*masks, *(n for n, _ in space.named_parameters())}


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_parameter_learns(name: str) -> None:
    space = randomized(build(name))
    weights = torch.randn(len(space.topology.edges), len(space.operations))
    sum((softmax(space)[kind] * weights).sum() for kind in KINDS).backward()
    for name_, parameter in space.named_parameters():
        assert parameter.grad is not None, name_
        kind = name_.rpartition(".")[2]
        learns = space.mask[kind] if name_.startswith("alpha") else torch.ones(len(parameter), dtype=torch.bool)
        assert torch.equal(parameter.grad != 0, learns), name_


def independent_mixing(space: SearchSpace, kind: str) -> Tensor:
    """Eq. (25) and (28)-(29), entry by entry, among the operations that an edge allows."""
    alpha = space.alpha[kind].where(space.mask[kind], -math.inf).tolist()
    rows = [[math.exp(a) / sum(math.exp(b) for b in row) for a in row] for row in alpha]
    if hasattr(space, "beta"):
        beta = space.beta[kind].tolist()
        targets = [t for _, t in space.topology.edges]
        for e, row in enumerate(rows):
            rivals = sum(math.exp(b) for b, t in zip(beta, targets, strict=True) if t == targets[e])
            rows[e] = [w * math.exp(beta[e]) / rivals for w in row]
    return torch.tensor(rows)


@pytest.mark.parametrize("edge_normalized", [None, False, True])
@pytest.mark.parametrize("name", ALL)
def test_mixing_weights_against_the_formula(name: str, edge_normalized: bool | None) -> None:
    space = randomized(build(name, init="zero", edge_normalized=edge_normalized))
    assert hasattr(space, "beta") == (name == "agd" if edge_normalized is None else edge_normalized)
    for kind in KINDS:
        torch.testing.assert_close(softmax(space)[kind], independent_mixing(space, kind))


def test_edge_weights_are_stable_for_large_beta() -> None:
    space = build("agd")
    with torch.no_grad():
        space.beta["normal"][0] = 1e4
    assert softmax(space)["normal"].isfinite().all()


# --- initializations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_zero_initialization_is_uniform(name: str) -> None:
    space = build(name, init="zero")
    for kind in KINDS:
        weights = softmax(space)[kind]
        for target in range(2, 6):
            entering = list(space.topology.entering(target))
            share = 1 / len(entering) if name == "agd" else 1.0
            allowed = space.mask[kind][entering]
            torch.testing.assert_close(weights[entering], share * allowed / allowed.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("name", ALL)
def test_random_initialization_is_small_and_seeded(name: str) -> None:
    config = SpaceConfig(space=name, init="random")
    first, again, other = (spaces.build(config, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.alpha["normal"], again.alpha["normal"])
    assert not torch.equal(first.alpha["normal"], other.alpha["normal"])
    assert not torch.equal(first.alpha["normal"], first.alpha["reduce"])
    assert 0 < first.alpha["normal"].abs().max() < 1e-2


def test_defaults_of_initialization() -> None:
    assert build("hb").alpha["normal"].max() == INIT_GAP
    assert build("darts").alpha["normal"].abs().max() == 0
    assert build("agd").beta["normal"].abs().max() == 0


def test_unknown_initialization_is_refused() -> None:
    with pytest.raises(ValueError, match="no initialization 'hb'; it has: zero, random"):
        build("darts", init="hb")


@pytest.mark.parametrize(
    # The peaked softmax of the reference: gap, w*, dw*/dalpha*.
    ("gap", "peak", "slope"),
    [
        (5, 0.948853408205, 0.0485306179428),
        (10, 0.999636932428, 0.0003629357541),
        (2, 0.480150052832, 0.249605979597),
    ],
)
def test_hb_initialization_peaks_as_stated(gap: float, peak: float, slope: float) -> None:
    space = build("hb", init_gap=gap).double()
    weights = softmax(space)["reduce"].view(4, 3, 9)
    identity, negative = TABLE_6.index("skip_connect"), TABLE_6.index("neg_skip_connect")
    for node in range(4):
        assert weights[node, 1, identity].item() == pytest.approx(peak, rel=1e-9)
        assert weights[node, 2, negative].item() == pytest.approx(peak, rel=1e-9)
    # The gradient of node 0's o2 in its own peaked logit is w (1 - w).
    (gradient,) = torch.autograd.grad(weights[0, 1, identity], space.alpha["reduce"])
    assert gradient[1, identity].item() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize("nodes", [2, 4])
def test_slots_that_left_the_start_are_counted(nodes: int) -> None:
    space = build("hb", nodes=nodes)
    assert [len(space.peaked[kind]) for kind in KINDS] == [2 * nodes] * 2
    assert space.left_start(softmax(space)) == {"normal": 0, "reduce": 0}
    convolution, zero = TABLE_6.index("sep_conv_3x3"), TABLE_6.index("none")
    with torch.no_grad():
        space.alpha["normal"][0, convolution] = 20  # o1 starts at random: it cannot leave
        space.alpha["normal"][1, convolution] = 20
        space.alpha["reduce"][1:3, convolution] = 20
        space.alpha["reduce"][4, zero] = 20  # derived is the identity still
    assert space.left_start(softmax(space)) == {"normal": 1, "reduce": 2}
    space.initialize("random")
    assert space.left_start(softmax(space)) == {"normal": 0, "reduce": 0}


def test_hb_initialization_needs_both_identities() -> None:
    with pytest.raises(ValueError, match="needs the operation 'neg_skip_connect'"):
        build("hb", operations=("skip_connect", "sep_conv_3x3"))
    with pytest.raises(ValueError, match="every node as eq. .26., which --edge-normalized rules out"):
        build("hb", edge_normalized=True)


# The toy of the reference for eq. (26): every operation multiplies by a number.
TOY_OPERATIONS = torch.tensor([2.0, 3.0, -0.5, 0.25, 1.0, 0.5, 1.0, -1.0, 0.0], dtype=torch.float64)
TOY_ALPHA = torch.tensor([0.1, -0.2, 0.3, 0.0, -0.1, 0.2, 0.05, -0.05, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(("gap", "x_t"), [(5, 2.71871589982), (10, 2.80917405234), (20, 2.80982073708)])
def test_eq_26_on_the_toy(gap: float, x_t: float) -> None:
    space = build("hb", init_gap=gap).double()
    with torch.no_grad():
        space.alpha["normal"][0] = TOY_ALPHA
    o1, o2, o = (softmax(space)["normal"][:3] @ TOY_OPERATIONS).tolist()
    x1, x2 = 1.3, -0.7
    value = o1 * x1 + o2 * x1 + o * x2
    assert value == pytest.approx(x_t, abs=1e-10)
    target = (TOY_ALPHA.softmax(0) @ TOY_OPERATIONS).item() * x1 + x1 - x2
    bound = 8 * math.exp(-gap) * (abs(x1) + abs(x2)) * (1 + 3)
    assert abs(value - target) <= bound


# --- derivation -------------------------------------------------------------------------------------------


def independent_derivation(space: SearchSpace, weights: Tensor, kept: int) -> list[set[tuple[str, int, int]]]:
    """Brute force: of all ways to keep `kept` edges with one operation each, the one of largest strength."""
    nodes = []
    for target in range(2, 2 + space.topology.nodes):
        entering = space.topology.entering(target)
        options = [
            (weights[e, o].item(), e, name)
            for e in entering
            for o, name in enumerate(space.operations)
            if name != "none"
        ]
        # Distinct sums of random reals: the best choice is unique.
        best = max(
            (c for c in itertools.combinations(options, kept) if len({e for _, e, _ in c}) == kept),
            key=lambda c: sum(s for s, _, _ in c),
        )
        nodes.append({(name, space.topology.edges[e][0], e) for _, e, name in best})
    return nodes


@pytest.mark.parametrize(("name", "kept"), [("darts", 2), ("agd", 2), ("hb", 3)])
@pytest.mark.parametrize("seed", [0, 1])
def test_derivation_keeps_the_strongest(name: str, kept: int, seed: int) -> None:
    space = randomized(build(name, nodes=3), seed)
    genotype = space.derive(softmax(space))
    validate(genotype)
    for kind, cell in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        expected = independent_derivation(space, softmax(space)[kind], kept)
        for node, edges in zip(expected, cell.nodes, strict=True):
            assert sorted((e.operation, e.source) for e in edges) == sorted((n, s) for n, s, _ in node)
        assert cell.concat == (2, 3, 4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(ALL), nodes=st.integers(1, 6))
def test_derived_genotypes_are_valid(seed: int, name: str, nodes: int) -> None:
    space = randomized(build(name, nodes=nodes_of(name, nodes)), seed)
    genotype = space.derive(softmax(space))
    validate(genotype)
    for cell in (genotype.normal, genotype.reduce):
        for edges in cell.nodes:
            assert all(edge.operation != "none" for edge in edges)
            if name != "hb":
                assert len({edge.source for edge in edges}) == 2


def test_zero_is_never_kept_however_strong() -> None:
    for name in ANY_OPERATIONS:
        space = build(name, operations=("none", "skip_connect", "neg_skip_connect"))
        with torch.no_grad():
            for kind in KINDS:
                space.alpha[kind][:, 0] = 50
        genotype = space.derive(softmax(space))
        assert all(e.operation != "none" for node in genotype.normal.nodes for e in node)


def test_ties_go_to_the_first() -> None:
    space = build("darts")
    genotype = space.derive(softmax(space))
    for node in genotype.normal.nodes:
        assert [(e.operation, e.source) for e in node] == [("sep_conv_3x3", 0), ("sep_conv_3x3", 1)]


@pytest.mark.parametrize("name", ["agd", "darts"])
def test_edge_weights_decide_where_edges_are_normalized(name: str) -> None:
    space = build(name, edge_normalized=True)
    with torch.no_grad():
        space.beta["normal"][space.topology.entering(5)[-2:],] = 1.0
    assert [e.source for e in space.derive(softmax(space)).normal.nodes[3]] == [3, 4]


def test_space_hb_keeps_one_operation_a_slot() -> None:
    space = build("hb")
    node = space.derive(softmax(space)).normal.nodes[1]
    assert [e.source for e in node] == [2, 2, 1]
    assert [e.operation for e in node[1:]] == ["skip_connect", "neg_skip_connect"]


def test_derivation_refuses_what_is_no_mixing() -> None:
    space = build("darts")
    weights = softmax(space)["normal"].detach()
    with pytest.raises(ValueError, match="not finite"):
        space.derive({"normal": weights * torch.nan, "reduce": weights})
    with pytest.raises(ValueError, match=r"\(14, 7\), not \(14, 8\)"):
        space.derive({"normal": weights[:, 1:], "reduce": weights})


# --- masks ------------------------------------------------------------------------------------------------


def random_masks(space: SearchSpace, kept: int, seed: int = 0) -> dict[Kind, Tensor]:
    """On each edge, `kept` of the operations, two or more."""
    order = torch.rand(2, *space.alpha["normal"].shape, generator=torch.Generator().manual_seed(seed))
    return dict(zip(KINDS, order.argsort().argsort() < kept, strict=True))


def test_without_a_mask_the_logits_are_the_spaces_own_tensor() -> None:
    space = build("agd")
    assert space.logits("normal") is space.alpha["normal"]
    assert all(mask.all() for mask in space.mask.values())


@pytest.mark.parametrize("name", ["darts", "hb", "agd"])
def test_excluded_operations_have_no_weight_and_are_not_derived(name: str) -> None:
    space, other = randomized(build(name, init="zero")), build(name, init="zero")
    space.restrict(random_masks(space, 4))
    other.load_state_dict(space.state_dict())
    mixing = softmax(space)
    allowed = set()
    for kind, mask in space.mask.items():
        assert ((mixing[kind] != 0) == mask).all()
        torch.testing.assert_close(mixing[kind].sum(dim=1), space.edge_weights(kind))
        assert torch.equal(softmax(other)[kind], mixing[kind])
        (gradient,) = torch.autograd.grad(mixing[kind].square().sum(), space.alpha[kind])
        assert (gradient[~mask] == 0).all()
        edges = [(kind, source) for source, _ in space.topology.edges]
        allowed |= {(*edges[e], space.operations[o]) for e, o in mask.nonzero().tolist()}
    # All weights alike: without the masks, the first operation would be derived.
    genotype = space.derive({kind: torch.ones_like(weights) for kind, weights in mixing.items()})
    for kind, cell in (("normal", genotype.normal), ("reduce", genotype.reduce)):
        assert {(kind, edge.source, edge.operation) for node in cell.nodes for edge in node} <= allowed


def test_a_mask_that_leaves_nothing_is_refused() -> None:
    space = build("darts")
    masks = dict(zip(KINDS, torch.ones(2, 14, 8, dtype=torch.bool), strict=True))
    masks["reduce"][4, :-1] = False
    with pytest.raises(ValueError, match="edge 4 of the reduction cell has no operation other than 'none' left"):
        space.restrict(masks)
    assert all(mask.all() for mask in space.mask.values())


class Peaked(spaces.get("hb")):
    """Space-HB without the identity on one of the edges that start with it."""

    def allowed_operations(self, kind: Kind, edge: int) -> Sequence[str]:
        return ["sep_conv_3x3", "none"] if edge == 4 else self.operations


def test_an_excluded_operation_is_not_peaked() -> None:
    space = Peaked()
    space.initialize("hb")
    assert space.mask["normal"].sum(dim=1).tolist() == [9] * 4 + [2] + [9] * 7
    assert [len(space.peaked[kind]) for kind in KINDS] == [7, 7]
    assert space.alpha["normal"][4].max() < 1
    assert space.left_start(softmax(space)) == {"normal": 0, "reduce": 0}
    masks = {kind: mask.clone() for kind, mask in space.mask.items()}
    masks["normal"][1, space.operations.index("skip_connect")] = False
    space.restrict(masks)
    assert space.left_start(softmax(space)) == {"normal": 1, "reduce": 0}


# --- registry ---------------------------------------------------------------------------------------------


def test_known_spaces() -> None:
    assert {"darts", "hb", "agd"} <= set(ALL)


def test_unknown_space_lists_what_exists() -> None:
    with pytest.raises(ValueError, match=r"unknown search space 'dart'; did you mean 'darts'\? known: agd, darts, hb"):
        spaces.get("dart")


def test_duplicate_name_is_refused() -> None:
    with pytest.raises(ValueError, match="already registered"):
        spaces.register("hb")(SearchSpace)


OUTSIDE = """
from spaces import SearchSpace

class Chain(SearchSpace):
    edges_kept = 1

    def edges_between(self, nodes):
        return [(t - 1, t) for t in range(2, 2 + nodes)]
"""


def test_space_of_ones_own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chain_space.py").write_text(OUTSIDE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    space = build("chain_space:Chain", nodes=2)
    assert space.topology.edges == ((1, 2), (2, 3))
    assert [len(node) for node in space.derive(softmax(space)).normal.nodes] == [1, 1]


def test_a_space_of_an_earlier_version_is_told_what_has_changed() -> None:
    class Own(spaces.get("darts")):
        def mixing_weights(self, kind: str) -> Tensor:
            return self.alpha[kind].sigmoid()

    with pytest.raises(
        ValueError, match="Own overrides mixing_weights, which is not called for that; override unmasked_logits"
    ):
        Own()


@pytest.mark.parametrize("name", ["no_such_module:X", "math:nothing", ":X", "math:"])
def test_module_that_cannot_be_imported(name: str) -> None:
    with pytest.raises(ValueError, match="could not be imported"):
        spaces.get(name)


def test_object_that_is_no_space_or_method() -> None:
    with pytest.raises(ValueError, match="not a subclass"):
        spaces.get("math:pi")
    with pytest.raises(ValueError, match="'spaces:SearchSpace' does not define edges_between"):
        spaces.get("spaces:SearchSpace")
    with pytest.raises(ValueError, match="'nas.methods:Method' does not define build"):
        named("nas.methods:Method")


def test_a_broken_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_space.py").write_text("class Broken(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ValueError, match="could not be imported: SyntaxError"):
        spaces.get("broken_space:Broken")


def test_a_broken_installed_space_stops_only_who_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("broken", "no_such_module:Space", "optinas.spaces")
    monkeypatch.setattr(registry, "entry_points", lambda group, name="broken": [point] if name == "broken" else [])
    with pytest.warns(UserWarning, match="'broken', installed as no_such_module:Space, could not be imported"):
        spaces.load_installed()
    with pytest.raises(ValueError, match="could not be imported: ModuleNotFoundError"):
        spaces.get("broken")
    assert spaces.get("hb").__name__ == "HBSpace"


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("elsewhere", "spaces.hb:HBSpace", "optinas.spaces")
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name="elsewhere": [point] if name == "elsewhere" else []
    )
    assert "elsewhere" in spaces.names()
    assert spaces.get("elsewhere").__name__ == "HBSpace"


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (("sep",), "unknown operation 'sep'"),
        (("none",), "other than 'none'"),
        (("skip_connect", "skip_connect"), "occurs twice"),
    ],
)
def test_faulty_operations_are_refused(operations: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("darts", operations=operations)


def test_all_nine_operations_on_request() -> None:
    assert build("darts", operations=("all",)).operations == TABLE_6
