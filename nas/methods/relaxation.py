"""How a search relaxes the choice of operations: from the logits of a space to the weights of its operations.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from spaces import KINDS, Kind, Mixing, SearchSpace

#: Random numbers of one step, by cell kind; empty for a relaxation without any.
Noise = Mapping[Kind, Tensor]


class Relaxation(nn.Module):
    """A softmax over the operations of each edge (DARTS sec. 2.2), and the base class of other relaxations.

    A step draws its noise once and passes it to each of its evaluations, so that within a step the mixing weights are
    a function of the architecture alone. An unrolled step evaluates them four times, and its finite difference would
    otherwise divide the difference of two draws by 2 eps.

    A subclass without noise overrides `expected`; one with noise overrides `draw` and `forward`, and `expected` too if
    that is not the softmax. What changes during a search is a buffer that `schedule` fills in place: a run saves
    buffers, and a CUDA graph reads them at the address that it has recorded, whereas it would repeat the first value of
    a Python number. Trainable parameters belong to the space; those of a relaxation are not trained.
    """

    def draw(self, space: SearchSpace) -> Noise:
        """The noise of one step; none here.

        Draw it from torch's default generator on the device of the space: its state is part of a checkpoint.
        """
        # This is called within the step, even if that is captured: PyTorch registers the default generator with a CUDA
        # graph, and each replay continues its random numbers. Another generator would repeat the same numbers.
        return {}

    def forward(self, space: SearchSpace, noise: Noise) -> Mixing:
        """The mixing weights (E, O) of a step, differentiable with respect to the space's parameters; draws nothing."""
        return self.expected(space)

    def expected(self, space: SearchSpace) -> Mixing:
        """The mixing weights (E, O) without randomness, for derivation, evaluation and reports."""
        return space.mixing({kind: space.logits(kind).softmax(dim=-1) for kind in KINDS})

    def described(self) -> str:
        """Its class, numbers, texts and buffers in one line: two searches are alike only if this is."""
        kept: dict[str, object] = {
            name: value
            for name, value in vars(self).items()
            if not name.startswith("_") and isinstance(value, bool | int | float | str | tuple) and name != "training"
        }
        kept |= {name: buffer.tolist() for name, buffer in self.named_buffers()}
        return f"{type(self).__qualname__}({', '.join(f'{name}={value!r}' for name, value in sorted(kept.items()))})"

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets the buffers for epoch number `epoch`, from 0 on, of a search of `epochs`; none here."""
