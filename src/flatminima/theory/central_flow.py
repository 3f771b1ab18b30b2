r"""The central flow: the average motion of gradient descent at the edge of stability (Theorem F2).

Where k eigenvalues of the Hessian stand at 2/eta, gradient descent oscillates in the span of their
eigenvectors V, shape (p, k). Averaged over the oscillation, whose covariance is X, it follows

.. math:: \frac{d\theta}{d\tau} = -\nabla L - \tfrac12 \nabla\langle X, V^\top H V\rangle, \qquad
          \tau = \eta t ,

with the X >= 0 that keeps V^T H V <= 2/eta and is zero where a curvature falls. At each instant
that is a semidefinite complementarity problem, solved by :func:`complementarity`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    LARGEST,
    a_bool,
    a_function,
    finite_array,
    finite_float,
    instance_of,
    positive_float,
    positive_int,
)
from flatminima.theory._products import leave_two_out
from flatminima.theory.scalar_network import ScalarNetwork

__all__ = [
    "CentralPath",
    "Complementary",
    "central_flow",
    "complementarity",
    "edge_problem",
    "scalar_derivatives",
]

Derivatives = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""From theta (p,) to gradient, Hessian and third derivative of the loss."""

_ITERATIONS = 100
"""Of the interior-point method, which takes about fifteen."""
_GOAL = 1e-12
"""Where it stops, relative to A."""
_ACCEPTED = 1e-9
"""What counts as a solution if rounding, or an end without strict complementarity, stops it first.
A drift of this relative size is far below the error of any integrator."""
_NEAR = 0.05
"""How far below 2/eta, relative to it, a curvature counts as one that a step may bring there."""


class Complementary(NamedTuple):
    """A solution of a semidefinite complementarity problem, by :func:`complementarity`.

    Example:
        >>> complementarity([[-3.0]], [[[[1.5]]]]).slack.tolist()
        [[0.0]]
    """

    covariance: np.ndarray
    """X, shape (k, k), positive semidefinite."""
    slack: np.ndarray
    """A + B[X], shape (k, k): the rate at which the curvatures at the edge fall."""
    residual: float
    """The larger of -lambda_min(slack) / |A| and <X, slack> / (|A| max(|X|, |A| / |B|))."""


def complementarity(A: object, B: object) -> Complementary:
    """Find X >= 0 with A + B[X] >= 0 and <X, A + B[X]> = 0, where B[X]_ij = sum B_ijkl X_kl.

    Inequalities are in the sense of semidefinite matrices. ``A`` (k, k) is symmetric, and ``B``
    (k, k, k, k) a symmetric positive semidefinite form on symmetric matrices, here half the inner
    products of the gradients of the entries of V^T H V. Then X minimizes <A, X> + <X, B[X]> / 2, a
    convex problem, and B[X] is unique; X is unique if B is positive definite. For k = 1 the
    solution is max(0, -A / B). Otherwise a primal-dual interior-point method in the scaling of
    Nesterov and Todd finds it: a few Newton steps with k (k + 1) / 2 unknowns, for k up to about
    ten. SciPy has no solver for semidefinite cones, and this one is shorter than the interface to
    a package that has.

    ValueError for other shapes, forms that are not symmetric or not positive semidefinite, and
    where no solution is found. There is one if <A, Z> > 0 for all Z >= 0 but zero with B[Z] = 0,
    and none if <A, Z> < 0 for some of them. In between, the least value may be approached by ever
    larger X and not attained; then X is large, and B[X] as accurate as the residual says.

    Example:
        Two curvatures that would rise at the rates 1 and 2, of which an oscillation in the second
        direction lowers both by the same amount:

        >>> B = np.zeros((2,) * 4)
        >>> B[0, 0, 0, 0] = B[1, 1, 1, 1] = B[0, 0, 1, 1] = B[1, 1, 0, 0] = 1.0
        >>> found = complementarity(np.diag([-1.0, -2.0]), B)
        >>> found.covariance.round(6).tolist(), found.slack.round(6).tolist()
        ([[0.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.0]])
    """
    A, form, basis = _checked(A, B)
    rise, strength = np.linalg.norm(A), np.linalg.norm(form, 2)
    if np.linalg.eigvalsh(A)[0] >= 0:
        return Complementary(np.zeros_like(A), A, 0.0)
    if strength == 0:
        raise ValueError("there is no solution: B is zero and A has a negative eigenvalue")
    if len(A) == 1:
        X = -A / form
    else:
        # In these units both data have size one, whatever theirs is.
        X = _interior_point(A / rise, form / strength, basis) * (rise / strength)
    S = A + _apply(form, basis, X)
    negative = max(0.0, -float(np.linalg.eigvalsh(S)[0])) / rise
    size = max(np.linalg.norm(X), rise / strength)
    residual = max(negative, abs(float(np.sum(X * S))) / (rise * size))
    if not residual <= _ACCEPTED:
        raise ValueError(
            f"no solution was found: X grew to {np.linalg.norm(X) * strength / rise:.3g} |A| / |B| "
            f"and left a residual of {residual:.3g}. There is none if some oscillation Z >= 0 has "
            "<A, Z> < 0 and B[Z] = 0"
        )
    return Complementary(X, S, residual)


