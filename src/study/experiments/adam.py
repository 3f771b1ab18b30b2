r"""Does an Adam that cannot damp its instabilities find flatter minima, and does that help?

Gradient descent, Adam and the variants of `optimizers.ClippedAdam` train the same networks on the
full batch to the same loss:

1. *Training* with the method at its rate, until the loss is within MARGIN of the target.
2. *Cooling* with the same method, its state kept, at a tenth of the rate, until the loss is
   ``target_loss``. Its threshold is ten times as high, so that the cooling itself flattens nothing.

Each method is compared at its own best setting: the rate, and for ``absolute`` the cap, with the
highest mean accuracy on *validation* images, among the settings that brought every seed to the
target (`tuned`). The test images have no part in that choice.

**Criterion, fixed before the default grid was run.** A variant is called an improvement over Adam
if its test accuracy exceeds Adam's by an amount whose interval lies above 0: the mean over the
seeds of the paired difference, by Student's t, at the joint level of 95 percent (Bonferroni over
the variants). It is called flatter if the same holds of the logarithm of Adam's sharpness over its
own. With the interval below 0 it is called worse, or sharper; else there is no difference that this
many seeds can tell (`compare`).

Adam has :math:`\beta_2 = 0.99` here. At 0.999 the second moment remembers a thousand steps, longer
than most of these runs: it falls throughout, and there is little for a clipping to do. This, the
initial scale and the ranges of the rates were chosen by looking at runs of seed 0, which is not one
of the seeds compared. A first default grid, with rates of 0.001 to 0.008 for Adam and of 0.1 to 0.3
for gradient descent, was best on the validation images at its lower and its upper end; each range
was then extended beyond that end, with nothing else changed. That second grid was still best at its
largest rate for gradient descent, 0.5, and at its larger cap for ``absolute``, 0.01. The third one,
which is reported, adds the rates 0.6, 0.8 and 1.0 and the cap 0.03, so that a best setting may lie
inside of what was tried; `Comparison.at_end` tells whether it does. The results of each grid, test
accuracy included, were known when the next one was made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from flatminima import curvature, datasets, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, student_interval
from flatminima.theory import quadratic
from flatminima.training import probes, train_to_loss
from flatminima.training.optimizers import ClippedAdam
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "METHODS",
    "VARIANTS",
    "WARMUP",
    "Comparison",
    "Config",
    "compare",
    "effects",
    "grid",
    "predictions",
    "run",
    "threshold",
    "tuned",
]

COOLER = 0.1
"""The rate of the cooling in units of the rate of the training."""
BETAS = (0.9, 0.99)
WARMUP = 20
"""Steps before any clipping: the second moment then rests on a few gradients."""
WINDOW = 30
VARIANTS = ("absolute", "minimum", "median", "growth", "rise", "episode")
"""The ways of clipping, by their names in `optimizers.CLIPS`."""
METHODS = ("gd", "adam", *VARIANTS)
"""Gradient descent, Adam, and its variants."""
PROBE_EVERY = 10


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training and validation images and the initial weights.

    Attributes:
        method: ``"gd"``, ``"adam"``, or one of the ways of `optimizers.CLIPS`.
        learning_rate: of the training.
        cap: the factor of ``absolute``, in units of the gradient; None for other methods.
        n_train, n_validation: numbers of images, apart from each other.
        scale: of the initial weights, as in `models.mlp`.
        max_steps: steps of the training, and of the cooling, at most.
        dataset, model, width, target_loss, device: as in `flatness.Config`, with tanh.
    """

    method: str
    learning_rate: float
    seed: int
    cap: float | None = None
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    n_validation: int = 1000
    model: str = "mlp"
    width: int = 32
    scale: float = 0.3
    target_loss: float = 0.01
    max_steps: int = 2000
    device: str = "cpu"


@dataclass(frozen=True)
class Comparison:
    """A variant against Adam, or Adam against itself, each at its tuned setting.

    Attributes:
        method: the name of the variant.
        learning_rate, cap: its tuned setting.
        at_end: whether that rate, or that cap, is the smallest or largest that was tried, so that a
            better one may lie beyond.
        accuracy: mean paired difference of the test accuracy, the variant's minus Adam's, with its
            interval at the joint level.
        flatness: the same of log(sharpness of Adam / sharpness of the variant).
    """

    method: str
    learning_rate: float
    cap: float | None
    at_end: bool
    accuracy: Interval
    flatness: Interval

    @property
    def improvement(self) -> str:
        """``"better"``, ``"worse"`` or ``"no difference"``, by the criterion."""
        return _verdict(self.accuracy, "better", "worse")

    @property
    def flatter(self) -> str:
        """``"flatter"``, ``"sharper"`` or ``"no difference"``, by the criterion."""
        return _verdict(self.flatness, "flatter", "sharper")


