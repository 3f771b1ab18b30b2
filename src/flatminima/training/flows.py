r"""Gradient flow and central flow: gradient descent as a motion in continuous time.

Past the edge of stability gradient descent does not follow the gradient flow
:math:`\dot\theta = -\nabla L`, whose sharpness goes on rising: it oscillates, and the oscillation
holds the sharpness at :math:`2/\eta`. On average it moves along the *central flow* (Cohen et al.
2025)

.. math:: \dot\theta = -\nabla L - \tfrac12 \nabla\langle X, V^\top H V\rangle,

V holding the eigenvectors at the edge and X >= 0 being the covariance of the oscillation in their
span: the one that keeps :math:`V^\top H V \le 2/\eta` and is zero where a curvature falls by
itself, as `flatminima.theory.central_flow.complementarity` finds it. Time is counted in steps of
gradient descent, of length eta each, so that the flows and gradient descent stand side by side.

*How time is discretized.* A step is cut into equal parts of length h <= eta / substeps, with h
lambda_1 <= 1.1. In a part the force :math:`-\tfrac12 \nabla\langle X, V^\top H V\rangle` is held
fixed, and the rest is a step of Runge and Kutta of fourth order. X is asked to keep the curvatures
*at the end of the part* at 2/eta or below, as far as first derivatives tell: the complementarity
problem is put to :math:`A + S/h` instead of A, with the slack :math:`S = 2/\eta - V^\top H V`. What
one part leaves of a distance from 2/eta, of the order of h squared, the next one takes back, so
that nothing drifts, and eigenvalues enter and leave by themselves. Along V, where the flow is
stiff, a force acts for :math:`(1 - e^{-h\lambda})/\lambda` in place of h.

*What it costs*, with k eigenvalues within a margin of the edge, per part: the k + 2 or more
products of an `EigenTracker`, k (k + 1) / 2 gradients of :math:`v_i^\top H v_j`, each some five
gradients of the loss, and four gradients. The gradient flow spends the two products of a tracker a
step, and four gradients a part.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatminima import curvature
from flatminima._validation import instance_of, positive_float, positive_int
from flatminima.curvature import EmpiricalRisk, HessianOperator
from flatminima.curvature._autograd import derivatives, differentiable
from flatminima.curvature.operator import flattened, gradients
from flatminima.theory.central_flow import complementarity
from flatminima.training._batches import check_data
from flatminima.training._updates import Evaluation
from flatminima.training.history import History
from flatminima.training.loop import DIVERGENCE_FACTOR, Loop
from flatminima.training.probes import Probe, State

__all__ = ["central_flow", "gradient_flow"]

MARGIN = 0.05
"""Eigenvalues closer to 2/eta than this share of it take part in the complementarity problem. One
that rises farther than this in a part of a step is held from the next part on."""

LONGEST = 1.1
"""Largest h lambda_1 of a part: at the edge two do, and it is within the stable range, 2.78."""

MOST_PARTS = 100_000
"""Parts that a step is cut into at most."""


def gradient_flow(
    risk: EmpiricalRisk, learning_rate: float, steps: int, *, substeps: int = 1, **options: Any
) -> History:
    r"""Let the model of ``risk`` follow :math:`\dot\theta = -\nabla L`, in place.

    What gradient descent would do if its steps were infinitely small. The first loss of the history
    is that of time 0, and from one to the next eta units of time pass, as in a step of gradient
    descent. The parts are those of `central_flow`.

    Args:
        risk, learning_rate, steps, substeps, options: as `central_flow` takes them.

    Returns:
        The history, with the probe ``sharpness``, (P,), beside those asked for.

    Raises:
        TypeError, ValueError: as `central_flow` does.

    Example:
        A parabola of curvature 1, for 2 units of time; descent at this rate would not end:

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> run = gradient_flow(risk, 2.0, 1, substeps=10)
        >>> round(model.weight.item(), 5), round(math.exp(-2), 5)
        (0.13534, 0.13534)
    """
    return _run(_Flow, risk, learning_rate, steps, substeps, **options)


def central_flow(
    risk: EmpiricalRisk, learning_rate: float, steps: int, *, substeps: int = 2, **options: Any
) -> History:
    r"""Let the model of ``risk`` follow the central flow of gradient descent, in place.

    Below the edge it is the gradient flow. The history has, beside the probes asked for,

    * ``sharpness``, (P,): the largest eigenvalue of the Hessian;
    * ``variance``, (P,): tr X, the mean square of gradient descent's distance from the flow;
    * ``oscillating``, (P,): the rank of X, in how many directions gradient descent oscillates;
    * ``averaged_loss``, (P,): L + tr X / eta, the loss averaged over the oscillation.

    The first three hold for the time that begins; the loss itself is that of the center. It is a
    description to leading order in the oscillation's size, and knows nothing of what comes before
    an oscillation has grown, such as a delay from a start without any. A start far beyond the edge
    it puts back to it, along the gradients of the curvatures, within a few parts of a step.

    Args:
        risk: three times differentiable; its model is moved.
        learning_rate: eta > 0 of the gradient descent that is described.
        steps: of it, at least 1.
        substeps: parts of a step, at least; more are made where the sharpness asks for it. The
            error is of first order in their length, and of fourth below the edge.
        probes, probe_every: as `train` takes them; the parameters of a point are those of the probe
            ``lambda state: state.risk.flat().numpy()``.
        tol: residual of the eigenpairs, as `EigenTracker` takes it.
        divergence_factor: as `train` takes it.
        progress: False, or whether to show a progress bar, or its label.

    Returns:
        The history. It has ``diverged`` where no oscillation keeps the curvature at 2/eta, as on a
        quadratic that is too steep, and where the loss does so.

    Raises:
        TypeError: for a risk that is no `EmpiricalRisk`.
        ValueError: for other arguments outside of what is said above, or a probe with the name of
            one that the flow records.

    Example:
        Two layers of one weight: their curvature a^2 + b^2 is 4 where ab = 1 is reached at a = b,
        and 4.25 at the start, beyond 2 / eta = 4.1. The flow goes to where it is 4.1:

        >>> import torch
        >>> torch.set_default_dtype(torch.float64)
        >>> model = torch.nn.Sequential(*[torch.nn.Linear(1, 1, bias=False) for _ in range(2)])
        >>> for layer, weight in zip(model, (2.0, 0.5)):
        ...     _ = torch.nn.init.constant_(layer.weight, weight)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.ones(1, 1)))
        >>> run = central_flow(risk, 2 / 4.1, 20)
        >>> torch.set_default_dtype(torch.float32)
        >>> run.probes["sharpness"][[0, -1]].round(3).tolist(), run.probes["variance"][-1].round(6)
        ([4.25, 4.1], np.float64(0.0))
    """
    return _run(_CentralFlow, risk, learning_rate, steps, substeps, **options)


def _run(
    kind: "type[_Flow]",
    risk: EmpiricalRisk,
    learning_rate: float,
    steps: int,
    substeps: int,
    *,
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 1,
    tol: float = 1e-3,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = False,
) -> History:
    instance_of("risk", risk, EmpiricalRisk)
    check_data(risk)
    rate = positive_float("learning_rate", learning_rate)
    steps = positive_int("steps", steps)
    substeps = positive_int("substeps", substeps, maximum=MOST_PARTS)
    flow = kind(risk, rate, substeps, tol)
    taken = sorted(set(flow.records) & set(probes or {}))
    if taken:
        raise ValueError(f"probes must not be called {', '.join(taken)}: the flow records that")
    loop = Loop(risk, flow, np.full(steps + 1, rate))
    loop.use_batches(None, None, "epochs")
    loop.use_probes({**flow.records, **(probes or {})}, probe_every)
    loop.diverge_beyond(divergence_factor)
    loop.use_checkpoint(None, 1)
    loop.run(progress if isinstance(progress, str) else f"eta = {rate:g}", bool(progress))
    return loop.history()


class _Flow:
    """The gradient flow as an update of a `Loop`: one call of ``apply`` is eta units of time."""

    optimizer = None

    def __init__(self, risk: EmpiricalRisk, rate: float, substeps: int, tol: float) -> None:
        self.risk, self.rate, self.substeps = risk, rate, substeps
        self.tracker = curvature.EigenTracker(1, tol)
        self.hessian: HessianOperator | None = None
        self.records: dict[str, Probe] = {"sharpness": self._record(lambda: self.values[0])}

    def _record(self, value: Callable[[], float]) -> Probe:
        def probe(state: State) -> float:
            if self.hessian is None:
                self.look(state.hessian)
            return float(value())

        return probe

    def look(self, hessian: HessianOperator) -> None:
        """Find what sets the next part of the step, at the parameters as they are."""
        pairs = self.tracker.update(hessian)
        self.hessian, self.vectors = hessian, pairs.eigenvectors
        self.values = pairs.eigenvalues.numpy().astype(float)

    def parts(self) -> int:
        """Into how many parts to cut a step, so that Runge and Kutta are stable and accurate."""
        product = self.rate * self.values[0]
        if not product <= MOST_PARTS * LONGEST:
            raise ValueError(
                f"learning_rate {self.rate:g} times the sharpness is {product:.3g}: a step would "
                f"need more than {MOST_PARTS} parts"
            )
        return max(self.substeps, math.ceil(product / LONGEST))

    def apply(self, rate: float, evaluation: Evaluation, again: Callable[[], Evaluation]) -> None:
        """Follow the flow for one step of gradient descent."""
        if self.hessian is None:
            self.look(self.risk.hessian())
        parts = self.parts()
        for _ in range(parts):
            if not self.advance(rate / parts):
                self._move(torch.full_like(self.risk.flat(), math.nan))
                break
        self.hessian = None

    def advance(self, h: float) -> bool:
        """Follow it for a time h; False if that leads out of the finite numbers."""
        return self._step(self.risk.gradient(), 0.0, h)

    def _step(self, gradient: Tensor, force: Tensor | float, h: float) -> bool:
        """A step of Runge and Kutta with minus the gradient, which is given here, and a force."""
        theta, total = self.risk.flat(), 0.0
        for weight, ahead in ((1, h / 2), (2, h / 2), (2, h), (1, None)):
            slope = force - gradient
            total += weight * slope
            if ahead is not None:
                self._move(theta + ahead * slope)
                gradient = self.risk.gradient()
        self._move(theta + h / 6 * total)
        return math.isfinite(self.risk.value())

    def _move(self, theta: Tensor) -> None:
        parts = self.risk.unflatten(theta)
        with torch.no_grad():
            for name, parameter in zip(self.risk.names, self.risk.parameters, strict=True):
                parameter.copy_(parts[name])


class _CentralFlow(_Flow):
    """The central flow: in each part of a step, another covariance X and its force."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.records |= {
            "variance": self._record(lambda: np.trace(self.covariance)),
            "oscillating": self._record(lambda: _rank(self.covariance)),
            "averaged_loss": self._record(
                lambda: self.hessian.loss + np.trace(self.covariance) / self.rate
            ),
        }

    def look(self, hessian: HessianOperator, h: float | None = None) -> None:
        """The same, with the oscillation during a part of length h, by default the first one."""
        super().look(hessian)
        while (self.values > (1 - MARGIN) * 2 / self.rate).all() and len(self.values) < len(
            self.vectors[0]
        ):
            # One more is followed than are at the edge, so that none comes there unseen.
            self.tracker.k += 1
            self.tracker.restart()
            super().look(hessian)
        self.covariance, self.force = self._oscillation(h or self.rate / self.parts())

    def advance(self, h: float) -> bool:
        if self.hessian is None:
            self.look(self.risk.hessian(), h)
        gradient, self.hessian = self.hessian.gradient, None
        return math.isfinite(np.sum(self.covariance)) and self._step(gradient, self.force, h)

    def _oscillation(self, h: float) -> tuple[np.ndarray, Tensor | float]:
        """X (k, k) in the basis of the eigenvectors at the edge, and its force (n,)."""
        k = int(np.sum(self.values > (1 - MARGIN) * 2 / self.rate))
        if k == 0:
            return np.zeros((1, 1)), 0.0
        pair = np.zeros((k, k), dtype=int)
        rows, columns = np.triu_indices(k)
        pair[rows, columns] = pair[columns, rows] = np.arange(len(rows))
        slopes = curvature_gradients(self.hessian, self.vectors[:k])[rows, columns]
        # Along each eigenvector a force acts for (1 - exp(-h lambda)) / lambda in place of h.
        z = h * self.values
        lost = 1 - np.divide(-np.expm1(-z), z, out=np.ones_like(z), where=z != 0)
        along = (slopes @ self.vectors.T).double().cpu().numpy()
        drift = (self.vectors @ self.hessian.gradient).double().cpu().numpy()
        slopes = slopes.double()
        rise = (slopes @ self.hessian.gradient.double()).cpu().numpy() - along @ (lost * drift)
        gram = (slopes @ slopes.T).cpu().numpy() - (along * lost) @ along.T
        slack = np.diag(2 / self.rate - self.values[:k])
        try:
            X = complementarity(slack / h + rise[pair], gram[pair[:, :, None, None], pair] / 2)
        except ValueError:
            # No oscillation keeps the curvature down.
            return np.full((k, k), np.inf), 0.0
        weights = torch.as_tensor(X.covariance[rows, columns] * np.where(rows == columns, 1, 2))
        force = -0.5 * (weights.to(slopes) @ slopes)
        return X.covariance, force.to(self.vectors)


