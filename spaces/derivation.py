"""Genotypes of a space beyond the strongest: within limits, with few identities, and random ones.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import add, le
from typing import NamedTuple

from genotypes import CellGenotype, Edge, Genotype
from spaces.space import CELL_INPUTS, KINDS, Kind, Mixing, SearchSpace

#: The rows of a matrix (E, O), by cell kind.
Table = Mapping[Kind, Sequence[Sequence[int]]]
#: The kept edges of both cells, node by node: E * O numbers for each kind, edge * O + operation.
Choice = tuple[int, ...]

#: To how many steps the room within a limit is divided for counting genotypes; more reject less and count longer.
_STEPS = 2000
#: Random genotypes are given up on after so many of them were within one limit, but not within the others.
_TRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a genotype may cost, where a cost is a sum over the kept edges.

    Attributes:
        name: what is counted, for messages, such as "parameters".
        most: the largest total.
        costs: what each operation costs on each edge, (E, O) for each cell kind; not negative.
        rest: what every genotype costs, whatever its edges.
    """

    name: str
    most: int
    costs: Table
    rest: int = 0


def skip_limit(space: SearchSpace, most: int) -> Limit:
    """At most `most` operations skip_connect in the normal cell."""
    row = [int(name == "skip_connect") for name in space.operations]
    edges = range(len(space.topology.edges))
    return Limit(
        name="identities in the normal cell",
        most=most,
        costs={"normal": [row for _ in edges], "reduce": [[0] * len(row) for _ in edges]},
    )


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
    return _genotype(space, _best(space, _exact(mixing), limits))


def capped(space: SearchSpace, mixing: Mixing, most: int) -> Genotype:
    """The genotype with at most `most` operations skip_connect in the normal cell, by the procedure of P-DARTS.

    While the derived cell has more, the smallest weight of those that it keeps is ruled out, and the genotype is
    derived again (Chen et al., ICCV 2019, sec. 3.3, and the authors' code). This is not always the strongest genotype
    with so few of them, which `best_within` finds. The reduction cell may have any number.

    Raises ValueError if every genotype has more, which says how few are possible, and as `space.derive`.
    """
    space.derive(mixing)  # for what it refuses
    _check_possible(space, [skip_limit(space, most)])
    strengths = {kind: [list(row) for row in rows] for kind, rows in _exact(mixing).items()}
    # Set to this, a weight is weaker than all others together, so that it is kept only where nothing else is left.
    ruled_out = -1 - sum(abs(weight) for rows in strengths.values() for row in rows for weight in row)
    normal = strengths["normal"]
    while True:
        choice = _best(space, strengths, ())
        picks = [(e, o) for kind, e, o in _picks(space, choice) if kind == "normal"]
        skips = [(e, o) for e, o in picks if space.operations[o] == "skip_connect"]
        if len(skips) <= most:
            return _genotype(space, choice)
        # One that is ruled out already is kept only where nothing else is left.
        e, o = min((s for s in skips if normal[s[0]][s[1]] != ruled_out), key=lambda s: normal[s[0]][s[1]])
        normal[e][o] = ruled_out


class Sampler:
    """Draws genotypes at random: every choice of edges and operations within the limits is equally likely.

    Without limits, the kept edges of a node are uniform, and so are their operations other than zero.

    The choices within one limit are counted, from the last edge to the first, and each edge is drawn in proportion to
    these counts, so that tight limits take no longer than loose ones. Costs are rounded down for this, to a
    two-thousandth of the limit; a genotype that exceeds it after all, or another limit, is drawn again.

    Raises ValueError if no genotype is within the limits, which says how little is possible.
    """

    def __init__(self, space: SearchSpace, limits: Sequence[Limit] = ()) -> None:
        self._space, self._limits = space, limits
        nothing = _nothing(space)
        _best(space, nothing, limits)  # for what it refuses
        free = Limit(name="", most=0, costs=nothing)
        # The one that leaves the smallest share of what the most expensive genotype costs.
        tightest = min(
            limits, key=lambda limit: (limit.most - limit.rest) / max(1, _largest(space, limit)), default=free
        )
        self._counts = _Counts(space, tightest)

    def draw(self, generator: random.Random) -> Genotype:
        """A genotype, independent of those before.

        Raises ValueError if almost none of those within one limit are within the others.
        """
        for _ in range(_TRIES):
            choice = self._counts.draw(generator)
            if all(_cost(self._space, limit, choice) <= limit.most for limit in self._limits):
                return _genotype(self._space, choice)
        raise ValueError(f"none of {_TRIES:,} random genotypes has {_told(self._limits)}; raise one of the limits")


