"""Search methods: what holds for each of them in each space, and what is special to one."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spaces
import train_search
from nas import methods
from nas.data import Batch
from nas.errors import Stopped, UsageError
from nas.methods import Noise, Relaxation, combinations
from nas.methods.bilevel import Bilevel, BilevelConfig, HessianProduct
from nas.methods.config import SearchConfig
from nas.methods.darts_minus import AuxiliarySkip, Decay
from nas.methods.derivation import Derivation, DerivationConfig
from nas.methods.drnas import Dirichlet, concentrations, divergence_from_flat, sample
from nas.methods.fairdarts import Sigmoid
from nas.methods.gumbel import GumbelSoftmax, StraightThroughGumbel
from nas.methods.ista import SparseCoding, lasso
from nas.methods.stages import plan
from nas.networks.forms import FORMS
from nas.options import configured
from nas.recipes import WITHOUT_ZERO
from nas.runs.run import Run
from nas.supernet import Supernet, SupernetConfig
from spaces import KINDS, SearchSpace, SpaceConfig
from tests.tiny import OPERATIONS, SEARCH, SPACES, assert_same, final_state, nodes_of

METHODS = methods.names()
#: Those with steps of the architecture.
TRAINING = [method for method in METHODS if methods.named(method).build().trains_architecture]
#: Their gradient is meant to be another than that of their value, which jumps.
STRAIGHT_THROUGH = {"gdas"}
SHAPE: dict[str, Any] = {"in_channels": 2, "image_size": (8, 8), "num_classes": 3}


def space_of(name: str = "darts", *, nodes: int = 2, **fields: Any) -> SearchSpace:
    """In float64, with logits of N(0, 1)."""
    space = spaces.build(SpaceConfig(space=name, nodes=nodes_of(name, nodes), init="zero", **fields)).double()
    for parameter in space.parameters():
        nn.init.normal_(parameter)
    return space


def relaxation_of(method: str, space: SearchSpace) -> Relaxation:
    """In the second of four epochs."""
    relaxation = methods.named(method).build()
    try:
        relaxation.check(space)
    except ValueError as error:
        pytest.skip(str(error))
    relaxation.begin(space, seed=0)
    for parameter in relaxation.parameters():
        nn.init.normal_(parameter)
    relaxation.schedule(1, 4)
    return relaxation


@cache
def network_of(name: str) -> tuple[Supernet, SearchSpace, list[dict[str, Tensor]]]:
    """Three cells, their space, and the state of both; `with_method` gives them a method."""
    space = space_of(name)
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=2), **SHAPE).double()
    return supernet, space, [{k: v.clone() for k, v in module.state_dict().items()} for module in (supernet, space)]


def with_method(method: str, name: str, **fields: Any) -> Bilevel:
    """The same supernet and space for all methods, since building them takes longer than the tests."""
    supernet, space, states = network_of(name)
    for module, state in zip((supernet, space), states, strict=True):
        module.load_state_dict(state)  # as if no test had changed them
    torch.manual_seed(0)
    relaxation = relaxation_of(method, space)
    return Bilevel(supernet, space, BilevelConfig(**fields), nn.CrossEntropyLoss(), relaxation=relaxation)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 2, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (4,), generator=generator)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(a[kind], b[kind]) for kind in KINDS)


class SameRandomNumbers:
    """Within it, nothing may be drawn from torch's generator."""

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()

    def __exit__(self, *_: object) -> None:
        assert torch.equal(torch.get_rng_state(), self.state)


# ---- every method in every space -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_a_function_of_the_architecture_and_one_draw(method: str, name: str) -> None:
    space = space_of(name)
    relaxation = relaxation_of(method, space)
    noise = relaxation.draw(space)
    with SameRandomNumbers():
        weights, mixing = relaxation.weights(space, noise), relaxation(space, noise)
        expected, penalty = relaxation.expected_weights(space), relaxation.penalty(space)
        assert same(relaxation(space, noise), mixing)
    for kind in KINDS:
        ones = torch.ones(len(space.topology.edges), dtype=torch.float64)
        for matrix in (weights[kind], expected[kind]):
            assert matrix.shape == space.alpha[kind].shape
            assert matrix.isfinite().all()
            assert (matrix >= 0).all() or not relaxation.trains_space
            if relaxation.rows_sum_to_one and relaxation.trains_architecture:
                torch.testing.assert_close(matrix.sum(dim=1), ones)
        if relaxation.trains_architecture and relaxation.trains_space:
            torch.testing.assert_close(mixing[kind], space.edge_weights(kind)[:, None] * weights[kind])
    assert penalty is None or penalty.shape == ()
    relaxation.draw(space)
    assert same(relaxation.expected_weights(space), expected)
    assert relaxation.derive(space) == relaxation.derive(space)


