r"""What are instabilities worth in test accuracy: with enough seeds, in many settings.

Full-batch gradient descent as in `flatness`, but every stretch of one seed leaves from the very
same weights, in one run:

1. *Approach*: at a small rate, down to ``start_loss``. The sharpness there is lambda_1.
2. *Large rate*: at c * 2 / lambda_1 for each c of FACTORS, at most ``large_steps`` steps, or until
   the loss is within MARGIN of the target.
3. *Cooling*: at COOL * 2 / lambda_1, until the loss is ``target_loss``.

Compared at the matched loss, within each seed: c against STABLE, in test accuracy and in sharpness.
The settings are three architectures (tanh MLP, ReLU MLP, ReLU CNN), two sets of images, two losses;
and the tanh MLP again with a fifth of the training labels wrong. Test images are all that a run
does not train on: of the pool of 5,000 those not drawn for training, and the set's own test images.

Decided before any run of the main seeds:

* *Named*: c = 2, as in `flatness`. The other factors are reported and decide nothing.
* *Criterion*: the interval of the mean paired difference by Student's t, at 95 % in each setting.
  Above 0 the gain is reproduced, below 0 contradicted, excluded if all of it lies below 0.3 points,
  and else undecided. Sixteen intervals are asked; if there were no gain anywhere, 0.4 of them would
  be expected above 0 and 0.4 below.
* *Power*: `power.PILOT` is the standard deviation of that difference over the PILOT_SEEDS, not used
  again, pooled over the settings with the same images, loss and labels. The seeds of a setting are
  as many as make the expected half-width `power.HALF_WIDTH` or less, at least FEWEST, and no more
  than MOST: where more would be needed, the page says how many. Where the spread of these seeds was
  larger than the pilot's, it decided for more (`power.GAIN`); their means had no part in it.
* *Predicted*: flatter at c = 2 in every setting; more accurate in every setting; a larger gain
  with wrong labels than without, since there is something to regularize.

What was known when this was written: runs of seed 7, which is not among the seeds, that served to
choose losses, rates and sizes, and a first pilot of eight runs (MLPs on Fashion-MNIST, squared
loss, another MARGIN), given up since the CNN took too long. Their accuracies at c = 2 were seen:
those of seed 7 within a point of those at 1/2, on either side; in the eight higher by 0.1 to 1.8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flatminima import curvature, datasets
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, student_interval
from flatminima.training import probes, train_to_loss
from study.experiments import cifar, power, stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "FACTORS",
    "NAMED",
    "STABLE",
    "Config",
    "effects",
    "grid",
    "image_error",
    "predictions",
    "run",
    "settings",
    "survivors",
]

STABLE, NAMED = 0.5, 2.0
"""The factors compared, c = 1/2 and c = 2."""
FACTORS = (STABLE, NAMED, 3.0, 4.0)
COOL = 0.35
"""The rate of the cooling in units of 2 / lambda_1: the sharpness may rise to 2.8 times that of the
start before it is unstable."""
MARGIN = 1.1
"""As `stages.MARGIN`, nearer to the target: the cooling is the longest stage."""
PROBE_EVERY = 20
POOL = 5000
"""Images from which those for training are drawn."""


@dataclass(frozen=True)
class Config:
    """One seed of a setting, with all its stretches.

    Attributes:
        model: ``"tanh"`` or ``"relu"``, an MLP of two hidden layers of ``width`` units, or
            ``"cnn"``, with ReLU and blocks of a quarter and half of ``width`` channels.
        dataset, loss: as in `flatness.Config`.
        seed: of images, initial weights, and wrong labels.
        pilot: whether the seed serves only to choose the number of seeds.
        label_noise: share of the training images that get one of the nine wrong labels.
        small_rate, start_loss, target_loss: as in `flatness.Config`.
        n_train, width: images, and units.
        pooled: side of the squares of pixels that are averaged to one.
        large_steps, max_steps: steps at the large rate, and of the other two stages, at most.
        device: ``"cpu"`` or ``"cuda"``.
    """

    model: str
    dataset: str
    loss: str
    seed: int
    pilot: bool
    small_rate: float
    start_loss: float
    target_loss: float
    label_noise: float = 0.0
    n_train: int = 500
    width: int = 48
    pooled: int = 2
    large_steps: int = 600
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The approach, and the stretches of all factors from its end.

    Returns:
        ``start_steps``, ``start_sharpness``, ``start_accuracy``; and for each factor c
        ``reached-<c>``, ``sharpness-<c>`` and ``accuracy-<c>`` at the end, ``highest-<c>`` (the
        largest eta lambda_1 / 2 at the large rate), ``rises-<c>`` (share of its steps that raise
        the loss), ``steps-<c>`` (of both stages), ``image_error-<c>`` (standard error of the
        difference in accuracy from STABLE over the test images). A stretch that diverges has the
        ``reached`` of False, and None for the rest of what is measured at its end.

    Raises:
        RuntimeError: if the first stage does not come down to its loss.
        datasets.CorruptDataError: if the natural images are not the right ones.
    """
    values, right = stretches(config, FACTORS)
    for c in FACTORS:
        there = right[c] is not None and right[STABLE] is not None
        paired = right[c].astype(float) - right[STABLE] if there else None
        error = float(paired.std(ddof=1) / np.sqrt(len(paired))) if there else None
        values[f"image_error-{c:g}"] = error
    return values


