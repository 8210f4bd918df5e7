"""What trains. Its neighbours `spaces` and `genotypes` have names that other packages have too, so it looks first."""

import sys
from importlib.util import find_spec
from pathlib import Path

#: What the first file of a neighbour says only if it is ours.
_MARKS = {"genotypes": "from genotypes.genotype import", "spaces": "from spaces.registry import"}
_COMMANDS = ("optinas-", "train_search", "train_eval", "genotype_tool", "-m")


def collision() -> str | None:
    """What stands in the place of one of our packages, and how to fix that; None where nothing does."""
    for name, mark in _MARKS.items():
        spec = find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None or mark not in origin.read_text(encoding="utf-8", errors="replace"):
            return (
                f"{origin or 'nothing'} stands in the place of the package {name!r} of optinas; run it from another "
                "folder, or install optinas into an environment of its own"
            )
    return None


if told := collision():
    # A command is told in one line, as every user's mistake is. With -m, argv begins so until the module is found.
    if Path(sys.argv[0]).name.startswith(_COMMANDS):
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(told)
