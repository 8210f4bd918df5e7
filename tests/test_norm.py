"""The BatchNorm of folded pixels against PyTorch's, with first and second derivatives and running statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from spaces.kernels import norm
from spaces.kernels.norm import FoldedBatchNorm2d, frozen_statistics


@pytest.fixture(autouse=True)
def folded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Folds small inputs too; a list of the places of each."""
    monkeypatch.setattr(norm, "_LEAST", 0)
    seen: list[int] = []
    function = norm._folded

    def spy(x: Tensor, places: int) -> Tensor:
        seen.append(places)
        return function(x, places)

    monkeypatch.setattr(norm, "_folded", spy)
    return seen


def images(channels: int, size: tuple[int, int] = (8, 6), dtype: torch.dtype = torch.float64) -> Tensor:
    x = 3 + 2 * torch.randn(5, channels, *size, dtype=dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def pair(channels: int, *, affine: bool = True) -> tuple[FoldedBatchNorm2d, nn.BatchNorm2d]:
    ours = FoldedBatchNorm2d(channels, affine=affine, dtype=torch.float64)
    theirs = nn.BatchNorm2d(channels, affine=affine, dtype=torch.float64)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("channels", "places"), [(36, 4), (8, 2), (40, 2), (3, 16)])
def test_values_derivatives_and_statistics(channels: int, places: int, affine: bool, folded: list[int]) -> None:
    ours, theirs = pair(channels, affine=affine)
    x = images(channels)
    towards = torch.randn_like(x, requires_grad=True)
    found = []
    for module in (ours, theirs):
        y = module(x)
        inputs = [x, *module.parameters()]
        first = torch.autograd.grad(y, inputs, towards, retain_graph=True)
        again = torch.autograd.grad(y, inputs, towards, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in again), [*inputs, towards], materialize_grads=True)
        found.append((y, first, again, second))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-12)
    assert set(folded) == {places}


def test_the_gradient_of_a_slice() -> None:
    ours, theirs = pair(4)
    x = images(4)
    found = []
    for module in (ours, theirs):
        torch.cat([module(x), x], dim=1).pow(3).sum().backward()
        found.append(x.grad)
        x.grad = None
    torch.testing.assert_close(*found)


def test_only_what_is_wanted() -> None:
    ours, theirs = pair(36)
    x = images(36).detach()
    for module in (ours, theirs):
        module.bias.requires_grad_(False)
        module(x).pow(3).sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_frozen_statistics_are_left_alone(folded: list[int]) -> None:
    ours, _ = pair(36)
    with frozen_statistics(ours):
        ours(images(36))
    assert folded
    assert torch.equal(ours.running_mean, torch.zeros(36))
    assert ours.num_batches_tracked == 0


@pytest.mark.parametrize("size", [(3, 3), (1, 1)])
def test_sizes_that_cannot_be_folded(size: tuple[int, int], folded: list[int]) -> None:
    ours, theirs = pair(36)
    x = images(36, size)
    torch.testing.assert_close(ours(x), theirs(x))
    assert not folded


def test_elsewhere_it_is_the_librarys(folded: list[int]) -> None:
    """Where channels fill vectors, with channels outermost, in evaluation."""
    for channels, layout, training in (
        (48, torch.channels_last, True),
        (36, torch.contiguous_format, True),
        (36, torch.channels_last, False),
    ):
        ours, theirs = (module.train(training) for module in pair(channels))
        x = images(channels).detach().contiguous(memory_format=layout)
        torch.testing.assert_close(ours(x), theirs(x))
    assert not folded


def test_in_single_precision_it_is_as_exact_as_the_librarys() -> None:
    x = images(36, (32, 32), torch.float32).detach()
    ours, theirs = (module.float()(x) for module in pair(36, affine=False))
    exact = nn.BatchNorm2d(36, affine=False, dtype=torch.float64)(x.double())
    assert (ours - exact).abs().max() <= 2 * (theirs - exact).abs().max()
