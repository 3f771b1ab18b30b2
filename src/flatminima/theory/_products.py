"""Products of scalars: all entries but one, points on a gradient-flow orbit, a step of descent.

The arithmetic under the scalar and the diagonal network, on arrays that have been checked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def leave_one_out(theta: np.ndarray) -> np.ndarray:
    """The products of all entries but one along the last axis, without division."""
    before, after = np.ones_like(theta), np.ones_like(theta)
    np.cumprod(theta[..., :-1], axis=-1, out=before[..., 1:])
    np.cumprod(theta[..., :0:-1], axis=-1, out=after[..., -2::-1])
    return before * after


def leave_two_out(theta: np.ndarray) -> np.ndarray:
    """The products of all entries but two, (..., d, d) with a diagonal of zeros."""
    diagonal = np.eye(theta.shape[-1], dtype=bool)
    # Row i: the products that leave out one entry more than entry i.
    pairs = leave_one_out(np.where(diagonal, 1.0, theta[..., None, :]))
    return np.where(diagonal, 0.0, pairs)


def on_orbit(theta: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The point with the given output on the gradient-flow orbit of theta; NaN if there is none."""
    size = np.abs(theta)
    smallest = size == size.min(axis=-1, keepdims=True)
    return _with_signs(theta, np.sqrt(orbit_squares(theta, output)), smallest, output)


def orbit_squares(theta: np.ndarray, output: np.ndarray) -> np.ndarray:
    """The squares of a point with the imbalances of theta and an output of the given size.

    They are q + gap_i with fixed gaps >= 0, the least of them 0, so q >= 0 solves
    sum_i log(q + gap_i) = log(output^2), whose left side is convex and increasing in log q.
    """
    size = np.abs(theta)
    least = size.min(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        gaps = np.log((size - least) * (size + least))
        goal = 2 * np.log(np.abs(output))
    reachable = np.isfinite(goal) & ~np.isnan(least[..., 0])

    def excess(log_q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        terms = np.logaddexp(log_q[..., None], gaps)
        return terms.sum(axis=-1) - goal, np.exp(log_q[..., None] - terms).sum(axis=-1)

    depth = theta.shape[-1]
    with np.errstate(invalid="ignore"):
        # (output^2)^(1/d) is too large for q, as every gap is at least 0.
        start = np.where(reachable, goal / depth, -np.inf)
        log_q = decreasing_newton(excess, np.broadcast_to(start, theta.shape[:-1]))
        squares = np.exp(np.logaddexp(log_q[..., None], gaps))
    return np.where((output == 0)[..., None] & (size == least), 0.0, squares)


def _with_signs(
    theta: np.ndarray, size: np.ndarray, smallest: np.ndarray, output: np.ndarray
) -> np.ndarray:
    """Give the entries on an orbit the signs that gradient flow gives them; NaN if it cannot."""
    signs = np.sign(theta)
    tied = np.sum(smallest, axis=-1) > 1
    others = np.prod(np.where(smallest, 1.0, signs), axis=-1)
    free = (others * np.sign(output))[..., None]
    signs = np.where(smallest & ~tied[..., None], free, signs)
    possible = ~tied | (output == 0) | (np.sign(np.prod(signs, axis=-1)) == np.sign(output))
    possible &= ~np.isnan(theta).any(axis=-1)
    return np.where(possible[..., None], signs * size, np.nan)


def decreasing_newton(function: Callable[..., tuple], start: np.ndarray) -> np.ndarray:
    """Solve f(x) = 0 elementwise for convex increasing f, by Newton's method from f(x) >= 0.

    Every iterate stays right of the root and moves left, so that the method cannot fail; it ends
    when rounding stops it. ``function`` returns f and its derivative.
    """
    x = np.array(start, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        for _ in range(200):
            value, slope = function(x)
            step = np.where(value > 0, value / slope, 0.0)
            moved = np.where(np.isfinite(step), x - step, x)
            if np.all((moved >= x) | ~np.isfinite(x)):
                break
            x = moved
    return x


def step(
    target: float,
    old: np.ndarray,
    new: np.ndarray,
    work: np.ndarray,
    rates: np.ndarray,
    noise: np.ndarray | None,
) -> None:
    """One step of gradient descent from ``old`` to ``new``, all (depth, n); ``work`` is scratch.

    ``work[0]`` becomes eta * (r + noise), and ``work[i]`` first the product of the entries from i
    on, then that of the entries up to i.
    """
    depth, scaled = len(old), work[0]
    # after[i]: the product of the entries from i on, without a copy for the last of them.
    after = [*work[:-1], old[-1]]
    for i in range(depth - 2, 0, -1):
        np.multiply(old[i], after[i + 1], out=after[i])
    output = old[0] if depth == 1 else np.multiply(old[0], after[1], out=scaled)
    np.subtract(output, target, out=scaled)
    if noise is not None:
        np.add(scaled, noise, out=scaled)
    np.multiply(scaled, rates, out=scaled)
    before = None
    for i in range(depth):
        gradient = scaled
        if before is not None:
            gradient = np.multiply(gradient, before, out=new[i])
        if i + 1 < depth:
            gradient = np.multiply(gradient, after[i + 1], out=new[i])
        np.subtract(old[i], gradient, out=new[i])
        if i + 1 < depth:
            # after[i] has been used for the last time, and its array, work[i], is free.
            before = old[0] if i == 0 else np.multiply(before, old[i], out=work[i])
