"""Bounds on how strong a choice within limits can be, by a linear program."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Option(NamedTuple):
    """What may be chosen in a slot of a group, of whose slots a fixed number is filled."""

    group: int
    slot: int
    strength: int
    costs: tuple[int, ...]


def multipliers(options: Sequence[Option], filled: Sequence[int], rooms: Sequence[int]) -> tuple[int, ...]:
    """What a unit of each cost is worth in strength: Lagrange multipliers of the limits, not negative.

    They are the dual values of the relaxation that lets parts of options be chosen (Geoffrion, Mathematical Programming
    Study 2, 1974). Any multipliers give a valid bound, so that neither rounding nor tolerances of the solver can make
    it wrong. If the relaxation has no solution, they are zero.

    Args:
        options: at most one of a slot is chosen.
        filled: how many slots of each group are filled.
        rooms: the largest total of each cost; not negative.
    """
    from scipy.optimize import linprog  # takes long to import

    largest = max(1, *(abs(option.strength) for option in options))
    scales = [max(1, room) for room in rooms]
    slots = sorted({option.slot for option in options})
    costs = np.array([[cost / scale for cost, scale in zip(o.costs, scales, strict=True)] for o in options]).T
    each_slot = np.equal.outer(slots, [option.slot for option in options])
    each_group = np.equal.outer(range(len(filled)), [option.group for option in options])
    solved = linprog(
        [-option.strength / largest for option in options],
        A_ub=np.concatenate([costs, each_slot]),
        b_ub=[*(room / scale for room, scale in zip(rooms, scales, strict=True)), *(1 for _ in slots)],
        A_eq=each_group,
        b_eq=filled,
        method="highs",
    )
    if solved.status != 0:
        return (0,) * len(rooms)
    duals = -solved.ineqlin.marginals[: len(rooms)]
    return tuple(max(0, int(Fraction(float(d)) * largest / scale)) for d, scale in zip(duals, scales, strict=True))
