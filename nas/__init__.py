"""Training and search. Other packages are called `spaces` or `genotypes` too, so importing `nas` first checks ours."""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"  # setup.cfg reads it here

#: A line that the first file of each package has only if the package is ours.
_MARKS = {"genotypes": "from genotypes.genotype import", "spaces": "from spaces.registry import"}
_COMMANDS = ("optinas-", "train_search", "train_eval", "genotype_tool", "-m")


def collision() -> str | None:
    """What shadows one of our packages, and how to fix it; None if nothing does."""
    for name, mark in _MARKS.items():
        spec = find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None or mark not in origin.read_text(encoding="utf-8", errors="replace"):
            return (
                f"{origin or 'nothing'} is imported instead of the package {name!r} of optinas; run from another "
                "folder, or install optinas into an environment of its own"
            )
    return None


if told := collision():
    # A command prints one line, as for every user error. With -m, argv[0] is "-m" until the module is found.
    if Path(sys.argv[0]).name.startswith(_COMMANDS):
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(told)
