"""Training loops that watch themselves: descent, any optimizer, minibatches, and cooling.

The loss is an explicit function of outputs and targets; a *probe* (see `flatminima.probes`) is a
function of the `State` of a run that is called every few steps and whose values are kept with their
steps. A run that diverges is reported as diverged, and keeps no number from there on. A run may
write checkpoints: started again as it was started before, it goes on from the last one, and ends
with the same bits as the run that was not interrupted (on the same machine).
"""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima._validation import one_of, positive_float, positive_int
from flatminima.training.checkpoint import CorruptCheckpointError
from flatminima.training.loop import DIVERGENCE_FACTOR, ByOptimizer, Descent, History, Loop
from flatminima.training.probes import (
    Probe,
    State,
    accuracy,
    preconditioned_sharpness,
    sharpness,
    sharpness_gradient_norm,
    smallest_eigenvalue,
    trainable,
    training_loss,
)

__all__ = [
    "DIVERGENCE_FACTOR",
    "LOSSES",
    "Cooling",
    "CorruptCheckpointError",
    "History",
    "Probe",
    "State",
    "accuracy",
    "cross_entropy",
    "edge_arrival",
    "gradient_descent",
    "mse",
    "preconditioned_sharpness",
    "sharpness",
    "sharpness_gradient_norm",
    "smallest_eigenvalue",
    "train",
    "train_to_loss",
    "trainable",
    "training_loss",
]

