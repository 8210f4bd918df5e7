"""The position (epoch, step) of a training loop, saved with everything the loop tracks.

A run is resumed where it stopped, also in the middle of an epoch. What else it keeps is in `nas.runs.directory`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn
from tqdm import tqdm

from genotypes.config import Common, Config, IsPath, MayDiffer, NoneMeans, Resumes, marked
from nas import screen
from nas.engine.device import algorithms
from nas.engine.meter import Meter
from nas.errors import NonFiniteLossError, Stopped, UsageError
from nas.runs import checkpoint
from nas.runs.directory import RunDirectory, changes, described, flat
from nas.runs.tensorboard import Board

T = TypeVar("T")

#: What ends a run with a checkpoint. Windows has the first two only.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]

#: Steps of an epoch between two looks at its losses on a GPU, which has to catch up with the CPU each time.
CHECK_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """Where a run is kept and how it is computed; nothing here changes its results but for rounding."""

    run_dir: Annotated[
        str | None, IsPath, Common, MayDiffer, NoneMeans("a folder in runs/, named after the configuration")
    ] = None
    """Directory of the run."""
    resume: Annotated[bool, Common, MayDiffer, Resumes] = False
    """Continue the run in that directory, with the same flags but for those that may differ."""
    device: Annotated[str, Common, MayDiffer] = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""
    deterministic: bool = False
    """On a GPU, use only algorithms that give the same bits each time, which is slower; on a CPU all do."""
    cuda_graph: Annotated[bool, MayDiffer] = True
    """On a GPU, launch each step as one CUDA graph. This changes no result; --no-cuda-graph launches kernel by kernel,
    which is slower, for operations that cannot be captured, and for debuggers and profilers."""


class Stateful(Protocol):
    """What can be tracked: modules, optimizers, schedulers, meters."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives, also nested, that `load_state_dict` takes."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Continues from a state; raises ValueError if it does not fit, UsageError if it belongs to another run."""


def directory_of(config: RunConfig, resolved: Config, *, default_name: str, device: torch.device) -> RunDirectory:
    """The directory of a run, in which nothing is read or written yet.

    Args:
        config: where it lies, and whether it goes on.
        resolved: the whole configuration, which has `config` as its field `run`.
        default_name: of the directory below runs/, to which a few digits made of the configuration are added.
        device: where the run computes.

    Raises UsageError for a configuration that is not text.
    """
    differing = marked(resolved, MayDiffer)
    named = {name: value for name, value in flat(described(resolved)).items() if name not in differing}
    digits = hashlib.sha256(_as_text(named).encode()).hexdigest()[:6]
    return RunDirectory(
        Path(os.path.expanduser(config.run_dir or f"runs/{default_name}-{digits}")),
        resolved,
        resume=config.resume,
        device=device,
    )


class Run:
    """A run that computes: its position, saved with all that the loop tracks, and restored where the run goes on.

    Args:
        directory: where it is kept.
        tracked: what is saved and restored with the position, by name. An entry may be replaced at any time, by the
            loop or by restoring an entry before it.
        device: where the run computes.
        deterministic: whether a GPU takes only algorithms that give the same bits each time.
        epochs: how many the run has.
        steps: of an epoch.

    Entering it opens the directory and restores the run. Within it SIGINT, SIGTERM, SIGHUP and SIGUSR1 save the run
    and raise Stopped at the next step. A loss in a tracked meter, or a parameter of a tracked module, that is not
    finite raises NonFiniteLossError: sooner or later, but before anything of it is saved.
    Raises UsageError and OSError as `RunDirectory.opened` and `checkpoint.load` do.
    """

    def __init__(
        self,
        directory: RunDirectory,
        tracked: Mapping[str, Stateful],
        *,
        device: torch.device,
        deterministic: bool,
        epochs: int,
        steps: int,
    ) -> None:
        self.directory = directory
        self.epoch = self.step = 0
        self._epochs, self._steps = epochs, steps
        self._tracked, self._device, self._deterministic = tracked, device, deterministic
        self._meters = [value for value in tracked.values() if isinstance(value, Meter)]
        self._check_every = 1 if device.type == "cpu" else CHECK_EVERY
        self._seconds = 0.0
        self._has_checkpoint = self._ended = False
        self._signal: int | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            stack.enter_context(self.directory.opened())
            self._resume_or_begin()
            stack.enter_context(algorithms(self._device, deterministic=self._deterministic))
            self.tensorboard = Board(self.directory, self.epoch + 1 if self.epoch or self.step else None)
            stack.callback(self.tensorboard.close)
            stack.enter_context(self._signals_handled())
            self._context = stack.pop_all()
        self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, traceback)

    def _resume_or_begin(self) -> None:
        if self.directory.reopened:
            found = checkpoint.load(self.directory.path, self._restore, self.directory.warn)
            self._has_checkpoint = found is not None
        self.directory.begin(restored=self._has_checkpoint, at={"epoch": self.epoch, "step": self.step})

    # --- what it tells ------------------------------------------------------------------------------------

    def log_epoch(self, meters: Mapping[str, Meter], more: str = "") -> None:
        """Logs the epoch's figures, by the images they are of, and how long the rest will take."""
        figures = "".join(f"  {name} {meter.loss:.4f} {meter.accuracy:6.2f} %" for name, meter in meters.items())
        self.directory.log(f"epoch {self.epoch + 1:3d}{figures}  {self.seconds:.0f} s, {self.eta()} to go{more}")

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Adds the epoch's row to `metrics.csv` and its scalars to TensorBoard."""
        self.directory.add_row({"epoch": self.epoch + 1, **metrics, "seconds": round(self.seconds, 3)})
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, self.epoch + 1)

    # --- the loop -----------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long the run has computed so far, earlier parts of a resumed one included."""
        return self._seconds + time.monotonic() - self._started

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, with a checkpoint after each; after `end`, none."""
        while self.epoch < self._epochs and not self._ended:
            yield self.epoch
            self._check_parameters()
            self.epoch, self.step = self.epoch + 1, 0
            self._write()
            self._stop_if_asked()

    def end(self) -> None:
        """Makes the current epoch the last, or where none has begun, leaves out those that are left."""
        self._ended = True

    def steps(self, batches: Iterable[T], meter: Meter) -> Iterator[T]:
        """Counts the steps of an epoch; `batches` must start at `self.step`. The progress bar shows `meter`."""
        bar = tqdm(
            total=self._steps,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{self._epochs}",
            disable=screen.silent() or None,
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
        """Raises NonFiniteLossError if a parameter is not finite: the loss after the last step was never computed."""
        if any(_spoiled(value, dict(value.state_dict())) for value in self._modules().values()):
            self._give_up("a weight is inf or nan")

    def _modules(self) -> dict[str, nn.Module]:
        return {name: value for name, value in self._tracked.items() if isinstance(value, nn.Module)}

    def _give_up(self, why: str) -> None:
        about = "" if self._check_every == 1 else "or before "
        kept = f"the last good checkpoint is in {self.directory.path}; " if self._has_checkpoint else ""
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
        checkpoint.save(self.directory.path, self._state())
        self._has_checkpoint = True

    def _state(self) -> dict[str, Any]:
        return {
            "binding": _as_text(self.directory.binding),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "metrics": json.dumps(self.directory.rows),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "tracked": {name: tracked.state_dict() for name, tracked in self._tracked.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint. Raises UsageError for one of another run, ValueError for one that is spoiled."""
        self._check_state(state)
        for name in list(self._tracked):  # in their order, for the first may say that this is another run
            tracked = self._tracked[name]  # looked up now, since the one before may have replaced it
            _check_tracked(name, tracked, state["tracked"][name])
            tracked.load_state_dict(state["tracked"][name])
        self.epoch, self.step, self._seconds = state["epoch"], state["step"], state["seconds"]
        self.directory.rows = json.loads(state["metrics"])
        torch.set_rng_state(state["rng"])
        if self._device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self._device)

    def _check_state(self, state: dict[str, Any]) -> None:
        if isinstance(state.get("binding"), str) and state["binding"] != _as_text(self.directory.binding):
            before, now = msgspec.json.decode(state["binding"]), self.directory.binding
            changed = changes(before, now) if before.keys() == now.keys() else "another kind of run"
            raise UsageError(
                f"the checkpoint in {self.directory.path} is of another run ({changed}); put this run's own back, or "
                "start a run in another --run-dir"
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

    @contextmanager
    def _signals_handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
            yield
            return
        # A terminal that is closed ends what runs in it, but for what nohup has started.
        handled = [s for s in _SIGNALS if s == signal.SIGINT or signal.getsignal(s) != signal.SIG_IGN]
        before = {s: signal.signal(s, self._on_signal) for s in handled}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise Stopped(number)  # the second time at once, without saving
        self._signal = number

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            self.directory.log(f"stopped by {signal.Signals(self._signal).name}; continue with --resume")
            raise Stopped(self._signal)


def _as_text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


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
