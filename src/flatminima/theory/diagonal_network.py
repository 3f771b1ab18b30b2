r"""Diagonal linear networks with several features, and what couples their coordinates.

The network multiplies d vectors of parameters entry by entry to the weights of a linear model,

.. math:: w = u_1 * \dots * u_d, \qquad r = X w - y, \qquad
          L(u_1, \dots, u_d) = \frac{1}{2n} \lVert r \rVert^2 ,

with n rows of inputs X and m features. Parameters have the shape (..., depth, features) and
everything is batched over the leading axes. The gradient with respect to the weights is
gamma = X^T r / n; coordinates of the parameters meet in it alone (Theorem D11). As in
:mod:`~flatminima.theory.scalar_network`, products are formed without division, and parameters
with a NaN, as :meth:`DiagonalNetwork.descend` records after divergence, give NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flatminima._validation import a_generator, broadcast, finite_array, positive_int
from flatminima.theory import _descent
from flatminima.theory._products import leave_one_out, leave_two_out
from flatminima.theory.scalar_network import ScalarNetwork

__all__ = ["DiagonalNetwork", "DiagonalTrajectory"]


@dataclass(frozen=True, eq=False)
class DiagonalNetwork:
    """L(u_1, ..., u_d) = ||X (u_1 * ... * u_d) - y||^2 / (2 n), of depth d >= 1.

    ``inputs`` X has shape (n, features) and ``targets`` y (n,); ValueError for any other.

    Example:
        >>> network = DiagonalNetwork([[1.0, 1.0], [0.0, 1.0]], [1.0, 0.0])
        >>> network.gram.tolist()  # 0.5 couples the features
        [[0.5, 0.5], [0.5, 1.0]]
    """

    inputs: np.ndarray
    targets: np.ndarray
    depth: int = 2

    def __post_init__(self) -> None:
        inputs = finite_array("inputs", self.inputs).copy()
        targets = finite_array("targets", self.targets).copy()
        if inputs.ndim != 2 or inputs.size == 0 or targets.shape != inputs.shape[:1]:
            raise ValueError(
                "inputs must have shape (n, features) and targets (n,), "
                f"got {inputs.shape} and {targets.shape}"
            )
        inputs.flags.writeable = targets.flags.writeable = False
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "depth", positive_int("depth", self.depth))

    @property
    def features(self) -> int:
        """The number m of features, columns of the inputs."""
        return self.inputs.shape[1]

    @cached_property
    def gram(self) -> np.ndarray:
        """C = X^T X / n, shape (features, features); off its diagonal it couples coordinates."""
        return self.inputs.T @ self.inputs / len(self.targets)

    def weights(self, theta: object) -> np.ndarray:
        """Return w = u_1 * ... * u_d, shape (..., features)."""
        return np.prod(self._parameters(theta), axis=-2)

    def residual(self, theta: object) -> np.ndarray:
        """Return r = X w - y, shape (..., n)."""
        return self.weights(theta) @ self.inputs.T - self.targets

    def loss(self, theta: object) -> np.ndarray:
        """Return ||r||^2 / (2 n), shape (...)."""
        return np.mean(self.residual(theta) ** 2, axis=-1) / 2

    def weight_gradient(self, theta: object) -> np.ndarray:
        """Return gamma = X^T r / n, the gradient with respect to w, shape (..., features)."""
        return self.residual(theta) @ self.inputs / len(self.targets)

    def gradient(self, theta: object) -> np.ndarray:
        """Return gamma_k times the product that leaves out u_ik, shape (..., depth, features)."""
        return self.weight_gradient(theta)[..., None, :] * _rest(self._parameters(theta))

    def hessian(self, theta: object) -> np.ndarray:
        """Return the Hessian, shape (..., depth * features, depth * features) (D11).

        Rows and columns follow theta flattened in C order: all features of u_1, then of u_2.
        """
        theta = self._parameters(theta)
        d, m = self.depth, self.features
        outputs = _rest(theta)
        blocks = outputs[..., :, :, None, None] * outputs[..., None, None, :, :]
        blocks = blocks * self.gram[:, None, :]
        # (k, i, j): the product of the factors of feature k other than i and j.
        pairs = leave_two_out(np.moveaxis(theta, -2, -1))
        within = self.weight_gradient(theta)[..., :, None, None] * pairs
        k = np.arange(m)
        # Indexing by two arrays apart puts their axis first.
        blocks[..., :, k, :, k] += np.moveaxis(within, -3, 0)
        return blocks.reshape(*theta.shape[:-2], d * m, d * m)

    def eigenvalues(self, theta: object) -> np.ndarray:
        """Return the Hessian's eigenvalues in decreasing order, (..., depth * features)."""
        return _descent.eigenvalues(self.hessian(theta))

    def sharpness(self, theta: object) -> np.ndarray:
        """Return the largest Hessian eigenvalue lambda_1, shape (...)."""
        return self.eigenvalues(theta)[..., 0]

    def tangent_squares(self, theta: object) -> np.ndarray:
        """Return s_k, the sum over i of the squared products leaving out u_ik, (..., features).

        At depth 2 it is u_1k^2 + u_2k^2 = sqrt(kappa_k^2 + 4 w_k^2).
        """
        return np.sum(_rest(self._parameters(theta)) ** 2, axis=-2)

    def trace(self, theta: object) -> np.ndarray:
        """Return tr H = sum_k C_kk s_k, shape (...), at every point (D11).

        Example:
            The trace bounds a weighted l1 norm of the weights, here |w_1| + |w_2| = 3 (M7):

            >>> network = DiagonalNetwork([[1.0, 1.0], [1.0, -1.0]], [0.0, 0.0])
            >>> theta = [[1.0, 2.0], [1.0, -1.0]]
            >>> float(network.trace(theta)), float(network.least_trace(network.weights(theta)))
            (7.0, 6.0)
        """
        return self.tangent_squares(theta) @ np.diag(self.gram)

    def least_trace(self, weights: object) -> np.ndarray:
        """Return d sum_k C_kk |w_k|^(2 - 2/d): the least tr H at given weights (..., features)."""
        weights = finite_array("weights", weights)
        if weights.shape[-1:] != (self.features,):
            raise ValueError(f"weights must have shape (..., {self.features}), got {weights.shape}")
        powers = np.abs(weights) ** (2 - 2 / self.depth)
        return self.depth * powers @ np.diag(self.gram)

    def minimum_sharpness(self, theta: object) -> np.ndarray:
        """Return lambda_1(X diag(s) X^T) / n, shape (...): the sharpness where gamma = 0 (D11).

        Elsewhere it is the largest eigenvalue of the Gauss-Newton part of the Hessian.
        """
        squares, (n, m) = self.tangent_squares(theta), self.inputs.shape
        # sqrt(S) C sqrt(S) and X S X^T / n have the same nonzero eigenvalues: take the smaller.
        if m <= n:
            roots = np.sqrt(squares)
            matrix = roots[..., :, None] * self.gram * roots[..., None, :]
        else:
            matrix = (self.inputs * squares[..., None, :]) @ self.inputs.T / n
        return _descent.eigenvalues(matrix)[..., 0]

    def at(self, weights: object, kappa: object) -> np.ndarray:
        """Return the point (u_1, u_2) with u_2 >= 0 of given weights and imbalances; depth 2 only.

        Both broadcast to (..., features); the result has shape (..., 2, features).

        Example:
            >>> network = DiagonalNetwork([[1.0, 0.0], [0.0, 1.0]], [1.0, 2.0])
            >>> network.weights(network.at([1.0, 2.0], [0.5, -0.5])).round(12).tolist()
            [1.0, 2.0]
        """
        _descent.needs_depth_two(self, "at")
        weights, kappa = broadcast(
            weights=finite_array("weights", weights), kappa=finite_array("kappa", kappa)
        )
        if weights.shape[-1:] != (self.features,):
            raise ValueError(
                f"weights and kappa must broadcast to (..., {self.features}), got {weights.shape}"
            )
        return np.moveaxis(ScalarNetwork(2, 0.0).at(weights, kappa), -1, -2)

    def imbalance(self, theta: object) -> np.ndarray:
        """Return u_ik^2 - u_jk^2 for each pair of factors, shape (..., depth, depth, features)."""
        theta = self._parameters(theta)
        rows, columns = theta[..., :, None, :], theta[..., None, :, :]
        return (rows - columns) * (rows + columns)

    def kappa(self, theta: object) -> np.ndarray:
        """Return u_2k^2 - u_1k^2, shape (..., features); depth 2 only."""
        _descent.needs_depth_two(self, "kappa")
        return self.imbalance(theta)[..., 1, 0, :]

    def descend(
        self,
        start: object,
        learning_rate: object,
        steps: int,
        label_noise: object = None,
        batch_size: int | None = None,
        generator: np.random.Generator | None = None,
        record_every: int | None = 1,
    ) -> DiagonalTrajectory:
        """Run gradient descent from a whole batch of starts at once.

        As in :meth:`~flatminima.theory.scalar_network.ScalarNetwork.descend`, but ``start`` has
        shape (..., depth, features), noise is added to each row's residual, and ``batch_size`` rows
        are drawn for each step, without replacement and independently for each trajectory, by the
        generator; None or n uses all rows.

        Example:
            Of all weights that fit, a small start finds nearly those of least l1 norm, (1, 0, 0):

            >>> network = DiagonalNetwork([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]], [1.0, 1.0])
            >>> network.descend(np.full((2, 3), 0.01), 0.1, 2000).weights[-1].round(2).tolist()
            [0.99, 0.01, 0.01]
        """
        plan = _descent.prepare(
            self._parameters(start, "start"),
            2,
            learning_rate,
            steps,
            label_noise,
            generator,
            record_every,
        )
        rows = self._rows(batch_size, generator)
        size, (n, m) = len(plan.rates), self.inputs.shape
        theta = np.empty((len(plan.times), size, self.depth, m))
        theta[0] = plan.start
        rates, used, noise, drawn = plan.rates[:, None], plan.each_step(m), None, None
        if plan.scale is not None:
            noise = plan.each_step(n)
            scale = np.broadcast_to(plan.scale[:, None], (size, n))
            drawn = _descent.draws(generator, scale, noise)

        def advance(point: np.ndarray, first: int, last: int) -> np.ndarray:
            point = point.copy()
            for step in range(first, last):
                error = np.prod(point, axis=1) @ self.inputs.T - self.targets
                if drawn is not None:
                    error += next(drawn)
                if rows < n:
                    error *= _chosen(size, n, rows, generator)
                gradient = error @ self.inputs / n
                point -= (rates * gradient)[:, None, :] * _rest(point)
                if used is not None:
                    used[step] = gradient
            return point

        def loss(record: np.ndarray) -> np.ndarray:
            residual = np.prod(record, axis=2) @ self.inputs.T - self.targets
            return np.sum(residual**2, axis=2)

        _descent.carry(theta, plan.times, advance, loss)
        return DiagonalTrajectory(
            network=self,
            steps=plan.times,
            theta=plan.unfold(theta),
            diverged=np.isnan(theta[-1, :, 0, 0]).reshape(plan.batch),
            weight_gradient=plan.unfold(used),
            noise=plan.unfold(noise),
        )

    def _parameters(self, theta: object, name: str = "theta") -> np.ndarray:
        return _descent.parameters(theta, (self.depth, self.features), name)

    def _rows(self, batch_size: int | None, generator: np.random.Generator | None) -> int:
        n = len(self.targets)
        rows = n if batch_size is None else positive_int("batch_size", batch_size)
        if rows > n:
            raise ValueError(f"batch_size must be at most the {n} rows, got {rows}")
        if rows < n:
            a_generator("generator", generator)
        return rows


