"""The page of a run: what it shows, what of a damaged run it still shows, and that it needs nothing else."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import genotypes
import train_eval
import train_search
from genotypes import OPERATIONS as LABELS
from genotypes import CellGenotype, Edge
from nas.data import DataConfig, manifest
from nas.data.manifest import Contents
from nas.data.memory import MemoryData
from nas.errors import UsageError
from nas.report import page, plots
from nas.runs import mistakes, mixing, predictions
from nas.runs.directory import flat
from nas.study import statistics, table
from nas.study.page import command, write_report
from nas.study.table import CellResult, Failed, RowResult, Table
from tests.tiny import DATA, OPERATIONS, SEARCH, leave_predictions

PNG = "data:image/png;base64,"


class Page(HTMLParser):
    """The elements of a page, with their attributes, and its tables by the beginning of their captions."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._caption = ""
        self._rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in ("meta", "input", "img"):
            self._open.append(tag)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            assert self._caption, "a table has no caption"
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "caption" in self._open:
            self._caption += data
        elif "td" in self._open or "th" in self._open:
            self._rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, caption: str) -> list[list[str]]:
        (found,) = [rows for name, rows in self.tables.items() if name.startswith(caption)]
        return found

    def data(self) -> Any:
        (found,) = re.findall(r'<script type="application/json" id="by-epoch">(.*?)</script>', self.text)
        return json.loads(found)

    def shows(self, text: str) -> bool:
        return text in " ".join(" ".join(self.texts).split())


