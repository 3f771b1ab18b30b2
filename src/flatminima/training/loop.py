"""The ways to train: plain descent or any optimizer, full batch or minibatches."""

import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from flatminima._progress import bar
from flatminima._validation import (
    a_function,
    a_path,
    instance_of,
    positive_float,
    positive_int,
    shown,
)
from flatminima.curvature.risk import EmpiricalRisk
from flatminima.training import checkpoint as files
from flatminima.training._batches import check_data, loss_of_zero, make_batches, scalar, undisturbed
from flatminima.training._updates import ByOptimizer, Descent, Evaluation
from flatminima.training.history import Cooling, History
from flatminima.training.probes import Probe, State

__all__ = [
    "DIVERGENCE_FACTOR",
    "gradient_descent",
    "train",
    "train_to_loss",
]

DIVERGENCE_FACTOR = 1e4
"""A run has diverged when its loss is not finite or exceeds this many times the larger of its first
value and the loss of an all-zero output. The second keeps a run that starts near a minimum, where
the first loss says nothing about the scale of the problem, from being called diverged when an
instability merely lifts it."""

Schedule = float | Callable[[int], float] | Sequence[tuple[int, float]]
"""A learning rate: a number; a function of the step; or phases, (first step, rate) in order, as in
``[(0, 0.1), (500, 0.01)]``: 0.1 for the updates 0 to 499, and 0.01 from there on."""

# What a checkpoint holds of the loop itself, besides tensors.
_SCALARS = ("step", "finished", "diverged_at", "seconds", "ceiling")


