"""The Sphinx side of the book: what its pages generate, show and link.

``study.pages`` in the list of extensions registers all of it.
"""


def setup(app):
    """Register each part of the room that has something to register."""
    from study.pages import (
        launch,
        markup,
        opening,
        reference,
        roles,
        scripts,
        shown,
        sources,
        statement_links,
        tables,
    )

    parts = (scripts, launch, tables, opening, roles, statement_links, reference, sources)
    for part in (*parts, markup, shown):
        part.register(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
