"""The literature's text of a genotype: `DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ...], ...)`.

Notation of the DARTS code (Liu et al., ICLR 2019), which its successors share. Text is parsed to a syntax
tree and only the few node types below are read; nothing is ever evaluated.
"""

import ast
import keyword
import re
import warnings
from typing import NoReturn, TypeGuard

from genotypes.genotype import (
    MAX_NAME,
    MAX_NODES,
    MAX_TEXT,
    CellGenotype,
    Edge,
    Genotype,
    GenotypeError,
    unknown_name,
    validate,
)

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")

Nodes = tuple[tuple[Edge, ...], ...]

_CALL = re.compile(r"(?:\b[A-Za-z_]\w{0,99}\.){0,9}\bGenotype[ \t]*\(")
_NAME_BEFORE = re.compile(r"\b([A-Za-z_]\w*) *[=:] *$")
_BRACKET_OR_STRING = re.compile(r"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|[()\[\]{}]")
_LONGEST_PREFIX = 200  # characters before a genotype that are searched for its name; bounds the time
_MOST_GENOTYPES = 1000
_MOST_NAMES = 30  # that a message lists


def to_text(genotype: Genotype) -> str:
    """The genotype in the literature's notation; `from_text` reads it back to an equal genotype.

    A list of edges is flat, as in the literature, if that can be read back unambiguously, otherwise one list per
    node. A name that is not an identifier becomes a `name=` argument. Raises GenotypeError if it is not valid.
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


def from_text(text: str, name: str | None = None, where: str = "<text>", choose: str | None = None) -> Genotype:
    """Read a `Genotype(...)`, alone or assigned to a name, which then is the genotype's.

    The text may be a file of the literature, with imports, definitions and several genotypes, of which `choose` names
    one; or pasted text: a line of a log, a prompt, a fence of Markdown. A flat list has no node boundaries: it is read
    as two edges per node, as in the code of DARTS, or as three if it has the sources of Space-HB. One that could be
    three per node with other sources is refused. A list of lists states the nodes.

    `name` takes precedence over the name in the text. Raises GenotypeError, whose message starts with `where`.
    """
    if len(text) > MAX_TEXT:
        raise GenotypeError(f"{where}: is longer than {MAX_TEXT} characters; no genotype is")
    assigned, call = _chosen(_calls(without_fences(text), where), choose, where)
    fields = _keywords(call, where)
    stated = fields.pop("name", None)
    genotype = Genotype(
        normal=_cell(fields["normal"], fields["normal_concat"], where),
        reduce=_cell(fields["reduce"], fields["reduce_concat"], where),
        name=name or (_string(stated, where) if stated else assigned),
    )
    validate(genotype, where)
    return genotype


def without_fences(text: str) -> str:
    """The text with the fences of Markdown, ``` or ~~~, blanked, so that line numbers stay."""
    return re.sub(r"^[ \t]*(```|~~~).*$", "", text, flags=re.MULTILINE)


def _calls(text: str, where: str) -> list[tuple[str | None, ast.Call]]:
    """The genotypes in a text, each with the name it is assigned to; the last one assigned to a name counts."""
    try:
        statements = _statements(text.strip(), where)
    except SyntaxError as error:
        if pasted := _pasted(text, where):
            return pasted
        place = f"line {error.lineno or 1}, column {error.offset or 1}"
        raise GenotypeError(f"{where}: {place}: {error.msg}; expected Genotype(normal=[...], ...)") from error
    unnamed: list[tuple[str | None, ast.Call]] = []
    named: dict[str, ast.Call] = {}
    for statement in statements:
        if isinstance(statement, ast.Expr) and _is_genotype(statement.value):
            unnamed.append((None, statement.value))
        elif assignment := _assignment(statement):
            name, value = assignment
            genotype = named.get(value.id) if isinstance(value, ast.Name) else value
            named.pop(name, None)
            if genotype is not None and _is_genotype(genotype):
                named[name] = genotype
        elif not _defines_or_says(statement):
            _fail(statement, "expected Genotype(...) or NAME = Genotype(...)", where)
    if statements and not (unnamed or named):
        _fail(statements[0], "expected Genotype(...) or NAME = Genotype(...)", where)
    return [*unnamed, *named.items()]


