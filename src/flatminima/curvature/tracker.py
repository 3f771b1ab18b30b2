r"""Leading eigenpairs along a trajectory of parameters, each step started from those before it.

The eigenspace is a smooth function of the parameters, so its changes over the last few steps tell
how it changes along the next one. With displacements :math:`\Delta_i` of the parameters and the
changes :math:`D_i` of the eigenvectors that came with them, a displacement :math:`\Delta` that is
nearly :math:`\sum_i c_i \Delta_i` brings nearly :math:`\sum_i c_i D_i`: a secant prediction, made
without any product. Gradient descent at the edge of stability swings to and fro along few
directions, and there this leaves so little to correct that one product a vector is enough: it
checks the prediction and gives the eigenvalues. What does not meet the tolerance is corrected by
enlarging the subspace with residuals, one product at a time.
"""

from collections import deque
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import one_of, positive_int
from flatminima.curvature.eigensolver import ConvergenceError, EigenResult, checked_tolerance
from flatminima.curvature.operator import HessianOperator, SymmetricOperator
from flatminima.curvature.risk import EmpiricalRisk, as_operator
from flatminima.curvature.subspace import Subspace, orthonormalized, random_rows

SHIFT = 0.3
"""Shift of the free power step, relative to the smallest value carried along. Between 0, which
serves the bulk of the spectrum best, and 1/2, best for the eigenvalues just below: of 0, 0.15, 0.3
and 0.4 this one needed the fewest corrections on an MLP at the edge of stability."""


@dataclass(frozen=True)
class TrackedPairs(EigenResult):
    """Eigenpairs at one step of a trajectory; what `EigenResult` says, and what changed.

    The sign of each eigenvector is the one that agrees with the step before. Where eigenvalues
    nearly meet, single vectors turn at will within the space they share: follow ``angles`` there.

    Attributes:
        overlaps: (k, k) float64, row i the inner products of eigenvector i with those of the step
            before, in their order; the identity at the first step. A crossing shows as a
            permutation of it.
        angles: (k,) float64, ascending: the principal angles in radians between the span of the
            k eigenvectors and that of the step before; zeros at the first step.
        gap: estimated distance from the k-th eigenvalue to the rest of the spectrum.
        angle_error: estimate in radians of how far the span of the k eigenvectors is from the
            true one: the norm of all residuals together over ``gap``, at most pi / 2.
        kind: how the step was solved: ``"cold"`` (from nothing), ``"predicted"`` (the prediction
            held), ``"corrected"`` (products were added), each with ``"+scan"`` where the rest of
            the spectrum was searched besides.
    """

    overlaps: Tensor
    angles: Tensor
    gap: float
    angle_error: float
    kind: str


