r"""Does it help Adam to have its instabilities back, each method at its best rate?

The comparison ``tuned`` of `restoring`, which it made on the full batch with the squared loss
alone: here there once more, with the cross-entropy, on minibatches of 50 with either loss, and on
natural images (16 x 16 pixels in color, full batch, squared loss). The networks, the methods and
the stages are those of `restoring`; each method has the rate, and factor, that is best for it by
the accuracy on the 1,000 validation images in `adam_tuned_rates`, in each setting by itself.

This is a second round, with new seeds, from 101 on. In a first one, of 10 to 16 seeds at rates that
three pilot seeds had chosen, none of 18 comparisons on natural images and on minibatches was
decided for clipping, and one, ``absolute`` on minibatches with the cross-entropy, against it; with
the cross-entropy on the full batch ``growth`` (0.9 points) and ``episode`` (0.7) gained, without
more instabilities and without being flatter; and in `restoring` ``growth`` (0.9), ``ratio`` (0.9)
and ``floor`` (0.4) did. Intervals reached 1.2 points to either side, and some best rates stood at
the end of those tried. Now the rates go further, five pilot seeds choose them, and:

* *Criterion*: as in `restoring`: in each setting the paired differences from Adam in test accuracy
  over the seeds, Student's t interval at the joint level of 95 percent over its clipped forms;
  0.3 points are the smallest gain of interest.
* *Power*: in each setting as many seeds as make the half-width of the *joint* interval
  `power.HALF_WIDTH`, for the largest of the spreads over the pilot seeds (`restoring.spreads`), at
  least FEWEST and at most MOST. Five seeds tell a spread to within a factor of two or so, hence
  FEWEST.
* *Predicted*, from the first round: with the squared loss on the full batch ``growth`` and
  ``ratio`` gain, with the cross-entropy there ``growth`` and ``episode``; of all the other forms,
  on natural images and on minibatches, none gains 0.3 points in the mean. If the gains with the
  cross-entropy were due to Adam's rate at the end of its range, they are gone now.
"""

from study import results
from study.experiments import adam_tuned_rates, power, restoring, stages
from study.experiments.restoring import CLIPPED, Config
from study.results import Experiment, Result

__all__ = ["EXPERIMENT", "FEWEST", "GAIN", "MOST", "grid", "predictions", "seeds"]

FEWEST, MOST = 32, 100
FIRST = 101
GAIN = {"full-mse": ("growth", "ratio"), "full-cross_entropy": ("growth", "episode")}
"""Setting -> the forms that are predicted to gain there."""


def seeds(rates: Result, setting: str) -> range:
    """The seeds of a setting, as many as its pilot asks for."""
    forms = [m for m in CLIPPED if m in adam_tuned_rates.SETTINGS[setting].methods]
    largest = max(restoring.spreads(rates, setting))
    needed = power.seeds_needed(largest, len(forms))
    return range(FIRST, FIRST + min(max(needed, FEWEST), MOST))


def grid(preset: str) -> list[Config]:
    """The configs of a preset; rates and seeds are those that the stored pilot gives."""
    choice = ("gpu", "default") if preset == "gpu" else ("default",)
    rates = results.load("adam_tuned_rates", *choice)
    configs = []
    for name, more in adam_tuned_rates.at_preset(preset).items():
        for seed in range(FIRST, FIRST + 3) if preset == "ci" else seeds(rates, name):
            for method in adam_tuned_rates.SETTINGS[name].methods:
                rate, factor = restoring.best(rates, name, method)
                configs.append(Config(name, "tuned", method, rate, factor, seed, **more))
    return configs


def predictions(stored: Result) -> dict[str, bool]:
    """What was predicted, form by form: ``<setting>-<method>``.

    The interval of those in GAIN lies above 0; the gain of no other form reaches 0.3 points in the
    mean.
    """
    held = {}
    for name, gain in restoring.effects(stored).items():
        setting, _, method = name.removeprefix("accuracy-tuned-").rpartition("-")
        if not name.startswith("accuracy") or method not in CLIPPED:
            continue
        foreseen = method in GAIN.get(setting, ())
        held[f"{setting}-{method}"] = gain.low > 0 if foreseen else gain.value < power.HALF_WIDTH
    return held


EXPERIMENT = Experiment(
    name="adam_tuned",
    summary="Adam and its clipped forms, each at its best rate, in five settings",
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