def check(shown: Page) -> None:
    """Nothing is loaded from elsewhere, and what is drawn can be read aloud."""
    assert "default-src 'none'" in shown.all("meta")[1]["content"]
    for _, attributes in shown.elements:
        assert attributes.get("href", "#").startswith("#")
        assert attributes.get("src", PNG).startswith(PNG)
        assert not {"srcset", "action", "xlink:href"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in shown.text.replace("url(#", "")
    assert "@import" not in shown.text
    identifiers = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(identifiers) == len({*identifiers})
    assert {a["href"].removeprefix("#") for _, a in shown.elements if "href" in a} <= {*identifiers}
    assert {*re.findall(r"url\(#([^)]+)\)", shown.text)} <= {*identifiers}
    pictures = shown.all("svg")
    assert pictures
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert all(picture["alt"] for picture in shown.all("img"))
    assert all(header.get("scope") in ("row", "col") for header in shown.all("th"))
    assert len(shown.text) < 5_000_000


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of two epochs in Space-AGD, whose edges have weights, and the training of its genotype."""
    folder = tmp_path_factory.mktemp("runs")
    search, train = str(folder / "search"), str(folder / "train")
    moving = ("--space", "agd", "--epochs", "2", "--arch-learning-rate", "0.3")
    train_search.command([*SEARCH, *OPERATIONS, *moving, "--run-dir", search])
    small = ("--layers", "3", "--init-channels", "4", "--epochs", "1")
    train_eval.command([*DATA, *small, "--arch", search, "--run-dir", train])
    for name in ("search", "train"):
        write_report(folder / name)
    return folder


def read(directory: Path) -> Page:
    return Page((directory / "report.html").read_text())


def test_the_page_of_a_search(runs: Path) -> None:
    shown = read(runs / "search")
    check(shown)
    slider, data = shown.all("input")[0], shown.data()
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == ("range", "1", "2", "2")
    weights, _ = mixing.read(runs / "search")
    found = [genotypes.load(runs / "search" / "genotypes" / f"epoch_{epoch:03d}.json") for epoch in (1, 2)]
    for kind, name in (("normal", "normal"), ("reduce", "reduction")):
        rows = [getattr(weights[epoch], kind).weights for epoch in (1, 2)]
        assert data["mixing"][kind] == [[round(1000 * w) for row in of_epoch for w in row] for of_epoch in rows]
        head, *table = shown.table(f"Mixing weights of the {name} cell")
        assert head[1:] == ["sep conv 3x3", "avg pool 3x3", "identity", "neg. identity", "zero"]
        assert [line[1:] for line in table] == [[f"{round(1000 * w) / 1000:.3f}" for w in row] for row in rows[1]]
        assert [line[0] for line in table] == ["c_k-2 → 0", "c_k-1 → 0", "c_k-2 → 1", "c_k-1 → 1", "0 → 1"]
        # In a frame is what the genotype takes, edge by edge.
        cell = getattr(found[1], kind)
        taken = [divmod(i, 5) for i in data["chosen"][kind][1]]
        assert [(weights[2].edges[e], weights[2].operations[o]) for e, o in taken] == [
            ((edge.source, target), edge.operation) for target, node in enumerate(cell.nodes, 2) for edge in node
        ]
        # One picture for each cell that differs.
        cells = [getattr(genotype, kind) for genotype in found]
        assert (data["cells"][kind][0] == data["cells"][kind][1]) == (cells[0] == cells[1])
        own = [figure for figure in shown.all("figure") if figure.get("data-cell") == kind]
        assert len(own) == len({*cells})
        assert [f["data-number"] for f in own if "hidden" not in f] == [str(data["cells"][kind][1])]
    labels = " ".join(picture["aria-label"] for picture in shown.all("svg"))
    with (runs / "search" / "metrics.csv").open() as file:
        first, last = csv.DictReader(file)
    for column in ("valid_loss", "learning_rate", "normal_margin", "reduction_skips"):
        assert f"{float(first[column]):.4g} in epoch 1, {float(last[column]):.4g} in epoch 2" in labels
    assert f"Weights of the edges of the normal cell. Largest in epoch 2: {largest_edge(weights[2])}" in labels
    assert shown.shows(f"{float(last['discretization_gap']):.4g}")
    assert "eigenvalue" not in labels
    settings = dict(shown.table("All settings")[1:])
    config = flat(json.loads((runs / "search" / "config.json").read_text()))
    assert settings.keys() == config.keys()
    assert settings["space.operations"] == " ".join(OPERATIONS[1:])


def largest_edge(weights: mixing.EpochMixing) -> str:
    edges = weights.normal.edges
    assert edges is not None
    e = edges.index(max(edges))
    return f"{mixing.edge_names(weights.edges)[e]} with {edges[e]:.3g}"


def test_the_page_of_a_training(runs: Path, tmp_path: Path) -> None:
    shown = read(runs / "train")
    check(shown)
    result = json.loads((runs / "train" / "result.json").read_text())
    for text in (f"{result['test_error']:.2f} %", f"{result['params']:,}", f"{result['macs']:,}"):
        assert shown.shows(text)
    assert shown.shows("The genotype was found by a search of agd on fake with seed 0, 2 epochs in")
    assert [picture["aria-label"].split(":")[0] for picture in shown.all("svg")[:2]] == [
        "normal cell",
        "reduction cell",
    ]
    _, *edges, rest, total = shown.table("The evaluation network: 3 cells of 4 channels on 8x8 pixels")
    found = genotypes.load(runs / "train" / "genotype.json")
    cells = (found.normal, found.reduce)
    assert [line[1] for line in edges] == [LABELS[e.operation] for cell in cells for node in cell.nodes for e in node]
    for column, key in ((2, "params"), (3, "macs")):
        values = [int(line[column].replace(",", "")) for line in (*edges, rest)]
        assert sum(values) == result[key] == int(total[column].replace(",", ""))
    # The tables are rewritten for other images, the result is not; the page says so.
    assert not shown.shows("later evaluation")
    directory = shutil.copytree(runs / "train", tmp_path / "run")
    told = train_eval.command(["--evaluate", str(directory), "--device", "cpu", "--fake-test", "7"])
    write_report(directory)
    other = read(directory)
    assert other.shows(f"{result['test_error']:.2f} %")
    assert other.shows(f"a later evaluation (--evaluate), of 7 images, {told['test_accuracy']:.2f} % of them right")


def test_hostile_names_are_text(runs: Path, tmp_path: Path) -> None:
    name = "</script><script>alert(1)<!-- $x$ \"'&"
    directory = tmp_path / name.replace("/", "")
    shutil.copytree(runs / "search", directory)
    config = json.loads((directory / "config.json").read_text())
    config["data"]["dataset"] = config[name] = name
    (directory / "config.json").write_text(json.dumps(config))
    weights = json.loads((directory / "mixing" / "epoch_002.json").read_text())
    weights["operations"][0] = name
    for epoch in (1, 2):
        (directory / "mixing" / f"epoch_00{epoch}.json").write_text(json.dumps(weights))
    (directory / "env.json").write_text(json.dumps({"command": ["x.py", name], "device": name, "packages": {name: 3}}))
    (directory / "metrics.csv").write_text(f"epoch,{name.replace(',', '')},valid_loss\n1,{name},2\n2,1,<b>\n")
    write_report(directory)
    shown = read(directory)
    check(shown)
    assert len(shown.all("script")) == 2
    assert shown.shows(directory.name)
    assert "<b>" not in shown.text
    assert shown.data()["cells"]
    (head, *_) = shown.table("Mixing weights of the normal cell")
    assert head[1] == name


def damage(directory: Path) -> None:
    """Every file that a page shows something of, but for the configuration."""
    for name in ("env.json", "record.json", "data.json", "genotype.json", "genotypes/epoch_001.json"):
        (directory / name).write_text('{"a": [')
    weights = json.loads((directory / "mixing" / "epoch_002.json").read_text())
    weights["normal"]["weights"].pop()
    (directory / "mixing" / "epoch_002.json").write_text(json.dumps(weights))
    (directory / "metrics.csv").write_bytes(b"\xff\0\n1")


def test_what_is_left_of_a_damaged_run(runs: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(runs / "search", directory)
    damage(directory)
    write_report(directory, tmp_path / "page.html")
    shown = Page((tmp_path / "page.html").read_text())
    check(shown)
    for name in ("env", "record", "data", "genotype", "genotypes/epoch_001", "mixing/epoch_002"):
        assert shown.shows(f"{directory / name}.json"), name
    assert shown.shows(f"{directory / 'metrics.csv'} cannot be read")
    assert shown.shows("has not ended; 0 epochs so far")
    data = shown.data()
    assert data["cells"]["normal"] == [-1, 0]
    assert [weights is None for weights in data["mixing"]["normal"]] == [False, True]
    assert shown.table("Mixing weights of the normal cell")[1][1:] == [""] * 5
    # What has no configuration either is still known as a search by its folders.
    (directory / "config.json").write_text("{")
    for path in directory.glob("mixing/*"):
        path.unlink()
    write_report(directory)
    assert read(directory).data()["mixing"] == {}
    for name in ("genotypes", "mixing"):
        shutil.rmtree(directory / name)
    with pytest.raises(UsageError, match="config.json cannot be read"):
        write_report(directory)


def test_the_command(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert command([str(runs / "train"), "--out", str(out)]) == {"report": str(out)}
    assert out.read_bytes() == (runs / "train" / "report.html").read_bytes()
    with pytest.raises(UsageError, match=r"holds no run \(no config.json\)"):
        command([str(tmp_path)])
    (tmp_path / "config.json").write_text('{"depths": 3}')
    with pytest.raises(UsageError, match="holds neither a search nor a training"):
        command([str(tmp_path)])
    with pytest.raises(UsageError, match="cannot be written"):
        command([str(runs / "train"), "--out", str(tmp_path / "none" / "page.html")])
    assert not [path for path in runs.rglob("*") if path.name.endswith(".tmp")]


def test_pages_of_fifty_epochs_are_small() -> None:
    """The largest cells that are searched, those of Space-HB, another in every epoch."""
    operations = ("sep_conv_3x3", "skip_connect", "neg_skip_connect")
    nodes = tuple(tuple(Edge(name, max(0, i + 1 - (name[0] == "n"))) for name in operations) for i in range(4))
    assert 100 * len(plots.cell(CellGenotype(nodes, (2, 3, 4, 5)), "normal cell")) < 3_500_000


def test_colours_have_another_value_where_the_page_is_dark() -> None:
    style = files("nas.report").joinpath("page.css").read_text()
    dark = {*re.findall(r"--(c-[0-9a-f]{6}):", style)}
    names = list(LABELS)
    nodes = tuple(tuple(Edge(name, 0) for name in names[i : i + 4]) for i in range(0, len(names), 4))
    six = [plots.Series(str(i), [1, 2], [i, i + 0.5]) for i in range(6)]
    drawn = page.join([plots.cell(CellGenotype(nodes, (2,)), ""), plots.curves("x", "", "", six)])
    assert {*re.findall(r"var\(--(c-[0-9a-f]{6}),", drawn)} == dark
    assert {html.unescape(a) for a in re.findall(r"(?:fill|stroke): (#\w+)", drawn)} == set()


def test_many_faults_do_not_fill_a_page() -> None:
    assert page.notes([]) == ""
    shown = page.notes([f"<{i}>" for i in range(50)])
    assert (shown.count("<li>"), "<li>&lt;11&gt;</li><li>and 38 more</li>" in shown) == (13, True)


@pytest.mark.parametrize("value", [3, 12345, 0.123456, 12345.6, "a<b", None, True])
def test_numbers_and_texts(value: object) -> None:
    shown = {3: "3", 12345: "12,345", 0.123456: "0.1235", 12345.6: "12,346", "a<b": "a&lt;b", None: ""}
    cell = page.element("td", page.number(value))
    assert cell == f"<td>{'True' if value is True else shown[value]}</td>"


# --- test images ----------------------------------------------------------------------------------------------


def predicted(directory: Path, names: tuple[str, ...], logits: torch.Tensor) -> MemoryData:
    """The directory of a training that says nothing but what its network predicts for images of 6x8 pixels."""
    pixels = torch.randint(256, (len(logits), 3, 6, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(len(logits)) % len(names)
    parts = {f"{part}_images": pixels for part in ("train", "test")}
    labelled = {f"{part}_labels": labels for part in ("train", "test")}
    files = [f"/{names[label]}/{i}.png" for i, label in enumerate(labels.tolist())]
    contents = {part: Contents("content", files, [b"8 bytes."] * len(files)) for part in ("train", "test")}
    images = MemoryData("own", classes=names, **parts, **labelled, config=DataConfig(), contents=contents)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text('{"training": {}}')
    (directory / manifest.NAME).write_text(manifest.to_text(images.manifest()))
    leave_predictions(directory, images, logits)
    return images


def pictures(shown: Page) -> list[np.ndarray]:
    addresses = [picture["src"].removeprefix(PNG) for picture in shown.all("img")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(address)))) for address in addresses]


def test_mistakes_in_a_page(tmp_path: Path) -> None:
    logits = torch.eye(3)[[0, 2, 0, 0, 0, 2]] * torch.arange(3, 9)[:, None]
    images = predicted(tmp_path, ("ant", "bee", "cat"), logits)
    write_report(tmp_path)
    shown = read(tmp_path)
    check(shown)
    head, *rows = shown.table("Accuracy of each class")
    assert head == ["class", "images", "right", "accuracy %", "most often taken for"]
    assert rows == [
        ["ant", "2", "2", "100.0", "-"],
        ["bee", "2", "0", "0.0", "ant (1)"],
        ["cat", "2", "1", "50.0", "ant (1)"],
    ]
    (label,) = [svg["aria-label"] for svg in shown.all("svg")]
    assert label.split(". ")[1:] == [
        f"{a} taken for {b}: 1 of 2" for a, b in (("bee", "ant"), ("bee", "cat"), ("cat", "ant"))
    ]
    # Images 4, 2 and 1 are wrong, the later ones with the larger logit.
    names = [f"Test image {name}.png" for name in ("bee/4", "cat/2", "bee/1")]
    assert [picture["alt"] for picture in shown.all("img")] == names
    for number, picture in zip((4, 2, 1), pictures(shown), strict=True):
        pixels = images.test_image(number).numpy().transpose(1, 2, 0)
        assert np.array_equal(picture, np.kron(pixels, np.ones((12, 12, 1))))
    share = 100 * float(logits[4].softmax(0)[0])
    assert shown.shows(f"bee taken for ant, {share:.1f} % bee/4.png cat taken for ant")


def test_a_page_says_that_there_are_no_mistakes(tmp_path: Path) -> None:
    predicted(tmp_path, ("ant", "bee"), torch.eye(2)[[0, 1, 0, 1]])
    write_report(tmp_path)
    shown = read(tmp_path)
    check(shown)
    assert shown.shows("No test image is classified wrongly.")
    assert not shown.all("img")


def test_mistakes_of_hostile_names(tmp_path: Path) -> None:
    name = '</script><script>alert(1)<!-- $x$ "\'& style="a" \x1b[31m'
    predicted(tmp_path, (name, "b" * 500), torch.eye(2)[[1, 1, 1]])
    write_report(tmp_path)
    shown = read(tmp_path)
    check(shown)
    assert len(shown.all("script")) == 1
    assert "\x1b" not in shown.text
    escaped = name.replace("\x1b", "\\x1b")
    assert shown.table("Accuracy of each class")[1][0] == escaped
    assert [picture["alt"] for picture in shown.all("img")] == [f"Test image {escaped}/{i}.png" for i in (0, 2)]


def test_accuracies_of_many_classes_are_folded(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(150))
    predicted(tmp_path, names, torch.eye(150)[[*range(149, 99, -1), *range(50, 150)]])
    write_report(tmp_path)
    shown = read(tmp_path)
    check(shown)
    _, *rows = shown.table("The 100 least accurate of 150 classes; classes.csv has them all")
    assert [line[0] for line in rows] == list(names[:100])
    assert [line[3] for line in rows] == ["0.0"] * 50 + ["100.0"] * 50


DAMAGES: dict[str, tuple[str, bytes, str]] = {
    "cut sheet": ("mistakes.png", b"\x89PNG\r\n\x1a\n", "mistakes.png cannot be read"),
    "no classes": ("classes.csv", b"class,images\n", ""),
    "a class's column": ("classes.csv", b"class,images,correct\nant,2\n", "classes.csv cannot be read"),
    "a count": ("confusion.csv", b"class,predicted,images\nant,bee,1e999\n", "confusion.csv cannot be read"),
    "a class": ("confusion.csv", b"class,predicted,images\nant,<b>,1\n", "does not have the class '<b>'"),
    "a probability": (
        "mistakes.csv",
        b"image,class,predicted,probability\n1,ant,bee,7\n",
        "mistakes.csv cannot be read",
    ),
    "more columns": ("mistakes.csv", b"image,class\n1,ant,bee,7\n", "mistakes.csv cannot be read"),
    "another number": ("mistakes.csv", b"image,class,predicted,probability\n1,ant,bee,0.7\n", "pixels large, not"),
    "no text": ("mistakes.csv", b"\xff\0", "mistakes.csv cannot be read"),
}


def test_what_is_left_of_damaged_predictions(tmp_path: Path) -> None:
    predicted(tmp_path / "whole", ("ant", "bee"), torch.eye(2)[[0, 0, 0, 0]])
    for number, (name, content, told) in enumerate(DAMAGES.values()):
        directory = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        (directory / name).write_bytes(content)
        write_report(directory)
        shown = read(directory)
        assert shown.shows(told), name
        assert bool(shown.all("svg")) == (name.startswith("mistakes")), name


# --- of a study -----------------------------------------------------------------------------------------------


def row_of(name: str, kind: str, errors: list[float], **more: Any) -> RowResult:
    """A row whose seeds have these test errors; those of its baseline are `against`."""
    against, own, failed = more.pop("against", []), more.pop("genotypes", ["resnet20"]), more.pop("failed", [])
    done = [
        CellResult(
            seed=seed,
            test_error=error,
            params=1_234_567 + seed,
            macs=98_765_432,
            search_seconds=100.0 if kind == "search" else None,
            train_seconds=2000.0,
            genotype=own[seed % len(own)],
            directory=f"cells/x/{seed}",
        )
        for seed, error in enumerate(errors)
    ]
    return RowResult(
        name=name,
        kind=kind,
        baseline=more.pop("baseline", None),
        published=more.pop("published", None),
        planned=len(done) + len(failed) + more.pop("left", 0),
        n=len(done),
        test_error=statistics.mean(errors) if errors else None,
        params=1_234_567.0 if errors else None,
        macs=98_765_432.0 if errors else None,
        search_seconds=100.0 if errors and kind == "search" else None,
        train_seconds=2000.0 if errors else None,
        device="cpu (x86_64)",
        difference=statistics.difference(errors, against) if errors and against else None,
        relative_improvement=statistics.relative_improvement(errors, against) if errors and against else None,
        cells=done,
        failed=failed,
        **more,
    )


def study() -> Table:
    hostile, darts = "<img src=x> </details>", genotypes.to_text(genotypes.resolve("DARTS_V2"))
    chance = [5.0, 6.0, 5.5, 6.5]
    against = {"baseline": "random", "against": chance}
    rows = [
        row_of("random", "random", chance, published=3.3, genotypes=[darts, "resnet20"]),
        row_of(hostile, "search", [3.0, 3.2, 3.1], **against, published=2.5, genotypes=[darts]),
        row_of("worse", "search", [9.0, 9.1], **against, published=2.4, left=3),
        row_of("no different", "arch", [5.2, 6.3], **against, failed=[Failed(seed=2, why="<script>no</script>")]),
        row_of("one seed", "search", [4.0], **against),
        row_of("none yet", "search", [], baseline="random", left=4),
        row_of("many", "every", [5 + i / 10 for i in range(14)], genotypes=[f"network-{i}" for i in range(14)]),
    ]
    settings: Any = {"data": {"dataset": "digits"}, "search": {}, "train": {"preset": "smoke"}}
    command = ["/x/optinas-study", "a b.toml"]
    return Table(title="A <study>", environment={"command": command}, settings=settings, agreement=1 / 3, rows=rows)


def test_the_page_of_a_study(tmp_path: Path) -> None:
    found = study()
    table.write(found, tmp_path)
    assert write_report(tmp_path) == tmp_path / "report.html"
    shown = read(tmp_path)
    check(shown)
    assert len(shown.all("script")) == 1
    assert not shown.all("img")
    # The figures are those of table.json.
    head, *rows = shown.table("Test error in percent")
    assert head == [*table.COLUMNS]
    values = [[column(row) for column in table.COLUMNS.values()] for row in table.read(tmp_path / "table.json").rows]
    assert rows == [[f"{i}. {name}", *others] for i, (name, *others) in enumerate(values, start=1)]
    told = [
        "<img src=x> </details> : better than random architectures by",
        "worse : worse than random architectures by",
        "no different : not told apart from random architectures",
        "one seed : undecided",
        "at 95 % and n = 3, against random.",
        "no different, seed 2 failed: <script>no</script>",
        "worse: 3 of 5 cells have not been computed",
        "These are the best 12 of 14 different genotypes.",
        "network-0: seed 0 (5.00 %)",
        "/x/optinas-study 'a b.toml'",
    ]
    assert [text for text in told if not shown.shows(text)] == []
    _, *seeds = shown.table("Cells of random")
    assert [line[:3] for line in seeds[:2]] == [["0", "5.00", "1,234,567"], ["1", "6.00", "1,234,568"]]
    order = shown.table("Order by test error here")
    assert [line[:2] + line[3:] for line in order[1:]] == [
        ["<img src=x> </details>", "1", "2", "2.50"],
        ["random", "2", "3", "3.30"],
        ["worse", "3", "1", "2.40"],
    ]
    labels = [picture["aria-label"] for picture in shown.all("svg")]
    assert [label.split(".")[0] for label in labels[:1]] == ["Test error of every seed"]
    # Each of a row's genotypes once, here in two rows, and its cells.
    assert sum("Normal cell, seed" in label for label in labels) == 2
    assert {"Normal cell, seeds 0 (3.00 %), 2 (3.10 %), 1 (3.20 %)", "Normal cell, seeds 0 (5.00 %), 2 (5.50 %)"} <= {
        label.split(":")[0] for label in labels
    }
    assert [details.get("open") for details in shown.all("details")] == [None] * (len(found.rows) + 2)


def test_a_study_without_results_and_a_damaged_table(tmp_path: Path) -> None:
    empty = study().rows[5]
    nothing = msgspec.structs.replace(study(), rows=[empty], agreement=None, environment={})
    table.write(nothing, tmp_path)
    write_report(tmp_path)
    shown = read(tmp_path)
    assert not shown.all("svg")
    assert shown.shows("none yet: 4 of 4 cells have not been computed")
    (tmp_path / "table.json").write_text("{}")
    with pytest.raises(UsageError, match="table.json cannot be read: .*missing required field"):
        write_report(tmp_path)
    table.write(study(), tmp_path)
    damaged = json.loads((tmp_path / "table.json").read_text())
    damaged["rows"][0]["test_error"]["high"] = None
    (tmp_path / "table.json").write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match="table.json cannot be read: an interval has only one end"):
        write_report(tmp_path)


# --- in a browser ---------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

WATCH = """<script>
const problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("securitypolicyviolation", (event) => problems.push(event.blockedURI));
for (const name of ["error", "warn"]) console[name] = (...words) => problems.push(words.join(" "));
</script>"""
MOVE = """<script>
const seen = [], range = document.querySelector("input[type=range]");
for (let epoch = +range.min; epoch <= +range.max; epoch++) {
  range.value = epoch;
  range.dispatchEvent(new Event("input"));
  const shown = [...document.querySelectorAll("figure[data-cell]")].filter((f) => f.offsetHeight > 0);
  seen.push({
    output: document.querySelector("output").value,
    pictures: shown.map((f) => [f.dataset.cell, +f.dataset.number]),
    drawn: shown.every((f) => f.querySelector("svg").getBoundingClientRect().width > 100),
    weights: [...document.querySelectorAll("#mixing-normal td")].map((cell) => [cell.textContent, cell.className]),
  });
}
addEventListener("load", () => {
const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
const charts = document.querySelectorAll(".charts svg").length;
const images = [...document.images].map((image) => [image.naturalWidth, image.naturalHeight, image.offsetWidth]);
const found = document.createElement("pre");
found.id = "found";
found.textContent = JSON.stringify({ seen, problems, loaded, charts, images });
document.body.append(found);
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_a_page_in_a_browser(runs: Path, tmp_path: Path) -> None:
    """Nothing is loaded, the slider moves cells and weights, and images are shown; here those of a training."""
    directory = shutil.copytree(runs / "search", tmp_path / "run")
    predicted(tmp_path / "tested", ("ant", "bee"), torch.eye(2)[[1, 0, 0, 0]])
    for name in (manifest.NAME, *predictions.NAMES, mistakes.SHEET):
        shutil.copy(tmp_path / "tested" / name, directory)
    write_report(directory)
    text = (directory / "report.html").read_text()
    path = tmp_path / "page.html"
    path.write_text(text.replace("<style>", f"{WATCH}<style>", 1).replace("</body>", f"{MOVE}</body>"))
    argv = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [*argv, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True, env=environment
    )
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout)
    assert match is not None, done.stderr
    found, data = json.loads(html.unescape(match[1])), Page(text).data()
    assert (found["problems"], found["loaded"]) == ([], [])
    assert found["charts"] > 8
    assert found["images"] == [[96, 72, 96]] * 3
    assert [seen["output"] for seen in found["seen"]] == ["1 of 2", "2 of 2"]
    for i, seen in enumerate(found["seen"]):
        assert seen["drawn"]
        assert seen["pictures"] == [[kind, data["cells"][kind][i]] for kind in ("normal", "reduce")]
        assert [text for text, _ in seen["weights"]] == [f"{w / 1000:.3f}" for w in data["mixing"]["normal"][i]]
        framed = [i for i, (_, shade) in enumerate(seen["weights"]) if "chosen" in shade]
        assert framed == sorted(data["chosen"]["normal"][i])
        assert len({shade for _, shade in seen["weights"]}) > 2
    assert found["seen"][0]["weights"] != found["seen"][1]["weights"]
