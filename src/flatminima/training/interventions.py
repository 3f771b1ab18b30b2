r"""Gradient descent split into a center and an oscillation, so that what one does can be changed.

Past the threshold the parameters oscillate along the leading eigenvectors of the Hessian. Let
:math:`\theta = c + D`, with D in the span V of the eigenvectors at the center c whose eigenvalue is
above :math:`1/\eta`: along these, and no others, a step of descent changes the sign. The gradients
at :math:`c + D` and :math:`c - D` have an odd part, which makes D oscillate, and an even part, the
same at both, which moves the center:

.. math:: O = \tfrac12\bigl(g(c + D) - g(c - D)\bigr), \qquad
          E = \tfrac12\bigl(g(c + D) + g(c - D)\bigr) - g(c) .

To second order E is half the third derivative in D twice. Its part across V is, by Theorem G3, the
rotation of the eigenvectors in V: the same numbers. With every part left as it is this is gradient
descent, written in another way; with a part taken away, it is gradient descent without what that
part does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatminima._validation import (
    a_bool,
    a_list,
    finite_array,
    finite_float,
    instance_of,
    positive_float,
    positive_int,
    shown,
)
from flatminima.curvature import EigenTracker, EmpiricalRisk
from flatminima.training.loop import DIVERGENCE_FACTOR

__all__ = ["CenteredDescent", "Motion"]

SPARE = 4
"""Eigenpairs by which more are followed when all that are belong to V; or half as many again."""
LOOK = 100
"""Steps between two searches for eigenpairs that the tracker may have missed."""


class Motion(NamedTuple):
    """What `CenteredDescent.run` did, one entry for each step, and as many as it made.

    Example:
        >>> ones = np.ones(2)
        >>> motion = Motion(ones, ones, ones, ones.astype(int), [ones, ones], ones > 0, False)
        >>> bool(motion.capped.all())
        True
    """

    loss: np.ndarray
    """(T,) loss at the center."""
    sharpness: np.ndarray
    """(T,) lambda_1 at the center."""
    size: np.ndarray
    """(T,) Euclidean norm of the displacement D."""
    directions: np.ndarray
    """(T,) dimension of V."""
    amplitudes: list[np.ndarray]
    """T arrays (directions,): the displacement along each eigenvector in V."""
    capped: np.ndarray
    """(T,) whether the displacement had to be shortened to its limit."""
    diverged: bool
    """Whether the run ended since the loss at the center was not finite or far too large."""


class CenteredDescent:
    r"""Full-batch gradient descent as a center c and a displacement D, whose parts can be changed.

    A step is, with :math:`E_V = V V^\top E` and factors a and w,

    .. math:: c' = c - \eta\,\bigl(g(c) + a (E - E_V)\bigr), \qquad
              D' = D - \eta\,(O + w E_V) .

    Then the split is renewed and :math:`c' + D'` is not moved: V is computed at :math:`c'`, what D'
    has across V goes to the center, and a Newton step moves the center along V to where it has no
    gradient there, which goes to D. Without it the center would oscillate by itself. The part
    :math:`E_V` acts on the displacement: moved to the center and back, it would turn there.

    For a = w = 1 the sum :math:`\theta = c + D` is gradient descent from the same start, to
    rounding. A step costs four gradients and the products of an `EigenTracker`.

    Args:
        risk: a model, a loss and data; the model is at c + D after each step.
        learning_rate: eta > 0.
        across: a, factor of the part of E across V: 0 takes it away, -1 reverses it.
        within: w, factor of the part of E within V.
        oscillates: if false, the sign of D does not change at a step, what D has across V is
            dropped, and the parameters are c: they feel the even part of an oscillation, of which
            only the size is kept, and do not oscillate themselves. ``within`` has no effect then.
        offset: length of D at the start, along v_1. The parameters stay where they are if it
            oscillates; at no offset, and no rounding, an unstable center is never left.
        tol: relative residual of the eigenpairs. The split is exact with any V.

    Attributes:
        center, displacement: c and D, both (p,).
        eigenvalues, eigenvectors: those in V, (k,) descending and (k, p), at the center before its
            last Newton step.
        sharpness: lambda_1 there.
        loss: at the center.

    Raises:
        TypeError: for a risk that is no `EmpiricalRisk`.
        ValueError: for a rate that is not positive, or factors or an offset that are not finite.

    Example:
        On a quadratic the even part is zero, and the displacement does all the moving:

        >>> model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> x = torch.ones(1, 1, dtype=torch.float64)
        >>> descent = CenteredDescent(EmpiricalRisk(model, "mse", (x, 0 * x)), 1.5, offset=0.25)
        >>> descent.step()
        False
        >>> descent.theta.tolist(), descent.center.tolist()
        ([-0.5], [0.0])
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        learning_rate: float,
        *,
        across: float = 1.0,
        within: float = 1.0,
        oscillates: bool = True,
        offset: float = 0.0,
        tol: float = 1e-2,
    ) -> None:
        self.risk = instance_of("risk", risk, EmpiricalRisk)
        self.learning_rate = positive_float("learning_rate", learning_rate)
        self.across, self.within = finite_float("across", across), finite_float("within", within)
        self.oscillates = a_bool("oscillates", oscillates)
        self._tol, offset = positive_float("tol", tol), finite_float("offset", offset)
        self._tracker: EigenTracker | None = None
        self.center = risk.flat()
        leading = self._renew(self.center)[0]
        self.displacement = offset * leading
        if oscillates:
            self.center = self.center - self.displacement
        self.loss = self._loss()
        self._ceiling = DIVERGENCE_FACTOR * self.loss

    @property
    def theta(self) -> Tensor:
        """The parameters (p,): c + D, or c if they do not oscillate."""
        return self.center + self.displacement if self.oscillates else self.center

    @property
    def amplitudes(self) -> Tensor:
        """The displacement along each eigenvector in V, (k,)."""
        return self.eigenvectors @ self.displacement

    @property
    def diverged(self) -> bool:
        """Whether the loss at the center is not finite, or far above that of the start."""
        return not self.loss <= self._ceiling

    def step(self, limit: float | None = None) -> bool:
        """Make one step.

        Args:
            limit: length to which the displacement is shortened if it is longer; the parameters
                move with it. None for no limit.

        Returns:
            Whether it was shortened.

        Raises:
            ValueError: once it has diverged.
        """
        if self.diverged:
            raise ValueError(f"the run has diverged: the loss at the center is {self.loss:g}")
        if limit is not None and finite_float("limit", limit) < 0:
            raise ValueError(f"limit must be at least 0, got {limit}")
        rate, c, d = self.learning_rate, self.center, self.displacement
        here, ahead, behind = (self._gradient(point) for point in (c, c + d, c - d))
        even, odd = (ahead + behind) / 2 - here, (ahead - behind) / 2
        inside = self._inside(even)
        c = c - rate * (here + self.across * (even - inside))
        d = d - rate * (odd + self.within * inside) if self.oscillates else rate * odd - d
        if not torch.isfinite(c).all():
            self.loss = math.inf
            return False
        gradient = self._renew(c)[1]
        newton = ((self.eigenvectors @ gradient) / self.eigenvalues) @ self.eigenvectors
        kept = self._inside(d)
        # If it does not oscillate, both have the sign of an oscillation that is not there.
        self.center = c - newton + (d - kept if self.oscillates else 0.0)
        self.displacement = kept + newton if self.oscillates else kept
        size = float(self.displacement.norm())
        capped = limit is not None and size > limit
        if capped:
            self.displacement = self.displacement * (limit / size)
        self.loss = self._loss()
        self._put(self.theta)
        return capped

    def run(
        self,
        steps: int,
        *,
        limits: Sequence[float] | None = None,
        amplitudes: Sequence[object] | None = None,
    ) -> Motion:
        """Make some steps, fewer if it diverges, and say what was there before each.

        Args:
            steps: how many.
            limits: (steps,) of the displacement after each step; None for no limit.
            amplitudes: of another run, which the displacement is given before each step along the
                eigenvectors in V, in their order, as far as there are as many.

        Raises:
            ValueError: if there are fewer limits or amplitudes than steps.

        Example:
            >>> model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
            >>> _ = torch.nn.init.ones_(model.weight)
            >>> x = torch.ones(1, 1, dtype=torch.float64)
            >>> descent = CenteredDescent(EmpiricalRisk(model, "mse", (x, 0 * x)), 1.5, offset=1.0)
            >>> descent.run(3, limits=[0.25, 0.25, 0.25]).size.tolist()
            [1.0, 0.25, 0.125]
        """
        steps = positive_int("steps", steps)
        for name, given in (("limits", limits), ("amplitudes", amplitudes)):
            if given is not None and len(a_list(name, given)) < steps:
                raise ValueError(f"{name} must be given for {steps} steps, got {len(given)}")
        if limits is not None:
            limits = finite_array("limits", limits)
            if limits.ndim != 1 or np.any(limits < 0):
                raise ValueError(f"limits must be numbers of at least 0, got {shown(limits)}")
        if amplitudes is not None:
            amplitudes = [np.atleast_1d(finite_array("amplitudes", row)) for row in amplitudes]
        rows: list[tuple] = []
        for step in range(steps):
            if self.diverged:
                break
            if amplitudes is not None:
                self._replay(amplitudes[step])
            size, along = float(self.displacement.norm()), self.amplitudes.cpu().numpy()
            before = self.loss, self.sharpness, size, len(along), along
            rows.append((*before, self.step(None if limits is None else float(limits[step]))))
        columns = list(zip(*rows, strict=True)) or [()] * 6
        loss, sharpness, size, directions, along, capped = columns
        traces = (np.array(trace, dtype=float) for trace in (loss, sharpness, size))
        counts = np.array(directions, dtype=int), list(along), np.array(capped, dtype=bool)
        return Motion(*traces, *counts, self.diverged)

    def _replay(self, amplitudes: object) -> None:
        along = torch.as_tensor(amplitudes, dtype=self.center.dtype, device=self.center.device)
        shared = min(len(along), len(self.eigenvectors))
        self.displacement = along[:shared] @ self.eigenvectors[:shared]

    def _inside(self, vector: Tensor) -> Tensor:
        """The part of a vector within V."""
        return (self.eigenvectors @ vector) @ self.eigenvectors

    def _put(self, point: Tensor) -> None:
        parts = self.risk.unflatten(point)
        with torch.no_grad():
            for name, parameter in zip(self.risk.names, self.risk.parameters, strict=True):
                parameter.copy_(parts[name])

    def _gradient(self, point: Tensor) -> Tensor:
        self._put(point)
        return self.risk.gradient()

    def _loss(self) -> float:
        self._put(self.center)
        return self.risk.value()

    def _renew(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Compute V at a point; returns v_1 and the gradient there."""
        self._put(point)
        hessian = self.risk.hessian()
        pairs = None if self._tracker is None else self._tracker.update(hessian)
        # V may grow: there must be an eigenvalue below it, or it could be cut off.
        while pairs is None or self._count(pairs.eigenvalues) == self._tracker.k < self.risk.size:
            found = 0 if pairs is None else self._tracker.k
            self._tracker = EigenTracker(
                min(found + max(SPARE, found // 2), self.risk.size), tol=self._tol, look_every=LOOK
            )
            pairs = self._tracker.update(hessian)
        count = self._count(pairs.eigenvalues)
        self.eigenvalues = pairs.eigenvalues[:count].to(self.center)
        self.eigenvectors = pairs.eigenvectors[:count]
        self.sharpness = float(pairs.eigenvalues[0])
        return pairs.eigenvectors[0], hessian.gradient

    def _count(self, eigenvalues: Tensor) -> int:
        return int((eigenvalues > 1 / self.learning_rate).sum())
