"""How much of the flattening by SGD is due to instability, and how much to noise?

Gradient descent in three stages, of which the first and the last are the same for all runs:

1. *Approach*: full batch, ``small_rate``, down to ``start_loss``. The runs of one seed are still
   identical, and what they meet next is not the shock of a random start.
2. *Treatment*: ``steps`` updates at ``rate``, on the full batch or on minibatches, or with
   Gaussian noise on the one-hot labels, drawn anew at each step.
3. *Cooling*: full batch, ``small_rate``, until the loss is ``target_loss``. Its edge, at
   2 / small_rate, is meant to be above the sharpness of every run, so that the cooling flattens
   nothing.

=========== ========================================== =========================================
batch       small rate                                 large rate
=========== ========================================== =========================================
full        stable: neither                            past 2/lambda_1: instability alone
minibatch   below the full-batch edge: noise alone     both
=========== ========================================== =========================================

Two further kinds of run guard against a wrong reading. On the full batch at *half* the small rate
nothing is unstable and nothing noisy: if a rate by itself changed the sharpness at matched loss, it
would show here. And noise is stronger, per unit of training time, the longer it acts: minibatches
at the small rate also run for as many more updates as make up the training time, rate times
updates, of the large rate. A run that ends the second stage below the target is kept, and its
``undershoot`` tells.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from flatminima import datasets, models, sweep
from flatminima.curvature import EmpiricalRisk, sharpness
from flatminima.training import History, gradient_descent, probes, train_to_loss
from study.experiments.flatness import measure
from study.experiments.stages import AT_THE_END, COOLING, spread
from study.results import Experiment

__all__ = [
    "BATCHES",
    "EXPERIMENT",
    "LABEL_NOISE",
    "PROBES",
    "TOLERANCES",
    "Config",
    "NoisyOutputs",
    "account",
    "cells",
    "grid",
    "on",
    "run",
    "treat",
]

PROBES = 10
"""Intervals between measurements of the sharpness in the second stage."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images, the initial weights and the noise.

    Attributes:
        rate: learning rate of the second stage.
        batch: size of its minibatches; 0 for the full batch.
        seed: a whole number.
        steps: its updates.
        label_noise: standard deviation of the noise on each one-hot entry, at each step.
        dataset, n_train: as `datasets.load` takes them.
        width: of the two hidden tanh layers.
        loss: ``"mse"``, the only one under which label noise is an additive residual.
        small_rate: learning rate of the other stages.
        start_loss, target_loss: where the first stage and the run end.
        max_steps: updates of the first and of the third stage, at most.
        device: ``"cpu"`` or ``"cuda"``.
    """

    rate: float
    batch: int
    seed: int
    steps: int = 250
    label_noise: float = 0.0
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    width: int = 48
    loss: str = "mse"
    small_rate: float = 0.02
    start_loss: float = 0.15
    target_loss: float = 0.05
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The three stages and the measurements after them; see the columns in `TOLERANCES`.

    Raises:
        sweep.Diverged: if the second or the third stage diverges.
        RuntimeError: if the first stage does not come down to its loss.
    """
    data = datasets.load(config.dataset, n_train=config.n_train, seed=config.seed)
    images = data.x_train.to(config.device), data.y_train.to(config.device)
    test = data.x_test.to(config.device), data.y_test.to(config.device)
    pixels, classes = data.x_train[0].numel(), len(data.classes)
    widths = [pixels, config.width, config.width, classes]
    model = models.mlp(widths, "tanh", seed=config.seed, device=config.device)
    risk = EmpiricalRisk(model, config.loss, images)
    small = {"learning_rate": config.small_rate, "progress": False}

    first = train_to_loss(risk, config.start_loss, config.max_steps, **small)
    if not first.reached:
        raise RuntimeError(f"the loss was still {first.loss:g} after {first.steps} steps")
    values: dict[str, object] = {"start_steps": first.steps, "start_sharpness": sharpness(risk)}

    treated = treat(risk, config)
    values |= account(treated)
    if treated.diverged:
        raise sweep.Diverged(f"at step {treated.diverged_at} of the second stage", values)

    cooling = train_to_loss(risk, config.target_loss, config.max_steps, **small)
    if cooling.history.diverged:
        raise sweep.Diverged("while it was cooled", values)
    values |= {
        "reached": cooling.reached,
        "cooling_steps": cooling.steps,
        "final_loss": cooling.loss,
        "undershoot": cooling.undershoot,
    }
    return values | measure(risk, EmpiricalRisk(model, config.loss, test))


