"""What a run shows while it computes. A program that calls it as a library decides whether and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

#: None: nothing is shown. Of each thread by itself: what runs beside a silent run may still print.
_write: ContextVar[Callable[[str], None] | None] = ContextVar("write", default=tqdm.write)


def say(text: str) -> None:
    """Shows a line: prints it, unless within `shown_by`."""
    write = _write.get()
    if write is not None:
        write(text)


def silent() -> bool:
    """Whether nothing is to be shown, progress bars included."""
    return _write.get() is None


@contextmanager
def shown_by(write: Callable[[str], None] | None) -> Iterator[None]:
    """Within it `write` gets the lines; None: nobody does."""
    token = _write.set(write)
    try:
        yield
    finally:
        _write.reset(token)
