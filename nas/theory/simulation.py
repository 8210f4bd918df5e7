"""Regression of random pairs by each network: Table 2 of H. Li, Y. Yang, D. Chen, Z. Lin (Table B1 of its supplement).

Inputs and targets are independent and drawn from N(0, I). Every layer is a linear map with bias, followed by a
sigmoid, with weights of its own. The loss is the squared error averaged over samples and coordinates, so that an
output of zero has an expected loss of 1. The paper does not name the optimizer. SGD without momentum reproduces its
losses of GD and HB if the learning rate times the number of steps is 100; --quick keeps that product with a fiftieth
of the steps.

There is nothing to learn here except the mean of the targets, and the losses alone do not show what a network has
learned. Therefore the results also contain the spread of its outputs over the inputs, and the losses of the best
constant and of linear least squares on the same data. The difference between a loss and that of the best constant can
be compared across data sets. The loss itself cannot: it includes the mean square of the targets, which has a standard
deviation of 1.4e-3 over data sets of the size of Table 2.

Shape letters: S seeds, N samples, B batch, C dimension.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genotypes.config import AtLeast, AtMost, Config, Count, IsPath, MayDiffer, NoneMeans, NotNegative
from nas.engine.device import resolve_device
from nas.errors import NonFiniteLossError, users_mistakes
from nas.runs.directory import RunDirectory, read_json
from nas.theory import output
from nas.theory.networks import NETWORKS, Layers, admm_paths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The losses in Table 2 by network and depth.
TABLE_2 = {
    "gd": {10: 1.00644, 20: 1.00679, 30: 1.00652, 40: 1.00653},
    "hb": {10: 1.00443, 20: 1.00449, 30: 1.00455, 40: 1.00457},
    "agd": {10: 1.00270, 20: 1.00215, 30: 1.00204, 40: 1.00213},
    "agd2": {10: 1.00745, 20: 1.00227, 30: 1.00086, 40: 0.99964},
    "admm": {10: 1.07576, 20: 1.07495, 30: 1.07665, 40: 1.07749},
}
#: (samples, dimension) of Table 2.
_TABLE_2_SIZE = (10_000, 100)
#: Samples evaluated at once; bounds the memory that the states of deep networks take.
_CHUNK = 1000


@dataclass(frozen=True, kw_only=True)
class SimulationConfig(Config):
    """Train every architecture at every depth on random pairs, one model for each seed."""

    architectures: Annotated[tuple[str, ...], MayDiffer] = tuple(NETWORKS)
    """Networks: gd, hb, agd, agd2, admm."""
    depths: Annotated[tuple[Count, ...], MayDiffer] = (10, 20, 30, 40)
    """Numbers of layers."""
    seeds: Count = 1
    """Number of models of each architecture and depth, trained together on the same data; their seeds count up from
    --seed."""
    seed: Annotated[int, AtLeast(0), AtMost(2**32)] = 0
    """Seed of the data, and of the first model's weights and sample order."""
    samples: Count = 10_000
    """Number of pairs."""
    dimension: Count = 100
    """Coordinates of inputs and targets."""
    quick: Annotated[bool, MayDiffer] = False
    """Use defaults of --learning-rate and --epochs that take minutes."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """SGD without momentum, or Adam with PyTorch's defaults."""
    learning_rate: Annotated[NotNegative | None, NoneMeans("1e-3; for SGD with --quick 0.05")] = None
    """Learning rate."""
    epochs: Annotated[Count | None, NoneMeans("1000; with --quick 20")] = None
    """Passes over the samples."""
    batch_size: Count = 100
    """Pairs per step."""
    admm_separate: bool = False
    """Give each of the two paths of ADMM its own weights, which doubles the parameters, and average their outputs."""
    device: Annotated[str, MayDiffer] = "auto"
    """cpu, cuda, cuda:1, ... or auto: the GPU if there is one."""
    out: Annotated[str, IsPath, MayDiffer] = "runs/simulation"
    """Folder for the results and loss.svg, created if missing. Repeating the command continues the experiment there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.architectures if name not in NETWORKS]
        if unknown or not self.architectures:
            raise ValueError(f"--architectures has {unknown[0] if unknown else 'none'}; known: {', '.join(NETWORKS)}")
        for name in ("architectures", "depths"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"--{name} names something twice; name each once")
        if not self.depths:
            raise ValueError("--depths is empty; give numbers of layers, such as 10 20")

    @property
    def model_seeds(self) -> range:
        """The seeds of the models."""
        return range(self.seed, self.seed + self.seeds)

    def schedule(self) -> tuple[float, int]:
        """The learning rate and the number of epochs, as given or by default."""
        rate, epochs = (0.05 if self.quick and self.optimizer == "sgd" else 1e-3), (20 if self.quick else 1000)
        return (
            rate if self.learning_rate is None else self.learning_rate,
            epochs if self.epochs is None else self.epochs,
        )


class Ensemble:
    """One architecture with several seeds, trained together: each layer is one batched matrix product for all of them.

    Args:
        architecture: a name in `NETWORKS`.
        depth: number of layers.
        dimension: C.
        seeds: of the models; the weights of one model do not depend on the other seeds.
        device: of the parameters.
        separate: give each of the two paths of ADMM its own weights, and average their outputs.

    Attributes:
        weights: one per layer, (S, C, C), inputs by outputs; with `separate`, those of x' come first.
        biases: one per layer, (S, 1, C).
    """

    def __init__(
        self,
        architecture: str,
        depth: int,
        dimension: int,
        seeds: range,
        device: torch.device,
        *,
        separate: bool = False,
    ) -> None:
        self.architecture, self.depth = architecture, depth
        self.separate = separate and architecture == "admm"
        layers = 2 * depth if self.separate else depth
        # The initialization of nn.Linear, weights and bias alike.
        parameters = torch.stack([_draw_linear(seed, layers, dimension) for seed in seeds]).to(device)
        self.weights = [p[:, :-1].clone().requires_grad_() for p in parameters.unbind(1)]
        self.biases = [p[:, -1:].clone().requires_grad_() for p in parameters.unbind(1)]

    def layers(self) -> Layers:
        """The layers x -> sigmoid(x W + b), (S, B, C) to (S, B, C), one for each of the weights."""
        # Defaults bind w and b now; a closure would see those of the last layer.
        return [
            lambda x, w=w, b=b: torch.sigmoid(torch.baddbmm(b, x, w))  # type: ignore[misc]
            for w, b in zip(self.weights, self.biases, strict=True)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """The outputs (S, B, C) of inputs (S, B, C)."""
        layers = self.layers()
        if self.separate:
            primed, plain = admm_paths(layers[: self.depth], layers[self.depth :], x)
            return (primed[-1] + plain[-1]) / 2
        return NETWORKS[self.architecture](layers, x)[-1]

    def parameters(self) -> list[Tensor]:
        """All weights and biases."""
        return [*self.weights, *self.biases]


def _draw_linear(seed: int, layers: int, dimension: int) -> Tensor:
    """Weights and, in the last row, biases of linear layers, (layers, C + 1, C), uniform in +-1 / sqrt(C)."""
    uniform = torch.rand(layers, dimension + 1, dimension, generator=_generator(seed, "weights"))
    return (2 * uniform - 1) / math.sqrt(dimension)


def _generator(seed: int, purpose: Literal["data", "weights", "order"], epoch: int = 0) -> torch.Generator:
    """Random numbers that are independent between seeds, purposes and epochs."""
    # SeedSequence mixes the key, so that neighbouring seeds and epochs do not give related streams.
    key = (seed, ("data", "weights", "order").index(purpose), epoch)
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


def draw_data(config: SimulationConfig) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (N, C)."""
    pairs = torch.randn(2, config.samples, config.dimension, generator=_generator(config.seed, "data"))
    return pairs[0], pairs[1]


