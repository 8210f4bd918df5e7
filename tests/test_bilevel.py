"""Hypergradients against a full unroll by autograd; what each step may and may not touch."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import spaces
from nas.data import Batch
from nas.methods.bilevel import Bilevel, BilevelConfig, HessianProduct
from nas.methods.perturbation import Perturbation
from nas.methods.regularizers import Regularizer, RegularizerConfig
from nas.methods.relaxation import Noise, Relaxation
from nas.methods.stops import skips
from nas.runs.tensorboard import add_logits
from nas.supernet import Supernet, SupernetConfig
from reference.supernet import PlainSupernet
from spaces import SpaceConfig, registry
from spaces.kernels.norm import frozen_statistics
from tests.tiny import ANY_OPERATIONS, SPACES, Gumbel, nodes_of

SHAPE: dict[str, Any] = {"in_channels": 2, "image_size": (8, 8), "num_classes": 3}
PRODUCTS: tuple[HessianProduct, ...] = ("exact", "finite-difference")
ORDERS: dict[str, dict[str, Any]] = {
    "first": {},
    "finite-difference": {"unrolled": True},
    "exact": {"unrolled": True, "hessian_product": "exact"},
}


def supernet_of(space: spaces.SearchSpace, layers: int) -> Supernet:
    return Supernet(space, SupernetConfig(layers=layers, init_channels=4), **SHAPE)


def problem(
    space_name: str = "hb",
    *,
    smooth: bool = False,
    relaxation: Relaxation | None = None,
    regularizer: Regularizer | None = None,
    perturbation: Perturbation | None = None,
    **fields: object,
) -> Bilevel:
    """A supernet of three cells in float64, its momentum buffers filled by one step.

    The `smooth` one is the plain one, whose ReLUs can be changed for softplus, without max pooling.
    """
    operations = spaces.get(space_name).operations_default
    if smooth:
        operations = tuple(name for name in operations if name != "max_pool_3x3")
    space = spaces.build(
        SpaceConfig(space=space_name, nodes=nodes_of(space_name, 2), init="random", operations=operations)
    )
    supernet: Any = supernet_of(space, layers=3)
    if smooth:
        supernet = PlainSupernet(space, SupernetConfig(layers=3, init_channels=4), **SHAPE)
    config = BilevelConfig(learning_rate=0.3, **fields)
    bilevel = Bilevel(
        supernet.double(),
        space.double(),
        config,
        nn.CrossEntropyLoss(),
        relaxation=relaxation,
        regularizer=regularizer,
        perturbation=perturbation,
    )
    bilevel.weight_step(batch(9))
    return bilevel


@pytest.fixture
def softplus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ReLU becomes softplus: a difference quotient across kinks does not converge to the derivative."""
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: nn.functional.softplus(x))


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (6,), generator=generator)


def flat(tensors: object) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])  # type: ignore[attr-defined]


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float((value - reference).norm() / reference.norm())


def full_unroll(bilevel: Bilevel, train: Batch, valid: Batch, noise: Noise | None = None) -> Tensor:
    """d/dalpha of L_valid(w - xi (m buf + dL_train/dw + d w), alpha), all by one autograd graph."""

    def loss(weights: dict[str, Tensor], data: Batch) -> Tensor:
        mixing = bilevel.relaxation(bilevel.space, noise or {})
        logits = functional_call(bilevel.supernet, weights, (data[0], mixing))
        return nn.functional.cross_entropy(logits, data[1])

    config, weights = bilevel.config, bilevel.weights
    gradient = torch.autograd.grad(
        loss(weights, train), list(weights.values()), create_graph=True, materialize_grads=True
    )
    moved = {}
    for (name, w), g in zip(weights.items(), gradient, strict=True):
        buffer = bilevel.weight_optimizer.state[w].get("momentum_buffer", torch.zeros_like(w))
        moved[name] = w - config.learning_rate * (config.momentum * buffer + g + config.weight_decay * w)
    return flat(torch.autograd.grad(loss(moved, valid), bilevel.architecture))


@pytest.mark.parametrize("name", SPACES)
def test_exact_hypergradient(name: str) -> None:
    bilevel = problem(name, unrolled=True, hessian_product="exact")
    expected = full_unroll(bilevel, batch(0), batch(1))
    first_order = flat(bilevel.first_order_gradient(batch(1), {})[2])
    assert relative_error(first_order, expected) > 0.1  # the second-order term is no trifle here
    assert relative_error(flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2]), expected) <= 1e-6


