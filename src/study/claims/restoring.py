"""What restored instabilities do to Adam (``restoring``, ``adam_tuned``): evidence -> effects."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flatminima.statistics import Interval
from study.claims.evidence import Evidence
from study.claims.verdicts import SHARPNESS, Effect, decided, gained

__all__ = ["accurate", "beats_slow", "flatter", "restores", "tuned"]

FEWEST = 0.5
"""Episodes of a run beyond Adam's, in the mean, that matter."""

SETTINGS = {
    "full-mse": "full batch, squared loss",
    "full-cross_entropy": "full batch, cross-entropy",
    "mini-mse": "minibatches, squared loss",
    "mini-cross_entropy": "minibatches, cross-entropy",
    "natural-mse": "natural images, full batch, squared loss",
}
"""Setting of ``restoring``, and of ``adam_tuned`` -> what it is called here."""


EXPERIMENT = {"common": "restoring", "tuned": "adam_tuned"}
"""Comparison -> the experiment that has it with power."""


def _of(evidence: Evidence, kind: str, comparison: str) -> Iterator[tuple[str, str, Interval]]:
    """(method, what its setting is called, effect) of each clipped form, in every setting."""
    from study.experiments.restoring import CLIPPED

    for _, _, measured in evidence.measured(EXPERIMENT[comparison]):
        for name, value in measured.items():
            for setting, said in SETTINGS.items():
                method = name.removeprefix(f"{kind}-{comparison}-{setting}-")
                if method in CLIPPED:
                    yield method, said, value


def _gains(evidence: Evidence, kind: str, comparison: str, other: str) -> Iterator[Effect]:
    for method, said, gain in _of(evidence, kind, comparison):
        what = f"test accuracy of `{method}` minus that of {other} ({said})"
        yield gained(what, gain, "+.2f", joint=True)


def restores(evidence: Evidence) -> Iterator[Effect]:
    """Episodes at the small common rate, beyond Adam's."""
    for method, said, more in _of(evidence, "episodes", "common"):
        what = f"episodes of `{method}` minus those of Adam, at the common rate ({said})"
        yield Effect(what, f"{more:+.1f}", decided(more, smallest=FEWEST), joint=True)


def flatter(evidence: Evidence) -> Iterator[Effect]:
    """Sharpness at the matched loss, at the common rate."""
    for method, said, fall in _of(evidence, "flatter", "common"):
        what = f"sharpness of Adam over that of `{method}`, at the common rate ({said})"
        yield Effect(what, f"{fall.map(np.exp):.2f}", decided(fall), True, SHARPNESS, -fall)


def accurate(evidence: Evidence) -> Iterator[Effect]:
    """Gains in accuracy over Adam at the common rate."""
    yield from _gains(evidence, "accuracy", "common", "Adam, at the common rate")


def tuned(evidence: Evidence) -> Iterator[Effect]:
    """Gains in accuracy over Adam, each at its own best rate."""
    yield from _gains(evidence, "accuracy", "tuned", "Adam, each at its best rate")


def beats_slow(evidence: Evidence) -> Iterator[Effect]:
    """Gains in accuracy over a slow second moment, each at its own best rate."""
    other = r"Adam with $\beta_2 = 0.99$, each at its best rate"
    yield from _gains(evidence, "over-slow", "tuned", other)
