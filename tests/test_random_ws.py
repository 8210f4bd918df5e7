"""Random search with weight sharing: what is drawn, what is chosen, and that nothing else is combined with it."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import genotypes
import spaces
import train_search
from genotypes import Genotype
from nas.errors import Stopped, UsageError
from nas.methods import named
from nas.methods.bilevel import Bilevel
from nas.methods.random_ws import RandomWS, UniformSampling, mixing_of
from nas.search import Search
from spaces import KINDS, Mixing, SearchSpace, SpaceConfig
from spaces.sampling import Sampler
from tests.tiny import OPERATIONS, SEARCH, MaskedSpace, assert_same, final_state

FLAGS = ("--method", "random-ws", "--samples", "5", "--finalists", "2")


def build(name: str, **fields: Any) -> SearchSpace:
    return spaces.build(SpaceConfig(space=name, nodes=3, init="random", **fields))


@pytest.mark.parametrize(
    ("name", "fields"), [("darts", {}), ("agd", {}), ("hb", {}), ("darts", {"edge_normalized": True})]
)
def test_a_draw_is_an_architecture_that_can_be_derived(name: str, fields: dict[str, Any]) -> None:
    space, sampling = build(name, **fields), named("random-ws").build()
    mixing = sampling(space, sampling.draw(space))
    derived = space.derive(mixing)
    for kind in KINDS:
        kept = mixing[kind].count_nonzero(dim=1)
        assert kept.max() == 1
        for target in range(2, 5):
            entering = list(space.topology.entering(target))
            assert kept[entering].sum() == len(entering[: space.edges_kept])
            weights = mixing[kind][entering]
            weights = weights[weights > 0]
            share = 1 / len(weights) if space.edge_normalized else 1
            assert weights.tolist() == pytest.approx([share] * len(weights))
    assert_same(dict(mixing_of(space, derived)), dict(mixing))


def test_draws_are_uniform_over_edges_and_allowed_operations() -> None:
    """On one node with three edges, of which it keeps two: 3 pairs of edges, with 2 to 3 operations each."""

    class Three(MaskedSpace):
        def edges_between(self, nodes: int) -> list[tuple[int, int]]:
            return [(0, 2), (1, 2), (0, 2)]

    torch.manual_seed(0)
    space, sampling, draws = Three(nodes=1), UniformSampling(1, 1), 3000
    rows = [sampling.weights(space, sampling.draw(space))["normal"] for _ in range(draws)]
    counts = Counter(tuple(map(tuple, row.nonzero().tolist())) for row in rows)
    allowed = [space.candidates("normal", edge) for edge in range(3)]
    expected = {
        ((a, o), (b, p)): draws / 3 / len(allowed[a]) / len(allowed[b])
        for a, b in ((0, 1), (0, 2), (1, 2))
        for o in allowed[a]
        for p in allowed[b]
    }
    assert counts.keys() == expected.keys()
    chi_squared = sum((counts[key] - number) ** 2 / number for key, number in expected.items())
    assert chi_squared < 50  # of 20 degrees of freedom: exceeded once in 4000 seeds
    torch.testing.assert_close(torch.stack(rows).mean(0), sampling.expected_weights(space)["normal"], rtol=0, atol=0.04)


def test_equal_numbers_keep_no_edge_too_many() -> None:
    space = build("darts")
    noise = {kind: torch.zeros(len(space.topology.edges), len(space.operations) + 1) for kind in KINDS}
    assert UniformSampling(1, 1).weights(space, noise)["normal"].sum() == 6


def test_what_does_best_on_all_images_is_chosen_among_the_best_on_a_batch() -> None:
    space, sampling = build("agd"), UniformSampling(20, 3)
    drawn = sampling.candidates(Sampler(space), steps=29_999, seed=0)
    assert len(drawn) == 2 * 20
    assert drawn == sampling.candidates(Sampler(space), steps=29_999, seed=0)
    assert drawn != sampling.candidates(Sampler(space), steps=29_999, seed=1)
    calls: list[int | None] = []

    def number(mixing: Mixing) -> int:
        return drawn.index(space.derive(mixing))

    def accuracy(mixing: Mixing, batch: int | None) -> float:
        calls.append(batch)
        # On their batch the last are best, of all images 18 and 37 are right on the same number.
        return float(number(mixing)) if batch is not None else float(number(mixing) in (0, 18, 37))

    assert sampling.choose(space, drawn, accuracy) == (drawn[18], 1.0)
    assert calls == [0] * 20 + [1] * 20 + [None] * 6


def test_a_search_trains_no_architecture_and_its_last_genotype_is_the_chosen_one(tmp_path: Path) -> None:
    flags = [*SEARCH, *OPERATIONS, "--space", "agd", *FLAGS, "--epochs", "2", "--seed", "3"]
    result = train_search.command([*flags, "--run-dir", str(tmp_path)])
    state = final_state(tmp_path)
    start = spaces.build(SpaceConfig(space="agd", nodes=2, operations=OPERATIONS[1:]), seed=3)
    assert_same({k: state["tracked"]["space"][k] for k in start.state_dict()}, dict(start.state_dict()))
    files = state["genotypes"]
    assert files["epoch_002.json"] == files["genotype.json"]
    first, last = state["metrics"]
    assert not first.get("arch_loss")
    assert float(last["valid_accuracy"]) == result["valid_accuracy"]
    log = (tmp_path / "log.txt").read_text()
    assert "measuring 5 random architectures with the weights of the search" in log
    assert f"the best of them is right on {result['valid_accuracy']:.2f} % of the held-out images" in log
    # The candidates come before any training, whatever torch's generator has done.
    drawn = UniformSampling(5, 2).candidates(Sampler(start), steps=4, seed=3)
    assert genotypes.from_json(files["epoch_001.json"], "") == drawn[0]
    assert genotypes.from_json(files["genotype.json"], "") in drawn


def test_interrupted_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an epoch, where the next draw is of torch's random state, and in the choice at the end.

    In S4 an operation draws as well, in the choice too.
    """
    flags = [*SEARCH, "--space", "s4", *FLAGS, "--epochs", "2", "--run-dir"]
    train_search.command([*flags, str(tmp_path / "whole")])
    parts = [*flags, str(tmp_path / "parts")]

    def signalling(function: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def wrapped(*arguments: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)
            return function(*arguments)

        return wrapped

    for owner, name, call, more in ((Bilevel, "weight_step", 3, []), (Search, "_accuracy", 3, ["--resume"])):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, signalling(getattr(owner, name), call))
            with pytest.raises(Stopped):
                train_search.command([*parts, *more])
        assert not (tmp_path / "parts" / "genotype.json").exists()
    train_search.command([*parts, "--resume"])
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


