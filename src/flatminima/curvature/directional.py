r"""Curvature along the step that is taken: cheap measures, for models too large for eigenvalues.

Each is a Rayleigh quotient of the Hessian, or what stands for one, along a gradient or an update.
A quotient never exceeds the largest eigenvalue; below the edge of stability it is far below it.
"""

import math
from typing import NamedTuple

from torch import Tensor

from flatminima._validation import instance_of, positive_float, positive_int
from flatminima.curvature._arguments import a_vector
from flatminima.curvature._autograd import moved
from flatminima.curvature._subspace import unit
from flatminima.curvature.eigensolver import ConvergenceError
from flatminima.curvature.operator import HessianOperator, SymmetricOperator
from flatminima.curvature.risk import EmpiricalRisk, as_operator
from flatminima.curvature.spectrum import averaged
from flatminima.statistics import Estimate

__all__ = ["CriticalSharpness", "batch_sharpness", "critical_sharpness", "directional_sharpness"]


def directional_sharpness(
    operator: SymmetricOperator | EmpiricalRisk, direction: Tensor | None = None
) -> float:
    r"""Curvature along a direction, :math:`d^\top H d / \lVert d\rVert^2`, by one product.

    Args:
        direction: (n,), of any length > 0; by default the gradient.

    Raises:
        ValueError: for a direction that is zero, not finite or of another dimension, or none where
            the operator has no gradient.

    Example:
        >>> import torch
        >>> from flatminima.curvature import MatrixOperator
        >>> matrix = MatrixOperator(torch.diag(torch.tensor([3.0, 1.0])))
        >>> round(directional_sharpness(matrix, torch.tensor([2.0, 2.0])), 4)
        2.0
    """
    operator = as_operator(operator)
    name = "direction"
    if direction is None:
        name, direction = "the gradient", getattr(operator, "gradient", None)
        if direction is None:
            raise ValueError(f"direction must be given for a {type(operator).__name__}, got none")
    direction = _directed(name, direction, operator.shape[0])
    return _quotient(operator, direction.to(operator.device, operator.dtype))


def batch_sharpness(risk: EmpiricalRisk) -> Estimate:
    r"""Mean curvature of the batches' losses along their own gradients, with its standard error.

    .. math:: \mathbb{E}_B\, \frac{g_B^\top H_B\, g_B}{\lVert g_B\rVert^2}

    with g_B and H_B the gradient and the Hessian of the loss on the batch B alone: what stochastic
    gradient descent keeps near :math:`2/\eta` (Andreyev & Beneventano 2024). Each batch counts the
    same, a short last one as well; the error is that over batches, as if they were drawn at random.
    ValueError for data that are not at least 2 batches, or a batch whose gradient is zero.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0], [1.0], [3.0]]), torch.zeros(3, 1)
        >>> batches = [(x[:2], y[:2]), (x[1:], y[1:])]  # of curvatures 1 and 5
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch_sharpness(EmpiricalRisk(model, "mse", batches))
        Estimate(value=3.0, error=2.0)
    """
    if not isinstance(risk, EmpiricalRisk) or risk.pair:
        given = "one pair" if isinstance(risk, EmpiricalRisk) else type(risk).__name__
        raise ValueError(
            f"risk must be an EmpiricalRisk whose data are batches, got {given}: for batches of 50 "
            "give it list(zip(inputs.split(50), targets.split(50)))"
        )
    values = []
    for _, loss in risk.terms():
        operator = HessianOperator(loss, risk.parameters, check=False)
        name = f"the gradient of batch {len(values)}"
        values.append(_quotient(operator, _directed(name, operator.gradient, risk.size)))
    if len(values) < 2:
        raise ValueError(f"data must hold at least 2 batches, got {len(values)}")
    return averaged(values)


class CriticalSharpness(NamedTuple):
    """Critical sharpness along an update.

    Attributes:
        sharpness: 2 / rate.
        rate: the critical learning rate; a good first guess at the next step of training.
        passes: evaluations of the loss that were spent.
    """

    sharpness: float
    rate: float
    passes: int


def critical_sharpness(
    risk: EmpiricalRisk,
    update: Tensor | None = None,
    *,
    rate: float = 1.0,
    tol: float = 1 / 16,
    max_passes: int = 60,
) -> CriticalSharpness:
    r"""2 over the smallest learning rate at which the update raises the loss (Kalra et al. 2026).

    :math:`\lambda_c = 2/\eta_c` with :math:`\eta_c` the smallest rate for which
    :math:`L(\theta - \eta\, \Delta) > L(\theta)`, found by forward passes alone: the rate is
    doubled or halved until the loss rises on one side and not on the other, and then bisected. From
    a guess within a factor of 2 that takes 6 passes at the default ``tol``. On a quadratic loss
    with the gradient for an update it is `directional_sharpness`. A loss that rises and falls again
    between two rates tried is not seen. The parameters are put back as they were, to the bit.

    Args:
        update: (n,) Delta, what a step subtracts per unit of learning rate; by default the gradient
            (one backward pass). Of Adam, (theta before - theta after) / eta.
        rate: first guess, such as the rate in use, or the ``rate`` of the last call.
        tol: relative error of the critical rate, less than 1.
        max_passes: evaluations to spend at most, at least 3.

    Raises:
        ValueError: for an update that is zero, not finite or of another dimension, or a risk that
            `EmpiricalRisk.check` refuses.
        ConvergenceError: if at ``max_passes`` the loss still falls, however large the rate, or
            rises, however small: the update is no descent, or the loss is flat to rounding.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))  # H = 1
        >>> found = critical_sharpness(risk, rate=1.5, tol=0.01)
        >>> abs(found.sharpness - 1) < 0.01
        True
    """
    rate, tol = positive_float("rate", rate), positive_float("tol", tol)
    max_passes = positive_int("max_passes", max_passes, minimum=3)
    if tol >= 1:
        raise ValueError(f"tol must be less than 1, got {tol}")
    instance_of("risk", risk, EmpiricalRisk)
    update = risk.gradient() if update is None else a_vector("update", update, risk.size)
    _directed("update", update, risk.size)
    if risk._unchecked:
        risk.check()
    update = update.to(risk.parameters[0])
    base, passes, low, high = risk.value(), 1, 0.0, math.inf
    while high == math.inf or high - low > tol * (high + low):
        if passes == max_passes:
            raise ConvergenceError(
                f"after {passes} passes the critical rate is known to lie from {low:.3g} to "
                f"{high:.3g} only: is the update a direction of descent, and the loss not flat?",
                CriticalSharpness(2 / rate, rate, passes),
            )
        with moved(risk.parameters, update, -rate):
            # Where the loss is not finite it has risen.
            if risk.value() <= base:
                low = rate
            else:
                high = rate
        passes += 1
        rate = 2 * low if high == math.inf else high / 2 if not low else (low + high) / 2
    return CriticalSharpness(2 / rate, rate, passes)


def _directed(name: str, vector: Tensor, n: int) -> Tensor:
    """The vector at length 1; ValueError unless it is (n,), finite and not zero."""
    vector = a_vector(name, vector, n).detach()
    vector = vector if vector.is_floating_point() else vector.double()
    if not vector.any():
        raise ValueError(f"{name} must not be zero: there is no direction to measure along")
    return unit(vector)


def _quotient(operator: SymmetricOperator, direction: Tensor) -> float:
    product, direction = operator.matvec(direction).double(), direction.double()
    return float((direction @ product) / direction.square().sum())
