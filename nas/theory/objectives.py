"""The objective whose gradient step is a layer (H. Li, Y. Yang, D. Chen, Z. Lin, Lemma 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.theory.activations import Activation


class LayerObjective:
    """f with U Phi(U z) = z - grad f(z): a gradient step of size 1 in z = U x is the layer x -> Phi(W x).

        f(z) = |z|^2 / 2 - sum over i of Psi((U z)_i),   U = W^{1/2},   Psi' = Phi      (Lemma 1, eq. (8)-(9))

    In x = U^{-1} z it is F(x) = f(U x), and the step is preconditioned: x - W^{-1} grad F(x). A point is stationary
    where x = Phi(W x).

    Args:
        weight: W, (n, n), symmetric and positive definite.
        activation: Phi and Psi.

    Attributes:
        root: U, (n, n), symmetric and positive definite.
        curvature: bounds (mu, L) of the eigenvalues of the Hessian I - U Phi' U. f is strongly convex where mu > 0,
            that is sup Phi' times the largest eigenvalue of W below 1. The step of size 1 never raises f where
            L <= 2, and L <= 1 for every Phi that does not decrease. grad f is max(|mu|, L)-Lipschitz.

    Points are (..., n). Raises ValueError for a W that is not square, symmetric and positive definite.
    """

    def __init__(self, weight: Tensor, activation: Activation) -> None:
        eigenvalues, vectors = _spectrum(weight)
        self.weight, self.activation = weight, activation
        self.root = (vectors * eigenvalues.sqrt()) @ vectors.T
        least, largest = eigenvalues[0].item(), eigenvalues[-1].item()
        flat, steep = activation.slopes
        self.curvature = (1 - steep * largest, 1 - min(flat * least, flat * largest))

    def f(self, z: Tensor) -> Tensor:
        """The objective f at points z (..., n), one value (...) each."""
        return z.square().sum(-1) / 2 - self.activation.psi(z @ self.root).sum(-1)

    def grad_f(self, z: Tensor) -> Tensor:
        """The gradient of f, z - U Phi(U z), (..., n)."""
        return z - self.activation.phi(z @ self.root) @ self.root

    def F(self, x: Tensor) -> Tensor:
        """The objective at points x (..., n), f(U x), one value (...) each."""
        return self.f(x @ self.root)

    def grad_F(self, x: Tensor) -> Tensor:
        """The gradient of F, W (x - Phi(W x)), (..., n)."""
        return (x - self.activation.phi(x @ self.weight)) @ self.weight

    def to_x(self, z: Tensor) -> Tensor:
        """The points U^{-1} z, (..., n)."""
        return torch.linalg.solve(self.root, z, left=False)


def _spectrum(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (n,) and eigenvectors (n, n) of an SPD matrix; ValueError for any other."""
    if not (isinstance(weight, Tensor) and weight.is_floating_point()):
        raise ValueError("W is not a tensor of floating-point numbers; pass torch.as_tensor(W, dtype=torch.float64)")
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"W has the shape {tuple(weight.shape)}; it must be a square matrix")
    if not weight.isfinite().all():
        raise ValueError("W has entries that are not finite")
    precision = torch.finfo(weight.dtype).eps * len(weight)
    skew = (weight - weight.T).abs().max()
    if skew > precision * weight.abs().max():
        raise ValueError(f"W is not symmetric (W and its transpose differ by {skew:.1e}); pass (W + W.T) / 2")
    eigenvalues, vectors = torch.linalg.eigh(weight)
    if eigenvalues[0] <= precision * eigenvalues[-1].abs():
        raise ValueError(
            f"W is not positive definite (least eigenvalue {eigenvalues[0]:.1e}); add a multiple of the identity"
        )
    return eigenvalues, vectors
