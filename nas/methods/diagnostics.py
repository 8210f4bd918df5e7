"""Numbers that show how a search is going."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genotypes import CELL_NAMES, Genotype
from spaces import KINDS, Kind, SearchSpace, is_parameter_free


def diagnose(space: SearchSpace, mixing: Mapping[Kind, Tensor], genotype: Genotype) -> dict[str, float]:
    """Figures of an epoch, from the mixing weights, (E, O) for each kind of cell, and the genotype derived from them.

    For each kind of cell, under the names of their columns in `metrics.csv`:

    - `entropy`: entropy of an edge's weights, averaged over the edges, in nats: ln O if all operations have the same
      weight, 0 if one has all of it.
    - `parameter_free`: number of edges of the genotype whose operation has no parameters. A search that collapses ends
      in skip connections alone (Zela et al., ICLR 2020, sec. 3).
    - `left_start`: number of edges that have left the peaked weights they started from, if any
      (`SearchSpace.left_start`).
    """
    left = space.left_start(mixing) if space.peaked else {}
    cells = {"normal": genotype.normal, "reduce": genotype.reduce}
    return {
        **{f"{CELL_NAMES[kind]}_entropy": mean_entropy(mixing[kind]) for kind in KINDS},
        **{
            f"{CELL_NAMES[kind]}_parameter_free": sum(
                is_parameter_free(edge.operation) for node in cells[kind].nodes for edge in node
            )
            for kind in KINDS
        },
        **{f"{CELL_NAMES[kind]}_left_start": left[kind] for kind in left},
    }


def mean_entropy(weights_EO: Tensor) -> float:
    """The entropy of each edge's weights, scaled to add up to 1, averaged over the edges; in nats."""
    weights_EO = weights_EO.detach().double()
    shares_EO = weights_EO / weights_EO.sum(dim=1, keepdim=True)
    return float(torch.special.entr(shares_EO).sum(dim=1).mean())