Schedule = float | Callable[[int], float] | Sequence[tuple[int, float]]
"""A learning rate: a number; a function of the step; or phases, (first step, rate) in order, as in
``[(0, 0.1), (500, 0.01)]``: 0.1 for the updates 0 to 499, and 0.01 from there on."""


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Squared loss :math:`\frac{1}{2n}\sum_{i=1}^n \|f(x_i) - y_i\|^2`, a scalar.

    The norm sums over the outputs: nothing is divided by their number. (``torch.nn.MSELoss`` is
    2 / outputs times this.) Learning rates and sharpness are comparable only between runs that
    agree on such a convention; this is the one of Cohen et al. (2021).

    Args:
        outputs: (n, c).
        targets: (n, c) real targets, or (n,) class labels, which stand for their one-hot vectors.
    """
    if targets.ndim == 1 and not targets.is_floating_point():
        targets = functional.one_hot(targets, outputs.shape[1])
    return 0.5 * (outputs - targets.to(outputs.dtype)).square().sum() / len(outputs)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    r"""Mean cross-entropy :math:`-\frac1n\sum_i \log \mathrm{softmax}(f(x_i))_{y_i}`, a scalar.

    Args:
        outputs: (n, c) logits.
        targets: (n,) class labels.
    """
    return functional.cross_entropy(outputs, targets)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "cross_entropy": cross_entropy}
"""The losses by name: functions of outputs (n, c) and targets."""


@dataclass(frozen=True)
class Cooling:
    """How `train_to_loss` ended, whether it reached its target or not.

    Attributes:
        target_loss: the loss asked for.
        reached: whether the training loss came down to it.
        steps: the updates made.
        loss: the last training loss; NaN if the run diverged at once.
        history: the run. ``history.diverged`` says whether it diverged.
    """

    target_loss: float
    reached: bool
    steps: int
    loss: float
    history: History

    @property
    def undershoot(self) -> float:
        """Share of the target by which the loss is below it. Near zero: the loss is matched.

        Large for a run that was below its target when it began: no cooling can match that one.
        Negative for a run that did not reach its target.
        """
        return 1 - self.loss / self.target_loss


def gradient_descent(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: Schedule,
    steps: int,
    loss: str = "mse",
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 1,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = True,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
) -> History:
    r"""Train ``model`` in place by :math:`\theta \leftarrow \theta - \eta_t \nabla L(\theta)`.

    Calling it again goes on from where the model is. Without ``batch_size`` every step uses the
    whole data, in one piece, and is deterministic on a CPU. With it, each epoch goes once through
    a fresh permutation in batches of that size; a remainder that fills no batch is left out of
    that epoch.

    Args:
        model: maps inputs (n, ...) to outputs (n, c), on the device and in the dtype of inputs.
        inputs: (n, ...) training inputs.
        targets: (n,) integer class labels, or (n, c) real targets for the squared loss.
        learning_rate: the step size eta > 0, or a `Schedule` of it.
        steps: number of updates; the loss is recorded steps + 1 times, first and last included.
        loss: ``"mse"`` or ``"cross_entropy"``, see LOSSES.
        batch_size: None for the full batch, else 1 <= batch_size <= n.
        generator: CPU generator of the permutations; required with batch_size.
        probes: name -> function of the `State`, called at step 0, at every ``probe_every``-th
            step, and at the last one. It returns a number, or an array of a constant shape.
        probe_every: steps between two calls of the probes.
        divergence_factor: what a loss must exceed to count as diverged, see DIVERGENCE_FACTOR. On
            minibatches, the loss on the whole data is held to it too wherever probes are called.
        progress: False, or whether to show a progress bar, or its label.
        checkpoint: a file. If it is there, the run goes on from it, which wants the same arguments
            and the same starting model as before: the model is then overwritten. A run that has
            finished is returned as it was. Randomness other than ``generator`` is not kept.
        checkpoint_every: updates between two checkpoints; one more is written at the end.

    Raises:
        ValueError: if an argument is outside what is said above, inputs, targets and model do
            not fit together, or the checkpoint is of another run.
        CorruptCheckpointError: (a ValueError) for a checkpoint that does not match its checksum.
    """
    check_data(model, inputs, targets, loss)
    steps = positive_int("steps", steps)
    rates = _rates(learning_rate, steps)
    loop = Loop(model, inputs, targets, LOSSES[loss], Descent(trainable(model)), rates)
    loop.use_batches(batch_size, generator)
    loop.use_probes(probes, probe_every)
    _run(loop, f"eta = {rates[0]:g}", progress, divergence_factor, checkpoint, checkpoint_every)
    return loop.history()


def train(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    optimizer: torch.optim.Optimizer,
    steps: int,
    learning_rate: Schedule | None = None,
    loss: str = "mse",
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 1,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = True,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
) -> History:
    """Train ``model`` in place by any optimizer of PyTorch; all else as in `gradient_descent`.

    The optimizer is given a closure at each step, so that those which ask for the loss, or evaluate
    it more than once, work too. It goes on from its state; a checkpoint holds that state.

    Args:
        optimizer: over the trainable parameters of ``model``, all of them and no others.
        learning_rate: a `Schedule`, which sets the rate of every parameter group before each
            update; None leaves to the optimizer the rates it has.

    Raises:
        ValueError: as `gradient_descent`, and for an optimizer over other parameters.
    """
    check_data(model, inputs, targets, loss)
    steps = positive_int("steps", steps)
    update = ByOptimizer(trainable(model), optimizer, learning_rate is not None)
    rates = _rates(update.rate if learning_rate is None else learning_rate, steps)
    loop = Loop(model, inputs, targets, LOSSES[loss], update, rates)
    loop.use_batches(batch_size, generator)
    loop.use_probes(probes, probe_every)
    _run(loop, type(optimizer).__name__, progress, divergence_factor, checkpoint, checkpoint_every)
    return loop.history()


def train_to_loss(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    target_loss: float,
    max_steps: int,
    learning_rate: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    loss: str = "mse",
    probes: Mapping[str, Probe] | None = None,
    probe_every: int | None = None,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = True,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
) -> Cooling:
    """Cool: train on the full batch, at a small rate, until the loss is at most ``target_loss``.

    Runs whose losses differ cannot be compared in sharpness or accuracy, since both change as the
    loss falls. Cooled at a small rate they end within one small step of the same loss.

    Args:
        target_loss: where to stop: at the first full-batch training loss at most this, > 0.
        max_steps: updates to make at most. A run that has not arrived by then is returned too,
            with ``reached`` false.
        learning_rate: a `Schedule` for plain descent, or, with ``optimizer``, for that.
        optimizer: as in `train`; None for plain gradient descent.
        probe_every: as in `gradient_descent`; None: called at the first and at the last step only.

    The other arguments, and what is raised, are those of `gradient_descent`.
    """
    target_loss = positive_float("target_loss", target_loss)
    check_data(model, inputs, targets, loss)
    max_steps = positive_int("max_steps", max_steps)
    if optimizer is None:
        update: Descent | ByOptimizer = Descent(trainable(model))
        if learning_rate is None:
            raise ValueError("learning_rate must be given without an optimizer, got None")
    else:
        update = ByOptimizer(trainable(model), optimizer, learning_rate is not None)
    rates = _rates(update.rate if learning_rate is None else learning_rate, max_steps)
    loop = Loop(model, inputs, targets, LOSSES[loss], update, rates, target_loss)
    loop.use_batches(None, None)
    loop.use_probes(probes, max_steps if probe_every is None else probe_every)
    _run(loop, f"to {target_loss:g}", progress, divergence_factor, checkpoint, checkpoint_every)
    history = loop.history()
    return Cooling(
        target_loss=target_loss,
        reached=loop.reached,
        steps=max(len(history.steps) - 1, 0) if not history.diverged else history.diverged_at,
        loss=float(history.loss[-1]) if len(history.loss) else math.nan,
        history=history,
    )


def edge_arrival(history: History, sharpness: str = "sharpness") -> int | None:
    """First probed step at which the sharpness is at least 2 / eta after having been below it.

    With a schedule, eta is the rate at each step. The threshold is that of plain gradient descent:
    other optimizers have their own, see `quadratic.stability_threshold`.

    Args:
        history: a run with a probe of the sharpness, (P,) or (P, k) with the largest first.
        sharpness: the name of that probe.

    Returns:
        The step, or None if the sharpness never crosses 2 / eta from below. A run that starts
        beyond 2 / eta, and is thrown below it at once, arrives only when it comes back.

    Raises:
        ValueError: if the run has no such probe.
    """
    one_of("sharpness", sharpness, history.probes)
    values = history.probes[sharpness]
    rates = history.learning_rate
    if history.learning_rates is not None:
        rates = history.learning_rates[history.probe_steps]
    beyond = values.reshape(len(values), -1)[:, 0] >= 2 / rates
    arrivals = np.flatnonzero(~beyond[:-1] & beyond[1:])
    return int(history.probe_steps[arrivals[0] + 1]) if len(arrivals) else None


def _run(
    loop: Loop,
    label: str,
    progress: bool | str,
    divergence_factor: float,
    checkpoint: str | os.PathLike | None,
    checkpoint_every: int,
) -> None:
    """What the three ways to train have in common once batches and probes are chosen."""
    loop.diverge_beyond(divergence_factor)
    loop.use_checkpoint(checkpoint, checkpoint_every)
    loop.run(progress if isinstance(progress, str) else label, bool(progress))


def _rates(schedule: Schedule, steps: int) -> np.ndarray:
    """The learning rate of every step from 0 to ``steps``, checked."""
    if callable(schedule):
        return np.array(
            [positive_float(f"learning_rate({t})", float(schedule(t))) for t in range(steps + 1)]
        )
    if not isinstance(schedule, Sequence) or isinstance(schedule, str):
        return np.full(steps + 1, positive_float("learning_rate", schedule))
    phases = list(schedule)
    if not phases or not all(isinstance(phase, Sequence) and len(phase) == 2 for phase in phases):
        raise ValueError(f"learning_rate as phases must be pairs (first step, rate), got {phases}")
    firsts = [positive_int("first step of learning_rate", phase[0], minimum=0) for phase in phases]
    if firsts[0] != 0 or any(a >= b for a, b in itertools.pairwise(firsts)):
        raise ValueError(f"phases of learning_rate must begin at step 0 and rise, got {firsts}")
    values = [positive_float("each rate of learning_rate", phase[1]) for phase in phases]
    return np.array(values)[np.searchsorted(firsts, np.arange(steps + 1), side="right") - 1]


def check_data(model: nn.Module, inputs: Tensor, targets: Tensor, loss: str) -> None:
    """Raise ValueError unless model, inputs and targets fit together under this loss."""
    one_of("loss", loss, LOSSES)
    parameters = trainable(model)
    if not parameters:
        raise ValueError("model must have at least one trainable parameter, got none")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"inputs must have shape (n, ...), n >= 1; got {tuple(inputs.shape)}")
    if len(inputs) != len(targets):
        raise ValueError(
            "inputs and targets must hold the same number of examples, got "
            f"{len(inputs)} and {len(targets)}"
        )
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if tensor.device != parameters[0].device:
            raise ValueError(
                f"{name} must be on the model's device {parameters[0].device}, got {tensor.device}"
            )
    if inputs.dtype != parameters[0].dtype:
        raise ValueError(
            f"inputs must have the model's dtype {parameters[0].dtype}, got {inputs.dtype}"
        )
    if not torch.isfinite(inputs).all():
        raise ValueError("inputs must hold finite numbers only, got a NaN or an infinity")
    with torch.no_grad():
        outputs = model(inputs[:1])
    if outputs.ndim != 2:
        raise ValueError(f"model must return outputs (n, c), got {tuple(outputs.shape)} for n = 1")
    _check_targets(targets, outputs.shape[1], loss)


def _check_targets(targets: Tensor, classes: int, loss: str) -> None:
    if targets.ndim == 1 and targets.dtype == torch.int64:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"labels must lie between 0 and {classes - 1}, the model's last class; got "
                f"{low} to {high}"
            )
        return
    allowed = "int64 labels (n,)"
    if loss == "mse":
        if targets.is_floating_point() and targets.shape[1:] == (classes,):
            if not torch.isfinite(targets).all():
                raise ValueError("targets must hold finite numbers only, got a NaN or an infinity")
            return
        allowed += f" or real targets (n, {classes})"
    raise ValueError(
        f"targets must be {allowed} for the loss {loss!r}, got {targets.dtype} of shape "
        f"{tuple(targets.shape)}"
    )
