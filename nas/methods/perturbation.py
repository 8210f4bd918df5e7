"""Perturbed weights of the operations, with which a search trains the weights of the supernet.

SDARTS (Chen and Hsieh, ICML 2020): weights that do well for all architectures near the present one make the validation
loss flat there, so that the derivation, a jump to a corner of the simplex, loses less. Steps of the architecture,
held-out images and the derivation see the unperturbed weights.

Shape letters: E edges (mixed operations of one cell), O candidate operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from genotypes.config import AtMost, Config, MoreThan
from nas.methods.relaxation import Relaxation, Weights
from spaces import KINDS, Kind, SearchSpace

Size = Annotated[float, MoreThan(0), AtMost(1)]

#: Steps of the adversarial ascent (SDARTS's code: 7), each of 2 eps / STEPS: enough to cross the box once.
STEPS = 7


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig(Config):
    """How the weights of the operations are perturbed when the supernet is trained; by default not at all."""

    perturb: Literal["none", "random", "adversarial"] = "none"
    """Train the supernet with perturbed weights of the operations: random (SDARTS-RS), or adversarial on the batch
    (SDARTS-ADV, seven more passes a step) (Chen and Hsieh, ICML 2020)."""
    perturb_start: Size = 0.03
    """Largest change of a weight by --perturb in the first epoch (SDARTS's code: 0.03)."""
    perturb_end: Size = 0.3
    """Largest change of a weight by --perturb that the linear schedule ends with (SDARTS's code: 0.3)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("start", "end"):
            if self.perturb == "none" and getattr(self, f"perturb_{name}") != getattr(type(self), f"perturb_{name}"):
                raise ValueError(f"--perturb-{name} does nothing without --perturb; add that, or leave it out")

    def build(self, space: SearchSpace) -> Perturbation | None:
        """The perturbation, on the device of the space; None for "none", so that nothing is computed."""
        if self.perturb == "none":
            return None
        perturbation = Perturbation(self.perturb_start, self.perturb_end, adversarial=self.perturb == "adversarial")
        return perturbation.to(space.alpha[KINDS[0]].device)


class Perturbation(nn.Module):
    """Moves the weights A (E, O) of the operations by at most eps each, and back onto the simplex.

    Args:
        start: eps in the first epoch.
        end: the eps at which a linear schedule would arrive after the last epoch.
        adversarial: ascend the loss of the batch, instead of drawing from the uniform distribution.
    """

    eps: Tensor

    def __init__(self, start: float, end: float, *, adversarial: bool) -> None:
        super().__init__()
        self.start, self.end, self.adversarial = start, end, adversarial
        # Not saved: `schedule` fills it before each epoch.
        self.register_buffer("eps", torch.tensor(start), persistent=False)

    def schedule(self, epoch: int, epochs: int) -> None:
        """Sets eps for epoch number `epoch`, from 0 on, of a search of `epochs`."""
        self.eps.fill_(self.start + (self.end - self.start) * epoch / epochs)

    def check(self, space: SearchSpace, relaxation: Relaxation) -> None:
        """Raises ValueError, naming both, for a relaxation whose weights do not add up to 1 on every edge."""
        device = space.alpha[KINDS[0]].device
        # The search's own random numbers, such as its first weights, stay those of the same search without --perturb.
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            weights = relaxation.weights(space, relaxation.draw(space))
        if any(bool(((weights[kind].sum(dim=1) - 1).abs() > 1e-3).any()) for kind in KINDS):
            name = "adversarial" if self.adversarial else "random"
            raise ValueError(
                f"--perturb {name} keeps the weights of an edge's operations at a sum of 1, which those of "
                f"{type(relaxation).__name__} do not have; drop --perturb, or choose another --method"
            )

    @torch.no_grad()
    def forward(self, space: SearchSpace, weights: Weights, loss: Callable[[Weights], Tensor]) -> Weights:
        """The perturbed weights (E, O); operations that the space excludes keep the weight 0.

        Args:
            space: tells which operations are excluded.
            weights: those of the step, (E, O) by cell kind.
            loss: of the batch, differentiable with respect to the weights; called by the adversarial one only. Where it
                draws random numbers, two calls with the same weights differ, and the comparison at the end is noisy.
        """
        drawn: Weights = {
            kind: onto_simplex(w + self.eps * torch.empty_like(w).uniform_(-1, 1), space.mask[kind])
            for kind, w in weights.items()
        }
        return self._ascended(drawn, weights, space.mask, loss) if self.adversarial else drawn

    def _ascended(
        self, drawn: Weights, plain: Weights, allowed: Mapping[Kind, Tensor], loss: Callable[[Weights], Tensor]
    ) -> Weights:
        """Sign-gradient ascent from the drawn weights within the box around the plain ones.

        The code of SDARTS ascends with the running statistics of the BatchNorms. Here they have those of the batch, as
        in the step itself.
        """
        perturbed = drawn
        for _ in range(STEPS):
            leaves = {kind: w.requires_grad_() for kind, w in perturbed.items()}
            with torch.enable_grad():
                gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), materialize_grads=True)
            perturbed = {}
            for (kind, w), g in zip(leaves.items(), gradient, strict=True):
                moved = w.detach() + (2 / STEPS) * self.eps * g.sign() - plain[kind]
                perturbed[kind] = onto_simplex(plain[kind] + moved.clamp(-self.eps, self.eps), allowed[kind])
        rose = loss(perturbed) > loss(plain)
        return {kind: torch.where(rose, w, plain[kind]) for kind, w in perturbed.items()}


def onto_simplex(weights_EO: Tensor, allowed_EO: Tensor) -> Tensor:
    """Weights (E, O) clipped to [0, 1] and divided by their sum on each edge; 0 where not allowed.

    An edge of which nothing would be left gets 1 for what was its largest weight. This is what SDARTS's code does; the
    result is not the nearest point of the simplex.
    """
    largest = weights_EO.where(allowed_EO, -torch.inf).argmax(dim=1, keepdim=True)
    clipped = weights_EO.clamp(0, 1).where(allowed_EO, 0)
    left = clipped.sum(dim=1, keepdim=True)
    clipped = torch.where(left > 0, clipped, torch.zeros_like(clipped).scatter(1, largest, 1.0))
    return clipped / clipped.sum(dim=1, keepdim=True)
