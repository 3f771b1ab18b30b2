r"""Gradient descent past the threshold, without a quadratic: low-dimensional maps and their orbits.

A loss of one variable turns gradient descent into a map of the line, x' = x - eta L'(x). Its fixed
points are the critical points of the loss; past the threshold it may settle on a cycle instead
(Proposition Q5). The uv model is the map of a two-layer linear network with one hidden unit. With
more parameters the small cycles next to a minimum are those of Theorem M8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    LARGEST,
    broadcast,
    checked_rates,
    common_shape,
    finite_array,
    finite_float,
    instance_of,
    numbers,
    positive_int,
    shown,
)
from flatminima.theory._descent import recurrence

__all__ = [
    "Orbit",
    "Polynomial",
    "SmallCycle",
    "UVTrajectory",
    "Wide",
    "bifurcation_diagram",
    "cycle_length",
    "multiplier",
    "orbit",
    "period_two",
    "period_two_orbit",
    "quartic",
    "superstable_rates",
    "uv_model",
]

_ESCAPE = 1e6  # an orbit whose |x| exceeds this is reported as diverged
_LONGEST = 32  # the longest period that is looked for


@dataclass(frozen=True)
class Polynomial:
    """A loss of one variable, L(x) = sum_k coefficients[k] x^k, all finite, lowest power first.

    Example:
        >>> double_well = Polynomial((0.25, 0.0, -0.5, 0.0, 0.25))
        >>> double_well.derivative([0.0, 1.0], 2).tolist()  # a hill between two valleys
        [-1.0, 2.0]
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        values = finite_array("coefficients", self.coefficients)
        if values.ndim != 1 or not values.size:
            raise ValueError(f"coefficients must be a sequence of numbers, got {shown(values)}")
        object.__setattr__(self, "coefficients", tuple(float(c) for c in values))

    def derivative(self, x: object, order: int = 1) -> np.ndarray:
        """Return the derivative of the given order >= 0 at x, in the shape of x; NaN at NaN."""
        return self._at(numbers("x", x), positive_int("order", order, 0, maximum=1000))

    def _at(self, x: np.ndarray, order: int) -> np.ndarray:
        c = np.polynomial.polynomial.polyder(self.coefficients, order)
        return np.polynomial.polynomial.polyval(x, c)


def quartic(curvature: float, c: float, skew: float = 0.0) -> Polynomial:
    """Return L(x) = curvature x^2 / 2 + skew x^3 / 6 + c x^4 / 4, the loss of Proposition Q5.

    Example:
        >>> quartic(1.0, -1.0)
        Polynomial(coefficients=(0.0, 0.0, 0.5, 0.0, -0.25))
    """
    curvature, c = finite_float("curvature", curvature), finite_float("c", c)
    return Polynomial((0.0, 0.0, curvature / 2, finite_float("skew", skew) / 6, c / 4))


@dataclass(frozen=True)
class Wide:
    """L(x) = sqrt(1 + x^2) - 1: curvature (1 + x^2)^{-3/2}, highest at the minimum, and bounded
    below, so that an orbit past the threshold has nowhere to escape to.

    Example:
        >>> bool(orbit(Wide(), 100.0, 3.0, 500).diverged)
        False
        >>> Wide().derivative(0.0, 2).tolist()
        1.0
    """

    def derivative(self, x: object, order: int = 1) -> np.ndarray:
        """Return the derivative of order 0, 1 or 2 at x; NaN at NaN."""
        return self._at(numbers("x", x), positive_int("order", order, 0, maximum=2))

    def _at(self, x: np.ndarray, order: int) -> np.ndarray:
        root = np.sqrt(1 + x**2)
        if order == 0:
            return x**2 / (1 + root)
        return x / root if order == 1 else root**-3


class Orbit(NamedTuple):
    """The last iterates of a map, time axis first.

    Example:
        >>> orbit(quartic(1.0, -1.0), [0.1, 2.0], 2.5, 100).diverged.tolist()
        [False, True]
    """

    x: np.ndarray
    """shape (keep, ...), NaN once diverged."""
    diverged: np.ndarray
    """shape (...), whether |x| exceeded 10^6 or stopped being a number."""


