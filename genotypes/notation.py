"""The literature's text of a genotype: `DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ...], ...)`.

Notation of the DARTS code (Liu et al., ICLR 2019), which its successors share. Text is parsed to a syntax
tree and only the few node types below are read; nothing is ever evaluated.
"""

import ast
import keyword
import warnings
from typing import NoReturn

from genotypes.genotype import MAX_NODES, CellGenotype, Edge, Genotype, GenotypeError, validate

MAX_TEXT = 4_000_000  # characters; the largest valid genotype needs fewer, as JSON too
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")

Nodes = tuple[tuple[Edge, ...], ...]


def to_text(genotype: Genotype) -> str:
    """The genotype in the literature's notation; `from_text` reads it back to an equal genotype.

    A list of edges is flat, as in the literature, wherever that reads back unambiguously, else one list a
    node. A name that is no identifier is written as a `name=` argument. Raises GenotypeError if not valid.
    """
    validate(genotype)
    name = genotype.name
    assigned = name is not None and name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
    arguments = [
        f"normal={_edges_text(genotype.normal)}",
        f"normal_concat={_concat_text(genotype.normal.concat)}",
        f"reduce={_edges_text(genotype.reduce)}",
        f"reduce_concat={_concat_text(genotype.reduce.concat)}",
    ]
    if name is not None and not assigned:
        arguments.append(f"name={name!r}")
    prefix = f"{name} = " if assigned else ""
    return prefix + "Genotype(" + ", ".join(arguments) + ")"


def from_text(text: str, name: str | None = None, where: str = "<text>") -> Genotype:
    """Read one `Genotype(...)`, alone or assigned to a name, which then is the genotype's.

    A flat list carries no node boundaries: it is cut into max(concat) - 1 nodes of equally many edges, since
    a last node outside the concatenation would feed nothing. A list of lists states the nodes.
    `name` wins over the name in the text. Raises GenotypeError, whose message starts with `where`.
    """
    call, assigned = _parse(text, where)
    fields = _keywords(call, where)
    stated = fields.pop("name", None)
    genotype = Genotype(
        normal=_cell(fields["normal"], fields["normal_concat"], where),
        reduce=_cell(fields["reduce"], fields["reduce_concat"], where),
        name=name or (_string(stated, where) if stated else assigned),
    )
    validate(genotype, where)
    return genotype


def _parse(text: str, where: str) -> tuple[ast.Call, str | None]:
    """The call and the name it is assigned to."""
    if len(text) > MAX_TEXT:
        raise GenotypeError(f"{where}: is longer than {MAX_TEXT} characters; no genotype is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash in a string is reported below, by its effect
            statements = ast.parse(text.strip()).body
    except SyntaxError as error:
        place = f"line {error.lineno or 1}, column {error.offset or 1}"
        raise GenotypeError(f"{where}: {place}: {error.msg}; expected Genotype(normal=[...], ...)") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"{where}: cannot be parsed: {str(error) or 'nested too deeply'}") from error
    if len(statements) != 1:
        raise GenotypeError(f"{where}: holds {len(statements)} statements; expected one Genotype(...)")
    statement = statements[0]
    if isinstance(statement, ast.Expr):
        return _genotype_call(statement.value, where), None
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
        if isinstance(target, ast.Name):
            return _genotype_call(statement.value, where), target.id
    _fail(statement, "expected Genotype(...) or NAME = Genotype(...)", where)


def _genotype_call(node: ast.expr, where: str) -> ast.Call:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Genotype":
        return node
    _fail(node, "expected Genotype(...)", where)