# --- the structure that all of them go through ----------------------------------------------------------------


class _Node(NamedTuple):
    kind: Kind
    entering: dict[int, list[int]]
    """The edges that enter it, and the operations that each may keep."""
    kept: int
    """How many of these edges are kept."""


def _nodes(space: SearchSpace) -> list[_Node]:
    """The nodes of both cells."""
    nodes = []
    for kind in KINDS:
        for target in range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes):
            edges = space.topology.entering(target)
            entering = {edge: space.candidates(kind, edge) for edge in edges}
            nodes.append(_Node(kind, entering, len(edges[: space.edges_kept])))
    return nodes


def _picks(space: SearchSpace, choice: Choice) -> Iterator[tuple[Kind, int, int]]:
    """Cell kind, edge and operation of each kept edge; both cells keep the same number."""
    for i, pick in enumerate(choice):
        yield KINDS[2 * i // len(choice)], *divmod(pick, len(space.operations))


def _genotype(space: SearchSpace, choice: Choice) -> Genotype:
    concat = tuple(range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes))
    nodes: dict[Kind, dict[int, list[Edge]]] = {kind: {target: [] for target in concat} for kind in KINDS}
    for kind, e, o in _picks(space, choice):
        source, target = space.topology.edges[e]
        nodes[kind][target].append(Edge(operation=space.operations[o], source=source))
    normal, reduce = (
        CellGenotype(nodes=tuple(tuple(edges) for edges in nodes[kind].values()), concat=concat) for kind in KINDS
    )
    return Genotype(normal=normal, reduce=reduce)


def _cost(space: SearchSpace, limit: Limit, choice: Choice) -> int:
    return limit.rest + sum(limit.costs[kind][e][o] for kind, e, o in _picks(space, choice))


