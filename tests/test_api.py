"""The package from Python: searches, trainings and evaluations as functions, which leave nothing behind."""

from __future__ import annotations

import configparser
import doctest
import inspect
import json
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # imported later, it would make its folder of caches in a temporary folder of a test

import nas.search
import nas.train
import nas.training_recipes
import optinas
import optinas.arrays
from genotypes import Genotype
from nas import cli
from nas.data import DataConfig
from nas.errors import NonFiniteLossError, Stopped
from nas.genotype_commands import Derive, Random
from nas.methods.config import SearchConfig
from nas.methods.relaxation import Relaxation
from nas.options import leaves
from optinas.options import spelled

ROOT = Path(__file__).parent.parent
PIXELS = np.random.default_rng(0).integers(256, size=(24, 8, 8), dtype=np.uint8)
LABELS = ["cat", "dog", "eel"] * 8
TINY: dict[str, Any] = {"preset": "smoke", "epochs": 1, "layers": 2, "batch_size": 8, "device": "cpu"}
SEARCH: dict[str, Any] = {**TINY, "init_channels": 2, "nodes": 2, "operations": ["skip_connect", "neg_skip_connect"]}
TRAIN: dict[str, Any] = {**TINY, "init_channels": 4}


def images() -> optinas.Arrays:
    return optinas.Arrays(PIXELS, LABELS)


def test_a_method_is_a_name_or_an_instance() -> None:
    with pytest.raises(ValueError, match="it must be a name, or an instance of a subclass of nas.methods.Method"):
        optinas.search(method=Relaxation(), preset="smoke")
    with pytest.raises(ValueError, match="unknown search method 'dart'; did you mean 'darts'?"):
        optinas.search(method="dart", preset="smoke")


def test_a_search_a_training_and_an_evaluation_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    handlers, numbers = signal.getsignal(signal.SIGTERM), torch.get_rng_state()

    with ThreadPoolExecutor(1) as pool:  # where no signals can be handled
        found = pool.submit(optinas.search, dataset=images(), space="agd", **SEARCH).result()
    trained = optinas.train(found, dataset=images(), **TRAIN)
    measured = optinas.evaluate(trained, dataset=images())

    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert signal.getsignal(signal.SIGTERM) is handlers
    assert torch.equal(torch.get_rng_state(), numbers)

    assert isinstance(found.genotype, Genotype)
    assert [row["valid_accuracy"] for row in found.history] == [found.valid_accuracy]
    assert (found.params, found.macs) == (found.record.result.params, found.record.result.macs)
    with pytest.raises(ValueError, match="this search has left no directory to derive from; search with run_dir"):
        optinas.derive(found)
    assert (found.run_dir, found.record.result.run_dir, found.config.run.run_dir) == (None, "", None)
    assert trained.record.search == found.record
    assert trained.network.classes == ("cat", "dog", "eel")
    assert len(trained.network.predict(list(PIXELS[:2]))) == 2
    assert (measured.test_accuracy, measured.macs, measured.note) == (trained.test_accuracy, trained.macs, None)
    others = optinas.Arrays(PIXELS, LABELS, test_images=PIXELS[:3], test_labels=LABELS[:3])
    assert "test images are not those of the training" in str(optinas.evaluate(trained, dataset=others).note)


def test_a_named_directory_is_the_run_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = {"dataset": "fake", "fake_train": 24, "fake_test": 10, "fake_classes": 3, "image_size": 8}
    options = {**TRAIN, **fake, "run_dir": tmp_path / "run"}
    trained = optinas.train("DARTS_V2", progress=True, **options)
    assert "epoch   1" in capsys.readouterr().out

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    argv = ["--arch", "DARTS_V2", *flags]
    default = cli.preset(nas.training_recipes.presets_for("DARTS_V2"), argv)
    assert trained.config == cli.parse(nas.train.TrainConfig, argv, description="", default=default)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test_accuracy"] == trained.test_accuracy

    again = optinas.train("DARTS_V2", resume=True, **options)
    assert (again.test_accuracy, again.record.architecture) == (trained.test_accuracy, trained.record.architecture)
    assert optinas.load(tmp_path / "run").architecture == trained.network.architecture
    assert optinas.evaluate(tmp_path / "run", device="cpu").test_accuracy == trained.test_accuracy
    with pytest.raises(ValueError, match=r"choose another run_dir, or continue the run in it with resume=True"):
        optinas.train("DARTS_V2", **options)


