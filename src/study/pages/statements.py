"""Find the book's statements and exercises in its chapters, and the tests that check them."""

import re
from dataclasses import dataclass
from pathlib import Path

from study.pages import notebooks

LABELS = tuple(f"{part}{i}" for part, n in (("Q", 5), ("D", 11), ("G", 5)) for i in range(1, n + 1))
"""The labels that every statement list must cover: each has a proof, a test and a figure."""

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<kind>prf:\w+|exercise|exercise-start|solution|solution-start)\}"
    r"[ \t]*(?P<title>.*)\n(?P<options>(?::[\w-]+:.*\n)*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Entry:
    """One directive of a chapter: its kind, title, label, the theory label, and its document."""

    kind: str
    title: str
    label: str
    document: str

    @property
    def theory_label(self) -> str:
        """The label in parentheses at the end of the title, as in "Stability (Q1)", or ""."""
        found = re.search(r"\(([QDG]\d+)\)\s*$", self.title)
        return found[1] if found else ""


def entries(chapters: Path) -> list[Entry]:
    """Return every theorem, proof, exercise and solution directive, in the order of the files."""
    paths = sorted(chapters.glob("*.ipynb"))
    return [entry for path in paths for entry in _entries_of(path)]


_texts = notebooks.read_once(notebooks.markdown)


@notebooks.read_once
def _entries_of(path: Path) -> tuple[Entry, ...]:
    found = []
    for match in DIRECTIVE.finditer("\n\n".join(_texts(path)) + "\n"):
        label = re.search(r"^:label:\s*(\S+)", match["options"], re.MULTILINE)
        kind = match["kind"].removeprefix("prf:").removesuffix("-start")
        found.append(Entry(kind, match["title"].strip(), label[1] if label else "", path.stem))
    return tuple(found)


PRACTISED_TOO = {"D2": ("ex-eos-linear",), "D10": ("ex-noise-echo", "ex-noise-halving")}
"""Exercises on a statement that neither their label nor a reference in them gives away."""


def exercises_on(theory_label: str, chapters: Path) -> list[Entry]:
    """The exercises on a statement: named after its label, or with a reference to it."""
    prefix, named = f"ex-{theory_label.lower()}-", PRACTISED_TOO.get(theory_label, ())
    mention = re.compile(rf"\b(thm|prop|def)-{theory_label}\b")
    exercises = {entry.label: entry for entry in entries(chapters) if entry.kind == "exercise"}
    found = [
        e
        for label, e in exercises.items()
        if label.startswith(prefix) or label in named or mention.search(_text_of(e, chapters))
    ]
    # Those of its own chapter come first.
    own = {e.document for e in entries(chapters) if e.theory_label == theory_label}
    return sorted(found, key=lambda exercise: exercise.document not in own)


def _text_of(exercise: Entry, chapters: Path) -> str:
    """The cells that hold an exercise and its solution."""
    label = re.escape(exercise.label)
    marks = re.compile(rf"^:label: {label}$|\{{solution[\w-]*\}}\s+{label}$", re.MULTILINE)
    cells = _texts(chapters / f"{exercise.document}.ipynb")
    return "\n".join(cell for cell in cells if marks.search(cell))


def tests_of(theory_label: str, tests: Path) -> list[str]:
    """Return "file::test" for each test named after a label, as test_D3_... is after D3."""
    pattern = re.compile(rf"^\s*def (test_{theory_label}_\w+)", re.MULTILINE)
    return [
        f"{path.name}::{name}"
        for path in sorted(tests.rglob("test_*.py"))
        for name in pattern.findall(_source_of(path))
    ]


_source_of = notebooks.read_once(lambda path: path.read_text(encoding="utf-8"))
# Its name begins like a test's; pytest, which imports it, is told that it is none.
tests_of.__test__ = False
