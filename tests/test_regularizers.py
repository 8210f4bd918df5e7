"""The terms of the architecture's loss: their definitions, their gradients, and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import spaces
from nas.methods.regularizers import (
    Regularizer,
    RegularizerConfig,
    cost_shares,
    entropies,
    mean_logsumexp,
    shares_of,
)
from nas.methods.relaxation import Relaxation
from spaces import KINDS, Kind, SearchSpace
from tests.tiny import MaskedSpace, waves


def masked() -> SearchSpace:
    space = MaskedSpace(nodes=1).double()
    with torch.no_grad():
        for shift, kind in enumerate(KINDS):
            space.alpha[kind].copy_(waves(2, 4) + 0.3 * shift)
            space.alpha[kind][1, 3] = -900  # whose softmax is exactly 0
    return space


def costs_of(space: SearchSpace) -> dict[Kind, Tensor]:
    return {
        "normal": torch.tensor([[50, 20, 999, 0], [50, 20, 10, 0]]),
        "reduce": torch.tensor([[7, 3, 999, 0], [7, 3, 2, 0]]),
    }


TERMS: dict[str, tuple[RegularizerConfig, Callable[[SearchSpace], float]]] = {}


def term(config: RegularizerConfig) -> Callable[[Callable[[SearchSpace], float]], None]:
    def add(definition: Callable[[SearchSpace], float]) -> None:
        TERMS[definition.__name__] = config, definition

    return add


@term(RegularizerConfig(beta_decay=50))
def beta_decay(space: SearchSpace) -> float:
    """In epoch 3 of 4."""
    return 50 * 3 / 4 * sum(math.log(sum(map(math.exp, row))) for kind in KINDS for row in rows(space, kind)) / 2


@term(RegularizerConfig(entropy_weight=-0.7))
def entropy(space: SearchSpace) -> float:
    every = [p for kind in KINDS for row in rows(space, kind) for p in softmax(row) if p > 0]
    return -0.7 * -sum(p * math.log(p) for p in every) / 2


@term(RegularizerConfig(cost_weight=3, cost="macs"))
def cost(space: SearchSpace) -> float:
    parts = [
        (softmax(row), own)
        for kind in KINDS
        for row, own in zip(rows(space, kind), costs_of(space)[kind].tolist(), strict=True)
    ]
    return 3 * sum(p * c for row, own in parts for p, c in zip(row, own, strict=True)) / (50 + 50 + 7 + 7)


@term(RegularizerConfig(beta_decay=50, entropy_weight=-0.7, cost_weight=3))
def all_of_them(space: SearchSpace) -> float:
    return sum(TERMS[name][1](space) for name in ("beta_decay", "entropy", "cost"))


def rows(space: SearchSpace, kind: Kind) -> list[list[float]]:
    listed: list[list[float]] = space.logits(kind).tolist()
    return listed


def softmax(row: list[float]) -> list[float]:
    total = sum(map(math.exp, row))
    return [math.exp(a) / total for a in row]


@pytest.mark.parametrize("name", TERMS)
def test_terms_and_their_gradients(name: str) -> None:
    """Masked operations included, and ones whose weight has vanished."""
    config, definition = TERMS[name]
    space = masked()
    regularizer = config.build(space, costs_of(space))
    assert regularizer is not None
    regularizer.schedule(3, 4)
    loss = regularizer(space, Relaxation())
    assert loss.item() == pytest.approx(definition(space), rel=1e-6)
    loss.backward()
    for kind in KINDS:
        gradient = space.alpha[kind].grad
        assert gradient is not None
        assert gradient[0, 2] == 0
        for e, o in ((0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (1, 3)):
            values = []
            for step in (1e-5, -2e-5):
                with torch.no_grad():
                    space.alpha[kind][e, o] += step
                    values.append(float(regularizer(space, Relaxation())))
            with torch.no_grad():
                space.alpha[kind][e, o] += 1e-5
            assert float(gradient[e, o]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_beta_decay_of_one_kind_by_its_numbers() -> None:
    space = spaces.get("darts")(nodes=1, operations=("sep_conv_3x3", "dil_conv_3x3", "skip_connect", "none")).double()
    assert mean_logsumexp(space).item() == pytest.approx(2 * 1.38629436112)
    alpha = waves(3, 4).requires_grad_()
    value = alpha.logsumexp(dim=1).mean()
    value.backward()
    assert value.item() == pytest.approx(2.08308157818)
    assert alpha.grad is not None
    assert alpha.grad[0].tolist() == pytest.approx([0.0285164211395, 0.0665160859085, 0.115415508096, 0.122885318189])
    regularizer = Regularizer(RegularizerConfig(beta_decay=50), {})
    lambdas = []
    for epoch in (0, 1, 25, 49):
        regularizer.schedule(epoch, 50)
        lambdas.append(float(regularizer.decay))
    assert lambdas == [0, 1, 25, 49]


def test_entropies_by_their_numbers() -> None:
    assert entropies(waves(3, 4).softmax(dim=1)).tolist() == pytest.approx(
        [1.26705772296, 1.27659647582, 1.07625720107]
    )
    scaled = shares_of(torch.tensor([[0.0, 0.3, 0.3]]))
    assert float(entropies(scaled)) == pytest.approx(math.log(2))


def test_the_cost_is_1_for_the_dearest_cells_and_0_for_free_ones() -> None:
    space = masked()
    shares = cost_shares(space, costs_of(space))
    assert sum(float(share[:, 0].sum()) for share in shares.values()) == pytest.approx(1)
    assert all(not share[:, 3].any() and share[0, 2] == 0 for share in shares.values())
    free = {kind: torch.zeros(2, 4) for kind in KINDS}
    with pytest.raises(ValueError, match="--cost-weight has nothing to reduce: by --cost macs, every operation"):
        RegularizerConfig(cost_weight=1, cost="macs").build(space, free)


def test_nothing_is_built_for_weights_of_0() -> None:
    assert RegularizerConfig().build(masked()) is None
    with pytest.raises(ValueError, match="--cost macs does nothing without --cost-weight"):
        RegularizerConfig(cost="macs")
