"""A run is its directory: configuration, environment, log, metrics, checkpoints, results.

`Run` keeps the position (epoch, step) of a training loop, saves it with everything the loop tracks, and
resumes it where it stopped, also in the middle of an epoch.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from errno import EDQUOT, EIO, ENOSPC
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn
from tqdm import tqdm

from genotypes.files import write_atomically
from nas import checkpoint, environment
from nas.device import algorithms
from nas.directory import Directory, read_json
from nas.errors import NonFiniteLossError, Stopped, UsageError
from nas.meter import Meter
from nas.report import Board

T = TypeVar("T")

#: What a resumed run may have otherwise: where it computes and reads and what it shows, not what it computes.
_MAY_CHANGE = (
    *("run.run_dir", "run.resume", "run.device", "run.cuda_graph", "log_logits"),
    *("data.data", "data.download", "data.workers"),
    "supernet.checkpoint_cells",
)

#: Where something is read from that the checkpoint holds: another spelling of the path, or another place, is as good.
_IN_CHECKPOINT = ("arch",)

#: What ends a run with a checkpoint. Windows has the first two only.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]

#: Steps of an epoch between two looks at its losses on a GPU, which has to catch up with the CPU each time.
CHECK_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run is kept and how it is computed; nothing here changes its results but for rounding."""

    run_dir: str | None = None
    """Directory of the run (default: runs/ and a name made of the configuration)."""
    resume: bool = False
    """Continue the run in that directory; the configuration must be the same, but for --device, --cuda-graph,
    --checkpoint-cells, --log-logits, --data, --download and --workers."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ... or auto: the GPU where there is one."""
    deterministic: bool = False
    """On a GPU take only algorithms that give the same bits each time, which is slower; on a CPU all do."""
    cuda_graph: bool = True
    """On a GPU launch each step as one CUDA graph. It changes no result; --no-cuda-graph, kernel by kernel, is slower,
    and for operations that cannot be captured, and for debuggers and profilers."""

    def __post_init__(self) -> None:
        if "\0" in (self.run_dir or ""):
            raise ValueError(f"--run-dir is {self.run_dir!r}; a path cannot hold a NUL character")


