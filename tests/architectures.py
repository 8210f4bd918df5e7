"""Genotypes and operations that several tests draw or need."""

from __future__ import annotations

import random

from hypothesis import strategies as st
from torch import nn

from genotypes import OPERATIONS, CellGenotype, Edge, Genotype
from spaces import TABLE_6
from spaces.ops import SepConv


@st.composite
def cells(draw: st.DrawFn) -> CellGenotype:
    count = draw(st.integers(1, 6))
    operations = st.sampled_from(sorted(OPERATIONS))
    nodes = tuple(
        tuple(draw(st.lists(st.builds(Edge, operations, st.integers(0, i - 1)), min_size=1, max_size=5)))
        for i in range(2, count + 2)
    )
    concat = draw(st.lists(st.integers(2, count + 1), min_size=1, unique=True))
    return CellGenotype(nodes, tuple(concat))


def architectures() -> st.SearchStrategy[Genotype]:
    name = st.none() | st.text(min_size=1, max_size=200).filter(str.isprintable)
    return st.builds(Genotype, cells(), cells(), name)


def random_genotype(seed: int, *, nodes: int = 4, edges: int = 2) -> Genotype:
    """A valid genotype with `edges` edges a node, drawn from the operations of Table 6 other than zero."""
    rng = random.Random(seed)

    def cell() -> CellGenotype:
        return CellGenotype(
            nodes=tuple(
                tuple(Edge(rng.choice(TABLE_6[:-1]), rng.randrange(target)) for _ in range(edges))
                for target in range(2, 2 + nodes)
            ),
            concat=tuple(range(2, 2 + nodes)),
        )

    return Genotype(normal=cell(), reduce=cell())


def sep_conv_with_gelu(channels: int, stride: int, affine: bool) -> nn.Module:
    """An operation that looks like one of ours and is none: it does not begin with a ReLU."""
    module = SepConv(channels, 3, stride, affine)
    module.op[0] = nn.GELU()
    return module
