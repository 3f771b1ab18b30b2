"""Do the effects hold on natural images, convolutions, all of a data set, and a transformer?

The runs of other experiments at sizes that ask for a GPU. Each begins with the approach of
``flatness``, down to ``start_loss`` at ``small_rate``, and goes on at c times 2 / lambda_1, c its
``factor``:

================= ==================================================================================
``flatness``      as in `study.experiments.flatness`: cooled to one loss, flatness and accuracy
``edge``          where the sharpness settles, as `edge.account` tells it, and the episodes
``rotation``      how far the leading eigenvectors turn in equal training time, and how many
                  directions they visit, as in `study.experiments.exploration`
``interventions`` what is kept when the rotation's effect is taken away, as in
                  `study.experiments.interventions`
================= ==================================================================================

The networks: ``half-vgg``, three blocks of a convolution, tanh and average pooling with ``width``,
twice and four times as many channels, on images averaged to 16 x 16; ``vgg``, the same on the whole
images; ``half-resnet``, three residual blocks with group normalization; ``mlp``, on all of
Fashion-MNIST; and ``transformer``, four blocks, on the book's prose. The grid is in the order of
its worth, the runs that are compared, of one seed, one after the other: it may be cut anywhere.

Criteria, fixed before any run of the preset ``gpu`` was made. Of a setting, a network with a data
set and a loss, as soon as it has `stages.FEWEST` seeds; intervals are those of Student's t:

* *flatter-<setting>*: the logarithm of the sharpness at the common loss is lower at UNSTABLE than
  at STABLE, the interval of the paired difference below zero. Predicted for each setting.
* *level-<setting>*: begun below the edge at NEAR, runs come within `edge.NEAR` of 2 / eta, the
  interval of the mean level over 2 / eta inside that distance of one. Predicted for the squared
  loss, reported for cross-entropy.
* *turns-<setting>*: the leading space turns more in equal training time at UNSTABLE than at STABLE,
  the interval of the difference of logarithms above zero. Predicted for each setting.
* *across-<setting>*: the part of the gradient that turns the eigenvectors, left away, takes the
  flattening along: the interval of what ``within`` keeps below `interventions.LOST`, and that of
  ``across`` above `interventions.KEPT`. Predicted for the squared loss.

The gain in accuracy is reported, and no prediction is made of it, for it has no power here: of the
1,000 test images of the natural subset the paired difference has a standard deviation of 0.6 points
over seeds (of the stored runs of ``cifar``), so that five seeds leave an interval of 0.7 points to
either side; 0.3 would take 18 seeds.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flatminima import models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import gradient_descent, probes
from study import corpus
from study.experiments import cifar, edge, exploration, flatness, interventions, stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "NATURAL",
    "NEAR",
    "STABLE",
    "STUDIES",
    "UNSTABLE",
    "Config",
    "effects",
    "grid",
    "predictions",
    "problem",
    "run",
    "settings",
]

STABLE, UNSTABLE = 0.5, 2.0
"""The factors of what is compared."""
FAR, NEAR = 0.1, 0.8
"""The factors of the study ``edge``: the control, and what sharpening brings to the edge."""
FACTORS = {"edge": (FAR, NEAR), "interventions": (1.5,)}
"""Study -> its factors, if they are others than STABLE and UNSTABLE."""
PROBE_EVERY = 5
CONTEXT, BLOCKS = 64, 4
"""Of the transformer: symbols that it sees, and blocks."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        study: a name of STUDIES.
        model: ``"transformer"``, or as `stages.network` takes it.
        factor: learning rate after the approach in units of 2 / lambda_1.
        steps: at that rate, at most.
        loss, dataset, n_train, width, activation, small_rate, start_loss, target_loss, max_steps,
            device: as in `flatness.Config`; the data set ``"prose"`` is `study.corpus`.
    """

    study: str
    model: str
    loss: str
    factor: float
    seed: int
    dataset: str
    n_train: int
    width: int
    small_rate: float
    start_loss: float
    target_loss: float
    steps: int
    max_steps: int
    activation: str = "tanh"
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The run of a study; see `TOLERANCES` for what they measure.

    Raises:
        sweep.Diverged, RuntimeError: as the run of the study does.
        datasets.CorruptDataError: for other natural images than those of the subset.
    """
    if config.dataset == cifar.DATASET:
        cifar.require()
    return STUDIES[config.study](config)


