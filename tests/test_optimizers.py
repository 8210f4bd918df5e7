"""Optimizers: what a checkpoint of one kind of device gives to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, MultiStepLR

from nas.engine.optimizers import OptimizerState, ScheduleState, adam, learning_rate, sgd
from nas.engine.training import Training, TrainingConfig
from nas.runs import checkpoint
from tests.tiny import assert_same

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], LRScheduler]] = {
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, 6, eta_min=0.01),
    "exponential": lambda optimizer: ExponentialLR(optimizer, 0.9),
    "step": lambda optimizer: MultiStepLR(optimizer, [2, 4], 0.1),
}


def like_a_gpus(parameters: Any) -> torch.optim.SGD:
    """What `sgd` makes on a GPU; the fused kernel is there on a CPU too."""
    return torch.optim.SGD(parameters, lr=torch.tensor(0.3), momentum=0.9, weight_decay=0.01, fused=True)


def on_a_cpu(parameters: Any) -> torch.optim.SGD:
    return sgd(parameters, learning_rate=0.3, momentum=0.9, weight_decay=0.01)


KINDS = {"cpu": on_a_cpu, "gpu": like_a_gpus}


def epochs(
    numbers: range, weight: nn.Parameter, optimizer: torch.optim.Optimizer, schedule: LRScheduler
) -> list[float]:
    rates = []
    for number in numbers:
        weight.grad = torch.full_like(weight, 1.0 + number)
        optimizer.step()
        rates.append(learning_rate(optimizer))
        schedule.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_one_kind_of_device_goes_on_where_another_stopped(name: str, first: str, second: str, tmp_path: Any) -> None:
    reference = nn.Parameter(torch.ones(3))
    plain = torch.optim.SGD([reference], lr=0.3, momentum=0.9, weight_decay=0.01)
    expected = epochs(range(6), reference, plain, SCHEDULES[name](plain))

    before = nn.Parameter(torch.ones(3))
    optimizer = KINDS[first]([before])
    schedule = SCHEDULES[name](optimizer)
    rates = epochs(range(3), before, optimizer, schedule)
    states = {"optimizer": OptimizerState(optimizer).state_dict(), "schedule": ScheduleState(schedule).state_dict()}
    checkpoint.save(tmp_path, states)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None

    after = nn.Parameter(before.detach().clone())
    optimizer = KINDS[second]([after])
    schedule = SCHEDULES[name](optimizer)
    ScheduleState(schedule).load_state_dict(loaded["schedule"])
    OptimizerState(optimizer).load_state_dict(loaded["optimizer"])
    (group,) = optimizer.param_groups
    assert isinstance(group["lr"], Tensor) == bool(group["fused"]) == (second == "gpu")
    rates += epochs(range(3, 6), after, optimizer, schedule)
    assert rates == pytest.approx(expected)
    torch.testing.assert_close(after, reference)
    if first == second == "cpu":
        assert_same(after.data, reference.data)


def test_rmsprop_is_that_of_torchvisions_reference_and_goes_on_bit_for_bit() -> None:
    """As `references/classification/train.py` calls it."""
    reference, own = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    plain: torch.optim.Optimizer = torch.optim.RMSprop(
        [reference], lr=0.1, momentum=0.9, weight_decay=0.01, eps=0.0316, alpha=0.9
    )
    network = nn.Module()
    network.weight = own
    config = TrainingConfig(optimizer="rmsprop", learning_rate=0.1, weight_decay=0.01)
    optimizer = Training(config, network, "fp32").optimizer
    for number in range(4):
        if number == 2:
            saved = OptimizerState(optimizer).state_dict()
            optimizer = Training(config, network, "fp32").optimizer
            OptimizerState(optimizer).load_state_dict(saved)
        for parameter, each in ((reference, plain), (own, optimizer)):
            parameter.grad = torch.arange(3.0) + number
            each.step()
    assert_same(own.data, reference.data)


@pytest.mark.parametrize("first_is_fused", [True, False])
def test_the_architectures_optimizer_too(first_is_fused: bool) -> None:
    def kind(fused: bool, parameter: nn.Parameter) -> torch.optim.Adam:
        if not fused:
            return adam([parameter], learning_rate=0.1, betas=(0.5, 0.999))
        return torch.optim.Adam([parameter], lr=0.1, betas=(0.5, 0.999), fused=True)

    reference, before = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    plain, optimizer = kind(False, reference), kind(first_is_fused, before)
    for parameter, each in ((reference, plain), (before, optimizer)):
        for number in range(2):
            parameter.grad = torch.arange(3.0) + number
            each.step()
    after = nn.Parameter(before.detach().clone())
    other = kind(not first_is_fused, after)
    OptimizerState(other).load_state_dict(OptimizerState(optimizer).state_dict())
    for parameter, each in ((reference, plain), (after, other)):
        parameter.grad = torch.arange(3.0) - 1
        each.step()
    torch.testing.assert_close(after, reference)


def test_a_schedule_moves_the_tensor_that_a_captured_step_reads() -> None:
    for make in SCHEDULES.values():
        optimizer = like_a_gpus([nn.Parameter(torch.ones(1))])
        rate = optimizer.param_groups[0]["lr"]
        schedule = make(optimizer)
        for _ in range(3):
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate < 0.3