@pytest.mark.usefixtures("softplus")
@pytest.mark.parametrize("name", ANY_OPERATIONS)
def test_finite_difference_hypergradient(name: str) -> None:
    bilevel = problem(name, smooth=True, unrolled=True)
    expected = full_unroll(bilevel, batch(0), batch(1))
    first_order = flat(bilevel.first_order_gradient(batch(1), {})[2])
    assert relative_error(first_order, expected) > 0.1
    assert relative_error(flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2]), expected) <= 1e-3


class CountingGumbel(Gumbel):
    """Counts the evaluations of each draw."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations: list[int] = []

    def draw(self, space: spaces.SearchSpace) -> Noise:
        self.evaluations.append(0)
        return super().draw(space)

    def forward(self, space: spaces.SearchSpace, noise: Noise) -> spaces.Mixing:
        self.evaluations[-1] += 1
        return super().forward(space, noise)


@pytest.mark.usefixtures("softplus")
@pytest.mark.parametrize("product", PRODUCTS)
def test_all_of_a_step_is_of_one_draw(product: HessianProduct) -> None:
    """Of several draws the finite difference would be a multiple of the gradient."""
    relaxation = CountingGumbel()
    bilevel = problem(smooth=True, relaxation=relaxation, unrolled=True, hessian_product=product)
    torch.manual_seed(1)
    expected = full_unroll(bilevel, batch(0), batch(1), Gumbel().draw(bilevel.space))
    relaxation.evaluations.clear()
    torch.manual_seed(1)
    bilevel.architecture_step(batch(0), batch(1))
    gradient = flat(p.grad for p in bilevel.architecture)
    assert relative_error(gradient, expected) <= (1e-6 if product == "exact" else 1e-3)
    bilevel.weight_step(batch(0))
    bilevel.predict(batch(1)[0])
    assert relaxation.evaluations == [3 if product == "exact" else 4, 1]


@pytest.mark.parametrize("name", SPACES)
def test_first_order_hypergradient_by_differences(name: str) -> None:
    bilevel = problem(name)
    gradient = flat(bilevel.first_order_gradient(batch(1), {})[2])
    direction = [torch.randn_like(p) for p in bilevel.architecture]
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(bilevel.architecture, direction, strict=True):
                p.add_(d, alpha=sign * 1e-5)
            losses.append(bilevel.loss(batch(1), bilevel.relaxation.expected(bilevel.space))[0])
            for p, d in zip(bilevel.architecture, direction, strict=True):
                p.sub_(d, alpha=sign * 1e-5)
    slope = (losses[0] - losses[1]) / 2e-5
    torch.testing.assert_close(gradient @ flat(direction), slope, rtol=1e-6, atol=1e-9)


def test_a_supernet_without_normal_cells_leaves_their_architecture_alone() -> None:
    space = spaces.build(SpaceConfig(space="hb", nodes=2))
    supernet = supernet_of(space, layers=2)
    for product in PRODUCTS:
        config = BilevelConfig(unrolled=True, hessian_product=product)
        bilevel = Bilevel(supernet.double(), space.double(), config, nn.CrossEntropyLoss())
        bilevel.architecture_step(batch(0), batch(1))
        assert torch.equal(space.alpha["normal"].grad, torch.zeros(6, 9))
        assert space.alpha["reduce"].grad.abs().max() > 0


class Chain(spaces.SearchSpace):
    """Leaves node 0 unread, and has a parameter of its own kind."""

    edges_kept = 1

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        return [(target - 1, target) for target in range(2, 2 + nodes)]

    def unmasked_logits(self, kind: spaces.Kind) -> Tensor:
        return self.alpha[kind] / (1 + self.temperature.square())


class RecordingBoard:
    def __init__(self) -> None:
        self.tags: set[str] = set()

    def add_scalar(self, tag: str, value: float, epoch: int) -> None:
        self.tags.add(tag)


@pytest.mark.usefixtures("softplus")
@pytest.mark.parametrize("product", PRODUCTS)
def test_a_space_that_leaves_an_input_unread(product: HessianProduct, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._SPACES.classes, "chain", Chain)
    bilevel = problem("chain", smooth=True, unrolled=True, hessian_product=product)
    expected = full_unroll(bilevel, batch(0), batch(1))
    tolerance = 1e-6 if product == "exact" else 1e-3
    assert relative_error(flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2]), expected) <= tolerance
    board = RecordingBoard()
    add_logits(board, bilevel.space, 1)
    assert {"temperature/0", "alpha/normal/00_1-2/sep_conv_3x3"} <= board.tags


def test_a_virtual_step_before_any_momentum_is_a_plain_one() -> None:
    bilevel = problem(unrolled=True, hessian_product="exact")
    with_momentum = flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2])
    bilevel.weight_optimizer.state.clear()
    without = flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2])
    assert relative_error(without, with_momentum) > 1e-3


@pytest.mark.parametrize("order", ORDERS)
def test_architecture_step_moves_the_architecture_alone(order: str) -> None:
    bilevel = problem(**ORDERS[order])
    supernet = copy.deepcopy(bilevel.supernet.state_dict())
    gradients = {n: w.grad.clone() for n, w in bilevel.weights.items() if w.grad is not None}
    momentum = [s["momentum_buffer"].clone() for s in bilevel.weight_optimizer.state.values()]
    before = flat(bilevel.architecture).detach().clone()
    bilevel.architecture_step(batch(0), batch(1))
    assert not torch.equal(flat(bilevel.architecture), before)
    for name, value in bilevel.supernet.state_dict().items():
        assert torch.equal(value, supernet[name]), name
    for name, gradient in gradients.items():
        assert torch.equal(bilevel.weights[name].grad, gradient), name
    for state, buffer in zip(bilevel.weight_optimizer.state.values(), momentum, strict=True):
        assert torch.equal(state["momentum_buffer"], buffer)


@pytest.mark.parametrize("name", SPACES)
def test_weight_step_moves_the_weights_alone(name: str) -> None:
    bilevel = problem(name)
    before = copy.deepcopy(bilevel.space.state_dict())
    buffers = {n: b.clone() for n, b in bilevel.supernet.named_buffers()}
    weights = {n: w.detach().clone() for n, w in bilevel.weights.items()}
    bilevel.weight_step(batch(0))
    for key, value in bilevel.space.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None for p in bilevel.architecture)
    assert all(not torch.equal(w, weights[n]) for n, w in bilevel.weights.items())
    assert any(not torch.equal(b, buffers[n]) for n, b in bilevel.supernet.named_buffers())


@pytest.mark.parametrize("name", SPACES)
def test_the_two_sets_of_parameters_are_disjoint_and_complete(name: str) -> None:
    bilevel = problem(name)

    def members(optimizer: torch.optim.Optimizer) -> set[int]:
        return {id(p) for group in optimizer.param_groups for p in group["params"]}

    weights, architecture = members(bilevel.weight_optimizer), members(bilevel.architecture_optimizer)
    assert weights.isdisjoint(architecture)
    assert weights == {id(p) for p in bilevel.supernet.parameters()}
    assert architecture == {id(p) for p in bilevel.space.parameters()}


@pytest.mark.parametrize(
    ("fields", "weights_learn", "architecture_learns"),
    [
        ({}, [False], [True]),
        ({"unrolled": True}, [True, True, False, False], [False, True, True, True]),
        ({"unrolled": True, "hessian_product": "exact"}, [True, True, True], [False, True, True]),
    ],
    ids=["first", "finite-difference", "exact"],
)
def test_no_gradient_is_computed_that_is_not_needed(
    fields: dict[str, object], weights_learn: list[bool], architecture_learns: list[bool]
) -> None:
    bilevel = problem(**fields)
    seen = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        weights = {w.requires_grad for w in bilevel.weights.values()}
        mixing = {m.requires_grad for m in inputs[1].values()}
        seen.append((weights, mixing))

    bilevel.supernet.register_forward_hook(look)
    bilevel.architecture_step(batch(0), batch(1))
    assert seen == [({w}, {a}) for w, a in zip(weights_learn, architecture_learns, strict=True)]
    assert all(w.requires_grad for w in bilevel.weights.values())


class Pulling(Relaxation):
    """The softmax, with a penalty of its own."""

    def penalty(self, space: spaces.SearchSpace) -> Tensor:
        return 0.3 * space.alpha["reduce"].square().sum()


@pytest.mark.parametrize("order", ORDERS)
def test_penalties_are_added_once_to_the_architectures_gradient(order: str) -> None:
    """And the loss that a step reports is that of the images."""
    regularizer = Regularizer(RegularizerConfig(beta_decay=2, entropy_weight=0.5), {})
    regularizer.schedule(1, 2)
    bilevel = problem("agd", relaxation=Pulling(), regularizer=regularizer, **ORDERS[order])
    with frozen_statistics(bilevel.supernet):
        if bilevel.config.unrolled:
            loss, _, of_images = bilevel.second_order_gradient(batch(0), batch(1), {})
        else:
            loss, _, of_images = bilevel.first_order_gradient(batch(1), {})
    penalty = Pulling().penalty(bilevel.space) + regularizer(bilevel.space, bilevel.relaxation)
    own = torch.autograd.grad(penalty, bilevel.architecture, materialize_grads=True)
    assert torch.equal(bilevel.architecture_step(batch(0), batch(1))[0], loss)
    gradient = flat(p.grad for p in bilevel.architecture)
    torch.testing.assert_close(gradient, flat(of_images) + flat(own), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_perturbation_acts_in_the_weights_steps_alone(adversarial: bool) -> None:
    seen = []

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append(inputs[1]["normal"].detach().clone())

    bilevel = problem("agd", perturbation=Perturbation(0.1, 0.1, adversarial=adversarial), unrolled=True)
    plain = bilevel.relaxation.expected(bilevel.space)["normal"].detach()
    statistics, buffers = [], dict(bilevel.supernet.named_buffers())
    bilevel.supernet.register_forward_hook(look)
    bilevel.supernet.register_forward_hook(lambda *_: statistics.append(flat(buffers.values()).double().sum()))
    bilevel.weight_step(batch(0))
    assert len(seen) == (10 if adversarial else 1)
    # The last one is what the weights are trained with: p times a row on the simplex, elsewhere than the plain row.
    assert not torch.equal(seen[-1], plain)
    weights = bilevel.space.edge_weights("normal")
    torch.testing.assert_close(seen[-1].sum(dim=1), weights)
    assert ((seen[-1] / weights[:, None] - plain / weights[:, None]).abs() <= 0.1 / 0.5).all()
    assert len(set(map(float, statistics[:-1]))) <= 1
    assert all(p.grad is None for p in bilevel.architecture)
    seen.clear()
    bilevel.architecture_step(batch(0), batch(1))
    assert all(torch.equal(mixing, plain) for mixing in seen)


class Breaking(nn.CrossEntropyLoss):
    """Fails at the given call."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise KeyError
        return super().forward(logits, labels)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("call", [2, 3])
