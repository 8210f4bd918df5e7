"""A folder of photos as a user has it: five classes of 300 images each, with odd files among them.

`python -m benchmarks.five_folder CIFAR OUT` takes the first images of each class of CIFAR-10, which must be JPEG files
in class folders in `train/` and `test/`. studies/five.toml compares networks on what it makes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from genotypes.config import Config, IsPath
from nas import cli
from nas.errors import UsageError

CLASSES = ("airplane", "automobile", "cat", "horse", "ship")
#: Images of each class in each part.
NUMBERS = {"train": 240, "test": 60}
#: EXIF's orientation, and a camera held upright.
_ORIENTATION, _UPRIGHT = 0x0112, 6


@dataclass(frozen=True, kw_only=True)
class FolderConfig(Config):
    """Make a folder of five classes of 300 images with odd files among them."""

    cifar: Annotated[str, IsPath, tyro.conf.Positional]
    """Folder with train/ and test/, and in each a folder of JPEG files a class of CIFAR-10."""
    out: Annotated[str, IsPath, tyro.conf.Positional]
    """Folder to make; there must be none."""


def make(config: FolderConfig) -> int:
    """Makes the folder and returns the number of its images. Raises UsageError where it is there, or images are not."""
    out = Path(config.out)
    if out.exists():
        raise UsageError(f"{out} is there already; name a new folder")
    for part, number in NUMBERS.items():
        for name in CLASSES:
            found = sorted((Path(config.cifar) / part / name).glob("*.jpg"))[:number]
            if len(found) < number:
                raise UsageError(f"{config.cifar}/{part}/{name} has {len(found)} JPEG files, {number} are needed")
            (out / part / name).mkdir(parents=True)
            for path in found:
                shutil.copy(path, out / part / name)
    _add_odd_images(out / "train" / CLASSES[0])
    _add_odd_files(out)
    return sum(path.suffix in (".jpg", ".png", ".gif") for path in out.glob("*/*/*"))


def _add_odd_images(folder: Path) -> None:
    """Converts six images of a class to what is read with more trouble, and adds one of a single pixel."""
    paths = sorted(folder.glob("*.jpg"))[:6]
    images = [Image.open(path).convert("RGB") for path in paths]
    for path in paths:
        path.unlink()
    images[0].save(folder / "animation.gif")
    exif = Image.Exif()
    exif[_ORIENTATION] = _UPRIGHT
    images[1].rotate(90).save(folder / "upright.jpg", exif=exif)
    Image.fromarray(np.asarray(images[2].convert("L")).astype(np.uint16) * 257).save(folder / "deep.png")
    images[3].quantize(64).save(folder / "palette.png")
    images[4].convert("RGBA").save(folder / "transparent.png")
    images[5].convert("CMYK").save(folder / "print.jpg")
    images[0].resize((1, 1)).save(folder / "pixel.png")


def _add_odd_files(out: Path) -> None:
    """Adds what must be left out. The damaged image is beside the classes: within one it would be refused by name."""
    folder = out / "train" / CLASSES[1]
    (folder / "notes.txt").write_text("taken in summer\n")
    (folder / "phone.heic").write_text("no image\n")
    (folder / "Thumbs.db").write_bytes(b"\0" * 64)
    (folder / ".trash").mkdir()
    whole = sorted(folder.glob("*.jpg"))[0]
    shutil.copy(whole, folder / ".trash")
    os.symlink("..", folder / "up", target_is_directory=True)
    (out / "train" / "truncated.jpg").write_bytes(whole.read_bytes()[:400])


def command(argv: list[str]) -> dict[str, Any]:
    """Parses, makes the folder, returns where it is and how many images it has."""
    config = cli.parse(FolderConfig, argv, description=__doc__ or "")
    return {"out": config.out, "images": make(config)}


if __name__ == "__main__":
    cli.run(command)
