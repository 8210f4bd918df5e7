"""The dominant eigenvalue against whole Hessians."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spaces
from nas.methods.bilevel import Bilevel, BilevelConfig
from nas.methods.relaxation import Relaxation
from nas.methods.spectrum import dominant_eigenvalue, largest_eigenvalue
from nas.supernet import Supernet, SupernetConfig
from reference.supernet import PlainSupernet
from spaces import KINDS, SearchSpace
from spaces.kernels.norm import frozen_statistics
from tests.tiny import Gumbel, MaskedSpace, waves


def largest(matrix: Tensor) -> float:
    start = torch.randn(len(matrix), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return largest_eigenvalue(lambda v: matrix @ v, start, dimension=len(matrix))


def test_the_largest_eigenvalue_is_not_the_one_of_largest_magnitude() -> None:
    matrix = torch.tensor(
        [
            [-0.248563895095, -1.83990883952, -0.73965008207],
            [-1.83990883952, -2.77325104541, -2.23748364138],
            [-0.73965008207, -2.23748364138, -0.678185059495],
        ],
        dtype=torch.float64,
    )
    assert largest(matrix) == pytest.approx(1.0)
    assert largest(torch.zeros(4, 4).double()) == 0
    assert largest(3 * torch.eye(4).double()) == pytest.approx(3)
    assert math.isnan(largest(torch.full((2, 2), math.nan).double()))
    generator = torch.Generator().manual_seed(0)
    for spectrum in (torch.linspace(-9, 2, 60), torch.logspace(-6, 1, 60), torch.tensor([-1.0] * 50 + [0.0] * 10)):
        rotation = torch.linalg.qr(torch.randn(60, 60, generator=generator, dtype=torch.float64)).Q
        matrix = rotation @ torch.diag(spectrum.double()) @ rotation.T
        scale = float(spectrum.abs().max())
        assert largest(matrix) == pytest.approx(float(spectrum.max()), rel=1e-3, abs=1e-3 * scale)


def problem(space: SearchSpace, *, plain: bool = False, relaxation: Relaxation | None = None) -> Bilevel:
    with torch.no_grad():
        for kind in KINDS:
            space.alpha[kind].copy_(waves(*space.alpha[kind].shape))
    shape: dict[str, Any] = {"in_channels": 2, "image_size": (8, 8), "num_classes": 3}
    config = SupernetConfig(layers=3, init_channels=2)
    supernet: Any = (PlainSupernet if plain else Supernet)(space.double(), config, **shape)
    return Bilevel(supernet.double(), space, BilevelConfig(), nn.CrossEntropyLoss(), relaxation=relaxation)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def whole_hessian(bilevel: Bilevel) -> np.ndarray:
    """Of the loss of the plain supernet in the logits that are not excluded, row by row."""
    space, (images, labels) = bilevel.space, batch()
    sizes = [space.alpha[kind].numel() for kind in KINDS]

    def loss(flat: Tensor) -> Tensor:
        weights = {}
        for kind, alpha in zip(KINDS, flat.split(sizes), strict=True):
            logits = alpha.view_as(space.alpha[kind]).where(space.mask[kind], -torch.inf)
            weights[kind] = logits.softmax(dim=1)
        mixing = {kind: weights[kind] * space.edge_weights(kind).detach()[:, None] for kind in KINDS}
        with frozen_statistics(bilevel.supernet):
            return nn.functional.cross_entropy(bilevel.supernet(images, mixing), labels)

    flat = torch.cat([space.alpha[kind].detach().flatten() for kind in KINDS])
    hessian: Any = torch.autograd.functional.hessian(loss, flat)
    kept = torch.cat([space.mask[kind].flatten() for kind in KINDS])
    return hessian[kept][:, kept].numpy()


@pytest.mark.parametrize("name", ["agd", "masked"])
def test_the_dominant_eigenvalue_against_the_whole_hessian(name: str) -> None:
    """Of logits of operations alone, whatever a relaxation draws."""
    operations = ("sep_conv_3x3", "avg_pool_3x3", "skip_connect", "none")
    space = MaskedSpace(nodes=1) if name == "masked" else spaces.get(name)(nodes=1, operations=operations)
    bilevel = problem(space, plain=True, relaxation=Gumbel())
    eigenvalues = np.linalg.eigvalsh(whole_hessian(bilevel))
    assert eigenvalues[-1] > 1e-4
    assert dominant_eigenvalue(bilevel, batch()) == pytest.approx(eigenvalues[-1], rel=1e-3)
    stacked = problem(space, relaxation=Gumbel())
    assert dominant_eigenvalue(stacked, batch()) > 0


def test_a_measurement_leaves_no_trace() -> None:
    bilevel = problem(spaces.get("darts")(nodes=1, operations=("sep_conv_3x3", "skip_connect")))
    bilevel.supernet.eval()
    before = copy.deepcopy({**bilevel.supernet.state_dict(), "rng": torch.get_rng_state()})
    value = dominant_eigenvalue(bilevel, batch())
    assert value == dominant_eigenvalue(bilevel, batch())
    after = {**bilevel.supernet.state_dict(), "rng": torch.get_rng_state()}
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not bilevel.supernet.training
    assert all(p.requires_grad and p.grad is None for p in [*bilevel.weights.values(), *bilevel.architecture])


def test_a_loss_without_curvature() -> None:
    """A supernet of which nothing depends on the normal cell, and whose reduction cells have one operation."""
    bilevel = problem(spaces.get("darts")(nodes=1, operations=("sep_conv_3x3",)))
    assert dominant_eigenvalue(bilevel, batch()) == pytest.approx(0, abs=1e-12)
