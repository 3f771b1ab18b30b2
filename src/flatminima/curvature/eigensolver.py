"""Eigenpairs at either end of a symmetric operator's spectrum: block Lanczos, thick restarts.

The basis is orthogonalized in full at each step, so that what a run finds does not depend on how
rounding happens to break orthogonality. See Saad (2011) and Golub and Van Loan (2013, ch. 10).
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import one_of, positive_float, positive_int
from flatminima.curvature.operator import SymmetricOperator
from flatminima.curvature.risk import EmpiricalRisk, as_operator

ENDS = ("largest", "smallest", "both")
# What rounding alone leaves of a residual, in units of eps |lambda|: a product is a long sum.
ROUNDING = 10


class ConvergenceError(RuntimeError):
    """The eigensolver used up its products; ``result`` holds what it had, flagged by pair."""

    def __init__(self, message: str, result: "EigenResult") -> None:
        super().__init__(message)
        self.result = result


class ConvergenceWarning(RuntimeWarning):
    """An eigensolver was told to return pairs that have not converged, and did."""


@dataclass(frozen=True)
class EigenResult:
    """Eigenpairs of a symmetric operator, eigenvalues in descending order.

    Attributes:
        eigenvalues: (k,) float64, on the CPU.
        eigenvectors: (k, n) orthonormal rows, in the operator's dtype and on its device.
        residuals: (k,) float64, on the CPU: norms of H v - lambda v, from the recurrence. An
            eigenvalue lies within a residual of each value given.
        converged: (k,) bool, whether the residual met the tolerance.
        products: number of Hessian-vector products spent.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: Tensor
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
    allow_unconverged: bool = False,
) -> EigenResult:
    r"""The k largest (algebraically) or smallest eigenvalues and their eigenvectors.

    A pair has converged when its residual :math:`\|Hv - \lambda v\|` is at most ``tol`` times the
    largest eigenvalue in absolute value seen. That bounds the error of the eigenvalue by the same
    amount; the error is in fact about residual^2 / gap, and the angle of the eigenvector to
    the true one about residual / gap, the gap being the distance to the next eigenvalue.

    Lanczos from one vector meets just one direction of the eigenspace of an exactly repeated
    eigenvalue: with ``block`` = b it finds up to b copies of each.

    Args:
        operator: a risk or an operator.
        k: number of eigenpairs, 1 <= k <= n (for ``"both"``: 2k <= n).
        which: ``"largest"``, ``"smallest"``, or ``"both"``: k from each end, 2k in all.
        tol: relative residual; no smaller than 10 eps of the operator's dtype.
        start: (n,) or (m, n) vectors near the eigenvectors sought, such as those of a nearby
            point. Their sum starts the recurrence, with a random share so that a direction that
            they miss is still found.
        generator: of the random start, on the CPU; by default one seeded with 0.
        max_products: products to spend at most; by default 20 (k + 10) a wanted end, at least.
        block: number of vectors advanced together.
        max_basis: vectors kept at most before the recurrence is restarted from the best Ritz
            vectors (memory is max_basis times n numbers).
        allow_unconverged: give back what there is, with a ConvergenceWarning and the ``converged``
            flags, where the default is to raise.

    Raises:
        ValueError: an argument outside what is said above, or a product that is not finite.
        ConvergenceError: max_products were spent before all pairs converged.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> matrix = torch.diag(torch.tensor([3.0, -5.0, 1.0, 2.0]))
        >>> pairs = top_eigenpairs(MatrixOperator(matrix), k=2)
        >>> pairs.eigenvalues.round(decimals=4)
        tensor([3., 2.], dtype=torch.float64)
        >>> pairs.eigenvectors[0].abs().round(decimals=4)
        tensor([1., 0., 0., 0.])
    """
    operator = as_operator(operator)
    n = operator.shape[0]
    k = positive_int("k", k)
    one_of("which", which, ENDS)
    wanted = 2 * k if which == "both" else k
    if wanted > n:
        raise ValueError(f"k must ask for at most n = {n} eigenpairs in all, got {wanted}")
    tol = _checked_tolerance(tol, operator.dtype)
    block = min(positive_int("block", block), n)
    if max_basis is None:
        max_basis = max(3 * wanted + 2 * block, 80)
    max_basis = min(positive_int("max_basis", max_basis, minimum=min(n, wanted + 2 * block)), n)
    if max_products is None:
        max_products = max(20 * (wanted + 10), 2 * n if n < 500 else 500)
    max_products = positive_int("max_products", max_products)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    basis = _Lanczos(operator, block, max_basis, generator)
    basis.begin(_start_rows(operator, start, block, generator))
    while True:
        basis.advance()
        chosen = _chosen(len(basis.values), k, which)
        scale = np.abs(basis.values).max()
        converged = basis.residuals[chosen] <= tol * scale
        # Fewer Ritz values than asked for, or all of a zero operator, are not convergence.
        if len(chosen) == wanted and converged.all():
            break
        if basis.products + block > max_products:
            break
        if basis.full:
            basis.restart(chosen)
    return _finish(basis, chosen, converged, wanted, tol, allow_unconverged)


