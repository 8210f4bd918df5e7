"""Table 2's experiment at a tiny size: against a plain loop, alone against side by side, files and the command."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas import cli
from nas.errors import NonFiniteLossError, UsageError
from nas.theory import __main__, networks, simulation
from nas.theory.networks import NETWORKS
from nas.theory.simulation import Ensemble, SimulationConfig

CPU = torch.device("cpu")


def tiny(**fields: Any) -> SimulationConfig:
    small: dict[str, Any] = {"samples": 50, "dimension": 4, "batch_size": 16, "epochs": 3, "learning_rate": 0.5}
    return SimulationConfig(**{**small, "depths": (3,), **fields})


def trained(config: SimulationConfig, name: str, depth: int = 3) -> tuple[Ensemble, torch.Tensor, torch.Tensor]:
    inputs, targets = simulation.draw_data(config)
    ensemble = Ensemble(name, depth, config.dimension, config.model_seeds, CPU, separate=config.admm_separate)
    simulation.train(ensemble, inputs, targets, config)
    return ensemble, inputs, targets


def linear_layers(ensemble: Ensemble, model: int) -> nn.ModuleList:
    """The layers of one model as modules of torch."""
    layers = nn.ModuleList()
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2])
        with torch.no_grad():
            layer.weight.copy_(weight[model].T)
            layer.bias.copy_(bias[model, 0])
        layers.append(layer)
    return layers


# --- training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("name", "separate"), [*((name, False) for name in NETWORKS), ("admm", True)])
def test_the_loss_of_a_plain_training_loop(name: str, separate: bool, optimizer: Any) -> None:
    config = tiny(seeds=2, admm_separate=separate, optimizer=optimizer, learning_rate=0.1)
    inputs, targets = simulation.draw_data(config)
    layers = linear_layers(Ensemble(name, 3, 4, range(2), CPU, separate=separate), model=1)

    def forward(x: torch.Tensor) -> torch.Tensor:
        blocks = [lambda x, layer=layer: layer(x).sigmoid() for layer in layers]
        if separate:
            primed, plain = networks.admm_paths(blocks[:3], blocks[3:], x)
            return 0.5 * primed[-1] + 0.5 * plain[-1]
        return NETWORKS[name](blocks, x)[-1]

    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    plain = kind(layers.parameters(), lr=0.1)
    for epoch in range(3):
        order = torch.randperm(50, generator=simulation._generator(1, "order", epoch))
        for first in range(0, 50, 16):
            batch = order[first : first + 16]
            plain.zero_grad()
            nn.functional.mse_loss(forward(inputs[batch]), targets[batch]).backward()
            plain.step()
    with torch.no_grad():
        outputs = forward(inputs)
    losses, spreads = simulation.evaluate(trained(config, name)[0], inputs, targets)
    assert losses[1] == pytest.approx(nn.functional.mse_loss(outputs, targets).item(), rel=1e-5)
    assert spreads[1] == pytest.approx(outputs.std(dim=0, correction=0).mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_alone_is_the_model_among_others(name: str) -> None:
    together, inputs, targets = trained(tiny(seeds=3), name)
    losses, spreads = simulation.evaluate(together, inputs, targets)
    for seed in range(3):
        alone = Ensemble(name, 3, 4, range(seed, seed + 1), CPU)
        simulation.train(alone, inputs, targets, tiny(seed=seed))
        loss, spread = simulation.evaluate(alone, inputs, targets)
        assert loss == pytest.approx([losses[seed]], rel=1e-6)
        assert spread == pytest.approx([spreads[seed]], rel=1e-4)
    assert len(set(losses)) == 3


def test_the_order_goes_through_all_samples_and_differs() -> None:
    config = tiny(seeds=2)
    orders = torch.cat([simulation._order(config, epoch) for epoch in range(2)])
    assert all(sorted(order) == list(range(50)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 4
    assert torch.equal(orders[:2], simulation._order(config, 0))


def test_weights_are_those_of_linear_layers() -> None:
    ensemble = Ensemble("gd", 4, 100, range(2), CPU)
    for parameter in ensemble.parameters():
        assert parameter.abs().max() <= 0.1
        assert parameter.abs().max() > 0.09
        assert not torch.equal(parameter[0], parameter[1])
    assert not torch.equal(ensemble.weights[0], ensemble.weights[1])
    assert Ensemble("admm", 4, 10, range(1), CPU, separate=True).weights[7].shape == (1, 10, 10)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    # The last step's weights are seen by the evaluation only.
    for batch_size in (16, 50):
        out = str(tmp_path / str(batch_size))
        config = tiny(learning_rate=1e50, epochs=1, batch_size=batch_size, architectures=("admm",), out=out)
        with pytest.raises(NonFiniteLossError, match="admm at depth 3 is nan in epoch 1; try a smaller --learn"):
            simulation.simulate(config)


def test_baselines_against_a_solver_of_normal_equations() -> None:
    inputs, targets = torch.randn(2, 60, 3)
    found = simulation.baselines(inputs, targets)
    x, y = inputs.double() - inputs.double().mean(0), targets.double() - targets.double().mean(0)
    assert found["constant"] == pytest.approx(y.square().mean().item())
    residual = y - x @ torch.linalg.solve(x.T @ x, x.T @ y)
    assert found["linear"] == pytest.approx(residual.square().mean().item())
    assert simulation.baselines(*torch.randn(2, 3, 5))["linear"] == pytest.approx(0, abs=1e-20)


def test_a_learnt_constant_is_the_best_constant() -> None:
    """Targets that are a constant in (0, 1) are learnt: loss and baseline 0, no spread."""
    config = tiny(epochs=300, learning_rate=5.0)
    inputs, _ = simulation.draw_data(config)
    targets = torch.full_like(inputs, 0.7)
    ensemble = Ensemble("gd", 2, 4, range(1), CPU)
    simulation.train(ensemble, inputs, targets, config)
    losses, spreads = simulation.evaluate(ensemble, inputs, targets)
    assert losses[0] < 1e-4
    assert spreads[0] < 1e-2


# --- configuration ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "schedule"),
    [
        ({}, (1e-3, 1000)),
        ({"quick": True}, (0.05, 20)),
        ({"quick": True, "optimizer": "adam"}, (1e-3, 20)),
        ({"quick": True, "epochs": 7}, (0.05, 7)),
        ({"quick": True, "learning_rate": 0.2}, (0.2, 20)),
        ({"learning_rate": 0.2, "epochs": 1}, (0.2, 1)),
    ],
)
def test_the_schedule(fields: dict[str, Any], schedule: tuple[float, int]) -> None:
    assert SimulationConfig(**fields).schedule() == schedule


def test_quick_keeps_the_product_of_rate_and_steps() -> None:
    (rate, epochs), (quick_rate, quick_epochs) = SimulationConfig().schedule(), SimulationConfig(quick=True).schedule()
    assert quick_rate * quick_epochs == pytest.approx(rate * epochs)


# --- the experiment ---------------------------------------------------------------------------------------


def simulate(*argv: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(__main__.command, ["simulate", *argv])
    assert isinstance(end.value.code, int)
    return end.value.code


SMALL = ["--samples", "40", "--dimension", "3", "--batch-size", "10", "--epochs", "2", "--device", "cpu"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "made" / "here"
    assert simulate(*SMALL, "--depths", "2", "1", "--seeds", "2", "--quick", "--out", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    result, config, env = (
        json.loads(lines[-1]),
        *(json.loads((out / n).read_text()) for n in ("config.json", "env.json")),
    )
    assert result == {"out": str(out), **json.loads((out / "result.json").read_text())}
    assert [(row["depth"], row["architecture"]) for row in result["rows"]] == [(d, n) for d in (2, 1) for n in NETWORKS]
    assert all(len(row["losses"]) == 2 and row["loss_std"] > 0 for row in result["rows"])
    assert all(row["paper_loss"] is None for row in result["rows"])
    assert (config["epochs"], config["learning_rate"]) == (2, 0.05)
    assert "torch" in env["packages"]
    assert (out / "loss.svg").read_bytes().startswith(b"<?xml")
    assert lines[-2].startswith("-      linear least squares")
    assert simulate(*SMALL, "--out", str(out)) == 2
    told = "was run with another configuration: --learning-rate was 0.05, is 0.001; --seeds was 2, is 1; "
    assert told in capsys.readouterr().err


def test_the_same_command_gives_the_same_losses(tmp_path: Path) -> None:
    results = [simulation.simulate(tiny(device="cpu", out=str(tmp_path / name))) for name in "ab"]
    assert [row["losses"] for row in results[0]["rows"]] == [row["losses"] for row in results[1]["rows"]]


def test_losses_of_the_paper_stand_beside_data_of_its_size(tmp_path: Path) -> None:
    config = SimulationConfig(depths=(10,), architectures=("gd",), epochs=1, batch_size=5000, out=str(tmp_path))
    result = simulation.simulate(config)
    assert result["rows"][0]["paper_loss"] == simulation.TABLE_2["gd"][10]
    assert "1.00644" in simulation.rows(result)[0].values()
    assert result["rows"][0]["parameters"] == 10 * 100 * 101


def test_the_document_has_every_loss_of_the_paper_s_table() -> None:
    theory = (Path(__file__).parents[1] / "docs" / "THEORY.md").read_text()
    printed = {int(row[1]): row[0] for row in re.findall(r"^(\| (\d+) \| \d\.\d{5} \(.*)$", theory, re.MULTILINE)}
    assert tuple(printed) == SimulationConfig().depths
    for depth, row in printed.items():
        losses = [float(loss) for loss in re.findall(r"\(([\d.]+)\)", row)]
        assert losses == [simulation.TABLE_2[name][depth] for name in ("gd", "hb", "agd", "agd2", "admm")]


def test_an_interrupted_experiment_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulation.simulate(tiny(out=str(tmp_path / "whole")))
    config, trains, trained = tiny(out=str(tmp_path / "parts")), simulation.train, []

    def fails_once_at_hb(ensemble: Ensemble, *arguments: Any) -> None:
        trained.append(ensemble.architecture)
        if trained == ["gd", "hb"]:
            raise NonFiniteLossError("as if")
        trains(ensemble, *arguments)

    monkeypatch.setattr(simulation, "train", fails_once_at_hb)
    with pytest.raises(NonFiniteLossError):
        simulation.simulate(config)
    rows = json.loads((tmp_path / "parts" / "result.json").read_text())["rows"]
    assert [row["architecture"] for row in rows] == ["gd"]
    resumed = simulation.simulate(config)
    assert trained == ["gd", "hb", *list(NETWORKS)[1:]]
    assert [row["losses"] for row in resumed["rows"]] == [row["losses"] for row in whole["rows"]]


def test_an_experiment_can_be_extended(tmp_path: Path) -> None:
    first = simulation.simulate(tiny(out=str(tmp_path), architectures=("hb",), device="cpu"))
    more = simulation.simulate(tiny(out=str(tmp_path), architectures=("hb", "gd"), depths=(3, 2)))
    assert [(row["depth"], row["architecture"]) for row in more["rows"]] == [(3, "hb"), (3, "gd"), (2, "hb"), (2, "gd")]
    assert more["rows"][0] == first["rows"][0]
    assert len(json.loads((tmp_path / "env.json").read_text())["resumed"]) == 1
    assert json.loads((tmp_path / "config.json").read_text())["depths"] == [3, 2]


def test_an_interruption_says_that_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "train", interrupted)
    assert simulate(*SMALL, "--out", str(tmp_path / "out")) == 130
    assert "the same command goes on" in capsys.readouterr().out


def test_a_damaged_result_is_not_overwritten(tmp_path: Path) -> None:
    simulation.simulate(tiny(out=str(tmp_path), architectures=("gd",)))
    for content in ("{", "{}", '{"baselines": {}, "rows": [{"depth": 3}]}'):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(UsageError, match=r"result.json cannot be read: "):
            simulation.simulate(tiny(out=str(tmp_path)))
        assert (tmp_path / "result.json").read_text() == content


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--architectures", "gd", "sgd"], "known: gd, hb, agd, agd2, admm"),
        (["--architectures"], "--architectures"),
        (["--depths", "10", "0"], "--depths has 0; each must be at least 1"),
        (["--depths", "2", "2"], "--depths names something twice"),
        (["--seeds", "0"], "--seeds is 0; it must be at least 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--epochs", "0"], "--epochs is 0; it must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--learning-rate", "-1"], "--learning-rate is -1; it must be at least 0"),
        (["--optimizer", "lbfgs"], "invalid choice 'lbfgs'"),
        (["--device", "gpu"], "--device cpu always works"),
        (["--out", "README.md/out"], "choose another"),
    ],
)
def test_mistakes(
    flags: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    assert simulate(*SMALL, *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert told in err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_folder_that_cannot_be_written_is_told_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written .*; choose another --out"):
        simulation.simulate(tiny(out=str(tmp_path / "file")))


@pytest.mark.slow
def test_quick_losses_of_table_2(tmp_path: Path) -> None:
    """Depth 10, over the best constant, against figures of another program with other data and seeds."""
    expected = {"hb": 0.00489, "agd2": 0.0, "admm": 0.04352}
    config = SimulationConfig(depths=(10,), architectures=tuple(expected), quick=True, device="cpu", out=str(tmp_path))
    result = simulation.simulate(config)
    for row in result["rows"]:
        over = row["loss"] - result["baselines"]["constant"]
        assert over == pytest.approx(expected[row["architecture"]], abs=1e-3)


def test_data_weights_and_orders_are_independent_and_follow_the_seed() -> None:
    purposes: tuple[Any, ...] = ("data", "weights", "order")
    assert len({simulation._generator(seed, purpose).initial_seed() for seed in (0, 1) for purpose in purposes}) == 6
    assert not torch.equal(simulation.draw_data(tiny(seed=0))[0], simulation.draw_data(tiny(seed=1))[0])


def test_a_row_is_what_was_measured(tmp_path: Path) -> None:
    config = tiny(seeds=3, architectures=("hb",), depths=(10,), out=str(tmp_path))
    result = simulation.simulate(config)
    (row,) = result["rows"]
    losses, spreads = simulation.evaluate(*trained(config, "hb", depth=10))
    assert row["losses"] == losses
    assert row["loss"] == pytest.approx(statistics.mean(losses))
    assert row["loss_std"] == pytest.approx(statistics.stdev(losses))
    assert row["output_std"] == pytest.approx(statistics.mean(spreads))
    line = simulation.rows(result)[0]
    assert float(line["over best constant"]) == pytest.approx(row["loss"] - result["baselines"]["constant"], abs=1e-5)
    assert row["paper_loss"] is None  # other data than the paper's
    assert simulation.simulate(tiny(architectures=("gd",), out=str(tmp_path / "1")))["rows"][0]["loss_std"] is None


def test_separate_weights_reach_the_experiment(tmp_path: Path) -> None:
    sizes = [
        simulation.simulate(tiny(architectures=("admm",), admm_separate=separate, out=str(tmp_path / str(separate))))
        for separate in (False, True)
    ]
    assert sizes[1]["rows"][0]["parameters"] == 2 * sizes[0]["rows"][0]["parameters"]