def _checked(A: object, B: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, the matrix of B in an orthonormal basis of the symmetric matrices, and this basis."""
    A, B = finite_array("A", A), finite_array("B", B)
    k = len(A) if A.ndim else 0
    if k == 0 or A.shape != (k, k) or B.shape != (k,) * 4:
        raise ValueError(f"A (k, k) and B (k, k, k, k) are needed, got {A.shape} and {B.shape}")
    rounding = np.sqrt(np.finfo(float).eps)
    for name, array, order in (
        ("A", A, (1, 0)),
        ("B", B, (1, 0, 2, 3)),
        ("B", B, (0, 1, 3, 2)),
        ("B", B, (2, 3, 0, 1)),
    ):
        skew = np.max(np.abs(array - np.transpose(array, order)))
        if skew > rounding * np.max(np.abs(array)):
            raise ValueError(f"{name} must be symmetric, but is off by {skew:.3g}")
    rows, columns = np.triu_indices(k)
    basis = np.zeros((len(rows), k, k))
    size = np.where(rows == columns, 1.0, np.sqrt(0.5))
    basis[np.arange(len(rows)), rows, columns] = size
    basis[np.arange(len(rows)), columns, rows] = size
    form = np.einsum("aij,ijkl,bkl->ab", basis, B, basis, optimize=True)
    form = (form + form.T) / 2
    values = np.linalg.eigvalsh(form)
    if values[0] < -rounding * max(values[-1], 0.0):
        raise ValueError(f"B must be positive semidefinite, but has the eigenvalue {values[0]:.3g}")
    return (A + A.T) / 2, form, basis


def _apply(form: np.ndarray, basis: np.ndarray, X: np.ndarray) -> np.ndarray:
    """B[X], from the matrix of B in a basis."""
    return np.tensordot(form @ np.tensordot(basis, X, 2), basis, 1)


def _root(M: np.ndarray) -> np.ndarray:
    """F with F F^T = M, for a positive definite M that rounding may have made singular."""
    values, vectors = np.linalg.eigh(M)
    return vectors * np.sqrt(np.maximum(values, np.finfo(float).eps * np.abs(values).max()))


def _interior_point(A: np.ndarray, form: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """X by Mehrotra's predictor and corrector, for A and B of size one.

    With X = L L^T, S = R R^T, R^T L = U D V^T and P = L V D^-1/2, the matrices P^-1 X P^-T and
    P^T S P are one and the same diagonal D, and a Newton step solves dX + P^T B[P dX P^T] P =
    right-hand side. X is kept as its factor, so that its small eigenvalues keep their digits; S
    follows from X, so that no rounding adds up in S - A - B[X].
    """
    k = len(A)
    L, S = np.eye(k), np.eye(k)
    for _ in range(_ITERATIONS):
        d, right = np.linalg.svd(_root(S).T @ L)[1:]
        X, gap = L @ L.T, np.sum(d**2) / k
        infeasible = A + _apply(form, basis, X) - S
        # The rounding of B[X] is relative to X.
        size = max(1.0, np.linalg.norm(X))
        if max(gap, np.linalg.norm(infeasible)) <= _GOAL * size or size > 1 / _GOAL:
            break
        P = L @ right.T / np.sqrt(d)
        change = np.einsum("ia,mij,jb,nab->mn", P, basis, P, basis, optimize=True)
        system = np.eye(len(form)) + change.T @ form @ change
        known = P.T @ infeasible @ P
        # Two solves with the same matrix: where to go for D = 0, then how to stay central.
        target, D = -np.diag(d**2), np.diag(d)
        for corrected in (False, True):
            total = 2 * target / (d[:, None] + d)
            side = np.tensordot(basis, total - known, 2)
            dX = np.tensordot(np.linalg.solve(system, side), basis, 1)
            dS = total - dX
            length = min(_reach(d, dX), _reach(d, dS))
            if not corrected:
                length = min(length, 1.0)
                left_over = np.sum((D + length * dX) * (D + length * dS)) / k
                product = dX @ dS
                center = (max(left_over, 0.0) / gap) ** 3 * gap
                target = target + center * np.eye(k) - (product + product.T) / 2
        length = min(0.99 * length, 1.0)
        L = P @ _root(D + length * dX)
        S = A + _apply(form, basis, L @ L.T) - (1 - length) * infeasible
    return X


def _reach(d: np.ndarray, step: np.ndarray) -> float:
    """How many times the step may be added to diag(d) before an eigenvalue is zero."""
    root = np.sqrt(d)
    least = np.linalg.eigvalsh(step / root[:, None] / root)[0]
    return float("inf") if least >= 0 else -1.0 / float(least)


class CentralPath(NamedTuple):
    """A central flow at the times of the steps of gradient descent, by :func:`central_flow`.

    Example:
        On L = (ab - 1)^2 / 2 with eta = 1/2 the flow meets the threshold 4 and stays there:

        >>> flow = scalar_derivatives(ScalarNetwork(2, 1.0))
        >>> path = central_flow(flow, [0.3, 2.0], 0.5, 40)
        >>> path.sharpness[[0, 10, 40]].round(3).tolist()
        [4.01, 4.0, 4.0]
    """

    theta: np.ndarray
    """Shape (steps + 1, p)."""
    sharpness: np.ndarray
    """lambda_1 along the flow, shape (steps + 1,)."""
    covariance: np.ndarray
    """V X V^T, the predicted covariance of the oscillation, shape (steps + 1, p, p)."""

    @property
    def variance(self) -> np.ndarray:
        """The trace of X, the mean square of the oscillation, shape (steps + 1,)."""
        return np.trace(self.covariance, axis1=-2, axis2=-1)


def scalar_derivatives(network: ScalarNetwork) -> Derivatives:
    """Gradient, Hessian and third derivative of a scalar network, for :func:`central_flow`.

    Example:
        >>> [tensor.tolist() for tensor in scalar_derivatives(ScalarNetwork(1, 0.0))([2.0])]
        [[2.0], [[1.0]], [[[0.0]]]]
    """
    instance_of("network", network, ScalarNetwork)

    def derivatives(theta: np.ndarray) -> tuple[np.ndarray, ...]:
        theta = finite_array("theta", theta)
        if theta.shape != (network.depth,):
            raise ValueError(
                f"theta, a start say, must have shape ({network.depth},), got {theta.shape}"
            )
        d, unit = network.depth, np.eye(network.depth, dtype=bool)
        pairs, outputs = leave_two_out(theta), np.array([np.prod(theta[~row]) for row in unit])
        # Slice k: the products that leave out k and two others; zero where indices repeat.
        triples = leave_two_out(np.where(unit, 1.0, theta))
        triples = np.where(unit[:, :, None] | unit[:, None, :], 0.0, triples)
        mixed = outputs[:, None, None] * pairs
        third = mixed + np.moveaxis(mixed, 0, 1) + np.moveaxis(mixed, 0, 2)
        third = third + network.residual(theta) * triples
        return network.gradient(theta), network.hessian(theta), third.reshape(d, d, d)

    return derivatives


def edge_problem(
    gradient: object, values: object, third: object, threshold: float, time: float
) -> Complementary:
    """The X with which no curvature at the edge exceeds the ``threshold`` after a short ``time``.

    ``values`` (k,) are the eigenvalues of the Hessian at the edge and ``third`` (k, k, p) holds
    T[v_i, v_j, .], the gradients of the entries of V^T H V. For a time that tends to zero, and for
    eigenvalues at the threshold, this is the problem of the central flow; eigenvalues below it may
    rise by what they are short of, and so none has to be told when it reaches the edge.

    ValueError as for :func:`complementarity`.

    Example:
        The curvature 3.9 would rise at the rate 2; over a time 0.1 it may rise at the rate 1 only:

        >>> float(edge_problem([-2.0], [3.9], [[[1.0]]], 4.0, 0.1).covariance[0, 0].round(9))
        2.0
    """
    gradient, third = finite_array("gradient", gradient), finite_array("third", third)
    values, threshold = finite_array("values", values), finite_float("threshold", threshold)
    k, p = values.shape[-1:] or (0,), gradient.shape[-1:] or (0,)
    if values.ndim != 1 or gradient.ndim != 1 or third.shape != (*k, *k, *p) or third.size == 0:
        raise ValueError(
            "gradient (p,), values (k,) and third (k, k, p) are needed, got shapes "
            f"{gradient.shape}, {values.shape} and {third.shape}"
        )
    room = (threshold - values) / positive_float("time", time)
    form = np.einsum("ijp,klp->ijkl", third, third) / 2
    return complementarity(third @ gradient + np.diag(room), form)


def central_flow(
    derivatives: Derivatives,
    start: object,
    learning_rate: float,
    steps: int,
    substeps: int = 4,
    oscillating: bool = True,
) -> CentralPath:
    """The central flow of a small problem over the time of so many steps of gradient descent.

    ``derivatives`` maps theta (p,) to the exact gradient, Hessian and third derivative of the
    loss, as ``lambda theta: network.derivatives(theta, 3)`` of a
    :class:`~flatminima.theory.tanh_network.TanhNetwork`. Each step takes ``substeps`` Euler steps,
    with the X of :func:`edge_problem`; with one, directions at the threshold will not come to rest.
    A start beyond the threshold is brought to it at once. With ``oscillating`` False X is
    zero, and what results is gradient flow.

    ValueError for a start that is no vector, other numbers out of range, and where
    :func:`complementarity` has no solution.

    Example:
        Gradient flow goes to the minimum ahead, which is too sharp for gradient descent:

        >>> flow = scalar_derivatives(ScalarNetwork(2, 1.0))
        >>> ends = [central_flow(flow, [0.3, 2.0], 0.5, 40, oscillating=b) for b in (True, False)]
        >>> [float(path.sharpness[-1].round(2)) for path in ends]
        [4.0, 4.38]
    """
    theta, oscillating = finite_array("start", start), a_bool("oscillating", oscillating)
    a_function("derivatives", derivatives)
    eta = positive_float("learning_rate", learning_rate)
    if theta.ndim != 1 or theta.size == 0:
        raise ValueError(f"start must be a vector, got shape {theta.shape}")
    steps, time, limit = (
        positive_int("steps", steps),
        eta / positive_int("substeps", substeps),
        2 / eta,
    )
    path, sharpness = np.empty((steps + 1, theta.size)), np.empty(steps + 1)
    covariance = np.zeros((steps + 1, theta.size, theta.size))
    for t in range(steps * substeps + 1):
        # A cubic of them, as a gradient is, must be a number still.
        if not np.all(np.abs(theta) <= LARGEST**0.25):
            raise ValueError(f"the flow left the finite numbers: is learning_rate {eta} too large?")
        gradient, hessian, third = derivatives(theta)
        values, vectors = np.linalg.eigh(hessian)
        drift, spread = gradient, 0.0
        near = values > (1 - _NEAR) * limit
        if oscillating and np.any(near):
            V = vectors[:, near]
            pairs = np.einsum("ai,abp,bj->ijp", V, third, V)
            X = edge_problem(gradient, values[near], pairs, limit, time).covariance
            drift = gradient + np.einsum("ij,ijp->p", X, pairs) / 2
            spread = V @ X @ V.T
        if t % substeps == 0:
            at = t // substeps
            path[at], sharpness[at], covariance[at] = theta, values[-1], spread
        theta = theta - time * drift
    return CentralPath(path, sharpness, covariance)
