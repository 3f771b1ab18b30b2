r"""Matrix networks: two layers of any width, and what their imbalance does (M5).

The network multiplies two matrices and is trained on a third:

.. math:: L(U, V) = \tfrac12 \lVert G \rVert_F^2, \qquad G = U V^\top - Y,

with U of shape (a, k), V of shape (b, k) and k the width. Parameters are U above V, an array of
shape (..., a + b, k), and everything is batched over the leading axes. Parameters with a NaN, as
:meth:`MatrixNetwork.descend` records after divergence, give NaN. At a = b = 1 the output is an
inner product of two vectors, and each run is one of a scalar network of depth 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flatminima._validation import checked_rates, common_shape, finite_array, positive_int, shown
from flatminima.theory import _descent

__all__ = ["MatrixNetwork", "MatrixTrajectory"]

_FARTHEST = 100
"""The largest stretch of a minimum, by the factor e^100."""


@dataclass(frozen=True, eq=False)
class MatrixNetwork:
    """L(U, V) = ||U V^T - Y||_F^2 / 2 for a target Y of shape (a, b), a width k >= 1.

    ValueError for a target that is not a matrix of finite numbers, or a width below 1.

    Example:
        Two layers that share the weights evenly are as flat as it gets:

        >>> network = MatrixNetwork([[4.0, 0.0], [0.0, 1.0]], width=2)
        >>> even, uneven = network.minimum([0.0, 0.0]), network.minimum([0.5, 0.0])
        >>> network.sharpness([even, uneven]).round(2).tolist(), network.flattest_sharpness
        ([8.0, 12.34], 8.0)
    """

    target: np.ndarray
    width: int

    def __post_init__(self) -> None:
        target = finite_array("target", self.target).copy()
        if target.ndim != 2 or target.size == 0:
            raise ValueError(f"target must be a matrix, got shape {target.shape}")
        target.flags.writeable = False
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "width", positive_int("width", self.width))

    def factors(self, theta: object) -> tuple[np.ndarray, np.ndarray]:
        """Return U, shape (..., a, k), and V, shape (..., b, k)."""
        theta = self._parameters(theta)
        rows = self.target.shape[0]
        return theta[..., :rows, :], theta[..., rows:, :]

    def residual(self, theta: object) -> np.ndarray:
        """Return G = U V^T - Y, shape (..., a, b)."""
        first, second = self.factors(theta)
        return first @ _transposed(second) - self.target

    def loss(self, theta: object) -> np.ndarray:
        """Return half the sum of the squared entries of G, shape (...)."""
        return np.sum(self.residual(theta) ** 2, axis=(-2, -1)) / 2

    def gradient(self, theta: object) -> np.ndarray:
        """Return G V above G^T U, shape (..., a + b, k)."""
        return _applied(self.residual(theta), *self.factors(theta))

    def hessian_product(self, theta: object, direction: object) -> np.ndarray:
        """Return the Hessian at theta times a direction; both broadcast to (..., a + b, k)."""
        theta, direction = self._parameters(theta), self._parameters(direction, "direction")
        common_shape(theta=theta.shape[:-2], direction=direction.shape[:-2])
        first, second = self.factors(theta)
        turned, bent = self.factors(direction)
        change = turned @ _transposed(second) + first @ _transposed(bent)
        return _applied(change, first, second) + _applied(self.residual(theta), turned, bent)

    def hessian(self, theta: object) -> np.ndarray:
        """Return the Hessian, shape (..., n, n) with n = (a + b) k, theta flattened in C order."""
        theta = self._parameters(theta)
        shape = theta.shape[-2:]
        size = shape[0] * shape[1]
        basis = np.eye(size).reshape(size, *shape)
        columns = self.hessian_product(theta[..., None, :, :], basis)
        return columns.reshape(*theta.shape[:-2], size, size)

    def eigenvalues(self, theta: object) -> np.ndarray:
        """Return the Hessian's eigenvalues in decreasing order, shape (..., (a + b) k)."""
        return _descent.eigenvalues(self.hessian(theta))

    def sharpness(self, theta: object) -> np.ndarray:
        """Return the largest Hessian eigenvalue lambda_1, shape (...)."""
        return self.eigenvalues(theta)[..., 0]

    def minimum_eigenvalues(self, theta: object) -> np.ndarray:
        """Return all sigma_i(U)^2 + sigma_j(V)^2, in decreasing order, shape (..., a b).

        Where G = 0 these are the Hessian's eigenvalues, but for zeros (M5); elsewhere those of its
        Gauss-Newton part.
        """
        first, second = map(_row_squares, self.factors(theta))
        sums = first[..., :, None] + second[..., None, :]
        return -np.sort(-sums.reshape(*sums.shape[:-2], self.target.size), axis=-1)

    @property
    def flattest_sharpness(self) -> float:
        """2 ||Y||_2, below which no point with G = 0 has its sharpness (M5)."""
        return float(2 * np.linalg.norm(self.target, 2))

    def minimum(self, stretch: object, turn: object = None) -> np.ndarray:
        """Return a point with U V^T = Y and given singular values, shape (..., a + b, k).

        With Y = P S Q^T, it is U = P S^(1/2) e^stretch R^T and V = Q S^(1/2) e^-stretch R^T:
        the squared singular values are s_i e^(2 stretch_i) in U and s_i e^(-2 stretch_i) in V.

        Args:
            stretch: shape (..., min(a, b)).
            turn: R, orthonormal columns, shape (..., k, min(a, b)); None for those of the identity.

        ValueError for other shapes, columns that are not orthonormal, or a width below min(a, b).
        """
        left, values, right = np.linalg.svd(self.target, full_matrices=False)
        count, stretch = len(values), finite_array("stretch", stretch)
        if self.width < count:
            raise ValueError(f"minimum needs a width of at least {count}, got {self.width}")
        if stretch.shape[-1:] != (count,) or np.any(np.abs(stretch) > _FARTHEST):
            raise ValueError(
                f"stretch must have shape (..., {count}) and entries between -{_FARTHEST} and "
                f"{_FARTHEST}, got {shown(stretch)}"
            )
        turn = np.eye(self.width, count) if turn is None else finite_array("turn", turn)
        if turn.shape[-2:] != (self.width, count):
            raise ValueError(f"turn must have shape (..., {self.width}, {count}), got {turn.shape}")
        common_shape(stretch=stretch.shape[:-1], turn=turn.shape[:-2])
        # Columns orthonormal to rounding differ from it by a few eps a product, k products.
        if np.abs(_transposed(turn) @ turn - np.eye(count)).max() > 1e-12 * self.width:
            raise ValueError("turn must have orthonormal columns")
        scaled = np.exp(stretch)[..., None, :]
        first = (left * np.sqrt(values) * scaled) @ _transposed(turn)
        second = (right.T * np.sqrt(values) / scaled) @ _transposed(turn)
        return np.concatenate([first, second], axis=-2)

    def imbalance(self, theta: object) -> np.ndarray:
        """Return Delta = V^T V - U^T U, which gradient flow keeps, shape (..., k, k)."""
        first, second = self.factors(theta)
        return _transposed(second) @ second - _transposed(first) @ first

    def imbalance_size(self, theta: object) -> np.ndarray:
        """Return the nuclear norm of :meth:`imbalance`, shape (...): |kappa| at a = b = k = 1."""
        return np.abs(_descent.eigenvalues(self.imbalance(theta))).sum(axis=-1)

    def imbalance_change(self, theta: object, learning_rate: object) -> np.ndarray:
        """Return what one step adds to Delta, eta^2 (U^T G G^T U - V^T G^T G V), (..., k, k).

        ``learning_rate`` broadcasts against the batch axes.
        """
        upper, lower = self.factors(self.gradient(theta))
        rates = checked_rates(learning_rate)
        common_shape(theta=upper.shape[:-2], learning_rate=rates.shape)
        return rates[..., None, None] ** 2 * (
            _transposed(lower) @ lower - _transposed(upper) @ upper
        )

    def twin(self, theta: object) -> np.ndarray:
        """Return the point (a, b) of the scalar network that runs as theta does, shape (..., 2).

        Defined for a 1 x 1 target (M5): b + a = ||u + v|| and b - a = ||u - v||, so that ab is the
        output, a^2 + b^2 is ||u||^2 + ||v||^2, and kappa is the nuclear norm of Delta.
        ValueError for a larger target.

        Example:
            >>> network = MatrixNetwork([[1.0]], 2)
            >>> network.twin([[1.0, 0.0], [0.6, 0.8]]).round(4).tolist()
            [0.4472, 1.3416]
        """
        if self.target.shape != (1, 1):
            raise ValueError(f"twin needs a target of shape (1, 1), got {self.target.shape}")
        first, second = self.factors(theta)
        total = np.linalg.norm(first + second, axis=(-2, -1))
        gap = np.linalg.norm(first - second, axis=(-2, -1))
        return np.stack([total - gap, total + gap], axis=-1) / 2

    def descend(
        self, start: object, learning_rate: object, steps: int, record_every: int | None = 1
    ) -> MatrixTrajectory:
        """Run gradient descent from a whole batch of starts at once.

        Args:
            start: parameters of shape (..., a + b, k).
            learning_rate: eta > 0; broadcasts against the batch axes of ``start``.
            steps: number of steps >= 1.
            record_every: record every so many steps, and the start and the end; None records
                these two alone.

        ValueError for arguments of the wrong shape or range.

        Example:
            Past the threshold, 2 / eta = 10, the run ends flatter:

            >>> network = MatrixNetwork([[4.0, 0.0], [0.0, 1.0]], width=2)
            >>> run = network.descend(network.minimum([0.5, 0.0]) + 1e-3, 0.2, 300)
            >>> network.sharpness(run.theta[[0, -1]]).round(1).tolist()
            [12.4, 8.9]
        """
        plan = _descent.prepare(
            self._parameters(start, "start"), 2, learning_rate, steps, None, None, record_every
        )
        theta = np.empty((len(plan.times), *plan.start.shape))
        theta[0] = plan.start
        rates = plan.rates[:, None, None]

        def advance(point: np.ndarray, first: int, last: int) -> np.ndarray:
            for _ in range(first, last):
                point = point - rates * self._gradient(point)
            return point

        _descent.carry(theta, plan.times, advance, self._size)
        return MatrixTrajectory(
            network=self,
            steps=plan.times,
            theta=plan.unfold(theta),
            diverged=np.isnan(theta[-1, :, 0, 0]).reshape(plan.batch),
        )

    def _parameters(self, theta: object, name: str = "theta") -> np.ndarray:
        return _descent.parameters(theta, (sum(self.target.shape), self.width), name)

    def _gradient(self, theta: np.ndarray) -> np.ndarray:
        rows = self.target.shape[0]
        first, second = theta[..., :rows, :], theta[..., rows:, :]
        return _applied(first @ _transposed(second) - self.target, first, second)

    def _size(self, theta: np.ndarray) -> np.ndarray:
        rows = self.target.shape[0]
        residual = theta[..., :rows, :] @ _transposed(theta[..., rows:, :]) - self.target
        return np.sum(residual**2, axis=(-2, -1))


