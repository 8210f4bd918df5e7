"""The literature's notation: what is read, what is refused, what is printed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genotypes import CellGenotype, Edge, Genotype, GenotypeError, from_text, to_text, validate
from tests.architectures import architectures

DARTS = """
# CIFAR-10, second order
DARTS_V2 = Genotype(
    normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
            ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2),],
    normal_concat=[2, 3, 4, 5],  # all of them
    reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
            ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
    reduce_concat=range(2, 6),
)
"""
ONE = "[[('skip_connect', 0)]]"


def text_of(edges: str, concat: str = "[2]") -> str:
    return f"Genotype(normal={edges}, normal_concat={concat}, reduce={ONE}, reduce_concat=[2])"


@settings(deadline=None, max_examples=40)
@given(architectures())
def test_text_round_trip(genotype: Genotype) -> None:
    assert from_text(to_text(genotype)) == genotype


def test_the_notation_of_darts_is_read() -> None:
    genotype = from_text(DARTS)
    assert genotype.name == "DARTS_V2"
    assert genotype.normal.nodes[3] == (Edge("skip_connect", 0), Edge("dil_conv_3x3", 2))
    assert genotype.reduce.nodes[1] == (Edge("skip_connect", 2), Edge("max_pool_3x3", 1))
    assert genotype.normal.concat == genotype.reduce.concat == (2, 3, 4, 5)
    assert from_text(DARTS, name="mine").name == "mine"


@pytest.mark.parametrize("concat", ["[2, 3]", "(2, 3)", "range(2, 4)", "list(range(2, 4))", "tuple([2, 3])"])
def test_concat_may_be_written_in_several_ways(concat: str) -> None:
    assert from_text(text_of("[[('none', 0)], [('none', 2)]]", concat)).normal.concat == (2, 3)


@pytest.mark.parametrize(
    "edges", ["[[('none', 0)], [('none', 1), ('none', 2)]]", "[(('none', 0),), (('none', 1), ('none', 2))]"]
)
def test_a_list_of_lists_states_the_nodes(edges: str) -> None:
    assert [len(node) for node in from_text(text_of(edges, "[3]")).normal.nodes] == [1, 2]


@pytest.mark.parametrize("concat", ["[2, 3]", "[3]", "range(2, 6)", "[5]", "[2, 5]"])
def test_a_flat_list_has_two_edges_a_node_whatever_is_concatenated(concat: str) -> None:
    """As in DARTS's code, where a cell has len(op_names) // 2 steps."""
    cell = from_text(DARTS.replace("[2, 3, 4, 5]", concat)).normal
    assert cell.nodes == from_text(DARTS).normal.nodes
    assert [len(node) for node in cell.nodes] == [2, 2, 2, 2]


@pytest.mark.parametrize(("edges", "concat"), [(3, "[2]"), (6, "[2, 3]"), (6, "[3]"), (12, "range(2, 6)"), (5, "[2]")])
def test_a_flat_list_that_may_be_three_edges_a_node_is_refused(edges: int, concat: str) -> None:
    flat = "[" + "('none', 0), " * edges + "]"
    with pytest.raises(GenotypeError, match=f"cannot tell which of the {edges} edges enter which node: .* write one"):
        from_text(text_of(flat, concat))


def test_space_hb_is_printed_with_its_nodes() -> None:
    nodes = tuple((Edge("none", i - 1), Edge("none", i - 1), Edge("none", i - 2)) for i in range(2, 6))
    genotype = Genotype(CellGenotype(nodes, (2, 3, 4, 5)), CellGenotype(nodes, (2, 3, 4, 5)))
    assert to_text(genotype).count("[[") == 2
    flat = "[" + ", ".join(f"('none', {edge.source})" for node in nodes for edge in node) + "]"
    assert from_text(text_of(flat, "range(2, 6)")).normal == genotype.normal
    assert from_text(to_text(genotype)) == genotype


@pytest.mark.parametrize(
    ("cell", "flat"),
    [
        (CellGenotype(nodes=((Edge("none", 0),) * 2, (Edge("none", 2),) * 2), concat=(2, 3)), True),
        (CellGenotype(nodes=((Edge("none", 0),) * 2, (Edge("none", 2),) * 2), concat=(2,)), True),
        (CellGenotype(nodes=((Edge("none", 0),) * 2,) * 3, concat=(3,)), False),  # or two nodes of three edges
        (CellGenotype(nodes=((Edge("none", 0),), (Edge("none", 2),)), concat=(2, 3)), False),
        (CellGenotype(nodes=((Edge("none", 0),) * 2, (Edge("none", 2),)), concat=(2, 3)), False),
    ],
)
def test_nested_lists_are_printed_only_where_flat_ones_are_ambiguous(cell: CellGenotype, flat: bool) -> None:
    assert ("[[" not in to_text(Genotype(cell, cell))) == flat
    assert from_text(to_text(Genotype(cell, cell))) == Genotype(cell, cell)


