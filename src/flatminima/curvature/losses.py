"""Losses by name: mean over the examples of what the outputs of a model miss of their targets."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from flatminima._validation import instance_of, one_of, shown

__all__ = ["LOSSES", "cross_entropy", "mse"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function of outputs and targets of some examples that returns a scalar."""


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Squared loss :math:`\frac{1}{2n}\sum_{i=1}^n \|f(x_i) - y_i\|^2`, a scalar.

    The norm sums over the outputs: nothing is divided by their number, as in Cohen et al. (2021).
    (``torch.nn.MSELoss`` is 2 / outputs times this, and so is its sharpness.) It is not finite
    where they are not, by which a run is seen to diverge.

    Args:
        outputs: (n, ...), real.
        targets: real, of the shape of outputs, else ValueError; or, for outputs (n, c), class
            labels (n,), which stand for their one-hot vectors.

    Example:
        >>> import torch
        >>> float(mse(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])))
        1.25
    """
    _check_tensors(outputs, targets)
    if targets.ndim == 1 and outputs.ndim == 2 and not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[1])
    if targets.shape != outputs.shape:
        raise ValueError(
            f"targets must have the shape of the outputs, {tuple(outputs.shape)}, or be class "
            f"labels (n,) of outputs (n, c); got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    return 0.5 * (outputs - targets.to(outputs.dtype)).square().sum() / len(outputs)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy :math:`-\frac1n\sum_i \log \mathrm{softmax}(f(x_i))_{y_i}`, a scalar.

    Of sequences, (n, t, c) logits with (n, t) labels, it is the mean over all n t places. Not
    finite where the logits are not.

    Args:
        outputs: (n, ..., c) logits, the classes last.
        targets: (n, ...) class labels, int64, one for each row of logits, else ValueError.

    Example:
        >>> import torch
        >>> round(float(cross_entropy(torch.zeros(4, 10), torch.arange(4))), 4)
        2.3026
    """
    _check_tensors(outputs, targets)
    if targets.dtype != torch.int64 or targets.shape != outputs.shape[:-1]:
        raise ValueError(
            f"targets must be int64 labels of shape {tuple(outputs.shape[:-1])}, one for each row "
            f"of logits (the last axis of the outputs holds the classes); got {targets.dtype} of "
            f"shape {tuple(targets.shape)}"
        )
    if outputs.ndim > 2:
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
    return functional.cross_entropy(outputs, targets)


def _check_tensors(outputs: Tensor, targets: Tensor) -> None:
    """Errors unless there are outputs, real ones, and targets; values are not looked at."""
    instance_of("outputs", outputs, Tensor)
    instance_of("targets", targets, Tensor)
    if not outputs.is_floating_point() or not outputs.ndim or targets.is_complex():
        raise ValueError(
            "outputs (n, ...) and targets must hold real numbers, outputs in floating point, got "
            f"{outputs.dtype} of shape {tuple(outputs.shape)} and {targets.dtype}"
        )


LOSSES: dict[str, Loss] = {"mse": mse, "cross_entropy": cross_entropy}
"""Name of a loss -> its function of outputs and targets."""


def as_loss(loss: str | Loss) -> Loss:
    """The loss of that name, or the callable as it is; ValueError or TypeError for all else."""
    if isinstance(loss, str):
        return LOSSES[one_of("loss", loss, LOSSES)]
    if not callable(loss):
        raise TypeError(
            f"loss must be one of {', '.join(LOSSES)} or a function of (outputs, targets), got "
            f"{shown(loss)}"
        )
    return loss


def name_of(loss: Loss) -> str:
    """A name for what was given: that of LOSSES, of the function, or of the class (BCE, say)."""
    return getattr(loss, "__name__", type(loss).__name__)


def checked_value(value: object) -> Tensor:
    """What a loss returned; ValueError unless it is a finite scalar tensor."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor, got {given}")
    if not torch.isfinite(value):
        raise ValueError(f"loss must be finite, got {value.item()}")
    return value
