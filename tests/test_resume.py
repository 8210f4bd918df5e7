"""Interrupted and resumed runs equal uninterrupted ones bit for bit, for the search and for the training."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import genotypes
import train_eval
import train_search
from nas.data import Batch
from nas.engine.meter import Meter
from nas.engine.training import Training
from nas.errors import NonFiniteLossError, Stopped
from nas.runs import checkpoint
from nas.runs.run import Run
from tests.tiny import OPERATIONS, OWN, SEARCH, TRAIN, add_loss, assert_same, final_state

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = ("--epochs", "4")
STAGES = ("--drop", "1", "--stage-layers", "2", "3", "--warm-up-epochs", "1", "--skip-dropout", "0.1", "0.5")
PROJECTION = ("--derivation", "projection", "--projection-every", "1")
AGAINST_COLLAPSE = (
    *("--beta-decay", "5", "--entropy-weight", "-0.1", "--perturb", "random"),
    *("--eigenvalue-every", "2", "--stop", "eigenvalue"),
)

COMMANDS: dict[str, tuple[Callable[[list[str]], dict[str, Any]], tuple[str, ...]]] = {
    # Its noise is of torch's random state, that of the weights and that of an operation.
    "search-agd-gumbel": (
        train_search.command,
        (
            *SEARCH,
            *OPERATIONS,
            "noise",
            *EPOCHS,
            *OWN,
            "--space",
            "agd",
            "--nodes",
            "1",
            "--init",
            "random",
            *AGAINST_COLLAPSE,
        ),
    ),
    # The second stage begins after step 4, and its architecture steps after step 6.
    "search-stages": (train_search.command, (*SEARCH, *OPERATIONS, *EPOCHS, *STAGES)),
    # Between two decisions, and in the middle of one.
    "search-projection": (
        train_search.command,
        (*SEARCH, "--operations", "sep_conv_3x3", "skip_connect", "--epochs", "1", *PROJECTION, "--space", "agd"),
    ),
    "search-unrolled": (train_search.command, (*SEARCH, *OPERATIONS, *EPOCHS, "--unrolled")),
    "train": (
        train_eval.command,
        (*TRAIN, *EPOCHS, "--auxiliary", "--drop-path-prob", "0.3", "--cutout", "--ema-decay", "0.5"),
    ),
}


class Job:
    """A command, and what it leaves and returns where nothing interrupts it."""

    def __init__(self, name: str, directory: Path) -> None:
        self._command, self._flags = COMMANDS[name]
        self.directory = directory
        self.result = self(directory)
        self.state = final_state(directory)

    def __call__(self, directory: Path, *more: str) -> dict[str, Any]:
        return self._command([*self._flags, "--run-dir", str(directory), *more])


ALL = [name for name in COMMANDS if name != "search-unrolled"]
SLOW = "search-unrolled"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Job]:
    """Each job once."""
    return functools.cache(lambda name: Job(name, tmp_path_factory.mktemp(name) / "whole"))


@pytest.fixture(params=[*ALL, pytest.param(SLOW, marks=pytest.mark.slow)])
def job(request: pytest.FixtureRequest, jobs: Callable[[str], Job]) -> Job:
    return jobs(request.param)


def each(more: Iterable[tuple[str, Any]], value: Any) -> pytest.MarkDecorator:
    """Marks a test to run for some jobs with values of their own, and for all with `value`."""
    slow = pytest.param(SLOW, value, marks=pytest.mark.slow)
    return pytest.mark.parametrize(("job", "value"), [*more, *((name, value) for name in ALL), slow], indirect=["job"])


class Killed(Exception):
    """Stands for a process that is gone: nothing is saved when it comes."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Calls `action` in the given training step, counted over all epochs from 1."""
    counted = itertools.count(1)
    steps = Run.steps

    def acting(self: Run, batches: Iterable[Any], meter: Meter) -> Iterator[Any]:
        for batch in steps(self, batches, meter):
            if next(counted) == step:
                action()
            yield batch

    monkeypatch.setattr(Run, "steps", acting)


def kill() -> None:
    raise Killed


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in ("run_dir", "seconds")}


# In step 2 of an epoch of two: at first, where no checkpoint is there yet, and then.
@each([("train", 2), ("train", 4)], 7)
def test_killed_and_resumed(job: Job, value: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, value, kill)
        with pytest.raises(Killed):
            job(tmp_path / "parts")
    resumed = job(tmp_path / "parts", "--resume")
    assert_same(final_state(tmp_path / "parts"), job.state)
    assert lasting(resumed) == lasting(job.result)


