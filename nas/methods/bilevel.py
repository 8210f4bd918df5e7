"""The bilevel problem of the search: weights on one half of the training data, architecture on the other.

    min over alpha of  L_valid(w*(alpha), alpha)   where   w*(alpha) = argmin over w of  L_train(w, alpha)

(DARTS, Liu et al., ICLR 2019, eq. (3)-(4)). `Bilevel` holds both levels; a search alternates
`architecture_step` and `weight_step`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from genotypes.config import Common, Config, MoreThan, NotNegative, Share
from nas.data import Batch
from nas.engine.device import Precision, autocast, full_fp32
from nas.engine.optimizers import adam, sgd
from nas.errors import UsageError
from nas.methods.perturbation import Perturbation
from nas.methods.regularizers import Regularizer
from nas.methods.relaxation import Noise, Relaxation, Weights
from nas.supernet import Supernet
from spaces import Mixing, SearchSpace
from spaces.kernels.norm import frozen_statistics

Tensors = tuple[Tensor, ...]
HessianProduct = Literal["finite-difference", "exact"]


@dataclass(frozen=True, kw_only=True)
class BilevelConfig(Config):
    """Both optimizers of the search; the defaults are DARTS's (Liu et al., ICLR 2019, sec. 3.1 and code)."""

    learning_rate: Annotated[NotNegative, Common] = 0.025
    """Initial learning rate of the weights, SGD (DARTS sec. A.1: 0.025)."""
    learning_rate_min: NotNegative = 0.0
    """Learning rate of the weights at the end of the cosine schedule (DARTS sec. A.1: 0)."""
    momentum: Share = 0.9
    """Momentum of the weights' SGD (DARTS sec. A.1: 0.9)."""
    weight_decay: NotNegative = 3e-4
    """Weight decay of the weights (DARTS sec. A.1: 3e-4)."""
    grad_clip: Annotated[float, MoreThan(0)] = 5.0
    """Gradient-clipping norm of the weights (DARTS's code: 5)."""
    arch_learning_rate: Annotated[NotNegative, Common] = 3e-4
    """Learning rate of the architecture, Adam with betas (0.5, 0.999) (DARTS sec. A.1: 3e-4)."""
    arch_weight_decay: NotNegative = 1e-3
    """Weight decay of the architecture (DARTS sec. A.1: 1e-3)."""
    unrolled: Annotated[bool, Common] = False
    """Second-order architecture step: differentiate through one step of the weights (DARTS eq. (6))."""
    hessian_product: HessianProduct = "finite-difference"
    """How --unrolled multiplies by the Hessian: DARTS eq. (8), or exactly by double backward (more memory)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hessian_product == "exact" and not self.unrolled:
            raise ValueError("--hessian-product exact does nothing without --unrolled; add that, or leave it out")

    @property
    def needs_fp32(self) -> bool:
        """Whether forward passes in bf16 are too coarse: for the differences of the finite-difference product."""
        return self.unrolled and self.hessian_product == "finite-difference"


class Bilevel:
    """A supernet, a search space and the optimizers of both levels.

    Args:
        supernet: its parameters are the weights w.
        space: its parameters are the architecture alpha (and beta).
        config: constants of both optimizers.
        criterion: loss of (logits, labels).
        precision: of the forward passes.
        relaxation: from the space's logits to mixing weights (default: DARTS's softmax).
        regularizer: a term of the architecture's loss, added to that of the images.
        perturbation: of the weights of the operations in the steps of the weights.

    Raises UsageError for the finite-difference product under bf16, where it is about 30 % off.
    """

    def __init__(
        self,
        supernet: Supernet,
        space: SearchSpace,
        config: BilevelConfig,
        criterion: nn.Module,
        precision: Precision = "fp32",
        relaxation: Relaxation | None = None,
        regularizer: Regularizer | None = None,
        perturbation: Perturbation | None = None,
    ) -> None:
        if config.needs_fp32 and precision != "fp32":
            raise UsageError(
                f"the finite-difference Hessian product is about 30 % off in {precision}; "
                "use --hessian-product exact or --precision fp32"
            )
        self.supernet, self.space, self.config = supernet, space, config
        self.criterion, self.precision = criterion, precision
        self.relaxation = relaxation or Relaxation()
        self.regularizer, self.perturbation = regularizer, perturbation
        self.weights = dict(supernet.named_parameters())
        of_space = space.parameters() if self.relaxation.trains_space else ()
        self.architecture = [*of_space, *self.relaxation.parameters()]
        self.weight_optimizer = sgd(
            self.weights.values(),
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.architecture_optimizer = adam(
            self.architecture,
            learning_rate=config.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.arch_weight_decay,
        )

    def loss(self, batch: Batch, mixing: Mixing) -> tuple[Tensor, Tensor]:
        """The loss and the logits (N, classes) of a batch with the mixing weights (E, O)."""
        images, labels = batch
        with autocast(images.device, self.precision):
            logits = self.supernet(images, mixing)
            return self.criterion(logits, labels), logits

    def weight_step(self, train: Batch) -> tuple[Tensor, Tensor]:
        """One clipped SGD step of the weights on a training batch; returns its loss and logits."""
        noise = self.relaxation.draw(self.space)
        mixing = self._constant_mixing(noise) if self.perturbation is None else self._perturbed_mixing(train, noise)
        self.weight_optimizer.zero_grad()
        loss, logits = self.loss(train, mixing)
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), self.config.grad_clip)
        self.weight_optimizer.step()
        return loss.detach(), logits.detach()

    def architecture_step(self, train: Batch, valid: Batch) -> tuple[Tensor, Tensor]:
        """One Adam step of the architecture on a validation batch; returns its loss, without penalties, and logits.

        Weights, their gradients and the running statistics of the BatchNorms are left unchanged. The training batch
        is used only by the virtual step of `unrolled`.
        """
        noise = self.relaxation.draw(self.space)
        with frozen_statistics(self.supernet):
            if self.config.unrolled:
                loss, logits, gradient = self.second_order_gradient(train, valid, noise)
            else:
                loss, logits, gradient = self.first_order_gradient(valid, noise)
        for parameter, g in zip(self.architecture, self._penalized(gradient), strict=True):
            parameter.grad = g.contiguous()  # fused optimizers require it
        self.architecture_optimizer.step()
        return loss.detach(), logits.detach()

    def predict(self, images: Tensor) -> Tensor:
        """The logits (N, classes) of images with the expected mixing weights, such as for held-out ones."""
        return self.supernet(images, self.relaxation.expected(self.space))

    def first_order_gradient(self, valid: Batch, noise: Noise) -> tuple[Tensor, Tensor, Tensors]:
        """Loss, logits and the gradient of L_valid(w, alpha) in alpha (DARTS sec. 2.3, xi = 0)."""
        with constant(self.weights.values()):
            loss, logits = self.loss(valid, self._mixing(noise))
            return loss, logits, self._gradient(loss)

    def second_order_gradient(self, train: Batch, valid: Batch, noise: Noise) -> tuple[Tensor, Tensor, Tensors]:
        """Loss, logits and the gradient of L_valid(w', alpha) in alpha (DARTS eq. (6)-(8)).

        w' = w - xi (m buf + dL_train/dw + d w) is one virtual step with the weights' own learning rate xi,
        momentum m and decay d. Its derivative adds -xi times d2L_train/(dalpha dw) times
        v = dL_valid/dw'(w', alpha), by finite differences or exactly. All of it uses one draw, `noise`.

        The supernet itself is evaluated at w', and has w again, to the bit, when this returns or raises.
        """
        rate = self.weight_optimizer.param_groups[0]["lr"]
        with self._moved(self._virtual_step(train, noise, rate)):
            loss, logits = self.loss(valid, self._mixing(noise))
            gradient = self._gradient(loss, *self.weights.values())
        direct, v = gradient[: len(self.architecture)], gradient[len(self.architecture) :]
        exact = self.config.hessian_product == "exact"
        product = self._exact_product if exact else self._finite_difference_product
        implicit = product(train, noise, v)
        return loss, logits, tuple(d - rate * i for d, i in zip(direct, implicit, strict=True))

    def _penalized(self, gradient: Tensors) -> Tensors:
        """The gradient of the architecture's loss, with that of the penalties added.

        They depend on the architecture alone, so that they have no part in the virtual step and the Hessian product.
        """
        penalties = [self.relaxation.penalty(self.space)]
        if self.regularizer is not None:
            penalties.append(self.regularizer(self.space, self.relaxation))
        terms = [term for term in penalties if term is not None]
        if not terms:
            return gradient
        return tuple(g + own for g, own in zip(gradient, self._gradient(torch.stack(terms).sum()), strict=True))

    def _perturbed_mixing(self, train: Batch, noise: Noise) -> Mixing:
        """The mixing weights of a draw whose weights of the operations are perturbed; a constant.

        The perturbation may look at the loss of the batch; weights and running statistics are left unchanged.
        """
        assert self.perturbation is not None

        def loss(weights: Weights) -> Tensor:
            return self.loss(train, self.space.mixing(weights))[0]

        with torch.no_grad(), frozen_statistics(self.supernet), constant(self.weights.values()):
            perturbed = self.perturbation(self.space, self.relaxation.weights(self.space, noise), loss)
            return self.space.mixing(perturbed)

    def _mixing(self, noise: Noise) -> Mixing:
        """The mixing weights of a draw, computed anew: each gradient needs its own graph to the architecture."""
        mixing: Mixing = self.relaxation(self.space, noise)
        return mixing

    def _constant_mixing(self, noise: Noise) -> Mixing:
        """The mixing weights of a draw, detached from the architecture."""
        with torch.no_grad():
            return self._mixing(noise)

    def _gradient(self, loss: Tensor, *others: Tensor) -> Tensors:
        """The gradient with respect to the architecture, followed by those with respect to `others`.

        A supernet of one or two cells has no normal cell; the parameters of that kind then have the gradient zero.
        """
        return torch.autograd.grad(loss, [*self.architecture, *others], materialize_grads=True)

    @contextmanager
    def _moved(self, steps: Tensors) -> Iterator[None]:
        """Within it, every weight is moved by its step.

        A graph recorded outside cannot be differentiated inside, nor the other way round: autograd would notice that
        the weights have changed.
        """
        weights: list[Tensor] = list(self.weights.values())
        # Copies, because (w + step) - step is not w after rounding.
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, steps)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(weights, before)

    def _virtual_step(self, train: Batch, noise: Noise, rate: float | Tensor) -> Tensors:
        """The step w' - w of every weight; a constant, since alpha's way through it is the product's part."""
        weights: list[Tensor] = list(self.weights.values())
        loss, _ = self.loss(train, self._constant_mixing(noise))
        gradient = torch.autograd.grad(loss, weights, materialize_grads=True)
        momenta = [self.weight_optimizer.state.get(weight, {}).get("momentum_buffer") for weight in weights]
        with torch.no_grad():
            steps = torch._foreach_add(gradient, weights, alpha=self.config.weight_decay)
            # A weight has no momentum before the first step, and never gets one if its gradient is always zero.
            kept = [i for i, momentum in enumerate(momenta) if momentum is not None]
            if kept:
                torch._foreach_add_([steps[i] for i in kept], [momenta[i] for i in kept], alpha=self.config.momentum)
            torch._foreach_mul_(steps, -rate)
        return steps

    def _exact_product(self, train: Batch, noise: Noise, v: Tensors) -> Tensors:
        """d2L_train/(dalpha dw) v by double backward.

        L_train is computed again: keeping the graph of the virtual step would take its memory during the pass at w',
        and it could no longer be differentiated, since the weights have been moved in between.
        """
        loss, _ = self.loss(train, self._mixing(noise))
        gradient = torch.autograd.grad(loss, list(self.weights.values()), create_graph=True, materialize_grads=True)
        # Weights that only feed an input which no edge of the space reads have the constant gradient zero.
        used = [(g, part) for g, part in zip(gradient, v, strict=True) if g.requires_grad]
        outputs, directions = zip(*used, strict=True)
        return torch.autograd.grad(outputs, self.architecture, grad_outputs=directions, materialize_grads=True)

    def _finite_difference_product(self, train: Batch, noise: Noise, v: Tensors) -> Tensors:
        """d2L_train/(dalpha dw) v by a central difference, eps = 0.01 / |v| (DARTS eq. (8), footnote 2).

        It approximates the derivative only as far as the loss is smooth: where ReLUs and max pooling switch
        within +-eps v it measures their jumps too, which can be larger than the derivative (LOG.md). It is
        DARTS's method; the exact product is the gradient. The two sides differ by so little that they are computed
        in full float32 on a GPU too.
        """
        eps = 0.01 / torch.linalg.vector_norm(torch.stack(torch._foreach_norm(v)))
        sides = []
        for sign in (1, -1):
            moved = self._moved(torch._foreach_mul(v, sign * eps))
            with moved, constant(self.weights.values()), full_fp32():
                loss, _ = self.loss(train, self._mixing(noise))
                sides.append(self._gradient(loss))
        return tuple((plus - minus) / (2 * eps) for plus, minus in zip(*sides, strict=True))


@contextmanager
def constant(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within it, the parameters require no gradient, so that none is computed and nothing is kept for it."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
