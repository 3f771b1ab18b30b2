r"""Backward error analysis: which flow gradient descent follows, and where none will do (B1).

To the first order in eta beyond gradient flow, a step is that of the flow of the modified loss

.. math:: \tilde L = L + \tfrac\eta4 \lVert \nabla L\rVert^2

over the time eta (Barrett and Dherin 2021; Hairer, Lubich and Wanner 2006). On a quadratic all
orders are known, and they say where the expansion ends.
"""

from __future__ import annotations

import numpy as np

from flatminima._validation import (
    checked_rates,
    common_shape,
    finite_array,
    nonnegative_array,
    positive_int,
)

__all__ = ["modified_factor", "modified_gradient"]


def modified_gradient(gradient: object, hessian: object, learning_rate: object) -> np.ndarray:
    """Return the gradient of L + (eta/4) |grad L|^2, which is g + (eta/2) H g, shape (..., p).

    ``gradient`` has shape (..., p), ``hessian`` (..., p, p), ``learning_rate`` broadcasts against
    (...). ValueError for other shapes or a learning rate <= 0.

    Example:
        >>> modified_gradient([1.0, 2.0], [[2.0, 0.0], [0.0, 1.0]], 0.5).tolist()
        [1.5, 2.5]
    """
    g, h = finite_array("gradient", gradient), finite_array("hessian", hessian)
    if g.ndim < 1 or h.shape[-2:] != (g.shape[-1],) * 2:
        raise ValueError(
            "gradient must have shape (..., p) and hessian (..., p, p), "
            f"got {g.shape} and {h.shape}"
        )
    rates = checked_rates(learning_rate)
    common_shape(gradient=g.shape[:-1], hessian=h.shape[:-2], learning_rate=rates.shape)
    half = rates[..., None] / 2
    return g + half * np.einsum("...ij,...j->...i", h, g)


def modified_factor(product: object, order: int) -> np.ndarray:
    """Return exp(-sum_{k=1}^order (eta lambda)^k / k), for eta lambda = ``product`` >= 0.

    By it the flow that agrees with gradient descent to this ``order`` >= 1 multiplies a coordinate
    of a quadratic in one step; order 1 is gradient flow and order 2 the flow of the modified loss.
    As the order grows it tends to the true factor 1 - eta lambda, if and only if eta lambda <= 1.

    Example:
        >>> modified_factor([0.5, 2.5], 2).round(4).tolist()  # gradient descent has 0.5, -1.5
        [0.5353, 0.0036]
    """
    x = nonnegative_array("product", product)
    powers = np.arange(1, positive_int("order", order, maximum=1000) + 1)
    with np.errstate(over="ignore"):
        return np.exp(-np.sum(x[..., None] ** powers / powers, axis=-1))
