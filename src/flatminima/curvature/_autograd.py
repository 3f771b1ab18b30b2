"""What PyTorch's derivatives need in order to be right: layers in their parts, errors that say what
to do, and differences that contradict a derivative.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

STEPS = {torch.float32: (6, 8, 10, 12), torch.float64: (17, 20, 23)}
"""Of differences, as powers of 1/2 relative to the parameters: from about eps^(1/3), where a
central difference is best, down to where fewer kinks are crossed and rounding begins to tell."""

CLOSE, STEADY = 0.01, 0.05
"""Below the first a miss is none; differences are one if they are apart by the second of a miss."""

HINTS = {
    "scaled_dot_product": "fused attention has no second derivative: leave the choice of the "
    "kernel to the library, or write `with torch.nn.attention.sdpa_kernel("
    "torch.nn.attention.SDPBackend.MATH):` around the model",
    "aot_autograd": "a compiled model has no second derivative: give the model itself, which "
    "torch.compile keeps as `model._orig_mod`",
    "cudnn_rnn": "cuDNN's recurrent layers have no second derivative: write "
    "`with torch.backends.cudnn.flags(enabled=False):` around the call",
    "use_reentrant": "reentrant checkpointing hides a part of the model from autograd: write "
    "`checkpoint(..., use_reentrant=False)`",
    "once_differentiable": "a function of the model has a first derivative only",
    "modified by an inplace operation": "the loss changes a tensor in place that its derivatives "
    "need: write `x = x + y` for `x += y`, and leave parameters and data as they are",
    "torch.utils.checkpoint": "activation checkpointing did not evaluate the same a second time: "
    "switch it off for the model",
    "a second time": "a part of the loss was computed before the function was called, and its "
    "graph is gone: compute all of it within",
    "derivative for": "a layer or loss of the model has no second derivative in PyTorch: "
    "write it in simpler operations",
}
"""What an error of PyTorch holds -> what to do about it."""


class DerivativeError(RuntimeError):
    """PyTorch has no derivative of the order that is needed, or a wrong one; the text says why."""


@contextmanager
def differentiable() -> Iterator[None]:
    """Where losses are evaluated: their derivatives of all orders are then right, or an error.

    PyTorch's attention kernels have no second derivative; its layer, batch and instance
    normalization have a wrong third one (https://github.com/pytorch/pytorch/issues/175754 and
    186256), and weight normalization, in version 2.13 on a CPU, a wrong second one, without a word.
    Here they are evaluated in parts, and in full precision, whatever autocast says.
    """
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _InParts(), ExitStack() as full:
            for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                full.enter_context(torch.autocast(kind, enabled=False))
            yield
    except RuntimeError as error:
        for sign, hint in HINTS.items():
            if sign in str(error) and not isinstance(error, DerivativeError):
                said = str(error).strip().split("\n")[0]
                raise DerivativeError(f"{hint}. PyTorch says: {said}") from error
        raise


def derivatives(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    create_graph: bool,
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """The derivatives of the outputs in the inputs, weighted and summed; None for no dependence.

    As ``torch.autograd.grad``, which steps out of `differentiable` for as long as it runs: what
    activation checkpointing evaluates anew then would not be what was evaluated first.
    """
    return torch.autograd.Variable._execution_engine.run_backward(
        tuple(outputs), tuple(weights), retain_graph, create_graph, tuple(inputs),
        allow_unreachable=True, accumulate_grad=False,
    )  # fmt: skip


def pulled(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    create_graph: bool = False,
    retain_graph: bool = True,
) -> list[Tensor]:
    """The `derivatives` of those outputs that depend on something; zeros for no dependence."""
    live = [(o, w) for o, w in zip(outputs, weights, strict=True) if o.requires_grad]
    found = [None] * len(inputs)
    if live:
        outputs, weights = zip(*live, strict=True)
        found = derivatives(outputs, inputs, weights, create_graph, retain_graph)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


class _InParts(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _PARTS.get(func, func)(*args, **(kwargs or {}))


def _normalized(
    x: Tensor, dims: tuple[int, ...], eps: float, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    centered = x - x.mean(dims, keepdim=True)
    x = centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5) -> Tensor:
    return _normalized(x, tuple(range(-len(normalized_shape), 0)), eps, weight, bias)


def _by_channel(
    function, axes, x, running_mean, running_var, weight, bias, momentum, eps, **statistics
) -> Tensor:
    """Batch or instance normalization, the first also over the examples, axis 0."""
    rest = {"weight": weight, "bias": bias, "momentum": momentum, "eps": eps} | statistics
    if not all(statistics.values()):  # the averages are constants
        return function(x, running_mean, running_var, **rest)
    if running_mean is not None:
        with torch.no_grad():
            function(x, running_mean, running_var, **rest)  # moves the averages
    channels = (-1, *[1] * (x.ndim - 2))
    weight, bias = (None if t is None else t.view(channels) for t in (weight, bias))
    return _normalized(x, (*axes, *range(2, x.ndim)), eps, weight, bias)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    dims = [i for i in range(v.ndim) if dim == -1 or i != dim % v.ndim]
    return v * (g / torch.linalg.vector_norm(v, dim=dims, keepdim=True))


def _embedding(indices: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """With gradients that are dense: sparse ones have no derivative."""
    return functional.embedding(indices, weight, **(options | {"sparse": False}))


_PARTS = {
    functional.layer_norm: _layer_norm,
    functional.batch_norm: partial(_by_channel, functional.batch_norm, (0,)),
    functional.instance_norm: partial(_by_channel, functional.instance_norm, ()),
    torch._weight_norm: _weight_norm,
    functional.embedding: _embedding,
}


def relative_direction(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A random direction that moves each tensor by about its own size, and the sizes, (n,) each.

    The size is the root mean square of the entries; of a tensor of zeros that of all entries.
    """
    counts = [p.numel() for p in parameters]
    squares = [p.detach().double().square().sum().item() for p in parameters]
    whole = sum(squares) / max(sum(counts), 1) or 1.0
    sizes = torch.cat([
        torch.full((n,), (square / n if square else whole) ** 0.5, dtype=torch.float64)
        for square, n in zip(squares, counts, strict=True)
    ])  # fmt: skip
    draw = torch.randn(len(sizes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (sizes * draw).to(parameters[0]), sizes.to(parameters[0].device)


def split(vector: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Views of a flat vector (n,) in the shapes of the parameters."""
    parts = vector.split([p.numel() for p in parameters])
    return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]


@contextmanager
def moved(parameters: Sequence[Tensor], direction: Tensor, step: float) -> Iterator[None]:
    """The parameters lie at step times (n,) ``direction`` away, and then where they were, exactly.

    Their version counters do not see it: graphs stay valid.
    """
    kept = [p.detach().clone() for p in parameters]
    try:
        for p, part in zip(parameters, split(direction, parameters), strict=True):
            p.data.add_(part, alpha=step)
        yield
    finally:
        for p, origin in zip(parameters, kept, strict=True):
            p.data.copy_(origin)


def contradiction(
    parameters: Sequence[Tensor],
    vector: Callable[[], Tensor],
    here: Tensor,
    derivative: Tensor,
    direction: Tensor,
    scale: Tensor,
) -> float:
    r"""How far differences certainly miss the derivative of a vector along a direction; 0 for not.

    A derivative is wrong only where the vector is smooth and its slope another one. So the central
    differences of three steps in a row must agree, far better than with the derivative; and the
    one-sided ones must approach each other as the step itself. A jump of the vector (a kink of ReLU
    between the points) adds jump / step to a difference, and N of them of random signs change it
    from step to step by their :math:`1/\sqrt N`-th part; a jump of its slope at the very point (ELU
    at 0) keeps the one-sided differences apart; rounding grows as 1 / step. None of them passes for
    agreement, and what cannot be decided counts as right.

    Args:
        vector: at the parameters as they are when it is called; ``here`` at the point itself.
        scale: (n,) weights of the entries in all norms.
    """

    def at(step: float) -> Tensor:
        with moved(parameters, direction, step):
            return vector().double() * scale

    here, derivative = here.double() * scale, derivative.double() * scale
    before, agreed = None, 0
    for power in STEPS[parameters[0].dtype]:
        step = 0.5**power
        try:
            ahead, behind = at(step), at(-step)
        except (ArithmeticError, AssertionError, RuntimeError, ValueError):
            return 0.0  # the model refuses such parameters
        slope, bend = (ahead - behind) / (2 * step), (ahead - 2 * here + behind) / step**2
        miss = float((slope - derivative).norm())
        size = max(float(slope.norm()), float(derivative.norm()))
        if not miss > CLOSE * size:
            return 0.0
        change = torch.inf
        if before is not None:
            change = max(float((slope - before[0]).norm()), step * float((bend - before[1]).norm()))
        agreed = agreed + 1 if change <= STEADY * miss else 0
        if agreed == 2:
            return miss / size
        before = slope, bend
    return 0.0
