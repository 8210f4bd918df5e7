"""Random genotypes of a space: uniform, perhaps within limits."""

from __future__ import annotations

import random
from collections.abc import Sequence

from genotypes import Genotype
from spaces.derivation import check_possible
from spaces.limits import Choice, Limit, extreme, genotype_of, nodes_of, told, total
from spaces.space import KINDS, SearchSpace

#: To how many steps the room within a limit is divided for counting genotypes; more reject less and count longer.
_STEPS = 2000
#: Random genotypes are given up on after so many of them were within one limit, but not within the others.
_TRIES = 10_000


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
        check_possible(space, limits)
        nothing = [[0] * len(space.operations) for _ in space.topology.edges]
        free = Limit(name="", most=0, costs=dict.fromkeys(KINDS, nothing))
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
            if all(total(self._space, limit, choice) <= limit.most for limit in self._limits):
                return genotype_of(self._space, choice)
        raise ValueError(f"none of {_TRIES:,} random genotypes has {told(self._limits)}; raise one of the limits")


def _largest(space: SearchSpace, limit: Limit) -> int:
    """The largest possible total of the kept edges."""
    return sum(extreme(node, limit.costs, largest=True) for node in nodes_of(space))


class _Counts:
    """How many choices are within one limit, and draws of them; a few are beyond it, as costs are rounded down."""

    def __init__(self, space: SearchSpace, limit: Limit) -> None:
        self._space, self._nodes = space, nodes_of(space)
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
