"""tools/execute.py: a chapter is executed once, again when it must be, and failures are named."""

import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from sphinx.errors import ExtensionError

from study import ROOT, pages
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


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"x": 1}', None])
def test_a_lost_or_torn_record_costs_an_execution_and_no_more(book, content):
    assert execute(book).returncode == 0
    path = book / "_book" / "executed.json"
    path.unlink() if content is None else path.write_bytes(content)
    assert "1 passed" in execute(book).stdout
    assert "nothing has changed" in execute(book).stdout


def test_a_copy_that_is_not_the_executed_one_is_executed_again(book):
    """As a second program leaves it that was killed after it had copied the chapter."""
    assert execute(book).returncode == 0
    shutil.copy(book / "chapters" / "one.ipynb", book / "_book" / "chapters")
    assert "1 passed" in execute(book).stdout
    assert output(book) == ["42\n"]


def test_two_at_once_take_turns(book):
    write_chapter(book, "import time; time.sleep(3); print(6 * 7)")
    command = [sys.executable, "tools/execute.py"]
    options = {"cwd": book, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    told = sorted(program.communicate()[0] for program in both)
    assert [program.returncode for program in both] == [0, 0]
    assert "nothing has changed" in told[0]
    assert "1 passed" in told[1]


def test_a_killed_one_leaves_nothing_that_passes_for_executed(book):
    write_chapter(book, "import time; time.sleep(600)")
    program = subprocess.Popen(
        [sys.executable, "tools/execute.py"], cwd=book, start_new_session=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    copy = book / "_book" / "chapters" / "one.ipynb"
    while not (copy.exists() and (book / "_book" / "executed.json").exists()):
        time.sleep(0.05)
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    write_chapter(book, "print(1)")
    assert "1 passed" in execute(book).stdout
    assert output(book) == ["1\n"]


def test_what_is_started_ends_with_it_and_writes_nothing_later(book):
    """Killed alone, without its group."""
    write_chapter(book, "import time; time.sleep(600)")
    program = subprocess.Popen(
        [sys.executable, "tools/execute.py"], cwd=book, stdout=subprocess.DEVNULL
    )
    process, kernels = psutil.Process(program.pid), []
    while not kernels:
        started = process.children(recursive=True)
        kernels = [child for child in started if "ipykernel" in str(called(child))]
        time.sleep(0.05)
    program.kill()
    program.wait()
    _, left = psutil.wait_procs(started, timeout=300)  # it takes ten seconds, alone 600
    assert not left
    write_chapter(book, "print(1)")
    assert "1 passed" in execute(book).stdout
    assert output(book) == ["1\n"]


def called(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_code_that_is_edited_while_a_chapter_runs_costs_another_execution(book):
    """Also if it is put back before the end is recorded."""
    library = book / "src" / "library.py"
    library.write_text("x = 1\n")
    write_chapter(book, f"open({str(library)!r}, 'w').write('x = 2'); print(6 * 7)")
    assert "edited meanwhile" in execute(book).stdout
    library.write_text("x = 1\n")
    assert "1 passed" in execute(book).stdout


def test_a_removed_page_leaves_the_staged_book(book):
    page = book / "chapters" / "page.md"
    page.write_text("# Page\n")
    assert execute(book).returncode == 0
    page.unlink()
    assert execute(book).returncode == 0
    assert not (book / "_book" / "chapters" / "page.md").exists()


def test_the_sources_themselves_are_not_built():
    """Their chapters hold no outputs: every number would be missing, and the build a success."""
    with pytest.raises(ExtensionError, match=r"make book.*tools/execute\.py"):
        pages.require_outputs(SimpleNamespace(srcdir=ROOT), None)
    pages.require_outputs(SimpleNamespace(srcdir=ROOT / "_book"), None)
