"""What the documents promise is run as it stands there; long runs are shortened by `SHORTER`, nothing else."""

from __future__ import annotations

import configparser
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nas.recipes
import nas.training_recipes
import spaces
from nas.networks import handmade
from nas.networks.cost import count_macs, count_parameters

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
TEXT = {path.stem: path.read_text() for path in DOCUMENTS}

FAKE = "--dataset fake --fake-train 24 --fake-test 10 --image-size 8 --batch-size 12"
TINY = "--epochs 1 --layers 2 --init-channels 2"
#: What stands for the hand-made networks.
SMALLER = {"hbnet56": "hbnet8", "resnet56": "resnet8", "agdnet40": "agdnet10"}

#: How a command that trains is made short: every one must hold one of these texts. The longest counts.
SHORTER = {
    "--dataset cifar10 --data data --download": f"{FAKE} {TINY}",
    "--dataset cifar10 --data data": f"{FAKE} {TINY}",
    "--preset pc-darts --dataset cifar10 --data data": f"--preset pc-darts {FAKE} --epochs 1 --layers 2 "
    "--init-channels 8 --warm-up-epochs 0",
    "--dataset imagenet --data imagenet --workers 8": f"--dataset imagenet --data imagenet --workers 0 "
    f"--image-size 32 --batch-size 6 {TINY}",
    "--dataset folder --data my_images --image-size 32": f"--dataset folder --data my_images --image-size 8 "
    f"--batch-size 6 {TINY}",
    "optinas-auto my_images": "optinas-auto my_images --image-size 8 --epochs 1 --search-epochs 1 --device cpu",
    "--dataset digits --preset smoke": f"--dataset digits --preset smoke --batch-size 359 {TINY}",
    "--dataset folder --data my_images --image-size 48 --epochs 80 --hold-out 0.1": "--dataset folder "
    "--data my_images --image-size 8 --epochs 1 --batch-size 6",
    "--dataset npz --data arrays.npz": f"--dataset npz --data arrays.npz --batch-size 6 {TINY}",
    **{
        f"--arch {arch} --dataset cifar10 --data data": f"--arch {smaller} {FAKE} --epochs 1"
        for arch, smaller in SMALLER.items()
    },
    "--arch torchvision:mobilenet_v3_small --preset small --dataset cifar10 --data data": "--arch "
    f"torchvision:mobilenet_v3_small --preset small {FAKE} --epochs 1",
    "--arch hbnet20 --dataset digits --preset smoke": "--arch hbnet20 --dataset digits --preset smoke --epochs 1",
    "benchmarks.search_step --space darts --batch-size 64": "benchmarks.search_step --space darts --batch-size 2 "
    "--layers 2 --init-channels 2 --nodes 1 --image-size 8 --rounds 1",
    "benchmarks.evaluation_step --batch-size 96": "benchmarks.evaluation_step --batch-size 2 --layers 2 "
    "--init-channels 2 --image-size 8 --rounds 1",
    "benchmarks.train_step --archs densenet40": "benchmarks.train_step --batch-size 2 --image-size 8 --rounds 1 "
    "--archs densenet40",
    "benchmarks.data_pipeline --workers 2": "benchmarks.data_pipeline --workers 2 --images 16 --jpegs 8 --batch-size 4 "
    "--jpeg-size 40 30 --image-size 32 --rounds 1",
    "benchmarks.epoch --spaces darts hb agd": "benchmarks.epoch --spaces hb --images 24 --epochs 2 --search-layers 2 "
    "--search-channels 2 --search-batch-size 12 --train-layers 2 --train-channels 2 --train-batch-size 12 "
    "--image-size 8",
    "benchmarks.scaling --space darts": "benchmarks.scaling --space darts --base-channels 2 --base-layers 1 "
    "--base-nodes 1 --base-batch-size 2 --base-image-size 8 --channels 2 4 --layers 1 2 --nodes 1 2 --batch-size 2 4 "
    "--image-size 8 16 --rounds 1",
    "optinas-latency-table --space hb --eval-layers 5 --eval-channels 16 --image-size 32": "optinas-latency-table "
    "--space hb --eval-layers 5 --eval-channels 16 --image-size 8 --rounds 2 --networks 2 --device cpu",
    "optinas-latency-table --space hb": "optinas-latency-table --space hb --rounds 2 --networks 2 --device cpu",
    "--max-latency 20": "--max-latency 100000",  # whatever the machine
    "simulate --quick": "simulate --depths 2 --samples 40 --dimension 3 --batch-size 20 --epochs 1",
}
#: What is short as it stands there.
SHORT = re.compile(
    r"python (examples/serve\.py|genotype_tool\.py(?!.*--max-latency)|train_eval\.py --evaluate) |"
    r"optinas-(genotype|predict|results|report|latency(?!-table)|handmade|theory (check|rates))"
)
#: As SHORTER, for Python.
SHORTER_PYTHON = ('preset="smoke"', 'preset="smoke", epochs=1, layers=2, init_channels=2, batch_size=359')
#: This one has the edited checkout of "Add an operation or a data set" around it.
NEEDS_EDITS = "--space ladder"
#: What this prints is quoted.
COST = "python genotype_tool.py show DARTS_V2 --cost cifar"


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict:
        return json.loads(self.stdout.splitlines()[-1])


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Each on a line of its own, whatever the lines it is written on."""
    return [line for block in blocks("bash", text) for line in re.sub(r" \\\n +", " ", block).splitlines()]


COMMANDS = [command for path in DOCUMENTS for command in commands(path.read_text())]
PROGRAMS = [c for c in COMMANDS if re.match(r"python |optinas-", c)]
PYTHON = list(dict.fromkeys(block for path in DOCUMENTS for block in blocks("python", path.read_text())))
FILES = {block.splitlines()[0].removeprefix("# "): block for block in PYTHON if block.startswith("# ")}
SNIPPETS = [block for block in PYTHON if not block.startswith("# ")]


def entry_points() -> dict[str, str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(line.split(" = ") for line in lines)


def shorter(command: str) -> str:
    if SHORT.match(command):
        return command
    rules = [text for text in SHORTER if text in command]
    assert rules, f"no rule of SHORTER makes this command of a document short enough to be tested: {command}"
    rule = max(rules, key=len)
    return command.replace(rule, SHORTER[rule]).replace("--device cuda", "--device cpu")


def main_of(item: str) -> Callable[[], object]:
    """What an installed command, a script of the checkout, a module or a snippet of Python does when it is started."""
    if item in SNIPPETS:
        return partial(exec, item.replace(*SHORTER_PYTHON), {"__name__": "__main__"})
    program, *rest = shlex.split(shorter(item))
    if program != "python":
        module, function = entry_points()[program].split(":")
        sys.argv = [program, *rest]
        return getattr(importlib.import_module(module), function)
    if rest[0] == "-m":
        sys.argv = ["", *rest[2:]]
        return partial(runpy.run_module, rest[1], run_name="__main__", alter_sys=True)
    sys.argv = [str(ROOT / rest[0]), *rest[1:]]
    return partial(runpy.run_path, sys.argv[0], run_name="__main__")


def _run(item: str, folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        with (folder.parent / name).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    warnings.simplefilter("error")  # one must not reach a user either
    main_of(item)()


#: It imports everything once, and forks a process for each program, which is done sooner than it would have started.
STARTER = get_context("forkserver")
#: These are imported late, because they take long.
LATE = ("scipy.stats", "sklearn.datasets", "sklearn.model_selection", "torchvision.transforms.v2")
STARTER.set_forkserver_preload(["train_search", "train_eval", "genotype_tool", "nas.theory.simulation", *LATE])


def start(item: str, folder: Path) -> Outcome:
    process = STARTER.Process(target=_run, args=(item, folder))
    process.start()
    process.join()
    assert process.exitcode is not None
    return Outcome(process.exitcode, *((folder.parent / name).read_text() for name in ("stdout", "stderr")))


def start_in_checkout(command: str, checkout: Path, folder: Path) -> Outcome:
    """Runs a script of an edited checkout."""
    script, *flags = shlex.split(shorter(command))[1:]
    environment = os.environ | {"PYTHONWARNINGS": "error", "PYTHONPATH": str(checkout)}
    argv = [sys.executable, str(checkout / script), *flags]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0)
    for label in range(6):
        (folder / f"class_{label}").mkdir(parents=True)
        for number in range(3):
            image = Image.fromarray(pixels.integers(256, size=(36, 40, 3), dtype=np.uint8))
            image.save(folder / f"class_{label}" / f"{number}.png")


def make_workplace(folder: Path) -> Path:
    """A folder with what the commands read: images, arrays, and the space and the method of the examples."""
    (folder / "pictures").mkdir(parents=True)
    for part in ("my_images/train", "my_images/test", "imagenet/train", "imagenet/val"):
        make_images(folder / part)
    shutil.copy(folder / "my_images/test/class_0/0.png", folder / "photo.png")
    for name in ("my_space.py", "my_method.py"):
        (folder / name).write_text(FILES[name])
    images, labels = np.zeros((24, 1, 8, 8), np.uint8), np.arange(24) % 3
    np.savez(folder / "arrays.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return folder


def edited_checkout(checkout: Path) -> Path:
    """A checkout with the space, method, operation and data set of EXTEND.md in the files where it says they go."""
    for package in ("genotypes", "spaces", "nas"):
        shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train_search.py", checkout)
    (checkout / "spaces" / "my_space.py").write_text(FILES["my_space.py"])
    (checkout / "nas" / "methods" / "my_method.py").write_text(FILES["my_method.py"])
    for name in ("spaces/ops.py", "nas/data/datasets.py"):
        with (checkout / name).open("a") as file:
            file.write("\n\n" + FILES[name])
    (label,) = re.findall(r"its label in pictures: `(.*)`", TEXT["EXTEND"])
    vocabulary = checkout / "genotypes" / "operations.py"
    first = "OPERATIONS: dict[str, str] = {\n"
    assert first in vocabulary.read_text()
    vocabulary.write_text(vocabulary.read_text().replace(first, f"{first}    {label}\n"))
    return checkout


def test_documents_hold_commands_and_programs() -> None:
    assert len(PROGRAMS) > 20
    assert set(FILES) == {"my_space.py", "my_method.py", "spaces/ops.py", "nas/data/datasets.py"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in PROGRAMS])
def test_a_command_that_starts_no_program_of_ours_exists(command: str) -> None:
    program, *rest = shlex.split(command)
    if program == "make":
        planned = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True)
        assert planned.returncode == 0, planned.stderr
        for script in re.findall(r"[\w/]+\.py", planned.stdout):
            assert (ROOT / script).exists()
    elif program == "source":
        assert rest == [".venv/bin/activate"]
        assert "-m venv .venv\n" in (ROOT / "Makefile").read_text()
    elif program == "pip":
        assert rest == ["install", "."]
        assert "build-backend" in (ROOT / "pyproject.toml").read_text()
        for target in entry_points().values():
            module, function = target.split(":")
            assert f"def {function}()" in (ROOT / f"{module.replace('.', '/')}.py").read_text()
    else:
        assert program == "mkdir", f"nothing here tests {command!r}"


@pytest.mark.parametrize("command", PROGRAMS)
def test_every_program_can_be_tested(command: str) -> None:
    assert shorter(command)


def stories() -> list[list[str]]:
    """The programs and snippets of Python, in order, each together with those that share a folder or table with it."""
    told: list[tuple[set[str], list[str]]] = []
    for item in [*PROGRAMS, *SNIPPETS]:
        folders, items = set(re.findall(r"runs/[\w-]+|[\w-]*latency\.json|network\.onnx|fast\.json", item)), [item]
        for other in [other for other in told if other[0] & folders]:
            told.remove(other)
            folders, items = other[0] | folders, other[1] + items
        told.append((folders, items))
    return [items for _, items in told]


@pytest.mark.slow
@pytest.mark.parametrize("story", stories(), ids=lambda story: story[0])
def test_programs_do_what_the_documents_say(story: list[str], tmp_path: Path) -> None:
    folder = make_workplace(tmp_path / "workplace")
    for item in story:
        if NEEDS_EDITS in item:
            outcome = start_in_checkout(item, edited_checkout(tmp_path / "checkout"), folder)
        else:
            outcome = start(item, folder)
        assert outcome.code == 0, f"{item}\n{outcome.stderr}"
        assert not outcome.stderr
        assert outcome.stdout.strip()
        documented = documented_keys(item)
        assert not documented or set(outcome.result) == documented
        if item == COST:
            assert "\n".join(outcome.stdout.splitlines()[1:]) + "\n" in blocks("text", TEXT["README"])
    if (folder / "runs" / "hb-eval").exists():
        found = files_of(folder / "runs" / "hb") | files_of(folder / "runs" / "hb-eval")
        # After one epoch there is one checkpoint. The page is of a command that the documents run on these directories.
        assert found - {"report.html"} | {"checkpoint.previous.pt"} == documented_files()


def documented_keys(command: str) -> set[str]:
    """The keys that the documents state for the result of a command; none where they state none."""
    rows = re.findall(r"^\| `(.*?)` \| (.*) \|$", TEXT["USAGE"].split("## For scripts")[1], re.MULTILINE)
    keys = {name: set(re.findall(r"`(\w+)`", cells)) for row, cells in rows for name in row.split("`, `")}
    if command in SNIPPETS or command.startswith(("python -m benchmarks.", "python examples/")):
        return set()
    program, *flags = shlex.split(command.removeprefix("python "))
    if program == "genotype_tool.py":
        named = [f"{program} {flags[0]} {flag}" for flag in flags]
        found = next((keys[name] for name in named if name in keys), set())
        return found | {"latency_ms"} if found and "--latency-table" in flags else found
    if program == "optinas-predict":
        return keys[f"{program} --json"] if "--json" in flags else set()
    for name in (f"{program} --evaluate" if "--evaluate" in flags else program, f"{program} {flags[0]}"):
        if name in keys:
            return keys[name]
    assert entry_points()[program].split(":")[0] in ("train_search", "train_eval", "genotype_tool")
    return set()


def files_of(run: Path) -> set[str]:
    """The files of a run; `tb` stands for those below it, whose names are TensorBoard's affair."""
    files = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    return {path.parts[0] if path.parts[0] == "tb" else str(path) for path in files}


