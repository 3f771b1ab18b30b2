"""Make notebooks readable outside the book: ``python tools/notebooks.py [--check] [FILE ...]``.

Each begins with two cells, a text that says where the notebook belongs and how to read it, and
code that sets it up on Colab. The built book leaves both out. What they say follows from the
repository's address, ``repository.url`` in ``_config.yml``: while it is empty they name no address.

The book's own macros of mathematics are spelled out, since only the book and its PDF define them.

With no FILE, all chapters are brought up to date. ``--check`` changes nothing and names those that
are not; the exit status is then 1.
"""

import argparse
import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from flatminima._files import write_atomically
from study.pages import notebooks
from study.pages.notebooks import TEXT_ID

ROOT = Path(__file__).resolve().parent.parent
CODE_ID = "set-up-first"
EXTRAS = "torch,plot,sweep"

READING = """\
This notebook is a chapter of the book **Unstable by Design**. {where}
JupyterLab shows it as the book does when it is started by `make lab` in a clone of the {project}.
Elsewhere you see the source of some things: a block that begins with {{prf:theorem}}, {{prf:proof}}
or {{exercise}} is what its name says; {{glue:text}} stands for a number that a cell above computes,
{{cite:t}} for an entry of `references.bib`, and {{prf:ref}}, {{numref}}, {{eq}} or {{doc}} for
something that has this label, here or in another chapter.
"""

COLAB = """\
if "google.colab" in sys.modules and importlib.util.find_spec("flatminima") is None:
    !git clone --quiet --depth 1 --branch {branch} {url} /content/{name}
    %pip install --quiet -e "/content/{name}[{extras}]"
    sys.path.insert(0, "/content/{name}/src")
"""

MISSING = """\
if importlib.util.find_spec("flatminima") is None:
    raise ModuleNotFoundError(
        "This chapter needs the book's library, flatminima. Clone the project{source}, "
        "run `make install` in its folder, and open the chapters with `make lab`."
    )
"""


def settings(config: Path) -> dict:
    """Read what the cells depend on: the repository's address and branch, the pages, the macros."""
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    repository = content.get("repository") or {}
    url = (repository.get("url") or "").rstrip("/").removesuffix(".git")
    pages = ((content.get("html") or {}).get("baseurl") or "").rstrip("/")
    parts = urlsplit(url)
    if parts.netloc == "github.com" and not pages:
        owner, name = parts.path.strip("/").split("/")
        pages = f"https://{owner}.github.io/{name}"
    mathjax = content["sphinx"]["config"]["mathjax3_config"]
    return {
        "url": url,
        "branch": repository.get("branch") or "main",
        "pages": pages,
        "macros": mathjax["tex"]["macros"],
    }


def first_cells(name: str, book: dict) -> list[dict]:
    """Return the two cells that the chapter of this name begins with."""
    url, pages = book["url"], book["pages"]
    page = f"chapters/{name}.html"
    where = f"[Read it there]({pages}/{page})." if pages else f"Its page there is `{page}`."
    project = f"[project]({url})" if url else "project"
    text = READING.format(where=where, project=project)

    lines = ["import importlib.util"]
    if url:
        lines += ["import sys", ""]
        folder = url.rsplit("/", 1)[-1]
        lines += [COLAB.format(url=url, branch=book["branch"], name=folder, extras=EXTRAS)]
    else:
        lines += [""]
    lines += [MISSING.format(source=f" from {url}" if url else "")]
    return [cell("markdown", TEXT_ID, text), cell("code", CODE_ID, "\n".join(lines))]


def cell(kind: str, identity: str, source: str) -> dict:
    """Return a notebook cell that the book leaves out, with its keys in the stored order."""
    parts = {
        "cell_type": kind,
        "id": identity,
        "metadata": {"tags": ["remove-cell"]},
        "source": source.strip("\n").splitlines(keepends=True),
    }
    if kind == "code":
        parts |= {"execution_count": None, "outputs": []}
    return dict(sorted(parts.items()))


def spelled_out(text: str, macros: dict[str, str]) -> str:
    r"""Replace each macro by what it stands for: ``\R`` by ``\mathbb{R}``."""
    for name, meaning in macros.items():
        text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, meaning=meaning: meaning, text)
    return text


def brought_up_to_date(notebook: str, name: str, book: dict) -> str:
    """Return the stored text of a notebook with its first cells renewed and macros spelled out."""
    content = notebooks.parse(notebook)
    kept = [c for c in content["cells"] if c["id"] not in (TEXT_ID, CODE_ID)]
    for part in kept:
        if part["cell_type"] == "markdown":
            text = spelled_out(notebooks.source(part), book["macros"])
            part["source"] = text.splitlines(keepends=True)
    content["cells"] = first_cells(name, book) + kept
    return notebooks.stored(content)


def main(arguments: list[str] | None = None) -> int:
    """Bring the notebooks up to date, or with --check name those that are not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)

    book = settings(ROOT / "_config.yml")
    stale = []
    for path in options.files or sorted((ROOT / "chapters").glob("*.ipynb")):
        present = path.read_text(encoding="utf-8")
        wanted = brought_up_to_date(present, path.stem, book)
        if wanted == present:
            continue
        stale.append(path)
        if not options.check:
            write_atomically(path, wanted.encode())
    for path in stale:
        print(path.name, "is out of date" if options.check else "was brought up to date")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
