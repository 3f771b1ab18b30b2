"""Eigenpairs at either end of a symmetric operator's spectrum: block Lanczos, thick restarts.

Small residuals say that the pairs found are pairs, and not that they are the outermost: a start
has no part in some eigenvectors, and of a repeated eigenvalue one vector sees one copy. So a second
search, from another random vector in what the first left out, goes on until the chance that it has
missed one is small.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import a_bool, one_of, positive_float, positive_int
from flatminima.curvature._arguments import a_tensor, torch_generator
from flatminima.curvature._subspace import ROUNDING, Subspace, orthonormalized, random_rows, unit
from flatminima.curvature.operator import SymmetricOperator
from flatminima.curvature.risk import EmpiricalRisk, as_operator

__all__ = ["ConvergenceError", "EigenResult", "sharpness", "top_eigenpairs"]

SEARCH = 20
"""Products that a search for missed pairs may take beyond as many as the pairs themselves took."""

RANDOM_SHARE = 0.3
"""Length of the random part of a start, relative to that of the vectors given or the gradient."""


class ConvergenceError(RuntimeError):
    """Products were used up before all had converged; ``result`` holds what there is, flagged."""

    def __init__(self, message: str, result: object) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class EigenResult:
    """Eigenpairs of a symmetric operator, eigenvalues in descending order.

    Attributes:
        eigenvalues: (k,) float64, on the CPU.
        eigenvectors: (k, n) orthonormal rows, in the operator's dtype and on its device.
        residuals: (k,) float64, on the CPU: norms of H v - lambda v. An
            eigenvalue lies within a residual of each value given.
        converged: (k,) bool, whether the pair met the tolerance.
        doubt: a bound of the probability, over the random start of the second search, that
            eigenvalues beyond those given (by more than 2 tol, relative) have been missed; 1 where
            none was made.
        products: number of Hessian-vector products spent.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: Tensor
    doubt: float
    products: int


def top_eigenpairs(
    operator: SymmetricOperator | EmpiricalRisk,
    k: int = 1,
    which: str = "largest",
    tol: float = 1e-4,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    max_products: int | None = None,
    block: int = 1,
    max_basis: int | None = None,
    vectors: bool = True,
    doubt: float = 1e-3,
) -> EigenResult:
    r"""The k largest (algebraically) or smallest eigenvalues and their eigenvectors.

    A pair has converged when its residual :math:`\|Hv - \lambda v\|` is at most ``tol`` times the
    largest eigenvalue in absolute value seen. That bounds the error of the eigenvalue, which is in
    fact about residual^2 / gap; that of the eigenvector is an angle of about residual / gap. Then
    what was left out is searched, for 6 to 11 further products on the networks of
    ``results/benchmarks/counts.md``, and for as many again where the next eigenvalues are close.

    Args:
        k: number of eigenpairs, 1 <= k <= n (for ``"both"``: 2k <= n).
        which: ``"largest"``, ``"smallest"``, or ``"both"``: k from each end, 2k in all.
        tol: relative residual; no smaller than 10 eps of the operator's dtype.
        start: (n,) or (m, n) vectors near the eigenvectors sought, whose sum starts the recurrence
            with a random share; by default a random vector and the gradient of a Hessian's loss,
            which lies mostly along the leading eigenvectors.
        generator: of the random starts.
        max_products: products to spend at most; by default 20 (k + 10) a wanted end, at least.
        block: number of vectors advanced together: of an exactly repeated eigenvalue as many
            copies are found.
        max_basis: vectors kept at most before the recurrence is restarted from the best; by default
            the number of pairs and 20.
        vectors: False if only the eigenvalues have to be within the tolerance, which saves a few
            products where k is small (of one end).
        doubt: the second search ends at this probability of having missed a pair, or after 20
            products more than the first took; with 1 there is none.

    Raises:
        ValueError: an argument outside what is said above, or a product that is not finite.
        ConvergenceError: max_products were spent before all pairs converged.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> matrix = torch.diag(torch.tensor([3.0, -5.0, 1.0, 2.0]))
        >>> top_eigenpairs(MatrixOperator(matrix), k=2).eigenvalues.round(decimals=4)
        tensor([3., 2.], dtype=torch.float64)
    """
    operator = as_operator(operator)
    n = operator.shape[0]
    k = positive_int("k", k)
    one_of("which", which, ("largest", "smallest", "both"))
    wanted = 2 * k if which == "both" else k
    if wanted > n:
        raise ValueError(f"k must ask for at most n = {n} eigenpairs in all, got {wanted}")
    tol = checked_tolerance(tol, operator.dtype)
    block = min(positive_int("block", block), n)
    doubt = checked_doubt(doubt)
    if max_basis is None:
        max_basis = wanted + 20 + 2 * block
    max_basis = min(positive_int("max_basis", max_basis, minimum=min(n, wanted + 2 * block)), n)
    if max_products is None:
        max_products = max(20 * (wanted + 10), 2 * n if n < 500 else 500)
    max_products = positive_int("max_products", max_products)
    generator = torch_generator("generator", generator)
    space = Subspace(operator, max_products, -1.0 if which == "smallest" else 1.0)
    space.expand(start_rows(operator, start, block, generator)[:max_products])
    vectors = a_bool("vectors", vectors)
    ends = (k, k if which == "both" else 0)
    options = {"block": block, "capacity": max_basis, "vectors": vectors}
    space.converge(*ends, tol, generator, **options)
    left = 1.0
    if doubt < 1:
        left = assured(space, ends, tol, generator, doubt, space.products + SEARCH, **options)
        if which == "both":
            space.flip()
            most = space.products + SEARCH
            left = max(left, assured(space, ends, tol, generator, doubt, most, **options))
    result = found(space, ends, tol, left, vectors)
    if len(result.eigenvalues) < wanted or not result.converged.all():
        raise unconverged(result, wanted, tol)
    return result


