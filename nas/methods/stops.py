"""Rules that end a search before its last epoch, and choose the epoch whose genotype is its result.

A rule is told about every epoch once and keeps what it needs as plain numbers and text, for a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from genotypes import CellGenotype, Genotype
from genotypes.config import AtLeast, Config
from spaces import KINDS, Mixing, SearchSpace, is_parameter_free

#: `EigenvalueStop` (code of RobustDARTS): an average is of this many measurements,
WINDOW = 5
#: is compared with that of so many measurements before, which is not of an epoch before FIRST_EPOCH,
DISTANCE = 4
FIRST_EPOCH = 10
#: and ends the search if it is so many times as large. The paper's rule is the inverse, below 0.75.
GROWTH = 1.3

#: `SkipStop` (DARTS+, Liang et al., 2019, criterion 1): skip connections of the normal cell that end the search.
SKIPS = 2
#: `OrderStop` (DARTS+, criterion 1*): epochs with the same choice that end the search.
PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class StopConfig(Config):
    """When a search ends before its last epoch; by default never."""

    eigenvalue_every: Annotated[int, AtLeast(0)] = 0
    """Measure the dominant eigenvalue of the Hessian of the validation loss in the architecture's logits after the
    first and then every so many epochs (RobustDARTS's code: 2); 0: never."""
    stop: Literal["none", "eigenvalue", "skips", "order"] = "none"
    """End the search early: eigenvalue, where that has grown (RobustDARTS, Zela et al., ICLR 2020; it takes an earlier
    genotype); skips, at two skip connections in the normal cell; order, where the best operation with parameters of
    every edge has stayed the same for 10 epochs (both DARTS+, Liang et al., 2019)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop == "eigenvalue" and not self.eigenvalue_every:
            raise ValueError("--stop eigenvalue needs measurements; add --eigenvalue-every 2")

    def check(self, space: SearchSpace) -> None:
        """Raises ValueError, naming both, for a space with which the rule has no meaning."""
        if self.stop == "skips" and space.peaked:
            raise ValueError(
                "--stop skips ends a search that derives skip connections, and --init hb starts from them; "
                "choose another --stop or another --init"
            )
        if self.stop == "skips" and "skip_connect" not in space.operations:
            raise ValueError("--stop skips counts skip_connect, which is not among the --operations; add it")
        if self.stop == "order" and all(is_parameter_free(name) for name in space.operations):
            raise ValueError("--stop order compares operations with parameters, of which the --operations have none")

    def measures(self, epoch: int) -> bool:
        """Whether the eigenvalue is measured after epoch number `epoch`, from 0 on."""
        return self.eigenvalue_every > 0 and epoch % self.eigenvalue_every == 0

    def build(self) -> StopRule | None:
        """The rule in its initial state; None for "none"."""
        rules: dict[str, Callable[[], StopRule]] = {"eigenvalue": EigenvalueStop, "skips": SkipStop, "order": OrderStop}
        return rules[self.stop]() if self.stop in rules else None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known after an epoch."""

    epoch: int
    """Its number, from 0 on."""
    genotype: Genotype
    """What would be derived now."""
    best: tuple[str, ...]
    """The choice of `best_with_parameters`."""
    eigenvalue: float | None = None
    """The dominant eigenvalue, where it was measured."""


class StopRule(ABC):
    """Base class of the rules.

    Attributes:
        take: the number, from 0 on, of the epoch whose genotype is the result; -1 while the search goes on.
        reason: why the search ends, for the log; empty while it goes on.
    """

    def __init__(self) -> None:
        self.take, self.reason = -1, ""

    @abstractmethod
    def update(self, seen: Seen) -> None:
        """Takes an epoch into account; sets `take` and `reason` if the search is to end after it."""

    def state_dict(self) -> dict[str, Any]:
        """Numbers and text, and mappings of them."""
        return {"take": self.take, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state."""
        self.take, self.reason = state["take"], state["reason"]


class EigenvalueStop(StopRule):
    """RobustDARTS (Zela et al., ICLR 2020, sec. 4.3), as in its code: ends where the curvature has grown.

    The eigenvalue of a measurement is averaged with those of up to two measurements before and after it. If the newest
    average is more than 1.3 times that of four measurements before, the genotype of that earlier epoch is taken: with
    measurements every 2 epochs, 12 epochs before the present one. No epoch before number 10 is taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.measured: dict[int, float] = {}

    def update(self, seen: Seen) -> None:
        """Takes the eigenvalue into account, if it was measured."""
        if seen.eigenvalue is None:
            return
        self.measured[seen.epoch] = seen.eigenvalue
        averages, epochs = self.averages(), list(self.measured)
        if len(averages) <= DISTANCE:
            return
        *_, now = averages
        earlier, epoch = averages[-1 - DISTANCE], epochs[len(averages) - 1 - DISTANCE]
        # No eigenvalue of a softmax's logits is below 0 but by rounding; a ratio would mean nothing there.
        if epoch >= FIRST_EPOCH and 0 < earlier * GROWTH < now:
            self.take = epoch
            self.reason = f"the dominant eigenvalue has grown from {earlier:.3g} to {now:.3g} since epoch {epoch + 1}"

    def averages(self) -> list[float]:
        """The averages so far, the first of the first measurement; two fewer than measurements."""
        values, reach = list(self.measured.values()), WINDOW // 2
        windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values) - reach)]
        return [sum(window) / len(window) for window in windows]

    def state_dict(self) -> dict[str, Any]:
        """Also the eigenvalues by the number of their epoch."""
        return {**super().state_dict(), "measured": dict(self.measured)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state. Raises ValueError for eigenvalues that are none."""
        measured = state["measured"]
        if not all(isinstance(epoch, int) and isinstance(value, float) for epoch, value in measured.items()):
            raise ValueError("its eigenvalues do not fit this run")
        super().load_state_dict(state)
        self.measured = dict(measured)


class SkipStop(StopRule):
    """DARTS+ (Liang et al., 2019), criterion 1: ends where the derived normal cell has two skip connections."""

    def update(self, seen: Seen) -> None:
        """Counts the skip connections of the genotype."""
        number = skips(seen.genotype.normal)
        if number >= SKIPS:
            self.take, self.reason = seen.epoch, f"the normal cell has {number} skip connections"


class OrderStop(StopRule):
    """DARTS+ (Liang et al., 2019), criterion 1*: ends where the choice among operations with parameters is stable.

    That is where the strongest of them has been the same, on every edge, after each of the last 10 epochs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order, self.since = "", 0

    def update(self, seen: Seen) -> None:
        """Compares the choice with that of the epoch before."""
        order = " ".join(seen.best)
        if order != self.order:
            self.order, self.since = order, seen.epoch
        if seen.epoch - self.since + 1 >= PATIENCE:
            self.take = seen.epoch
            self.reason = f"the best operations with parameters have been the same for {PATIENCE} epochs"

    def state_dict(self) -> dict[str, Any]:
        """Also the last choice, and the number of the epoch that it was first made after."""
        return {**super().state_dict(), "order": self.order, "since": self.since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state."""
        super().load_state_dict(state)
        self.order, self.since = state["order"], state["since"]


def skips(cell: CellGenotype) -> int:
    """The number of skip connections of a cell; negative identities are none."""
    return sum(edge.operation == "skip_connect" for node in cell.nodes for edge in node)


def best_with_parameters(space: SearchSpace, mixing: Mixing) -> tuple[str, ...]:
    """The strongest operation with parameters of every edge, kind after kind, from the mixing weights (E, O)."""
    candidates = [o for o, name in enumerate(space.operations) if not is_parameter_free(name)]
    return tuple(
        space.operations[max(candidates, key=row.__getitem__)]
        for kind in KINDS
        for row in mixing[kind].tolist()
        if candidates
    )
