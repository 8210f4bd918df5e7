"""Losses of ten steps as they were when `goldens.json` was written: restructuring the code changes no number.

Everything is in float64, the draws of the weights too. CPUs and versions of the libraries differ in the order of sums
and in the last bit of some draws, by 1e-16, which ten steps make about 1e-13: what is more than `TOLERANCE` is a change
of the mathematics. In float32 the differences begin at 1e-7 (kernels for AVX2 draw other last bits than those for older
CPUs), some ReLU switches, and losses differ in the first digit.

`python -m tests.test_goldens "REASON"` writes the file again. That belongs into the commit in which numbers are meant
to change, and into its message; the file keeps the reason, and the commit on which it was written.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import genotypes
import spaces
from nas.data import Batch
from nas.engine.meter import evaluation_step
from nas.engine.training import Training, TrainingConfig
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.networks import handmade
from nas.networks.cells import Network, NetworkConfig
from nas.supernet import Supernet, SupernetConfig
from spaces import SpaceConfig

GOLDENS = Path(__file__).with_name("goldens.json")
TOLERANCE = 1e-9
STEPS = 10
SIDE, CLASSES = 8, 3

#: The architecture moves far enough in ten steps to change every loss.
ORDERS = {
    "first order": BilevelConfig(learning_rate=0.1, arch_learning_rate=0.1),
    "second order, finite difference": BilevelConfig(learning_rate=0.1, arch_learning_rate=0.1, unrolled=True),
    "second order, exact": BilevelConfig(
        learning_rate=0.1, arch_learning_rate=0.1, unrolled=True, hessian_product="exact"
    ),
}


def batch(seed: int) -> Batch:
    """Six images and their labels, drawn as integers: the same bits on any CPU."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (6, 3, SIDE, SIDE), generator=generator).double() / 255
    return images, torch.randint(CLASSES, (6,), generator=generator)


@contextmanager
def in_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@in_float64()
def search(space_name: str, config: BilevelConfig) -> list[float]:
    """Losses of the architecture's and the weights' steps in turn, and that of the evaluation after them."""
    torch.manual_seed(0)
    space = spaces.build(SpaceConfig(space=space_name, nodes=2, init="random"), seed=0)
    shape = {"in_channels": 3, "image_size": (SIDE, SIDE), "num_classes": CLASSES}
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=2), **shape)
    bilevel = Bilevel(supernet, space, config, nn.CrossEntropyLoss())
    losses = []
    for step in range(STEPS // 2):
        losses.append(bilevel.architecture_step(batch(2 * step), batch(2 * step + 1))[0])
        losses.append(bilevel.weight_step(batch(2 * step))[0])
    supernet.eval()
    losses.append(evaluation_step(bilevel.predict, batch(STEPS), precision="fp32")[0])
    return [float(loss) for loss in losses]


@in_float64()
def training(build: Callable[[], nn.Module], config: TrainingConfig) -> list[float]:
    """Losses of training steps, and that of the evaluation after them."""
    torch.manual_seed(0)
    network = build()
    trained = Training(config, network, "fp32")
    losses = []
    for step in range(STEPS):
        if isinstance(network, Network):
            network.schedule_drop_path(step / STEPS)
        losses.append(trained.training_step(batch(step))[0])
    trained.measured.eval()
    losses.append(evaluation_step(trained.measured, batch(STEPS), precision="fp32")[0])
    return [float(loss) for loss in losses]


def evaluation_network() -> nn.Module:
    config = NetworkConfig(layers=3, init_channels=4, auxiliary=True, drop_path_prob=0.3)
    genotype = genotypes.resolve("DARTS_V2")
    return Network(genotype, config, in_channels=3, image_size=(SIDE, SIDE), num_classes=CLASSES)


def hand_made_network() -> nn.Module:
    return handmade.build("hbnet20", image_size=(SIDE, SIDE), num_classes=CLASSES)


CASES: dict[str, Callable[[], list[float]]] = {
    **{
        f"search {space}, {order}": partial(search, space, config)
        for space in ("darts", "hb", "agd")
        for order, config in ORDERS.items()
    },
    "training DARTS_V2": partial(training, evaluation_network, TrainingConfig(label_smoothing=0.1, ema_decay=0.9)),
    "training hbnet20": partial(
        training, hand_made_network, TrainingConfig(learning_rate=0.01, nesterov=True, grad_clip=None)
    ),
}


def test_every_case_has_its_golden() -> None:
    assert json.loads(GOLDENS.read_text())["losses"].keys() == CASES.keys()


@pytest.mark.parametrize("case", CASES)
def test_no_number_has_changed(case: str) -> None:
    golden = json.loads(GOLDENS.read_text())
    expected = golden["losses"][case]
    assert CASES[case]() == pytest.approx(expected, rel=TOLERANCE, abs=0), f"not as on commit {golden['commit']}"


def write(reason: str) -> None:
    """Writes the losses of the commit that is checked out; refuses where it has been edited."""
    root = GOLDENS.parent.parent
    edited = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=root).returncode
    if edited:
        sys.exit("there are uncommitted changes; the file must name the commit whose losses it holds")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    golden = {
        "commit": commit.strip(),
        "reason": reason,
        "torch": torch.__version__,
        "losses": {case: run() for case, run in CASES.items()},
    }
    GOLDENS.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit('usage: python -m tests.test_goldens "REASON"')
    write(sys.argv[1])
