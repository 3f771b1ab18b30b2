"""Does a larger learning rate end in a flatter minimum, at the same loss, and does it help?

Full-batch gradient descent in three stages:

1. *Approach*: at a small rate eta_0, down to ``start_loss``, the same for all runs. The sharpness
   there is lambda_1; the runs of one seed are still identical.
2. *Large rate*: at eta = factor * 2 / lambda_1 for at most ``large_steps`` steps, or until the loss
   is within MARGIN of the target. Below factor 1 this is stable at first, above it is not.
3. *Cooling*: at eta_0 / 2, until the loss is ``target_loss``, the same for all runs, or for
   ``max_steps`` steps. Its edge, 4 / eta_0, is far above the sharpness of any run, so that the
   cooling itself flattens nothing.

Measured at the matched loss: sharpness, trace, three measures that know of the size of the weights,
test accuracy. A run that does not reach the target is kept, with ``reached`` false.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from flatminima import curvature, datasets, models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.training import History, probes, train_to_loss
from study.experiments.stages import AT_THE_END, COOLING, spread
from study.results import Experiment

__all__ = [
    "EXPERIMENT",
    "FACTORS",
    "MARGIN",
    "PROBE_EVERY",
    "RADIUS",
    "SAMPLES",
    "SEEDS",
    "TOLERANCES",
    "Config",
    "account",
    "build",
    "grid",
    "measure",
    "run",
]

MARGIN = 1.25
"""The large rate stops at this many times the target loss, so that every run is cooled."""
PROBE_EVERY = 20
"""Steps between two measurements of the sharpness at the large rate."""
RADIUS = 0.1
"""Size of the noise of the average-case sharpness, relative to each weight."""
SAMPLES = 20
"""Random directions for each of the measures that are averages."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        factor: learning rate of the second stage in units of 2 / lambda_1.
        seed: a whole number.
        dataset, n_train: as `datasets.load` takes them.
        model: ``"mlp"`` (two hidden layers of ``width``) or ``"cnn"`` (blocks of ``width`` and
            twice that).
        width, activation: as `models` takes them.
        loss: ``"mse"`` or ``"cross_entropy"``.
        small_rate: eta_0.
        start_loss, target_loss: where the first stage and the run end.
        large_steps: steps at the large rate, at most.
        max_steps: steps of the first and of the third stage, at most.
        device: ``"cpu"`` or ``"cuda"``.
    """

    factor: float
    seed: int
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    model: str = "mlp"
    width: int = 64
    activation: str = "tanh"
    loss: str = "mse"
    small_rate: float = 0.025
    start_loss: float = 0.08
    target_loss: float = 0.02
    large_steps: int = 400
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The three stages and the measurements after them; see the columns in `TOLERANCES`.

    Raises:
        sweep.Diverged: if the large rate diverges; the values are those measured before.
        RuntimeError: if the first stage does not come down to its loss.
    """
    data = datasets.load(config.dataset, n_train=config.n_train, seed=config.seed)
    images = data.x_train.to(config.device), data.y_train.to(config.device)
    test = data.x_test.to(config.device), data.y_test.to(config.device)
    model = build(config, data)
    risk = EmpiricalRisk(model, config.loss, images)

    approach = train_to_loss(
        risk,
        config.start_loss,
        config.max_steps,
        learning_rate=config.small_rate,
        progress=False,
    )
    if not approach.reached:
        raise RuntimeError(f"the loss was still {approach.loss:g} after {approach.steps} steps")
    sharpness = curvature.sharpness(risk)
    rate = config.factor * 2 / sharpness
    values: dict[str, object] = {
        "start_steps": approach.steps,
        "start_sharpness": sharpness,
        "start_accuracy": probes.Accuracy(*test).of(model),
        "learning_rate": rate,
    }

    large = train_to_loss(
        risk,
        MARGIN * config.target_loss,
        config.large_steps,
        learning_rate=rate,
        probes={"sharpness": probes.Sharpness()},
        probe_every=PROBE_EVERY,
        progress=False,
    )
    values |= account(large.history, rate)
    if large.history.diverged:
        raise sweep.Diverged(f"at step {large.history.diverged_at} of the large rate", values)

    cooling = train_to_loss(
        risk,
        config.target_loss,
        config.max_steps,
        learning_rate=config.small_rate / 2,
        progress=False,
    )
    values |= {
        "reached": cooling.reached,
        "cooling_steps": cooling.steps,
        "final_loss": cooling.loss,
        "undershoot": cooling.undershoot,
    }
    return values | measure(risk, EmpiricalRisk(model, config.loss, test))


def build(config: Config, data: datasets.Dataset) -> nn.Sequential:
    """The untrained network of a run."""
    shape, outputs = tuple(data.x_train.shape[1:]), len(data.classes)
    options = {"seed": config.seed, "device": config.device}
    if config.model == "mlp":
        widths = [int(np.prod(shape)), config.width, config.width, outputs]
        return models.mlp(widths, config.activation, **options)
    if config.model == "cnn":
        channels = [config.width, 2 * config.width]
        options |= {"input_shape": shape, "outputs": outputs}
        return models.cnn(channels, config.activation, **options)
    raise ValueError(f"model must be mlp or cnn, got {config.model!r}")