def documented_files() -> set[str]:
    """The files that the documents say a run leaves."""
    section = re.split(r"\n##+ ", TEXT["USAGE"].split("## What a run leaves")[1])[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    names = {name for cell in cells for name in re.findall(r"`(.*?)`", cell)}
    return {name.replace("NNN", "001").rstrip("/") for name in names}


#: The row of each space of ours; a space that somebody adds needs none.
SPACES = dict(
    re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT["README"].split("| `--space` |")[1].split("\n\n")[0], re.MULTILINE)
)


@pytest.mark.parametrize("name", SPACES)
def test_the_table_of_spaces_is_right(name: str) -> None:
    _, edges, operations, parameters, kept, initializations, _ = SPACES[name].split(" | ")
    space = spaces.build(spaces.SpaceConfig(space=name))
    assert int(edges) == len(space.topology.edges)
    assert int(operations) == len(space.operations)
    assert int(parameters) == sum(p.numel() for p in space.parameters())
    assert ("2 strongest" in kept) == (space.edges_kept == 2)
    assert tuple(re.findall(r"`(\w+)`", initializations)) == space.initializations


def test_the_table_has_the_spaces_of_this_package() -> None:
    assert set(SPACES) == {"darts", "hb", "agd", "s1", "s2", "s3", "s4"}


