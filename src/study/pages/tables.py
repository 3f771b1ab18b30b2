"""The generated tables and lists: statements, exercises, claims, results, benchmarks, tests."""

from collections import Counter
from collections.abc import Sequence

from sphinx.errors import ExtensionError

from study import claims, results
from study.pages import contents, records, sources
from study.pages.findings import findings
from study.pages.generated import Generated, table
from study.pages.statements import LABELS, Entry, entries, exercises_on, statements, tests_of

PARTS = (
    r"Stable and monotone below $2/\eta$; best beyond it",
    "Instabilities lead to flatter minima, which generalize better",
    "Eigenvectors rotate, more at larger rates, and that flattens",
    "In SGD, instability outweighs the noise of the minibatch",
    "Restoring instabilities improves Adam",
)
"""The paper's five claims in a few words."""
MARKS = {
    "reproduced": "✓",
    "undecided": "? undecided",
    "excluded": "○ excluded",
    "contradicted": "✗ contradicted",
    "not reproduced": "✗ not reproduced",
}
"""Outcome of an effect -> how the table marks it."""


class TheoremTable(Generated):
    """Every statement: where it is proved, its tests, its exercises. Those of the theory first."""

    def lines(self) -> list[str]:
        found = statements(self.chapters)
        order = {label: number for number, label in enumerate(LABELS)}
        found.sort(key=lambda entry: order.get(entry.theory_label, len(order)))
        rows = []
        for entry in found:
            tests = [f"{{checked}}`{name}`" for name in tests_of(entry.name, sources.TESTS)]
            practice = [_exercise(on) for on in exercises_on(entry.name, self.chapters)]
            statement = f"{{prf:ref}}`{entry.title} <{entry.label}>`<br>{{doc}}`{entry.document}`"
            row = (entry.theory_label, statement, "<br>".join(tests), "<br>".join(practice))
            rows.append(row)
        return table(("label", "statement and proof", "checked by", "practiced in"), rows)


class ExerciseTable(Generated):
    """Every exercise with its solution, chapter by chapter."""

    def lines(self) -> list[str]:
        found = entries(self.chapters)
        solutions = {e.title: e.label for e in found if e.kind == "solution"}
        lines = []
        for document in contents.names(self.chapters.parent):
            own = [e for e in found if e.document == document and e.kind == "exercise"]
            rows = [(_exercise(e), f"{{ref}}`solution <{solutions[e.label]}>`") for e in own]
            if rows:
                lines += [f"**{{doc}}`{document}`**", ""]
                lines += [*table(("exercise", "worked solution"), rows), ""]
        return lines


def _exercise(entry: Entry) -> str:
    return f"{{ref}}`{entry.title} <{entry.label}>`"


def _badge(verdict: str) -> str:
    return f"{{verdict}}`{verdict}`"


def _shown(claim: claims.Claim) -> str:
    document, label = claim.shown
    role = "prf:ref" if label.split("-")[0] in ("thm", "prop", "def") else "numref"
    return f"{{{role}}}`{label}` in {{doc}}`{document}`"


def tally(effects: Sequence[claims.Effect]) -> str:
    """In how many settings an effect is as claimed, and what is said of the others."""
    said = Counter(effect.verdict for effect in effects)
    noun = "effect" if len(effects) == 1 else "effects"
    others = [f"{said[verdict]} {verdict}" for verdict in MARKS if verdict != "reproduced"]
    parts = [f"{said['reproduced']} of {len(effects)} {noun} as claimed"]
    return ", ".join(parts + [text for text in others if not text.startswith("0 ")])


def chance(found: Sequence[claims.Finding]) -> str:
    """How many intervals the findings rest on, and how many would err by chance."""
    judged = [e for f in found for e in f.effects if e.by_interval]
    joint = sum(e.joint for e in judged)
    families = sum(any(e.joint for e in f.effects) for f in found)
    single = len(judged) - joint
    return (
        f"The verdicts on this page rest on {len(judged)} intervals, of which {single} stand alone "
        f"and {joint} are joint within {families} claims. Were every quantity exactly where its "
        f"criterion draws the line, about {single / 40:.0f} of those alone would be called "
        "*reproduced* by chance, and as many *contradicted*; within a claim with joint intervals "
        "chance errs anywhere with a probability of 1 in 20 at most."
    )


