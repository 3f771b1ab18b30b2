"""Each page gets the scripts and styles that it needs, and no others."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

from study.pages.launch import offers_live_code


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


def register(app):
    """Register what each page gets, and what it is spared."""
    app.connect("html-page-context", add_playground)
    # After every extension has added its scripts.
    app.connect("html-page-context", keep_needed_scripts, priority=900)