def test_an_error_at_moved_weights_leaves_the_weights(product: HessianProduct, call: int) -> None:
    bilevel = problem(unrolled=True, hessian_product=product)
    before = copy.deepcopy(bilevel.supernet.state_dict())
    bilevel.criterion = Breaking(call)
    with pytest.raises(KeyError):
        bilevel.architecture_step(batch(0), batch(1))
    for name, value in bilevel.supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(w.requires_grad for w in bilevel.weights.values())


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_supernet_may_compute_again_what_it_did_not_keep(product: HessianProduct) -> None:
    """In the backward pass, in which it must find the weights of the forward pass."""
    bilevel = problem(unrolled=True, hessian_product=product)

    def gradient() -> Tensor:
        with frozen_statistics(bilevel.supernet):
            return flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2])

    expected = gradient()
    forward = bilevel.supernet.forward
    bilevel.supernet.forward = lambda *inputs: checkpoint(forward, *inputs, use_reentrant=False)  # type: ignore
    torch.testing.assert_close(gradient(), expected, rtol=1e-12, atol=0)


def test_the_weights_gradient_is_clipped() -> None:
    bilevel = problem(grad_clip=1e-3)
    bilevel.weight_step(batch(0))
    assert flat(w.grad for w in bilevel.weights.values()).norm() == pytest.approx(1e-3, rel=1e-3)


