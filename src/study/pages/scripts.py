"""Each page gets the scripts, styles and descriptions that it needs, and no others."""

import re
from html import escape
from pathlib import Path

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx.util import logging

from study.pages.launch import offers_live_code
from study.pages.opening import PREVIEW, PREVIEW_FILE


def add_playground(app, pagename, templatename, context, doctree):
    """Give a page with a playground or live figures their style sheet and script, and no other.

    Each playground has a script of its own; all live figures, ``data-figure="..."``, share one.
    """
    if doctree is None:
        return
    text = "\n".join(raw.astext() for raw in doctree.findall(nodes.raw))
    found = re.findall(r'data-playground="(\w+)"', text)
    if re.search(r'class="live-figure" data-figure="[\w-]+"', text):
        found.append("figures")
    if found:
        app.add_css_file("playground.css")
    for script in (f"playground/{name}.js" for name in found):
        if (Path(app.srcdir) / "chapters" / "_static" / script).is_file():
            app.add_js_file(script, loading_method="defer")
        else:
            message = "%s is not bundled: run tools/bundle.py"
            logging.getLogger(__name__).warning(message, script, location=pagename)


def keep_needed_scripts(app, pagename, templatename, context, doctree):
    """Drop inline scripts given twice, and those of Thebe unless the pages offer live code."""
    live = offers_live_code(app)
    kept, bodies = [], set()
    for script in context.get("script_files", []):
        body = getattr(script, "attributes", {}).get("body")
        of_thebe = "thebe" in str(script.filename or "") or "thebe" in (body or "")
        if (live or not of_thebe) and (body is None or body not in bodies):
            bodies.add(body)
            kept.append(script)
    context["script_files"] = kept


def describe(app, pagename, templatename, context, doctree):
    """Give a page the title, the description and the picture that show where its link is shared.

    The description is the page's first paragraph.
    """
    if doctree is None:
        return
    said = next((p.astext() for p in doctree.findall(nodes.paragraph) if p.astext()), "")
    said = re.sub(r"\s+", " ", said)
    if len(said) > LONGEST:
        said = said[:LONGEST].rsplit(" ", 1)[0] + " …"
    properties = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": BeautifulSoup(context.get("title", ""), "html.parser").get_text(),
        "og:description": said,
    }
    base = app.config.html_baseurl
    # Services ask for a whole address; without one for the book, the way from the page is given.
    picture = f"{base.rstrip('/')}/{PREVIEW_FILE}" if base else context["pathto"](PREVIEW_FILE, 1)
    properties |= {
        "og:image": picture,
        "og:image:width": f"{100 * PREVIEW[0]:g}",
        "og:image:height": f"{100 * PREVIEW[1]:g}",
        "og:image:alt": PICTURED,
    }
    tags = [f'<meta name="description" content="{escape(said)}" />']
    tags += [f'<meta property="{p}" content="{escape(v)}" />' for p, v in properties.items() if v]
    context["metatags"] = "\n".join([context.get("metatags", ""), *tags])


LONGEST = 200
"""Characters of a description that most services show."""
PICTURED = "An instability in three panels: the iterates overshoot, v_1 turns, the sharpness falls."
"""The picture for shared links, in words."""


def register(app):
    """Register what each page gets, and what it is spared."""
    app.connect("html-page-context", add_playground)
    app.connect("html-page-context", describe)
    # After every extension has added its scripts.
    app.connect("html-page-context", keep_needed_scripts, priority=900)
