"""Probes: what a training loop measures on its way. Each is a function of the `State` of a run.

A probe that keeps something from one call to the next, such as the eigenvectors it starts from, has
the methods ``state_dict()`` and ``load_state_dict(...)``, so that a run that resumes from a
checkpoint measures what the uninterrupted run would have measured, to the last bit. Make new probes
for each run. Any function of the state will do as one; those here are the usual ones. A network at
rest needs no probe: the functions of `flatminima.curvature` take its risk.

Example:
    A probe of one's own is a function, here of the size of the weights:

    >>> import torch
    >>> from flatminima.training import gradient_descent
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.zeros(2, 1))
    >>> risk = EmpiricalRisk(model, "mse", data)
    >>> watched = {"sharpness": Sharpness(), "size": lambda state: float(state.risk.flat().norm())}
    >>> run = gradient_descent(risk, 0.5, 2, probes=watched, progress=False)
    >>> (run.probes["size"] / run.probes["size"][0]).round(6).tolist()
    [1.0, 0.5, 0.25]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import curvature
from flatminima._validation import instance_of, positive_float, positive_int
from flatminima.curvature import EmpiricalRisk, PreconditionedOperator, preconditioner
from flatminima.training._batches import evaluating

__all__ = [
    "QUANTITIES",
    "Accuracy",
    "LambdaMin",
    "PreconditionedSharpness",
    "Sharpness",
    "SharpnessGradientNorm",
    "State",
    "TrainingLoss",
    "Watch",
]

QUANTITIES = ("sharpness", "lambda_min", "displacement", "along", "across", "fourth")
"""The columns of what `Watch` measures, in this order."""


@dataclass(frozen=True)
class State:
    """What a probe sees: where a run is after ``step`` updates, and the risk that it goes down.

    On minibatches the risk is still that of the whole data.

    Attributes:
        step: number of updates made.
        risk: model, loss and data; ``risk.model`` is the network as it is now.
        learning_rate: that of the update to come.
        optimizer: None under plain descent.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(2, 1), torch.zeros(2, 1)))
        >>> State(0, risk, 0.1).hessian.matvec(torch.ones(1))
        tensor([1.])
    """

    step: int
    risk: EmpiricalRisk
    learning_rate: float
    optimizer: torch.optim.Optimizer | None = None

    @cached_property
    def hessian(self) -> curvature.HessianOperator:
        """Hessian of the full-batch risk; its graph is built once for all probes of this step."""
        return self.risk.hessian()


Probe = Callable[[State], "float | np.ndarray"]


class TrainingLoss:
    """Probe for the loss on the whole training set, which a minibatch run does not see otherwise.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.zeros(2, 1), torch.ones(2, 1)))
        >>> TrainingLoss()(State(0, risk, 0.1))
        0.5
    """

    def __call__(self, state: State) -> float:
        return state.risk.value()


class Accuracy:
    """Probe for the share, in [0, 1], of labels that the largest output names.

    The model is evaluated in evaluation mode, and left in the mode it was in.

    Args:
        inputs: (n, ...), on the device of the model.
        labels: (n, ...) classes; outputs are (n, ..., c).

    Raises:
        ValueError: for inputs and labels of different length, or none.

    Example:
        >>> import torch
        >>> Accuracy(torch.eye(3), torch.tensor([0, 1, 1])).of(torch.nn.Identity())
        0.6666666666666666
    """

    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        for name, tensor in (("inputs", inputs), ("labels", labels)):
            if not instance_of(name, tensor, Tensor).ndim or tensor.is_complex():
                raise ValueError(f"{name} must be real and have an axis of examples")
        if len(inputs) != len(labels) or len(labels) == 0:
            raise ValueError(
                f"inputs and labels must have the same length, at least 1; got {len(inputs)} and "
                f"{len(labels)}"
            )
        self.inputs, self.labels = inputs, labels

    def of(self, model: nn.Module) -> float:
        """The accuracy of a model, in training or at rest."""
        with torch.no_grad(), evaluating(instance_of("model", model, nn.Module)):
            return float((model(self.inputs).argmax(-1) == self.labels).double().mean())

    def __call__(self, state: State) -> float:
        return self.of(state.risk.model)


class _Followed:
    """What the probes of eigenvalues share: each end of the spectrum has a tracker."""

    def __init__(self, tol: float, k: int = 1, which: str = "largest") -> None:
        self.trackers = [curvature.EigenTracker(k, tol, which=which)]
        self.settings = {"tol": tol, "k": k, "which": which}

    def state_dict(self) -> dict[str, list]:
        """What the next call depends on."""
        return {"trackers": [tracker.state_dict() for tracker in self.trackers]}

    def load_state_dict(self, state: dict[str, list]) -> None:
        """Go on from a `state_dict`.

        Example:
            >>> one, other = Sharpness(), Sharpness()
            >>> other.load_state_dict(one.state_dict())
        """
        found = instance_of("state", state, dict).get("trackers")
        if not isinstance(found, list) or len(found) != len(self.trackers):
            raise ValueError("state must hold the trackers of a probe like this one")
        for tracker, saved in zip(self.trackers, found, strict=True):
            tracker.load_state_dict(saved)


class Sharpness(_Followed):
    """Probe for the k largest Hessian eigenvalues of the full-batch risk, in descending order.

    Returns a number for k = 1, else an array (k,). An `EigenTracker` follows them from call to
    call; make a new probe for each run.

    Args:
        k: number of eigenvalues.
        tol: relative residual, as `curvature.top_eigenpairs` takes it.

    Example:
        >>> import torch
        >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.eye(2) * 2, torch.zeros(2, 1))
        >>> risk = EmpiricalRisk(model, "mse", data)
        >>> round(Sharpness()(State(0, risk, 0.1)), 5)
        2.0
    """

    def __init__(self, k: int = 1, tol: float = 1e-3) -> None:
        super().__init__(tol, k)

    def __call__(self, state: State) -> float | np.ndarray:
        # A copy: an array that shares its memory would keep the tensor.
        values = self.trackers[0].update(state.hessian).eigenvalues.numpy().astype(float)
        return float(values[0]) if len(values) == 1 else values


class LambdaMin(_Followed):
    """Probe for the smallest (most negative) Hessian eigenvalue of the full-batch risk.

    Args:
        tol: relative residual, as `curvature.top_eigenpairs` takes it.

    Example:
        >>> import torch
        >>> model, data = torch.nn.Linear(2, 1, bias=False), (torch.ones(2, 2), torch.zeros(2, 1))
        >>> risk = EmpiricalRisk(model, "mse", data)
        >>> abs(LambdaMin()(State(0, risk, 0.1))) < 1e-5
        True
    """

    def __init__(self, tol: float = 1e-3) -> None:
        super().__init__(tol, which="smallest")

    def __call__(self, state: State) -> float:
        return float(self.trackers[0].update(state.hessian).eigenvalues[0])


class SharpnessGradientNorm(_Followed):
    r"""Probe for the norm of the gradient of the sharpness, :math:`\nabla\lambda_1 = T[v_1, v_1]`.

    By Statement G1; where the largest eigenvalue is not simple it means nothing. An eigenvector off
    by an angle a, about tol times lambda_1 over the gap to lambda_2, puts the norm off by
    2 a ||T|| at most.

    Args:
        tol: relative residual, as `curvature.top_eigenpairs` takes it.

    Example:
        On a quadratic the sharpness is the same everywhere:

        >>> import torch
        >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.zeros(2, 1))
        >>> SharpnessGradientNorm()(State(0, EmpiricalRisk(model, "mse", data), 0.1))
        0.0
    """

    def __init__(self, tol: float = 1e-4) -> None:
        super().__init__(tol)

    def __call__(self, state: State) -> float:
        v = self.trackers[0].update(state.hessian).eigenvectors[0]
        return float(curvature.sharpness_gradient(state.hessian, eigenvector=v).norm())


class PreconditionedSharpness(_Followed):
    r"""Probe for the largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}`, P as of the last step made.

    P is that of the run's optimizer, as `curvature.preconditioner` says; 1 under plain descent.
    NaN at step 0, where an adaptive optimizer has none.

    Args:
        tol: relative residual, as `curvature.top_eigenpairs` takes it.

    Example:
        Plain descent has no preconditioner, so that it is the sharpness:

        >>> import torch
        >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.zeros(2, 1))
        >>> PreconditionedSharpness()(State(0, EmpiricalRisk(model, "mse", data), 0.1))
        1.0
    """

    def __init__(self, tol: float = 1e-3) -> None:
        super().__init__(tol)

    def __call__(self, state: State) -> float:
        optimizer, operator = state.optimizer, state.hessian
        if optimizer is not None and not isinstance(optimizer, torch.optim.SGD):
            if not optimizer.state:
                return float("nan")
            operator = PreconditionedOperator(
                operator, preconditioner(optimizer, state.risk.parameters)
            )
        pairs = self.trackers[0].update(operator, point=state.risk.flat())
        return float(pairs.eigenvalues[0])


class Watch:
    r"""Probe for the quantities of one instability at a step, an array in the order of QUANTITIES.

    The displacement is :math:`\langle\nabla L, v_1\rangle/\lambda_1`, the distance along v_1 from
    the point where the slope along v_1 vanishes, on the quadratic model; its sign, and that of
    T[v_1, v_1, v_1], depend on the sign of v_1, so the absolute values are returned. Both ends of
    the spectrum come from one Krylov space, started from those of the call before; each twentieth
    call searches for missed pairs. Make a new one for each run.

    Args:
        tol: residual of both pairs, relative to lambda_1. It has to be small against lambda_min,
            which is far the smaller of the two: an eigenvalue near zero passes for the smallest
            where the residual may be as large.

    Example:
        A slope of 2 on a parabola of curvature 4 is half a unit away from the minimum:

        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.constant_(model.weight, 0.5)
        >>> risk = EmpiricalRisk(model, "mse", (torch.tensor([[2.0]]), torch.zeros(1, 1)))
        >>> dict(zip(QUANTITIES, Watch()(State(0, risk, 0.1)).tolist()))["displacement"]
        0.5
    """

    def __init__(self, tol: float = 5e-4) -> None:
        self.tol, self.calls = positive_float("tol", tol), 0
        self.vectors: Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """What the next call depends on."""
        return {"calls": self.calls, "vectors": self.vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`.

        Example:
            >>> one, other = Watch(), Watch()
            >>> other.load_state_dict(one.state_dict())
        """
        if instance_of("state", state, dict).keys() != self.state_dict().keys():
            raise ValueError("state must hold calls and vectors, as that of another Watch does")
        self.calls, self.vectors = positive_int("calls", state["calls"], 0), state["vectors"]

    def __call__(self, state: State) -> np.ndarray:
        operator = state.hessian
        pairs = curvature.top_eigenpairs(
            operator,
            which="both" if state.risk.size > 1 else "largest",
            tol=self.tol,
            start=self.vectors,
            generator=torch.Generator().manual_seed(self.calls),
            doubt=1.0 if self.calls % 20 else 1e-3,
        )
        self.vectors, self.calls = pairs.eigenvectors, self.calls + 1
        (value, smallest), v = pairs.eigenvalues[[0, -1]].tolist(), pairs.eigenvectors[0]
        gradient = curvature.sharpness_gradient(operator, eigenvector=v)
        along = float(gradient @ v)
        fourth = float(curvature.directional_derivatives(operator, v)[4])
        across = float((gradient - along * v).norm())
        x = float(operator.gradient @ v) / value
        return np.array([value, smallest, abs(x), abs(along), across, fourth])
