"""Training loops that watch themselves: gradient descent with probes, on the full batch or SGD.

The loss is an explicit function of outputs and targets; a *probe* is a function of the `State` of
a run that is called every few steps and whose values are kept with their steps. A run that
diverges is reported as diverged, and keeps no number from there on.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from flatminima import curvature
from flatminima._validation import one_of, positive_float, positive_int


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

DIVERGENCE_FACTOR = 1e4
"""A run has diverged when its loss is not finite or exceeds this many times the larger of its first
value and the loss of an all-zero output. The second keeps a run that starts near a minimum, where
the first loss says nothing about the scale of the problem, from being called diverged when an
instability merely lifts it."""


@dataclass(frozen=True)
class State:
    """What a probe sees: the model after ``step`` updates, and the whole training set."""

    step: int
    model: nn.Module
    inputs: Tensor
    targets: Tensor
    loss_function: Callable[[Tensor, Tensor], Tensor]
    learning_rate: float

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters of the model."""
        return trainable(self.model)

    def loss(self) -> Tensor:
        """The full-batch loss at the current parameters, a scalar that can be differentiated."""
        return self.loss_function(self.model(self.inputs), self.targets)

    @cached_property
    def hessian(self) -> curvature.HessianOperator:
        """Hessian of the full-batch loss; its graph is built once for all probes of this step."""
        return curvature.HessianOperator(self.loss, self.parameters)


Probe = Callable[[State], "float | np.ndarray"]


@dataclass(frozen=True)
class History:
    """What a run did. Arrays end where it ended: a diverged run keeps only what came before.

    Attributes:
        learning_rate: the step size.
        steps: (T,) number of updates made before each loss was measured: 0, 1, ...
        loss: (T,) training loss; on minibatches, the loss of the batch of that step.
        gradient_norm: (T,) Euclidean norm of the gradient of that loss over all parameters.
        probe_steps: (P,) the steps at which the probes were called.
        probes: name -> (P,) or (P, ...) values of the probe.
        diverged: whether the loss became non-finite or too large, see DIVERGENCE_FACTOR.
        diverged_at: the first step whose loss did so, else None.
        seconds: wall time of the loop, probes included.
    """

    learning_rate: float
    steps: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    probe_steps: np.ndarray
    probes: dict[str, np.ndarray] = field(default_factory=dict)
    diverged: bool = False
    diverged_at: int | None = None
    seconds: float = 0.0


def gradient_descent(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    steps: int,
    loss: str = "mse",
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 1,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = True,
) -> History:
    r"""Train ``model`` in place by :math:`\theta \leftarrow \theta - \eta \nabla L(\theta)`.

    Calling it again goes on from where the model is. Without ``batch_size`` every step uses the
    whole data, in one piece, and is deterministic on a CPU. With it, each epoch goes once through
    a fresh permutation in batches of that size; a remainder that fills no batch is left out of
    that epoch.

    Args:
        model: maps inputs (n, ...) to outputs (n, c), on the device and in the dtype of inputs.
        inputs: (n, ...) training inputs.
        targets: (n,) integer class labels, or (n, c) real targets for the squared loss.
        learning_rate: the step size eta > 0.
        steps: number of updates; the loss is recorded steps + 1 times, first and last included.
        loss: ``"mse"`` or ``"cross_entropy"``, see LOSSES.
        batch_size: None for the full batch, else 1 <= batch_size <= n.
        generator: CPU generator of the permutations; required with batch_size.
        probes: name -> function of the `State`, called at step 0, at every ``probe_every``-th
            step, and at the last one. It returns a number, or an array of a constant shape.
        probe_every: steps between two calls of the probes.
        divergence_factor: what a loss must exceed to count as diverged, see DIVERGENCE_FACTOR.
        progress: False, or whether to show a progress bar, or its label.

    Raises:
        ValueError: if an argument is outside what is said above, or inputs, targets and model
            do not fit together.
    """
    learning_rate = positive_float("learning_rate", learning_rate)
    steps = positive_int("steps", steps)
    probe_every = positive_int("probe_every", probe_every)
    divergence_factor = positive_float("divergence_factor", divergence_factor)
    loss_function = LOSSES[one_of("loss", loss, LOSSES)]
    _check_data(model, inputs, targets, loss)
    batches = _batches(inputs, targets, batch_size, generator)
    probes = dict(probes or {})
    parameters = trainable(model)
    label = progress if isinstance(progress, str) else f"eta = {learning_rate:g}"
    recorder = _Recorder(probes)
    losses: list[float] = []
    norms: list[float] = []
    ceiling = divergence_factor * _loss_of_zero(model, inputs, targets, loss_function)
    diverged_at = None
    start = time.perf_counter()
    with tqdm(total=steps, desc=label, disable=not progress, mininterval=1.0, ncols=80) as bar:
        for step in range(steps + 1):
            value = loss_function(*_forward(model, next(batches)))
            losses.append(value.item())
            if step == 0:
                ceiling = max(ceiling, divergence_factor * losses[0])
            if not (math.isfinite(losses[-1]) and losses[-1] <= ceiling):
                diverged_at = step
                break
            if probes and (step % probe_every == 0 or step == steps):
                state = State(step, model, inputs, targets, loss_function, learning_rate)
                recorder.record(state)
            gradients = torch.autograd.grad(value, parameters)
            norms.append(torch.stack(torch._foreach_norm(gradients)).norm().item())
            if step < steps:
                with torch.no_grad():
                    torch._foreach_add_(parameters, gradients, alpha=-learning_rate)
                bar.update()
    kept = losses if diverged_at is None else losses[:-1]
    return History(
        learning_rate=learning_rate,
        steps=np.arange(len(kept)),
        loss=np.array(kept),
        gradient_norm=np.array(norms),
        probe_steps=np.array(recorder.steps, dtype=int),
        probes={name: np.array(values) for name, values in recorder.values.items()},
        diverged=diverged_at is not None,
        diverged_at=diverged_at,
        seconds=time.perf_counter() - start,
    )