def _exact(mixing: Mixing) -> dict[Kind, list[list[int]]]:
    """The weights as whole multiples of a common unit: sums of floats would depend on their order."""
    rows: dict[Kind, list[list[float]]] = {kind: mixing[kind].detach().double().cpu().tolist() for kind in KINDS}
    # The denominator of a float is a power of two: the largest is a multiple of all.
    unit = max(weight.as_integer_ratio()[1] for kind in KINDS for row in rows[kind] for weight in row)
    return {
        kind: [[n * (unit // d) for n, d in map(float.as_integer_ratio, row)] for row in rows[kind]] for kind in KINDS
    }


def _nothing(space: SearchSpace) -> Table:
    row = [0] * len(space.operations)
    return {kind: [row for _ in space.topology.edges] for kind in KINDS}


# --- the strongest --------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """A part of a genotype: what it costs for each limit, its strength, and which edges it keeps."""

    costs: tuple[int, ...]
    strength: int
    choice: Choice

    @property
    def rank(self) -> tuple[int, Choice]:
        """The smaller, the better."""
        return -self.strength, self.choice

    def then(self, other: _State) -> _State:
        """Both parts together."""
        return _State(
            tuple(map(add, self.costs, other.costs)), self.strength + other.strength, self.choice + other.choice
        )


def _best(space: SearchSpace, strengths: Table, limits: Sequence[Limit]) -> Choice:
    """Raises ValueError if no choice is within the limits."""
    _check_possible(space, limits)
    rooms = tuple(limit.most - limit.rest for limit in limits)
    states = [_State((0,) * len(limits), 0, ())]
    for node in _nodes(space):
        states = _joined(states, _ways(space, node, strengths, limits, rooms), rooms)
    if not states:
        raise ValueError(_impossible(space, limits))
    return min(states, key=lambda state: state.rank).choice


def _ways(
    space: SearchSpace, node: _Node, strengths: Table, limits: Sequence[Limit], rooms: tuple[int, ...]
) -> list[_State]:
    """The ways to keep edges of a node, without those that others beat."""
    kind, entering, kept = node
    width = len(space.operations)
    found: list[list[_State]] = [[_State((0,) * len(limits), 0, ())], *([] for _ in range(kept))]  # by edges so far
    for edge, operations in entering.items():
        picks = [
            _State(tuple(limit.costs[kind][edge][o] for limit in limits), strengths[kind][edge][o], (edge * width + o,))
            for o in operations
        ]
        for number in range(kept, 0, -1):
            found[number] = _frontier([*found[number], *_joined(found[number - 1], picks, rooms)], rooms)
    return found[kept]


def _joined(first: Iterable[_State], second: Sequence[_State], rooms: tuple[int, ...]) -> list[_State]:
    return _frontier((a.then(b) for a in first for b in second), rooms)


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


def _check_possible(space: SearchSpace, limits: Sequence[Limit]) -> None:
    if any(_fewest(space, limit) > limit.most for limit in limits):
        raise ValueError(_impossible(space, limits))


def _fewest(space: SearchSpace, limit: Limit) -> int:
    """The smallest possible total."""
    total = limit.rest
    for kind, entering, kept in _nodes(space):
        costs = [min(limit.costs[kind][edge][o] for o in operations) for edge, operations in entering.items()]
        total += sum(sorted(costs)[:kept])
    return total


def _impossible(space: SearchSpace, limits: Sequence[Limit]) -> str:
    fewest = [f"{_fewest(space, limit):,} {limit.name}" for limit in limits]
    each = ", each on its own" if len(limits) > 1 else ""
    return (
        f"no genotype of this space has {_told(limits)}; the smallest possible has {' and '.join(fewest)}{each}; "
        "raise the limit"
    )


def _told(limits: Sequence[Limit]) -> str:
    return " and ".join(f"at most {limit.most:,} {limit.name}" for limit in limits)


# --- random ones ----------------------------------------------------------------------------------------------


def _largest(space: SearchSpace, limit: Limit) -> int:
    """The largest possible total of the kept edges."""
    total = 0
    for kind, entering, kept in _nodes(space):
        costs = [max(limit.costs[kind][edge][o] for o in operations) for edge, operations in entering.items()]
        total += sum(sorted(costs)[len(costs) - kept :])
    return total


class _Counts:
    """How many choices are within one limit, and draws of them; a few are beyond it, as costs are rounded down."""

    def __init__(self, space: SearchSpace, limit: Limit) -> None:
        self._space, self._nodes = space, _nodes(space)
        room = min(limit.most - limit.rest, _largest(space, limit))
        unit = max(1, -(-room // _STEPS))
        self._room = room // unit
        self._costs = {kind: [[cost // unit for cost in row] for row in limit.costs[kind]] for kind in KINDS}
        self._ways = self._counted()

    def _counted(self) -> list[list[list[list[int]]]]:
        """By node, edge of it, edges that it must still keep, and room: the number of ways to choose from there on."""
        ways: list[list[list[list[int]]]] = []
        rest = [1] * (self._room + 1)
        for node in reversed(self._nodes):
            none = [0] * len(rest)
            # After the last edge of a node, it has kept all that it must.
            tables = [[rest, *(none for _ in range(node.kept))]]
            for edge, operations in reversed(node.entering.items()):
                later, costs = tables[-1], [self._costs[node.kind][edge][o] for o in operations]
                tables.append([later[0], *(_with(costs, *later[k : k + 2]) for k in range(node.kept))])
            ways.append(tables[::-1])
            rest = tables[-1][node.kept]
        return ways[::-1]

    def draw(self, generator: random.Random) -> Choice:
        """One of the choices, all equally likely."""
        choice, room = [], self._room
        for (kind, entering, missing), tables in zip(self._nodes, self._ways, strict=True):
            for (edge, operations), here, later in zip(entering.items(), tables, tables[1:], strict=False):
                # The number of a way: first those that leave this edge out, then those of its operations, in order.
                number = generator.randrange(here[missing][room]) - later[missing][room]
                if number < 0:
                    continue
                missing -= 1
                for o in operations:
                    cost = self._costs[kind][edge][o]
                    ways = later[missing][room - cost] if cost <= room else 0
                    if number < ways:
                        break
                    number -= ways
                room -= cost
                choice.append(edge * len(self._space.operations) + o)
        return tuple(choice)


def _with(costs: Sequence[int], kept: Sequence[int], left_out: Sequence[int]) -> list[int]:
    """The number of ways, by room: an operation of one of these costs and then `kept`, or none and then `left_out`."""
    total = list(left_out)
    for cost in costs:
        for room in range(cost, len(total)):
            total[room] += kept[room - cost]
    return total
