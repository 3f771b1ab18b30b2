r"""Adam with a clipped second moment, which cannot damp an instability.

When an instability makes gradients grow, Adam's second moment grows with them, the effective
learning rate falls, and the instability ends early. `ClippedAdam` forbids the second moment to
follow, in one of several ways. The idea of clipping it is that of Wang and Roberts (2026); of that
paper only the abstract was at hand, which does not say how, so the definitions here are the book's
own.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from flatminima._validation import (
    a_function,
    a_list,
    finite_float,
    instance_of,
    one_of,
    positive_float,
    positive_int,
    shown,
)

__all__ = [
    "CLIPS",
    "ClippedAdam",
]

CLIPS = (
    "none", "absolute", "minimum", "median", "growth", "rise", "episode", "ratio", "floor",
)  # fmt: skip
"""The ways to clip the second moment, see `ClippedAdam`."""

_RELATIVE = ("minimum", "median", "growth")
_BOUNDED = ("absolute", "ratio", "floor")
_NEED_LOSS = ("rise", "episode")


class ClippedAdam(Optimizer):
    r"""Adam whose second-moment estimate is kept from growing in an instability.

    With the gradient :math:`g_t` of step t = 1, 2, ... and everything elementwise, Adam is

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        \hat v_t = \frac{v_t}{1 - \beta_2^t}, \quad
        s_t = \sqrt{\hat v_t}, \\
        \theta_t = \theta_{t-1} - \frac{\eta}{1 - \beta_1^t}\,\frac{m_t}{s_t + \epsilon}.

    With ``weight_decay`` w, each step first multiplies :math:`\theta` by :math:`1 - \eta w`, apart
    from the moments, as AdamW does. ``clip`` changes :math:`s_t`, from step ``warmup`` + 1 on, with
    a factor c:

    ============= ==================================================================================
    ``none``      nothing: Adam, with weight decay AdamW, to the last bit.
    ``absolute``  :math:`s_t = \min(\sqrt{\hat v_t},\, c)`.
    ``minimum``   :math:`s_t = \min(\sqrt{\hat v_t},\, c \min_{\tau < t} \sqrt{\hat v_\tau})`, the
                  minimum over the values that are not zero, from step ``warmup`` on.
    ``median``    :math:`s_t = \min(\sqrt{\hat v_t},\, c\,\mathrm{median}_\tau\sqrt{\hat v_\tau})`
                  over the ``window`` steps before t (fewer where there have not been as many since
                  step ``warmup``; of an even number the lower one).
    ``growth``    :math:`\hat v_t = \min(v_t / (1 - \beta_2^t),\, c\,\hat v_{t-1})` where
                  :math:`\hat v_{t-1} > 0`, and the moment goes on from there:
                  :math:`v_t = (1 - \beta_2^t)\,\hat v_t`.
    ``rise``      v stays as it was while the loss rises: :math:`L(\theta_{t-1}) >
                  L(\theta_{t-2})`. Its bias correction counts the steps at which it moved.
    ``episode``   the same while the loss is above its minimum so far, that is, throughout an
                  instability. (The least loss counts from the first step on.)
    ``ratio``     :math:`s_t = \min(\sqrt{\hat v_t},\, c\,\mathrm{median}\sqrt{\hat v_t})`, the
                  median over those entries of the group at this step that are not zero (of an even
                  number the lower one).
    ``floor``     :math:`s_t = \max(\sqrt{\hat v_t},\, c)`: clipped from below, which makes the
                  steps of entries with small gradients shorter than Adam's, not longer.
    ============= ==================================================================================

    All but ``growth``, ``rise`` and ``episode`` leave the moment :math:`v_t` itself alone, and act
    only where they bind: with c = inf, or for ``floor`` with c near 0, they are Adam. ``rise`` and
    ``episode`` are about the loss that ``step`` is given; on minibatches that is the noisy loss of
    a batch. A loss that is NaN counts as risen, and is not remembered. A cap well below
    :math:`\sqrt{\hat v_t}`, or a floor well above it, makes Adam momentum descent at the rate
    :math:`\eta / c`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate eta >= 0; at 0, as at the start of a warm-up, only the moments move.
        betas: beta_1 and beta_2, in [0, 1).
        eps: epsilon > 0.
        clip: one of CLIPS; there is no default, so that what is called clipped is.
        factor: c > 0, which must be given, of ``absolute`` and ``floor``, in units of the gradient,
            and of ``ratio``; c >= 1 of ``minimum``, ``median`` and ``growth``, by default 1: no
            growth at all. None for the others.
        window: of ``median``; memory is this many copies of the parameters. The median follows an
            instability that lasts longer than half of it.
        warmup: number of first steps that are Adam's. Early values of v rest on a few gradients
            and are no measure to hold later ones against.
        weight_decay: w >= 0.

    Raises:
        ValueError: for anything else than said above, or a sparse or complex gradient.

    Example:
        After a gradient of 3 one of 100: the second moment may not follow, and the step is larger
        than Adam's. The functions of `curvature` know this optimizer as they know Adam.

        >>> from flatminima.curvature import edge_of_stability, preconditioner
        >>> moved = {}
        >>> for clip in ("none", "minimum"):
        ...     theta = torch.zeros(1, requires_grad=True)
        ...     optimizer = ClippedAdam([theta], lr=0.1, clip=clip)
        ...     for gradient in (3.0, 100.0):
        ...         theta.grad = torch.tensor([gradient])
        ...         optimizer.step()
        ...     moved[clip] = round(theta.item(), 2)
        >>> moved
        {'none': -0.18, 'minimum': -1.9}
        >>> preconditioner(optimizer)  # (1 - 0.9^2) times the root, which stayed at 3
        tensor([0.5700])
        >>> round(edge_of_stability(optimizer), 6)  # 38 / lr
        380.0
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        *,
        clip: str,
        factor: float | None = None,
        window: int = 20,
        warmup: int = 0,
        weight_decay: float = 0.0,
    ) -> None:
        params = list(params.values()) if isinstance(params, dict) else a_list("params", params)
        if not params or not all(isinstance(p, Tensor | dict | tuple) for p in params):
            raise TypeError(f"params must be tensors, or groups of them, got {shown(params)}")
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "clip": clip, "factor": factor,
            "window": window, "warmup": warmup, "weight_decay": weight_decay,
            "previous_loss": None, "lowest_loss": None,
        }  # fmt: skip
        super().__init__(params, defaults)
        self.clipped_share: Tensor | float = 0.0
        """Share of the entries whose second moment the last step changed, or held."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with options of its own; as for `Optimizer`."""
        if "params" not in instance_of("param_group", param_group, dict):
            raise ValueError(f"param_group must hold params, got {shown(param_group)}")
        options = {**self.defaults, **param_group}
        one_of("clip", options["clip"], CLIPS)
        if options["clip"] in _RELATIVE and options["factor"] is None:
            options["factor"] = param_group["factor"] = 1.0
        _check_options(options)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"clipped_share": self.clipped_share}

    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:
        """Make one step.

        Args:
            closure: evaluates the loss and its gradients, and returns the loss; needed by
                ``rise`` and ``episode``.

        Raises:
            ValueError: for a missing closure where one is needed, or a sparse or complex gradient;
                no parameter has moved then.
        """
        loss = None
        if closure is not None:
            a_function("closure", closure)
            with torch.enable_grad():
                loss = closure()
        # Everything is checked before the first group moves.
        moving = []
        for group in self.param_groups:
            if loss is None and group["clip"] in _NEED_LOSS:
                raise ValueError(
                    f"step needs a closure that returns the loss for clip={group['clip']!r}"
                )
            parameters = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse or p.is_complex() for p in parameters):
                raise ValueError("gradients must be dense and real, got a sparse or a complex one")
            moving.append((group, parameters))
        changed, total = 0.0, 0
        for group, parameters in moving:
            held = _held(group, loss)
            if parameters:
                states = [self._state(p) for p in parameters]
                changed = changed + _update(group, parameters, states, held)
                total += sum(p.numel() for p in parameters)
        self.clipped_share = changed / total if total else 0.0
        return loss

    def preconditioner(self, parameters: Iterable[Tensor] | None = None) -> Tensor:
        r"""Diagonal (n,) of the P of the last step: theta changes by :math:`-\eta P^{-1} m_t`.

        :math:`P = (1 - \beta_1^t)(s_t + \epsilon)`, with the clipped :math:`s_t`; as
        `curvature.preconditioner` for Adam.

        Args:
            parameters: the tensors whose entries are wanted, in order; by default all.

        Raises:
            ValueError: if no step has been made, or a tensor is not the optimizer's.
        """
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        if parameters is None:
            parameters = [p for group in self.param_groups for p in group["params"]]
        parameters = a_list("parameters", parameters)
        if not parameters:
            raise ValueError("parameters must not be empty")
        pieces = []
        for p in parameters:
            if id(p) not in groups:
                raise ValueError("parameters must belong to the optimizer, one does not")
            if "root" not in self.state[p]:
                raise ValueError("optimizer has made no step yet on one of its parameters")
            group, state = groups[id(p)], self.state[p]
            correction = 1 - group["betas"][0] ** state["step"].item()
            pieces.append((correction * (state["root"] + group["eps"])).flatten())
        return torch.cat(pieces)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            # ``step`` is a tensor, as Adam's is. ``count``: steps at which v has moved.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["count"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state


