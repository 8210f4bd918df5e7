"""The pictures of the documents are drawn by the project."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import matplotlib

DOCS = Path(__file__).parent.parent / "docs"


def test_every_picture_of_the_documents_is_drawn_and_every_drawing_is_shown(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "draw_figures.py"), str(tmp_path)], check=True)
    drawn = {path.name for path in tmp_path.iterdir()}
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    shown = set(re.findall(r"!\[.*?\]\(pictures/(.*?)\)", pages))
    assert drawn == shown == {path.name for path in (DOCS / "pictures").iterdir()}
    for path in tmp_path.iterdir():
        committed = (DOCS / "pictures" / path.name).read_text()
        if f"Matplotlib v{matplotlib.__version__}," in committed:
            assert path.read_text() == committed, f"{path.name} is not what draw_figures.py draws now"