def orbit(
    loss: Polynomial | Wide,
    start: object,
    learning_rate: object,
    steps: int,
    keep: int | None = None,
) -> Orbit:
    """Iterate x' = x - eta L'(x) over a whole grid of starts and learning rates.

    ``start`` broadcasts against ``learning_rate``, eta > 0. The last ``keep`` iterates are
    returned, the end included, and None keeps all steps + 1, the start first; memory grows with
    keep alone. ValueError for values out of range.

    Example:
        Past the threshold, here 2, the orbit settles on a cycle of two points:

        >>> orbit(quartic(1.0, -1.0), 0.1, 2.5, 200, keep=3).x.round(4).tolist()
        [0.4472, -0.4472, 0.4472]
    """
    steps = positive_int("steps", steps)
    keep = steps + 1 if keep is None else positive_int("keep", keep)
    if keep > steps + 1:
        raise ValueError(f"keep must be at most steps + 1 = {steps + 1}, got {keep}")
    instance_of("loss", loss, Polynomial, Wide)
    x, eta = broadcast(
        start=finite_array("start", start), learning_rate=checked_rates(learning_rate)
    )
    kept = np.empty((keep, *x.shape))
    first = steps + 1 - keep
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps + 1):
            if t >= first:
                kept[t - first] = x
            x = x - eta * loss._at(x, 1)
            # Once out, out for good: NaN never comes back.
            x = np.where(np.abs(x) <= _ESCAPE, x, np.nan)
    return Orbit(kept, np.isnan(kept[-1]))


def multiplier(loss: Polynomial | Wide, cycle: object, learning_rate: object) -> np.ndarray:
    """Return the product of 1 - eta L''(x) over a cycle: the derivative of the k-fold map there.

    The cycle attracts if it is below 1 in absolute value and repels if it is above. ``cycle`` has
    its k points along the first axis, (k, ...); ``learning_rate`` broadcasts against (...).

    Example:
        >>> cycle = period_two_orbit(1.0, -1.0, 2.9) * np.array([1, -1])
        >>> float(multiplier(quartic(1.0, -1.0), cycle, 2.9).round(4))  # (2 eta lambda - 5)^2
        0.64
    """
    cycle = finite_array("cycle", cycle)
    if cycle.ndim == 0:
        raise ValueError("cycle must have its points along the first axis, got a number")
    curvature = instance_of("loss", loss, Polynomial, Wide).derivative(cycle, 2)
    curvature, rates = broadcast(cycle=curvature, learning_rate=checked_rates(learning_rate))
    return np.prod(1 - rates * curvature, axis=0)


def period_two_orbit(curvature: object, c: object, learning_rate: object) -> np.ndarray:
    """Return x_* > 0 of the orbit {x_*, -x_*} on L = curvature x^2/2 + c x^4/4 (Q5).

    NaN where there is none: past the threshold for c >= 0, below it for c <= 0. Its multiplier is
    (2 eta lambda - 5)^2, so it attracts exactly for 2 < eta lambda < 3. Arguments broadcast;
    ValueError for c = 0, as for a learning rate <= 0.

    Example:
        >>> period_two_orbit(1.0, -1.0, [1.9, 2.5]).round(4).tolist()
        [nan, 0.4472]
    """
    curvature, c, eta = broadcast(
        curvature=finite_array("curvature", curvature),
        c=finite_array("c", c),
        learning_rate=checked_rates(learning_rate),
    )
    if np.any(np.abs(c) < 1 / LARGEST):
        raise ValueError("c must not be 0: a quadratic has no isolated cycle")
    square = (2 - eta * curvature) / (eta * c)
    return np.sqrt(np.where(square > 0, square, np.nan))


class SmallCycle(NamedTuple):
    """The small cycle of two points next to a minimum, to leading order (Theorem M8).

    Example:
        >>> period_two(1.0, 0.0, -6.0, 2.1).multiplier.round(9).tolist()  # 1 - 4 (2.1 - 2)
        0.6
    """

    strength: np.ndarray
    """a in lambda_1 - 2/eta = a A^2 + O(A^4): past the threshold if positive, shape (...)."""
    amplitude: np.ndarray
    """A > 0; NaN where the learning rate is on the other side of the threshold, shape (...)."""
    points: np.ndarray
    """The two points, from the minimum, up to O(A^3); shape (2, ..., p)."""
    multiplier: np.ndarray
    """1 - 4 (eta lambda_1 - 2): it attracts along v_1 if below one, shape (...)."""


