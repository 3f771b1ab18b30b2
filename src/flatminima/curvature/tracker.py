r"""Leading eigenpairs along a trajectory of parameters, each step started from those before it.

With displacements :math:`\Delta_i` of the parameters over the last few steps and the changes
:math:`D_i` of the eigenvectors that came with them, a displacement that is nearly
:math:`\sum_i c_i \Delta_i` brings nearly :math:`\sum_i c_i D_i`: a secant prediction, made without
any product. Gradient descent at the edge of stability swings to and fro along few directions, and
there one product a vector is often enough to check it; the rest is corrected by residuals. Where
the parameters leap, Lanczos from the sum of the vectors before is cheaper, and is done instead.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import instance_of, one_of, positive_int
from flatminima.curvature._arguments import a_tensor, torch_generator
from flatminima.curvature._subspace import Subspace
from flatminima.curvature.eigensolver import (
    SEARCH,
    EigenResult,
    assured,
    checked_doubt,
    checked_tolerance,
    found,
    start_rows,
    unconverged,
)
from flatminima.curvature.operator import HessianOperator, SymmetricOperator, flattened
from flatminima.curvature.risk import EmpiricalRisk, as_operator

__all__ = ["EigenTracker", "TrackedPairs"]

SHIFT = 0.3
"""Shift of the free power step, relative to the smallest value carried along: 0 serves the bulk of
the spectrum best, 1/2 the eigenvalues just below. This one needed the fewest corrections."""


@dataclass(frozen=True)
class TrackedPairs(EigenResult):
    """Eigenpairs at one step of a trajectory; what `EigenResult` says, and what changed.

    Signs agree with the step before. Where eigenvalues nearly meet, single vectors turn at will
    within the space they share: follow ``angles`` there.

    Attributes:
        overlaps: (k, k) float64, row i the inner products of eigenvector i with those of the step
            before; the identity at the first step. A crossing shows as a permutation of it.
        angles: (k,) float64, ascending: the principal angles in radians between the span of the
            k eigenvectors and that of the step before; zeros at the first step.
        kind: ``"cold"`` (from nothing), ``"predicted"`` (the prediction held), ``"corrected"``
            (products were added) or ``"lanczos"`` (from the sum of the vectors of the step before).
        looked: how many steps ago what is outside of the tracked span was last searched, with
            which ``doubt``; that says nothing of what has risen since.
    """

    overlaps: Tensor
    angles: Tensor
    kind: str
    looked: int


class EigenTracker:
    r"""The k leading eigenpairs of a Hessian along a trajectory, warm-started at every step.

    A step multiplies the k predicted vectors and the one next in line, and adds residual directions
    until each of the k pairs meets the tolerance of `top_eigenpairs`. An eigenvalue may rise unseen
    in a direction that the tracked span does not contain. So the first step and each
    ``look_every``-th end with the search for missed pairs that `top_eigenpairs` makes; each result
    says what doubt it left, and how long ago.

    A step costs k + 1 products or more. On the networks of ``results/benchmarks/following.md`` that
    is about 0.6 of what Lanczos from the vectors before spends where the learning rate is stable
    and each step is followed, and about the same where the parameters leap or steps are skipped.
    Memory: (history + 1) (k + 2) n numbers, and 2 m n during a step of m products.

    Args:
        k: number of eigenpairs.
        tol: relative residual, no smaller than 10 eps of the operators' dtype.
        which: ``"largest"`` or ``"smallest"`` (algebraically), the end that is followed.
        history: number of past displacements that a prediction combines, >= 0.
        look_every: steps between two searches, >= 0; 0 for none but the first.
        doubt: at which a search ends, as `top_eigenpairs` has it.
        max_products: that a step after the first may spend, by default 20 (k + 10), 500 at least.
        generator: of the random vectors.

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
        history: int = 12,
        look_every: int = 20,
        doubt: float = 1e-3,
        max_products: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.k = positive_int("k", k)
        self.tol = checked_tolerance(tol, torch.float64)
        self.which = one_of("which", which, ("largest", "smallest"))
        self.history = positive_int("history", history, minimum=0)
        self.look_every = positive_int("look_every", look_every, minimum=0)
        self.doubt = checked_doubt(doubt)
        if max_products is None:
            max_products = max(20 * (self.k + 10), 500)
        self.max_products = positive_int("max_products", max_products, minimum=self.k + 1)
        self.generator = torch_generator("generator", generator)
        self.products: list[int] = []
        self.restart()

    def restart(self) -> None:
        """Forget the trajectory: the next step starts from nothing. ``products`` stay."""
        self._newest: _Snapshot | None = None
        self._past: deque[_Secant] = deque(maxlen=self.history)
        self._looked, self._left = 0, 1.0
        self._pace = _Pace()

    def update(
        self, operator: SymmetricOperator | EmpiricalRisk, *, point: Tensor | None = None
    ) -> TrackedPairs:
        """The eigenpairs of the next operator of the trajectory.

        Args:
            point: where on the trajectory the operator belongs, in coordinates in which it is
                smooth. A HessianOperator knows its point; without one nothing is predicted.

        Raises:
            ValueError: k out of range, an operator or a point unlike the one before, or a product
                that is not finite.
            ConvergenceError: max_products were spent; the tracker keeps the step before.

        Example:
            >>> from flatminima.curvature import MatrixOperator
            >>> tracker, matrix = EigenTracker(1), torch.diag(torch.tensor([3.0, 1.0]))
            >>> for shift in (0.0, 0.1):
            ...     at, point = MatrixOperator(matrix + shift), torch.tensor([shift])
            ...     pairs = tracker.update(at, point=point)
            >>> [round(float(value), 3) for value in pairs.eigenvalues]
            [3.105]
        """
        operator, before = as_operator(operator), self._newest
        n = operator.shape[0]
        if self.k > n:
            raise ValueError(f"k must be at most n = {n}, got {self.k}")
        checked_tolerance(self.tol, operator.dtype)
        point, predicted = _point(operator, point, before), None
        limit = self.max_products
        if before is None:
            limit = max(2 * limit, 2 * n if n < 500 else 500)
        else:
            predicted = self._predicted(point)
        space = Subspace(operator, limit, 1.0 if self.which == "largest" else -1.0)
        kind = self._find(space, predicted)
        self._looked += 1
        if self.doubt < 1 and (before is None or self._looked == self.look_every):
            most = max(space.products, int(self._pace.cost)) + SEARCH
            self._left = assured(space, (self.k, 0), self.tol, self.generator, self.doubt, most)
            self._looked = 0
        pairs = found(space, (self.k, 0), self.tol, self._left)
        result = _compared(pairs, before, kind=kind, looked=self._looked)
        self.products.append(result.products)
        if not result.converged.all():
            raise unconverged(result, self.k, self.tol)
        self._remember(space, point, result.eigenvectors, predicted)
        return result

    def state_dict(self) -> dict[str, Any]:
        """What the next ``update`` depends on: tensors, numbers, lists and dicts of them."""
        return {
            "past": [list(secant) for secant in self._past],
            "newest": self._newest and list(self._newest),
            "pace": dict(vars(self._pace)),
            "looked": (self._looked, self._left),
            "products": list(self.products),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the `state_dict` of a tracker made with the same options.

        Example:
            >>> from flatminima.curvature import MatrixOperator
            >>> tracker, again = EigenTracker(1), EigenTracker(1)
            >>> pairs = tracker.update(MatrixOperator(torch.diag(torch.tensor([3.0, 1.0]))))
            >>> again.load_state_dict(tracker.state_dict())
            >>> again.products == tracker.products
            True
        """
        wanted = self.state_dict().keys()
        if instance_of("state", state, dict).keys() != wanted:
            raise ValueError(
                f"state must hold {', '.join(wanted)}, got {', '.join(map(str, state))}"
            )
        self._past = deque((_Secant(*secant) for secant in state["past"]), maxlen=self.history)
        self._newest = state["newest"] and _Snapshot(*state["newest"])
        self._pace = _Pace(**state["pace"])
        self._looked, self._left = state["looked"]
        self.products = list(state["products"])
        self.generator.set_state(state["generator"].cpu())

    def _find(self, space: Subspace, predicted: Tensor | None) -> str:
        """Find the pairs from predicted ones, (k + 1, n), or by Lanczos: how?"""
        kind, before = "predicted", self._newest
        if before is None or self._pace.lanczos:
            kind = "cold" if before is None else "lanczos"
            start = None if before is None else before.vectors
            predicted = start_rows(space.operator, start, 1, self.generator)
        space.expand(predicted)
        first = space.products
        space.converge(self.k, 0, self.tol, self.generator)
        if kind == "predicted" and space.products > first:
            kind = "corrected"
        if kind in ("cold", "lanczos"):
            self._pace.cost = space.products
        self._pace.dearer = space.products > self._pace.cost
        return kind

    def _predicted(self, point: Tensor | None) -> Tensor:
        """Where the secants of the past put the vectors, (k + 1, n), not orthonormalized."""
        newest, past = self._newest, [s for s in self._past if s.length > 0]
        # The vectors are known up to an error e, and a move of length d turns them by r d: the
        # ridge weighs the e |c| that the coefficients c bring in against r |misfit| of the moves.
        rate = max((float(secant.change.norm()) / secant.length for secant in past), default=0.0)
        if point is None or rate == 0:
            return newest.rows
        moves = torch.stack([secant.move for secant in past])
        gram = (moves @ moves.T).double().cpu()
        target = (moves @ (point - newest.point)).double().cpu()
        error = max(secant.error for secant in past)
        eps = torch.finfo(newest.rows.dtype).eps
        ridge = (error / rate) ** 2 + eps * float(gram.trace())
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram)).double(), target)
        rows = newest.rows.clone()
        for weight, secant in zip(weights.tolist(), past, strict=True):
            rows.add_(secant.change, alpha=weight)
        return rows

    def _remember(
        self, space: Subspace, point: Tensor | None, vectors: Tensor, predicted: Tensor | None
    ) -> None:
        """Keep the step, its basis turned as near as can be to that of the step before."""
        before, width = self._newest, min(self.k + 1, space.used)
        if predicted is not None:
            tried = _orthonormalized(predicted[: self.k])
            self._pace.choose(float((tried - (tried @ vectors.T) @ vectors).norm()))
        shift = SHIFT * max(space.values[width - 1], 0.0)
        rows = _improved(space, width, shift)
        # About the angle error after that: a residual lies mostly in the bulk of the spectrum, so
        # not the (pessimistic) gap is the scale, but the distance to the shift.
        distance, error = space.values[self.k - 1] - shift, np.linalg.norm(space.errors(self.k))
        error = float(error / distance if distance > 0 else min(error, 1.0))
        if before is None or point is None or before.point is None or len(rows) != len(before.rows):
            self._past.clear()
        else:
            left, cosines, right = torch.linalg.svd((rows @ before.rows.T).double().cpu())
            rows = (left @ right).T.to(rows) @ rows
            # A direction that has left the span (the last, as a rule) did not turn: no secant.
            smooth = right[cosines > 0.7]
            change = (smooth.T @ smooth).to(rows) @ (rows - before.rows)
            move = point - before.point
            self._past.append(_Secant(move, float(move.norm()), change, max(error, before.error)))
        self._newest = _Snapshot(point, rows, vectors.clone(), error)


@dataclass
class _Pace:
    """Which of two ways a step goes, by what they cost: from a prediction, or by Lanczos."""

    lanczos: bool = False  # whether the next step is by Lanczos
    cost: float = 0.0  # of the last step by Lanczos
    dearer: bool = False  # than that: the last step
    error: float = 0.0  # of the prediction with which it became so
    wait: int = 8  # steps by Lanczos before the other way is tried again, twice as many each time
    left: int = 0  # of them

    def choose(self, error: float) -> None:
        """The next step, by the error of this one's prediction, known after Lanczos as well."""
        if self.lanczos:
            self.left -= 1
            self.lanczos = self.left > 0 and error > self.error / 2
        elif self.dearer:
            self.lanczos, self.error = True, error
            self.left, self.wait = self.wait, min(2 * self.wait, 64)
        else:
            self.wait = 8


class _Secant(NamedTuple):
    """A move of the parameters, and the change (k + 1, n) of the vectors that came with it."""

    move: Tensor
    length: float
    change: Tensor
    error: float


class _Snapshot(NamedTuple):
    """The last step: where, a basis of k + 1 vectors, the k eigenvectors, and their error."""

    point: Tensor | None
    rows: Tensor
    vectors: Tensor
    error: float


def _improved(space: Subspace, width: int, shift: float) -> Tensor:
    """(width, n) Ritz vectors after a power step, which the images allow without a product."""
    # An error along an eigenvector of eigenvalue x is multiplied, in the vector of value y, by
    # (x - shift) / (y - shift). Without this the errors of predictions would add up.
    chosen = space.ends(width)
    rows = space.shifted(chosen, np.full(width, shift))
    plain = torch.as_tensor(space.values[chosen] <= shift, device=rows.device)
    rows[plain] = space.vectors(chosen)[plain]
    return _orthonormalized(rows)


def _orthonormalized(rows: Tensor) -> Tensor:
    return torch.linalg.qr(rows.T)[0].T.contiguous()


def _compared(pairs: EigenResult, before: _Snapshot | None, **how: Any) -> TrackedPairs:
    """The pairs, their signs and what has changed by the step before."""
    k, vectors = len(pairs.eigenvalues), pairs.eigenvectors
    overlaps, angles = torch.eye(k).double(), torch.zeros(k).double()
    if before is not None:
        overlaps = (vectors @ before.vectors.T).double().cpu()
        nearest = overlaps.gather(1, overlaps.abs().argmax(1, keepdim=True))
        flip = torch.where(nearest < 0, -1.0, 1.0).double()
        vectors, overlaps = vectors * flip.to(vectors), overlaps * flip
        # Angles by their sines, accurate where they are small, as between two steps.
        outside = vectors - (vectors @ before.vectors.T) @ before.vectors
        squares = torch.linalg.eigvalsh((outside @ outside.T).double().cpu())
        angles = torch.asin(squares.clamp(0, 1).sqrt())
    known = vars(pairs) | {"eigenvectors": vectors}
    return TrackedPairs(**known, overlaps=overlaps, angles=angles, **how)


def _point(
    operator: SymmetricOperator, point: Tensor | None, before: _Snapshot | None
) -> Tensor | None:
    """Where the operator belongs; ValueError unless both are like those of the step before."""
    if point is None and isinstance(operator, HessianOperator):
        point = flattened(operator.parameters).detach()
    elif point is not None:
        point = a_tensor("point", point)
        if point.ndim != 1:
            raise ValueError(f"point must be a finite vector, got shape {tuple(point.shape)}")
        point = point.to(operator.device, operator.dtype).clone()
    if before is None:
        return point
    n, rows = operator.shape[0], before.rows
    if (n, operator.dtype, operator.device) != (rows.shape[1], rows.dtype, rows.device):
        raise ValueError(
            f"operator must be of dimension {rows.shape[1]}, {rows.dtype} on {rows.device} as at "
            f"the step before, got {n}, {operator.dtype} on {operator.device}; restart() forgets it"
        )
    if point is not None and before.point is not None and point.shape != before.point.shape:
        raise ValueError(
            f"point must have the shape {tuple(before.point.shape)} of the step before, got "
            f"{tuple(point.shape)}"
        )
    return point