def treat(risk: EmpiricalRisk, config: Config) -> History:
    """The second stage, in place."""
    generator = torch.Generator().manual_seed(config.seed)
    treated = risk
    if config.label_noise:
        noisy = NoisyOutputs(risk.model, config.label_noise, generator)
        treated = EmpiricalRisk(noisy, risk.loss_function, risk.data)
    return gradient_descent(
        treated,
        config.rate,
        config.steps,
        batch_size=config.batch or None,
        generator=generator if config.batch else None,
        probes={
            "sharpness": on(risk, probes.Sharpness()),
            "loss": on(risk, probes.TrainingLoss()),
        },
        probe_every=max(config.steps // PROBES, 1),
        progress=False,
    )


class NoisyOutputs(nn.Module):
    """Outputs with fresh Gaussian noise, which under the squared loss is noise on the labels.

    The residual f + xi - y is that of labels y - xi, and xi has no preferred sign.
    """

    def __init__(self, model: nn.Module, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.scale, self.generator = model, scale, generator

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.model(inputs)
        noise = torch.randn(outputs.shape, generator=self.generator, dtype=outputs.dtype)
        return outputs + self.scale * noise.to(outputs.device)


def on(risk: EmpiricalRisk, probe: probes.Probe) -> probes.Probe:
    """The probe of that risk: where labels are noisy, that of the network itself, without noise."""
    return lambda state: probe(replace(state, risk=risk))


def account(history: History) -> dict[str, object]:
    """What happened in the second stage; None for what a run that diverged at once has not.

    ``late_sharpness`` is the mean over the probes of its second half, ``highest_sharpness`` that of
    all probes after the first update; both are of the full-batch loss.
    """
    sharpness, loss = history.probes["sharpness"], history.probes["loss"]
    late = sharpness[len(sharpness) // 2 :]
    ended = not history.diverged
    return {
        "treated_loss": loss[-1] if ended else None,
        "treated_highest_loss": loss.max() if len(loss) else None,
        "highest_sharpness": sharpness[1:].max() if len(sharpness) > 1 else None,
        "late_sharpness": late.mean() if ended else None,
    }


CONTROL, SMALL, LARGE = 0.01, 0.02, (0.05, 0.08)
BATCHES = (8, 32)
LABEL_NOISE = 1.0
"""About as strong as minibatches of 8. With residuals of variance v per output, the mean gradient
over a batch of B has the noise of labels with variance v / B each, to leading order, if outputs err
independently; the mean over all n with label noise has that of variance LABEL_NOISE**2 / n. At the
loss of 0.1 in the second stage v = 2 * 0.1 / 10, and v / 8 = 0.0025 stands against 1 / 500."""


def grid(preset: str) -> list[Config]:
    """The configs of a preset; its label noise, control and long run are at the small rate."""
    if preset == "ci":
        return cells(range(3), LARGE[1:], BATCHES[:1], width=24)
    if preset == "default":
        return cells(range(7), LARGE, BATCHES)
    cifar = {"dataset": "cifar10", "n_train": 5000, "width": 200, "device": "cuda"}
    cifar |= {"steps": 2000, "start_loss": 0.35, "target_loss": 0.2, "max_steps": 40_000}
    return cells(range(10), LARGE, (8, 32, 128), **cifar)


def cells(
    seeds: range, large: tuple[float, ...], batches: tuple[int, ...], **settings: object
) -> list[Config]:
    """All cells of the decomposition, with the controls."""
    steps = int(settings.pop("steps", Config.steps))
    longer = round(steps * max(large) / SMALL)
    cells = [
        {"rate": rate, "batch": batch, "steps": steps}
        for batch in (0, *batches)
        for rate in (SMALL, *large)
    ]
    cells += [
        {"rate": CONTROL, "batch": 0, "steps": steps},
        {"rate": SMALL, "batch": min(batches), "steps": longer},
        {"rate": SMALL, "batch": 0, "steps": steps, "label_noise": LABEL_NOISE},
    ]
    return [Config(seed=seed, **cell, **settings) for seed in seeds for cell in cells]


# The first stage is stable, and as accurate as said in flatness.py. An instability or
# noise then amplifies rounding: a rerun is held to the spread over the seeds.
TOLERANCES = {
    "start_steps": 1e-2,
    "start_sharpness": 2e-4,
    **spread(
        "treated_loss",
        "treated_highest_loss",
        "highest_sharpness",
        "late_sharpness",
        *COOLING,
        *AT_THE_END,
    ),
}

EXPERIMENT = Experiment(
    name="sgd",
    summary="Flattening by instability and by noise at matched loss, over batch sizes and rates",
    function=run,
    grid=grid,
    depends_on=(
        "study.experiments.flatness",
        "flatminima.training.loop",
        "flatminima.curvature.eigensolver",
        "flatminima.curvature.operator",
        "flatminima.curvature.preconditioned",
        "flatminima.curvature.spectrum",
        "flatminima.datasets",
        "flatminima.curvature.measures",
        "flatminima.models",
        "flatminima.training.probes",
        "flatminima.training",
    ),
    tolerances=TOLERANCES,
)
