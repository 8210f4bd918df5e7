"""Ctrl-C while a program is still importing, which takes seconds: it ends without a traceback.

The first import of every script. It does nothing in other programs, which import the scripts as modules.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

_PROGRAMS = ("train_search", "train_eval", "genotype_tool", "optinas-search", "optinas-eval", "optinas-genotype")


def leave(number: int, frame: FrameType | None) -> None:
    """Ends the process as a shell's own programs end."""
    os._exit(128 + number)


def raise_again() -> None:
    """Has Ctrl-C raise KeyboardInterrupt again, so that what is under way can clean up."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if Path(sys.argv[0]).stem in _PROGRAMS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, leave)
