"""At which rates, and factors, do Adam, slow Adam and clipped Adam do best on validation images?

The runs of `restoring` with three pilot seeds that are used for nothing else. What they choose is
read by `restoring.grid` from the stored table, and typed nowhere; so is the spread of their paired
differences in test accuracy at the chosen rates, which decides how many seeds `restoring` has.
"""

from study.experiments import restoring, stages
from study.experiments.restoring import SETTINGS, Config
from study.results import Experiment

__all__ = ["EXPERIMENT", "grid"]

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
"""The settings with tuned rates; `adam_tuned_rates` has others."""
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


EXPERIMENT = Experiment(
    name="restoring_rates",
    summary="Accuracy of Adam, slow Adam and clipped Adam over learning rates, with pilot seeds",
    function=restoring.run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.restoring"),
    tolerances=restoring.TOLERANCES,
)
"""The choice of the rates, as `results.compute` takes it."""
