r"""The Gauss-Newton matrix of a risk: the part of the Hessian that the loss bends, not the model.

With outputs z = f_theta(x) and a loss l(z), :math:`H = J^\top (\nabla_z^2 l) J + \sum_k
(\partial l / \partial z_k) \nabla^2 f_k`. The first term is the (generalized) Gauss-Newton matrix G
(Schraudolph 2002); the second holds the curvature of the model, and is zero where the loss has no
slope in the outputs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from flatminima._validation import instance_of
from flatminima.curvature._autograd import differentiable, pulled
from flatminima.curvature.eigensolver import sharpness, top_eigenpairs
from flatminima.curvature.losses import checked_value
from flatminima.curvature.operator import (
    Closure,
    HessianOperator,
    SymmetricOperator,
    Terms,
    flattened,
    gradients,
)
from flatminima.curvature.risk import EmpiricalRisk

__all__ = ["GaussNewtonOperator", "GaussNewtonShare", "gauss_newton_share"]


class GaussNewtonOperator(SymmetricOperator):
    r"""Gauss-Newton matrix :math:`G = J^\top (\nabla_z^2 \ell)\, J` of a risk, matrix-free.

    J is the derivative of the model's outputs z in the parameters, and the middle factor that of
    the loss in the outputs, twice. G is positive semidefinite where the loss is convex in the
    outputs, as the squared loss and the cross-entropies are. Of a cross-entropy it is the Fisher
    matrix, :math:`\mathbb{E}_{y \sim p_\theta}\,\nabla\log p_\theta(y)\,\nabla\log
    p_\theta(y)^\top` averaged over the inputs (Martens 2020). What a loss takes from the parameters
    directly, as a penalty does, is no part of G.

    A product is J v by a derivative of the transposed product, the loss's Hessian, and J' once
    more: about as much as a product with the Hessian. Graphs are kept as by `HessianOperator`.

    Args:
        risk: its model returns one tensor, of any shape; its data may be batches.
        parameters: some of the risk's, for a diagonal block; by default all.

    Attributes:
        loss, gradient, parameters: as those of `HessianOperator`.

    Raises:
        TypeError: for what is no risk, or a model that returns something else than one tensor.
        ValueError: for a loss that does not call the model exactly once, and as `HessianOperator`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)))
        >>> GaussNewtonOperator(risk).matvec(torch.ones(1))  # H itself: the model is linear
        tensor([5.])
    """

    def __init__(self, risk: EmpiricalRisk, parameters: Sequence[Tensor] | None = None) -> None:
        instance_of("risk", risk, EmpiricalRisk)
        if risk._unchecked:
            risk.check()
        # As Terms, so that it keeps no graph: what is wanted is the loss, the gradient, the checks.
        at = HessianOperator(
            Terms(risk.terms), risk.parameters if parameters is None else parameters, check=False
        )
        super().__init__(at.shape[0], at.dtype, at.device)
        self.risk, self.parameters = risk, at.parameters
        self.loss, self.gradient = at.loss, at.gradient
        self.check_current, self.split = at.check_current, at.split
        self._graph = None
        if risk.pair:
            ((_, loss),) = risk.terms()
            self._graph = _OutputGraph(loss, risk.model, self.parameters)

    def _products(self, rows: Tensor) -> Tensor:
        self.check_current()
        result = torch.zeros_like(rows)
        for weight, loss in self.risk.terms():
            graph = self._graph or _OutputGraph(loss, self.risk.model, self.parameters)
            for target, row in zip(result, rows, strict=True):
                target.add_(flattened(graph.product(self.split(row))), alpha=weight)
        return result


class GaussNewtonShare(NamedTuple):
    r"""How much of the sharpness is that of the Gauss-Newton matrix.

    Attributes:
        along: :math:`v_1^\top G v_1 / \lambda_1`, its share along the Hessian's own v_1.
        ratio: :math:`\lambda_1(G) / \lambda_1(H)`, which is at least as large.
    """

    along: float
    ratio: float


def gauss_newton_share(risk: EmpiricalRisk, *, tol: float = 1e-4) -> GaussNewtonShare:
    r"""The shares of the Gauss-Newton matrix in the sharpness, along v_1 and in its own direction.

    ValueError where the sharpness is not positive: a share of it would mean nothing.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> gauss_newton_share(risk)
        GaussNewtonShare(along=1.0, ratio=1.0)
    """
    pairs = top_eigenpairs(instance_of("risk", risk, EmpiricalRisk), tol=tol)
    leading, vector = float(pairs.eigenvalues[0]), pairs.eigenvectors[0]
    if not leading > 0:
        raise ValueError(f"the sharpness must be positive to have shares, got {leading:.3g}")
    operator = GaussNewtonOperator(risk)
    along = float(vector @ operator.matvec(vector))
    own = sharpness(operator, tol=tol, start=vector)
    return GaussNewtonShare(along / leading, own / leading)


class _OutputGraph:
    """Outputs and loss of one batch, cut apart: what differentiates each of the two."""

    def __init__(self, loss: Closure, model: nn.Module, parameters: list[Tensor]) -> None:
        self.parameters = parameters
        seen: list[tuple[Tensor, Tensor]] = []

        def cut(module: nn.Module, given: tuple, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise TypeError(
                    "the model must return one tensor to have a Gauss-Newton matrix, got "
                    f"{type(output).__name__}: wrap it to return what enters the loss"
                )
            seen.append((output, output.detach().requires_grad_()))
            return seen[-1][1]

        handle = model.register_forward_hook(cut)
        try:
            with differentiable():
                value = checked_value(loss())
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ValueError(f"the loss must call the model once, got {len(seen)} calls")
        self.outputs, self.cut = seen[0]
        with differentiable():
            self.slope = gradients(value, [self.cut], create_graph=True)[0]
            # J'u as a function of u: linear, so that its derivative along v is u -> <u, J v>.
            self.probe = torch.zeros_like(self.outputs, requires_grad=True)
            self.pulled = pulled([self.outputs], parameters, [self.probe], create_graph=True)

    def product(self, parts: list[Tensor]) -> Sequence[Tensor]:
        with differentiable():
            (pushed,) = pulled(self.pulled, [self.probe], parts)
            (bent,) = pulled([self.slope], [self.cut], [pushed])
            return pulled([self.outputs], self.parameters, [bent])
