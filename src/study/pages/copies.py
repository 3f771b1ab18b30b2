"""Copies of the chapters for those who read one notebook at a time.

In a copy every reference, citation and number from a cell is written out as the built book shows
it, with a link; statements, exercises, equations and sections have the book's numbers; captions
stand below their figures. This is the kind that ``tools/lab.py`` opens in JupyterLab, which knows
MyST; `study.pages.downloads` makes one for any reader of notebooks.
"""

import html
import json
import re
from pathlib import Path

from study.figures import glued_numbers
from study.pages import notebooks

PAGES = "/static"
"""Where ``make lab`` lets JupyterLab's server serve the pages of the book."""

SPHINX = {"cite": "cite:p", "eq": "math:eq"} | {
    n: f"std:{n}" for n in ("numref", "ref", "doc", "term")
}
"""The names of roles in Sphinx where they are longer than in the source."""

WELCOME = """\
This notebook is a copy, to run and to change, of a chapter of the book **Unstable by Design**:
<a href="{pages}/chapters/{name}.html" target="_blank">its page</a>. References and numbers in the
text stand as the book shows them. `make lab` renews the copy when the chapter has changed, unless
you have changed the copy: then it is kept."""

PART = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*[\w+-]+[ \t]*\n.*?^[ \t]*(?P=fence)[ \t]*$"  # a code block
    r"|^[ \t]*[`~]{3,}[^\n]*$"  # the first or last line of a directive
    r"|\{(?P<role>[\w:]+)\}`(?P<content>[^`]+)`"
    r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)",  # code in a line
    re.MULTILINE | re.DOTALL,
)
EQUATION = re.compile(
    r"^(?P<indent>[ \t]*)\$\$[ \t]*\n(?P<body>.*?)\n"
    r"[ \t]*\$\$(?:[ \t]*\((?P<label>[\w-]+)\))?[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
LABEL = re.compile(r"^(?P<indent>[ \t]*):label:[ \t]*(?P<label>\S+)[ \t]*$", re.MULTILINE)
PROOF = re.compile(r"^(?P<indent>[ \t]*)(?:`{3,}|:{3,})\{prf:proof\}[^\n]*$", re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) ", re.MULTILINE)
SPECIAL = re.compile(r"([\\\[\]`*_$<])")


class StaleBookError(RuntimeError):
    """The built book does not know something that a chapter holds."""


def caption_id(cell: dict) -> str:
    """The id of the cell that holds the caption of this cell's figure."""
    return f"{cell['id'][:50]}-caption"


def places(cells: list[dict]) -> dict[str, str]:
    """Label -> id of the cell of the copy in which it stands."""
    found = {}
    for cell in cells:
        source = notebooks.source(cell)
        if cell["cell_type"] == "code":
            if "name" in notebooks.figure(cell):
                found[notebooks.figure(cell)["name"]] = caption_id(cell)
            continue
        for match in (*LABEL.finditer(source), *EQUATION.finditer(source)):
            if match["label"]:
                found[match["label"]] = cell["id"]
    return found


def linked(shown: str, address: str) -> str:
    """A link in Markdown."""
    return f"[{shown}](<{address}>)" if re.search(r"[()]", address) else f"[{shown}]({address})"


class Chapter:
    """One chapter: its cells, what its page shows, its glued numbers, and where labels stand.

    Args:
        name: of the chapter.
        cells: of its executed notebook.
        page: what `shown.py` wrote down of its page.
        glued: name -> text of its numbers.
        labels: for every chapter, label -> id of its cell.
    """

    def __init__(self, name: str, cells: list, page: dict, glued: dict, labels: dict):
        self.name, self.cells, self.glued, self.labels = name, cells, glued, labels
        self.numbers, self.sections = page["numbers"], iter(page["sections"])
        self.shown: dict[tuple, list] = {}
        for role, target, title, pieces in page["shown"]:
            self.shown.setdefault((role, target, " ".join(title.split())), pieces)

    def reference(self, role: str, content: str) -> str:
        """What stands in the copy for a role with this content."""
        content = " ".join(content.split())
        if role == "glue:text":
            if content not in self.glued:
                raise StaleBookError(f"{self.name}: no cell gave the number {content!r}")
            return SPECIAL.sub(r"\\\1", self.glued[content])
        explicit = re.fullmatch(r"(.+?)\s*<([^<>]+)>", content)
        title, target = explicit.groups() if explicit else ("", content)
        for known in (target, target.lower(), target.lstrip("~.")):
            pieces = self.shown.get((SPHINX.get(role, role), known, title))
            if pieces is not None:
                return "".join(self.link(text, address) for text, address in pieces)
        raise StaleBookError(f"{self.name}: its page has no {{{role}}}`{content}`")

    def link(self, text: str, address: str) -> str:
        """A piece of a reference with its link: in this notebook, to another copy, or to a page."""
        shown = re.sub(r"([\[\]])", r"\\\1", text)
        if not address:
            return shown
        if "://" in address:
            return linked(shown, address)
        page, _, anchor = address.partition("#")
        name, label = Path(page).stem, anchor.removeprefix("equation-")
        if name not in self.labels:
            inner = re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))
            return f'<a href="{PAGES}/{address}" target="_blank">{inner}</a>'
        if not label:
            return f"[{shown}]({name}.ipynb)"
        if label not in self.labels[name]:
            raise StaleBookError(f"{self.name}: {name} has no label {label!r}")
        if name == self.name:
            return f"[{shown}](#{label})"
        return f"[{shown}]({name}.ipynb#cell-id={self.labels[name][label]})"

    def written_out(self, source: str) -> str:
        """Markdown with its references written out, and with nothing else changed."""

        def part(match: re.Match) -> str:
            return self.reference(match["role"], match["content"]) if match["role"] else match[0]

        return PART.sub(part, source)

    def numbered(self, source: str) -> str:
        """Markdown with the book's numbers at its statements, exercises, equations and headings."""

        def labelled(match: re.Match) -> str:
            number = self.numbers.get(match["label"])
            return match[0] + (f"\n{match['indent']}:enumerator: {number}" if number else "")

        def equation(match: re.Match) -> str:
            indent, label = match["indent"], match["label"]
            options = [":enumerated: false"]
            if label:
                number = self.numbers.get(f"equation-{label}")
                if number is None:
                    raise StaleBookError(f"{self.name}: its page has no equation {label!r}")
                options = [f":label: {label}", f":enumerator: {number}"]
            lines = ["~~~{math}", *options]
            return "\n".join([*(indent + x for x in lines), match["body"], f"{indent}~~~"])

        def heading(match: re.Match) -> str:
            number = next(self.sections, None)
            return match[0] + (f"{number}. " if number else "")

        source = HEADING.sub(heading, LABEL.sub(labelled, source))
        # JupyterLab would count proofs, which the book does not.
        source = PROOF.sub(r"\g<0>\n\g<indent>:enumerated: false", source)
        return EQUATION.sub(equation, source)

    def welcome(self) -> str:
        """What the copy says of itself first."""
        return WELCOME.format(pages=PAGES, name=self.name)

    def caption(self, cell: dict) -> dict:
        """The cell with the caption of a figure, which references to the figure lead to."""
        figure = notebooks.figure(cell)
        name = figure["name"]
        if name not in self.numbers:
            raise StaleBookError(f"{self.name}: its page has no figure {name!r}")
        text = f"({name})=\n**Fig. {self.numbers[name]}.** {self.written_out(figure['caption'])}"
        return {"cell_type": "markdown", "id": caption_id(cell), "metadata": {}, "source": text}

    def copied(self) -> list[dict]:
        """The cells of the copy."""
        copy = []
        for cell in self.cells:
            made = json.loads(json.dumps(cell))
            copy.append(made)
            if cell["cell_type"] == "markdown":
                source = self.numbered(self.written_out(notebooks.source(cell)))
                if cell["id"] == notebooks.TEXT_ID:
                    source = self.welcome()
                made["source"] = source
                continue
            if {"hide-input", "remove-cell"} & set(cell["metadata"].get("tags", [])):
                made["metadata"]["jupyter"] = {"source_hidden": True}
            # The record of a glued number is nothing to see.
            made["outputs"] = [
                o for o in cell["outputs"] if "scrapbook" not in o.get("metadata", {})
            ]
            if "name" in notebooks.figure(cell):
                copy.append(self.caption(cell))
        return copy


def make(executed: Path, shown: Path, kind: type[Chapter] = Chapter) -> dict[str, str]:
    """Name of each chapter -> the text of its copy.

    Args:
        executed: the folder of the executed chapters.
        shown: the folder of what `shown.py` wrote down of their pages.
        kind: how a chapter is written out.

    Raises:
        StaleBookError: if the built book lacks what a chapter refers to.
    """
    chapters = {path.stem: notebooks.read(path) for path in sorted(executed.glob("*.ipynb"))}
    if not chapters:
        raise StaleBookError(f"there is no executed chapter in {executed}")
    glued = {
        name: {key: number.text for key, number in numbers.items()}
        for name, numbers in glued_numbers(executed).items()
    }
    labels = {name: places(notebook["cells"]) for name, notebook in chapters.items()}
    made = {}
    for name, notebook in chapters.items():
        path = shown / f"{name}.json"
        if not path.exists():
            raise StaleBookError(f"{name}: its page has not been built")
        page = json.loads(path.read_text("utf-8"))
        cells = kind(name, notebook["cells"], page, glued[name], labels).copied()
        made[name] = notebooks.stored(notebook | {"cells": cells})
    return made
