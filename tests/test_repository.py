"""The state of the repository itself: what is tracked, and in what form."""

import subprocess
import sys
from pathlib import Path

import pytest

from study import ROOT
from study.pages import contents, notebooks

NOTEBOOKS = sorted((ROOT / "chapters").glob("*.ipynb"))


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_finds_nothing(arguments):
    result = run(sys.executable, "-m", "ruff", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_without_outputs(notebook):
    result = run(sys.executable, "-m", "nbstripout", "--verify", "--keep-id", str(notebook))
    assert result.returncode == 0, f"{notebook.name} holds outputs: run `make lint`"


def test_an_output_would_be_found(tmp_path):
    notebook = notebooks.read(NOTEBOOKS[0])
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1"]}]
    path = tmp_path / "with_output.ipynb"
    notebooks.write(path, notebook)
    result = run(sys.executable, "-m", "nbstripout", "--verify", "--keep-id", str(path))
    assert result.returncode != 0


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapter_asserts_what_it_claims_and_stays_thin(notebook):
    cells, code = notebooks.cells(notebook), notebooks.code(notebook)
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert any("assert " in source for source in code), "no cell would fail if a claim were false"
    for source in code:
        lines = [line for line in source.splitlines() if line.strip() and line.strip()[0] != "#"]
        assert len(lines) <= 25, f"logic belongs in src/flatminima:\n{source}"


def test_every_chapter_is_in_the_table_of_contents():
    documents = [page.document for page in contents.pages(ROOT)]
    assert len(documents) == len(set(documents))
    pages = [*NOTEBOOKS, *(ROOT / "chapters").glob("*.md")]
    assert set(documents) == {f"chapters/{page.stem}" for page in pages}
