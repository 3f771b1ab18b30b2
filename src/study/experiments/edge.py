"""Where does the sharpness settle: three architectures, two losses, and networks of any depth.

Full-batch gradient descent from a fresh network at one learning rate, while the sharpness is
watched. Two studies share the table:

* *architecture*: a tanh MLP, a ReLU MLP and a ReLU CNN, each with the squared loss and with
  cross-entropy, at three rates whose edge 2 / eta training is expected to reach, and at one so
  small that it is not, the control. (On a GPU, *full* is one of them on all of Fashion-MNIST.)
* *depth*: tanh MLPs with 0 (a linear model) to 6 hidden layers of one width, with the squared loss,
  at one rate beyond the edge and at one far below it.

The initial weights are smaller than usual, so that a run begins on flat ground. How flat that is
depends on the depth; the growth of the sharpness is therefore told as a factor, and so is the level
at the edge, in units of 2 / eta.

Criteria, fixed before any run with the stored seeds was made. What was known then is from a pilot
with a seed that is not stored, 100, which served to choose rates and steps: all runs with the
squared loss had reached the edge and kept within 1.0 to 1.15 times 2 / eta, deeper networks
sharpened by larger factors, and cross-entropy had left the edge in the MLPs, but not in the CNN.

* *level*, see `keeps_to_the_edge`: for each architecture the level follows the rate. It is a
  prediction for the squared loss; with cross-entropy it is reported.
* *monotony*, see `turns_unsteady`: with the squared loss, the loss falls steadily in the control,
  and not after the arrival at the edge.
* *fading*, see `fades`: with cross-entropy the sharpness has left the edge at the end of the run,
  further than with the squared loss.
* *depth*, see `sharpens_with_depth`: the deeper the network, the larger the factor by which the
  sharpness of the control grows; and the level at the edge is within NEAR of 2 / eta at any depth.

Networks with ReLU are piecewise smooth: their Hessian exists almost everywhere, and is that of the
linear piece, with no account of the kinks. The descent lemma does not hold for them across a kink.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from flatminima import models, sweep
from flatminima.curvature import LOSSES, EmpiricalRisk
from flatminima.statistics import Interval, bootstrap_interval, rank_correlation
from flatminima.training import History, gradient_descent, probes
from flatminima.training.episodes import FLOAT32_LOSS
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "BEYOND",
    "EXPERIMENT",
    "MODELS",
    "NEAR",
    "RATES",
    "SETTLE",
    "UNSTEADY",
    "Config",
    "account",
    "by_depth",
    "cell",
    "control",
    "effects",
    "exponents",
    "fades",
    "grid",
    "keeps_to_the_edge",
    "predictions",
    "rises",
    "run",
    "scaled",
    "sharpens_with_depth",
    "trained",
    "turns_unsteady",
]

SETTLE = 100
"""Steps after the arrival at the edge that are left out of the level."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        study: ``"architecture"``, ``"depth"`` or ``"full"``: the part of the grid it belongs to.
        model: ``"tanh"`` or ``"relu"``, an MLP with that activation, or ``"cnn"``, with ReLU.
        loss: ``"mse"`` or ``"cross_entropy"``.
        rate: the learning rate.
        steps: updates.
        depth: hidden layers of the MLP, or blocks of the CNN.
        width: of each hidden layer; or channels of the first block, doubled from block to block.
        scale: factor on the standard deviation of the initial weights.
        pooled: side of the squares of pixels that are averaged to one, to save time; 1: none.
        probe_every: steps between two measurements of the sharpness.
        dataset, n_train, device: as in `flatness.Config`.
    """

    study: str
    model: str
    loss: str
    rate: float
    seed: int
    steps: int
    depth: int = 2
    width: int = 32
    scale: float = 0.3
    dataset: str = "fashion-mnist-subset"
    n_train: int = 200
    pooled: int = 1
    probe_every: int = 20
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """Train and measure; see `account` and the columns in `TOLERANCES`.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
    """
    train, test = stages.images(config)
    history, model = trained(config, train)
    values = account(history)
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)
    return values | {"test_accuracy": probes.Accuracy(shrunk(test[0], config), test[1]).of(model)}


def trained(config: Config, images: tuple[Tensor, Tensor]) -> tuple[History, nn.Sequential]:
    """The run itself, for those who want its curves, and the network at its end."""
    inputs, labels = shrunk(images[0], config), images[1]
    model = build(config, tuple(inputs.shape[1:]))
    risk = EmpiricalRisk(model, config.loss, (inputs, labels))
    probing = {"probes": {"sharpness": probes.Sharpness()}, "probe_every": config.probe_every}
    return gradient_descent(risk, config.rate, config.steps, **probing, progress=False), model


def shrunk(images: Tensor, config: Config) -> Tensor:
    """The images (n, c, h, w) at the resolution of a run."""
    return functional.avg_pool2d(images, config.pooled) if config.pooled > 1 else images


def build(config: Config, shape: tuple[int, ...]) -> nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    if config.model == "cnn":
        channels = [config.width * 2**i for i in range(config.depth)]
        return models.cnn(channels, "relu", input_shape=shape, **options)
    if config.model in ("tanh", "relu"):
        widths = [int(np.prod(shape)), *[config.width] * config.depth, 10]
        return models.mlp(widths, config.model, **options)
    raise ValueError(f"model must be tanh, relu or cnn, got {config.model!r}")


def rises(loss: np.ndarray) -> np.ndarray:
    """Whether each step raised the loss by more than rounding can.

    Two float32 losses are compared, each accurate to FLOAT32_LOSS of itself.
    """
    return np.diff(loss) > 2 * FLOAT32_LOSS * loss[:-1]


def account(history: History) -> dict[str, object]:
    """What a run did, in numbers; None for what it has not.

    Sharpness is in its own units. ``arrival`` is the first probed step at or beyond 2 / eta after
    one below it. ``level`` is the mean over the probes from SETTLE steps after that, ``spread``
    their standard deviation; in a run that does not arrive, those of the second half: that is what
    the criterion on the level compares, and no run is chosen by having reached the edge.
    ``end_sharpness`` is the mean over the last tenth of the steps. ``sharpening`` is the largest
    factor by which the sharpness exceeds an earlier value of itself. ``rises_before`` and
    ``rises_after`` are the shares of steps that raise the loss, before and from the arrival on.
    """
    loss, sharpness, steps = history.loss, history.probes["sharpness"], history.probe_steps
    if not len(sharpness):
        return dict.fromkeys(TOLERANCES)
    last, arrival = len(loss) - 1, history.edge_arrival()
    up = rises(loss)
    before, after = (up, up[:0]) if arrival is None else (up[:arrival], up[arrival:])
    settled = sharpness[steps >= (last / 2 if arrival is None else arrival + SETTLE)]
    late = sharpness[steps >= 0.9 * last]
    fine = not history.diverged
    thirds = [part.mean() for part in np.array_split(loss[arrival or 0 :], 3) if len(part)]
    return {
        "start_sharpness": sharpness[0],
        "lowest_sharpness": sharpness.min(),
        "highest_sharpness": sharpness.max(),
        "end_sharpness": late.mean() if fine else None,
        "sharpening": (sharpness / np.minimum.accumulate(sharpness)).max(),
        "arrival": arrival,
        "level": settled.mean() if fine and len(settled) else None,
        "spread": settled.std() if fine and len(settled) else None,
        "rises_before": before.mean() if len(before) else None,
        "rises_after": after.mean() if len(after) else None,
        "falls": all(a > b for a, b in itertools.pairwise(thirds)) if fine else None,
        "final_loss": loss[-1] if fine else None,
    }


# Criteria. They take arrays, so that a test can show that each fails where its effect is absent.

NEAR = 0.25
"""How far from 2 / eta, relative to it, the mean level of a rate may be to be called near it."""
UNSTEADY = 0.05
"""Share of steps raising the loss above which it is not monotone; rounding and chance give none."""


def exponents(level: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The least-squares slope of log level over log rate, one a seed, from (seeds, rates)."""
    x = np.log(rates) - np.log(rates).mean()
    return np.log(level) @ x / (x @ x)


