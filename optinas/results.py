"""What the functions of the package return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from genotypes import Genotype
from nas.methods.config import SearchConfig
from nas.networks.weights import TrainedNetwork
from nas.runs.record import SearchRecord, TrainRecord
from nas.train import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search has found.

    Attributes:
        genotype: of the last epoch.
        valid_accuracy: percent; the supernet's, on the architecture's half of the training images.
        params: parameters of the genotype's network in the published form for the data set; None if not counted.
        macs: multiply-adds of that network for one image; None if not counted.
        latency_ms: milliseconds of that network as latency_table predicts them; None without one.
        seconds: of computing.
        run_dir: where the run is kept; None if nowhere.
        history: a row of figures for each epoch, as in `metrics.csv`.
        config: the whole configuration.
        record: the result with the settings, the seed and the images that decided it.
    """

    genotype: Genotype
    valid_accuracy: float
    params: int | None
    macs: int | None
    latency_ms: float | None
    seconds: float
    run_dir: Path | None
    history: tuple[Mapping[str, float], ...] = field(repr=False)
    config: SearchConfig = field(repr=False)
    record: SearchRecord = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What has been derived from the state of a search.

    Attributes:
        genotype: the strongest within the limits.
        params: parameters of its network.
        macs: multiply-adds of that network for one image.
        latency_ms: milliseconds of that network as latency_table predicts them; None without one.
        epochs: after so many the search was in that state.
        note: that the search itself took the genotype of an earlier epoch; None if it did not.
    """

    genotype: Genotype
    params: int
    macs: int
    latency_ms: float | None = None
    epochs: int
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a trained network does on the test images, and what it costs.

    Attributes:
        test_accuracy: percent.
        test_error: percent.
        test_top5_error: percent; None for 5 classes or fewer.
        params: parameters.
        macs: multiply-adds of one image.
        seconds: of the measurement, or of the training.
        note: how the test images differ from those of the training; None if they do not, or if that is not known.
    """

    test_accuracy: float
    test_error: float
    test_top5_error: float | None
    params: int
    macs: int
    seconds: float
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Trained(Evaluation):
    """A trained network and its figures, those of the last epoch.

    Attributes:
        network: on the CPU, in evaluation mode; `network.predict` takes images.
        run_dir: where the run is kept; None if nowhere.
        history: a row of figures for each epoch, as in `metrics.csv`.
        config: the whole configuration.
        record: the result with the architecture, the settings, the seed and the images that decided it, and with the
            record of the search if there was one.
    """

    network: TrainedNetwork = field(repr=False)
    run_dir: Path | None
    history: tuple[Mapping[str, float], ...] = field(repr=False)
    config: TrainConfig = field(repr=False)
    record: TrainRecord = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Automatic(Trained):
    """A network that was searched and trained for a folder of images, and where its files are.

    Attributes:
        latency_ms: median of an image by PyTorch.
        onnx_latency_ms: the same by ONNX Runtime; None where that is not installed.
        predicted_latency_ms: what the search predicted; None without max_latency.
        weights: file that `optinas.load` and `optinas-predict` read.
        onnx: the network as ONNX; None where the packages for it are not installed.
        report: page of the training.
    """

    latency_ms: float
    onnx_latency_ms: float | None
    predicted_latency_ms: float | None
    weights: Path
    onnx: Path | None
    report: Path


@dataclass(frozen=True)
class Picture:
    """A picture that a notebook shows where it is the value of a cell.

    Attributes:
        svg: the content of a file.
    """

    svg: str = field(repr=False)

    def _repr_svg_(self) -> str:
        return self.svg
