"""Choices of edges and operations, what they cost, and limits on that.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from genotypes import CellGenotype, Edge, Genotype
from spaces.space import CELL_INPUTS, KINDS, Kind, SearchSpace

#: The rows of a matrix (E, O), by cell kind.
Table = Mapping[Kind, Sequence[Sequence[int]]]
#: The kept edges of both cells, node by node: E * O numbers for each kind, edge * O + operation.
Choice = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a genotype may cost, where a cost is a sum over the kept edges.

    Attributes:
        name: what is counted, for messages, such as "parameters".
        most: the largest total.
        costs: what each operation costs on each edge, (E, O) for each cell kind; not negative.
        rest: what every genotype costs, whatever its edges.
        per_unit: how many of a cost are one of what is counted: 1,000 where costs are microseconds, told as ms.
    """

    name: str
    most: int
    costs: Table
    rest: int = 0
    per_unit: int = 1

    def told(self, cost: int) -> str:
        """A cost with its name, for messages."""
        return f"{cost:,} {self.name}" if self.per_unit == 1 else f"{cost / self.per_unit:,.10g} {self.name}"


def skip_limit(space: SearchSpace, most: int) -> Limit:
    """At most `most` operations skip_connect in the normal cell."""
    row = [int(name == "skip_connect") for name in space.operations]
    edges = range(len(space.topology.edges))
    return Limit(
        name="identities in the normal cell",
        most=most,
        costs={"normal": [row for _ in edges], "reduce": [[0] * len(row) for _ in edges]},
    )


class Node(NamedTuple):
    """A node of a cell, of whose entering edges so many are kept."""

    kind: Kind
    entering: dict[int, list[int]]
    """The edges that enter it, and the operations that each may keep."""
    kept: int
    """How many of these edges are kept."""


def nodes_of(space: SearchSpace) -> list[Node]:
    """The nodes of both cells."""
    nodes = []
    for kind in KINDS:
        for target in range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes):
            edges = space.topology.entering(target)
            entering = {edge: space.candidates(kind, edge) for edge in edges}
            nodes.append(Node(kind, entering, len(edges[: space.edges_kept])))
    return nodes


def picks_of(space: SearchSpace, choice: Choice) -> Iterator[tuple[Kind, int, int]]:
    """Cell kind, edge and operation of each kept edge; both cells keep the same number."""
    for i, pick in enumerate(choice):
        yield KINDS[2 * i // len(choice)], *divmod(pick, len(space.operations))


def genotype_of(space: SearchSpace, choice: Choice) -> Genotype:
    """The genotype that keeps these edges and operations."""
    concat = tuple(range(CELL_INPUTS, CELL_INPUTS + space.topology.nodes))
    nodes: dict[Kind, dict[int, list[Edge]]] = {kind: {target: [] for target in concat} for kind in KINDS}
    for kind, e, o in picks_of(space, choice):
        source, target = space.topology.edges[e]
        nodes[kind][target].append(Edge(operation=space.operations[o], source=source))
    normal, reduce = (
        CellGenotype(nodes=tuple(tuple(edges) for edges in nodes[kind].values()), concat=concat) for kind in KINDS
    )
    return Genotype(normal=normal, reduce=reduce)


def total(space: SearchSpace, limit: Limit, choice: Choice) -> int:
    """What a choice costs, with what every genotype does."""
    return limit.rest + sum(limit.costs[kind][e][o] for kind, e, o in picks_of(space, choice))


def extreme(node: Node, table: Table, *, largest: bool) -> int:
    """The largest or smallest sum of a table over the kept edges of a node."""
    of_edge = max if largest else min
    sums = [of_edge(table[node.kind][edge][o] for o in operations) for edge, operations in node.entering.items()]
    return sum(sorted(sums, reverse=largest)[: node.kept])


def least(space: SearchSpace, limit: Limit) -> int:
    """The smallest possible total of a genotype."""
    return limit.rest + sum(extreme(node, limit.costs, largest=False) for node in nodes_of(space))


def told(limits: Sequence[Limit]) -> str:
    """For messages."""
    return " and ".join(f"at most {limit.told(limit.most)}" for limit in limits)
