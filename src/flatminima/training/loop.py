"""The loop inside `flatminima.training`: its batches, its updates, its record, its checkpoints."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from flatminima._validation import positive_float, positive_int
from flatminima.training import checkpoint
from flatminima.training.probes import Probe, State, trainable, training_loss

DIVERGENCE_FACTOR = 1e4
"""A run has diverged when its loss is not finite or exceeds this many times the larger of its first
value and the loss of an all-zero output. The second keeps a run that starts near a minimum, where
the first loss says nothing about the scale of the problem, from being called diverged when an
instability merely lifts it."""

# What a checkpoint holds of the loop itself, besides tensors.
_SCALARS = ("step", "reached", "finished", "diverged_at", "seconds", "ceiling")


@dataclass(frozen=True)
class History:
    """What a run did. Arrays end where it ended: a diverged run keeps only what came before.

    Attributes:
        learning_rate: the step size, of the first update if it changes.
        steps: (T,) number of updates made before each loss was measured: 0, 1, ...
        loss: (T,) training loss; on minibatches, the loss of the batch of that step.
        gradient_norm: (T,) Euclidean norm of the gradient of that loss over all parameters.
        probe_steps: (P,) the steps at which the probes were called.
        probes: name -> (P,) or (P, ...) values of the probe.
        diverged: whether the loss became non-finite or too large, see DIVERGENCE_FACTOR.
        diverged_at: the first step whose loss did so, else None.
        seconds: wall time of the loop, probes included, over all sittings of a resumed run.
        learning_rates: (T,) step size of the update that follows each loss; None: constant.
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
    learning_rates: np.ndarray | None = None


