r"""Sharpness-aware minimization: descent by the gradient at a point a little way uphill.

On a quadratic of curvature lambda the point uphill makes the gradient larger by the factor
:math:`1 + \rho\lambda / \lVert g\rVert`, so that this method, too, has an edge of stability, and a
lower one than gradient descent at the same rate; near a minimum, where the gradient is small, it
never settles. It oscillates on purpose, at a size that the radius sets.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from flatminima._validation import (
    a_function,
    a_list,
    finite_float,
    nonnegative_array,
    positive_float,
    shown,
)

__all__ = ["SharpnessAware", "sharpness_aware_edge"]


class SharpnessAware(Optimizer):
    r"""Sharpness-aware minimization, SAM, on top of plain gradient descent.

    With g the gradient at theta, a step of the learning rate eta and the radius rho is

    .. math:: \theta \leftarrow \theta
        - \eta\,\nabla L\!\left(\theta + \rho\,\frac{g}{\lVert g\rVert}\right),

    with the Euclidean norm of the whole gradient; where g = 0 it is a step of gradient descent. It
    costs two gradients. Source: Foret, Kleiner, Mobahi & Neyshabur, *ICLR* (2021), their algorithm
    1 with the norm p = 2, on the batch that the closure evaluates.

    Args:
        params: parameters, or groups of them with a rate and a radius of their own.
        lr: learning rate eta >= 0.
        radius: rho >= 0, in units of the parameters; at 0 it is gradient descent, to the last bit.

    Raises:
        ValueError: for a rate or a radius that is negative or not finite.
        TypeError: for params that are no tensors or groups of them.

    Example:
        On a quadratic of curvature 1, at half the threshold of gradient descent, it does not come
        to rest: it ends on either side, at eta lambda rho / (2 - eta lambda) from the minimum.

        >>> from flatminima.curvature import EmpiricalRisk
        >>> from flatminima.training import gradient_descent, train
        >>> model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> x = torch.ones(1, 1, dtype=torch.float64)
        >>> risk = EmpiricalRisk(model, "mse", (x, 0 * x))
        >>> sam = SharpnessAware(risk.parameters, lr=1.0, radius=0.25)
        >>> ends = []
        >>> for _ in range(2):
        ...     _ = train(risk, 25, optimizer=sam, progress=False)
        ...     ends.append(model.weight.item())
        >>> ends
        [-0.25, 0.25]
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        radius: float = 0.05,
    ) -> None:
        params = list(params.values()) if isinstance(params, dict) else a_list("params", params)
        if not params or not all(isinstance(p, Tensor | dict | tuple) for p in params):
            raise TypeError(f"params must be tensors, or groups of them, got {shown(params)}")
        super().__init__(params, {"lr": lr, "radius": radius})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own; as for `Optimizer`."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise ValueError(f"param_group must be a dict with params, got {shown(param_group)}")
        options = {**self.defaults, **param_group}
        for name in ("lr", "radius"):
            if finite_float(name, options[name]) < 0:
                raise ValueError(f"{name} must be at least 0, got {shown(options[name])}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor:
        """Make one step.

        Args:
            closure: evaluates the loss and its gradients, and returns the loss; called twice.

        Returns:
            The loss before the step, at the parameters themselves.

        Raises:
            TypeError, ValueError: without a closure.
        """
        if closure is None:
            raise ValueError("closure must evaluate the loss, here and uphill, got None")
        a_function("closure", closure)
        with torch.enable_grad():
            loss = closure()
        moving = [
            (p, group) for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        before = [p.clone() for p, _ in moving]
        norm = torch.stack([p.grad.norm() for p, _ in moving]).norm() if moving else 0.0
        if norm > 0:
            for p, group in moving:
                p.add_(p.grad * (group["radius"] / norm))
            with torch.enable_grad():
                closure()
        for (p, group), value in zip(moving, before, strict=True):
            p.copy_(value)
            p.add_(p.grad, alpha=-group["lr"])
        return loss


def sharpness_aware_edge(learning_rate: float, radius: float, gradient_norm: object) -> np.ndarray:
    r"""Curvature at which a step of `SharpnessAware` on a quadratic neither shrinks nor grows.

    Along an eigenvector of eigenvalue :math:`\lambda` the step multiplies the coordinate by
    :math:`1 - \eta\lambda(1 + \rho\lambda/\lVert g\rVert)`, which is -1 at

    .. math:: \lambda = \frac{\lVert g\rVert}{2\rho}
        \Bigl(\sqrt{1 + \frac{8\rho}{\eta\lVert g\rVert}} - 1\Bigr),

    below :math:`2/\eta`, its value for :math:`\rho = 0`, and near :math:`\sqrt{2\lVert
    g\rVert/\eta\rho}` for a small gradient. Source: Long & Bartlett, *Journal of Machine Learning
    Research* 25 (2024).

    Args:
        learning_rate: eta > 0.
        radius: rho >= 0.
        gradient_norm: norms of the gradient at theta, any shape, nonnegative.

    Returns:
        The edge for each norm, in their shape.

    Raises:
        ValueError: for numbers outside of what is said above.

    Example:
        >>> sharpness_aware_edge(0.1, 0.05, [1000.0, 1.0, 0.01]).round(1)
        array([20. , 12.4,  1.9])
    """
    eta, rho = positive_float("learning_rate", learning_rate), finite_float("radius", radius)
    if rho < 0:
        raise ValueError(f"radius must be at least 0, got {shown(radius)}")
    norm = nonnegative_array("gradient_norm", gradient_norm)
    with np.errstate(divide="ignore", over="ignore"):
        # The form without a difference of nearly equal numbers.
        root = np.sqrt(1 + 8 * np.divide(rho, eta * norm)) if rho else np.ones_like(norm)
    return 4 / eta / (1 + root)