def stretches(
    config: Config, factors: Sequence[float]
) -> tuple[dict[str, object], dict[float, np.ndarray | None]]:
    """What `run` returns, of some factors, but for the errors; and which test images are right.

    Raises:
        RuntimeError, datasets.CorruptDataError: as `run`.
    """
    train, test = images(config)
    risk = EmpiricalRisk(build(config, tuple(train[0].shape[1:])), config.loss, train)
    values = stages.approach(risk, config)
    values["start_accuracy"] = float(correct(risk, test).mean())
    start = [p.detach().clone() for p in risk.parameters]
    right = {}
    for c in factors:
        with torch.no_grad():
            for parameter, value in zip(risk.parameters, start, strict=True):
                parameter.copy_(value)
        found, right[c] = stretch(risk, test, config, c, values["start_sharpness"])
        values |= {f"{name}-{c:g}": value for name, value in found.items()}
    return values, right


def stretch(
    risk: EmpiricalRisk, test: stages.Images, config: Config, c: float, sharpness: float
) -> tuple[dict[str, object], np.ndarray | None]:
    """The second and the third stage, in place; and which test images are right at the end."""
    edge = 2 / sharpness
    probing = {"probes": {"sharpness": probes.Sharpness(tol=1e-2)}, "probe_every": PROBE_EVERY}
    stop = MARGIN * config.target_loss, config.large_steps
    large = train_to_loss(risk, *stop, learning_rate=c * edge, **probing, progress=False)
    measured = large.history.probes["sharpness"]
    found: dict[str, object] = {
        "reached": False,
        "sharpness": None,
        "accuracy": None,
        "highest": float(measured.max() * c / sharpness) if len(measured) else None,
        "rises": float((np.diff(large.history.loss) > 0).mean()) if large.steps else None,
        "steps": large.steps,
    }
    if large.history.diverged:
        return found, None
    end = train_to_loss(
        risk, config.target_loss, config.max_steps, learning_rate=COOL * edge, progress=False
    )
    found["steps"] += end.steps
    if not end.reached:
        return found, None
    right = correct(risk, test)
    found |= {"reached": True, "sharpness": curvature.sharpness(risk), "accuracy": right.mean()}
    return found, right


