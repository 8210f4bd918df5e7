"""The pictures of the documents are drawn by the project."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parent.parent / "docs"

_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"


def test_every_picture_of_the_documents_is_drawn_and_every_drawing_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["draw_figures.py", str(tmp_path)])
    runpy.run_path(str(DOCS / "draw_figures.py"), run_name="__main__")
    drawn = {path.name for path in tmp_path.iterdir()}
    pages = "".join(page.read_text() for page in [DOCS.parent / "README.md", *DOCS.glob("*.md")])
    shown = set(re.findall(r"!\[.*?\]\((?:docs/)?pictures/(.*?)\)", pages))
    assert drawn == shown == {path.name for path in (DOCS / "pictures").iterdir()}
    for path in tmp_path.iterdir():
        assert_same_picture(path.read_text(), (DOCS / "pictures" / path.name).read_text())


def assert_same_picture(a: str, b: str) -> None:
    """Both SVGs show the same texts, and the same shapes in the same colours at the same places.

    Not to the last digit, which depends on the versions of the libraries and on the CPU, nor in the outlines of the
    letters, which depend on the font renderer.
    """
    assert texts_of(a) == texts_of(b)
    (marks_a, numbers_a), (marks_b, numbers_b) = shapes_of(a), shapes_of(b)
    assert marks_a == marks_b
    assert numbers_a == pytest.approx(numbers_b, abs=1.5)  # of a point, 1/72 inch


def texts_of(svg: str) -> list[str]:
    """What is written in a picture, in the order of drawing: matplotlib leaves each text as a comment."""
    return [text.strip() for text in re.findall(r"<!-- (.*?) -->", svg)]


def shapes_of(svg: str) -> tuple[list[str], list[float]]:
    """Kinds, styles and drawing commands of all shapes other than letters, and all their coordinates."""
    marks: list[str] = []
    numbers: list[float] = []
    for element in _outside_texts(ElementTree.fromstring(svg)):
        outline = " ".join(element.get(name, "") for name in ("d", "x", "y", "width", "height", "transform"))
        marks += [element.tag.split("}")[-1], element.get("style", ""), *re.sub(_NUMBER, "", outline).split()]
        numbers += [float(number) for number in re.findall(_NUMBER, outline)]
    return marks, numbers


def _outside_texts(element: ElementTree.Element) -> list[ElementTree.Element]:
    if element.get("id", "").startswith("text_"):
        return []
    below = [shape for child in element for shape in _outside_texts(child)]
    return [element, *below] if element.tag.split("}")[-1] in ("path", "rect", "use") else below


def test_pictures_that_differ_are_told_apart() -> None:
    picture = (DOCS / "pictures" / "heavy_ball.svg").read_text()
    assert_same_picture(picture, picture.replace("88.128 ", "88.1279 "))
    for old, new in (("stroke: #333333", "stroke: #333334"), ("88.128 ", "98.128 "), ("<!-- ", "<!-- x")):
        assert old in picture
        with pytest.raises(AssertionError):
            assert_same_picture(picture, picture.replace(old, new, 1))