@dataclass(frozen=True, eq=False)
class DiagonalTrajectory:
    """What :meth:`DiagonalNetwork.descend` returns; time first, then the batch axes.

    ``theta`` is (times, ..., depth, features) and NaN once a trajectory has diverged, as is what
    is computed from it on first use. ``steps``, ``diverged`` and ``noise``, (steps, ..., n), are
    as in :class:`~flatminima.theory.scalar_network.ScalarTrajectory`.

    Example:
        >>> run = DiagonalNetwork([[1.0, 2.0]], [1.0]).descend(np.ones((4, 2, 2)), 0.1, 10)
        >>> run.theta.shape, run.weights.shape
        ((11, 4, 2, 2), (11, 4, 2))
    """

    network: DiagonalNetwork
    steps: np.ndarray
    theta: np.ndarray
    diverged: np.ndarray
    weight_gradient: np.ndarray | None
    """The gradient with respect to w used in each step, label noise and the choice of rows
    included, (steps, ..., features); None unless every step is recorded."""
    noise: np.ndarray | None

    @cached_property
    def weights(self) -> np.ndarray:
        return self.network.weights(self.theta)

    @cached_property
    def sharpness(self) -> np.ndarray:
        return self.network.sharpness(self.theta)

    @cached_property
    def kappa(self) -> np.ndarray:
        return self.network.kappa(self.theta)


def _rest(theta: np.ndarray) -> np.ndarray:
    """The products over all factors but one, feature by feature, (..., depth, features)."""
    if theta.shape[-2] == 2:
        return theta[..., ::-1, :]
    return np.moveaxis(leave_one_out(np.moveaxis(theta, -2, -1)), -1, -2)


def _chosen(size: int, n: int, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Weights n / rows for rows drawn without replacement and 0 for the others, (size, n)."""
    order = np.argpartition(generator.random((size, n)), rows - 1, axis=1)
    weights = np.zeros((size, n))
    np.put_along_axis(weights, order[:, :rows], n / rows, axis=1)
    return weights