def problem(config: object) -> tuple[EmpiricalRisk, tuple[Tensor, Tensor]]:
    """The risk of the untrained network of a config, and what it is tested on."""
    if config.dataset == "prose":
        both = corpus.sequences(config.n_train, CONTEXT, seed=config.seed)
        train, test = (tuple(part.to(config.device) for part in pair) for pair in both)
        symbols = len(corpus.symbols())
        options = {"seed": config.seed, "device": config.device}
        options |= {"width": config.width, "blocks": BLOCKS}
        model = models.transformer(symbols, CONTEXT, **options)
    else:
        train, test = stages.images(config)
        model = flatness.build(config, tuple(train[0].shape[1:]))
    return EmpiricalRisk(model, config.loss, train), test


def at_the_edge(config: Config) -> dict[str, object]:
    """The approach, and gradient descent at the rate; see `edge.account`."""
    risk, test = problem(config)
    values = stages.approach(risk, config)
    rate = config.factor * 2 / values["start_sharpness"]
    probing = {"probes": {"sharpness": probes.Sharpness()}, "probe_every": PROBE_EVERY}
    history = gradient_descent(risk, rate, config.steps, **probing, progress=False)
    values |= {"learning_rate": rate, "episodes": len(history.episodes())} | edge.account(history)
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)
    return values | {"test_accuracy": probes.Accuracy(*test).of(risk.model)}


def _of(module: object, names: str, **more: str) -> Callable[[Config], Mapping[str, object]]:
    """The run of another experiment, with fields of the config by their names there."""
    fields = {name: name for name in names.split()} | more

    def study(config: Config) -> Mapping[str, object]:
        given = {there: getattr(config, here) for there, here in fields.items()}
        return module.run(module.Config(**given))

    return study


_SHARED = "model loss factor seed dataset n_train width small_rate start_loss max_steps device"
STUDIES: dict[str, Callable[[Config], Mapping[str, object]]] = {
    "flatness": _of(flatness, f"{_SHARED} activation target_loss", large_steps="steps"),
    "edge": at_the_edge,
    "rotation": _of(exploration, f"{_SHARED} activation", time="steps"),
    "interventions": _of(interventions, f"{_SHARED} target_loss steps"),
}
"""Study -> its run."""


NATURAL = {"dataset": cifar.DATASET, "n_train": 5000, "width": 16, "max_steps": 8000}
"""The natural images, and the width of the networks on them."""
LOSSES = {
    "mse": {"small_rate": 0.08, "start_loss": 0.38, "target_loss": 0.26},
    "cross_entropy": {"small_rate": 0.08, "start_loss": 1.7, "target_loss": 1.0},
}
"""Loss -> where runs on natural images begin and end. A pilot on 500 of them, with half the width
and seed 100, came to these starts in a time eta t of 30 to 40, its sharpness there 13 to 15."""
SMALL = {
    "mse": {"small_rate": 0.05, "start_loss": 0.3, "target_loss": 0.2},
    "cross_entropy": {"small_rate": 0.05, "start_loss": 1.8, "target_loss": 1.2},
}
"""The same on the few images of the other presets."""
VGG, RESNET = "half-vgg", "half-resnet"