def _held(group: dict[str, Any], loss: float | Tensor | None) -> bool:
    """Whether v is to stay as it is at this step; takes note of the loss."""
    if group["clip"] not in _NEED_LOSS:
        return False
    loss = float(loss)
    before = group["previous_loss" if group["clip"] == "rise" else "lowest_loss"]
    held = before is not None and not loss <= before
    if not math.isnan(loss):
        group["previous_loss"] = loss
        lowest = group["lowest_loss"]
        group["lowest_loss"] = loss if lowest is None else min(lowest, loss)
    return held


def _update(
    group: dict[str, Any], parameters: list[Tensor], states: list[dict[str, Any]], held: bool
) -> Tensor | float:
    """One step of a group, in place; returns the number of entries that were clipped or held."""
    beta1, beta2 = group["betas"]
    gradients = [p.grad for p in parameters]
    averages = [state["exp_avg"] for state in states]
    squares = [state["exp_avg_sq"] for state in states]
    for state in states:
        state["step"] += 1
    steps = [int(state["step"].item()) for state in states]
    # A tensor that had no gradient before has no moment to hold.
    hold = [
        held and step > group["warmup"] and state["count"] > 0
        for step, state in zip(steps, states, strict=True)
    ]
    moving = [i for i in range(len(states)) if not hold[i]]
    for i in moving:
        states[i]["count"] += 1
    corrections = [(1 - beta2 ** state["count"]) ** 0.5 for state in states]
    moved = [squares[i] for i in moving]
    g_moved = [gradients[i] for i in moving]
    if group["weight_decay"]:
        # Before the moments, and by this factor, as in AdamW: to the last bit.
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
    torch._foreach_lerp_(averages, gradients, 1 - beta1)
    if moved:
        torch._foreach_mul_(moved, beta2)
        torch._foreach_addcmul_(moved, g_moved, g_moved, 1 - beta2)
    changed: Tensor | float = float(
        sum(p.numel() for p, h in zip(parameters, hold, strict=True) if h)
    )
    if group["clip"] == "growth":
        for state, step in zip(states, steps, strict=True):
            changed = changed + _limit_growth(state, group, step, 1 - beta2 ** state["count"])
    roots = list(torch._foreach_sqrt(squares))
    torch._foreach_div_(roots, corrections)
    common = _common_cap(group, roots)
    for i, (state, step) in enumerate(zip(states, steps, strict=True)):
        cap = common if common is not None else _cap(state, group, step, roots[i])
        if cap is not None and step > group["warmup"]:
            clipped = (torch.maximum if group["clip"] == "floor" else torch.minimum)(roots[i], cap)
            changed = changed + (clipped != roots[i]).sum()
            roots[i] = clipped
        state["root"] = roots[i]
    sizes = [-(group["lr"] / (1 - beta1**step)) for step in steps]
    torch._foreach_addcdiv_(parameters, averages, torch._foreach_add(roots, group["eps"]), sizes)
    return changed


