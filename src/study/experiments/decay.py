"""Does the flatness that instabilities leave outlast the learning rate that made them?

An instability holds the sharpness near 2 / eta. Who lowers the rate late, and stops, has measured a
cap; the run has to be continued until it has come to its new edge, or has no way left to go.
Full-batch descent with the squared loss from small initial weights, at ``large_rate`` down to the
loss ``lowered_at``, then at ``final_rate``:

========= ============================================================================
``never``  ``final_rate`` from the start
``early``  lowered at a loss of 0.08, when the sharpness has come to the edge of the large rate
``late``   lowered at 0.02
``last``   lowered at 0.005
========= ============================================================================

All of them go on at ``final_rate`` to MATCHED, where flatness and accuracy are compared; and from
there for ``more`` units of eta t, to their new edge if they sharpen so far. Of two final rates the
edge of the larger is in reach of a run that was never unstable, that of the smaller is not.

Criteria, fixed before any run with the stored seeds was made. A pilot with seeds 100 and 101, at
the larger final rate, served to choose rates and losses: there early ended as never did, late had
regained most of what it had lost, and last had not. So the predictions are that other seeds repeat
this, and the smaller rate shows it too. Each is of an interval over seeds, at each final rate:

* *flatter-arm*: at MATCHED the arm is flatter than never (predicted for late and last);
* *later*: last is flatter there than early;
* *regained*: late is sharper at MATCHED than when it was lowered: without the large rate the
  sharpness grows again;
* *end-arm*: after the continuation the arm is still flatter than never (predicted for last).
"""

from dataclasses import dataclass

import numpy as np

from flatminima import curvature, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import gradient_descent, probes, train_to_loss
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "ARMS",
    "EXPERIMENT",
    "LOSSES",
    "MATCHED",
    "Config",
    "difference",
    "effects",
    "grid",
    "of_arm",
    "predictions",
    "run",
]

