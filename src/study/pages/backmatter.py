"""The generated parts of the start page and of the back matter.

Tables of theorems, exercises, claims, stored results and benchmarks; the pages of the library; and
below each statement the links to its tests and its exercises.
"""

import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

from study import claims, results
from study.pages import opening, records, sources, usage
from study.pages.records import table
from study.pages.statements import LABELS, entries, exercises_on, tests_of

logger = logging.getLogger(__name__)

PARTS = (
    r"Stable and monotone below $2/\eta$; best beyond it",
    "Instabilities lead to flatter minima, which generalize better",
    "Eigenvectors rotate, more at larger rates, and that flattens",
    "In SGD, instability outweighs the noise of the minibatch",
    "Restoring instabilities improves Adam",
)
"""The paper's five claims in a few words; the start page has them in full."""
STATEMENTS = ("thm", "prop", "def")


class NotExecutedError(RuntimeError):
    """The chapters have not been executed, so that no number of theirs can be shown."""


def chapter_order(source: Path) -> list[str]:
    """The names of the pages in the order of the table of contents."""
    contents = yaml.safe_load((source / "_toc.yml").read_text(encoding="utf-8"))
    found = [contents["root"]]

    def collect(part: dict) -> None:
        for page in [*part.get("chapters", []), *part.get("sections", [])]:
            found.append(page["file"])
            collect(page)

    for part in contents.get("parts", []):
        collect(part)
    return [name.removeprefix("chapters/") for name in found]


@cache
def _findings(chapters: Path, signature: tuple) -> list[claims.Finding]:
    glued = claims.glued_numbers(chapters)
    proved = {label: tests_of(label, sources.TESTS) for label in LABELS}
    return claims.judge_all(claims.Evidence(glued, proved))


def findings(chapters: Path) -> list[claims.Finding]:
    """All claims with their effects, computed once for one state of chapters and results.

    Raises:
        NotExecutedError: if a number is missing and its chapter has no outputs at all.
        ExtensionError: if a number or a result is missing.
    """
    files = [*chapters.glob("*.ipynb"), *results.FOLDER.rglob("*.json")]
    signature = tuple(sorted((str(f), f.stat().st_mtime_ns) for f in files))
    try:
        return _findings(chapters, signature)
    except claims.MissingEvidenceError as error:
        glued = claims.glued_numbers(chapters)
        needed = {c.shown[0] for c in claims.CLAIMS if c.shown[0] in glued}
        if any(not glued[document] for document in needed):
            raise NotExecutedError(str(error)) from error
        raise ExtensionError(f"What was reproduced: {error}") from error
    except results.CorruptResultError as error:
        raise ExtensionError(f"What was reproduced: {error}") from error


def _rerun_on_change(env, chapters: Path) -> None:
    """Read the page again when a chapter, a result or a test changes, or one is added."""
    files = [*chapters.glob("*.ipynb"), *results.FOLDER.rglob("*"), *sources.test_files()]
    for path in (*files, results.FOLDER, sources.TESTS):
        env.note_dependency(str(path))


