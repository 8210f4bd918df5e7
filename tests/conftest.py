"""Shared by all tests."""

from __future__ import annotations

import os
import random

import pytest
import torch
from torch import nn

from genotypes import CellGenotype, Edge, Genotype
from spaces import TABLE_6
from spaces.ops import SepConv

# The tests run side by side and their tensors are tiny: threads would only wait for each other. The variable
# is for the commands that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def random_genotype(seed: int, *, nodes: int = 4, edges: int = 2) -> Genotype:
    """A valid genotype with `edges` edges a node, drawn from the nine operations of Table 6."""
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