CALL = "".join(DARTS.split("DARTS_V2 = ")[1])
LINE = CALL.replace("# all of them", "").replace("\n", " ")
FILE = f"""
from collections import namedtuple

Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')

PRIMITIVES = [
    'none',
    'max_pool_3x3',
]

NASNet = {CALL}
# OLD = {LINE}
DARTS_V2 = {CALL}
DARTS = DARTS_V2
"""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"2018-06-27 13:25:46,379 genotype = {LINE}", "genotype"),
        (f"INFO genotype = {LINE}", "genotype"),
        (f"07/05 10:01:22 PM | genotype: {LINE}\n", "genotype"),
        (f"INFO:root:genotype = {CALL}", "genotype"),
        (f"2018-06-27 epoch 49 lr 1e-3\n2018-06-27 genotype = {LINE}\n2018-06-27 valid_acc 97.2", "genotype"),
        (f">>> {LINE}", None),
        (f"genotypes.{LINE}", None),
        (f"DARTS_V2 = nas.genotypes.{CALL}", "DARTS_V2"),
        (f"DARTS_V2: Genotype = {CALL}", "DARTS_V2"),
        (f"```python{DARTS}```\n", "DARTS_V2"),
        (f"~~~\n{LINE}\n~~~", None),
        (f"Here it is:\n```\n{DARTS}\n```\nGood luck!", "DARTS_V2"),
        (f"    DARTS_V2 = {LINE}", "DARTS_V2"),
        (DARTS.replace("range(2, 6)", "range(2, 6, 1)"), "DARTS_V2"),
        (f"from genotypes import Genotype\nDARTS = None\nDARTS_V2 = {CALL}\nDARTS = DARTS_V2", "DARTS_V2"),
    ],
)
def test_pasted_genotypes_are_read(text: str, name: str | None) -> None:
    genotype = from_text(text)
    assert (genotype.normal, genotype.reduce) == (from_text(DARTS).normal, from_text(DARTS).reduce)
    assert genotype.name == name


def test_one_of_several_genotypes_is_chosen_by_name() -> None:
    with pytest.raises(
        GenotypeError, match=r"holds 3 genotypes \(NASNet, DARTS_V2, DARTS\); choose one, such as FILE:NA"
    ):
        from_text(FILE)
    assert from_text(FILE, choose="DARTS_V2").name == "DARTS_V2"
    assert from_text(FILE, choose="DARTS").normal == from_text(DARTS).normal
    with pytest.raises(GenotypeError, match="unknown genotype 'DARTS_V3'; did you mean DARTS_V2"):
        from_text(FILE, choose="DARTS_V3")
    for other in ("OLD", "PRIMITIVES", "Genotype"):
        with pytest.raises(GenotypeError, match="unknown genotype"):
            from_text(FILE, choose=other)


def test_a_log_of_many_epochs_is_refused() -> None:
    log = f"2018-06-27 13:25:46 genotype = {LINE}\n" * 50
    with pytest.raises(GenotypeError, match=r"holds 50 genotypes \(.*\); keep only the one you want"):
        from_text(log[:90_000])


def test_faults_in_a_log_have_their_place() -> None:
    with pytest.raises(GenotypeError, match="line 2, column 14: Genotype lacks the argument normal"):
        from_text("epoch 1 of 50\nINFO  cell = Genotype()")


@pytest.mark.parametrize(
    "text",
    [
        f"G = {LINE}\nG.normal.append(('none', 0))",
        f"G = {LINE}\nG += 1",
        f"if True:\n    G = {LINE}",
        f"print({LINE})",
        f"G, H = {LINE}, 1",
    ],
)
def test_programs_that_would_have_to_run_are_refused(text: str) -> None:
    with pytest.raises(GenotypeError, match=r"line \d, column 1: expected Genotype"):
        from_text(text)


