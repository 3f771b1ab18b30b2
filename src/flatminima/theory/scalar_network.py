r"""Scalar networks, the smallest models whose Hessian eigenvectors rotate (D1 to D9, M4).

The network multiplies its parameters, f = theta_1 ... theta_d, and is trained on one target y:

.. math:: L(\theta) = \tfrac12 r^2, \qquad r = f - y .

The name is that of Kreisler et al. (2023); :mod:`~flatminima.theory.diagonal_network` has several
features. Products that leave entries out are formed by multiplication, never by division, so zero
entries are exact. Parameters stand along the last axis, everything is batched over the leading
ones, and a row with a NaN, as :meth:`ScalarNetwork.descend` records after divergence, gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from flatminima._validation import (
    a_generator,
    broadcast,
    checked_rates,
    common_shape,
    finite_array,
    finite_float,
    positive_int,
    shown,
)
from flatminima.theory import _descent, _products
from flatminima.theory._products import leave_one_out, leave_two_out

__all__ = ["ScalarNetwork", "ScalarTrajectory", "residual_imbalance_dynamics"]


@dataclass(frozen=True)
class ScalarNetwork:
    """L(theta) = (theta_1 ... theta_depth - target)^2 / 2, of depth d >= 1 and target y.

    ValueError for a depth below 1 or a target that is not a finite number.

    Example:
        Every point of the hyperbola ab = 1 is a minimum; the balanced one is the flattest:

        >>> ScalarNetwork(depth=2, target=1.0).sharpness([[1.0, 1.0], [0.5, 2.0]]).tolist()
        [2.0, 4.25]
    """

    depth: int
    target: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", positive_int("depth", self.depth))
        object.__setattr__(self, "target", finite_float("target", self.target))

    def residual(self, theta: object) -> np.ndarray:
        """Return r = f - y, shape (...), for parameters of shape (..., depth)."""
        return np.prod(self._parameters(theta), axis=-1) - self.target

    def loss(self, theta: object) -> np.ndarray:
        """Return r^2 / 2, shape (...)."""
        return self.residual(theta) ** 2 / 2

    def gradient(self, theta: object) -> np.ndarray:
        """Return r times the products that leave one entry out, shape (..., depth) (D1)."""
        return self.residual(theta)[..., None] * leave_one_out(self._parameters(theta))

    def hessian(self, theta: object) -> np.ndarray:
        """Return p p^T + r Q, shape (..., depth, depth) (D1).

        p_i is the product without entry i, Q_ij that without i and j; the diagonal of Q is zero.
        """
        theta = self._parameters(theta)
        outputs = leave_one_out(theta)
        outer = outputs[..., :, None] * outputs[..., None, :]
        return outer + self.residual(theta)[..., None, None] * leave_two_out(theta)

    def eigenvalues(self, theta: object) -> np.ndarray:
        """Return the Hessian's eigenvalues in decreasing order, shape (..., depth)."""
        theta = self._parameters(theta)
        if self.depth == 2:
            return self._eigenvalues_of_two(theta)
        return _descent.eigenvalues(self.hessian(theta))

    def sharpness(self, theta: object) -> np.ndarray:
        """Return the largest Hessian eigenvalue lambda_1, shape (...)."""
        return self.eigenvalues(theta)[..., 0]

    def lambda_min(self, theta: object) -> np.ndarray:
        """Return the smallest Hessian eigenvalue, shape (...)."""
        return self.eigenvalues(theta)[..., -1]

    def angle(self, theta: object) -> np.ndarray:
        """Return the angle, in radians, from the first axis to the line along v_1; depth 2 only.

        It lies in (-pi/2, pi/2] (Theorem D3); a line has no direction, so that the two ends of
        this range are the same line. NaN where the largest eigenvalue is repeated.
        """
        _descent.needs_depth_two(self, "angle")
        theta = self._parameters(theta)
        imbalance, mixed = self.kappa(theta), self._mixed(theta)
        undefined = (imbalance == 0) & (mixed == 0)
        return np.where(undefined, np.nan, np.arctan2(2 * mixed, imbalance) / 2)

    def leading_eigenvector(self, theta: object) -> np.ndarray:
        """Return v_1, of unit length and with a first entry >= 0, shape (..., depth).

        NaN where the largest eigenvalue is repeated, to rounding, and v_1 has no meaning.
        """
        theta = self._parameters(theta)
        if self.depth == 2:
            angle = self.angle(theta)
            return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        hessian, missing = _descent.without_missing(self.hessian(theta))
        values, vectors = np.linalg.eigh(hessian)
        leading = vectors[..., -1]
        if self.depth > 1:
            # The eigenvalues of a symmetric matrix are computed to about eps * d * its norm.
            resolution = np.finfo(float).eps * self.depth * np.abs(values).max(axis=-1)
            missing = missing | (values[..., -1] - values[..., -2] <= resolution)
        leading = np.where(leading[..., :1] < 0, -leading, leading)
        return np.where(missing[..., None], np.nan, leading)

    def imbalance(self, theta: object) -> np.ndarray:
        """Return theta_i^2 - theta_j^2, which gradient flow keeps, (..., depth, depth) (D6)."""
        theta = self._parameters(theta)
        rows, columns = theta[..., :, None], theta[..., None, :]
        return (rows - columns) * (rows + columns)

    def kappa(self, theta: object) -> np.ndarray:
        """Return the imbalance b^2 - a^2 of theta = (a, b), shape (...); depth 2 only."""
        _descent.needs_depth_two(self, "kappa")
        theta = self._parameters(theta)
        return (theta[..., 1] - theta[..., 0]) * (theta[..., 1] + theta[..., 0])

    @property
    def flattest_sharpness(self) -> float:
        """The smallest sharpness of a minimum, depth * |target|^(2 - 2/depth) (D1)."""
        return float(self.depth * abs(self.target) ** (2 - 2 / self.depth))

    def minimum(self, theta: object) -> np.ndarray:
        """Return the minimum to which gradient flow carries theta, shape (..., depth).

        The flow keeps every imbalance. A single entry of least absolute value it takes, through
        zero if need be, to the only minimum with these imbalances. Two or more that tie keep their
        signs; if the output has the wrong sign (or is zero) the flow ends in a saddle, where all
        tied entries are zero, and the result is NaN.
        """
        return _products.on_orbit(self._parameters(theta), np.asarray(self.target))

    def minimum_sharpness(self, theta: object) -> np.ndarray:
        """Return the sharpness of the minima with the imbalances of theta, shape (...).

        These minima differ in signs alone, and :meth:`minimum` is one of them wherever there is
        one ahead. At depth 2 it is sqrt(kappa^2 + 4 target^2) (D4).
        """
        squares = _products.orbit_squares(self._parameters(theta), np.asarray(self.target))
        return np.sum(leave_one_out(squares), axis=-1)

    def swing(self, theta: object, learning_rate: object) -> np.ndarray:
        """Return eta |r| times the largest product that leaves two entries out, shape (...).

        A step of swing at most 1 does not raise :meth:`minimum_sharpness` (M4). At depth 2 it is
        eta |r|, and sqrt(2) is enough (D7). ``learning_rate`` broadcasts; 0 at depth 1.
        """
        theta = self._parameters(theta)
        largest = np.abs(leave_two_out(theta)).max(axis=(-2, -1))
        return self._rates(learning_rate, theta=theta) * np.abs(self.residual(theta)) * largest

    def start_with_sharpness(
        self, sharpness: object, generator: np.random.Generator, residual: object = 0.0
    ) -> np.ndarray:
        """Return a random point on the orbit of a minimum of given sharpness, (..., depth).

        ``sharpness``, :meth:`minimum_sharpness` of the point, and ``residual`` broadcast to a shape
        (...); the generator draws the direction of imbalance and the signs. ValueError for a
        sharpness below ``flattest_sharpness`` (other than 1 at depth 1), an output without the
        target's sign, or target 0, whose minima are not described by their imbalances.

        Example:
            >>> network = ScalarNetwork(3, 1.0)
            >>> start = network.start_with_sharpness([4.0, 5.0], np.random.default_rng(0))
            >>> network.sharpness(start).round(9).tolist()
            [4.0, 5.0]
        """
        sharpness, residual = broadcast(
            sharpness=finite_array("sharpness", sharpness),
            residual=finite_array("residual", residual),
        )
        a_generator("generator", generator)
        if self.target == 0:
            raise ValueError("start_with_sharpness needs a target other than 0, got 0")
        floor = self.flattest_sharpness
        if np.any(sharpness < floor) or (self.depth == 1 and np.any(sharpness != floor)):
            raise ValueError(
                f"sharpness must be at least that of the flattest minimum, {floor:.6g}, and equal "
                f"to it at depth 1; got {shown(sharpness)}"
            )
        if np.any((self.target + residual) * np.sign(self.target) <= 0):
            raise ValueError(
                f"target + residual must keep the target's sign, got {shown(residual)}"
            )
        squares = self._random_gradients(sharpness, generator)
        signs = generator.choice([-1.0, 1.0], size=(*sharpness.shape, self.depth))
        signs[..., -1] = np.sign(self.target) * np.prod(signs[..., :-1], axis=-1)
        start = signs * (abs(self.target) / np.sqrt(squares))
        moved = _products.on_orbit(start, self.target + residual)
        return np.where((residual == 0)[..., None], start, moved)

    def at(self, residual: object, kappa: object) -> np.ndarray:
        """Return the point (a, b) with b > 0 of given residual and imbalance; depth 2 only.

        Arguments broadcast to a shape (...); the result has shape (..., 2). With -(a, b) it is
        the only such point, unless kappa <= 0 and the output is 0, where b may be 0.
        """
        _descent.needs_depth_two(self, "at")
        output, kappa = broadcast(
            residual=self.target + finite_array("residual", residual),
            kappa=finite_array("kappa", kappa),
        )
        larger = np.sqrt((np.hypot(kappa, 2 * output) + np.abs(kappa)) / 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            smaller = np.where(larger > 0, output / larger, 0.0)
        second_is_larger = kappa >= 0
        # Where a is the larger entry, b = |output| / a carries no sign: a does.
        first = np.where(second_is_larger, smaller, np.where(output < 0, -larger, larger))
        return np.stack([first, np.where(second_is_larger, larger, np.abs(smaller))], axis=-1)

    def descend(
        self,
        start: object,
        learning_rate: object,
        steps: int,
        label_noise: object = None,
        generator: np.random.Generator | None = None,
        record_every: int | None = 1,
    ) -> ScalarTrajectory:
        """Run gradient descent from a whole batch of starts at once.

        Each thread carries a block of trajectories; without noise, those that have diverged or
        repeat themselves to the last bit leave it, which alters no result. 1000 x 1000 of depth 2
        take 0.7 s for 2,000 steps on 2 cores (AMD EPYC), a Python loop over them 170 s.

        Args:
            start: parameters of shape (..., depth).
            learning_rate: eta > 0; broadcasts against the batch axes of ``start``.
            steps: number of steps >= 1.
            label_noise: standard deviation >= 0 of the Gaussian noise added to the residual in
                each step, independently for each trajectory; broadcasts against the batch axes.
            generator: source of the noise, needed with ``label_noise``.
            record_every: record every so many steps, and the start and the end; None records
                these two alone, with memory that does not grow with ``steps``.

        ValueError for arguments of the wrong shape or range.

        Example:
            An instability that begins 0.2 above the threshold, 2 / eta = 5, ends 0.2 below it:

            >>> network = ScalarNetwork(depth=2, target=1.0)
            >>> run = network.descend(network.at(residual=0.01, kappa=4.8), 0.4, 200)
            >>> run.sharpness[[0, -1]].round(2).tolist()
            [5.21, 4.79]
        """
        plan = _descent.prepare(
            self._parameters(start, "start"),
            1,
            learning_rate,
            steps,
            label_noise,
            generator,
            record_every,
        )
        theta = np.empty((len(plan.times), self.depth, len(plan.rates)))
        theta[0] = plan.start.T
        noise = None if plan.scale is None else plan.each_step()
        step = partial(_products.step, self.target)

        def run(block: slice, source: np.random.Generator | None) -> None:
            rates, drawn = plan.rates[block], None
            if plan.scale is not None:
                kept = None if noise is None else noise[:, block]
                drawn = _descent.draws(source, plan.scale[block], kept)

            def advance(point: np.ndarray, first: int, last: int) -> np.ndarray:
                return _descent.advance(point.T, rates, drawn, last - first, step).T

            def loss(record: np.ndarray) -> np.ndarray:
                return (np.prod(record, axis=-1) - self.target) ** 2

            # The arithmetic is fast on one row for each factor; a record has one for each point.
            _descent.carry(np.moveaxis(theta, 1, 2)[:, block], plan.times, advance, loss)

        _descent.in_blocks(run, len(plan.rates), None if plan.scale is None else generator)
        return ScalarTrajectory(
            network=self,
            steps=plan.times,
            theta=np.moveaxis(plan.unfold(theta, 2), 1, -1),
            diverged=np.isnan(theta[-1, 0]).reshape(plan.batch),
            noise=plan.unfold(noise),
        )

    def stabilization(self, minimum: object, learning_rate: object) -> np.ndarray:
        """Return the constant c of the reflection law (Theorem D8) at a minimum, shape (...).

        Two steps at residual r near 2/eta lower the sharpness ahead by 2 eta c r^2. c is 0 at the
        flattest minimum and positive at every other. ``minimum`` has residual 0 and shape
        (..., depth); ``learning_rate`` broadcasts. ValueError for target 0.

        Example:
            >>> ScalarNetwork(2, 1.0).stabilization([[1.0, 1.0], [0.5, 2.0]], 0.5).round(4).tolist()
            [0.0, 1.6544]
        """
        if self.target == 0:
            raise ValueError("stabilization needs a target other than 0, got 0")
        # At a minimum the squares of the products are y^2 w_i.
        minimum = self._parameters(minimum, "minimum")
        rates = self._rates(learning_rate, minimum=minimum)
        weights = leave_one_out(minimum) ** 2
        total = np.sum(weights, axis=-1)
        mean = np.sum(weights**2, axis=-1) / total
        spread = np.sum(weights * (weights - mean[..., None]) ** 2, axis=-1)
        return rates * spread / self.target**2

    def escape_margin(self, theta: object, learning_rate: object) -> np.ndarray:
        r"""Return 4 - eta (a^2 + b^2) + eta^2 y r, shape (...); depth 2 only.

        For eta |y| < 2 its sign never changes along gradient descent: where it is positive the
        run stays bounded, with eta |r| < 2; where it is negative |theta| tends to infinity unless
        the run lands on r = 0 exactly (theorem on the boundary of divergence, in the chapter on
        flatness bias). For eta |y| >= 2 it says nothing. ``learning_rate`` broadcasts.
        """
        _descent.needs_depth_two(self, "escape_margin")
        theta = self._parameters(theta)
        rates = self._rates(learning_rate, theta=theta)
        return 4 - rates * np.sum(theta**2, axis=-1) + rates**2 * self.target * self.residual(theta)

    def _parameters(self, theta: object, name: str = "theta") -> np.ndarray:
        return _descent.parameters(theta, (self.depth,), name)

    def _rates(self, learning_rate: object, **parameters: np.ndarray) -> np.ndarray:
        """The learning rates, which broadcast against the batch axes of the parameters."""
        rates = checked_rates(learning_rate)
        shapes = {name: array.shape[:-1] for name, array in parameters.items()}
        common_shape(**shapes, learning_rate=rates.shape)
        return rates

    def _mixed(self, theta: np.ndarray) -> np.ndarray:
        """The off-diagonal Hessian entry y + 2r at depth 2."""
        output = theta[..., 0] * theta[..., 1]
        return output + (output - self.target)

    def _eigenvalues_of_two(self, theta: np.ndarray) -> np.ndarray:
        spread = np.hypot(self.kappa(theta), 2 * self._mixed(theta))
        largest = (np.sum(theta**2, axis=-1) + spread) / 2
        output = theta[..., 0] * theta[..., 1]
        residual = output - self.target
        # det H = -r (2 f + r) (D3), and with it no difference of nearly equal numbers.
        determinant = -residual * (2 * output + residual)
        smallest = np.divide(determinant, largest, out=np.array(largest), where=largest != 0)
        return np.stack([largest, smallest], axis=-1)

    def _random_gradients(
        self, sharpness: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Squares p_i^2 = (y / theta_i)^2 whose sum is the sharpness and product y^(2d - 2)."""
        if self.depth == 1:
            return np.ones((*sharpness.shape, 1))
        direction = generator.standard_normal((*sharpness.shape, self.depth))
        direction -= direction.mean(axis=-1, keepdims=True)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        # Where the draws nearly agree, what is left of their mean has grown with the division.
        direction -= direction.mean(axis=-1, keepdims=True)
        goal = np.log(sharpness / self.flattest_sharpness)

        # log p_i^2 = const + length * direction_i; the mean of the exponentials is convex in it.
        def excess(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            top = np.max(length[..., None] * direction, axis=-1)
            weights = np.exp(length[..., None] * direction - top[..., None])
            value = top + np.log(np.mean(weights, axis=-1)) - goal
            slope = np.sum(weights * direction, axis=-1) / np.sum(weights, axis=-1)
            return value, slope

        length = _products.decreasing_newton(
            excess, (goal + np.log(self.depth)) / direction.max(axis=-1)
        )
        length = np.where(goal > 0, length, 0.0)[..., None]
        return self.flattest_sharpness / self.depth * np.exp(length * direction)


@dataclass(frozen=True, eq=False)
class ScalarTrajectory:
    """What :meth:`ScalarNetwork.descend` returns; time first, then the batch axes.

    ``theta`` (times, ..., depth), ``residual``, ``sharpness``, ``lambda_min`` and, at depth 2,
    ``angle`` and ``kappa`` (times, ...) are NaN once a trajectory has diverged.

    Example:
        >>> run = ScalarNetwork(3, 1.0).descend([[0.5, 1.0, 1.5], [9.0, 9.0, 9.0]], 0.1, 50)
        >>> run.theta.shape, run.diverged.tolist()
        ((51, 2, 3), [False, True])
    """

    network: ScalarNetwork
    steps: np.ndarray
    """The steps recorded, (times,); the first is 0 and the last the number of steps taken."""
    theta: np.ndarray
    diverged: np.ndarray
    """Whether parameters or loss left the range of floating-point numbers, shape (...)."""
    noise: np.ndarray | None
    """Label noise added to the residual in each step, (steps, ...); None unless every step is
    recorded and there is noise."""

    @cached_property
    def residual(self) -> np.ndarray:
        return self.network.residual(self.theta)

    @cached_property
    def eigenvalues(self) -> np.ndarray:
        """Hessian eigenvalues in decreasing order, (times, ..., depth)."""
        return self.network.eigenvalues(self.theta)

    @property
    def sharpness(self) -> np.ndarray:
        return self.eigenvalues[..., 0]

    @property
    def lambda_min(self) -> np.ndarray:
        return self.eigenvalues[..., -1]

    @cached_property
    def angle(self) -> np.ndarray:
        return self.network.angle(self.theta)

    @cached_property
    def kappa(self) -> np.ndarray:
        return self.network.kappa(self.theta)


def residual_imbalance_dynamics(
    residual: object, kappa: object, target: float, learning_rate: object, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Iterate the closed dynamics of gradient descent at depth 2 (Proposition D5).

    Arguments broadcast to a shape (...); returns r and kappa, each (steps + 1, ...), which
    overflow to infinity or NaN where gradient descent diverges.

    Example:
        The parameters follow from the two; overshoot and undershoot alternate, the imbalance falls:

        >>> r, kappa = residual_imbalance_dynamics(0.1, 3.0, 1.0, 0.4, 2)
        >>> r.round(3).tolist(), kappa.round(3).tolist()
        ([0.1, -0.047, 0.02], [3.0, 2.995, 2.994])
    """
    y = finite_float("target", target)
    *start, rates = broadcast(
        residual=finite_array("residual", residual),
        kappa=finite_array("kappa", kappa),
        learning_rate=checked_rates(learning_rate),
    )

    def step(r: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = np.hypot(k, 2 * (r + y))
        return r * (1 - rates * s + rates**2 * r * (r + y)), k * (1 - rates**2 * r**2)

    return tuple(_descent.recurrence(step, start, steps))