@pytest.mark.parametrize("method", METHODS)
def test_masked_operations_have_no_part_in_it(method: str) -> None:
    space = space_of("agd")
    masked = torch.zeros(5, 9, dtype=torch.bool)
    masked[:, 2:4] = masked[0, space.operations.index("skip_connect")] = True
    space.restrict(dict.fromkeys(KINDS, ~masked))
    relaxation = relaxation_of(method, space)
    noise = relaxation.draw(space)
    penalty = relaxation.penalty(space)
    for weights in (relaxation.weights(space, noise), relaxation.expected_weights(space)):
        total = torch.zeros(()) if penalty is None else penalty
        for kind in KINDS:
            assert (weights[kind][masked] == 0).all()
            assert weights[kind].isfinite().all()
            if relaxation.rows_sum_to_one and relaxation.trains_architecture:
                assert weights[kind].sum(dim=1).tolist() == pytest.approx([1] * len(weights[kind]))
            total = total + (weights[kind] * torch.randn_like(weights[kind])).sum()
        if not relaxation.trains_architecture:
            assert not total.requires_grad
            continue
        if not relaxation.trains_space:
            assert all(g.isfinite().all() and g.any() for g in torch.autograd.grad(total, [*relaxation.parameters()]))
            continue
        gradients = torch.autograd.grad(total, list(space.alpha.values()), retain_graph=True)
        for gradient in gradients:
            assert gradient.isfinite().all()
            assert (gradient[masked] == 0).all()
            assert (gradient[~masked] != 0).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_step_does_not_wait_for_the_device(method: str) -> None:
    """On a device without numbers, a number cannot be asked for."""
    space = space_of("agd")
    relaxation = relaxation_of(method, space)
    noise = {kind: tensor.to("meta") for kind, tensor in relaxation.draw(space).items()}
    space.to("meta"), relaxation.to("meta")
    relaxation(space, noise)
    relaxation.expected(space)
    relaxation.penalty(space)
    if relaxation.trains_space:  # else an epoch begins with what the CPU computes
        relaxation.schedule(3, 4)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("method", TRAINING)
def test_gradients_by_differences(method: str, name: str) -> None:
    """Of the loss for one draw, and of the penalty; they reach all parameters of the space."""
    bilevel = with_method(method, name)
    space, relaxation = bilevel.space, bilevel.relaxation
    noise = relaxation.draw(space)

    def values() -> tuple[Tensor, Tensor]:
        penalty = relaxation.penalty(space)
        return bilevel.loss(batch(1), relaxation(space, noise))[0], torch.zeros(()) if penalty is None else penalty

    gradients = [bilevel.first_order_gradient(batch(1), noise)[2]]
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    if values()[1].requires_grad:
        gradients.append(torch.autograd.grad(values()[1], bilevel.architecture, materialize_grads=True))
    direction, sides = [torch.randn_like(p) for p in bilevel.architecture], []
    with torch.no_grad():
        for step in (1e-7, -2e-7, 1e-7):  # so small that it hardly ever goes past the kink of a ReLU
            torch._foreach_add_(bilevel.architecture, direction, alpha=step)
            sides.append(values())
    for i, gradient in enumerate(gradients):
        slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        if i == 1 or method not in STRAIGHT_THROUGH:
            torch.testing.assert_close((sides[0][i] - sides[1][i]) / 2e-7, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("method", TRAINING)
def test_each_step_moves_its_own_level(method: str, name: str) -> None:
    bilevel = with_method(method, name)
    levels = [list(bilevel.weights.values()), bilevel.architecture]

    def copies() -> list[list[Tensor]]:
        return [[p.detach().clone() for p in level] for level in levels]

    def moved(before: list[list[Tensor]]) -> list[list[bool]]:
        return [
            [not torch.equal(*pair) for pair in zip(*both, strict=True)] for both in zip(levels, before, strict=True)
        ]

    before = copies()
    bilevel.architecture_step(batch(0), batch(1))
    weights, architecture = moved(before)
    assert all(architecture)
    assert not any(weights)
    before = copies()
    bilevel.weight_step(batch(0))
    weights, architecture = moved(before)
    assert not any(architecture)
    assert any(weights)


@pytest.mark.parametrize("product", ["exact", "finite-difference"])
@pytest.mark.parametrize("method", TRAINING)
def test_a_step_of_second_order_draws_once(
    method: str, product: HessianProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    bilevel = with_method(method, "agd", unrolled=True, hessian_product=product)
    draw, seen = bilevel.relaxation.draw, []

    def counting(space: SearchSpace) -> Noise:
        seen.append(space)
        return draw(space)

    monkeypatch.setattr(bilevel.relaxation, "draw", counting)
    loss, _ = bilevel.architecture_step(batch(0), batch(1))
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bilevel.architecture)
    assert len(seen) == 1


@pytest.mark.parametrize("method", TRAINING)
def test_steps_in_bf16(method: str) -> None:
    space = space_of("agd").float()
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=2), **SHAPE)
    relaxation = relaxation_of(method, space)
    bilevel = Bilevel(supernet, space, BilevelConfig(), nn.CrossEntropyLoss(), "bf16", relaxation)
    data = batch(0)[0].float(), batch(0)[1]
    bilevel.architecture_step(data, data)
    loss, logits = bilevel.weight_step(data)
    assert logits.dtype == torch.bfloat16
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in bilevel.architecture)


