"""Find the book's statements and exercises in its chapters, and the tests that check them."""

import re
from dataclasses import dataclass
from pathlib import Path

from study.pages import notebooks

PARTS = {"Q": 5, "D": 11, "G": 5, "M": 8, "L": 1, "F": 4}
"""Part of the theory -> how many labels it has."""
LABELS = tuple(f"{part}{i}" for part, n in PARTS.items() for i in range(1, n + 1))
"""The labels that every statement list must cover: each has a proof, a test and a figure."""
PROVED = ("theorem", "proposition", "lemma", "corollary")
"""The kinds of statements that need a proof and a test, with a label of the theory or without."""

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<kind>prf:\w+|exercise|exercise-start|solution|solution-start)\}"
    r"[ \t]*(?P<title>.*)\n(?P<options>(?::[\w-]+:.*\n)*)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Entry:
    """One directive of a chapter: its kind, title, label, document, and whether it is folded."""

    kind: str
    title: str
    label: str
    document: str
    folded: bool = False

    @property
    def theory_label(self) -> str:
        """The label in parentheses at the end of the title, as in "Stability (Q1)", or ""."""
        found = re.search(rf"\(([{''.join(PARTS)}]\d+)\)\s*$", self.title)
        return found[1] if found else ""

    @property
    def name(self) -> str:
        """The label without its kind: "Q1" of ``thm-Q1``, "best-step" of ``cor-best-step``."""
        return self.label.partition("-")[2]


def entries(chapters: Path) -> list[Entry]:
    """Return every theorem, proof, exercise and solution directive, in the order of the files."""
    paths = sorted(chapters.glob("*.ipynb"))
    return [entry for path in paths for entry in _entries_of(path)]


def statements(chapters: Path) -> list[Entry]:
    """What has tests to name: all that is to be proved, and the definitions of the theory."""
    return [e for e in entries(chapters) if e.kind in PROVED or e.theory_label]


_texts = notebooks.read_once(notebooks.markdown)


@notebooks.read_once
def _entries_of(path: Path) -> tuple[Entry, ...]:
    found = []
    for match in DIRECTIVE.finditer("\n\n".join(_texts(path)) + "\n"):
        label = re.search(r"^:label:\s*(\S+)", match["options"], re.MULTILINE)
        kind = match["kind"].removeprefix("prf:").removesuffix("-start")
        folded = ":class: dropdown" in match["options"]
        title = match["title"].strip()
        found.append(Entry(kind, title, label[1] if label else "", path.stem, folded))
    return tuple(found)


PRACTISED_TOO = {
    "D2": ("ex-eos-linear",),
    "D10": ("ex-noise-echo", "ex-noise-halving"),
    "catapult": ("ex-q5-cost", "ex-q5-four"),
    "divergence": ("ex-d9-sharper", "ex-d9-chaos"),
}
"""Exercises on a statement that neither their label nor a reference in them gives away."""


def exercises_on(name: str, chapters: Path) -> list[Entry]:
    """The exercises on a statement: named after its label, or with a reference to it."""
    prefix, named = f"ex-{name.lower()}-", PRACTISED_TOO.get(name, ())
    mention = re.compile(rf"\b(thm|prop|lem|cor|def)-{re.escape(name)}(?![\w-])")
    exercises = {entry.label: entry for entry in entries(chapters) if entry.kind == "exercise"}
    found = [
        e
        for label, e in exercises.items()
        if label.startswith(prefix) or label in named or mention.search(_text_of(e, chapters))
    ]
    # Those of its own chapter come first.
    own = {e.document for e in statements(chapters) if e.name == name}
    return sorted(found, key=lambda exercise: exercise.document not in own)


def _text_of(exercise: Entry, chapters: Path) -> str:
    """The cells that hold an exercise and its solution."""
    label = re.escape(exercise.label)
    marks = re.compile(rf"^:label: {label}$|\{{solution[\w-]*\}}\s+{label}$", re.MULTILINE)
    cells = _texts(chapters / f"{exercise.document}.ipynb")
    return "\n".join(cell for cell in cells if marks.search(cell))


TESTED_UNDER = {
    "catapult": "Q5_catapult",
    "divergence": "D9_divergence",
    "flow-orbit": "D1_gradient_flow",
    "mc-cost": "cost",
    "mc-residual": "residual_proves",
    "noise-rate": "rate_to_leading_order",
    "reflection-second": "D8_second_order",
    "rescaling-invariant": "relative_flatness_does_not_change",
}
"""How the names of tests begin where it is not with the label of their statement."""


def tests_of(name: str, tests: Path) -> list[str]:
    """Return "file::test" for each test named after a label, as test_D3_... is after D3.

    Of a label in words, such as ``cor-best-step``, the tests are named test_best_step_... .
    """
    begins = TESTED_UNDER.get(name, name.replace("-", "_"))
    pattern = re.compile(rf"^\s*def (test_{begins}_\w+)", re.MULTILINE)
    return [
        f"{path.name}::{name}"
        for path in sorted(tests.rglob("test_*.py"))
        for name in pattern.findall(_source_of(path))
    ]


_source_of = notebooks.read_once(lambda path: path.read_text(encoding="utf-8"))
# Its name begins like a test's; pytest, which imports it, is told that it is none.
tests_of.__test__ = False