def test_candidates_are_within_the_limits(tmp_path: Path) -> None:
    """Also of a supernet with partial channels, which an edge that is left out does not bypass."""
    flags = [*SEARCH, *OPERATIONS, *FLAGS, "--epochs", "1", "--max-skips", "0"]
    flags += ["--init-channels", "4", "--partial-channels", "2", "--run-dir", str(tmp_path)]
    train_search.command(flags)
    genotype: Genotype = genotypes.from_json((tmp_path / "genotype.json").read_text(), "")
    assert all(edge.operation != "skip_connect" for node in genotype.normal.nodes for edge in node)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        *(
            (flags, f"{flag} does nothing with --method random-ws, which does not train the architecture")
            for flags, flag in [
                ("--unrolled", "--unrolled"),
                ("--beta-decay 50", "--beta-decay"),
                ("--entropy-weight -1", "--entropy-weight"),
                ("--cost-weight 1", "--cost-weight"),
                ("--perturb random", "--perturb"),
                ("--drop 1", "--drop"),
                ("--warm-up-epochs 1", "--warm-up-epochs"),
                ("--derivation projection", "--derivation projection"),
                ("--stop order", "--stop"),
                ("--eigenvalue-every 2", "--eigenvalue-every"),
            ]
        ),
        ("--space hb", "--method random-ws cannot start from peaked logits (--init hb)"),
        ("--max-params 1", "no genotype of this space has at most 1 parameters"),
    ],
)
def test_refusals(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ValueError), match=re.escape(message)) as refused:
        train_search.command([*SEARCH, *FLAGS, "--run-dir", str(tmp_path / "run"), *flags.split()])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_there_are_no_more_finalists_than_samples() -> None:
    with pytest.raises(ValueError, match="--finalists 10 are more than --samples 9; give fewer"):
        RandomWS(samples=9)
