"""The plan of the house: imports run downwards only, and what is installed is there, and nothing else."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: From the ground up; a module may import from its own floor and those below. What is above the scripts is not
#: installed.
FLOORS = {"genotypes": 0, "spaces": 1, "nas": 2, "optinas": 3, "train_search": 3, "train_eval": 3, "genotype_tool": 3}
FLOORS |= {"reference": 4, "benchmarks": 5, "soak": 5, "tests": 6}
ROOMS = [name for name in FLOORS if name != "tests"]
#: The floors inside `nas`; its doors are above all rooms but the studies, which open them.
FLOORS_OF_NAS = {
    "errors": 0,
    "interrupts": 0,
    "screen": 0,
    "cli": 1,
    "options": 1,
    "data": 1,
    "engine": 2,
    "runs": 3,
    "theory": 4,
}
FLOORS_OF_NAS |= {"networks": 5, "supernet": 6, "methods": 7, "report": 8}
FLOORS_OF_NAS |= {"evaluate": 9, "predict": 9, "latency": 9, "genotype_commands": 9}
FLOORS_OF_NAS |= {
    "latency_table": 10,
    "search": 10,
    "train": 10,
    "recipes": 11,
    "training_recipes": 11,
    "study": 12,
    "auto": 13,
}
FILES = [p for name in ROOMS for p in [*(ROOT / name).rglob("*.py"), ROOT / f"{name}.py"] if p.is_file()]


def imported(path: Path) -> set[str]:
    """The modules a file imports anywhere in it, by absolute name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_downwards(path: Path) -> None:
    floor = FLOORS[module_name(path).split(".")[0]]
    for name in imported(path):
        assert FLOORS.get(name.split(".")[0], 0) <= floor, f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "nas").rglob("*.py")), ids=module_name)
def test_imports_run_downwards_inside_nas(path: Path) -> None:
    own = module_name(path).split(".")
    for name in imported(path):
        package, *room = name.split(".")[:2]
        if package == "nas" and room and own[1:2] != room:
            assert FLOORS_OF_NAS[room[0]] < FLOORS_OF_NAS[own[1]], f"{path} imports {name}"


def defined(path: Path) -> set[str]:
    """The functions and classes of a file, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return names


def test_the_ways_through_the_house_exist() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    steps = re.findall(r"`([\w/]+\.py):([\w.]+)`", page)
    assert len(steps) > 20
    assert [f"{path}:{name}" for path, name in steps if name not in defined(ROOT / path)] == []


def test_no_test_imports_from_another() -> None:
    for path in (ROOT / "tests").glob("*.py"):
        names = {name.removeprefix("tests.") for name in imported(path)}
        assert not [name for name in names if name.startswith(("conftest", "test_"))], path


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {module_name(path): path for path in FILES}
    below = {
        name: {other for other in imported(path) & modules.keys() if other != name and not name.startswith(f"{other}.")}
        for name, path in modules.items()
    }
    while below:
        free = {name for name, others in below.items() if not others & below.keys()}
        assert free, f"a circle among {sorted(below)}"
        below = {name: others for name, others in below.items() if name not in free}


@pytest.mark.parametrize("package", ["genotypes", "genotypes.draw", "genotype_tool"])
def test_the_ground_floor_needs_no_torch(package: str) -> None:
    code = f"import sys, {package}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def setup() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def entry_points() -> dict[str, str]:
    """module:function of each installed command."""
    lines = setup()["options.entry_points"]["console_scripts"].strip().split("\n")
    return dict(line.split(" = ") for line in lines)


def test_every_console_command_is_installed_and_has_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["search", "eval", "predict", "genotype", "results", "report", "study", "handmade", "theory"]
    names += ["latency", "latency-table", "auto"]
    assert entry_points().keys() == {f"optinas-{name}" for name in names}
    for name, target in entry_points().items():
        module, function = target.split(":")
        assert module in setup()["options"]["py_modules"].split() or module.startswith("nas.")
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as ended:
            getattr(importlib.import_module(module), function)()
        assert ended.value.code == 0
        assert "usage: " in capsys.readouterr().out


def test_only_what_the_scripts_need_is_installed() -> None:
    patterns = setup()["options.packages.find"]["include"].split()
    installed = {name.removesuffix(".*") for name in patterns} | set(setup()["options"]["py_modules"].split())
    assert installed == {name for name, floor in FLOORS.items() if floor <= FLOORS["train_search"]}


@pytest.mark.parametrize("name", ["genotypes", "spaces"])
def test_a_package_of_another_in_the_place_of_ours_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    """As in a checkout of DARTS, which has a genotypes.py, or after `pip install spaces`."""
    (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", entry_points()["optinas-results"].split(":")[0], "run"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / name}.py is imported instead of the package {name!r} of optinas")
    assert done.stderr.count("\n") == 1


def test_every_third_party_import_is_declared() -> None:
    declared = set()
    extras = setup()["options.extras_require"]
    named = [extras[name] for name in ("onnx", "heif", "slurm", "timm")]
    requirements = "\n".join([setup()["options"]["install_requires"], *named])
    for line in requirements.split("\n"):
        name = re.split(r"[>=;\[]", line.strip())[0]
        declared.add({"scikit-learn": "sklearn", "pillow": "PIL", "pillow-heif": "pillow_heif"}.get(name, name))
    own = set(FLOORS) | set(sys.stdlib_module_names)
    for path in FILES:
        roots = {name.split(".")[0] for name in imported(path)}
        assert roots <= own | declared, f"{path} imports {roots - own - declared}"


def test_neither_eval_nor_pickle() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), path
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is True, path
        assert not {"pickle", "marshal", "shelve"} & imported(path), path
