"""What ends a run on purpose, and the exit code of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class UsageError(ValueError):
    """A user's mistake: one line that says what, where and how to mend it. Exit code 2."""


class NonFiniteLossError(RuntimeError):
    """The loss is no longer a number; the last good checkpoint stays as it is. Exit code 1."""


class Stopped(BaseException):
    """A signal ended the run: saved at the first one, at once at the second. Exit code 128 + signal.

    Like KeyboardInterrupt it is no error, and nothing that handles errors handles it.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


#: The seeds that PyTorch takes.
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
    """Where the user's input is taken in, a ValueError is the user's mistake; elsewhere it is ours."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
