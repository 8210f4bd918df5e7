"""Folders and files of all kinds: what is read of them, how, and the one line with which the others are refused."""

from __future__ import annotations

import os
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from genotypes.messages import one_line
from nas.data import DataConfig, DataError, ImageData, load, pixels
from nas.data import datasets as registry
from nas.data.folder import Folder, read_folder
from nas.data.pixels import extensions, read_image, survey
from nas.data.view import View


def touch(root: Path, *names: str) -> None:
    """Makes files without content; a name that ends in / is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


def link(root: Path, name: str, target: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


TREE = ("ant/1.png", "ant/2.png", "bee/1.png", "bee/2.png")


def parts(train: str, test: str) -> tuple[str, ...]:
    return tuple(f"{part}/{name}" for part in (train, test) for name in TREE)


def files_of(folder: Folder) -> int:
    return len(folder.train.paths) + len(folder.test.paths)


#: Files, how many of them are read, and a text of the lines on what is left out.
READ: dict[str, tuple[tuple[str, ...], int, str]] = {
    **{
        f"{train} {test}": (parts(train, test), 8, "")
        for train, test in (
            *(("train", "test"), ("train", "val"), ("train", "valid"), ("Train", "Test"), ("TRAIN", "VAL")),
            *(("training", "testing"), ("Training", "Testing"), ("train", "validation"), ("training_set", "test_set")),
            *(("train-set", "test-set"), ("Training Data", "Test Data"), ("train_images", "test_images")),
        )
    },
    "Roboflow": ((*parts("train", "test"), "valid/ant/1.png", "README.txt"), 8, "valid beside test and train"),
    "test without classes": ((*parts("train", "val"), "test/1.png"), 8, "left out: test beside train and val"),
    "one tree": (TREE, 4, ""),
    "a class called train": (("car/1.png", "car/2.png", "train/1.png", "train/2.png"), 4, ""),
    "classes called test and val": (("test/1.png", "test/2.png", "val/1.png", "val/2.png"), 4, ""),
    "deeper folders": ((*TREE, "ant/a/b/c/3.png", "bee/x/3.png"), 6, ""),
    "checkpoints of notebooks": ((*TREE, ".ipynb_checkpoints/1.png", "ant/.ipynb_checkpoints/1.png"), 4, "2 hidden"),
    "an unpacked Mac archive": ((*TREE, "__MACOSX/ant/._1.png", "ant/._1.png", "bee/.DS_Store"), 4, "3 hidden"),
    "a network drive": ((*TREE, "@eaDir/1.png", "ant/@eaDir/1.png", "bee/#recycle/1.png"), 4, "3 hidden"),
    "Windows": ((*TREE, "ant/Thumbs.db", "ant/desktop.ini", "$RECYCLE.BIN/1.png"), 4, "3 hidden"),
    "other files": ((*TREE, "ant/a.txt", "ant/b.txt", "bee/c.csv"), 4, "2 .txt files, such as"),
    "files without ending": ((*TREE, "ant/README"), 4, "1 unnamed files"),
    "files beside classes": ((*TREE, "lone.png"), 4, "1 files outside class folders"),
    "PostScript and others": ((*TREE, "ant/a.eps", "ant/b.ps", "ant/c.pdf", "ant/d.wmf"), 4, "1 .eps files"),
    "endings in capitals": (("ant/1.JPG", "ant/2.Png", "bee/1.JPEG", "bee/2.TIFF"), 4, ""),
}


@pytest.mark.parametrize("case", READ)
def test_folders_that_are_read(case: str, tmp_path: Path) -> None:
    names, count, told = READ[case]
    touch(tmp_path, *names)
    folder = read_folder(tmp_path, 0)
    assert files_of(folder) == count
    assert len(folder.classes) == 2
    assert told in " | ".join(folder.left_out)
    assert bool(told) == bool(folder.left_out)


#: Files and what the refusal says.
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "train without test": (tuple(f"Train/{name}" for name in TREE), "has Train/ but neither test/ nor val/"),
    "test without train": ((*parts("test", "val"),), "has test/ but no train/"),
    "two spellings": (
        (*parts("train", "test"), *parts("Training", "val")),
        "Training/ and train/, which name the same",
    ),
    "two tests": ((*parts("train", "test"), "Testing/ant/1.png"), "Testing/ and test/, which name the same"),
    "parts without classes": (("train/1.png", "test/1.png"), "train/ and test/ without class folders"),
    "parts without classes, and a class": (("train/1.png", "valid/1.png", "ant/1.png"), "without class folders"),
    "no classes": (("1.png",), "has no class folders"),
    "one class": (("ant/1.png",), "only one class folder, 'ant'"),
    "only a wrapper": (parts("data/train", "data/test"), "only one class folder, 'data'"),
    "an empty class": (("ant/1.png", "ant/2.png", "bee/"), "bee has no readable images"),
    "a class of other files": (("ant/1.png", "ant/2.png", "bee/a.eps"), "1 .eps files"),
    "a class of one image": (("ant/1.png", "ant/2.png", "bee/1.png"), "class 'bee' has a single image"),
    "another class in the test part": (
        (*parts("train", "test"), "test/wasp/1.png"),
        "wasp is a class without training",
    ),
    "a class in other letters": ((*parts("train", "test"), "test/Ant/1.png"), "Ant is a class without training"),
    "nothing": ((), "has no class folders"),
    "the same name in two Unicode forms": (
        ("e\u0301/1.png", "\u00e9/1.png", "bee/1.png"),
        "in different Unicode forms",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folders_that_are_refused(case: str, tmp_path: Path) -> None:
    names, message = REFUSED[case]
    touch(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, 0)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


#: Links by name and target, how many files are read of TREE and them, and what is said.
LINKS: dict[str, tuple[dict[str, str], int, str]] = {
    "to the folder above": ({"ant/up": ".."}, 4, "1 links to folders that are read anyway"),
    "far above": ({"ant/up": "../.."}, 4, "1 links to folders that are read anyway"),
    "to itself": ({"ant/self": "."}, 4, "1 links to folders that are read anyway"),
    "a class to another": ({"cat": "ant"}, 4, "1 links to folders that are read anyway"),
    "two to one folder outside": ({"ant/a": "../../pool", "bee/a": "../../pool"}, 6, "1 links to folders"),
    "a folder outside": ({"ant/more": "../../pool"}, 6, ""),
    "a file outside": ({"ant/3.png": "../../pool/1.png"}, 5, ""),
    "a file outside twice": ({"ant/3.png": "../../pool/1.png", "bee/3.png": "../../pool/1.png"}, 5, "1 links to files"),
    "a file of another class": ({"ant/3.png": "../bee/1.png"}, 4, "1 links to files that are read anyway"),
    "to nothing": ({"ant/3.png": "nowhere.png"}, 4, "1 broken links"),
}


@pytest.mark.parametrize("case", LINKS)
def test_links(case: str, tmp_path: Path) -> None:
    links, count, told = LINKS[case]
    root = tmp_path / "root"
    touch(root, *TREE)
    touch(tmp_path / "pool", "1.png", "2.png")
    for name, target in links.items():
        link(root, name, target)
    folder = read_folder(root, 0)
    assert (files_of(folder), len(folder.classes)) == (count, 2)
    assert told in " | ".join(folder.left_out)


def test_parts_that_are_links(tmp_path: Path) -> None:
    touch(tmp_path / "pool", *TREE)
    for part in ("train", "test"):
        touch(tmp_path / "elsewhere" / part, *TREE)
        link(tmp_path, f"root/{part}", f"../elsewhere/{part}")
    assert files_of(read_folder(tmp_path / "root", 0)) == 8
    (tmp_path / "root" / "test").unlink()
    link(tmp_path, "root/test", "train")
    with pytest.raises(DataError, match="is a link into .*train"):
        read_folder(tmp_path / "root", 0)


def test_entries_that_are_no_files(tmp_path: Path) -> None:
    touch(tmp_path, *TREE)
    os.mkfifo(tmp_path / "ant" / "3.png")
    assert "1 entries that are not files" in read_folder(tmp_path, 0).left_out[0]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """In a class they are refused, in escaped form; files of such names are read."""
    for name in ("ant", "bee"):
        for number in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / name / "x.png")
            os.rename(tmp_path / name / "x.png", os.fsencode(tmp_path / name) + b"/caf\xe9%d.png" % number)
    data = load(DataConfig(dataset="folder", data=str(tmp_path)))
    assert len(data.train_labels) + len(data.test_labels) == 4
    assert data.manifest().test.images == len(data.test_labels)
    os.rename(tmp_path / "bee", os.fsencode(tmp_path) + b"/b\xe9e")
    with pytest.raises(DataError) as caught:
        read_folder(tmp_path, 0)
    assert "the class folder 'b\\xe9e'" in one_line(str(caught.value))


def test_class_names_are_the_same_from_every_system(tmp_path: Path) -> None:
    touch(tmp_path, *(unicodedata.normalize("NFD", f"café/{n}.png") for n in (1, 2)), "bee/1.png", "bee/2.png")
    assert read_folder(tmp_path, 0).classes == ["bee", unicodedata.normalize("NFC", "café")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": "a\0b"}, "--data is 'a\\x00b'; a path cannot hold a NUL character"),
        ({"data": os.fsdecode(b"caf\xe9")}, "--data is 'caf\\xe9', which is not UTF-8"),
        ({"cutout_length": 4}, "add --cutout"),
    ],
)
def test_flags_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        DataConfig(**fields)
    assert message in str(caught.value)


# --- Files ----------------------------------------------------------------------------------------------------


def grey(value: int, kind: type = np.uint16) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, dtype=kind))


def colour(mode: str, value: Any) -> Image.Image:
    return Image.new(mode, (4, 4), value)


#: An image, the ending that it is saved under, and the pixel that is read of it.
FILES: dict[str, tuple[Image.Image, str, tuple[int, int, int]]] = {
    **{
        f"colour {kind}": (colour("RGB", (200, 100, 40)), kind, (200, 100, 40))
        for kind in (
            "png",
            "bmp",
            "dib",
            "ppm",
            "tga",
            "tif",
            "tiff",
            "webp",
            "pcx",
            "sgi",
            "qoi",
            "dds",
            "apng",
            "gif",
        )
    },
    **{f"grey {kind}": (colour("L", 77), kind, (77, 77, 77)) for kind in ("jpg", "jpeg", "jpe", "jfif", "pgm", "pnm")},
    "JPEG 2000": (colour("RGB", (200, 100, 40)), "jp2", (200, 100, 40)),
    "icon": (colour("RGBA", (200, 100, 40, 255)).resize((16, 16)), "ico", (200, 100, 40)),
    "1 bit": (colour("1", 1), "png", (255, 255, 255)),
    "CMYK": (colour("CMYK", (255, 0, 0, 0)), "tiff", (0, 255, 255)),
    "YCbCr": (colour("YCbCr", (128, 128, 128)), "tiff", (128, 128, 128)),
    "transparent": (colour("RGBA", (1, 2, 3, 0)), "png", (255, 255, 255)),
    "half transparent": (colour("RGBA", (0, 0, 0, 128)), "png", (127, 127, 127)),
    "grey and transparent": (colour("LA", (0, 0)), "png", (255, 255, 255)),
    "16 bits": (grey(0x80FF), "png", (128, 128, 128)),
    "16 bits, TIFF": (grey(0x80FF), "tif", (128, 128, 128)),
    "12 of 16 bits": (grey(0x0FFF), "tif", (255, 255, 255)),
    "10 of 16 bits": (grey(0x0200), "png", (128, 128, 128)),
    "8 of 16 bits": (grey(0x0080), "png", (128, 128, 128)),
    "32 bits up to 255": (grey(200, np.int32), "tif", (200, 200, 200)),
    "32 bits up to 65535": (grey(0x80FF, np.int32), "tif", (128, 128, 128)),
    "black of 16 bits": (grey(0), "png", (0, 0, 0)),
}
if ".avif" in extensions():
    FILES["AVIF"] = (colour("RGB", (200, 100, 40)), "avif", (200, 100, 40))


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_read(case: str, tmp_path: Path) -> None:
    image, kind, expected = FILES[case]
    assert f".{kind}" in extensions()
    path = str(tmp_path / f"image.{kind}")
    # Pillow 12 cannot read the YCbCr that it writes without compression.
    image.save(path, **({"compression": "tiff_lzw"} if kind == "tiff" else {}))
    found = survey([path])
    for channels in (1, 3):
        read = read_image(path, channels, depth=found.depth)
        assert read.mode == ("L" if channels == 1 else "RGB")
        if channels == 3 or len(set(expected)) == 1:
            assert np.abs(np.asarray(read)[2, 2].astype(int) - expected[:channels]).max() <= 4


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [colour("RGB", (value, 0, 0)) for value in (250, 20, 30)]
    for kind in ("gif", "tiff", "webp", "png"):
        path = str(tmp_path / f"a.{kind}")
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.asarray(read_image(path, 3))[0, 0, 0] > 240


def test_one_depth_for_all_images_of_a_data_set(tmp_path: Path) -> None:
    """A dark image stays darker than a bright one, and those of 8 bits are as they were."""
    saved = {"dark": grey(160), "bright": grey(4000), "plain": colour("L", 33)}
    for name, image in saved.items():
        image.save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in saved]
    image_size, channels, depth = survey(paths)
    assert depth == 12
    read, _ = View(channels, image_size, depth=depth).decode(paths)
    assert read[:, 0, 0, 0].tolist() == [10, 250, 33]


def deep_colour(path: Path) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[258], info[281] = (16, 16, 16), (4095, 4095, 4095)
    image = colour("RGB", (1, 2, 3))
    image.save(path, tiffinfo=info)
    content = path.read_bytes()
    # Pillow writes 8 bits whatever it is told; the tag is set afterwards.
    path.write_bytes(content.replace(struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 16, 16, 16)))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:300])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) print\nshowpage\n"
#: How a file is written, its name, and what the refusal says of it.
BROKEN: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "PostScript called PNG": (lambda p: p.write_bytes(EPS), "a.png", "not an image of a format that is read"),
    "PDF called JPEG": (lambda p: p.write_bytes(b"%PDF-1.4\n"), "a.jpg", "not an image of a format that is read"),
    "WMF called PNG": (lambda p: p.write_bytes(b"\xd7\xcd\xc6\x9a" + bytes(99)), "a.png", "not an image of a format"),
    "text": (lambda p: p.write_text("no image"), "a.png", "not an image of a format that is read"),
    "text called TGA": (lambda p: p.write_text("no image"), "a.tga", "cannot read the image"),
    "empty": (lambda p: p.write_bytes(b""), "a.png", "not an image of a format that is read"),
    "truncated": (truncated, "a.png", "cannot read the image"),
    "truncated TIFF": (truncated, "a.tif", "cannot read the image"),
    "floats": (lambda p: Image.new("F", (4, 4), 0.5).save(p), "a.tif", "floating-point numbers"),
    "negative": (lambda p: grey(-3, np.int32).save(p), "a.tif", "its pixels range from -3 to -3"),
    "more than 16 bits": (lambda p: grey(70000, np.int32).save(p), "a.tif", "from 70000 to 70000"),
    "12 bits a colour": (deep_colour, "a.tif", "its colours have 16 bits, but none is above 4095"),
    "a bomb": (lambda p: p.write_bytes(png_of(60000, 60000)), "a.png", "decompression bomb"),
    "a folder": (lambda p: p.mkdir(), "a.png", "cannot read the image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_are_refused(case: str, tmp_path: Path) -> None:
    prepare, name, message = BROKEN[case]
    path = tmp_path / name
    prepare(path)
    with pytest.raises(DataError, match="cannot read the image") as caught:
        read_image(str(path), 3, depth=survey([str(path)]).depth)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_reader_starts_another_program() -> None:
    """Those of Pillow that do, or that may be made to by what else is installed."""
    assert not {"EPS", "WMF", "PDF", "FITS", "BUFR", "GRIB", "HDF5", "MPEG"} & set(pixels._formats(".png"))


def write_tree(root: Path, make: Callable[[int], Image.Image], count: int = 6) -> str:
    for label in ("ant", "bee"):
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            make(number).save(root / label / f"{number}.png")
    return str(root)


def test_a_run_is_told_what_was_found(tmp_path: Path) -> None:
    root = write_tree(tmp_path, lambda _: Image.new("L", (5, 4)))
    (tmp_path / "ant" / "notes.txt").touch()
    data: ImageData = load(DataConfig(dataset="folder", data=root))
    train, test = len(data.train_labels), len(data.test_labels)
    assert data.found == [
        f"found 12 images of 2 classes: {train} to train on, {test} to test on; grey, resized to 4x5 pixels "
        "(height x width)",
        f"left out: 1 .txt files, such as {tmp_path / 'ant' / 'notes.txt'}",
    ]


def test_data_too_large_for_memory_have_a_manifest_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path, lambda _: Image.new("L", (5, 4)))
    monkeypatch.setattr(registry, "MEMORY_LIMIT", 0)
    manifest = load(DataConfig(dataset="folder", data=root, workers=0)).manifest()
    assert (manifest.train.kind, manifest.resize) == ("size", "crop")
