"""Products of searches from nothing: this library's variants, and the solvers on its operator.

Counts are exact, where seconds depend on the machine and on who else uses it. ARPACK and LOBPCG
multiply by the very operator that ours multiplies by, one graph kept, so that they differ in their
products alone. Each gets the cheapest of its settings, start by start, which no user can know;
ARPACK, besides its default, the cheapest of several sizes of its basis.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg

from benchmarks.workloads import Problem
from flatminima import curvature

KS = (1, 5, 20)
RESIDUAL, VALUE = 1e-3, 1e-4
LADDER = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
BASES = (4, 8, 22)
UNBOUNDED = 10_000
Solver = Callable[[curvature.HessianOperator, int, float, int], tuple[np.ndarray, np.ndarray]]


def ours(operator, k: int, tol: float, seed: int, **options) -> curvature.EigenResult:
    generator = torch.Generator().manual_seed(seed)
    return curvature.top_eigenpairs(operator, k, tol=tol, generator=generator, **options)


def random_start(operator: curvature.HessianOperator, k: int, seed: int) -> dict:
    """Options of a start by a random vector alone: it is its own random share."""
    draw = torch.randn(operator.shape[0], generator=torch.Generator().manual_seed(1000 + seed))
    return {"start": draw, "doubt": 1}


def _view(operator: curvature.HessianOperator, dtype: type) -> LinearOperator:
    def product(columns: np.ndarray) -> np.ndarray:
        rows = torch.as_tensor(np.array(columns.T), dtype=operator.dtype)
        images = operator.matmat(rows.reshape(-1, operator.shape[0]))
        return images.numpy().T.astype(dtype).reshape(columns.shape)

    return LinearOperator(operator.shape, matvec=product, matmat=product, dtype=dtype)


def arpack(operator, k: int, tol: float, seed: int, ncv: int | None = None):
    """SciPy's eigsh: restarted Lanczos, its basis of max(2 k + 1, 20) vectors by default."""
    start = np.random.default_rng(seed).normal(size=operator.shape[0]).astype(np.float32)
    return eigsh(_view(operator, np.float32), k, which="LA", tol=tol, v0=start, ncv=ncv)


def lobpcg_cold(operator, k: int, tol: float, seed: int):
    """SciPy's LOBPCG from random vectors, to a residual absolute in units of the largest value."""
    scale = curvature.sharpness(operator, tol=1e-2)
    block = np.random.default_rng(seed).normal(size=(operator.shape[0], k))
    return lobpcg(_view(operator, np.float64), block, tol=tol * scale, maxiter=200)


def residual(operator, values: np.ndarray, columns: np.ndarray) -> float:
    """The largest residual of the pairs, relative to the largest eigenvalue."""
    rows = torch.as_tensor(np.array(columns.T), dtype=operator.dtype)
    gaps = operator.matmat(rows) - torch.as_tensor(values.copy())[:, None].to(rows) * rows
    return float(gaps.norm(dim=1).max() / values.max())


def cheapest(
    operator, solver: Solver, k: int, seed: int, exact: np.ndarray, settings: Iterable[float]
) -> dict[str, int | None]:
    """Products at the loosest setting that meets each goal, None where none does."""
    found: dict[str, int | None] = {"residual": None, "values": None}
    for tol in settings:
        before = operator.products
        values, columns = solver(operator, k, tol, seed)
        spent = operator.products - before
        off = np.abs(np.sort(values)[::-1] - exact[:k]).max() / exact[0]
        if found["values"] is None and off <= VALUE:
            found["values"] = spent
        if found["residual"] is None and off <= RESIDUAL:
            found["residual"] = spent if residual(operator, values, columns) <= RESIDUAL else None
        if None not in found.values():
            break
    return found


def tuned(operator, solver: Solver, k: int, starts: int, exact: np.ndarray) -> list[dict]:
    return [cheapest(operator, solver, k, seed, exact, LADDER) for seed in range(starts)]


def as_solver(**options) -> Solver:
    def solve(operator, k: int, tol: float, seed: int):
        pairs = ours(operator, k, tol, seed, doubt=1, **options)
        return pairs.eigenvalues.numpy(), pairs.eigenvectors.numpy().T

    return solve


def rows(problem: Problem, k: int, starts: int) -> list[dict]:
    """Mean products of each way to k pairs, and what it says of the rest."""
    operator = problem.hessian()
    exact = curvature.top_eigenpairs(operator, k + 2, tol=1e-5).eigenvalues.numpy()
    table = []

    def add(name: str, results: Iterable[curvature.EigenResult], **more: object) -> None:
        results = list(results)
        errors = [np.abs(r.eigenvalues.numpy() - exact[:k]).max() / exact[0] for r in results]
        table.append({
            "k": k,
            "method": name,
            "residual": float(np.mean([r.products for r in results])),
            "error": float(max(errors)),
            "doubt": max(r.doubt for r in results),
            **more,
        })  # fmt: skip

    def each(**options) -> list[curvature.EigenResult]:
        return [ours(operator, k, RESIDUAL, seed, **options) for seed in range(starts)]

    add("ours", each(doubt=1))
    add("ours, with search", each())
    add("ours, values only", each(doubt=1, vectors=False))
    bare = [
        ours(operator, k, RESIDUAL, seed, **random_start(operator, k, seed))
        for seed in range(starts)
    ]
    add("ours, random start", bare)
    for capacity in (k + 10, UNBOUNDED):
        name = "unbounded" if capacity == UNBOUNDED else "k + 10"
        add(f"ours, basis {name}", each(doubt=1, max_basis=capacity))
    part = ours(subsample(problem).hessian(), k, RESIDUAL, 0, doubt=1)
    add(
        "ours, from a tenth of the data",
        each(doubt=1, start=part.eigenvectors),
        extra=part.products / 10,
    )
    solvers: dict[str, list[Solver]] = {
        "ours, tuned": [as_solver()],
        "ours, values only, tuned": [as_solver(vectors=False)],
        "ARPACK on our operator": [arpack],
        "ARPACK, best basis": [arpack, *(partial(arpack, ncv=k + more) for more in BASES)],
    }
    if k < max(KS):
        solvers["LOBPCG on our operator"] = [lobpcg_cold]
    for name, ways in solvers.items():
        found = [tuned(operator, way, k, starts, exact) for way in ways]
        table.append({"k": k, "method": name} | {
            goal: _mean([_least([way[i][goal] for way in found]) for i in range(starts)])
            for goal in ("residual", "values")
        })  # fmt: skip
    return [{**row, "starts": starts} for row in table]


def _least(spent: list[int | None]) -> int | None:
    return min((s for s in spent if s is not None), default=None)


def _mean(spent: list[int | None]) -> float | None:
    return None if None in spent else float(np.mean(spent))


def subsample(problem: Problem) -> Problem:
    """The same network on every tenth example."""
    inputs, targets = problem.data
    return Problem(problem.workload, problem.model, (inputs[::10], targets[::10]))
