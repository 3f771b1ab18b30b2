"""The ways to the five largest eigenpairs that are compared, behind one signature.

``solve(problem, k, setting, seed)`` returns the eigenvalues (k,), descending, the eigenvectors
(k, n) in rows, and the products spent, from nothing: whatever a library sets up for a point is part
of its time. SETTINGS lists for each the accuracies it can be asked for, the cheapest first; the
benchmark takes the first one that meets the accuracy required, so that nobody is timed at a looser
or tighter default.
"""

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks.workloads import Problem
from flatminima import curvature

Pairs = tuple[np.ndarray, Tensor, int]


def flatminima(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """This library, its first search alone: as the others, it does not look for missed pairs."""
    return _ours(problem, k, setting, seed, doubt=1)


def flatminima_searching(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """The same with the search for missed pairs, which is the default."""
    return _ours(problem, k, setting, seed, doubt=1e-3)


def _ours(problem: Problem, k: int, setting: float, seed: int, doubt: float) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    pairs = curvature.top_eigenpairs(problem, k, tol=setting, generator=generator, doubt=doubt)
    return pairs.eigenvalues.numpy(), pairs.eigenvectors, pairs.products


def scipy_ours(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """ARPACK on this library's operator: the same graph, kept, and the same products."""
    operator = problem.hessian()

    def product(vector: np.ndarray) -> np.ndarray:
        row = torch.as_tensor(vector, dtype=operator.dtype)
        return operator.matvec(row.reshape(-1)).numpy()

    dtype = torch.empty(0, dtype=operator.dtype).numpy().dtype
    return _arpack(operator.shape[0], product, dtype, k, setting, seed)


def scipy_eigsh(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """ARPACK with a fresh double backward per product: as in the code of Cohen et al. (2021)."""
    parameters = problem.parameters
    n = sum(p.numel() for p in parameters)
    dtype = parameters[0].dtype

    def flat(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])

    def product(vector: np.ndarray) -> np.ndarray:
        v = torch.as_tensor(vector, dtype=dtype).reshape(-1)
        gradient = torch.autograd.grad(problem.loss(), parameters, create_graph=True)
        inner = flat(gradient) @ v
        return flat(torch.autograd.grad(inner, parameters)).numpy()

    return _arpack(n, product, torch.empty(0, dtype=dtype).numpy().dtype, k, setting, seed)


def curvlinops(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """curvlinops' Hessian operator, ARPACK on its SciPy view: the way of its documentation."""
    from curvlinops import HessianLinearOperator

    n = len(problem.data[1])
    squared = problem.workload.loss == "mse"

    class Mean(torch.nn.Module):
        """The loss as curvlinops wants it: a module with a reduction."""

        reduction = "mean"

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return problem.loss_function(outputs, targets)

    loss = Mean() if squared else torch.nn.CrossEntropyLoss()
    operator = HessianLinearOperator(
        problem.model,
        loss,
        problem.parameters,
        [problem.data],
        check_deterministic=False,
        num_data=n,
    )
    view = operator.to_scipy(dtype=np.dtype(np.float32))
    return _arpack(view.shape[0], view.matvec, view.dtype, k, setting, seed)


def pyhessian(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """PyHessian: power iteration, one eigenvector after the other."""
    from pyhessian import hessian

    torch.manual_seed(seed)
    engine_module = importlib.import_module("pyhessian.hessian")
    product, spent = engine_module.hessian_vector_product, 0

    def counted(*given):
        nonlocal spent
        spent += 1
        return product(*given)

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # backward with create_graph warns of a reference cycle
        engine_module.hessian_vector_product = counted
        problem.model.zero_grad()
        engine = hessian(problem.model, problem.loss_function, problem.data, cuda=False)
        values, vectors = engine.eigenvalues(maxIter=PYHESSIAN_LIMIT, tol=setting, top_n=k)
        engine_module.hessian_vector_product = product
        for p in problem.parameters:
            p.grad = None  # breaks the cycle
    order = np.argsort(values)[::-1]
    rows = torch.stack([torch.cat([part.flatten() for part in vectors[i]]) for i in order])
    return np.array(values)[order], rows.detach(), spent


def eigenthings(problem: Problem, k: int, setting: int, seed: int) -> Pairs:
    """hessian-eigenthings: Lanczos with full orthogonalization, of a given number of steps."""
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    operator = HessianOperator(
        problem.model,
        [problem.data],
        supervised_loss(problem.loss_function),
    )
    result = lanczos(operator, k=k, max_iter=setting, reorthogonalize=True, which="LA", seed=seed)
    return result.eigenvalues.double().numpy(), result.eigenvectors, setting


def scipy_default(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """The same at ARPACK's default, machine precision: how that code calls it."""
    return scipy_eigsh(problem, k, setting, seed)


PYHESSIAN_LIMIT = 1500
LADDER = [10.0**-e for e in np.arange(1.0, 5.01, 0.2)]
SETTINGS: dict[Callable[..., Pairs], list] = {
    flatminima: LADDER,
    flatminima_searching: LADDER,
    scipy_ours: [*LADDER, 0.0],
    scipy_eigsh: [*LADDER, 0.0],
    curvlinops: [*LADDER, 0.0],
    pyhessian: [1e-5],  # a run takes minutes
    eigenthings: [*range(12, 40), *range(40, 80, 2)],
    scipy_default: [0.0],
}
NAMES = {
    flatminima: "flatminima",
    flatminima_searching: "flatminima, with its search",
    scipy_ours: "scipy eigsh, flatminima's operator",
    scipy_eigsh: "scipy eigsh, fresh double backward",
    curvlinops: "curvlinops + scipy eigsh",
    pyhessian: "pyhessian power iteration",
    eigenthings: "hessian-eigenthings Lanczos",
    scipy_default: "scipy eigsh at its default tolerance",
}


def reference(problem: Problem, k: int) -> Pairs:
    """The k largest pairs in float64 by ARPACK, to machine precision: none of ours takes part."""
    return scipy_eigsh(problem.in_double(), k, 0.0, seed=0)


def _arpack(n: int, product: Callable, dtype: np.dtype, k: int, tol: float, seed: int) -> Pairs:
    spent = 0

    def counted(vector: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += 1
        return product(vector)

    operator = LinearOperator((n, n), matvec=counted, dtype=dtype)
    start = np.random.default_rng(seed).normal(size=n).astype(dtype)
    values, columns = eigsh(operator, k=k, which="LA", tol=tol, v0=start)
    order = np.argsort(values)[::-1]
    return values[order].astype(float), torch.as_tensor(columns.T[order].copy()), spent
