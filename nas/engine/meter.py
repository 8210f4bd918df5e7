"""Loss and accuracy over the batches of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import Batch
from nas.engine.device import Precision, autocast, repeatable


class Meter:
    """Sums of losses and of correct predictions, kept on the device until they are read, so that adding never waits.

    Accuracies are in percent; top-5 counts an image as right if its label is among the five largest logits.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sums = torch.zeros(3, dtype=torch.float64)

    def reset(self) -> None:
        """Sets all sums to zero."""
        self.images = 0
        self._sums = torch.zeros_like(self._sums)  # on the device of the last batch

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch: its mean loss (a scalar), logits (N, classes), labels (N,)."""
        best = _best(logits)
        hits = best == labels[:, None]
        # One addition for all three sums, in float64: an epoch adds up thousands of batches.
        sums = torch.stack([loss.detach() * len(labels), hits[:, 0].sum(), hits.sum()])
        self._sums = self._sums.to(sums.device) + sums.to(self._sums.dtype)
        self.images += len(labels)

    @property
    def loss(self) -> float:
        """The mean loss of an image; 0 before the first batch."""
        return float(self._sums[0]) / max(self.images, 1)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in percent; 0 before the first batch."""
        return 100 * float(self._sums[1]) / max(self.images, 1)

    @property
    def top5_accuracy(self) -> float:
        """Top-5 accuracy in percent; 0 before the first batch."""
        return 100 * float(self._sums[2]) / max(self.images, 1)

    def state_dict(self) -> dict[str, object]:
        """The number of images and the sums, for a checkpoint."""
        return {"images": self.images, "sums": self._sums}

    def load_state_dict(self, state: dict) -> None:
        """Continues from the sums of a checkpoint, whatever device they were on."""
        self.images, self._sums = state["images"], state["sums"]


class Predictions:
    """The class that is predicted for each image, with its probability, kept on the device until they are read.

    Attributes:
        temperature: the logits are divided by it, see `nas.engine.calibration`.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._batches: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._batches)

    def reset(self) -> None:
        """Forgets all images."""
        self._batches.clear()

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Adds the images of a batch by their logits, (N, classes)."""
        # That of the accuracy, where several classes are equally probable.
        classes = _best(logits)[:, :1]
        self._batches.append((classes, (logits.float() / self.temperature).softmax(dim=1).gather(1, classes)))

    def read(self) -> tuple[list[int], list[float]]:
        """The class and the probability of each image, in their order; waits for the device."""
        classes, probabilities = (torch.cat(parts)[:, 0] for parts in zip(*self._batches, strict=True))
        return classes.tolist(), probabilities.tolist()


def _best(logits: Tensor) -> Tensor:
    """The classes of the largest logits, (N, 5) or fewer, the largest first."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices


def evaluated(
    step: Callable[[Batch], tuple[Tensor, ...]], batches: Iterable[Batch]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the loss and the logits (N, classes) that `step` returns of each batch, and its labels (N,).

    Where a step draws random numbers, they are the same in each call, and torch's generators are left as they are.
    """
    for number, batch in enumerate(batches):
        # Only around the step: between two batches a run may be saved, with its own random state.
        with repeatable(batch[0].device, number):
            loss, logits = step(batch)
        yield loss, logits, batch[1]


def measure(
    step: Callable[[Batch], tuple[Tensor, ...]],
    batches: Iterable[Batch],
    meter: Meter,
    predictions: Predictions | None = None,
) -> None:
    """Resets `meter` and fills it from the batches; `step` returns the loss and the logits (N, classes) of each.

    So it does with `predictions`, if they are wanted. Random numbers are those of `evaluated`.
    """
    meter.reset()
    if predictions is not None:
        predictions.reset()
    for loss, logits, labels in evaluated(step, batches):
        meter.update(loss, logits, labels)
        if predictions is not None:
            predictions.update(logits)


@torch.no_grad()
def evaluation_step(
    network: Callable[[Tensor], Tensor], batch: Batch, *, precision: Precision
) -> tuple[Tensor, Tensor]:
    """The cross entropy of a batch and its logits (N, classes); changes nothing."""
    images, labels = batch
    with autocast(images.device, precision):
        logits = network(images)
        return F.cross_entropy(logits, labels), logits
