"""Does unstable training explore more, and is that more than turning within a few directions?

The paper says that the rotation of the leading eigenvectors promotes exploration. What is explored
has to be said before it can be counted. Full-batch descent from one and the same network, brought
down to ``start_loss`` at ``small_rate``, goes on at c times 2 / lambda_1 for equal training time
eta t. At equally spaced times the leading eigenvectors are computed at the center of the
oscillation (away from it polarity would turn v_1, whatever the run had done). Measured are

* *dimension-1*, *dimension-space*: the dimensions that v_1 and the leading space of LEADING vectors
  have visited, by `flatminima.training.exploration.visited_dimension`;
* *novel*: the share of the visited leading spaces that lies outside the space of the WIDE leading
  eigenvectors at the start. At the edge the leading eigenvalues are close together, and v_1 may
  then turn by much within a space that does not move: such a turn counts above, and not here;
* *outside*, *function*: the path of the center outside the initial leading space, and that of the
  outputs on images that were not trained on, for a unit of time;
* *away*, *function-away*: the same from end to end. A path that leads back explores on its way, and
  arrives nowhere else.

Criteria, fixed before any run with the stored seeds was made: each of the seven is larger at each
unstable c than at STABLE, the interval of the difference of logarithms over seeds above zero. In a
pilot with seeds 100 and 101 the dimensions and the paths were larger, *novel* too though small, and
the distances from end to end about the same. With them is reported what `wandering_dimension`
expects of spaces that turn as much at each step, each time to fresh directions: *wandering-1* and
*wandering-space*, logarithms of the measured dimension over the expected. Below zero the turns lead
back, above zero they lead on. No prediction is made of their sign.

A comparison of rates shows what goes with instability. Whether the rotation is its cause needs an
intervention. By Theorem G3 what the rotation does to the parameters is the even part of the
gradient across the unstable directions, and `CenteredDescent` can leave it away. Its arms, at CUT:

============= ====================================================================================
``split``      gradient descent, as a center and an oscillation: the control
``no-across``  without the even part across the unstable directions
============= ====================================================================================

In the second nothing ends the oscillation: it is capped at the largest displacement from the center
in gradient descent, and ``capped`` says at what share of the steps. In the pilot that was at two
thirds and more, and the sharpness grew. *rotation-measure*: each measure, split against no-across,
the difference of logarithms; above zero if the rotation promotes exploration.
"""

from dataclasses import dataclass

import numpy as np
import torch

from flatminima import curvature, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import exploration, gradient_descent, probes
from flatminima.training.interventions import CenteredDescent
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "ARMS",
    "CUT",
    "EXPERIMENT",
    "FACTORS",
    "LEADING",
    "MEASURES",
    "STABLE",
    "WIDE",
    "Config",
    "at_time",
    "effects",
    "explored",
    "grid",
    "of_arm",
    "predictions",
    "run",
]