class Stateful(Protocol):
    """What can be tracked: modules, optimizers, schedulers, meters."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> object: ...


class Run:
    """An open run directory.

    Args:
        config: where it lies, and whether it goes on.
        resolved: the whole configuration, a dataclass that has `config` as its field `run`.
        default_name: of the directory below runs/, to which a few digits made of the configuration are added.
        device: where the run computes.
        tracked: what is saved and restored with the position, by name.
        epochs: how many the run has.
        steps: of an epoch.

    Use it as a context manager: within it SIGINT, SIGTERM, SIGHUP and SIGUSR1 save the run and raise Stopped at the
    next step, and a GPU takes the algorithms that `config` asks for. Other processes are kept out of the directory
    until then. A loss in a tracked meter, or a parameter of a tracked module, that is not finite raises
    NonFiniteLossError: sooner or later, but before anything of it is saved.
    Raises UsageError for a directory that is not empty (without `resume`), that holds no run or another
    configuration (with it), or that cannot be written; OSError where the disk is full, or one to be resumed cannot be
    written.
    """

    def __init__(
        self,
        config: RunConfig,
        resolved: object,
        *,
        default_name: str,
        device: torch.device,
        tracked: Mapping[str, Stateful],
        epochs: int,
        steps: int,
    ) -> None:
        described = _describe(resolved)
        digits = hashlib.sha256(_as_text(binding(described)).encode()).hexdigest()[:6]
        self.path = Path(os.path.expanduser(config.run_dir or f"runs/{default_name}-{digits}"))
        self.directory = Directory(self.path)
        self.epoch = self.step = 0
        self._epochs, self._steps = epochs, steps
        self._binding = _without_paths(binding(described))
        self._tracked, self._device = dict(tracked), device
        self._meters = [value for value in tracked.values() if isinstance(value, Meter)]
        self._check_every = 1 if device.type == "cpu" else CHECK_EVERY
        self._deterministic = config.deterministic
        self._seconds = 0.0
        self._metrics: list[dict[str, float]] = []
        self._has_checkpoint = False
        self._signal: int | None = None
        self._started = time.monotonic()
        try:
            if config.resume and not self.directory.never_began():
                self._resume(described)
            else:
                self._create(described)
        except BaseException:
            self.directory.unlock()
            raise
        self._started = time.monotonic()

    # --- the directory ------------------------------------------------------------------------------------

    def _create(self, described: dict[str, Any]) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.directory.check_free()
            self.directory.lock()
            self.directory.check_free()  # another process may have been faster
            self.directory.tidy()
            self.write_json("config.json", described)
            self.write_json("env.json", self._environment())
        except OSError as error:
            if error.errno in (ENOSPC, EDQUOT, EIO):
                raise
            raise UsageError(f"{self.path} cannot be written ({error.strerror}); choose another --run-dir") from error

    def _resume(self, described: dict[str, Any]) -> None:
        if not self.directory.holds_run():
            raise UsageError(
                f"{self.path} holds no run (no config.json); name the directory of a run, or start one without --resume"
            )
        self.directory.lock()
        intact = self._check_same(described)
        self.directory.tidy()
        self._has_checkpoint = checkpoint.load(self.path, self._restore, self.directory.warn) is not None
        if not intact:
            self.directory.set_aside("config.json", "cannot be read")
        if not (intact and self._has_checkpoint):
            self.write_json("config.json", described)
        self._write_metrics(resuming=True)
        self.directory.add_environment({"epoch": self.epoch, "step": self.step, **self._environment()})

    def _environment(self) -> dict[str, Any]:
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        return {"process": process, **environment.describe(self._device)}

    def _check_same(self, described: dict[str, Any]) -> bool:
        """Whether the saved configuration can be read. Raises UsageError where it is another one."""
        try:
            saved = read_config(self.path)
        except UsageError:
            if checkpoint.exists(self.path):  # which holds what binds of it
                return False
            raise
        before, now = _without_paths(binding(saved)), self._binding
        if before.keys() != now.keys():
            raise UsageError(
                f"{self.path} was made by another version of this program and cannot be resumed; start a run "
                "in another --run-dir"
            )
        if changed := _changed(before, now):
            further = "--epochs" in changed and "init_from" in now
            more = "; to train a finished network further, start one with --init-from" if further else ""
            raise UsageError(
                f"{self.path} was run with another configuration: {changed}; "
                f"resume with the same one, or start a run in another --run-dir{more}"
            )
        return True

    @property
    def settings(self) -> dict[str, Any]:
        """What of the configuration decides the result, but for the seed and the architecture."""
        return {name: value for name, value in self._binding.items() if name != "seed"}

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` as indented JSON to the file `name` of the directory."""
        self.directory.write_json(name, value)

    def log(self, text: str) -> None:
        """Prints a line and appends it to `log.txt`."""
        self.directory.log(text)

    def log_epoch(self, measured: str, train: Meter, other: Meter, more: str = "") -> None:
        """Logs the epoch's figures on the training images and on others, and how long the rest will take."""
        self.log(
            f"epoch {self.epoch + 1:3d}  train {train.loss:.4f} {train.accuracy:6.2f} %  "
            f"{measured} {other.loss:.4f} {other.accuracy:6.2f} %  {self.seconds:.0f} s, {self.eta()} to go{more}"
        )

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Adds the epoch's row to `metrics.csv` and its scalars to TensorBoard."""
        self._metrics.append({"epoch": self.epoch + 1, **metrics, "seconds": round(self.seconds, 3)})
        self._write_metrics()
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, self.epoch + 1)

    def _write_metrics(self, *, resuming: bool = False) -> None:
        """Writes all rows; the checkpoint holds them too, so that nothing depends on what the file has become."""
        path = self.path / "metrics.csv"
        content = _as_csv(self._metrics)
        with self.directory.auxiliary("metrics.csv"):
            if resuming and path.exists():
                found = path.read_bytes()
                # It may be one epoch ahead of the checkpoint, or behind it.
                if not (found.startswith(content) or content.startswith(found)):
                    self.directory.set_aside("metrics.csv", "is damaged")
            if self._metrics:
                write_atomically(path, content)
            else:
                path.unlink(missing_ok=True)

    # --- the loop -----------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long the run has computed so far, earlier parts of a resumed one included."""
        return self._seconds + time.monotonic() - self._started

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, with a checkpoint after each."""
        while self.epoch < self._epochs:
            yield self.epoch
            self._check_parameters()
            self.epoch, self.step = self.epoch + 1, 0
            self._write()
            self._stop_if_asked()

    def steps(self, batches: Iterable[T], meter: Meter) -> Iterator[T]:
        """Counts the steps of an epoch; `batches` must start at `self.step`. The progress bar shows `meter`."""
        bar = tqdm(
            total=self._steps,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{self._epochs}",
            disable=None,
            leave=False,
        )
        with bar:
            for batch in batches:
                yield batch
                self.step += 1
                if self.step % self._check_every == 0:  # no oftener: reading a meter waits for the GPU
                    self.check_finite()
                    bar.set_postfix_str(f"loss {meter.loss:.4f}, accuracy {meter.accuracy:.2f} %", refresh=False)
                bar.update()
                if self._signal is not None:
                    self.save()
                    self._stop_if_asked()

    def interruptible(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of an evaluation, which a signal ends; resumed, it is done again from its start."""
        for batch in batches:
            yield batch
            if self._signal is not None:
                self.save()
                self._stop_if_asked()

    def check_finite(self) -> None:
        """Raises NonFiniteLossError where a tracked meter was given a loss that is inf or nan, and writes nothing.

        It waits for the GPU. A step's loss tells of the steps before it; that of the evaluation, of the last step too.
        """
        for meter in self._meters:
            if not math.isfinite(meter.loss):
                self._give_up(f"the loss is {meter.loss}")

    def _check_parameters(self) -> None:
        """Raises NonFiniteLossError where the last step has spoiled a parameter that no loss has told of yet."""
        if any(_spoiled(value, dict(value.state_dict())) for value in self._modules().values()):
            self._give_up("a weight is inf or nan")

    def _modules(self) -> dict[str, nn.Module]:
        return {name: value for name, value in self._tracked.items() if isinstance(value, nn.Module)}

    def _give_up(self, why: str) -> None:
        about = "" if self._check_every == 1 else "or before "
        kept = f"the last good checkpoint is in {self.path}; " if self._has_checkpoint else ""
        raise NonFiniteLossError(
            f"{why} at {about}step {self.step} of epoch {self.epoch + 1}; {kept}"
            "start a run with a smaller learning rate, or with --precision fp32 if it was bf16"
        )

    def eta(self) -> str:
        """How long the epochs that are left will take at the pace so far, after the current one."""
        left = self.seconds / (self.epoch + 1) * (self._epochs - self.epoch - 1)
        return time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} days"

    def save(self) -> None:
        """Writes the checkpoint. Raises NonFiniteLossError for one that could not be continued, OSError."""
        self.check_finite()
        self._check_parameters()
        self._write()

    def _write(self) -> None:
        checkpoint.save(self.path, self._state())
        self._has_checkpoint = True

    def _state(self) -> dict[str, Any]:
        return {
            "binding": _as_text(self._binding),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "metrics": json.dumps(self._metrics),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "tracked": {name: tracked.state_dict() for name, tracked in self._tracked.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint. Raises UsageError for one of another run, ValueError for one that is spoiled."""
        self._check_state(state)
        for name, tracked in self._tracked.items():  # in their order, for the first may say that this is another run
            _check_tracked(name, tracked, state["tracked"][name])
            tracked.load_state_dict(state["tracked"][name])
        self.epoch, self.step, self._seconds = state["epoch"], state["step"], state["seconds"]
        self._metrics = json.loads(state["metrics"])
        torch.set_rng_state(state["rng"])
        if self._device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self._device)

    def _check_state(self, state: dict[str, Any]) -> None:
        if isinstance(state.get("binding"), str) and state["binding"] != _as_text(self._binding):
            before = msgspec.json.decode(state["binding"])
            changed = (
                _changed(before, self._binding) if before.keys() == self._binding.keys() else "another kind of run"
            )
            raise UsageError(
                f"the checkpoint in {self.path} is of another run ({changed}); put this run's own back, or start a run "
                "in another --run-dir"
            )
        own = {**self._state(), "tracked": dict.fromkeys(self._tracked)}
        if state.get("cuda_rng") is None or own["cuda_rng"] is None:  # of another device
            own["cuda_rng"] = state.get("cuda_rng")
        names = state.get("tracked")
        checkpoint.check_like(
            {**state, "tracked": dict.fromkeys(names) if isinstance(names, dict) else names}, own, "state"
        )
        if not _position_within(state["epoch"], state["step"], self._epochs, self._steps):
            raise ValueError(f"its position, step {state['step']} of epoch {state['epoch']}, is none of this run")

    # --- signals ----------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        self._context = ExitStack()
        self._context.enter_context(algorithms(self._device, deterministic=self._deterministic))
        # A terminal that is closed ends what runs in it, but for what nohup has started.
        handled = [s for s in _SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
        self._handlers = {s: signal.signal(s, self._on_signal) for s in handled}
        self.tensorboard = Board(self.directory, self.epoch + 1 if self.epoch or self.step else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for s, handler in self._handlers.items():
            signal.signal(s, handler)
        self.tensorboard.close()
        self._context.close()
        self.directory.unlock()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Stopped(number)  # the second time at once, without saving
        self._signal = number

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            self.log(f"stopped by {signal.Signals(self._signal).name}; continue with --resume")
            raise Stopped(self._signal)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a directory. Raises UsageError where there is none to be read."""
    try:
        return read_json(path / "config.json", dict[str, Any])
    except FileNotFoundError:
        raise UsageError(f"{path} holds no run (no config.json); name the directory of a run") from None


def _describe(resolved: object) -> dict[str, Any]:
    """The configuration as JSON data, as it will be read back. Raises UsageError for a name that is not text."""
    try:
        return msgspec.json.decode(msgspec.json.encode(resolved))
    except UnicodeEncodeError as error:
        raise UsageError(f"{error.object!r} is not UTF-8 text, which a run's config.json is; rename it") from error


def _as_text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


def _as_csv(rows: list[dict[str, float]]) -> bytes:
    """All rows below the names of all their columns."""
    text = io.StringIO(newline="")
    # A later version may have had more columns than the one that began.
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode() if rows else b""


def _spoiled(module: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Whether a state of `module` has a parameter that is not finite, or anything that is nan."""
    parameters = {name for name, _ in module.named_parameters()}
    tensors = {name: value for name, value in state.items() if value.is_floating_point()}
    bad = [(~value.isfinite() if name in parameters else value.isnan()).any() for name, value in tensors.items()]
    return bool(bad) and bool(torch.stack(bad).any())


def _check_tracked(name: str, tracked: Stateful, saved: Any) -> None:
    """Raises ValueError for a saved state that is not built like that of `tracked`, or that is spoiled."""
    checkpoint.check_like(saved, tracked.state_dict(), name)
    if isinstance(tracked, nn.Module) and _spoiled(tracked, saved):
        raise ValueError(f"its {name} has weights that are inf or nan")
    if isinstance(tracked, Meter) and not saved["sums"].isfinite().all():
        raise ValueError(f"its {name} has losses that are inf or nan")


def _position_within(epoch: int, step: int, epochs: int, steps: int) -> bool:
    return 0 <= epoch <= epochs and 0 <= step <= steps and (epoch < epochs or step == 0)


def _without_paths(flat: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if key not in _IN_CHECKPOINT}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two configurations with the same fields, in words; empty where nothing does."""
    return "; ".join(
        f"--{key.split('.')[-1].replace('_', '-')} was {before[key]!r}, is {now[key]!r}"
        for key in sorted(now)
        if before[key] != now[key]
    )


def binding(described: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the results, flat, with dotted names."""
    return {key: value for key, value in _flatten(described).items() if key not in _MAY_CHANGE}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flatten(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat
