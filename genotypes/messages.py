"""Messages as they may be shown: names in files, and what libraries say of them, come from anywhere."""

_LONGEST = 2000  # characters


def one_line(text: str) -> str:
    """`text` in one line, without anything that a terminal would obey, at most 2,000 characters."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    # The end of a message says how to fix it.
    return shown if len(shown) <= _LONGEST else f"{shown[:1400]} ... {shown[-590:]}"
