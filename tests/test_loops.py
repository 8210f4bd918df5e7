"""Both loops against plain ones, written out here: the same weights bit for bit, with every constant unusual."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import spaces
import train_eval
import train_search
from genotypes import ZOO
from nas import data
from nas.data import DataConfig
from nas.engine.meter import evaluation_step
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.networks.cells import Network, NetworkConfig
from nas.runs import checkpoint
from nas.supernet import Supernet, SupernetConfig
from spaces import SpaceConfig
from tests.tiny import DATA, assert_same

IMAGES = DataConfig(dataset="fake", fake_train=24, fake_test=10, image_size=8, batch_size=8, fake_classes=3)
SHAPE = {"in_channels": 3, "image_size": (8, 8), "num_classes": 3}
EPOCHS = 3


@pytest.mark.parametrize(("ema_decay", "nesterov"), [(None, True), (0.6, False)])
def test_the_training_loop(ema_decay: float | None, nesterov: bool, tmp_path: Path) -> None:
    flags = ["--seed", "5", "--epochs", str(EPOCHS), "--learning-rate", "0.07", "--learning-rate-min", "0.01"]
    flags += ["--momentum", "0.8", "--weight-decay", "0.02", "--grad-clip", "0.5", "--label-smoothing", "0.2"]
    flags += ["--auxiliary", "--auxiliary-weight", "0.7", "--drop-path-prob", "0.4", "--precision", "bf16"]
    flags += ["--layers", "3", "--init-channels", "4", "--arch", "DARTS_V1", "--run-dir", str(tmp_path / "run")]
    flags += ["--ema-decay", str(ema_decay), "--nesterov" if nesterov else "--no-nesterov"]
    result = train_eval.command([*DATA, *flags])

    images = data.load(dataclasses.replace(IMAGES, cutout=True))  # as --preset paper has it
    torch.manual_seed(5)
    config = NetworkConfig(layers=3, init_channels=4, auxiliary=True, drop_path_prob=0.4)
    network = Network(ZOO["DARTS_V1"].genotype, config, **SHAPE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.07, momentum=0.8, nesterov=nesterov, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS, eta_min=0.01)
    loader = images.train_loader(seed=5)
    average: dict[str, Tensor] = {}
    for epoch in range(EPOCHS):
        network.drop_path_prob.fill_(0.4 * epoch / EPOCHS)
        network.train()
        for x, y in loader.epoch(epoch):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, auxiliary = network(x)
                loss = nn.functional.cross_entropy(logits, y, label_smoothing=0.2)
                loss = loss + 0.7 * nn.functional.cross_entropy(auxiliary, y, label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            for name, value in network.state_dict().items():
                before = average.get(name, value)
                new = before.lerp(value, 1 - 0.6) if value.is_floating_point() else before * 0.6 + value * (1 - 0.6)
                average[name] = new.to(value.dtype).clone()
        schedule.step()
    weights = copy.deepcopy(dict(network.state_dict()))
    if ema_decay is not None:
        network.load_state_dict(average)
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in images.test_loader().epoch(0))

    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    assert_same(dict(state["tracked"]["network"]), weights)
    if ema_decay is not None:
        saved = dict(state["tracked"]["average"])
        assert saved.pop("n_averaged") == 3 * EPOCHS
        assert_same(saved, {f"module.{name}": value for name, value in average.items()})
    assert result["test_accuracy"] == 100 * right / 10


def test_the_search_loop(tmp_path: Path) -> None:
    flags = ["--seed", "5", "--epochs", str(EPOCHS), "--train-portion", "0.7", "--precision", "bf16", "--nodes", "2"]
    flags += ["--learning-rate", "0.07", "--learning-rate-min", "0.01", "--momentum", "0.8", "--weight-decay", "0.02"]
    flags += ["--grad-clip", "0.5", "--arch-learning-rate", "0.1", "--arch-weight-decay", "0.3", "--batch-size", "6"]
    flags += ["--space", "agd", "--init", "random", "--layers", "3", "--init-channels", "4"]
    result = train_search.command([*DATA, *flags, "--run-dir", str(tmp_path / "run")])

    images = data.load(dataclasses.replace(IMAGES, batch_size=6))
    ours, theirs = images.search_split(seed=5, train_portion=0.7)
    assert (len(ours), len(theirs)) == (16, 8)
    torch.manual_seed(5)
    space = spaces.build(SpaceConfig(space="agd", nodes=2, init="random"), seed=5)
    supernet = Supernet(space, SupernetConfig(layers=3, init_channels=4), **SHAPE)
    constants = BilevelConfig(
        learning_rate=0.07,
        momentum=0.8,
        weight_decay=0.02,
        grad_clip=0.5,
        arch_learning_rate=0.1,
        arch_weight_decay=0.3,
    )
    bilevel = Bilevel(supernet, space, constants, nn.CrossEntropyLoss(), "bf16")
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(bilevel.weight_optimizer, EPOCHS, eta_min=0.01)
    train_loader = images.train_loader(seed=5, indices=ours)
    valid_loader = images.train_loader(seed=5, purpose="architecture", indices=theirs)
    valid = [batch for epoch in range(6) for batch in valid_loader.epoch(epoch)]
    for epoch in range(EPOCHS):
        supernet.train()
        for train in train_loader.epoch(epoch):
            bilevel.architecture_step(train, valid.pop(0))
            bilevel.weight_step(train)
        schedule.step()
    supernet.eval()
    held_out = images.train_loader(seed=5, indices=theirs, augment=False).epoch(0)
    figures = [(*evaluation_step(bilevel.predict, batch, precision="bf16"), batch[1]) for batch in held_out]
    right = sum(int((logits.argmax(1) == y).sum()) for _, logits, y in figures)

    state = checkpoint.load(tmp_path / "run")
    assert state is not None
    assert_same(dict(state["tracked"]["supernet"]), dict(supernet.state_dict()))
    assert_same(dict(state["tracked"]["space"]), dict(space.state_dict()))
    assert result["valid_accuracy"] == 100 * right / 8
    tracked = state["tracked"]
    expected = sum(float(loss) * len(y) for loss, _, y in figures)
    assert tracked["held_out_meter"]["sums"][0].item() == pytest.approx(expected, rel=1e-6)
    assert tracked["weights_meter"]["images"] == tracked["architecture_meter"]["images"] == 0
