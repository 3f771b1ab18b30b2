r"""Is the gain in accuracy larger where there is something to regularize: with wrong labels?

The stages, images and tanh MLPs of `gain`, with right labels and with a fifth of them wrong, from
the same seed. `gain` asked this of the seeds that it had, which were chosen for another comparison,
and found (wrong minus right, in points) +0.4 and decided in one of four settings, and +0.1 to +0.2
in the others, each by far too few seeds to tell. So it is asked again here, of new ones.

Decided before any run of these seeds:

* *Criterion*: the gain at NAMED with wrong labels minus that with right ones, paired within seeds;
  the interval of its mean by Student's t, at 95 % in each setting.
* *Power*: SPREAD is the standard deviation of that difference over the seeds of `gain`; there are
  as many new seeds as `power.seeds_needed` asks for, so that the expected half-width is 0.3 points.
* *Predicted*: a larger gain with wrong labels, in each setting.

The four intervals are not at a joint level: were there no difference anywhere, 0.1 of them would
be expected above 0 and 0.1 below.
"""

import numpy as np

from flatminima.statistics import Interval, student_interval
from study.experiments import cifar, gain, power, stages
from study.results import Experiment, Result

__all__ = ["EXPERIMENT", "SPREAD", "differences", "effects", "grid", "predictions", "run"]

FACTORS = (gain.STABLE, gain.NAMED)
SPREAD = {
    ("fashion-mnist-subset", "mse"): 0.004865,
    ("fashion-mnist-subset", "cross_entropy"): 0.012860,
    ("cifar10-subset", "mse"): 0.004969,
    ("cifar10-subset", "cross_entropy"): 0.010094,
}
"""(images, loss) -> standard deviation of the difference of the two gains, in accuracy."""
FIRST_SEED = 100
"""The seeds of `gain` end before it."""


def run(config: gain.Config) -> dict[str, object]:
    """What `gain.stretches` measures of both factors, and raises."""
    return gain.stretches(config, FACTORS)[0]


def grid(preset: str) -> list[gain.Config]:
    """The runs of a preset; the same for ``default`` and ``gpu``, whose device differs."""
    chosen = [s for s in gain.settings() if s["model"] == "tanh"]
    device = {"device": "cuda"} if preset == "gpu" else {}
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "large_steps": 200}
        chosen = [s | small for s in chosen if s["dataset"] != cifar.DATASET and s["loss"] == "mse"]
    configs = []
    for s in chosen:
        needed = power.seeds_needed(SPREAD[s["dataset"], s["loss"]]) if preset != "ci" else 3
        seeds = range(FIRST_SEED, FIRST_SEED + needed)
        configs += [gain.Config(seed=seed, pilot=False, **s, **device) for seed in seeds]
    # Seed by seed, so that an interrupted sweep has pairs of each setting.
    return sorted(configs, key=lambda c: c.seed)


def differences(stored: Result) -> dict[str, np.ndarray]:
    """``<dataset>-<loss>`` -> the gain with wrong labels minus that with right ones, by seed.

    A seed that did not come to the loss at both factors, with both labels, has no part in it.
    """
    found = {}
    for dataset, loss in SPREAD:
        sides = []
        for share in (0.2, 0.0):
            rows = stored.where(dataset=dataset, loss=loss, label_noise=share)
            there = np.all([stages.reached(rows[f"reached-{c:g}"]) for c in FACTORS], axis=0)
            before, after = (rows[f"accuracy-{c:g}"][there].astype(float) for c in FACTORS)
            sides.append(dict(zip(rows["seed"][there].tolist(), after - before, strict=True)))
        wrong, right = sides
        both = sorted(wrong.keys() & right.keys())
        if both:
            found[f"{dataset}-{loss}"] = np.array([wrong[seed] - right[seed] for seed in both])
    return found


def effects(stored: Result) -> dict[str, Interval]:
    """``more-<dataset>-<loss>``: the mean difference of the two gains, with its interval."""
    paired = differences(stored)
    return {
        f"more-{name}": student_interval(values)
        for name, values in paired.items()
        if len(values) >= stages.FEWEST
    }


def predictions(stored: Result) -> dict[str, bool]:
    """``more-<dataset>-<loss>``: the gain is larger with wrong labels, all of its interval."""
    return {name: value.low > 0 for name, value in effects(stored).items()}


_AT_ENDS = ("reached", "sharpness", "accuracy", "highest", "rises", "steps")
EXPERIMENT = Experiment(
    name="labels",
    summary="Whether the gain in accuracy is larger with a fifth of the labels wrong",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.cifar", "study.experiments.gain"),
    tolerances={
        "start_steps": 1e-2,
        "start_sharpness": 2e-3,
        **stages.spread("start_accuracy", *(f"{n}-{c:g}" for n in _AT_ENDS for c in FACTORS)),
    },
    effects=effects,
    predictions=predictions,
)
"""The difference of the gains, as `results.compute` takes them."""
