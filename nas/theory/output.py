"""Pictures and folders of the experiments."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from genotypes.atomic import write_atomically
from nas.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DOTS_PER_INCH = 160
_FORMATS = {".svg": "svg", ".png": "png"}


def check_picture(path: str) -> None:
    """Checks the name of a picture. Raises UsageError for one that does not end in .svg or .png."""
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise UsageError(f"{path}: cannot draw {suffix or 'no suffix'}; name it .svg or .png")


def make_folder(path: Path) -> None:
    """Creates a folder and its parents if they are missing. Raises UsageError if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {path} cannot be created ({error.strerror}); choose another") from error


def write(path: Path, content: bytes) -> None:
    """Writes a file atomically. Raises UsageError if it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror}); choose another place") from error


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a picture in the format of its suffix, .svg or .png. Raises UsageError as `write` does."""
    from matplotlib import rc_context

    content = io.BytesIO()
    form = _FORMATS[path.suffix.lower()]
    # No date and no random identifiers: the same results give the same file.
    with rc_context({"svg.hashsalt": "optinas"}):
        figure.savefig(content, format=form, dpi=_DOTS_PER_INCH, metadata={"Date": None} if form == "svg" else None)
    write(path, content.getvalue())
