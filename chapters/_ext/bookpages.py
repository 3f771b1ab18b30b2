"""The book's own Sphinx extension: generated tables, and each page with the scripts it needs."""

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from launch import offers_live_code
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from statements import entries, tests_of

import flatminima

TESTS = Path(flatminima.__file__).resolve().parents[2] / "tests"


class GeneratedTable(SphinxDirective):
    """A table written in MyST and parsed where the directive stands."""

    columns: tuple[str, ...] = ()

    def rows(self):
        raise NotImplementedError

    def run(self):
        rows = [self.columns, ["---"] * len(self.columns), *self.rows()]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        node = nodes.container()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, node)
        return node.children

    @property
    def found(self):
        return entries(Path(self.env.srcdir) / "chapters")


class TheoremTable(GeneratedTable):
    """Every statement that has a label: name, chapter, and the tests that check it."""

    columns = ("label", "statement", "chapter", "checked by")

    def rows(self):
        labelled = [entry for entry in self.found if entry.theory_label]
        labelled.sort(key=lambda e: ("QDG".index(e.theory_label[0]), int(e.theory_label[1:])))
        for entry in labelled:
            checks = "<br>".join(f"`{name}`" for name in tests_of(entry.theory_label, TESTS))
            statement = f"{{prf:ref}}`{entry.title} <{entry.label}>`"
            yield entry.theory_label, statement, f"{{doc}}`{entry.document}`", checks


class ExerciseTable(GeneratedTable):
    """Every exercise with its chapter and its solution."""

    columns = ("exercise", "chapter", "solution")

    def rows(self):
        solutions = {e.title: e.label for e in self.found if e.kind == "solution"}
        for entry in self.found:
            if entry.kind == "exercise":
                solution = f"{{ref}}`solution <{solutions[entry.label]}>`"
                yield (
                    f"{{ref}}`{entry.title} <{entry.label}>`",
                    f"{{doc}}`{entry.document}`",
                    solution,
                )


def add_playground(app, pagename, templatename, context, doctree):
    """Give a page that holds a playground its style sheet and its script, which no other needs."""
    if doctree is None:
        return
    found = []
    for raw in doctree.findall(nodes.raw):
        found += re.findall(r'data-playground="(\w+)"', raw.astext())
    if not found:
        return
    app.add_css_file("playground.css")
    for name in found:
        script = f"playground/{name}.js"
        if not (Path(app.srcdir) / "chapters" / "_static" / script).is_file():
            logging.getLogger(__name__).warning(
                "%s is not bundled: run tools/bundle.py", script, location=pagename
            )
            continue
        app.add_js_file(script, loading_method="defer")


def keep_needed_scripts(app, pagename, templatename, context, doctree):
    """Drop inline scripts given twice, and those of Thebe unless the pages offer live code."""
    live = offers_live_code(app)
    kept, bodies = [], set()
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        if not live and ("thebe" in str(script.filename or "") or "thebe" in (body or "")):
            continue
        if body is not None and body in bodies:
            continue
        bodies.add(body)
        kept.append(script)
    context["script_files"] = kept


def setup(app):
    app.add_directive("theorem-table", TheoremTable)
    app.add_directive("exercise-table", ExerciseTable)
    app.connect("html-page-context", add_playground)
    # After every extension has added its scripts.
    app.connect("html-page-context", keep_needed_scripts, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
