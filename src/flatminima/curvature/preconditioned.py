r"""Sharpness as an adaptive method feels it: the largest eigenvalue of P^{-1/2} H P^{-1/2}.

Adam and RMSprop step along :math:`-\eta P^{-1} m`, with a diagonal P made from past gradients and a
(moving average of the) gradient m. With P held fixed, that matrix decides stability (Proposition
Q3; Cohen et al. 2022).
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from flatminima._validation import a_list, instance_of
from flatminima.curvature._arguments import real_tensor
from flatminima.curvature.eigensolver import sharpness
from flatminima.curvature.operator import HessianOperator, SymmetricOperator, flattened
from flatminima.curvature.risk import EmpiricalRisk, as_operator
from flatminima.theory import quadratic

__all__ = [
    "PreconditionedOperator", "edge_of_stability", "preconditioned_sharpness", "preconditioner",
]  # fmt: skip


class PreconditionedOperator(SymmetricOperator):
    r"""The operator :math:`P^{-1/2} H P^{-1/2}` of an operator H and a diagonal P.

    With u an eigenvector, the parameters move along :math:`P^{-1/2} u` when the method is unstable.

    Args:
        operator: H, n x n.
        preconditioner: (n,) diagonal of P, positive; inf for a parameter that never moves.
    """

    def __init__(self, operator: SymmetricOperator, preconditioner: Tensor) -> None:
        n = instance_of("operator", operator, SymmetricOperator).shape[0]
        diagonal = real_tensor("preconditioner", preconditioner)
        diagonal = diagonal.to(operator.device, operator.dtype)
        if diagonal.shape != (n,) or not (diagonal > 0).all():
            raise ValueError(
                f"preconditioner must hold {n} positive numbers, got shape {tuple(diagonal.shape)}"
                + (f" and a least value of {diagonal.min():.3g}" if diagonal.numel() else "")
            )
        super().__init__(n, operator.dtype, operator.device)
        self.operator = operator
        self.scale = diagonal.rsqrt()
        """(n,) diagonal of P^{-1/2}."""

    def _products(self, rows: Tensor) -> Tensor:
        return self.operator.matmat(rows * self.scale) * self.scale


def preconditioner(optimizer: Optimizer, parameters: Iterable[Tensor] | None = None) -> Tensor:
    r"""Diagonal P with which the optimizer made its last step: theta changed by -eta P^{-1} m.

    With :math:`t` steps made and the averages :math:`\nu_t` of squared gradients after them, P is

    ================== =====================================================================
    Adam, AdamW        :math:`(1 - \beta_1^t)\,(\sqrt{\nu_t / (1 - \beta_2^t)} + \epsilon)`
    ... with amsgrad   the same with the largest :math:`\nu` so far
    RMSprop            :math:`\sqrt{\nu_t} + \epsilon`
    ... centered       :math:`\sqrt{\nu_t - \bar g_t^2} + \epsilon`
    SGD                1
    another one        what its method ``preconditioner(parameters)`` returns, as `ClippedAdam` has
    ================== =====================================================================

    With several learning rates eta is the largest, and P of a group with the rate :math:`\eta_i` is
    multiplied by :math:`\eta / \eta_i`. Both of Adam's bias corrections are in it: m is the average
    ``exp_avg`` that the optimizer stores; for RMSprop and SGD the gradient, or their momentum.

    Args:
        parameters: the tensors whose entries are wanted, in order; by default all that require a
            gradient, in the order of the optimizer.

    Returns:
        (n,) positive; inf for a tensor that the optimizer has never moved while it moved others,
        or whose learning rate is 0.

    Raises:
        ValueError: another optimizer, ``maximize``, a parameter that is not the optimizer's, no
            step made, or no learning rate above 0.

    Example:
        >>> import torch
        >>> theta = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> optimizer = torch.optim.RMSprop([theta], alpha=0.0, eps=1e-8)
        >>> (theta @ torch.tensor([3.0, 4.0])).backward()
        >>> optimizer.step()
        >>> preconditioner(optimizer)
        tensor([3., 4.])
    """
    groups = _checked_groups(optimizer)
    owner = {id(p): group for group in groups for p in group["params"]}
    if parameters is None:
        parameters = (p for group in groups for p in group["params"] if p.requires_grad)
    parameters = a_list("parameters", parameters)
    if not parameters:
        raise ValueError("parameters must not be empty")
    own = getattr(optimizer, "preconditioner", None)
    missing = [i for i, p in enumerate(parameters) if id(p) not in owner]
    if missing and (own is None or len(groups) > 1):
        raise ValueError(f"parameters must belong to the optimizer, number {missing[0]} does not")
    if own is not None:
        diagonal = own(parameters)
    elif isinstance(optimizer, SGD):
        diagonal = flattened(torch.ones_like(p) for p in parameters)
    else:
        states = [optimizer.state.get(p) for p in parameters]
        if not any(states):
            raise ValueError("optimizer has made no step yet, and has no preconditioner before it")
        rule = _adam if "betas" in groups[0] else _rmsprop
        diagonal = flattened(
            rule(owner[id(p)], state) if state else torch.full_like(p, torch.inf)
            for p, state in zip(parameters, states, strict=True)
        )
    rate = _largest_rate(groups)
    if all(float(group["lr"]) == rate for group in groups):
        return diagonal
    return diagonal * flattened(
        torch.full_like(p, rate) / float(owner[id(p)]["lr"]) for p in parameters
    )


def preconditioned_sharpness(
    risk: EmpiricalRisk | HessianOperator, optimizer: Optimizer, *, tol: float = 1e-4
) -> float:
    r"""Largest eigenvalue of :math:`P^{-1/2} H P^{-1/2}`, P being that of the `preconditioner`.

    Compare it with `edge_of_stability`, the method's threshold for a P held fixed. The L2 penalty
    of SGD, Adam or RMSprop (``weight_decay``) belongs to the loss given here; the decay of AdamW is
    decoupled from P and not accounted for. The optimizer holds the parameters of the risk. For
    eigenvectors give `top_eigenpairs` the `PreconditionedOperator`.

    Example:
        >>> import torch
        >>> from flatminima import EmpiricalRisk
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> risk = EmpiricalRisk(model, "mse", (torch.tensor([[2.0]]), torch.tensor([[1.0]])))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> preconditioned_sharpness(risk, sgd) < edge_of_stability(sgd)
        True
    """
    operator = as_operator(risk, "risk")
    scaled = PreconditionedOperator(operator, preconditioner(optimizer, operator.parameters))
    return sharpness(scaled, tol=tol)


def edge_of_stability(optimizer: Optimizer) -> float:
    r"""The preconditioned sharpness beyond which an optimizer is unstable on a quadratic, P fixed.

    That of `flatminima.theory.quadratic.stability_threshold` (Proposition Q3) with the optimizer's
    own coefficients and the largest of its learning rates: the `preconditioner` holds what the
    others are smaller. It takes the same optimizers; ValueError for others, and for groups of
    different momentum, which have no edge in one number.

    Example:
        >>> import torch
        >>> adam = torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), lr=0.01)
        >>> round(edge_of_stability(adam) * 0.01, 6)
        38.0
    """
    groups = _checked_groups(optimizer)
    group, rate = groups[0], _largest_rate(groups)
    for key in ("betas", "momentum", "nesterov", "dampening"):
        found = [g.get(key) for g in groups]
        # Of Adam the first coefficient alone is momentum; P has the second.
        if len({f[0] if key == "betas" and f else f for f in found}) > 1:
            raise ValueError(f"optimizer must have one {key} in all groups, got {found}")
    if "betas" in group:
        beta1 = float(group["betas"][0])
        return float(quadratic.stability_threshold("adam", rate, beta1=beta1))
    momentum = float(group["momentum"])
    method = "nesterov" if group.get("nesterov") else "heavy_ball"
    threshold = float(quadratic.stability_threshold(method, rate, momentum=momentum))
    # Dampening makes each gradient enter the momentum smaller.
    return threshold / (1 - float(group.get("dampening", 0)) if momentum else 1)


def _checked_groups(optimizer: Optimizer) -> list[dict]:
    # Before PyTorch 2.7 AdamW was no subclass of Adam.
    known = isinstance(optimizer, (Adam, AdamW, RMSprop, SGD))
    if not known and not hasattr(optimizer, "preconditioner"):
        raise ValueError(
            "optimizer must be Adam, AdamW, RMSprop or SGD, or have a method preconditioner, got "
            f"{type(optimizer).__name__}"
        )
    groups = optimizer.param_groups
    if any(group.get("maximize") for group in groups):
        raise ValueError("optimizer must minimize, got one with maximize=True")
    return groups


def _largest_rate(groups: list[dict]) -> float:
    """The learning rate eta that the others are measured by."""
    rate = max(float(group["lr"]) for group in groups)
    if not rate > 0:
        raise ValueError(f"optimizer must have a learning rate above 0, got {rate:g}")
    return rate


def _adam(group: dict, state: dict) -> Tensor:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    steps, square = float(state["step"]), state["exp_avg_sq"]
    if group["amsgrad"]:
        square = torch.maximum(square, state["max_exp_avg_sq"])
    root = (square / (1 - beta2**steps)).sqrt()
    return (1 - beta1**steps) * (root + group["eps"])


def _rmsprop(group: dict, state: dict) -> Tensor:
    square = state["square_avg"]
    if group["centered"]:
        square = (square - state["grad_avg"] ** 2).clamp(min=0)  # negative by rounding only
    return square.sqrt() + group["eps"]
