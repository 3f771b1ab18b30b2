"""Each label of the theory is stated once, proved, tested, and shown in a figure or an exercise."""

import re

import pytest

from study import ROOT
from study.pages import notebooks
from study.pages.statements import LABELS, entries, tests_of

CHAPTERS = ROOT / "chapters"


ENTRIES = entries(CHAPTERS)
STATED = [e for e in ENTRIES if e.theory_label]


@pytest.mark.parametrize("label", LABELS)
def test_label_is_stated_once_and_tested(label):
    stated = [e for e in STATED if e.theory_label == label]
    assert len(stated) == 1, f"{label} is stated {len(stated)} times"
    assert re.fullmatch(rf"(thm|prop|def)-{label}", stated[0].label)
    assert tests_of(label, ROOT / "tests"), f"no test is named test_{label}_..."


@pytest.mark.parametrize(
    "entry", [e for e in STATED if e.kind != "definition"], ids=lambda e: e.label
)
def test_statement_is_followed_by_its_proof(entry):
    own = [e for e in ENTRIES if e.document == entry.document and "exercise" not in e.kind]
    after = own[own.index(entry) + 1 :]
    assert after, f"{entry.label} has no proof"
    assert after[0].kind == "proof", f"{entry.label} has no proof"


@pytest.mark.parametrize("entry", STATED, ids=lambda e: e.label)
def test_statement_is_shown_in_a_figure_or_practised(entry):
    cells = notebooks.cells(CHAPTERS / f"{entry.document}.ipynb")
    exercises = [e for e in ENTRIES if e.document == entry.document and e.kind == "exercise"]
    assert any(notebooks.figure(cell) for cell in cells)
    assert 3 <= len(exercises) <= 6


def test_every_exercise_has_one_folded_solution():
    exercises = {e.label for e in ENTRIES if e.kind == "exercise"}
    solutions = [e.title for e in ENTRIES if e.kind == "solution"]
    assert exercises
    assert sorted(solutions) == sorted(exercises)
    for path in CHAPTERS.glob("*.ipynb"):
        text = path.read_text(encoding="utf-8")
        assert text.count("{solution") - text.count("{solution-end}") == text.count(
            ":class: dropdown"
        ), path.name


def test_labels_are_unique():
    labels = [e.label for e in ENTRIES if e.label]
    assert len(labels) == len(set(labels))
