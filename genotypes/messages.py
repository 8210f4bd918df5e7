"""Safe messages: names in files, and library messages that quote them, may contain anything."""

import os
import unicodedata
from pathlib import Path

_LONGEST_REASON = 300  # characters


def one_line(text: str, *, longest: int = 2000) -> str:
    """`text` as one line of at most `longest` characters, without control characters that a terminal would obey."""
    line = " ".join(text.split())
    shown = escaped(line)
    # The end of a message says how to fix it.
    return shown if len(shown) <= longest else f"{shown[: 7 * longest // 10]} ... {shown[-(29 * longest // 100) :]}"


def escaped(text: str) -> str:
    """`text` with an escape in the place of each line break and of what a terminal would obey or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_row(name: str) -> str:
    """`name` as a row of a table in a file has it: as `escaped`, but for line breaks and control characters alone."""
    return "".join(escaped(c) if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in name)


def below(directory: str | os.PathLike[str], name: str) -> str:
    """What a message adds where a directory lacks a file that folders in it have, such as those of optinas-auto."""
    found = [str(path.parent) for path in sorted(Path(directory).glob(f"*/{name}"))]
    return f", such as {' or '.join(found[:2])}" if found else ""


def reason_of(error: Exception) -> str:
    """What a library's error says, in one line of at most 300 characters: it may quote all that a file holds."""
    return one_line(str(error) or type(error).__name__)[:_LONGEST_REASON]
