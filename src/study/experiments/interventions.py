r"""Cause or company? The rotation's effect is taken away, and left alone, while a network trains.

All arms of a run begin at one start, with the sharpness at ``factor`` times 2 / eta, and train for
``steps`` steps of eta. Their centers are then cooled to one loss, at a rate so small that it
flattens nothing, and measured there. `CenteredDescent` says what the parts are; those across V are,
by Theorem G3, the rotation of the unstable eigenvectors.

============ =======================================================================================
``descent``  gradient descent
``stable``   gradient descent with STABLE times the rate, for as much longer
``control``  gradient descent as center and oscillation, nothing changed
``none``     without the even part: the oscillation goes on, and its drift is gone
``within``   only the part within V is left: what turns the eigenvectors is gone
``across``   only the part across V is left: what turns the eigenvectors acts alone
``drift``    the drift without the oscillation: the parameters stay at the center
``reversed`` the same with the drift backwards, for the displacements of ``drift``
============ =======================================================================================

Without the drift nothing ends an instability, and the oscillation would grow: in a pilot to five
times its size, where effects of higher order flatten too. So in ``none`` and ``within`` it is
capped at each step at what it is in ``control``: as large as in gradient descent, and no larger.

Asked is which share of the flattening an arm keeps, in every seed
log(stable / arm) / log(stable / descent), of the sharpness at the common loss: one is all of what
gradient descent flattens, zero none of it.

Criteria, fixed before any run with the stored seeds was made; known were pilots with the seeds 0,
100 and 101 on networks half as large again, in which all were met by a wide margin. They are asked
of each setting:

* *power*: there is something to keep: the interval of log(stable / descent) lies above FLATTENING.
* *same*: control keeps at least KEPT, its interval lies above it.
* *necessary*: none and within keep at most LOST, their intervals lie below it.
* *sufficient*: across and drift keep at least KEPT.
* *backwards*: reversed keeps less than nothing: it sharpens.

Stable training serves as the control for a rotation alone: how far it turns the leading
eigenvectors is measured beside how far gradient descent does, over the same time.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from flatminima import curvature, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.theory.rotation import subspace_overlap
from flatminima.training import gradient_descent, probes
from flatminima.training.interventions import CenteredDescent, Motion
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "ARMS",
    "EXPERIMENT",
    "FLATTENING",
    "KEPT",
    "LOST",
    "STABLE",
    "Config",
    "Trained",
    "at_the_common_loss",
    "effects",
    "grid",
    "predictions",
    "run",
    "settings",
    "train",
]

ARMS: dict[str, dict[str, float]] = {
    "control": {},
    "none": {"across": 0.0, "within": 0.0},
    "within": {"across": 0.0},
    "across": {"within": 0.0},
    "drift": {"oscillates": False},
    "reversed": {"oscillates": False, "across": -1.0},
}
"""The arms in the form of center and displacement, and what `CenteredDescent` is given for each."""
PLAIN = ("descent", "stable")
"""The arms that are plain gradient descent."""
CAPPED = ("none", "within")
"""The arms whose displacement is capped at that of ``control``."""
STABLE = 1 / 8
"""Rate of ``stable`` in units of eta: far enough below that sharpening does not bring its edge."""
OFFSET = 1e-3
"""Length of the displacement at the start: from the very center the instability waits for rounding
to grow, and the sharpness overshoots."""
COOLING = 1 / 8
"""Rate of the cooling in units of ``small_rate``."""
TOP = 5
"""Eigenvectors whose turn is measured."""
KEPT = 0.75
"""What an arm keeps at least that has the cause."""
LOST = 0.25
"""What an arm keeps at most that has not."""
FLATTENING = np.log(1.1)
"""What there must be to keep."""


@dataclass(frozen=True)
class Config:
    """One run of all arms. The seed chooses the training images and the initial weights.

    Attributes:
        model, loss, width, dataset, n_train, small_rate, start_loss, target_loss, max_steps,
            device: as in `flatness.Config`.
        factor: c, the sharpness at the start in units of 2 / eta.
        steps: of eta.
    """

    model: str
    loss: str
    factor: float
    seed: int
    steps: int
    start_loss: float
    target_loss: float
    small_rate: float = 0.05
    width: int = 16
    dataset: str = "fashion-mnist-subset"
    n_train: int = 60
    max_steps: int = 20_000
    device: str = "cpu"


class Trained(NamedTuple):
    """An arm after its steps: where its center is, and how it came there.

    Example:
        >>> Trained(np.zeros(2), None).motion is None
        True
    """

    center: Tensor
    """(p,)"""
    motion: Motion | None
    """None for plain gradient descent."""


def train(risk: EmpiricalRisk, rate: float, steps: int) -> dict[str, Trained]:
    """Train all arms from where the model is; the model ends anywhere. An arm that diverges is left
    out, and with ``control`` or ``drift`` those that need their displacements.

    Args:
        rate: eta, of ``descent``.
        steps: of eta.

    Example:
        >>> import torch
        >>> from flatminima import models
        >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
        >>> risk = EmpiricalRisk(models.mlp([3, 4, 1], seed=1), "mse", (x, x.sum(1, keepdim=True)))
        >>> arms = train(risk, 0.1, 2)
        >>> list(arms)
        ['descent', 'stable', 'control', 'none', 'within', 'across', 'drift', 'reversed']
        >>> len(arms["control"].motion.loss)
        2
    """
    start, found = risk.flat(), {}
    for name, part in zip(PLAIN, (1.0, STABLE), strict=True):
        move(risk, start)
        made = gradient_descent(risk, part * rate, round(steps / part), progress=False)
        if not made.diverged:
            found[name] = Trained(risk.flat(), None)
    for name, parts in ARMS.items():
        how = {}
        needed = "control" if name in CAPPED else "drift" if name == "reversed" else None
        if needed and needed not in found:
            continue
        if name in CAPPED:
            size = found["control"].motion.size
            how["limits"] = np.append(size[1:], size[-1])
        if name == "reversed":
            how["amplitudes"] = found["drift"].motion.amplitudes
        move(risk, start)
        descent = CenteredDescent(risk, rate, offset=OFFSET, **parts)
        motion = descent.run(steps, **how)
        if not motion.diverged:
            found[name] = Trained(descent.center, motion)
            if name == "control":
                # What the split has changed is rounding, and what the instability makes of it.
                found[name] = Trained(descent.theta, motion)
    return found


def move(risk: EmpiricalRisk, point: Tensor) -> None:
    """Give the model the parameters of a point (p,)."""
    for part, parameter in zip(risk.unflatten(point).values(), risk.parameters, strict=True):
        parameter.data.copy_(part)


def run(config: Config) -> dict[str, object]:
    """All arms and what they end in: ``<value>_<arm>``.

    Raises:
        RuntimeError: if the start is not reached.
    """
    images, test = stages.images(config)
    options = {"seed": config.seed, "device": config.device}
    model = stages.network(config.model, config.width, tuple(images[0].shape[1:]), **options)
    risk = EmpiricalRisk(model, config.loss, images)
    values = stages.approach(risk, config)
    before = curvature.top_eigenpairs(risk, k=TOP).eigenvectors.cpu().numpy()
    rate = config.factor * 2 / values["start_sharpness"]
    values["learning_rate"] = rate
    arms = train(risk, rate, config.steps)
    for name, arm in arms.items():
        move(risk, arm.center)
        after = curvature.top_eigenpairs(risk, k=TOP).eigenvectors.cpu().numpy()
        overlap = float(np.mean(subspace_overlap(before, after) ** 2))
        found = {"turned": 1 - overlap, "loss": risk.value()}
        found |= end(risk, probes.Accuracy(*test), config)
        if arm.motion is not None:
            found["size"] = float(np.sqrt(np.mean(arm.motion.size**2)))
            found["capped"] = float(np.mean(arm.motion.capped))
            found["directions"] = int(np.max(arm.motion.directions))
        values |= {f"{value}_{name}": measured for value, measured in found.items()}
    if "descent" in arms and "control" in arms:
        plain = arms["descent"].center
        apart = arms["control"].center - plain
        values["apart"] = float(apart.norm() / plain.norm())
    return values


def end(risk: EmpiricalRisk, accuracy: probes.Accuracy, config: Config) -> dict[str, object]:
    """Cool, and measure at the common loss; nothing but ``reached`` if that is not reached."""
    try:
        cooled = stages.cool(risk, config, COOLING * config.small_rate, {})
    except sweep.Diverged:
        return {"reached": False}
    return {
        "reached": cooled["reached"],
        "undershoot": cooled["undershoot"],
        "sharpness": curvature.sharpness(risk),
        "trace": curvature.trace(risk, products=3 * stages.SAMPLES).value,
        "test_accuracy": accuracy.of(risk.model),
    }


def grid(preset: str) -> list[Config]:
    """The configs of a preset, those that matter most first."""
    mse = {"loss": "mse", "steps": 50, "start_loss": 0.08, "target_loss": 0.035}
    logistic = {"loss": "cross_entropy", "steps": 16, "start_loss": 1.2, "target_loss": 0.35}
    logistic |= {"small_rate": 0.03}
    if preset == "ci":
        small = mse | {"steps": 40, "width": 12, "n_train": 40}
        return [Config("mlp", factor=1.5, seed=seed, **small) for seed in range(3)]
    cnn = {"width": 3, "n_train": 40, "start_loss": 0.2, "target_loss": 0.09, "steps": 30}
    natural = {"dataset": "cifar10-subset", "start_loss": 0.15, "target_loss": 0.07}
    parts = [
        ("mlp", 1.5, mse),
        ("mlp", 2.0, logistic),
        ("cnn", 1.5, mse | cnn),
        ("mlp", 2.0, mse),
        ("mlp", 1.2, mse),
    ]
    more = {}
    if preset == "gpu":
        parts.append(("mlp", 1.5, mse | natural))
        more = {"device": "cuda", "width": 64, "n_train": 1000}
    return [
        Config(model, factor=factor, seed=seed, **part | more)
        for model, factor, part in parts
        for seed in range(1, 9)
    ]


# --- what the runs show


def settings(stored: Result) -> dict[str, Result]:
    """The settings of a result, by name: ``<model>-<loss>-<factor>``, with the data set if it is
    another than the subset of Fashion-MNIST.
    """
    columns = ("model", "loss", "factor", "dataset")
    places = dict.fromkeys(zip(*(stored[c].tolist() for c in columns), strict=True))
    found = {}
    for place in places:
        *named, data = place
        name = "-".join([*(f"{part}" for part in named[:2]), f"{named[2]:g}"])
        if data != Config.dataset:
            name += f"-{data}"
        found[name] = stored.where(**dict(zip(columns, place, strict=True)))
    return found


def at_the_common_loss(part: Result, value: str, arm: str) -> np.ndarray:
    """A value of an arm over (seeds,); NaN where the arm diverged or missed the loss."""
    if f"reached_{arm}" not in part.columns or f"{value}_{arm}" not in part.columns:
        return np.full(len(part), np.nan)
    reached = stages.reached(part[f"reached_{arm}"])
    return np.where(reached, part[f"{value}_{arm}"].astype(float), np.nan)


def effects(stored: Result) -> dict[str, Interval]:
    """The effects in each setting, over the seeds.

    Returns:
        ``<setting>-flattening``: log(stable / descent) of the sharpness at the common loss;
        ``<setting>-kept-<arm>``: the share of it that an arm keeps, mean over the seeds;
        ``<setting>-trace-<arm>``: the same of the trace;
        ``<setting>-gain-<arm>``: test accuracy minus that of ``stable``;
        ``<setting>-turned-<arm>``: how far the TOP eigenvectors turned, one minus their overlap.

    Raises:
        ValueError: if an arm has fewer than `stages.FEWEST` seeds.
    """
    found = {}
    for name, part in settings(stored).items():
        logs = {
            value: {a: np.log(at_the_common_loss(part, value, a)) for a in (*PLAIN, *ARMS)}
            for value in ("sharpness", "trace")
        }
        sharp = logs["sharpness"]
        found[f"{name}-flattening"] = stages.interval(sharp["stable"] - sharp["descent"])
        accuracy = at_the_common_loss(part, "test_accuracy", "stable")
        for arm in (*PLAIN, *ARMS):
            for value, log in logs.items():
                kept = (log["stable"] - log[arm]) / (log["stable"] - log["descent"])
                what = "kept" if value == "sharpness" else value
                if arm in ARMS:
                    found[f"{name}-{what}-{arm}"] = stages.interval(kept)
            gain = at_the_common_loss(part, "test_accuracy", arm) - accuracy
            found[f"{name}-gain-{arm}"] = stages.interval(gain)
            turned = at_the_common_loss(part, "turned", arm)
            found[f"{name}-turned-{arm}"] = stages.interval(turned)
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criteria in each setting: ``<setting>-power``, ``-same``, ``-necessary`` and so on."""
    found, held = effects(stored), {}
    for name in settings(stored):
        kept = {arm: found[f"{name}-kept-{arm}"] for arm in ARMS}
        held[f"{name}-power"] = found[f"{name}-flattening"].low > FLATTENING
        held[f"{name}-same"] = kept["control"].low > KEPT
        held[f"{name}-necessary"] = all(kept[arm].high < LOST for arm in CAPPED)
        held[f"{name}-sufficient"] = all(kept[arm].low > KEPT for arm in ("across", "drift"))
        held[f"{name}-backwards"] = kept["reversed"].high < 0
    return {name: bool(value) for name, value in held.items()}


_VALUES = "loss turned reached undershoot sharpness trace test_accuracy size capped directions"

# The approach is stable: as accurate as in `flatness`. For the rest see `stages.spread`.
TOLERANCES = {
    "start_steps": 4e-3,
    "start_sharpness": 2e-4,
    "learning_rate": 2e-4,
    **stages.spread(
        "apart",
        *(f"{value}_{arm}" for value in _VALUES.split() for arm in ARMS),
        *(f"{value}_{arm}" for value in _VALUES.split()[:7] for arm in PLAIN),
    ),
}

EXPERIMENT = Experiment(
    name="interventions",
    summary="What training keeps of its flattening when the rotation's effect is taken away",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs of all arms, as `results.compute` takes them."""
