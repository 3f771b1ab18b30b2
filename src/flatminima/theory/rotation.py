"""How far eigenvectors turn: angles and overlaps that ignore sign, and the rotation field of G2.

An eigenvector is a line, not an arrow: ``v`` and ``-v`` are the same eigenvector, and a solver may
return either. Nothing in this module depends on that choice. Vectors lie along the last axis, so a
set of k eigenvectors in n dimensions is stored row by row, with shape (k, n) and the leading one
first; further axes in front are batch axes and broadcast.
"""

from __future__ import annotations

import numpy as np

from flatminima._validation import common_shape, finite_array

__all__ = ["align", "angle", "overlap", "principal_angles", "rotation_field", "subspace_overlap"]

# Eigenvectors from an iterative solver in float32 are orthonormal to about the square root of its
# rounding; anything worse is not a set of eigenvectors but, say, columns given for rows.
_ORTHONORMALITY = float(np.sqrt(np.finfo(np.float32).eps))


def _unit(name: str, vectors: object) -> np.ndarray:
    """The vectors along the last axis, scaled to length one (safe from overflow)."""
    array = finite_array(name, vectors, largest=np.finfo(float).max)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"{name} must hold vectors along its last axis, got shape {array.shape}")
    largest = np.max(np.abs(array), axis=-1, keepdims=True)
    if np.any(largest == 0):
        raise ValueError(f"{name} must hold no zero vector: it has no direction")
    array = array / largest
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def _same_dimension(axes: int = 1, **vectors: np.ndarray) -> None:
    """Raise ValueError unless the last axes are equally long, and all but the last so many fit."""
    (first, u), (second, v) = vectors.items()
    if u.shape[-1:] != v.shape[-1:] or u.ndim == 0:
        raise ValueError(
            f"{first} and {second} must hold vectors of the same dimension along the last axis, "
            f"got shapes {u.shape} and {v.shape}"
        )
    common_shape(**{name: array.shape[:-axes] for name, array in vectors.items()})


def angle(u: object, v: object) -> np.ndarray:
    """Angle between the lines along ``u`` and ``v``, in radians, in [0, pi/2].

    Uses Kahan's formula 2 arctan(|u - v| / |u + v|) for unit vectors, which keeps full relative
    accuracy at tiny angles, where arccos of an overlap loses half of the digits. ValueError for a
    zero or non-finite vector, or vectors of different dimensions.

    Example:
        >>> float(angle([1.0, 0.0], [-1.0, 1e-9]))
        1e-09
    """
    u, v = _unit("u", u), _unit("v", v)
    _same_dimension(u=u, v=v)
    lengths = np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1)
    return 2 * np.arctan2(np.minimum(*lengths), np.maximum(*lengths))


def overlap(u: object, v: object) -> np.ndarray:
    """Absolute cosine |<u, v>| / (|u| |v|) of the angle between two lines, in [0, 1].

    Arguments, shapes and errors as for :func:`angle`.

    Example:
        >>> float(overlap([1.0, 0.0], [-3.0, 4.0]))
        0.6
    """
    u, v = _unit("u", u), _unit("v", v)
    _same_dimension(u=u, v=v)
    return np.minimum(np.abs(np.sum(u * v, axis=-1)), 1.0)


def _orthonormal_rows(name: str, rows: object) -> np.ndarray:
    """An orthonormal basis, row by row, of the span of the given rows."""
    array = _unit(name, rows)
    if array.ndim < 2 or array.shape[-2] > array.shape[-1]:
        raise ValueError(
            f"{name} must have shape (..., k, n), k vectors of dimension n >= k in its rows, "
            f"got {array.shape}"
        )
    q, r = np.linalg.qr(np.swapaxes(array, -1, -2))
    pivots = np.abs(np.diagonal(r, axis1=-2, axis2=-1))
    # A pivot is the length of a unit row outside the span of the rows before it.
    if np.any(pivots <= array.shape[-1] * np.finfo(float).eps):
        raise ValueError(f"{name} must have linearly independent rows")
    return np.swapaxes(q, -1, -2)


def principal_angles(U: object, V: object) -> np.ndarray:
    """The min(k, m) principal angles between two row spaces, ascending, in radians in [0, pi/2].

    Each angle is taken from its cosine or from its sine, whichever determines it well (Bjorck and
    Golub 1973), so that tiny and nearly right angles are both accurate. U (..., k, n) and V
    (..., m, n) have linearly independent rows, or ValueError is raised.

    Example:
        Two planes in space share a line; here they are at right angles otherwise:

        >>> principal_angles([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]]).round(4).tolist()
        [0.0, 1.5708]
    """
    U, V = _orthonormal_rows("U", U), _orthonormal_rows("V", V)
    _same_dimension(U=U, V=V, axes=2)
    if U.shape[-2] < V.shape[-2]:
        U, V = V, U
    cross = V @ np.swapaxes(U, -1, -2)
    cosines = np.clip(np.linalg.svd(cross, compute_uv=False), 0, 1)
    sines = np.linalg.svd(V - cross @ U, compute_uv=False)[..., ::-1]
    return np.where(cosines**2 > 0.5, np.arcsin(np.clip(sines, 0, 1)), np.arccos(cosines))


def subspace_overlap(U: object, V: object) -> np.ndarray:
    """Cosines of the principal angles between two row spaces, descending, in [0, 1].

    For one vector each (k = m = 1) this is :func:`overlap`. The mean of the squares is the share
    of one subspace that lies in the other, tr(P_U P_V) / min(k, m). Arguments, shapes and errors
    as for :func:`principal_angles`.

    Example:
        >>> subspace_overlap([[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]]).round(4).tolist()
        [1.0, 0.0]
    """
    return np.cos(principal_angles(U, V))


