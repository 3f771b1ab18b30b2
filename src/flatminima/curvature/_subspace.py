"""Rayleigh and Ritz in a growing subspace: all that the eigensolver and the tracker share.

A basis is kept orthonormal together with its images under the operator, so that residuals are those
of products and not of a recurrence. To grow a Krylov space by the residual of a Ritz pair is the
Lanczos method, since all residuals have one direction; of other subspaces it is Davidson's without
a preconditioner. See Saad (2011) and Golub and Van Loan (2013, ch. 10).
"""

import math

import numpy as np
import torch
from torch import Tensor

from flatminima.curvature.operator import SymmetricOperator

ROUNDING = 10
"""What rounding alone leaves of a direction or a residual, in units of eps."""
NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def chance_of_part(part: float, n: int) -> float:
    """The chance that a random direction in n dimensions has at most this part along a given one.

    The part is the square of its cosine; the angle to the complement has density cos^(n-2), so that
    this is the regularized incomplete beta function of 1/2 and (n - 1)/2, without SciPy.
    """
    # The density is below exp(-(n - 2) x^2 / 2): beyond nine of its widths it has less than 1e-18.
    most = min(math.asin(math.sqrt(part)), 9 / math.sqrt(max(n - 2, 1)))
    inside = most / 2 * float(WEIGHTS @ np.cos(most / 2 * (NODES + 1)) ** (n - 2))
    whole = math.exp(math.lgamma((n - 1) / 2) - math.lgamma(n / 2)) * math.sqrt(math.pi) / 2
    return min(inside / whole, 1.0)


