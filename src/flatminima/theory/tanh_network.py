"""A small tanh network for regression, with every derivative of its loss up to the fourth exact.

The network has one hidden layer, f(x) = sum_j a_j tanh(w_j . x + b_j), and the loss is the halved
mean square of its residuals. A hidden unit's output depends on its own parameters alone, so the
derivatives of f are written down unit by unit, and those of the loss follow by the product rule.
The tensors have n^2, n^3 and n^4 entries: this is for n of a few dozen parameters, where exactness
matters more than size. The book checks its statements on general losses (G1 to G5) on it.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from flatminima._validation import LARGEST, finite_array, positive_float, positive_int

__all__ = ["TanhNetwork"]


class TanhNetwork:
    r"""Loss L(theta) = 1/(2m) sum_i (f(x_i) - y_i)^2 of a tanh network on m examples.

    The parameters of hidden unit j stand together in theta, as (a_j, b_j, w_j1, ..., w_jd), so
    theta has width * (d + 2) entries.

    ``width`` is the number of hidden units, ``inputs`` (m, d), or (m,) for d = 1, and ``targets``
    (m,). ValueError for a width < 1, non-finite data, or shapes that do not match.

    Example:
        >>> network = TanhNetwork(2, [0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
        >>> [tensor.shape for tensor in network.derivatives(np.ones(network.size), 3)]
        [(6,), (6, 6), (6, 6, 6)]
    """

    def __init__(self, width: int, inputs: object, targets: object) -> None:
        self.width = positive_int("width", width)
        inputs, self.targets = finite_array("inputs", inputs), finite_array("targets", targets)
        inputs = inputs[:, None] if inputs.ndim == 1 else inputs
        if inputs.ndim != 2 or 0 in inputs.shape or self.targets.shape != inputs.shape[:1]:
            raise ValueError(
                "inputs must have shape (m, d) and targets (m,) with m, d >= 1, "
                f"got {inputs.shape} and {self.targets.shape}"
            )
        # A constant input of one turns the bias into a weight.
        self._inputs = np.column_stack([np.ones(len(inputs)), inputs])
        self._inputs.setflags(write=False)

    @property
    def size(self) -> int:
        """The number of parameters, width * (d + 2)."""
        return self.width * (self._inputs.shape[1] + 1)

    def _parameters(self, name: str, value: object) -> np.ndarray:
        theta = finite_array(name, value)
        if theta.shape != (self.size,):
            raise ValueError(f"{name} must have shape ({self.size},), got {theta.shape}")
        return theta

    def _units(self, theta: object) -> tuple[np.ndarray, np.ndarray]:
        """Outer weights (width,) and preactivations (m, width)."""
        theta = self._parameters("theta", theta)
        units = theta.reshape(self.width, -1)
        return units[:, 0], self._inputs @ units[:, 1:].T

    def residual(self, theta: object) -> np.ndarray:
        """Residuals f(x_i) - y_i, shape (m,)."""
        outer, z = self._units(theta)
        return np.tanh(z) @ outer - self.targets

    def loss(self, theta: object) -> float:
        """The loss, a number >= 0."""
        return float(np.mean(self.residual(theta) ** 2) / 2)

    def gradient(self, theta: object) -> np.ndarray:
        """Gradient of the loss, shape (n,)."""
        return self.derivatives(theta, 1)[0]

    def hessian(self, theta: object) -> np.ndarray:
        """Hessian of the loss, shape (n, n)."""
        return self.derivatives(theta, 2)[1]

    def derivatives(self, theta: object, order: int = 4) -> tuple[np.ndarray, ...]:
        """The derivative tensors of the loss at theta, from the gradient to order 1, 2, 3 or 4.

        Symmetric arrays of shapes (n,), (n, n), (n, n, n) and (n, n, n, n), as many as asked.
        ValueError for a theta of the wrong shape or another order.
        """
        order = positive_int("order", order, maximum=4)
        f = [self.residual(theta), *(self._model(theta, k) for k in range(1, order + 1))]
        # Leibniz: the k-th derivative of r^2 / 2 is half the sum, over all ways to share k indices
        # out to two factors, of the products of their derivatives.
        result = []
        for k in range(1, order + 1):
            total = np.zeros((self.size,) * k)
            for j in range(k + 1):
                product = _mean_product(f[j], f[k - j])
                for first in combinations(range(k), j):
                    axes = (*first, *(i for i in range(k) if i not in first))
                    total += np.transpose(product, np.argsort(axes)) / 2
            result.append(total)
        return tuple(result)

    def _model(self, theta: object, order: int) -> np.ndarray:
        """The order-th derivative tensor of f at every example, shape (m, n, ..., n)."""
        outer, z = self._units(theta)
        m, inner = self._inputs.shape
        slopes = _tanh_derivatives(z, order)
        # The inputs, shaped to multiply a tensor with one more axis each time.
        factors = [self._inputs.reshape(m, *[1] * k, inner) for k in range(order)]
        power = np.ones(m)
        for factor in factors[:-1]:
            power = power[..., None] * factor
        tensor = np.zeros((m, *[self.size] * order))
        weights = [slice(None), *[slice(1, None)] * order]
        for j in range(self.width):
            block = np.zeros((m, *[inner + 1] * order))
            before, after = (s[:, j].reshape(m, *[1] * (order - 1)) for s in slopes[order - 1 :])
            # One index at a_j, the others at the weights; f is linear in a_j.
            for axis in range(1, order + 1):
                block[(*weights[:axis], 0, *weights[axis + 1 :])] = before * power
            block[tuple(weights)] = (outer[j] * after * power)[..., None] * factors[-1]
            own = slice(j * (inner + 1), (j + 1) * (inner + 1))
            tensor[(slice(None), *[own] * order)] = block
        return tensor

    def descend(self, start: object, learning_rate: float, steps: int) -> np.ndarray:
        """The iterates of gradient descent, shape (steps + 1, n); NaN from divergence on.

        Example:
            >>> network = TanhNetwork(1, [0.0, 1.0], [0.0, 0.5])
            >>> [round(network.loss(theta), 3) for theta in network.descend(np.ones(3), 0.5, 3)]
            [0.199, 0.083, 0.044, 0.03]
        """
        rate = positive_float("learning_rate", learning_rate)
        path = np.full((positive_int("steps", steps) + 1, self.size), np.nan)
        path[0] = self._parameters("start", start)
        with np.errstate(over="ignore", invalid="ignore"):
            for t in range(steps):
                theta = path[t] - rate * self.gradient(path[t])
                if not np.all(np.abs(theta) <= LARGEST):
                    break
                path[t + 1] = theta
        return path


def _mean_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean over the examples (first axis) of the outer products of two tensors."""
    m = len(a)
    product = a.reshape(m, -1).T @ b.reshape(m, -1) / m
    return product.reshape(a.shape[1:] + b.shape[1:])


def _tanh_derivatives(z: np.ndarray, order: int) -> list[np.ndarray]:
    """tanh and its derivatives up to the given order (at most 4), by t' = 1 - t^2."""
    t = np.tanh(z)
    d = 1 - t**2
    return [t, d, -2 * t * d, d * (6 * t**2 - 2), t * d * (16 - 24 * t**2)][: order + 1]
