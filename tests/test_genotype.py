"""The genotype as data: validation, JSON, files, the vocabulary."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genotypes import (
    OPERATIONS,
    CellGenotype,
    Edge,
    Genotype,
    GenotypeError,
    declare_operation,
    from_json,
    load,
    save,
    to_json,
    to_text,
    validate,
)
from tests.architectures import architectures

LINE = CellGenotype(nodes=((Edge("sep_conv_3x3", 1),), (Edge("skip_connect", 2),)), concat=(3, 2))
HEAVY_BALL = CellGenotype(
    nodes=(
        (Edge("sep_conv_3x3", 1), Edge("skip_connect", 1), Edge("neg_skip_connect", 0)),
        (Edge("dil_conv_5x5", 2), Edge("skip_connect", 2), Edge("neg_skip_connect", 1)),
    ),
    concat=(2, 3),
)
EXAMPLE = Genotype(normal=LINE, reduce=HEAVY_BALL, name="example")


@settings(deadline=None, max_examples=40)
@given(architectures())
def test_json_round_trip(genotype: Genotype) -> None:
    validate(genotype)
    assert from_json(to_json(genotype)) == genotype


def test_json_form_is_the_published_one() -> None:
    assert json.loads(to_json(EXAMPLE))["normal"] == {
        "nodes": [[{"operation": "sep_conv_3x3", "source": 1}], [{"operation": "skip_connect", "source": 2}]],
        "concat": [3, 2],
    }
    assert list(json.loads(to_json(EXAMPLE))) == ["format", "version", "name", "normal", "reduce"]


def test_json_name_may_be_missing() -> None:
    document = json.loads(to_json(EXAMPLE))
    del document["name"]
    assert from_json(json.dumps(document)).name is None


def test_genotypes_are_hashable() -> None:
    assert len({EXAMPLE, from_json(to_json(EXAMPLE)), dataclasses.replace(EXAMPLE, name=None)}) == 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "onnx", r"\$\.format: must be 'optinas-genotype', is 'onnx'"),
        (["version"], 2, r"\$\.version: 2 is unknown; this release reads version 1"),
        (["name"], 3, r"\$\.name: Expected `str \| null`, got `int`"),
        (["name"], "two\nlines", r"\$\.name: must be"),
        (["colour"], "red", r"unknown field `colour`"),
        (["normal"], [], r"\$\.normal: Expected `object`"),
        (["normal", "nodes"], [], r"\$\.normal\.nodes: must hold 1 to"),
        (["normal", "nodes", 0], [], r"\$\.normal\.nodes\[0\]: must hold 1 to"),
        (["normal", "nodes", 0], 7, r"\$\.normal\.nodes\[0\]: Expected `array`"),
        (["normal", "nodes", 1, 0, "source"], "2", r"\$\.normal\.nodes\[1\]\[0\]\.source: Expected `int`"),
        (
            ["normal", "nodes", 1, 0, "source"],
            3,
            r"\$\.normal\.nodes\[1\]\[0\]\.source: must be a node before node 3, so 0 to 2, is 3",
        ),
        (["normal", "nodes", 1, 0, "source"], -1, r"\$\.normal\.nodes\[1\]\[0\]\.source"),
        (["normal", "nodes", 1, 0, "source"], True, r"\$\.normal\.nodes\[1\]\[0\]\.source"),
        (["normal", "nodes", 0, 0, "weight"], 1, r"\$\.normal\.nodes\[0\]\[0\]: .*unknown field `weight`"),
        (
            ["reduce", "nodes", 0, 2, "operation"],
            "sep_conv_3x4",
            r"\.reduce\.nodes\[0\]\[2\]\.operation: unknown operation 'sep_conv_3x4'; did you mean sep_",
        ),
        (["reduce", "concat"], [], r"\$\.reduce\.concat: must name at least one of the nodes 2 to 3"),
        (["reduce", "concat"], [2, 4], r"\$\.reduce\.concat\[1\]: must be an intermediate node, so 2 to 3"),
        (["reduce", "concat"], [1], r"\$\.reduce\.concat\[0\]"),
        (["reduce", "concat"], [2, 2], r"\$\.reduce\.concat\[1\]: lists node 2 twice"),
        (["reduce", "concat"], [2, 3.5], r"\$\.reduce\.concat\[1\]: Expected `int`"),
    ],
)
def test_faulty_json_is_reported_with_its_path(path: list[str | int], value: object, message: str) -> None:
    document = json.loads(to_json(EXAMPLE))
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(GenotypeError, match=message) as caught:
        from_json(json.dumps(document), where="cell.json")
    assert str(caught.value).startswith("cell.json: $")


@settings(deadline=None)
@given(st.text() | st.text(st.characters(), max_size=20) | st.recursive(st.none(), st.lists).map(json.dumps))
def test_any_text_as_json_gives_a_genotype_error(text: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.data())
def test_any_change_to_a_json_file_gives_a_genotype_or_a_genotype_error(data: st.DataObject) -> None:
    text = to_json(EXAMPLE)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    try:
        genotype = from_json(text[:start] + data.draw(st.text(max_size=5)) + text[end:])
    except GenotypeError:
        return
    validate(genotype)


HUGE = to_json(EXAMPLE).replace('"source": 2', '"source": ' + "9" * 5000)


@pytest.mark.parametrize("text", ["[" * 100_000, "\udc80", "null", "{}", "", HUGE], ids=range(6))
def test_hostile_json(text: str) -> None:
    with pytest.raises(GenotypeError):
        from_json(text)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (CellGenotype(nodes=[[Edge("none", 0)]], concat=(2,)), "nodes"),
        (CellGenotype(nodes=([Edge("none", 0)],), concat=(2,)), r"nodes\[0\]"),
        (CellGenotype(nodes=((("none", 0),),), concat=(2,)), "must be an Edge"),
        (CellGenotype(nodes=((Edge(["none"], 0),),), concat=(2,)), "operation"),
        (CellGenotype(nodes=((Edge("none", 0),),), concat=[2]), "concat"),
        (CellGenotype(nodes=((Edge("none", 2**70),),), concat=(2,)), "a huge number"),
        (CellGenotype(nodes=((Edge("none", 0),),) * 101, concat=(2,)), "1 to 100 nodes"),
        (None, "must be a CellGenotype"),
    ],
)
def test_wrongly_built_genotypes_are_refused(cell: CellGenotype, message: str) -> None:
    for write in (validate, to_json, to_text):
        with pytest.raises(GenotypeError, match=message):
            write(Genotype(normal=LINE, reduce=cell))


def test_files_round_trip_in_both_notations(tmp_path: Path) -> None:
    save(EXAMPLE, tmp_path / "genotype.json")
    assert load(tmp_path / "genotype.json") == EXAMPLE
    (tmp_path / "genotype.txt").write_text("\ufeff# found by search\n" + to_text(EXAMPLE), encoding="utf-8")
    assert load(tmp_path / "genotype.txt") == EXAMPLE


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "genotype.json"
    save(EXAMPLE, path)

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space left"):
        save(dataclasses.replace(EXAMPLE, name="other"), path)
    assert load(path) == EXAMPLE
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory; check the path"),
        (b"", "holds 0 statements"),
        (b"\xff\xfe", "byte 0: is not UTF-8 text"),
        (b'{"format": 1}', r"\$: Object missing required field `version`"),
        (b"normal = 3", "expected Genotype"),
        (b" " * 100_001, "more than 100000 bytes"),
    ],
)
def test_faulty_files_are_reported_with_their_path(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "faulty.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GenotypeError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_declared_operation_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*OPERATIONS, "declared"]:
        monkeypatch.setitem(OPERATIONS, name, OPERATIONS.get(name, ""))
    monkeypatch.delitem(OPERATIONS, "declared")
    declare_operation("declared", "a new one")
    cell = CellGenotype(nodes=((Edge("declared", 0),),), concat=(2,))
    validate(Genotype(cell, cell))
    with pytest.raises(ValueError, match="'declared' is already declared"):
        declare_operation("declared", "again")


@pytest.mark.parametrize(("name", "label"), [("", "x"), ("a\nb", "x"), ("é", "x"), ("a" * 41, "x"), ("a", "")])
def test_unusable_operations_are_refused(name: str, label: str) -> None:
    with pytest.raises(ValueError, match="must be"):
        declare_operation(name, label)
    assert name not in OPERATIONS


def test_importing_genotypes_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, genotypes, genotypes.draw; print({'torch', 'matplotlib'} & set(sys.modules))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