def assured(
    space: Subspace,
    ends: tuple[int, int],
    tol: float,
    generator: torch.Generator,
    doubt: float,
    most: int,
    **options: object,
) -> float:
    """Search what a subspace leaves out until so small a doubt is left; how small it is in the end.

    Whatever is found converges as the rest did; ``most`` products may be spent on a search.
    """
    n, goal, left = space.operator.shape[0], doubt, 1.0
    while space.used < n:
        # All searches together may err by the doubt allowed.
        goal /= 2
        level = space.level(ends[0], tol)
        shown = (space.values > level).sum()
        left = space.doubt(goal, most, level, generator)
        more = (space.values > level).sum() > shown
        # What was not found may still have moved the others.
        space.converge(*ends, tol, generator, **options)
        if not more:
            break
    return 0.0 if space.used == n else min(left + doubt - 2 * goal, 1.0)


def found(
    space: Subspace, ends: tuple[int, int], tol: float, doubt: float, vectors: bool = True
) -> EigenResult:
    """What a subspace holds at its ends, eigenvalues in descending order."""
    chosen, errors = space.ends(*ends), space.errors(*ends, vectors=vectors)
    order = np.arange(len(chosen))[:: int(space.sign)]
    return EigenResult(
        eigenvalues=torch.as_tensor(space.sign * space.unit * space.values[chosen][order]),
        eigenvectors=orthonormalized(space.vectors(chosen[order])),
        residuals=torch.as_tensor(space.unit * space.residuals(chosen)[1][order]),
        converged=torch.as_tensor((errors <= tol * space.scale)[order]),
        doubt=doubt,
        products=space.products,
    )


def sharpness(
    operator: SymmetricOperator | EmpiricalRisk,
    *,
    tol: float = 1e-4,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> float:
    r"""The largest eigenvalue, :math:`\lambda_1`: that of `top_eigenpairs`, as a number.

    Its error, not the residual of a pair, is brought below ``tol`` times the eigenvalue.

    Example:
        >>> import torch
        >>> from flatminima import EmpiricalRisk
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
        >>> sharpness(EmpiricalRisk(model, "mse", (inputs, targets)))
        5.0
    """
    pairs = top_eigenpairs(operator, tol=tol, start=start, generator=generator, vectors=False)
    return float(pairs.eigenvalues[0])


def checked_tolerance(tol: float, dtype: torch.dtype) -> float:
    """``tol``, if it lies between what rounding leaves and 1."""
    tol, floor = positive_float("tol", tol), ROUNDING * torch.finfo(dtype).eps
    if not floor <= tol < 1:
        raise ValueError(f"tol must lie between {floor:.2g}, the rounding of {dtype}, and 1: {tol}")
    return tol


def checked_doubt(doubt: float) -> float:
    """``doubt``, if it is a probability greater than 0."""
    if positive_float("doubt", doubt) > 1:
        raise ValueError(f"doubt must be a probability, at most 1, got {doubt}")
    return float(doubt)


def start_rows(
    operator: SymmetricOperator, start: Tensor | None, block: int, generator: torch.Generator
) -> Tensor:
    """Random rows (block, n), the first along the sum of the vectors given, or the gradient."""
    rows = random_rows(operator, block, generator)
    rows = rows / rows.norm(dim=1, keepdim=True)
    if start is None:
        total = getattr(operator, "gradient", None)
    else:
        n = operator.shape[0]
        start = a_tensor("start", start).to(rows)
        if start.shape[-1:] != (n,) or not start.any():
            raise ValueError(
                f"start must hold finite vectors of dimension {n}, not all zero, got shape "
                f"{tuple(start.shape)}"
            )
        start = start.reshape(-1, n)
        total = start.sum(0) if start.sum(0).any() else start[0]
    if total is not None and total.any():
        rows[0] = unit(total) + RANDOM_SHARE * rows[0]
    return rows


def unconverged(result: EigenResult, wanted: int, tol: float) -> ConvergenceError:
    """The error that says how many of the wanted pairs there are."""
    return ConvergenceError(
        f"{int(result.converged.sum())} of {wanted} eigenpairs converged to a relative residual of "
        f"{tol:g} within {result.products} products; raise max_products or tol",
        result,
    )