@pytest.mark.slow
def test_the_table_of_hand_made_networks_is_right() -> None:
    rows = re.findall(r"^\| (`\w+\d+`.*?) \| ([\d,]+) \| ([\d.,]+) M \|$", TEXT["HANDMADE"], re.MULTILINE)
    told = {name: (parameters, macs) for cell, parameters, macs in rows for name in re.findall(r"`(\w+)`", cell)}
    assert set(told) == set(handmade.names())
    for name, (parameters, macs) in told.items():
        imagenet = handmade.is_imagenet(name)
        side = 224 if imagenet else 32
        with torch.device("meta"):
            network = handmade.build(name, image_size=(side, side), num_classes=1000 if imagenet else 10)
        assert f"{count_parameters(network):,}" == parameters
        assert f"{count_macs(network, 3, (side, side)) / 1e6:,.1f}" == macs


def test_the_protocols_are_those_of_the_presets() -> None:
    one_line = " ".join((TEXT["README"] + TEXT["USAGE"]).split())
    searched = nas.recipes.PRESETS["paper"]("cifar10")
    assert (
        f"{searched.supernet.layers} cells, {searched.supernet.init_channels} channels, {searched.epochs} epochs, "
        f"batch {searched.data.batch_size}," in one_line
    )
    for dataset, more in (("cifar10", "cutout"), ("imagenet", "label smoothing 0.1")):
        trained = nas.training_recipes.PRESETS["paper"](dataset)
        assert (
            f"{trained.network.layers} cells, {trained.network.init_channels} channels, {trained.epochs} epochs, "
            f"batch {trained.data.batch_size}, {more}" in one_line
        )
    made = nas.training_recipes.HANDMADE_PRESETS["paper"]("cifar10")
    assert f"{made.epochs} epochs, batch {made.data.batch_size}, SGD with Nesterov's momentum" in one_line
    made = nas.training_recipes.HANDMADE_PRESETS["paper"]("imagenet")
    assert f"{made.epochs} epochs of batch {made.data.batch_size} there" in one_line


@pytest.mark.slow
def test_whoever_follows_the_documents_has_passing_tests(tmp_path: Path) -> None:
    """The tests over the registries cover an added space and operation, and none refuses them."""
    checkout = edited_checkout(tmp_path)
    for folder in ("tests", "docs"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and not (checkout / path.name).exists():
            shutil.copy(path, checkout)
    tests = [f"tests/test_{name}.py" for name in ("ops", "spaces", "readme")]
    which = "test_ops or test_spaces or table_of_spaces or table_has"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *tests, "-k", which],
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "conv_1x1" in done.stdout
    assert "ladder" in done.stdout


LINKS = [(path, target) for path in DOCUMENTS for target in re.findall(r"\]\(([^)#]+)", path.read_text())]


@pytest.mark.parametrize(("path", "target"), LINKS)
def test_links_lead_to_files_of_the_repository(path: Path, target: str) -> None:
    assert (path.parent / target).exists()
