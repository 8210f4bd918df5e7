"""What ends a run on purpose, and the exit code of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class UsageError(ValueError):
    """A user error: one line that says what is wrong, where, and how to fix it. Exit code 2."""


class NonFiniteLossError(RuntimeError):
    """The loss, or a weight, is inf or nan; the last good checkpoint is kept. Exit code 1."""


class Stopped(BaseException):
    """A signal ended the run: after saving at the first one, at once at the second. Exit code 128 + signal.

    Like KeyboardInterrupt it is not an Exception, so that `except Exception` does not catch it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


#: The range of seeds that PyTorch accepts.
SEEDS = (-(2**63), 2**64 - 1)
#: Far more than anybody has time for.
MAX_EPOCHS = 10**9


def check_ranges(config: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ValueError for a field of `config` that is neither None nor a finite number within its two bounds.

    A field may be a tuple of such numbers.
    """
    for name, (least, largest) in ranges.items():
        field = getattr(config, name)
        for value in field if isinstance(field, tuple) else (field,):
            if value is not None and not (least <= value <= largest and abs(value) != math.inf):
                flag = f"--{name.replace('_', '-')}"
                bound = (
                    f"at least {_shown(least)}" if largest == math.inf else f"from {_shown(least)} to {_shown(largest)}"
                )
                raise ValueError(f"{flag} is {_shown(value)}; it must be {bound}")


def _shown(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Turns a ValueError within it into a UsageError: used only where user input is read, elsewhere it is our bug."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
