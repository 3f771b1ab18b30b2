"""At which rates, and factors, do the methods of `adam_tuned` do best on validation images?

The runs of `restoring` in its setting and in others, with five pilot seeds that are used for
nothing else. What they choose is read by `adam_tuned.grid` from the stored table, and typed
nowhere; so are the spreads of their paired differences in test accuracy at the chosen rates, which
decide how many seeds `adam_tuned` has.

This is a second choice. The first, with three seeds, was at the end of the rates tried for Adam and
its slow form on the full batch with the cross-entropy, and for ``growth`` and others on
minibatches. The ranges now go a factor of two or more beyond each such end.
"""

from dataclasses import asdict

from study.experiments import cifar, restoring, stages
from study.experiments.restoring import Config, Setting
from study.results import Experiment

__all__ = ["EXPERIMENT", "NATURAL", "SETTINGS", "at_preset", "grid", "run"]

NATURAL = "natural-mse"
SETTINGS = {
    NATURAL: Setting("mse", 0, 0.05),
    "full-cross_entropy": Setting("cross_entropy", 0, 0.01),
    "mini-cross_entropy": Setting("cross_entropy", 50, 0.05),
    "mini-mse": Setting("mse", 50, 0.03),
    "full-mse": Setting("mse", 0, 0.01),
}
"""The settings by their names, on the images of `restoring` or natural ones."""
DESCENT = {
    NATURAL: (0.075, 0.15, 0.3, 0.6),
    "full-cross_entropy": (0.4, 0.8, 1.2, 1.6),
    "mini-cross_entropy": (0.2, 0.4, 0.8),
    "mini-mse": (0.2, 0.3, 0.4),
    "full-mse": (0.2, 0.3, 0.4, 0.6),
}
"""Setting -> the rates of gradient descent that are tried."""
TRIED = {
    "adam": {None: (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)},
    "slow": {None: (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)},
    "absolute": {
        0.0003: (0.0005, 0.001, 0.002),
        0.001: (0.0005, 0.001, 0.002, 0.004),
        0.003: (0.001, 0.002, 0.004, 0.008),
        0.01: (0.002, 0.004, 0.008),
    },
    "growth": {None: (0.000125, 0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)},
    "episode": {None: (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)},
    "ratio": {
        0.1: (0.00025, 0.0005, 0.001),
        0.3: (0.00025, 0.0005, 0.001, 0.002, 0.004),
        1.0: (0.0005, 0.001, 0.002, 0.004),
        3.0: (0.001, 0.002, 0.004),
    },
    "floor": {0.001: (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)},
}
"""Method of Adam -> factor -> the rates tried; on natural images half of them."""
SEEDS = range(1000, 1005)
"""Of the pilot; at the preset ci two of them."""


def run(config: Config) -> dict[str, object]:
    """As `restoring.run`, once it is sure that natural images are the right ones.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
        datasets.CorruptDataError: if the natural images are not the right ones.
    """
    if config.dataset == cifar.DATASET:
        cifar.require()
    return restoring.run(config)


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    configs = []
    for name, more in at_preset(preset).items():
        for method in SETTINGS[name].methods:
            scale = 0.5 if name == NATURAL and method != "gd" else 1.0
            for factor, rates in TRIED.get(method, {None: DESCENT[name]}).items():
                for rate in rates:
                    fixed = name, "rates", method, scale * rate, factor
                    seeds = SEEDS[:2] if preset == "ci" else SEEDS
                    configs += [Config(*fixed, seed, **more) for seed in seeds]
    return configs


def at_preset(preset: str) -> dict[str, dict[str, object]]:
    """Setting -> the fields of a config that do not depend on the method.

    The smallest preset, which is to need nothing but the embedded images, has no natural ones.
    """
    size: dict[str, object] = {}
    if preset == "ci":
        size = {"n_train": 60, "n_validation": 100, "width": 12, "max_steps": 400}
    if preset == "gpu":
        size = {"n_train": 5000, "n_validation": 5000, "width": 200, "device": "cuda"}
        size["max_steps"] = 20_000
    found = {}
    for name, setting in SETTINGS.items():
        own = asdict(setting)
        del own["common_rate"]
        if name == NATURAL:
            own["dataset"] = "cifar10" if preset == "gpu" else cifar.DATASET
        if preset == "ci":
            own |= {"target_loss": 5 * setting.target_loss, "batch": min(setting.batch, 20)}
        found[name] = own | size
    return {n: own for n, own in found.items() if preset != "ci" or n != NATURAL}


EXPERIMENT = Experiment(
    name="adam_tuned_rates",
    summary="Adam and its clipped forms over learning rates in five settings, pilot seeds",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.cifar", "study.experiments.restoring"),
    tolerances=restoring.TOLERANCES,
)
"""The choice of the rates, as `results.compute` takes it."""
