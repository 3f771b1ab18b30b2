"""What a verdict is: effects, each with an outcome, and the claim that they speak for.

An effect that has an interval is *decided* by it (`decided`): ``reproduced`` if the interval lies
on the side that the claim says, ``contradicted`` if on the other, ``excluded`` if all of it is
below the smallest effect of interest, and otherwise ``undecided``: too few seeds to tell, which is
not a failure of the claim. A criterion without an interval is met, or ``not reproduced``.

A claim has the verdict of its effects if those that are decided agree; it is ``partly`` reproduced
only where they truly differ, and undecided unless more than half of them are decided. A claim whose
evidence is missing raises `MissingEvidenceError` and never passes for anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flatminima.statistics import Interval
from study.results import CorruptResultError

if TYPE_CHECKING:
    from study.claims.evidence import Evidence

__all__ = [
    "ACCURACY",
    "SHARPNESS",
    "SMALLEST_GAIN",
    "VERDICTS",
    "Claim",
    "Effect",
    "Finding",
    "MissingEvidenceError",
    "combined",
    "decided",
    "every",
    "fallen",
    "gained",
    "judge",
]

REPRODUCED, PARTLY, UNDECIDED = "reproduced", "partly", "undecided"
EXCLUDED, CONTRADICTED, NOT, UNTESTED = "excluded", "contradicted", "not reproduced", "not tested"
VERDICTS = (REPRODUCED, PARTLY, UNDECIDED, EXCLUDED, CONTRADICTED, NOT, UNTESTED)
"""What can be said of a claim."""
SMALLEST_GAIN = 0.003
"""The smallest gain in accuracy of interest: 0.3 points."""
ACCURACY, SHARPNESS = "accuracy", "sharpness"
"""Units that effects of several claims share: a difference of accuracies, and one of the logarithm
of a measure of flatness, below 0 where the claim's side is the flatter one."""


class MissingEvidenceError(LookupError):
    """A number that a claim rests on is not there; the message says what makes it."""


class Effect(NamedTuple):
    """One number that a claim is judged by.

    Attributes:
        what: what was measured, in what unit.
        value: the number as a table shows it, with its interval where there is one.
        outcome: what `decided` says of the interval, or whether a criterion without one is met;
            judged by the number itself, before anything is rounded.
        joint: whether its interval and those of the claim's other effects are at a joint level.
        unit: ACCURACY or SHARPNESS where its interval is in one of these; else empty.
        interval: the interval in that unit, to be drawn beside those of other claims.
    """

    what: str
    value: str
    outcome: bool | str
    joint: bool = False
    unit: str = ""
    interval: Interval | None = None

    @property
    def verdict(self) -> str:
        """The outcome in the words of VERDICTS."""
        if isinstance(self.outcome, str):
            return self.outcome
        return REPRODUCED if self.outcome else NOT

    @property
    def met(self) -> bool:
        """Whether it has the sign, or the size, that the claim says."""
        return self.verdict == REPRODUCED

    @property
    def by_interval(self) -> bool:
        """Whether it was judged by an interval, which errs by chance at times."""
        return isinstance(self.outcome, str)


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
        """One of VERDICTS."""
        return UNTESTED if self.claim.measure is None else verdict(self.effects)


def decided(
    interval: Interval, bound: float = 0.0, *, above: bool = True, smallest: float | None = None
) -> str:
    """The verdict of an interval on the claim that a quantity is above (or below) a bound.

    Args:
        interval: of the quantity.
        bound: what the claim compares it with.
        above: whether the claim is that the quantity is above the bound.
        smallest: the smallest distance beyond the bound that matters; None if any does.

    Returns:
        ``reproduced`` if all of the interval is beyond the bound, ``contradicted`` if all of it is
        on the other side, ``excluded`` if all of it is short of ``smallest``, else ``undecided``.
    """
    sign = 1 if above else -1
    low, high = sorted((sign * (interval.low - bound), sign * (interval.high - bound)))
    if low > 0:
        return REPRODUCED
    if high < 0:
        return CONTRADICTED
    return EXCLUDED if smallest is not None and high < smallest else UNDECIDED


def gained(
    what: str, gain: Interval, spec: str = "+.1f", *, above: bool = True, joint: bool = False
) -> Effect:
    """The effect of a gain in accuracy (with ``above`` false, of a loss), told in points.

    Gains below `SMALLEST_GAIN` are too small to count.

    Example:
        >>> gained("accuracy", Interval(0.004, low=-0.001, high=0.009)).value
        '+0.4 [−0.1, +0.9] points'
    """
    outcome = decided(gain, above=above, smallest=SMALLEST_GAIN)
    return Effect(what, f"{100 * gain:{spec}} points", outcome, joint, ACCURACY, gain)


def fallen(what: str, fall: Interval) -> Effect:
    """The effect of a fall of the sharpness, or of one fall beyond another, in logarithms.

    Example:
        >>> fallen("sharpness", Interval(0.7, low=0.5, high=0.9)).interval.high
        -0.5
    """
    return Effect(what, f"{fall:.2f}", decided(fall), unit=SHARPNESS, interval=-fall)


def every(*outcomes: str) -> str:
    """The outcome of an effect that needs several intervals at once: the worst of theirs."""
    return min(outcomes, key=(CONTRADICTED, EXCLUDED, UNDECIDED, REPRODUCED).index)


def verdict(measured: Sequence[Effect]) -> str:
    """The verdict of effects, by the rule at the head of this module.

    Raises:
        MissingEvidenceError: without any effect: nothing measured is no evidence.
    """
    if not measured:
        raise MissingEvidenceError("a verdict needs at least one effect, got none")
    return combined([effect.verdict for effect in measured])


def combined(verdicts: Sequence[str]) -> str:
    """One verdict from several; what was not tested does not count.

    Of verdicts that all deny the claim but differ, the weakest is taken that holds for all: a gain
    that is contradicted is also excluded.
    """
    tested = [v for v in verdicts if v != UNTESTED]
    settled = [v for v in tested if v != UNDECIDED]
    if not tested:
        return UNTESTED
    if 2 * len(settled) <= len(tested):
        return UNDECIDED
    found = set(settled)
    if len(found) == 1:
        return found.pop()
    if found <= {EXCLUDED, CONTRADICTED}:
        return EXCLUDED
    return NOT if found <= {EXCLUDED, CONTRADICTED, NOT} else PARTLY


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