def grid(preset: str) -> list[Config]:
    """The configs of a preset, in the order of their worth."""
    if preset == "gpu":
        return _listed(LARGE, device="cuda")
    images = {"dataset": "fashion-mnist-subset", "n_train": 60, "width": 4, "max_steps": 4000}
    squared = {"mse": SMALL["mse"]}
    if preset == "default":
        three = range(3)
        return _listed(
            [
                ("flatness", VGG, SMALL, three, images | {"steps": 200}),
                ("edge", VGG, squared, three, images | {"steps": 600}),
                ("rotation", VGG, squared, three, images | {"steps": 120}),
                ("flatness", RESNET, squared, three, images | {"steps": 200}),
            ]
        )
    toy = images | {"n_train": 20, "start_loss": 0.4, "target_loss": 0.38, "steps": 12}
    prose = {"dataset": "prose", "n_train": 4, "width": 8, "max_steps": 4000, "steps": 12}
    prose |= {"start_loss": 3.5, "target_loss": 3.0}
    one = range(1)
    return _listed(
        [
            ("flatness", VGG, squared, range(2), toy),
            ("edge", VGG, squared, one, toy),
            ("rotation", VGG, squared, one, toy),
            ("interventions", VGG, squared, one, toy),
            ("flatness", RESNET, squared, one, toy),
            ("flatness", "mlp", squared, one, toy),
            ("edge", "transformer", {"cross_entropy": SMALL["cross_entropy"]}, one, prose),
        ]
    )


_NATURAL = {**NATURAL, "steps": 600}
_BRIEF = {**NATURAL, "steps": 50}
_FASHION = {"dataset": "fashion-mnist", "n_train": 60_000, "width": 200, "max_steps": 8000}
_FASHION |= {"small_rate": 0.025, "start_loss": 0.15, "target_loss": 0.1, "steps": 600}
_PROSE = {"dataset": "prose", "n_train": 512, "width": 256, "max_steps": 2000, "steps": 400}
_PROSE |= {"small_rate": 0.04, "start_loss": 2.8, "target_loss": 2.0}
_MSE, _LOGISTIC = ({loss: LOSSES[loss]} for loss in LOSSES)
LARGE = [
    ("flatness", VGG, LOSSES, range(5), _NATURAL),
    ("edge", VGG, LOSSES, range(5), _NATURAL),
    ("rotation", VGG, LOSSES, range(5), {**NATURAL, "steps": 240}),
    ("interventions", VGG, _MSE, range(3), {**_BRIEF, "target_loss": 0.35}),
    ("interventions", VGG, _LOGISTIC, range(3), {**_BRIEF, "steps": 16, "target_loss": 1.55}),
    ("flatness", RESNET, LOSSES, range(5), {**_NATURAL, "small_rate": 0.04}),
    ("edge", RESNET, LOSSES, range(3), {**_NATURAL, "small_rate": 0.04}),
    ("flatness", "mlp", _MSE, range(3), _FASHION),
    ("edge", "transformer", _LOGISTIC, range(3), _PROSE),
    ("flatness", VGG, LOSSES, range(5, 18), _NATURAL),
    ("flatness", "vgg", _MSE, range(3), {**_NATURAL, "width": 32}),
]
"""The rows of the preset ``gpu``: study, network, losses, seeds, and other fields."""


def _listed(rows: Sequence[tuple], **more: object) -> list[Config]:
    """The configs of rows as in LARGE: of a seed and a loss those to compare, then the next."""
    configs = []
    for study, model, losses, seeds, fields in rows:
        factors = FACTORS.get(study, (STABLE, UNSTABLE))
        for seed, (loss, given) in itertools.product(seeds, losses.items()):
            options = {**given, **fields, **more}
            configs += [Config(study, model, loss, c, seed, **options) for c in factors]
    return configs


# --- what the runs show


def settings(stored: Result, study: str) -> dict[str, Result]:
    """The settings of a study, ``<model>-<loss>`` -> its rows."""
    rows = stored.where(study=study)
    places = dict.fromkeys(zip(rows["model"].tolist(), rows["loss"].tolist(), strict=True))
    return {f"{m}-{loss}": rows.where(model=m, loss=loss) for m, loss in places}