def account(history: History, rate: float) -> dict[str, object]:
    r"""What happened at the large rate.

    ``budget`` carries the instability budget of Theorem D7, :math:`\sum_t \eta^2 r_t^2`, over to a
    network: under the squared loss :math:`2L` is the mean squared residual, and the part of it that
    an instability adds is what exceeds the running minimum of the loss. It is 0 for a descent that
    never rises. ``after_first`` is the sharpness at the first probe after the first episode, which
    the reflection law (Theorem D8) puts at 4 / eta - start_sharpness to leading order.
    """
    loss = history.loss
    above = loss - np.minimum.accumulate(loss)
    episodes = history.episodes()
    later = np.flatnonzero(history.probe_steps >= episodes[0].end) if episodes else []
    measured = history.probes["sharpness"]
    return {
        "large_steps_made": len(loss) - 1,
        "large_loss": loss[-1] if len(loss) else None,
        "highest_loss": loss.max() if len(loss) else None,
        "episodes": len(episodes),
        "budget": float(np.sum(rate**2 * 2 * above)),
        "large_sharpness": measured[-1] if len(measured) else None,
        "lowest_sharpness": measured.min() if len(measured) else None,
        "after_first": measured[later[0]] if len(later) else None,
    }


def measure(risk: EmpiricalRisk, test: EmpiricalRisk) -> Mapping[str, object]:
    """Flatness by five measures, and how well the network does on images it has not seen.

    Args:
        risk: of the training images.
        test: of the same model, on images and labels that it has not seen.
    """
    generator = torch.Generator().manual_seed(0)
    hessian = risk.hessian()
    trace = curvature.trace(hessian, products=3 * SAMPLES, generator=generator)
    options = {"samples": SAMPLES, "generator": generator}
    sharpness = curvature.sharpness(hessian)
    last = [p for p in risk.parameters if p.ndim == 2][-1]
    relative = curvature.relative_flatness(risk, last, **options)
    adaptive = curvature.adaptive_sharpness(risk, generator=generator)
    # Last, since it moves the parameters, and puts them back: the operator would not know.
    average = curvature.average_sharpness(risk, radius=RADIUS, **options)
    return {
        "sharpness": sharpness,
        "trace": trace.value,
        "trace_error": trace.error,
        "adaptive_sharpness": adaptive,
        "average_sharpness": average.value,
        "average_sharpness_error": average.error,
        "relative_flatness": relative.value,
        "relative_flatness_error": relative.error,
        "test_accuracy": probes.Accuracy(*test.data).of(test.model),
        "test_loss": test.value(),
    }


FACTORS = (0.5, 0.9, 1.1, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 4.0)
SEEDS = range(5)


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "large_steps": 200, "target_loss": 0.04}
        return [Config(factor, seed, **small) for factor in (0.5, 2.0, 6.0) for seed in range(3)]
    if preset == "default":
        return [Config(factor, seed) for factor in FACTORS for seed in SEEDS]
    cifar = {"dataset": "cifar10", "n_train": 5000, "device": "cuda", "max_steps": 20_000}
    settings = [
        {**cifar, "model": "mlp", "width": 200},
        {**cifar, "model": "cnn", "width": 32},
        {"dataset": "fashion-mnist", "n_train": 60_000, "device": "cuda", "width": 200},
    ]
    return [Config(f, seed, **s) for s in settings for f in FACTORS for seed in SEEDS]


# Once past its first steps the first stage is stable, and what rounding does there stays small: run
# in float64 instead of float32, its values change by less than 1e-6 of themselves. So the sharpness
# is as accurate as the eigensolver, 1e-4 on either side; the loss may cross its level one step
# apart, of 250 or more; and an image or two of 2,000 may change sides. After an instability nothing
# is reproducible on another processor but in distribution.
TOLERANCES = {
    "start_steps": 4e-3,
    "start_sharpness": 2e-4,
    "start_accuracy": 2e-3,
    "learning_rate": 2e-4,
    **spread(
        "large_steps_made",
        "large_loss",
        "highest_loss",
        "episodes",
        "budget",
        "large_sharpness",
        "lowest_sharpness",
        "after_first",
        *COOLING,
        *AT_THE_END,
    ),
}

EXPERIMENT = Experiment(
    name="flatness",
    summary="Flatness and test accuracy at matched loss after a stretch at a large learning rate",
    function=run,
    grid=grid,
    depends_on=(
        "flatminima.training.loop",
        "flatminima.curvature.eigensolver",
        "flatminima.curvature.operator",
        "flatminima.curvature.preconditioned",
        "flatminima.curvature.spectrum",
        "flatminima.datasets",
        "flatminima.curvature.measures",
        "flatminima.training.episodes",
        "flatminima.models",
        "flatminima.training.probes",
        "flatminima.training",
    ),
    tolerances=TOLERANCES,
)
