r"""From which learning rate on does SGD leave a minimum of a network?

A tanh network learns ten images, five kinds of clothes against what is no clothes, and is brought
to a minimum of zero loss as in `mirror`. There every single loss is flat, minibatches of B have the
gradient H_B (theta - theta*) to first order, and Proposition Q4 applies with the rows J_i of
the Jacobian for features. The learning rates from which on something grows, predicted:

* ``full``: 2 / lambda_1, of gradient descent;
* ``one``: of the second moment along v_1 alone, 2 lambda_1 / (lambda_1^2 + s^2), where s^2 is the
  variance of v_1 . H_B v_1;
* ``matrix``: of the whole second moment, where the operator Sigma -> E[(1 - eta H_B) Sigma
  (1 - eta H_B)] has spectral radius one;
* ``typical``: where log |theta - theta*| of a single run of the linear model grows (its Lyapunov
  exponent, from a simulation of CHAINS runs). By Jensen's inequality it is not below ``matrix``.

The operator is symmetric, and a positive one: its radius is at least its quotient at v v^T, that
is E(1 - eta v . H_B v)^2. So ``matrix`` is at most ``one``, as that is at most ``full``.

Measured, with the network itself and not its linear model:

* ``measured``: REPLICAS runs of STEPS updates start as far as NEAR from the minimum, in directions
  drawn with the leading eigenmatrix of the operator for a covariance, so that the mean square
  distance grows at its final pace from the first step on. The onset is where this growth is one,
  interpolated between rates on both sides of ``matrix``.
* ``escape``: the smallest of the rates ``matrix`` times FACTORS at which half of RUNS runs of LONG
  updates get FAR times as far from the minimum as they were; None if there is no such rate.

Criteria and predictions, written down before any run with the stored seeds, 0 to 3 first, whose
spread decided for more (`power.SECOND`):

* ``matrix``: the measured onset of the second moment is ``matrix``, within TOLERANCE: the interval
  of |measured / matrix - 1| lies below it, for each B. Predicted: met.
* ``one``: the criterion of one dimension does as well. Predicted: not met for B = 1; v_1 is shared
  by several images, and the noise of the others counts too.
* ``late``: single runs stay longer than the second moment does: the interval of escape / matrix - 1
  lies above zero, for each B. Predicted: met, as a mean of squares is ruled by few runs.
* ``escape``: a single run leaves at ``typical``: the interval of |escape / typical - 1| lies below
  the spacing of the rates, STEP. No prediction.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flatminima import curvature
from flatminima.statistics import Interval, student_interval
from flatminima.theory import quadratic
from flatminima.training import train_to_loss
from study.experiments import mirror, power, stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "STEP",
    "TOLERANCE",
    "Config",
    "effects",
    "escape",
    "grid",
    "onset",
    "predictions",
    "run",
]

TOLERANCE = 0.02
"""How far from a threshold an onset may be."""
STEP = 0.05
"""Spacing of the rates at which runs may escape, as a share of the threshold."""
FACTORS = tuple(round(0.9 + STEP * i, 2) for i in range(17))
"""The rates of these runs, in units of the threshold of the second moment."""
REPLICAS, STEPS, NEAR = 4000, 6, 1e-5
"""Runs of the second moment, their length, and how far they start from the minimum."""
RUNS, LONG, FAR = 12, 1000, 100.0
"""Single runs at each rate, their length, and the ratio of distances that counts as an escape."""
CHAINS, LINKS = 64, 1000
"""Runs of the linear model and their length, for the Lyapunov exponent."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the images, the initial weights and the minibatches.

    Attributes:
        batch: size of the minibatches.
        network, units, pooled, small_loss, max_steps, dataset, n_train, device: as in
            `mirror.Config`.
    """

    batch: int
    seed: int
    network: str = "mlp"
    units: int = 8
    pooled: int = 4
    small_loss: float = 1e-3
    max_steps: int = 20_000
    dataset: str = "fashion-mnist-subset"
    n_train: int = 10
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The thresholds, predicted and measured; see the columns in `TOLERANCES`.

    Raises:
        RuntimeError: if training does not reach the small loss.
        ValueError: if there is no minimum of zero loss near.
    """
    problem, theta = at_a_minimum(config)
    left, singular, right = torch.linalg.svd(problem.jacobian(theta), full_matrices=False)
    features = (left * singular).cpu().numpy()
    predicted = rates(features, config.batch)
    matrix = predicted["matrix"]
    generator = torch.Generator().manual_seed(config.seed)
    replicas = Replicas(problem, theta, config.batch)
    # Of the leading eigenmatrix, in the coordinates of the right singular vectors.
    values, vectors = np.linalg.eigh(leading_matrix(features, matrix, config.batch))
    root = torch.as_tensor(vectors * np.sqrt(np.clip(values, 0, None))).T @ right.cpu()
    return {
        "parameters": problem.risk.size,
        "sharpness": float(singular[0] ** 2) / len(features),
        **predicted,
        "typical": typical_rate(features, config.batch, matrix, config.seed),
        "measured": onset(replicas, root, matrix, generator),
        "escape": escape(replicas, root, matrix, generator),
    }


