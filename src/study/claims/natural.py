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
    """Where the gain ends, as it was predicted: by divergence, or by what the accuracy loses."""
    from study.experiments.natural import DIVERGING, NAMED, reached

    for _, stored, measured in evidence.measured("natural"):
        kept = float(reached(stored, "mse", DIVERGING).mean())
        what = f"seeds that come to the loss at $c = {DIVERGING:g}$ ({LOSSES['mse']})"
        yield Effect(what, f"{100 * kept:.0f}%", kept < 1 / 2)
        if (value := measured.get("fall-cross_entropy")) is not None:
            what = f"accuracy at the largest $c$ minus that at $c = {NAMED:g}$"
            yield gained(f"{what} ({LOSSES['cross_entropy']})", value, FINE, above=False)
