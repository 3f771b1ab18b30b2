r"""Several directions at the edge at once: the sphere law, Theorem M3.

Let r eigenvalues of the Hessian equal 2/eta at a point of a manifold of minima. Near it, G is the
position along the manifold, X the displacement along the r edge directions, and the excess of their
curvature is the symmetric matrix A(G) = sum_k G_k A_k, with couplings A_k of shape (r, r). Averaged
over two steps, gradient descent follows

.. math:: \frac{dX}{d\tau} = A(G)\,X, \qquad
          \frac{dG_k}{d\tau} = -\tfrac12 \langle X, A_k X\rangle , \qquad \tau = \eta t ,

which conserves |G|^2 + |X|^2 / 2. Couplings have the shape (..., m, r, r), positions (..., m) and
displacements (..., r); batch axes in front broadcast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp

from flatminima._validation import common_shape, finite_array, positive_float, positive_int

__all__ = [
    "SpherePath",
    "averaged_end",
    "averaged_flow",
    "sphere_dynamics",
    "stabilizing_direction",
]

_ACCURACY = 1e-10
"""Of the solver: relative to the radius of the sphere, per step."""


class SpherePath(NamedTuple):
    """Positions and displacements over time, by :func:`averaged_flow` or :func:`sphere_dynamics`.

    Example:
        A quarter of a circle, from the equator to the lower pole:

        >>> path = averaged_flow([[[1.0]]], [0.0], [np.sqrt(2)], [0.0, 20.0])
        >>> path.position.round(4).tolist(), path.radius.round(4).tolist()
        ([[0.0], [-1.0]], [1.0, 1.0])
    """

    position: np.ndarray
    """G, shape (times, ..., m)."""
    displacement: np.ndarray
    """X, shape (times, ..., r)."""

    @property
    def radius(self) -> np.ndarray:
        """The square root of |G|^2 + |X|^2 / 2, shape (times, ...)."""
        squares = np.sum(self.position**2, axis=-1) + np.sum(self.displacement**2, axis=-1) / 2
        return np.sqrt(squares)


def _state(
    couplings: object, position: object, displacement: object
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    A, G = finite_array("couplings", couplings), finite_array("position", position)
    X = finite_array("displacement", displacement)
    wanted = (*G.shape[-1:], *X.shape[-1:], *X.shape[-1:])
    if len(wanted) < 3 or A.shape[-3:] != wanted or 0 in A.shape:
        raise ValueError(
            "couplings (..., m, r, r), position (..., m) and displacement (..., r) are needed, "
            f"got shapes {A.shape}, {G.shape} and {X.shape}"
        )
    skew = np.max(np.abs(A - np.swapaxes(A, -1, -2)))
    if skew > np.sqrt(np.finfo(float).eps) * np.max(np.abs(A)):
        raise ValueError(f"couplings must be symmetric matrices, but are off by {skew:.3g}")
    batch = common_shape(couplings=A.shape[:-3], position=G.shape[:-1], displacement=X.shape[:-1])
    G, X = (np.broadcast_to(v, (*batch, *v.shape[-1:])) for v in (G, X))
    return A, G, X


def _drift(A: np.ndarray, X: np.ndarray) -> np.ndarray:
    return np.einsum("...kab,...a,...b->...k", A, X, X)


def averaged_flow(
    couplings: object, position: object, displacement: object, times: object
) -> SpherePath:
    """The averaged flow of Theorem M3 from G and X at time 0, at increasing ``times`` >= 0.

    ValueError for shapes that do not match, matrices that are not symmetric, or other times.

    Example:
        Two directions with one position in common: what the first loses, the second gains.

        >>> path = averaged_flow([np.diag([1.0, -1.0])], [1.0], [0.1, 0.0], [0.0, 9.0])
        >>> path.position.round(4).tolist()
        [[1.0], [-1.0025]]
    """
    A, G, X = _state(couplings, position, displacement)
    times = finite_array("times", times)
    if times.ndim != 1 or len(times) == 0 or times[0] < 0 or np.any(np.diff(times) <= 0):
        raise ValueError(f"times must be increasing numbers of at least 0, got {times!r}")

    def flow(_: float, state: np.ndarray) -> np.ndarray:
        g, x = state[: G.size].reshape(G.shape), state[G.size :].reshape(X.shape)
        dx = np.einsum("...kab,...k,...b->...a", A, g, x)
        return np.concatenate([-_drift(A, x).ravel() / 2, dx.ravel()])

    start = np.concatenate([G.ravel(), X.ravel()])
    floor = _ACCURACY * (np.linalg.norm(start) or 1.0)
    span = (0.0, times[-1] or 1.0)
    solved = solve_ivp(flow, span, start, "DOP853", times, rtol=_ACCURACY, atol=floor)
    g, x = np.split(solved.y.T, [G.size], axis=1)
    return SpherePath(g.reshape(-1, *G.shape), x.reshape(-1, *X.shape))


def averaged_end(couplings: object, position: object, displacement: object) -> np.ndarray:
    """The position in which the averaged flow ends, shape (..., m).

    Time is run, in units of one over the radius times the largest coupling, until |X| is below
    1e-6 of the radius, which changes the position by some 1e-12 of it. ValueError if that takes
    more than 4000 units: there may be no direction that stabilizes, see
    :func:`stabilizing_direction`, or the end may lie on the edge.

    Example:
        In one direction the excess is reflected:

        >>> averaged_end([[[2.0]]], [0.3], [1e-3]).round(4).tolist()
        [-0.3]
    """
    A, G, X = _state(couplings, position, displacement)
    radius = np.sqrt(np.sum(G**2, axis=-1) + np.sum(X**2, axis=-1) / 2)
    unit = 1 / max(np.max(radius) * np.max(np.abs(A)), np.finfo(float).tiny)
    for _ in range(40):
        if np.all(np.linalg.norm(X, axis=-1) <= 1e-6 * radius):
            return G
        path = averaged_flow(A, G, X, [100 * unit])
        G, X = path.position[0], path.displacement[0]
    raise ValueError("the averaged flow did not come to rest")


def sphere_dynamics(
    couplings: object, position: object, displacement: object, learning_rate: float, steps: int
) -> SpherePath:
    r"""Gradient descent on L(G, X) = <X, (2/eta + A(G)) X> / 2, exactly, all steps recorded.

    .. math:: X' = -(I + \eta A(G))\,X, \qquad G_k' = G_k - \tfrac\eta2 \langle X, A_k X\rangle

    The simplest loss to which Theorem M3 applies; for r = m = 1 it is
    :func:`~flatminima.theory.instability.coupled_dynamics` without progressive sharpening. A run
    that diverges holds infinities or NaN.

    Example:
        >>> path = sphere_dynamics([[[2.0]]], [0.3], [1e-3], 0.01, 4000)
        >>> path.position[-1].round(3).tolist()  # -0.3 up to the square
        [-0.302]
    """
    A, G, X = _state(couplings, position, displacement)
    eta = positive_float("learning_rate", learning_rate)
    path_g = np.empty((positive_int("steps", steps) + 1, *G.shape))
    path_x = np.empty((steps + 1, *X.shape))
    path_g[0], path_x[0] = G, X
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            turn = np.einsum("...kab,...k,...b->...a", A, path_g[t], path_x[t])
            path_g[t + 1] = path_g[t] - eta / 2 * _drift(A, path_x[t])
            path_x[t + 1] = -(path_x[t] + eta * turn)
    return SpherePath(path_g, path_x)


def stabilizing_direction(couplings: object, steps: int = 2000) -> np.ndarray | None:
    """A unit vector n with sum_k n_k A_k positive definite, shape (m,), or None if none was found.

    Such an n exists unless some positive semidefinite P != 0 has tr(A_k P) = 0 for all k. Among the
    vectors (tr A_k P)_k with tr P = 1, the shortest is such an n if it is not zero; the method of
    Frank and Wolfe approaches it. None after all ``steps`` means that there is no n whose matrix is
    far from singular.

    Example:
        >>> stabilizing_direction([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])]).round(3).tolist()
        [0.707, 0.707]
        >>> stabilizing_direction([np.diag([1.0, -1.0])]) is None
        True
    """
    A = finite_array("couplings", couplings)
    if A.ndim != 3 or A.shape[-1] != A.shape[-2] or 0 in A.shape:
        raise ValueError(f"couplings must have shape (m, r, r), got {A.shape}")
    n = np.trace(A, axis1=-2, axis2=-1) / A.shape[-1]
    for _ in range(positive_int("steps", steps)):
        values, vectors = np.linalg.eigh(np.tensordot(n, A, 1))
        length = np.linalg.norm(n)
        if values[0] > np.finfo(float).eps * np.abs(A).max() * length:
            return n / length
        # The extreme P in the direction of descent is the projection on the least eigenvector.
        toward = _drift(A, vectors[:, 0]) - n
        if not np.any(toward):
            return None
        n = n + np.clip(-(n @ toward) / (toward @ toward), 0, 1) * toward
    return None