class Descent:
    """The update of plain gradient descent."""

    optimizer = None

    def __init__(self, parameters: list[Tensor]) -> None:
        self.parameters = parameters

    def apply(self, gradients: Sequence[Tensor], rate: float, *_: object) -> None:
        with torch.no_grad():
            torch._foreach_add_(self.parameters, gradients, alpha=-rate)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class ByOptimizer:
    """The update of an optimizer of PyTorch."""

    def __init__(
        self, parameters: list[Tensor], optimizer: torch.optim.Optimizer, scheduled: bool
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if own != {id(p) for p in parameters}:
            raise ValueError(
                "optimizer must hold the trainable parameters of the model, all of them and no "
                f"others: got {len(own)} tensors where the model has {len(parameters)}, or others"
            )
        self.parameters = parameters
        self.optimizer = optimizer
        self.scheduled = scheduled

    def rate(self, step: int) -> float:
        """The rate of the first group, as it is now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def apply(
        self,
        gradients: Sequence[Tensor],
        rate: float,
        value: Tensor,
        evaluate: Callable[[], Tensor],
    ) -> None:
        if self.scheduled:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
        first = True

        def closure() -> Tensor:
            # The first call is answered by what has just been computed at these parameters.
            nonlocal first
            if first:
                first = False
                return value.detach()
            again = evaluate()
            self._set(torch.autograd.grad(again, self.parameters))
            return again.detach()

        self._set(gradients)
        self.optimizer.step(closure)
        self._set([None] * len(self.parameters))

    def _set(self, gradients: Iterable[Tensor | None]) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)


class Loop:
    """One run: what it does, where it is, and what it has recorded."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        loss_function: Callable[[Tensor, Tensor], Tensor],
        update: Descent | ByOptimizer,
        rates: np.ndarray,
        target_loss: float | None = None,
    ) -> None:
        self.model, self.inputs, self.targets = model, inputs, targets
        self.loss_function = loss_function
        self.update, self.rates, self.target_loss = update, rates, target_loss
        self.parameters = trainable(model)
        self.steps = len(rates) - 1
        self.step = 0
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.probe_steps: list[int] = []
        self.reached = self.finished = False
        self.diverged_at: int | None = None
        self.seconds = 0.0

    def use_batches(self, batch_size: int | None, generator: torch.Generator | None) -> None:
        self.batch_size = batch_size
        self.batches = make_batches(self.inputs, self.targets, batch_size, generator)

    def use_probes(self, probes: Mapping[str, Probe] | None, every: int) -> None:
        self.probes = dict(probes or {})
        self.values: dict[str, list] = {name: [] for name in self.probes}
        self.probe_every = positive_int("probe_every", every)

    def diverge_beyond(self, factor: float) -> None:
        self.factor = positive_float("divergence_factor", factor)
        zero = loss_of_zero(self.model, self.inputs, self.targets, self.loss_function)
        self.ceiling = self.factor * zero

    def use_checkpoint(self, path: str | os.PathLike | None, every: int) -> None:
        """Go on from the checkpoint if there is one, after a look at whether it is of this run."""
        self.checkpoint: Path | None = None
        self.checkpoint_every = positive_int("checkpoint_every", every)
        if path is None:
            return
        self.checkpoint = checkpoint.as_path("checkpoint", path)
        parts = {
            "learning_rate or steps": self.rates.tolist(),
            "loss": self.loss_function.__name__,
            "target_loss": self.target_loss,
            "batch_size": self.batch_size,
            "generator": self.batches.state_dict(),
            "probes": list(self.probes),
            "probe_every": self.probe_every,
            "divergence_factor": self.factor,
            "optimizer": [type(self.update.optimizer).__name__, self.update.state_dict()],
            "inputs": self.inputs,
            "targets": self.targets,
            "model": self.model.state_dict(),
        }
        self.identity = {name: checkpoint.fingerprint(part) for name, part in parts.items()}
        if self.checkpoint.exists():
            self._load(checkpoint.load(self.checkpoint))

    def run(self, label: str, progress: bool) -> None:
        begun = time.perf_counter()
        earlier = self.seconds
        with tqdm(
            total=self.steps, initial=self.step, desc=label, disable=not progress,
            mininterval=1.0, ncols=80,
        ) as bar:  # fmt: skip
            while not self.finished:
                self._advance()
                self.seconds = earlier + time.perf_counter() - begun
                if not self.finished:
                    bar.update()
                if self.checkpoint and (self.finished or self.step % self.checkpoint_every == 0):
                    self._save()

    def _advance(self) -> None:
        """Measure the loss and its gradient where the model is; then update it, or finish."""
        inputs, targets = next(self.batches)

        def evaluate() -> Tensor:
            return self.loss_function(self.model(inputs), targets)

        value = evaluate()
        measured = value.item()
        if self.step == 0:
            self.ceiling = max(self.ceiling, self.factor * measured)
        if not self._fine(measured):
            return self._diverge()
        gradients = torch.autograd.grad(value, self.parameters)
        norm = torch.stack(torch._foreach_norm(gradients)).norm().item()
        if not math.isfinite(norm):
            return self._diverge()
        self.reached = self.target_loss is not None and measured <= self.target_loss
        last = self.reached or self.step == self.steps
        if self.probes and (self.step % self.probe_every == 0 or last):
            state = State(
                self.step, self.model, self.inputs, self.targets, self.loss_function,
                float(self.rates[self.step]), self.update.optimizer,
            )  # fmt: skip
            if self.batch_size is not None and not self._fine(training_loss(state)):
                return self._diverge()
            self.probe_steps.append(self.step)
            for name, probe in self.probes.items():
                self.values[name].append(probe(state))
        self.losses.append(measured)
        self.norms.append(norm)
        if last:
            self.finished = True
            return None
        self.update.apply(gradients, float(self.rates[self.step]), value, evaluate)
        self.step += 1
        return None

    def _fine(self, loss: float) -> bool:
        return math.isfinite(loss) and loss <= self.ceiling

    def _diverge(self) -> None:
        self.diverged_at, self.finished = self.step, True

    def history(self) -> History:
        kept = len(self.losses)
        return History(
            learning_rate=float(self.rates[0]),
            steps=np.arange(kept),
            loss=np.array(self.losses),
            gradient_norm=np.array(self.norms),
            probe_steps=np.array(self.probe_steps, dtype=int),
            probes={name: np.array(values) for name, values in self.values.items()},
            diverged=self.diverged_at is not None,
            diverged_at=self.diverged_at,
            seconds=self.seconds,
            learning_rates=self.rates[:kept].copy(),
        )

    def _save(self) -> None:
        content = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "update": self.update.state_dict(),
            "batches": self.batches.state_dict(),
            "probes": {
                name: probe.state_dict()
                for name, probe in self.probes.items()
                if hasattr(probe, "state_dict")
            },
            "values": {
                name: [torch.as_tensor(np.asarray(value)) for value in values]
                for name, values in self.values.items()
            },
            "probe_steps": self.probe_steps,
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "norms": torch.tensor(self.norms, dtype=torch.float64),
        }
        content |= {name: getattr(self, name) for name in _SCALARS}
        checkpoint.save(self.checkpoint, content)

    def _load(self, content: dict[str, Any]) -> None:
        other = [
            name for name, part in self.identity.items() if content["identity"].get(name) != part
        ]
        if other:
            raise ValueError(
                f"checkpoint {self.checkpoint} is of another run: it began with another "
                f"{', '.join(other)}. A run resumes only when it is started as it was before"
            )
        self.model.load_state_dict(content["model"])
        self.update.load_state_dict(content["update"])
        self.batches.load_state_dict(content["batches"])
        for name, state in content["probes"].items():
            if hasattr(self.probes[name], "load_state_dict"):
                device = self.inputs.device
                moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state.items()}
                self.probes[name].load_state_dict(moved)
        self.values = {
            name: [value.numpy()[()] for value in values]
            for name, values in content["values"].items()
        }
        self.probe_steps = content["probe_steps"]
        self.losses, self.norms = content["losses"].tolist(), content["norms"].tolist()
        for name in _SCALARS:
            setattr(self, name, content[name])


