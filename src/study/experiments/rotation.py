r"""How far does an instability turn the leading eigenvectors, and would they have turned anyway?

Networks are trained on the full batch at rates that bring them to the edge, and each step is kept.
An *episode* is one of `History.episodes`, whole within the run and with a rise of the loss by RISE
at least; the first ``most`` of a run count. From its start to its end the leading eigenvectors are
compared, at the center of the oscillation, the mean of two successive iterates: at an iterate
itself, polarity would turn them whatever the episode had done. Under Adam they are those of the
preconditioned Hessian, which decides stability there. Measured are

* *v1*, one minus the squared cosine of v_1 before and after;
* *followed*, the same of v_1 before and the nearest of the LEADING eigenvectors after: where two
  eigenvalues exchange their order v_1 is replaced, though nothing need have turned;
* *space*, one minus the mean squared cosine of the two spaces of LEADING eigenvectors;
* *inside*, the share of v_1 after that lies in the space before;
* *change*, the logarithm of the sharpness after over that before.

Nothing of it means much by itself: eigenvectors turn in any training. So there are three nulls.

* *chance*: a random direction in p dimensions has 1 / p of itself in v_1, and LEADING / p in the
  space; a random one within the space has 1 / LEADING in v_1.
* *stable*: from the same point, the center at the start, training goes on for as long (the sum of
  the rates), at a rate SLOWER times as small, at which it is stable; Adam keeps its state.
* *quiet*: the window of equal length in the same run, nearest to the episode, in which no step
  belongs to any episode, however small. An episode without one has no part in that comparison.

**Criteria, fixed before a run with the stored seeds was made.** Each is about a difference, episode
minus null, paired within a run, averaged over its episodes, then over the rates; the unit is the
seed, the interval Student's t at 95 %. *v1*, *followed* and *space*, each against *stable* and
against *quiet*: it lies above 0. *kept*: the interval of inside minus LEADING / p lies above 0.
*exchanged*: that of the squared cosine of v_1 minus inside / LEADING lies below 0: among the
directions of the space, an episode leaves v_1 with less than chance would. *flattens*: that of
change lies below 0, and that of *stable* above. *rates*: the turn of an episode, v1 and space, is
larger at the largest rate than at the smallest, of seeds that have one at both.

**What was known** is from one seed, 1000, that is not stored. In the MLP, the CNN and the
transformer under gradient descent, v_1 turned by nearly a right angle in most episodes, 0.9 to 1,
against 0.001 to 0.1 in stable training, and 98 % of it or more stayed inside the space; lambda_1
fell, and lambda_1 of the stable stretch rose. The space turned by 0.01 to 0.6, more at the larger
rate, and not always more than in stable training. Under Adam there were two episodes of three
steps. So *v1*, *kept*, *exchanged* and *flattens* are predicted in every network, and *rates* for
the space. Of *followed* and *space* nothing is predicted.

**Power.** In the pilot the standard deviation of an episode's *v1* minus stable was 0.15 to 0.3, so
that of a run's mean over five about 0.1: five seeds give a half-width of 0.12, three, which the
transformer had first, one of 0.25, against 0.8. That of *space* was 0.1, and so 0.05 a run: five
seeds tell 0.06, three 0.12. Those first seeds, five of the MLP and the CNN and three of the
transformer, left much of the latter undecided; the largest spread over its three, under Adam,
decided for as many seeds of all networks as make that half-width 0.25 again (`power.SECOND`).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from flatminima import models, sweep
from flatminima.curvature import (
    EmpiricalRisk,
    PreconditionedOperator,
    preconditioner,
    sharpness,
    top_eigenpairs,
)
from flatminima.curvature.eigensolver import EigenResult
from flatminima.statistics import Interval, student_interval
from flatminima.theory.quadratic import stability_threshold
from flatminima.theory.rotation import subspace_overlap
from flatminima.training import Episode, History, probes, train
from flatminima.training.polarity import RESIDUAL
from study import corpus
from study.experiments import edge, power, stages
from study.experiments.timing import RISE
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "LEADING",
    "MEASURES",
    "NULLS",
    "SETTINGS",
    "Config",
    "Path",
    "account",
    "effects",
    "grid",
    "per_seed",
    "predictions",
    "problem",
    "quiet",
    "run",
]

LEADING = 3
"""Dimension of the leading space."""
SLOWER = 4
"""By how much the rate of the stable stretch is smaller."""
CONTEXT = 32
"""Characters that the transformer reads."""
BETAS = (0.9, 0.99)
SETTLE = 20
"""Steps after the arrival at the edge that are left out of the level."""
MEASURES = ("v1", "followed", "space", "inside", "change")
"""What is measured from before to after a window."""
NULLS = ("stable", "quiet")
"""The stretches that an episode is compared with."""
SETTINGS = {
    ("mlp", "gd"): "tanh MLP",
    ("cnn", "gd"): "tanh CNN",
    ("transformer", "gd"): "transformer",
    ("transformer", "adam"): "transformer, Adam",
}
"""Model and method -> what they are called."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training data and the initial weights.

    Attributes:
        model: ``"mlp"`` or ``"cnn"``, with tanh and the squared loss, as `stages.network` has them,
            or ``"transformer"``, two blocks on the text of `corpus` with cross-entropy.
        rate: the learning rate.
        steps: updates.
        method: ``"gd"`` or ``"adam"``.
        n_train: images, or pieces of text.
        scale: factor on the standard deviation of the initial weights.
        width: of a hidden layer, the first block, or the transformer.
        probe_every: steps between two measurements of the (preconditioned) sharpness.
        most: episodes of a run that are measured, the first.
        pooled, dataset, device: as in `edge.Config`.
    """

    model: str
    rate: float
    seed: int
    steps: int
    method: str = "gd"
    n_train: int = 200
    scale: float = 0.3
    width: int = 32
    probe_every: int = 5
    most: int = 6
    pooled: int = 2
    dataset: str = "fashion-mnist-subset"
    device: str = "cpu"


class Path(NamedTuple):
    """A run with all that it went through.

    Attributes:
        history: the run, with the (preconditioned) sharpness in units in which the edge of the
            method is 2 / eta, so that episodes and arrival are those of the method.
        points: (T, p) the parameters at each step.
        states: the state of the optimizer at each step.
    """

    history: History
    points: np.ndarray
    states: list[dict]

    def center(self, step: int) -> np.ndarray:
        """The mean (p,) of two iterates."""
        return (self.points[step] + self.points[step + 1]) / 2


def run(config: Config) -> dict[str, object]:
    """Train, find the episodes, and measure what turned in them and in their nulls.

    Raises:
        sweep.Diverged: if the run diverges.
    """
    risk = problem(config)
    start = sharpness(risk)
    path = recorded(risk, config)
    if path.history.diverged:
        raise sweep.Diverged(f"at step {path.history.diverged_at}", {"start_sharpness": start})
    found = account(risk, config, path) | {"start_sharpness": start}
    _put(risk, path.points[-1])
    return found | {"end_sharpness": sharpness(risk)}


def opening(config: Config) -> dict[str, object]:
    """What a run has before any instability: the sharpness of the untrained network."""
    risk = problem(config)
    return {"parameters": risk.size, "start_sharpness": sharpness(risk)}


def problem(config: Config) -> EmpiricalRisk:
    """The risk of the untrained network."""
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    if config.model == "transformer":
        data, _ = corpus.sequences(config.n_train, CONTEXT, seed=config.seed)
        model = models.transformer(len(corpus.symbols()), CONTEXT, width=config.width, **options)
        return EmpiricalRisk(model, "cross_entropy", tuple(part.to(config.device) for part in data))
    (images, labels), _ = stages.images(config)
    images = edge.shrunk(images, config)
    model = stages.network(config.model, config.width, tuple(images.shape[1:]), **options)
    return EmpiricalRisk(model, "mse", (images, labels))


def _optimizer(risk: EmpiricalRisk, config: Config) -> torch.optim.Optimizer:
    if config.method == "adam":
        return torch.optim.Adam(risk.parameters, config.rate, BETAS)
    return torch.optim.SGD(risk.parameters, config.rate)


def recorded(risk: EmpiricalRisk, config: Config) -> Path:
    """Train, and keep each step."""
    optimizer, states = _optimizer(risk, config), []
    measure = probes.PreconditionedSharpness(tol=1e-2)
    beta = {"beta1": BETAS[0]} if config.method == "adam" else {}
    unit = 2 / config.rate / float(stability_threshold(config.method, config.rate, **beta))

    def at_times(state: probes.State) -> float:
        return unit * measure(state) if state.step % config.probe_every == 0 else float("nan")

    def point(state: probes.State) -> np.ndarray:
        states.append(copy.deepcopy(optimizer.state_dict()))
        return state.risk.flat().cpu().numpy()

    watched = {"sharpness": at_times, "point": point}
    history = train(risk, config.steps, optimizer=optimizer, probes=watched, progress=False)
    kept = {"sharpness": history.probes["sharpness"]}
    return Path(replace(history, probes=kept), history.probes["point"], states)


def _put(risk: EmpiricalRisk, point: np.ndarray) -> None:
    values = risk.unflatten(torch.from_numpy(point).to(risk.device))
    with torch.no_grad():
        for name, parameter in zip(risk.names, risk.parameters, strict=True):
            parameter.copy_(values[name])


def _placed(risk: EmpiricalRisk, config: Config, path: Path, step: int) -> torch.optim.Optimizer:
    """Put the network at the center of a step and the next, and its optimizer as it was there."""
    _put(risk, path.center(step))
    optimizer = _optimizer(risk, config)
    optimizer.load_state_dict(copy.deepcopy(path.states[step + 1]))
    return optimizer


def _leading(
    risk: EmpiricalRisk, optimizer: torch.optim.Optimizer, before: EigenResult | None = None
) -> EigenResult:
    """The LEADING eigenpairs of the (preconditioned) Hessian where the network is."""
    operator = risk.hessian()
    if isinstance(optimizer, torch.optim.Adam):
        operator = PreconditionedOperator(operator, preconditioner(optimizer, risk.parameters))
    start = None if before is None else before.eigenvectors
    return top_eigenpairs(operator, LEADING, tol=RESIDUAL, start=start)


def _window(
    risk: EmpiricalRisk, config: Config, path: Path, first: int, last: int
) -> tuple[EigenResult, EigenResult]:
    """The leading pairs at two steps of a run."""
    before = _leading(risk, _placed(risk, config, path, first))
    return before, _leading(risk, _placed(risk, config, path, last), before)


def _stable(
    risk: EmpiricalRisk, config: Config, path: Path, e: Episode, before: EigenResult
) -> EigenResult:
    """The leading pairs after as long a stretch, from the same point, at the smaller rate."""
    optimizer = _placed(risk, config, path, e.start)
    for group in optimizer.param_groups:
        group["lr"] = config.rate / SLOWER
    train(risk, SLOWER * (e.end - e.start), optimizer=optimizer, progress=False)
    return _leading(risk, optimizer, before)


def turned(before: EigenResult, after: EigenResult) -> dict[str, float]:
    """MEASURES from one set of leading pairs to another."""
    u, w = (pairs.eigenvectors.double().cpu().numpy() for pairs in (before, after))
    return {
        "v1": 1 - float(u[0] @ w[0]) ** 2,
        "followed": 1 - float(np.max((w @ u[0]) ** 2)),
        "space": 1 - float(np.mean(subspace_overlap(u, w) ** 2)),
        "inside": float(np.sum((u @ w[0]) ** 2)),
        "change": float(np.log(float(after.eigenvalues[0]) / float(before.eigenvalues[0]))),
    }


def quiet(episodes: Sequence[Episode], length: int, steps: int, near: int) -> int | None:
    """First step of the free window of that length whose start is nearest to ``near``, or None.

    Free: no episode reaches into it, nor into the step after it, that of its last center; it begins
    after the first step, and ends within the ``steps``.

    Example:
        >>> quiet([Episode(4, 6, 9)], 3, 20, near=4), quiet([Episode(2, 6, 18)], 3, 20, near=4)
        (10, None)
    """
    busy = np.zeros(steps + 1, dtype=bool)
    for e in episodes:
        busy[e.start : e.end + 1] = True
    free = [t for t in range(1, steps - length) if not busy[t : t + length + 2].any()]
    return min(free, key=lambda t: abs(t - near), default=None)


def account(risk: EmpiricalRisk, config: Config, path: Path) -> dict[str, object]:
    """What the episodes of a recorded run turned, and their nulls; None where there is none.

    ``<measure>`` is the mean over the episodes, ``<measure>_stable`` over their stable stretches,
    ``<measure>_quiet`` over the quiet windows, and ``<measure>_paired`` over the episodes that have
    one. ``level`` is the mean sharpness over that of the edge from SETTLE steps after the
    ``arrival`` on, ``busy`` the share of the steps since then that belong to episodes.
    """
    history = path.history
    every, last = history.episodes(), len(history.loss) - 1
    chosen = [e for e in history.episodes(minimum_rise=RISE) if e.start > 0 and e.end < last]
    ratio, arrival = history.trace("sharpness") * config.rate / 2, _arrival(history)
    settled = ratio[arrival + SETTLE :] if arrival is not None else ratio[:0]
    settled = settled[np.isfinite(settled)]
    busy = sum(e.end - e.start for e in every)
    found: dict[str, object] = {
        "parameters": risk.size,
        "arrival": arrival,
        "level": float(settled.mean()) if len(settled) else None,
        "final_loss": float(history.loss[-1]),
        "episodes": len(chosen),
        "length": float(np.mean([e.end - e.start for e in chosen])) if chosen else None,
        "busy": busy / (last - arrival) if arrival is not None and arrival < last else None,
    }
    rows: dict[str, list[dict[str, float]]] = {"": [], "_paired": [], "_stable": [], "_quiet": []}
    for e in chosen[: config.most]:
        before, after = _window(risk, config, path, e.start, e.end)
        own = turned(before, after)
        rows[""].append(own)
        rows["_stable"].append(turned(before, _stable(risk, config, path, e, before)))
        length = e.end - e.start
        first = quiet(every, length, last, e.start)
        if first is not None:
            rows["_paired"].append(own)
            rows["_quiet"].append(turned(*_window(risk, config, path, first, first + length)))
    for end, each in rows.items():
        found[f"measured{end}"] = len(each)
        for name in MEASURES:
            found[name + end] = float(np.mean([row[name] for row in each])) if each else None
    return found


def _arrival(history: History) -> int | None:
    """The first probed step at the edge after one below it; a step without a probe is neither."""
    values = history.probes["sharpness"]
    known = np.isfinite(values)
    kept = {"sharpness": values[known]}
    return replace(history, probe_steps=history.probe_steps[known], probes=kept).edge_arrival()


# The results


def per_seed(part: Result, values: np.ndarray) -> np.ndarray:
    """(S,) the mean over the rates of a value of each run, of the seeds that have it at one."""
    found = []
    for seed in np.unique(part["seed"]):
        own = values[part["seed"] == seed]
        if np.isfinite(own).any():
            found.append(np.nanmean(own))
    return np.array(found)


def _between_rates(part: Result, name: str) -> np.ndarray:
    """(S,) a measure at the largest rate minus that at the smallest, of seeds that have both."""
    values = part.pivot(name, "seed", "rate")
    apart = values[:, -1] - values[:, 0]
    return apart[np.isfinite(apart)]


def _samples(part: Result) -> dict[str, np.ndarray]:
    """The samples over seeds of one setting that the effects are the intervals of."""
    value = {name: part[name].astype(float) for name in part.columns if name in _NUMBERS}
    found = {}
    for name in ("v1", "followed", "space"):
        found[f"{name}-stable"] = value[name] - value[f"{name}_stable"]
        found[f"{name}-quiet"] = value[f"{name}_paired"] - value[f"{name}_quiet"]
    found["kept"] = value["inside"] - LEADING / value["parameters"]
    found["exchanged"] = (1 - value["v1"]) - value["inside"] / LEADING
    found |= {"flattens": value["change"], "flattens-stable": value["change_stable"]}
    found |= {"level": value["level"], "end": value["end_sharpness"] * part["rate"] / 2}
    found = {name: per_seed(part, each) for name, each in found.items()}
    if len(np.unique(part["rate"])) > 1:
        found |= {f"rates-{name}": _between_rates(part, name) for name in ("v1", "space")}
    return found


def effects(stored: Result) -> dict[str, Interval]:
    """The differences of the criteria, means over seeds, each with its interval.

    Returns:
        ``<model>-<method>-<criterion>`` for the criteria at the head of this file: ``v1-stable``,
        ``v1-quiet``, and so on for ``followed`` and ``space``; ``kept``, ``exchanged``,
        ``flattens``, ``flattens-stable`` (the change in stable training), ``rates-v1`` and
        ``rates-space``; ``level``, the sharpness at the edge over that of the edge; and ``end``,
        that of the last Hessian itself over 2 / eta. One of which fewer than `stages.FEWEST` seeds
        have a value is left out.
    """
    found = {}
    for model, method in SETTINGS:
        part = stored.where(model=model, method=method, status="done")
        if len(part):
            for name, samples in _samples(part).items():
                if len(samples) >= stages.FEWEST:
                    found[f"{model}-{method}-{name}"] = student_interval(samples)
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criteria, by the names of their effects; those that have none are left out."""
    told = ("level", "end", "flattens-stable")
    found = {name: each for name, each in effects(stored).items() if not name.endswith(told)}
    return {name: _met(name, each) for name, each in found.items()}


