"""The environment of a run: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("optinas", "torch", "torchvision", "numpy", "scikit-learn")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, the commit of the toolkit if it is a checkout, the device and the command, for `env.json`."""
    commit, dirty = _commit(Path(__file__).resolve().parents[2])
    return {
        "commit": commit,
        "dirty": dirty,
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """The device in words: the GPU's name, or the type of the device and the processor's architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(checkout: Path) -> tuple[str | None, bool | None]:
    """The commit, and whether files differ from it; (None, None) if this is not a checkout of the toolkit."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        # An installed copy may be inside another repository, whose commit would say nothing about the toolkit.
        git("ls-files", "--error-unmatch", "nas/runs/environment.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
