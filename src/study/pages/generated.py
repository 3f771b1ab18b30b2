"""What all generated parts of pages share: MyST that code writes, and when to write it again."""

from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from study import results
from study.pages import sources
from study.pages.findings import NotExecutedError

logger = logging.getLogger(__name__)


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """The lines of a Markdown table.

    Raises:
        ValueError: for a row of another length, or a cell that would end early.
    """
    for row in rows:
        if len(row) != len(columns) or any("|" in cell or "\n" in cell for cell in row):
            raise ValueError(f"a row must hold {len(columns)} cells without | or line ends: {row}")
    marks = [":---"] * len(columns)
    return ["| " + " | ".join(row) + " |" for row in (columns, marks, *rows)]


def rerun_on_change(env, chapters: Path) -> None:
    """Read the page again when a chapter, a result or a test changes, or one is added."""
    files = [*chapters.glob("*.ipynb"), *results.FOLDER.rglob("*"), *sources.test_files()]
    for path in (*files, results.FOLDER, sources.TESTS):
        env.note_dependency(str(path))


class Generated(SphinxDirective):
    """MyST that is written by code, in `lines`, and parsed where the directive stands."""

    def run(self) -> list[nodes.Node]:
        rerun_on_change(self.env, self.chapters)
        try:
            lines = "\n".join(self.lines()).split("\n")
        except NotExecutedError as error:
            message = f"the chapters are not executed: {error}"
            logger.warning(message, location=self.get_location())
            lines = [f"*This table needs the executed chapters: {error}.*"]
        node = nodes.container()
        content = StringList(lines, self.get_source_info()[0])
        self.state.nested_parse(content, 0, node, match_titles=True)
        return node.children

    @property
    def chapters(self) -> Path:
        return Path(self.env.srcdir) / "chapters"
