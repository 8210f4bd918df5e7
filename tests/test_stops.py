"""Rules that end a search: on series of known outcome, and in two parts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch

import spaces
from genotypes import CellGenotype, Edge, Genotype
from nas.methods.relaxation import Relaxation
from nas.methods.stops import (
    EigenvalueStop,
    OrderStop,
    Seen,
    SkipStop,
    StopConfig,
    StopRule,
    best_with_parameters,
)
from nas.runs.checkpoint import check_like


def genotype(skips: int) -> Genotype:
    names = ["skip_connect"] * skips + ["neg_skip_connect", "sep_conv_3x3"] * 3
    normal = CellGenotype(tuple((Edge(a, 0), Edge(b, 1)) for a, b in zip(names[:6:2], names[1:6:2], strict=True)), ())
    return Genotype(normal, CellGenotype(((Edge("skip_connect", 0),) * 5,), ()))


def seen(
    epoch: int, *, eigenvalue: float | None = None, skips: int = 0, best: Iterable[str] = ("sep_conv_3x3",)
) -> Seen:
    return Seen(epoch=epoch, genotype=genotype(skips), best=tuple(best), eigenvalue=eigenvalue)


def outcome(build: Callable[[], StopRule], series: list[Seen]) -> tuple[int, int] | None:
    """The epoch after which a search ends and the one that it takes, the same however often it is resumed."""
    rule, restored = build(), build()
    for epoch in series:
        rule.update(epoch)
        restored.update(epoch)
        fresh = build()
        state = copy.deepcopy(restored.state_dict())
        check_like(state, fresh.state_dict(), "stop")
        fresh.load_state_dict(state)
        restored = fresh
        assert restored.state_dict() == rule.state_dict()
        assert (rule.take >= 0) == bool(rule.reason)
        if rule.take >= 0:
            return epoch.epoch, rule.take
    return None


def measured(values: Iterable[float], every: int = 2) -> list[Seen]:
    """A series of eigenvalues, with the epochs in which none is measured between them."""
    return [
        seen(epoch, eigenvalue=value if epoch == every * i else None)
        for i, value in enumerate(values)
        for epoch in range(every * i, every * (i + 1))
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.2] * 25, None),
        ([0.2 * 1.08**i for i in range(25)], (22, 10)),
        ([0.2 * 1.03**i for i in range(25)], None),
        # 1.3 times within four measurements is not more than that.
        ([0.2] * 9 + [0.26] * 16, None),
        ([0.2] * 9 + [0.28] * 16, (24, 12)),
        # The same early: epoch 10 is the first that may be taken, and its average has grown already.
        ([0.2] * 3 + [0.28] * 22, None),
        ([-0.1] * 9 + [-0.2] * 16, None),
        ([0.0] * 12, None),
    ],
)
def test_the_eigenvalue_rule(values: list[float], expected: tuple[int, int] | None) -> None:
    assert outcome(EigenvalueStop, measured(values)) == expected


def test_the_averages_of_eigenvalues() -> None:
    rule = EigenvalueStop()
    for epoch in measured([0.2 * 1.08**i for i in range(12)]):
        rule.update(epoch)
    assert rule.averages()[:4] == pytest.approx([0.216426666667, 0.2253056, 0.2346640384, 0.253437161472])
    assert rule.averages()[-1] == pytest.approx(0.40217292402)
    assert rule.averages()[-1] / rule.averages()[-5] == pytest.approx(1.36048896)
    with pytest.raises(ValueError, match="its eigenvalues do not fit"):
        rule.load_state_dict({**rule.state_dict(), "measured": {0: "many"}})


def test_two_skip_connections_of_the_normal_cell_end_a_search() -> None:
    counts = [0, 0, 1, 1, 2, 2, 3]
    assert outcome(SkipStop, [seen(epoch, skips=n) for epoch, n in enumerate(counts)]) == (4, 4)


def test_a_stable_choice_ends_a_search() -> None:
    choices = ["ab", "bb", "bb", *["ba"] * 17]
    assert outcome(OrderStop, [seen(epoch, best=best) for epoch, best in enumerate(choices)]) == (12, 12)
    assert outcome(OrderStop, [seen(epoch, best="ab"[epoch % 2]) for epoch in range(30)]) is None


def test_the_best_operation_with_parameters() -> None:
    space = spaces.get("darts")(nodes=1, operations=("skip_connect", "sep_conv_3x3", "dil_conv_3x3", "none"))
    with torch.no_grad():
        space.alpha["normal"].copy_(torch.tensor([[9.0, 0, 1, 5], [0, 1, 0, 0]]))
    best = best_with_parameters(space, Relaxation().expected(space))
    assert best == ("dil_conv_3x3", "sep_conv_3x3", "sep_conv_3x3", "sep_conv_3x3")


def test_what_has_no_meaning_is_refused() -> None:
    hb = spaces.get("hb")(nodes=1)
    StopConfig(stop="skips").check(hb)
    hb.initialize("hb")
    with pytest.raises(ValueError, match="--stop skips .* --init hb"):
        StopConfig(stop="skips").check(hb)
    convolutions = spaces.get("darts")(nodes=1, operations=("sep_conv_3x3",))
    with pytest.raises(ValueError, match="--stop skips counts skip_connect"):
        StopConfig(stop="skips").check(convolutions)
    with pytest.raises(ValueError, match="--stop order compares operations with parameters"):
        StopConfig(stop="order").check(spaces.get("darts")(nodes=1, operations=("skip_connect",)))
    with pytest.raises(ValueError, match="--stop eigenvalue needs measurements; add --eigenvalue-every 2"):
        StopConfig(stop="eigenvalue")
    assert StopConfig().build() is None
    assert not StopConfig().measures(0)
    config = StopConfig(stop="eigenvalue", eigenvalue_every=3)
    assert isinstance(config.build(), EigenvalueStop)
    assert [epoch for epoch in range(8) if config.measures(epoch)] == [0, 3, 6]
