"""The relaxed forms (16), (17), (18) and (20), against the formulas written down one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.networks.handmade.dense import DenseBlock
from nas.networks.handmade.relaxed import (
    AcceleratedBlock,
    AcceleratedSumBlock,
    ADMMBlock,
    FirstUnit,
    HeavyBallBlock,
    weighted_sum,
)
from nas.theory.iterations import h_table, nesterov_momentum
from nas.theory.networks import agd, agd2, hb

W = torch.tensor([[0.6, 0.2, 0.1], [0.2, 0.5, -0.1], [0.1, -0.1, 0.4]], dtype=torch.float64)
X0 = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
N = 6


class Tanh(nn.Module):
    """T_k(x) = tanh((W + 0.05 k I) x), with a weight of its own."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(W + 0.05 * k * torch.eye(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight.T).tanh()


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def layers(first: int = 0, count: int = N) -> list[Tanh]:
    return [Tanh(k) for k in range(first, first + count)]


def assert_states(states: list[Tensor], last: list[float]) -> None:
    assert len(states) == N + 1
    torch.testing.assert_close(states[-1], torch.tensor(last, dtype=torch.float64), rtol=0, atol=2e-11)


def test_known_values() -> None:
    """States x_6 that were computed apart from this code, in double precision."""
    resnet = HeavyBallBlock(layers(), beta2=0.0)
    assert_states(resnet.states(X0), [6.08067464964, -0.25969926599, 4.30952804222])
    plain = HeavyBallBlock(layers())
    assert_states(plain.states(X0), [-0.92594191178, 0.605034975524, -0.961242232592])
    hb = HeavyBallBlock(layers(), first="hb")
    assert_states(hb.states(X0), [-0.422405632648, -0.409341294591, -0.818506084547])
    accelerated = AcceleratedBlock(layers(), [(1.0, -0.5)] * N)
    assert_states(accelerated.states(X0), [0.0267472383611, -0.00512313816614, 0.0201917011506])
    summed = sum_block(layers())
    assert_states(summed.states(X0), [0.0791666641619, 0.0811871090006, -0.0154009996816])
    merge = ADMMBlock(layers(10, 3), layers(0, 3)).states(X0, X0)
    expected = [[3.45877933182, -1.71408106766, 2.01942033782], [3.38279253571, -1.06868674315, 1.75306266849]]
    torch.testing.assert_close(torch.stack(merge[-1]), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-11)


def sum_block(ts: list[Tanh], learnable: bool = False) -> AcceleratedSumBlock:
    """Eq. (13) as (18): alpha = h, beta_{k+1,j} = [j = k] - h_{k+1,j}, and one T for each source."""
    h = h_table(nesterov_momentum(N + 1))[1:]
    beta = [[float(j == k) - value for j, value in enumerate(row)] for k, row in enumerate(h)]
    return AcceleratedSumBlock([ts[: k + 1] for k in range(N)], h, beta, learnable=learnable)


