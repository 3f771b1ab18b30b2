"""The buttons that lead out of the book, built for a small book with and without an address."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import notebooks
import yaml
from bs4 import BeautifulSoup

from study import ROOT
from study.pages import notebooks as files

GITHUB = "https://github.com/someone/unstable"
NOTEBOOK = "chapters/one.ipynb"


def build(folder: Path, url: str) -> BeautifulSoup:
    """Build a book of a page and a notebook with the real configuration; return the notebook."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["repository"]["url"] = url
    config["execute"]["execute_notebooks"] = "off"
    # The other parts of the extension write pages about the whole book.
    extensions = config["sphinx"]["extra_extensions"]
    config["sphinx"]["extra_extensions"] = [e for e in extensions if e != "study.pages"]
    config["sphinx"]["local_extensions"] = {"parts": "."}
    (folder / "parts.py").write_text(
        "from study.pages import downloads, launch, markup, scripts, shown\n\n\n"
        "def setup(app):\n"
        "    for part in (launch, scripts, markup, shown, downloads):\n"
        "        part.register(app)\n"
    )
    shutil.copytree(ROOT / "chapters/_static", folder / "chapters/_static")
    shutil.copy(ROOT / "chapters/references.bib", folder / "chapters")
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: chapters/a\nchapters:\n"
                                     "- file: chapters/one\n")  # fmt: skip
    (folder / "chapters/a.md").write_text("# A page\n\nText.\n")
    files.write(folder / NOTEBOOK, executed_notebook(url))
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder, "-W", "-q"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    page = folder / "_build/html/chapters/one.html"
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def stored_notebook(url: str) -> dict:
    """A notebook as the repository keeps it."""
    book = {"url": url, "pages": "", "branch": "main", "macros": {}}
    code = notebooks.cell("code", "adds", "print(1 + 1)")
    text = notebooks.cell("markdown", "title", "# A chapter\n\n## A & B?")
    code["metadata"] = text["metadata"] = {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [*notebooks.first_cells("one", book), text, code],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def executed_notebook(url: str) -> dict:
    """The same after it was run."""
    content = stored_notebook(url)
    output = {"output_type": "stream", "name": "stdout", "text": ["printed two\n"]}
    content["cells"][-1] |= {
        "outputs": [output],
        "execution_count": 2,
        "metadata": {"execution": {"iopub.status.busy": "2026"}},
    }
    content["metadata"]["language_info"] = {"name": "python", "version": "3.11.0"}
    return content


def buttons(page: BeautifulSoup) -> set[str]:
    """Addresses, outside the book, that the buttons at the head of a page lead to."""
    addresses = [a["href"] for a in page.select(".article-header-buttons a[href]")]
    return {address.split("?")[0] for address in addresses if urlsplit(address).netloc}


def check_that_first_cells_are_left_out(page: BeautifulSoup) -> None:
    article = page.find("article").get_text()
    assert "printed two" in article
    assert "This notebook is a chapter" not in article
    assert "find_spec" not in article


def questions(page: BeautifulSoup) -> dict[str, str]:
    """What the foot of a page offers to ask about -> the title that the form then has."""
    links = page.select("footer .ask a[href]")
    return {a.get_text(): unquote(a["href"].partition("itle")[2].lstrip("]=")) for a in links}


def test_without_an_address_no_button_leads_elsewhere(tmp_path):
    page = build(tmp_path, "")
    assert buttons(page) == set()
    assert questions(page) == {}
    assert not page.find_all("script", string=re.compile("thebe", re.IGNORECASE))
    assert not page.select("script[src*=thebe]")
    check_that_first_cells_are_left_out(page)

    offered = {
        a.get_text(strip=True): (a["href"], a["download"], a.get("target"))
        for a in page.select(".dropdown-download-buttons a[href]")
    }
    assert offered == {
        "Notebook with results": ("../_downloads/one-with-results.ipynb", "", None),
        "Notebook to run": ("../_sources/chapters/one.ipynb", "", None),
        "Source of the whole book": ("../_downloads/unstable-by-design.zip", "", None),
    }
    html = tmp_path / "_build/html"
    bare = files.read(html / "_sources" / NOTEBOOK)
    assert bare == stored_notebook(""), "readers get it without outputs"
    whole = files.read(html / "_downloads/one-with-results.ipynb")
    assert whole["cells"][-1]["outputs"] == executed_notebook("")["cells"][-1]["outputs"]
    assert (html / "_downloads/unstable-by-design.zip").is_file()

    text = BeautifulSoup((html / "chapters/a.html").read_text(encoding="utf-8"), "html.parser")
    menu = text.select(".dropdown-download-buttons a[href]")
    assert {a.get_text(strip=True): a["href"] for a in menu} == {
        "Text of this page (Markdown)": "../_sources/chapters/a.md",
        "Source of the whole book": "../_downloads/unstable-by-design.zip",
    }


def test_with_an_address_every_button_is_there(tmp_path):
    page = build(tmp_path, GITHUB + ".git")
    assert buttons(page) == {
        "https://mybinder.org/v2/gh/someone/unstable/main",
        f"https://colab.research.google.com/github/someone/unstable/blob/main/{NOTEBOOK}",
        GITHUB,
        f"{GITHUB}/edit/main/{NOTEBOOK}",
        f"{GITHUB}/issues/new",
    }
    assert questions(page) == {
        "Ask about this page": "Question: A chapter (chapters/one)",
        "A & B?": "Question: A chapter, A & B? (chapters/one)",
    }
    form = page.select_one(".ask a")["href"].split("title=")
    assert form == [f"{GITHUB}/issues/new?", quote("Question: A chapter (chapters/one)", safe="")]
    assert "MIT License" in page.select_one("footer .ask").parent.get_text()
    start = tmp_path / "_build/html/chapters/a.html"
    whole = BeautifulSoup(start.read_text(encoding="utf-8"), "html.parser")
    assert questions(whole) == {"Ask about this page": "Question: A page (chapters/a)"}
    assert not whole.select(".ask details"), "a page without sections is asked about as a whole"
    binder = next(a["href"] for a in page.select("a[href]") if "mybinder" in a["href"])
    assert binder.endswith(f"?urlpath=lab/tree/{NOTEBOOK}")
    assert page.select_one("button[onclick='initThebeSBT()']")
    settings = page.select_one("script[type='text/x-thebe-config']").string
    assert 'repo: "someone/unstable"' in settings
    assert 'ref: "main"' in settings
    assert page.find("script", string=re.compile("THEBE_JS_URL"))
    check_that_first_cells_are_left_out(page)


def test_another_host_gets_the_buttons_that_it_can_have(tmp_path):
    # Colab and Thebe read notebooks from GitHub alone.
    page = build(tmp_path, "https://gitlab.com/someone/unstable")
    assert {address for address in buttons(page) if "gitlab.com" not in address} == {
        "https://mybinder.org/v2/gl/someone%2Funstable/main"
    }
    assert not page.select("[onclick*=Thebe]")
    form = page.select_one(".ask a")["href"]
    assert form.startswith("https://gitlab.com/someone/unstable/-/issues/new?issue[title]=Question")


BINDER = ROOT / ".binder"


def test_binder_gets_what_the_library_and_the_chapters_need_as_it_is_pinned():
    script = (BINDER / "postBuild").read_text(encoding="utf-8")
    words = shlex.split(script[script.index("python -m pip install") :])
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    asked = set(words[words.index(".[all]") + 1 :])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    for requirement in itertools.chain(project["dependencies"], *extras):
        asked.add(requirement.split(">=")[0])
    imported = set()
    for path in (ROOT / "chapters").glob("*.ipynb"):
        for line in "\n".join(files.code(path)).splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                imported.add(words[1].split(".")[0].rstrip(","))
    assert imported - {"flatminima", "study"} - set(sys.stdlib_module_names) <= asked
    lock = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {name for name in asked if "[" not in name} <= {line.split("==")[0] for line in lock}
    environment = yaml.safe_load((BINDER / "environment.yml").read_text(encoding="utf-8"))
    python, server, _, by_pip = environment["dependencies"]
    assert python.replace("=", " ").title() in lock[1], "the lock is for another Python"
    assert any(line.startswith(server.replace("=", "==")) for line in lock)
    assert set(by_pip["pip"]) <= set(lock)


def test_binder_installs_the_library():
    script = BINDER / "postBuild"
    assert script.stat().st_mode & 0o100, "Binder runs it only if it is executable"
    assert '--editable ".[all]"' in script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