def _statements(text: str, where: str) -> list[ast.stmt]:
    """The syntax tree. Raises SyntaxError, and GenotypeError for what Python cannot parse at all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stray backslash in a string is reported below, by its effect
            return ast.parse(text).body
    except SyntaxError:
        raise
    except (ValueError, RecursionError, MemoryError) as error:
        raise GenotypeError(f"{where}: cannot be parsed: {str(error) or 'nested too deeply'}") from error


def _assignment(statement: ast.stmt) -> tuple[str, ast.expr] | None:
    """Name and value of `NAME = value` or `NAME: type = value`; None for any other statement."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, value = statement.targets[0], statement.value
    elif isinstance(statement, ast.AnnAssign):
        target, value = statement.target, statement.value or statement.annotation
    else:
        return None
    return (target.id, value) if isinstance(target, ast.Name) else None


def _defines_or_says(statement: ast.stmt) -> bool:
    """Whether a statement may surround genotypes in the literature's files, and changes none of them."""
    said = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return said or isinstance(statement, ast.Import | ast.ImportFrom | ast.ClassDef | ast.FunctionDef)


def _pasted(text: str, where: str) -> list[tuple[str | None, ast.Call]]:
    """The genotypes in a text that is not a program, such as a log; none at all if one of them cannot be parsed."""
    calls: list[tuple[str | None, ast.Call]] = []
    end = 0
    while match := _CALL.search(text, end):
        start, closed = match.start(), _end_of_call(text, match.end())
        if closed is None:
            return []
        if len(calls) == _MOST_GENOTYPES:
            raise GenotypeError(f"{where}: holds more than {_MOST_GENOTYPES} genotypes; keep only the one you want")
        try:
            (statement,) = _statements(text[start:closed], where)
        except SyntaxError:
            return []
        assert isinstance(statement, ast.Expr)
        assert isinstance(statement.value, ast.Call)
        _move(statement.value, text, start)
        line = text[text.rfind("\n", 0, start) + 1 : start]
        name = _NAME_BEFORE.search(line[-_LONGEST_PREFIX:])
        calls.append((name[1] if name else None, statement.value))
        end = closed
    return calls


def _end_of_call(text: str, start: int) -> int | None:
    """The position after the bracket that closes the one opened just before `start`; None if it is not closed."""
    depth = 1
    for token in _BRACKET_OR_STRING.finditer(text, start):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return None


def _move(tree: ast.AST, text: str, start: int) -> None:
    """Shifts line and column numbers of a tree that was parsed from `text[start:]` to those in `text`."""
    lines = text.count("\n", 0, start)
    columns = start - (text.rfind("\n", 0, start) + 1)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.keyword):
            node.col_offset += columns if node.lineno == 1 else 0
            node.lineno += lines


def _chosen(calls: list[tuple[str | None, ast.Call]], choose: str | None, where: str) -> tuple[str | None, ast.Call]:
    """The only genotype, or the one called `choose`."""
    names = [name for name, _ in calls if name is not None]
    fitting = [(name, call) for name, call in calls if choose in (None, name)]
    if not calls:
        raise GenotypeError(f"{where}: holds 0 statements; expected Genotype(normal=[...], ...)")
    if not fitting:
        raise GenotypeError(f"{where}: {unknown_name('genotype', str(choose), names[:_MOST_NAMES])}")
    if len({id(call) for _, call in fitting}) > 1:
        told = f" ({', '.join(name[:MAX_NAME] for name in names[:_MOST_NAMES])})" if names else ""
        several = len(set(names)) == len(calls)
        way = f"choose one, such as FILE:{names[0][:MAX_NAME]}" if several else "keep only the one you want"
        raise GenotypeError(f"{where}: holds {len(calls)} genotypes{told}; {way}")
    return fitting[0]


