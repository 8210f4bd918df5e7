"""Spaces small enough to know whole: which genotypes are the same network, all of a space, tables of their errors."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import genotypes
import spaces
from genotypes import CellGenotype, Edge, Genotype
from nas.errors import UsageError
from nas.networks.cells import Network, NetworkConfig
from nas.study import cells, planning, regret
from nas.study import table as study_table
from nas.study.exhaustive import Benchmark, Protocol, Trained, canonical, choices, distinct
from spaces import KINDS, Kind, SearchSpace
from spaces.sampling import Sampler

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ("sep_conv_3x3", "skip_connect", "neg_skip_connect")
#: The smallest space with parallel edges, and the smallest in which edges are dropped and nodes can change places.
MICRO = {"hb": OPERATIONS[::2], "darts": ("max_pool_3x3", "skip_connect"), "agd": ("max_pool_3x3", "skip_connect")}


@functools.cache
def micro(name: str) -> SearchSpace:
    return spaces.build(spaces.SpaceConfig(space=name, nodes=2, operations=MICRO[name], init="zero"))


# --- the same network ---------------------------------------------------------------------------------------------


@st.composite
def small_cells(draw: st.DrawFn) -> CellGenotype:
    """Of few nodes and operations, so that symmetric ones are frequent."""
    count = draw(st.integers(1, 3))
    edges = [st.builds(Edge, st.sampled_from(OPERATIONS), st.integers(0, node - 1)) for node in range(2, count + 2)]
    nodes = tuple(tuple(draw(st.lists(edge, min_size=1, max_size=3))) for edge in edges)
    concat = draw(st.lists(st.integers(2, count + 1), min_size=1, unique=True))
    return CellGenotype(nodes, tuple(concat))


class Move:
    """A cell with nodes and edges in another order and other signs at stride 2, and what became of each."""

    def __init__(self, cell: CellGenotype, kind: Kind, draw: random.Random) -> None:
        self.order = [0, 1]
        """The old number of each node."""
        while len(self.order) < len(cell.nodes) + 2:
            left = [node for node in range(2, len(cell.nodes) + 2) if node not in self.order]
            self.order.append(draw.choice([n for n in left if all(e.source in self.order for e in cell.nodes[n - 2])]))
        self.edges: list[tuple[int, bool]] = []
        """Of each edge, the old place and whether its sign changes."""
        first = [sum(map(len, cell.nodes[:node])) for node in range(len(cell.nodes))]
        nodes = []
        for old in self.order[2:]:
            places = list(range(len(cell.nodes[old - 2])))
            draw.shuffle(places)
            node = []
            for place in places:
                edge = cell.nodes[old - 2][place]
                identity = edge.operation in ("skip_connect", "neg_skip_connect")
                flips = kind == "reduce" and edge.source < 2 and identity and draw.random() < 0.5
                other = {"skip_connect": "neg_skip_connect", "neg_skip_connect": "skip_connect"}
                name = other[edge.operation] if flips else edge.operation
                node.append(Edge(name, self.order.index(edge.source)))
                self.edges.append((first[old - 2] + place, flips))
            nodes.append(tuple(node))
        concat = [self.order.index(node) for node in cell.concat]
        self.outputs = draw.sample(range(len(concat)), len(concat))
        """The old place of each node in the output."""
        self.cell = CellGenotype(tuple(nodes), tuple(concat[i] for i in self.outputs))


def network(genotype: Genotype, layers: int) -> Network:
    torch.manual_seed(0)
    config = NetworkConfig(layers=layers, init_channels=2)
    return Network(genotype, config, in_channels=1, image_size=(8, 8), num_classes=3).double()


def moved_state(old: Network, moves: Sequence[Move]) -> dict[str, Tensor]:
    """The state of the old network for one whose cells were moved so."""
    state = {name: value for name, value in old.state_dict().items() if ".edges." not in name}
    for k, move in enumerate(moves):
        for place, (before, flips) in enumerate(move.edges):
            start = f"cells.{k}.edges.{before}."
            for name, value in old.state_dict().items():
                if name.startswith(start):
                    signed = flips and ("conv" in name or name.endswith((".bias", "running_mean")))
                    state[f"cells.{k}.edges.{place}.{name.removeprefix(start)}"] = -value if signed else value
        following = (f"cells.{k + 1}.preprocess1", f"cells.{k + 2}.preprocess0")
        readers = [name for name in state if name.startswith(following) and state[name].dim() == 4]
        for name in [*readers, *(["classifier.weight"] if k == len(moves) - 1 else [])]:
            blocks = state[name].chunk(len(move.outputs), dim=1)
            state[name] = torch.cat([blocks[i] for i in move.outputs], dim=1)
    return state


@settings(max_examples=12, deadline=None)
@given(small_cells(), small_cells(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_symmetric_genotypes_have_one_form_and_equal_networks(
    normal: CellGenotype, reduction: CellGenotype, layers: int, draw: random.Random
) -> None:
    genotype = Genotype(normal, reduction)
    of_kind = {"normal": Move(normal, "normal", draw), "reduce": Move(reduction, "reduce", draw)}
    moved = Genotype(of_kind["normal"].cell, of_kind["reduce"].cell)
    form = canonical(genotype, layers=layers)
    assert canonical(moved, layers=layers) == form == canonical(form, layers=layers)

    moves = [of_kind["reduce" if k in (layers // 3, 2 * layers // 3) else "normal"] for k in range(layers)]
    old, new = network(genotype, layers), network(moved, layers)
    with torch.no_grad():  # of both signs, and none twice the same
        for parameter in old.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    new.load_state_dict(moved_state(old, moves))
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    logits = [net(images) for net in (old, new)]
    torch.testing.assert_close(*logits)
    steps = [
        torch.autograd.grad(out.logsumexp(1).sum(), list(net.parameters()), allow_unused=True)
        for out, net in zip(logits, (old, new), strict=True)
    ]
    # Renamed or of the other sign, a gradient has the same length: training treats both networks alike.
    torch.testing.assert_close(*(sum(g.square().sum() for g in step if g is not None) for step in steps))


def orbit(genotype: Genotype, layers: int) -> frozenset[CellGenotype]:
    """All reduction cells that are the same as that of a genotype, by trying every order and sign."""
    assert layers < 3
    found = set()
    cell = genotype.reduce
    for order in itertools.permutations(range(2, len(cell.nodes) + 2)):
        numbers = {0: 0, 1: 1, **{old: new for new, old in enumerate(order, 2)}}
        nodes = []
        for old in order:
            ways = []
            for edge in cell.nodes[old - 2]:
                same = {edge.operation}
                if edge.source < 2 and same <= {"skip_connect", "neg_skip_connect"}:
                    same = {"skip_connect", "neg_skip_connect"}
                ways.append([Edge(name, numbers[edge.source]) for name in sorted(same)])
            picks = itertools.product(*ways)
            nodes.append([p for pick in picks for p in itertools.permutations(pick)])
        for chosen in itertools.product(*nodes):
            if all(edge.source < node for node, edges in enumerate(chosen, 2) for edge in edges):
                found.add(CellGenotype(chosen, cell.concat))
    return frozenset(found)


def derived(space: SearchSpace) -> list[Genotype]:
    """Everything that a space derives, by deriving from every order of the edges and every strongest operation."""
    edges = len(space.topology.edges)
    found = set()
    # Only the order of the last three edges matters: the first two enter node 2, which keeps them.
    for order in itertools.permutations(range(3, edges + 1)) if space.edges_kept else [range(3, edges + 1)]:
        for columns in itertools.product(range(len(space.operations)), repeat=edges):
            mixing = torch.zeros(edges, len(space.operations))
            mixing[range(edges), columns] = torch.tensor([1, 2, *order], dtype=torch.float32)
            found.add(space.derive(dict.fromkeys(KINDS, mixing)).reduce)
    return [Genotype(cell, cell) for cell in found]


@pytest.mark.parametrize("name", ["hb", "darts"])
def test_the_distinct_genotypes_are_all_that_a_space_derives_symmetric_ones_once(name: str) -> None:
    everything = derived(micro(name))
    orbits = Counter(orbit(genotype, 2) for genotype in everything)
    found = choices(micro(name), layers=2)
    assert len(found) == len(orbits)
    assert Counter(orbit(genotype, 2) for genotype in found) == dict.fromkeys(orbits, 1)
    assert {orbit(genotype, 2): ways for genotype, ways in found.items()} == orbits


def test_micro_spaces_have_as_many_cells_as_counted_by_hand() -> None:
    three = ("sep_conv_3x3", "max_pool_3x3", "skip_connect")
    sizes = {}
    for name, operations in (("hb", OPERATIONS), ("darts", three), ("agd", three)):
        space = spaces.build(spaces.SpaceConfig(space=name, nodes=2, operations=operations, init="zero"))
        sizes[name] = [set(distinct(space, layers=2)), sum(choices(space, layers=2).values())]
    # Identities at stride 2 are one operation. Node 2 has 3 pairs of 2 operations, times 2; node 3 has 6 of 3, times 2.
    assert len(sizes["hb"][0]) == (3 * 2) * (6 * 2)
    assert sizes["hb"][1] == 3**6
    # DARTS: both nodes read the inputs and can change places, or node 3 reads node 2 and one of the inputs.
    assert len(sizes["darts"][0]) == 9 * 10 // 2 + 2 * 81
    assert sizes["darts"][1] == 9 * 27
    assert sizes["agd"] == sizes["darts"]


@pytest.mark.parametrize("name", MICRO)
@pytest.mark.parametrize("layers", [2, 3])
def test_what_is_derived_or_drawn_is_among_the_distinct(name: str, layers: int) -> None:
    space = micro(name)
    found = set(distinct(space, layers=layers))
    sampler, generator = Sampler(space), torch.Generator().manual_seed(0)
    for seed in range(20):
        mixing = {kind: torch.rand(space.alpha[kind].shape, generator=generator) for kind in KINDS}
        for genotype in (space.derive(mixing), sampler.draw(random.Random(seed))):
            assert canonical(genotype, layers=layers) in found


def test_large_spaces_and_cells_are_refused() -> None:
    space = spaces.build(spaces.SpaceConfig(space="darts", nodes=3, init="zero"))
    with pytest.raises(
        ValueError, match=r"has [\d,]+ choices of edges and operations; at most 20,000 are enumerated: "
    ):
        distinct(space, layers=2)
    cell = CellGenotype(tuple((Edge("skip_connect", 0),) for _ in range(7)), (2,))
    with pytest.raises(ValueError, match="a cell has 7 nodes; those of more than 6 are not compared"):
        canonical(Genotype(cell, cell), layers=2)


# --- the table ----------------------------------------------------------------------------------------------------

PROTOCOL = Protocol(
    space="darts",
    nodes=2,
    operations=list(MICRO["darts"]),
    layers=2,
    settings={"epochs": 6},
    environment={},
)


def table() -> list[Trained]:
    """Two seeds, whose errors do not have the same order; some are equal."""
    draw = random.Random(0)
    return [
        Trained(
            genotype=genotypes.to_text(genotype),
            choices=ways,
            test_errors=[draw.randrange(8) + 10.0, draw.randrange(8) + 10.0],
            params=100 + i,
            macs=200,
            train_seconds=[1.0, 1.0],
        )
        for i, (genotype, ways) in enumerate(choices(micro("darts"), layers=2).items())
    ]


def test_a_symmetric_genotype_has_rank_and_regret_of_its_form(tmp_path: Path) -> None:
    Benchmark(PROTOCOL, table()).save(tmp_path / "table.json")
    benchmark = Benchmark.load(tmp_path / "table.json")
    means = [sum(cell.test_errors) / 2 for cell in table()]
    for cell, mean in zip(table(), means, strict=True):
        form = genotypes.from_text(cell.genotype)
        moved = Genotype(form.normal, Move(form.reduce, "reduce", random.Random(1)).cell)
        found = benchmark.look_up(moved)
        assert (found.test_error, found.params, found.test_errors) == (mean, cell.params, tuple(cell.test_errors))
        assert found.rank == 1 + sum(other < mean for other in means)
        assert found.regret == mean - min(means)
    with pytest.raises(
        ValueError, match="it has those of the space darts with 2 nodes and the operations max_pool_3x3"
    ):
        benchmark.look_up(genotypes.get("DARTS_V2").genotype)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_random_search_chooses_by_one_seed_and_is_measured_by_the_other(number: int) -> None:
    """Against all sequences of so many choices."""
    protocol = msgspec.structs.replace(PROTOCOL, nodes=1)
    space = protocol.build()
    errors = [(12.0, 15.0), (12.0, 11.0), (14.0, 10.0), (19.0, 18.0)]
    cells = [
        msgspec.structs.replace(table()[0], genotype=genotypes.to_text(form), choices=ways, test_errors=[*own])
        for (form, ways), own in zip(choices(space, layers=2).items(), errors, strict=True)
    ]
    everything = [cell.test_errors for cell in cells for _ in range(cell.choices)]
    expected = []
    for seed in range(2):
        for drawn in itertools.product(everything, repeat=number):
            best = [own[1 - seed] for own in drawn if own[seed] == min(other[seed] for other in drawn)]
            expected.append(sum(best) / len(best))
    regret = sum(expected) / len(expected) - min(map(sum, everything)) / 2
    assert Benchmark(protocol, cells).random_search(number) == pytest.approx(regret)


def test_a_table_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    cells = table()
    for faulty in (cells[1:], [*cells, cells[0]], [msgspec.structs.replace(cells[0], choices=9), *cells[1:]]):
        with pytest.raises(ValueError, match="of the .* that the space derives; each must be there once"):
            Benchmark(PROTOCOL, faulty)
    with pytest.raises(ValueError, match="trained with more seeds than others"):
        Benchmark(PROTOCOL, [msgspec.structs.replace(cells[0], test_errors=[10.0]), *cells[1:]])
    (tmp_path / "other.json").write_text("{}")
    for name, message in (("other.json", "is not the table of a benchmark|cannot be read"), ("none", "does not exist")):
        with pytest.raises(UsageError, match=message):
            Benchmark.load(tmp_path / name)
    with pytest.raises(ValueError, match="the best of 1 by one of 1 seeds"):
        Benchmark(PROTOCOL, [msgspec.structs.replace(c, test_errors=[10.0]) for c in cells]).random_search(1)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "results" / "exhaustive").glob("*.json")), ids=lambda path: path.stem
)
def test_every_table_that_ships_is_whole_and_of_the_study_that_ships(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    benchmark = Benchmark.load(path)  # which refuses a genotype that is missing, there twice, or not canonical
    planned = {row.name: row for row in planning.read(ROOT / "studies" / "exhaustive.toml", {}).rows}[path.stem]
    assert {genotypes.to_text(entry.genotype) for entry in benchmark.entries} == {
        genotypes.to_text(cell.genotype) for cell in planned.cells if cell.genotype
    }
    assert len(benchmark.entries[0].test_errors) == len({cell.seed for cell in planned.cells})
    settings = json.loads(json.dumps(planned.cells[0].settings))
    then = benchmark.protocol.settings  # without flags that came later
    differing = {name for name in settings.keys() & then.keys() if settings[name] != then[name]}
    assert differing <= {"train.data.dataset"}
    errors = [entry.test_error for entry in benchmark.entries]
    assert [entry.rank for entry in benchmark.entries] == [1 + sum(e < own for e in errors) for own in errors]
    sampler = Sampler(benchmark.protocol.build())
    found = [benchmark.look_up(sampler.draw(random.Random(seed))) for seed in range(20)]
    assert min(entry.regret for entry in found) >= 0
    assert benchmark.random_search(1) == pytest.approx(
        sum(e.choices * e.regret for e in benchmark.entries) / sum(e.choices for e in benchmark.entries)
    )


# --- a study ------------------------------------------------------------------------------------------------------

STUDY = """
title = "A space known whole"
[data]
dataset = "fake"
fake_train = 24
fake_test = 10
image_size = 8
batch_size = 8
[search]
epochs = 1
layers = 2
init_channels = 2
nodes = 1
operations = ["max_pool_3x3", "skip_connect"]
[train]
preset = "smoke"
layers = 2
init_channels = 2
auxiliary = false
epochs = 1
[[row]]
name = "whole"
every = { space = "darts", nodes = 1, operations = ["max_pool_3x3", "skip_connect"] }
seeds = 2
[[row]]
name = "found"
search = { space = "agd" }
look_up = "whole"
[[row]]
name = "outside"
search = { space = "agd", operations = ["avg_pool_3x3"] }
look_up = "whole"
"""


def test_a_study_looks_up_what_its_searches_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("nas.networks.architecture.draw_cells", "nas.runs.tensorboard.draw_cells"):
        monkeypatch.setattr(name, lambda *arguments: None)
    (tmp_path / "study.toml").write_text(STUDY)
    planned = planning.read(tmp_path / "study.toml", {})
    assert [len(row.cells) for row in planned.rows] == [4 * 2, 1, 1]
    assert [str(cell.path) for cell in planned.rows[0].cells[3:5]] == ["cells/whole/3-0", "cells/whole/0-1"]
    for cell in planned.cells:
        cells.compute(cell, tmp_path, "cpu")
        assert (tmp_path / cell.path / "train").exists() == cell.trained
    results = study_table.build(planned, cells.Reader(tmp_path), {"commit": "abc"})
    study_table.write(results, tmp_path)

    whole, searched, outside = results.rows
    (result,) = searched.cells
    benchmark = regret.benchmark_of(planned.rows[0], whole, {}, {})
    entry = benchmark.look_up(genotypes.from_text(result.genotype))
    assert (result.test_error, result.params, result.train_seconds) == (entry.test_error, entry.params, None)
    assert outside.failed[0].why.endswith("is not in the row 'whole'")
    assert outside.test_error is None

    rows = regret.command([str(tmp_path), "--save", str(tmp_path)])["rows"]
    assert [(row["row"], row["mean rank"], row["regret"]) for row in rows] == [("found", entry.rank, entry.regret)]
    assert Benchmark.load(tmp_path / "whole.json").entries == benchmark.entries
    assert Benchmark.load(tmp_path / "whole.json").protocol.settings["train.epochs"] == 1
    assert re.search(rf"whole +4 +{benchmark.entries[0].test_error:.2f} ", capsys.readouterr().out)

    (tmp_path / "cells" / "whole" / "3-1" / "train" / "record.json").unlink()
    study_table.write(study_table.build(planned, cells.Reader(tmp_path), {}), tmp_path)
    with pytest.raises(UsageError, match="has all networks of a space, each trained"):
        regret.command([str(tmp_path)])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('look_up = "whole"', 'look_up = "none"', "'none', which is not a row with every"),
        ('look_up = "whole"', 'look_up = "whole"\ntrain = { epochs = 2 }', "leave out train, or look_up"),
        ("seeds = 2", 'look_up = "whole"', "look_up is for rows that search"),
        ("nodes = 1, op", "nodes = 1, init = 3, op", "every sets init, which the study itself decides"),
        ("nodes = 1, op", "nodes = 5, op", "at most 20,000 are enumerated"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace(before, after, 1))
    with pytest.raises(UsageError, match=message):
        planning.read(tmp_path / "study.toml", {})
