"""Pictures: DOT source, our own layout, files."""

import io
import random
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import pytest
from PIL import Image, ImageFont

from genotypes import OPERATIONS, ZOO, CellGenotype, Edge, GenotypeError
from genotypes.draw import FORMS, draw, picture, to_dot
from genotypes.layout import LEAST_LABEL, Item, Layout, fit, place


def wide_cell(edges: int) -> CellGenotype:
    generator = random.Random(edges)
    nodes = tuple(
        tuple(Edge(generator.choice(sorted(OPERATIONS)), generator.randrange(i)) for _ in range(edges))
        for i in range(2, 6)
    )
    return CellGenotype(nodes, (2, 3, 4, 5))


HEAVY_BALL = CellGenotype(
    nodes=tuple(
        (Edge("sep_conv_3x3", i - 1), Edge("skip_connect", i - 1), Edge("neg_skip_connect", i - 2)) for i in range(2, 6)
    ),
    concat=(2, 3, 4, 5),
)
CELLS = {
    **{f"{name} normal": entry.genotype.normal for name, entry in ZOO.items()},
    **{f"{name} reduce": entry.genotype.reduce for name, entry in ZOO.items()},
    "heavy ball": HEAVY_BALL,
    "five edges": wide_cell(5),
    "twelve edges": wide_cell(12),
    "dead ends": CellGenotype(((Edge("none", 0),), (Edge("none", 0),), (Edge("none", 1),)), (3,)),
}


COLUMN_MM = 84  # of a paper with two columns


def random_cell(seed: int, nodes: int, edges: int, *, heavy_ball: bool = False) -> CellGenotype:
    """With the topology of Space-HB, or with any sources."""
    generator = random.Random(seed)
    sources = [
        (i - 1, i - 1, i - 2) if heavy_ball else [generator.randrange(i) for _ in range(edges)]
        for i in range(2, nodes + 2)
    ]
    return CellGenotype(
        tuple(tuple(Edge(generator.choice(sorted(OPERATIONS)), j) for j in read) for read in sources),
        tuple(range(2, nodes + 2)),
    )


NARROW = {
    **CELLS,
    **{f"heavy ball {seed}": random_cell(seed, 4, 3, heavy_ball=True) for seed in range(3)},
    **{f"five nodes of {edges} edges, {seed}": random_cell(seed, 5, edges) for edges in (2, 3) for seed in range(6)},
}


@cache
def laid_out(cell: CellGenotype) -> Layout:
    return place(cell, OPERATIONS, operation_width=1.0)


@cache
def narrow(name: str) -> Layout:
    # Letters as wide as those of the font are on average.
    longest = max(len(OPERATIONS[edge.operation]) for node in NARROW[name].nodes for edge in node)
    layout = fit(NARROW[name], OPERATIONS, lambda size: 0.6 * size * longest / 72, COLUMN_MM / 25.4)
    assert layout is not None
    return layout


def boxes(layout: Layout) -> list[Item]:
    return [item for layer in layout.layers for item in layer]


@pytest.mark.parametrize("name", CELLS)
def test_no_box_or_wire_touches_another(name: str) -> None:
    layout = laid_out(CELLS[name])
    for a, b in combinations(boxes(layout), 2):
        across = abs(a.x - b.x) - (a.width + b.width) / 2
        along = abs(a.y - b.y) - (a.height + b.height) / 2
        assert across > 0.2 or along > 0.1


@pytest.mark.parametrize("name", NARROW)
def test_every_cell_fits_into_a_column(name: str) -> None:
    layout = narrow(name)
    assert layout.width <= COLUMN_MM / 25.4 + 1e-6
    assert layout.sizes.label >= LEAST_LABEL
    for item in boxes(layout):
        assert item.width / 2 - 1e-6 <= item.x <= layout.width - item.width / 2 + 1e-6
        assert item.height / 2 - 1e-6 <= item.y <= layout.height - item.height / 2 + 1e-6
    for a, b in combinations(boxes(layout), 2):
        across = abs(a.x - b.x) - (a.width + b.width) / 2
        along = abs(a.y - b.y) - (a.height + b.height) / 2
        assert max(across, along) > 0.07
    for upper, lower in pairwise(layout.layers) if layout.downwards else ():
        ends = min(item.y - item.height / 2 for item in upper)
        assert ends > max(item.y + item.height / 2 for item in lower)


