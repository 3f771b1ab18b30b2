"""Roles of the text: numbers of effects, verdicts, and links to tests."""

import math
import re
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from flatminima._text import number_text
from study import claims
from study.pages import sources
from study.pages.findings import NotExecutedError, findings
from study.pages.generated import rerun_on_change

logger = logging.getLogger(__name__)


class FindingRole(SphinxRole):
    """A role that shows something of the findings, by `shown`."""

    without = ""

    def run(self):
        chapters = Path(self.env.srcdir) / "chapters"
        rerun_on_change(self.env, chapters)
        try:
            return [self.shown(findings(chapters))], []
        except NotExecutedError as error:
            logger.warning(f"the chapters are not executed: {error}", location=self.get_location())
            return [nodes.Text(self.without)], []


class NumberRole(FindingRole):
    """The headline effect of a claim as one number, without its interval, by the claim's key."""

    without = "(not executed)"

    def shown(self, found: list[claims.Finding]) -> nodes.Node:
        own = _finding(found, self.text)
        return nodes.Text(point(own.effects[own.claim.headline]))


def point(effect: claims.Effect) -> str:
    """An effect without its interval; one of the sharpness as the change of it in percent."""
    if effect.unit == claims.SHARPNESS:
        return number_text(100 * math.expm1(effect.interval.value), "+.0f") + "%"
    return re.sub(r" \[[^]]*\]", "", effect.value)


class CountRole(FindingRole):
    """In how many of its settings a claim is as claimed, by its key, as in "8 of 12"."""

    without = "(not executed)"

    def shown(self, found: list[claims.Finding]) -> nodes.Node:
        effects = _finding(found, self.text).effects
        return nodes.Text(f"{sum(effect.met for effect in effects)} of {len(effects)}")


def _finding(found: list[claims.Finding], key: str) -> claims.Finding:
    own = next((f for f in found if f.claim.key == key), None)
    if own is None:
        raise ExtensionError(f"there is no claim {key!r}")
    return own


def _mark(verdict: str) -> nodes.inline:
    name = f"verdict-{verdict.replace(' ', '-')}"
    return nodes.inline(verdict, verdict, classes=["verdict", name])


class VerdictRole(SphinxRole):
    """A verdict as a colored mark."""

    def run(self):
        if self.text not in claims.VERDICTS:
            raise ExtensionError(f"a verdict is one of {claims.VERDICTS}, got {self.text!r}")
        return [_mark(self.text)], []


class ClaimRole(FindingRole):
    """The verdict on one of the paper's five claims, from its parts that are the paper's.

    By its number; of one part, ours or the paper's, by its key.
    """

    def shown(self, found: list[claims.Finding]) -> nodes.Node:
        if not self.text.isdecimal():
            return _mark(_finding(found, self.text).verdict)
        own = [f for f in found if f.claim.part == int(self.text) and not f.claim.ours]
        return _mark(claims.combined([f.verdict for f in own]))


class CheckedRole(SphinxRole):
    """A link to a test, ``file::test``, that shows what the name of the test says."""

    def run(self):
        file, test = self.text.split("::")
        said = nodes.Text(sources.in_words(test))
        return [sources.link(self.config, self.env.docname, file, test, said)], []


def register(app) -> None:
    """Register the roles."""
    app.add_role("number", NumberRole())
    app.add_role("count", CountRole())
    app.add_role("verdict", VerdictRole())
    app.add_role("claim", ClaimRole())
    app.add_role("checked", CheckedRole())