def train(
    risk: EmpiricalRisk,
    steps: int,
    *,
    learning_rate: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    target_loss: float | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    noise: str = "epochs",
    probes: Mapping[str, Probe] | None = None,
    probe_every: int = 1,
    divergence_factor: float = DIVERGENCE_FACTOR,
    progress: bool | str = True,
    checkpoint: str | os.PathLike | None = None,
    checkpoint_every: int = 1000,
) -> History:
    r"""Train the model of ``risk`` in place, by plain descent or by an optimizer of PyTorch.

    Plain descent is :math:`\theta \leftarrow \theta - \eta_t \nabla R(\theta)`. Calling it again
    goes on from where the model is. Without ``batch_size`` every step uses the whole data (of a
    risk in batches, their gradients are added up), and is deterministic on a CPU. With it, each
    epoch goes once through a fresh permutation in batches of that size; a remainder that fills no
    batch is left out of that epoch. The model stays in the mode it is in.

    An optimizer is given a closure at each step, so that those which ask for the loss, or evaluate
    it more than once, work too. It goes on from its state; a checkpoint holds that state.

    Args:
        risk: a model, a loss and data, on one device. Of a pair (inputs, targets), inputs being
            one tensor, both have n examples, and floating-point inputs the dtype of the model.
        steps: updates at most; the loss is recorded steps + 1 times, first and last included.
        learning_rate: the step size eta > 0, or a `Schedule` of it. With an optimizer it sets the
            rate of every parameter group before each update; None leaves it the rates it has.
        optimizer: over the parameters of the risk, all of them and no others; None for plain
            descent, which needs a ``learning_rate``.
        target_loss: stop at the first training loss at most this, > 0; on the full batch only.
        batch_size: None for the full batch, else 1 <= batch_size <= n; for data in one pair.
        generator: CPU generator of what is drawn; required with batch_size.
        noise: with a batch_size B, ``"epochs"`` for the minibatches said above; ``"independent"``
            for ones drawn anew from all examples at each step; or the whole data with noise of the
            size that such a minibatch's gradient has at the same parameters: ``"covariance"``,
            Gaussian with its covariance, or ``"isotropic"``, without a direction. The latter two
            want a mean loss whose outputs do not depend on other examples.
        probes: name -> function of the `State`, called at step 0, at every ``probe_every``-th
            step, and at the last one. It returns a number, or an array of a constant shape.
        probe_every: steps between two calls of the probes.
        divergence_factor: what a loss must exceed to count as diverged, see DIVERGENCE_FACTOR. On
            minibatches, the loss on the whole data is held to it too wherever probes are called.
        progress: False, or whether to show a progress bar, or its label.
        checkpoint: a file. If it is there, the run goes on from it, which wants the same arguments
            and the same starting model as before: the model is then overwritten. A run that has
            finished is returned as it was. Randomness other than ``generator`` is not kept. One
            that cannot be written is a warning, and the run goes on.
        checkpoint_every: updates between two checkpoints; one more is written at the end.

    Raises:
        TypeError: for a risk that is no `EmpiricalRisk`.
        ValueError: if an argument is outside what is said above, data and model do not fit
            together, or the checkpoint is of another run.
        CorruptCheckpointError: (a ValueError) for a checkpoint that does not match its checksum.

    Example:
        The Adam of PyTorch on four points, with the sharpness at every fifth step:

        >>> import torch
        >>> from flatminima.curvature import EmpiricalRisk
        >>> from flatminima.training import probes
        >>> model, x = torch.nn.Linear(1, 1), torch.tensor([[0.0], [1.0], [2.0], [3.0]])
        >>> risk = EmpiricalRisk(model, "mse", (x, 2 * x))
        >>> adam = torch.optim.Adam(model.parameters(), lr=0.1)
        >>> watched = {"sharpness": probes.Sharpness()}
        >>> run = train(risk, 10, optimizer=adam, probes=watched, probe_every=5, progress=False)
        >>> run.probe_steps.tolist(), run.probes["sharpness"].round(3).tolist()
        ([0, 5, 10], [4.203, 4.203, 4.203])
    """
    if not isinstance(risk, EmpiricalRisk):
        raise TypeError(f"risk must be an EmpiricalRisk, got {type(risk).__name__}")
    check_data(risk)
    if target_loss is not None:
        target_loss = positive_float("target_loss", target_loss)
        if batch_size is not None:
            raise ValueError(
                "target_loss is about the loss on the full batch: give no batch_size, got "
                f"{batch_size}"
            )
    steps = positive_int("steps", steps)
    instance_of("progress", progress, bool, str)
    if generator is not None:
        instance_of("generator", generator, torch.Generator)
    if optimizer is None:
        update: Descent | ByOptimizer = Descent(risk.parameters)
        if learning_rate is None:
            raise ValueError("learning_rate must be given without an optimizer, got None")
    else:
        update = ByOptimizer(risk.parameters, optimizer, learning_rate is not None)
    rates = _rates(update.rate if learning_rate is None else learning_rate, steps)
    loop = Loop(risk, update, rates, target_loss)
    loop.use_batches(batch_size, generator, noise)
    loop.use_probes(probes, probe_every)
    loop.diverge_beyond(divergence_factor)
    loop.use_checkpoint(checkpoint, checkpoint_every)
    label = f"eta = {rates[0]:g}" if optimizer is None else type(optimizer).__name__
    label = label if target_loss is None else f"to {target_loss:g}"
    loop.run(progress if isinstance(progress, str) else label, bool(progress))
    return loop.history()


def gradient_descent(
    risk: EmpiricalRisk, learning_rate: Schedule, steps: int, **options: Any
) -> History:
    r"""Train the model of ``risk`` in place by plain descent: `train` without an optimizer.

    Args:
        risk, learning_rate, steps, options: as `train` takes them.

    Raises:
        TypeError, ValueError: as `train` does.

    Example:
        On a quadratic of curvature 1 each step multiplies the parameter by 1 - eta:

        >>> import torch
        >>> from flatminima.curvature import EmpiricalRisk
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> gradient_descent(risk, 0.5, 3, progress=False).loss.tolist()
        [0.5, 0.125, 0.03125, 0.0078125]
        >>> model.weight.item()
        0.125
    """
    return train(risk, steps, learning_rate=learning_rate, **options)