@pytest.mark.parametrize("learnable", [False, True])
def test_the_networks_are_special_cases(learnable: bool) -> None:
    """Eq. (11), (12) and (13) are (16), (17) and (18) with their constants."""
    ts, beta, b = layers(), 0.3, nesterov_momentum(N + 1)
    torch.set_default_dtype(torch.float64)  # of learned coefficients
    try:
        blocks: list[tuple[nn.Module, Callable[..., Iterable[Tensor]]]] = [
            (HeavyBallBlock(ts, beta1=beta, beta2=-beta, first="hb", learnable=learnable), hb),
            (AcceleratedBlock(ts, [(1 + b[k], -b[k]) for k in range(N)], learnable=learnable), agd),
            (sum_block(ts, learnable), agd2),
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    for block, network in blocks:
        assert any(name.endswith("values") for name, _ in block.named_parameters()) == learnable
        found = torch.stack(block.states(X0))
        expected = torch.stack(list(network(ts, X0)))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_heavy_ball_with_a_pair_for_every_layer() -> None:
    ts = layers()
    block = HeavyBallBlock(ts, beta1=0.9, beta2=-0.4, learnable=True)
    values = torch.randn(N, 2, dtype=torch.float64)
    assert block.coefficients.values.shape == (2 * N - 1,)  # the first unit has no x_{-1}
    block.coefficients.values = nn.Parameter(torch.cat([values[0, :1], values[1:].flatten()]))
    x = [X0, ts[0](X0) + values[0, 0] * X0]
    for k in range(1, N):
        x.append(ts[k](x[k]) + values[k, 0] * x[k] + values[k, 1] * x[k - 1])
    torch.testing.assert_close(torch.stack(block.states(X0)), torch.stack(x))


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("first", ["plain", "hb"])
def test_sequences_of_heavy_ball_are_those_of_the_slides(first: FirstUnit, learnable: bool) -> None:
    """beta1 = 1 - alpha + beta, beta2 = -beta and alpha T in the place of T: Theorem 2's recurrence in numpy."""
    ts, alpha, beta = layers(), np.linspace(0.5, 1.2, N), np.linspace(0.1, 0.6, N)
    scaled = [nn.Sequential(t, Scaled(a)) for t, a in zip(ts, alpha, strict=True)]
    block = HeavyBallBlock(scaled, beta1=1 - alpha + beta, beta2=-beta, first=first, learnable=learnable).double()
    x = [X0.numpy(), X0.numpy()]
    for k, t in enumerate(ts):
        before = beta[k] * (x[-1] - x[-2]) if k or first == "hb" else beta[k] * x[-1]
        x.append(x[-1] - alpha[k] * (x[-1] - t(torch.from_numpy(x[-1])).detach().numpy()) + before)
    tolerance = 1e-6 if learnable else 1e-12  # learned coefficients start in float32
    np.testing.assert_allclose(torch.stack(block.states(X0)).detach(), x[1:], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("learnable", [False, True])
def test_two_paths_in_full(learnable: bool) -> None:
    """Eq. (20) with every coefficient, as the double sum that it is."""
    torch.manual_seed(0)
    primes, ts, n = layers(10, 4), layers(0, 4), 4
    alpha, beta = ([torch.randn(k + 1).tolist() for k in range(n)] for _ in range(2))
    block = ADMMBlock(primes, ts, alpha=alpha, beta=beta, learnable=learnable)
    x_prime, x = [X0], [2 * X0]
    for k in range(n):
        shared = torch.zeros_like(X0)
        for t in range(k + 1):
            shared = shared + alpha[k][t] * x_prime[t] + beta[k][t] * x[t]
        x_prime, x = [*x_prime, primes[k](x_prime[k]) + shared], [*x, ts[k](x[k]) + shared]
    found = block.states(X0, 2 * X0)
    torch.testing.assert_close(torch.stack([s[0] for s in found]), torch.stack(x_prime))
    torch.testing.assert_close(torch.stack([s[1] for s in found]), torch.stack(x))


def test_densenet_is_the_sum_over_its_sources() -> None:
    """Eq. (19) is (18) with alpha = 1, beta = 0 and a T for each pair: same outputs, same gradients."""
    torch.manual_seed(0)
    width, growth, m = 4, 4, 3  # equal widths, so that beta's x_j can be added too
    dense = DenseBlock(width, m, growth).double().eval()
    ones = [[1.0] * (k + 1) for k in range(m)]
    zeros = [[0.0] * (k + 1) for k in range(m)]
    rows = [[SliceOf(layer, slice(4 * j, 4 * j + 4)) for j in range(k + 1)] for k, layer in enumerate(dense.layers)]
    pairs = AcceleratedSumBlock(rows, ones, zeros).eval()
    x = torch.randn(2, width, 5, 5, dtype=torch.float64, requires_grad=True)
    weights = list(dense.parameters())
    results = []
    for states in (dense.states(x), pairs.states(x)):
        loss = torch.cat(states, 1).square().sum()
        results.append([*states, *torch.autograd.grad(loss, [x, *weights])])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class SliceOf(nn.Module):
    """T_{k+1,j}: BatchNorm, ReLU and the columns of the convolution that belong to z_j; its weights are the layer's."""

    def __init__(self, layer: nn.Module, part: slice) -> None:
        super().__init__()
        self.layer, self.part = layer, part

    def forward(self, z: Tensor) -> Tensor:
        norm, part = self.layer.norm1, self.part
        h = nn.functional.batch_norm(
            z, norm.running_mean[part], norm.running_var[part], norm.weight[part], norm.bias[part]
        )
        return nn.functional.conv2d(h.relu(), self.layer.conv1.weight[:, part], padding=1)


def test_a_layer_in_several_rows_is_computed_once() -> None:
    calls = []
    ts = layers()
    for t in ts:
        t.register_forward_hook(lambda *_: calls.append(1))
    sum_block(ts).states(X0)
    assert len(calls) == N


def test_coefficients_are_parameters_only_where_they_are_learned() -> None:
    fixed, learned = (ADMMBlock(layers(10, 3), layers(0, 3), learnable=learnable) for learnable in (False, True))
    extra = {name for name, _ in learned.named_parameters()} - {name for name, _ in fixed.named_parameters()}
    assert extra == {"alpha.values", "beta.values"}
    # DMRNet: one half for the last states, zero for those before.
    assert learned.alpha.values is not None
    assert learned.alpha.values.tolist() == [0.5, 0.0, 0.5, 0.0, 0.0, 0.5]
    out_prime, out = learned(X0.float().double(), X0)
    (out_prime.sum() + 2 * out.sum()).backward()
    assert learned.alpha.values.grad is not None
    assert (learned.alpha.values.grad != 0).all()


@pytest.mark.parametrize("coefficients", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, -1.0), (0.5, 3.0)])
def test_weighted_sums(coefficients: tuple[float, float]) -> None:
    x, y = torch.randn(2, 5, dtype=torch.float64)
    expected = coefficients[0] * x + coefficients[1] * y
    torch.testing.assert_close(weighted_sum(coefficients, [x, y]), expected)
    as_tensors = [torch.tensor(c, dtype=torch.float64) for c in coefficients]
    torch.testing.assert_close(weighted_sum(as_tensors, [x, y]), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeavyBallBlock(layers(), first="other"), "first is 'other'; it must be 'plain' or 'hb'"),
        (lambda: AcceleratedBlock(layers(), [(1.0, 0.0)] * 5), "coefficients has rows of"),
        (
            lambda: AcceleratedSumBlock([layers(0, 1)], [[1.0]], [[1.0, 2.0]]),
            r"beta has rows of \[2\] entries; they must",
        ),
        (lambda: ADMMBlock(layers(0, 2), layers(0, 3)), "the paths have 2 and 3 layers"),
    ],
)
def test_wrong_lengths_are_named(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_one_layer_for_two_sources() -> None:
    """What is computed once is T of one source, not T."""
    shared, rows = Tanh(0), [[1.0], [1.0, 1.0]]
    states = AcceleratedSumBlock([[shared], [shared, shared]], rows, [[0.0], [0.0, 0.0]]).states(X0)
    torch.testing.assert_close(states[2], shared(X0) + shared(shared(X0)))


def test_each_path_has_its_own_shortcut() -> None:
    class Times(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            return self.factor * x

    ((prime, plain), _) = ADMMBlock([Tanh(1)], [Tanh(0)], shortcut_prime=Times(2), shortcut=Times(3)).states(X0, X0)
    torch.testing.assert_close((prime, plain), (2 * X0, 3 * X0))
