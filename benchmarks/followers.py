"""The ways to follow eigenpairs along a trajectory, and how many products each spends on it.

A follower is called with the `HessianOperator` of each probe in turn and returns the eigenvalues
(k,), descending, and the products it spent. All of them stop at the same residual, TOLERANCE times
the largest eigenvalue, so that what differs is how they use the probes before.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, lobpcg
from torch import Tensor

from benchmarks.workloads import Workload, problem
from flatminima import curvature
from flatminima.training import gradient_descent

TOLERANCE = 1e-3
KS, EVERY, FACTORS = (1, 3, 5), (1, 10, 20), (0.5, 1.0, 1.4)
CHECK_EVERY = 5
Step = tuple[Tensor, int]
Follower = Callable[[curvature.HessianOperator], Step]


def tracked(k: int) -> Follower:
    """EigenTracker as it is: predicts, changes over to Lanczos, and searches every 20th probe."""
    tracker = curvature.EigenTracker(k, TOLERANCE)

    def follow(operator: curvature.HessianOperator) -> Step:
        pairs = tracker.update(operator)
        return pairs.eigenvalues, pairs.products

    return follow


def lanczos_warm(k: int) -> Follower:
    """Lanczos from the sum of the vectors of the probe before, without a search."""
    start = None

    def follow(operator: curvature.HessianOperator) -> Step:
        nonlocal start
        pairs = curvature.top_eigenpairs(operator, k, tol=TOLERANCE, start=start, doubt=1)
        start = pairs.eigenvectors
        return pairs.eigenvalues, pairs.products

    return follow


def lobpcg_warm(k: int) -> Follower:
    """SciPy's LOBPCG, started from the block of the probe before, without a preconditioner.

    It computes in float64 outside the products. It stops at an absolute residual: TOLERANCE times
    the largest eigenvalue of the probe before.
    """
    block: np.ndarray | None = None
    scale = 0.0

    def follow(operator: curvature.HessianOperator) -> Step:
        nonlocal block, scale
        n, before = operator.shape[0], operator.products
        if block is None:
            pairs = curvature.top_eigenpairs(operator, k=k, tol=TOLERANCE)
            values, block = pairs.eigenvalues.numpy(), pairs.eigenvectors.double().numpy().T
        else:

            def products(columns: np.ndarray) -> np.ndarray:
                rows = torch.as_tensor(columns.T.copy(), dtype=operator.dtype)
                return operator.matmat(rows.reshape(-1, n)).double().numpy().T

            view = LinearOperator((n, n), matvec=products, matmat=products, dtype=np.float64)
            values, block = lobpcg(view, block, tol=TOLERANCE * scale, maxiter=100)
        order = np.argsort(values)[::-1]
        values, block = values[order], block[:, order]
        scale = float(values[0])
        return torch.as_tensor(values.copy()), operator.products - before

    return follow


FOLLOWERS: dict[str, Callable[[int], Follower]] = {
    "EigenTracker": tracked,
    "Lanczos from the vectors before": lanczos_warm,
    "LOBPCG from the vectors before": lobpcg_warm,
}


def chosen(name: str, k: int, every: int) -> bool:
    """LOBPCG, the dearest, is followed for three pairs at every step alone."""
    return not name.startswith("LOBPCG") or (k == 3 and every == 1)


def cell(workload: Workload, state: dict, every: int, factor: float, probes: int) -> dict:
    """Follow along gradient descent at ``factor`` times 2 / lambda_1 of the state.

    All followers see the same Hessians, in a new random order each time. At every fifth probe
    their values are compared with a search from nothing for more pairs and to a smaller residual.
    """
    risk = problem(workload, state)
    rate = factor * 2 / curvature.sharpness(risk)
    names = [(name, k) for k in KS for name in FOLLOWERS if chosen(name, k, every)]
    follow = {key: FOLLOWERS[key[0]](key[1]) for key in names}
    rows = {key: {"products": [], "errors": [], "off": 0} for key in names}
    order, done = np.random.default_rng(0), 0
    for probe in range(probes):
        operator = risk.hessian()
        if probe % CHECK_EVERY == 0:
            exact = curvature.top_eigenpairs(operator, max(KS) + 2, tol=1e-5).eigenvalues
        for i in order.permutation(len(names)):
            key = names[i]
            values, products = follow[key](operator)
            row = rows[key]
            row["products"].append(products)
            if probe % CHECK_EVERY == 0:
                errors = (values - exact[: key[1]]).abs() / exact[0]
                row["errors"].append(float(errors.max()))
                # The residual allows TOLERANCE: twice that is a pair that was missed.
                row["off"] += int((errors > 2 * TOLERANCE).sum())
        done += 1
        history = gradient_descent(risk, rate, every, progress=False)
        if history.diverged:
            break
    return {
        "every": every,
        "factor": factor,
        "probes": done,
        "methods": [{"method": m, "k": k, **summary(rows[m, k])} for m, k in names],
    }


def summary(row: dict) -> dict:
    """What is kept of a follower: the first probe of all is a search from nothing, and left out."""
    return {
        "products": row["products"],
        "mean_products": float(np.mean(row["products"][1:])),
        "off": row["off"],
        "error": max(row["errors"]),
    }