def _keywords(call: ast.Call, where: str) -> dict[str, ast.expr]:
    if call.args:
        _fail(call.args[0], f"name the arguments of Genotype: {', '.join(_FIELDS)}", where)
    fields: dict[str, ast.expr] = {}
    for argument in call.keywords:
        if argument.arg is None or argument.arg not in (*_FIELDS, "name"):
            _fail(argument, f"unknown argument; Genotype takes {', '.join(_FIELDS)} and name", where)
        if argument.arg in fields:
            _fail(argument, f"states {argument.arg} a second time; state it once", where)
        fields[argument.arg] = argument.value
    for field in _FIELDS:
        if field not in fields:
            _fail(call, f"Genotype lacks the argument {field}", where)
    return fields


def _cell(edges: ast.expr, concat: ast.expr, where: str) -> CellGenotype:
    outputs = _concat(concat, where)
    items = _items(edges, where)
    if items and all(_is_node(item) for item in items):
        nodes: Nodes | None = tuple(tuple(_edge(edge, where) for edge in _items(item, where)) for item in items)
    else:
        nodes = _cut(tuple(_edge(item, where) for item in items), outputs)
    if nodes is None:
        _fail(
            edges,
            f"cannot tell which of the {len(items)} edges enter which node; write one list a node",
            where,
        )
    return CellGenotype(nodes, outputs)


def _is_node(item: ast.expr) -> bool:
    """A list of edges rather than an edge, which starts with the operation's name."""
    return isinstance(item, ast.List | ast.Tuple) and not any(isinstance(e, ast.Constant) for e in item.elts)


def _cut(edges: tuple[Edge, ...], concat: tuple[int, ...]) -> Nodes | None:
    """Nodes of a flat list, or None where no even cut gives every node earlier sources only."""
    count = max(concat, default=1) - 1
    if count < 1 or not edges or len(edges) % count:
        return None
    width = len(edges) // count
    nodes = tuple(edges[i : i + width] for i in range(0, len(edges), width))
    valid = all(edge.source < j + 2 for j, node in enumerate(nodes) for edge in node)
    return nodes if valid else None


def _edge(node: ast.expr, where: str) -> Edge:
    if not (isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2):
        _fail(node, "expected an edge ('operation', source)", where)
    operation, source = node.elts
    return Edge(_string(operation, where), _integer(source, where))


def _concat(node: ast.expr, where: str) -> tuple[int, ...]:
    if isinstance(node, ast.List | ast.Tuple):
        return tuple(_integer(item, where) for item in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in ("list", "tuple") and len(node.args) == 1:
            return _concat(node.args[0], where)
        if node.func.id == "range" and len(node.args) in (1, 2):
            return tuple(range(*(_integer(bound, where) for bound in node.args)))
    _fail(node, "expected a list of nodes or range(first, end)", where)


def _items(node: ast.expr, where: str) -> list[ast.expr]:
    if isinstance(node, ast.List | ast.Tuple):
        return node.elts
    _fail(node, "expected a list of edges ('operation', source)", where)


def _string(node: ast.expr, where: str) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    _fail(node, "expected a text in quotes", where)


def _integer(node: ast.expr, where: str) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and node.value <= MAX_NODES + 2:
        return node.value
    _fail(node, f"expected a node number, 0 to {MAX_NODES + 1}", where)


def _edges_text(cell: CellGenotype) -> str:
    flat = tuple(edge for node in cell.nodes for edge in node)
    if _cut(flat, cell.concat) == cell.nodes:
        return _list_text(flat)
    return "[" + ", ".join(_list_text(node) for node in cell.nodes) + "]"


def _list_text(edges: tuple[Edge, ...]) -> str:
    return "[" + ", ".join(f"({edge.operation!r}, {edge.source})" for edge in edges) + "]"


def _concat_text(concat: tuple[int, ...]) -> str:
    consecutive = concat == tuple(range(concat[0], concat[-1] + 1))
    return f"range({concat[0]}, {concat[-1] + 1})" if consecutive else str(list(concat))


def _fail(node: ast.expr | ast.stmt | ast.keyword, what: str, where: str) -> NoReturn:
    raise GenotypeError(f"{where}: line {node.lineno}, column {node.col_offset + 1}: {what}")
