"""LPOM with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from nas.engine.device import resolve_device
from nas.theory.activations import Activation
from nas.theory.lpom.machine import LPOM, LossName, LPOMConfig, Order
from nas.theory.lpom.network import MLP


@dataclass
class _Training:
    """The state of a training in progress, which becomes the attributes of the classifier if it succeeds."""

    network: MLP
    activations: tuple[str | Activation, ...]
    classes: np.ndarray
    random: np.random.RandomState
    objective: list[float]


class LPOMClassifier(ClassifierMixin, BaseEstimator):
    """A multilayer perceptron for classification, trained as a lifted proximal operator machine (slides on LPOM).

    Computes in float32 if X is float32, and in float64 otherwise.

    Args:
        hidden_layer_sizes: units of the hidden layers.
        activation: of the hidden layers, one for all or one for each, by name (see `LIFTABLE`) or as an `Activation`,
            which `nas.theory.monotone.from_function` makes of a function.
        output_activation: of the last layer.
        loss: "squared_error" against one-hot labels, or "cross_entropy" of the softmax.
        mu: weight of the gap at each layer except the input, one for all or one for each.
        x_steps: steps of the fixed-point iteration for a state.
        w_steps: steps of accelerated proximal gradient (APG) for a weight.
        sweeps: updates of all states before the weights are updated.
        order: of a sweep, "backward" or the slides' "forward".
        damping: step size of the fixed-point iteration, in (0, 1]; None means 2 / (2 + rho).
        ridge: regularization of the pseudo-inverse.
        bias: whether layers have a bias.
        init_gain: factor of He's initial standard deviation; use about 0.3 if `output_activation` is "relu".
        batch_size: samples per mini-batch.
        max_iter: number of epochs.
        device: where to compute; "auto" is the GPU if there is one.
        random_state: draws the initial weights and the order of the samples.

    Attributes:
        classes_: (C,) labels, sorted.
        weights_: one per layer, (O, I + 1) with the bias last; (O, I) without bias.
        objective_: the objective per sample in each epoch so far, a list; see `LPOM.step`.
        n_iter_: number of epochs so far.
        n_features_in_: number of features of a sample.
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str | Activation | Sequence[str | Activation] = "relu",
        *,
        output_activation: str | Activation = "identity",
        loss: LossName = "squared_error",
        mu: float | Sequence[float] = 2.0,
        x_steps: int = 10,
        w_steps: int = 1,
        sweeps: int = 1,
        order: Order = "backward",
        damping: float | None = None,
        ridge: float = 1e-2,
        bias: bool = True,
        init_gain: float = 1.0,
        batch_size: int = 100,
        max_iter: int = 60,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.output_activation = output_activation
        self.loss = loss
        self.mu = mu
        self.x_steps = x_steps
        self.w_steps = w_steps
        self.sweeps = sweeps
        self.order = order
        self.damping = damping
        self.ridge = ridge
        self.bias = bias
        self.init_gain = init_gain
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> LPOMClassifier:
        """Trains from new weights for `max_iter` epochs.

        Args:
            X: (N, D) numbers.
            y: (N,) labels.

        Raises ValueError for data or hyperparameters that cannot be used; NonFiniteLossError for a training that
        diverges.
        """
        X, y = self._validated(X, y, reset=True)
        self._train(X, y, self._start(unique_labels(y), X.dtype), epochs=self.max_iter)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> LPOMClassifier:
        """Trains for one epoch, continuing from the last call.

        Args:
            X: (N, D) numbers.
            y: (N,) labels.
            classes: all labels; needed in the first call unless y contains them all.

        Raises ValueError and NonFiniteLossError as `fit` does; ValueError also for labels or classes that were not in
        the first call.
        """
        first = not hasattr(self, "weights_")
        X, y = self._validated(X, y, reset=first)
        given = unique_labels(y) if classes is None else unique_labels(classes)
        known = given if first else self.classes_
        if classes is not None and not np.array_equal(given, known):
            raise ValueError(f"classes are not those of the first call, {known}; leave them out")
        if len(unknown := np.setdiff1d(y, known)):
            raise ValueError(f"labels {unknown.tolist()} are not among the classes; give all of them to the first call")
        training = self._start(known, X.dtype) if first else self._resumed()
        self._train(X, y, training, epochs=1)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Labels (N,) for X (N, D): those with the largest output of a forward pass."""
        largest = self._outputs(X).argmax(dim=1).numpy()
        return self.classes_[largest]

    def decision_function(self, X: Any) -> np.ndarray:
        """Outputs (N, C) for X (N, D); for two classes their difference (N,), which is positive for the second."""
        outputs = self._outputs(X)
        return (outputs[:, 1] - outputs[:, 0] if outputs.shape[1] == 2 else outputs).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (N, C) of the classes for X (N, D).

        With cross_entropy they are the softmax of the outputs. With squared_error the outputs themselves estimate
        probabilities, and the closest distribution is returned.
        """
        outputs = self._outputs(X)
        return (outputs.softmax(dim=1) if self.loss == "cross_entropy" else _nearest_distribution(outputs)).numpy()

    def _validated(self, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32), reset=reset)
        check_classification_targets(y)
        return X, y

    def _start(self, classes: np.ndarray, dtype: np.dtype) -> _Training:
        """A new training with new weights; torch's global random state is not touched."""
        sizes, hidden = self.hidden_layer_sizes, self.activation
        if not (isinstance(sizes, Sequence | np.ndarray) and all(_is_count(size) for size in sizes)):
            raise ValueError(f"hidden_layer_sizes is {sizes!r}; give a sequence of whole numbers, such as (100,)")
        if isinstance(hidden, str) or not isinstance(hidden, Sequence | np.ndarray):
            hidden = (hidden,) * len(sizes)
        random = check_random_state(self.random_state)
        network = MLP(
            (self.n_features_in_, *sizes, len(classes)),
            (*hidden, self.output_activation),
            bias=self.bias,
            init_gain=self.init_gain,
            generator=torch.Generator().manual_seed(int(random.randint(2**31))),
            dtype=getattr(torch, dtype.name),
        )
        return _Training(network, (*hidden, self.output_activation), classes, random, objective=[])

    def _resumed(self) -> _Training:
        """The training that led to the current attributes."""
        return _Training(self._trained(), self._activations, self.classes_, self._random, list(self.objective_))

    def _trained(self) -> MLP:
        """The network with the current weights, on the CPU."""
        weights = [torch.from_numpy(weight.copy()) for weight in self.weights_]
        return MLP.from_weights(weights, self._activations, bias=self._bias)

    def _config(self) -> LPOMConfig:
        for name in ("batch_size", "max_iter"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be a whole number, 1 or more")
        return LPOMConfig(
            loss=self.loss,
            mu=tuple(self.mu) if isinstance(self.mu, Sequence | np.ndarray) else self.mu,
            x_steps=self.x_steps,
            w_steps=self.w_steps,
            sweeps=self.sweeps,
            order=self.order,
            damping=self.damping,
            ridge=self.ridge,
        )

    def _train(self, X: np.ndarray, y: np.ndarray, training: _Training, *, epochs: int) -> None:
        """Trains, and sets the attributes only at the end: a failure leaves an earlier fit as it was."""
        config, device = self._config(), resolve_device(self.device)
        network = training.network.to(device)
        machine = LPOM(network, config)
        inputs = torch.tensor(X, dtype=network.weights[0].dtype, device=device)
        labels = torch.tensor(np.searchsorted(training.classes, y), device=device)
        targets = F.one_hot(labels, len(training.classes)).to(inputs.dtype)
        for _ in range(epochs):
            training.objective.append(machine.epoch(self._batches(inputs, targets, training.random)))
        self.classes_, self.objective_, self.n_iter_ = training.classes, training.objective, len(training.objective)
        self.weights_ = [weight.detach().cpu().numpy() for weight in network.weights]
        self._activations, self._bias, self._random = training.activations, network.bias, training.random

    def _batches(
        self, inputs: Tensor, targets: Tensor, random: np.random.RandomState
    ) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.tensor(random.permutation(len(inputs)), device=inputs.device)
        for rows in order.split(self.batch_size):
            yield inputs[rows], targets[rows]

    @torch.no_grad()
    def _outputs(self, X: Any) -> Tensor:
        """Outputs (N, C) of the network for X (N, D), on the CPU."""
        check_is_fitted(self, "weights_")
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        device = resolve_device(self.device)
        network = self._trained().to(device)
        return network(torch.tensor(X, dtype=network.weights[0].dtype, device=device)).cpu()


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and int(value) >= 1


def _nearest_distribution(x_NC: Tensor) -> Tensor:
    """The distribution closest to each row in the Euclidean norm, which keeps the order of the entries.

    It is (x - t)^+ with the t for which the sum is 1 (J. Duchi et al., ICML 2008, fig. 1).
    """
    descending = x_NC.sort(dim=1, descending=True).values
    thresholds = (descending.cumsum(dim=1) - 1) / torch.arange(1, x_NC.shape[1] + 1, dtype=x_NC.dtype)
    # Thresholds rise as long as the entry at their place is larger than they are, and fall afterwards.
    return (x_NC - thresholds.amax(dim=1, keepdim=True)).clamp(min=0)
