"""At which rates, and factors, do Adam, slow Adam and clipped Adam do best on validation images?

The runs of `restoring` with three pilot seeds that are used for nothing else. What they choose is
read by `restoring.grid`, from the stored table, and typed nowhere; and the spread of their paired
differences in test accuracy, at the chosen rates, decides how many seeds `restoring` has
(`deviations`).
"""

import numpy as np

from study.experiments import restoring, stages
from study.experiments.restoring import CLIPPED, SETTINGS, Config
from study.results import Experiment, Result

__all__ = ["EXPERIMENT", "TRIED", "deviations", "grid"]

TRIED = {
    "gd": {None: (0.4, 0.6, 0.8)},
    "adam": {None: (0.002, 0.004, 0.008, 0.016, 0.032)},
    "slow": {None: (0.002, 0.004, 0.008, 0.016, 0.032)},
    "absolute": {0.001: (0.001, 0.002), 0.003: (0.002, 0.004)},
    "growth": {None: (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)},
    "episode": {None: (0.002, 0.004, 0.008)},
    "ratio": {0.3: (0.0005, 0.001, 0.002), 1.0: (0.001, 0.002)},
    "floor": {0.001: (0.002, 0.004, 0.008, 0.016, 0.032)},
}
"""Method -> factor -> the rates tried."""
TUNED = ("full-mse",)
"""The settings with tuned rates; for the others there was no time."""
SEEDS = range(1000, 1003)


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    more = restoring.at_preset(preset)
    return [
        Config(name, "rates", method, rate, factor, seed, **more[name])
        for name in TUNED
        for method in SETTINGS[name].methods
        for factor, rates in TRIED[method].items()
        for rate in rates
        for seed in SEEDS
    ]


def deviations(rates: Result) -> dict[str, float]:
    """Setting -> standard deviation of a clipped form's test accuracy minus Adam's, over seeds.

    Pooled over the forms: the root of the mean of their variances, each form at its best setting.
    """
    found = {}
    for setting in dict.fromkeys(rates["setting"].tolist()):
        rows = rates.where(setting=setting)

        def accuracy(method: str, rows: Result = rows, setting: str = setting) -> np.ndarray:
            rate, factor = restoring.best(rates, setting, method)
            at = {"factor": factor} if factor else {}
            chosen = rows.where(method=method, learning_rate=rate, **at)
            return chosen["test_accuracy"].astype(float)[np.argsort(chosen["seed"])]

        forms = [m for m in CLIPPED if m in rows["method"].tolist()]
        variances = [np.var(accuracy(m) - accuracy("adam"), ddof=1) for m in forms]
        found[setting] = float(np.sqrt(np.mean(variances)))
    return found


EXPERIMENT = Experiment(
    name="restoring_rates",
    summary="Accuracy of Adam, slow Adam and clipped Adam over learning rates, with pilot seeds",
    function=restoring.run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.restoring"),
    tolerances=restoring.TOLERANCES,
)
"""The choice of the rates, as `results.compute` takes it."""