def effects(stored: Result) -> dict[str, Interval]:
    """The effects of each setting, over the seeds that have all their runs.

    Returns:
        ``flatter-<setting>``: log sharpness at the common loss, UNSTABLE minus STABLE, and
        ``gain-<setting>``, of test accuracy;
        ``level-<setting>``: level of the sharpness over 2 / eta, begun at NEAR of it;
        ``turns-<setting>``: log of the turn of the leading space, UNSTABLE minus STABLE, and
        ``visits-<setting>``, of the dimension that v_1 visits;
        ``within-<setting>``, ``across-<setting>``: the share of the flattening that is kept when
        only that part of the drift is left.
        What has fewer than `stages.FEWEST` seeds is left out.
    """
    found: dict[str, np.ndarray] = {}
    for name, rows in settings(stored, "flatness").items():
        kept = stages.reached(rows.pivot("reached", "seed", "factor"))
        pairs = {
            value: np.where(kept, rows.pivot(value, "seed", "factor"), np.nan)
            for value in ("sharpness", "test_accuracy")
        }
        found[f"flatter-{name}"] = _change(np.log(pairs["sharpness"]))
        found[f"gain-{name}"] = _change(pairs["test_accuracy"])
    for name, rows in settings(stored, "edge").items():
        near = rows.where(factor=NEAR)
        found[f"level-{name}"] = (near["level"] * near["learning_rate"] / 2).astype(float)
    for name, rows in settings(stored, "rotation").items():
        for what, value in (("turns", "space_turn"), ("visits", "dimension")):
            found[f"{what}-{name}"] = _change(np.log(rows.pivot(value, "seed", "factor")))
    for name, rows in settings(stored, "interventions").items():
        ends = {
            arm: np.log(interventions.at_the_common_loss(rows, "sharpness", arm))
            for arm in ("stable", "descent", "within", "across")
        }
        whole = ends["stable"] - ends["descent"]
        found |= {f"{a}-{name}": (ends["stable"] - ends[a]) / whole for a in ("within", "across")}
    enough = {name: v[np.isfinite(v)] for name, v in found.items()}
    return {n: stages.interval(v) for n, v in enough.items() if len(v) >= stages.FEWEST}


def predictions(stored: Result) -> dict[str, bool]:
    """What is predicted and has its seeds, by the criteria at the head of this file."""
    found, held = effects(stored), {}
    for name, effect in found.items():
        what, _, setting = name.partition("-")
        squared = setting.endswith("mse")
        if what == "flatter":
            held[name] = effect.high < 0
        if what == "level" and squared:
            held[name] = abs(effect.low - 1) < edge.NEAR and abs(effect.high - 1) < edge.NEAR
        if what == "turns":
            held[name] = effect.low > 0
        if what == "across" and squared:
            within = found[f"within-{setting}"]
            held[name] = effect.low > interventions.KEPT and within.high < interventions.LOST
    return {name: bool(value) for name, value in held.items()}


def _change(pairs: np.ndarray) -> np.ndarray:
    """The second of (seeds, 2) minus the first; nothing if only one of the two was made."""
    return pairs[:, 1] - pairs[:, 0] if pairs.shape[1:] == (2,) else np.empty(0)


# The approach is stable, see `flatness.TOLERANCES`.
TOLERANCES = {
    **interventions.EXPERIMENT.tolerances,
    **exploration.TOLERANCES,
    **edge.TOLERANCES,
    **flatness.TOLERANCES,
    "episodes": "spread",
    "learning_rate": 2e-4,
    "start_sharpness": 2e-3,
}

EXPERIMENT = Experiment(
    name="scale",
    summary="Flatness, edge, rotation and interventions on larger networks and natural images",
    function=run,
    grid=grid,
    depends_on=(
        *stages.DECISIVE,
        *(
            f"study.experiments.{name}"
            for name in (
                "cifar",
                "edge",
                "exploration",
                "flatness",
                "interventions",
            )
        ),
        "study.corpus",
    ),
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs at scale, as `results.compute` takes them."""
