"""A run's directory: its checkpoints, its lock, its signals, and whatever may have happened to its files."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from tqdm import tqdm

import train_eval
import train_search
from genotypes.config import Config
from nas import cli
from nas.engine.meter import Meter
from nas.errors import NonFiniteLossError, Stopped, UsageError
from nas.runs import checkpoint
from nas.runs.run import Run, RunConfig, directory_of
from tests.tiny import OPERATIONS, SEARCH, TRAIN, add_loss, assert_same, final_state

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


@dataclass(frozen=True)
class Anything(Config):
    seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)


def run_of(directory: Path, *, resume: bool = False, meter: Meter | None = None, seed: int = 0, epochs: int = 2) -> Run:
    """A run of some epochs of ten steps."""
    config, cpu = RunConfig(run_dir=str(directory), resume=resume), torch.device("cpu")
    return Run(
        directory_of(config, Anything(seed=seed), default_name="", device=cpu),
        {"meter": Meter() if meter is None else meter, "network": torch.nn.Linear(2, 2)},
        device=cpu,
        deterministic=False,
        epochs=epochs,
        steps=10,
    )


def finish(run: Run, step: Callable[[int], object] = lambda step: None) -> None:
    with run:
        run.directory.log("begins")
        for _ in run.epochs():
            for number in run.steps(range(run.step, 10), Meter()):
                step(number)
            run.add_metrics({"loss": 1.0})


def test_the_environment_names_the_commit(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a checkout, or there is no git")
    finish(run_of(tmp_path / "run"))
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    env = json.loads((tmp_path / "run" / "env.json").read_text())
    assert env["commit"] == head.stdout.strip()
    assert env["dirty"] in (True, False)


def test_the_progress_bar_shows_the_running_loss_and_accuracy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, meter = io.StringIO(), Meter()
    always = {"disable": False, "file": terminal, "mininterval": 0, "ncols": 120}
    monkeypatch.setattr("nas.runs.run.tqdm", lambda **options: tqdm(**{**options, **always}))
    with run_of(tmp_path, meter=meter, epochs=1) as run:
        for _ in run.epochs():
            for number in run.steps(range(10), meter):
                add_loss(meter, float(number))
    shown = [line for line in terminal.getvalue().split("\r") if "loss" in line]
    assert "1/10" in shown[0]
    assert "loss 0.0000, accuracy 100.00 %" in shown[0]
    assert "loss 4.5000, accuracy 100.00 %" in shown[-1]


# --- checkpoints ------------------------------------------------------------------------------------------


def test_checkpoints_hold_tensors_and_primitives_only(tmp_path: Path) -> None:
    good = {"a": torch.ones(2), "b": [1, 2.0, "c", None]}
    checkpoint.save(tmp_path, good)
    assert_same(checkpoint.load(tmp_path), good)
    checkpoint.save(tmp_path, {"a": Path("an object, which must not be unpickled")})
    assert_same(checkpoint.load(tmp_path), good)
    assert (tmp_path / checkpoint.DAMAGED).exists()
    checkpoint.save(tmp_path, {"a": Path("and another, which must not push the good one out")})
    assert_same(checkpoint.load(tmp_path), good)
    for _ in range(2):
        checkpoint.save(tmp_path, {"a": Path("two in a row")})
    with pytest.raises(UsageError, match="no checkpoint can be read"):
        checkpoint.load(tmp_path)


def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"a": torch.arange(8)})
    path = tmp_path / checkpoint.NAME
    content = path.read_bytes()
    rng = random.Random(0)
    places = [*range(100), *rng.sample(range(100, len(content)), 200)]  # the first line, and some of the rest
    flipped = (content[:i] + bytes([content[i] ^ 1 << rng.randrange(8)]) + content[i + 1 :] for i in places)
    cut = (content[: len(content) * tenth // 10] for tenth in range(10))
    for damaged in itertools.chain(flipped, cut, [content + b"\0"]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="does not match its digest"):
            checkpoint.read(path)


class Malicious:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


def written(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def deflated(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as plain, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(lambda mark: written({"a": Malicious(os.mkdir, mark)}), id="runs a function"),
        pytest.param(lambda mark: written({"a": Malicious(bytearray, 1 << 40)}), id="asks for memory"),
        pytest.param(lambda mark: deflated(written({"a": torch.zeros(1 << 16)})), id="is compressed"),
        pytest.param(lambda mark: b"no archive", id="is no archive"),
        pytest.param(lambda mark: written([1]), id="is a list"),
    ],
)
def test_a_checkpoint_of_a_stranger_is_refused_and_does_nothing(
    payload: Callable[[str], bytes], tmp_path: Path
) -> None:
    (tmp_path / checkpoint.NAME).write_bytes(checkpoint.sealed(payload(str(tmp_path / "mark"))))
    with pytest.raises(ValueError, match="is not a checkpoint of"):
        checkpoint.read(tmp_path / checkpoint.NAME)
    assert not (tmp_path / "mark").exists()


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the state in the newest checkpoint, which has a digest that is right."""
    state = checkpoint.read(directory / checkpoint.NAME)
    replaced = change(state)
    content = written(replaced if isinstance(replaced, list) else state)
    (directory / checkpoint.NAME).write_bytes(checkpoint.sealed(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("epoch"),
        lambda state: [state],
        lambda state: state.update(epoch=10**9),
        lambda state: state.update(step=-1),
        lambda state: state.update(step="3"),
        lambda state: state.update(rng=torch.zeros(3, dtype=torch.uint8)),
        lambda state: state["tracked"].pop("network"),
        lambda state: state["tracked"]["network"].update(weight=torch.zeros(3, 3)),
        lambda state: state["tracked"]["network"].update(weight=torch.zeros(1).expand(1 << 20, 1 << 20)),
        lambda state: state["tracked"]["network"]["weight"].fill_(torch.nan),
        lambda state: state["tracked"]["meter"]["sums"].fill_(torch.inf),
    ],
)
def test_a_checkpoint_that_does_not_fit_gives_way_to_the_one_before(
    change: Callable[[dict[str, Any]], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run_of(tmp_path))
    rewrite(tmp_path, change)
    with run_of(tmp_path, resume=True) as run:
        assert (run.epoch, run.step) == (1, 0)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"warning: {tmp_path / checkpoint.NAME}: it" in err
    assert "it is kept as checkpoint.damaged.pt, and the run continues from" in err
    assert err.strip() in (tmp_path / "log.txt").read_text()
    finish(run_of(tmp_path, resume=True))
    (tmp_path / checkpoint.PREVIOUS).unlink()
    rewrite(tmp_path, change)
    with pytest.raises(UsageError, match="no checkpoint can be read"):
        finish(run_of(tmp_path, resume=True))


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        finish(run_of(tmp_path / str(seed), seed=seed))
    shutil.copy(tmp_path / "1" / checkpoint.NAME, tmp_path / "0" / checkpoint.NAME)
    with pytest.raises(UsageError, match=r"is of another run \(--seed was 1, is 0\)"):
        finish(run_of(tmp_path / "0", resume=True))


@pytest.mark.parametrize(("every", "told"), [(1, "at step 5 of"), (3, "at or before step 6 of")])
def test_where_looking_costs_losses_are_looked_at_now_and_then(every: int, told: str, tmp_path: Path) -> None:
    meter = Meter()
    run = run_of(tmp_path, meter=meter)
    run._check_every = every
    with pytest.raises(NonFiniteLossError, match=f"the loss is inf {told} epoch 1; start"):
        finish(run, lambda step: add_loss(meter, torch.inf if step == 4 else 1.0))


# --- one process at a time, and signals ----------------------------------------------------------------------


def test_a_second_process_is_kept_out_until_the_first_has_ended(tmp_path: Path) -> None:
    first = run_of(tmp_path)
    assert not list(tmp_path.iterdir())  # nothing happens before it is entered
    with first:
        for resume, told in ((True, rf"is in use by process {os.getpid()} on \S+; wait"), (False, "is not empty")):
            with pytest.raises(UsageError, match=told):
                finish(run_of(tmp_path, resume=resume))
    finish(run_of(tmp_path, resume=True))
    (tmp_path / "env.json").write_text("[]")
    with run_of(tmp_path, resume=True):
        (tmp_path / "env.json").write_text("[]")
        with pytest.raises(UsageError, match="is in use by another process"):
            finish(run_of(tmp_path, resume=True))


@pytest.fixture
def _no_signal_ignored() -> Iterator[None]:
    """Whatever has started the tests, such as nohup or a shell's &."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_no_signal_ignored")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_saves_and_the_second_ends_at_once(number: signal.Signals, tmp_path: Path) -> None:
    handlers = {s: signal.getsignal(s) for s in SIGNALS}

    def send(times: int) -> Callable[[int], None]:
        def at_step(step: int) -> None:
            for _ in range(times if step in (2, 5) else 0):
                os.kill(os.getpid(), number)

        return at_step

    for times, resume in ((1, False), (2, True)):
        with pytest.raises(Stopped) as stopped:
            finish(run_of(tmp_path, resume=resume), send(times))
        assert stopped.value.signal == number
        state = checkpoint.load(tmp_path)
        assert state is not None
        assert state["step"] == 3
    assert {s: signal.getsignal(s) for s in SIGNALS} == handlers


def test_what_nohup_has_started_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        finish(run_of(tmp_path), lambda step: os.kill(os.getpid(), signal.SIGHUP))
    finally:
        signal.signal(signal.SIGHUP, before)


# --- what may have happened to the files ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were stopped after their second epoch, and the same uninterrupted."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (command, flags) in COMMANDS.items():
        command([*flags, "--run-dir", str(folder / f"{name}-whole")])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Run, "_stop_if_asked", lambda self: stop_after_two(self))
            with pytest.raises(Stopped):
                command([*flags, "--run-dir", str(folder / f"{name}-part")])
    return {path.name: path for path in folder.iterdir()}


def plain(argv: list[str]) -> None:
    """A run of nothing but a few random numbers, as a command."""
    torch.manual_seed(0)
    meter = Meter()
    run = run_of(Path(argv[argv.index("--run-dir") + 1]), resume="--resume" in argv, meter=meter, epochs=3)
    finish(run, lambda step: add_loss(meter, float(torch.rand(()))))


COMMANDS: dict[str, tuple[Callable[[list[str]], object], tuple[str, ...]]] = {
    "plain": (plain, ()),
    "train": (train_eval.command, (*TRAIN, "--epochs", "3")),
    "search": (train_search.command, (*SEARCH, *OPERATIONS, "--epochs", "3")),
}
#: The damage that is done to them; the others are done to the plain one, which takes no time.
LARGER = {"picture a folder": "train", "newest checkpoint cut": "train", "genotypes a file": "search"}


def stop_after_two(run: Run) -> None:
    if run.epoch == 2:
        raise Stopped(signal.SIGTERM)


def content(name: str, text: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(text)


def appended(name: str, text: bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes() + text)


def cut(name: str, left: float) -> Callable[[Path], object]:
    return lambda run: os.truncate(run / name, int((run / name).stat().st_size * left))


def without_header(run: Path) -> None:
    (run / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes().split(b"\n", 1)[1])


def blank_cell(run: Path) -> None:
    (run / "metrics.csv").write_bytes((run / "metrics.csv").read_bytes().replace(b"\r\n2,", b"\r\n,"))


def in_place_of(name: str, *, folder: bool) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        (run / name).unlink(missing_ok=True)
        (run / name).mkdir() if folder else (run / name).write_bytes(b"in the way")

    return damage


def removed(*names: str) -> Callable[[Path], object]:
    return lambda run: [(run / name).unlink() for name in names]


def newest_cut(run: Path) -> None:
    cut(checkpoint.NAME, 0.5)(run)


def without_newest(run: Path) -> None:
    os.replace(run / checkpoint.NAME, run / checkpoint.NEW)


def leftovers(run: Path) -> None:
    for folder in (run, run / "genotypes", run / "mixing"):
        folder.mkdir(exist_ok=True)
        (folder / f".{'0f' * 16}.tmp").write_bytes(b"half")


#: What of the damage is not the plain run's.
ALIEN = {"genotypes", "mixing", "result.json"}

#: How a directory is damaged, and what the user is told of it (nothing where nothing is lost).
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "metrics with a tail of NULs": (appended("metrics.csv", b"\0" * 99), ""),
    "metrics one epoch ahead": (appended("metrics.csv", b"3,1,1,1,1,1,1\r\n"), ""),
    "metrics with half a row": (cut("metrics.csv", 0.9), ""),
    "metrics empty": (content("metrics.csv", b""), ""),
    "metrics with a blank cell": (blank_cell, "metrics.csv is damaged; it is kept as metrics.damaged.csv"),
    "metrics without header": (without_header, "metrics.csv is damaged"),
    "metrics of NULs": (content("metrics.csv", b"\0" * 999), "metrics.csv is damaged"),
    "metrics not text": (content("metrics.csv", b"\xff\xfe"), "metrics.csv is damaged"),
    "metrics a folder": (in_place_of("metrics.csv", folder=True), "metrics.csv is not a file"),
    "no metrics": (removed("metrics.csv"), ""),
    "environment empty": (content("env.json", b""), "env.json cannot be read; it is kept as env.damaged.json"),
    "environment half": (cut("env.json", 0.5), "env.json cannot be read"),
    "environment a list": (content("env.json", b"[]"), "env.json cannot be read"),
    "environment of other types": (content("env.json", b'{"resumed": 3}'), "env.json cannot be read"),
    "environment nested deeply": (content("env.json", b"[" * 10**5), "env.json cannot be read"),
    "environment not UTF-8": (content("env.json", b'{"a": "\xff"}'), "env.json cannot be read"),
    "no environment": (removed("env.json"), ""),
    "log not UTF-8": (appended("log.txt", b"\xff\xfe"), ""),
    "log a folder": (in_place_of("log.txt", folder=True), "log.txt is not a file; it is kept as log.damaged.txt"),
    "TensorBoard's folder a file": (in_place_of("tb", folder=False), "tb is not a folder; it is kept as tb.damaged"),
    "picture a folder": (in_place_of("normal.svg", folder=True), "normal.svg is not a file"),
    "mixing weights a file": (in_place_of("mixing", folder=False), "mixing is not a folder"),
    "genotypes a file": (in_place_of("genotypes", folder=False), "genotypes is not a folder"),
    "configuration empty": (content("config.json", b""), "config.json cannot be read; it is kept as config.damaged"),
    "configuration not UTF-8": (content("config.json", b'{"seed": "\xff"}'), "config.json cannot be read"),
    "configuration nested deeply": (content("config.json", b"[" * 10**5), "config.json cannot be read"),
    "no configuration": (removed("config.json"), ""),
    "result of another type": (content("result.json", b"null"), ""),
    "leftovers of killed processes": (leftovers, ""),
    "newest checkpoint cut": (newest_cut, "does not match its digest); it is kept as checkpoint.damaged.pt"),
    "killed between two renames": (without_newest, ""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_directory_is_resumed_as_if_nothing_had_happened(
    name: str, parts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = LARGER.get(name, "plain")
    damage, told = DAMAGE[name]
    run = tmp_path / "run"
    shutil.copytree(parts[f"{kind}-part"], run)
    damage(run)
    capsys.readouterr()
    command, flags = COMMANDS[kind]
    command([*flags, "--run-dir", str(run), "--resume"])
    err = capsys.readouterr().err
    assert err.count("\n") == bool(told)
    assert told in err
    ours, whole = final_state(run), final_state(parts[f"{kind}-whole"])
    if "genotypes a file" in name:  # the first two are gone
        whole["genotypes"] = {n: whole["genotypes"][n] for n in ours["genotypes"]}
    assert_same(ours, whole)
    names = {path.name for path in run.iterdir() if "damaged" not in path.name}
    assert names - ALIEN == {path.name for path in parts[f"{kind}-whole"].iterdir()} - ALIEN
    assert not list(run.rglob(".*.tmp"))
    assert json.loads((run / "env.json").read_text())["resumed"][-1]["process"]["pid"] == os.getpid()


def test_a_new_column_gets_its_header(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with run:
        for epoch in run.epochs():
            run.add_metrics({"a": 1.5} if epoch == 0 else {"new": 2.5, "a": 3.5})
    rows = [line.split(",")[:4] for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    assert [row[:2] + row[3:] for row in rows] == [["epoch", "a", "new"], ["1", "1.5", ""], ["2", "3.5", "2.5"]]


@pytest.mark.parametrize("resume", [False, True])
def test_killed_before_its_configuration_was_written(resume: bool, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / f".{'a' * 32}.tmp").write_bytes(b"{")
    finish(run_of(tmp_path, resume=resume))
    assert not list(tmp_path.glob("*.tmp"))
    assert checkpoint.exists(tmp_path)


def test_another_programs_hidden_files_are_left_alone(tmp_path: Path) -> None:
    with run_of(tmp_path):
        pass
    for name in (".abc.tmp", f"{'a' * 32}.tmp", f".{'g' * 32}.tmp"):
        (tmp_path / name).touch()
    finish(run_of(tmp_path, resume=True))
    assert len(list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))) >= 3


# --- a disk that is full, a folder that is gone or cannot be written ---------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path)

    def full(step: int) -> None:
        if run.epoch == 1:
            monkeypatch.setattr(os, "fsync", failing(number))

    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: finish(run, full), [])
    assert end.value.code == 1
    first, last = capsys.readouterr().err.splitlines()
    reason = os.strerror(number)
    assert first == f"warning: {tmp_path / 'metrics.csv'} cannot be written ({reason}); the run continues without it"
    assert last.startswith(f"error: {tmp_path / checkpoint.NEW}: {reason}")
    monkeypatch.undo()
    state = checkpoint.load(tmp_path)
    assert state is not None
    assert (state["epoch"], state["step"]) == (1, 0)
    assert not list(tmp_path.glob(".*.tmp"))
    finish(run_of(tmp_path, resume=True))


def failing(number: int) -> Callable[[object], None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_directory_that_vanishes_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run")
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: finish(run, lambda step: shutil.rmtree(tmp_path / "run", ignore_errors=True)), [])
    assert end.value.code == 1
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"error: {tmp_path / 'run' / checkpoint.NEW}: No such file")
    )


def test_a_directory_that_cannot_be_written_is_one_line_at_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run_of(tmp_path))
    monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: failing(errno.EROFS)(0))
    with pytest.raises(SystemExit) as end:
        cli.run(lambda argv: finish(run_of(tmp_path, resume=True)), [])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")


def test_a_disk_that_fills_up_in_TensorBoards_thread_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", failing(errno.ENOSPC))
    finish(run_of(tmp_path))
    err = capsys.readouterr().err
    assert (
        err == f"warning: {tmp_path / 'tb'} cannot be written (No space left on device); the run continues without it\n"
    )