def test_the_optimizers_are_darts() -> None:
    bilevel = problem()
    (sgd,), (adam,) = bilevel.weight_optimizer.param_groups, bilevel.architecture_optimizer.param_groups
    assert (sgd["momentum"], sgd["weight_decay"], sgd["nesterov"]) == (0.9, 3e-4, False)
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (3e-4, (0.5, 0.999), 1e-3)


def test_finite_differences_are_refused_under_bf16() -> None:
    bilevel = problem()
    config = BilevelConfig(unrolled=True)
    with pytest.raises(ValueError, match="--hessian-product exact or --precision fp32"):
        Bilevel(bilevel.supernet, bilevel.space, config, nn.CrossEntropyLoss(), "bf16")


def test_bf16_steps_keep_weights_in_float32() -> None:
    space = spaces.build(SpaceConfig(space="hb", nodes=2))
    supernet = supernet_of(space, layers=3)
    config = BilevelConfig(unrolled=True, hessian_product="exact")
    bilevel = Bilevel(supernet, space, config, nn.CrossEntropyLoss(), "bf16")
    images, labels = batch(0)
    data = (images.float(), labels)
    loss, logits = bilevel.architecture_step(data, data)
    bilevel.weight_step(data)
    assert logits.dtype == torch.bfloat16
    assert loss.isfinite()
    assert all(w.dtype == w.grad.dtype == torch.float32 for w in bilevel.weights.values() if w.grad is not None)