class Generated(SphinxDirective):
    """MyST that is written by code and parsed where the directive stands."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        try:
            lines = "\n".join(self.lines()).split("\n")
        except NotExecutedError as error:
            message = f"the chapters are not executed: {error}"
            logger.warning(message, location=self.get_location())
            lines = [f"*This table needs the executed chapters: {error}.*"]
        node = nodes.container()
        content = StringList(lines, self.get_source_info()[0])
        self.state.nested_parse(content, 0, node, match_titles=True)
        return node.children

    @property
    def source(self) -> Path:
        return Path(self.env.srcdir)

    @property
    def chapters(self) -> Path:
        return self.source / "chapters"


class TheoremTable(Generated):
    """Every statement that has a label: where it is proved, its tests, its exercises."""

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        rows = []
        labelled = {e.theory_label: e for e in entries(self.chapters) if e.theory_label}
        for label in LABELS:
            if label not in labelled:
                continue
            entry = labelled[label]
            tests = [f"{{checked}}`{name}`" for name in tests_of(label, sources.TESTS)]
            practice = [
                f"{{ref}}`{exercise.title} <{exercise.label}>`"
                for exercise in exercises_on(label, self.chapters)
            ]
            statement = f"{{prf:ref}}`{entry.title} <{entry.label}>`<br>{{doc}}`{entry.document}`"
            rows.append((label, statement, "<br>".join(tests), "<br>".join(practice)))
        return table(("label", "statement and proof", "checked by", "practiced in"), rows)


class ExerciseTable(Generated):
    """Every exercise with its solution, chapter by chapter."""

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        found = entries(self.chapters)
        solutions = {e.title: e.label for e in found if e.kind == "solution"}
        lines = []
        for document in chapter_order(self.source):
            own = [e for e in found if e.document == document and e.kind == "exercise"]
            if not own:
                continue
            rows = [
                (f"{{ref}}`{e.title} <{e.label}>`", f"{{ref}}`solution <{solutions[e.label]}>`")
                for e in own
            ]
            heading = f"**{{doc}}`{document}`**"
            lines += [heading, "", *table(("exercise", "worked solution"), rows), ""]
        return lines


def _badge(verdict: str) -> str:
    return f"{{verdict}}`{verdict}`"


def _shown(claim: claims.Claim) -> str:
    document, label = claim.shown
    role = "prf:ref" if label.split("-")[0] in STATEMENTS else "numref"
    return f"{{{role}}}`{label}` in {{doc}}`{document}`"


class ClaimsTable(Generated):
    """Each claim with its effects and verdict; in full with ``:full:``, criterion and maker too."""

    option_spec: ClassVar = {"full": directives.flag}

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        found = findings(self.chapters)
        return self._full(found) if "full" in self.options else self._short(found)

    def _short(self, found: list[claims.Finding]) -> list[str]:
        rows = []
        for finding in (f for f in found if not f.claim.ours):
            claim, effects = finding.claim, finding.effects
            effect = "—"
            if effects:
                chosen, met = effects[claim.headline], sum(e.met for e in effects)
                effect = f"{chosen.value}<br><small>{chosen.what}"
                if len(effects) > 1:
                    effect += f"; {met} of {len(effects)} effects as claimed"
                effect += f"<br>{'; '.join(finding.made_by)}</small>"
            text = f"{claim.part}. {claim.statement}<br>{_badge(finding.verdict)}"
            rows.append((f"{text}<br><small>{_shown(claim)}</small>", effect))
        return table(("claim and verdict", "effect, with its 95 % interval"), rows)

    def _full(self, found: list[claims.Finding]) -> list[str]:
        lines = []
        for number, text in enumerate(PARTS, 1):
            rows = []
            for finding in (f for f in found if f.claim.part == number):
                claim = finding.claim
                mark = " *(ours)*" if claim.ours else ""
                what = f"{claim.statement}{mark}<br>{_badge(finding.verdict)}"
                what += f"<br><small>Criterion: {claim.criterion}."
                what += f"<br>{_shown(claim)}</small>"
                effects = "<br>".join(
                    f"**{e.value}** {'✓' if e.met else '✗'} <small>{e.what}</small>"
                    for e in finding.effects
                )
                made = f"<br><small>Made by: {'; '.join(finding.made_by)}</small>"
                effects = effects + made if effects else "—"
                rows.append((what, effects))
            lines += [f"## {number}. {text}", ""]
            lines += [*table(("claim and verdict", "effects, with 95 % intervals"), rows), ""]
        return lines


class ResultsList(Generated):
    """Each stored result with the record of how it was made."""

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        try:
            return records.result_lines(self.chapters, results.FOLDER)
        except results.CorruptResultError as error:
            raise ExtensionError(f"How the results were made: {error}") from error


class BenchmarksList(Generated):
    """The stored timings, each with the machine that made them."""

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        return records.benchmark_lines(results.FOLDER / "benchmarks")


class TestList(Generated):
    """Each file of tests: what it is about, and how many tests it holds."""

    def lines(self) -> list[str]:
        _rerun_on_change(self.env, self.chapters)
        rows = []
        for path in sources.test_files():
            count = len(sources.tests_in(path))
            text = sources.summary(path).replace("|", "or")
            rows.append((f"`tests/{path.name}`", text, str(count)))
        return table(("file", "what it tests", "tests"), rows)


class ApiModules(Generated):
    """The reference of some modules, from their docstrings."""

    required_arguments = 1
    final_argument_whitespace = True

    def lines(self) -> list[str]:
        known, lines = usage.public_modules(), []
        for name in self.arguments[0].split():
            if name not in known:
                raise self.error(f"there is no public module {name!r}")
            members = ",".join(usage.public_members(name))
            lines += [f"## `{name}`", "", "```{eval-rst}", f".. automodule:: {name}"]
            lines += [f"   :members: {members}", "   :imported-members:", "```", ""]
        _rerun_on_change(self.env, self.chapters)
        return lines


class ApiTable(Generated):
    """All public modules with the first line of their docstrings."""

    def lines(self) -> list[str]:
        rows = []
        for name in usage.public_modules():
            first = (import_module(name).__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
            members = ", ".join(f"{{py:obj}}`{m} <{name}.{m}>`" for m in usage.public_members(name))
            rows.append((f"{{py:mod}}`{name}`", f"{_plain(first)}<br>{members}"))
        return table(("module", "what it holds"), rows)


def _plain(text: str) -> str:
    """A line of a docstring as Markdown."""
    return text.replace("``", "`").replace("|", "or")


class OpeningFigure(SphinxDirective):
    """The figure of the start page; the content is its caption, ``:alt:`` its text alternative."""

    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required, "name": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.app.doctreedir).parent / "opening"
        page = Path(self.env.doc2path(self.env.docname)).parent
        figure = nodes.figure(classes=["opening-figure"])
        for layout in opening.SIZES:
            path = folder / f"opening-{layout}.svg"
            opening.draw(path, layout)
            uri = Path(*[".."] * len(page.parts[1:]), *path.resolve().parts[1:]).as_posix()
            image = nodes.image(uri=uri, alt=self.options["alt"], classes=[f"opening-{layout}"])
            # A printed book has one page width and takes the first.
            if layout == "wide":
                figure += image
            else:
                figure += addnodes.only("", image, expr="html")
        self.env.note_dependency(opening.__file__)
        text = nodes.container()
        self.state.nested_parse(self.content, self.content_offset, text)
        figure += nodes.caption("", "", *text.children[0].children)
        self.add_name(figure)
        return [figure]


class OpeningNumber(SphinxRole):
    """A number of the run in the opening figure."""

    def run(self):
        return [nodes.Text(opening.numbers()[self.text].replace("-", "−"))], []


class EffectRole(SphinxRole):
    """The headline effect of a claim, by the claim's key."""

    def run(self):
        chapters = Path(self.env.srcdir) / "chapters"
        _rerun_on_change(self.env, chapters)
        try:
            found = {f.claim.key: f for f in findings(chapters)}[self.text]
            text = found.effects[found.claim.headline].value
        except NotExecutedError as error:
            logger.warning(f"the chapters are not executed: {error}", location=self.get_location())
            text = "(not executed)"
        except KeyError:
            raise ExtensionError(f"there is no claim {self.text!r}") from None
        return [nodes.Text(text)], []