def run(config: Config) -> dict[str, object]:
    """Training, cooling, and the measurements after them.

    Returns:
        ``steps``, ``rises`` (share of the training steps that raise the loss), ``clipped`` (mean
        share of clipped or held entries), ``edge_highest`` and ``edge_last`` (the preconditioned
        sharpness in units of the method's threshold, over the training and at its end; the first
        WARMUP steps left out), those of `stages.cool`; then, at the end: ``sharpness``,
        ``preconditioned_sharpness`` (each method has a preconditioner of its own: not to be
        compared between methods), ``validation_accuracy``, ``test_accuracy``.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
    """
    data, validation, test = images(config)
    shape = tuple(data[0].shape[1:])
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    model = stages.network(config.model, config.width, shape, **options)
    optimizer = make_optimizer(config, model)
    risk = EmpiricalRisk(model, "mse", data)
    shares: list[float] = []

    def clipped(state: probes.State) -> float:
        shares.append(float(getattr(optimizer, "clipped_share", 0.0)))
        return shares[-1]

    hot = train_to_loss(
        risk,
        stages.MARGIN * config.target_loss,
        config.max_steps,
        optimizer=optimizer,
        probes={"edge": probes.PreconditionedSharpness(tol=1e-2), "clipped": clipped},
        probe_every=PROBE_EVERY,
        progress=False,
    )
    history = hot.history
    settled = history.probe_steps >= min(WARMUP, hot.steps)
    edge = history.probes["edge"][settled] / threshold(config)
    changes = np.diff(history.loss)
    values: dict[str, object] = {
        "steps": hot.steps,
        "rises": float((changes > 0).mean()) if len(changes) else None,
        "clipped": float(np.mean(shares)) if shares else None,
        "edge_highest": float(edge.max()) if len(edge) else None,
        "edge_last": float(edge[-1]) if len(edge) else None,
    }
    if history.diverged:
        raise sweep.Diverged(f"at step {history.diverged_at} of the training", values)
    values = stages.cool(risk, config, COOLER * config.learning_rate, values, optimizer)
    hessian = risk.hessian()
    return values | {
        "sharpness": curvature.sharpness(hessian),
        "preconditioned_sharpness": curvature.preconditioned_sharpness(hessian, optimizer),
        "validation_accuracy": probes.Accuracy(*validation).of(model),
        "test_accuracy": probes.Accuracy(*test).of(model),
    }