@pytest.mark.parametrize("method", [method for method in TRAINING if method != "darts"])
def test_interrupted_and_resumed_with_recomputed_cells(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws and the same temperatures, bit for bit."""
    flags = [*SEARCH, *OPERATIONS, "--nodes", "1", "--epochs", "2", "--space", "hb", "--init", "random"]
    flags += ["--method", method]
    flags += ["--checkpoint-cells", "--run-dir"]
    train_search.command([*flags, str(tmp_path / "whole")])
    steps = Run.steps

    def stopped(self: Run, *arguments: Any) -> Iterator[Any]:
        for each in steps(self, *arguments):
            if (self.epoch, self.step) == (1, 0):
                os.kill(os.getpid(), signal.SIGTERM)
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(Run, "steps", stopped)
        with pytest.raises(Stopped):
            train_search.command([*flags, str(tmp_path / "parts")])
    train_search.command([*flags, str(tmp_path / "parts"), "--resume"])
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method drnas --space hb", "--method drnas cannot start from peaked logits (--init hb)"),
        ("--method fairdarts --space hb", "--method fairdarts cannot start from peaked logits (--init hb)"),
        (
            "--method darts-minus --operations none sep_conv_3x3",
            "--method darts-minus needs the operation 'skip_connect'",
        ),
        ("--method ista --space hb", "--method ista cannot start from peaked logits (--init hb)"),
        ("--method snas --temperature-end 0", "--temperature-end is 0; it must be more than 0"),
        ("--method darts --temperature 1", "--temperature"),
    ],
)
def test_refusals(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, ValueError), match=re.escape(message)) as refused:
        train_search.command([*SEARCH, "--run-dir", str(tmp_path / "run"), *flags.split()])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", [*METHODS, "tests.tiny:Own"])
def test_a_method_made_by_its_class_knows_its_name(method: str) -> None:
    """As `optinas.search(method=GDAS())` has it recorded."""
    assert type(methods.named(method))() == methods.named(method)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_section(method: str) -> None:
    page = (Path(__file__).parent.parent / "docs" / "METHODS.md").read_text()
    assert re.search(rf"^## .*`{method}`$", page, flags=re.MULTILINE)


# ---- snas and gdas ---------------------------------------------------------------------------------------------------


def test_gumbel_softmax_by_known_values() -> None:
    """Computed apart from this code: alpha = sin(0.8 e + 1.1 o), G = 1.5 sin(2.3 e + 0.7 o + 0.2), three rows."""
    space = space_of(operations=("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"))
    e, o = torch.arange(5.0, dtype=torch.float64)[:, None], torch.arange(4.0, dtype=torch.float64)
    noise = 1.5 * (2.3 * e + 0.7 * o + 0.2).sin()
    with torch.no_grad():
        space.alpha["normal"].copy_((0.8 * e + 1.1 * o).sin())
    soft = {
        1.0: [0.061490364306, 0.360349434801, 0.458854559849, 0.119305641044],
        0.1: [1.71475415933e-09, 0.0819161733487, 0.918082528531, 1.29640587405e-06],
    }
    for tau, row in soft.items():
        weights = GumbelSoftmax(tau, tau).weights(space, {"normal": noise, "reduce": noise})["normal"]
        torch.testing.assert_close(weights[0], torch.tensor(row, dtype=torch.float64), rtol=0, atol=1e-8)
    hard = StraightThroughGumbel(10.0, 0.1).weights(space, {"normal": noise, "reduce": noise})["normal"]
    assert hard[:3].argmax(dim=1).tolist() == [2, 0, 3]


def test_without_noise_at_temperature_1_it_is_darts() -> None:
    space = space_of("agd")
    silent = {kind: torch.zeros_like(space.alpha[kind]) for kind in KINDS}
    assert same(GumbelSoftmax(1.0, 0.1)(space, silent), Relaxation()(space, {}))


def test_limits_of_the_temperature() -> None:
    space = space_of()
    cold, hot, hard = GumbelSoftmax(1e-6, 1.0), GumbelSoftmax(1e9, 1.0), StraightThroughGumbel(10.0, 0.1)
    noise = cold.draw(space)
    for kind in KINDS:
        one_hot = hard.weights(space, noise)[kind].detach()
        assert torch.equal(one_hot.sort(dim=1).values, torch.eye(8, dtype=torch.float64)[7].expand_as(one_hot))
        perturbed = space.alpha[kind].log_softmax(dim=1) + noise[kind]
        assert torch.equal(one_hot.argmax(dim=1), perturbed.argmax(dim=1))
        torch.testing.assert_close(cold.weights(space, noise)[kind].detach(), one_hot)
        torch.testing.assert_close(hot.weights(space, noise)[kind], torch.full_like(one_hot, 1 / 8))


def test_only_differences_of_logits_count() -> None:
    space = space_of()
    for relaxation in (GumbelSoftmax(0.5, 0.5), StraightThroughGumbel(0.5, 0.5)):
        noise = relaxation.draw(space)
        before = relaxation.weights(space, noise)["normal"].clone()
        with torch.no_grad():
            space.alpha["normal"].add_(torch.arange(5.0)[:, None])
        torch.testing.assert_close(relaxation.weights(space, noise)["normal"], before)


def test_operations_are_drawn_as_often_as_the_softmax_says() -> None:
    space, draws = space_of(), 20_000
    probabilities = space.alpha["normal"].detach().softmax(dim=1)
    space.alpha["normal"] = nn.Parameter(space.alpha["normal"].detach().repeat(draws, 1))
    relaxation = StraightThroughGumbel(10.0, 0.1)
    shares = relaxation.weights(space, relaxation.draw(space))["normal"].view(draws, 5, 8).mean(dim=0)
    torch.testing.assert_close(shares.detach(), probabilities, rtol=0, atol=5 * 0.5 / draws**0.5)


@pytest.mark.parametrize("selected_only", [False, True])
def test_a_one_hot_row_has_the_gradient_of_its_softmax(selected_only: bool) -> None:
    space, scale = space_of(), torch.randn(5, 8, dtype=torch.float64)
    relaxation = StraightThroughGumbel(0.5, 0.5, selected_only=selected_only)
    noise = relaxation.draw(space)
    hard = relaxation.weights(space, noise)["normal"]
    assert set(hard.detach().flatten().tolist()) == {0.0, 1.0}
    soft = GumbelSoftmax(0.5, 0.5).weights(space, noise)["normal"]
    expected = (soft * scale * (hard.detach() if selected_only else 1)).sum()
    alpha = space.alpha["normal"]
    torch.testing.assert_close(*(torch.autograd.grad(total, alpha)[0] for total in ((hard * scale).sum(), expected)))


def test_noise_is_finite_whatever_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for drawn in (0.0, 1e-45, 200.0):
        monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, drawn=drawn: self.fill_(drawn))
        assert GumbelSoftmax(1.0, 0.1).draw(space_of())["normal"].isfinite().all()


def test_temperatures_of_the_authors() -> None:
    snas, gdas = methods.named("snas").build(), methods.named("gdas").build()
    assert isinstance(snas, GumbelSoftmax)
    assert isinstance(gdas, GumbelSoftmax)
    for relaxation, epochs, expected in (
        (snas, 150, {0: 1.0, 1: 0.993533333333, 75: 0.515, 149: 0.0364666666667}),
        (gdas, 250, {0: 10.0, 1: 9.96024096386, 124: 5.06987951807, 249: 0.1}),
        (gdas, 1, {0: 10.0}),
    ):
        buffer = relaxation.temperature
        for epoch, tau in expected.items():
            relaxation.schedule(epoch, epochs)
            assert float(buffer) == pytest.approx(tau)  # filled in place


# ---- drnas -----------------------------------------------------------------------------------------------------------

#: 2 sin(1.1 e + 0.9 o), two edges, computed apart from this code: mean, variance, divergence from Dir(1), its gradient.
ETA = 2 * (1.1 * torch.arange(2.0, dtype=torch.float64)[:, None] + 0.9 * torch.arange(4.0, dtype=torch.float64)).sin()
MEAN = [[0.119487034873, 0.306681854409, 0.352211366537, 0.221619744181]]
MEAN += [[0.377345982196, 0.382252665561, 0.200511276915, 0.0398900753286]]
VARIANCE = [[0.0112294440326, 0.0226945911487, 0.0243522114728, 0.0184120428195]]
VARIANCE += [[0.0280589917703, 0.0281998591629, 0.0191441761526, 0.00457373872762]]
KL = [0.732583812047, 2.52130242686]
KL_GRADIENT = [[-0.554479798883, 0.189831489092, 0.230754894569, 0.0518287248615]]
KL_GRADIENT += [[0.279229317523, 0.282942074597, -0.0339620294565, -2.7808697775]]


def test_the_dirichlet_distribution_by_known_values() -> None:
    draws = 40_000
    c = concentrations(ETA)
    drawn = sample(c.repeat(draws, 1))[0].view(draws, 2, 4)
    torch.testing.assert_close((c / c.sum(dim=1, keepdim=True)).tolist(), MEAN, rtol=0, atol=1e-11)
    torch.testing.assert_close(drawn.mean(dim=0).tolist(), MEAN, rtol=0, atol=5e-3)
    torch.testing.assert_close(drawn.var(dim=0).tolist(), VARIANCE, rtol=0, atol=1.5e-3)


def test_the_divergence_from_the_flat_distribution() -> None:
    eta = ETA.clone().requires_grad_()
    divergence = divergence_from_flat(concentrations(eta))
    torch.testing.assert_close(divergence.tolist(), KL, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(divergence.sum(), eta)
    torch.testing.assert_close(gradient.tolist(), KL_GRADIENT, rtol=1e-9, atol=0)
    masked = torch.cat([eta, torch.full((2, 1), -torch.inf)], dim=1)
    torch.testing.assert_close(divergence_from_flat(concentrations(masked)), divergence)
    flat = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    divergence = divergence_from_flat(concentrations(flat))
    assert divergence.item() == pytest.approx(0, abs=1e-12)
    assert torch.autograd.grad(divergence.sum(), flat)[0].abs().max() < 1e-12
    space = space_of()
    penalty = Dirichlet(0.5).penalty(space)
    assert penalty is not None
    sums = [divergence_from_flat(concentrations(space.alpha[kind])).sum() for kind in KINDS]
    torch.testing.assert_close(penalty, 0.5 * (sums[0] + sums[1]))
    assert Dirichlet().penalty(space) is None


def test_the_pathwise_gradient_is_that_of_the_expectation() -> None:
    """Averaged over many draws; a masked operation changes nothing."""
    draws = 40_000
    logits = torch.tensor([0.4, -1.0, 2.0, -torch.inf], dtype=torch.float64).expand(draws, -1)
    drawn, derivative, c = sample(concentrations(logits))
    unit = torch.eye(4, dtype=torch.float64)
    # (j, i): how entry i changes with concentration j.
    found = (derivative[:, :, None] * (unit - drawn[:, None, :])).mean(dim=0)
    expected = (unit - c[0] / c[0].sum()) / c[0].sum()
    torch.testing.assert_close(found[:3], expected[:3], rtol=0, atol=5e-3)
    assert (found[3] == 0).all()


def test_a_derivative_by_the_distribution_function() -> None:
    """An entry of Dir(1, 2) is Beta(1, 2) with F(x) = 1 - (1 - x)^2, and of Dir(2, 1) Beta(2, 1) with F(x) = x^2.

    Of Beta(a, 1), F = x^a, and along constant F dx/da is -x log(x) / a; of Beta(1, b), with y = 1 - x, dy/db is
    -y log(y) / b.
    """
    drawn, derivative, _ = sample(torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    x = drawn[0, 0]
    torch.testing.assert_close(derivative[0, 0] * (1 - x), -x * x.log() / 2)


def test_flat_concentrations_are_uniform_on_the_simplex() -> None:
    """The smallest of n entries is more than t with probability (1 - n t)^(n - 1)."""
    drawn = sample(torch.ones(20_000, 3))[0]
    share = float((drawn.amin(dim=1) > 0.1).double().mean())
    assert share == pytest.approx(0.7**2, abs=5 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("scale", [1.0, 10.0, 30.0, 1000.0])
def test_extreme_logits_stay_finite(scale: float) -> None:
    space = space_of().float()
    with torch.no_grad():
        for kind in KINDS:
            space.alpha[kind].mul_(scale)
    relaxation = Dirichlet(1e-3)
    weights = relaxation.weights(space, relaxation.draw(space))["normal"]
    penalty = relaxation.penalty(space)
    assert penalty is not None
    for total in ((weights * torch.randn(5, 8)).sum(), penalty):
        assert total.isfinite()
        assert torch.autograd.grad(total, space.alpha["normal"])[0].isfinite().all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5))


def test_concentrations_below_the_rounding_of_elu() -> None:
    logits = torch.tensor([-12.0, 0.0, 3.0], requires_grad=True)
    found = concentrations(logits)
    torch.testing.assert_close(found, torch.tensor([math.exp(-12), 1.0, 4.0]))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([math.exp(-12), 1.0, 1.0]))


# ---- fairdarts -------------------------------------------------------------------------------------------------------


def test_sigmoids_and_the_zero_one_loss_by_known_values() -> None:
    """Computed apart from this code, of 1.5 sin(1.3 e + 0.6 o): weights of the first row, loss, and its gradient."""
    space = space_of("hb", nodes=1, operations=("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"))
    e, o = torch.arange(3.0, dtype=torch.float64)[:, None], torch.arange(4.0, dtype=torch.float64)
    for kind in KINDS:
        space.alpha[kind] = nn.Parameter(1.5 * (1.3 * e + 0.6 * o).sin())
    relaxation = Sigmoid(zero_one_weight=10, threshold=0.85)
    row = [0.5, 0.699929823749, 0.801875641556, 0.811650637133]
    assert relaxation.weights(space, {})["normal"][0].tolist() == pytest.approx(row)
    penalty = relaxation.penalty(space)
    assert penalty is not None
    assert penalty.item() == pytest.approx(10 * -0.0530008575465)
    gradient = sum(torch.autograd.grad(penalty, list(space.alpha.values())))  # of one kind, were it the only one
    row = [0.0, -0.00699847902215, -0.00799321905703, -0.00794054036996]
    assert (gradient[0] / 10).tolist() == pytest.approx(row, abs=1e-12)
    assert Sigmoid(0, 0.85).penalty(space) is None


def test_the_zero_one_loss_counts_allowed_operations_only() -> None:
    space = space_of()
    allowed = torch.ones(5, 8, dtype=torch.bool)
    allowed[:, 3] = False
    space.restrict(dict.fromkeys(KINDS, allowed))
    kept = torch.stack([space.alpha[kind][allowed] for kind in KINDS])
    penalty = Sigmoid(2.0, 0.85).penalty(space)
    assert penalty is not None
    torch.testing.assert_close(penalty, -2 * (kept.sigmoid() - 0.5).square().mean())


@pytest.mark.parametrize(("name", "normalized", "edges"), [("darts", None, 1), ("darts", True, 2), ("hb", None, 3)])
def test_weak_edges_are_dropped_where_the_space_drops_edges(name: str, normalized: bool | None, edges: int) -> None:
    space = space_of(name, edge_normalized=normalized)
    with torch.no_grad():
        for kind in KINDS:
            space.alpha[kind].clamp_(max=1)  # sigmoid 0.73
    relaxation = Sigmoid(10, 0.85)
    assert [len(node) for node in relaxation.derive(space).normal.nodes] == [edges, edges]
    with torch.no_grad():
        space.alpha["normal"][:2] = 1.8  # sigmoid 0.86: both edges of the first node
    assert [len(node) for node in relaxation.derive(space).normal.nodes] == [max(2, edges), edges]


# ---- darts-minus -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPACES)
def test_an_auxiliary_skip_is_weight_on_the_column_of_skip_connect(name: str) -> None:
    space = space_of(name)
    relaxation = relaxation_of("darts-minus", space)
    assert isinstance(relaxation, AuxiliarySkip)
    relaxation.auxiliary.fill_(0.7)
    column = space.operations.index("skip_connect")
    for kind in KINDS:
        change = relaxation(space, {})[kind] - Relaxation()(space, {})[kind]
        has = torch.tensor([name != "hb" or source == target - 1 for source, target in space.topology.edges])
        has &= space.mask[kind][:, column]
        torch.testing.assert_close(change[:, column], 0.7 * space.edge_weights(kind) * has)
        change[:, column] = 0
        assert (change == 0).all()
    assert same(relaxation.expected(space), Relaxation().expected(space))
    relaxation.auxiliary.fill_(0)
    assert same(relaxation(space, {}), Relaxation()(space, {}))


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", {0: 1.0, 1: 0.98, 25: 0.5, 49: 0.02}),
        ("cosine", {0: 1.0, 1: 0.999013364214, 25: 0.5, 49: 0.000986635785864}),
        ("slow-cosine", {0: 1.0, 1: 0.999506560366, 25: 0.707106781187, 49: 0.0314107590781}),
    ],
)
def test_the_auxiliary_skip_fades_out(decay: Decay, expected: dict[int, float]) -> None:
    relaxation = AuxiliarySkip(2.0, decay)
    buffer = relaxation.auxiliary
    for epoch, share in expected.items():
        relaxation.schedule(epoch, 50)
        assert float(buffer) == pytest.approx(2 * share)


def test_skip_connect_need_not_serve_training_beside_an_auxiliary_skip() -> None:
    """Where an identity on each edge is all that the loss asks for: plain DARTS collapses into it, DARTS- does not."""
    derived = []
    for relaxation in (Relaxation(), AuxiliarySkip(1.0, "linear")):
        space = spaces.build(SpaceConfig(nodes=2, operations=("skip_connect", "sep_conv_3x3"), init="random"))
        optimizer = torch.optim.Adam(space.parameters(), lr=0.1)
        for epoch in range(10):
            relaxation.schedule(epoch, 50)
            mixing = relaxation(space, {})
            loss = sum((mixing[kind][:, 0] - 1).square().sum() for kind in KINDS)
            assert isinstance(loss, Tensor)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        edges = [edge for node in relaxation.derive(space).normal.nodes for edge in node]
        derived.append(sum(edge.operation == "skip_connect" for edge in edges))
    assert derived == [4, 0]


# ---- ista ------------------------------------------------------------------------------------------------------------

#: By the penalty: solution, least value, and weights of the two chosen entries, computed apart from this code for
#: b = sin(1.7 i + 0.3), A = |43758.5453 sin(12.9898 i + 78.233 j)| mod 1, 7 by 14. Those not given are 0.
SPARSE: dict[float, tuple[dict[int, float], float, dict[int, float]]] = {
    0.1: (
        {2: 1.10435629396, 4: -1.01602777736, 5: -0.0468868092954, 6: -0.769561523123, 12: 0.0562164874211},
        0.518202391833,
        {2: 0.302286001071, 4: -1.69514557577},
    ),
    0.01: (
        {
            1: -1.10716891508,
            2: 1.37418635918,
            4: -2.18276318999,
            5: -0.603471407177,
            6: -0.233698809036,
            9: 0.363550928452,
            12: 1.23022638486,
        },
        0.0733615608298,
        {2: 1.83986161528, 4: -1.16178456628},
    ),
}


@pytest.mark.parametrize("penalty", SPARSE)
def test_sparse_coding_by_known_values(penalty: float) -> None:
    """Through a space of one node, of whose two edges each has seven operations."""
    # Not by torch, whose sine is another on another CPU, by as much as 43758 of its last digits.
    rows = [[abs(43758.5453 * math.sin(12.9898 * i + 78.233 * j)) % 1 for j in range(14)] for i in range(7)]
    A = torch.tensor(rows, dtype=torch.float64)
    b = torch.tensor([math.sin(1.7 * i + 0.3) for i in range(7)], dtype=torch.float64)
    tolerance = {"rtol": 0, "atol": 1e-10}
    solution, least, weights = SPARSE[penalty]
    z = lasso(A, b, penalty)
    torch.testing.assert_close(z, z.new_tensor([solution.get(n, 0.0) for n in range(14)]), **tolerance)
    value = 0.5 * (A @ z - b).square().sum() + penalty * z.abs().sum()
    assert value.item() == pytest.approx(least, rel=0, abs=1e-10)

    space = space_of(nodes=1, operations=WITHOUT_ZERO)
    relaxation = SparseCoding(7, penalty, 1.0)
    relaxation.begin(space, seed=0)
    for kind in KINDS:
        relaxation.get_buffer(f"{kind}_dictionary").copy_(A.T.view(2, 7, 7))
        with torch.no_grad():
            relaxation.get_parameter(f"{kind}_code").copy_(b)
    relaxation.schedule(0, 4)
    expected = z.new_tensor([weights.get(n, 0.0) for n in range(14)]).view(2, 7)
    torch.testing.assert_close(relaxation.expected_weights(space)["normal"], expected, **tolerance)


def test_what_needs_logits_is_refused_without_them() -> None:
    """Whatever the table of refusals holds; what needs steps of the architecture works."""
    options: dict[str, dict[str, Any]] = {
        "--unrolled": {"unrolled": True},
        "--warm-up-epochs": {"warm_up_epochs": 1},
        "--stop": {"stop": "skips"},
        "--beta-decay": {"beta_decay": 1.0},
        "--entropy-weight": {"entropy_weight": -1.0},
        "--cost-weight": {"cost_weight": 1.0},
        "--perturb": {"perturb": "random"},
        "--drop": {"drop": (1,)},
        "--derivation projection": {"derivation": "projection"},
        "--stop order": {"stop": "order"},
        "--eigenvalue-every": {"eigenvalue_every": 2},
    }
    assert options.keys() == combinations.NEED_STEPS.keys() | combinations.NEED_LOGITS.keys()
    default = SearchConfig(method=methods.named("ista"))
    for flag, given in {**options, "--partial-channels": {"partial_channels": 2}}.items():
        config = configured(default, given)
        stages = plan(config.stages, config.epochs)
        told = ""
        try:
            combinations.check(config, spaces.build(config.space), config.method.build(), stages)
        except ValueError as error:
            told = str(error)
        if flag in combinations.NEED_STEPS:
            assert not told, flag
        elif flag == "--partial-channels":
            assert told.startswith("--partial-channels needs weights of the operations that sum to 1"), flag
        else:
            assert told == f"{flag} is about logits, which --method ista does not train; drop one of the two"


def test_what_sparse_coding_would_ignore_is_refused() -> None:
    relaxation = methods.named("ista").build()
    with pytest.raises(ValueError, match="--method ista cannot start from peaked logits"):
        relaxation.check(spaces.build(SpaceConfig(space="hb", init="hb")))
    for name in ("unmasked_logits", "edge_weights", "derive"):
        own = type("Own", (spaces.get("darts"),), {name: lambda *_: None})
        with pytest.raises(ValueError, match=f"--method ista does not use {name}, which --space Own overrides"):
            relaxation.check(own())
    for limit in ({"max_skips": 2}, {"max_params": 10**9}, {"max_macs": 10**12}):
        with pytest.raises(ValueError, match="this --method has a derivation of its own .SparseCoding., which --max"):
            Derivation(DerivationConfig(**limit), space_of(), relaxation, FORMS["cifar"])


def test_sparse_solutions() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.rand(7, 14, generator=generator, dtype=torch.float64)
    b = torch.randn(7, generator=generator, dtype=torch.float64)
    for penalty in (1e-5, 1e-2, 0.1):
        z, order = lasso(A, b, penalty), torch.randperm(14, generator=generator)
        slope = A.T @ (b - A @ z)
        assert slope.abs().max() <= penalty * (1 + 1e-5)
        torch.testing.assert_close(slope[z != 0], penalty * z[z != 0].sign(), rtol=1e-5, atol=0)
        torch.testing.assert_close(lasso(A[:, order], b, penalty), z[order])
    assert (lasso(A, b, 100.0) == 0).all()


def test_chosen_operations_and_their_weights() -> None:
    space = space_of(operations=("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"))
    relaxation = relaxation_of("ista", space)
    assert isinstance(relaxation, SparseCoding)
    A = relaxation.get_buffer("normal_dictionary")
    with torch.no_grad():
        relaxation.get_parameter("normal_code")[0] = 0.8 * A[0, 1] - 0.5 * A[0, 3]
    relaxation.schedule(2, 4)
    weights = relaxation.weights(space, {})["normal"]
    assert weights[0].tolist() == pytest.approx([0, 0.8, 0, -0.5], abs=1e-4)  # but for the penalty, 1e-5
    assert (weights[1] == 0).all()
    (gradient,) = torch.autograd.grad(weights[0, 1], relaxation.get_parameter("normal_code"))
    torch.testing.assert_close(gradient[0], A[0, 1])
    first = relaxation.derive(space).normal.nodes[0]
    assert [(edge.source, edge.operation) for edge in first] == [(0, "skip_connect"), (0, "max_pool_3x3")]
