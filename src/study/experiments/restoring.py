r"""Does it help Adam to have its instabilities back, where it damps them, and at its best rate?

Three settings, with tanh networks of 196-32-32-10 units and 500 images of 14 x 14 pixels: the full
batch with the squared loss (``full-mse``) and the cross-entropy (``full-cross_entropy``), and
batches of 50 with the squared loss (``mini-mse``). Adam has :math:`\beta_2 = 0.95`: its second
moment remembers 20 steps, and answers to an instability while it grows. The other methods, by their
names in METHODS:

============ =======================================================================================
``slow``     Adam with :math:`\beta_2 = 0.99`. A slow second moment lets instabilities live (Bai et
             al. 2026, arXiv 2506.04805), so this is what a clipping must beat. The runs have 4 or
             more times its 100 steps of memory at the common rate. At 0.999 they would be shorter
             than it, and the bias correction would make the moment the plain mean of all squared
             gradients since the start: such runs are no test of a slow moment, and are not made.
``absolute`` an upper clip of the second moment
``growth``   a clip of its growth: none is allowed
``episode``  the moment held while the loss is above its minimum, so within instabilities alone;
             on the full batch only: the loss of a batch does not tell an instability from noise
``ratio``    an upper clip of the preconditioner's ratio to its median
``floor``    a lower clip of the second moment
``gd``       gradient descent, at its best rate only: its rate has another unit
============ =======================================================================================

Paper and abstract call the method Clipped-Ada; how exactly it clips is published, and was not at
hand. These forms cover the readings that we could think of; ``minimum`` and ``median`` of
`ClippedAdam` are further ones, which the experiment `adam` compares.

*Two comparisons.* ``common``: all at one small rate, at which Adam is stable. ``tuned``, with the
squared loss on the full batch: each at the rate, and factor, that is best for it by the accuracy on
1,000 validation images in the experiment `restoring_rates`, with the seeds 1000 to 1002, which are
not used again. The factor of a form is the same in all settings. The validation images are the same
for every seed, and never trained on or tested on; all other images that a run does not train on,
5,500, are its test images. Every run trains to `stages.MARGIN` times the target loss, and cools to
the target on the full batch at a tenth of its rate, its state kept.

*Criterion.* Of the paired differences over the seeds, Student's t interval at the joint level of 95
percent over the clipped forms of a setting (`effects`); gains are judged by `decided`, with 0.3
points as the smallest of interest.

*Known beforehand:* runs of two pilot seeds at several rates, with their accuracy on test images.
At a small rate, with the squared loss, ``growth``, ``absolute`` and ``ratio`` had many
instabilities where Adam had none, and ended flatter and about a point more accurate; at the best
rates little of the gain was left.

*Predictions.* At the common rate, full batch, ``growth``, ``absolute`` and ``ratio`` have more
episodes than Adam with the squared loss, and ``growth`` with the cross-entropy (``restores``); with
the squared loss the three end flatter and more accurate (``flatter``, ``better``); ``floor`` has no
more episodes than Adam (``floor``). At the tuned rates no form gains 0.3 points (``tuned``).

*Power.* At the tuned rates there are `power.TUNED` seeds, enough to make the half-width of the
plain 95 percent interval of a gain `power.HALF_WIDTH`, 0.3 points. At the common rate, where the
pilot saw effects of a point, there were six first; a second stage has as many in all as make that
of the joint interval 0.3 points in each setting, by their spread (`power.SECOND`).
The ranges of `restoring_rates` were extended, with the pilot's accuracies seen, where the best rate
was the largest tried. By then ``growth`` and ``ratio`` led Adam by half a point over the three
pilot seeds, against the prediction, which stays. `adam_tuned` tunes all settings, with new seeds.
"""

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from flatminima import curvature, datasets, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, student_interval
from flatminima.training import ClippedAdam, probes, train, train_to_loss
from study import results
from study.experiments import power, stages
from study.results import Experiment, Result

__all__ = [
    "CLIPPED",
    "EXPERIMENT",
    "METHODS",
    "SETTINGS",
    "Config",
    "Setting",
    "best",
    "effects",
    "grid",
    "images",
    "jumps",
    "make_optimizer",
    "of_method",
    "predictions",
    "run",
    "spread",
    "spreads",
]

