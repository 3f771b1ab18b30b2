"""Each statement is made once, proved, tested, and shown in a figure or an exercise."""

import re

import pytest
from docutils import nodes
from sphinx_proof.nodes import proof_node

from study import ROOT
from study.pages import notebooks
from study.pages.statement_links import holds_proof
from study.pages.statements import LABELS, PROVED, entries, exercises_on, statements, tests_of

CHAPTERS = ROOT / "chapters"


ENTRIES = entries(CHAPTERS)
STATED = statements(CHAPTERS)


@pytest.mark.parametrize("label", LABELS)
def test_label_is_stated_once(label):
    stated = [e for e in STATED if e.theory_label == label]
    assert len(stated) == 1, f"{label} is stated {len(stated)} times"
    assert re.fullmatch(rf"(thm|prop|def)-{label}", stated[0].label)


@pytest.mark.parametrize("entry", STATED, ids=lambda e: e.label or e.title)
def test_every_statement_is_tested_and_every_theorem_practised(entry):
    assert re.fullmatch(r"(thm|prop|lem|cor|def)-[\w-]+", entry.label), "it has no label to name"
    assert entry.theory_label in (*LABELS, ""), f"{entry.theory_label} is not among the labels"
    begins = f"test_{entry.name.replace('-', '_')}_"
    assert tests_of(entry.name, ROOT / "tests"), f"no test is named {begins}..."
    if entry.theory_label or entry.kind == "theorem":
        assert exercises_on(entry.name, CHAPTERS), f"no exercise ex-{entry.name.lower()}-..."


@pytest.mark.parametrize("entry", [e for e in STATED if e.kind in PROVED], ids=lambda e: e.label)
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
    solutions = [e for e in ENTRIES if e.kind == "solution"]
    assert exercises
    assert sorted(e.title for e in solutions) == sorted(exercises)
    assert [e.label for e in solutions if not e.folded] == []


def test_labels_are_unique():
    labels = [e.label for e in ENTRIES if e.label]
    assert len(labels) == len(set(labels))


# --- the reader, on chapters that are not in order

STATEMENT = "```{prf:lemma} Without a number\n:label: lem-two-words\n\nIt holds.\n```"
FOLDED = "::::{admonition} Proof\n:class: dropdown\n\n```{prf:proof}\nSo it is.\n```\n::::"


def test_a_statement_without_a_label_of_the_theory_is_found_with_its_tests(tmp_path):
    cells = [{"cell_type": "markdown", "source": f"{STATEMENT}\n\n{FOLDED}"}]
    notebooks.write(tmp_path / "one.ipynb", {"cells": cells})
    (found,) = statements(tmp_path)
    assert (found.name, found.theory_label, found.document) == ("two-words", "", "one")
    assert [e.kind for e in entries(tmp_path)] == ["lemma", "proof"]
    tests = tmp_path / "tests"
    tests.mkdir()
    assert tests_of(found.name, tests) == [], "and it would fail for want of one"
    (tests / "test_one.py").write_text("def test_two_words_hold(): ...\ndef test_two(): ...\n")
    assert tests_of(found.name, tests) == ["test_one.py::test_two_words_hold"]


@pytest.mark.parametrize("kind", PROVED)
def test_every_kind_that_is_to_be_proved_counts_as_a_statement(tmp_path, kind):
    text = f"```{{prf:{kind}}} Without a label\n\nIt holds.\n```"
    notebooks.write(tmp_path / "one.ipynb", {"cells": [{"cell_type": "markdown", "source": text}]})
    assert [e.kind for e in statements(tmp_path)] == [kind]


def test_the_links_follow_a_proof_folded_or_not():
    folded = nodes.admonition("", nodes.title("", "Proof"), proof_node())
    assert holds_proof(proof_node())
    assert holds_proof(folded)
    assert not holds_proof(nodes.admonition("", nodes.paragraph("", "A note.")))
    assert not holds_proof(nodes.section("", proof_node())), "the proof of a later statement"