def loss_of_zero(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss_function: Callable[[Tensor, Tensor], Tensor],
) -> float:
    """Loss of an output that is zero on every example, the scale of the problem."""
    with torch.no_grad():
        outputs = model(inputs[:1])
        return float(loss_function(outputs.new_zeros(len(inputs), outputs.shape[1]), targets))


class WholeBatch:
    """Endless sequence of the whole data."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.pair = inputs, targets

    def __next__(self) -> tuple[Tensor, Tensor]:
        return self.pair

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class ShuffledBatches:
    """Endless sequence of batches, a fresh permutation for each epoch."""

    def __init__(
        self, inputs: Tensor, targets: Tensor, batch_size: int, generator: torch.Generator
    ) -> None:
        self.inputs, self.targets = inputs, targets
        self.batch_size, self.generator = batch_size, generator
        self.order = torch.empty(0, dtype=torch.int64)
        self.first = 0

    def __next__(self) -> tuple[Tensor, Tensor]:
        chosen = self.indices().to(self.inputs.device)
        return self.inputs[chosen], self.targets[chosen]

    def indices(self) -> Tensor:
        """Positions (batch_size,) of the next batch, on the CPU."""
        if self.first + self.batch_size > len(self.order):
            self.order = torch.randperm(len(self.inputs), generator=self.generator)
            self.first = 0
        chosen = self.order[self.first : self.first + self.batch_size]
        self.first += self.batch_size
        return chosen

    def state_dict(self) -> dict[str, Any]:
        state = {"order": self.order, "first": self.first}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.first = state["order"], state["first"]
        self.generator.set_state(state["generator"])


def make_batches(
    inputs: Tensor, targets: Tensor, batch_size: int | None, generator: torch.Generator | None
) -> WholeBatch | ShuffledBatches:
    """Endless sequence of batches, as `gradient_descent` says; arguments are checked at once."""
    n = len(inputs)
    if batch_size is None:
        return WholeBatch(inputs, targets)
    batch_size = positive_int("batch_size", batch_size)
    if batch_size > n:
        raise ValueError(f"batch_size must be at most the {n} examples given, got {batch_size}")
    if generator is None:
        raise ValueError("generator must be a torch.Generator when batch_size is given, got None")
    return ShuffledBatches(inputs, targets, batch_size, generator)