def keeps_to_the_edge(level: np.ndarray, rates: np.ndarray) -> bool:
    """Criterion *level*, from the level of the sharpness, (seeds, rates).

    In every seed the exponent is closer to -1, that of 2 / eta, than to 0, that of a sharpness to
    which the rate does not matter; and at each rate the mean level is within NEAR of 2 / eta. False
    if a level is missing.
    """
    level, rates = np.asarray(level, dtype=float), np.asarray(rates, dtype=float)
    if not np.isfinite(level).all():
        return False
    near = np.abs(level.mean(axis=0) * rates / 2 - 1) < NEAR
    return bool(np.all(exponents(level, rates) < -0.5) and near.all())


def turns_unsteady(stable: np.ndarray, after: np.ndarray) -> bool:
    """Criterion *monotony*, from shares of steps that raise the loss, of any shapes.

    In every control the share is below UNSTEADY, and in every run beyond the edge, counted from its
    arrival, it is above. False if a share is missing.
    """
    stable, after = np.asarray(stable, dtype=float), np.asarray(after, dtype=float)
    return bool(np.all(stable < UNSTEADY) and np.all(after > UNSTEADY))


def fades(
    entropy: np.ndarray, squared: np.ndarray, generator: np.random.Generator
) -> tuple[Interval, bool]:
    """Criterion *fading*, from the sharpness at the end over 2 / eta, both (seeds, rates).

    The mean over the rates with cross-entropy, and whether its 95% interval over seeds is below 1
    and that of the difference from the squared loss below 0.
    """
    own = bootstrap_interval(np.mean(entropy, axis=1), generator)
    apart = bootstrap_interval(np.mean(entropy, axis=1) - np.mean(squared, axis=1), generator)
    return own, bool(own.high < 1 and apart.high < 0)


