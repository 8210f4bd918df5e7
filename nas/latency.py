"""How long a network takes for a batch of images: `optinas-latency runs/hb-eval --batch 1 64`."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn

import spaces
from genotypes.config import AtLeast, AtMost, Common, Config, Count, IsPath, NoneMeans, flag
from nas import cli
from nas.engine.device import algorithms, resolve_device
from nas.errors import UsageError, users_mistakes
from nas.networks import handmade, weights
from nas.networks.architecture import check_given, resolve
from nas.networks.cells import NetworkConfig
from nas.networks.export import check_packages, onnx_bytes, onnx_runner, onnx_version
from nas.networks.handmade import HandmadeConfig
from nas.networks.library import is_library
from nas.networks.weights import TrainedNetwork
from nas.runs.directory import read_config
from nas.runs.environment import describe
from nas.screen import say, table

#: Passes before the first that counts: memory is allocated, algorithms are chosen, clocks rise.
_WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class LatencyConfig(Config):
    """Which network is timed, on which batches, and how."""

    arch: Annotated[str, IsPath, Common, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_ARCH")]
    """What to time: the directory of a training run or, with random weights, that of a search run, a genotype file, the
    name of a published genotype, that of a hand-made network, such as hbnet56, or one of torchvision or timm, such as
    torchvision:resnet18."""
    operations_from: tuple[str, ...] = ()
    """Modules of your own to import first, because they declare operations that the genotype has."""
    batch: Annotated[tuple[Annotated[Count, AtMost(10**6)], ...], Common] = (1, 8, 64)
    """Images in a batch; a row for each."""
    rounds: Annotated[int, AtLeast(2), Common] = 50
    """Timed passes of each batch."""
    device: Annotated[str, Common] = "auto"
    """cpu, cuda, cuda:1 and so on, or auto: a GPU if there is one."""
    threads: Annotated[Count | None, NoneMeans("as PyTorch decides"), Common] = None
    """Threads of the CPU that compute an operation together."""
    image_size: Annotated[Count | None, AtMost(8192), NoneMeans("32, or 224 for networks of ImageNet"), Common] = None
    """Side of the images in pixels."""
    channels: Annotated[Count | None, NoneMeans("3")] = None
    """Channels of the images."""
    classes: Annotated[Count | None, NoneMeans("10, or 1000 for networks of ImageNet")] = None
    """Number of classes."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    handmade: HandmadeConfig = field(default_factory=HandmadeConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batch:
            raise ValueError("--batch is empty; give one number of images or several")


class Subject(NamedTuple):
    """A network to time, in evaluation mode, and the shape (C, H, W) of an image for it."""

    network: nn.Module
    image: tuple[int, int, int]


def latency(config: LatencyConfig) -> dict[str, Any]:
    """Times forward passes in fp32 of one batch after another, by PyTorch and, on a CPU, by ONNX Runtime.

    Returns the result for scripts; times are in milliseconds, those of ONNX Runtime None where it was not timed.

    Raises UsageError for a network or a device that is not there, and for a batch that is too large for the memory.
    """
    with users_mistakes():
        spaces.import_modules(config.operations_from)
        device = resolve_device(config.device)
        network, image = _subject(config)
    with using_threads(config.threads):
        onnx = _onnx(network, image, device)
        network.to(device)
        with torch.no_grad(), algorithms(device, deterministic=False):
            rows = [_row(network, onnx, (batch, *image), device, config.rounds) for batch in config.batch]
        return {
            "arch": config.arch,
            "image": list(image),
            "rounds": config.rounds,
            "rows": rows,
            "processor": processor(),
            "cores": os.cpu_count(),
            "onnxruntime": onnx and onnx_version(),
            **describe(device),
        }


def of_one_image(trained: TrainedNetwork) -> float:
    """Median milliseconds of 50 passes of one image, in fp32 and by one thread of this machine's CPU."""
    image = torch.rand(1, trained.in_channels, *trained.image_size)
    with using_threads(1), torch.no_grad():
        return spread(timed(lambda: trained.network(image), 50, torch.device("cpu")))["median"]


def _subject(config: LatencyConfig) -> Subject:
    """Raises ValueError where there is no such network."""
    if _is_trained(config.arch):
        trained = weights.load(Path(config.arch) / weights.NAME)
        return Subject(trained.network, (trained.in_channels, *trained.image_size))
    architecture = resolve(config.arch, config.network, config.handmade).architecture
    imagenet = is_library(config.arch) or handmade.is_imagenet(config.arch)
    side, classes = config.image_size or (224 if imagenet else 32), config.classes or (1000 if imagenet else 10)
    channels = config.channels or 3
    network = architecture.build(in_channels=channels, image_size=(side, side), num_classes=classes)
    return Subject(network.eval(), (channels, side, side))


