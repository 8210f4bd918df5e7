"""Searches and trainings of a second, for the tests of the loops and the commands."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

import spaces
from genotypes.config import MoreThan
from nas.data import ImageData
from nas.engine.meter import Meter, Predictions
from nas.latency_table import completed
from nas.methods import Method, Noise, Relaxation, Weights
from nas.networks.cost import count_parameters
from nas.networks.forms import Form
from nas.networks.latency_table import Calibration, LatencyTable, MeasuredForm, edges_kept
from nas.runs import checkpoint, predictions
from spaces import KINDS, Kind, SearchSpace
from spaces.ops import is_random

#: 24 random images of 8x8 pixels: two steps an epoch in the search, three in the training.
DATA = (
    *("--dataset", "fake", "--fake-train", "24", "--fake-test", "10", "--image-size", "8", "--batch-size", "8"),
    *("--fake-classes", "3", "--device", "cpu"),
)
SEARCH = (*DATA, "--layers", "3", "--init-channels", "2", "--nodes", "2")
OPERATIONS = ("--operations", "sep_conv_3x3", "avg_pool_3x3", "skip_connect", "neg_skip_connect", "none")
OWN = ("--method", "tests.tiny:Own")
TRAIN = (*DATA, "--layers", "3", "--init-channels", "4", "--arch", "DARTS_V2")


def _only_lists(name: str) -> bool:
    return {attribute for attribute in vars(spaces.get(name)) if not attribute.startswith("__")} == {
        "operations_default"
    }


#: The spaces, without those that are another one with other operations (S2, S3 and S4 are DARTS's).
SPACES = [name for name in spaces.names() if not _only_lists(name)]
#: Those whose operations may be chosen: where edges have lists of their own there are no others.
ANY_OPERATIONS = [name for name in SPACES if spaces.get(name).allowed_operations is SearchSpace.allowed_operations]
#: The operations that give the same result twice, so that two ways to compute it can be compared.
REPEATABLE = [name for name in spaces.OPERATIONS if not is_random(name)]


def nodes_of(name: str, nodes: int) -> int:
    """So many nodes, or 4 for a space that has only those."""
    try:
        spaces.get(name)(nodes=nodes)
    except ValueError:
        return 4
    return nodes


class Gumbel(Relaxation):
    """softmax((alpha + G) / tau) with Gumbel noise G and a temperature tau that falls from `start` to half of it."""

    temperature: torch.Tensor

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("temperature", torch.tensor(start))

    def draw(self, space: SearchSpace) -> Noise:
        return {kind: -torch.empty_like(space.alpha[kind]).exponential_().log() for kind in KINDS}

    def weights(self, space: SearchSpace, noise: Noise) -> Weights:
        return {kind: ((space.logits(kind) + noise[kind]) / self.temperature).softmax(dim=-1) for kind in KINDS}

    def schedule(self, epoch: int, epochs: int) -> None:
        self.temperature.fill_(self.start * (1 - 0.5 * epoch / epochs))


@dataclass(frozen=True, kw_only=True)
class Own(Method):
    """A method of a user's own, `--method tests.tiny:Own`."""

    start: Annotated[float, MoreThan(0)] = 1.0
    """Temperature of the first epoch."""

    def build(self) -> Gumbel:
        return Gumbel(self.start)


def add_loss(meter: Meter, loss: float) -> None:
    meter.update(torch.tensor(loss), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))


def final_state(run: Path) -> dict[str, Any]:
    """What must be the same however often a run was interrupted: all but the seconds."""
    state = checkpoint.load(run)
    assert state is not None
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    files = sorted(run.glob("genotype.json")) + sorted((run / "genotypes").glob("*.json"))
    mixing = sorted((run / "mixing").glob("*.json"))
    return {
        "position": (state["epoch"], state["step"]),
        "rng": state["rng"],
        "tracked": state["tracked"],
        "metrics": metrics,
        "genotypes": {path.name: path.read_text() for path in files},
        "mixing": {path.name: path.read_text() for path in mixing},
    }


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal bit for bit, tensors in nested containers included."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def waves(edges: int, operations: int) -> torch.Tensor:
    """Logits (E, O) without any ties."""
    e, o = torch.arange(edges, dtype=torch.float64)[:, None], torch.arange(operations, dtype=torch.float64)
    return 1.5 * (1.3 * e + 0.6 * o).sin()


class MaskedSpace(SearchSpace):
    """Two edges into one node; the third operation is excluded from the first."""

    operations_default = ("sep_conv_3x3", "dil_conv_3x3", "skip_connect", "none")

    def edges_between(self, nodes: int) -> list[tuple[int, int]]:
        return [(0, 2), (1, 2)]

    def allowed_operations(self, kind: Kind, edge: int) -> Sequence[str]:
        return ("sep_conv_3x3", "dil_conv_3x3", "none") if edge == 0 else self.operations


def params_table(space: SearchSpace, form: Form, name: str = "darts") -> LatencyTable:
    """A table of latencies by a machine that takes a millisecond for each parameter."""
    table = LatencyTable(
        runtime="pytorch",
        space=name,
        edges=edges_kept(space),
        form=MeasuredForm.of(form),
        batch=1,
        rounds=2,
        device="cpu",
        processor="of one operation at a time",
        threads=1,
        torch=str(torch.__version__),
        operations=(),
        calibration=Calibration(networks=1, rest_ms=0, factor=1, mean_error=0, largest_error=0),
    )
    with torch.device("meta"):
        return completed(table, space, lambda network, shape: count_parameters(network), networks=2)


def leave_predictions(directory: Path, images: ImageData, logits: torch.Tensor) -> None:
    """Writes what a training would, whose network has these logits (N, classes) for the test images."""
    tested = Predictions()
    tested.update(logits)
    predictions.write(directory, tested, images, lambda name: nullcontext())
