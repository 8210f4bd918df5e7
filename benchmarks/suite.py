"""Runs a set of benchmarks, one process each: `python -m benchmarks.suite quick`, which is `make bench`.

`quick` has sizes that two CPU cores finish in minutes. `cpu` and `cuda` have those of docs/PERFORMANCE.md; their files
belong in benchmarks/results, where `python -m benchmarks.report` and `python docs/draw_figures.py` find them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.command import run_benchmark

_ROOT = Path(__file__).resolve().parent.parent

#: By the file's name without .json, the program and its flags.
Suite = dict[str, str]

_SMALL = "--layers 4 --init-channels 8 --image-size 16 --rounds 3"
QUICK: Suite = {
    "search_step_darts": f"search_step --space darts {_SMALL} --second-order",
    "search_step_hb": f"search_step --space hb {_SMALL}",
    "search_step_agd": f"search_step --space agd {_SMALL}",
    "evaluation_step": "evaluation_step --layers 5 --init-channels 16 --batch-size 16 --rounds 3",
    "train_step": "train_step --rounds 3",
    "data_pipeline": "data_pipeline --images 10000 --jpegs 200",
    "epoch": "epoch --images 256 --search-layers 3 --search-channels 8 --train-layers 5 --train-channels 16",
    "scaling": "scaling --channels 4 8 16 --layers 2 4 8 --nodes 2 4 --batch-size 8 16 --image-size 8 16 --rounds 1",
}

CPU: Suite = {
    "search_step_darts_b16_cpu": "search_step --space darts --batch-size 16 --rounds 5 --second-order --device cpu",
    "search_step_hb_b16_cpu": "search_step --space hb --batch-size 16 --rounds 5 --device cpu",
    "search_step_agd_b16_cpu": "search_step --space agd --batch-size 16 --rounds 5 --device cpu",
    **{
        f"search_step_{space}_b64_cpu": f"search_step --space {space} --batch-size 64 --rounds 3 --device cpu"
        for space in ("darts", "hb", "agd")
    },
    "evaluation_step_b16_cpu": "evaluation_step --batch-size 16 --rounds 9 --device cpu",
    "evaluation_step_b64_cpu": "evaluation_step --batch-size 64 --rounds 9 --device cpu",
    "data_pipeline_cpu": "data_pipeline --jpegs 500 --device cpu",
    "epoch_cpu": "epoch --images 256 --epochs 3 --device cpu",
    "scaling_cpu": "scaling --rounds 2 --device cpu",
}

CUDA: Suite = {
    **{
        f"search_step_{space}_b64_{precision}_cuda": f"search_step --space {space} --batch-size 64 --rounds 20 "
        f"--second-order --precision {precision} --device cuda"
        for space in ("darts", "hb", "agd")
        for precision in ("fp32", "bf16")
    },
    **{
        f"{name}_{precision}_cuda": f"{flags} --precision {precision} --device cuda"
        for precision in ("fp32", "bf16")
        for name, flags in {
            "evaluation_step": "evaluation_step --rounds 20",
            "epoch": "epoch",
        }.items()
    },
    # Second order by finite differences, which is the literature's, needs fp32.
    "epoch_unrolled_fp32_cuda": "epoch --unrolled --archs --device cuda",
    "data_pipeline_cuda": "data_pipeline --workers 8 --device cuda",
    "scaling_cuda": "scaling --base-channels 16 --base-layers 8 --base-batch-size 64 --base-image-size 32 "
    "--channels 8 16 32 64 --layers 4 8 16 --nodes 2 3 4 6 --batch-size 16 32 64 128 256 --image-size 16 32 64 "
    "--rounds 10 --device cuda",
}

SUITES = {"quick": QUICK, "cpu": CPU, "cuda": CUDA}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which benchmarks to run."""

    suite: Annotated[Literal["quick", "cpu", "cuda"], tyro.conf.Positional] = "quick"
    """quick: minutes on a CPU; cpu, cuda: the sizes of docs/PERFORMANCE.md."""
    out: str = "runs/bench"
    """Folder for the JSON files; replaces files of the same name."""
    resume: bool = False
    """Leave out what has a file in that folder already."""


def main(config: Config) -> None:
    """Runs one benchmark after another; stops at the first that fails, and keeps the files of those before."""
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    # They appear in their folder at the end: a new file in a checkout would make the following ones "dirty".
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for name, command in SUITES[config.suite].items():
                if config.resume and (folder / f"{name}.json").exists():
                    continue
                print(f"\n== {name}: python -m benchmarks.{command}", flush=True)
                start = time.monotonic()
                program, *flags = command.split()
                argv = [sys.executable, "-m", f"benchmarks.{program}", *flags, "--out", f"{scratch}/{name}.json"]
                subprocess.run(argv, cwd=_ROOT, check=True)
                print(f"   {time.monotonic() - start:.0f} s", flush=True)
        finally:
            for file in sorted(Path(scratch).glob("*.json")):
                shutil.move(file, folder / file.name)


if __name__ == "__main__":
    run_benchmark(main, Config, __doc__)
