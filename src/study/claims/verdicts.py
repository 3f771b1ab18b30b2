"""What a verdict is: effects, each met or not, and the claim that they speak for.

A claim is ``reproduced`` if all its effects are met, ``not reproduced`` if none is, and ``partly``
reproduced in between. A claim whose evidence is missing raises `MissingEvidenceError` and never
passes for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from study.results import CorruptResultError

if TYPE_CHECKING:
    from study.claims.evidence import Evidence

__all__ = [
    "VERDICTS",
    "Claim",
    "Effect",
    "Finding",
    "MissingEvidenceError",
    "combined",
    "judge",
    "verdict",
]

REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not tested"
VERDICTS = (REPRODUCED, PARTLY, NOT, UNTESTED)
"""What can be said of a claim."""


class MissingEvidenceError(LookupError):
    """A number that a claim rests on is not there; the message says what makes it."""


class Effect(NamedTuple):
    """One number that a claim is judged by.

    Attributes:
        what: what was measured, in what unit.
        value: the number as a table shows it, with its interval where there is one.
        met: whether it has the sign, or the size, that the claim says; judged by the number
            itself, before anything is rounded.
    """

    what: str
    value: str
    met: bool


@dataclass(frozen=True)
class Claim:
    """A claim with the criterion it is judged by.

    Attributes:
        key: its short name.
        part: which of the paper's five claims it belongs to.
        shown: (document, label of a figure or statement) of where the book shows it.
        statement: what is claimed, in MyST.
        criterion: when an effect counts as met.
        measure: evidence -> its effects; None for a claim that the book does not test.
        ours: whether the claim, or its exact form, is this book's and not the paper's.
        headline: the index of the effect that stands for the claim where there is room for one.
    """

    key: str
    part: int
    shown: tuple[str, str]
    statement: str
    criterion: str
    measure: Callable[[Evidence], Iterable[Effect]] | None
    ours: bool = False
    headline: int = 0


@dataclass(frozen=True)
class Finding:
    """A claim, its effects, and what made them (preset and device)."""

    claim: Claim
    effects: tuple[Effect, ...]
    made_by: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``reproduced``, ``partly``, ``not reproduced`` or ``not tested``."""
        return UNTESTED if self.claim.measure is None else verdict(self.effects)


def verdict(measured: Sequence[Effect]) -> str:
    """``reproduced`` if all effects are met, ``not reproduced`` if none, ``partly`` in between.

    Raises:
        MissingEvidenceError: without any effect: nothing measured is no evidence.
    """
    if not measured:
        raise MissingEvidenceError("a verdict needs at least one effect, got none")
    met = [effect.met for effect in measured]
    return REPRODUCED if all(met) else PARTLY if any(met) else NOT


def combined(verdicts: Sequence[str]) -> str:
    """The verdict on a claim from those on its parts; parts that were not tested do not count."""
    tested = {v for v in verdicts if v != UNTESTED}
    if not tested:
        return UNTESTED
    return tested.pop() if len(tested) == 1 else PARTLY


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """Measure the effects of a claim.

    Raises:
        MissingEvidenceError: if a number is missing; the message names the claim.
    """
    own = evidence.for_one_claim()
    if claim.measure is None:
        return Finding(claim, (), ())
    try:
        measured = tuple(claim.measure(own))
        verdict(measured)
    except CorruptResultError:
        raise
    except (MissingEvidenceError, KeyError, ValueError) as error:
        raise MissingEvidenceError(f"claim {claim.key!r}: {error}") from error
    return Finding(claim, measured, tuple(own.used))
