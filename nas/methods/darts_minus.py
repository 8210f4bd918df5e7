"""DARTS-: an auxiliary skip connection on every edge, which fades out during the search (Chu et al., ICLR 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genotypes.config import NotNegative
from nas.methods.registry import Method, register
from nas.methods.relaxation import Noise, Relaxation, Weights
from spaces import SearchSpace

SKIP = "skip_connect"
Decay = Literal["linear", "cosine", "slow-cosine"]


class AuxiliarySkip(Relaxation):
    """DARTS's softmax, to which a step adds b on the column of the operation skip_connect.

    The supernet is linear in the mixing weights, so that b x beside an edge is b more weight for its identity. On edges
    of stride 2 the auxiliary connection is therefore the candidate's own factorized reduction, with its weights, where
    the authors' code has another; with edge normalization it is b times the weight of the edge; and an edge that may
    not choose skip_connect has none. Nor have edges from x_{t-2} in Space-HB (`SearchSpace.adds_source`).

    Args:
        start: b in the first epoch.
        decay: how b falls towards 0, which it would be in the epoch after the last one.
    """

    rows_sum_to_one: bool = False
    auxiliary: Tensor

    def __init__(self, start: float, decay: Decay) -> None:
        super().__init__()
        self.start, self.decay = start, decay
        self.register_buffer("auxiliary", torch.tensor(start))

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError for a space without the operation skip_connect."""
        if SKIP not in space.operations:
            raise ValueError(
                f"--method darts-minus needs the operation {SKIP!r}, which is not among the candidates; "
                "add it to --operations"
            )

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        """The softmax, and b more for skip_connect."""
        column = space.operations.index(SKIP)
        found = {}
        for kind, weights_EO in self.expected_weights(space).items():
            has_E = space.shortcuts & space.mask[kind][:, column]
            auxiliary_EO = torch.zeros_like(weights_EO)
            auxiliary_EO[:, column] = self.auxiliary * has_E
            found[kind] = weights_EO + auxiliary_EO
        return found

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets b to `start` times the share that is left after epoch / epochs of the search."""
        passed = epoch / epochs
        left = {
            "linear": 1 - passed,
            "cosine": (1 + math.cos(math.pi * passed)) / 2,
            "slow-cosine": math.cos(math.pi * passed / 2),
        }
        self.auxiliary.fill_(self.start * left[self.decay])


@register("darts-minus")
@dataclass(frozen=True, kw_only=True)
class DARTSMinus(Method):
    """DARTS- (Chu et al., ICLR 2021): a skip connection beside every edge, which fades out during the search.

    It takes over what skip_connect does for the training of a supernet, so that the candidate wins on its merits.
    Derivation, held-out images and reports see the softmax without it.
    """

    auxiliary_skip: NotNegative = 1.0
    """Weight of the auxiliary skip connections in the first epoch (DARTS-'s code: 1)."""
    auxiliary_decay: Decay = "linear"
    """How that weight falls towards 0 (DARTS-'s script: linear)."""

    def build(self) -> AuxiliarySkip:
        """The softmax with auxiliary skip connections."""
        return AuxiliarySkip(self.auxiliary_skip, self.auxiliary_decay)