def test_every_flag_is_an_option_that_help_shows() -> None:
    own = {"run_dir", "out", "number"}  # of the commands that derive and draw
    for function, config, without in (
        (optinas.search, SearchConfig(), set()),
        (optinas.train, nas.train.TrainConfig(), set()),
        (optinas.derive, Derive(run_dir=""), own),
        (optinas.random_genotype, Random(), own),
    ):
        assert leaves(config).keys() - without <= inspect.signature(function).parameters.keys()
        assert inspect.getdoc(function)


#: The call, and what its error says.
MISTAKES: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "name": (lambda: optinas.search(epoch=1), TypeError, r"argument 'epoch'; did you mean 'epochs'\?"),
    "name of an evaluation": (lambda: optinas.evaluate("run", epochs=1), TypeError, "argument 'epochs'"),
    "data set of another type": (
        lambda: optinas.search(dataset=(PIXELS, LABELS)),
        TypeError,
        "type tuple; give a name",
    ),
    "type": (lambda: optinas.search(epochs="1"), ValueError, "epochs is '1'; it must be a whole number"),
    "choice": (
        lambda: optinas.train("DARTS_V2", schedule="x"),
        ValueError,
        "it must be cosine or exponential or step",
    ),
    "value": (lambda: optinas.search(epochs=0), ValueError, "^epochs is 0; it must be"),
    "preset": (lambda: optinas.search(preset="x"), ValueError, "preset is 'x'; it must be 'paper' or 'smoke'"),
    "data set": (lambda: optinas.search(dataset="digit"), ValueError, "did you mean digits"),
    "data": (lambda: optinas.search(dataset="folder"), ValueError, "^dataset folder needs data FOLDER"),
    "data of arrays": (lambda: optinas.search(dataset=images(), data="x"), ValueError, "^data and download=True are"),
    "resume": (lambda: optinas.search(resume=True), ValueError, "resume=True needs run_dir"),
    "arch": (lambda: optinas.train("DARTS_V9"), ValueError, "did you mean DARTS_V2"),
    "kind": (lambda: optinas.train(optinas.genotype("DARTS_V2"), growth=3), ValueError, "^growth is for hand-made"),
    "kind, with its default": (lambda: optinas.train("hbnet8", layers=20), ValueError, "^layers is for networks of c"),
    "weights": (lambda: optinas.load("nothing"), ValueError, "nothing does not exist"),
    "genotype": (lambda: optinas.genotype("DARTS_V9"), ValueError, "did you mean DARTS_V2"),
    "name of a derivation": (lambda: optinas.derive("run", out="g.json"), TypeError, "argument 'out'"),
    "run": (lambda: optinas.derive("nothing"), ValueError, "nothing"),
    "limit": (lambda: optinas.random_genotype(max_params=5), ValueError, "the smallest possible has"),
    "limits": (lambda: optinas.random_genotype(max_skips=5), TypeError, "did you mean"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_an_exception_that_names_no_flag(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, kind, told = MISTAKES[case]
    with pytest.raises(kind, match=told) as caught:
        call()
    assert "--" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_flags_are_spelled_as_options() -> None:
    flags = leaves(SearchConfig())
    assert spelled("--no-augment leaves --crop-padding; a -- b, x--y", flags) == (
        "augment=False leaves crop_padding; a -- b, x--y"
    )


def test_ctrl_c_and_a_spoiled_loss_are_the_exceptions_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(config: SearchConfig, **options: object) -> None:
        raise Stopped(signal.SIGINT)

    def spoiled(config: SearchConfig, **options: object) -> None:
        raise NonFiniteLossError(f"it is in {config.run.run_dir}; try --precision fp32")

    monkeypatch.setattr(nas.search, "search", stopped)
    with pytest.raises(KeyboardInterrupt):
        optinas.search()
    monkeypatch.setattr(nas.search, "search", spoiled)
    with pytest.raises(RuntimeError, match="^it is in a temporary directory; try precision fp32$"):
        optinas.search()


def test_arrays_and_tensors_of_one_content_are_one_data_set() -> None:
    colour = np.random.default_rng(0).integers(256, size=(24, 6, 5, 3), dtype=np.uint8)
    config = replace(DataConfig(), image_size=None)
    arrays = optinas.Arrays(colour, np.array(LABELS)).data(config)
    tensors = optinas.Arrays(torch.from_numpy(colour).permute(0, 3, 1, 2), LABELS).data(config)
    assert arrays.manifest() == tensors.manifest()
    assert (arrays.channels, arrays.image_size, arrays.classes) == (3, (6, 5), ("cat", "dog", "eel"))
    assert [len(arrays.train_labels), len(arrays.test_labels)] == [19, 5]
    numbers = optinas.Arrays(PIXELS, [10, 9, 2] * 8, test_images=PIXELS[:2], test_labels=torch.tensor([10, 2]))
    assert numbers.classes == ("2", "9", "10")
    assert numbers.data(config).test_labels.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((PIXELS / 255, LABELS), "images are float64; scale them to 0..255"),
        ((PIXELS[0], LABELS), r"the shape \(8, 8\); it must be \(N, H, W\) or \(N, H, W, C\)"),
        ((PIXELS.reshape(24, 1, 8, 8), LABELS), "where C is 1 or 3"),
        ((PIXELS, LABELS[:5]), "images are 24 and labels 5"),
        ((PIXELS, np.zeros(24)), "labels are float64"),
        ((PIXELS, [0] * 24), "labels hold 1 class"),
        ((PIXELS, LABELS, PIXELS, None), "give both or neither"),
        ((PIXELS, LABELS, PIXELS, ["ant"] * 24), "test_labels hold 'ant', which labels do not"),
        ((PIXELS, LABELS, PIXELS[:, :4], LABELS), r"test_images are \(1, 4, 8\) and images \(1, 8, 8\)"),
    ],
)
def test_faulty_arrays_are_refused(arguments: tuple[Any, ...], told: str) -> None:
    tests = dict(zip(("test_images", "test_labels"), arguments[2:], strict=False))
    with pytest.raises(ValueError, match=told):
        optinas.Arrays(*arguments[:2], **tests)


