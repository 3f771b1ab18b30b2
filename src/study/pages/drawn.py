"""Figures that are drawn as the book is built, on pages that are no notebooks."""

from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

LAYOUTS = ("wide", "narrow")
"""How each is drawn: for the width of a column of text, and for that of a phone."""


class DrawnFigure(SphinxDirective):
    """A figure by `draw`; the last paragraph of its content is its caption, ``:alt:`` its text.

    What stands before the caption in the content, a live figure, is shown instead of it where
    scripts run.
    """

    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required, "name": directives.unchanged}
    kind = "drawn"

    def draw(self, path: Path, layout: str) -> None:
        """Draw the figure in a layout, as SVG."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.app.doctreedir).parent / "drawn"
        page = Path(self.env.doc2path(self.env.docname)).parent
        text = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, text)
        *live, caption = text.children
        figure = nodes.figure("", *live, classes=["drawn-figure", f"{self.kind}-figure"])
        for layout in LAYOUTS:
            path = folder / f"{self.kind}-{layout}.svg"
            self.draw(path, layout)
            uri = Path(*[".."] * len(page.parts[1:]), *path.resolve().parts[1:]).as_posix()
            image = nodes.image(uri=uri, alt=self.options["alt"], classes=[f"drawn-{layout}"])
            # A printed book has one page width and takes the first.
            figure += image if layout == "wide" else addnodes.only("", image, expr="html")
        figure += nodes.caption("", "", *caption.children)
        self.add_name(figure)
        return [figure]