def _rank(X: np.ndarray) -> float:
    values = np.linalg.eigvalsh(X) if np.isfinite(X).all() else np.ones(len(X))
    return float(np.sum(values > 1e-6 * values.sum()))


def curvature_gradients(operator: HessianOperator, vectors: Tensor) -> Tensor:
    """The gradients T[v_i, v_j, .] of v_i' H v_j for fixed vectors (k, n), as (k, k, n)."""
    # The library's own holds the third derivatives against differences, once a risk.
    if 3 in operator.unchecked:
        curvature.sharpness_gradient(operator, eigenvector=vectors[0])
    k, parameters = len(vectors), operator.parameters
    rows = [operator.split(vector) for vector in vectors]
    result = torch.zeros(k, k, operator.shape[0], dtype=operator.dtype, device=operator.device)
    for weight, part in operator.terms():
        with differentiable():
            slopes = gradients(part(), parameters, create_graph=True)
            for j in range(k):
                image = gradients(_inner(slopes, rows[j]), parameters, create_graph=True)
                for i in range(j + 1):
                    value = _inner(image, rows[i])
                    if value.requires_grad:
                        found = derivatives([value], parameters, [torch.ones_like(value)], 0, 1)
                        zeros = (torch.zeros_like(p) for p in parameters)
                        found = [z if g is None else g for g, z in zip(found, zeros, strict=True)]
                        result[i, j] += weight * flattened(found).detach()
    upper = torch.triu(torch.ones(k, k, dtype=torch.bool, device=operator.device))
    return torch.where(upper[:, :, None], result, result.transpose(0, 1))


def _inner(a: Any, b: Any) -> Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True))
