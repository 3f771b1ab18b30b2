r"""Logistic loss on separable data: gradient descent that has no minimum to go to (Theorem L1).

With z_i = y_i x_i, the inputs times their labels +1 and -1, the loss of a linear classifier is

.. math:: L(w) = \frac1n \sum_{i=1}^n \log\big(1 + e^{-\langle z_i, w\rangle}\big) .

If some w has all margins <z_i, w> positive, L has no minimizer, and its sharpness tends to zero
with it. There is one layer, and the eigenvectors of the Hessian turn all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, lambertw

from flatminima._validation import (
    checked_rates,
    common_shape,
    finite_array,
    positive_float,
    positive_int,
    shown,
)

__all__ = ["LogisticLoss"]


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """The mean of log(1 + exp(-<z_i, w>)) over n examples; ``examples`` z has shape (n, d).

    Weights have shape (..., d), and everything is batched over the leading axes. ValueError for
    examples that are not a table of numbers, or all zero.

    Example:
        >>> loss = LogisticLoss([[1.0, 0.0], [1.0, 1.0]])
        >>> float(loss.loss([0.0, 0.0]).round(6))  # log 2
        0.693147
    """

    examples: np.ndarray

    def __post_init__(self) -> None:
        examples = finite_array("examples", self.examples).copy()
        if examples.ndim != 2 or not np.any(examples):
            raise ValueError(
                f"examples must have shape (n, d) and not be zero, got {shown(self.examples)}"
            )
        examples.flags.writeable = False
        object.__setattr__(self, "examples", examples)

    @property
    def radius(self) -> float:
        """R, the largest norm of an example."""
        return float(np.linalg.norm(self.examples, axis=1).max())

    def margins(self, weights: object) -> np.ndarray:
        """Return <z_i, w>, shape (..., n)."""
        return self._vectors("weights", weights) @ self.examples.T

    def _vectors(self, name: str, value: object) -> np.ndarray:
        array, d = finite_array(name, value), self.examples.shape[1]
        if array.shape[-1:] != (d,):
            raise ValueError(f"{name} must have shape (..., {d}), got {array.shape}")
        return array

    def loss(self, weights: object) -> np.ndarray:
        """Return L, shape (...)."""
        return np.logaddexp(0, -self.margins(weights)).mean(axis=-1)

    def gradient(self, weights: object) -> np.ndarray:
        """Return the gradient, shape (..., d)."""
        return self._pull(self.margins(weights))

    def _pull(self, margins: np.ndarray) -> np.ndarray:
        """The gradient where the margins are these."""
        return -expit(-margins) @ self.examples / len(self.examples)

    def hessian(self, weights: object) -> np.ndarray:
        """Return the mean of s(m)s(-m) z z^T with s the logistic function, shape (..., d, d)."""
        m = self.margins(weights)
        slopes = expit(m) * expit(-m) / len(self.examples)
        return np.einsum("...i,ij,ik->...jk", slopes, self.examples, self.examples)

    def sharpness(self, weights: object) -> np.ndarray:
        """Return the largest eigenvalue of the Hessian, shape (...); it is at most R^2 L."""
        return np.linalg.eigvalsh(self.hessian(weights))[..., -1]

    def settles_below(self, learning_rate: object) -> np.ndarray:
        """Return the loss from which on gradient descent is stable for good (Theorem L1).

        It is W(2) / (eta R^2), where W(2) = 0.8526... solves x e^x = 2.

        Example:
            >>> float(LogisticLoss([[1.0]]).settles_below(10.0).round(4))
            0.0853
        """
        return lambertw(2).real / (checked_rates(learning_rate) * self.radius**2)

    def average_bound(
        self, start: object, direction: object, learning_rate: float, steps: object
    ) -> np.ndarray:
        """Bound the mean of the losses of the first ``steps`` iterates >= 1 (Theorem L1).

        ``direction`` is a vector with all margins positive; ValueError if one is not. The
        comparison point of the bound is s times the unit vector along it, with
        s = log(1 + eta gamma^2 t) / gamma and gamma its smallest margin.

        Example:
            >>> loss = LogisticLoss([[1.0, 0.0], [1.0, 1.0]])
            >>> loss.average_bound([0, 0], [1, 0], 100.0, [1_000, 1_000_000]).round(4).tolist()
            [0.0622, 0.0001]
        """
        eta = positive_float("learning_rate", learning_rate)
        steps = finite_array("steps", steps)
        if np.any(steps < 1):
            raise ValueError(f"steps must be at least 1, got {shown(steps)}")
        unit, start = self._vectors("direction", direction), self._vectors("start", start)
        if unit.ndim != 1 or not np.any(unit):
            raise ValueError(f"direction must be one vector, not zero, got {shown(unit)}")
        common_shape(start=start.shape[:-1], steps=steps.shape)
        unit = unit / np.linalg.norm(unit)
        gamma = float(self.margins(unit).min())
        if not gamma > 0:
            raise ValueError(f"direction must have positive margins, the smallest is {gamma}")
        near = np.log1p(eta * gamma**2 * steps) / gamma
        target = (near + eta * self.radius**2 / (2 * gamma))[..., None] * unit
        distance = np.sum((start - target) ** 2, axis=-1)
        return np.log1p(np.exp(-gamma * near)) + distance / (2 * eta * steps)

    def descend(self, start: object, learning_rate: object, steps: int) -> np.ndarray:
        """Return the iterates, shape (steps + 1, ..., d); rates broadcast against the batch axes.

        Example:
            The loss rises, and from 0.0082 on it falls for good:

            >>> loss = LogisticLoss([[1.0, 0.2], [-0.5, 0.2]])
            >>> loss.loss(loss.descend([0.0, 0.0], 100.0, 6)).round(3).tolist()
            [0.693, 2.132, 4.088, 6.473, 0.096, 0.008, 0.007]
        """
        start, rates = self._vectors("start", start), checked_rates(learning_rate)
        batch = common_shape(start=start.shape[:-1], learning_rate=rates.shape)
        path = np.empty((positive_int("steps", steps) + 1, *batch, start.shape[-1]))
        path[0] = start
        for t in range(steps):
            path[t + 1] = path[t] - rates[..., None] * self._pull(path[t] @ self.examples.T)
        return path
