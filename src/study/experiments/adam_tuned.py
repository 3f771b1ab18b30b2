r"""Does it help Adam to have its instabilities back, at its best rate, in other settings?

The comparison ``tuned`` of `restoring`, which it made on the full batch with the squared loss
alone: here with the cross-entropy, on minibatches of 50 with either loss, and on natural images
(16 x 16 pixels in color, full batch, squared loss). The networks, the methods and the stages are
those of `restoring`; each method has the rate, and factor, that is best for it by the accuracy on
the 1,000 validation images in `adam_tuned_rates`, in each setting by itself.

* *Criterion*: as in `restoring`: in each setting the paired differences from Adam in test accuracy
  over the seeds, Student's t interval at the joint level of 95 percent over its clipped forms;
  0.3 points are the smallest gain of interest.
* *Power*: in each setting as many seeds as make the half-width of the plain 95 percent interval
  `power.HALF_WIDTH`, by the `restoring.spread` over the pilot seeds of `adam_tuned_rates`, at least
  FEWEST and at most MOST. Joint intervals over five forms are wider by a third.
* *Predicted*: on the full batch with the cross-entropy no form gains: `restoring` found next to
  nothing to restore there. On minibatches none gains 0.3 points: noise makes up for what the
  instabilities do. On natural images ``growth`` and ``ratio`` gain, as on Fashion-MNIST.

What was known when this was written: the results of `restoring`, and in each setting a few runs of
seed 7, which is not among the seeds, that served to choose losses and the ranges of the rates; of
these the accuracy on the validation images was seen, in single runs.
"""

from study import results
from study.experiments import adam_tuned_rates, power, restoring, stages
from study.experiments.restoring import CLIPPED, Config
from study.results import Experiment, Result

__all__ = ["EXPERIMENT", "FEWEST", "MOST", "grid", "predictions"]

FEWEST, MOST = 8, 16


def grid(preset: str) -> list[Config]:
    """The configs of a preset; rates and seeds are those that the stored pilot gives."""
    choice = ("gpu", "default") if preset == "gpu" else ("default",)
    rates = results.load("adam_tuned_rates", *choice)
    configs = []
    for name, more in adam_tuned_rates.at_preset(preset).items():
        needed = power.seeds_needed(restoring.spread(rates, name))
        count = 3 if preset == "ci" else min(max(needed, FEWEST), MOST)
        for seed in range(1, 1 + count):
            for method in adam_tuned_rates.SETTINGS[name].methods:
                rate, factor = restoring.best(rates, name, method)
                configs.append(Config(name, "tuned", method, rate, factor, seed, **more))
    return configs


def predictions(stored: Result) -> dict[str, bool]:
    """What was predicted, form by form: ``<setting>-<method>``.

    On natural images the interval of ``growth`` and of ``ratio`` lies above 0; elsewhere the gain
    of no clipped form reaches 0.3 points in the mean.
    """
    held = {}
    for name, gain in restoring.effects(stored).items():
        setting, _, method = name.removeprefix("accuracy-tuned-").rpartition("-")
        if not name.startswith("accuracy") or method not in CLIPPED:
            continue
        if setting != adam_tuned_rates.NATURAL:
            held[f"{setting}-{method}"] = gain.value < power.HALF_WIDTH
        elif method in ("growth", "ratio"):
            held[f"{setting}-{method}"] = gain.low > 0
    return held


EXPERIMENT = Experiment(
    name="adam_tuned",
    summary="Adam and its clipped forms, each at its best rate, in four more settings",
    function=adam_tuned_rates.run,
    grid=grid,
    depends_on=(
        *stages.DECISIVE,
        "study.experiments.adam_tuned_rates",
        "study.experiments.cifar",
        "study.experiments.restoring",
    ),
    tolerances=restoring.TOLERANCES,
    effects=restoring.effects,
    predictions=predictions,
)
"""The comparison, as `results.compute` takes it."""
