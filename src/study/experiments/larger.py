"""The edge of stability where `edge` did not look: a slow network, deep ones, normalized ones.

Full-batch gradient descent with the squared loss on images of half the resolution, watched as in
`edge`, whose accounts and criteria are used. Three studies share the table:

* *arrival*: the CNN of `edge` at the one rate, SLOW, at which not every run came to the edge in its
  600 steps: the same runs, with the same seeds, go on to ARRIVAL_STEPS.
* *depth*: tanh MLPs with 2 to 8 hidden layers of one width, at one rate beyond the edge and at one
  far below it.
* *norm*: that CNN without a normalization, with group normalization (Wu & He, 2018), and with batch
  normalization by the statistics of the whole training set (Ioffe & Szegedy, 2015). The last is the
  form in which a Hessian exists: `EmpiricalRisk` refuses a network whose running averages change
  from pass to pass; without averages, on the full batch, the loss is a function of the weights.

What was known is from one seed, 1000, that is not stored, and served to choose rates and steps:
with 2 and with 8 hidden layers the level at 0.2 was 1.13 to 1.17 times 2 / eta, and at 0.02 the
sharpness of the latter grew by 3.6; the two normalized CNNs begin beyond the edge of 0.1, leave it
within 80 steps, and were back at 1.03 and 0.96 times it within 240.

Criteria, fixed before any run with the stored seeds was made:

* *arrival*: every run arrives at the edge. *level-arrival*, *level-depth-<d>*, *level-norm-<n>*:
  the distance of the level from 2 / eta, relative to it, is below `edge.NEAR`: the 95 % interval of
  its mean over seeds, by Student's t, lies below that. A run that does not arrive has the level of
  its second half, so that none is chosen by having arrived.
* *depth*: the factor by which the sharpness grows far below the edge rises with the depth: its rank
  correlation with the depth has an interval above 0.
* *unsteady-norm-<n>*: the share of steps after the arrival that raise the loss is above
  `edge.UNSTEADY`, all of its interval.

Predictions: all of them. Power: in the table of ``edge`` the level at the edge, relative to
2 / eta, has a standard deviation over seeds of 0.01 to 0.06, so that the interval from four seeds
is at most 0.1 wide on either side; a distance of 0.15 can be told from 0.25.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from flatminima import models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, student_interval
from flatminima.training import History, gradient_descent, probes
from study.experiments import edge, stages
from study.results import Experiment, Result

__all__ = [
    "DEPTHS",
    "EXPERIMENT",
    "SLOW",
    "Config",
    "effects",
    "grid",
    "network",
    "predictions",
    "run",
]

SLOW = 0.06
"""The rate at which some of the CNNs of `edge` did not arrive."""
ARRIVAL_STEPS = 1400
DEPTHS = (2, 4, 6, 8)
"""Hidden layers."""
NORMS = models.NORMS
"""The normalizations of the CNN, none among them."""


@dataclass(frozen=True)
class Config(edge.Config):
    """One run, as in `edge`; of the study ``"arrival"``, ``"depth"`` or ``"norm"``.

    Attributes:
        norm: of the CNN, as in `models.cnn`.
    """

    norm: str = "none"
    pooled: int = 2


def run(config: Config) -> dict[str, object]:
    """Train and measure, as `edge.account` does.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
    """
    history = trained(config, stages.images(config)[0])
    values = edge.account(history)
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}", values)
    return values


def opening(config: Config) -> dict[str, object]:
    """The sharpness of the untrained network alone."""
    history = trained(config, stages.images(config)[0], steps=1)
    return {"start_sharpness": edge.account(history)["start_sharpness"]}


def trained(config: Config, images: tuple[Tensor, Tensor], steps: int | None = None) -> History:
    """The run itself, for those who want its curves."""
    inputs, labels = edge.shrunk(images[0], config), images[1]
    risk = EmpiricalRisk(network(config, tuple(inputs.shape[1:])), config.loss, (inputs, labels))
    watched = {"probes": {"sharpness": probes.Sharpness()}, "probe_every": config.probe_every}
    return gradient_descent(risk, config.rate, steps or config.steps, **watched, progress=False)


def network(config: Config, shape: tuple[int, ...]) -> nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    if config.norm == "none":
        return edge.build(config, shape)
    channels = [config.width * 2**i for i in range(config.depth)]
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    return models.cnn(channels, "relu", input_shape=shape, norm=config.norm, **options)


def apart(part: Result) -> np.ndarray:
    """(S,) distance of the level from 2 / eta, relative to it, of the seeds that have a level.

    Of one rate. A run that diverged, or arrived too late to settle, has none.
    """
    levels = part["level"].astype(float) * part["rate"] / 2
    return np.abs(levels[np.isfinite(levels)] - 1)


def _parts(stored: Result) -> dict[str, Result]:
    """The runs whose level is asked for, by what a criterion calls them."""
    slow, deep, norm = (stored.where(study=study) for study in ("arrival", "depth", "norm"))
    deep = deep.where(rate=deep["rate"].max())
    found = {"arrival": slow}
    found |= {f"depth-{d}": deep.where(depth=d) for d in np.unique(deep["depth"])}
    return found | {f"norm-{n}": norm.where(norm=n) for n in dict.fromkeys(norm["norm"].tolist())}


def effects(stored: Result) -> dict[str, Interval]:
    """What the criteria at the head of this file compare.

    Returns:
        ``level-<part>``, the distance of the level from the edge, relative to it; ``depth``, a rank
        correlation; ``unsteady-norm-<n>``, a share of steps.
    """
    found = {
        f"level-{name}": student_interval(apart(part)) for name, part in _parts(stored).items()
    }
    deep = stored.where(study="depth")
    factors = deep.where(rate=deep["rate"].min()).pivot("sharpening", "seed", "depth")
    depths = np.unique(deep["depth"])
    found["depth"] = edge.sharpens_with_depth(factors, depths, np.random.default_rng(0))[0]
    for name, part in _parts(stored).items():
        if name.startswith("norm"):
            rises = part["rises_after"].astype(float)
            found[f"unsteady-{name}"] = student_interval(rises[np.isfinite(rises)])
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criteria, by the names of their effects; and ``arrival``."""
    found = effects(stored)
    held = {"arrival": bool(np.isfinite(stored.where(study="arrival")["arrival"]).all())}
    for name, interval in found.items():
        if name.startswith("level"):
            held[name] = bool(interval.high < edge.NEAR)
        else:
            bound = edge.UNSTEADY if name.startswith("unsteady") else 0.0
            held[name] = bool(interval.low > bound)
    return held


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    slow, norms, below, beyond = ARRIVAL_STEPS, 500, 1000, 600
    depths, seeds, small = DEPTHS, range(4), {}
    if preset == "ci":
        slow, norms, below, beyond = 200, 200, 200, 300
        depths, seeds, small = (2, 4), range(3), {"n_train": 60}
    if preset == "gpu":
        small = {"dataset": "cifar10", "n_train": 5000, "device": "cuda"}
        slow, norms, below, beyond, seeds = 10_000, 4000, 20_000, 8000, range(8)
    cnn = {"scale": 0.5, "width": 4, **small}
    all_of_edge = seeds if preset != "default" else range(5)
    configs = [Config("arrival", "cnn", "mse", SLOW, seed, slow, **cnn) for seed in all_of_edge]
    configs += [
        Config("depth", "tanh", "mse", rate, seed, steps, depth, scale=0.7, **small)
        for depth in depths
        for rate, steps in ((0.02, below), (0.2, beyond))
        for seed in seeds
    ]
    return configs + [
        Config("norm", "cnn", "mse", 0.1, seed, norms, norm=norm, **cnn)
        for norm in NORMS
        for seed in seeds
    ]


TOLERANCES = {name: edge.TOLERANCES[name] for name in edge.TOLERANCES if name != "test_accuracy"}

EXPERIMENT = Experiment(
    name="larger",
    summary="The edge in a slow network, in deep ones, and in normalized ones",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.edge"),
    tolerances=TOLERANCES,
    part=opening,
    effects=effects,
    predictions=predictions,
)
"""The runs at the edge, as `results.compute` takes them."""
