"""tools/notebooks.py: what every notebook begins with, and that it reads well outside the book."""

import builtins
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import notebooks
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from study import ROOT
from study.pages import notebooks as files

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
every_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
CONFIG = notebooks.settings(ROOT / "_config.yml")
EMPTY = {"url": "", "branch": "main", "pages": "", "macros": {"tr": r"\operatorname{tr}"}}


def settings(tmp_path, repository, html=""):
    path = tmp_path / "_config.yml"
    path.write_text(
        f"repository: {{{repository}}}\nhtml: {{{html}}}\nsphinx:\n  config:\n"
        "    mathjax3_config: {tex: {macros: {}}}\n"
    )
    return notebooks.settings(path)


@every_chapter
def test_chapter_holds_the_present_first_cells_and_no_macro_of_the_book(chapter):
    stored = chapter.read_text(encoding="utf-8")
    current = notebooks.brought_up_to_date(stored, chapter.stem, CONFIG)
    assert stored == current, "run: python tools/notebooks.py"


@every_chapter
def test_the_first_cells_come_first_and_the_title_next(chapter):
    cells = files.cells(chapter)
    assert [cell["id"] for cell in cells[:2]] == [notebooks.TEXT_ID, notebooks.CODE_ID]
    assert all(cell["metadata"] == {"tags": ["remove-cell"]} for cell in cells[:2])
    assert files.source(cells[2]).lstrip().startswith(("# ", "(")), "the chapter's title"


DIRECTIVE_IN_A_LINE = re.compile(r"[^\s:`].*(:{3,}|`{3,})\{", re.MULTILINE)


@every_chapter
def test_a_directive_begins_its_line(chapter):
    """Within a line its fence is text, and so is all that it was to enclose."""
    for text in files.markdown(chapter):
        assert not DIRECTIVE_IN_A_LINE.search(text)


def test_a_directive_within_a_line_would_be_found():
    assert DIRECTIVE_IN_A_LINE.search("A window. :::{admonition} Means\n")
    assert not DIRECTIVE_IN_A_LINE.search(
        "A {ref}`b` window.\n\n  :::{admonition} `c`\n````{prf:proof}\n"
    )


@every_chapter
def test_an_address_changes_the_first_cells_alone(chapter):
    stored = chapter.read_text(encoding="utf-8")
    book = {**CONFIG, "url": "https://example.org/a/b", "branch": "dev"}
    with_address = notebooks.brought_up_to_date(stored, chapter.stem, book)
    before, after = (files.parse(text)["cells"] for text in (stored, with_address))
    assert after[2:] == before[2:]
    assert notebooks.brought_up_to_date(with_address, chapter.stem, CONFIG) == stored


def test_without_an_address_the_cells_name_none():
    text, code = notebooks.first_cells("adam", EMPTY)
    for cell in (text, code):
        source = "".join(cell["source"])
        assert "http" not in source
        assert "](" not in source
        assert "colab" not in source
    assert "`chapters/adam.html`" in "".join(text["source"])


@pytest.mark.parametrize(
    ("repository", "html", "url", "pages"),
    [
        ('url: ""', "", "", ""),
        ("", "", "", ""),
        ("url: https://github.com/a/b.git", "", "https://github.com/a/b", "https://a.github.io/b"),
        ("url: https://github.com/a/b/", "", "https://github.com/a/b", "https://a.github.io/b"),
        (
            "url: https://github.com/a/b",
            "baseurl: https://c.org/",
            "https://github.com/a/b",
            "https://c.org",
        ),
        ("url: https://gitlab.com/a/b", "", "https://gitlab.com/a/b", ""),
    ],
)
def test_the_address_decides_the_links(tmp_path, repository, html, url, pages):
    book = settings(tmp_path, repository, html)
    assert (book["url"], book["pages"], book["branch"]) == (url, pages, "main")
    text = "".join(notebooks.first_cells("adam", book)[0]["source"])
    assert (f"({pages}/chapters/adam.html)" in text) == bool(pages)
    assert (f"[project]({url})" in text) == bool(url)


class Shell:
    """An IPython shell that records what it would install and runs the rest."""

    def __init__(self):
        self.installed = []

    def run_line_magic(self, name, line):
        assert name == "pip"
        self.installed.append(line)

    def system(self, command):
        subprocess.run(command, shell=True, check=True)


def run_first_cell(cell, monkeypatch, absent=False):
    """Run the cell as IPython would, if wanted where the library is not installed."""
    shell = Shell()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    find = "importlib.util.find_spec"
    if absent:
        # The library becomes known by its folder on the path, as on Colab.
        monkeypatch.setattr(
            find, lambda name: next((p for p in sys.path if Path(p, name).is_dir()), None)
        )
        monkeypatch.setattr(
            sys, "path", [p for p in sys.path if not Path(p, "flatminima").is_dir()]
        )
    exec(TransformerManager().transform_cell("".join(cell["source"])), {})
    return shell.installed


def test_where_the_library_is_installed_the_cell_does_nothing(monkeypatch):
    assert run_first_cell(notebooks.first_cells("adam", EMPTY)[1], monkeypatch) == []


def test_where_it_is_missing_the_cell_says_what_to_do(monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="make install"):
        run_first_cell(notebooks.first_cells("adam", EMPTY)[1], monkeypatch, absent=True)


def test_on_colab_the_cell_clones_and_installs(monkeypatch, tmp_path):
    """The clone is real, from a repository on this disk; the installation is recorded."""
    origin = tmp_path / "unstable"
    (origin / "src/flatminima").mkdir(parents=True)
    (origin / "src/flatminima/__init__.py").write_text("")
    for command in (
        ["init", "-q", "-b", "main"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"],
    ):
        subprocess.run(["git", *command], cwd=origin, check=True)
    code = notebooks.first_cells("adam", {**EMPTY, "url": origin.as_uri()})[1]
    code["source"] = "".join(code["source"]).replace("/content", str(tmp_path / "content"))

    with pytest.raises(ModuleNotFoundError, match="unstable"):
        run_first_cell(code, monkeypatch, absent=True)  # not on Colab: nothing is cloned
    assert not (tmp_path / "content").exists()

    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    installed = run_first_cell(code, monkeypatch, absent=True)
    clone = tmp_path / "content/unstable"
    assert installed == [f'install --quiet -e "{clone}[{notebooks.EXTRAS}]"']
    assert sys.path[0] == str(clone / "src")
    assert (clone / "src/flatminima/__init__.py").is_file()


def test_macros_are_spelled_out_in_text_alone():
    cells = [
        notebooks.cell("markdown", "text", r"$\tr H$ and $\trace H$"),
        notebooks.cell("code", "code", r'label = r"$\tr$"'),
    ]
    stored = files.stored({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    kept = files.parse(notebooks.brought_up_to_date(stored, "adam", EMPTY))["cells"][2:]
    assert kept[0]["source"] == [r"$\operatorname{tr} H$ and $\trace H$"]
    assert kept[1]["source"] == [r'label = r"$\tr$"']


def test_check_names_what_is_stale_and_changes_nothing(tmp_path, capsys):
    path = tmp_path / "adam.ipynb"
    before = files.stored({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    path.write_text(before)
    assert notebooks.main(["--check", str(path)]) == 1
    assert "adam.ipynb is out of date" in capsys.readouterr().out
    assert path.read_text() == before
    assert notebooks.main([str(path)]) == 0
    assert notebooks.main(["--check", str(path)]) == 0
