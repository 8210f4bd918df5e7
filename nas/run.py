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
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, TypeVar

import msgspec
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from genotypes.files import write_atomically
from nas import checkpoint, environment
from nas.device import algorithms
from nas.errors import NonFiniteLossError, Stopped, UsageError
from nas.meter import Meter

T = TypeVar("T")

#: What a resumed run may have otherwise: where it computes and reads, not what.
_MAY_CHANGE = (
    *("run.run_dir", "run.resume", "run.device", "run.cuda_graph"),
    *("data.data", "data.download", "data.workers"),
    "supernet.checkpoint_cells",
)

#: Steps of an epoch between two looks at its losses on a GPU, which has to catch up with the CPU each time.
CHECK_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run is kept and how it is computed; nothing here changes its results but for rounding."""

    run_dir: str | None = None
    """Directory of the run (default: runs/ and a name made of the configuration)."""
    resume: bool = False
    """Go on with the run in that directory; the configuration must be the same, but for --device, --cuda-graph,
    --checkpoint-cells, --data, --download and --workers."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ... or auto: the GPU where there is one."""
    deterministic: bool = False
    """On a GPU take only algorithms that give the same bits each time, which is slower; on a CPU all do."""
    cuda_graph: bool = True
    """On a GPU launch each step as one CUDA graph. It changes no result; --no-cuda-graph, kernel by kernel, is slower,
    and for operations that cannot be captured, and for debuggers and profilers."""


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

    Use it as a context manager: within it SIGINT and SIGTERM save the run and raise Stopped at the next step, and a
    GPU takes the algorithms that `config` asks for. A loss in a tracked meter, or a parameter of a tracked module, that
    is not finite raises NonFiniteLossError: sooner or later, but before anything of it is saved.
    Raises UsageError for a directory that is not empty (without `resume`), that holds no run or another
    configuration (with it), or that cannot be written.
    """

    def __init__(
        self,
        config: RunConfig,
        resolved: object,
        *,
        default_name: str,
        device: torch.device,
        tracked: Mapping[str, Stateful],
    ) -> None:
        described = _describe(resolved)
        digits = hashlib.sha256(msgspec.json.encode(binding(described), order="sorted")).hexdigest()[:6]
        self.path = Path(config.run_dir or f"runs/{default_name}-{digits}")
        self.epoch = self.step = 0
        self._tracked, self._device = dict(tracked), device
        self._meters = [value for value in tracked.values() if isinstance(value, Meter)]
        self._check_every = 1 if device.type == "cpu" else CHECK_EVERY
        self._deterministic = config.deterministic
        self._seconds = 0.0
        self._signal: int | None = None
        if config.resume:
            self._check_same(described)
            self._restore()
            self._note_resumption(device)
        else:
            self._create(described, device)
        self._started = time.monotonic()

    # --- the directory ------------------------------------------------------------------------------------

    def _create(self, described: dict[str, Any], device: torch.device) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise UsageError(f"{self.path} is not empty; choose another --run-dir, or go on with it by --resume")
            self.write_json("config.json", described)
            self.write_json("env.json", environment.describe(device))
        except OSError as error:
            raise UsageError(f"{self.path} cannot be written ({error.strerror}); choose another --run-dir") from error

    def _check_same(self, described: dict[str, Any]) -> None:
        saved = read_config(self.path)
        before, now = binding(saved), binding(described)
        if before.keys() != now.keys():
            raise UsageError(
                f"{self.path} was made by another version of this program and cannot be gone on with; start a run "
                "in another --run-dir"
            )
        changed = [
            f"--{key.split('.')[-1].replace('_', '-')} was {before[key]!r}, is {now[key]!r}"
            for key in sorted(now)
            if before[key] != now[key]
        ]
        if changed:
            raise UsageError(
                f"{self.path} was run with another configuration: {'; '.join(changed)}; "
                "resume with the same one, or start a run in another --run-dir"
            )

    def _restore(self) -> None:
        try:
            state = checkpoint.load(self.path)
        except ValueError as error:
            raise UsageError(str(error)) from error
        if state is None:  # stopped before the first checkpoint
            self._rewrite_metrics()
            return
        self.epoch, self.step, self._seconds = state["epoch"], state["step"], state["seconds"]
        for name, tracked in self._tracked.items():
            tracked.load_state_dict(state["tracked"][name])
        torch.set_rng_state(state["rng"])
        if self._device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self._device)
        self._rewrite_metrics()

    def _note_resumption(self, device: torch.device) -> None:
        path = self.path / "env.json"
        env = json.loads(path.read_text()) if path.exists() else {}
        here = {"epoch": self.epoch, "step": self.step, **environment.describe(device)}
        self.write_json("env.json", {**env, "resumed": [*env.get("resumed", []), here]})

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` as indented JSON to the file `name` of the directory."""
        write_atomically(self.path / name, (json.dumps(value, indent=2) + "\n").encode())

    def log(self, text: str) -> None:
        """Prints a line and appends it to `log.txt`."""
        tqdm.write(text)
        with (self.path / "log.txt").open("a") as file:
            file.write(text + "\n")

    def log_epoch(self, measured: str, train: Meter, other: Meter) -> None:
        """Logs the epoch's figures on the training images and on others, and how long the rest will take."""
        self.log(
            f"epoch {self.epoch + 1:3d}  train {train.loss:.4f} {train.accuracy:6.2f} %  "
            f"{measured} {other.loss:.4f} {other.accuracy:6.2f} %  {self.seconds:.0f} s, {self.eta()} to go"
        )

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        """Appends the epoch's row to `metrics.csv` and its scalars to TensorBoard."""
        row = {"epoch": self.epoch + 1, **metrics, "seconds": round(self.seconds, 3)}
        path = self.path / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, self.epoch + 1)

    def _rewrite_metrics(self) -> None:
        """Leaves the rows of epochs that the checkpoint has behind it; a killed run may have written more."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["epoch"]) <= self.epoch]
        if not rows:
            path.unlink()
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(reader.fieldnames or ()))
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(path, text.getvalue().encode())

    # --- the loop -----------------------------------------------------------------------------------------

    @property
    def seconds(self) -> float:
        """How long the run has computed so far, earlier parts of a resumed one included."""
        return self._seconds + time.monotonic() - self._started

    def epochs(self, total: int) -> Iterator[int]:
        """The epochs that are left of `total`, with a checkpoint after each."""
        self._total = total
        while self.epoch < total:
            yield self.epoch
            self._check_parameters()
            self.epoch, self.step = self.epoch + 1, 0
            self._write()
            self._stop_if_asked()

    def steps(self, batches: Iterable[T], total: int) -> Iterator[T]:
        """Counts the steps of an epoch of `total`; `batches` must start at `self.step`."""
        bar = tqdm(
            total=total,
            initial=self.step,
            desc=f"epoch {self.epoch + 1}/{self._total}",
            disable=None,
            leave=False,
        )
        with bar:
            for batch in batches:
                yield batch
                self.step += 1
                bar.update()
                if self.step % self._check_every == 0:
                    self.check_finite()
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
        modules = (value for value in self._tracked.values() if isinstance(value, nn.Module))
        finite = [parameter.isfinite().all() for module in modules for parameter in module.parameters()]
        if finite and not torch.stack(finite).all():
            self._give_up("a weight is inf or nan")

    def _give_up(self, why: str) -> None:
        about = "" if self._check_every == 1 else "or before "
        kept = f"the last good checkpoint is in {self.path}; " if checkpoint.load(self.path) else ""
        raise NonFiniteLossError(
            f"{why} at {about}step {self.step} of epoch {self.epoch + 1}; {kept}"
            "start a run with a smaller learning rate, or with --precision fp32 if it was bf16"
        )

    def eta(self) -> str:
        """How long the epochs that are left will take at the pace so far, after the current one."""
        left = self.seconds / (self.epoch + 1) * (self._total - self.epoch - 1)
        return time.strftime("%H:%M:%S", time.gmtime(left)) if left < 86400 else f"{left / 86400:.1f} days"

    def save(self) -> None:
        """Writes the checkpoint. Raises NonFiniteLossError for one that could not be gone on with."""
        self.check_finite()
        self._check_parameters()
        self._write()

    def _write(self) -> None:
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
            "tracked": {name: tracked.state_dict() for name, tracked in self._tracked.items()},
        }
        checkpoint.save(self.path, state)

    # --- signals and files ----------------------------------------------------------------------------------

    def __enter__(self) -> Run:
        self._context = ExitStack()
        self._context.enter_context(algorithms(self._device, deterministic=self._deterministic))
        self._handlers = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self.tensorboard = SummaryWriter(
            str(self.path / "tb"), purge_step=self.epoch + 1 if self.epoch or self.step else None
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for s, handler in self._handlers.items():
            signal.signal(s, handler)
        self.tensorboard.close()
        self._context.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt  # the second time at once, without saving
        self._signal = number

    def _stop_if_asked(self) -> None:
        if self._signal is not None:
            self.log(f"stopped by {signal.Signals(self._signal).name}; go on with --resume")
            raise Stopped(self._signal)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in a directory. Raises UsageError where there is none to be read."""
    try:
        config = msgspec.json.decode((path / "config.json").read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} holds no run (no config.json); name the directory of a run") from None
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"{path / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path / 'config.json'} is not the configuration of a run")
    return config


def _describe(resolved: object) -> dict[str, Any]:
    """The configuration as JSON data, as it will be read back."""
    return msgspec.json.decode(msgspec.json.encode(resolved))


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
