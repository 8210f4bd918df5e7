"""Compares LPOM with stochastic gradient descent on the same networks: `python -m benchmarks.lpom digits` or `speed`.

`digits` measures test accuracy on scikit-learn's digits over several seeds. Both methods start from the same weights
and see the same batches. SGD uses Nesterov's momentum, and the learning rate that is best on the test images, which
favours it.

`speed` measures seconds per epoch and peak memory on images of MNIST's size, random ones or your own. Each round times
one epoch of every method in turn, so that drifts in the machine's speed affect all alike.

Prints a table; --out also writes it as JSON.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

from benchmarks.command import BenchmarkConfig, run_benchmark
from benchmarks.timing import peak_bytes, write_result
from genotypes.config import Count
from nas.data import DataConfig, load
from nas.engine.device import resolve_device
from nas.screen import table
from nas.theory.lpom import LOSSES, LPOM, MLP, LPOMConfig
from nas.theory.lpom.machine import LossName

Batch = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True, kw_only=True)
class Digits(BenchmarkConfig):
    """Test accuracy on scikit-learn's 1,797 digits, 360 of them for testing."""

    epochs: Count = 60
    """Epochs of each training."""
    batch_size: Count = 100
    """Samples per batch."""
    seeds: Count = 3
    """Trainings for each row; their seeds count up from 0."""
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    """Learning rates of SGD to choose from."""
    threads: Count = 1
    """Threads of torch."""
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Speed(BenchmarkConfig):
    """Seconds per epoch and peak memory on images of MNIST's size."""

    dataset: str = "fake"
    """Data set: fake (random grey images), or folder (your own images)."""
    data: str | None = None
    """Folder of your own images, with one subfolder for each class."""
    image_size: Count = 28
    """Side of the images in pixels."""
    images: Count = 60_000
    """Training images of the fake data set."""
    hidden: tuple[str, ...] = ("300", "500-500")
    """The hidden layers of each network to measure."""
    batch_size: Count = 100
    """Images per batch."""
    rounds: Count = 3
    """Timed epochs of each method, after ten steps of warm-up."""
    threads: Count = 1
    """Threads of torch."""


@dataclass(frozen=True)
class Setting:
    """A network and how an LPOM trains it."""

    hidden: tuple[Count, ...] = (100,)
    activation: str = "relu"
    output: str = "identity"
    lpom: LPOMConfig = field(default_factory=LPOMConfig)

    def network(self, inputs: int, classes: int, seed: int, device: torch.device) -> MLP:
        """A new network on the device; `seed` draws its weights."""
        generator = torch.Generator().manual_seed(seed)
        widths = (inputs, *self.hidden, classes)
        activations = (*[self.activation] * len(self.hidden), self.output)
        return MLP(widths, activations, generator=generator, device=device)


SETTINGS = {
    "64-100-10 least squares": Setting(),
    "64-100-10 cross-entropy": Setting(lpom=LPOMConfig(loss="cross_entropy", mu=1.0)),
    "64-100-10 tanh, least squares": Setting(activation="tanh"),
    "64-100-10 sigmoid twice, least squares": Setting(activation="sigmoid", output="sigmoid", lpom=LPOMConfig(mu=1.0)),
    "64-100-50-10 least squares": Setting(hidden=(100, 50)),
    "64-100-50-10 cross-entropy": Setting(hidden=(100, 50), lpom=LPOMConfig(loss="cross_entropy", mu=1.0)),
}
#: The algorithm as it is printed on the slides.
PRINTED = {
    "64-100-10 least squares, undamped": Setting(lpom=LPOMConfig(damping=1.0)),
    "64-100-50-10 least squares, slides' order": Setting(hidden=(100, 50), lpom=LPOMConfig(order="forward")),
}


def main(config: Digits | Speed) -> None:
    """Prints the table of one configuration."""
    torch.set_num_threads(config.threads)
    device = resolve_device(config.device)
    rows = _digits(config, device) if isinstance(config, Digits) else _speed(config, device)
    print(table(rows))
    write_result(config.out, config, device, rows)


