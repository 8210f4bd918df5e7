"""SDARTS: what a perturbation is, what it keeps to, and that it is nothing but a matter of the weights' steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import spaces
from nas.methods.perturbation import Perturbation, PerturbationConfig, onto_simplex
from nas.methods.relaxation import Relaxation, Weights
from spaces import KINDS, SearchSpace
from tests.tiny import MaskedSpace, waves


def never(weights: Weights) -> Tensor:
    raise AssertionError("only the adversarial one looks at the loss")


def test_a_perturbed_row_by_its_numbers() -> None:
    e, o = torch.arange(3.0, dtype=torch.float64)[:, None], torch.arange(4.0, dtype=torch.float64)
    moved = (0.8 * e + 1.1 * o).sin().softmax(dim=1) + 0.25 * (1.9 * e + 2.7 * o + 0.3).sin()
    expected = [
        [0.191423355324, 0.344486163539, 0.173569515905, 0.290520965231],
        [0.47152081261, 0.149617286781, 0.378861900609, 0.0],
        [0.388155902642, 0.50773443512, 0.104109662238, 0.0],
    ]
    every = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(onto_simplex(moved, every), torch.tensor(expected).double(), rtol=1e-6, atol=1e-8)


def test_an_edge_of_which_nothing_is_left_keeps_its_largest_weight() -> None:
    allowed = torch.tensor([[False, True, True], [True, True, True]])
    row = torch.tensor([[0.9, -0.2, -0.1], [0.5, -1.0, 2.0]])
    assert onto_simplex(row, allowed).tolist() == [[0, 0, 1], pytest.approx([1 / 3, 0, 2 / 3])]


def test_eps_grows_linearly() -> None:
    perturbation = Perturbation(0.03, 0.3, adversarial=False)
    sizes = []
    for epoch in (0, 1, 25, 49):
        perturbation.schedule(epoch, 50)
        sizes.append(float(perturbation.eps))
    assert sizes == pytest.approx([0.03, 0.0354, 0.165, 0.2946])


def quadratic(weights: Weights) -> Tensor:
    """Smooth, and not monotonous in every weight, so that the last step of an ascent may be one too many."""
    return torch.stack([((w - 0.2) * waves(*w.shape)).square().sum() for w in weights.values()]).sum()


@pytest.mark.parametrize("adversarial", [False, True])
def test_perturbed_weights_stay_on_the_simplex_and_an_adversary_lowers_no_loss(adversarial: bool) -> None:
    torch.manual_seed(0)
    space = MaskedSpace(nodes=1).double()
    perturbation = Perturbation(0.03, 0.3, adversarial=adversarial)
    raised = 0
    for epoch in range(0, 50, 7):
        space.initialize("random")
        with torch.no_grad():
            space.alpha["normal"].mul_(1e3)
        plain = Relaxation().expected_weights(space)
        perturbation.schedule(epoch, 50)
        perturbed = perturbation(space, plain, quadratic if adversarial else never)
        for kind in KINDS:
            assert not perturbed[kind].requires_grad
            assert (perturbed[kind] >= 0).all()
            torch.testing.assert_close(perturbed[kind].sum(dim=1), torch.ones(2).double())
            assert perturbed[kind][0, 2] == 0
        assert (
            quadratic(perturbed) >= quadratic(plain) if adversarial else perturbed["normal"].ne(plain["normal"]).any()
        )
        raised += int(quadratic(perturbed) > quadratic(plain))
    assert raised >= 4 or not adversarial


def test_a_loss_that_cannot_rise_is_left_alone() -> None:
    space = MaskedSpace(nodes=1)
    plain = Relaxation().expected_weights(space)
    flat = Perturbation(0.3, 0.3, adversarial=True)(space, plain, lambda weights: 0 * weights["normal"].sum())
    assert all(torch.equal(flat[kind], plain[kind]) for kind in KINDS)


class Sigmoid(Relaxation):
    def expected_weights(self, space: SearchSpace) -> Weights:
        return {kind: space.logits(kind).sigmoid() for kind in KINDS}


def test_what_cannot_be_perturbed_is_refused() -> None:
    space = spaces.get("agd")(nodes=2)
    perturbation = PerturbationConfig(perturb="random").build(space)
    assert perturbation is not None
    perturbation.check(space, Relaxation())
    with pytest.raises(ValueError, match="--perturb random .* those of Sigmoid do not have"):
        perturbation.check(space, Sigmoid())
    with pytest.raises(ValueError, match="--perturb-end does nothing without --perturb"):
        PerturbationConfig(perturb_end=0.2)
    assert PerturbationConfig().build(space) is None
