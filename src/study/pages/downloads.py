"""What readers can take away: each chapter as a notebook, twice, and the source of the whole book.

The menu of a chapter offers it with its results, to read in any program that opens notebooks, and
as it is stored, to run. Every menu, and the start page, offers the source: an archive with which
everything can be built again by someone who has nothing but the pages.
"""

import io
import re
import subprocess
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

from flatminima._files import write_atomically
from study import ROOT
from study.pages import copies, notebooks

FOLDER = "_downloads"
NAME = "unstable-by-design"
ARCHIVE = f"{FOLDER}/{NAME}.zip"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every file of the archive, so that the same files make the same archive."""

WELCOME = """\
This is a chapter of the book **Unstable by Design**{where}, with its results: numbers, figures and
references stand here as they do there, and numbers in the text stay as they are when cells are run
again. To run it you need the book's library: unpack the source of the book, which the download menu
of its pages and its start page offer, and open the chapters by `make lab` in its folder."""

OPENING = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<kind>[\w:]+)\}[ \t]*(?P<title>[^\n]*)\n"
    r"(?P<options>(?::\w+:[^\n]*\n)*)(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
OPTION = re.compile(r"^:(\w+):[ \t]*(\S*)", re.MULTILINE)
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
ANCHOR = re.compile(r'<a href="(?!\w+:)([^"]*)">(.*?)</a>', re.DOTALL)


class Plain(copies.Chapter):
    """A chapter in plain Markdown, which every reader of notebooks shows.

    Statements and exercises are headed by what they are, what the page folds is folded, and figures
    are pictures in the text: the outputs of a notebook that comes from elsewhere are not trusted,
    and of what is not trusted JupyterLab shows no drawing.
    """

    base = ""
    """The address at which the book is published, where references then lead."""

    def link(self, text: str, address: str) -> str:
        """A piece of a reference, with a link if it leads to where every reader can follow."""
        if not address or "://" in address:
            return super().link(text, address)
        shown = re.sub(r"([\[\]])", r"\\\1", text)
        return copies.linked(shown, f"{self.base}/{address}") if self.base else shown

    def numbered(self, source: str) -> str:
        """Markdown with the book's numbers, and with its directives written out."""

        def heading(match: re.Match) -> str:
            number = next(self.sections, None)
            return match[0] + (f"{number}. " if number else "")

        def equation(match: re.Match) -> str:
            number = self.numbers.get(f"equation-{match['label']}")
            tag = f" \\tag{{{number}}}" if number else ""
            indent = match["indent"]
            return f"{indent}$$\n{match['body']}{tag}\n{indent}$$"

        def html_link(match: re.Match) -> str:
            address, text = match.groups()
            page = f"{self.name}.html{address}" if address.startswith("#") else address
            return f'<a href="{self.base}/chapters/{page}">{text}</a>' if self.base else text

        source = copies.EQUATION.sub(equation, copies.HEADING.sub(heading, source))
        return ANCHOR.sub(html_link, TARGET.sub("", self.without_directives(source)))

    def without_directives(self, source: str) -> str:
        """Markdown in which directives are headings in bold, or folds."""

        def written(match: re.Match) -> str:
            options = dict(OPTION.findall(match["options"]))
            kind = match["kind"].removeprefix("prf:")
            body = self.without_directives(match["body"]).strip("\n")
            head = self.head(kind, match["title"].strip(), options.get("label", ""))
            if kind == "index":
                return ""
            if kind == "proof":
                return f"*Proof.*\n\n{body}\n\n∎"
            if options.get("class") == "dropdown":
                return f"<details>\n<summary>{head}</summary>\n\n{body}\n\n</details>"
            return f"**{head}**\n\n{body}"

        return OPENING.sub(written, source)

    def head(self, kind: str, title: str, label: str) -> str:
        """What heads a directive: Theorem 7.1 (Polarity), Solution to Exercise 7.2, a title."""
        if kind == "admonition":
            return title
        if kind == "solution":
            return f"Solution to Exercise {self.numbers[title]}"
        number = f" {self.numbers[label]}" if label in self.numbers else ""
        return f"{kind.capitalize()}{number}" + (f" ({title})" if title else "")

    def welcome(self) -> str:
        """What the notebook says of itself first."""
        page = f"{self.base}/chapters/{self.name}.html"
        return WELCOME.format(where=f" ([its page]({page}))" if self.base else "")

    def caption(self, cell: dict) -> dict:
        """The cell with the figure as a picture, and its caption."""
        made = super().caption(cell)
        made["source"] = TARGET.sub("", made["source"])
        drawn = next((d for d in map(svg, cell["outputs"]) if d), None)
        if drawn:
            made["attachments"] = {"figure.svg": {"image/svg+xml": b64encode(drawn).decode()}}
            said = cell["metadata"]["mystnb"].get("image", {}).get("alt", "figure")
            said = re.sub(r"([\[\]])", r"\\\1", " ".join(said.split()))
            made["source"] = f"![{said}](attachment:figure.svg)\n\n{made['source']}"
        return made

    def copied(self) -> list[dict]:
        """The cells, with each figure in the cell of its caption."""
        made = super().copied()
        for cell in made:
            if "name" in notebooks.figure(cell):
                cell["outputs"] = [o for o in cell["outputs"] if not svg(o)]
        return made