COOLER = 0.1
"""The rate of the cooling in units of the rate of the training."""
BETA1 = 0.9
WARMUP = 20
"""Steps before any clipping, as in the experiment `adam`."""
PROBE_EVERY = 20
RISE = 0.1
"""Rise of the loss above its minimum, relative to it, that counts as an instability."""
POOLED = 2
"""Side of the squares of pixels that are averaged to one."""

METHODS = {
    "gd": None,
    "adam": ("none", 0.95),
    "slow": ("none", 0.99),
    "absolute": ("absolute", 0.95),
    "growth": ("growth", 0.95),
    "episode": ("episode", 0.95),
    "ratio": ("ratio", 0.95),
    "floor": ("floor", 0.95),
}
"""Method -> its way of `optimizers.CLIPS` and its beta_2; None for gradient descent."""
CLIPPED = ("absolute", "growth", "episode", "ratio", "floor")
"""The clipped forms."""
RESTORING = ("absolute", "growth", "ratio")
"""Those that are predicted to have instabilities where Adam has none."""


@dataclass(frozen=True)
class Setting:
    """What the runs that are compared have in common.

    Attributes:
        loss: as in `EmpiricalRisk`.
        batch: images in a batch; 0 for the full batch.
        target_loss: at which the runs are compared.
        common_rate: the small rate of the comparison ``common``.
    """

    loss: str
    batch: int
    target_loss: float
    common_rate: float = 0.001

    @property
    def methods(self) -> list[str]:
        """The methods that can run here."""
        return [m for m in METHODS if not (self.batch and m == "episode")]


SETTINGS = {
    "full-mse": Setting("mse", 0, 0.01),
    "full-cross_entropy": Setting("cross_entropy", 0, 0.01),
    "mini-mse": Setting("mse", 50, 0.03),
}
"""The settings by their names."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images, the initial weights, and the batches.

    Attributes:
        setting: a name of SETTINGS, for ``loss``, ``batch`` and ``target_loss``.
        comparison: ``"tuned"``, ``"common"``, or ``"rates"`` for the choice of the rates.
        method: of METHODS.
        learning_rate, factor: of the training; the factor of `ClippedAdam`, None for most.
        n_train, n_validation: numbers of images; the validation images are the same in all runs.
        scale: of the initial weights, as in `models.mlp`.
        max_steps: of the training, and of the cooling.
        dataset, width, device: as in `flatness.Config`.
    """

    setting: str
    comparison: str
    method: str
    learning_rate: float
    factor: float | None
    seed: int
    loss: str
    batch: int
    target_loss: float
    n_train: int = 500
    n_validation: int = 1000
    width: int = 32
    scale: float = 0.5
    max_steps: int = 3000
    dataset: str = "fashion-mnist-subset"
    device: str = "cpu"


def images(config: Config) -> dict[str, stages.Images]:
    """Images, pooled, and labels for ``train``, ``validation`` and ``test``, no image in two."""
    x, y = _pooled(config.dataset)
    order = np.random.default_rng(0).permutation(len(y))
    validation, rest = np.split(order, [config.n_validation])
    rest = np.random.default_rng([config.seed, 1]).permutation(rest)
    parts = {
        "train": rest[: config.n_train],
        "validation": validation,
        "test": rest[config.n_train :],
    }
    on = config.device
    return {name: (x[chosen].to(on), y[chosen].to(on)) for name, chosen in parts.items()}