def _limit_growth(
    state: dict[str, Any], group: dict[str, Any], step: int, correction: float
) -> Tensor | float:
    """Hold v-hat to the factor times its value of the step before; returns how many it lowered."""
    square, changed = state["exp_avg_sq"], 0.0
    corrected = square / correction
    if step > max(group["warmup"], 1):
        before = state["corrected"]
        cap = before * group["factor"]
        over = (corrected > cap) & (before > 0)
        square.copy_(torch.where(over, cap * correction, square))
        corrected = torch.where(over, cap, corrected)
        changed = over.sum()
    state["corrected"] = corrected
    return changed


def _common_cap(group: dict[str, Any], roots: list[Tensor]) -> Tensor | None:
    """What bounds the roots of all entries of a group alike, if anything."""
    if group["clip"] not in _BOUNDED:
        return None
    bound = roots[0].new_tensor(group["factor"])
    if group["clip"] == "ratio":
        every = torch.cat([root.flatten() for root in roots])
        moving = every[every > 0]
        bound = bound * moving.median() if len(moving) else torch.full_like(bound, torch.inf)
    return bound


def _cap(state: dict[str, Any], group: dict[str, Any], step: int, root: Tensor) -> Tensor | None:
    """What bounds the root of v-hat of each entry at this step, if anything; notes the root."""
    clip, active = group["clip"], step > group["warmup"]
    cap = None
    if clip == "minimum":
        if active and "least" in state:
            cap = state["least"] * group["factor"]
        if step >= group["warmup"]:
            # A root of zero belongs to an entry without any gradient so far: no measure of it.
            positive = torch.where(root > 0, root, torch.inf)
            state["least"] = torch.minimum(state.get("least", positive), positive)
    if clip == "median":
        known = max(step - max(group["warmup"], 1), 0)
        window = group["window"]
        if active and known:
            cap = state["recent"][: min(known, window)].median(0).values * group["factor"]
            # Likewise, and with it an entry that has been without gradient half of the time.
            cap = torch.where(cap > 0, cap, torch.inf)
        if step >= group["warmup"]:
            if "recent" not in state:
                state["recent"] = root.new_zeros(window, *root.shape)
            state["recent"][known % window] = root
    return cap


def _check_options(options: dict[str, Any]) -> None:
    for name in ("lr", "weight_decay"):
        if finite_float(name, options[name]) != 0:
            positive_float(name, options[name])
    positive_float("eps", options["eps"])
    betas = [finite_float("each of betas", beta) for beta in a_list("betas", options["betas"])]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {shown(options['betas'])}")
    clip, factor = options["clip"], options["factor"]
    number = isinstance(factor, float | int) and not isinstance(factor, bool)
    if clip in _RELATIVE:
        if not (number and factor >= 1):
            raise ValueError(
                f"factor must be a number of at least 1 for clip={clip!r}, got {shown(factor)}"
            )
    elif clip in _BOUNDED:
        if not (number and factor > 0):
            raise ValueError(f"factor must be a number greater than 0, got {shown(factor)}")
    elif factor is not None:
        raise ValueError(f"factor must be None for clip={clip!r}, got {shown(factor)}")
    positive_int("window", options["window"])
    positive_int("warmup", options["warmup"], minimum=0)
