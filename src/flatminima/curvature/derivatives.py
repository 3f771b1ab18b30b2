r"""How the curvature changes: the sharpness gradient (G1), the rotation field of v_1 (G2), and
derivatives of the loss along a direction up to the fourth.

All come from differentiating :math:`\varphi(s) = L(\theta + s d)` again and again:
:math:`\varphi^{(k)}(0)` is the k-th derivative tensor with d in all of its k places, and its
gradient in the parameters leaves one place of the next tensor free. Derivatives of ReLU beyond the
first are zero in PyTorch. The third derivative of a risk is held once against differences of
Hessian products, at the cost of about fifteen gradients.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatminima._validation import instance_of, positive_int
from flatminima.curvature._arguments import a_vector
from flatminima.curvature._autograd import differentiable
from flatminima.curvature.eigensolver import (
    ConvergenceError,
    EigenResult,
    checked_tolerance,
    top_eigenpairs,
)
from flatminima.curvature.operator import (
    Closure,
    HessianOperator,
    SymmetricOperator,
    flattened,
    gradients,
)
from flatminima.curvature.risk import EmpiricalRisk, as_operator
from flatminima.theory import rotation

__all__ = ["RotationField", "directional_derivatives", "rotation_field", "sharpness_gradient"]


@dataclass(frozen=True)
class RotationField:
    """The rotation field of a network at one point, and how far it can be trusted.

    Attributes:
        field: (n,) rho, orthogonal to v_1, in the operator's dtype and on its device.
        residual: norm of P grad lambda_1 - (lambda_1 - H) rho, P projecting v_1 out.
        error_bound: of the distance to the exact field, as `rotation_field` says.
        products: Hessian-vector products spent.
    """

    field: Tensor
    residual: float
    error_bound: float
    products: int


def directional_derivatives(
    operator: HessianOperator | EmpiricalRisk, direction: Tensor, order: int = 4
) -> Tensor:
    r"""Derivatives of :math:`s \mapsto L(\theta + s\, d)` at s = 0, from order 0 to ``order``.

    (order + 1,) float64 on the CPU: the loss first, entry 2 is :math:`d^\top H d`, entry 3 is
    T[d, d, d]. Every order costs about two to three times the one before, and loses accuracy.

    Args:
        direction: (n,), finite, taken as it is, not normalized.
        order: 1 to 4.

    Example:
        >>> import torch
        >>> theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
        >>> hessian = HessianOperator(lambda: theta[0] ** 2 * theta[1], [theta])
        >>> directional_derivatives(hessian, torch.tensor([1.0, 1.0]), order=3)  # (1 + s)^3
        tensor([1., 3., 6., 6.], dtype=torch.float64)
    """
    operator = _hessian(operator)
    order = positive_int("order", order, maximum=4)
    vector = _checked_vector("direction", direction, operator)
    result = torch.zeros(order + 1, dtype=torch.float64)
    for weight, part in operator.terms():
        values = _along(operator, part, vector, order)
        result += weight * torch.stack([v.detach().double().cpu().reshape(()) for v in values])
    if not torch.isfinite(result).all():
        raise ValueError(f"direction must be shorter: along it the derivatives are {result}")
    return result


def sharpness_gradient(
    operator: HessianOperator | EmpiricalRisk,
    *,
    eigenvector: Tensor | None = None,
    tol: float = 1e-4,
) -> Tensor:
    r"""Gradient of the sharpness, :math:`\nabla\lambda_1 = T[v_1, v_1, \cdot]` (Proposition G1).

    (n,) the gradient of :math:`v^\top H(\theta)\, v` with v held fixed at v_1, at the cost of
    about five gradients. Its error is at most twice the angle from v to v_1 times the norm of T.
    ValueError if the computed lambda_1 is not simple.

    Args:
        eigenvector: (n,) v_1 if it is known, of any length > 0 and either sign; it is trusted.
            That of lambda_k gives the gradient of lambda_k. By default v_1 is computed to ``tol``.

    Example:
        >>> import torch
        >>> theta = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
        >>> hessian = HessianOperator(lambda: (theta**4).sum() / 12, [theta])  # diag(theta^2)
        >>> sharpness_gradient(hessian).round(decimals=6).abs()
        tensor([2., 0.], dtype=torch.float64)
    """
    operator = _hessian(operator)
    if eigenvector is None:
        k = min(2, operator.shape[0])
        # One vector alone would not see a second copy of an eigenvalue.
        pairs = top_eigenpairs(operator, k=k, tol=tol, block=k)
        _check_simple(pairs)
        eigenvector = pairs.eigenvectors[0]
    vector = _checked_vector("eigenvector", eigenvector, operator)
    if not vector.any():
        raise ValueError("eigenvector must not be zero")
    return _third(operator, vector / vector.norm())


def rotation_field(
    operator: HessianOperator | EmpiricalRisk,
    *,
    pairs: EigenResult | None = None,
    k: int = 10,
    tol: float | None = None,
    max_products: int = 1000,
) -> RotationField:
    r"""Rotation field rho of a network: v_1 turns by x rho when theta moves by x v_1 (Theorem G2).

    .. math:: \rho = (\lambda_1 - H)^{+}\, \nabla\lambda_1

    Without ``tol`` it is *truncated* to k leading eigenpairs: what the gradient has outside of
    them is divided by lambda_1, as if the rest of the spectrum were flat. With ``tol`` the equation
    :math:`(\lambda_1 - H)\rho = P\nabla\lambda_1` is solved by conjugate gradients from there.

    One further product gives the residual q. With q' its part in the span of the k eigenvectors,
    the distance to the exact field is at most

    .. math:: \frac{\|q'\|}{\lambda_1 - \lambda_2} + \frac{\|q - q'\|}{\lambda_1 - \lambda_k} ,

    lambda_1 and v_1 taken for exact: compute the pairs to a tolerance well below their gap.

    Args:
        pairs: the largest eigenpairs, at least two (one if n = 1), converged; by default k of
            them are computed, to a tolerance of 1e-5.
        tol: None for the truncated field, else the residual of the solution relative to the norm of
            the right-hand side.
        max_products: products for the solution at most.

    Raises:
        ValueError: lambda_1 repeated within the residuals of the pairs, or not positive while
            k < n; fewer pairs than needed.
        ConvergenceError: the solution was not found; ``result`` has the field.

    Example:
        >>> import torch
        >>> theta = torch.tensor([0.1, 0.0], dtype=torch.float64, requires_grad=True)
        >>> hessian = HessianOperator(lambda: (theta[0] ** 2 + theta[1]) ** 2 / 2, [theta])
        >>> float(rotation_field(hessian).field.norm()) > 0
        True
    """
    operator = _hessian(operator)
    n = operator.shape[0]
    tol = None if tol is None else checked_tolerance(tol, operator.dtype)
    max_products = positive_int("max_products", max_products)
    before = operator.products
    if pairs is None:
        k = min(positive_int("k", k, minimum=2), n)
        pairs = top_eigenpairs(operator, k=k, tol=1e-5)
    instance_of("pairs", pairs, EigenResult)
    values, vectors = pairs.eigenvalues.double(), pairs.eigenvectors
    if vectors.shape[1:] != (n,) or len(vectors) < min(2, n):
        raise ValueError(
            f"pairs must hold at least {min(2, n)} eigenvectors of dimension {n}, got "
            f"{tuple(vectors.shape)}"
        )
    _check_simple(pairs)
    gradient = sharpness_gradient(operator, eigenvector=vectors[0])
    field = rotation.rotation_field(
        values.cpu().numpy(), vectors.cpu().numpy(), gradient.cpu().numpy()
    )
    value, vector = float(values[0]), vectors[0]

    def across(x: Tensor) -> Tensor:
        return x - vector * (vector @ x)

    target, start = across(gradient), across(torch.as_tensor(field).to(gradient))
    goal = torch.inf if tol is None else tol * float(target.norm())
    field, residual = _solved(
        lambda x: across(value * x - operator.matvec(x)), target, start, goal, max_products
    )
    field = across(field)
    inside = vectors.T @ (vectors @ residual)
    bound = 0.0
    if n > 1:
        bound = float(inside.norm() / (values[0] - values[1]))
        bound += float((residual - inside).norm() / (values[0] - values[-1]))
    result = RotationField(field, float(residual.norm()), bound, operator.products - before)
    if result.residual > goal:
        raise ConvergenceError(
            f"the rotation field has a residual of {result.residual:.3g}, above {goal:.3g}, after "
            f"{result.products} products; raise max_products, tol or k",
            result,
        )
    return result


def _solved(
    multiply: Callable[[Tensor], Tensor], b: Tensor, x: Tensor, goal: float, products: int
) -> tuple[Tensor, Tensor]:
    """Conjugate gradients from x for a positive definite matrix; the solution and its residual."""
    while True:
        residual = b - multiply(x)
        products -= 1
        if float(residual.norm()) <= goal or products < 2:
            return x, residual
        # The recurrence's residual drifts from the true one, so it is checked at the end.
        recurrent, direction = residual, residual
        while float(recurrent.norm()) > goal / 2 and products > 1:
            image = multiply(direction)
            products -= 1
            square, curvature = recurrent @ recurrent, direction @ image
            if curvature <= 0:
                raise ValueError(
                    "pairs must begin with the largest eigenvalue: lambda_1 - H was found not to "
                    "be positive definite across v_1"
                )
            x = x + (square / curvature) * direction
            recurrent = recurrent - (square / curvature) * image
            direction = recurrent + (recurrent @ recurrent / square) * direction


def _hessian(operator: HessianOperator | EmpiricalRisk) -> HessianOperator:
    operator = as_operator(operator)
    if not isinstance(operator, HessianOperator):
        raise ValueError(
            "operator must be a risk or a HessianOperator: other operators have no higher "
            f"derivatives; got {type(operator).__name__}"
        )
    operator.check_current()
    if 3 in operator.unchecked:
        operator._check_order(
            3,
            vector=lambda d: operator._products_now(d[None])[0],
            derivative=lambda d: _third(operator, d),
        )
    return operator


def _third(operator: HessianOperator, vector: Tensor) -> Tensor:
    """T[v, v, .], with a vector (n,) twice in the third derivative of the loss."""
    result = torch.zeros_like(operator.gradient)
    for weight, part in operator.terms():
        curvature = _along(operator, part, vector, 2)[2]
        if curvature.requires_grad:
            with differentiable():
                slopes = gradients(curvature, operator.parameters)
            result += weight * flattened(slopes)
    return result.detach()


def _checked_vector(name: str, vector: Tensor, operator: SymmetricOperator) -> Tensor:
    vector = a_vector(name, vector, operator.shape[0]).detach()
    return a_vector(name, vector.to(operator.device, operator.dtype), operator.shape[0])


def _check_simple(pairs: EigenResult) -> None:
    """The residuals bound the errors of the eigenvalues: a gap within them may be none."""
    if len(pairs.eigenvalues) == 1:
        return
    gap = float(pairs.eigenvalues[0] - pairs.eigenvalues[1])
    # Residuals can be smaller than the rounding of the products.
    n, eps = pairs.eigenvectors.shape[1], torch.finfo(pairs.eigenvectors.dtype).eps
    resolved = float(pairs.residuals[:2].sum()) + n * eps * float(pairs.eigenvalues.abs().max())
    if gap <= resolved:
        raise ValueError(
            f"the leading eigenvalue must be simple: its distance to the next one is {gap:.3g}, "
            f"and the pairs are known to {resolved:.3g}"
        )


def _along(operator: HessianOperator, loss: Closure, vector: Tensor, order: int) -> list[Tensor]:
    """A loss and its derivatives along a vector (n,), with their graphs."""
    with differentiable():
        values, parts = [loss()], operator.split(vector)
        for _ in range(order):
            if values[-1].requires_grad:
                slopes = gradients(values[-1], operator.parameters, create_graph=True)
                values.append(sum((s * d).sum() for s, d in zip(slopes, parts, strict=True)))
            else:  # all further derivatives of a constant
                values.append(torch.zeros_like(values[0]).detach())
    return values