def align(V: object, reference: object) -> np.ndarray:
    """Return the vectors of ``V`` with the signs that give each a product >= 0 with its reference.

    It is kept where the product is zero. ValueError for non-finite entries or other dimensions.

    Example:
        >>> align([[-1.0, 0.5]], [[1.0, 0.0]]).tolist()
        [[1.0, -0.5]]
    """
    V, reference = finite_array("V", V), finite_array("reference", reference)
    _same_dimension(V=V, reference=reference)
    product = np.sum(V * reference, axis=-1, keepdims=True)
    return np.where(product < 0, -V, V)


def _check_eigenpairs(eigenvalues: np.ndarray, eigenvectors: np.ndarray, rounding: float) -> None:
    """Raise ValueError unless these are leading eigenpairs with a simple leading eigenvalue."""
    k, n = eigenvectors.shape[-2:]
    gram = eigenvectors @ np.swapaxes(eigenvectors, -1, -2)
    if np.max(np.abs(gram - np.eye(k))) > _ORTHONORMALITY:
        raise ValueError("eigenvectors must be orthonormal, one in each row")
    # A symmetric eigensolver is backward stable: it knows eigenvalues to rounding errors that add
    # up, over n terms of random sign, to a small multiple of sqrt(n) * rounding * |H| (Higham and
    # Mary 2019). The worst case, n * rounding, would refuse every network of a million parameters.
    unresolved = 8 * np.sqrt(n) * rounding * np.max(np.abs(eigenvalues), axis=-1)
    if np.any(np.diff(eigenvalues, axis=-1) > unresolved[..., None]):
        raise ValueError("eigenvalues must be in descending order, the sharpness first")
    runner_up = eigenvalues[..., 1] if k > 1 else np.full(eigenvalues.shape[:-1], -np.inf)
    if k < n:
        runner_up = np.maximum(runner_up, 0.0)
    gap = eigenvalues[..., 0] - runner_up
    if np.any(gap <= unresolved):
        raise ValueError(
            "the leading eigenvalue must be simple: it lies within rounding of the next one (or of "
            "the zero that stands for the eigenvalues not given), so v_1 and its rotation are "
            f"undefined; smallest gap {np.min(gap):.3g}"
        )


def rotation_field(
    eigenvalues: object, eigenvectors: object, sharpness_gradient: object
) -> np.ndarray:
    r"""Rotation field rho: the rate at which v_1 turns as the parameters move along v_1.

    .. math:: \rho = \sum_{k \ge 2} \frac{\langle v_k, \nabla\lambda_1\rangle}
              {\lambda_1 - \lambda_k}\, v_k ,
              \qquad v_1(\theta + x v_1) = v_1 + x \rho + O(x^2)

    (Theorem G2). With fewer than n eigenpairs, the part of the gradient outside the given
    eigenvectors is handled as if its eigenvalue were zero, that is divided by lambda_1: right for
    the flat bulk of a network's spectrum, and off by the factor 1 - lambda_k / lambda_1 for each
    direction k left out. The result does not depend on the sign of any eigenvector.

    Args:
        eigenvalues: the k largest, descending, shape (..., k).
        eigenvectors: orthonormal, one a row in the same order, shape (..., k, n).
        sharpness_gradient: gradient of lambda_1 (Proposition G1), shape (..., n).

    rho has shape (..., n) and is orthogonal to v_1. ValueError for a leading eigenvalue repeated to
    within rounding, or not positive while k < n, for eigenvectors that are not orthonormal rows, or
    for a wrong shape.

    Example:
        >>> rotation_field([3.0, 1.0], [[1, 0], [0, 1]], [5.0, 4.0]).tolist()
        [0.0, 2.0]
    """
    values = finite_array("eigenvalues", eigenvalues)
    vectors = finite_array("eigenvectors", eigenvectors)
    types = [a.dtype for a in map(np.asarray, (eigenvalues, eigenvectors)) if a.dtype.kind == "f"]
    rounding = max((float(np.finfo(t).eps) for t in types), default=float(np.finfo(float).eps))
    gradient = finite_array("sharpness_gradient", sharpness_gradient)
    k, n = vectors.shape[-2:] if vectors.ndim > 1 else (0, 0)
    if not (values.ndim and gradient.ndim and 0 < k <= n and values.shape[-1] == k):
        raise ValueError(
            "eigenvalues (..., k), eigenvectors (..., k, n), one a row and k <= n, and a "
            "sharpness_gradient (..., n) are needed, got shapes "
            f"{values.shape}, {vectors.shape} and {gradient.shape}"
        )
    _check_eigenpairs(values, vectors, rounding)
    if gradient.shape[-1] != n:
        raise ValueError(
            f"sharpness_gradient must be of the same dimension as eigenvectors, {n}, got shape "
            f"{gradient.shape}"
        )
    common_shape(
        eigenvalues=values.shape[:-1],
        eigenvectors=vectors.shape[:-2],
        sharpness_gradient=gradient.shape[:-1],
    )
    components = np.einsum("...kn,...n->...k", vectors, gradient)
    rest = gradient - np.einsum("...k,...kn->...n", components, vectors)
    leading = values[..., :1]
    rates = components[..., 1:] / (leading - values[..., 1:])
    rotation = np.einsum("...k,...kn->...n", rates, vectors[..., 1:, :])
    if k < n:
        rotation = rotation + rest / leading
    return rotation
