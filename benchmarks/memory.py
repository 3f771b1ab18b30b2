"""Peak memory of a search from nothing and of a tracked probe, in vectors of the parameters.

Each way runs in a process of its own: its peak resident memory over what was resident before, once
one product has been made so that the graph and what a product needs are there. A network of 1.8
million parameters and ten images makes the vectors weigh more than the graph.
"""

import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import counts
from flatminima import models
from flatminima.curvature import EigenTracker, EmpiricalRisk, HessianOperator, top_eigenpairs
from flatminima.training import gradient_descent

K, TOLERANCE, PROBES, RATE = 5, 1e-3, 16, 0.02
WIDTHS = [784, 1000, 1000, 10]


def risk() -> EmpiricalRisk:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10, WIDTHS[0], generator=generator)
    model = models.mlp(WIDTHS, "tanh", seed=0)
    return EmpiricalRisk(model, "mse", (images, torch.arange(10)))


def first(operator: HessianOperator) -> None:
    top_eigenpairs(operator, K, tol=TOLERANCE, doubt=1)


def searched(operator: HessianOperator) -> None:
    top_eigenpairs(operator, K, tol=TOLERANCE)


def arpack(operator: HessianOperator) -> None:
    counts.arpack(operator, K, 0.1, seed=0)


def small_arpack(operator: HessianOperator) -> None:
    counts.arpack(operator, K, 0.1, seed=0, ncv=K + 7)


def small_basis(operator: HessianOperator) -> None:
    top_eigenpairs(operator, K, tol=TOLERANCE, doubt=1, max_basis=K + 7)


WAYS: dict[str, Callable[[HessianOperator], None]] = {
    "flatminima": first,
    "flatminima, with its search": searched,
    "flatminima, basis k + 7": small_basis,
    "ARPACK on our operator": arpack,
    "ARPACK on our operator, basis k + 7": small_arpack,
}
TRACKED = "a tracked probe"


def resident(name: str) -> int:
    """Bytes now resident (VmRSS), or at the peak (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{name}:\s+(\d+)", status)[1])


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _measure(way: str, threads: int) -> tuple[int, int, int, int]:
    torch.set_num_threads(threads)
    problem = risk()
    operator = problem.hessian()
    operator.matvec(operator.gradient)
    tracker = EigenTracker(K, TOLERANCE)
    if way == TRACKED:
        before = resident("VmRSS")
        for _ in range(PROBES):
            tracker.update(operator)
            gradient_descent(problem, RATE, 1, progress=False)
            operator = problem.hessian()
        kept = resident("VmRSS") - before
    else:
        kept, before = 0, resident("VmRSS")
    spent = operator.products
    _reset_peak()
    if way == TRACKED:
        tracker.update(operator)
    else:
        WAYS[way](operator)
    return resident("VmHWM") - before, kept, operator.products - spent, operator.shape[0]


def rows() -> list[dict]:
    """Peak and, for a tracker, what it keeps between probes, in vectors (float32)."""
    table = []
    context = multiprocessing.get_context("spawn")
    for way in (*WAYS, TRACKED):
        with context.Pool(1) as pool:
            peak, kept, products, n = pool.apply(_measure, (way, torch.get_num_threads()))
        row = {"method": way, "products": products, "parameters": n}
        table.append(row | {"peak": peak / (4 * n), "kept": kept / (4 * n)})
    return table