class Subspace:
    """An orthonormal basis, its images under sign * H / unit, and its Ritz pairs.

    The unit, a power of two, is the size of the first product: in it neither squares nor norms
    over- or underflow, whatever the scale of H. With sign -1 the smallest eigenvalues come first.

    Attributes:
        values: (used,) Ritz values of sign * H / unit, in descending order.
        used, products: dimension of the subspace, and products spent, at most ``limit``.
    """

    def __init__(self, operator: SymmetricOperator, limit: int, sign: float = 1.0) -> None:
        self.operator, self.limit, self.sign = operator, limit, sign
        self.rows = torch.empty(8, operator.shape[0], dtype=operator.dtype, device=operator.device)
        self.images = torch.empty_like(self.rows)
        self.matrix, self.values = np.zeros((0, 0)), np.zeros(0)
        self.used = self.products = 0
        self.unit = 1.0

    @property
    def scale(self) -> float:
        """The largest Ritz value in absolute value."""
        return float(np.abs(self.values).max())

    def room(self, count: int = 1) -> bool:
        """Whether ``count`` more directions may and can be added."""
        return self.products + count <= self.limit and self.used < self.operator.shape[0]

    def expand(self, rows: Tensor) -> int:
        """Add the directions of the rows that are not in the basis, one product each: how many?"""
        old, n = self.used, self.operator.shape[0]
        if len(self.rows) < old + len(rows):
            spare = self.rows.new_empty(max(len(rows), old // 2), n)
            self.rows = torch.cat([self.rows, spare])
            self.images = torch.cat([self.images, torch.empty_like(spare)])
        for row in rows:
            largest = row.abs().max()
            if not largest > 0 or self.used == n:
                continue
            row = row / largest
            rest = self.outside(row)
            size = rest.norm()
            # What rounding alone leaves has no direction.
            if float(size) > ROUNDING * torch.finfo(row.dtype).eps * float(row.norm()):
                self.rows[self.used] = rest / size
                self.used += 1
        if self.used > old:
            self._multiply(old)
        return self.used - old

    def _multiply(self, old: int) -> None:
        images = self.operator.matmat(self.rows[old : self.used])
        self.products += len(images)
        largest = float(images.abs().max())
        if not math.isfinite(largest):
            raise ValueError("a product of the operator is not finite: no eigenvalues")
        if self.unit == 1 and not self.matrix.any() and largest > 0:
            self.unit = 2.0 ** math.floor(math.log2(largest))
        self.images[old : self.used] = images * (self.sign / self.unit)
        inner = (self.rows[: self.used] @ self.images[old : self.used].T).cpu().double().numpy()
        matrix = np.block([[self.matrix, inner[:old]], [inner[:old].T, inner[old:]]])
        matrix[old:, old:] = (inner[old:] + inner[old:].T) / 2
        self._solve(matrix)

    def _solve(self, matrix: np.ndarray) -> None:
        self.matrix = matrix
        values, weights = np.linalg.eigh(matrix)
        self.values, self.weights = values[::-1], weights[:, ::-1]

    def flip(self) -> None:
        """Turn to the other end: what came last comes first."""
        self.sign = -self.sign
        self.images.neg_()
        self._solve(-self.matrix)

    def _weights(self, chosen: np.ndarray) -> Tensor:
        return torch.as_tensor(self.weights[:, chosen].T.copy()).to(self.rows)

    def vectors(self, chosen: np.ndarray) -> Tensor:
        """(len(chosen), n) Ritz vectors."""
        return self._weights(chosen) @ self.rows[: self.used]

    def shifted(self, chosen: np.ndarray, shifts: np.ndarray) -> Tensor:
        """(len(chosen), n) the Ritz vectors times sign * H / unit - shift, without a product."""
        weights = self._weights(chosen)
        shifts = torch.as_tensor(np.array(shifts)).to(self.rows)[:, None]
        return weights @ self.images[: self.used] - shifts * (weights @ self.rows[: self.used])

    def residuals(self, chosen: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """What the chosen Ritz pairs leave, (len(chosen), n), and its norms, float64."""
        rows = self.shifted(chosen, self.values[chosen])
        return rows, rows.norm(dim=1).double().cpu().numpy()

    def errors(self, top: int, bottom: int = 0, vectors: bool = True) -> np.ndarray:
        """Norms of the residuals of the pairs at the ends: they bound errors of either kind.

        Without ``vectors``, and of the top alone, what bounds the values: for the first j together
        the sum of their squared residuals over the gap to the next (Mathias 1998), if it is less.
        """
        vectors = vectors or bottom > 0
        norms = self.residuals(self.ends(top + (not vectors), bottom))[1]
        if vectors or self.used <= top:
            return norms
        gaps = self.values[:top] - self.values[1 : top + 1] - norms[1:]
        squares = np.cumsum(norms[:-1] ** 2)
        bounds = np.divide(squares, gaps, out=np.full(top, np.inf), where=gaps > 0)
        return np.minimum(norms[:-1], np.minimum.accumulate(bounds[::-1])[::-1])

    def level(self, top: int, tol: float) -> float:
        """A little above the last of the ``top`` values.

        By a half to two ``tol``, relative, where no Ritz value is near.
        """
        steps = tol * (self.scale or 1.0) * np.linspace(0.5, 2, 16)
        levels = self.values[min(top, self.used) - 1] + steps
        return float(levels[np.abs(levels[:, None] - self.values).min(axis=1).argmax()])

    def ends(self, top: int, bottom: int = 0) -> np.ndarray:
        """Indices of the ``top`` first and the ``bottom`` last Ritz values, as far as there are."""
        top = min(top, self.used)
        return np.r_[:top, max(self.used - bottom, top) : self.used].astype(int)

    def converge(
        self,
        top: int,
        bottom: int,
        tol: float,
        generator: torch.Generator,
        *,
        block: int = 1,
        capacity: int | None = None,
        vectors: bool = True,
    ) -> None:
        """Add residuals, ``block`` at a time, until the errors of the wanted pairs are small.

        Wanted are ``top`` and ``bottom`` pairs of either end, `errors` to ``tol`` times ``scale``.
        Where the residuals hold no new direction, random ones are added. It ends as well when the
        products are used up; beyond ``capacity`` vectors it restarts from the best.
        """
        while self.room(block):
            wanted = self.ends(top, bottom)
            near = self.ends(max(top, block), max(bottom, block) if bottom else 0)
            rows, norms = self.residuals(near)
            errors = norms[(near[:, None] == wanted).any(axis=1)]
            if not vectors:
                errors = self.errors(top, bottom, vectors)
            enough = len(wanted) == min(top + bottom, self.operator.shape[0])
            if enough and (errors <= tol * self.scale).all():
                return
            if capacity is not None and self.used + block > capacity < self.operator.shape[0]:
                self._restart(wanted, capacity - 2 * block)
            worst = np.argsort(-norms, kind="stable")[:block]
            added = self.expand(rows[worst.tolist()]) if norms.max() > 0 else 0
            if added < block:
                self.expand(random_rows(self.operator, block - added, generator))

    def doubt(self, goal: float, most: int, level: float, generator: torch.Generator) -> float:
        """The chance at most that H has more eigenvalues above ``level`` than the basis shows.

        Where T is the matrix of the basis and C what H takes out of its span, H has as many
        eigenvalues above y as T and, on the complement, S(y) = H + C' (y - T)^-1 C have together
        (Haynsworth 1968). So Lanczos vectors of S(y) from a random start are added, ``most`` of
        them at most. One may show a value above y: then there is a further pair, the doubt is 1,
        and the basis holds what was found. Else an eigenvector above y has a part of the start that
        is at most the product of the recurrence's coefficients over the characteristic polynomial
        at y (van Dorsselaer, Hochstenbach and van der Vorst 2000), and a random start has so small
        a part by the chance returned.
        """
        old, n = self.used, self.operator.shape[0]
        inverse = np.linalg.inv(level * np.eye(old) - self.matrix)
        row, logs, chance = random_rows(self.operator, 1, generator), 0.0, float(old < n)
        for count in range(1, most + 1):
            if chance <= goal or not self.room() or not self.expand(row):
                break
            coupling = self.matrix[:old, old:]
            inner = self.matrix[old:, old:] + coupling.T @ inverse @ coupling
            if np.linalg.eigvalsh(inner)[-1] >= level:
                return 1.0
            weights = torch.as_tensor(inverse @ coupling[:, -1]).to(row)
            row = self.outside(self.images[self.used - 1] + weights @ self.images[:old])[None]
            rest = float(row.norm())
            if self.used == n or rest <= ROUNDING * torch.finfo(row.dtype).eps * self.scale:
                return 0.0
            logs += math.log(rest)
            left = np.linalg.slogdet(level * np.eye(count) - inner)[1]
            part = math.exp(min(2 * (logs - left), 0.0))
            chance = min(chance, chance_of_part(part, n - old))
        return chance

    def outside(self, row: Tensor) -> Tensor:
        """The part (n,) of a row that is orthogonal to the basis."""
        # Thrice, so that nothing more is lost.
        for _ in range(3):
            row = row - self.rows[: self.used].T @ (self.rows[: self.used] @ row)
        return row

    def _restart(self, wanted: np.ndarray, most: int) -> None:
        """Keep the wanted Ritz vectors and, up to half of the rest of the room, those beside."""
        distance = np.abs(np.arange(self.used)[:, None] - wanted).min(axis=1)
        order = np.argsort(distance, kind="stable")
        keep = np.sort(order[: max(1, min((len(wanted) + most) // 2 + 1, most))])
        weights = self._weights(keep)
        for rows in (self.rows, self.images):
            rows[: len(keep)] = weights @ rows[: self.used]
        self.used = len(keep)
        self._solve(np.diag(self.values[keep]))


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


def unit(vector: Tensor) -> Tensor:
    """A vector that is not zero over its norm, whatever its scale."""
    vector = vector / vector.abs().max()
    return vector / vector.norm()


def orthonormalized(rows: Tensor) -> Tensor:
    """Nearly orthonormal rows, set right by one symmetric correction."""
    return 1.5 * rows - 0.5 * (rows @ rows.T) @ rows
