"""Make the copies of the chapters that ``make lab`` opens: ``python tools/lab.py``.

JupyterLab sees one notebook at a time. So in a copy every reference, citation and number from a
cell is written out as the built book shows it (``src/study/pages/copies.py``). What the book shows
is read from ``_build/shown`` (``src/study/pages/shown.py``) and from the executed chapters in
``_book``.

A copy that its reader has changed is never written over; running its cells does not change it.
"""

import contextlib
import hashlib
import json
import sqlite3
import sys
from pathlib import Path

import nbformat
from nbformat.sign import NotebookNotary

from flatminima._files import write_atomically
from study.pages import copies, notebooks

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "_lab"
EXECUTED = ROOT / "_book" / "chapters"
SHOWN = ROOT / "_build" / "shown" / "chapters"
MADE = "flatminima_made"
"""Where a copy's metadata say how it was made."""

VOLATILE = ("collapsed", "scrolled", "jupyter", "execution", "ExecuteTime", "trusted")
"""Metadata of cells that JupyterLab writes by itself."""


def fingerprint(notebook: str) -> str:
    """A hash of what a reader can change in a notebook: all but outputs and counts of runs.

    What is no notebook has one too, different from any notebook's.
    """
    try:
        kept = [
            (
                cell["cell_type"],
                notebooks.source(cell),
                cell.get("attachments") or {},
                {k: v for k, v in cell["metadata"].items() if k not in VOLATILE},
            )
            for cell in notebooks.parse(notebook)["cells"]
        ]
        content = json.dumps(kept, sort_keys=True)
    except (ValueError, KeyError, TypeError, AttributeError):
        content = "no notebook: " + notebook
    return hashlib.sha256(content.encode()).hexdigest()


def refresh(folder: Path, made: dict[str, str]) -> list[str]:
    """Write the copies that are new or unchanged by their reader; name those that are kept.

    Each copy says in its metadata how it was made, which tells whether it is unchanged.
    """
    kept = []
    for name, text in made.items():
        path = folder / f"{name}.ipynb"
        new = fingerprint(text)
        if path.exists():
            there = path.read_text(encoding="utf-8", errors="surrogateescape")
            if fingerprint(there) not in (new, made_as(there)):
                kept.append(name)
                continue
            # With nothing new to say, what the reader has run stays as it was run.
            if fingerprint(there) == new:
                continue
        notebook = notebooks.parse(text)
        notebook["metadata"][MADE] = new
        text = notebooks.stored(notebook)
        write_atomically(path, text.encode())
        trust(text)
    return kept


def made_as(notebook: str) -> str | None:
    """The fingerprint that a copy had when it was made; None if it does not say."""
    try:
        return notebooks.parse(notebook)["metadata"].get(MADE)
    except (ValueError, KeyError, AttributeError):
        return None


def trust(text: str) -> None:
    """Let JupyterLab show the figures, which are SVG, before the cells are run again."""
    # Where Jupyter cannot keep its signatures, the figures come with the next run.
    with contextlib.suppress(OSError, sqlite3.Error):
        NotebookNotary().sign(nbformat.reads(text, as_version=4))


def main() -> int:
    """Bring the copies up to date, and say which are kept."""
    try:
        made = copies.make(EXECUTED, SHOWN)
    except copies.StaleBookError as error:
        print(f"{error}. Build the book again: make clean book", file=sys.stderr)
        return 1
    for name in refresh(LAB, made):
        print(f"kept _lab/{name}.ipynb, which you have changed; rename it to get a new copy")
    return 0


if __name__ == "__main__":
    sys.exit(main())
