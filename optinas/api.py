"""The functions of the package."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec
import torch
from msgspec import UNSET

import genotypes
import nas.auto.stages
import nas.evaluate
import nas.recipes
import nas.search
import nas.train
import nas.training_recipes
import spaces
from genotypes import CellGenotype, Genotype
from genotypes.draw import picture
from nas import data, screen
from nas.auto.plan import AutoConfig
from nas.data import DataConfig, ImageData, manifest
from nas.data.manifest import Manifest
from nas.errors import Stopped, users_mistakes
from nas.evaluate import EvaluateConfig, check_split
from nas.genotype_commands import Derive, Random
from nas.methods import Method
from nas.methods.config import with_method
from nas.networks import architecture, weights
from nas.networks.weights import TrainedNetwork
from nas.options import configured, leaves
from nas.runs import record
from nas.runs.directory import read_config
from nas.runs.record import EvaluationResult, SearchRecord, TrainRecord
from nas.train import TrainConfig
from optinas.arrays import NAME, Arrays
from optinas.options import check_names, errors_worded, shows, spelled
from optinas.results import Automatic, Derived, Evaluation, Found, Picture, Trained

PathLike = str | os.PathLike[str]
C = TypeVar("C")

_SEARCH = leaves(nas.recipes.PRESETS["paper"]("digits"))
_TRAIN = leaves(nas.training_recipes.PRESETS["paper"]("digits"))
del _TRAIN["arch"]  # the first argument of train()
_EVALUATE = {
    **leaves(DataConfig()),
    **{name: _TRAIN[name] for name in ("device", "deterministic", "precision")},
}
_DERIVE = leaves(Derive(run_dir=""))
del _DERIVE["run_dir"], _DERIVE["out"]  # the first argument of derive(), and what it returns
_RANDOM = leaves(Random())
del _RANDOM["number"], _RANDOM["out"]  # random_genotype() returns one
_AUTO = leaves(AutoConfig(folder=""))
del _AUTO["folder"], _AUTO["out"]  # the arguments of auto()
_ALL = _SEARCH | _TRAIN | _DERIVE | _RANDOM | _AUTO


@shows(_SEARCH)
def search(
    *,
    dataset: str | Arrays = "digits",
    preset: str = "paper",
    method: str | Method | None = None,
    run_dir: PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> Found:
    """Search an architecture.

    The options are the flags of `optinas-search`, whose help explains them, with underscores in their names. The
    defaults shown are those of the preset "paper".

    Args:
        dataset: digits, cifar10, cifar100, imagenet, folder (with `data`, its path), or `Arrays`.
        preset: sets the defaults of all options: paper, the published protocol; smoke, minutes on a CPU; small, for
            a few hundred to a few thousand images.
        method: name of a search method, whose constants are further options, or one of your own, an instance of a
            subclass of `nas.methods.Method` (default: the preset's).
        run_dir: directory that keeps the run with its checkpoints, so that `resume=True` can continue it; by default
            the run leaves nothing.
        progress: print what the search works on, and a line for each epoch.
        options: such as space="hb", epochs=8, unrolled=True, seed=1, device="cuda".

    Returns:
        The genotype with the search's figures and record.

    Raises:
        TypeError: there is no such option.
        ValueError: a value, the data or the directory is not right; the message says how to fix it.
        RuntimeError: the loss is no longer finite.
        OSError: a file cannot be written.

    Example:
        >>> found = optinas.search(space="hb", dataset="digits", preset="smoke")
        >>> optinas.draw(found.genotype.normal)
    """
    default = _preset(nas.recipes.PRESETS, dataset, preset)
    if not isinstance(method, str | Method | None):
        raise ValueError(f"method is {method!r}; it must be a name, or an instance of a subclass of nas.methods.Method")
    if method is not None:
        with users_mistakes():
            default = with_method(default, method)
    check_names("search", options, leaves(default))
    with _call(run_dir, options, progress) as directory:
        config = _configured(default, dataset, {**options, "run_dir": directory})
        nas.search.search(config, images=_in_memory(dataset, config.data))
        kept = record.read(directory)
        assert isinstance(kept, SearchRecord)
        return Found(
            genotype=genotypes.load(directory / "genotype.json"),
            valid_accuracy=kept.result.valid_accuracy,
            params=None if kept.result.params is UNSET else kept.result.params,
            macs=None if kept.result.macs is UNSET else kept.result.macs,
            latency_ms=None if kept.result.latency_ms is UNSET else kept.result.latency_ms,
            seconds=kept.result.seconds,
            run_dir=_named(run_dir),
            history=_history(directory),
            config=_without_path(config, run_dir),
            record=_without_directory(kept, run_dir),
        )


@shows(_TRAIN)
def train(
    arch: PathLike | Genotype | Found,
    *,
    dataset: str | Arrays = "digits",
    preset: str = "paper",
    run_dir: PathLike | None = None,
    progress: bool = False,
    **options: Any,
) -> Trained:
    """Train the network of a genotype, a hand-made one, or one of torchvision or timm, and test it.

    The options are the flags of `optinas-eval`, whose help explains them, with underscores in their names. The
    defaults shown are those of the preset "paper" for genotypes; other networks have others.

    Args:
        arch: what `search` returned, a genotype, the name of a published one (DARTS_V2) or of a hand-made network
            (hbnet56), a genotype file, or the directory of a search run.
        dataset: digits, cifar10, cifar100, imagenet, folder (with `data`, its path), or `Arrays`.
        preset: sets the defaults of all options: paper, the published protocol; smoke, minutes on a CPU; small, for
            a few hundred to a few thousand images.
        run_dir: directory that keeps the run with its checkpoints, so that `resume=True` can continue it; by default
            the run leaves nothing.
        progress: print what the training works on, and a line for each epoch.
        options: such as epochs=100, layers=8, init_channels=16, seed=1, device="cuda".

    Returns:
        The network with the training's figures and record.

    Raises:
        TypeError: there is no such option.
        ValueError: a value, the architecture, the data or the directory is not right; the message says how to fix it.
        RuntimeError: the loss is no longer finite.
        OSError: a file cannot be written.

    Example:
        >>> trained = optinas.train("DARTS_V2", dataset="digits", preset="smoke")
        >>> trained.network.predict("photo.png")
    """
    check_names("train", options, _TRAIN)
    with _call(run_dir, options, progress) as directory:
        given = arch.genotype if isinstance(arch, Found) else arch
        name = genotypes.to_text(given) if isinstance(given, Genotype) else os.fspath(given)
        with users_mistakes():
            architecture.check_given("a genotype" if isinstance(given, Genotype) else name, options)
        recipes = nas.training_recipes
        presets = recipes.PRESETS if isinstance(given, Genotype) else recipes.presets_for(name)
        config = _configured(
            _preset(presets, dataset, preset), dataset, {**options, "run_dir": directory, "arch": name}
        )
        resolved = None
        if isinstance(given, Genotype):
            with users_mistakes():
                resolved = architecture.resolve(given, config.network, config.handmade, config.library)
        if isinstance(arch, Found):
            assert resolved is not None
            resolved = resolved._replace(search=arch.record)
        nas.train.train(config, images=_in_memory(dataset, config.data), resolved=resolved)
        return Trained(**_trained(directory, run_dir, config))


@shows(_AUTO)
def auto(folder: PathLike, out: PathLike, *, progress: bool = False, **options: Any) -> Automatic:
    """Search and train a small network for the images in a folder: `optinas-auto` from Python.

    The options are the flags of that command, whose help explains them.

    Args:
        folder: one folder a class, or `train` and `test` with class folders in each.
        out: directory for the runs, the network and the report; the same call resumes what was stopped there, and
            computes nothing that is finished.
        progress: print a line for each stage, with how long it will take.
        options: such as max_params=100_000, image_size=64, seed=1, device="cuda".

    Returns:
        The network with the training's figures and record, and the paths of its files.

    Raises:
        TypeError: there is no such option.
        ValueError: a value, the folder or `out` is not right; the message says how to fix it.
        RuntimeError: the loss is no longer finite.
        OSError: a file cannot be written.

    Example:
        >>> made = optinas.auto("my_images", "runs/mine", progress=True)
        >>> made.network.predict("photo.jpg")
    """
    check_names("auto", options, _AUTO)
    with _call(out, options, progress) as directory:
        with users_mistakes():
            config = configured(AutoConfig(folder=os.fspath(folder), out=str(directory)), options)
        made = nas.auto.stages.auto(config)
        run = Path(made.weights).parent
        with users_mistakes():
            trained = msgspec.convert(read_config(run), TrainConfig)
        return Automatic(
            **_trained(run, run, trained),
            latency_ms=made.latency_ms,
            onnx_latency_ms=made.onnx_latency_ms,
            predicted_latency_ms=made.predicted_latency_ms,
            weights=Path(made.weights),
            onnx=None if made.onnx is None else Path(made.onnx),
            report=Path(made.report),
        )


@shows(_EVALUATE)
def evaluate(
    network: Trained | TrainedNetwork | PathLike, *, dataset: str | Arrays | None = None, **options: Any
) -> Evaluation:
    """Measure a trained network on test images.

    The options are those of the data, and `device`, `deterministic` and `precision`.

    Args:
        network: what `train` or `load` returned, or the directory of a training run.
        dataset: digits, cifar10, cifar100, imagenet, folder (with `data`, its path), or `Arrays`; by default, and with
            all options of the data, as in the training. It must have the classes that the network was trained on.
        options: such as data="my_images", batch_size=256, device="cuda".

    Returns:
        Accuracy and cost.

    Raises:
        TypeError: there is no such option, or no data set to fall back on.
        ValueError: a value, the network or the data is not right; the message says how to fix it.

    Example:
        >>> optinas.evaluate("runs/hb-eval").test_accuracy
    """
    check_names("evaluate", options, _EVALUATE)
    with errors_worded(_worded):
        before, trained_on = _training_of(network)
        with users_mistakes():
            loaded = load(network) if isinstance(network, str | os.PathLike) else network
        trained = loaded.network if isinstance(loaded, Trained) else loaded
        if dataset is None:
            if before is None or before.data.dataset == NAME:
                raise TypeError("evaluate() needs a dataset here: nothing says which images the network is for")
            dataset = before.data.dataset
        config = before or EvaluateConfig()
        if isinstance(dataset, Arrays):
            config = replace(config, data=replace(config.data, data=None, download=False))
        with users_mistakes():
            config = configured(config, {**options, "dataset": _name(dataset)})
            if before is not None:
                check_split(config.data, before.data)
            images = trained.normalized(_in_memory(dataset, config.data) or data.load(config.data, trained.view))
        device = next(trained.network.parameters()).device
        try:
            figures = nas.evaluate.measured(trained, images, config)
        finally:
            trained.network.to(device)
        note = None if trained_on is None else manifest.compare_tests(trained_on, images.manifest())
        return Evaluation(**{"test_top5_error": None, **_without_unset(figures)}, note=note)


def load(path: PathLike) -> TrainedNetwork:
    """Read a trained network, on the CPU and in evaluation mode.

    A file may come from a stranger: nothing in it is executed or imported.

    Args:
        path: the directory of a training run, or a file `weights.safetensors`.

    Raises:
        ValueError: it is not there, is damaged, or is no such file.

    Example:
        >>> network = optinas.load("runs/hb-eval")
        >>> network.predict("photo.png")
    """
    return weights.load(path)


def genotype(name: PathLike) -> Genotype:
    """Read a genotype.

    Args:
        name: of a published genotype (DARTS_V2), of a file (NAME of several in it: FILE:NAME), or of the directory of
            a run.

    Raises:
        ValueError: it is none of them, or the file is faulty.

    Example:
        >>> optinas.genotype("DARTS_V2").normal
    """
    spaces.load_installed()  # whose operations the genotype may have
    return genotypes.resolve(name)


@shows(_DERIVE)
def derive(run: PathLike | Found, **options: Any) -> Derived:
    """Derive the strongest genotype within limits from the newest checkpoint of a search, ended or not.

    The options are the flags of `optinas-genotype derive`.

    Args:
        run: the directory of a search, or what `search` returned if it has a `run_dir`. Nothing in it is changed.
        options: such as max_params=3_500_000, max_macs=600_000_000, eval_form="imagenet", max_skips=2, or max_latency=5
            (milliseconds) with latency_table="hb.json", a file of `optinas-latency-table`.

    Returns:
        The genotype with the size of its network, in the published form for the search's data set or the one asked for.

    Raises:
        TypeError: there is no such option.
        ValueError: a value or the directory is not right, or no genotype is within the limits; the message says what
            is possible.

    Example:
        >>> small = optinas.derive("runs/hb", max_params=3_500_000)
        >>> optinas.train(small.genotype, dataset="digits", preset="smoke")
    """
    check_names("derive", options, _DERIVE)
    directory = run.run_dir if isinstance(run, Found) else run
    if directory is None:
        raise ValueError("this search has left no directory to derive from; search with run_dir")
    with errors_worded(_worded):
        with users_mistakes():
            command = configured(Derive(run_dir=os.fspath(directory)), options)
        found, epochs, note = command.derived()
    return Derived(**found._asdict(), epochs=epochs, note=note)


@shows(_RANDOM)
def random_genotype(**options: Any) -> Genotype:
    """Draw a genotype of a search space at random, all that are within the limits being equally likely.

    The options are the flags of `optinas-genotype random`.

    Args:
        options: such as space="hb", seed=1, max_params=3_500_000.

    Raises:
        TypeError: there is no such option.
        ValueError: a value is not right, or no genotype is within the limits; the message says what is possible.

    Example:
        >>> optinas.train(optinas.random_genotype(space="hb", seed=1), dataset="digits", preset="smoke")
    """
    check_names("random_genotype", options, _RANDOM)
    with errors_worded(_worded):
        with users_mistakes():
            command = configured(Random(), options)
        (found,) = command.drawn([command.seed]).values()
    return found.genotype


def draw(cell: CellGenotype, title: str = "") -> Picture:
    """Draw a cell.

    Args:
        cell: `normal` or `reduce` of a genotype.
        title: written above it.

    Raises:
        ValueError: the cell is not valid.

    Example:
        >>> optinas.draw(optinas.genotype("DARTS_V2").normal, "DARTS, normal cell")
    """
    return Picture(picture(cell, "svg", title).decode())


@contextmanager
def _call(run_dir: PathLike | None, options: Mapping[str, object], progress: bool) -> Iterator[Path]:
    """Around a run: gives its directory, and leaves the program as it was, but for what it was asked for.

    A signal that ended the run is raised again, for whoever handles it without us.
    """
    if run_dir is None and options.get("resume"):
        raise ValueError("resume=True needs run_dir, the directory of the run to continue")
    try:
        with ExitStack() as stack:
            wording: Callable[[str], str] = _worded
            if run_dir is None:
                directory = Path(stack.enter_context(TemporaryDirectory(prefix="optinas-"))) / "run"
                wording = partial(_worded, temporary=str(directory))
            else:
                directory = Path(run_dir).expanduser()
            stack.enter_context(errors_worded(wording))
            stack.enter_context(screen.shown_by((lambda line: print(wording(line), flush=True)) if progress else None))
            # Where CUDA is not in use yet, its random numbers are nobody's.
            gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
            stack.enter_context(torch.random.fork_rng(gpus))
            yield directory
    except Stopped as stop:
        signal.raise_signal(stop.signal)
        raise KeyboardInterrupt from None


def _worded(line: str, temporary: str | None = None) -> str:
    """A line for whoever calls from Python, and has not named the directory `temporary`."""
    return spelled(line if temporary is None else line.replace(temporary, "a temporary directory"), _ALL)


def _preset(presets: Mapping[str, Callable[[str], C]], dataset: str | Arrays, preset: str) -> C:
    if preset not in presets:
        raise ValueError(f"preset is {preset!r}; it must be {' or '.join(map(repr, presets))}")
    return presets[preset](_name(dataset))


def _configured(default: C, dataset: str | Arrays, options: Mapping[str, object]) -> C:
    with users_mistakes():
        return configured(default, {**options, "dataset": _name(dataset)})


def _name(dataset: str | Arrays) -> str:
    if isinstance(dataset, str | Arrays):
        return NAME if isinstance(dataset, Arrays) else dataset
    raise TypeError(f"dataset is of the type {type(dataset).__name__}; give a name, or optinas.Arrays(images, labels)")


def _in_memory(dataset: str | Arrays, config: DataConfig) -> ImageData | None:
    return dataset.data(config) if isinstance(dataset, Arrays) else None


def _training_of(network: Trained | TrainedNetwork | PathLike) -> tuple[EvaluateConfig | None, Manifest | None]:
    """How a network is measured as it was trained, and on which images it was, where that is known."""
    if isinstance(network, Trained):
        return EvaluateConfig(precision=network.config.precision, data=network.config.data), network.record.data
    if isinstance(network, TrainedNetwork) or not os.path.isdir(network):
        return None, None
    config = nas.evaluate.as_trained(os.fspath(network))
    try:
        return config, manifest.read(Path(network))
    except ValueError:
        return config, None


def _trained(directory: Path, run_dir: PathLike | None, config: TrainConfig) -> dict[str, Any]:
    """What a finished training has left in its directory, as the fields of `Trained`."""
    kept = record.read(directory)
    assert isinstance(kept, TrainRecord)
    return {
        **_figures(kept.result),
        "network": weights.load(directory / weights.NAME),
        "run_dir": _named(run_dir),
        "history": _history(directory),
        "config": _without_path(config, run_dir),
        "record": _without_directory(kept, run_dir),
    }


def _figures(result: EvaluationResult) -> dict[str, Any]:
    names = ("test_accuracy", "test_error", "test_top5_error", "params", "macs", "seconds")
    return {"test_top5_error": None, **_without_unset({name: getattr(result, name) for name in names})}


def _without_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not UNSET}


def _history(directory: Path) -> tuple[Mapping[str, float], ...]:
    """The rows of metrics.csv; none where it could not be written, which stops no run."""
    try:
        with (directory / "metrics.csv").open(newline="") as file:
            return tuple({name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file))
    except FileNotFoundError:
        return ()


def _named(run_dir: PathLike | None) -> Path | None:
    return None if run_dir is None else Path(run_dir).expanduser()


def _without_path(config: Any, run_dir: PathLike | None) -> Any:
    return config if run_dir is not None else replace(config, run=replace(config.run, run_dir=None))


def _without_directory(kept: Any, run_dir: PathLike | None) -> Any:
    """The record of a run that nothing is left of does not name its directory."""
    if run_dir is not None:
        return kept
    return msgspec.structs.replace(kept, result=msgspec.structs.replace(kept.result, run_dir=""))
