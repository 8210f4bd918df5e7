"""A discrete architecture as plain data, its validation, and its versioned JSON form."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import msgspec

from genotypes.messages import one_line, reason_of
from genotypes.operations import OPERATIONS

FORMAT = "optinas-genotype"
VERSION = 1
# Far above anything published (a cell has 4 or 5 nodes of 2 or 3 edges); they bound the work that a hostile file can
# cause when it is read, drawn, or built as a network.
MAX_NODES = 100
MAX_EDGES_PER_NODE = 100
MAX_EDGES = 500  # of a cell
MAX_NAME = 200
MAX_TEXT = 100_000  # characters, as JSON or as text; the largest valid genotype needs fewer

#: The names of the two kinds of cells in texts for people; in data and file names the second is `reduce`.
CELL_NAMES = {"normal": "normal", "reduce": "reduction"}

_T = TypeVar("_T")


class GenotypeError(ValueError):
    """A genotype, or its text, is faulty; the message is one line: where, what is wrong, how to fix it."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True)
class Edge:
    """One operation applied to the state of node `source`."""

    operation: str
    source: int


@dataclass(frozen=True)
class CellGenotype:
    """A cell: node 0 is c_{k-2}, node 1 is c_{k-1}, `nodes[j]` holds the edges summed into node j + 2.

    Node i reads sources below i only, and may read the same one several times. `concat` names the
    intermediate nodes whose states, concatenated in that order, are the cell's output.
    """

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class Genotype:
    """The two cells a network is stacked from, and the name the architecture goes by.

    Plain data: the constructor checks nothing; whatever reads input calls `validate`.
    """

    normal: CellGenotype
    reduce: CellGenotype
    name: str | None = None


def validate(genotype: Genotype, where: str = "") -> None:
    """Check structure and operation names.

    Raises GenotypeError for the first fault, with its path, such as `$.normal.nodes[1][0].source`, after `where`
    (a file, for example).
    """
    name = genotype.name
    if name is not None and not _is_name(name):
        _fail(where, "$.name", f"must be null or 1 to {MAX_NAME} printable characters, is {_show(name)}")
    _validate_cell(genotype.normal, "$.normal", where)
    _validate_cell(genotype.reduce, "$.reduce", where)


def to_json(genotype: Genotype) -> str:
    """The genotype as versioned JSON, one node a line; equal genotypes give equal text.

    Raises GenotypeError if the genotype is not valid.
    """
    validate(genotype)
    return (
        "{\n"
        f'  "format": {json.dumps(FORMAT)},\n'
        f'  "version": {VERSION},\n'
        f'  "name": {json.dumps(genotype.name)},\n'
        f'  "normal": {_cell_json(genotype.normal)},\n'
        f'  "reduce": {_cell_json(genotype.reduce)}\n'
        "}\n"
    )


def from_json(text: str, where: str = "<text>") -> Genotype:
    """Read what `to_json` writes; unknown fields, other formats and other versions are refused.

    Raises GenotypeError, whose message starts with `where`.
    """
    if len(text) > MAX_TEXT:
        raise GenotypeError(f"{where}: is longer than {MAX_TEXT} characters; no genotype is")
    header = _decode(text, _Header, "$", where)
    if header.format != FORMAT:
        _fail(where, "$.format", f"must be {FORMAT!r}, is {_show(header.format)}; is this another kind of file?")
    if header.version != VERSION:
        _fail(where, "$.version", f"{_show(header.version)} is unknown; this release reads version {VERSION}")
    document = _decode(text, _Document, "$", where)
    genotype = Genotype(
        normal=_cell_from_json(document.normal, "$.normal", where),
        reduce=_cell_from_json(document.reduce, "$.reduce", where),
        name=document.name,
    )
    validate(genotype, where)
    return genotype


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message that `name` is not a known `kind`, with similar names and the list of known ones."""
    known = list(known)
    close = difflib.get_close_matches(name[:MAX_NAME], known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"unknown {kind} {_show(name)}{hint} known: {', '.join(known)}"


class _Header(msgspec.Struct):
    format: Any
    version: Any


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    normal: msgspec.Raw
    reduce: msgspec.Raw
    name: str | None = None


class _Cell(msgspec.Struct, forbid_unknown_fields=True):
    nodes: list[msgspec.Raw]
    concat: list[msgspec.Raw]


class _Edge(msgspec.Struct, forbid_unknown_fields=True):
    operation: str
    source: int


def _cell_json(cell: CellGenotype) -> str:
    nodes = ",\n".join(
        "      " + json.dumps([{"operation": edge.operation, "source": edge.source} for edge in node])
        for node in cell.nodes
    )
    return f'{{\n    "nodes": [\n{nodes}\n    ],\n    "concat": {json.dumps(cell.concat)}\n  }}'


def _cell_from_json(raw: msgspec.Raw, path: str, where: str) -> CellGenotype:
    cell = _decode(raw, _Cell, path, where)
    nodes = tuple(
        tuple(
            _edge_from_json(edge, f"{path}.nodes[{j}][{k}]", where)
            for k, edge in enumerate(_decode(node, list[msgspec.Raw], f"{path}.nodes[{j}]", where))
        )
        for j, node in enumerate(cell.nodes)
    )
    concat = tuple(_decode(item, int, f"{path}.concat[{j}]", where) for j, item in enumerate(cell.concat))
    return CellGenotype(nodes, concat)


def _edge_from_json(raw: msgspec.Raw, path: str, where: str) -> Edge:
    edge = _decode(raw, _Edge, path, where)
    return Edge(edge.operation, edge.source)


def _decode(text: str | msgspec.Raw, kind: type[_T], path: str, where: str) -> _T:
    """Decode one level; msgspec names no list positions, so each list item is decoded with its own path."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        what, _, inner = reason_of(error).partition(" - at `$")
        _fail(where, path + inner.rstrip("`"), what)
    except (msgspec.DecodeError, UnicodeError) as error:
        _fail(where, path, f"is not valid JSON: {reason_of(error)}")
    except RecursionError:
        _fail(where, path, "is nested too deeply")


