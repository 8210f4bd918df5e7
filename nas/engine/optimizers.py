"""The optimizers of both loops, and their state in a checkpoint from which any device can resume.

On a GPU they are the fused ones, and a scheduled learning rate is a tensor there, so that a captured step
(`nas.engine.graphs`) reads the current value. On a CPU it is a number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler


def sgd(parameters: Iterable[nn.Parameter], *, learning_rate: float, **constants: Any) -> SGD:
    """SGD with a learning rate that may be scheduled; `constants` go to `torch.optim.SGD`."""
    weights = list(parameters)
    device = weights[0].device
    if device.type != "cuda":
        return SGD(weights, lr=learning_rate, **constants)
    # The fused kernel reads a float32.
    return SGD(weights, lr=torch.tensor(learning_rate, dtype=torch.float32, device=device), fused=True, **constants)


def rmsprop(parameters: Iterable[nn.Parameter], *, learning_rate: float, **constants: Any) -> RMSprop:
    """RMSprop with a learning rate that may be scheduled; `constants` go to `torch.optim.RMSprop`.

    Its own constants are those of torchvision's reference training, alpha 0.9 and epsilon 0.0316: the average of the
    squares forgets as fast as in the paper of MobileNetV2 (Sandler et al., CVPR 2018, sec. 6.1).
    """
    weights = list(parameters)
    device = weights[0].device
    constants = {"alpha": 0.9, "eps": 0.0316, **constants}
    if device.type != "cuda":
        return RMSprop(weights, lr=learning_rate, **constants)
    rate = torch.tensor(learning_rate, dtype=torch.float32, device=device)
    return RMSprop(weights, lr=rate, capturable=True, **constants)


def adam(parameters: Iterable[nn.Parameter], *, learning_rate: float, **constants: Any) -> Adam:
    """Adam with a constant learning rate; `constants` go to `torch.optim.Adam`."""
    weights = list(parameters)
    on_gpu = weights[0].device.type == "cuda"
    return Adam(weights, lr=learning_rate, fused=on_gpu or None, capturable=on_gpu, **constants)


def learning_rate(optimizer: Optimizer) -> float:
    """The current learning rate, as a number."""
    return float(optimizer.param_groups[0]["lr"])


class OptimizerState:
    """The part of an optimizer that is saved and restored: its buffers and its learning rate.

    The rest follows from the configuration and the device, and must not come from a checkpoint of another device.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """The buffers by the number of their parameter, and the learning rate as a float."""
        return {"state": self._optimizer.state_dict()["state"], "learning_rate": learning_rate(self._optimizer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores both. Raises ValueError for buffers that do not belong to the optimizer's parameters."""
        self._check_buffers(state["state"])
        constants = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state["state"], "param_groups": constants})
        for group in self._optimizer.param_groups:
            # In place: a CUDA graph reads the tensor at the address that it has recorded.
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(state["learning_rate"])
            else:
                group["lr"] = state["learning_rate"]

    def _check_buffers(self, saved: Mapping[object, Any]) -> None:
        parameters = dict(enumerate(p for group in self._optimizer.param_groups for p in group["params"]))
        for number, buffers in saved.items():
            parameter = parameters.get(number)  # type: ignore[call-overload]
            if parameter is None or not isinstance(buffers, dict):
                raise ValueError("its optimizer does not fit this run")
            for value in buffers.values():
                # Momenta have the shape of the parameter; counts of steps have none.
                if isinstance(value, Tensor) and value.shape not in (parameter.shape, ()):
                    raise ValueError("its optimizer does not fit this run")


#: What changes in a schedule; the rest follows from the configuration, under names that vary with PyTorch's version.
_VARYING = ("last_epoch", "_step_count", "_last_lr")


class ScheduleState:
    """The part of a schedule that is saved and restored, with its learning rates as numbers."""

    def __init__(self, schedule: LRScheduler) -> None:
        self._schedule = schedule

    def state_dict(self) -> dict[str, Any]:
        """The position in the schedule, with learning rates as floats."""
        state = self._schedule.state_dict()
        return {name: _plain(state[name]) for name in _VARYING}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a position; the learning rate itself is part of `OptimizerState`."""
        self._schedule.load_state_dict(state)


def advance(schedule: LRScheduler) -> None:
    """Goes to the next epoch of a schedule."""
    with warnings.catch_warnings():
        # A process that resumes in the evaluation of the first epoch has made no step of the optimizer itself.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step", category=UserWarning)
        schedule.step()


def _plain(value: object) -> object:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, Tensor) else value
