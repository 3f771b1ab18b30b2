"""More natural images, to divergence, by the experiment ``natural``: evidence -> effects."""

from __future__ import annotations

from collections.abc import Iterator

from flatminima.statistics import Interval
from study.claims.evidence import Evidence
from study.claims.gain import FINE, LOSSES
from study.claims.verdicts import Effect, fallen, gained

__all__ = ["beyond", "ends", "flatter"]


def _of(evidence: Evidence, kind: str, rest: str = "") -> Iterator[tuple[str, Interval]]:
    """(loss, effect) of the effects ``<kind>-<loss><rest>``."""
    for _, _, measured in evidence.measured("natural"):
        for loss in LOSSES:
            if (value := measured.get(f"{kind}-{loss}{rest}")) is not None:
                yield loss, value


def beyond(evidence: Evidence) -> Iterator[Effect]:
    """The gain in accuracy at the rate beyond the edge that was named beforehand."""
    from study.experiments.natural import NAMED, STABLE

    what = f"accuracy at $c = {NAMED:g}$ minus that at $c = {STABLE:g}$"
    for loss, value in _of(evidence, "gain", f"-{NAMED:g}"):
        yield gained(f"{what} ({LOSSES[loss]})", value, FINE)


def flatter(evidence: Evidence) -> Iterator[Effect]:
    """The fall of the logarithm of the sharpness from the stable rate to that one."""
    from study.experiments.natural import NAMED, STABLE

    what = f"fall of $\\log\\lambda_1$ from $c = {STABLE:g}$ to $c = {NAMED:g}$"
    for loss, value in _of(evidence, "flatter", f"-{NAMED:g}"):
        yield fallen(f"{what} ({LOSSES[loss]})", -value)


def ends(evidence: Evidence) -> Iterator[Effect]:
    """What the accuracy loses at the largest rate that enough seeds survive, above the named one.

    Where too few survive any, the gain ends by divergence.
    """
    from study.experiments.natural import FACTORS, NAMED, reached

    last = max(FACTORS)
    for _, stored, measured in evidence.measured("natural"):
        for loss in dict.fromkeys(stored["loss"].tolist()):
            kept = float(reached(stored, loss, last).mean())
            what = f"seeds that come to the loss at $c = {last:g}$ ({LOSSES[loss]})"
            yield Effect(what, f"{100 * kept:.0f} %", kept < 1)
            if (value := measured.get(f"fall-{loss}")) is not None:
                what = "accuracy at the largest $c$ that enough survive minus that at $c = "
                yield gained(f"{what}{NAMED:g}$ ({LOSSES[loss]})", value, FINE, above=False)
