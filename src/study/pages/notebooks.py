"""Notebooks as files of JSON: the one place that reads their cells and writes them as stored."""

import json
from collections.abc import Callable, Iterator
from functools import cache, wraps
from pathlib import Path
from typing import TypeVar

from flatminima._files import write_atomically

_T = TypeVar("_T")

TEXT_ID = "read-this-first"
"""The id of the first cell of a chapter, which says where it belongs and how to read it."""


def read_once(function: Callable[[Path], _T]) -> Callable[[Path], _T]:
    """Decorate what reads a file: it does so once for each time that the file changes."""
    known = cache(lambda path, changed: function(path))
    return wraps(function)(lambda path: known(path, path.stat().st_mtime_ns))


def source(cell: dict) -> str:
    """The source of a cell, which is stored as a string or as a list of lines, in one piece."""
    return "".join(cell["source"])


def parse(text: str) -> dict:
    """The notebook in a text.

    Raises:
        ValueError: if the text is no notebook: no JSON, or JSON without cells.
    """
    notebook = json.loads(text)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError(f"a notebook is an object with a list of cells, got {text[:40]!r}")
    return notebook


def read(path: Path) -> dict:
    """The notebook in a file; errors are those of `parse`."""
    return parse(path.read_text(encoding="utf-8"))


def cells(path: Path, kind: str | None = None) -> list[dict]:
    """The cells of a notebook in order, or those of one kind, ``"markdown"`` or ``"code"``."""
    return [cell for cell in read(path)["cells"] if kind in (None, cell["cell_type"])]


def markdown(path: Path) -> list[str]:
    """The texts of a notebook, one for each of its cells of Markdown."""
    return [source(cell) for cell in cells(path, "markdown")]


def code(path: Path) -> list[str]:
    """The code of a notebook, one piece for each of its cells of code."""
    return [source(cell) for cell in cells(path, "code")]


def program(path: Path) -> str:
    """The code of a notebook in one piece, without the lines that only IPython understands."""
    lines = "\n".join(code(path)).split("\n")
    return "\n".join("" if line.lstrip()[:1] in ("%", "!") else line for line in lines)


def outputs(path: Path) -> Iterator[dict]:
    """What the cells of an executed notebook gave, in order."""
    for cell in cells(path, "code"):
        yield from cell.get("outputs", [])


def figure(cell: dict) -> dict:
    """The name and the caption of a cell's figure, {} if it has none."""
    return cell["metadata"].get("mystnb", {}).get("figure", {})


def stored(notebook: dict) -> str:
    """The text of a notebook in the form in which the repository keeps it."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def write(path: Path, notebook: dict) -> None:
    """Write a notebook in its stored form."""
    write_atomically(path, stored(notebook).encode())