def _met(name: str, interval: Interval) -> bool:
    below = name.endswith(("exchanged", "flattens"))
    return bool(interval.high < 0 if below else interval.low > 0)


RATES = {"mlp": (0.1, 0.15, 0.2), "cnn": (0.2, 0.4), "transformer": (0.2, 0.3)}
"""Of gradient descent."""
ADAM_RATE = 0.01


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    steps = {"mlp": (700, 550, 400), "cnn": (500, 400), "transformer": (220, 220)}
    seeds = dict.fromkeys(RATES, range(power.SECOND["rotation"].seeds))
    settings: dict[str, dict[str, object]] = {
        "mlp": {},
        "cnn": {"width": 4, "scale": 0.5},
        "transformer": {"scale": 1.0, "n_train": 100, "probe_every": 10, "most": 3},
    }
    adam = settings["transformer"] | {"steps": 130, "method": "adam", "probe_every": 5}
    if preset == "ci":
        steps, seeds = {"mlp": (250, 250, 250)}, {"mlp": range(3)}
        settings["mlp"] = {"n_train": 60, "width": 16, "most": 2}
    elif preset == "gpu":
        steps = {name: tuple(2 * count for count in each) for name, each in steps.items()}
        seeds, large = dict.fromkeys(seeds, range(8)), {"device": "cuda", "most": 20}
        settings = {name: each | large for name, each in settings.items()}
        settings["transformer"] |= {"n_train": 1000, "probe_every": 5}
        adam |= {**large, "n_train": 1000, "steps": 400}
    configs = [
        Config(model, rate, seed, count, **settings[model])
        for model, counts in steps.items()
        for rate, count in zip(RATES[model], counts, strict=True)
        for seed in seeds[model]
    ]
    if preset != "ci":
        more = range(len(seeds["transformer"]) + 1)
        configs += [Config("transformer", ADAM_RATE, seed, **adam) for seed in more]
    return configs


_NUMBERS = (
    "parameters",
    "start_sharpness",
    "arrival",
    "level",
    "final_loss",
    "episodes",
    "length",
    "busy",
    *(
        f"{name}{end}"
        for end in ("", "_paired", "_stable", "_quiet")
        for name in ("measured", *MEASURES)
    ),
    "end_sharpness",
)
"""The columns that `run` fills."""

EXPERIMENT = Experiment(
    name="rotation",
    summary="How far instabilities turn the leading eigenvectors, against three nulls",
    function=run,
    grid=grid,
    depends_on=(
        *stages.DECISIVE,
        "study.corpus",
        "study.experiments.edge",
        "study.experiments.timing",
    ),
    # The sharpness is as accurate as the eigensolver, 1e-3 on either side.
    tolerances={
        "parameters": 0.0,
        "start_sharpness": 2e-3,
        **stages.spread("", *_NUMBERS[2:]),
    },
    part=opening,
    effects=effects,
    predictions=predictions,
)
"""The recorded runs, as `results.compute` takes them."""
