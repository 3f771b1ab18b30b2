"""How the claims about the noise of minibatches are measured, by the criteria of the experiments.

They are those of `experiments.noise`, `gap`, `onset` and `arrival`, written down there before the
runs were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from flatminima.statistics import Interval
from study.claims.evidence import Evidence
from study.claims.verdicts import Effect, decided, fallen

__all__ = [
    "adds",
    "gap_is_predicted",
    "gaussian",
    "isotropic",
    "of_batches",
    "outweighs",
    "second_moment",
    "single_runs",
]

WAYS = {
    "updates": "as many updates, the same batches",
    "time": "as much training time, the same batches",
    "matched": "as much training time and diffusion",
}
"""Way to give noise its due -> what it is called here, the most lenient first."""


def within(interval: Interval, limit: float) -> str:
    """The verdict on the claim that a quantity is within a limit of zero, on both sides.

    Example:
        >>> within(Interval(0.0, -0.1, 0.2), 0.3), within(Interval(0.4, -0.1, 0.9), 0.3)
        ('reproduced', 'undecided')
    """
    sides = decided(interval, -limit), decided(interval, limit, above=False)
    if sides[0] == sides[1]:
        return sides[0]
    return "contradicted" if "contradicted" in sides else "undecided"


def gaussian(evidence: Evidence) -> Iterator[Effect]:
    """Gaussian noise of the minibatches' covariance against minibatches."""
    from study.experiments.noise import SAME

    for _, _, found in evidence.measured("noise"):
        same = found["gaussian"]
        what = r"fall of $\log\lambda_1$, Gaussian noise of the covariance minus minibatches"
        yield Effect(what, f"{same:.2f}", within(same, SAME))


def isotropic(evidence: Evidence) -> Iterator[Effect]:
    """Isotropic noise against noise of the minibatches' covariance and of the same size."""
    for _, _, found in evidence.measured("noise"):
        little = found["isotropic"]
        what = "fall by isotropic noise minus a quarter of that by noise of the covariance"
        yield Effect(what, f"{little:.2f}", decided(little, above=False))


def outweighs(evidence: Evidence) -> Iterator[Effect]:
    """Instability minus noise, in the three ways of giving noise its due."""
    for _, _, found in evidence.measured("noise"):
        for way in reversed(WAYS):
            value = found[f"{way}-difference"]
            yield fallen(f"instability minus noise, {WAYS[way]}", value)


def adds(evidence: Evidence) -> Iterator[Effect]:
    """What the large rate adds to noise of equal diffusion."""
    for _, _, found in evidence.measured("noise"):
        value = found["adds"]
        what = r"fall of $\log\lambda_1$, both minus noise alone of equal diffusion"
        yield fallen(what, value)


def of_batches(evidence: Evidence) -> Iterator[Effect]:
    """How far the late batch sharpness is from 2/eta."""
    from study.experiments.arrival import NEAR

    for _, stored, found in evidence.measured("arrival"):
        for batch in sorted(set(stored["batch"].tolist())):
            what = rf"batch sharpness in units of $2/\eta$, late, batches of {batch}"
            outcome = decided(found[f"off-{batch}"], math.log(NEAR), above=False)
            yield Effect(what, f"{found[f'batch-{batch}']:.2f}", outcome)


def gap_is_predicted(kind: str) -> object:
    """How far the gap is from what Theorem F4 says, for a kind of noise, at each amount of it."""

    def predicted(evidence: Evidence) -> Iterator[Effect]:
        from study.experiments.gap import FACTOR

        for _, stored, found in evidence.measured("gap"):
            for batch in sorted(set(stored["batch"].tolist()) - {0}):
                off = found[f"off-{kind}-{batch}"]
                what = f"measured over predicted gap, noise as of batches of {batch}"
                yield Effect(what, f"{off.map(math.exp):.2f}", within(off, math.log(FACTOR)))

    return predicted


def second_moment(evidence: Evidence) -> Iterator[Effect]:
    """How far the onset of growth in the mean square is from the threshold of the second moment."""
    from study.experiments.onset import TOLERANCE

    for _, stored, found in evidence.measured("onset"):
        for batch in sorted(set(stored["batch"].tolist())):
            off = found[f"off-matrix-{batch}"]
            what = f"distance of the onset from the threshold, batches of {batch}"
            outcome = decided(off, TOLERANCE, above=False)
            yield Effect(what, f"{100 * off:.2f}%", outcome)


def single_runs(evidence: Evidence) -> Iterator[Effect]:
    """How far beyond that threshold the rate lies at which half of the single runs leave."""
    for _, stored, found in evidence.measured("onset"):
        for batch in sorted(set(stored["batch"].tolist())):
            late = found[f"late-{batch}"]
            what = f"escape beyond the threshold, batches of {batch}"
            yield Effect(what, f"{100 * late:.0f}%", decided(late))
