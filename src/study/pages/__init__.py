"""The Sphinx side of the book: what its pages generate, show and link.

``study.pages`` in the list of extensions registers all of it.
"""

from importlib import import_module

PARTS = "scripts launch tables limits opening roles statement_links reference sources markup shown"


def setup(app):
    """Register each part of the room that has something to register, in their order."""
    for part in PARTS.split():
        import_module(f"study.pages.{part}").register(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