def at_a_minimum(config: Config) -> tuple[mirror.Problem, Tensor]:
    """A network that has learned its images, and the minimum (p,) of zero loss that it is near."""
    (images, labels), _ = stages.images(config)
    images = functional.avg_pool2d(images.double(), config.pooled)
    others = torch.isin(labels, torch.tensor(mirror.OTHERS, device=labels.device))
    network = mirror.build(config, tuple(images.shape[1:]))
    problem = mirror.Problem(network, images, 1.0 - 2.0 * others[:, None])
    small = {"learning_rate": 0.5 / curvature.sharpness(problem.risk), "progress": False}
    first = train_to_loss(problem.risk, config.small_loss, config.max_steps, **small)
    if not first.reached:
        raise RuntimeError(f"the loss was still {first.loss:g} after {first.steps} steps")
    return problem, problem.minimum_near(problem.risk.flat())


# --- predicted


def rates(features: np.ndarray, batch: int) -> dict[str, float]:
    """The thresholds ``full``, ``one`` and ``matrix`` for features (n, r), their rows J_i."""
    _, singular, right = np.linalg.svd(features, full_matrices=False)
    sharpness, n = singular[0] ** 2 / len(features), len(features)
    along = (features @ right[0]) ** 2
    variance = along.var() * (n - batch) / (n - 1) / batch
    one = 2 * sharpness / (sharpness**2 + variance)
    matrix = matrix_rate(features, batch)
    return {"full": float(2 / sharpness), "one": float(one), "matrix": matrix}


def matrix_rate(features: np.ndarray, batch: int) -> float:
    """The learning rate at which the second moment of Q4 has spectral radius one, to 1e-9.

    Below it the second moment shrinks, and beyond it grows: the squared distance that it is about
    is E(1 - eta h)^2 for the worst of all covariances, and each of these is convex in eta and one
    at zero.
    """
    low, high = 0.0, 2 * len(features) / float(np.linalg.norm(features, 2)) ** 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        step = quadratic.sgd_covariance_step(features, middle, batch, replacement=False)
        inside = np.linalg.eigvalsh((step + step.T) / 2)[-1] < 1
        low, high = (middle, high) if inside else (low, middle)
    return low


def leading_matrix(features: np.ndarray, rate: float, batch: int) -> np.ndarray:
    """The leading eigenmatrix (r, r) of the operator of Q4: positive semidefinite, of trace one."""
    step = quadratic.sgd_covariance_step(features, rate, batch, replacement=False)
    r = features.shape[1]
    found = np.linalg.eigh((step + step.T) / 2)[1][:, -1].reshape(r, r)
    found = (found + found.T) / 2
    return found / np.trace(found)


def typical_rate(features: np.ndarray, batch: int, start: float, seed: int) -> float:
    """The rate at which the logarithm of the distance grows, found with the same draws at each."""
    n = len(features)
    drawn = np.random.default_rng(seed)
    chosen = np.argsort(drawn.random((LINKS, CHAINS, n)), axis=-1)[..., :batch]
    first = drawn.normal(size=(CHAINS, features.shape[1]))

    def growth(rate: float) -> float:
        x, total = first / np.linalg.norm(first, axis=1, keepdims=True), 0.0
        for rows in features[chosen]:
            residual = np.einsum("cbr,cr->cb", rows, x)
            x = x - rate / batch * np.einsum("cbr,cb->cr", rows, residual)
            size = np.linalg.norm(x, axis=1, keepdims=True)
            x, total = x / size, total + float(np.log(size).mean())
        return total

    low, high = start, start
    while growth(high) < 0:
        low, high = high, 1.25 * high
    while high - low > STEP / 10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if growth(middle) < 0 else (low, middle)
    return (low + high) / 2


# --- measured


