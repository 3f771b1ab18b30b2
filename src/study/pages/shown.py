"""Write down what each page shows where its source has a reference: text, link, and numbers.

``tools/lab.py`` makes the copies for JupyterLab from it, which sees one notebook at a time and so
can resolve no citation and no reference to another chapter. One file of JSON a page, next to the
pages' folder: a page that is not written again keeps its file, as it keeps its HTML, which this
extension leaves as it is.
"""

import json
import posixpath
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from flatminima._files import write_atomically

FOLDER = "shown"
MARKS = {nodes.math: "$", nodes.literal: "`", nodes.emphasis: "*"}


class watched(nodes.General, nodes.Inline, nodes.Element):
    """Around a reference from when its page is read until it is resolved; no writer sees it."""


def watch(app: Sphinx, doctree: nodes.document) -> None:
    """Put a `watched` around each reference, which remembers what the source says."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        role = ":".join(filter(None, (node.get("refdomain"), node.get("reftype"))))
        title = node.astext() if node.get("refexplicit") else ""
        around = watched(role=role, target=node["reftarget"], title=title)
        node.replace_self(around)
        around += node


def external_addresses(app: Sphinx) -> dict[str, str]:
    """Id of an entry on the page of the bibliography -> its address outside the book, or ""."""
    found = {}
    for citation in app.env.get_domain("cite").citations:
        fields = citation.entry.fields
        address = fields.get("url", "")
        if "eprint" in fields:
            address = f"https://arxiv.org/abs/{fields['eprint']}"
        if "doi" in fields:
            address = f"https://doi.org/{fields['doi']}"
        found[citation.citation_id] = address
    return found


def markdown(node: nodes.Node) -> str:
    """The text of a node with its code, its emphasis and its formulas as in Markdown."""
    if isinstance(node, nodes.Text):
        return str(node)
    mark = next((mark for kind, mark in MARKS.items() if isinstance(node, kind)), "")
    return mark + "".join(map(markdown, node.children)) + mark


def pieces(app: Sphinx, document: str, node: nodes.Node, external: dict) -> list[list[str]]:
    """What a resolved reference shows: pairs of a text and where it leads, "" if nowhere.

    An address without a scheme is a page of the book, from its root, with an anchor.
    """
    if not isinstance(node, nodes.reference):
        if not any(node.findall(nodes.reference)):
            return [[markdown(node), ""]]
        return [p for child in node.children for p in pieces(app, document, child, external)]
    page = app.builder.get_target_uri(document)
    address = node.get("refuri") or "#" + node["refid"]
    if "://" not in address:
        path, _, anchor = address.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        address = f"{path}#{anchor}" if anchor else path
        address = external.get(anchor) or address
    return [["".join(map(markdown, node.children)), address]]


def dotted(number: tuple[int, ...]) -> str:
    """A number as pages show it, as in 2.1."""
    return ".".join(map(str, number))


def write_down(app: Sphinx, doctree: nodes.document, document: str) -> None:
    """Take the `watched` away again, and write what was in them to the page's file."""
    html = app.builder.format == "html"
    external = external_addresses(app) if html else {}
    shown = []
    for around in list(doctree.findall(watched)):
        if html:
            found = [p for n in around.children for p in pieces(app, document, n, external)]
            shown.append([around["role"], around["target"], around["title"], found])
        around.replace_self(around.children)
    if not html:
        return
    kinds = app.env.toc_fignumbers.get(document, {}).values()
    sections = app.env.toc_secnumbers.get(document, {}).values()
    content = {
        "shown": shown,
        # Of each statement, exercise, figure and equation, by its id.
        "numbers": {name: dotted(n) for found in kinds for name, n in found.items()},
        # In their order, the page's own first; none if they have no numbers.
        "sections": [dotted(n) for n in sections if n],
    }
    path = Path(app.outdir).parent / FOLDER / f"{document}.json"
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False).encode())


def register(app: Sphinx) -> None:
    """Watch the references after all that changes a page as it is read."""
    app.add_node(watched)
    app.connect("doctree-read", watch, priority=900)
    # After sphinx-proof and sphinx-exercise have written their numbers.
    app.connect("doctree-resolved", write_down, priority=950)