def _mark(verdict: str) -> nodes.inline:
    name = f"verdict-{verdict.replace(' ', '-')}"
    return nodes.inline(verdict, verdict, classes=["verdict", name])


class VerdictRole(SphinxRole):
    """A verdict as a colored mark."""

    def run(self):
        if self.text not in claims.VERDICTS:
            raise ExtensionError(f"a verdict is one of {claims.VERDICTS}, got {self.text!r}")
        return [_mark(self.text)], []


class ClaimRole(SphinxRole):
    """The verdict on one of the paper's five claims, from its parts that are the paper's."""

    def run(self):
        chapters = Path(self.env.srcdir) / "chapters"
        _rerun_on_change(self.env, chapters)
        try:
            own = [f for f in findings(chapters) if f.claim.part == int(self.text)]
        except NotExecutedError as error:
            logger.warning(f"the chapters are not executed: {error}", location=self.get_location())
            return [], []
        verdict = claims.combined([f.verdict for f in own if not f.claim.ours])
        return [_mark(verdict)], []


class CheckedRole(SphinxRole):
    """A link to a test, ``file::test``, that shows what the name of the test says."""

    def run(self):
        file, test = self.text.split("::")
        said = nodes.Text(_in_words(test))
        return [sources.link(self.config, self.env.docname, file, test, said)], []