@pytest.mark.parametrize("name", CELLS)
def test_lines_run_between_columns_only(name: str) -> None:
    """So they cannot pass through a box: a line starts at one column's edge and ends at the next one's."""
    layout = laid_out(CELLS[name])
    for left, right in pairwise(layout.layers):
        ends = max(item.x + item.width / 2 for item in left)
        assert ends < min(item.x - item.width / 2 for item in right)
    assert all(link.target.layer == link.source.layer + 1 for link in layout.links)


@pytest.mark.parametrize("narrowly", [False, True], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", CELLS)
def test_the_picture_shows_the_cell(name: str, narrowly: bool) -> None:
    """Followed back from an operation or the output, the lines give the cell's edges and its concat."""
    cell = CELLS[name]
    items = boxes(narrow(name) if narrowly else laid_out(cell))
    states = {item.label: item for item in items if item.kind == "state"}
    labels = ["$c_{k{-}2}$", "$c_{k{-}1}$", *(str(i) for i in range(len(cell.nodes))), "$c_k$"]
    assert sorted(states) == sorted(labels)
    number = {id(states[label]): i for i, label in enumerate(labels)}

    def reader(item: Item) -> int:
        while item.kind != "state":
            (item,) = item.targets
        return number[id(item)]

    def origin(item: Item) -> int:
        while item.kind == "wire":
            (item,) = item.sources
        return number[id(item)]

    shown = sorted(
        (reader(item), item.operation, origin(item.sources[0])) for item in items if item.kind == "operation"
    )
    edges = sorted((i, e.operation, e.source) for i, node in enumerate(cell.nodes, 2) for e in node)
    assert shown == edges
    assert sorted(origin(item) for item in states["$c_k$"].sources) == sorted(cell.concat)


def test_few_lines_cross_in_the_heavy_ball_cell() -> None:
    layout = laid_out(HEAVY_BALL)
    crossings = sum(
        (a.source.y - b.source.y) * (a.target.y - b.target.y) < 0
        for a, b in combinations(layout.links, 2)
        if a.source.layer == b.source.layer
    )
    assert crossings <= 6


@pytest.mark.parametrize("name", ["DARTS_V2 normal", "heavy ball", "five edges"])
def test_dot_source_names_every_operation(name: str) -> None:
    source = to_dot(CELLS[name], title='a "title" \\N <b>')
    edges = [edge for node in CELLS[name].nodes for edge in node]
    assert source.count("->") == len(edges) + len(CELLS[name].concat)
    for edge in edges:
        assert f'label=" {OPERATIONS[edge.operation]} "' in source


BEGINNINGS = {"svg": b"<?xml", "png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-"}


@pytest.fixture
def failing_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `dot` that fails, and leaves a trace of having been run."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/run\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return tmp_path / "run"


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_drawn_without_dot_the_same_each_time(form: str, failing_dot: Path, tmp_path: Path) -> None:
    # As a user's own file of settings may have it.
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "savefig.pad_inches": 9, "svg.fonttype": "none"}):
        draw(HEAVY_BALL, tmp_path / f"a.{form}", title="50 $ & <b> $x$")
    draw(HEAVY_BALL, tmp_path / f"b.{form.upper()}", title="50 $ & <b> $x$")
    content = (tmp_path / f"a.{form}").read_bytes()
    assert content.startswith(BEGINNINGS[form])
    assert content == (tmp_path / f"b.{form.upper()}").read_bytes()
    assert content != picture(wide_cell(3), form)
    if form == "svg":
        assert ET.fromstring(content).tag.endswith("svg")
    assert not failing_dot.exists()
    assert len(list(tmp_path.iterdir())) == 3


@dataclass
class Label:
    """A text of an SVG: all sizes of its letters in points, and the corners of what it covers."""

    text: str
    sizes: list[float]
    left: float
    top: float
    right: float
    bottom: float