def _is_trained(arch: str) -> bool:
    """Whether this is the directory of a training run; one that has not ended is not to pass for its genotype."""
    return os.path.isfile(os.path.join(arch, "config.json")) and "arch" in read_config(Path(arch))


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """PyTorch computes on so many threads of the CPU within it; None: on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _onnx(network: nn.Module, image: tuple[int, int, int], device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """The network in ONNX Runtime, with as many threads as PyTorch has; None, and a line that says why, without it."""
    if device.type != "cpu":
        say("ONNX Runtime is not timed: that is done on a CPU only (--device cpu)")
        return None
    try:
        check_packages()
    except ValueError as missing:
        say(f"ONNX Runtime is not timed: {missing}")
        return None
    return onnx_runner(onnx_bytes(network, torch.zeros(2, *image)), threads=torch.get_num_threads())


def _row(
    network: nn.Module,
    onnx: Callable[[Tensor], Tensor] | None,
    shape: tuple[int, ...],
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """The times of a batch of the shape (N, C, H, W)."""
    with memory_refused(shape[0], device):
        images = torch.rand(shape)
        there = images.to(device)
        # One after the other: idle threads of ONNX Runtime go on for a while, and would slow PyTorch down.
        torch_ms = spread(timed(lambda: network(there), rounds, device))
        onnx_ms = spread(timed(lambda: onnx(images), rounds, device)) if onnx else None
    return {"batch": shape[0], "torch_ms": torch_ms, "onnx_ms": onnx_ms}


@contextmanager
def memory_refused(batch: int, device: torch.device) -> Iterator[None]:
    """Raises UsageError where a batch of so many images does not fit into the memory."""
    try:
        yield
    except RuntimeError as error:  # on a GPU torch.OutOfMemoryError, a subclass
        if not any(told in str(error) for told in ("out of memory", "allocate memory")):
            raise
        raise UsageError(f"--batch {batch} does not fit into the memory of the device {device}; give fewer") from error


def timed(run: Callable[[], object], rounds: int, device: torch.device) -> list[float]:
    """Milliseconds until the device has finished each of `rounds` calls, after `_WARM_UP` that are not counted."""
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    times = []
    for _ in range(_WARM_UP + rounds):
        wait()
        start = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return times[_WARM_UP:]


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, and the quantiles that 10 % and 90 % of two or more times do not exceed, interpolated."""
    deciles = statistics.quantiles(times, n=10, method="inclusive")
    found = {"median": statistics.median(times), "low": deciles[0], "high": deciles[-1]}
    return {name: round(value, 4) for name, value in found.items()}


def processor() -> str:
    """The CPU in words, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the result as a row of the table."""
    cells: dict[str, Any] = {"batch": row["batch"]}
    for name, times in (("PyTorch", row["torch_ms"]), ("ONNX Runtime", row["onnx_ms"])):
        cells[f"{name} ms"] = times and times["median"]
        cells[f"{name} 10 to 90 %"] = times and f"{times['low']:,.2f} to {times['high']:,.2f}"
    return {**cells, "images/s": 1e3 * row["batch"] / row["torch_ms"]["median"]}


def check_flags(arch: str, given: Iterable[str]) -> None:
    """Raises ValueError for a flag that does not go with `arch`.

    Args:
        arch: what is timed.
        given: the names of the fields that the user has set.
    """
    if not _is_trained(arch):
        return check_given(arch, given)
    decided = {"image_size", "channels", "classes"}
    decided |= {option.name for config in (NetworkConfig, HandmadeConfig) for option in fields(config)}
    for name in given:
        if name in decided:
            raise ValueError(f"{flag(name)} is for new networks; {arch} is a trained one, leave it out")


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, times, prints the table, returns the result."""
    config = cli.parse(LatencyConfig, argv, description=__doc__ or "")
    with users_mistakes():
        check_flags(config.arch, cli.fields_given(argv, of=LatencyConfig))
    result = latency(config)
    print(table([_shown(row) for row in result["rows"]]))
    return result


def main() -> None:
    """The console command `optinas-latency`."""
    cli.run(command)


if __name__ == "__main__":
    main()