def images(config: Config) -> tuple[stages.Images, stages.Images]:
    """The images of a run at its resolution, for training, with their labels, and all others."""
    if config.dataset == cifar.DATASET:
        cifar.require()
    data = datasets.load(config.dataset, n_train=POOL, seed=config.seed)
    n, device = config.n_train, config.device
    x, y = data.x_train[:n], noisy(data.y_train[:n], config.label_noise, config.seed)
    others = torch.cat([data.x_train[n:], data.x_test]), torch.cat([data.y_train[n:], data.y_test])
    pairs = (x, y), others
    return tuple(
        (functional.avg_pool2d(a, config.pooled).to(device), b.to(device)) for a, b in pairs
    )


def noisy(labels: Tensor, share: float, seed: int) -> Tensor:
    """The labels (n,) of ten kinds, that share of them replaced by one of the nine others."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    changed = labels.clone()
    changed[chosen] += torch.randint(1, 10, (len(chosen),), generator=generator)
    return changed % 10


def build(config: Config, shape: tuple[int, ...]) -> torch.nn.Sequential:
    """The untrained network of a run, for images of that shape."""
    options = {"seed": config.seed, "device": config.device}
    if config.model == "cnn":
        return stages.network("cnn", config.width // 4, shape, "relu", **options)
    return stages.network("mlp", config.width, shape, config.model, **options)


def correct(risk: EmpiricalRisk, test: stages.Images) -> np.ndarray:
    """Which of the test images the network of a risk classifies as labelled, boolean."""
    inputs, labels = test
    with torch.no_grad():
        guesses = torch.cat([risk.model(part).argmax(1) for part in inputs.split(1000)])
    return (guesses == labels).cpu().numpy()


# --- the design

SMALLER = {"n_train": 300, "width": 32, "pooled": 3}
"""The CNN sees fewer and coarser images: its steps cost the most."""


def settings() -> Iterator[dict[str, object]]:
    """The sixteen settings, those of the claim first, with what each of them needs."""
    fashion, natural = "fashion-mnist-subset", cifar.DATASET
    ways = {
        (fashion, "mse"): {"small_rate": 0.03, "start_loss": 0.2, "target_loss": 0.05},
        (fashion, "cross_entropy"): {"small_rate": 0.03, "start_loss": 0.7, "target_loss": 0.1},
        (natural, "mse"): {"small_rate": 0.01, "start_loss": 0.35, "target_loss": 0.12},
        (natural, "cross_entropy"): {"small_rate": 0.01, "start_loss": 1.5, "target_loss": 0.3},
    }
    convolving = {
        (fashion, "mse"): {"start_loss": 0.25, "target_loss": 0.18},
        (fashion, "cross_entropy"): {"start_loss": 0.9, "target_loss": 0.45},
        (natural, "mse"): {"small_rate": 0.03, "start_loss": 0.4, "target_loss": 0.32},
        (natural, "cross_entropy"): {"small_rate": 0.02, "target_loss": 0.9},
    }
    wrong = {
        (fashion, "mse"): {"start_loss": 0.3, "target_loss": 0.12},
        (fashion, "cross_entropy"): {"start_loss": 1.2, "target_loss": 0.3},
        (natural, "mse"): {},
        (natural, "cross_entropy"): {"start_loss": 1.7},
    }
    for (dataset, loss), way in ways.items():
        place = {"dataset": dataset, "loss": loss, **way}
        for model in ("tanh", "relu"):
            yield {"model": model, **place}
        yield {"model": "cnn", **place, **convolving[dataset, loss], **SMALLER}
    for (dataset, loss), way in ways.items():
        extra = {**way, **wrong[dataset, loss], "label_noise": 0.2}
        yield {"model": "tanh", "dataset": dataset, "loss": loss, **extra}


PILOT_SEEDS = range(1000, 1004)
FEWEST, MOST = 8, 24


def grid(preset: str) -> list[Config]:
    """The configs of a preset; of a setting whose spread is not known, those of the pilot alone."""
    if preset == "ci":
        small = {"n_train": 100, "width": 16, "large_steps": 200}
        chosen = [s for s in settings() if s["dataset"] != cifar.DATASET and s["model"] == "tanh"]
        return [
            Config(seed=seed, pilot=False, **s | small)
            for s in chosen
            for seed in range(FEWEST // 2)
        ]
    configs = []
    for s in settings():
        place = s["dataset"], s["loss"], s.get("label_noise", 0.0)
        spread = power.GAIN.get(place)
        count = 0 if spread is None else min(max(FEWEST, power.seeds_needed(spread)), MOST)
        configs += [Config(seed=seed, pilot=True, **s) for seed in PILOT_SEEDS]
        configs += [Config(seed=seed, pilot=False, **s) for seed in range(count)]
    if preset == "gpu":
        large = {"dataset": "cifar10", "n_train": 5000, "pooled": 1, "width": 200, "device": "cuda"}
        large["max_steps"] = 20_000
        natural = [c for c in configs if c.dataset == cifar.DATASET and not c.pilot]
        return [replace(c, **large) for c in natural]
    return configs


# --- what the runs show


def setting_of(row: dict[str, object]) -> str:
    """What a setting is called among the effects: ``<model>-<dataset>-<loss>-<share>``."""
    return f"{row['model']}-{row['dataset']}-{row['loss']}-{row['label_noise']:g}"


def _parts(stored: Result, *, pilot: bool) -> dict[str, Result]:
    """Setting -> its rows that are, or are not, of the pilot."""
    rows = stored.where(pilot=pilot)
    fields = ("model", "dataset", "loss", "label_noise")
    places = dict.fromkeys(zip(*(rows[f].tolist() for f in fields), strict=True))
    chosen = [dict(zip(fields, place, strict=True)) for place in places]
    return {setting_of(place): rows.where(**place) for place in chosen}


def _paired(rows: Result, value: str, c: float, against: float = STABLE) -> np.ndarray:
    """A value at c minus that at another factor, of the seeds that reached the loss at both."""
    there = [rows[f"reached-{f:g}"].astype(bool) for f in (c, against)]
    ends = [rows[f"{value}-{f:g}"].astype(float) for f in (c, against)]
    if value == "sharpness":
        ends = [np.log(end) for end in ends]
    return (ends[0] - ends[1])[there[0] & there[1]]


def effects(stored: Result) -> dict[str, Interval]:
    """The effects in each setting, in the order of `settings`, with intervals by Student's t.

    Returns:
        ``gain-<setting>-<c>``: test accuracy at c minus that at STABLE; ``flatter-<setting>-<c>``:
        the same of the logarithm of the sharpness, negative if flatter; for each c with
        `stages.FEWEST` seeds or more that reached the loss at both. ``fall-<setting>``: accuracy at
        the largest such c minus that at NAMED. ``slope-<setting>``: the gain for each halving of
        the sharpness, by least squares through the origin over the factors of a seed.
        ``wrong-<dataset>-<loss>``: how much larger the gain at NAMED is with wrong labels, of the
        seeds that both settings have.
    """
    parts, found = _parts(stored, pilot=False), {}
    for name, rows in parts.items():
        for c in FACTORS[1:]:
            for key, value in (("gain", "accuracy"), ("flatter", "sharpness")):
                paired = _paired(rows, value, c)
                if len(paired) >= stages.FEWEST:
                    found[f"{key}-{name}-{c:g}"] = student_interval(paired)
        falls = {c: _paired(rows, "accuracy", c, NAMED) for c in FACTORS if c > NAMED}
        if enough := [c for c in falls if len(falls[c]) >= stages.FEWEST]:
            found[f"fall-{name}"] = student_interval(falls[max(enough)])
        slopes = _slopes(rows)
        if len(slopes) >= stages.FEWEST:
            found[f"slope-{name}"] = student_interval(slopes)
    for name, rows in parts.items():
        clean = parts.get(name.rpartition("-")[0] + "-0")
        if name.endswith("-0") or clean is None:
            continue
        both = np.intersect1d(rows["seed"], clean["seed"])
        gains = [np.array([_one(part.where(seed=seed)) for seed in both]) for part in (rows, clean)]
        more = gains[0] - gains[1]
        place = name.split("-", 1)[1].rpartition("-")[0]
        found[f"wrong-{place}"] = student_interval(more[np.isfinite(more)])
    return found


def _slopes(rows: Result) -> np.ndarray:
    """Gain in accuracy for each halving of the sharpness, one a seed that has a pair."""
    found = []
    for seed in rows["seed"]:
        row = rows.where(seed=seed)
        pairs = [(_paired(row, "sharpness", c), _paired(row, "accuracy", c)) for c in FACTORS[1:]]
        x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
        halvings = -x / np.log(2)
        if np.any(halvings):
            found.append(halvings @ y / (halvings @ halvings))
    return np.array(found)


def _one(row: Result) -> float:
    """The gain at NAMED of one run, NaN if it has none."""
    gain = _paired(row, "accuracy", NAMED)
    return float(gain[0]) if len(gain) else np.nan


def image_error(stored: Result) -> dict[str, float]:
    """Setting -> standard error of the gain at NAMED over the test images, of one seed, the mean.

    The mean over seeds errs by less: part of the test images differ from seed to seed.
    """
    name = f"image_error-{NAMED:g}"
    parts = _parts(stored, pilot=False)
    return {s: float(np.nanmean(rows[name].astype(float))) for s, rows in parts.items()}


def survivors(stored: Result, c: float = NAMED) -> dict[str, tuple[int, int]]:
    """Setting -> seeds that reached the loss at c as well as at STABLE, and all its seeds."""
    parts = _parts(stored, pilot=False)
    return {s: (len(_paired(rows, "accuracy", c)), len(rows)) for s, rows in parts.items()}


def pilot_spread(stored: Result) -> dict[tuple[str, str, float], float]:
    """(images, loss, share of wrong labels) -> spread of the gain at NAMED over the pilot's seeds.

    The root of the mean variance over architectures.
    """
    found: dict[tuple[str, str, float], list[float]] = {}
    for rows in _parts(stored, pilot=True).values():
        place = rows["dataset"][0], rows["loss"][0], float(rows["label_noise"][0])
        found.setdefault(place, []).append(np.var(_paired(rows, "accuracy", NAMED), ddof=1))
    return {place: float(np.sqrt(np.mean(values))) for place, values in found.items()}


def predictions(stored: Result) -> dict[str, bool]:
    """What the design needs, and what was predicted, setting by setting.

    ``stable-<setting>``: at STABLE the sharpness stays below 2 / eta in every seed.
    ``flatter-<setting>``, ``better-<setting>``: the intervals at NAMED lie below, and above, 0.
    ``wrong-<dataset>-<loss>``: the gain is larger with wrong labels.
    """
    found, held = effects(stored), {}
    for name, rows in _parts(stored, pilot=False).items():
        held[f"stable-{name}"] = bool(np.max(rows[f"highest-{STABLE:g}"].astype(float)) < 1)
        for key, sign in (("flatter", -1), ("gain", 1)):
            interval = found.get(f"{key}-{name}-{NAMED:g}")
            met = interval is not None and min(sign * interval.low, sign * interval.high) > 0
            held[f"{key.replace('gain', 'better')}-{name}"] = met
    return held | {name: v.low > 0 for name, v in found.items() if name.startswith("wrong-")}


_AT_ENDS = ("reached", "sharpness", "accuracy", "highest", "rises", "steps", "image_error")
EXPERIMENT = Experiment(
    name="gain",
    summary="Gain in test accuracy against flattening, paired within seeds, over sixteen settings",
    function=run,
    grid=grid,
    depends_on=(*stages.DECISIVE, "study.experiments.cifar"),
    tolerances={
        "start_steps": 1e-2,
        "start_sharpness": 2e-3,
        **stages.spread("start_accuracy", *(f"{n}-{c:g}" for n in _AT_ENDS for c in FACTORS)),
    },
    effects=effects,
    predictions=predictions,
)
"""The gains, as `results.compute` takes them."""
