"""The ways to the five largest eigenpairs that are compared, behind one signature.

``solve(problem, k, setting, seed)`` returns the eigenvalues (k,), descending, and the eigenvectors
(k, n) in rows, from nothing: whatever a library sets up for a point is part of its time. SETTINGS
lists for each the accuracies it can be asked for, the cheapest first; the benchmark takes the
first one that meets the accuracy required, so that nobody is timed at a looser or tighter default.
"""

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks.workloads import Problem
from flatminima import curvature

Pairs = tuple[np.ndarray, Tensor]


def flatminima(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """This library: Lanczos with full orthogonalization on one reused gradient graph."""
    generator = torch.Generator().manual_seed(seed)
    pairs = curvature.top_eigenpairs(problem, k, tol=setting, generator=generator)
    return pairs.eigenvalues.numpy(), pairs.eigenvectors


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

    operator = LinearOperator(
        (n, n), matvec=product, dtype=torch.empty(0, dtype=dtype).numpy().dtype
    )
    return _arpack(operator, k, setting, seed)


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
    return _arpack(operator.to_scipy(dtype=np.dtype(np.float32)), k, setting, seed)


def pyhessian(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """PyHessian: power iteration, one eigenvector after the other."""
    from pyhessian import hessian

    torch.manual_seed(seed)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # backward with create_graph warns of a reference cycle
        problem.model.zero_grad()
        engine = hessian(problem.model, problem.loss_function, problem.data, cuda=False)
        values, vectors = engine.eigenvalues(maxIter=PYHESSIAN_LIMIT, tol=setting, top_n=k)
        for p in problem.parameters:
            p.grad = None  # breaks the cycle
    order = np.argsort(values)[::-1]
    rows = torch.stack([torch.cat([part.flatten() for part in vectors[i]]) for i in order])
    return np.array(values)[order], rows.detach()


def eigenthings(problem: Problem, k: int, setting: int, seed: int) -> Pairs:
    """hessian-eigenthings: Lanczos with full orthogonalization, of a given number of steps."""
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    operator = HessianOperator(
        problem.model,
        [problem.data],
        supervised_loss(problem.loss_function),
    )
    result = lanczos(operator, k=k, max_iter=setting, reorthogonalize=True, which="LA", seed=seed)
    return result.eigenvalues.double().numpy(), result.eigenvectors


def scipy_default(problem: Problem, k: int, setting: float, seed: int) -> Pairs:
    """The same at ARPACK's default, machine precision: how that code calls it."""
    return scipy_eigsh(problem, k, setting, seed)


PYHESSIAN_LIMIT = 1500
LADDER = [10.0**-e for e in np.arange(1.0, 5.01, 0.2)]
SETTINGS: dict[Callable[..., Pairs], list] = {
    flatminima: LADDER,
    scipy_eigsh: [*LADDER, 0.0],
    curvlinops: [*LADDER, 0.0],
    pyhessian: [1e-4, 1e-5, 1e-6, 1e-7, 1e-8],
    eigenthings: [*range(12, 40), *range(40, 80, 2)],
    scipy_default: [0.0],
}
NAMES = {
    flatminima: "flatminima",
    scipy_eigsh: "scipy eigsh, fresh double backward",
    curvlinops: "curvlinops + scipy eigsh",
    pyhessian: "pyhessian power iteration",
    eigenthings: "hessian-eigenthings Lanczos",
    scipy_default: "scipy eigsh at its default tolerance",
}


def reference(problem: Problem, k: int) -> Pairs:
    """The k largest pairs in float64 by ARPACK, to machine precision: none of ours takes part."""
    return scipy_eigsh(problem.in_double(), k, 0.0, seed=0)


def _arpack(operator: LinearOperator, k: int, tol: float, seed: int) -> Pairs:
    start = np.random.default_rng(seed).normal(size=operator.shape[0]).astype(operator.dtype)
    values, columns = eigsh(operator, k=k, which="LA", tol=tol, v0=start)
    order = np.argsort(values)[::-1]
    return values[order].astype(float), torch.as_tensor(columns.T[order].copy())
