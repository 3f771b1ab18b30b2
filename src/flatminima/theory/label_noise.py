r"""What label noise does to the imbalance of a scalar network of depth 2 (Proposition D10).

With noise xi on the residual, a step multiplies the imbalance kappa by 1 - eta^2 (r + xi)^2. The
part of eta^2 (r + xi)^2 that is r^2 is the residual's share, xi^2 the noise's, 2 r xi the cross
term. The residual's share is an instability's only as far as the noise did not excite the residual:
below the threshold it is an echo of the noise, of known size (Proposition "rate of label noise").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    LARGEST,
    broadcast,
    checked_rates,
    finite_array,
    finite_float,
    nonnegative_array,
    positive_float,
    shown,
)

__all__ = ["Shares", "flattening_rate", "split_flattening", "steps_to_imbalance"]


class Shares(NamedTuple):
    """Three terms that add up to what :func:`split_flattening` splits, each of batch shape.

    Example:
        >>> float(Shares(np.array(3.0), np.array(1.0), np.array(-0.5)).total)
        3.5
    """

    residual: np.ndarray
    noise: np.ndarray
    cross: np.ndarray

    @property
    def total(self) -> np.ndarray:
        return self.residual + self.noise + self.cross


def split_flattening(
    residuals: object, noise: object, learning_rate: object, imbalance: object = 1.0
) -> Shares:
    """Split the flattening of a run into the residual's share, the noise's, and the cross term.

    Without ``imbalance`` the sum of eta^2 (r_t + xi_t)^2 is split, the budget. With the
    imbalances kappa_t each step is weighted by its own, and the shares add up to
    kappa_0 - kappa_T exactly (Proposition D10).

    ``residuals`` (steps, ...) are r_t at each point from which a step was taken (for several
    features at depth 2, the weight gradient without noise), ``noise`` xi_t and ``imbalance``
    kappa_t; all broadcast. ValueError for a missing time axis or values out of range.

    Example:
        >>> shares = split_flattening([1.0, -1.0], [0.5, 0.5], 0.1)
        >>> [float(share.round(6)) for share in shares]
        [0.02, 0.005, 0.0]
    """
    residuals, noise = finite_array("residuals", residuals), finite_array("noise", noise)
    if residuals.ndim == 0:
        raise ValueError("residuals must have a time axis first, got a number")
    residuals, noise, rates, kappa = broadcast(
        residuals=residuals,
        noise=noise,
        learning_rate=checked_rates(learning_rate),
        imbalance=finite_array("imbalance", imbalance),
    )
    weight = rates**2 * kappa
    terms = (residuals**2, noise**2, 2 * residuals * noise)
    return Shares(*(np.sum(weight * term, axis=0) for term in terms))


def flattening_rate(sharpness: object, label_noise: object, learning_rate: object) -> np.ndarray:
    """Expected fall of log |kappa| per step near a minimum, to leading order in the noise.

    It is 2 eta^2 sigma^2 / (2 - eta s), of which eta^2 sigma^2 is the noise's own share.
    ``sharpness`` s >= 0 of the minimum, ``label_noise``, the standard deviation sigma >= 0, and
    ``learning_rate`` broadcast. ValueError for arguments out of range, among them eta s >= 2.

    Example:
        In units of the noise's own share; half way to the threshold the echo is as large:

        >>> (flattening_rate([0.0, 1.0, 1.8], 0.1, 1.0) / 0.1**2).round(6).tolist()
        [1.0, 2.0, 10.0]
    """
    s, sigma, eta = broadcast(
        sharpness=nonnegative_array("sharpness", sharpness),
        label_noise=nonnegative_array("label_noise", label_noise),
        learning_rate=checked_rates(learning_rate),
    )
    if np.any(eta * s >= 2):
        raise ValueError(
            f"sharpness must be below 2 / learning_rate, got {shown(s)} and {shown(eta)}"
        )
    return 2 * eta**2 * sigma**2 / (2 - eta * s)


def steps_to_imbalance(
    kappa: object, start: float, target: float, label_noise: float, learning_rate: float
) -> np.ndarray:
    """Steps that label noise needs to bring the imbalance from ``start`` to ``kappa`` on average.

    Integrates the rate of :func:`flattening_rate` as the minimum moves, s = sqrt(kappa^2 + 4 y^2).
    ``kappa`` holds imbalances in (0, start], in any shape, where eta s < 2 at the start, and
    ``label_noise`` sigma > 0; ValueError otherwise.

    Example:
        >>> float(steps_to_imbalance(1.0, 2.0, 0.5, 0.1, 0.5).round())  # to halve an imbalance of 2
        155.0
    """
    kappa, start = finite_array("kappa", kappa), positive_float("start", start)
    if np.any(kappa < 1 / LARGEST) or np.any(kappa > start):
        raise ValueError(f"kappa must lie in (0, start], got {shown(kappa)} with start {start!r}")
    y = abs(finite_float("target", target))
    label_noise = positive_float("label_noise", label_noise)
    learning_rate = positive_float("learning_rate", learning_rate)
    if learning_rate * np.hypot(start, 2 * y) >= 2:
        raise ValueError(
            "learning_rate times the sharpness at the start must be below 2, got "
            f"learning_rate {learning_rate}, start {start} and target {target}"
        )

    def integral(k: np.ndarray | float) -> np.ndarray:
        s = np.hypot(k, 2 * y)
        # The integral of s / k is s + y log((s - 2y)/(s + 2y)), and the fraction k^2/(s + 2y)^2,
        # which is no difference of nearly equal numbers.
        return s + 2 * y * np.log(k / (s + 2 * y))

    logs = 2 * np.log(start / kappa)
    curved = learning_rate * (integral(start) - integral(kappa))
    return (logs - curved) / (2 * learning_rate**2 * label_noise**2)
