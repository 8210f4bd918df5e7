"""Random search with weight sharing (Li and Talwalkar, UAI 2019): a baseline that other search methods should beat.

Each step trains the weights of one architecture, drawn at random. In the end many architectures are drawn, and the one
is taken that does best on the held-out images with these weights.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genotypes import Genotype
from genotypes.config import Count
from nas.methods.diagnostics import one_hot
from nas.methods.registry import Method, register
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import KINDS, Kind, Mixing, SearchSpace
from spaces.sampling import Sampler

#: Steps of the weights for each round of the choice (Li and Talwalkar's code).
STEPS_PER_ROUND = 10_000

#: The accuracy, in percent, of the supernet with the given mixing weights on one batch of held-out images, by its
#: number, or (None) on all of them.
Accuracy = Callable[[Mixing, int | None], float]


class UniformSampling(Relaxation):
    """One operation other than zero on each edge that is kept, and nothing on the others, drawn in every step.

    Any edges that a derivation could keep are equally likely, and so are the allowed operations of each of them. Where
    edges are normalized, those that are kept have equal weights that sum to 1. Parameters of the space have no part in
    it: no gradient reaches them.

    Args:
        samples: architectures that a round of the choice measures on one batch.
        finalists: the best of them, which it measures on all held-out images.
    """

    trains_architecture: bool = False

    def __init__(self, samples: int, finalists: int) -> None:
        super().__init__()
        self.samples, self.finalists = samples, finalists

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space with peaked logits, such as Space-HB's own start."""
        if space.peaked:
            raise ValueError(
                "--method random-ws cannot start from peaked logits (--init hb): it draws all operations alike; use "
                "--init zero"
            )

    def draw(self, space: SearchSpace) -> Noise:
        """Uniform numbers (E, O + 1) for each kind: the largest decide about operations and, in the last, edges."""
        return {kind: space.alpha[kind].new_empty(_wider(space)).uniform_() for kind in KINDS}

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """Rows (E, O) that are one-hot, or zero for an edge that is not kept."""
        weights: dict[Kind, Tensor] = {}
        for kind in KINDS:
            of_operations_EO, of_edges_E = noise[kind][:, :-1], noise[kind][:, -1]
            best_E1 = of_operations_EO.masked_fill(~_candidates(space, kind), -1).argmax(dim=1, keepdim=True)
            kept_E1 = _kept(space, of_edges_E)[:, None].to(of_operations_EO)
            weights[kind] = torch.zeros_like(of_operations_EO).scatter_(1, best_E1, kept_E1)
        return weights

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The mean (E, O) of the draws."""
        weights: dict[Kind, Tensor] = {}
        for kind in KINDS:
            candidates_EO = _candidates(space, kind).to(space.alpha[kind])
            entering_E = space.same_target.sum(dim=1)
            share_E = torch.ones_like(candidates_EO[:, 0])
            if space.edges_kept is not None:
                share_E = (space.edges_kept / entering_E).clamp(max=1).to(share_E)
            weights[kind] = candidates_EO * (share_E / candidates_EO.sum(dim=1))[:, None]
        return weights

    def forward(self, space: SearchSpace, noise: Noise) -> Mixing:
        """The mixing weights (E, O) of the drawn architecture."""
        return _normalized(space, self.weights(space, noise))

    def expected(self, space: SearchSpace) -> Mixing:
        """Their mean."""
        return _normalized(space, self.expected_weights(space))

    def candidates(self, sampler: Sampler, *, steps: int, seed: int) -> list[Genotype]:
        """The genotypes that `choose` is to measure, round after round.

        Args:
            sampler: draws them; unlike in the steps, an edge with more operations to choose from is kept more often.
            steps: of the weights, in the whole search.
            seed: of a generator of their own, so that they are the same wherever torch's stands.

        Raises ValueError as `Sampler.draw`.
        """
        generator = random.Random(f"random-ws {seed}")
        rounds = max(1, steps // STEPS_PER_ROUND)
        return [sampler.draw(generator) for _ in range(rounds * self.samples)]

    def choose(self, space: SearchSpace, candidates: Sequence[Genotype], accuracy: Accuracy) -> tuple[Genotype, float]:
        """The genotype with the highest accuracy on all held-out images, among the finalists of all rounds; and that.

        Of equals it is the one of the earlier round, then the one that was better on the batch of its round, then the
        one that was drawn first.
        """
        finalists: list[Genotype] = []
        for number, first in enumerate(range(0, len(candidates), self.samples)):
            drawn = candidates[first : first + self.samples]
            accuracies = [accuracy(mixing_of(space, genotype), number) for genotype in drawn]
            # Stable, so that the first comes first among equals.
            order = sorted(range(len(drawn)), key=lambda i: -accuracies[i])
            finalists += [drawn[i] for i in order[: self.finalists]]
        of_finalists = [accuracy(mixing_of(space, genotype), None) for genotype in finalists]
        best = of_finalists.index(max(of_finalists))
        return finalists[best], of_finalists[best]


def mixing_of(space: SearchSpace, genotype: Genotype) -> Mixing:
    """The mixing weights (E, O) of a genotype of the space, as a step draws them."""
    # Which of several edges between the same two nodes is meant, only a mask can tell: it is 0 in these weights.
    allowed = {kind: _candidates(space, kind).to(space.alpha[kind]) for kind in KINDS}
    weights = one_hot(space, allowed, genotype)
    assert weights is not None, "it is a genotype of this space"
    return _normalized(space, weights)


def _wider(space: SearchSpace) -> tuple[int, int]:
    return len(space.topology.edges), len(space.operations) + 1


def _candidates(space: SearchSpace, kind: Kind) -> Tensor:
    """Which operations an edge may be left with, (E, O) of bool."""
    candidates_EO = space.mask[kind].clone()
    if "none" in space.operations:
        candidates_EO[:, space.operations.index("none")] = False
    return candidates_EO


def _kept(space: SearchSpace, numbers_E: Tensor) -> Tensor:
    """Which edges are kept, (E,) of bool: at each node those with the largest numbers."""
    if space.edges_kept is None:
        return torch.ones_like(numbers_E, dtype=torch.bool)
    # Places are distinct even where numbers are equal, so that the number of kept edges is always right.
    places_E = numbers_E.argsort().argsort()
    ahead_EE = space.same_target & (places_E > places_E[:, None])
    return ahead_EE.sum(dim=1) < space.edges_kept


def _normalized(space: SearchSpace, weights: Weights) -> Mixing:
    """The mixing weights (E, O), in which edges that are kept share the weight 1 of their node, if it is shared."""
    if not space.edge_normalized:
        return weights
    return {kind: weights[kind] / space.sum_over_rivals(weights[kind].sum(dim=1))[:, None] for kind in KINDS}


@register("random-ws")
@dataclass(frozen=True, kw_only=True)
class RandomWS(Method):
    """Random search with weight sharing (Li and Talwalkar, UAI 2019): a baseline, without steps of the architecture.

    Each step trains the weights of one architecture, drawn at random. After the last epoch many are drawn, and the one
    is taken that does best on the held-out images with these weights.
    """

    samples: Count = 1000
    """Architectures to draw in the end, and to measure on one held-out batch; so many for every 10,000 steps of the
    search (Li and Talwalkar's code: 1000)."""
    finalists: Count = 10
    """The best of --samples on that batch, to measure on all held-out images (Li and Talwalkar's code: 10)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finalists > self.samples:
            raise ValueError(f"--finalists {self.finalists} are more than --samples {self.samples}; give fewer")

    def build(self) -> UniformSampling:
        """The sampling of architectures."""
        return UniformSampling(self.samples, self.finalists)