def _is_genotype(node: ast.expr) -> TypeGuard[ast.Call]:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return (isinstance(called, ast.Name) and called.id == "Genotype") or (
        isinstance(called, ast.Attribute) and called.attr == "Genotype"
    )


def _keywords(call: ast.Call, where: str) -> dict[str, ast.expr]:
    if call.args:
        _fail(call.args[0], f"name the arguments of Genotype: {', '.join(_FIELDS)}", where)
    fields: dict[str, ast.expr] = {}
    for argument in call.keywords:
        if argument.arg is None or argument.arg not in (*_FIELDS, "name"):
            _fail(argument, f"unknown argument; Genotype takes {', '.join(_FIELDS)} and name", where)
        if argument.arg in fields:
            _fail(argument, f"states {argument.arg} twice; state it once", where)
        fields[argument.arg] = argument.value
    for field in _FIELDS:
        if field not in fields:
            _fail(call, f"Genotype lacks the argument {field}", where)
    return fields


def _cell(edges: ast.expr, concat: ast.expr, where: str) -> CellGenotype:
    outputs = _concat(concat, where)
    items = _items(edges, where)
    if items and all(_is_node(item) for item in items):
        return CellGenotype(tuple(tuple(_edge(edge, where) for edge in _items(item, where)) for item in items), outputs)
    nodes = _of_flat_list(tuple(_edge(item, where) for item in items), outputs)
    if nodes is None:
        _fail(
            edges,
            f"cannot tell which of the {len(items)} edges enter which node: a flat list has two per node, and must not "
            "fit three per node as well; write one list per node",
            where,
        )
    return CellGenotype(nodes, outputs)


def _is_node(item: ast.expr) -> bool:
    """A list of edges rather than an edge, which starts with the operation's name."""
    return isinstance(item, ast.List | ast.Tuple) and not any(isinstance(e, ast.Constant) for e in item.elts)


def _of_flat_list(edges: tuple[Edge, ...], concat: tuple[int, ...]) -> Nodes | None:
    """The nodes of a flat list, or None if it can be read in no way or in two.

    DARTS's code has two edges per node, whatever the concatenation. The other reading is three per node, with all nodes
    up to the last concatenated: that of Space-HB, whose edges into node t leave t-1, t-1 and t-2; nothing else has
    these sources throughout.
    """
    three = _cut(edges, 3) if len(edges) == 3 * (max(concat, default=1) - 1) else None
    if three is None:
        return _cut(edges, 2)
    heavy_ball = all([edge.source for edge in node] == [t - 1, t - 1, t - 2] for t, node in enumerate(three, start=2))
    return three if heavy_ball else None


def _cut(edges: tuple[Edge, ...], width: int) -> Nodes | None:
    """Nodes of `width` edges each, or None if any node would then read a later one."""
    if not edges or len(edges) % width:
        return None
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
        if node.func.id == "range" and len(node.args) in (1, 2, 3):
            bounds = [_integer(bound, where) for bound in node.args]
            if bounds[2:] != [0]:
                return tuple(range(*bounds))
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
    # Other programs read two edges per node, whatever the sources are.
    if _cut(flat, 2) == _of_flat_list(flat, cell.concat) == cell.nodes:
        return _list_text(flat)
    return "[" + ", ".join(_list_text(node) for node in cell.nodes) + "]"


def _list_text(edges: tuple[Edge, ...]) -> str:
    return "[" + ", ".join(f"({edge.operation!r}, {edge.source})" for edge in edges) + "]"


def _concat_text(concat: tuple[int, ...]) -> str:
    consecutive = concat == tuple(range(concat[0], concat[-1] + 1))
    return f"range({concat[0]}, {concat[-1] + 1})" if consecutive else str(list(concat))


def _fail(node: ast.expr | ast.stmt | ast.keyword, what: str, where: str) -> NoReturn:
    raise GenotypeError(f"{where}: line {node.lineno}, column {node.col_offset + 1}: {what}")
