"""How a search relaxes the choice of operations: from the logits of a space to the weights of its operations.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from genotypes import Genotype
from spaces import KINDS, Kind, Mixing, SearchSpace

#: Random numbers of one step, by cell kind; empty for a relaxation without any.
Noise = Mapping[Kind, Tensor]
#: The weights (E, O) of the operations, by cell kind, before those of the edges are multiplied in.
Weights = Mapping[Kind, Tensor]


class Relaxation(nn.Module):
    """A softmax over the operations of each edge (DARTS sec. 2.2), and the base class of other relaxations.

    A step draws its noise once and passes it to each of its evaluations, so that within a step the mixing weights are
    a function of the architecture alone. An unrolled step evaluates them four times, and its finite difference would
    otherwise divide the difference of two draws by 2 eps.

    A subclass without noise overrides `expected_weights`; one with noise overrides `draw` and `weights`, and
    `expected_weights` too if that is not the softmax. What changes during a search is a buffer that `schedule` fills
    in place: a run saves buffers, and a CUDA graph reads them at the address that it has recorded, whereas it would
    repeat the first value of a Python number. Parameters of a relaxation, made in `begin`, are trained by the steps
    of the architecture.
    """

    #: Whether the weights of an edge sum to 1 in every step, or to 0 if it is left out, as partial channels need it.
    rows_sum_to_one: bool = True
    #: Whether a search takes steps of the architecture, or only steps of the weights.
    trains_architecture: bool = True
    #: Whether its steps of the architecture train the space's parameters (alpha, beta), or only those of its own.
    trains_space: bool = True

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError, naming both, for a space that it cannot be combined with; none here."""

    def begin(self, space: SearchSpace, *, seed: int) -> None:
        """Makes the parameters and buffers that depend on the space, on its device; none here."""

    def draw(self, space: SearchSpace) -> Noise:
        """The noise of one step; none here.

        Draw it from torch's default generator on the device of the space: its state is part of a checkpoint.
        """
        # This is called within the step, even if that is captured: PyTorch registers the default generator with a CUDA
        # graph, and each replay continues its random numbers. Another generator would repeat the same numbers.
        return {}

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """The weights (E, O) of the operations in a step; differentiable in the space's parameters, draws nothing."""
        return self.expected_weights(space)

    def expected_weights(self, space: SearchSpace) -> Weights:
        """The weights (E, O) of the operations without randomness."""
        return {kind: space.logits(kind).softmax(dim=-1) for kind in KINDS}

    def forward(self, space: SearchSpace, noise: Noise) -> Mixing:
        """The mixing weights (E, O) of a step: those of the operations times those of their edges."""
        return space.mixing(self.weights(space, noise))

    def expected(self, space: SearchSpace) -> Mixing:
        """The mixing weights (E, O) without randomness, for derivation, evaluation and reports."""
        return space.mixing(self.expected_weights(space))

    def penalty(self, space: SearchSpace) -> Tensor | None:
        """A scalar that the method adds to the loss of the architecture, and to that alone; None for nothing."""
        return None

    def derive(self, space: SearchSpace) -> Genotype:
        """The genotype of the search's state: the strongest operations and edges (DARTS sec. 2.4)."""
        return space.derive(self.expected(space))

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets the buffers for epoch number `epoch`, from 0 on, of a search of `epochs`; none here."""
