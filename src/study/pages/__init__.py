"""The Sphinx side of the book: what its pages generate, show and link.

``study.pages`` in the list of extensions registers all of it.
"""

from importlib import import_module
from pathlib import Path

from sphinx.errors import ExtensionError

from study import ROOT

PARTS = (
    "scripts launch search tables charts citing limits opening roles statement_links reference "
    "sources markup panels shown downloads"
)


def setup(app):
    """Register each part of the room that has something to register, in their order."""
    app.connect("config-inited", require_outputs)
    for part in PARTS.split():
        import_module(f"study.pages.{part}").register(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def require_outputs(app, config) -> None:
    """Refuse to build the sources themselves: their chapters are stored without outputs.

    Raises:
        ExtensionError: with the commands that build the book.
    """
    if Path(app.srcdir).resolve() == ROOT.resolve():
        raise ExtensionError(
            "the chapters here hold no outputs; `make book` executes copies of them and builds "
            "those: `python tools/execute.py`, then `jupyter-book build _book --path-output .`"
        )