@pytest.mark.parametrize("name", ["class", "P-DARTS", "ﬁ", "it's", None])
def test_names_survive(name: str | None) -> None:
    cell = CellGenotype(nodes=((Edge("none", 0),),), concat=(2,))
    assert from_text(to_text(Genotype(cell, cell, name))).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds 0 statements"),
        ("\x00", "null bytes"),
        ("\udc80", "cannot be parsed"),
        ("Genotype(", "line 1, column 9: '\\(' was never closed; expected Genotype"),
        ("import os", "line 1, column 1: expected Genotype"),
        ("__import__('os').system('true')", "line 1, column 1: expected Genotype"),
        ("a = b = Genotype()", "line 1, column 1: expected Genotype"),
        (f"{text_of(ONE)}; {text_of(ONE)}", "holds 2 genotypes"),
        ("Genotype()", "lacks the argument normal"),
        ("Genotype([], [], [], [])", "line 1, column 10: name the arguments"),
        ("Genotype(**{})", "unknown argument"),
        ("Genotype(colour=1)", "unknown argument"),
        ("Genotype(normal=1, normal=2)", "states normal twice"),
        (text_of("1"), "line 1, column 17: expected a list of edges"),
        (text_of("[]"), "cannot tell which of the 0 edges"),
        (text_of("[('none', 0, 1.0)]"), "expected an edge"),
        (text_of("[(0, 'none')]"), "expected a text in quotes"),
        (text_of("[('none', True)]"), "expected a node number"),
        (text_of("[('none', -1)]"), "expected a node number"),
        (text_of("[('none', 1 + 1)]"), "expected a node number"),
        (text_of("[('none', 0x" + "f" * 9999 + ")]"), "expected a node number"),
        (text_of("[('none', " + "9" * 9999 + ")]"), "."),
        ("\x1b[31m = Genotype()", "lacks the argument normal"),
        (f"Genotype({'x' * 5000}=1)", "unknown argument"),
        (text_of(f"[[('{'x' * 5000}', 0)]]"), r"unknown operation 'x{56}\.\.\."),
        (text_of("[[('\\d', 0)]]"), r"\$\.normal\.nodes\[0\]\[0\]\.operation: unknown operation"),
        (text_of("[('none', 5)]"), "cannot tell which of the 1 edges"),
        (text_of("[('none', 0)] * 3"), "expected a list of edges"),
        (text_of("[('none', 0), ('none', 1), ('none', 0)]", "[2, 3]"), "cannot tell which of the 3 edges"),
        (text_of("[[('none', 0)], [('none', 3)]]", "[3]"), r"nodes\[1\]\[0\]\.source"),
        (text_of(ONE, "[]"), "concat: must name at least one"),
        (text_of("[[('none', 0)]]", "[]"), "concat: must name at least one"),
        (text_of(ONE, "range(10**9)"), "expected a node number"),
        (text_of(ONE, "range(0, 999999999)"), "expected a node number"),
        (text_of(ONE, "range(2, 3, 0)"), "expected a list of nodes"),
        (text_of(ONE, "open('x')"), "expected a list of nodes"),
        (text_of(ONE, "range(stop=3)"), "expected a list of nodes"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(GenotypeError, match=message) as caught:
        from_text(text)
    assert str(caught.value).startswith("<text>: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["(", "[", "-", "1+", "a.", "f()", "not ", "lambda:", "1 if 1 else ", "#\n"])
def test_deep_and_long_texts_are_refused(part: str) -> None:
    with pytest.raises(GenotypeError):
        from_text(part * 30_000)
    with pytest.raises(GenotypeError, match="longer than"):
        from_text(part * 100_001)


def test_a_text_of_nothing_but_genotypes_is_not_parsed_to_its_end() -> None:
    with pytest.raises(GenotypeError, match="holds more than 1000 genotypes"):
        from_text("log: " + "Genotype()" * 9_000)


@settings(deadline=None)
@given(st.text(alphabet="Genotyp(normal=[],'0 12range_c\n\\#\"") | st.text())
def test_any_text_gives_a_genotype_error(text: str) -> None:
    with pytest.raises(GenotypeError):
        from_text(text)


@settings(deadline=None)
@given(st.data())
def test_any_change_to_a_text_gives_a_genotype_or_a_genotype_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(DARTS)))
    end = data.draw(st.integers(start, min(len(DARTS), start + 20)))
    part = data.draw(st.sampled_from(["", "(", "]", ",", "0", "'", "#", "=", "-", "*", "range(2, 5)"]) | st.text())
    try:
        genotype = from_text(DARTS[:start] + part + DARTS[end:])
    except GenotypeError:
        return
    validate(genotype)
