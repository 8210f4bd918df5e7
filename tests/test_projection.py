"""DARTS-PT: what is decided, against the definition, and that the phase follows the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import spaces
import train_search
from nas.methods import Relaxation, named
from nas.methods.projection import Projection, ProjectionConfig
from nas.runs import checkpoint
from spaces import KINDS, Kind, SearchSpace, SpaceConfig
from tests.tiny import SEARCH, SPACES, nodes_of


def build(name: str, nodes: int = 3) -> SearchSpace:
    return spaces.build(SpaceConfig(space=name, nodes=nodes_of(name, nodes), init="random"))


@pytest.mark.parametrize(("name", "decisions", "epochs"), [("darts", 17, 81), ("agd", 17, 81), ("hb", 12, 56)])
def test_it_takes_as_long_as_in_the_paper(name: str, decisions: int, epochs: int) -> None:
    space = build(name, nodes=4)
    assert (Projection.decisions(space), ProjectionConfig().epochs(space)) == (decisions, epochs)


@pytest.mark.parametrize("method", ["darts", "tests.tiny:Own"])
@pytest.mark.parametrize("name", SPACES)
def test_before_it_begins_it_is_the_method_itself(name: str, method: str) -> None:
    space, inner = build(name), named(method).build()
    projection = Projection(inner, space, seed=0)
    torch.manual_seed(0)
    noise = projection.draw(space)
    for kind in KINDS:
        assert torch.equal(projection(space, noise)[kind], inner(space, noise)[kind])
        assert torch.equal(projection.expected(space)[kind], inner.expected(space)[kind])


class Measured:
    """A supernet whose accuracy falls by the entry of `worth` (E, O) for all that is missing in the mixing weights."""

    def __init__(self, space: SearchSpace) -> None:
        generator = torch.Generator().manual_seed(3)
        # Few values, so that ties occur.
        self.worth = {kind: torch.randint(4, space.alpha[kind].shape, generator=generator).double() for kind in KINDS}
        self.calls = 0

    def __call__(self, mixing: Mapping[Kind, Tensor]) -> float:
        self.calls += 1
        return -sum(float(self.worth[kind][mixing[kind] == 0].sum()) for kind in KINDS)


@pytest.mark.parametrize("name", SPACES)
def test_the_operations_and_edges_whose_removal_costs_most_are_kept(name: str) -> None:
    space = build(name)
    projection, measured = Projection(Relaxation(), space, seed=0), Measured(space)
    projection.begun = True
    for number in range(Projection.decisions(space)):
        projection.decide(space, number, measured)
        calls = measured.calls
        projection.decide(space, number, measured)  # an interrupted decision is made again, a finished one is not
        assert measured.calls == calls
    derived = projection.derive(space)
    for kind, cell in zip(KINDS, (derived.normal, derived.reduce), strict=True):
        worth = measured.worth[kind]
        best = [max(space.candidates(kind, e), key=lambda o: (worth[e, o], -o)) for e in range(len(worth))]
        for target, node in enumerate(cell.nodes, start=2):
            edges = list(space.topology.entering(target))
            # Without an edge, its operation is missing; all else of its row is missing already.
            ranked = sorted(edges, key=lambda e: (-worth[e, best[e]], e))
            kept = sorted(ranked[: space.edges_kept])
            assert [(e.operation, e.source) for e in node] == [
                (space.operations[best[e]], space.topology.edges[e][0]) for e in kept
            ]
        mixing = projection.expected(space)[kind]
        assert ((mixing > 0).sum(dim=1) <= 1).all()
        if space.edge_normalized:
            sums = torch.stack([mixing[list(space.topology.entering(t))].sum() for t in range(2, 5)])
            torch.testing.assert_close(sums, torch.ones(3))


PROJECTION = ("--epochs", "1", "--derivation", "projection", "--projection-every", "1")


@pytest.mark.parametrize(("name", "nodes", "decisions"), [("agd", 2, 6), ("hb", 1, 3)])
def test_a_search_is_followed_by_its_projection(name: str, nodes: int, decisions: int, tmp_path: Path) -> None:
    flags = [
        *SEARCH,
        *PROJECTION,
        "--operations",
        "sep_conv_3x3",
        "skip_connect",
        "none",
        "--nodes",
        str(nodes),
        "--init",
        "zero",
    ]
    result = train_search.command([*flags, "--space", name, "--run-dir", str(tmp_path)])
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert result["epochs"] == state["epoch"] == 1 + decisions
    for kind in KINDS:
        assert (state["tracked"]["relaxation"][f"{kind}_operation"] >= 0).all()
        assert state["tracked"]["relaxation"][f"{kind}_removed"].sum() == (0 if name == "hb" else 1)
