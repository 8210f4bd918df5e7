"""The base class of search spaces: topology, operations, architecture parameters, edge weights, derivation.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from genotypes import CELL_NAMES, CellGenotype, Edge, Genotype
from spaces.ops import OPERATIONS, TABLE_6

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, Kind] = ("normal", "reduce")
#: The weights (E, O) with which a supernet mixes its operations, by cell kind.
Mixing = Mapping[Kind, Tensor]

#: The number of inputs of a cell: nodes 0 (c_{k-2}) and 1 (c_{k-1}).
CELL_INPUTS = 2


@dataclass(frozen=True)
class Topology:
    """The directed graph of one cell.

    Nodes 0 and 1 are the cell's inputs, nodes 2..nodes+1 its intermediate nodes, whose concatenation is the
    output. `edges` are (source, target) pairs in a fixed order, one for each mixed operation; a pair may occur
    more than once. Raises ValueError if an edge runs backwards or a node has no incoming edge.
    """

    nodes: int
    edges: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"a cell needs at least 1 intermediate node, not {self.nodes}")
        targets = range(CELL_INPUTS, CELL_INPUTS + self.nodes)
        for source, target in self.edges:
            if target not in targets or not 0 <= source < target:
                raise ValueError(
                    f"edge ({source}, {target}) does not run forward into one of the nodes "
                    f"{targets.start}..{targets.stop - 1}"
                )
        for target in targets:
            if not self.entering(target):
                raise ValueError(f"no edge enters node {target}")

    def entering(self, target: int) -> tuple[int, ...]:
        """Indices into `edges` of those that enter node `target`, in order."""
        return tuple(e for e, (_, t) in enumerate(self.edges) if t == target)


#: How far above the others a peaked logit starts; see `HBSpace` for why.
INIT_GAP = 5.0


class SearchSpace(nn.Module):
    """Base class of the search spaces; a space defines its edges and, optionally, how they are weighted.

    A subclass defines `edges_between` and may override `operations_default`, `allowed_operations`, `edges_kept`,
    `edge_normalized`, `initializations`, `_initialize`, `adds_source`, `edge_weights`, and `unmasked_logits`. Turning
    logits into weights of the operations is the job of a relaxation (`nas.methods.relaxation`), not of the space.

    Args:
        nodes: intermediate nodes of a cell.
        operations: names of the candidate operations, in the order of the columns of `alpha`
            (default: the space's own).
        edge_normalized: whether the edges that enter a node have weights that sum to 1 (default: the space's own).

    Attributes:
        alpha: logits of the operations, (E, O) for each cell kind.
        beta: logits of the edges, (E,) for each cell kind; only where edges are normalized.
        mask: the operations that each edge may have, (E, O) of bool for each cell kind; `restrict` changes it.
        shortcuts: `adds_source` of each edge, (E,) of bool.
        same_target: whether two edges enter the same node, (E, E) of bool.

    Raises ValueError for an operation that is unknown or listed twice, and if there is none but zero.
    """

    operations_default: ClassVar[tuple[str, ...]] = TABLE_6
    #: How many of the edges entering a node the derivation keeps; None keeps all of them.
    edges_kept: ClassVar[int | None] = 2
    #: Whether the weights of the edges that enter a node are a softmax (of `beta`); else each edge has the weight 1.
    edge_normalized: bool = False
    #: The names that `initialize` accepts; the first is the default.
    initializations: ClassVar[tuple[str, ...]] = ("zero", "random")

    shortcuts: Tensor
    same_target: Tensor

    def __init__(self, *, nodes: int = 4, operations: Sequence[str] = (), edge_normalized: bool | None = None) -> None:
        super().__init__()
        for name in ("mixing_weights", "logits"):
            if getattr(type(self), name, None) is not getattr(SearchSpace, name, None):
                # Ignored silently, it would change the result of a search.
                raise ValueError(
                    f"{type(self).__name__} overrides {name}, which is not called for that; override unmasked_logits "
                    "or edge_weights, or write a search method of your own"
                )
        self.topology = Topology(nodes, tuple(self.edges_between(nodes)))
        self.operations = _checked_operations(operations or self.operations_default)
        size = (len(self.topology.edges), len(self.operations))
        self.alpha = nn.ParameterDict({kind: nn.Parameter(torch.zeros(size)) for kind in KINDS})
        for kind in KINDS:
            self.register_buffer(f"{kind}_mask", self._allowed(kind))
        self.restrict(self.mask)
        shortcuts = torch.tensor([self.adds_source(source, target) for source, target in self.topology.edges])
        self.register_buffer("shortcuts", shortcuts, persistent=False)
        if edge_normalized is not None:
            self.edge_normalized = edge_normalized
        targets = torch.tensor([target for _, target in self.topology.edges])
        self.register_buffer("same_target", targets[:, None] == targets, persistent=False)
        if self.edge_normalized:
            self.beta = nn.ParameterDict({kind: nn.Parameter(torch.zeros(len(targets))) for kind in KINDS})
        #: By edge, the operation whose logit the initialization peaks, for each cell kind; empty if it peaks none.
        self.peaked: dict[Kind, dict[int, str]] = {}

    def edges_between(self, nodes: int) -> Sequence[tuple[int, int]]:
        """The (source, target) pairs of a cell with `nodes` intermediate nodes."""
        raise NotImplementedError

    def adds_source(self, source: int, target: int) -> bool:
        """Whether a shortcut +x from node `source` may enter node `target` beside an edge: here always."""
        return True

    def allowed_operations(self, kind: Kind, edge: int) -> Sequence[str]:
        """The candidates of an edge, among `operations`: here all of them."""
        return self.operations

    def _allowed(self, kind: Kind) -> Tensor:
        allowed = [set(self.allowed_operations(kind, edge)) for edge in range(len(self.topology.edges))]
        return torch.tensor([[name in names for name in self.operations] for names in allowed])

    @property
    def mask(self) -> Mapping[Kind, Tensor]:
        """The operations that each edge may have, (E, O) of bool for each cell kind."""
        return {kind: self.get_buffer(f"{kind}_mask") for kind in KINDS}

    @torch.no_grad()
    def restrict(self, masks: Mapping[Kind, Tensor]) -> None:
        """Allows only the operations of the masks, (E, O) of bool for each cell kind, from now on.

        A supernet that is built before has all operations that were allowed then.

        Raises ValueError for a mask that leaves an edge no operation other than zero.
        """
        for kind in KINDS:
            for edge, allowed in enumerate(masks[kind].tolist()):
                if not any(allowed[o] for o, name in enumerate(self.operations) if name != "none"):
                    raise ValueError(
                        f"edge {edge} of the {CELL_NAMES[kind]} cell has no operation other than 'none' left"
                    )
        for kind in KINDS:
            self.mask[kind].copy_(masks[kind])
        self._note_masked()

    def _note_masked(self) -> None:
        # Known on the CPU, since a step must not wait for the GPU to find out.
        self._masked = not all(bool(mask.all()) for mask in self.mask.values())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._note_masked()

    def candidates(self, kind: Kind, edge: int) -> list[int]:
        """The columns of the operations that an edge may be left with: those allowed, but for zero."""
        allowed = self.mask[kind][edge].tolist()
        return [o for o, name in enumerate(self.operations) if allowed[o] and name != "none"]

    def unmasked_logits(self, kind: Kind) -> Tensor:
        """The logits (E, O) of all operations, allowed or not: here `alpha`."""
        return self.alpha[kind]

    def logits(self, kind: Kind) -> Tensor:
        """The logits (E, O) of the operations, which a relaxation turns into their weights; -inf if not allowed."""
        logits_EO = self.unmasked_logits(kind)
        return logits_EO.masked_fill(~self.mask[kind], -torch.inf) if self._masked else logits_EO

    def edge_weights(self, kind: Kind) -> Tensor:
        """The weights p (E,) of the edges, whatever the relaxation.

        Ones, or with edge normalization the softmax of `beta` over the edges that enter the same node: eq. (29), and
        PC-DARTS (Xu et al., ICLR 2020).
        """
        if not self.edge_normalized:
            alpha = self.alpha[kind]
            return alpha.new_ones(len(alpha))
        beta = self.beta[kind]
        # A softmax per target node, in one operation for all nodes: the rivals of an edge are those with its target.
        rivals_EE = beta.expand(len(beta), -1).masked_fill(~self.same_target, -torch.inf)
        return (beta - rivals_EE.logsumexp(dim=1)).exp()

    def sum_over_rivals(self, weights_E: Tensor) -> Tensor:
        """For each edge, the sum of `weights_E` over the edges that enter the same node, itself included; (E,)."""
        return self.same_target.to(weights_E) @ weights_E

    def mixing(self, weights: Mapping[Kind, Tensor]) -> Mixing:
        """The mixing weights (E, O): the `weights` (E, O) of the operations, times those of their edges."""
        return {kind: self.edge_weights(kind)[:, None] * weights[kind] for kind in KINDS}

    @torch.no_grad()
    def initialize(
        self, init: str | None = None, *, gap: float = INIT_GAP, generator: torch.Generator | None = None
    ) -> None:
        """Sets the architecture parameters.

        Args:
            init: one of `initializations` (default: the first). "zero": every operation and every edge the
                same weight; "random": 1e-3 N(0, 1) (DARTS's code; the paper's baseline in sec. 9.1).
            gap: how far above the others a peaked logit starts, for the initializations that peak any.
            generator: source of the random numbers.

        Raises ValueError for another name.
        """
        init = init or self.initializations[0]
        if init not in self.initializations:
            raise ValueError(
                f"{type(self).__name__} has no initialization {init!r}; it has: {', '.join(self.initializations)}"
            )
        self.peaked = {}
        self._initialize(init, gap, generator)

    def _initialize(self, init: str, gap: float, generator: torch.Generator | None) -> None:
        for parameter in self.parameters():
            if init == "zero":
                parameter.zero_()
            else:
                parameter.copy_(1e-3 * torch.randn(parameter.shape, generator=generator))

    def _peak(self, operations: Mapping[int, str], gap: float) -> None:
        """Sets the logits of some edges: that of the given operation `gap` above the others', where it is allowed."""
        column = {edge: self.operations.index(name) for edge, name in operations.items()}
        for kind in KINDS:
            allowed = self.mask[kind].tolist()
            self.peaked[kind] = {edge: name for edge, name in operations.items() if allowed[edge][column[edge]]}
            for edge in self.peaked[kind]:
                self.alpha[kind][edge] = 0
                self.alpha[kind][edge, column[edge]] = gap

    def left_start(self, mixing: Mixing) -> dict[Kind, int]:
        """For each cell kind, the number of edges whose strongest operation is not the one the search started from.

        Only edges that started peaked count, and zero is not considered, as in `derive`. An edge has also left if its
        peaked operation was excluded since.
        """
        rows = {kind: mixing[kind].tolist() for kind in KINDS}
        return {
            kind: sum(
                self.operations[self._strongest(rows[kind][e], kind, e)] != name
                for e, name in self.peaked.get(kind, {}).items()
            )
            for kind in KINDS
        }

    def _strongest(self, weights: Sequence[float], kind: Kind, edge: int) -> int:
        """The candidate of an edge with the largest of its weights (O,), the first among equals."""
        return max(self.candidates(kind, edge), key=weights.__getitem__)

    def derive(self, mixing: Mixing, *, threshold: float = -math.inf) -> Genotype:
        """The genotype of the given mixing weights, (E, O) for each kind.

        The strength of an edge is its largest weight among the operations other than zero (DARTS sec. 2.4).
        Each node keeps its `edges_kept` strongest edges, each with that operation, without those weaker than
        `threshold`; its strongest edge it always keeps. Of equal edges the one that comes first in the topology is
        kept, of equal operations the one that comes first in `operations`; the kept edges are in the order of the
        topology.

        Raises ValueError for weights that have another shape or are not finite.
        """
        cells = {kind: self._derive_cell(mixing[kind], kind, threshold) for kind in KINDS}
        return Genotype(normal=cells["normal"], reduce=cells["reduce"])

    def _derive_cell(self, weights: Tensor, kind: Kind, threshold: float) -> CellGenotype:
        expected = (len(self.topology.edges), len(self.operations))
        where = f"mixing weights of the {CELL_NAMES[kind]} cell"
        if tuple(weights.shape) != expected:
            raise ValueError(f"{where} are {tuple(weights.shape)}, not {expected}")
        rows: list[list[float]] = weights.detach().double().cpu().tolist()
        if not all(math.isfinite(w) for row in rows for w in row):
            raise ValueError(f"{where} are not finite")
        # The stable sort leaves the lower index first among equals.
        best = [self._strongest(row, kind, edge) for edge, row in enumerate(rows)]
        nodes = []
        for target in range(CELL_INPUTS, CELL_INPUTS + self.topology.nodes):
            entering = self.topology.entering(target)
            first, *others = sorted(entering, key=lambda e: -rows[e][best[e]])[: self.edges_kept]
            kept = [first, *(e for e in others if rows[e][best[e]] >= threshold)]
            nodes.append(
                tuple(Edge(operation=self.operations[best[e]], source=self.topology.edges[e][0]) for e in sorted(kept))
            )
        concat = tuple(range(CELL_INPUTS, CELL_INPUTS + self.topology.nodes))
        return CellGenotype(nodes=tuple(nodes), concat=concat)


def fully_connected(nodes: int) -> list[tuple[int, int]]:
    """DARTS's edges: every earlier node feeds every later one."""
    return [(source, target) for target in range(CELL_INPUTS, CELL_INPUTS + nodes) for source in range(target)]


def _checked_operations(names: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise ValueError(f"unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}")
    repeated = [name for name in names if list(names).count(name) > 1]
    if repeated:
        raise ValueError(f"operation {repeated[0]!r} occurs twice in the list; name it once")
    if set(names) <= {"none"}:
        raise ValueError("a search space needs at least one operation other than 'none'")
    return tuple(names)
