"""When this book calls an effect around instability episodes an effect: the criteria, in code.

They take numbers, so that a test can show that each fails where its effect is absent.
"""

from collections.abc import Sequence

import numpy as np

from flatminima._validation import finite_array, positive_int
from flatminima.statistics import Interval
from flatminima.training.polarity import RESIDUAL, Polarity

__all__ = ["polarity_predictions", "stands_out", "turns_with_the_rate", "unresolved_turn"]


def stands_out(measured: object, control: object) -> bool:
    """Whether a contrast is positive in every seed, and its mean three times that of a control.

    Args:
        measured: the contrast around the peaks of episodes, one value a seed, with the sign that
            was predicted.
        control: the same around steps drawn at random: what is left of it is chance.
    """
    measured, control = finite_array("measured", measured), finite_array("control", control)
    return bool(np.all(measured > 0) and np.mean(measured) > 3 * abs(np.mean(control)))


def turns_with_the_rate(ratios: object, overlap: object, trend: Interval) -> bool:
    """Whether leading eigenvectors turn more at larger rates, by what `turn_over` found.

    In every seed the overlap at the largest rate is below that at each stable one; and the rank
    correlation of rate and overlap has its interval below zero.

    Args:
        ratios: rates in units of 2 / lambda_1, ascending, shape (k,), some below 1 and some above.
        overlap: shape (seeds, k).
        trend: `statistics.rank_correlation` of the two.

    Raises:
        ValueError: for shapes that do not match, or rates on one side of 1 only.
    """
    ratios, overlap = finite_array("ratios", ratios), finite_array("overlap", overlap)
    if ratios.ndim != 1 or overlap.shape[1:] != ratios.shape or not ratios[0] < 1 < ratios[-1]:
        raise ValueError(
            "ratios must lie on both sides of 1, and overlap have one column for each, got "
            f"{ratios.tolist()} and shape {overlap.shape}"
        )
    more = overlap[:, -1] < overlap[:, ratios < 1].min(axis=1)
    return bool(np.all(more) and trend.high < 0)


def unresolved_turn(eigenvalues: object, k: int, tol: float = RESIDUAL) -> float:
    """Largest one minus overlap that `turn_over` may find where nothing turns.

    Each of the two spaces is known to a residual of tol * lambda_1, hence to an angle of at most
    that over the gap below the k-th eigenvalue (Davis and Kahan), and the overlap is the mean of
    squared cosines.

    Args:
        eigenvalues: the largest of the operator, descending, more than k of them.
    """
    values = finite_array("eigenvalues", eigenvalues)
    k = positive_int("k", k)
    if values.ndim != 1 or len(values) <= k or values[k - 1] <= values[k]:
        raise ValueError(f"more than k = {k} eigenvalues, with a gap, are needed, got {values}")
    return float((2 * tol * values[0] / (values[k - 1] - values[k])) ** 2)


def polarity_predictions(tests: Sequence[Polarity]) -> dict[str, bool]:
    """Theorem G2 in several networks, each displaced by the same distances, ascending.

    ``opposite``: at the smallest distance the cosine of the two rotations is below -0.9, in every
    network; ``first-order``: the error of the prediction x * rho grows with the distance over the
    three smallest; ``decays``: at the largest distance the rotations are less opposite.
    """
    cosine = np.array([test.cosine for test in tests])
    deviation = np.array([test.deviation.max(axis=0) for test in tests])
    return {
        "opposite": bool(np.all(cosine[:, 0] < -0.9)),
        "first-order": bool(np.all(np.diff(deviation[:, :3], axis=1) > 0)),
        "decays": bool(np.all(cosine[:, -1] > cosine[:, 0])),
    }
