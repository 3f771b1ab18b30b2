"""Many runs of one architecture at once: learning rates and seeds side by side on one device.

The parameters of all members are stacked, and one call, batched by `torch.func.vmap`, gives all
losses and gradients. A small network leaves most of a GPU, and some of a CPU, idle; an ensemble of
them does not (``benchmarks/ensemble.py`` measures by how much). The members do not see each other:
each makes the run that `training.gradient_descent` would make of it, up to the order in which sums
are taken.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from flatminima._loop import DIVERGENCE_FACTOR, History, loss_of_zero, make_batches
from flatminima._validation import one_of, positive_float, positive_int
from flatminima.datasets import one_hot
from flatminima.training import LOSSES, check_data

# How many steps a run goes on after its last member has diverged, at most: to look is to wait for
# the device.
_LOOK_EVERY = 50


@dataclass(frozen=True)
class Ensemble:
    """What the M members of an ensemble did; what a diverged member did not do is NaN.

    Attributes:
        learning_rates: (M,) step sizes.
        steps: (T,) number of updates made before each loss was measured: 0, 1, ...
        loss: (T, M) training losses; on minibatches, those of the batches of that step.
        gradient_norm: (T, M) Euclidean norms of the gradients of these losses.
        accuracy_steps: (P,) the steps at which the accuracy was measured.
        accuracy: (P, M) share of ``evaluate``'s labels that the largest output names.
        diverged: (M,) bool.
        diverged_at: for each member the first step whose loss was non-finite or too large, or None.
        seconds: wall time of the loop, for all members together.
    """

    learning_rates: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    gradient_norm: np.ndarray
    accuracy_steps: np.ndarray
    accuracy: np.ndarray
    diverged: np.ndarray
    diverged_at: tuple[int | None, ...]
    seconds: float

    def __len__(self) -> int:
        return len(self.learning_rates)

    def history(self, member: int) -> History:
        """The run of one member, as `training.gradient_descent` reports it (its share of time)."""
        end = self.diverged_at[member]
        kept = slice(None, end)
        measured = self.accuracy_steps < (len(self.steps) if end is None else end)
        probes = {"accuracy": self.accuracy[measured, member]} if len(self.accuracy_steps) else {}
        return History(
            learning_rate=float(self.learning_rates[member]),
            steps=self.steps[kept],
            loss=self.loss[kept, member],
            gradient_norm=self.gradient_norm[kept, member],
            probe_steps=self.accuracy_steps[measured],
            probes=probes,
            diverged=bool(self.diverged[member]),
            diverged_at=end,
            seconds=self.seconds / len(self),
            learning_rates=np.full(len(self.steps[kept]), self.learning_rates[member]),
        )


def train(
    models: Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rates: Sequence[float],
    steps: int,
    loss: str = "mse",
    batch_size: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    evaluate: tuple[Tensor, Tensor] | None = None,
    evaluate_every: int | None = None,
    divergence_factor: float = DIVERGENCE_FACTOR,
    chunk_size: int | None = None,
    progress: bool | str = True,
) -> Ensemble:
    """Train all models in place by gradient descent, each at its own rate, on the same data.

    A member that diverges stays where it was found to have diverged, and the others go on.

    Args:
        models: M models of one architecture, no parameter shared, on the device of inputs.
        inputs, targets, steps, loss, divergence_factor: as in `training.gradient_descent`.
        learning_rates: M step sizes > 0, one for each model.
        batch_size: None for the full batch; else each member draws batches of its own.
        generators: M CPU generators of the permutations, no two the same object; required with
            batch_size.
        evaluate: test inputs (n, ...) and labels (n,) on which accuracies are measured.
        evaluate_every: steps between two measurements; None: the first and the last step only.
        chunk_size: how many members are computed at once; None for all. Lower it when memory is
            short.
        progress: False, or whether to show a progress bar, or its label.

    Raises:
        ValueError: for an argument outside what is said above.
    """
    models = _checked_models(models)
    rates = [positive_float("each of learning_rates", rate) for rate in learning_rates]
    if len(rates) != len(models):
        raise ValueError(
            f"learning_rates must hold one rate for each of the {len(models)} models, got "
            f"{len(rates)}"
        )
    steps = positive_int("steps", steps)
    factor = positive_float("divergence_factor", divergence_factor)
    if chunk_size is not None:
        chunk_size = positive_int("chunk_size", chunk_size)
    for model in models:
        check_data(model, inputs, targets, loss)
    every = steps if evaluate_every is None else positive_int("evaluate_every", evaluate_every)
    loss_function = LOSSES[one_of("loss", loss, LOSSES)]
    zero = loss_of_zero(models[0], inputs, targets, loss_function)
    if loss == "mse" and targets.ndim == 1:
        with torch.no_grad():
            targets = one_hot(targets, models[0](inputs[:1]).shape[1], inputs.dtype)
    draw = _draw(inputs, targets, batch_size, generators, len(models))
    members = _Members(models, loss_function, batch_size is not None, chunk_size)
    if evaluate is not None:
        _check_evaluation(evaluate)
    run = _Run(members, inputs.new_tensor(rates), factor * zero, factor)
    label = progress if isinstance(progress, str) else f"{len(models)} runs"
    start = time.perf_counter()
    measured: list[int] = []
    accuracies: list[Tensor] = []
    with tqdm(total=steps, desc=label, disable=not progress, mininterval=1.0, ncols=80) as bar:
        for step in range(steps + 1):
            gradients = run.measure(step, *draw())
            if evaluate is not None and (step % every == 0 or step == steps):
                measured.append(step)
                accuracy = members.accuracy(*evaluate)
                accuracies.append(torch.where(run.alive, accuracy, torch.nan))
            if step < steps:
                run.update(gradients)
                bar.update()
            if step % _LOOK_EVERY == 0 and not run.alive.any():
                break
    members.write_back()
    ends = run.diverged_at.tolist()
    losses = torch.stack(run.losses).double().cpu().numpy()
    return Ensemble(
        learning_rates=np.array(rates),
        steps=np.arange(len(losses)),
        loss=losses,
        gradient_norm=torch.stack(run.norms).double().cpu().numpy(),
        accuracy_steps=np.array(measured, dtype=int),
        accuracy=torch.stack(accuracies).cpu().numpy() if accuracies else np.empty((0, len(rates))),
        diverged=np.array([end >= 0 for end in ends]),
        diverged_at=tuple(end if end >= 0 else None for end in ends),
        seconds=time.perf_counter() - start,
    )


class _Run:
    """Where the members are, and what has been recorded; nothing here waits for the device."""

    def __init__(self, members: "_Members", rates: Tensor, ceiling: float, factor: float) -> None:
        self.members, self.rates, self.factor = members, rates, factor
        self.ceiling = torch.full_like(rates, ceiling)
        self.alive = torch.ones_like(rates, dtype=torch.bool)
        self.diverged_at = torch.full_like(rates, -1, dtype=torch.int64)
        self.losses: list[Tensor] = []
        self.norms: list[Tensor] = []

    def measure(self, step: int, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses and gradients where the members are; finds out who has diverged."""
        gradients, losses = self.members.gradients(inputs, targets)
        if step == 0:
            self.ceiling = torch.maximum(self.ceiling, self.factor * losses)
        squares = [g.flatten(1).square().sum(1) for g in gradients.values()]
        norms = torch.stack(squares).sum(0).sqrt()
        fine = losses.isfinite() & (losses <= self.ceiling) & norms.isfinite()
        self.diverged_at = torch.where(self.alive & ~fine, step, self.diverged_at)
        self.alive = self.alive & fine
        self.losses.append(torch.where(self.alive, losses, torch.nan))
        self.norms.append(torch.where(self.alive, norms, torch.nan))
        return gradients

    def update(self, gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            shape = (-1,) + (1,) * (gradient.ndim - 1)
            step = self.rates.view(shape) * gradient
            # Not zero times the step: a diverged member's may be infinite or NaN.
            self.members.free[name].sub_(torch.where(self.alive.view(shape), step, 0.0))


class _Members:
    """The stacked parameters and buffers of all models, and the one function of them."""

    def __init__(
        self,
        models: list[nn.Module],
        loss_function: Callable[[Tensor, Tensor], Tensor],
        own_batches: bool,
        chunk_size: int | None,
    ) -> None:
        self.models = models
        first = models[0]
        names = {name for name, p in first.named_parameters() if p.requires_grad}
        stacked, buffers = torch.func.stack_module_state(models)
        stacked = {name: p.detach() for name, p in stacked.items()}
        self.free = {name: p for name, p in stacked.items() if name in names}
        self.fixed = {name: p for name, p in stacked.items() if name not in names} | buffers

        def value(free: dict, fixed: dict, x: Tensor, y: Tensor) -> Tensor:
            return loss_function(torch.func.functional_call(first, free | fixed, (x,)), y)

        def right(free: dict, fixed: dict, x: Tensor, labels: Tensor) -> Tensor:
            outputs = torch.func.functional_call(first, free | fixed, (x,))
            return (outputs.argmax(1) == labels).double().mean()

        batch = 0 if own_batches else None
        self._gradients = torch.func.vmap(
            torch.func.grad_and_value(value), (0, 0, batch, batch), chunk_size=chunk_size
        )
        self._right = torch.func.vmap(right, (0, 0, None, None), chunk_size=chunk_size)

    def gradients(self, inputs: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return self._gradients(self.free, self.fixed, inputs, targets)

    def accuracy(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return self._right(self.free, self.fixed, inputs, labels)

    def write_back(self) -> None:
        with torch.no_grad():
            for i, model in enumerate(self.models):
                for name, p in model.named_parameters():
                    if name in self.free:
                        p.copy_(self.free[name][i])


def _draw(
    inputs: Tensor,
    targets: Tensor,
    batch_size: int | None,
    generators: Sequence[torch.Generator] | None,
    count: int,
) -> Callable[[], tuple[Tensor, Tensor]]:
    """What returns the data of each step: the whole, or (M, batch_size, ...)."""
    if batch_size is None:
        return lambda: (inputs, targets)
    generators = list(generators or [])
    if len(generators) != count or len({id(g) for g in generators}) != count:
        raise ValueError(
            f"generators must be {count} different torch.Generators when batch_size is given, "
            f"got {len(generators)}"
        )
    batches = [make_batches(inputs, targets, batch_size, generator) for generator in generators]

    def draw() -> tuple[Tensor, Tensor]:
        chosen = torch.stack([batch.indices() for batch in batches]).to(inputs.device)
        return inputs[chosen], targets[chosen]

    return draw


def _checked_models(models: Sequence[nn.Module]) -> list[nn.Module]:
    models = list(models)
    if not models:
        raise ValueError("models must hold at least one model, got none")
    first = _architecture(models[0])
    for i, model in enumerate(models):
        if _architecture(model) != first:
            raise ValueError(f"models must be of one architecture, number {i} is not that of 0")
    tensors = [p for model in models for p in model.parameters()]
    if len({id(p) for p in tensors}) < len(tensors):
        raise ValueError("models must share no parameter with each other")
    return models


def _architecture(model: nn.Module) -> tuple:
    parameters = [
        (name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()
    ]
    return str(model), model.training, parameters


def _check_evaluation(evaluate: tuple[Tensor, Tensor]) -> None:
    if len(evaluate) != 2 or len(evaluate[0]) != len(evaluate[1]) or len(evaluate[0]) == 0:
        lengths = [len(part) for part in evaluate]
        raise ValueError(
            f"evaluate must be inputs and labels of the same length, at least 1; got {lengths}"
        )