def sharpens_with_depth(
    factors: np.ndarray, depths: np.ndarray, generator: np.random.Generator
) -> tuple[Interval, bool]:
    """Criterion *depth*, from the factors of sharpening, (seeds, depths).

    The rank correlation of factor and depth, and whether its 95% interval over seeds is above 0.
    """
    found = rank_correlation(factors, np.broadcast_to(depths, np.shape(factors)), generator)
    return found, found.low > 0


def cell(result: Result, column: str, model: str, loss: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of the study of architectures beyond the control: rates (R,), values (seeds, R)."""
    rows = result.where(study="architecture", model=model, loss=loss)
    return np.unique(rows["rate"])[1:], rows.pivot(column, "seed", "rate")[:, 1:]


def scaled(result: Result, column: str, model: str, loss: str) -> np.ndarray:
    """A sharpness of the same runs over 2 / eta, (seeds, R)."""
    rates, values = cell(result, column, model, loss)
    return values * rates / 2


def control(result: Result, column: str, model: str, loss: str) -> np.ndarray:
    """A column of the controls of an architecture and a loss, (seeds,)."""
    rows = result.where(study="architecture", model=model, loss=loss)
    return rows.pivot(column, "seed", "rate")[:, 0]


def by_depth(result: Result, column: str, *, beyond: bool) -> tuple[np.ndarray, np.ndarray]:
    """A column of the study of depth, beyond the edge or far below: depths (D,), (seeds, D)."""
    rows = result.where(study="depth")
    rows = rows.where(rate=rows["rate"].max() if beyond else rows["rate"].min())
    return np.unique(rows["depth"]), rows.pivot(column, "seed", "depth")


def effects(result: Result) -> dict[str, Interval]:
    """How far each architecture has left the edge with cross-entropy, and what depth does.

    Returns:
        ``faded-<model>``: the sharpness at the end over 2 / eta, see `fades`; ``depth``: the rank
        correlation of depth and sharpening, see `sharpens_with_depth`.
    """
    return {name: interval for name, (interval, _) in _judged(result).items()}


def predictions(result: Result) -> dict[str, bool]:
    """The criteria: ``level-<model>``, ``monotony-<model>``, ``fading-<model>`` and ``depth``."""
    held = {}
    for model in MODELS:
        rates, level = cell(result, "level", model, "mse")
        held[f"level-{model}"] = keeps_to_the_edge(level, rates)
        stable = control(result, "rises_before", model, "mse")
        after = cell(result, "rises_after", model, "mse")[1]
        held[f"monotony-{model}"] = turns_unsteady(stable, after)
    judged = {name.replace("faded", "fading"): met for name, (_, met) in _judged(result).items()}
    return held | judged


def _judged(result: Result) -> dict[str, tuple[Interval, bool]]:
    """The effects that have an interval, each with whether its criterion is met."""
    found = {}
    for model in MODELS:
        ends = [scaled(result, "end_sharpness", model, c) for c in ("cross_entropy", "mse")]
        found[f"faded-{model}"] = fades(*ends, np.random.default_rng(0))
    depths, factors = by_depth(result, "sharpening", beyond=False)
    found["depth"] = sharpens_with_depth(factors, depths, np.random.default_rng(0))
    return found


MODELS = ("tanh", "relu", "cnn")
"""The architectures, each at several learning rates."""
RATES = {
    ("tanh", "mse"): (0.02, 0.06, 0.1, 0.15),
    ("tanh", "cross_entropy"): (0.02, 0.1, 0.15, 0.2),
    ("relu", "mse"): (0.01, 0.06, 0.1, 0.15),
    ("relu", "cross_entropy"): (0.005, 0.06, 0.1, 0.2),
    ("cnn", "mse"): (0.01, 0.06, 0.1, 0.15),
    ("cnn", "cross_entropy"): (0.005, 0.06, 0.1, 0.15),
}
"""The control's rate, and three whose edge is to be reached."""
DEPTHS = (0, 1, 2, 4, 6)
BELOW = 0.005
"""The smaller rate of the study of depth. Even the linear model is stable there: its sharpness is
about 300, that of the images, and 2 / BELOW is 400."""
BEYOND = 0.06
"""The larger rate of the study of depth."""


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    mlp, cnn = {"scale": 0.3}, {"scale": 0.5}
    depths, seeds, below = DEPTHS, range(5), BELOW
    if preset == "ci":
        small = {"n_train": 60, "width": 16}
        mlp, cnn = mlp | {"steps": 400}, cnn | {"steps": 300, "width": 4, "pooled": 2}
        depths, seeds, steps = (1, 4), range(3), (600, 300)
    elif preset == "default":
        small = {}
        mlp, cnn = mlp | {"steps": 800}, cnn | {"steps": 600, "width": 4, "pooled": 2}
        steps = (1600, 600)
    else:
        small = {"dataset": "cifar10", "n_train": 5000, "width": 200, "device": "cuda"}
        mlp, cnn = mlp | {"steps": 4000}, cnn | {"steps": 4000, "width": 32, "depth": 3}
        below, steps = BELOW / 5, (20_000, 4000)
    settings = {"tanh": small | mlp, "relu": small | mlp, "cnn": small | cnn}
    configs = architectures("architecture", seeds, settings)
    if preset == "gpu":
        full = small | mlp | {"dataset": "fashion-mnist", "n_train": 60_000, "steps": 2000}
        configs += architectures("full", seeds, {"tanh": full}, ("mse",))
    return configs + [
        Config("depth", "tanh", "mse", rate, seed, count, depth, **small, scale=0.7)
        for depth in depths
        for rate, count in zip((below, BEYOND), steps, strict=True)
        for seed in seeds
    ]


def architectures(
    study: str,
    seeds: range,
    settings: Mapping[str, Mapping[str, object]],
    losses: Iterable[str] = LOSSES,
) -> list[Config]:
    """Each architecture with its settings, at the rates of RATES."""
    cells = [(m, loss, rate) for m in settings for loss in losses for rate in RATES[m, loss]]
    return [Config(study, *cell, seed, **settings[cell[0]]) for cell in cells for seed in seeds]


# The sharpness of the untrained network is as accurate as the eigensolver, 1e-3 on either side.
TOLERANCES = {
    "start_sharpness": 2e-3,
    **stages.spread(
        "lowest_sharpness highest_sharpness end_sharpness sharpening arrival "
        "level spread rises_before rises_after falls final_loss test_accuracy",
    ),
}

EXPERIMENT = Experiment(
    name="edge",
    summary="The level of the sharpness at the edge over architectures, losses, rates and depths",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs at the edge, as `results.compute` takes them."""
