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

There were eight seeds first. The spread of the gain at the larger rate over them, and nothing else
of what they showed, decided for a second stage (`power.SECOND`), with the same predictions.
"""

from dataclasses import dataclass

import numpy as np
import torch

from flatminima import models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import History, gradient_descent, train_to_loss
from study.experiments import power, stages
from study.results import Experiment, Result

__all__ = [
    "ARCHITECTURES",
    "EXPERIMENT",
    "METHODS",
    "PAIRS",
    "Config",
    "effects",
    "grid",
    "of_method",
    "predictions",
    "run",
    "train",
]

METHODS = ("gd-small", "gd-large", "gd-small-init", "gd-large-init", "sgd", "adam")
"""The ways of training, see the table above."""
INIT = {"gd-small-init": 0.5, "gd-large-init": 1.5}
ARCHITECTURES = {"tanh": ("tanh", 2, 1.0), "relu": ("relu", 2, 0.6), "deep": ("tanh", 4, 1.0)}
"""Activation, hidden layers, and size of the initial weights: with ReLU smaller, since at the usual
size these networks begin above 2/eta."""
PAIRS = {"rate": ("gd-large", "gd-small"), "init": ("gd-small-init", "gd-large-init")}
"""The two comparisons: the first minus the second."""


@dataclass(frozen=True)
class Config:
    """One run; the seed chooses the training images, the initial weights and the minibatches.

    Attributes:
        architecture: a name of ARCHITECTURES, fully connected with layers of ``width`` units.
        method: one of METHODS.
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
    images, test = stages.images(config)
    model = network(config, tuple(images[0].shape[1:]))
    risk = EmpiricalRisk(model, config.loss, images)
    history = train(risk, config)
    values: dict[str, object] = {"steps": len(history.loss) - 1}
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)
    values = stages.cool(risk, config, config.small_rate / 2, values)
    return values | stages.measure(risk, EmpiricalRisk(model, config.loss, test))


def train(risk: EmpiricalRisk, config: Config) -> History:
    """The stage in which runs differ, in place."""
    if config.method == "sgd":
        generator = torch.Generator().manual_seed(config.seed)
        batches = {"batch_size": 32, "generator": generator, "progress": False}
        return gradient_descent(risk, config.small_rate, config.sgd_steps, **batches)
    rate = config.large_rate if config.method == "gd-large" else config.small_rate
    how: dict[str, object] = {"learning_rate": rate}
    if config.method == "adam":
        how = {"optimizer": torch.optim.Adam(risk.model.parameters(), lr=1e-3)}
    stop = stages.MARGIN * config.target_loss, config.max_steps
    return train_to_loss(risk, *stop, **how, progress=False).history


def network(config: Config, shape: tuple[int, ...]) -> torch.nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    activation, depth, scale = ARCHITECTURES[config.architecture]
    widths = [int(np.prod(shape)), *[config.width] * depth, 10]
    options = {"scale": scale * INIT.get(config.method, 1.0), "device": config.device}
    return models.mlp(widths, activation, seed=config.seed, **options)


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    small = {}
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "sgd_steps": 100, "target_loss": 0.1}
    if preset == "gpu":
        small = {"dataset": "cifar10", "n_train": 5000, "width": 200, "sgd_steps": 3000}
        small |= {"device": "cuda", "max_steps": 30_000}
    seeds = range(3 if preset == "ci" else 8)
    if preset == "default":
        seeds = range(power.SECOND["comparison"].seeds)
    architectures = ["tanh"] if preset == "ci" else ARCHITECTURES
    return [Config(a, m, s, **small) for a in architectures for m in METHODS for s in seeds]


# --- what the runs show


def of_method(stored: Result, value: str, architecture: str, method: str) -> np.ndarray:
    """One value a seed, NaN where the run diverged or missed the target."""
    rows = stored.where(architecture=architecture, method=method)
    values = np.where(stages.reached(rows["reached"]), rows[value].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def effects(stored: Result) -> dict[str, Interval]:
    """The effects over ways of training.

    Returns:
        ``<pair>-<architecture>-<value>`` for PAIRS and the values sharpness and test_accuracy: the
        mean difference over the seeds;
        ``rho-<architecture>-<measure>``: the rank correlation of the measure with test accuracy
        over all ways of training and the seeds that have them all.

    Raises:
        ValueError: if a comparison has fewer than `stages.FEWEST` seeds.
    """
    architectures = list(dict.fromkeys(stored["architecture"].tolist()))
    methods = sorted(set(stored["method"].tolist()))
    found = {}
    for name in architectures:
        for pair, (one, other) in PAIRS.items():
            for value in ("sharpness", "test_accuracy"):
                first, second = (of_method(stored, value, name, m) for m in (one, other))
                found[f"{pair}-{name}-{value}"] = stages.interval(first - second)
        accuracy = np.array([of_method(stored, "test_accuracy", name, m) for m in methods]).T
        for measure in stages.MEASURES:
            x = np.array([of_method(stored, measure, name, m) for m in methods]).T
            kept = np.isfinite(x).all(axis=1)
            found[f"rho-{name}-{measure}"] = stages.correlation(x[kept], accuracy[kept])
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """What held in every architecture.

    ``rate-flatter``, ``rate-better``: the large rate ends flatter, and more accurate;
    ``init-better``: small initial weights are more accurate; ``init-sharper``: and they are
    sharper in at least one architecture; ``ranks-<measure>``: its rank correlation with test
    accuracy has its interval below zero.
    """
    found = effects(stored)
    architectures = set(stored["architecture"].tolist())

    def each(prefix: str, value: str) -> list[Interval]:
        return [found[f"{prefix}-{name}-{value}"] for name in architectures]

    held = {
        "rate-flatter": all(e.high < 0 for e in each("rate", "sharpness")),
        "rate-better": all(e.low > 0 for e in each("rate", "test_accuracy")),
        "init-better": all(e.low > 0 for e in each("init", "test_accuracy")),
        "init-sharper": any(e.low > 0 for e in each("init", "sharpness")),
    }
    return held | {f"ranks-{m}": all(e.high < 0 for e in each("rho", m)) for m in stages.MEASURES}


EXPERIMENT = Experiment(
    name="comparison",
    summary="Flatness and test accuracy at matched loss across optimizers, starts and depths",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=stages.spread("steps", *stages.COOLING, *stages.AT_THE_END),
    effects=effects,
    predictions=predictions,
)
"""The ways of training, as `results.compute` takes them."""
