"""Lets Ctrl-C end a program without a traceback while it is still importing, which takes seconds.

Every script imports this first. In other programs, which import the scripts as modules, it does nothing.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

#: By the names of their files, beside the console commands; that of `python -m nas.study` is its folder's.
_PROGRAMS = ("train_search", "train_eval", "genotype_tool", "auto", "study")
_COMMANDS = "optinas-"


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process with the exit code that a shell reports for a signal."""
    # Not sys.exit: an exception raised in the middle of an import could be caught there, or printed.
    os._exit(128 + number)


def raise_again() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again, so that work in progress can clean up."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_ours() -> bool:
    path = Path(sys.argv[0])
    name = path.parent.name if path.stem == "__main__" else path.stem
    return name in _PROGRAMS or name.startswith(_COMMANDS)


if _is_ours() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
