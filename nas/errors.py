"""What ends a run on purpose, and the exit code of each."""

from __future__ import annotations

from collections.abc import Iterator
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


@contextmanager
def users_mistakes() -> Iterator[None]:
    """Turns a ValueError within it into a UsageError: used only where user input is read, elsewhere it is our bug."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