def _validate_cell(cell: CellGenotype, path: str, where: str) -> None:
    if not isinstance(cell, CellGenotype):
        _fail(where, path, f"must be a CellGenotype, is {_show(cell)}")
    if not (isinstance(cell.nodes, tuple) and 1 <= len(cell.nodes) <= MAX_NODES):
        _fail(where, f"{path}.nodes", f"must hold 1 to {MAX_NODES} nodes, is {_show(cell.nodes)}")
    edges = sum(len(node) for node in cell.nodes if isinstance(node, tuple))
    if edges > MAX_EDGES:
        _fail(where, f"{path}.nodes", f"must hold at most {MAX_EDGES} edges, not {edges}")
    for j, node in enumerate(cell.nodes):
        _validate_node(node, j + 2, f"{path}.nodes[{j}]", where)
    _validate_concat(cell, f"{path}.concat", where)


def _validate_node(node: tuple[Edge, ...], number: int, path: str, where: str) -> None:
    if not (isinstance(node, tuple) and 1 <= len(node) <= MAX_EDGES_PER_NODE):
        _fail(where, path, f"must hold 1 to {MAX_EDGES_PER_NODE} edges, is {_show(node)}")
    for k, edge in enumerate(node):
        if not isinstance(edge, Edge):
            _fail(where, f"{path}[{k}]", f"must be an Edge, is {_show(edge)}")
        if not (isinstance(edge.operation, str) and edge.operation in OPERATIONS):
            unknown = unknown_name("operation", str(edge.operation), OPERATIONS)
            _fail(
                where,
                f"{path}[{k}].operation",
                f"{unknown}; for an operation of your own, name its module with --operations-from MODULE",
            )
        if not (type(edge.source) is int and 0 <= edge.source < number):
            _fail(
                where,
                f"{path}[{k}].source",
                f"must be a node before node {number}, so 0 to {number - 1}, is {_show(edge.source)}",
            )


def _validate_concat(cell: CellGenotype, path: str, where: str) -> None:
    last = len(cell.nodes) + 1
    if not (isinstance(cell.concat, tuple) and cell.concat):
        _fail(where, path, f"must name at least one of the nodes 2 to {last}, is {_show(cell.concat)}")
    for j, node in enumerate(cell.concat):
        if not (type(node) is int and 2 <= node <= last):
            _fail(where, f"{path}[{j}]", f"must be an intermediate node, so 2 to {last}, is {_show(node)}")
        if node in cell.concat[:j]:
            _fail(where, f"{path}[{j}]", f"lists node {node} twice; list each node once")


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name.isprintable()


def _show(value: object) -> str:
    """An input value, shortened for a message; printing a huge integer would raise ValueError."""
    if isinstance(value, int) and abs(value) > 10**20:
        return "a huge number"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _fail(where: str, path: str, what: str) -> NoReturn:
    raise GenotypeError(f"{where}: {path}: {what}" if where else f"{path}: {what}")
