"""Numbers that show how a search is going.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from genotypes import CELL_NAMES, CellGenotype, Genotype
from nas.data import Batch
from nas.engine.device import repeatable
from nas.engine.meter import Meter
from nas.methods.bilevel import Bilevel
from nas.methods.regularizers import entropies, shares_of
from nas.methods.stops import skips
from spaces import KINDS, Kind, Mixing, SearchSpace, is_parameter_free
from spaces.kernels.norm import frozen_statistics
from spaces.space import CELL_INPUTS


def diagnose(space: SearchSpace, mixing: Mapping[Kind, Tensor], genotype: Genotype) -> dict[str, float]:
    """Figures of an epoch, from the mixing weights, (E, O) for each kind of cell, and the genotype derived from them.

    For each kind of cell, under the names of their columns in `metrics.csv`; those of an edge are averaged over the
    edges, and do not depend on what the edge itself weighs:

    - `entropy`: entropy of an edge's weights, in nats: ln O if all operations have the same weight, 0 if one has all
      of it.
    - `normalized_entropy`: the same, divided by its largest value.
    - `effective_operations`: number of operations of equal weight that would have the same entropy, exp(entropy).
    - `margin`: gap between the two largest weights of an edge among the operations other than zero. Where it is small,
      the derivation decides by a hair.
    - `parameter_free_share`: weight of the operations that have no parameters, zero included.
    - `parameter_free`: number of edges of the genotype whose operation has no parameters. A search that collapses ends
      in skip connections alone (Zela et al., ICLR 2020, sec. 3).
    - `skips`: number of edges of the genotype whose operation is `skip_connect`.
    - `edge_entropy`, `edge_normalized_entropy`: the same two of the weights of the edges that enter a node, averaged
      over the nodes; only where edges are normalized.
    - `left_start`: number of edges that have left the peaked weights they started from, if any
      (`SearchSpace.left_start`).
    """
    left = space.left_start(mixing) if space.peaked else {}
    cells = {"normal": genotype.normal, "reduce": genotype.reduce}
    figures: dict[str, float] = {}
    for kind in KINDS:
        operations = [edge.operation for node in cells[kind].nodes for edge in node]
        own: dict[str, float] = {
            **_of_operations(space, mixing[kind], kind),
            "parameter_free": sum(is_parameter_free(name) for name in operations),
            "skips": skips(cells[kind]),
        }
        if space.edge_normalized:
            own |= _of_edges(space, kind)
        if kind in left:
            own["left_start"] = left[kind]
        figures |= {f"{CELL_NAMES[kind]}_{name}": value for name, value in own.items()}
    return figures


def _of_operations(space: SearchSpace, weights_EO: Tensor, kind: Kind) -> dict[str, float]:
    # A method may leave an edge out, or give it negative weights.
    shares_EO = shares_of(weights_EO.detach().double().abs()).nan_to_num()
    entropy_E = entropies(shares_EO)
    allowed_E = space.mask[kind].sum(dim=1)
    # An edge of a single candidate is decided, and one of two, of which the other is zero, has no second.
    choosable_EO = shares_EO[:, [o for o, name in enumerate(space.operations) if name != "none"]]
    best_E2 = torch.nn.functional.pad(choosable_EO, (0, 1)).topk(2, dim=1).values
    free = [o for o, name in enumerate(space.operations) if is_parameter_free(name)]
    return {
        "entropy": float(entropy_E.mean()),
        "normalized_entropy": float((entropy_E / allowed_E.clamp(min=2).double().log()).mean()),
        "effective_operations": float(entropy_E.exp().mean()),
        "margin": float((best_E2[:, 0] - best_E2[:, 1]).mean()),
        "parameter_free_share": float(shares_EO[:, free].sum(dim=1).mean()),
    }


def _of_edges(space: SearchSpace, kind: Kind) -> dict[str, float]:
    weights_E = space.edge_weights(kind).detach().double()
    entering = [list(space.topology.entering(CELL_INPUTS + node)) for node in range(space.topology.nodes)]
    found = [float(entropies(shares_of(weights_E[None, edges]))) for edges in entering]
    normalized = [value / math.log(max(2, len(edges))) for value, edges in zip(found, entering, strict=True)]
    return {"edge_entropy": sum(found) / len(found), "edge_normalized_entropy": sum(normalized) / len(normalized)}


def discretization_gap(bilevel: Bilevel, genotype: Genotype, batches: Iterable[Batch]) -> float | None:
    """How much the mean loss of held-out images changes if the mixing weights become those of the genotype.

    That is |loss(M) - loss(one-hot)| in the supernet with its present weights, nothing trained anew; 0 would mean that
    the derivation loses nothing. The BatchNorms normalize by the batch: running statistics are of the mixture, and
    would count against any other weights. It costs two evaluations of the batches, and leaves all state unchanged. An
    operation that draws draws the same in both.

    None for a genotype that is not made of the edges and operations of the space, as one of a user's own method may be.
    """
    supernet = bilevel.supernet
    training, device = supernet.training, next(supernet.parameters()).device
    mixed, discrete = Meter(), Meter()
    with torch.no_grad():
        mixing = bilevel.relaxation.expected(bilevel.space)
        derived = one_hot(bilevel.space, mixing, genotype)
    if derived is None:
        return None
    try:
        with torch.no_grad(), frozen_statistics(supernet.train()):
            for number, batch in enumerate(batches):
                for meter, weights in ((mixed, mixing), (discrete, derived)):
                    with repeatable(device, number):
                        meter.update(*bilevel.loss(batch, weights), batch[1])
    finally:
        supernet.train(training)
    return abs(mixed.loss - discrete.loss)


def one_hot(space: SearchSpace, mixing: Mapping[Kind, Tensor], genotype: Genotype) -> Mixing | None:
    """The mixing weights (E, O) with which a supernet computes the cells of a genotype: 1 for its operations, else 0.

    The edges of a genotype weigh 1 in an evaluation network, and so they do here, with edge normalization too. Where a
    space has several edges between the same two nodes, those with the largest `mixing` weights are taken. None for a
    genotype that is not made of the edges and operations of the space.
    """
    result = {kind: torch.zeros_like(mixing[kind]) for kind in KINDS}
    for kind in KINDS:
        cell: CellGenotype = getattr(genotype, kind)
        entries = entries_of(cell, space.topology.edges, space.operations, mixing[kind].tolist())
        if entries is None:
            return None
        for entry in entries:
            result[kind][entry] = 1
    return result


def entries_of(
    cell: CellGenotype,
    edges: Sequence[tuple[int, int]],
    operations: Sequence[str],
    weights: Sequence[Sequence[float]],
) -> list[tuple[int, int]] | None:
    """The entries (edge, operation) of a matrix of weights (E, O) that a cell takes; None if it is made of others.

    Where there are several edges between the same two nodes, those with the largest weights.

    Args:
        cell: whose edges are in the order of `edges`.
        edges: (source, target) of each row.
        operations: of the columns.
        weights: the rows.
    """
    found = []
    for target, node in enumerate(cell.nodes, start=CELL_INPUTS):
        columns = [operations.index(edge.operation) for edge in node if edge.operation in operations]
        choices = [
            rows
            for rows in combinations([e for e, (_, t) in enumerate(edges) if t == target], len(node))
            if [edges[e][0] for e in rows] == [edge.source for edge in node]
        ]
        if not choices or len(columns) < len(node):
            return None
        best = max(choices, key=lambda rows: sum(weights[e][o] for e, o in zip(rows, columns, strict=True)))
        found += list(zip(best, columns, strict=True))
    return found
