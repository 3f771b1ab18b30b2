"""Buttons that lead out of the book.

``repository.url`` in ``_config.yml`` decides. While it is empty the book has no button that leads
elsewhere. Once it is set, every page links to its source, and every notebook can be opened on
Binder and, from GitHub, on Colab or, by Thebe, in the page itself. The foot of every page leads
then to the form for a question about the page or a section of it.
"""

from html import escape
from pathlib import Path
from urllib.parse import quote, urlsplit

import yaml
from bs4 import BeautifulSoup
from docutils import nodes


def add_buttons(app, config):
    """Turn every button on if the repository's address is set."""
    settings = yaml.safe_load((Path(app.srcdir) / "_config.yml").read_text(encoding="utf-8"))
    repository = settings.get("repository") or {}
    url = (repository.get("url") or "").rstrip("/").removesuffix(".git")
    if not url:
        return
    # Colab and Thebe take notebooks from GitHub alone.
    on_github = urlsplit(url).netloc == "github.com"
    config.html_theme_options |= {
        "repository_url": url,
        "repository_branch": repository.get("branch") or "main",
        "use_repository_button": True,
        "use_issues_button": True,
        "use_edit_page_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com" if on_github else "",
            "thebe": on_github,
        },
    }


FORMS = {"github.com": "issues/new?title=", "gitlab.com": "-/issues/new?issue[title]="}
"""Host -> where the form for a question is, below the repository's address; its title follows."""


def offer_questions(app, pagename, templatename, context, doctree):
    """Offer at a page's foot to ask about it or one of its sections, which the form names."""
    url = app.config.html_theme_options.get("repository_url", "")
    form = FORMS.get(urlsplit(url).netloc)
    if doctree is None or form is None:
        return
    page = BeautifulSoup(context["title"], "html.parser").get_text()

    def link(text: str, subject: str) -> str:
        title = quote(f"Question: {subject} ({pagename})", safe="")
        return f'<a href="{escape(f"{url}/{form}{title}")}">{escape(text)}</a>'

    sections = [
        section.next_node(nodes.title).astext()
        for top in doctree.children
        for section in top.children
        if isinstance(section, nodes.section)
    ]
    about = "".join(f"<li>{link(s, f'{page}, {s}')}</li>" for s in sections)
    if about:
        about = f"<details><summary>or a section of it</summary><ul>{about}</ul></details>"
    context["theme_extra_footer"] = (
        f'<div class="ask">{link("Ask about this page", page)} {about}</div>\n'
        f"{context.get('theme_extra_footer') or ''}"
    )


def offers_live_code(app) -> bool:
    """Whether cells can be run in the page, by Thebe."""
    return bool(app.config.html_theme_options.get("launch_buttons", {}).get("thebe"))


def drop_unused_thebe(app, doctree, docname):
    """Remove the settings that sphinx-thebe adds to every page, where they serve nothing."""
    if offers_live_code(app):
        return
    for raw in list(doctree.findall(nodes.raw)):
        if "x-thebe-config" in raw.astext() or raw.astext().startswith("<script>kernelName"):
            raw.parent.remove(raw)


def register(app):
    """Register the buttons."""
    app.connect("config-inited", add_buttons)
    app.connect("html-page-context", offer_questions)
    # After sphinx-thebe has added them.
    app.connect("doctree-resolved", drop_unused_thebe, priority=900)
