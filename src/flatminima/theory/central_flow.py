r"""The central flow: the average motion of gradient descent at the edge of stability (Theorem F2).

Where k eigenvalues of the Hessian stand at 2/eta, gradient descent oscillates in the span of their
eigenvectors V, shape (p, k). Averaged over the oscillation, whose covariance is X, it follows

.. math:: \frac{d\theta}{d\tau} = -\nabla L - \tfrac12 \nabla\langle X, V^\top H V\rangle, \qquad
          \tau = \eta t ,

with the X >= 0 that keeps V^T H V <= 2/eta and is zero where a curvature falls. At each instant
that is a semidefinite complementarity problem, solved by :func:`complementarity`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatminima._validation import finite_array

__all__ = ["Complementary", "complementarity"]

_ITERATIONS = 100
"""Of the interior-point method, which takes about fifteen."""
_GOAL = 1e-12
"""Where it stops, relative to A."""
_ACCEPTED = 1e-9
"""What counts as a solution if rounding, or an end without strict complementarity, stops it first.
A drift of this relative size is far below the error of any integrator."""


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