def baselines(inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The losses of the best constant and of linear least squares with intercept; inputs and targets are (N, C)."""
    x, y = inputs.double().cpu(), targets.double().cpu()
    design = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    # gelsd handles fewer samples than coordinates too.
    fitted = design @ torch.linalg.lstsq(design, y, driver="gelsd").solution
    return {
        "constant": (y - y.mean(0)).square().mean().item(),
        "linear": (y - fitted).square().mean().item(),
    }


def train(
    ensemble: Ensemble,
    inputs: Tensor,
    targets: Tensor,
    config: SimulationConfig,
    after_epoch: Callable[[], object] = lambda: None,
) -> None:
    """Trains all models of an ensemble on inputs and targets (N, C), each in its own sample order.

    Raises NonFiniteLossError for a loss that is inf or nan.
    """
    rate, epochs = config.schedule()
    kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(ensemble.parameters(), lr=rate, fused=True)
    for epoch in range(epochs):
        for batch in _order(config, epoch).to(inputs.device).split(config.batch_size, dim=1):
            loss = (ensemble(inputs[batch]) - targets[batch]).square().mean(dim=(1, 2))
            optimizer.zero_grad()
            loss.sum().backward()  # models share no parameter, so that each gets the gradient of its own loss
            optimizer.step()
        _check_finite(ensemble, loss.sum().item(), epoch)
        after_epoch()


def _check_finite(ensemble: Ensemble, loss: float, epoch: int) -> None:
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss of {ensemble.architecture} at depth {ensemble.depth} is {loss} in epoch {epoch + 1}; "
            "try a smaller --learning-rate"
        )


def _order(config: SimulationConfig, epoch: int) -> Tensor:
    """The order of the samples in an epoch, (S, N)."""
    generators = [_generator(seed, "order", epoch) for seed in config.model_seeds]
    return torch.stack([torch.randperm(config.samples, generator=generator) for generator in generators])


@torch.no_grad()
def evaluate(ensemble: Ensemble, inputs: Tensor, targets: Tensor) -> tuple[list[float], list[float]]:
    """The loss of each model, and the standard deviation of its outputs over the inputs, averaged over coordinates."""
    seeds = len(ensemble.weights[0])
    outputs = torch.cat([ensemble(x.expand(seeds, -1, -1)) for x in inputs.split(_CHUNK)], dim=1).double()
    losses = (outputs - targets).square().mean(dim=(1, 2))
    return losses.tolist(), outputs.std(dim=1, correction=0).mean(dim=1).tolist()


class Row(TypedDict):
    """The figures of one architecture and depth."""

    architecture: str
    depth: int
    loss: float
    """Mean over the seeds."""
    loss_std: float | None
    losses: list[float]
    """One per seed."""
    paper_loss: float | None
    output_std: float
    parameters: int
    """Of one model."""
    seconds: float


class Result(TypedDict):
    """The results of the experiment, the content of result.json."""

    baselines: dict[str, float]
    rows: list[Row]


def simulate(config: SimulationConfig) -> Result:
    """Runs the experiment; writes result.json after each architecture and depth, and loss.svg at the end.

    Rows that the folder already holds of the same experiment are kept: repeating the command continues where it was
    interrupted.

    Raises UsageError for a device that does not exist, and for a folder that holds something else or cannot be
    written; NonFiniteLossError for a training that diverges.
    """
    with users_mistakes():
        device = resolve_device(config.device)
    directory = _directory(config, device)
    with directory.opened():
        done = _saved_rows(directory)
        directory.begin()
        inputs, targets = (tensor.to(device) for tensor in draw_data(config))
        result = Result(baselines=baselines(inputs, targets), rows=done)
        _add_rows(config, directory, result, inputs, targets)
        output.write_figure(figure(result), directory.path / "loss.svg")
    return result


def _add_rows(
    config: SimulationConfig, directory: RunDirectory, result: Result, inputs: Tensor, targets: Tensor
) -> None:
    """Trains the models that the result has no row for yet."""
    done = {(row["depth"], row["architecture"]) for row in result["rows"]}
    models = [(depth, name) for depth in config.depths for name in config.architectures if (depth, name) not in done]
    with tqdm(total=len(models) * config.schedule()[1], unit="epoch", disable=None, leave=False) as bar:
        for depth, name in models:
            bar.set_description(f"{name}, depth {depth}")
            try:
                result["rows"].append(_row(config, name, depth, inputs, targets, bar.update))
            except KeyboardInterrupt:
                tqdm.write(f"stopped; {directory.path} keeps what is done, and the same command goes on")
                raise
            directory.write_json("result.json", result)


def _directory(config: SimulationConfig, device: torch.device) -> RunDirectory:
    rate, epochs = config.schedule()
    path = Path(config.out)
    return RunDirectory(
        path,
        replace(config, learning_rate=rate, epochs=epochs),
        resume=(path / "config.json").exists(),
        device=device,
        flag="--out",
    )


def _saved_rows(directory: RunDirectory) -> list[Row]:
    """The rows that an interrupted run left. Raises UsageError for a file that cannot be read."""
    try:
        return read_json(directory.path / "result.json", Result)["rows"]
    except FileNotFoundError:
        return []


def _row(
    config: SimulationConfig,
    name: str,
    depth: int,
    inputs: Tensor,
    targets: Tensor,
    after_epoch: Callable[[], object],
) -> Row:
    start = time.perf_counter()
    ensemble = Ensemble(name, depth, config.dimension, config.model_seeds, inputs.device, separate=config.admm_separate)
    train(ensemble, inputs, targets, config, after_epoch)
    losses, spreads = evaluate(ensemble, inputs, targets)
    _check_finite(ensemble, sum(losses), config.schedule()[1] - 1)
    comparable = (config.samples, config.dimension) == _TABLE_2_SIZE
    return Row(
        architecture=name,
        depth=depth,
        loss=float(np.mean(losses)),
        loss_std=float(np.std(losses, ddof=1)) if len(losses) > 1 else None,
        losses=losses,
        paper_loss=TABLE_2[name].get(depth) if comparable else None,
        output_std=float(np.mean(spreads)),
        parameters=sum(p[0].numel() for p in ensemble.parameters()),
        seconds=time.perf_counter() - start,
    )


def rows(result: Result) -> list[dict[str, Any]]:
    """The result of `simulate` as the rows of a table: the networks, and below them the baselines."""
    lines = [
        {
            "depth": str(row["depth"]),
            "network": row["architecture"],
            "loss": f"{row['loss']:.5f}",
            "over best constant": f"{row['loss'] - result['baselines']['constant']:8.5f}",
            "std over seeds": None if row["loss_std"] is None else f"{row['loss_std']:.5f}",
            "loss in Table 2": None if row["paper_loss"] is None else f"{row['paper_loss']:.5f}",
            "std of outputs": f"{row['output_std']:.1e}",
            "seconds": f"{row['seconds']:.1f}",
        }
        for row in result["rows"]
    ]
    titles = {"constant": "best constant", "linear": "linear least squares"}
    for name, loss in result["baselines"].items():
        lines.append({**dict.fromkeys(lines[0]), "network": titles[name], "loss": f"{loss:.5f}"})
    return lines


def figure(result: Result) -> Figure:
    """A plot of losses, minus that of the best constant, against depth; those of Table 2 have empty markers."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = picture.add_subplot()
    constant = result["baselines"]["constant"]
    for i, name in enumerate(dict.fromkeys(row["architecture"] for row in result["rows"])):
        own = sorted((row for row in result["rows"] if row["architecture"] == name), key=lambda row: row["depth"])
        losses, spread = [row["loss"] - constant for row in own], [row["loss_std"] or 0.0 for row in own]
        axes.errorbar([row["depth"] for row in own], losses, spread, color=f"C{i}", marker="o", capsize=3, label=name)
        paper = [(row["depth"], row["paper_loss"] - constant) for row in own if row["paper_loss"] is not None]
        if paper:
            printed = zip(*paper, strict=True)
            axes.plot(*printed, color=f"C{i}", ls=":", marker="o", mfc="none", label=f"{name}, Table 2")
    axes.axhline(0, color="0.3", ls="--", lw=1, label="best constant")
    axes.axhline(result["baselines"]["linear"] - constant, color="0.3", ls="-.", lw=1, label="linear least squares")
    # ADMM is ten times as far away as the others, which would merge into one line on a linear axis.
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_xlabel("layers")
    axes.set_ylabel(f"mean squared error, less {constant:.5f} of the best constant")
    picture.legend(loc="outside right upper", fontsize="small")
    return picture
