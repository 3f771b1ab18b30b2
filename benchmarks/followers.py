"""The ways to follow eigenpairs along a trajectory that are compared, behind one signature.

A follower is called with the `HessianOperator` of each step in turn and returns the eigenvalues
(k,), descending, the eigenvectors (k, n) in rows, and the products it spent. All of them stop at
the same residual, TOLERANCE times the largest eigenvalue, so that what differs is how they use the
steps before.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from flatminima import curvature

TOLERANCE = 1e-3
Step = tuple[np.ndarray, Tensor, int]
Follower = Callable[[curvature.HessianOperator], Step]


def _tracker(k: int, **options: int) -> Follower:
    tracker = curvature.EigenTracker(k, TOLERANCE, **options)

    def follow(operator: curvature.HessianOperator) -> Step:
        pairs = tracker.update(operator)
        return pairs.eigenvalues.numpy(), pairs.eigenvectors, pairs.products

    return follow


def predicted(k: int) -> Follower:
    """EigenTracker as it is: secant prediction, Rayleigh-Ritz, corrections."""
    return _tracker(k)


def unpredicted(k: int) -> Follower:
    """The same from the vectors of the step before, without a prediction."""
    return _tracker(k, history=0)


def _lanczos(k: int, warm: bool) -> Follower:
    start = None

    def follow(operator: curvature.HessianOperator) -> Step:
        nonlocal start
        pairs = curvature.top_eigenpairs(operator, k=k, tol=TOLERANCE, start=start)
        start = pairs.eigenvectors if warm else None
        return pairs.eigenvalues.numpy(), pairs.eigenvectors, pairs.products

    return follow


def lanczos_cold(k: int) -> Follower:
    """A search from nothing at every step."""
    return _lanczos(k, warm=False)


def lanczos_warm(k: int) -> Follower:
    """Thick-restart Lanczos, started from the sum of the vectors of the step before."""
    return _lanczos(k, warm=True)


def lobpcg_warm(k: int) -> Follower:
    """SciPy's LOBPCG, started from the block of the step before, without a preconditioner.

    It computes in float64 outside the products. It stops at an absolute residual: TOLERANCE times
    the largest eigenvalue of the step before.
    """
    block: np.ndarray | None = None
    scale = 0.0

    def follow(operator: curvature.HessianOperator) -> Step:
        nonlocal block, scale
        n, spent = operator.shape[0], 0

        def products(columns: np.ndarray) -> np.ndarray:
            nonlocal spent
            rows = torch.as_tensor(np.ascontiguousarray(columns.T), dtype=operator.dtype)
            spent += len(rows)
            return operator.matmat(rows).double().numpy().T

        if block is None:
            pairs = curvature.top_eigenpairs(operator, k=k, tol=TOLERANCE)
            values, block = pairs.eigenvalues.numpy(), pairs.eigenvectors.double().numpy().T
            spent = pairs.products
        else:
            view = LinearOperator((n, n), matvec=products, matmat=products, dtype=np.float64)
            values, block = lobpcg(view, block, tol=TOLERANCE * scale, maxiter=100)
        order = np.argsort(values)[::-1]
        values, block = values[order], block[:, order]
        scale = float(values[0])
        return values, torch.as_tensor(block.T.copy()), spent

    return follow


FOLLOWERS: dict[str, Callable[[int], Follower]] = {
    "EigenTracker": predicted,
    "EigenTracker without prediction": unpredicted,
    "LOBPCG from the step before": lobpcg_warm,
    "Lanczos from the step before": lanczos_warm,
    "Lanczos from nothing": lanczos_cold,
}
