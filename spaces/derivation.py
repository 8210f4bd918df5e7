"""Genotypes of a space beyond the strongest: the strongest within limits, and those with few identities.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import add, le, mul, sub
from typing import NamedTuple

from genotypes import Genotype
from spaces.bounds import Option, multipliers
from spaces.limits import (
    Choice,
    Limit,
    Node,
    Table,
    extreme,
    genotype_of,
    least,
    nodes_of,
    picks_of,
    skip_limit,
    told,
    total,
)
from spaces.space import KINDS, Kind, Mixing, SearchSpace

#: The largest strength has so many, or more: what a unit of a cost is worth is rounded to whole units of strength.
_BITS = 64
#: The first slack allowed is this part of the widest; less takes more rounds, more extends parts in vain.
_FIRST_SLACK = 1000


def best_within(space: SearchSpace, mixing: Mixing, limits: Sequence[Limit]) -> Genotype:
    """The genotype of the largest strength within all limits, as by comparing all genotypes.

    The strength of a genotype is the sum of the mixing weights of its kept edges and operations, so that without limits
    it is `space.derive(mixing)`. Of equally strong genotypes it is the first, compared edge by edge: of two edges that
    of the lower index comes first, and on one edge the operation of the lower index. Where edges are normalized, the
    edges of a node with many of them weigh less than those of a node with few.

    Strengths and costs are sums over nodes and edges. To replace a part of a genotype by one that costs no more and is
    no weaker keeps it within the limits and makes it no weaker, so that of the ways to fill the first nodes only those
    count that no other beats in strength and in every cost: a Pareto frontier, extended edge by edge.

    Args:
        space: which edges and operations there are.
        mixing: weights (E, O) for each kind.
        limits: what must not be exceeded.

    Raises ValueError if no genotype is within the limits, which says how little is possible, and as `space.derive`.
    """
    space.derive(mixing)  # for what it refuses
    check_possible(space, limits)
    return genotype_of(space, _strongest(space, _exact(mixing), limits))


def capped(space: SearchSpace, mixing: Mixing, most: int) -> Genotype:
    """The genotype with at most `most` operations skip_connect in the normal cell, by the procedure of P-DARTS.

    While the derived cell has more, the smallest weight of those that it keeps is ruled out, and the genotype is
    derived again (Chen et al., ICCV 2019, sec. 3.3, and the authors' code). This is not always the strongest genotype
    with so few of them, which `best_within` finds. The reduction cell may have any number.

    Raises ValueError if every genotype has more, which says how few are possible, and as `space.derive`.
    """
    space.derive(mixing)  # for what it refuses
    check_possible(space, [skip_limit(space, most)])
    strengths = {kind: [list(row) for row in rows] for kind, rows in _exact(mixing).items()}
    # Set to this, a weight is weaker than all others together, so that it is kept only where nothing else is left.
    ruled_out = -1 - sum(abs(weight) for rows in strengths.values() for row in rows for weight in row)
    normal = strengths["normal"]
    while True:
        choice = _strongest(space, strengths, ())
        picks = [(e, o) for kind, e, o in picks_of(space, choice) if kind == "normal"]
        skips = [(e, o) for e, o in picks if space.operations[o] == "skip_connect"]
        if len(skips) <= most:
            return genotype_of(space, choice)
        # One that is ruled out already is kept only where nothing else is left.
        e, o = min((s for s in skips if normal[s[0]][s[1]] != ruled_out), key=lambda s: normal[s[0]][s[1]])
        normal[e][o] = ruled_out


def check_possible(space: SearchSpace, limits: Sequence[Limit]) -> None:
    """Raises ValueError if no genotype is within all limits, which says how little is possible."""
    fewest = [least(space, limit) for limit in limits]
    if any(few > limit.most for few, limit in zip(fewest, limits, strict=True)):
        each = ", each on its own" if len(limits) > 1 else ""
        told_fewest = " and ".join(limit.told(few) for few, limit in zip(fewest, limits, strict=True))
        raise ValueError(f"{_none(limits)}; the smallest possible has {told_fewest}{each}; raise the limit")
    # One limit after another joins the others. What has few values comes first: very many choices have the least of it.
    ordered = sorted(limits, key=lambda limit: limit.most - limit.rest)
    for i, limit in enumerate(ordered[1:], 1):
        cheapness = {kind: [[-cost for cost in row] for row in limit.costs[kind]] for kind in KINDS}
        few = total(space, limit, _strongest(space, cheapness, ordered[:i]))
        if few > limit.most:
            raise ValueError(
                f"{_none(limits)}; with {told(ordered[:i])}, the smallest possible has {limit.told(few)}; "
                "raise one of the limits"
            )


def _none(limits: Sequence[Limit]) -> str:
    return f"no genotype of this space has {told(limits)}"


def _exact(mixing: Mixing) -> dict[Kind, list[list[int]]]:
    """The weights as whole multiples of a common unit: sums of floats would depend on their order."""
    rows: dict[Kind, list[list[float]]] = {kind: mixing[kind].detach().double().cpu().tolist() for kind in KINDS}
    # The denominator of a float is a power of two: the largest is a multiple of all.
    unit = max(weight.as_integer_ratio()[1] for kind in KINDS for row in rows[kind] for weight in row)
    return {
        kind: [[n * (unit // d) for n, d in map(float.as_integer_ratio, row)] for row in rows[kind]] for kind in KINDS
    }


# --- the strongest --------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """A part of a genotype: what it costs for each limit, its strength, and which edges it keeps."""

    costs: tuple[int, ...]
    strength: int
    choice: Choice
    slack: int = 0
    """How far any genotype with this part stays below the bound on the strength, at the least."""

    @property
    def rank(self) -> tuple[int, Choice]:
        """The smaller, the better."""
        return -self.strength, self.choice

    def then(self, other: _State) -> _State:
        """Both parts together."""
        return _State(
            tuple(map(add, self.costs, other.costs)),
            self.strength + other.strength,
            self.choice + other.choice,
            self.slack + other.slack,
        )


class _Edge(NamedTuple):
    """The ways to keep an edge, and to leave it out."""

    picks: list[_State]
    leave: _State


class _Group(NamedTuple):
    """The edges that enter a node, with the slack of each way, of which so many are kept."""

    edges: list[_Edge]
    kept: int
    bound: int
    """The largest strength, less what its costs are worth."""
    least: tuple[int, ...]
    """What it costs at the least, for each limit."""


def _strongest(space: SearchSpace, strengths: Table, limits: Sequence[Limit]) -> Choice:
    """The first of the strongest choices within the limits, which are possible.

    Lagrange multipliers say what a unit of each cost is worth. The bound on the strength is that of the best choice
    whose costs are paid for, plus the worth of all the room. What a choice loses against the best at these prices is
    its slack, a sum over all edges: its strength is at least so far below the bound. So only parts of little slack are
    extended. If what they lead to is no closer to the bound than the slack allowed, more is allowed.
    """
    rooms = tuple(limit.most - limit.rest for limit in limits)
    nodes = nodes_of(space)
    strengths = _finer(strengths)
    worth = _worth(space, nodes, strengths, limits, rooms)
    groups = [_group(space, node, strengths, limits, worth) for node in nodes]
    bound = sum(group.bound for group in groups) + sum(map(mul, worth, rooms))
    # No choice is weaker than all of its weakest operations.
    widest = bound - sum(extreme(node, strengths, largest=False) for node in nodes)
    allowed = widest // _FIRST_SLACK
    while True:
        best = min(_within(groups, rooms, allowed), key=lambda state: state.rank, default=None)
        if best is not None and bound - best.strength <= allowed:
            return best.choice
        assert best is not None or allowed < widest
        # All that are as strong as the one found have no more slack than it is below the bound.
        allowed = min(2 * allowed + 1, widest if best is None else bound - best.strength)


def _finer(strengths: Table) -> Table:
    """In units so small that a unit of a cost is worth a whole number of them, nearly."""
    largest = max(abs(strength) for rows in strengths.values() for row in rows for strength in row)
    shift = max(0, _BITS - largest.bit_length())
    return {kind: [[strength << shift for strength in row] for row in rows] for kind, rows in strengths.items()}


def _worth(
    space: SearchSpace, nodes: Sequence[Node], strengths: Table, limits: Sequence[Limit], rooms: tuple[int, ...]
) -> tuple[int, ...]:
    """What a unit of each cost is worth in strength."""
    if not limits:
        return ()
    options = [
        Option(i, i * len(space.topology.edges) + edge, strengths[kind][edge][o], _costs(limits, kind, edge, o))
        for i, (kind, entering, _) in enumerate(nodes)
        for edge, operations in entering.items()
        for o in operations
    ]
    return multipliers(options, [node.kept for node in nodes], rooms)


def _costs(limits: Sequence[Limit], kind: Kind, edge: int, operation: int) -> tuple[int, ...]:
    return tuple(limit.costs[kind][edge][operation] for limit in limits)


def _group(space: SearchSpace, node: Node, strengths: Table, limits: Sequence[Limit], worth: tuple[int, ...]) -> _Group:
    """The ways of a node, with their slack.

    Its bound is the sum over its best edges. With the least of these as a threshold that each kept edge must pay, an
    edge gains what it is above the threshold, or nothing if it is left out, and the slack of each way is what it gains
    less than the best way of the same edge.
    """
    kind, entering, kept = node
    width = len(space.operations)

    def net(edge: int, o: int) -> int:
        return strengths[kind][edge][o] - sum(map(mul, worth, _costs(limits, kind, edge, o)))

    tops = {edge: max(net(edge, o) for o in operations) for edge, operations in entering.items()}
    best = sorted(tops.values(), reverse=True)[:kept]
    edges = []
    for edge, operations in entering.items():
        gain = max(0, tops[edge] - best[-1])
        picks = [
            _State(
                _costs(limits, kind, edge, o),
                strengths[kind][edge][o],
                (edge * width + o,),
                gain - (net(edge, o) - best[-1]),
            )
            for o in operations
        ]
        edges.append(_Edge(picks, _State((0,) * len(limits), 0, (), gain)))
    return _Group(edges, kept, sum(best), tuple(extreme(node, limit.costs, largest=False) for limit in limits))


def _within(groups: Sequence[_Group], rooms: tuple[int, ...], slack: int) -> list[_State]:
    """The choices within the rooms and with no more slack, without those that others beat."""
    states = [_State((0,) * len(rooms), 0, ())]
    # What is left of the rooms when every group costs as little as it can.
    spare = tuple(map(sub, rooms, map(sum, zip(*(group.least for group in groups), strict=True))))
    within = states[0].costs
    for group in groups:
        within = tuple(map(add, within, group.least))
        ways = _ways(group, tuple(map(add, spare, group.least)), slack)
        states = _frontier(_joined(states, ways, slack), tuple(map(add, spare, within)))
    return states


def _ways(group: _Group, rooms: tuple[int, ...], slack: int) -> list[_State]:
    """The ways to keep edges of a node, without those that others beat."""
    found: list[list[_State]] = [[_State((0,) * len(rooms), 0, ())], *([] for _ in range(group.kept))]  # by edges kept
    for picks, leave in group.edges:
        for number in range(group.kept, -1, -1):
            ways = list(_joined(found[number], [leave], slack))
            if number:
                ways += _joined(found[number - 1], picks, slack)
            found[number] = _frontier(ways, rooms)
    return found[group.kept]


def _joined(first: Iterable[_State], second: Iterable[_State], slack: int) -> Iterator[_State]:
    """Each of the first with each of the second, if both together have no more slack."""
    ordered = sorted(second, key=lambda state: state.slack)
    for a in first:
        for b in ordered:
            if a.slack + b.slack > slack:
                break
            yield a.then(b)


def _frontier(states: Iterable[_State], rooms: tuple[int, ...]) -> list[_State]:
    """Those within the rooms that no other beats: costs no more for any limit and comes before it."""
    best: dict[tuple[int, ...], _State] = {}
    for state in states:
        if all(map(le, state.costs, rooms)):
            other = best.get(state.costs)
            if other is None or state.rank < other.rank:
                best[state.costs] = state
    kept: list[_State] = []
    for state in sorted(best.values(), key=lambda state: state.rank):
        # The last one kept costs least in most cases.
        if not any(all(map(le, other.costs, state.costs)) for other in reversed(kept)):
            kept.append(state)
    return kept
