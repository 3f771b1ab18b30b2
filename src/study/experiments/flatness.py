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

There were five seeds first. The spread over them of the gain at NAMED, and of its fall from there,
decided for a second stage (`power.SECOND`), with the same predictions.
"""

from dataclasses import dataclass

import numpy as np
from torch import nn

from flatminima import sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, contrast
from flatminima.training import History, probes, train_to_loss
from study.experiments import power, stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "NAMED",
    "STABLE",
    "Config",
    "account",
    "at_matched_loss",
    "effects",
    "grid",
    "predictions",
    "run",
]

PROBE_EVERY = 20
"""Steps between two measurements of the sharpness at the large rate."""
STABLE = 0.5
"""The factor c with which others are compared in accuracy."""
NAMED = 2.0
"""The factor that was named beforehand as the one to compare."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        factor: learning rate of the second stage in units of 2 / lambda_1.
        dataset, n_train: as `datasets.load` takes them.
        model, width, activation: as `stages.network` takes them.
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
    train, test = stages.images(config)
    model = build(config, tuple(train[0].shape[1:]))
    risk = EmpiricalRisk(model, config.loss, train)
    values = stages.approach(risk, config)
    rate = config.factor * 2 / values["start_sharpness"]
    values |= {"start_accuracy": probes.Accuracy(*test).of(model), "learning_rate": rate}
    stop = stages.MARGIN * config.target_loss, config.large_steps
    probing = {"probes": {"sharpness": probes.Sharpness()}, "probe_every": PROBE_EVERY}
    large = train_to_loss(risk, *stop, learning_rate=rate, **probing, progress=False)
    values |= account(large.history, rate)
    if large.history.diverged:
        raise sweep.Diverged(f"at step {large.history.diverged_at} of the large rate", values)
    values = stages.cool(risk, config, config.small_rate / 2, values)
    return values | stages.measure(risk, EmpiricalRisk(model, config.loss, test))


def build(config: Config, shape: tuple[int, ...]) -> nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    options = {"activation": config.activation, "seed": config.seed, "device": config.device}
    return stages.network(config.model, config.width, shape, **options)


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


FACTORS = (0.5, 0.9, 1.1, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 4.0)
SEEDS = range(5)


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "large_steps": 200, "target_loss": 0.04}
        return [Config(factor, seed, **small) for factor in (0.5, 2.0, 6.0) for seed in range(3)]
    if preset == "default":
        seeds = range(power.SECOND["flatness"].seeds)
        return [Config(factor, seed) for factor in FACTORS for seed in seeds]
    cifar = {"dataset": "cifar10", "n_train": 5000, "device": "cuda", "max_steps": 20_000}
    fashion = {"dataset": "fashion-mnist", "n_train": 60_000, "device": "cuda", "width": 200}
    settings = [{**cifar, "width": 200}, {**cifar, "model": "cnn", "width": 32}, fashion]
    return [Config(f, seed, **s) for s in settings for f in FACTORS for seed in SEEDS]


# --- what the runs show


def at_matched_loss(stored: Result, value: str) -> np.ndarray:
    """A column over (seeds, factors); NaN where a run diverged or missed the target."""
    reached = stages.reached(stored.pivot("reached", "seed", "factor"))
    return np.where(reached, stored.pivot(value, "seed", "factor"), np.nan)


def effects(stored: Result) -> dict[str, Interval]:
    """The effects of a stretch at the factor c times 2/lambda_1.

    Returns:
        For each of `stages.MEASURES` its difference of logarithms, c > 1 minus c < 1;
        ``sharpness_difference``, the same of the sharpness itself;
        ``gain-<c>``, test accuracy at c minus that at STABLE, for each c with `stages.FEWEST` seeds
        or more; ``fall``, test accuracy at the last such c minus that at NAMED;
        ``budget``, the rank correlation of instability budget and final sharpness within a seed:
        over all runs, a seed that begins sharper also spends less, whatever the factor;
        ``link``, that of test accuracy and final sharpness over all runs. Both are over the factors
        at which every seed reached the loss.

    Raises:
        ValueError: if a comparison has fewer than `stages.FEWEST` seeds.
    """
    factors = np.unique(stored["factor"])
    treated = factors > 1

    def change(values: np.ndarray) -> Interval:
        sides = [np.isfinite(values[:, side]).any(axis=1) for side in (treated, ~treated)]
        return contrast(values[sides[0] & sides[1]], treated)

    found = {name: change(np.log(at_matched_loss(stored, name))) for name in stages.MEASURES}
    found["sharpness_difference"] = change(at_matched_loss(stored, "sharpness"))
    accuracy = at_matched_loss(stored, "test_accuracy")
    at = dict(zip(factors.tolist(), accuracy.T, strict=True))
    enough = [c for c in at if np.isfinite(at[c] - at[STABLE]).sum() >= stages.FEWEST]
    if NAMED not in enough:
        needed = f"at least {stages.FEWEST} seeds must reach the loss"
        raise ValueError(f"{needed} at c = {STABLE} and {NAMED}")
    found |= {f"gain-{c:g}": stages.interval(at[c] - at[STABLE]) for c in enough if c != STABLE}
    found["fall"] = stages.interval(at[max(enough)] - at[NAMED])
    sharpness, budget = (at_matched_loss(stored, name) for name in ("sharpness", "budget"))
    whole = np.isfinite(sharpness).all(axis=0)
    found["budget"] = _within_seeds(budget[:, whole], sharpness[:, whole])
    found["link"] = stages.correlation(accuracy[:, whole], sharpness[:, whole])
    return found


def _within_seeds(x: np.ndarray, y: np.ndarray) -> Interval:
    """Rank correlation over the conditions of a seed; 0 where one does not depend on them."""
    from scipy.stats import rankdata

    ranks = [rankdata(values, axis=1) for values in (x, y)]
    if any(np.ptp(r) == 0 for r in ranks):
        return Interval(0.0, 0.0, 0.0)
    return stages.correlation(*ranks)


def predictions(stored: Result) -> dict[str, bool]:
    """Flatter past the edge; more accurate at NAMED; paid for by the budget; an upper end."""
    found = effects(stored)
    largest = stored.where(factor=float(np.max(stored["factor"])))
    return {
        "flatter": found["sharpness_difference"].high < 0,
        "accurate": found[f"gain-{NAMED:g}"].low > 0,
        "paid": found["budget"].high < 0,
        "ends": bool(np.any(largest["status"] == "diverged")),
    }


# Once past its first steps the first stage is stable, and what rounding does there stays small: run
# in float64 instead of float32, its values change by less than 1e-6 of themselves. So the sharpness
# is as accurate as the eigensolver, 1e-4 on either side; the loss may cross its level one step
# apart, of 250 or more; and an image or two of 2,000 may change sides. For the rest see `spread`.
TOLERANCES = {
    "start_steps": 4e-3,
    "start_sharpness": 2e-4,
    "start_accuracy": 2e-3,
    "learning_rate": 2e-4,
    **stages.spread(
        "large_steps_made large_loss highest_loss episodes budget large_sharpness "
        "lowest_sharpness after_first",
        *stages.COOLING,
        *stages.AT_THE_END,
    ),
}

EXPERIMENT = Experiment(
    name="flatness",
    summary="Flatness and test accuracy at matched loss after a stretch at a large learning rate",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs at large rates, as `results.compute` takes them."""