class EigenTracker:
    r"""The k leading eigenpairs of a Hessian along a trajectory, warm-started at every step.

    Call ``update`` with the operator of each step::

        tracker = EigenTracker(k=5)
        for step in range(steps):
            operator = HessianOperator(loss, parameters)
            pairs = tracker.update(operator)

    A step multiplies the k predicted vectors and ``guard`` more that follow the eigenvalues next
    in line, takes Ritz pairs of their span, and adds residual directions until the residual
    :math:`\|Hv - \lambda v\|` of each of the k pairs is at most ``tol`` times the largest
    eigenvalue in absolute value (the criterion of `top_eigenpairs`). A Ritz pair can meet it and
    still not be one of the largest, if an eigenvalue rises in a direction that the tracked span
    does not contain. Against that the guards follow what is next in line; every ``scan_every``
    steps a few Lanczos steps from a random vector search the rest of the spectrum; and a step
    that needed many corrections is followed by a scan. So an eigenvalue that comes from outside
    is seen at the latest at the next scan, provided that it has by then left the bulk of the
    others (``scan`` products find an isolated eigenvalue, not one inside a dense spectrum).

    A step costs k + ``guard`` products or more; how many more depends on how dense the spectrum is
    below the k-th eigenvalue. At the edge of stability, where eigenvalues nearly repeat, several
    are usual: ``results/benchmarks/tracking.md`` has the counts on an MLP and on a CNN, beside
    those of LOBPCG and of warm-started Lanczos.

    Memory: (history + 1) (k + guard + 1) n numbers, and 2 m n during a step of m products.

    Args:
        k: number of eigenpairs.
        tol: relative residual, no smaller than 10 eps of the operators' dtype.
        which: ``"largest"`` or ``"smallest"`` (algebraically), the end that is followed.
        guard: number of further vectors carried along, >= 0.
        history: number of past displacements that a prediction combines, >= 0.
        scan: number of products of a scan, >= 0; 0 for none.
        scan_every: steps between two scans.
        max_products: products that a step may spend, the first apart, by default 20 (k + 10).
        generator: of the random vectors, on the CPU; by default one seeded with 0.

    Attributes:
        products: list of the number of products of each step so far.

    Example:
        >>> import torch
        >>> theta = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64, requires_grad=True)
        >>> tracker = EigenTracker(1)
        >>> for _ in range(3):
        ...     hessian = HessianOperator(lambda: (theta**4).sum() / 12, [theta])
        ...     pairs = tracker.update(hessian)
        ...     with torch.no_grad():
        ...         theta -= 0.1 * hessian.gradient.view_as(theta)
        >>> [round(float(value), 3) for value in pairs.eigenvalues], pairs.products
        ([2.433], 2)
    """

    def __init__(
        self,
        k: int,
        tol: float = 1e-3,
        *,
        which: str = "largest",
        guard: int = 1,
        history: int = 12,
        scan: int = 10,
        scan_every: int = 20,
        max_products: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.k = positive_int("k", k)
        self.tol = checked_tolerance(tol, torch.float64)
        self.which = one_of("which", which, ("largest", "smallest"))
        self.guard = positive_int("guard", guard, minimum=0)
        self.history = positive_int("history", history, minimum=0)
        self.scan = positive_int("scan", scan, minimum=0)
        self.scan_every = positive_int("scan_every", scan_every)
        if max_products is None:
            max_products = 20 * (self.k + 10)
        self.max_products = positive_int("max_products", max_products, minimum=self.k + self.guard)
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.products: list[int] = []
        self.restart()

    def restart(self) -> None:
        """Forget the trajectory: the next step starts from nothing. ``products`` stay."""
        self._newest: _Snapshot | None = None
        self._past: deque[_Secant] = deque(maxlen=self.history)
        self._since_scan = 0

    def update(
        self,
        operator: SymmetricOperator | EmpiricalRisk,
        *,
        point: Tensor | None = None,
    ) -> TrackedPairs:
        """The eigenpairs of the next operator of the trajectory.

        Args:
            operator: a risk or an operator.
            point: (n,) where on the trajectory the operator belongs, in coordinates in which it
                is smooth. A HessianOperator knows its point. Without one nothing is predicted:
                the step starts from the vectors of the step before.

        Raises:
            ValueError: k out of range, an operator of another dimension, dtype or device than
                the one before, a point that does not fit, or a product that is not finite.
            ConvergenceError: max_products were spent before all pairs converged. The tracker
                keeps the step before.
        """
        operator = as_operator(operator)
        n = operator.shape[0]
        if self.k > n:
            raise ValueError(f"k must be at most n = {n}, got {self.k}")
        checked_tolerance(self.tol, operator.dtype)
        point = _point(operator, point)
        if self._newest is not None:
            _check_same(operator, self._newest, point)
        limit = self.max_products
        if self._newest is None:
            limit = max(2 * limit, 2 * n if n < 500 else 500)
        space = Subspace(operator, limit, 1.0 if self.which == "largest" else -1.0)
        kind = self._cold(space) if self._newest is None else self._warm(space, point)
        result = self._result(space, kind)
        self.products.append(result.products)
        if not result.converged.all():
            raise ConvergenceError(
                f"{int(result.converged.sum())} of {self.k} eigenpairs converged to a relative "
                f"residual of {self.tol:g} within {result.products} products; raise max_products "
                "or tol",
                result,
            )
        vectors = result.eigenvectors if space.sign > 0 else result.eigenvectors.flip(0)
        self._remember(space, point, vectors)
        return result

    def state_dict(self) -> dict[str, Any]:
        """What the next ``update`` depends on: tensors, numbers, lists and dicts of them."""
        return {
            "past": [_fields(secant) for secant in self._past],
            "newest": None if self._newest is None else _fields(self._newest),
            "since_scan": self._since_scan,
            "products": list(self.products),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the `state_dict` of a tracker made with the same options."""
        self._past = deque((_Secant(**secant) for secant in state["past"]), maxlen=self.history)
        newest = state["newest"]
        self._newest = None if newest is None else _Snapshot(**newest)
        self._since_scan = state["since_scan"]
        self.products = list(state["products"])
        self.generator.set_state(state["generator"].cpu())

    def to(self, device: torch.device | str) -> "EigenTracker":
        """Put what is kept of the past on the device of the operators to come; returns itself."""
        if self._newest is not None:
            self._newest = _moved(self._newest, device)
        self._past = deque((_moved(s, device) for s in self._past), maxlen=self.history)
        return self

    def _error(self, space: Subspace) -> float:
        """About the angle error of the basis that is kept, after its power step.

        What a residual holds lies mostly in the bulk of the spectrum, far from the k eigenvalues:
        its distance to the shift of the power step is the scale, not the (pessimistic) gap.
        """
        width = min(self._width(space.operator.shape[0]), space.used)
        distance = space.values[self.k - 1] - SHIFT * max(space.values[width - 1], 0.0)
        total = float(np.linalg.norm(space.residuals(space.ends(self.k))[1]))
        return total / distance if distance > 0 else min(total, 1.0)

    def _width(self, n: int) -> int:
        return min(self.k + self.guard, n)

    def _cold(self, space: Subspace) -> str:
        space.expand(random_rows(space.operator, 1, self.generator))
        space.converge(self._width(space.operator.shape[0]), 0, self.tol, self.generator)
        self._search(space)
        return "cold"

    def _warm(self, space: Subspace, point: Tensor | None) -> str:
        space.expand(self._predicted(point))
        predicted = space.products
        space.converge(self.k, 0, self.tol, self.generator)
        added = space.products - predicted
        kind = "corrected" if added else "predicted"
        # Many corrections mean that the spectrum has moved: look at the rest of it as well.
        self._since_scan += 1
        if self.scan and (self._since_scan >= self.scan_every or added > 2 * self.k):
            self._search(space)
            kind += "+scan"
        return kind

    def _search(self, space: Subspace) -> None:
        """Lanczos steps from a random vector orthogonal to the subspace, while they find more.

        One vector sees one copy of a repeated eigenvalue, so a find is reason to look again.
        """
        self._since_scan = 0
        found = self.scan > 0
        while found and space.room():
            before = space.values[: self.k]
            row = random_rows(space.operator, 1, self.generator)
            for _ in range(self.scan):
                if space.room() and space.expand(row):
                    row = space.images[space.used - 1][None]
            space.converge(self.k, 0, self.tol, self.generator)
            found = (space.values[: self.k] > before + self.tol * space.scale).any()

    def _predicted(self, point: Tensor | None) -> Tensor:
        """Where the secants of the past put the vectors, (k + guard, n), not orthonormalized."""
        newest, past = self._newest, [s for s in self._past if s.length > 0]
        if not past or point is None:
            return newest.rows
        moves = torch.stack([secant.move for secant in past])
        gram = (moves @ moves.T).double().cpu()
        target = (moves @ (point - newest.point)).double().cpu()
        # The vectors are known up to an error e, and a move of length d turns them by r d: the
        # coefficients c bring in e |c|, a misfit of the moves r |misfit|. The ridge weighs one
        # against the other.
        rate = max(float(secant.change.norm()) / secant.length for secant in past)
        if rate == 0:
            return newest.rows
        error = max(secant.error for secant in past)
        eps = torch.finfo(newest.rows.dtype).eps
        ridge = (error / rate) ** 2 + eps * float(gram.trace())
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).double(), target)
        rows = newest.rows.clone()
        for weight, secant in zip(weights.tolist(), past, strict=True):
            rows.add_(secant.change, alpha=weight)
        return rows

    def _remember(self, space: Subspace, point: Tensor | None, vectors: Tensor) -> None:
        """Keep the step, its basis turned as near as can be to that of the step before."""
        width = self._width(space.operator.shape[0])
        rows, error, before = _improved(space, width), self._error(space), self._newest
        if before is None or point is None or before.point is None or len(rows) != len(before.rows):
            self._past.clear()
        else:
            left, cosines, right = torch.linalg.svd((rows @ before.rows.T).double().cpu())
            rows = (left @ right).T.to(rows) @ rows
            # A direction that has left the span (a guard, as a rule) did not turn: no secant.
            smooth = right[cosines > 0.7]
            change = (smooth.T @ smooth).to(rows) @ (rows - before.rows)
            move = point - before.point
            length = float(move.norm())
            self._past.append(_Secant(move, length, change, max(error, before.error)))
        self._newest = _Snapshot(point, rows, vectors, error)

    def _result(self, space: Subspace, kind: str) -> TrackedPairs:
        k = self.k
        vectors = orthonormalized(space.vectors(space.ends(k)))
        overlaps, angles = torch.eye(k).double(), torch.zeros(k).double()
        if self._newest is not None:
            before = self._newest.vectors
            overlaps = (vectors @ before.T).double().cpu()
            nearest = overlaps.gather(1, overlaps.abs().argmax(1, keepdim=True))
            flip = torch.where(nearest < 0, -1.0, 1.0).double()
            vectors, overlaps = vectors * flip.to(vectors), overlaps * flip
            # Angles by their sines, accurate where they are small, as between two steps.
            outside = vectors - (vectors @ before.T) @ before
            squares = torch.linalg.eigvalsh((outside @ outside.T).double().cpu())
            angles = torch.asin(squares.clamp(0, 1).sqrt())
        values, residuals = space.values[:k], space.residuals(space.ends(k))[1]
        converged = torch.as_tensor(residuals <= self.tol * space.scale)
        gap = max(values[-1] - space.values[k], 0.0) if space.used > k else np.inf
        total = float(np.linalg.norm(residuals))
        order = torch.arange(k) if space.sign > 0 else torch.arange(k - 1, -1, -1)
        return TrackedPairs(
            eigenvalues=torch.as_tensor(space.sign * space.unit * values)[order],
            eigenvectors=vectors[order.to(vectors.device)],
            residuals=torch.as_tensor(space.unit * residuals)[order],
            converged=converged[order],
            products=space.products,
            overlaps=overlaps[order][:, order],
            angles=angles,
            gap=float(space.unit * gap),
            angle_error=float(np.arctan2(total, gap)) if total else 0.0,
            kind=kind,
        )


@dataclass(frozen=True)
class _Secant:
    """A move of the parameters, and the change (k + guard, n) of the vectors that came with it."""

    move: Tensor
    length: float
    change: Tensor
    error: float


@dataclass(frozen=True)
class _Snapshot:
    """The last step: where, a basis of k + guard vectors, the k eigenvectors, and their error."""

    point: Tensor | None
    rows: Tensor
    vectors: Tensor
    error: float


def _improved(space: Subspace, width: int) -> Tensor:
    """(width, n) Ritz vectors after a power step, which the images allow without a product.

    An error along an eigenvector of eigenvalue x is multiplied, in the vector of value y, by
    (x - shift) / (y - shift). Predictions add up errors of the past, so that without this they
    would grow from step to step.
    """
    chosen = space.ends(width)
    last = space.values[len(chosen) - 1]
    if last <= 0:
        return space.vectors(chosen)
    rows = space.shifted(chosen, np.full(len(chosen), SHIFT * last))
    return torch.linalg.qr(rows.T)[0].T.contiguous()


def _fields(record: "_Snapshot | _Secant") -> dict[str, Any]:
    """Name -> value, NumPy's numbers as Python's: a checkpoint holds no others."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def _moved(record: Any, device: torch.device | str) -> Any:
    tensors = {k: v.to(device) for k, v in _fields(record).items() if isinstance(v, Tensor)}
    return replace(record, **tensors)


def _point(operator: SymmetricOperator, point: Tensor | None) -> Tensor | None:
    if point is None:
        if not isinstance(operator, HessianOperator):
            return None
        return torch.cat([p.detach().reshape(-1) for p in operator.parameters])
    point = torch.as_tensor(point)
    if point.ndim != 1 or not torch.isfinite(point).all():
        raise ValueError(f"point must be a finite vector, got shape {tuple(point.shape)}")
    return point.to(operator.device, operator.dtype).clone()


def _check_same(operator: SymmetricOperator, past: "_Snapshot", point: Tensor | None) -> None:
    rows = past.rows
    given = (operator.shape[0], operator.dtype, operator.device)
    if given != (rows.shape[1], rows.dtype, rows.device):
        raise ValueError(
            f"operator must be of dimension {rows.shape[1]}, {rows.dtype} on {rows.device} as at "
            f"the step before, got {given[0]}, {given[1]} on {given[2]}; restart() forgets it"
        )
    if point is not None and past.point is not None and point.shape != past.point.shape:
        raise ValueError(
            f"point must have the shape {tuple(past.point.shape)} of the step before, got "
            f"{tuple(point.shape)}"
        )
