"""Pictures: DOT source, our own layout, files."""

import random
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib
import pytest

from genotypes import OPERATIONS, ZOO, CellGenotype, Edge, GenotypeError
from genotypes.draw import FORMS, draw, picture, to_dot
from genotypes.layout import Item, Layout, place


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


def laid_out(cell: CellGenotype) -> Layout:
    return place(cell, OPERATIONS, operation_width=1.0)


def boxes(layout: Layout) -> list[Item]:
    return [item for layer in layout.layers for item in layer]


@pytest.mark.parametrize("name", CELLS)
def test_no_box_or_wire_touches_another(name: str) -> None:
    layout = laid_out(CELLS[name])
    for a, b in combinations(boxes(layout), 2):
        across = abs(a.x - b.x) - (a.width + b.width) / 2
        along = abs(a.y - b.y) - (a.height + b.height) / 2
        assert across > 0.2 or along > 0.1


@pytest.mark.parametrize("name", CELLS)
def test_lines_run_between_columns_only(name: str) -> None:
    """So they cannot pass through a box: a line starts at one column's edge and ends at the next one's."""
    layout = laid_out(CELLS[name])
    for left, right in pairwise(layout.layers):
        ends = max(item.x + item.width / 2 for item in left)
        assert ends < min(item.x - item.width / 2 for item in right)
    assert all(link.target.layer == link.source.layer + 1 for link in layout.links)


@pytest.mark.parametrize("name", CELLS)
def test_the_picture_shows_the_cell(name: str) -> None:
    """Followed back from an operation or the output, the lines give the cell's edges and its concat."""
    cell = CELLS[name]
    items = boxes(laid_out(cell))
    states = {item.label: item for item in items if item.kind == "state"}
    labels = ["$c_{k{-}2}$", "$c_{k{-}1}$", *(str(i) for i in range(len(cell.nodes))), "$c_k$"]
    assert sorted(states) == sorted(labels)
    number = {id(states[label]): i for i, label in enumerate(labels)}

    def origin(item: Item) -> int:
        while item.kind == "wire":
            (item,) = item.sources
        return number[id(item)]

    shown = sorted(
        (number[id(item.targets[0])], item.operation, origin(item.sources[0]))
        for item in items
        if item.kind == "operation"
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