def labels_of(svg: ET.Element) -> list[Label]:
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), 100)
    labels = []
    for text in svg.iter("{http://www.w3.org/2000/svg}text"):
        (group,) = (g for g in svg.iter("{http://www.w3.org/2000/svg}g") if text in list(g))
        x0, y0 = map(float, re.findall(r"translate\((\S+) (\S+)\)", group.get("transform", "translate(0 0)"))[0])
        label = Label("", [], 1e9, 1e9, -1e9, -1e9)
        for piece in list(text) or [text]:
            style, content = piece.get("style", ""), piece.text or ""
            size = float(re.findall(r"([\d.]+)px", style)[0])
            x, y = (float(piece.get(name, "0").split()[0]) for name in "xy")
            width = font.getlength(content) * size / 100
            x += x0 - (width / 2 if "text-anchor: middle" in style else 0)
            label.text, label.sizes = label.text + content, [*label.sizes, size]
            label.left, label.right = min(label.left, x), max(label.right, x + width)
            label.top, label.bottom = min(label.top, y0 + y - 0.73 * size), max(label.bottom, y0 + y)
        labels.append(label)
    return labels


def assert_legible(content: bytes, cell: CellGenotype, title: str, width_mm: float) -> None:
    svg = ET.fromstring(content)
    width, height = (float(svg.get(name, "").removesuffix("pt")) for name in ("width", "height"))
    assert width == pytest.approx(width_mm * 72 / 25.4, abs=1e-3)
    assert svg.get("viewBox") == f"0 0 {svg.get('width', '')[:-2]} {svg.get('height', '')[:-2]}"
    labels = labels_of(svg)
    shown = sorted(label.text for label in labels)
    operations = [OPERATIONS[edge.operation] for node in cell.nodes for edge in node]
    states = ["ck\u22122", "ck\u22121", "ck", *map(str, range(len(cell.nodes)))]
    assert shown == sorted([*operations, *states, *([title] if title else [])])
    for label in labels:
        assert min(label.sizes) >= LEAST_LABEL
        assert label.left >= 0
        assert label.right <= width
        assert label.top >= 0
        assert label.bottom <= height
    for a, b in combinations(labels, 2):
        assert a.right < b.left or b.right < a.left or a.bottom < b.top or b.bottom < a.top, (a, b)


@pytest.mark.parametrize("name", ZOO)
def test_published_cells_are_legible_in_a_column(name: str) -> None:
    for kind, cell in (("normal", ZOO[name].genotype.normal), ("reduction", ZOO[name].genotype.reduce)):
        title = f"{name}, {kind} cell"
        assert_legible(picture(cell, "svg", title, width_mm=COLUMN_MM), cell, title, COLUMN_MM)


def test_a_width_is_that_of_every_form() -> None:
    for width_mm in (60, 170, 400):
        assert_legible(picture(HEAVY_BALL, "svg", width_mm=width_mm), HEAVY_BALL, "", width_mm)
    with Image.open(io.BytesIO(picture(HEAVY_BALL, "png", width_mm=COLUMN_MM))) as png:
        assert png.width / png.info["dpi"][0] * 25.4 == pytest.approx(COLUMN_MM, abs=0.1)
    (box,) = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ", picture(HEAVY_BALL, "pdf", width_mm=COLUMN_MM))
    assert float(box) / 72 * 25.4 == pytest.approx(COLUMN_MM)


def test_a_title_that_is_too_long_is_broken() -> None:
    title = "a rather long title, of words and " + 80 * "W" + "\0"
    svg = ET.fromstring(picture(HEAVY_BALL, "svg", title, width_mm=COLUMN_MM))
    lines = [label for label in labels_of(svg) if label.text[0] in "aW"]
    assert "".join(label.text for label in lines).replace(" ", "") == title.replace(" ", "").replace("\0", "\ufffd")
    assert len(lines) > 3
    assert all(label.left >= 0 and label.right <= COLUMN_MM / 25.4 * 72 for label in lines)


def test_what_cannot_be_so_narrow_is_refused() -> None:
    with pytest.raises(
        GenotypeError, match="a cell of 4 nodes and 12 edges cannot be drawn 15 mm wide with letters of 6 "
    ):
        picture(HEAVY_BALL, "svg", width_mm=15)


@pytest.mark.parametrize("name", ["cell.gif", "cell", "cell.dot", "cell."])
def test_other_suffixes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(GenotypeError, match=r"name it \.svg, \.png or \.pdf"):
        draw(HEAVY_BALL, tmp_path / name)


def test_invalid_cells_are_refused(tmp_path: Path) -> None:
    cell = CellGenotype(((Edge("sep_conv_3x3", 2),),), (2,))
    with pytest.raises(GenotypeError, match="source"):
        draw(cell, tmp_path / "cell.svg")
    with pytest.raises(GenotypeError, match="source"):
        to_dot(cell)
