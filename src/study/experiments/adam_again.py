r"""The variants of the experiment `adam`, at the settings that it chose, with new seeds and more.

In `adam` each method has many rates and five seeds: enough to choose a rate, too few to tell half a
point. Here each has its tuned setting alone (`adam.tuned`), read from the stored table, and the
seeds start at FIRST. So the choice of a setting and its trial share no seed.

* *Criterion*: that of `adam`: paired differences from Adam, Student's t, joint over the six
  variants; 0.3 points are the smallest gain of interest. With so many seeds one may diverge or miss
  the loss: it is left out with its partner, and counted by the table.
* *Power*: as many seeds as make the half-width of the joint interval of a gain `power.HALF_WIDTH`,
  by the largest of the spreads of the variants over the five seeds of `adam`, at most MOST.
* *Predicted*: ``minimum`` and ``growth`` end flatter, as in `adam`; none of the variants gains 0.3
  points in the mean.
"""

import numpy as np

from flatminima.statistics import Interval, student_interval
from study import results
from study.experiments import adam, power, stages
from study.experiments.adam import VARIANTS, Config
from study.results import Experiment, Result

__all__ = ["EXPERIMENT", "FIRST", "MOST", "effects", "grid", "of_method", "predictions", "seeds"]

FIRST, MOST = 101, 100
FLATTER = ("minimum", "growth")
"""The variants that are predicted to end flatter."""


def seeds(chosen: Result) -> range:
    """The seeds that the stored `adam` asks for."""
    accuracy = {m: adam.tuned(chosen, m)["test_accuracy"].astype(float) for m in adam.METHODS}
    largest = max(np.std(accuracy[m] - accuracy["adam"], ddof=1) for m in VARIANTS)
    return range(FIRST, FIRST + min(power.seeds_needed(largest, len(VARIANTS)), MOST))


def grid(preset: str) -> list[Config]:
    """The configs of a preset; the settings, and how many seeds, are those of the stored `adam`."""
    choice = ("gpu", "default") if preset == "gpu" else ("default",)
    chosen, size = results.load("adam", *choice).where(model="mlp"), {}
    if preset == "ci":
        size = {"n_train": 100, "n_validation": 100, "width": 16, "target_loss": 0.03}
        size |= {"max_steps": 300}
    if preset == "gpu":
        size = {"dataset": "cifar10", "n_train": 5000, "n_validation": 5000, "device": "cuda"}
        size |= {"max_steps": 10_000, "width": 200}
    configs = []
    for method in adam.METHODS:
        rows = adam.tuned(chosen, method)
        cap = float(rows["cap"][0] or np.nan)
        at = {"learning_rate": float(rows["learning_rate"][0])}
        at |= {"cap": cap if np.isfinite(cap) else None}
        for seed in range(FIRST, FIRST + 3) if preset == "ci" else seeds(chosen):
            configs.append(Config(method, seed=seed, **at, **size))
    return configs


def of_method(stored: Result, value: str, method: str) -> np.ndarray:
    """One value a seed, NaN where the run diverged or missed the target."""
    rows = stored.where(method=method)
    values = np.where(stages.reached(rows["reached"]), rows[value].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def effects(stored: Result) -> dict[str, Interval]:
    """The variants, and gradient descent, against Adam, as `adam.effects`.

    Returns:
        ``flatter-<method>`` and ``accuracy-<method>``; a method of which fewer than
        `stages.FEWEST` seeds came to the target is left out.
    """
    found = {}
    for method in ("gd", *VARIANTS):
        accuracy, sharpness = (
            (of_method(stored, value, "adam"), of_method(stored, value, method))
            for value in ("test_accuracy", "sharpness")
        )
        differences = {
            "flatter": np.log(sharpness[0] / sharpness[1]),
            "accuracy": accuracy[1] - accuracy[0],
        }
        for name, difference in differences.items():
            kept = difference[np.isfinite(difference)]
            if len(kept) >= stages.FEWEST:
                joint = 1 if method == "gd" else len(VARIANTS)
                found[f"{name}-{method}"] = student_interval(kept, joint)
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """``flatter-<variant>`` of those in FLATTER, ``gain-<variant>`` of all, see above."""
    found = effects(stored)
    gains = {m: found[f"accuracy-{m}"].value for m in VARIANTS if f"accuracy-{m}" in found}
    flatter = {f"flatter-{m}": found[f"flatter-{m}"].low > 0 for m in FLATTER if m in gains}
    return flatter | {f"gain-{m}": gain < power.HALF_WIDTH for m, gain in gains.items()}


EXPERIMENT = Experiment(
    name="adam_again",
    summary="Adam and its six first variants at their tuned settings, with new seeds",
    function=adam.run,
    grid=grid,
    depends_on=(*adam.EXPERIMENT.depends_on, "study.experiments.adam"),
    tolerances=adam.TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The trial, as `results.compute` takes it."""