def sharpness(k: int = 1, *, tol: float = 1e-3) -> Probe:
    """Probe for the k largest Hessian eigenvalues of the full-batch loss, in descending order.

    Returns a number for k = 1, else an array (k,). Each call starts from the eigenvectors of the
    call before; make a new probe for each run. ``tol`` is that of `curvature.top_eigenpairs`.
    """
    return _Eigenvalues(positive_int("k", k), "largest", positive_float("tol", tol))


def smallest_eigenvalue(*, tol: float = 1e-3) -> Probe:
    """Probe for the smallest (most negative) Hessian eigenvalue of the full-batch loss."""
    return _Eigenvalues(1, "smallest", positive_float("tol", tol))


def accuracy(inputs: Tensor, labels: Tensor) -> Probe:
    """Probe for the share, in [0, 1], of ``labels`` (n,) that the largest output names."""
    if len(inputs) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"inputs and labels must have the same length, at least 1; got {len(inputs)} and "
            f"{len(labels)}"
        )

    def probe(state: State) -> float:
        with torch.no_grad():
            return float((state.model(inputs).argmax(1) == labels).double().mean())

    return probe


def edge_arrival(history: History, sharpness: str = "sharpness") -> int | None:
    """First probed step at which the sharpness is at least 2 / eta after having been below it.

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
    beyond = values.reshape(len(values), -1)[:, 0] >= 2 / history.learning_rate
    arrivals = np.flatnonzero(~beyond[:-1] & beyond[1:])
    return int(history.probe_steps[arrivals[0] + 1]) if len(arrivals) else None


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters of the model that require a gradient, in its own order."""
    return [p for p in model.parameters() if p.requires_grad]


class _Eigenvalues:
    """Eigenvalues from one end of the spectrum, each call warm-started from the last."""

    def __init__(self, k: int, which: str, tol: float) -> None:
        self.k, self.which, self.tol, self.start = k, which, tol, None

    def __call__(self, state: State) -> float | np.ndarray:
        generator = torch.Generator().manual_seed(0)
        pairs = curvature.top_eigenpairs(
            state.hessian,
            k=self.k,
            which=self.which,
            tol=self.tol,
            start=self.start,
            generator=generator,
        )
        self.start = pairs.eigenvectors
        values = np.asarray(pairs.eigenvalues, dtype=float)
        return float(values[0]) if self.k == 1 else values


class _Recorder:
    """Collects the values of the probes."""

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self.probes = probes
        self.steps: list[int] = []
        self.values: dict[str, list] = {name: [] for name in probes}

    def record(self, state: State) -> None:
        self.steps.append(state.step)
        for name, probe in self.probes.items():
            self.values[name].append(probe(state))


def _forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    inputs, targets = batch
    return model(inputs), targets


def _loss_of_zero(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss_function: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """Loss of an output that is zero on every example, the scale of the problem."""
    with torch.no_grad():
        outputs = model(inputs[:1])
        return float(loss_function(outputs.new_zeros(len(inputs), outputs.shape[1]), targets))


def _batches(
    inputs: Tensor, targets: Tensor, batch_size: int | None, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless sequence of batches, as `gradient_descent` says; arguments are checked at once."""
    n = len(inputs)
    if batch_size is None:
        return _same_batch(inputs, targets)
    batch_size = positive_int("batch_size", batch_size)
    if batch_size > n:
        raise ValueError(f"batch_size must be at most the {n} examples given, got {batch_size}")
    if generator is None:
        raise ValueError("generator must be a torch.Generator when batch_size is given, got None")
    return _shuffled_batches(inputs, targets, batch_size, generator)


def _same_batch(inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield inputs, targets


def _shuffled_batches(
    inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    n = len(inputs)
    while True:
        order = torch.randperm(n, generator=generator).to(inputs.device)
        for first in range(0, n - batch_size + 1, batch_size):
            chosen = order[first : first + batch_size]
            yield inputs[chosen], targets[chosen]


def _check_data(model: nn.Module, inputs: Tensor, targets: Tensor, loss: str) -> None:
    """Raise ValueError unless model, inputs and targets fit together under this loss."""
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
