"""tools/execute.py: a chapter is executed once, again when it must be, and failures are named."""

import shutil
import subprocess
import sys

import nbformat
import pytest

from study import ROOT
from study.pages import notebooks


@pytest.fixture
def book(tmp_path):
    """A book of one chapter with the real staging tool, in its own folder."""
    for folder in ("tools", "chapters", "src", "data"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "execute.py", tmp_path / "tools")
    for name in ("_config.yml", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: chapters/one\n")
    (tmp_path / "chapters" / "references.bib").write_text("")
    write_chapter(tmp_path, "print(6 * 7)")
    return tmp_path


def write_chapter(book, source):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="a")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, book / "chapters" / "one.ipynb")


def execute(book, *arguments):
    command = [sys.executable, "tools/execute.py", *arguments]
    return subprocess.run(command, cwd=book, capture_output=True, text=True, check=False)


def output(book):
    path = book / "_book" / "chapters" / "one.ipynb"
    return next(notebooks.outputs(path))["text"]


def test_executes_a_copy_once_and_again_only_after_a_change(book):
    assert execute(book).returncode == 0
    assert output(book) == ["42\n"]
    assert not list(notebooks.outputs(book / "chapters" / "one.ipynb"))

    assert "nothing has changed" in execute(book).stdout
    (book / "src" / "library.py").write_text("x = 1\n")
    assert "1 passed" in execute(book).stdout
    assert "1 passed" in execute(book, "--fresh").stdout
    assert "nothing has changed" in execute(book).stdout


def test_a_failing_cell_fails_and_is_named_until_it_is_mended(book):
    write_chapter(book, "assert 1 + 1 == 3")
    for _ in range(2):  # the failure is not remembered as done
        result = execute(book)
        assert result.returncode != 0
        assert "one.ipynb" in result.stdout
        assert "assert 1 + 1 == 3" in result.stdout
    write_chapter(book, "print(1)")
    assert execute(book).returncode == 0


def test_a_removed_page_leaves_the_staged_book(book):
    page = book / "chapters" / "page.md"
    page.write_text("# Page\n")
    assert execute(book).returncode == 0
    page.unlink()
    assert execute(book).returncode == 0
    assert not (book / "_book" / "chapters" / "page.md").exists()
