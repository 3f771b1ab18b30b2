"""What the search of the pages knows of each page.

The search is Sphinx's own, and so is its index. It is fed with each page as a reader would name its
parts: formulas as they are read aloud, no heading "Proof" or "Summary" thirty times, and, beside
the titles of sections, the names of statements, the terms of the glossary, and every name that an
``index`` role or directive gives to a part of a page. How what is found is ranked, and what is
shown of it, is in ``chapters/_static/search.js``.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from docutils.utils.math import tex2unichar
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx_proof.nodes import NODE_TYPES

TITLED = (nodes.document, nodes.section, *NODE_TYPES.values())
"""What has a title under which it is found: sections and statements, not admonitions."""

SIGNS = tex2unichar.mathop | tex2unichar.mathbin | tex2unichar.mathrel | tex2unichar.mathalpha


def readable(formula: str) -> str:
    r"""A formula as text: ``2/\eta`` is read as 2/η. What has no sign of its own is left out."""
    signs = re.sub(r"\\([A-Za-z]+)\s*", lambda command: SIGNS.get(command[1], ""), formula)
    return re.sub(r"[{}\\$]", "", signs)


def names(page: nodes.document) -> Iterator[tuple[str, str]]:
    """Each name from an ``index`` or the glossary, with the id of what it names, "" for a page."""
    for index in page.findall(addnodes.index):
        for kind, name, target, _, _ in index["entries"]:
            if kind == "single" and target.startswith(("index-", "term-")):
                yield name, named_by(index)


def named_by(node: nodes.Node) -> str:
    """The id of the term of the glossary, or else of the section, that a node is part of."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.term):
            return node["ids"][0]
        if isinstance(node, nodes.definition_list_item):
            return next(node.findall(nodes.term))["ids"][0]
        if isinstance(node, nodes.section) and isinstance(node.parent, nodes.section):
            return node["ids"][0]
    return ""


class LeadToTheTerm(SphinxTransform):
    """Let the names in a definition lead to its term, in the index of all names too.

    An anchor at the end of a definition is handed on to the next one, which shows none.
    """

    default_priority = 840
    """Before Sphinx collects the index, at 850."""

    def apply(self, **_) -> None:
        """Give every entry in a definition the id of the term."""
        for index in self.document.findall(addnodes.index):
            if isinstance(index.parent, nodes.definition):
                place = named_by(index)
                index["entries"] = [
                    (kind, name, place, *x) for kind, name, _, *x in index["entries"]
                ]


def searchable(doctree: nodes.document) -> nodes.document:
    """A page as the index is fed with it; the given one, which is written, stays as it is."""
    page = doctree.deepcopy()
    for formula in list(page.findall(nodes.math_block)):
        formula.parent.remove(formula)
    for formula in list(page.findall(nodes.math)):
        formula.replace_self(nodes.Text(readable(formula.astext())))
    for title in list(page.findall(nodes.title)):
        if not isinstance(title.parent, TITLED):
            title.replace_self(nodes.paragraph("", title.astext()))
        elif not isinstance(title.parent, nodes.section):
            # Of a statement: (Polarity (D3)).
            name = title.astext().strip().removeprefix("(").removesuffix(")")
            title.replace_self(nodes.title("", name))
    found = list(names(page))
    for index in list(page.findall(addnodes.index)):
        index.parent.remove(index)
    for name, place in found:
        page += nodes.section("", nodes.title("", name), ids=[place] if place else [])
    return page


def feed_as_read(app: Sphinx) -> None:
    """Let every page pass through `searchable` on its way to the index, and keep its own title."""
    if app.builder.format != "html":
        return
    feed = app.builder.index_page

    def index_page(document: str, doctree: nodes.document, title: str) -> None:
        page = searchable(doctree)
        own = next(page.findall(nodes.title), None)
        # Without the number of the chapter and the markup with which it is written.
        feed(document, page, own.astext() if own is not None else title)

    app.builder.index_page = index_page


def rank_by_titles(app: Sphinx, config) -> None:
    """Give the search its weights, which Sphinx takes from a file."""
    config.html_search_scorer = str(Path(app.srcdir, "chapters/_static/search.js"))


def register(app: Sphinx) -> None:
    """Register what the index is fed with, and the weights."""
    app.add_transform(LeadToTheTerm)
    app.connect("config-inited", rank_by_titles)
    app.connect("builder-inited", feed_as_read)