def svg(output: dict) -> bytes:
    """The drawing in an output, b"" if there is none."""
    return "".join(output.get("data", {}).get("image/svg+xml", "")).encode()


def without_outputs(notebook: dict) -> dict:
    """Return a notebook without what running it has added, as the repository stores it."""
    for cell in notebook["cells"]:
        cell["metadata"].pop("execution", None)
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    language = notebook["metadata"].get("language_info", {})
    notebook["metadata"]["language_info"] = {"name": language.get("name", "python")}
    return notebook


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write each chapter with its results, and without them, as it is stored."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    Plain.base = (app.config.html_baseurl or "").rstrip("/")
    made = copies.make(Path(app.srcdir, "chapters"), out.parent / "shown/chapters", Plain)
    for name, text in made.items():
        write_atomically(out / FOLDER / f"{name}-with-results.ipynb", text.encode())
    for path in (out / "_sources").rglob("*.ipynb"):
        notebooks.write(path, without_outputs(notebooks.read(path)))


def source_files(root: Path) -> list[str]:
    """The files of the book in a folder: those that git tracks, else what .gitignore leaves."""
    command = ["git", "-C", root, "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        found = [name for name in listed.split("\0") if (root / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        found = []
    if found:
        return sorted(found)
    # In an archive that a reader has unpacked there is no git.
    ignored = [".git", *(root / ".gitignore").read_text(encoding="utf-8").split()]
    return sorted(unignored(root, root, [pattern.rstrip("/") for pattern in ignored]))


def unignored(folder: Path, root: Path, patterns: list[str]) -> Iterator[str]:
    """The files under a folder of which no pattern has the name, or the place below the root."""
    for path in folder.iterdir():
        place = path.relative_to(root).as_posix()
        if any(fnmatch(path.name, pattern) or fnmatch(place, pattern) for pattern in patterns):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from unignored(path, root, patterns)
        elif path.is_file():
            yield place


def archive(root: Path) -> bytes:
    """The files of the book as a zip that is the same whenever and wherever it is made."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as made:
        for name in source_files(root):
            entry = zipfile.ZipInfo(f"{NAME}/{name}", EPOCH)
            entry.create_system = 3  # which keeps the mode, as on any Unix
            executable = (root / name).stat().st_mode & 0o100
            entry.external_attr = (0o100755 if executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(entry, (root / name).read_bytes())
    return whole.getvalue()


def write_archive(app: Sphinx, exception: Exception | None) -> None:
    """Put the source of the book among its pages."""
    if not exception and app.builder.format == "html":
        write_atomically(Path(app.outdir, ARCHIVE), archive(ROOT))


def offer(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None
) -> None:
    """Say in the menu of a page what each download is, and add those that the theme has not."""
    menus = (b for b in context.get("header_buttons", []) if b.get("label") == "download-buttons")
    menu = next(menus, None)
    if menu is None:
        return
    there = {button["label"]: button for button in menu["buttons"]}
    source, whole = there["download-source-button"], there["download-pdf-button"]
    offered = [source | {"text": "Text of this page (Markdown)", "tooltip": "As it is stored"}]
    if source["url"].endswith(".ipynb"):
        name = Path(pagename).name
        results = f"{FOLDER}/{name}-with-results.ipynb"
        offered = [
            source
            | {
                "url": context["pathto"](results, 1),
                "label": "download-results-button",
                "icon": "fas fa-chart-line",
                "text": "Notebook with results",
                "tooltip": "Its numbers, figures and references in place, to read anywhere",
            },
            source
            | {
                "icon": "fas fa-code",
                "text": "Notebook to run",
                "tooltip": "As it is stored, without results",
            },
        ]
    offered.append(whole | {"text": "This page as PDF", "tooltip": "Print it"})
    offered.append(
        {
            "type": "link",
            "url": context["pathto"](ARCHIVE, 1),
            "text": "Source of the whole book",
            "tooltip": "An archive (zip) to run everything from",
            "icon": "fas fa-file-zipper",
            "label": "download-archive-button",
        }
    )
    menu["buttons"] = offered


def register(app: Sphinx) -> None:
    """Register the menu and what it offers."""
    # After the theme has made its own.
    app.connect("html-page-context", offer, priority=900)
    app.connect("build-finished", write_notebooks)
    app.connect("build-finished", write_archive)