LEADING, WIDE = 3, 10
"""Dimensions of the leading space, and of the wide one at the start."""
STABLE = 0.5
"""The factor c with which the unstable ones are compared."""
FACTORS = (STABLE, 1.5, 2.0)
CUT = 1.5
"""The factor at which parts of the gradient are left away."""
ARMS: dict[str, dict[str, float]] = {
    "split": {},
    "no-across": {"across": 0.0},
}
"""Arm -> what `CenteredDescent` is told."""
MEASURES = {
    "dimension-1": "dimension",
    "dimension-space": "space_dimension",
    "novel": "novel",
    "outside": "outside",
    "function": "function_path",
    "away": "outside_net",
    "function-away": "function_net",
}
"""Effect -> the column that it compares."""
UNSEEN = 500
"""Images on which the outputs are followed."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        factor: learning rate in units of 2 / lambda_1.
        arm: ``"gd"``, plain gradient descent, or one of ARMS.
        time: length of the run, eta lambda_1 / 2 summed over its steps, with lambda_1 at the start.
        times: number of equally spaced times at which it is measured.
        small_rate, start_loss, max_steps: as in `flatness.Config`.
        dataset, n_train, model, width, activation, loss, device: as in `flatness.Config`.
    """

    factor: float
    seed: int
    arm: str = "gd"
    time: float = 240.0
    times: int = 24
    dataset: str = "fashion-mnist-subset"
    n_train: int = 150
    model: str = "mlp"
    width: int = 24
    activation: str = "tanh"
    loss: str = "mse"
    small_rate: float = 0.025
    start_loss: float = 0.08
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The approach, the stretch, and what it explored; see `explored` and `TOLERANCES`.

    Raises:
        sweep.Diverged: if the stretch diverges; the values are those of the approach.
        RuntimeError: if the approach does not come down to its loss.
    """
    train, test = stages.images(config)
    options = {"seed": config.seed, "device": config.device}
    shape = tuple(train[0].shape[1:])
    model = stages.network(config.model, config.width, shape, config.activation, **options)
    risk = EmpiricalRisk(model, config.loss, train)
    values = stages.approach(risk, config)
    rate = config.factor * 2 / values["start_sharpness"]
    centers, more = (follow if config.arm == "gd" else intervene)(risk, config, rate)
    if centers is None:
        raise sweep.Diverged("in the stretch", values | more)
    values |= more | explored(risk, centers, rate, config.times, test[0][:UNSEEN])
    return values | {"end_accuracy": probes.Accuracy(*test).of(model)}


Followed = tuple[np.ndarray | None, dict[str, object]]
"""The centers (T, n) of a stretch, None if it diverged; and what else there is to tell of it."""


def follow(risk: EmpiricalRisk, config: Config, rate: float) -> Followed:
    """The stretch of gradient descent, in place; ``displaced`` is the largest from its center."""
    steps = round(config.time / config.factor)
    watched = {"iterate": lambda state: state.risk.flat().cpu().numpy()}
    history = gradient_descent(risk, rate, steps, probes=watched, progress=False)
    told = {"rises": float(np.mean(np.diff(history.loss) > 0)), "capped": 0.0}
    if history.diverged:
        return None, told
    iterates = history.probes["iterate"]
    centers = exploration.oscillation_centers(iterates)
    largest = np.linalg.norm(iterates[1:-1] - centers, axis=1).max()
    return centers, told | {"displaced": float(largest)}


def intervene(risk: EmpiricalRisk, config: Config, rate: float) -> Followed:
    """The stretch of one of ARMS, in place, with the steps that raise the loss at the center."""
    start, limit = risk.flat(), None
    if config.arm != "split":
        limit = follow(risk, config, rate)[1].get("displaced")
        put(risk, start)
    descent = CenteredDescent(risk, rate, **ARMS[config.arm])
    steps, centers, losses, capped, largest = round(config.time / config.factor), [], [], [], 0.0
    while len(centers) < steps and not descent.diverged:
        capped.append(descent.step(limit))
        centers.append(descent.center.cpu().numpy())
        losses.append(descent.loss)
        largest = max(largest, float(descent.displacement.norm()))
    told = {"rises": float(np.mean(np.diff(losses) > 0)), "capped": float(np.mean(capped))}
    told["displaced"] = largest
    return (None if descent.diverged else np.array(centers)), told


def explored(
    risk: EmpiricalRisk, centers: np.ndarray, rate: float, times: int, unseen: torch.Tensor
) -> dict[str, object]:
    """What a run explored, from its centers (T, n). The parameters end at the last of them.

    ``turn`` and ``space_turn`` are the mean of one minus the squared cosines between successive
    times; ``outside``, ``inside`` and ``function_path`` are lengths over eta t, the last in root
    mean square over images and classes; ``outside_net`` and ``function_net`` are from end to end.
    """
    chosen = np.linspace(0, len(centers) - 1, times + 1).round().astype(int)
    path, spaces, values, outputs = centers[chosen], [], [], []
    wide = start = None
    for center in path:
        put(risk, center)
        pairs = curvature.top_eigenpairs(risk, LEADING if spaces else WIDE, tol=1e-3, start=start)
        start = pairs.eigenvectors[:LEADING]
        wide = pairs.eigenvectors.cpu().numpy() if wide is None else wide
        spaces.append(start.cpu().numpy())
        values.append(float(pairs.eigenvalues[0]))
        with torch.no_grad():
            outputs.append(risk.model(unseen).double().cpu().numpy())
    spaces, time = np.array(spaces), rate * (chosen[-1] - chosen[0])
    moved = exploration.movement(path, spaces[0].astype(float))
    steps = np.sqrt(np.mean(np.diff(outputs, axis=0) ** 2, axis=(1, 2)))
    net = np.sqrt(np.mean((outputs[-1] - outputs[0]) ** 2))
    scaled = np.array(values) * rate / 2
    found = {
        "end_loss": float(risk.value()),
        "highest": scaled.max(),
        "end_sharpness": values[-1],
        "turn": 1 - _kept(spaces[:, :1]),
        "space_turn": 1 - _kept(spaces),
        "novel": 1 - _share(spaces[1:], wide),
        "outside": moved.outside / time,
        "inside": moved.inside / time,
        "outside_net": moved.net / time,
        "function_path": steps.sum() / time,
        "function_net": net / time,
    }
    for name, frames in (("dimension", spaces[:, :1]), ("space_dimension", spaces)):
        found[name] = exploration.visited_dimension(frames)
        found[f"{name}_wandering"] = exploration.wandering_dimension(frames)
    return found


def put(risk: EmpiricalRisk, point: np.ndarray) -> None:
    """Move the parameters to a point (n,)."""
    place = torch.as_tensor(point, dtype=risk.parameters[0].dtype, device=risk.device)
    with torch.no_grad():
        for parameter, part in zip(risk.parameters, risk.unflatten(place).values(), strict=True):
            parameter.copy_(part)


def _kept(spaces: np.ndarray) -> float:
    """What successive spaces (m, k, n) share, in the mean."""
    cosines = spaces[:-1] @ spaces[1:].transpose(0, 2, 1)
    return float(np.mean(np.sum(cosines**2, axis=(1, 2)))) / spaces.shape[1]


def _share(spaces: np.ndarray, wide: np.ndarray) -> float:
    """The share of spaces (m, k, n) inside another (K, n), in the mean."""
    return float(np.mean(np.sum((spaces @ wide.T) ** 2, axis=2)))


def at_time(stored: Result, column: str) -> np.ndarray:
    """A column of the runs of gradient descent over (seeds, factors); NaN where one diverged."""
    return stored.where(arm="gd").pivot(column, "seed", "factor")


def of_arm(stored: Result, column: str, arm: str) -> np.ndarray:
    """A column of an arm at CUT in the order of the seeds; NaN where it diverged."""
    rows = stored.where(arm=arm, factor=CUT)
    return rows[column].astype(float)[np.argsort(rows["seed"])]


def effects(stored: Result) -> dict[str, Interval]:
    """What unstable training explores against stable training, and against fresh directions.

    Returns:
        ``<measure>-<c>`` for each of MEASURES and each unstable c: the difference of logarithms to
        c = STABLE; ``wandering-1-<c>`` and ``wandering-space-<c>`` for each c: the logarithm of the
        visited dimension over that of a walk that turns as much; and ``rotation-<measure>``, the
        difference of logarithms of split and no-across.

    Raises:
        ValueError: if a comparison has fewer than `stages.FEWEST` seeds.
    """
    factors, found = np.unique(stored["factor"]), {}
    stable = int(np.flatnonzero(factors == STABLE)[0])
    for name, column in MEASURES.items():
        values = np.log(at_time(stored, column))
        for i, factor in enumerate(factors):
            if i != stable:
                change = values[:, i] - values[:, stable]
                found[f"{name}-{factor:g}"] = stages.interval(change)
    for name, column in (("1", "dimension"), ("space", "space_dimension")):
        ratio = np.log(at_time(stored, column) / at_time(stored, f"{column}_wandering"))
        for i, factor in enumerate(factors):
            found[f"wandering-{name}-{factor:g}"] = stages.interval(ratio[:, i])
    for name, column in MEASURES.items():
        whole, cut = (of_arm(stored, column, arm) for arm in ("split", "no-across"))
        found[f"rotation-{name}"] = stages.interval(np.log(whole / cut))
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """``more-<measure>``: larger at every unstable c than at STABLE; ``rotation-<measure>``."""
    found = effects(stored)
    held = {key: e.low > 0 for key, e in found.items() if key.startswith("rotation")}
    for name in MEASURES:
        each = [e for key, e in found.items() if key.rsplit("-", 1)[0] == name]
        held[f"more-{name}"] = all(e.low > 0 for e in each)
    return held


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    small, seeds, cut = {}, range(12), range(8)
    if preset == "ci":
        small = {"n_train": 60, "width": 12, "time": 60.0, "times": 6, "start_loss": 0.15}
        seeds = cut = range(3)
    if preset == "gpu":
        small = {"dataset": "cifar10", "n_train": 5000, "width": 200, "device": "cuda"}
    configs = [Config(factor, seed, **small) for factor in FACTORS for seed in seeds]
    return configs + [Config(CUT, seed, arm, **small) for arm in ARMS for seed in cut]


# The approach is stable, see `flatness.TOLERANCES`.
TOLERANCES = {
    "start_steps": 4e-3,
    "start_sharpness": 2e-4,
    **stages.spread(
        "rises capped displaced end_loss end_accuracy highest end_sharpness turn space_turn novel "
        "outside inside outside_net function_path function_net dimension dimension_wandering "
        "space_dimension space_dimension_wandering",
    ),
}

EXPERIMENT = Experiment(
    name="exploration",
    summary="Directions visited and distance moved in equal training time, stable and unstable",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs that are asked what they explore, as `results.compute` takes them."""
