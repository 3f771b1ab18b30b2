"""The Sphinx side of the book: what its pages generate, show and link.

``study.pages`` in the list of extensions registers all of it.
"""


def setup(app):
    """Register each part of the room that has something to register."""
    from study.pages import backmatter, launch, markup, scripts, shown

    for part in (scripts, launch, backmatter, markup, shown):
        app.setup_extension(part.__name__)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