def sgd(network: MLP, loss: LossName, learning_rate: float) -> Step:
    """A step of SGD with Nesterov's momentum 0.9 on the loss averaged over the batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9, nesterov=True)

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        (LOSSES[loss].value(network(inputs), targets) / len(inputs)).backward()
        optimizer.step()

    return step


# ---- digits ---------------------------------------------------------------------------------------------------------


def _digits(config: Digits, device: torch.device) -> list[dict[str, Any]]:
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=360, random_state=0, stratify=labels)
    train_x, test_x = (torch.tensor(part, dtype=torch.float32, device=device) for part in parts[:2])
    train_y, test_y = (torch.tensor(part, device=device) for part in parts[2:])
    train = train_x, F.one_hot(train_y, 10).float()

    def row(name: str, method: str, setting: Setting, learning_rate: float | None = None) -> dict[str, Any]:
        accuracies, start = [], time.perf_counter()
        for seed in range(config.seeds):
            network = setting.network(train_x.shape[1], 10, seed, device)
            if learning_rate is None:
                step: Step = LPOM(network, setting.lpom).step
            else:
                step = sgd(network, setting.lpom.loss, learning_rate)
            _train(step, train, config, seed)
            with torch.no_grad():
                accuracies.append(100 * (network(test_x).argmax(dim=1) == test_y).double().mean().item())
        return {
            "network": name,
            "method": method,
            "test %": statistics.mean(accuracies),
            "std": statistics.stdev(accuracies) if config.seeds > 1 else 0.0,
            "least": min(accuracies),
            "most": max(accuracies),
            "s a training": (time.perf_counter() - start) / config.seeds,
            "learning rate": learning_rate,
        }

    rows = []
    for name, setting in SETTINGS.items():
        rows.append(row(name, "LPOM", setting))
        rows.append(max((row(name, "SGD", setting, r) for r in config.learning_rates), key=lambda one: one["test %"]))
    return rows + [row(name, "LPOM", setting) for name, setting in PRINTED.items()]


def _train(step: Step, train: Batch, config: Digits, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(train[0]), generator=generator).split(config.batch_size):
            step(*(part[rows] for part in train))


# ---- speed ----------------------------------------------------------------------------------------------------------


def _speed(config: Speed, device: torch.device) -> list[dict[str, Any]]:
    data = load(
        DataConfig(
            dataset=config.dataset,
            data=config.data,
            image_size=config.image_size,
            batch_size=config.batch_size,
            fake_channels=1,
            fake_train=config.images,
        )
    )
    loader = data.train_loader(seed=0, augment=False, device=device)

    def batches() -> Iterator[Batch]:
        for images, labels in loader.epoch(0):
            yield images.flatten(1), F.one_hot(labels, data.num_classes).float()

    some = list(islice(batches(), 10))
    builders = _builders(config.hidden, some[0], device)
    steps = {key: build() for key, build in builders.items()}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        _epoch(step, some, device)
    for _ in range(config.rounds):
        for key, step in steps.items():
            seconds[key].append(_epoch(step, batches(), device))
    return [
        {
            "network": network,
            "method": method,
            "median s an epoch": statistics.median(seconds[network, method]),
            "min s": min(seconds[network, method]),
            "max s": max(seconds[network, method]),
            "peak MiB": peak_bytes(partial(_first_steps, build, some[:3], device), device) / 2**20,
        }
        for (network, method), build in builders.items()
    ]


def _builders(hidden: tuple[str, ...], batch: Batch, device: torch.device) -> dict[tuple[str, str], Callable[[], Step]]:
    """By network and method, a function that makes a new network and returns its training step."""
    builders: dict[tuple[str, str], Callable[[], Step]] = {("-", "reading only"): lambda: _read}
    inputs, classes = batch[0].shape[1], batch[1].shape[1]
    for layers in hidden:
        setting = Setting(hidden=tuple(map(int, layers.split("-"))))
        network = partial(setting.network, inputs, classes, 0, device)
        builders[f"{inputs}-{layers}-{classes}", "LPOM"] = partial(_lpom_step, network, setting)
        builders[f"{inputs}-{layers}-{classes}", "SGD"] = partial(_sgd_step, network, setting)
    return builders


def _lpom_step(network: Callable[[], MLP], setting: Setting) -> Step:
    return LPOM(network(), setting.lpom).step


def _sgd_step(network: Callable[[], MLP], setting: Setting) -> Step:
    return sgd(network(), setting.lpom.loss, learning_rate=0.01)


def _first_steps(build: Callable[[], Step], batches: list[Batch], device: torch.device) -> None:
    _epoch(build(), batches, device)


def _read(inputs: Tensor, targets: Tensor) -> None:
    """A step that leaves the batch as it is."""


def _epoch(step: Step, batches: Iterable[Batch], device: torch.device) -> float:
    start = time.perf_counter()
    for batch in batches:
        step(*batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    run_benchmark(main, Digits | Speed, __doc__)