def test_examples_of_docstrings_that_take_no_time_are_right() -> None:
    assert doctest.testmod(optinas.arrays).failed == 0


def test_a_picture_shows_itself_in_a_notebook() -> None:
    drawn = optinas.draw(optinas.genotype("DARTS_V2").normal, "title")
    assert "<svg" in drawn._repr_svg_()


def test_the_version_is_written_once() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: nas.__version__"


#: The notebooks, and what each leaves in the working folder.
NOTEBOOKS = [
    pytest.param("digits.ipynb", set(), id="digits"),
    pytest.param("folder.ipynb", {"my_digits", "runs"}, id="folder", marks=pytest.mark.slow),
]


def no_packages() -> None:
    raise ValueError("onnx is not installed")


@pytest.mark.parametrize(("name", "left_over"), NOTEBOOKS)
def test_a_notebook_runs(name: str, left_over: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings of its first cell made small, and without an export."""
    path = ROOT / "examples" / name
    for module in ("nas.auto.stages", "nas.latency"):
        monkeypatch.setattr(f"{module}.check_packages", no_packages)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
    small = {"batch_size": 359, "device": "cpu"}
    names: dict[str, Any] = {"SEARCH": {**SEARCH, **small}, "TRAIN": {**TRAIN, **small}}
    names["AUTO"] = {"epochs": 1, "search_epochs": 1, "device": "cpu"}
    for cell in cells[1:]:
        exec("".join(cell["source"]), names)
    assert {path.name for path in tmp_path.iterdir()} == left_over


def test_every_notebook_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.ipynb")} == {case.values[0] for case in NOTEBOOKS}