def period_two(hessian: object, third: object, fourth: object, learning_rate: object) -> SmallCycle:
    """Return the small cycle next to a nondegenerate minimum, from derivatives there (M8).

    ``hessian`` has shape (..., p, p), ``third`` (..., p, p, p) and ``fourth`` (..., p, p, p, p),
    all symmetric; for p = 1 numbers will do. ``learning_rate`` broadcasts against (...). ValueError
    unless all eigenvalues of the Hessian are positive and the largest is simple.

    Example:
        A stiff direction holds an oscillation that the fourth derivative alone would not:

        >>> third = np.zeros((2, 2, 2))
        >>> third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0
        >>> cycle = period_two(np.diag([2.0, 1.0]), third, np.zeros((2,) * 4), 1.02)
        >>> float(cycle.strength), cycle.points.round(3).tolist()
        (0.5, [[0.28, -0.039], [-0.28, -0.039]])
    """
    h, t, q = (
        finite_array(name, value)
        for name, value in (("hessian", hessian), ("third", third), ("fourth", fourth))
    )
    if h.ndim == t.ndim == q.ndim == 0:
        h, t, q = h.reshape(1, 1), t.reshape(1, 1, 1), q.reshape(1, 1, 1, 1)
    p = h.shape[-1] if h.ndim else 0
    if not p or any(x.shape[-k:] != (p,) * k for k, x in ((2, h), (3, t), (4, q))):
        raise ValueError(
            "hessian, third and fourth must have shapes (..., p, p), (..., p, p, p) and "
            f"(..., p, p, p, p), got {h.shape}, {t.shape} and {q.shape}"
        )
    eta = checked_rates(learning_rate)
    common_shape(
        hessian=h.shape[:-2], third=t.shape[:-3], fourth=q.shape[:-4], learning_rate=eta.shape
    )
    values, vectors = np.linalg.eigh(h)
    top, v = values[..., -1], vectors[..., -1]
    slack = 1e-12 * np.abs(top)
    if np.any(values[..., 0] <= slack) or (p > 1 and np.any(top - values[..., -2] <= slack)):
        raise ValueError(
            "hessian must have positive eigenvalues, the largest of them simple, "
            f"got {shown(values)}"
        )
    c = np.einsum("...ijk,...i,...j->...k", t, v, v)
    back = np.linalg.solve(h, c[..., None])[..., 0]
    along = np.einsum("...ijkl,...i,...j,...k,...l->...", q, v, v, v, v)
    strength = np.sum(c * back, axis=-1) / 2 - along / 6
    with np.errstate(divide="ignore", invalid="ignore"):
        square = (top - 2 / eta) / strength
    amplitude = np.sqrt(np.where((square > 0) & np.isfinite(square), square, np.nan))
    swing, centre = amplitude[..., None] * v, amplitude[..., None] ** 2 * back / 2
    # The sign of v_1 is nobody's choice: the first point is where its largest entry is positive.
    largest = np.take_along_axis(v, np.abs(v).argmax(axis=-1)[..., None], axis=-1)
    swing = swing * np.sign(largest)
    points = np.stack([swing - centre, -swing - centre])
    return SmallCycle(strength, amplitude, points, 1 - 4 * (eta * top - 2))


def bifurcation_diagram(
    loss: Polynomial | Wide,
    learning_rates: object,
    starts: object = (0.1,),
    *,
    settle: int = 1000,
    keep: int = 128,
) -> Orbit:
    """Return where orbits live in the long run, x of shape (keep, s, m), for m learning rates.

    There are s ``starts``, as several attractors may coexist; ``settle`` steps are taken before
    the last ``keep`` iterates are recorded.

    Example:
        >>> bifurcation_diagram(quartic(1.0, -1.0), [1.5, 2.5, 3.3], keep=64).x.shape
        (64, 1, 3)
    """
    rates = np.atleast_1d(checked_rates(learning_rates, "learning_rates"))
    starts = np.atleast_1d(finite_array("starts", starts))
    if rates.ndim > 1 or starts.ndim > 1:
        raise ValueError(
            "learning_rates and starts must be numbers or lists of numbers, got shapes "
            f"{rates.shape} and {starts.shape}"
        )
    settle, keep = positive_int("settle", settle), positive_int("keep", keep)
    return orbit(loss, starts[:, None], rates, settle + keep - 1, keep)


def cycle_length(orbits: Orbit) -> np.ndarray:
    """Return the period of each settled orbit: the smallest k <= 32 with x_{t+k} = x_t to 1e-6.

    0 stands for an orbit that repeats with no such period, or that diverged. ValueError for fewer
    than 64 iterates; :func:`bifurcation_diagram` gives enough.

    Example:
        >>> cycle_length(bifurcation_diagram(quartic(1.0, -1.0), [1.5, 2.5, 3.25])).tolist()
        [[1, 2, 4]]
    """
    if len(instance_of("orbits", orbits, Orbit).x) < 2 * _LONGEST:
        raise ValueError(f"orbits must hold at least {2 * _LONGEST} iterates, got {len(orbits.x)}")
    period = np.zeros(orbits.x.shape[1:], dtype=int)
    for k in range(_LONGEST, 0, -1):
        # NaN differs from everything, so diverged orbits stay at 0.
        period[np.abs(orbits.x[k:] - orbits.x[:-k]).max(axis=0) <= 1e-6] = k
    return period


