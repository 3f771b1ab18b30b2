"""Does sharpness tell which of several trained networks does better, across ways of training?

The same images, the same final training loss, the same last stage; what differs is the way there:

================== =================================================================================
``gd-small``       full-batch gradient descent at ``small_rate``
``gd-large``       the same at ``large_rate``, three times larger, for which 2/eta is in reach
``gd-small-init``  ``gd-small`` from initial weights of half the size
``gd-large-init``  ``gd-small`` from initial weights 1.5 times the size
``sgd``            minibatches of 32 at ``small_rate`` for ``sgd_steps`` steps
``adam``           Adam on the full batch at a rate of 1e-3
================== =================================================================================

Each is followed by full-batch descent at half the small rate, until the training loss is
``target_loss``. Measured at that loss: sharpness, four other measures of flatness, test accuracy.
"""

from dataclasses import dataclass

import torch

from flatminima import datasets, models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent, train_to_loss
from study.experiments.flatness import MARGIN, measure
from study.experiments.stages import AT_THE_END, COOLING, spread
from study.results import Experiment

__all__ = [
    "ARCHITECTURES",
    "EXPERIMENT",
    "INIT",
    "METHODS",
    "Config",
    "grid",
    "network",
    "run",
]

METHODS = ("gd-small", "gd-large", "gd-small-init", "gd-large-init", "sgd", "adam")
INIT = {"gd-small-init": 0.5, "gd-large-init": 1.5}
ARCHITECTURES = {
    "tanh": ("tanh", 2, 1.0),
    "relu": ("relu", 2, 0.6),
    "deep": ("tanh", 4, 1.0),
}
"""Activation, hidden layers, and size of the initial weights: with ReLU smaller, since at the usual
size these networks begin above 2/eta."""


@dataclass(frozen=True)
class Config:
    """One run; the seed chooses the training images, the initial weights and the minibatches.

    Attributes:
        architecture: a name of ARCHITECTURES, fully connected with layers of ``width`` units.
        method: one of METHODS.
        seed: a whole number.
        small_rate, large_rate: learning rates of gradient descent.
        max_steps: of the main and of the last stage, at most.
    """

    architecture: str
    method: str
    seed: int
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    width: int = 48
    loss: str = "mse"
    small_rate: float = 0.03
    large_rate: float = 0.09
    target_loss: float = 0.05
    sgd_steps: int = 300
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """Train in the way of the config, cool, and measure.

    Raises:
        sweep.Diverged: if either stage diverges.
    """
    data = datasets.load(config.dataset, n_train=config.n_train, seed=config.seed)
    images = data.x_train.to(config.device), data.y_train.to(config.device)
    test = data.x_test.to(config.device), data.y_test.to(config.device)
    model = network(config, data)
    risk = EmpiricalRisk(model, config.loss, images)
    stop = MARGIN * config.target_loss, config.max_steps

    if config.method == "sgd":
        history = gradient_descent(
            risk,
            config.small_rate,
            config.sgd_steps,
            batch_size=32,
            generator=torch.Generator().manual_seed(config.seed),
            progress=False,
        )
    elif config.method == "adam":
        adam = torch.optim.Adam(model.parameters(), lr=1e-3)
        history = train_to_loss(risk, *stop, optimizer=adam, progress=False).history
    else:
        rate = config.large_rate if config.method == "gd-large" else config.small_rate
        history = train_to_loss(risk, *stop, learning_rate=rate, progress=False).history
    values: dict[str, object] = {"steps": len(history.loss) - 1}
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)

    cooling = train_to_loss(
        risk,
        config.target_loss,
        config.max_steps,
        learning_rate=config.small_rate / 2,
        progress=False,
    )
    if cooling.history.diverged:
        raise sweep.Diverged("while it was cooled", values)
    values |= {
        "reached": cooling.reached,
        "cooling_steps": cooling.steps,
        "final_loss": cooling.loss,
        "undershoot": cooling.undershoot,
    }
    return values | measure(risk, EmpiricalRisk(model, config.loss, test))


def network(config: Config, data: datasets.Dataset) -> torch.nn.Sequential:
    """The untrained network of a run."""
    activation, depth, scale = ARCHITECTURES[config.architecture]
    inputs = torch.Size(data.x_train.shape[1:]).numel()
    return models.mlp(
        [inputs, *[config.width] * depth, len(data.classes)],
        activation,
        scale=scale * INIT.get(config.method, 1.0),
        seed=config.seed,
        device=config.device,
    )


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    small = {}
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "sgd_steps": 100, "target_loss": 0.1}
    if preset == "gpu":
        small = {"dataset": "cifar10", "n_train": 5000, "width": 200, "sgd_steps": 3000}
        small |= {"device": "cuda", "max_steps": 30_000}
    seeds = range(3 if preset == "ci" else 8)
    architectures = ["tanh"] if preset == "ci" else ARCHITECTURES
    return [Config(a, m, s, **small) for a in architectures for m in METHODS for s in seeds]


# The last stage is stable but what comes before need not be: a rerun on another processor is held
# to the spread over the seeds.
EXPERIMENT = Experiment(
    name="comparison",
    summary="Flatness and test accuracy at matched loss across optimizers, starts and depths",
    function=run,
    grid=grid,
    depends_on=(
        "study.experiments.flatness",
        "flatminima.training.loop",
        "flatminima.curvature",
        "flatminima.datasets",
        "flatminima.curvature.measures",
        "flatminima.models",
        "flatminima.training.probes",
        "flatminima.training",
    ),
    tolerances=spread("steps", *COOLING, *AT_THE_END),
)
