"""One update of a run: by plain descent, or by an optimizer of PyTorch."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from flatminima._validation import shown

Evaluation = tuple[Tensor, Sequence[Tensor]]
"""A loss, detached, and its gradient in the shapes of the parameters."""


class Descent:
    """The update of plain gradient descent."""

    optimizer = None

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters

    def apply(self, rate: float, evaluation: Evaluation, again: Callable[[], Evaluation]) -> None:
        with torch.no_grad():
            torch._foreach_add_(self.parameters, evaluation[1], alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class ByOptimizer:
    """The update of an optimizer of PyTorch."""

    def __init__(
        self, parameters: list[Tensor], optimizer: torch.optim.Optimizer, scheduled: bool
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer must be a torch.optim.Optimizer, got {shown(optimizer)}")
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if own != {id(p) for p in parameters}:
            raise ValueError(
                "optimizer must hold the trainable parameters of the model, all of them and no "
                f"others: got {len(own)} tensors where the model has {len(parameters)}, or others"
            )
        self.parameters = parameters
        self.optimizer = optimizer
        self.scheduled = scheduled

    def rate(self, step: int) -> float:
        """The rate of the first group, as it is now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def apply(self, rate: float, evaluation: Evaluation, again: Callable[[], Evaluation]) -> None:
        if self.scheduled:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        first = True

        def closure() -> Tensor:
            # The first call is answered by what has just been computed at these parameters.
            nonlocal first
            if first:
                first = False
                return evaluation[0]
            value, gradients = again()
            self._set(gradients)
            return value

        self._set(evaluation[1])
        self.optimizer.step(closure)
        self._set([None] * len(self.parameters))

    def _set(self, gradients: Iterable[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
