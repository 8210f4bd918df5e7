"""What a training leaves of its mistakes: the picture of the confusions, and the sheet of the worst."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data import DataConfig, ImageData, load
from nas.data import datasets as registry
from nas.data.memory import MemoryData
from nas.engine.meter import Predictions
from nas.runs import confusion, mistakes, predictions
from tests.tiny import leave_predictions

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>&amp; $x$ \"' \N{RIGHT-TO-LEFT OVERRIDE} \N{CJK UNIFIED IDEOGRAPH-732B}"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logits_for(images: int, classes: int) -> torch.Tensor:
    return torch.randn(images, classes, generator=torch.Generator().manual_seed(0)).mul(4)


def array_data(shape: tuple[int, int, int, int], classes: int = 2) -> MemoryData:
    """Noise (N, C, H, W), the same to train and to test on."""
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = torch.arange(shape[0]) % classes
    return MemoryData(
        "noise",
        classes=[str(i) for i in range(classes)],
        train_images=pixels,
        train_labels=labels,
        test_images=pixels,
        test_labels=labels,
        config=DataConfig(),
    )


def folder_data(root: Path) -> ImageData:
    """40 test images of 10x8 pixels in two classes with odd names."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 20)):
        for name in ("<b>ant", "bee\n"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(generator.integers(0, 256, (10, 8, 3), dtype=np.uint8))
                image.save(root / part / name / f"{number} &\t.png")
    return load(DataConfig(dataset="folder", data=str(root), workers=0))


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sheet_shows_the_most_certain_mistakes_in_order(
    streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the network sees them, whether they are in memory or read again."""
    if streamed:
        monkeypatch.setattr(registry, "MEMORY_LIMIT", 0)
    images = folder_data(tmp_path / "images")
    assert images.streamed == streamed
    logits = logits_for(40, 2)
    logits[7] = torch.tensor([3.0, 20.0])
    logits[3] = logits[5] = torch.tensor([-30.0, 30.0])  # equally certain
    logits[20:] = logits[:20].flip(1)  # more than 24 are wrong, or none of the second class
    logits[8:20] = torch.tensor([0.0, 1.0]) + torch.arange(12)[:, None] * torch.tensor([0.0, 0.1])
    leave_predictions(tmp_path, images, logits)
    rows = rows_of(tmp_path / predictions.IMAGES)
    wrong = [row for row in rows if row["class"] != row["predicted"]]
    expected = sorted(wrong, key=lambda row: -float(row["probability"]))[:24]  # a stable sort
    assert len(wrong) > 24
    assert rows_of(tmp_path / mistakes.TABLE) == expected
    assert [row["image"] for row in expected[:2]] == [rows[3]["image"], rows[5]["image"]]
    shown = mistakes.tiles(tmp_path / mistakes.SHEET, 24, (10, 8))
    numbers = [rows.index(row) for row in expected]
    paths = sorted(str(path) for path in (tmp_path / "images" / "test").rglob("*.png"))
    by_label = {name.replace("\t", "\\t"): name for name in paths}
    for number, row, picture in zip(numbers, expected, shown, strict=True):
        path = by_label[str(tmp_path / "images" / row["image"].replace("bee\\n", "bee\n"))]
        pixels = images.view.read(path)
        # 8 pixels of 10 are shown as 80 of 100.
        assert np.array_equal(np.asarray(picture), np.kron(pixels.transpose(1, 2, 0), np.ones((10, 10, 1))))
        assert np.array_equal(images.test_image(number).numpy(), pixels)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 2, 28, 28), (4, 3, 64, 30), (4, 16, 5, 5), (4, 3, 300, 2)])
def test_images_of_any_channels_and_sizes(shape: tuple[int, int, int, int], tmp_path: Path) -> None:
    images = array_data(shape)
    leave_predictions(tmp_path, images, torch.eye(2)[1 - images.test_labels])
    shown = mistakes.tiles(tmp_path / mistakes.SHEET, 4, shape[2:])
    for number, picture in enumerate(shown):
        assert 80 <= max(picture.size) <= 128
        pixels = images.test_image(number).numpy()
        assert pixels.shape == shape[1:]
        if max(shape[2:]) <= 128:
            factor = max(picture.size) // max(shape[2:])
            planes = pixels if shape[1] == 3 else pixels[:1].repeat(3, axis=0)
            enlarged = np.kron(planes.transpose(1, 2, 0), np.ones((factor, factor, 1)))
            assert np.array_equal(np.asarray(picture), enlarged)
    assert [row["image"] for row in rows_of(tmp_path / mistakes.TABLE)] == ["0", "1", "2", "3"]


def test_without_mistakes_there_is_no_sheet(tmp_path: Path) -> None:
    images = array_data((4, 3, 8, 8))
    for wrong in (1, 0):
        logits = torch.eye(2)[images.test_labels]
        logits[:wrong] = logits[:wrong].flip(1)
        leave_predictions(tmp_path, images, logits)
        assert (tmp_path / mistakes.SHEET).exists() == bool(wrong)
        assert len(rows_of(tmp_path / mistakes.TABLE)) == wrong
        assert predictions.complete(tmp_path)


def test_what_cannot_be_written_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = array_data((4, 3, 8, 8))
    tested = Predictions()
    tested.update(torch.eye(2)[1 - images.test_labels])
    failed = []

    @contextmanager
    def auxiliary(name: str) -> Iterator[None]:
        try:
            yield
        except OSError:
            failed.append(name)

    names = (*predictions.NAMES[:4], mistakes.SHEET)
    for name in names:
        directory = tmp_path / name.replace(".", "-")
        (directory / name).mkdir(parents=True)
        predictions.write(directory, tested, images, auxiliary)
        written = {path.name for path in directory.iterdir() if path.is_file()}
        # Without the sheet no table says what it shows.
        missing = {name, mistakes.TABLE} if name == mistakes.SHEET else {name}
        assert written == {*predictions.NAMES, mistakes.SHEET} - missing
    assert failed == list(names)


def test_a_sheet_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mistakes.png"
    Image.new("RGB", (700, 400)).save(path)
    for content, told in ((None, "it is 700x400 pixels large, not"), (b"GIF89a", "cannot identify"), (b"", "cannot")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=told) as caught:
            mistakes.tiles(path, 3, (8, 8))
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        mistakes.tiles(tmp_path / "none.png", 3, (8, 8))


# --- confusions -----------------------------------------------------------------------------------------------


def confused(classes: int) -> dict[tuple[int, int], int]:
    """All pairs of neighbours are confused; the later, the more. The last class has no images."""
    pairs = {(i, i): 1000 + i for i in range(classes - 1)}
    return pairs | {(i, (i + 1) % classes): i + 1 for i in range(classes - 1)}


def drawn(names: list[str], pairs: dict[tuple[int, int], int]) -> tuple[ElementTree.Element, list[str]]:
    """The picture and its texts, which are all within it."""
    content = confusion.svg(names, pairs)
    assert len(content) < 100_000
    assert content == confusion.svg(names, dict(reversed(pairs.items())))
    picture = ElementTree.fromstring(content)
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    texts = picture.findall(f".//{SVG}text")
    assert all(0 < float(t.attrib["x"]) < width and 0 < float(t.attrib["y"]) < height for t in texts)
    return picture, [text.text or "" for text in texts]


@pytest.mark.parametrize("classes", [2, 20, 30])
def test_a_picture_of_few_classes_has_names_and_numbers(classes: int) -> None:
    names, pairs = [f"class {i}" for i in range(classes)], confused(classes)
    picture, texts = drawn(names, pairs)
    assert [text for text in texts if text.startswith("class ")] == [name for name in names for _ in "rc"]
    assert sorted(int(text) for text in texts if text.isdigit()) == sorted(pairs.values())
    # A cell's shade is the square root of its share; 1 would be half opaque.
    shades = {float(cell.attrib.get("fill-opacity", 1)) for cell in picture.iter(f"{SVG}rect")}
    assert round(math.sqrt(1000 / 1001) / 2, 3) in shades
    assert round(math.sqrt(1 / 1001) / 2, 3) in shades
    right = sum(n for (a, b), n in pairs.items() if a == b)
    assert f"{right:,} of {sum(pairs.values()):,} test images are classified correctly" in texts


def test_a_picture_of_many_classes_names_the_largest_confusions() -> None:
    names, pairs = [f"class {i}" for i in range(60)], confused(60)
    picture, texts = drawn(names, pairs)
    cells = [path.attrib["d"].count("M") for path in picture.iter(f"{SVG}path") if "fill-opacity" in path.attrib]
    assert sum(cells) == len(pairs)
    listed = [text for text in texts if "taken for" in text]
    assert listed == [f"class {i} taken for class {i + 1}: {i + 1} of {1000 + 2 * i + 1:,}" for i in range(58, 44, -1)]
    assert not {*names} & {*texts}


def test_of_very_many_classes_the_most_confused_are_shown() -> None:
    names, pairs = [f"class {i}" for i in range(1000)], confused(1000)
    _, texts = drawn(names, pairs)
    assert "The 20 classes with the largest confusions, of 1,000" in texts
    assert {text for text in texts if text.startswith("class ")} == {*names[980:]}
    everywhere = {(a, b): 1 for a in range(100) for b in range(100)}
    assert len(confusion.svg(names[:100], everywhere)) < 500_000
    _, texts = drawn(names, {(i, i): 3 for i in range(1000)})
    assert {text for text in texts if text.startswith("class ")} == {*names[:20]}


def test_hostile_names_in_pictures_are_text() -> None:
    for classes in (2, 40):
        names = [f"{i}\0\ud800\n\ufffe" * 9 for i in range(classes)]
        names[classes - 2] = HOSTILE
        picture, texts = drawn(names, confused(classes))
        assert {element.tag.removeprefix(SVG) for element in picture.iter()} <= {"svg", "g", "rect", "path", "text"}
        assert any("</text><script>alert" in text for text in texts)
    captions = [mistakes.Mistake("x", name, name, 0.5) for name in (HOSTILE, "\0\ud800\n" * 50)]
    assert mistakes.sheet([np.zeros((3, 8, 8), np.uint8)] * 2, captions).size[0] < 300
