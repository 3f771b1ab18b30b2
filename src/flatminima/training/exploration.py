r"""What training explores: how many directions it visits, and how far it moves outside a space.

A trajectory is given by its points, or by the leading eigenspaces there, as rows. An eigenvector is
a line and the vectors of a space may be turned within it, so that everything here is a function of
projectors :math:`P_i = V_i^\top V_i`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flatminima._validation import finite_array, positive_int

__all__ = [
    "Movement",
    "movement",
    "oscillation_centers",
    "visited_dimension",
    "wandering_dimension",
]


class Movement(NamedTuple):
    """Lengths of a path, and of the straight line between its ends, inside and outside a space."""

    inside: float
    """Length of the path's projection onto the space."""
    outside: float
    """Length of the path's projection onto the space's orthogonal complement."""
    net: float
    """Distance between the ends of that second projection; at most ``outside``."""


def oscillation_centers(iterates: object) -> np.ndarray:
    """The centers of an oscillation of period two: means of three, weights 1/4, 1/2 and 1/4.

    Of a displacement that each step multiplies by -(1 + a), a^2/4 is left; a straight path stays.

    Args:
        iterates: successive points, shape (T, ...), T >= 3.

    Returns:
        The centers of all but the first and the last, shape (T - 2, ...).

    Raises:
        ValueError: for fewer than three points.

    Example:
        >>> oscillation_centers([[1.0], [-1.0], [1.0], [-1.0]]).tolist()
        [[0.0], [0.0]]
    """
    path = finite_array("iterates", iterates)
    if path.ndim == 0 or len(path) < 3:
        raise ValueError(f"iterates must hold three points at least, got shape {path.shape}")
    return (path[:-2] + 2 * path[1:-1] + path[2:]) / 4


def visited_dimension(spaces: object) -> float:
    r"""The number of dimensions that a sequence of spaces visits: a participation ratio.

    It is :math:`1/\operatorname{tr} Q^2` for the mean projector :math:`Q`, scaled to trace one:
    k for m spaces of dimension k that are all the same, k m for orthogonal ones. Only squared
    cosines enter, and no sign or basis matters.

    Args:
        spaces: orthonormal rows of each space, shape (m, k, n); (m, n) for lines.

    Raises:
        ValueError: for another shape, or rows that are not independent.

    Example:
        Two lines, and the same with each visited twice:

        >>> visited_dimension([[1.0, 0.0], [0.0, 1.0]])
        2.0
        >>> visited_dimension([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
        2.0
    """
    shared, (m, k, _) = _shared(spaces)
    return float(k * m**2 / shared.sum())


def wandering_dimension(spaces: object, dimension: int | None = None) -> float:
    r"""What `visited_dimension` would be if each turn went to fresh directions: a null model.

    Each space of the model is drawn at random, evenly among those that share as much with the space
    before as was measured, :math:`q_i = \operatorname{tr}(P_i P_{i+1})/k`. What it shares with an
    earlier one is then :math:`s_{i+1} = q_i s_i + (1 - q_i)(1 - s_i)\,k/(n - k)` in the mean, since
    the mean of its projector, given the one before, is :math:`q P + (1 - P) k(1 - q)/(n - k)`. The
    shares' sum is replaced by its mean. Spaces that visit fewer dimensions than that come back to
    where they were.

    Args:
        spaces: as `visited_dimension` takes them, two at least.
        dimension: of the space in which the model wanders, more than k; n if not given. A smaller
            one asks whether the spaces turn within as few dimensions.

    Raises:
        ValueError: for another shape, or a dimension out of range.

    Example:
        Three lines that turn by 60 degrees each time, in a plane; a walk in 1,000 dimensions that
        turns as much is less likely to come back:

        >>> turns = np.arange(3) * np.pi / 3
        >>> lines = np.stack([np.cos(turns), np.sin(turns)], axis=1)
        >>> round(visited_dimension(lines), 2), round(wandering_dimension(lines, 1000), 2)
        (2.0, 2.18)
    """
    shared, (m, k, n) = _shared(spaces)
    if m < 2:
        raise ValueError(f"spaces must hold two at least, got shape {(m, k, n)}")
    n = positive_int("dimension", n if dimension is None else dimension, minimum=k + 1)
    kept, total = np.diagonal(shared, 1), float(m)
    for first in range(m - 1):
        share = 1.0
        for q in kept[first:]:
            share = q * share + (1 - q) * (1 - share) * k / (n - k)
            total += 2 * share
    return float(k * m**2 / total)


def movement(path: object, space: object) -> Movement:
    """How far a path leads inside and outside a space.

    Args:
        path: points, shape (m, n), m >= 2.
        space: orthonormal rows, shape (k, n).

    Raises:
        ValueError: for other shapes.

    Example:
        >>> movement([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]], [[1.0, 0.0]])
        Movement(inside=6.0, outside=8.0, net=8.0)
    """
    path, space = finite_array("path", path), finite_array("space", space)
    if path.ndim != 2 or len(path) < 2 or space.ndim != 2 or space.shape[1] != path.shape[1]:
        raise ValueError(
            "path must have shape (m, n), m >= 2, and space (k, n), got "
            f"{path.shape} and {space.shape}"
        )
    moves = np.diff(path, axis=0)
    along = moves @ space.T
    across = moves - along @ space
    return Movement(
        inside=float(np.linalg.norm(along, axis=1).sum()),
        outside=float(np.linalg.norm(across, axis=1).sum()),
        net=float(np.linalg.norm(across.sum(axis=0))),
    )


def _shared(spaces: object) -> tuple[np.ndarray, tuple[int, int, int]]:
    """What each two of the spaces share, tr(P P')/k, shape (m, m); and (m, k, n)."""
    spaces = finite_array("spaces", spaces)
    spaces = spaces[:, None] if spaces.ndim == 2 else spaces
    if spaces.ndim != 3 or spaces.size == 0 or spaces.shape[1] > spaces.shape[2]:
        raise ValueError(f"spaces must have shape (m, k, n), k <= n, or (m, n), got {spaces.shape}")
    m, k, n = spaces.shape
    # An eigensolver in single precision leaves its vectors orthonormal to that precision only.
    basis, pivots = np.linalg.qr(spaces.transpose(0, 2, 1))
    if np.any(np.abs(np.diagonal(pivots, axis1=1, axis2=2)) <= n * np.finfo(float).eps):
        raise ValueError("spaces must have linearly independent rows")
    rows = basis.transpose(0, 2, 1).reshape(m * k, n)
    cosines = (rows @ rows.T).reshape(m, k, m, k)
    return np.sum(cosines**2, axis=(1, 3)) / k, (m, k, n)