@pytest.mark.parametrize("job", ["train", "search-agd-gumbel"], indirect=True)
def test_signalled_in_the_first_evaluation_and_resumed(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruptible = Run.interruptible

    def stopping(self: Run, batches: Iterable[Any]) -> Iterator[Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return interruptible(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "interruptible", stopping)
        with pytest.raises(Stopped):
            job(tmp_path / "parts")
    resumed = job(tmp_path / "parts", "--resume")  # PyTorch's warning of a schedule without a step would be an error
    assert_same(final_state(tmp_path / "parts"), job.state)
    assert lasting(resumed) == lasting(job.result)


@each([("train", signal.SIGINT)], signal.SIGTERM)
def test_signalled_in_the_middle_of_an_epoch_and_resumed(
    job: Job, value: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, lambda: os.kill(os.getpid(), value))
        with pytest.raises(Stopped) as stopped:
            job(tmp_path / "parts")
    assert stopped.value.signal == value
    state = checkpoint.load(tmp_path / "parts")
    assert state is not None
    assert state["step"] > 0  # saved where it stood, not at the last epoch's end
    job(tmp_path / "parts", "--resume")
    assert_same(final_state(tmp_path / "parts"), job.state)


def test_signalled_in_an_evaluation_and_resumed(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interruptible = Run.interruptible

        def signalling(self: Run, batches: Iterator[Any]) -> Iterator[Any]:
            if self.epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return interruptible(self, batches)

        patch.setattr(Run, "interruptible", signalling)
        with pytest.raises(Stopped):
            job(tmp_path / "parts")
    job(tmp_path / "parts", "--resume")
    assert_same(final_state(tmp_path / "parts"), job.state)


def test_resuming_a_finished_run_changes_nothing(job: Job) -> None:
    assert lasting(job(job.directory, "--resume")) == lasting(job.result)
    assert_same(final_state(job.directory), job.state)


@pytest.mark.parametrize(
    ("job", "loss_of_the_epoch"),
    [
        *(("train", loss) for loss in (1, 2, -1)),
        *(("search-agd-gumbel", 2), ("search-agd-gumbel", -1), ("search-stages", 1), ("search-projection", -1)),
    ],
    indirect=["job"],
)
def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_checkpoint(
    job: Job, loss_of_the_epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a step of the second epoch, or (-1) in the evaluation that follows its last step."""
    check = Run.check_finite
    seen: list[int] = []

    def poisoned(self: Run) -> None:
        seen.append(self.epoch)
        in_evaluation = len(seen) > 1 and seen.count(1) == seen.count(0)
        if in_evaluation if loss_of_the_epoch == -1 else seen.count(1) == loss_of_the_epoch:
            add_loss(self._meters[0], torch.nan)
        check(self)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "check_finite", poisoned)
        with pytest.raises(NonFiniteLossError, match=r"at step \d+ of epoch 2; the last good checkpoint is in"):
            job(tmp_path / "parts")
    state = checkpoint.load(tmp_path / "parts")
    assert state is not None
    assert (state["epoch"], state["step"]) == (1, 0)
    job(tmp_path / "parts", "--resume")
    assert_same(final_state(tmp_path / "parts"), job.state)


def test_a_signal_saves_nothing_that_the_last_step_has_spoiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.training_step
    steps = itertools.count(1)

    def spoiling(self: Training, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = step(self, batch)
        if next(steps) == 5:
            next(self.network.parameters()).data.fill_(torch.inf)
            os.kill(os.getpid(), signal.SIGTERM)
        return outputs

    monkeypatch.setattr(Training, "training_step", spoiling)
    with pytest.raises(NonFiniteLossError, match="a weight is inf or nan at step 2 of epoch 2; the last good"):
        train_eval.command([*TRAIN, *EPOCHS, "--run-dir", str(tmp_path)])
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert (state["epoch"], state["step"]) == (1, 0)


def test_a_network_that_diverges_in_its_last_step_is_no_result(tmp_path: Path) -> None:
    flags = ("--batch-size", "24", "--epochs", "1", "--learning-rate", "1e30", "--run-dir", str(tmp_path / "run"))
    with pytest.raises(NonFiniteLossError):
        train_eval.command([*TRAIN, *flags])
    assert not checkpoint.exists(tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_a_genotype_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "genotype.json"
    genotypes.save(genotypes.get("DARTS_V1").genotype, file)
    flags = [*TRAIN, "--arch", str(file), "--epochs", "1", "--run-dir", str(tmp_path / "run")]
    train_eval.command(flags)
    genotypes.save(genotypes.get("DARTS_V2").genotype, file)
    with pytest.raises(ValueError, match="--arch was DARTS_V1 = .* when the run began and is now DARTS_V2"):
        train_eval.command([*flags, "--resume"])


def test_a_run_is_not_resumed_in_another_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what `--precision auto` would be on another device."""
    flags = [*TRAIN, "--epochs", "1", "--run-dir", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("nas.train.resolve_precision", lambda *_: "bf16")
        train_eval.command(flags)
    with pytest.raises(ValueError, match="--precision was 'bf16', is 'fp32'"):
        train_eval.command([*flags, "--resume"])
    train_eval.command([*flags, "--resume", "--precision", "bf16", "--no-cuda-graph"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "command", "flags"),
    [
        ("train_search.py", train_search.command, (*SEARCH, *OPERATIONS)),
        ("train_eval.py", train_eval.command, TRAIN),
    ],
)
def test_a_process_that_gets_one_signal_after_another(
    script: str, command: Callable[[list[str]], dict[str, Any]], flags: tuple[str, ...], tmp_path: Path
) -> None:
    """The whole program, each time when the first epoch that it does is told: it is then in the middle of another."""
    flags = (*flags, "--epochs", "8", "--run-dir")
    program = [sys.executable, str(ROOT / script), *flags, str(tmp_path / "parts")]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("epoch "):
                    process.send_signal(number)
                    break
            process.communicate()
        assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
        program = [*program[:2], *flags, str(tmp_path / "parts"), "--resume"]
    command([*flags, str(tmp_path / "parts"), "--resume"])
    command([*flags, str(tmp_path / "whole")])
    assert_same(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))