def superstable_rates(levels: int) -> np.ndarray:
    """Return eta_1 < eta_2 < ... at which L = x^2/2 - x^4/4 has a superstable cycle of 2^k points.

    A cycle is superstable, its multiplier 0, if it contains a critical point of the map,
    x_c^2 = (eta - 1)/(3 eta). As measured, the gaps shrink by Feigenbaum's ratio 4.669... in the
    limit (Feigenbaum 1978). There are ``levels`` >= 2 of them, from 2 points on; each is found to
    rounding, in which their differences are lost beyond about 9.

    Example:
        >>> gaps = np.diff(superstable_rates(7))
        >>> (gaps[:-1] / gaps[1:]).round(2).tolist()
        [4.59, 4.65, 4.67, 4.67, 4.67]
    """
    from scipy.optimize import brentq

    levels = positive_int("levels", levels, 2, maximum=16)

    def miss(eta: float, steps: int) -> float:
        x = critical = np.sqrt((eta - 1) / (3 * eta))
        for _ in range(steps):
            x = (1 - eta) * x + eta * x**3
        return x - critical

    # The asymmetric cycle of two points has multiplier 9 - 2 (eta - 1)^2 (Proposition Q5), and
    # doubles at 1 + sqrt 5; the next superstable rate follows soon after.
    rates = [1 + 3 / np.sqrt(2), brentq(miss, 1 + np.sqrt(5), 3.27, args=(4,), xtol=1e-15)]
    while len(rates) < levels:
        gap = (rates[-1] - rates[-2]) / 4.669
        low, high = rates[-1] + 0.8 * gap, rates[-1] + 1.2 * gap
        rates.append(brentq(miss, low, high, args=(2 ** (len(rates) + 1),), xtol=1e-15))
    return np.array(rates)


class UVTrajectory(NamedTuple):
    """A run of the uv model, time axis first.

    Example:
        >>> uv_model(1.0, 3.0, 1.0, 50).output.shape
        (51,)
    """

    output: np.ndarray
    """f = u v / sqrt(m), shape (steps + 1, ...); NaN once |f| exceeds 10^6."""
    curvature: np.ndarray
    """lambda = (|u|^2 + |v|^2) / m, the tangent kernel, same shape."""
    diverged: np.ndarray
    """shape (...)."""


def uv_model(
    output: object, curvature: object, learning_rate: object, steps: int, width: int = 1
) -> UVTrajectory:
    """Iterate the uv model of Lewkowycz et al. (2020), exactly, in its two closed variables.

    The network f = u . v / sqrt(m) with width m is trained on one example with target 0 and loss
    f^2 / 2. Gradient descent closes in f and lambda = (|u|^2 + |v|^2) / m.

    ``output`` f_0, ``curvature`` lambda_0 >= 2 |f_0| / sqrt(m), as |u|^2 + |v|^2 >= 2 |u . v|
    demands, and ``learning_rate`` broadcast; ValueError for values out of range.

    Example:
        A catapult: from eta lambda = 3 it lands far below the threshold, 2; from 4.5 it is lost.

        >>> run = uv_model(0.1, [3.0, 4.5], 1.0, 100)
        >>> run.curvature[-1].round(3).tolist()
        [0.179, nan]
    """
    width = positive_int("width", width)
    f, lam, eta = broadcast(
        output=finite_array("output", output),
        curvature=finite_array("curvature", curvature),
        learning_rate=checked_rates(learning_rate),
    )
    bound = 2 * np.abs(f) / np.sqrt(width)
    if np.any(lam < bound * (1 - 8 * np.finfo(float).eps)):
        raise ValueError(
            f"curvature must be at least 2 |output| / sqrt(width), got {shown(lam)} for the "
            f"output {shown(f)}"
        )

    def step(f: np.ndarray, lam: np.ndarray) -> np.ndarray:
        drive = f**2 / width
        new = f * (1 - eta * lam + eta**2 * drive), lam + eta * drive * (eta * lam - 4)
        return np.where(np.abs(new[0]) <= _ESCAPE, new, np.nan)

    output, curvature = recurrence(step, (f, lam), steps)
    return UVTrajectory(output, curvature, np.isnan(output[-1]))
