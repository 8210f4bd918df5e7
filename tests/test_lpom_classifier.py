"""`LPOMClassifier` against scikit-learn's own checks, and what those leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nas.errors import NonFiniteLossError
from nas.theory.activations import elu
from nas.theory.lpom import LOSSES, LPOMClassifier
from nas.theory.lpom.classifier import _nearest_distribution
from nas.theory.monotone import from_function


def classifier(**given: Any) -> LPOMClassifier:
    return LPOMClassifier(**{"hidden_layer_sizes": (12,), "max_iter": 20, "random_state": 0, "device": "cpu"} | given)


def points(classes: int, samples: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane around one centre for each class, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=samples)
    centres = np.array([(2, 0), (-1, 2), (-1, -2)])
    return centres[labels] + 0.3 * rng.normal(size=(samples, 2)), labels


@parametrize_with_checks(
    [
        LPOMClassifier(device="cpu"),
        LPOMClassifier((20,), "tanh", device="cpu", loss="cross_entropy", mu=1.0, max_iter=20),
    ]
)
def test_scikit_learns_checks(estimator: LPOMClassifier, check: Callable[[LPOMClassifier], None]) -> None:
    check(estimator)


@pytest.mark.parametrize(("given", "least"), [({}, 96), ({"loss": "cross_entropy", "mu": 1.0}, 95)])
def test_the_digits(given: dict, least: float) -> None:
    pixels, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        (pixels / 16).astype(np.float32), labels, test_size=360, random_state=0, stratify=labels
    )
    model = classifier(hidden_layer_sizes=(100,), **given).fit(train, train_labels)
    assert 100 * model.score(test, test_labels) >= least
    assert [weight.dtype for weight in model.weights_] == [np.float32] * 2
    assert len(model.objective_) == model.n_iter_ == 20
    assert model.objective_[-1] < 0.2 * model.objective_[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("classes", [2, 3])
def test_labels_outputs_and_probabilities_agree(classes: int, loss: str) -> None:
    x, y = points(classes)
    names = np.array(["lion", "ant", "yak"])[y]
    model = classifier(loss=loss).fit(x, names)
    assert model.score(x, names) == 1
    assert list(model.classes_) == sorted(set(names))
    probabilities, outputs = model.predict_proba(x), model.decision_function(x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities >= 0).all()
    assert (model.classes_[probabilities.argmax(axis=1)] == model.predict(x)).all()
    assert outputs.shape == ((len(x),) if classes == 2 else (len(x), classes))
    chosen = (outputs > 0).astype(int) if classes == 2 else outputs.argmax(axis=1)
    assert (model.classes_[chosen] == model.predict(x)).all()


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 5)), elements=st.floats(-5, 5)))
def test_the_nearest_distribution(outputs: np.ndarray) -> None:
    """It is one, and no distribution with all its mass on one class lies in a better direction (optimality)."""
    nearest = _nearest_distribution(torch.from_numpy(outputs)).numpy()
    np.testing.assert_allclose(nearest.sum(axis=1), 1)
    assert (nearest >= 0).all()
    steepest = (outputs - nearest).max(axis=1)
    np.testing.assert_allclose(((outputs - nearest) * nearest).sum(axis=1), steepest, atol=1e-9)


def test_partial_fits_are_the_epochs_of_a_fit() -> None:
    x, y = points(3)
    whole, parts = classifier(max_iter=4).fit(x, y), classifier()
    for _ in range(4):
        parts.partial_fit(x, y, classes=[0, 1, 2])
    assert parts.objective_ == whole.objective_
    assert parts.n_iter_ == whole.n_iter_ == 4
    for weight, expected in zip(parts.weights_, whole.weights_, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert whole.partial_fit(x, y).n_iter_ == 5
    assert whole.fit(x, y).n_iter_ == 4


def test_a_class_may_come_with_a_later_part() -> None:
    x, y = points(3)
    model = classifier().partial_fit(x[y < 2], y[y < 2], classes=[2, 1, 0])
    for _ in range(20):
        model.partial_fit(x, y)
    assert model.score(x, y) == 1


def test_the_random_state_decides_and_torchs_is_left_alone() -> None:
    x, y = points(3)
    state = torch.get_rng_state()
    first, second, other = (classifier(random_state=seed).fit(x, y) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.decision_function(x), second.decision_function(x))
    assert not np.allclose(first.decision_function(x), other.decision_function(x))
    assert torch.equal(torch.get_rng_state(), state)


def test_activations_layers_and_mu_can_be_given_one_each() -> None:
    x, y = points(3)
    model = classifier(hidden_layer_sizes=(8, 6), activation=["tanh", elu(0.5)], mu=[1.0, 2.0, 2.0])
    model = clone(model).fit(x, y)
    assert [weight.shape for weight in model.weights_] == [(8, 3), (6, 9), (3, 7)]
    assert model.score(x, y) == 1


def test_an_activation_of_the_users_own_without_bias() -> None:
    x, y = points(3)
    mine = from_function("mine", lambda t: t + torch.tanh(t) / 2)
    model = clone(classifier(activation=mine, output_activation=mine, bias=False)).fit(x, y)
    assert [weight.shape for weight in model.weights_] == [(12, 2), (3, 12)]
    assert model.set_params(bias=True).score(x, y) == 1
    assert model.partial_fit(x, y).weights_[0].shape == (12, 2)
    assert model.objective_[-1] < 0.5 * model.objective_[0]


def test_it_works_in_a_pipeline() -> None:
    x, y = points(3)
    assert cross_val_score(make_pipeline(StandardScaler(), classifier()), 100 * x, y, cv=3).min() == 1


MISTAKES = {
    "mu is -1; it must be a number greater than 0": {"mu": -1},
    "3 values of mu for 2 layers": {"mu": [1, 2, 3]},
    "unknown activation 'gelu'": {"activation": "gelu"},
    "'swish' cannot be lifted": {"activation": "swish"},
    "activation <built-in method tanh .*> is neither a name nor an Activation": {"activation": torch.tanh},
    "bias is 'no'; it must be True or False": {"bias": "no"},
    "3 activations for 3 layers": {"activation": ["relu", "tanh"]},
    "hidden_layer_sizes is 100; give a sequence of whole numbers": {"hidden_layer_sizes": 100},
    "batch_size is 0; it must be a whole number, 1 or more": {"batch_size": 0},
    "max_iter is 0; it must be a whole number, 1 or more": {"max_iter": 0},
    "loss is 'hinge'": {"loss": "hinge"},
    "the last activation is 'relu'; cross_entropy": {"loss": "cross_entropy", "output_activation": "relu"},
    "unknown device 'abacus'": {"device": "abacus"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_told_in_one_line(message: str) -> None:
    with pytest.raises(ValueError, match=message) as told:
        classifier(**MISTAKES[message]).fit(*points(3))
    assert "\n" not in str(told.value)


def test_labels_outside_the_classes_are_refused() -> None:
    x, y = points(3)
    with pytest.raises(ValueError, match=r"labels \[2\] are not among the classes"):
        classifier().partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match="classes are not those of the first call"):
        classifier().partial_fit(x, y).partial_fit(x, y, classes=[0, 1])


def test_a_training_that_diverges_says_so() -> None:
    x, y = points(3)
    with pytest.raises(NonFiniteLossError, match="the objective of the LPOM is"):
        classifier(damping=1.0, mu=(1e-6, 1e6), x_steps=40).fit(1e6 * x, y)


@pytest.mark.parametrize(
    "changed",
    [
        {"x_steps": 1},
        {"w_steps": 3},
        {"sweeps": 2},
        {"order": "forward"},
        {"ridge": 0.5},
        {"init_gain": 0.5},
        {"batch_size": 31},
        {"damping": 0.1},
        {"mu": 0.5},
    ],
    ids=str,
)
def test_every_parameter_matters(changed: dict) -> None:
    x, y = points(3)
    one, other = (classifier(max_iter=2, **given).fit(x, y) for given in ({}, changed))
    assert not np.allclose(one.weights_[0], other.weights_[0])


def test_batches_are_shuffled_and_hold_all_samples() -> None:
    rows, random = torch.arange(10), np.random.RandomState(0)
    epochs = [torch.cat([x for x, _ in classifier(batch_size=4)._batches(rows, rows, random)]) for _ in range(2)]
    assert not torch.equal(*epochs)
    assert all(torch.equal(epoch.sort().values, rows) for epoch in epochs)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {name: value}
            for name in ("x_steps", "w_steps", "sweeps", "batch_size", "max_iter")
            for value in (2.0, "2", 0)
        ),
        *({"hidden_layer_sizes": value} for value in ("ab", 100, (5.0,), (0,))),
        *({"init_gain": value} for value in ("1", 0, np.nan)),
        {"mu": "a"},
    ],
    ids=str,
)
def test_values_of_another_kind_are_told_in_one_line(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))) as told:
        classifier(**wrong).fit(*points(3))
    assert "\n" not in str(told.value)


def test_a_fit_that_fails_leaves_the_one_before() -> None:
    x, y = points(3)
    model = classifier().fit(x, y)
    before = model.decision_function(x)
    for wrong in ({"mu": -1.0}, {"damping": 1.0, "mu": (1e-6, 1e6), "x_steps": 40}):
        with pytest.raises((ValueError, NonFiniteLossError)):
            clone(model).set_params(**wrong).fit(1e6 * x, y)
        with pytest.raises((ValueError, NonFiniteLossError)):
            model.set_params(**wrong).fit(1e6 * x, y)
        np.testing.assert_array_equal(model.decision_function(x), before)
    fresh = classifier(mu=-1.0)
    with pytest.raises(ValueError, match="mu is"):
        fresh.fit(x, y)
    with pytest.raises(NotFittedError):
        fresh.predict(x)


def test_a_refused_first_call_leaves_nothing() -> None:
    x, y = points(3)
    model = classifier()
    with pytest.raises(ValueError, match="give all of them to the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    model.partial_fit(x, y, classes=[0, 1, 2])
    assert model.n_iter_ == 1


def test_parameters_set_after_a_fit_wait_for_the_next() -> None:
    x, y = points(3)
    model = classifier().fit(x, y)
    before = model.decision_function(x)
    model.set_params(activation="tanh", hidden_layer_sizes=(3,))
    np.testing.assert_array_equal(model.decision_function(x), before)
