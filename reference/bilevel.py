"""The two levels of the search as in the literature: the reference for `nas.methods.bilevel`.

A search looks for the architecture alpha whose trained weights do best on held-out images (DARTS, Liu et al., ICLR
2019):

    min over alpha of  L_valid(w*(alpha), alpha)                                              eq. (3)
    where  w*(alpha) = argmin over w of  L_train(w, alpha)                                    eq. (4)

It alternates between a step of alpha and a step of the weights w (algorithm 1). The step of alpha uses one of two
approximations of w*(alpha). First order: the current w. Second order: one step of gradient descent from there, with
the learning rate xi of the weights (and, in the code, their momentum m and weight decay d):

    w*(alpha) ~ w' = w - xi (dL_train/dw (w, alpha) + m buffer + d w)                         eq. (6)

By the chain rule, with v = dL_valid/dw (w', alpha),

    d/dalpha L_valid(w', alpha) = dL_valid/dalpha (w', alpha) - xi d2L_train/dalpha dw (w, alpha) v      eq. (7)

and the Hessian-vector product is approximated by a difference of two gradients,

    d2L_train/dalpha dw v ~ (dL_train/dalpha (w + eps v) - dL_train/dalpha (w - eps v)) / (2 eps),       eq. (8)

with eps = 0.01 / |v| (footnote 2). The steps are those of DARTS's code: `loss.backward()` goes through everything, so
a step of the weights also computes the gradient of the architecture, and a step of the architecture that of the
weights; neither is used. The second-order step makes a second model for w'. Nothing is captured, compiled or fused.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas.data import Batch
from nas.engine.device import Precision, autocast
from nas.methods.bilevel import BilevelConfig
from nas.methods.relaxation import Relaxation
from spaces import SearchSpace


class PlainBilevel:
    """The steps of DARTS's code, for any supernet that is called with images and mixing weights.

    With `config.unrolled`, the step of the architecture is of second order; the Hessian product is always the finite
    difference. The other arguments are those of `nas.methods.bilevel.Bilevel`.
    """

    def __init__(
        self,
        supernet: nn.Module,
        space: SearchSpace,
        config: BilevelConfig,
        criterion: nn.Module,
        precision: Precision = "fp32",
    ) -> None:
        self.supernet, self.space, self.config = supernet, space, config
        self.criterion, self.precision = criterion, precision
        self.weight_optimizer = torch.optim.SGD(
            supernet.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.architecture_optimizer = torch.optim.Adam(
            space.parameters(),
            lr=config.arch_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.arch_weight_decay,
        )

    def weight_step(self, train: Batch) -> tuple[Tensor]:
        """One clipped SGD step of the weights on a training batch, eq. (4); returns its loss."""
        self.weight_optimizer.zero_grad()
        loss = self._loss(self.supernet, train)
        loss.backward()
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self.config.grad_clip)
        self.weight_optimizer.step()
        return (loss.detach(),)

    def architecture_step(self, train: Batch, valid: Batch) -> tuple[Tensor]:
        """One Adam step of the architecture on a validation batch, eq. (3); returns its loss.

        Only the second order uses the training batch.
        """
        self.architecture_optimizer.zero_grad()
        if self.config.unrolled:
            loss = self._unrolled_backward(train, valid)
        else:
            loss = self._loss(self.supernet, valid)
            loss.backward()
        self.architecture_optimizer.step()
        return (loss.detach(),)

    def _loss(self, supernet: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        with autocast(images.device, self.precision):
            mixing = Relaxation().expected(self.space)  # a softmax over the operations (DARTS sec. 2.2)
            loss: Tensor = self.criterion(supernet(images, mixing), labels)
        return loss

    def _unrolled_backward(self, train: Batch, valid: Batch) -> Tensor:
        """Sets the gradient of the architecture to eq. (7), in four passes; returns the loss L_valid(w', alpha)."""
        rate = self.config.learning_rate
        virtual = self._virtual_model(train, rate)
        architecture, weights = list(self.space.parameters()), list(virtual.parameters())
        loss = self._loss(virtual, valid)
        gradient = torch.autograd.grad(loss, [*architecture, *weights], allow_unused=True, materialize_grads=True)
        direct, vector = gradient[: len(architecture)], gradient[len(architecture) :]
        implicit = self._hessian_product(train, vector)
        for parameter, d, i in zip(architecture, direct, implicit, strict=True):
            parameter.grad = d - rate * i
        return loss

    def _virtual_model(self, train: Batch, rate: float) -> nn.Module:
        """A copy of the supernet with the weights w' of eq. (6); there is no momentum before the first step."""
        weights = list(self.supernet.parameters())
        loss = self._loss(self.supernet, train)
        gradient = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        virtual = copy.deepcopy(self.supernet)
        with torch.no_grad():
            for moved, weight, g in zip(virtual.parameters(), weights, gradient, strict=True):
                step = g + self.config.weight_decay * weight
                momentum = self.weight_optimizer.state[weight].get("momentum_buffer")
                moved.sub_(rate * (step if momentum is None else step + self.config.momentum * momentum))
        return virtual

    def _hessian_product(self, train: Batch, vector: tuple[Tensor, ...]) -> list[Tensor]:
        """Eq. (8): moves the weights to one side, to the other side, and back."""
        architecture = list(self.space.parameters())
        eps = 0.01 / torch.cat([part.flatten() for part in vector]).norm()
        sides = []
        for distance in (eps, -2 * eps):
            self._move(vector, distance)
            loss = self._loss(self.supernet, train)
            sides.append(torch.autograd.grad(loss, architecture, allow_unused=True, materialize_grads=True))
        self._move(vector, eps)
        return [(plus - minus) / (2 * eps) for plus, minus in zip(*sides, strict=True)]

    @torch.no_grad()
    def _move(self, vector: tuple[Tensor, ...], distance: Tensor) -> None:
        for weight, part in zip(self.supernet.parameters(), vector, strict=True):
            weight.add_(distance * part)
