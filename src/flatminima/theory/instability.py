"""What happens past the threshold 2/eta: coupled dynamics, reflection law, budget, curvature.

The excess is the sharpness minus 2/eta (Proposition G4); an instability is a stretch of training
during which a positive excess makes the displacement along v_1, and with it the loss, grow. Theorem
D8 says where it ends, Theorem D7 what the flattening is paid for with, Definition G5 which
curvature beyond the sharpness takes part, and Theorem F4 how far noise holds the sharpness down.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    LARGEST,
    a_generator,
    broadcast,
    checked_rates,
    common_shape,
    finite_array,
    instance_of,
    nonnegative_array,
    positive_float,
    shown,
)
from flatminima.theory._descent import recurrence
from flatminima.theory.rotation import rotation_field

__all__ = [
    "BeyondHessian",
    "CoupledTrajectory",
    "GapTerms",
    "coupled_dynamics",
    "curvature_beyond_hessian",
    "instability_budget",
    "log_imbalance_factor",
    "reflected_sharpness",
    "stochastic_dynamics",
    "stochastic_gap",
]


class CoupledTrajectory(NamedTuple):
    """The states of :func:`coupled_dynamics`, time axis first.

    Example:
        >>> coupled_dynamics(0.01, [0.5, 9.0], 0.5, 0.0, 1.0, 60).diverged.tolist()
        [False, True]
    """

    x: np.ndarray
    """Displacement along v_1, shape (steps + 1, ...); NaN once diverged."""
    excess: np.ndarray
    """Sharpness minus 2/eta, same shape; NaN once diverged."""
    diverged: np.ndarray
    """Whether the trajectory left the range of floating-point numbers, shape (...)."""


class GapTerms(NamedTuple):
    """The gap between 2/eta and the mean sharpness, and what it is made of, by Theorem F4.

    Each is the mean over the steps of one trajectory, shape (...). Over many of them the mean of
    ``measured`` and that of ``predicted`` agree.

    Example:
        >>> GapTerms(*map(np.array, (0.9, 0.5, 0.1, 0.2, 0.1))).predicted
        np.float64(0.9)
    """

    measured: np.ndarray
    """Minus the mean excess."""
    noise: np.ndarray
    """eta beta s^2 / (4 alpha), the leading term of Liao et al. (2026)."""
    coupling: np.ndarray
    """eta beta / (4 alpha) times the mean of excess^2 x^2."""
    spread: np.ndarray
    """eta / (2 alpha) times the mean of (alpha - beta x^2 / 2)^2."""
    boundary: np.ndarray
    """-(E_T - E_0) / (2 eta alpha T) with the energy E = excess^2 + beta x^2 / 2."""

    @property
    def predicted(self) -> np.ndarray:
        """The sum of the four terms."""
        return self.noise + self.coupling + self.spread + self.boundary


class BeyondHessian(NamedTuple):
    """Curvature beyond the sharpness at one point, as defined in Definition G5.

    Example:
        On a quadratic there is nothing beyond the Hessian, and v_1 does not turn:

        >>> zeros = np.zeros((2,) * 3), np.zeros((2,) * 4)
        >>> found = curvature_beyond_hessian([[2, 1], [1, 2]], *zeros)
        >>> found.moments.round(9).tolist(), found.rotation
        ([4.0, 10.0, 28.0, 82.0], 0.0)
    """

    sharpness: float
    smallest: float
    """lambda_min, the most negative eigenvalue."""
    gradient_along: float
    """|T[v_1, v_1, v_1]|, the derivative of the sharpness along v_1 without the sign of v_1."""
    gradient_across: float
    """||P grad lambda_1||, the gradient of the sharpness across v_1."""
    fourth: float
    """The fourth derivative of the loss along v_1."""
    rotation: float
    """||rho||, how fast v_1 turns along v_1 (Theorem G2)."""
    moments: np.ndarray
    """The spectral moments tr H^k for k = 1 to 4."""


def coupled_dynamics(
    x: object,
    excess: object,
    learning_rate: float,
    progressive_sharpening: object,
    self_stabilization: object,
    steps: int,
    fourth: object = 0.0,
) -> CoupledTrajectory:
    r"""Iterate the coupled instability dynamics of Proposition G4.

    .. math:: x' = -(1 + \eta\epsilon)\,x - \eta q x^3 / 6, \qquad
              \epsilon' = \epsilon + \eta\,(\alpha - \beta x^2 / 2)

    For beta > 0 this is gradient descent on the loss L(x, z) = (2/eta + sqrt(beta) z) x^2 / 2
    + q x^4 / 24 - (alpha / sqrt(beta)) z with the excess sqrt(beta) z, exactly. For q = 0 compare
    Damian, Nichani and Lee (2023).

    From displacement ``x`` along v_1 and ``excess``, sharpness minus 2/eta, with
    ``progressive_sharpening`` alpha, the rise of sharpness per unit of eta * steps,
    ``self_stabilization`` beta = ||P grad lambda_1||^2 >= 0 and ``fourth`` q, the fourth derivative
    of the loss along v_1, which broadcast. ValueError for values out of range.

    Example:
        Without progressive sharpening one instability changes the sign of the excess:

        >>> coupled_dynamics(0.001, 0.1, 0.5, 0.0, 1.0, 400).excess[[0, -1]].round(3).tolist()
        [0.1, -0.105]
    """
    eta = positive_float("learning_rate", learning_rate)
    x, excess, alpha, beta, q = broadcast(
        x=finite_array("x", x),
        excess=finite_array("excess", excess),
        progressive_sharpening=finite_array("progressive_sharpening", progressive_sharpening),
        self_stabilization=nonnegative_array("self_stabilization", self_stabilization),
        fourth=finite_array("fourth", fourth),
    )

    def step(x: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        new = -(1 + eta * excess) * x - eta * q * x**3 / 6
        return new, excess + eta * (alpha - beta * x**2 / 2)

    return _trajectory(recurrence(step, (x, excess), steps))


def _trajectory(states: np.ndarray) -> CoupledTrajectory:
    # A non-finite state is never followed by a finite one, so this marks all later steps too.
    lost = np.logical_or.accumulate(~np.isfinite(states).all(axis=0), axis=0)
    states[:, lost] = np.nan
    return CoupledTrajectory(states[0], states[1], lost[-1])


def stochastic_dynamics(
    x: object,
    excess: object,
    learning_rate: float,
    progressive_sharpening: object,
    self_stabilization: object,
    noise: object,
    steps: int,
    generator: np.random.Generator,
) -> CoupledTrajectory:
    r"""Iterate the coupled dynamics with gradient noise along v_1, as in Theorem F4.

    .. math:: x' = -(1 + \eta\epsilon)\,x + \eta s \xi, \qquad
              \epsilon' = \epsilon + \eta\,(\alpha - \beta x^2 / 2)

    with independent standard normal xi and ``noise`` s >= 0; the other arguments are those of
    :func:`coupled_dynamics`. All broadcast, and each member of the batch has noise of its own.
    ValueError for values out of range.

    Example:
        >>> draws = np.random.default_rng(0)
        >>> run = stochastic_dynamics([0.1, 0.1], 0.0, 0.1, 0.5, 1.0, 2.0, 1000, draws)
        >>> run.x.shape, bool(run.excess.mean() < 0)
        ((1001, 2), True)
    """
    eta = positive_float("learning_rate", learning_rate)
    x, excess, alpha, beta, scale = broadcast(
        x=finite_array("x", x),
        excess=finite_array("excess", excess),
        progressive_sharpening=finite_array("progressive_sharpening", progressive_sharpening),
        self_stabilization=nonnegative_array("self_stabilization", self_stabilization),
        noise=nonnegative_array("noise", noise),
    )
    a_generator("generator", generator)

    def step(x: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        drawn = eta * scale * generator.standard_normal(x.shape)
        return drawn - (1 + eta * excess) * x, excess + eta * (alpha - beta * x**2 / 2)

    return _trajectory(recurrence(step, (x, excess), steps))


def stochastic_gap(
    trajectory: CoupledTrajectory,
    learning_rate: float,
    progressive_sharpening: object,
    self_stabilization: object,
    noise: object,
) -> GapTerms:
    """The terms of Theorem F4 for the gap between 2/eta and the mean sharpness, path by path.

    ``trajectory`` is one of :func:`stochastic_dynamics` with the same constants, of which
    ``progressive_sharpening`` must be positive. No number means anything for those that diverged.
    ValueError for values out of range.

    Example:
        Without noise the identity holds step by step, to rounding:

        >>> run = coupled_dynamics(0.1, 0.0, 0.01, 0.5, 1.0, 500)
        >>> gap = stochastic_gap(run, 0.01, 0.5, 1.0, 0.0)
        >>> bool(abs(gap.measured - gap.predicted) < 1e-12)
        True
    """
    eta = positive_float("learning_rate", learning_rate)
    alpha = finite_array("progressive_sharpening", progressive_sharpening)
    if np.any(alpha < 1 / LARGEST):
        raise ValueError(f"progressive_sharpening must be greater than 0, got {shown(alpha)}")
    beta = nonnegative_array("self_stabilization", self_stabilization)
    scale = nonnegative_array("noise", noise)
    batch = instance_of("trajectory", trajectory, CoupledTrajectory).x.shape[1:]
    shapes = {"progressive_sharpening": alpha, "self_stabilization": beta, "noise": scale}
    shapes = {name: array.shape for name, array in shapes.items()}
    if common_shape(trajectory=batch, **shapes) != batch:
        raise ValueError(f"constants must broadcast to the batch {batch}, got {shapes}")
    x, excess = trajectory.x[:-1], trajectory.excess[:-1]
    with np.errstate(over="ignore", invalid="ignore"):  # of paths about to diverge
        energy = trajectory.excess**2 + beta * trajectory.x**2 / 2
        return GapTerms(
            measured=-excess.mean(axis=0),
            noise=eta * beta * scale**2 / (4 * alpha) + np.zeros(x.shape[1:]),
            coupling=eta * beta / (4 * alpha) * np.mean((excess * x) ** 2, axis=0),
            spread=eta / (2 * alpha) * np.mean((alpha - beta * x**2 / 2) ** 2, axis=0),
            boundary=(energy[0] - energy[-1]) / (2 * eta * alpha * len(x)),
        )


def reflected_sharpness(
    before: object, learning_rate: object, target: float | None = None
) -> np.ndarray:
    """Sharpness after an instability that began at sharpness ``before``: 4/eta - before.

    The leading-order law of Theorem D8: the excess over 2/eta changes its sign, at any depth. The
    error is of the order of the excess squared. At depth 2 that order is known too, and included
    where ``target`` gives y; ValueError unless eta |y| < 1, as there is no minimum at the threshold
    otherwise. ``before`` and ``learning_rate`` broadcast. The value says nothing below the
    sharpness of the flattest minimum, hence in particular for ``before`` >= 4/eta.

    Example:
        The threshold is 20: what begins 2 above it ends 2 below it, or further to second order.

        >>> [float(reflected_sharpness(22.0, 0.1, y).round(2)) for y in (None, 1.0)]
        [18.0, 17.74]
    """
    y = finite_array("target", 0.0 if target is None else target)
    before, rates, y = broadcast(
        before=finite_array("before", before), learning_rate=checked_rates(learning_rate), target=y
    )
    if target is None:
        return 4 / rates - before
    square = (rates * y) ** 2
    if np.any(square >= 1):
        raise ValueError(f"learning_rate * |target| must be below 1, got {np.sqrt(square).max()}")
    second = 4 / 3 * (1 - 4 * square) / (1 - square) * (rates * before / 2 - 1) ** 2
    return 4 / rates - before - 2 / rates * second


def instability_budget(residuals: object, learning_rate: object) -> np.ndarray:
    """The sum of eta^2 r_t^2 over the steps taken: what flattening is paid for with (Theorem D7).

    ``residuals`` are the r_t at each point from which a step was taken (not the end point), shape
    (steps, ...); ``learning_rate`` broadcasts against the batch axes, the shape of the result.
    ValueError for a missing time axis, non-finite values or learning_rate <= 0.

    Example:
        >>> float(instability_budget([0.0, 1.0, -2.0], 0.1).round(12))
        0.05
    """
    return np.sum(_scaled_residuals(residuals, learning_rate) ** 2, axis=0)


def log_imbalance_factor(residuals: object, learning_rate: object) -> np.ndarray:
    """The sum of log |1 - eta^2 r_t^2|, which is log |kappa_T / kappa_0| exactly at depth 2 (D7).

    At most minus the budget while every eta |r_t| < 1, and close to it while they are small;
    minus infinity if a step balanced the layers exactly. Arguments and errors as for
    :func:`instability_budget`.

    Example:
        >>> float(log_imbalance_factor([0.0, 1.0, -2.0], 0.1).round(4))  # the budget is 0.05
        -0.0509
    """
    with np.errstate(divide="ignore"):
        factors = np.log(np.abs(1 - _scaled_residuals(residuals, learning_rate) ** 2))
    return np.sum(factors, axis=0)


def _scaled_residuals(residuals: object, learning_rate: object) -> np.ndarray:
    residuals = finite_array("residuals", residuals)
    if residuals.ndim == 0:
        raise ValueError("residuals must have a time axis first, got a number")
    residuals, rates = broadcast(residuals=residuals, learning_rate=checked_rates(learning_rate))
    return rates * residuals


def curvature_beyond_hessian(hessian: object, third: object, fourth: object) -> BeyondHessian:
    """Evaluate the quantities of Definition G5 from exact derivative tensors at one point.

    The tensors are symmetric, of shapes (n, n), (n, n, n) and (n, n, n, n), or ValueError is
    raised, as for a repeated leading eigenvalue. Nothing depends on the sign of v_1.

    Example:
        For L(x, z) = x^2 + x^2 z / 2 at the origin: moving along z changes the sharpness, 2.

        >>> third = np.zeros((2, 2, 2))
        >>> third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0
        >>> found = curvature_beyond_hessian(np.diag([2.0, 0.0]), third, np.zeros((2,) * 4))
        >>> found.gradient_across, found.rotation
        (1.0, 0.5)
    """
    hessian = finite_array("hessian", hessian)
    n = hessian.shape[0] if hessian.ndim else 0
    third, fourth = finite_array("third", third), finite_array("fourth", fourth)
    for order, (name, tensor) in enumerate(
        (("hessian", hessian), ("third", third), ("fourth", fourth)), start=2
    ):
        if tensor.shape != (n,) * order or n == 0:
            shape = ", ".join("n" * order)
            raise ValueError(f"{name} must have shape ({shape}), got {tensor.shape}")
        # Swaps of neighbors generate all permutations. Exact tensors are symmetric to rounding,
        # far below its square root, and a tensor in a wrong layout is not.
        largest = np.max(np.abs(tensor))
        for axis in range(order - 1):
            skew = np.max(np.abs(tensor - np.swapaxes(tensor, axis, axis + 1)))
            if skew > np.sqrt(np.finfo(float).eps) * largest:
                raise ValueError(f"{name} must be symmetric, but is off by {skew:.3g}")
    values, columns = np.linalg.eigh(hessian)
    values, vectors = values[::-1], columns.T[::-1]
    v = vectors[0]
    gradient = third @ v @ v
    along = float(gradient @ v)
    return BeyondHessian(
        sharpness=float(values[0]),
        smallest=float(values[-1]),
        gradient_along=abs(along),
        gradient_across=float(np.linalg.norm(gradient - along * v)),
        fourth=float(fourth @ v @ v @ v @ v),
        rotation=float(np.linalg.norm(rotation_field(values, vectors, gradient))),
        moments=np.sum(values ** np.arange(1, 5)[:, None], axis=1),
    )
