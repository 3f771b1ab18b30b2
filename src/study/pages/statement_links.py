"""Below each statement and its proof, the links to its tests and its exercises."""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

from study.pages import sources
from study.pages.statements import exercises_on, statements, tests_of


def add_links_to_statements(app: Sphinx, doctree: nodes.document) -> None:
    """Add the links to a page of which the text has been read."""
    chapters, document = Path(app.srcdir) / "chapters", app.env.docname
    for path in (*sources.test_files(), sources.TESTS):
        app.env.note_dependency(str(path))
    own = {e.label: e for e in statements(chapters)}
    for node in list(doctree.findall(nodes.Element)):
        entry = own.get(node.get("label"))
        if entry is None or entry.document != document.removeprefix("chapters/"):
            continue
        siblings = node.parent.children
        after = siblings.index(node)
        if entry.kind != "definition":
            proofs = (i for i in range(after + 1, len(siblings)) if holds_proof(siblings[i]))
            after = next(proofs, after)
        for part in reversed(_links_of(app, entry, chapters)):
            node.parent.insert(after + 1, part)


def holds_proof(node: nodes.Node) -> bool:
    """Whether a node is a proof, or the admonition that folds one."""
    # Theorems have the class "proof" as well.
    if isinstance(node, nodes.admonition):
        return any(map(holds_proof, node.children))
    return type(node).__name__ == "proof_node"


def _links_of(app: Sphinx, entry, chapters: Path) -> list[nodes.Node]:
    """A line that says how many tests and exercises there are, and opens to list them."""
    document = app.env.docname
    line = nodes.paragraph()
    tests = tests_of(entry.name, sources.TESTS)
    exercises = exercises_on(entry.name, chapters)
    before = "Checked by "
    for name in tests:
        file, test = name.split("::")
        said = nodes.Text(sources.in_words(test))
        line += [nodes.Text(before), sources.link(app.config, document, file, test, said)]
        before = ", "
    before = ". Practiced in "
    for exercise in exercises:
        line += [nodes.Text(before), _reference(document, exercise.label, exercise.title)]
        before = ", "
    line += [nodes.Text(". "), _reference(document, "theorems", "All statements"), nodes.Text(".")]
    counts = " · ".join(
        f"{len(found)} {one if len(found) == 1 else one + 's'}"
        for found, one in ((tests, "test"), (exercises, "exercise"))
        if found
    )
    opening = f'<details class="statement-links"><summary>{counts}</summary>'
    return [
        nodes.raw("", opening, format="html"),
        line,
        nodes.raw("", "</details>", format="html"),
    ]


def _reference(document: str, target: str, text: str) -> addnodes.pending_xref:
    options = {"refdomain": "std", "reftype": "ref", "refexplicit": True, "refwarn": True}
    inner = nodes.inline(text, text)
    return addnodes.pending_xref("", inner, reftarget=target, refdoc=document, **options)


def register(app) -> None:
    """Register the links."""
    app.connect("doctree-read", add_links_to_statements)