def train_to_loss(
    risk: EmpiricalRisk,
    target_loss: float,
    max_steps: int,
    *,
    learning_rate: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    **options: Any,
) -> Cooling:
    """Cool: train on the full batch, at a small rate, until the loss is at most ``target_loss``.

    Runs whose losses differ cannot be compared in sharpness or accuracy, since both change as the
    loss falls. Cooled at a small rate they end within one small step of the same loss.

    Args:
        risk, learning_rate, optimizer: as `train` takes them.
        target_loss: where to stop: at the first full-batch training loss at most this, > 0.
        max_steps: updates to make at most. A run that has not arrived by then is returned too,
            with ``reached`` false.
        options: as `train` takes them; probes are called at the first and at the last step only,
            unless ``probe_every`` is given.

    Raises:
        TypeError, ValueError: as `train` does.

    Example:
        >>> import torch
        >>> from flatminima.curvature import EmpiricalRisk
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> risk = EmpiricalRisk(model, "mse", (torch.ones(1, 1), torch.zeros(1, 1)))
        >>> end = train_to_loss(risk, 0.1, 50, learning_rate=0.5, progress=False)
        >>> end.reached, end.steps, end.loss
        (True, 2, 0.03125)
    """
    target_loss = positive_float("target_loss", target_loss)
    options.setdefault("probe_every", positive_int("max_steps", max_steps))
    rate = {"learning_rate": learning_rate, "optimizer": optimizer}
    history = train(risk, max_steps, target_loss=target_loss, **rate, **options)
    loss = float(history.loss[-1]) if len(history.loss) else math.nan
    made = history.diverged_at if history.diverged else len(history.steps) - 1
    return Cooling(
        target_loss=float(target_loss),
        reached=not history.diverged and loss <= target_loss,
        steps=made,
        loss=loss,
        history=history,
    )


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


