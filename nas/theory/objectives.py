"""The objective whose gradient step is a layer (H. Li, Y. Yang, D. Chen, Z. Lin, Lemma 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from nas.theory.activations import Activation


class LayerObjective:
    """f with U Phi(U z) = z - grad f(z): a gradient step of size 1 in z = U x is the layer x -> Phi(W x).

        f(z) = |z|^2 / 2 - sum over i of Psi((U z)_i),   U = W^{1/2},   Psi' = Phi      (Lemma 1, eq. (8)-(9))

    In the variable x = U^{-1} z the objective is F(x) = f(U x), and the step becomes the preconditioned one
    x - W^{-1} grad F(x). Stationary points satisfy x = Phi(W x).

    Args:
        weight: W, (n, n), symmetric and positive definite.
        activation: Phi and Psi.

    Attributes:
        root: U, (n, n), symmetric and positive definite.
        curvature: bounds (mu, L) of the eigenvalues of the Hessian I - U Phi' U. f is strongly convex if mu > 0, that
            is, if sup Phi' times the largest eigenvalue of W is below 1. A step of size 1 never increases f if L <= 2;
            L <= 1 for every Phi that never decreases. grad f is Lipschitz with the constant max(|mu|, L).

    Points are (..., n). Raises ValueError for a W that is not square, symmetric and positive definite.
    """

    def __init__(self, weight: Tensor, activation: Activation) -> None:
        eigenvalues, vectors = _spectrum(weight)
        self.weight, self.activation = weight, activation
        self.root = (vectors * eigenvalues.sqrt()) @ vectors.T
        least, largest = eigenvalues[0].item(), eigenvalues[-1].item()
        flat, steep = activation.slopes
        # A negative slope, as Swish has, counts most at the largest eigenvalue.
        self.curvature = (1 - steep * largest, 1 - min(flat * least, flat * largest))

    def f(self, z: Tensor) -> Tensor:
        """The objective f at points z (..., n): (...)."""
        return z.square().sum(-1) / 2 - self.activation.psi(z @ self.root).sum(-1)

    def grad_f(self, z: Tensor) -> Tensor:
        """The gradient of f at points z (..., n): z - U Phi(U z), (..., n)."""
        return z - self.activation.phi(z @ self.root) @ self.root

    def F(self, x: Tensor) -> Tensor:
        """The objective in x at points x (..., n): f(U x), (...)."""
        return self.f(x @ self.root)

    def grad_F(self, x: Tensor) -> Tensor:
        """The gradient of F at points x (..., n): W (x - Phi(W x)), (..., n)."""
        return (x - self.activation.phi(x @ self.weight)) @ self.weight

    def to_x(self, z: Tensor) -> Tensor:
        """The points x = U^{-1} z, (..., n)."""
        return torch.linalg.solve(self.root, z, left=False)


def _spectrum(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Ascending eigenvalues (n,) and eigenvectors (n, n) of W.

    Raises ValueError for a W that is not a symmetric positive definite matrix.
    """
    if not (isinstance(weight, Tensor) and weight.is_floating_point()):
        raise ValueError("W is not a tensor of floating-point numbers; pass torch.as_tensor(W, dtype=torch.float64)")
    if weight.dim() != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"W has the shape {tuple(weight.shape)}; it must be a square matrix")
    if not weight.isfinite().all():
        raise ValueError("W has entries that are not finite")
    # Rounding in a product such as A @ A.T leaves differences of this size.
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