def images(config: Config) -> tuple[tuple, tuple, tuple]:
    """Inputs and labels for training, for validation (no image of both), and for the test."""
    total = config.n_train + config.n_validation
    data = datasets.load(config.dataset, n_train=total, seed=config.seed)
    x, y = data.x_train.to(config.device), data.y_train.to(config.device)
    test = data.x_test.to(config.device), data.y_test.to(config.device)
    n = config.n_train
    return (x[:n], y[:n]), (x[n:], y[n:]), test


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a config names."""
    if config.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {config.method!r}")
    if (config.cap is not None) != (config.method == "absolute"):
        raise ValueError(f"cap belongs to absolute alone, got {config.cap!r} for {config.method}")
    parameters = list(model.parameters())
    if config.method == "gd":
        return torch.optim.SGD(parameters, config.learning_rate)
    if config.method == "adam":
        return torch.optim.Adam(parameters, config.learning_rate, BETAS)
    options = {"clip": config.method, "factor": config.cap, "window": WINDOW, "warmup": WARMUP}
    return ClippedAdam(parameters, config.learning_rate, BETAS, **options)


def threshold(config: Config) -> float:
    """The (preconditioned) sharpness at which the method turns unstable, by Proposition Q3."""
    if config.method == "gd":
        return float(quadratic.stability_threshold("gd", config.learning_rate))
    return float(quadratic.stability_threshold("adam", config.learning_rate, beta1=BETAS[0]))


def tuned(result: Result, method: str) -> Result | None:
    """The rows of a method at its best setting, in the order of the seeds.

    The setting (learning rate, cap) with the highest mean validation accuracy, among those at which
    every seed reached the target loss; of equals, the smaller rate. None if there is none such.
    The rows are to be of one network and one data set.
    """
    rows = result.where(method=method)
    best, chosen = -np.inf, None
    for rate, cap in sorted(set(zip(rows["learning_rate"], _caps(rows), strict=True))):
        here = rows.where(learning_rate=rate, **({"cap": cap} if cap else {}))
        if all(here["status"] == "done") and all(here["reached"]):
            value = float(np.mean(here["validation_accuracy"].astype(float)))
            if value > best:
                best, chosen = value, here
    return chosen


def compare(result: Result, methods: Sequence[str] = VARIANTS) -> list[Comparison]:
    """Each method against Adam, by the criterion at the head of this module.

    A method without a setting that brings every seed to the target loss is left out.

    Raises:
        ValueError: if Adam itself has none, or the seeds of two methods differ.
    """
    adam = tuned(result, "adam")
    if adam is None:
        raise ValueError("no learning rate brings Adam to the target loss for every seed")
    found = []
    for method in methods:
        rows = tuned(result, method)
        if rows is None:
            continue
        if not np.array_equal(rows["seed"], adam["seed"]):
            raise ValueError(f"the seeds of {method} are not those of Adam")
        gain = rows["test_accuracy"].astype(float) - adam["test_accuracy"].astype(float)
        flatness = np.log(adam["sharpness"].astype(float) / rows["sharpness"].astype(float))
        found.append(
            Comparison(
                method=method,
                learning_rate=float(rows["learning_rate"][0]),
                cap=_caps(rows)[0] or None,
                at_end=_at_end(rows, result.where(method=method)),
                accuracy=student_interval(gain, len(methods)),
                flatness=student_interval(flatness, len(methods)),
            )
        )
    return found


def _at_end(rows: Result, tried: Result) -> bool:
    """Whether the rate or the cap of the rows is the smallest or largest of those tried."""
    rates, caps = tried["learning_rate"], _caps(tried)
    rate, cap = rows["learning_rate"][0], _caps(rows)[0]
    outermost = cap and cap in (min(caps), max(caps))
    return bool(rate in (rates.min(), rates.max()) or outermost)


def _caps(rows: Result) -> list[float]:
    """The caps of the rows, 0 where there is none, so that they can be sorted and compared."""
    return np.nan_to_num(rows["cap"].astype(float)).tolist()


def _verdict(interval: Interval, above: str, below: str) -> str:
    if interval.low > 0:
        return above
    return below if interval.high < 0 else "no difference"


def effects(stored: Result) -> dict[str, Interval]:
    """The variants of clipped Adam, and gradient descent, against Adam, each at its tuned setting.

    Returns:
        ``flatter-<method>``: mean of the logarithm of Adam's sharpness over that of the method;
        ``accuracy-<method>``: mean of its test accuracy minus Adam's. The intervals are those of
        `compare`, those of the variants at the joint level of 95 percent. A method that no setting
        brought to the target is left out.

    Raises:
        ValueError: as `compare`.
    """
    found = {}
    for c in (*compare(stored, VARIANTS), *compare(stored, ["gd"])):
        found[f"flatter-{c.method}"] = c.flatness
        found[f"accuracy-{c.method}"] = c.accuracy
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The criterion for each variant: ``flatter-<variant>``, and ``better-<variant>``."""
    found = {}
    for c in compare(stored, VARIANTS):
        found[f"flatter-{c.method}"] = c.flatter == "flatter"
        found[f"better-{c.method}"] = c.improvement == "better"
    return found


ADAM_RATES = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008)
GD_RATES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
CAPS = (0.003, 0.01, 0.03)
SEEDS = range(1, 6)


def settings(adam_rates: Sequence[float], gd_rates: Sequence[float]) -> list[dict[str, object]]:
    """Method, learning rate and cap of every setting to choose from."""
    found: list[dict[str, object]] = [{"method": "gd", "learning_rate": r} for r in gd_rates]
    for method in METHODS[1:]:
        caps = CAPS if method == "absolute" else (None,)
        pairs = [{"learning_rate": rate, "cap": cap} for cap in caps for rate in adam_rates]
        found += [{"method": method, **pair} for pair in pairs]
    return found


def grid(preset: str) -> list[Config]:
    """The configs of a preset."""
    if preset == "ci":
        small = {"n_train": 100, "n_validation": 100, "width": 16, "target_loss": 0.03}
        small |= {"max_steps": 300}
        choice = settings((0.004, 0.008), (0.1,))
        return [Config(seed=seed, **s, **small) for s in choice for seed in range(2)]
    choice = settings(ADAM_RATES, GD_RATES)
    if preset == "default":
        return [Config(seed=seed, **s) for s in choice for seed in SEEDS]
    cifar = {"dataset": "cifar10", "n_train": 5000, "n_validation": 5000, "device": "cuda"}
    cifar |= {"max_steps": 10_000}
    networks = [cifar | {"model": "mlp", "width": 200}, cifar | {"model": "cnn", "width": 32}]
    return [Config(seed=seed, **s, **n) for n in networks for s in choice for seed in SEEDS]


# Nearly every run meets instabilities within its first dozens of steps, see `stages.spread`.
TOLERANCES = stages.spread(
    "steps rises clipped edge_highest edge_last sharpness preconditioned_sharpness",
    *("validation_accuracy", "test_accuracy", *stages.COOLING),
)

EXPERIMENT = Experiment(
    name="adam",
    summary="Sharpness and test accuracy of gradient descent, Adam and clipped Adam at equal loss",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "flatminima.theory.quadratic"),
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""Gradient descent, Adam and its variants, as `results.compute` takes them."""
