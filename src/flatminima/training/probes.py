"""Probes: what a training loop measures on its way. Each is a function of the `State` of a run.

A probe that keeps something from one call to the next, such as the eigenvectors it starts from, has
the methods ``state_dict()`` and ``load_state_dict(...)``, so that a run that resumes from a
checkpoint measures what the uninterrupted run would have measured, to the last bit. Make new probes
for each run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import curvature
from flatminima._validation import positive_float, positive_int
from flatminima.curvature.preconditioned import PreconditionedOperator, preconditioner

__all__ = [
    "State",
    "accuracy",
    "preconditioned_sharpness",
    "sharpness",
    "sharpness_gradient_norm",
    "smallest_eigenvalue",
    "trainable",
    "training_loss",
]


@dataclass(frozen=True)
class State:
    """What a probe sees: the model after ``step`` updates, and the whole training set.

    ``learning_rate`` is that of the update to come; ``optimizer`` is None under plain descent.
    """

    step: int
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss_function: Callable[[Tensor, Tensor], Tensor]
    learning_rate: float
    optimizer: torch.optim.Optimizer | None = None

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters of the model."""
        return trainable(self.model)

    def loss(self) -> Tensor:
        """The full-batch loss at the current parameters, a scalar that can be differentiated."""
        return self.loss_function(self.model(self.inputs), self.targets)

    @cached_property
    def hessian(self) -> curvature.HessianOperator:
        """Hessian of the full-batch loss; its graph is built once for all probes of this step."""
        return curvature.HessianOperator(self.loss, self.parameters)


Probe = Callable[[State], "float | np.ndarray"]


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters of the model that require a gradient, in its own order."""
    return [p for p in model.parameters() if p.requires_grad]


def training_loss(state: State) -> float:
    """Probe: the loss on the whole training set, which a minibatch run does not see otherwise."""
    with torch.no_grad():
        return float(state.loss())


def sharpness(k: int = 1, *, tol: float = 1e-3) -> Probe:
    """Probe for the k largest Hessian eigenvalues of the full-batch loss, in descending order.

    Returns a number for k = 1, else an array (k,). Each call starts from the eigenvectors of the
    call before; make a new probe for each run. ``tol`` is that of `curvature.top_eigenpairs`.
    """
    return _Eigenvalues(positive_int("k", k), "largest", positive_float("tol", tol))


def smallest_eigenvalue(*, tol: float = 1e-3) -> Probe:
    """Probe for the smallest (most negative) Hessian eigenvalue of the full-batch loss."""
    return _Eigenvalues(1, "smallest", positive_float("tol", tol))


def sharpness_gradient_norm(*, tol: float = 1e-4) -> Probe:
    r"""Probe for the norm of the gradient of the sharpness, :math:`\nabla\lambda_1 = T[v_1, v_1]`.

    By Statement G1; where the largest eigenvalue is not simple it means nothing. An eigenvector off
    by an angle a, about tol times lambda_1 over the gap to lambda_2, puts the norm off by
    2 a ||T|| at most.
    """
    return _SharpnessGradient(1, "largest", positive_float("tol", tol))


def preconditioned_sharpness(*, tol: float = 1e-3) -> Probe:
    r"""Probe for the largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}`, P as of the last step made.

    P is that of the run's optimizer: of Adam, AdamW or RMSprop as `curvature.preconditioner` says,
    of another one what its method ``preconditioner(parameters)`` returns, such as that of
    `optimizers.ClippedAdam`; 1 under plain descent. NaN at step 0, where an optimizer has none.
    """
    return _PreconditionedSharpness(1, "largest", positive_float("tol", tol))


def accuracy(inputs: Tensor, labels: Tensor) -> Probe:
    """Probe for the share, in [0, 1], of ``labels`` (n,) that the largest output names."""
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"inputs and labels must have the same length, at least 1; got {len(inputs)} and "
            f"{len(labels)}"
        )

    def probe(state: State) -> float:
        with torch.no_grad():
            return float((state.model(inputs).argmax(1) == labels).double().mean())

    return probe


class _Eigenvalues:
    """Eigenvalues from one end of the spectrum, each call warm-started from the last."""

    def __init__(self, k: int, which: str, tol: float) -> None:
        self.k, self.which, self.tol, self.start = k, which, tol, None

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.start is None else {"start": self.start}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.start = state.get("start")

    def __call__(self, state: State) -> float | np.ndarray:
        values = self.solve(state.hessian)
        return float(values[0]) if self.k == 1 else values

    def solve(self, operator: curvature.SymmetricOperator) -> np.ndarray:
        pairs = curvature.top_eigenpairs(
            operator,
            k=self.k,
            which=self.which,
            tol=self.tol,
            start=self.start,
            generator=torch.Generator().manual_seed(0),
        )
        self.start = pairs.eigenvectors
        return np.asarray(pairs.eigenvalues, dtype=float)


class _PreconditionedSharpness(_Eigenvalues):
    def __call__(self, state: State) -> float:
        if state.optimizer is None:
            return float(self.solve(state.hessian)[0])
        if not state.optimizer.state:
            return float("nan")
        own = getattr(state.optimizer, "preconditioner", None)
        diagonal = (
            own(state.parameters) if own else preconditioner(state.optimizer, state.parameters)
        )
        return float(self.solve(PreconditionedOperator(state.hessian, diagonal))[0])


class _SharpnessGradient(_Eigenvalues):
    def __call__(self, state: State) -> float:
        self.solve(state.hessian)
        gradient = curvature.sharpness_gradient(state.hessian, eigenvector=self.start[0])
        return float(gradient.norm())
