"""DARTS-PT: operations and edges are chosen by what their removal costs (Wang et al., ICLR 2021).

After the search, decisions take turns with epochs of training. Each decision takes an undecided edge, or where all have
been decided a node with too many of them, and measures on the architecture's half of the training images how much
accuracy the supernet loses without each of its candidates. Alpha of undecided edges is trained on.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from genotypes import Genotype
from genotypes.config import AtLeast, Config, Count
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import KINDS, Kind, Mixing, SearchSpace

#: The accuracy, in percent, of the supernet on the held-out images with the given mixing weights.
Accuracy = Callable[[Mapping[Kind, Tensor]], float]


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig(Config):
    """The second phase of `--derivation projection`, which follows `--epochs`; the defaults are DARTS-PT's code's."""

    projection_every: Count = 5
    """Epochs from one decision of --derivation projection to the next (DARTS-PT's code: 5)."""
    projection_learning_rate: Annotated[float, AtLeast(0)] = 0.0025
    """Learning rate of the weights at the beginning of the projection (DARTS-PT's code: a tenth of the search's)."""
    projection_learning_rate_min: Annotated[float, AtLeast(0)] = 0.001
    """Learning rate of the weights at its end, by a cosine (DARTS-PT's code: 0.001)."""

    def epochs(self, space: SearchSpace) -> int:
        """How many epochs it takes: the last decision is at the beginning of the last of them."""
        return self.projection_every * (Projection.decisions(space) - 1) + 1


class Projection(Relaxation):
    """Another relaxation, in which edges that have been decided have one operation, and removed ones none.

    Where edges are normalized, the weights of those that stay are scaled so that they sum to 1 again; the paper has no
    such edges. An edge never keeps zero, which is not among the paper's candidates.

    Args:
        inner: what undecided edges have.
        space: the space that it is used with.
        seed: of the order in which edges and nodes are decided.
    """

    def __init__(self, inner: Relaxation, space: SearchSpace, *, seed: int) -> None:
        super().__init__()
        self.inner = inner
        self.rows_sum_to_one, self.trains_architecture = inner.rows_sum_to_one, inner.trains_architecture
        #: Whether the projection has begun. Until then this is `inner`.
        self.begun = False
        edges = len(space.topology.edges)
        generator = torch.Generator().manual_seed(seed)
        crowded = _crowded(space)
        self._edges: dict[Kind, list[int]] = {}
        self._nodes: dict[Kind, list[int]] = {}
        for kind in KINDS:
            self._edges[kind] = torch.randperm(edges, generator=generator).tolist()
            self._nodes[kind] = [crowded[i] for i in torch.randperm(len(crowded), generator=generator)]
            self.register_buffer(f"{kind}_operation", torch.full((edges,), -1))
            self.register_buffer(f"{kind}_removed", torch.zeros(edges, dtype=torch.bool))

    @staticmethod
    def decisions(space: SearchSpace) -> int:
        """How many decisions there are: one for each edge, and one for each node that has more edges than it keeps."""
        return len(space.topology.edges) + len(_crowded(space))

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space that `inner` cannot be combined with."""
        self.inner.check(space)

    def draw(self, space: SearchSpace) -> Noise:
        """The noise of `inner`."""
        return self.inner.draw(space)

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """The weights of `inner` on edges that are undecided, one operation on the others."""
        return self._projected(self.inner.weights(space, noise))

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The same without noise."""
        return self._projected(self.inner.expected_weights(space))

    def forward(self, space: SearchSpace, noise: Noise) -> Mixing:
        """The mixing weights of a step, without removed edges."""
        return self._thinned(space, super().forward(space, noise))

    def expected(self, space: SearchSpace) -> Mixing:
        """The same without noise."""
        return self._thinned(space, super().expected(space))

    def penalty(self, space: SearchSpace) -> Tensor | None:
        """That of `inner`."""
        return self.inner.penalty(space)

    def derive(self, space: SearchSpace) -> Genotype:
        """What has been decided, and where nothing has, the strongest; before the projection, that of `inner`."""
        return super().derive(space) if self.begun else self.inner.derive(space)

    def schedule(self, epoch: int, epochs: int) -> None:
        """That of `inner`; in the projection it stays at its end."""
        if not self.begun:
            self.inner.schedule(epoch, epochs)

    def decide(self, space: SearchSpace, number: int, accuracy: Accuracy) -> None:
        """Makes decision `number`, from 0 on, in both kinds of cells.

        A kind in which it has been made already is left alone, so that an interrupted decision can be made again.
        """
        for kind in KINDS:
            edges, nodes = self._edges[kind], self._nodes[kind]
            if number < len(edges):
                self._decide_edge(space, kind, edges[number], accuracy)
            else:
                self._decide_node(space, kind, nodes[number - len(edges)], accuracy)

    def _decide_edge(self, space: SearchSpace, kind: Kind, edge: int, accuracy: Accuracy) -> None:
        """Keeps the operation without which the accuracy is lowest, the first among equals."""
        chosen = self.get_buffer(f"{kind}_operation")
        if chosen[edge] >= 0:
            return
        candidates = space.candidates(kind, edge)
        left = [self._without(space, kind, (edge, operation), accuracy) for operation in candidates]
        chosen[edge] = candidates[left.index(min(left))]

    def _decide_node(self, space: SearchSpace, kind: Kind, node: int, accuracy: Accuracy) -> None:
        """Removes, one after another, the edge without which the accuracy is highest, the last among equals."""
        removed = self.get_buffer(f"{kind}_removed")
        while True:
            edges = [e for e in space.topology.entering(node) if not removed[e]]
            assert space.edges_kept is not None
            if len(edges) <= space.edges_kept:
                return
            left = [self._without(space, kind, (edge, slice(None)), accuracy) for edge in edges]
            removed[max(zip(left, edges, strict=True))[1]] = True

    def _without(self, space: SearchSpace, kind: Kind, entry: tuple[int, int | slice], accuracy: Accuracy) -> float:
        """The accuracy with an entry of the mixing weights set to zero; the others are not scaled up."""
        with torch.no_grad():
            mixing = dict(self.expected(space))
            mixing[kind] = mixing[kind].clone()
            mixing[kind][entry] = 0
        return accuracy(mixing)

    def _projected(self, weights: Weights) -> Weights:
        if not self.begun:
            return weights
        projected: dict[Kind, Tensor] = {}
        for kind in KINDS:
            chosen, weights_EO = self.get_buffer(f"{kind}_operation"), weights[kind]
            one_hot = torch.nn.functional.one_hot(chosen.clamp(min=0), weights_EO.shape[1]).to(weights_EO)
            projected[kind] = torch.where(chosen[:, None] >= 0, one_hot, weights_EO)
        return projected

    def _thinned(self, space: SearchSpace, mixing: Mixing) -> Mixing:
        if not self.begun:
            return mixing
        thinned: dict[Kind, Tensor] = {}
        for kind in KINDS:
            stays = (~self.get_buffer(f"{kind}_removed")).to(mixing[kind])
            if space.edge_normalized:
                stays = stays / space.sum_over_rivals(space.edge_weights(kind) * stays)
            thinned[kind] = mixing[kind] * stays[:, None]
        return thinned


def _crowded(space: SearchSpace) -> list[int]:
    """The nodes that more edges enter than the derivation keeps."""
    if space.edges_kept is None:
        return []
    nodes = sorted({target for _, target in space.topology.edges})
    return [node for node in nodes if len(space.topology.entering(node)) > space.edges_kept]