class Replicas:
    """Many networks that make updates of SGD side by side.

    Args:
        problem: images, targets and the architecture.
        minimum: (p,) from which distances are measured.
        batch: size of the minibatches, which are drawn independently.
    """

    def __init__(self, problem: mirror.Problem, minimum: Tensor, batch: int) -> None:
        self.minimum, self.batch, self._problem = minimum, batch, problem
        self._gradients = torch.func.vmap(torch.func.grad(self._loss))

    def _loss(self, theta: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        risk = self._problem.risk
        outputs = torch.func.functional_call(risk.model, risk.unflatten(theta), (inputs,))
        return risk.loss_function(outputs, targets)

    def step(self, theta: Tensor, rates: Tensor, generator: torch.Generator) -> Tensor:
        """One update of the parameters (R, p) with the rates (R,)."""
        n = len(self._problem.inputs)
        chosen = torch.rand(len(theta), n, generator=generator).argsort(1)[:, : self.batch]
        chosen = chosen.to(theta.device)
        pairs = self._problem.inputs[chosen], self._problem.targets[chosen]
        return theta - rates[:, None] * self._gradients(theta, *pairs)

    def near(self, count: int, root: Tensor, generator: torch.Generator) -> Tensor:
        """Parameters (count, p) around the minimum, of covariance root' root, times NEAR^2."""
        drawn = torch.randn(count, len(root), generator=generator, dtype=root.dtype) @ root
        return self.minimum + NEAR * drawn.to(self.minimum)

    def squares(self, theta: Tensor) -> Tensor:
        """The squared distances (R,) from the minimum."""
        return (theta - self.minimum).square().sum(1)


def onset(replicas: Replicas, root: Tensor, around: float, generator: torch.Generator) -> float:
    """The rate at which the mean square distance stays as it is, from three rates around one."""
    tried = around * np.array([1 - TOLERANCE, 1.0, 1 + TOLERANCE])
    start, logs = replicas.near(REPLICAS, root, generator), []
    draws = generator.get_state()
    for rate in tried:
        generator.set_state(draws)
        theta, rates = start, torch.full((REPLICAS,), rate).to(start)
        for _ in range(STEPS):
            theta = replicas.step(theta, rates, generator)
        logs.append(math.log(replicas.squares(theta).mean() / replicas.squares(start).mean()))
    slope, level = np.polyfit(tried - around, logs, 1)
    return float(around - level / slope)


def escape(
    replicas: Replicas, root: Tensor, around: float, generator: torch.Generator
) -> float | None:
    """The smallest of the rates at which half of the runs leave; None if they stay at each."""
    rates = around * torch.tensor(FACTORS, dtype=root.dtype).repeat_interleave(RUNS)
    theta = replicas.near(len(rates), root, generator)
    rates = rates.to(theta)
    ceiling = FAR**2 * replicas.squares(theta)
    gone = torch.zeros(len(rates), dtype=torch.bool, device=theta.device)
    for _ in range(LONG):
        staying = ~gone
        theta[staying] = replicas.step(theta[staying], rates[staying], generator)
        # What is not a number any more has left, too.
        gone |= ~(replicas.squares(theta) <= ceiling)
        if gone.all():
            break
    half = gone.reshape(len(FACTORS), RUNS).double().mean(1) >= 0.5
    found = np.flatnonzero(half.cpu().numpy())
    return float(around * FACTORS[found[0]]) if len(found) else None


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    seeds, batches, more = range(4), (1, 2, 4), {}
    if preset == "default":
        seeds = range(power.SECOND["onset"].seeds)
    if preset == "ci":
        seeds, batches, more = range(2), (1, 3), {"n_train": 6, "units": 6}
    if preset == "gpu":
        seeds, more = range(10), {"n_train": 20, "pooled": 1, "units": 16, "device": "cuda"}
    return [Config(batch, seed, **more) for seed in seeds for batch in batches]


# --- what the runs show


def effects(stored: Result) -> dict[str, Interval]:
    """The thresholds in units of 2 / lambda_1, and how far onsets are from them.

    Returns:
        For each batch size B ``<threshold>-<B>`` of the thresholds ``one``, ``matrix``,
        ``typical``, ``measured`` and ``escape``; and, joint over the batch sizes,
        ``off-matrix-<B>`` and ``off-one-<B>``, |measured / threshold - 1|; ``late-<B>``, escape /
        matrix - 1; ``off-typical-<B>``, |escape / typical - 1|.
    """
    found = {}
    sizes = np.unique(stored["batch"])
    for batch in sizes:
        rows = stored.where(batch=batch, status="done")
        names = ("full", "one", "matrix", "typical", "measured", "escape")
        full, one, matrix, typical, measured, left = (rows[name].astype(float) for name in names)
        for name, value in zip(names[1:], (one, matrix, typical, measured, left), strict=True):
            found[f"{name}-{batch}"] = _interval(value / full)
        for name, value in (
            ("off-matrix", np.abs(measured / matrix - 1)),
            ("off-one", np.abs(measured / one - 1)),
            ("late", left / matrix - 1),
            ("off-typical", np.abs(left / typical - 1)),
        ):
            found[f"{name}-{batch}"] = _interval(value, len(sizes))
    return found


def _interval(samples: np.ndarray, comparisons: int = 1) -> Interval:
    return student_interval(samples[np.isfinite(samples)], comparisons)


def predictions(stored: Result) -> dict[str, bool]:
    """Which criteria at the head of this module are met, for each batch size."""
    found, held = effects(stored), {}
    for batch in np.unique(stored["batch"]):
        held[f"matrix-{batch}"] = found[f"off-matrix-{batch}"].high < TOLERANCE
        held[f"one-{batch}"] = found[f"off-one-{batch}"].high < TOLERANCE
        held[f"late-{batch}"] = found[f"late-{batch}"].low > 0
        held[f"escape-{batch}"] = found[f"off-typical-{batch}"].high < STEP
    return held


# Training is stable, and what it leads to known to a thousandth of the loss; the rest follows.
TOLERANCES = {
    "parameters": 0,
    **dict.fromkeys(("sharpness", "full", "one", "matrix"), 1e-3),
    **stages.spread("typical measured escape"),
}

EXPERIMENT = Experiment(
    name="onset",
    summary="The learning rate at which SGD leaves a minimum, predicted by the second moment",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "flatminima.theory.quadratic", "study.experiments.mirror"),
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""Onsets of the instability of SGD, as `results.compute` takes them."""
