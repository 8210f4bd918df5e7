"""The dominant eigenvalue of the Hessian of the validation loss in the architecture.

It is the largest eigenvalue, not the one of largest magnitude. Where it grows during a search, the derived networks get
worse (RobustDARTS, Zela et al., ICLR 2020, sec. 4).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from nas.data import Batch
from nas.engine.device import full_fp32
from nas.methods.bilevel import Bilevel, constant
from spaces import KINDS
from spaces.kernels.norm import frozen_statistics

#: Where Lanczos's iteration ends: the residual of its eigenvector, relative to the largest eigenvalue in magnitude. The
#: error of the eigenvalue is of the order of its square.
TOLERANCE = 1e-3


def dominant_eigenvalue(bilevel: Bilevel, batch: Batch) -> float:
    """The largest eigenvalue of the Hessian of the loss of a validation batch, in all logits of operations.

    Take the same batch for each measurement of a search. The logits of both kinds of cells are one vector; those of
    edges have no part in it, so that values compare with the paper's, and neither have operations that a mask excludes.
    The mixing weights are the expected ones, the BatchNorms normalize by the batch, and all is computed in fp32.
    Weights, running statistics, random state and gradients are left unchanged. NaN if a product is not finite.

    It takes a graph of the batch that can be differentiated twice, and about ten products with the Hessian (Lanczos: 8
    to 11 for supernets of 3 cells in the three spaces), where the whole Hessian of DARTS's space would take 224.
    """
    supernet, space = bilevel.supernet, bilevel.space
    training = supernet.training
    device = batch[0].device
    try:
        with (
            frozen_statistics(supernet.train()),
            constant(bilevel.weights.values()),
            full_fp32(),
            # A measurement must not change the search: an operation that draws would move the generator.
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            loss = bilevel.criterion(supernet(batch[0], bilevel.relaxation.expected(space)), batch[1])
            alphas = [space.alpha[kind] for kind in KINDS]
            allowed = torch.cat([space.mask[kind].flatten() for kind in KINDS]).cpu()
            product = _hessian_product(loss, alphas)
            # Always the same vector, so that the same state gives the same figure.
            start = torch.randn(len(allowed), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            # Rows and columns of excluded logits are zero: the iteration stays where it starts, among the others.
            return largest_eigenvalue(product, start.where(allowed, 0), dimension=int(allowed.sum()))
    finally:
        supernet.train(training)


def _hessian_product(loss: Tensor, alphas: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """The product of the Hessian of `loss` in `alphas`, one after another, and a vector on the CPU in float64."""
    gradient = torch.autograd.grad(loss, alphas, create_graph=True, materialize_grads=True)
    sizes = [alpha.numel() for alpha in alphas]

    def product(vector: Tensor) -> Tensor:
        parts = [part.to(a).view_as(a) for part, a in zip(vector.split(sizes), alphas, strict=True)]
        # A supernet of two cells has none of the normal kind: a gradient of zero has no graph.
        used = [(g, part) for g, part in zip(gradient, parts, strict=True) if g.requires_grad]
        if not used:
            return torch.zeros_like(vector)
        outputs, directions = zip(*used, strict=True)
        second = torch.autograd.grad(outputs, alphas, directions, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in second]).to(vector)

    return product


def largest_eigenvalue(product: Callable[[Tensor], Tensor], start: Tensor, *, dimension: int) -> float:
    """The largest eigenvalue of a symmetric matrix that is known by its products with vectors (Lanczos).

    Power iteration would find the one of largest magnitude instead. The basis is made orthogonal in full, so that after
    `dimension` products the result is exact.

    Args:
        product: the matrix times a vector (n,).
        start: a vector (n,) with a part in every eigenvector that counts; a random one has.
        dimension: of the smallest subspace that holds `start` and that the matrix does not leave; n, if all of it.
    """
    basis_KN = start[None] / start.norm()
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    while True:
        image = product(basis_KN[-1])
        if not image.isfinite().all():
            return math.nan
        diagonal.append(image @ basis_KN[-1])
        for _ in range(2):  # once leaves rounding errors that grow
            image = image - basis_KN.T @ (basis_KN @ image)
        norm = image.norm()
        tridiagonal = torch.diag(torch.stack(diagonal))
        if beside:
            tridiagonal = tridiagonal + torch.diag(torch.stack(beside), 1) + torch.diag(torch.stack(beside), -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        converged = norm * vectors[-1, -1].abs() <= TOLERANCE * values.abs().max()
        if converged or len(diagonal) == dimension:
            return float(values[-1])
        beside.append(norm)
        basis_KN = torch.cat([basis_KN, image[None] / norm])