def widths(found: Sequence[claims.Finding]) -> str:
    """How many gains in accuracy have wider intervals than was aimed at, and what it would take."""
    effects = [e for f in found for e in f.effects if e.unit == claims.ACCURACY]
    aim = f"{100 * claims.SMALLEST_GAIN:.1f} points to either side"
    times = [(e.interval.high - e.interval.low) / 2 / claims.SMALLEST_GAIN for e in effects]
    wide = sorted(w for w in times if w > 1)
    if not wide:
        return f"All {len(effects)} differences in accuracy are known to {aim} or better."
    open_ = sum(w > 1 and e.verdict == "undecided" for w, e in zip(times, effects, strict=True))
    return (
        f"Of {len(effects)} differences in accuracy {len(effects) - len(wide)} are known to {aim} "
        f"or better. Of the other {len(wide)} all but {open_} are decided all the same. "
        "An interval $w$ times as wide takes $w^2$ times its seeds to come down to that, and $w^2$ "
        "times the computing that {doc}`results` lists for its experiment: for the middle one of "
        f"the {len(wide)} a factor of {wide[len(wide) // 2] ** 2:.1f}, for the widest one of "
        f"{wide[-1] ** 2:.0f}."
    )


class ClaimsTable(Generated):
    """Each claim with its verdict and criterion, all its effects, and what made them."""

    def lines(self) -> list[str]:
        found = findings(self.chapters)
        lines = []
        for number, text in enumerate(PARTS, 1):
            rows = []
            for finding in (f for f in found if f.claim.part == number):
                claim = finding.claim
                mark = " *(ours)*" if claim.ours else ""
                what = f"{claim.statement}{mark}<br>{_badge(finding.verdict)}"
                if finding.effects:
                    what += f" <small>{tally(finding.effects)}</small>"
                what += f"<br><small>Criterion: {claim.criterion}."
                what += f"<br>{_shown(claim)}</small>"
                effects = [
                    f"{e.value} {MARKS[e.verdict]} <small>{e.what}</small>" for e in finding.effects
                ]
                made = f"<small>Made by: {'; '.join(finding.made_by)}</small>"
                rows.append((what, "<br>".join([*effects, made]) if effects else "—"))
            lines += [f"## {number}. {text}", ""]
            lines += [*table(("claim and verdict", "effects, with 95% intervals"), rows), ""]
        lines += ["## How well the gains are known", "", widths(found), ""]
        return [*lines, "## What chance decides", "", chance(found)]


class ResultsList(Generated):
    """Each stored result with the record of how it was made."""

    def lines(self) -> list[str]:
        try:
            return records.result_lines(self.chapters, results.FOLDER)
        except results.CorruptResultError as error:
            raise ExtensionError(f"How the results were made: {error}") from error


class BenchmarksList(Generated):
    """The stored timings, each with the machine that made them."""

    def lines(self) -> list[str]:
        return records.benchmark_lines(results.FOLDER / "benchmarks")


class TestList(Generated):
    """Each file of tests: what it is about, and how many tests it holds."""

    def lines(self) -> list[str]:
        rows = []
        for path in sources.test_files():
            text = sources.summary(path).replace("|", "or")
            count = str(len(sources.tests_in(path)))
            rows.append((f"`{sources.shown_name(path)}`", text, count))
        return table(("file", "what it tests", "tests"), rows)


def register(app) -> None:
    """Register the directives and their style sheet."""
    app.add_directive("theorem-table", TheoremTable)
    app.add_directive("exercise-table", ExerciseTable)
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("results-list", ResultsList)
    app.add_directive("benchmarks-list", BenchmarksList)
    app.add_directive("test-list", TestList)
    app.add_css_file("backmatter.css")
