"""Pages that show the source of the tests, with an anchor for each test, and links that lead there.

Where the configuration names a repository, the links lead to its files instead.
"""

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from study import ROOT
from study.pages import notebooks

TESTS = ROOT / "tests"
FOLDER = "tests"
NAMED = re.compile(r"(?:tests/)?(?:\w+/)?(test_\w+\.py)(?:::(test_\w+))?")


def in_words(test: str) -> str:
    """What the name of a test says after its label: test_D3_turns_uphill says "turns uphill"."""
    return re.sub(r"^test_([A-Z]\d+_)?", "", test).replace("_", " ")


def test_files() -> list[Path]:
    """The files that hold tests, room by room; no two have the same name."""
    return sorted(TESTS.rglob("test_*.py"))


def shown_name(path: Path) -> str:
    """How a file of tests is called on the pages: ``tests/theory/test_quadratic.py``."""
    return f"tests/{path.relative_to(TESTS).as_posix()}"


@notebooks.read_once
def tests_in(path: Path) -> dict[str, int]:
    """Name -> line of each test of a file, in the order of the lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {
        node.name: node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    return dict(sorted(found.items(), key=lambda item: item[1]))


def summary(path: Path) -> str:
    """The first sentence of a file's docstring, or nothing."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def repository(config) -> str:
    """The address of the files in the repository, or "" where none is configured."""
    options = config.html_theme_options
    url = str(options.get("repository_url") or "").rstrip("/")
    return f"{url}/blob/{options.get('repository_branch') or 'main'}" if url else ""


def address(config, document: str, file: str, test: str = "") -> str:
    """Where a link from a document to a test leads.

    Raises:
        ValueError: if there is no such file, or no such test in it.
    """
    path = next((path for path in test_files() if path.name == file), None)
    if path is None:
        raise ValueError(f"there is no {file} in tests/")
    lines = tests_in(path)
    if test and test not in lines:
        raise ValueError(f"{shown_name(path)} has no {test}")
    if remote := repository(config):
        return f"{remote}/{shown_name(path)}" + (f"#L{lines[test]}" if test else "")
    up = "../" * document.count("/")
    return f"{up}{FOLDER}/{path.stem}.html" + (f"#{test}" if test else "")


def link(config, document: str, file: str, test: str, *content: nodes.Node) -> nodes.reference:
    """A reference to a test that holds the given content."""
    uri = address(config, document, file, test)
    return nodes.reference("", "", *content, refuri=uri, internal=True, classes=["test-link"])


def link_named_tests(app: Sphinx, doctree: nodes.document) -> None:
    """Turn each test that a text names into a link; one named without its file is looked up."""
    document, config = app.env.docname, app.config
    where = {name: path.name for path in test_files() for name in tests_in(path)}
    for literal in list(doctree.findall(nodes.literal)):
        text = literal.astext()
        found = NAMED.fullmatch(f"{where[text]}::{text}" if text in where else text)
        if found and not isinstance(literal.parent, nodes.reference):
            file, test = found[1], found[2] or ""
            literal.replace_self(link(config, document, file, test, literal.deepcopy()))


def page_body(path: Path, highlighted: str) -> str:
    """The highlighted source of a file, a div around a pre, with an anchor at each test's line."""
    lines = highlighted.split("\n")
    first = lines[0].index("<pre>") + len("<pre>")
    for name, number in tests_in(path).items():
        at = first if number == 1 else 0
        line = lines[number - 1]
        anchor = f'<span class="test-anchor" id="{html.escape(name)}"></span>'
        lines[number - 1] = line[:at] + anchor + line[at:]
    intro = f"<h1>{shown_name(path)}</h1>\n<p>{html.escape(summary(path))}</p>"
    return "\n".join([intro, *lines])


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, str], str]]:
    """One page for each file of tests, unless the links lead to a repository."""
    if app.builder.format != "html" or repository(app.config):
        return
    for path in test_files():
        code = path.read_text(encoding="utf-8")
        highlighted = app.builder.highlighter.highlight_block(code, "python", linenos=False)
        context = {"title": shown_name(path), "body": page_body(path, highlighted)}
        yield f"{FOLDER}/{path.stem}", context, "page.html"


def register(app: Sphinx) -> None:
    """Register the links and the pages."""
    app.connect("doctree-read", link_named_tests)
    app.connect("html-collect-pages", pages)
