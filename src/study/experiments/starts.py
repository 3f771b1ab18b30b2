"""Are networks that start on flat ground as flat and as accurate at the end, with no instability?

If what counts is to end flat, one might start flat. At one rate, from five starts:

============ =======================================================================================
``standard``  the usual initial weights; sharp at the start, so that the rate is unstable there
``slow``      the same weights at ``slow_rate``, which is stable
``small``     all initial weights times 0.3
``tiny``      times 0.1
``mup``       the usual hidden weights, and those of the last layer over the square root of the
              width, as in the maximal update parametrization (its rates, one for each layer, are
              not imitated)
============ =======================================================================================

Each run is brought to MARGIN times the target loss at its rate, and cooled to the target at the
same small rate, as in ``flatness``. A run counts as never unstable if its loss shows no episode and
its sharpness was below 2 / eta at every probe.

Criteria, fixed before any run with the stored seeds was made; a pilot with seeds 100 and 101 served
to choose the rate and the target, and met them. Of intervals over the seeds that were never
unstable:

* *flat-<start>*: its sharpness is at most FLATTER of that of standard: the interval of the
  difference of logarithms lies below log FLATTER;
* *accurate-<start>*: its test accuracy is at most LOSS lower: the interval of the difference lies
  above -LOSS;
* *instability*: standard is flatter than slow, so that the instability of the start had an effect.

Prediction: flat starts are as flat, and as accurate.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from flatminima import sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import probes, train_to_loss
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "FLAT",
    "FLATTER",
    "LOSS",
    "SCALES",
    "Config",
    "build",
    "effects",
    "grid",
    "of_start",
    "predictions",
    "run",
]

SCALES = {"standard": 1.0, "slow": 1.0, "small": 0.3, "tiny": 0.1, "mup": 1.0}
"""Start -> factor on the standard deviation of its initial weights."""
FLAT = ("small", "tiny", "mup")
"""The flat ones."""
FLATTER = 1.1
"""Ten percent: a bound set for this comparison."""
LOSS = 0.01
"""One point of accuracy: a bound set for this comparison."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        start: a name of SCALES.
        rate, slow_rate: learning rates, the second of the start ``slow`` alone.
        small_rate, target_loss, max_steps: as in `flatness.Config`.
        dataset, n_train, model, width, activation, loss, device: as in `flatness.Config`.
    """

    start: str
    seed: int
    rate: float = 0.05
    slow_rate: float = 0.005
    small_rate: float = 0.025
    target_loss: float = 0.03
    max_steps: int = 10_000
    dataset: str = "fashion-mnist-subset"
    n_train: int = 150
    model: str = "mlp"
    width: int = 24
    activation: str = "tanh"
    loss: str = "mse"
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """Train, cool, measure; see the columns in `TOLERANCES`.

    ``start_sharpness`` and ``highest`` are in units of 2 / eta, ``unstable`` says whether the loss
    had an episode or a probe was beyond it.

    Raises:
        sweep.Diverged: if the run diverges.
    """
    train, test = stages.images(config)
    model = build(config, tuple(train[0].shape[1:]))
    risk = EmpiricalRisk(model, config.loss, train)
    rate = config.slow_rate if config.start == "slow" else config.rate
    stop = stages.MARGIN * config.target_loss, config.max_steps
    watch = {"probes": {"sharpness": probes.Sharpness()}, "probe_every": 10, "progress": False}
    history = train_to_loss(risk, *stop, learning_rate=rate, **watch).history
    scaled = history.probes["sharpness"] * rate / 2
    values: dict[str, object] = {
        "start_sharpness": scaled[0],
        "highest": scaled.max(),
        "episodes": len(history.episodes()),
        "unstable": bool(history.episodes() or scaled.max() >= 1),
        "steps": len(history.loss) - 1,
    }
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)
    values = stages.cool(risk, config, config.small_rate / 2, values)
    return values | stages.measure(risk, EmpiricalRisk(model, config.loss, test))


def build(config: Config, shape: tuple[int, ...]) -> nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    options = {"scale": SCALES[config.start], "seed": config.seed, "device": config.device}
    model = stages.network(config.model, config.width, shape, config.activation, **options)
    if config.start == "mup":
        with torch.no_grad():
            model[-1].weight /= np.sqrt(config.width)
    return model


def of_start(stored: Result, column: str, start: str, *, stable: bool = False) -> np.ndarray:
    """A column of a start in the order of the seeds, NaN where the run missed the loss.

    With ``stable`` also where it was unstable on the way.
    """
    rows = stored.where(start=start)
    kept = stages.reached(rows["reached"])
    if stable:
        kept &= np.array([value is not None and value == 0 for value in rows["unstable"]])
    values = np.where(kept, rows[column].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def effects(stored: Result) -> dict[str, Interval]:
    """What a start gives against the standard one, within the seeds.

    Returns:
        ``flat-<start>`` for FLAT: the difference of logarithms of the sharpness, over the seeds in
        which it was never unstable; ``accurate-<start>``: that of the test accuracy;
        ``instability``: that of the sharpness, standard minus slow. A start with fewer than
        `stages.FEWEST` such seeds is left out.

    Raises:
        ValueError: if standard and slow have fewer.
    """
    sharpness, accuracy = (of_start(stored, c, "standard") for c in ("sharpness", "test_accuracy"))
    slow = of_start(stored, "sharpness", "slow")
    found = {"instability": stages.interval(np.log(sharpness / slow))}
    for start in FLAT:
        flat = of_start(stored, "sharpness", start, stable=True)
        if np.isfinite(flat / sharpness).sum() >= stages.FEWEST:
            gain = of_start(stored, "test_accuracy", start, stable=True) - accuracy
            found[f"flat-{start}"] = stages.interval(np.log(flat / sharpness))
            found[f"accurate-{start}"] = stages.interval(gain)
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criteria at the head of this file, for the starts that have seeds enough."""
    held = {}
    for name, effect in effects(stored).items():
        if name == "instability":
            held[name] = effect.high < 0
        elif name.startswith("flat"):
            held[name] = effect.high < np.log(FLATTER)
        else:
            held[name] = effect.low > -LOSS
    return held


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    seeds, small = range(10), {}
    if preset == "ci":
        seeds, small = range(3), {"n_train": 60, "width": 12, "target_loss": 0.08}
    if preset == "gpu":
        small = {"n_train": 2000, "width": 200, "device": "cuda", "max_steps": 100_000}
    return [Config(start, seed, **small) for start in SCALES for seed in seeds]


TOLERANCES = {
    # The untrained network's, as accurate as the eigensolver, 1e-3 on either side.
    "start_sharpness": 2e-3,
    **stages.spread("highest episodes unstable steps", *stages.COOLING, *stages.AT_THE_END),
}

EXPERIMENT = Experiment(
    name="starts",
    summary="Flatness and accuracy at matched loss from flat and from sharp initial weights",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs from five starts, as `results.compute` takes them."""