def _measured(name: str, step: int, value: object) -> object:
    """What a probe returned, on the CPU; ValueError unless it is a number or an array of them."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()[()]
    try:
        kind = np.asarray(value).dtype.kind
    except ValueError:
        kind = "ragged"
    if kind not in ("b", "i", "u", "f"):
        raise ValueError(
            f"the probe {name!r} must return a number or an array of real numbers, got at step "
            f"{step} {shown(value)}"
        )
    return value


class Loop:
    """One run: what it does, where it is, and what it has recorded."""

    def __init__(
        self,
        risk: EmpiricalRisk,
        update: Descent | ByOptimizer,
        rates: np.ndarray,
        target_loss: float | None = None,
    ) -> None:
        self.risk, self.update, self.rates, self.target_loss = risk, update, rates, target_loss
        self.steps = len(rates) - 1
        self.step = 0
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.probe_steps: list[int] = []
        self.finished = False
        self.diverged_at: int | None = None
        self.seconds = 0.0

    def use_batches(
        self, batch_size: int | None, generator: torch.Generator | None, noise: str
    ) -> None:
        self.batch_size, self.noise = batch_size, noise
        self.batches = make_batches(self.risk, batch_size, generator, noise)

    def use_probes(self, probes: Mapping[str, Probe] | None, every: int) -> None:
        self.probes = dict(instance_of("probes", {} if probes is None else probes, Mapping))
        for name, probe in self.probes.items():
            a_function(f"the probe {name!r} of probes", probe)
        self.values: dict[str, list] = {name: [] for name in self.probes}
        self.probe_every = positive_int("probe_every", every)

    def diverge_beyond(self, factor: float) -> None:
        self.factor = positive_float("divergence_factor", factor)
        self.ceiling = self.factor * loss_of_zero(self.risk)

    def use_checkpoint(self, path: str | os.PathLike | None, every: int) -> None:
        """Go on from the checkpoint if there is one, after a look at whether it is of this run."""
        self.checkpoint: Path | None = None
        self.checkpoint_every = positive_int("checkpoint_every", every)
        if path is None:
            return
        self.checkpoint = a_path("checkpoint", path)
        if self.checkpoint.is_dir():
            raise ValueError(f"checkpoint must be the path of a file, got a folder, {path}")
        parts = {
            "learning_rate or steps": self.rates.tolist(),
            "loss": [self.risk.loss_function, self.risk.reduction],
            "target_loss": self.target_loss,
            "batch_size": self.batch_size,
            "noise": self.noise,
            "generator": self.batches.state_dict(),
            "probes": self.probes,
            "probe_every": self.probe_every,
            "divergence_factor": self.factor,
            "optimizer": [type(self.update.optimizer).__name__, self.update.state_dict()],
            "data": list(self.risk.batches()),
            "model": self.risk.model,
        }
        self.identity = {name: files.fingerprint(part) for name, part in parts.items()}
        if self.checkpoint.exists():
            self._load(files.load(self.checkpoint))

    def run(self, label: str, progress: bool) -> None:
        begun = time.perf_counter()
        earlier = self.seconds
        options = {"total": self.steps, "initial": self.step, "desc": label}
        with (
            bar(**options, disable=not progress, mininterval=1.0, ncols=80) as display,
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            while not self.finished:
                self._advance()
                self.seconds = earlier + time.perf_counter() - begun
                if not self.finished:
                    display.update()
                if self.checkpoint and (self.finished or self.step % self.checkpoint_every == 0):
                    self._save()

    def _advance(self) -> None:
        """Measure the loss and its gradient where the model is; then update it, or finish."""
        self.batches.advance()
        value, gradients = self._evaluate()
        measured = value.item()
        if self.step == 0:
            self.ceiling = max(self.ceiling, self.factor * abs(measured))
        norm = torch.stack(torch._foreach_norm(gradients)).norm().item()
        if not self._fine(measured) or not math.isfinite(norm):
            return self._diverge()
        reached = self.target_loss is not None and measured <= self.target_loss
        last = reached or self.step == self.steps
        if self.probes and (self.step % self.probe_every == 0 or last):
            if self.batch_size is not None and not self._fine(self.risk.value()):
                return self._diverge()
            rate = float(self.rates[self.step])
            state = State(self.step, self.risk, rate, self.update.optimizer)
            self.probe_steps.append(self.step)
            with undisturbed(self.risk.model):
                for name, probe in self.probes.items():
                    self.values[name].append(_measured(name, self.step, probe(state)))
        self.losses.append(measured)
        self.norms.append(norm)
        if last:
            self.finished = True
            return None
        self.update.apply(float(self.rates[self.step]), (value, gradients), self._evaluate)
        self.step += 1
        return None

    def _evaluate(self) -> Evaluation:
        """The loss of the present batch and its gradient, term by term."""
        total: Tensor | None = None
        for weight, loss in self.batches.terms():
            value = scalar(loss())
            parts = torch.autograd.grad(
                value, self.risk.parameters, allow_unused=True, materialize_grads=True
            )
            value = value.detach()
            if weight != 1:
                value, parts = weight * value, torch._foreach_mul(parts, weight)
            if total is None:
                total, gradients = value, parts
            else:
                total, gradients = total + value, torch._foreach_add(gradients, parts)
        if total is None:
            raise ValueError("data must hold at least one batch, got none")
        return total, gradients

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
            "model": self.risk.model.state_dict(),
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
        try:
            files.save(self.checkpoint, content)
        except OSError as error:
            # Better to lose the checkpoint than the run.
            warnings.warn(
                f"checkpoint {self.checkpoint} could not be written at step {self.step} ({error}); "
                "the run goes on, and what was written before stays",
                stacklevel=2,
            )

    def _load(self, content: dict[str, Any]) -> None:
        other = [
            name for name, part in self.identity.items() if content["identity"].get(name) != part
        ]
        if other:
            raise ValueError(
                f"checkpoint {self.checkpoint} is of another run: it began with another "
                f"{', '.join(other)}. A run resumes only when it is started as it was before"
            )
        self.risk.model.load_state_dict(content["model"])
        self.update.load_state_dict(content["update"])
        self.batches.load_state_dict(content["batches"])
        for name, state in content["probes"].items():
            if hasattr(self.probes[name], "load_state_dict"):
                device = self.risk.device
                moved = tree_map_only(Tensor, lambda t, device=device: t.to(device), state)
                self.probes[name].load_state_dict(moved)
        self.values = {
            name: [value.numpy()[()] for value in values]
            for name, values in content["values"].items()
        }
        self.probe_steps = content["probe_steps"]
        self.losses, self.norms = content["losses"].tolist(), content["norms"].tolist()
        for name in _SCALARS:
            setattr(self, name, content[name])
