"""The state of the repository itself: what is tracked, and in what form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from study import ROOT

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
    notebook = json.loads(NOTEBOOKS[0].read_text(encoding="utf-8"))
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["1"]}]
    path = tmp_path / "with_output.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    result = run(sys.executable, "-m", "nbstripout", "--verify", "--keep-id", str(path))
    assert result.returncode != 0


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapter_asserts_what_it_claims_and_stays_thin(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any("assert " in source for source in code), "no cell would fail if a claim were false"
    for source in code:
        lines = [line for line in source.splitlines() if line.strip() and line.strip()[0] != "#"]
        assert len(lines) <= 25, f"logic belongs in src/flatminima:\n{source}"


def test_every_chapter_is_in_the_table_of_contents():
    contents = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = [*NOTEBOOKS, *(ROOT / "chapters").glob("*.md")]
    missing = [page.name for page in pages if f"chapters/{page.stem}\n" not in contents + "\n"]
    assert not missing


def test_theory_half_needs_no_torch_and_import_is_cheap():
    theory = ", ".join(p.stem for p in (ROOT / "src/flatminima/theory").glob("[a-z]*.py"))
    code = (
        f"from flatminima import statistics, plotting\nfrom flatminima.theory import {theory}\n"
        "from study import results\nimport sys; sys.exit('torch' in sys.modules)"
    )
    assert run(sys.executable, "-c", code).returncode == 0
    # Import times fluctuate by tens of milliseconds: the best of five runs of each is compared.
    clock = "import time, numpy; t = time.perf_counter(); import flatminima{}; "
    clock += "print(time.perf_counter() - t)"
    seconds = min(float(run(sys.executable, "-c", clock.format("")).stdout) for _ in range(5))
    assert seconds < 0.3