LOSSES = {"early": 0.08, "late": 0.02, "last": 0.005}
"""Arm -> the loss at which its rate is lowered; the sharpness is measured there in all arms."""
ARMS = ("never", *LOSSES)
MATCHED = 0.002
"""The loss at which all arms are compared."""
PROBE_EVERY = 20
"""Steps between two measurements of the sharpness."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images and the initial weights.

    Attributes:
        arm: one of ARMS.
        final_rate, large_rate: learning rates.
        scale: factor on the standard deviation of the initial weights.
        more: eta t of the continuation.
        max_steps: of each stretch, at most.
        dataset, n_train, model, width, activation, loss, device: as in `flatness.Config`.
    """

    arm: str
    final_rate: float
    seed: int
    large_rate: float = 0.1
    scale: float = 0.3
    more: float = 40.0
    max_steps: int = 10_000
    dataset: str = "fashion-mnist-subset"
    n_train: int = 150
    model: str = "mlp"
    width: int = 24
    activation: str = "tanh"
    loss: str = "mse"
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The stretches from loss to loss, the comparison, and the continuation; see `TOLERANCES`.

    ``at_<arm>`` is the sharpness at the loss of that arm in LOSSES, ``at_matched`` that at MATCHED,
    where ``test_accuracy`` is measured too; ``episodes`` and ``later_episodes`` count those before
    and after the comparison; ``arrived`` says whether the sharpness reached 2 / final_rate after
    the rate was lowered, ``end`` is the last of it, over 2 / final_rate.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
    """
    train, test = stages.images(config)
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    shape = tuple(train[0].shape[1:])
    model = stages.network(config.model, config.width, shape, config.activation, **options)
    risk = EmpiricalRisk(model, config.loss, train)
    lowered_at = LOSSES.get(config.arm, np.inf)
    values: dict[str, object] = {"reached": True, "steps": 0, "episodes": 0, "highest": 0.0}
    watch = {"sharpness": probes.Sharpness()}
    probing = {"probes": watch, "probe_every": PROBE_EVERY, "progress": False}
    for name, loss in [*LOSSES.items(), ("matched", MATCHED)]:
        # The rate is lowered once the loss of the arm has been reached.
        rate = config.large_rate if loss >= lowered_at else config.final_rate
        part = train_to_loss(risk, loss, config.max_steps, learning_rate=rate, **probing)
        if part.history.diverged:
            raise sweep.Diverged(f"at step {part.history.diverged_at} to the loss {loss}", values)
        values["reached"] = values["reached"] and part.reached
        values["steps"] += part.steps
        values["episodes"] += len(part.history.episodes())
        values[f"at_{name}"] = curvature.sharpness(risk)
        if rate == config.final_rate:
            highest = part.history.probes["sharpness"].max() * rate / 2
            values["highest"] = max(values["highest"], float(highest))
    values["test_accuracy"] = probes.Accuracy(*test).of(model)
    steps = round(config.more / config.final_rate)
    last = gradient_descent(risk, config.final_rate, steps, **probing)
    if last.diverged:
        raise sweep.Diverged(f"at step {last.diverged_at} of the continuation", values)
    scaled = last.probes["sharpness"] * config.final_rate / 2
    return values | {
        "later_episodes": len(last.episodes()),
        "arrived": bool(max(values["highest"], scaled.max()) >= 1),
        "end": float(scaled[-5:].mean()),
        "end_loss": float(last.loss[-1]),
        "end_accuracy": probes.Accuracy(*test).of(model),
    }


def of_arm(stored: Result, column: str, arm: str, final_rate: float) -> np.ndarray:
    """A column of an arm in the order of the seeds, NaN where the run missed a loss."""
    rows = stored.where(arm=arm, final_rate=final_rate)
    values = np.where(stages.reached(rows["reached"]), rows[column].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def difference(stored: Result, column: str, arm: str, other: str, final_rate: float) -> Interval:
    """The difference of logarithms of a column between two arms, over seeds."""
    one, two = (np.log(of_arm(stored, column, a, final_rate)) for a in (arm, other))
    return stages.interval(one - two)


def effects(stored: Result) -> dict[str, Interval]:
    """The comparisons at each final rate, ``<effect>-<final rate>``.

    Returns:
        ``flatter-<arm>``: log sharpness at MATCHED, lowered minus never; ``later``: last minus
        early; ``regained``: late, at MATCHED minus when lowered; ``end-<arm>``: as flatter, after
        the continuation; ``accuracy-<arm>``: test accuracy at MATCHED, lowered minus never.

    Raises:
        ValueError: if a comparison has fewer than `stages.FEWEST` seeds.
    """
    found = {}
    for rate in np.unique(stored["final_rate"]):
        for arm in LOSSES:
            for name, column in (("flatter", "at_matched"), ("end", "end")):
                found[f"{name}-{arm}-{rate:g}"] = difference(stored, column, arm, "never", rate)
            better = [of_arm(stored, "test_accuracy", a, rate) for a in (arm, "never")]
            found[f"accuracy-{arm}-{rate:g}"] = stages.interval(better[0] - better[1])
        found[f"later-{rate:g}"] = difference(stored, "at_matched", "last", "early", rate)
        before, after = (of_arm(stored, c, "late", rate) for c in ("at_late", "at_matched"))
        found[f"regained-{rate:g}"] = stages.interval(np.log(after / before))
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criteria at the head of this file, each at all final rates, by name."""
    held: dict[str, bool] = {}
    for key, effect in effects(stored).items():
        name = key.rsplit("-", 1)[0]
        if not name.startswith("accuracy"):
            met = effect.low > 0 if name == "regained" else effect.high < 0
            held[name] = held.get(name, True) and met
    return held


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    rates, seeds, small = (0.05, 0.03), range(8), {}
    if preset == "ci":
        rates, seeds, small = (0.05,), range(3), {"n_train": 40, "width": 12, "more": 5.0}
    if preset == "gpu":
        small = {"n_train": 2000, "width": 200, "device": "cuda", "max_steps": 100_000}
    return [Config(arm, rate, seed, **small) for rate in rates for arm in ARMS for seed in seeds]


TOLERANCES = stages.spread(
    "reached steps episodes highest at_early at_late at_last at_matched later_episodes arrived "
    "test_accuracy end end_loss end_accuracy",
)

EXPERIMENT = Experiment(
    name="decay",
    summary="Sharpness after a large rate is lowered early or late, and trained on to the new edge",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""The runs whose rate is lowered, as `results.compute` takes them."""
