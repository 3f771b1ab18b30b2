r"""Does the sharpness of the batches arrive at 2/eta?

Andreyev and Beneventano (2024) find that what SGD keeps near 2/eta is not lambda_1 but the batch
sharpness E_B[g_B . H_B g_B / |g_B|^2]. A network learns from scratch by SGD at one rate, and this
is measured LOOKS times on the way, with its own standard error over DRAWN minibatches, and beside
it the quotient of the means, E[g_B . H_B g_B] / E|g_B|^2, which weighs a batch by the size of its
gradient. Each of lambda_1 and these is in units of 2/eta, and its late value the mean over the last
LATE looks.

Criteria and predictions, written down before any run with the stored seeds, 0 to 2 first; their
spread decided for six more, and that of the nine, which was larger, for the others
(`power.SECOND`). In a pilot with the seed 1000, 6,000 updates at the rate 0.1, the batch sharpness
rose, for batches of 10 from 0.4 to 0.7 of 2/eta, for batches of 50 to 0.7, while lambda_1 was at
0.55 and 0.9. So it is expected that for small batches it does *not* arrive within a training of
this length, in which the loss falls to a fiftieth.

* ``arrives-<B>``: it is near 2/eta: the interval of |log| of its late value lies below log NEAR.
  Predicted: for half of the images as a batch, which is nearly gradient descent, and not for 10.
* ``nearer-<B>``: it is nearer to 2/eta than lambda_1 is, the interval of the difference of the two
  |log| above zero. Predicted: for batches of 10.
* ``rises-<B>``: it rises still, from the middle of the run to its end. Predicted: for 10.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from flatminima import curvature, sweep
from flatminima.curvature import EmpiricalRisk, HessianOperator
from flatminima.statistics import Estimate, Interval, student_interval
from flatminima.training import State, gradient_descent
from study.experiments import noise, power, stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "LATE",
    "LOOKS",
    "NEAR",
    "Config",
    "effects",
    "grid",
    "predictions",
    "run",
]

LOOKS = 8
"""Measurements in a run, after equal numbers of updates."""
LATE = 3
"""The last of them, whose mean counts."""
DRAWN = 48
"""Minibatches in a measurement."""
NEAR = 1.1
"""A sharpness is near 2/eta if it is within this factor."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images, the initial weights and the minibatches.

    Attributes:
        rate: learning rate.
        batch: size of the minibatches, each drawn from all images.
        steps: updates.
        loss, pooled, width, dataset, n_train, device: as in `noise.Config`.
    """

    rate: float
    batch: int
    seed: int
    steps: int = 4000
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    pooled: int = 2
    width: int = 32
    loss: str = "mse"
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """Train and look; see the columns in `TOLERANCES`, of which those with a number are traces.

    Raises:
        sweep.Diverged: if it diverges.
    """
    train, _ = noise.images(config)
    options = {"seed": config.seed, "device": config.device}
    model = stages.network("mlp", config.width, tuple(train[0].shape[1:]), **options)
    risk = EmpiricalRisk(model, config.loss, train)
    draws = torch.Generator().manual_seed(config.seed)

    def batches(state: State) -> np.ndarray:
        if not state.step:
            return np.full(4, np.nan)
        drawn = noise.batches_of(risk, config.batch, DRAWN, draws)
        of_batches = EmpiricalRisk(model, config.loss, drawn)
        found = curvature.batch_sharpness(of_batches), quotient_of_means(of_batches)
        return np.array(found).flatten() * config.rate / 2

    def whole(state: State) -> float:
        return curvature.sharpness(risk, tol=1e-2) * config.rate / 2 if state.step else np.nan

    history = gradient_descent(
        risk,
        config.rate,
        config.steps,
        batch_size=config.batch,
        noise="independent",
        generator=torch.Generator().manual_seed(config.seed),
        probes={"batches": batches, "whole": whole, "loss": lambda state: state.risk.value()},
        probe_every=config.steps // LOOKS,
        progress=False,
    )
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at}")
    traces = history.probes
    by_name = {
        "whole": traces["whole"][1:],
        "batch": traces["batches"][1:, 0],
        "weighted": traces["batches"][1:, 2],
    }
    errors = {"batch": traces["batches"][1:, 1], "weighted": traces["batches"][1:, 3]}
    values: dict[str, object] = {"final_loss": float(traces["loss"][-1])}
    for name, trace in by_name.items():
        values |= {f"{name}_{i}": float(value) for i, value in enumerate(trace, 1)}
        values[f"{name}_late"] = float(trace[-LATE:].mean())
    for name, error in errors.items():
        values[f"{name}_error"] = float(np.sqrt(np.sum(error[-LATE:] ** 2)) / LATE)
    return values


def quotient_of_means(risk: EmpiricalRisk) -> Estimate:
    """E[g_B . H_B g_B] / E|g_B|^2 over the batches of a risk, with its error to first order."""
    pairs = []
    for _, loss in risk.terms():
        operator = HessianOperator(loss, risk.parameters, check=False)
        gradient = operator.gradient
        pairs.append([float(gradient @ operator.matvec(gradient)), float(gradient @ gradient)])
    above, below = np.array(pairs).T
    quotient = above.mean() / below.mean()
    rest = (above - quotient * below).std(ddof=1) / below.mean()
    return Estimate(float(quotient), float(rest / math.sqrt(len(pairs))))


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    seeds, batches, more = range(3), (10, 250), {}
    if preset == "default":
        seeds = range(power.SECOND["arrival"].seeds)
    if preset == "ci":
        batches, more = (10, 100), {"width": 16, "n_train": 200, "steps": 800}
    if preset == "gpu":
        batches, more = (16, 256, 2500), {"dataset": "cifar10", "n_train": 5000, "device": "cuda"}
        more |= {"width": 200, "pooled": 1, "steps": 40_000}
    return [Config(0.1, batch, seed, **more) for seed in seeds for batch in batches]


# --- what the runs show


def effects(stored: Result) -> dict[str, Interval]:
    """Sharpness in units of 2/eta.

    Returns:
        For each batch size B ``whole-<B>``, ``batch-<B>``, ``weighted-<B>``, late values;
        ``error-<B>``, the standard error of the batch sharpness; ``off-<B>``, its |log|;
        ``nearer-<B>``, |log| of lambda_1 minus that; ``rises-<B>``, late minus that in the middle.

    Raises:
        ValueError: for fewer than 2 runs that are done.
    """
    found = {}
    for size in np.unique(stored["batch"]):
        rows = stored.where(batch=size, status="done")
        whole, batch, weighted = (rows[f"{n}_late"] for n in ("whole", "batch", "weighted"))
        off = np.abs(np.log(batch))
        samples = {
            "whole": whole,
            "batch": batch,
            "weighted": weighted,
            "error": rows["batch_error"],
            "off": off,
            "nearer": np.abs(np.log(whole)) - off,
            "rises": batch - rows[f"batch_{LOOKS // 2}"],
        }
        for name, value in samples.items():
            found[f"{name}-{size}"] = student_interval(value.astype(float))
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """Which criteria at the head of this module are met, for each batch size."""
    found, held = effects(stored), {}
    for size in np.unique(stored["batch"]):
        held[f"arrives-{size}"] = found[f"off-{size}"].high < math.log(NEAR)
        held[f"nearer-{size}"] = found[f"nearer-{size}"].low > 0
        held[f"rises-{size}"] = found[f"rises-{size}"].low > 0
    return held


TOLERANCES = stages.spread(
    "final_loss whole_late batch_late weighted_late batch_error weighted_error",
    *(f"{name}_{i}" for name in ("whole", "batch", "weighted") for i in range(1, LOOKS + 1)),
)

EXPERIMENT = Experiment(
    name="arrival",
    summary="The sharpness of batches along a training by SGD, against 2/eta",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.noise"),
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""Batch sharpness along training, as `results.compute` takes it."""
