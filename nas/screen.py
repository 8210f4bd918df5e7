"""What a run prints while it computes. A program that uses this as a library decides whether and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

from genotypes.messages import one_line

#: None prints nothing. Each thread has its own: a run in another thread may still print.
_write: ContextVar[Callable[[str], None] | None] = ContextVar("write", default=tqdm.write)


def say(text: str) -> None:
    """Prints a line, or passes it to the function that `shown_by` has set."""
    write = _write.get()
    if write is not None:
        write(text)


def silent() -> bool:
    """Whether nothing is printed, progress bars included."""
    return _write.get() is None


@contextmanager
def shown_by(write: Callable[[str], None] | None) -> Iterator[None]:
    """Within it, `write` gets the lines; None discards them."""
    token = _write.set(write)
    try:
        yield
    finally:
        _write.reset(token)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows with the same keys as an aligned table, numbers to the right."""
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else one_line(str(value))
