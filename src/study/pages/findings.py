"""The verdicts that pages show, from the executed chapters and the stored results."""

from functools import cache
from pathlib import Path

from sphinx.errors import ExtensionError

from study import claims, results
from study.figures import glued_numbers
from study.pages import sources
from study.pages.statements import LABELS, tests_of


class NotExecutedError(RuntimeError):
    """The chapters have not been executed, so that no number of theirs can be shown."""


@cache
def _findings(chapters: Path, signature: tuple) -> list[claims.Finding]:
    glued = glued_numbers(chapters)
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
    except (claims.MissingEvidenceError, results.CorruptResultError) as error:
        glued = glued_numbers(chapters)
        needed = {c.shown[0] for c in claims.CLAIMS if c.shown[0] in glued}
        missing = isinstance(error, claims.MissingEvidenceError)
        if missing and any(not glued[document] for document in needed):
            raise NotExecutedError(str(error)) from error
        raise ExtensionError(f"What was reproduced: {error}") from error