def test_frozen_statistics_still_normalize_by_the_batch() -> None:
    norm = nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2) + 5
    with frozen_statistics(norm):
        y = norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.track_running_stats
    torch.testing.assert_close(y, norm(x))


@pytest.mark.parametrize("unrolled", [False, True])
def test_the_architecture_step_takes_each_batch_for_its_level(unrolled: bool) -> None:
    bilevel = problem(unrolled=unrolled, hessian_product="exact" if unrolled else "finite-difference")
    with frozen_statistics(bilevel.supernet):
        if unrolled:
            expected = flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2])
        else:
            expected = flat(bilevel.first_order_gradient(batch(1), {})[2])
    loss, logits = bilevel.architecture_step(batch(0), batch(1))
    assert torch.equal(flat(p.grad for p in bilevel.architecture), expected)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, batch(1)[1]))


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_learning_rate_may_be_a_tensor(product: HessianProduct) -> None:
    """As it is on a GPU."""
    bilevel = problem(unrolled=True, hessian_product=product)
    expected = flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2])
    bilevel.weight_optimizer.param_groups[0]["lr"] = torch.tensor(0.3, dtype=torch.float64)
    assert torch.equal(flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2]), expected)


def test_the_virtual_step_has_the_weights_current_learning_rate() -> None:
    bilevel = problem(unrolled=True, hessian_product="exact")
    expected = full_unroll(bilevel, batch(0), batch(1))
    bilevel.config = dataclasses.replace(bilevel.config, learning_rate=123.0)  # only where the optimizer started
    assert relative_error(flat(bilevel.second_order_gradient(batch(0), batch(1), {})[2]), expected) <= 1e-6


class Collapsing(nn.Module):
    """What each edge outputs, in a world where identities help at once and convolutions once they are trained.

    It is A_skip + A_conv w, to be 2, with w = 0 at first. As long as w < 1 identities gain, so that convolutions have
    less and less weight, and with it less and less gradient.
    """

    def __init__(self, edges: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(edges))

    def forward(self, images: Tensor, mixing: spaces.Mixing) -> Tensor:
        skip, convolution = torch.cat([mixing[kind] for kind in spaces.KINDS]).unbind(dim=1)
        return skip + convolution * self.weight


def derived_skips(regularizer: Regularizer | None = None, perturbation: Perturbation | None = None) -> int:
    space = spaces.get("darts")(nodes=2, operations=("skip_connect", "sep_conv_3x3"))
    with torch.no_grad():
        for alpha in space.alpha.values():
            alpha[:, 0] = 1
    supernet: Any = Collapsing(edges=10)
    config = BilevelConfig(learning_rate=0.1, arch_learning_rate=0.2)
    bilevel = Bilevel(supernet, space, config, nn.MSELoss(), regularizer=regularizer, perturbation=perturbation)
    data = torch.zeros(1), torch.full((10,), 2.0)
    for _ in range(150):
        bilevel.architecture_step(data, data)
        bilevel.weight_step(data)
    genotype = space.derive(bilevel.relaxation.expected(space))
    return skips(genotype.normal) + skips(genotype.reduce)


def test_beta_decay_and_perturbed_weights_prevent_a_collapse() -> None:
    torch.manual_seed(0)
    regularizer = Regularizer(RegularizerConfig(beta_decay=0.3), {})
    regularizer.schedule(1, 1)
    assert derived_skips() == 8
    assert derived_skips(regularizer=regularizer) < 8
    assert derived_skips(perturbation=Perturbation(0.3, 0.3, adversarial=False)) < 8