@functools.cache
def _pooled(dataset: str) -> stages.Images:
    data = datasets.load(dataset)
    x = torch.cat([data.x_train, data.x_test])
    return functional.avg_pool2d(x, POOLED), torch.cat([data.y_train, data.y_test])


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a config names."""
    if config.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {config.method!r}")
    parameters = list(model.parameters())
    if METHODS[config.method] is None:
        return torch.optim.SGD(parameters, config.learning_rate)
    clip, beta2 = METHODS[config.method]
    options = {"clip": clip, "factor": config.factor, "warmup": WARMUP}
    return ClippedAdam(parameters, config.learning_rate, (BETA1, beta2), **options)


def jumps(loss: np.ndarray) -> int:
    """How many times the loss, (T,), rises by more than RISE above its minimum so far."""
    above = loss > (1 + RISE) * np.minimum.accumulate(loss)
    return int(np.sum(above[1:] & ~above[:-1]))


def run(config: Config) -> dict[str, object]:
    """Training, cooling, and the measurements after them.

    Returns:
        ``steps``, ``jumps`` (see `jumps`; on minibatches of the loss on all training images, once
        an epoch), ``clipped`` (mean share of clipped or held entries, at the probes); of the
        comparison ``common`` also ``edge`` (the preconditioned sharpness at the end of the
        training, in units of the method's threshold), and on the full batch ``episodes`` and
        ``edge_highest``, by `find_episodes` with that sharpness; those of `stages.cool`; then, at
        the end, ``sharpness``, ``validation_accuracy``, ``test_accuracy``.

    Raises:
        sweep.Diverged: if the run diverges; the values are those measured before.
    """
    parts = images(config)
    shape = tuple(parts["train"][0].shape[1:])
    options = {"scale": config.scale, "seed": config.seed, "device": config.device}
    model = stages.network("mlp", config.width, shape, **options)
    optimizer = make_optimizer(config, model)
    risk = EmpiricalRisk(model, config.loss, parts["train"])
    train_to_margin = _by_batches if config.batch else _on_all
    values, diverged_at = train_to_margin(config, risk, optimizer)
    if diverged_at is not None:
        raise sweep.Diverged(f"at step {diverged_at} of the training", values)
    if config.comparison == "common":
        edge = curvature.preconditioned_sharpness(risk, optimizer, tol=1e-2)
        values["edge"] = edge / curvature.edge_of_stability(optimizer)
    values = stages.cool(risk, config, COOLER * config.learning_rate, values, optimizer)
    return values | {
        "sharpness": curvature.sharpness(risk, tol=1e-3),
        "validation_accuracy": probes.Accuracy(*parts["validation"]).of(model),
        "test_accuracy": probes.Accuracy(*parts["test"]).of(model),
    }


def _on_all(
    config: Config, risk: EmpiricalRisk, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, object], int | None]:
    """Train on the full batch: what was measured, and where it diverged."""
    watched = {"clipped": lambda state: float(getattr(optimizer, "clipped_share", 0.0))}
    if config.comparison == "common":
        watched["edge"] = probes.PreconditionedSharpness(tol=1e-2)
    stop = stages.MARGIN * config.target_loss, config.max_steps
    how = {"probes": watched, "probe_every": PROBE_EVERY, "progress": False}
    end = train_to_loss(risk, *stop, optimizer=optimizer, **how)
    history = end.history
    values: dict[str, object] = {"steps": end.steps, "jumps": jumps(history.loss)}
    settled = history.probe_steps >= min(WARMUP, end.steps)
    if settled.any():
        values["clipped"] = float(np.mean(history.probes["clipped"][settled]))
    if settled.any() and "edge" in watched:
        limit = curvature.edge_of_stability(optimizer)
        found = history.episodes("edge", threshold=limit, minimum_rise=RISE)
        values["episodes"] = len(found)
        values["edge_highest"] = float(history.probes["edge"][settled].max()) / limit
    return values, history.diverged_at


def _by_batches(
    config: Config, risk: EmpiricalRisk, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, object], int | None]:
    """The same on minibatches, which stops at the end of an epoch by the loss on all images."""
    generator = torch.Generator().manual_seed(config.seed)
    epoch = config.n_train // config.batch
    losses, shares, steps, diverged_at = [risk.value()], [], 0, None
    while losses[-1] > stages.MARGIN * config.target_loss and steps < config.max_steps:
        how = {"batch_size": config.batch, "generator": generator, "progress": False}
        history = train(risk, epoch, optimizer=optimizer, **how)
        shares.append(float(getattr(optimizer, "clipped_share", 0.0)))
        if history.diverged or not np.isfinite(risk.value()):
            diverged_at = steps + (history.diverged_at or epoch)
            break
        steps += epoch
        losses.append(risk.value())
    values: dict[str, object] = {
        "steps": steps,
        "jumps": jumps(np.array(losses)),
        "clipped": float(np.mean(shares)) if shares else None,
    }
    return values, diverged_at


# --- what the runs show


def best(rates: Result, setting: str, method: str) -> tuple[float, float | None]:
    """The rate and the factor with the highest mean accuracy on the validation images.

    Among those with which every seed came to the target loss; of equals, the smaller.

    Args:
        rates: the stored `restoring_rates`.

    Raises:
        ValueError: if there is none such.
    """
    rows = rates.where(setting=setting, method=method)
    factors = np.nan_to_num(rows["factor"].astype(float))
    found = []
    for rate, factor in sorted(set(zip(rows["learning_rate"], factors, strict=True))):
        here = (rows["learning_rate"] == rate) & (factors == factor)
        if stages.reached(rows["reached"])[here].all():
            accuracy = rows["validation_accuracy"].astype(float)[here].mean()
            found.append((accuracy, -rate, -factor))
    if not found:
        raise ValueError(f"no rate brings {method} to the target loss in {setting}")
    _, rate, factor = max(found)
    return float(-rate), float(-factor) or None


def spreads(rates: Result, setting: str) -> list[float]:
    """Of each clipped form the standard deviation of its test accuracy minus Adam's.

    Over the pilot seeds, each method at its best setting.
    """

    def accuracy(method: str) -> np.ndarray:
        rate, factor = best(rates, setting, method)
        at = {"setting": setting, "method": method, "learning_rate": rate}
        rows = rates.where(**at, **({"factor": factor} if factor else {}))
        return rows["test_accuracy"].astype(float)[np.argsort(rows["seed"])]

    forms = [m for m in CLIPPED if m in rates.where(setting=setting)["method"].tolist()]
    return [float(np.std(accuracy(m) - accuracy("adam"), ddof=1)) for m in forms]


def spread(rates: Result, setting: str) -> float:
    """The `spreads` pooled over the forms: the root of the mean of their squares."""
    return float(np.sqrt(np.mean(np.square(spreads(rates, setting)))))


def of_method(stored: Result, value: str, setting: str, comparison: str, method: str) -> np.ndarray:
    """One value a seed, NaN where the run diverged or missed the target."""
    rows = stored.where(setting=setting, comparison=comparison, method=method)
    values = np.where(stages.reached(rows["reached"]), rows[value].astype(float), np.nan)
    return values[np.argsort(rows["seed"])]


def compared(stored: Result) -> Iterator[tuple[str, str, str, int]]:
    """(comparison, setting, method, number of methods that the joint level is about).

    Every method but Adam; a method of which fewer than `stages.FEWEST` seeds came to the target,
    together with Adam, is left out.
    """
    for comparison in ("tuned", "common"):
        for setting in dict.fromkeys(stored["setting"].tolist()):
            where = (stored, "test_accuracy", setting, comparison)
            adam = of_method(*where, "adam")
            methods = dict.fromkeys(stored.where(setting=setting)["method"].tolist())
            forms = [m for m in methods if m in CLIPPED]
            for method in methods:
                if method == "adam" or (method == "gd" and comparison == "common"):
                    continue
                if np.isfinite(of_method(*where, method) - adam).sum() >= stages.FEWEST:
                    yield comparison, setting, method, len(forms) if method in CLIPPED else 1


def effects(stored: Result) -> dict[str, Interval]:
    """Each method against Adam, and each clipped form against the slow second moment.

    Returns:
        ``<effect>-<comparison>-<setting>-<method>``, means over the seeds of paired differences,
        for the effects ``accuracy`` (of the test, minus Adam's), ``flatter`` (log of Adam's
        sharpness over its own), ``over-slow`` (accuracy minus that of ``slow``; of clipped forms),
        and ``episodes`` (number minus Adam's; comparison common, full batch). Those of clipped
        forms at the joint level of 95 percent over the forms of the setting. A run that diverged or
        missed the target is left out with its partner.
    """
    found = {}
    for comparison, setting, method, number in compared(stored):

        def of(value: str, name: str, where: tuple = (setting, comparison)) -> np.ndarray:
            return of_method(stored, value, *where, name)

        def add(
            effect: str,
            difference: np.ndarray,
            name: str = f"{comparison}-{setting}-{method}",
            number: int = number,
        ) -> None:
            kept = difference[np.isfinite(difference)]
            if len(kept) >= stages.FEWEST:
                found[f"{effect}-{name}"] = student_interval(kept, number)

        add("accuracy", of("test_accuracy", method) - of("test_accuracy", "adam"))
        add("flatter", np.log(of("sharpness", "adam") / of("sharpness", method)))
        if method in CLIPPED:
            add("over-slow", of("test_accuracy", method) - of("test_accuracy", "slow"))
        if comparison == "common":
            add("episodes", of("episodes", method) - of("episodes", "adam"))
    return found


def predictions(stored: Result) -> dict[str, bool]:
    """The predictions at the head of this file."""
    found = effects(stored)
    full = [s for s in dict.fromkeys(stored["setting"].tolist()) if s.startswith("full")]

    def low(effect: str, method: str, setting: str) -> float:
        effect = found.get(f"{effect}-common-{setting}-{method}")
        return np.nan if effect is None else effect.low

    held = {}
    for setting in full:
        for method in RESTORING if setting == "full-mse" else ("growth",):
            held[f"restores-{setting}-{method}"] = low("episodes", method, setting) > 0
    for method in RESTORING:
        for effect, name in (("flatter", "flatter"), ("accuracy", "better")):
            held[f"{name}-{method}"] = low(effect, method, "full-mse") > 0
    held |= {f"floor-{s}": low("episodes", "floor", s) <= 0 for s in full}
    tuned = [name for name in found if name.startswith("accuracy-tuned")]
    gains = {n: found[n] for n in tuned if n.rpartition("-")[2] in CLIPPED}
    return held | {
        name.removeprefix("accuracy-"): g.value < power.HALF_WIDTH for name, g in gains.items()
    }


def grid(preset: str) -> list[Config]:
    """The configs of a preset; the tuned rates are those of the stored `restoring_rates`."""
    choice = ("gpu", "default") if preset == "gpu" else ("default",)
    rates, more = results.load("restoring_rates", *choice), at_preset(preset)
    (tuned,) = set(rates["setting"].tolist())
    configs = []
    for name, setting in SETTINGS.items():
        for method in setting.methods:
            rate, factor = best(rates, tuned, method)
            chosen = {"tuned": rate} if name == tuned else {}
            if method != "gd":
                chosen["common"] = setting.common_rate
            second = power.SECOND[f"restoring {name}"].seeds
            for comparison, own in chosen.items():
                count = power.TUNED if comparison == "tuned" else second
                seeds = range(1, 1 + (3 if preset == "ci" else count))
                fixed = name, comparison, method, own, factor
                configs += [Config(*fixed, seed, **more[name]) for seed in seeds]
    return configs


def at_preset(preset: str) -> dict[str, dict[str, object]]:
    """Setting -> the fields of a config that do not depend on the method."""
    size: dict[str, object] = {}
    if preset == "ci":
        size = {"n_train": 60, "n_validation": 100, "width": 12, "max_steps": 400}
    if preset == "gpu":
        size = {"dataset": "fashion-mnist", "n_train": 5000, "n_validation": 10_000, "width": 200}
        size |= {"device": "cuda", "max_steps": 20_000}
    found = {}
    for name, setting in SETTINGS.items():
        own = asdict(setting)
        del own["common_rate"]
        if preset == "ci":
            own |= {"target_loss": 5 * setting.target_loss, "batch": min(setting.batch, 20)}
        found[name] = own | size
    return found


TOLERANCES = stages.spread(
    "steps jumps clipped edge episodes edge_highest sharpness",
    *("validation_accuracy", "test_accuracy", *stages.COOLING),
)

EXPERIMENT = Experiment(
    name="restoring",
    summary="Adam, a slow Adam and clipped Adam: instabilities, sharpness, accuracy at equal loss",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""Adam with its instabilities restored, as `results.compute` takes it."""