def add_links_to_statements(app: Sphinx, doctree: nodes.document) -> None:
    """Below each labelled statement and its proof, the links to its tests and its exercises."""
    chapters, document = Path(app.srcdir) / "chapters", app.env.docname
    for path in (*sources.test_files(), sources.TESTS):
        app.env.note_dependency(str(path))
    own = {e.label: e for e in entries(chapters) if e.theory_label}
    for node in list(doctree.findall(nodes.Element)):
        entry = own.get(node.get("label"))
        if entry is None or entry.document != document.removeprefix("chapters/"):
            continue
        siblings = node.parent.children
        after = siblings.index(node)
        if entry.kind != "definition":
            proofs = (i for i in range(after + 1, len(siblings)) if _is_proof(siblings[i]))
            after = next(proofs, after)
        node.parent.insert(after + 1, _links_of(app, entry, chapters))


def _is_proof(node: nodes.Node) -> bool:
    # Theorems have the class "proof" as well.
    return type(node).__name__ == "proof_node"


def _links_of(app: Sphinx, entry, chapters: Path) -> nodes.paragraph:
    """Tests, exercises and the table of all statements, in one line."""
    document = app.env.docname
    line = nodes.paragraph(classes=["statement-links"])
    line += nodes.Text("Checked by ")
    for i, name in enumerate(tests_of(entry.theory_label, sources.TESTS)):
        file, test = name.split("::")
        line += [nodes.Text(", ")] if i else []
        line += sources.link(app.config, document, file, test, nodes.Text(_in_words(test)))
    line += nodes.Text(". Practiced in ")
    for i, exercise in enumerate(exercises_on(entry.theory_label, chapters)):
        line += [nodes.Text(", ")] if i else []
        line += _reference(document, exercise.label, exercise.title)
    line += nodes.Text(". ")
    line += _reference(document, "theorems", "All statements")
    line += nodes.Text(".")
    return line


def _in_words(test: str) -> str:
    """What the name of a test says after its label: test_D3_turns_uphill says "turns uphill"."""
    return re.sub(r"^test_([QDG]\d+_)?", "", test).replace("_", " ")


def _reference(document: str, target: str, text: str) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "",
        nodes.inline(text, text),
        refdomain="std",
        reftype="ref",
        reftarget=target,
        refexplicit=True,
        refwarn=True,
        refdoc=document,
    )


@cache
def _used_in(source: Path) -> dict[str, list[str]]:
    return usage.used_in(source / "chapters", chapter_order(source))


def add_used_in(app: Sphinx, what, name, member, options, lines: list[str]) -> None:
    """At the end of a docstring of the library, the chapters that use the function or class."""
    documents = _used_in(Path(app.srcdir)).get(usage.identity(member) or "", [])
    if documents and what in ("function", "class"):
        links = ", ".join(f":doc:`/chapters/{document}`" for document in documents)
        lines += ["", f"*Used in:* {links}.", ""]


def escape_bars(app: Sphinx, what, name, member, options, lines: list[str]) -> None:
    """Keep ``|y|`` in a docstring from being read as a substitution: it is an absolute value."""
    parts = re.split(r"(``.*?``|`[^`]*`)", "\n".join(lines), flags=re.DOTALL)
    parts[::2] = [part.replace("|", "\\|") for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def skip_plain_fields(app: Sphinx, what, name, member, skip, options) -> bool | None:
    """Leave out the fields of named tuples, which their class describes as attributes."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, object]:
    """Register directives, roles and hooks."""
    generated = {
        "theorem-table": TheoremTable,
        "exercise-table": ExerciseTable,
        "claims-table": ClaimsTable,
        "results-list": ResultsList,
        "benchmarks-list": BenchmarksList,
        "test-list": TestList,
        "api-modules": ApiModules,
        "api-table": ApiTable,
        "opening-figure": OpeningFigure,
    }
    for name, directive in generated.items():
        app.add_directive(name, directive)
    app.add_role("opening", OpeningNumber())
    app.add_role("effect", EffectRole())
    app.add_role("verdict", VerdictRole())
    app.add_role("claim", ClaimRole())
    app.add_role("checked", CheckedRole())
    app.connect("doctree-read", add_links_to_statements)
    app.connect("autodoc-process-docstring", add_used_in, priority=900)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-skip-member", skip_plain_fields)
    sources.setup(app)
    app.add_css_file("backmatter.css")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
