"""The state of the repository itself: what is tracked, and in what form."""

import re
import subprocess
import sys
from pathlib import Path

import lock
import pytest
import yaml

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


# --- what is installed


def test_every_version_that_the_requirements_lead_to_is_pinned():
    first, second, *pins = lock.LOCK.read_text(encoding="utf-8").splitlines()
    assert "-c constraints.txt" in lock.REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    pinned = dict(pin.split("==") for pin in pins)
    installed = lock.needed()
    there = {name: version for name, version in installed.items() if name in pinned}
    assert {name: pinned[name] for name in there} == there, "installed without constraints.txt?"
    if lock.platform_name() in second:
        assert pinned == installed, "make it anew: python tools/lock.py"
    made_for = lock.heading()
    assert first == made_for[0]
    assert second.split(";")[1] == made_for[1].split(";")[1], "make it anew: python tools/lock.py"


def test_actions_are_pinned_by_commit_and_may_do_little():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        uses = re.findall(r"uses: (.*)", text)
        assert uses
        assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v[\d.]+", one) for one in uses)
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert set(job.get("permissions", {})) <= {"pages", "id-token"}
            for step in job["steps"]:
                if "actions/checkout" in step.get("uses", ""):
                    assert step["with"]["persist-credentials"] is False