@dataclass(frozen=True, eq=False)
class MatrixTrajectory:
    """What :meth:`MatrixNetwork.descend` returns; time first, then the batch axes.

    ``theta`` is (times, ..., a + b, k) and NaN once a trajectory has diverged, as is what is
    computed from it on first use. ``steps`` and ``diverged`` are as in
    :class:`~flatminima.theory.scalar_network.ScalarTrajectory`.

    Example:
        >>> run = MatrixNetwork([[1.0]], 3).descend(np.full((5, 2, 3), 0.3), 0.1, 20)
        >>> run.theta.shape, run.residual.shape
        ((21, 5, 2, 3), (21, 5, 1, 1))
    """

    network: MatrixNetwork
    steps: np.ndarray
    theta: np.ndarray
    diverged: np.ndarray

    @cached_property
    def residual(self) -> np.ndarray:
        return self.network.residual(self.theta)

    @cached_property
    def sharpness(self) -> np.ndarray:
        return self.network.sharpness(self.theta)

    @cached_property
    def imbalance_size(self) -> np.ndarray:
        return self.network.imbalance_size(self.theta)


def _transposed(matrix: np.ndarray) -> np.ndarray:
    return np.swapaxes(matrix, -1, -2)


def _applied(middle: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """middle second above middle^T first: how a change of the output pulls at the factors."""
    return np.concatenate([middle @ second, _transposed(middle) @ first], axis=-2)


def _row_squares(factor: np.ndarray) -> np.ndarray:
    """The eigenvalues of F F^T, one for each row of F: its squared singular values, and zeros."""
    return _descent.eigenvalues(factor @ _transposed(factor))
