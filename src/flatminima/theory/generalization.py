r"""What flatness can prove about new data: a trace, a norm, and two bounds (Theorem M7).

For a two-layer ReLU network f(x) = sum_j a_j max(<w_j, x>, 0) with the squared loss, the trace of
the Hessian where f fits the data is

.. math:: \operatorname{tr} H = \frac1n \sum_{i=1}^n \lVert\nabla_\theta f(x_i)\rVert^2 ,

and it is bounded below by norms that rescaling a unit cannot change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from flatminima._validation import (
    LARGEST,
    broadcast,
    finite_array,
    nonnegative_array,
    positive_float,
    positive_int,
    shown,
)

__all__ = ["ReluFlatness", "l1_gap", "pac_bayes_bound", "relu_flatness"]


class ReluFlatness(NamedTuple):
    """Three measures of a two-layer ReLU network, from the largest to the smallest.

    Example:
        >>> found = relu_flatness([1.0], [[3.0, 0.0]], [[1.0, 0.0], [1.0, 2.0]])
        >>> bool(found.trace >= found.least_trace >= found.path_norm)
        True
    """

    trace: np.ndarray
    """tr H where the network fits the data; elsewhere the trace of the Gauss-Newton part."""
    least_trace: np.ndarray
    """The least trace that rescaling each unit by itself can reach."""
    path_norm: np.ndarray
    """The mean over the examples of 2 sum_j |a_j| max(<w_j, x>, 0) |x|."""


def relu_flatness(outer: object, inner: object, inputs: object) -> ReluFlatness:
    """Measure f(x) = sum_j a_j max(<w_j, x>, 0) on n inputs.

    ``outer`` a has shape (..., width), ``inner`` w (..., width, d) and ``inputs`` (n, d); results
    (...). A bias is a weight of a constant input. ValueError for shapes that do not match.

    Example:
        One unit: rescaling by c = 1/2 makes it flatter, and leaves the other two alone.

        >>> x = [[1.0, 0.0], [1.0, 2.0]]
        >>> [float(number.round(3)) for number in relu_flatness([1.0], [[2.0, 0.0]], x)]
        [7.0, 6.928, 6.472]
        >>> [float(number.round(3)) for number in relu_flatness([2.0], [[1.0, 0.0]], x)]
        [13.0, 6.928, 6.472]
    """
    a, w = finite_array("outer", outer), finite_array("inner", inner)
    x = finite_array("inputs", inputs)
    if x.ndim != 2 or 0 in x.shape or a.ndim < 1 or w.shape != (*a.shape, x.shape[1]):
        raise ValueError(
            "outer must have shape (..., width), inner (..., width, d) and inputs (n, d), "
            f"got {a.shape}, {w.shape} and {x.shape}"
        )
    z = w @ x.T
    norms = np.linalg.norm(x, axis=1)
    features = np.maximum(z, 0)
    first = np.mean(features**2, axis=-1)
    second = a**2 * np.mean((z > 0) * norms**2, axis=-1)
    return ReluFlatness(
        trace=np.sum(first + second, axis=-1),
        least_trace=2 * np.sum(np.sqrt(first * second), axis=-1),
        path_norm=2 * np.sum(np.abs(a) * np.mean(features * norms, axis=-1), axis=-1),
    )


def l1_gap(
    trace: object, second_moments: object, examples: int, confidence: float, lipschitz: float = 1.0
) -> np.ndarray:
    """Bound test minus training loss of a diagonal network of depth 2 by its trace (M7).

    For a loss with values in [0, 1] that is ``lipschitz`` in the output; ``trace`` is tr H > 0,
    shape (...), ``second_moments`` the diagonal C_kk > 0 of X^T X / n, shape (m,), ``examples`` n.
    The bound holds for all parameters at once with probability ``confidence`` in (0, 1).

    Example:
        >>> bounds = l1_gap([2.0, 20.0], np.ones(100), 10_000, 0.95)
        >>> bounds.round(2).tolist()  # vacuous from 1 on
        [0.11, 1.1]
    """
    trace, moments = finite_array("trace", trace), finite_array("second_moments", second_moments)
    if np.any(trace < 1 / LARGEST):
        raise ValueError(f"trace must be positive, got {shown(trace)}")
    if moments.ndim != 1 or not moments.size or np.any(moments < 1 / LARGEST):
        raise ValueError(f"second_moments must be positive, of shape (m,), got {shown(moments)}")
    n, delta = positive_int("examples", examples), _failure(confidence)
    # The l1 norm of the weights is at most trace / (2 min C_kk); the next power of two above it.
    level = np.ceil(np.log2(trace / (2 * moments.min())))
    complexity = 2.0**level * np.sqrt(2 * moments.max() * np.log(2 * len(moments)) / n)
    share = delta / (3 * (1 + np.abs(level)) ** 2)
    slack = 3 * np.sqrt(np.log(2 / share) / (2 * n))
    return 2 * positive_float("lipschitz", lipschitz) * complexity + slack


def pac_bayes_bound(
    training: object, divergence: object, examples: int, confidence: float
) -> np.ndarray:
    """Return the largest q with kl(training, q) <= (divergence + log(2 sqrt n / delta)) / n.

    This is the PAC-Bayes bound on the expected loss in [0, 1] of a random network: ``training`` is
    its mean loss on the n >= 8 ``examples``, ``divergence`` the Kullback-Leibler divergence of its
    law from one that does not depend on them, delta = 1 - ``confidence`` (Maurer 2004). Arguments
    broadcast.

    Example:
        >>> pac_bayes_bound(0.1, [10.0, 1000.0], 1000, 0.95).round(2).tolist()
        [0.16, 0.77]
    """
    p, kl = broadcast(
        training=nonnegative_array("training", training),
        divergence=nonnegative_array("divergence", divergence),
    )
    if np.any(p > 1):
        raise ValueError(f"training must be at most 1, got {shown(p)}")
    n = positive_int("examples", examples, 8)
    level = (kl + np.log(2 * np.sqrt(n) / _failure(confidence))) / n
    low, high = p.astype(float), np.ones(p.shape)
    # kl(p, q) increases for q >= p: 60 bisections leave an interval below the rounding of 1.
    for _ in range(60):
        q = (low + high) / 2
        inside = rel_entr(p, q) + rel_entr(1 - p, 1 - q) <= level
        low, high = np.where(inside, q, low), np.where(inside, high, q)
    return high


def _failure(confidence: float) -> float:
    confidence = positive_float("confidence", confidence)
    if confidence >= 1:
        raise ValueError(f"confidence must be less than 1, got {confidence!r}")
    return 1 - confidence