def sharpness(
    operator: SymmetricOperator | EmpiricalRisk,
    *,
    tol: float = 1e-4,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> float:
    r"""The largest eigenvalue, :math:`\lambda_1`: `top_eigenpairs` for one pair, as a number.

    Example:
        >>> import torch
        >>> from flatminima import EmpiricalRisk
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> inputs, targets = torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)
        >>> sharpness(EmpiricalRisk(model, "mse", (inputs, targets)))
        5.0
    """
    pairs = top_eigenpairs(operator, tol=tol, start=start, generator=generator)
    return float(pairs.eigenvalues[0])


class _Lanczos:
    """An orthonormal basis Q (rows), T = Q H Q', and the block that H Q leaves outside of Q."""

    def __init__(
        self, operator: SymmetricOperator, block: int, size: int, generator: torch.Generator
    ) -> None:
        self.operator = operator
        self.block = block
        self.size = size
        self.generator = generator
        n = operator.shape[0]
        self.rows = torch.empty(size + block, n, dtype=operator.dtype, device=operator.device)
        self.matrix = np.zeros((size + block, size + block))
        self.used = 0  # rows whose product is known
        self.newest = 0  # rows after those, whose product comes next
        self.products = 0

    @property
    def full(self) -> bool:
        return self.used + self.newest > self.size

    def begin(self, start: Tensor) -> None:
        """Set the first block, orthonormalized; rows that depend on others are replaced."""
        self._append(start, coupled=0)

    def advance(self) -> None:
        """Multiply the newest block, extend Q and T, and take the Ritz values and residuals."""
        old, m = self.used, self.used + self.newest
        new = self.rows[old:m]
        images = self.operator.matmat(new)
        self.products += len(new)
        if not torch.isfinite(images).all():
            raise ValueError("a product of the operator is not finite: no eigenvalues")
        # What is known of the projection goes first, so that one full pass then leaves rounding
        # alone; the order is what makes a single pass enough.
        known = np.flatnonzero(np.any(self.matrix[:old, old:m], axis=1))
        if len(known):
            low = known[0]
            coupling = torch.as_tensor(self.matrix[low:old, old:m].T).to(images)
            images = torch.addmm(images, coupling, self.rows[low:old], alpha=-1)
        inner = new @ images.T
        self.matrix[old:m, old:m] = _symmetric(inner.cpu().double().numpy())
        images = torch.addmm(images, inner.T, new, alpha=-1)
        images = torch.addmm(images, images @ self.rows[:m].T, self.rows[:m], alpha=-1)
        self.used = m
        coupling = self._append(images, coupled=m - old)
        self.values, self.vectors = np.linalg.eigh(self.matrix[:m, :m])
        self.residuals = np.linalg.norm(coupling.T @ self.vectors[old:m], axis=0)

    def _append(self, images: Tensor, coupled: int) -> np.ndarray:
        """Make the rows orthonormal and put them after Q; images = coupling @ new rows."""
        m, n = self.used, self.operator.shape[0]
        scale = np.abs(self.matrix[:m, :m]).max() if m else 0.0
        eps = torch.finfo(self.operator.dtype).eps
        count = min(self.block, n - m)
        coupling = np.zeros((len(images), count))
        for j in range(count):
            row = images[j] if j < len(images) else torch.zeros_like(images[0])
            filled = self.rows[m : m + j]
            before = float(row.norm())
            for _ in range(2 if j else 0):
                row = row - filled.T @ (filled @ row)
            norm = float(row.norm())
            if norm <= max(ROUNDING * eps * scale, n * eps * before if j else 0.0):
                row = self._fresh(m + j)
            else:
                row = row / norm
                if m and norm < 1e-2 * scale:  # a small remainder shows rounding: once more
                    row = row - self.rows[: m + j].T @ (self.rows[: m + j] @ row)
                    row = row / row.norm()
            self.rows[m + j] = row
        new = self.rows[m : m + count]
        self.newest = count
        if coupled and count:
            coupling = (images @ new.T).cpu().double().numpy()
            self.matrix[m - coupled : m, m : m + count] = coupling
            self.matrix[m : m + count, m - coupled : m] = coupling.T
        return coupling

    def _fresh(self, m: int) -> Tensor:
        """A random unit vector orthogonal to the first m rows."""
        row = random_rows(self.operator, 1, self.generator)[0]
        for _ in range(3):
            row = row / row.norm()
            row = row - self.rows[:m].T @ (self.rows[:m] @ row)
        return row / row.norm()

    def ritz_vectors(self, chosen: np.ndarray) -> Tensor:
        weights = torch.as_tensor(self.vectors[:, chosen].T).to(self.rows)
        return weights @ self.rows[: self.used]

    def restart(self, chosen: np.ndarray) -> None:
        """Keep the wanted Ritz vectors, some beside them, and the newest block."""
        spare = (self.size - len(chosen)) // 2
        order = np.argsort([np.abs(chosen - i).min() for i in range(self.used)], kind="stable")
        keep = np.sort(order[: max(1, min(len(chosen) + spare, self.size - 2 * self.block))])
        m, p, b = self.used, len(keep), self.newest
        coupling = self.vectors[:, keep].T @ self.matrix[:m, m : m + b]
        kept = self.ritz_vectors(keep)
        newest = self.rows[m : m + b].clone()
        self.rows[:p] = kept
        self.rows[p : p + b] = newest
        self.matrix[:] = 0
        self.matrix[range(p), range(p)] = self.values[keep]
        self.matrix[:p, p : p + b] = coupling
        self.matrix[p : p + b, :p] = coupling.T
        self.used = p


def random_rows(
    operator: SymmetricOperator, count: int, generator: torch.Generator, kind: str = "normal"
) -> Tensor:
    """Random rows (count, n), standard normal or signs, drawn on the generator's device."""
    shape = (count, operator.shape[0])
    if kind == "signs":
        draw = torch.randint(0, 2, shape, generator=generator, device=generator.device) * 2.0 - 1
    else:
        draw = torch.randn(shape, generator=generator, device=generator.device)
    return draw.to(operator.device, operator.dtype)


def _symmetric(matrix: np.ndarray) -> np.ndarray:
    return (matrix + matrix.T) / 2


def _checked_tolerance(tol: float, dtype: torch.dtype) -> float:
    tol, floor = positive_float("tol", tol), ROUNDING * torch.finfo(dtype).eps
    if not floor <= tol < 1:
        raise ValueError(f"tol must lie between {floor:.2g}, the rounding of {dtype}, and 1: {tol}")
    return tol


RANDOM_SHARE = 0.3
"""Length of the random part of a warm start, relative to that of the vectors given."""


def _start_rows(
    operator: SymmetricOperator, start: Tensor | None, block: int, generator: torch.Generator
) -> Tensor:
    rows = random_rows(operator, block, generator)
    if start is None:
        return rows
    n = operator.shape[0]
    start = torch.as_tensor(start).to(operator.device, operator.dtype).reshape(-1, start.shape[-1])
    if start.shape[1] != n or not torch.isfinite(start).all() or not start.any():
        raise ValueError(f"start must hold finite vectors of dimension {n}, not all zero")
    total = start.sum(0)
    if not total.any():
        total = start[0]
    rows = rows / rows.norm(dim=1, keepdim=True)
    rows[0] = total / total.norm() + RANDOM_SHARE * rows[0]
    return rows


def _chosen(count: int, k: int, which: str) -> np.ndarray:
    """Indices, ascending, of the wanted among ``count`` Ritz values that ascend."""
    if which == "both":
        low = np.arange(min(k, count))
        return np.union1d(low, np.arange(max(count - k, 0), count))
    return np.arange(max(count - k, 0), count) if which == "largest" else np.arange(min(k, count))


def _finish(
    basis: _Lanczos,
    chosen: np.ndarray,
    converged: np.ndarray,
    wanted: int,
    tol: float,
    allow_unconverged: bool,
) -> EigenResult:
    order = chosen[::-1]
    vectors = basis.ritz_vectors(order)
    # Rounding of the basis shows in float32; one symmetric correction restores orthonormality.
    gram = vectors @ vectors.T
    vectors = 1.5 * vectors - 0.5 * gram @ vectors
    result = EigenResult(
        torch.as_tensor(basis.values[order].copy()),
        vectors,
        torch.as_tensor(basis.residuals[order].copy()),
        torch.as_tensor(converged[::-1].copy()),
        basis.products,
    )
    if len(chosen) < wanted or not converged.all():
        message = (
            f"{int(converged.sum())} of {wanted} eigenpairs converged to a relative residual of "
            f"{tol:g} within {basis.products} products; raise max_products or tol"
        )
        if not allow_unconverged:
            raise ConvergenceError(message, result)
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    return result
