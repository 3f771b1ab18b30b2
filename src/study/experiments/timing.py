"""Does the curvature beyond the sharpness fall before an instability resolves, and before it turns?

A summary of the paper says that higher-order curvature, and |lambda_min| with it, falls before an
instability resolves. Networks at the edge are watched at every step, and what their instability
episodes do is averaged over the episodes of a run, and compared over seeds.

What the words mean here, fixed before any run with the stored seeds was made:

* An *episode* is one of `History.episodes`, its start, peak and end those of the loss, whole within
  the run and with a rise of RISE at least. It *turns* at its peak, and is *resolved* at its end,
  the first step at which the loss is back where it was.
* A quantity *falls* from the step at which its absolute value is largest within the episode. Its
  *lead* over the turn (over the resolution) is the number of steps from then to the turn (to the
  resolution): positive if it falls earlier.
* Its *fall* is its mean absolute value at the turn and the step after, minus that at the end and
  the step before (two steps, for the oscillation has period two), over its mean in the run.
* The *null*: the same windows, start to end, laid on the trace of the quantity at every shift by
  more than their length, and averaged. What is not due to the episode is there, too.

Criteria. *falls-q*: the fall of q exceeds that of the null. *leads-q*: its lead over the turn is
above zero, and above the null's lead. Each of an interval over seeds above zero. Predictions, from
the theory of the book: the displacement x drives |lambda_min| (Theorem D3 for two parameters), so
that |lambda_min| falls with it, but leads nothing; the sharpness leads, since the oscillation grows
as long as the sharpness is above 2 / eta. Of the rest nothing is predicted. In a pilot with seeds
100 and 101, five episodes, |lambda_min| was largest at the very step at which the loss was. There
were eight seeds first, whose spread decided for more (`power.SECOND`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flatminima import sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import Episode, History, gradient_descent, probes
from study.experiments import power, stages
from study.results import Experiment, Result

__all__ = [
    "BEYOND",
    "EXPERIMENT",
    "RISE",
    "Config",
    "account",
    "effects",
    "fall",
    "grid",
    "lead",
    "predictions",
    "run",
    "shifted",
]

RISE = 0.01
"""Rise of the loss in an episode that counts, relative to the loss at its start."""
BEYOND = ("lambda_min", "along", "across", "fourth")
"""Of `probes.QUANTITIES`, those beyond the sharpness (Definition G5)."""
PARTS = ("fall", "turn", "end")
COLUMNS = (
    "episodes",
    "length",
    *(
        f"{name}_{part}{end}"
        for name in ("loss", *probes.QUANTITIES)
        for part in PARTS
        for end in ("", "_null")
    ),
)
"""What `account` tells of a run."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        rate: learning rate.
        settle: steps before the run is watched.
        steps: steps that are watched.
        scale: factor on the standard deviation of the initial weights.
        dataset, n_train, model, width, activation, loss, device: as in `flatness.Config`.
    """

    seed: int
    rate: float = 0.1
    settle: int = 400
    steps: int = 150
    scale: float = 0.3
    dataset: str = "fashion-mnist-subset"
    n_train: int = 150
    model: str = "mlp"
    width: int = 24
    activation: str = "tanh"
    loss: str = "mse"
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """Train to the edge, watch, and account for the episodes; see `account`.

    Raises:
        sweep.Diverged: if the run diverges.
    """
    train, _ = stages.images(config)
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    shape = tuple(train[0].shape[1:])
    model = stages.network(config.model, config.width, shape, config.activation, **options)
    risk = EmpiricalRisk(model, config.loss, train)
    for steps, watched in ((config.settle, None), (config.steps, {"watch": probes.Watch()})):
        history = gradient_descent(risk, config.rate, steps, probes=watched, progress=False)
        if history.diverged:
            raise sweep.Diverged(f"at step {history.diverged_at}", {})
    return account(history)


def whole(history: History) -> list[Episode]:
    """The episodes of a watched run that are whole within it, and rise by RISE at least."""
    found = history.episodes("watch", minimum_rise=RISE)
    last = len(history.loss) - 1
    return [e for e in found if e.start < e.peak < e.end < last]


def lead(trace: np.ndarray, episode: Episode, step: int) -> int:
    """Steps from where |trace| is largest within an episode to ``step``.

    Example:
        >>> lead(np.array([0.0, 1.0, 3.0, 2.0, 1.0]), Episode(1, 3, 4), step=3)
        1
    """
    inside = np.abs(trace[episode.start : episode.end + 1])
    return step - episode.start - int(np.argmax(inside))


def fall(trace: np.ndarray, episode: Episode) -> float:
    """How much lower the mean of |trace| over two steps is at the end than at the turn.

    In units of its mean over the whole trace.

    Example:
        >>> fall(np.array([1.0, 1.0, 4.0, 2.0, 1.0, 1.0]), Episode(1, 2, 5))
        1.2
    """
    size = np.abs(trace)
    turn, end = size[episode.peak : episode.peak + 2], size[episode.end - 1 : episode.end + 1]
    return float((turn.mean() - end.mean()) / size.mean())


def shifted(episode: Episode, steps: int) -> list[Episode]:
    """The episode's window at every shift by more than its length within a trace of ``steps``.

    Example:
        >>> shifted(Episode(4, 5, 6), 9)
        [Episode(start=0, peak=1, end=2), Episode(start=1, peak=2, end=3)]
    """
    length = episode.end - episode.start
    shifts = range(-episode.start, steps - episode.end)
    return [Episode(*(place + s for place in episode)) for s in shifts if abs(s) > length]


def account(history: History) -> dict[str, object]:
    """What the episodes of a watched run do, means over them; None where it has none.

    For each q of the quantities and the loss: ``<q>_fall``, ``<q>_turn`` (lead over the turn),
    ``<q>_end`` (over the resolution), and the null of each, ``<q>_fall_null`` and so on.
    """
    episodes, watch = whole(history), history.probes["watch"]
    pairs = [(e, shifted(e, len(history.loss))) for e in episodes]
    pairs = [(e, others) for e, others in pairs if others]
    found: dict[str, object] = dict.fromkeys(COLUMNS) | {"episodes": len(pairs)}
    if not pairs:
        return found
    found["length"] = float(np.mean([e.end - e.start for e, _ in pairs]))
    traces = dict(zip(probes.QUANTITIES, watch.T, strict=True))
    for name, trace in {"loss": history.loss, **traces}.items():
        own = np.mean([_measures(trace, [e]) for e, _ in pairs], axis=0)
        null = np.mean([_measures(trace, others) for _, others in pairs], axis=0)
        for part, value, expected in zip(PARTS, own, null, strict=True):
            found |= {f"{name}_{part}": float(value), f"{name}_{part}_null": float(expected)}
    return found


def _measures(trace: np.ndarray, episodes: Sequence[Episode]) -> np.ndarray:
    """Fall, lead over the turn and lead over the end, in the mean over windows."""
    rows = [(fall(trace, e), lead(trace, e, e.peak), lead(trace, e, e.end)) for e in episodes]
    return np.mean(rows, axis=0)


def effects(stored: Result) -> dict[str, Interval]:
    """Means over seeds, each with its interval; a seed without an episode is left out.

    Returns:
        For each q of `probes.QUANTITIES`: ``falls-<q>``, its fall beyond the null's; ``leads-<q>``,
        its lead over the turn; ``beyond-<q>``, that lead beyond the null's; ``resolves-<q>``, its
        lead over the resolution; and ``resolves-null-<q>``, the null's.

    Raises:
        ValueError: for fewer than `stages.FEWEST` seeds.
    """
    found = {}
    for name in probes.QUANTITIES:
        own, null = (
            {part: stored[f"{name}_{part}{end}"].astype(float) for part in PARTS}
            for end in ("", "_null")
        )
        found |= {
            f"falls-{name}": stages.interval(own["fall"] - null["fall"]),
            f"leads-{name}": stages.interval(own["turn"]),
            f"beyond-{name}": stages.interval(own["turn"] - null["turn"]),
            f"resolves-{name}": stages.interval(own["end"]),
            f"resolves-null-{name}": stages.interval(null["end"]),
        }
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """``falls-<q>`` and ``leads-<q>``, by the criteria at the head of this file."""
    found, held = effects(stored), {}
    for name in probes.QUANTITIES:
        held[f"falls-{name}"] = found[f"falls-{name}"].low > 0
        held[f"leads-{name}"] = min(found[f"{c}-{name}"].low for c in ("leads", "beyond")) > 0
    return held


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    if preset == "ci":
        return [Config(seed, n_train=60, width=12, settle=200, steps=50) for seed in range(3)]
    if preset == "gpu":
        large = {"dataset": "cifar10", "n_train": 5000, "width": 200, "device": "cuda"}
        return [Config(seed, steps=1000, **large) for seed in range(8)]
    return [Config(seed) for seed in range(power.SECOND["timing"].seeds)]


EXPERIMENT = Experiment(
    name="timing",
    summary="When curvature beyond the sharpness falls within an instability episode",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=stages.spread("", *COLUMNS),
    effects=effects,
    predictions=predictions,
)
"""The watched runs, as `results.compute` takes them."""
