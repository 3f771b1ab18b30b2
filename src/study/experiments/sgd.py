"""How much of the flattening by SGD is due to instability, and how much to noise?

Gradient descent in three stages, of which the first and the last are the same for all runs:

1. *Approach*: full batch, ``small_rate``, down to ``start_loss``. The runs of one seed are still
   identical, and what they meet next is not the shock of a random start.
2. *Treatment*: ``steps`` updates at ``rate``, on the full batch or on minibatches, or with
   Gaussian noise on the one-hot labels, drawn anew at each step.
3. *Cooling*: full batch, ``small_rate``, until the loss is ``target_loss``. Its edge, at
   2 / small_rate, is meant to be above the sharpness of every run, so that the cooling flattens
   nothing.

=========== ========================================== =========================================
batch       small rate                                 large rate
=========== ========================================== =========================================
full        stable: neither                            past 2/lambda_1: instability alone
minibatch   below the full-batch edge: noise alone     both
=========== ========================================== =========================================

Two further kinds of run guard against a wrong reading. On the full batch at *half* the small rate
nothing is unstable and nothing noisy: if a rate by itself changed the sharpness at matched loss, it
would show here. And noise is stronger, per unit of training time, the longer it acts: minibatches
at the small rate also run for as many more updates as make up the training time, rate times
updates, of the large rate. A run that ends the second stage below the target is kept, and its
``undershoot`` tells.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.training import History, gradient_descent, probes
from study.experiments import stages
from study.results import Experiment, Result

__all__ = [
    "EXPERIMENT",
    "MATCHED",
    "Cells",
    "Config",
    "account",
    "effects",
    "grid",
    "predictions",
    "run",
]

MATCHED = 0.01
"""A run counts if its loss is within this share of the target."""
PROBES = 10
"""Intervals between measurements of the sharpness in the second stage."""


@dataclass(frozen=True)
class Config:
    """One run. The seed chooses the training images, the initial weights and the noise.

    Attributes:
        rate: learning rate of the second stage.
        batch: size of its minibatches; 0 for the full batch.
        steps: its updates.
        label_noise: standard deviation of the noise on each one-hot entry, at each step.
        width: of the two hidden tanh layers.
        loss: ``"mse"``, the only one under which label noise is an additive residual.
        small_rate: learning rate of the other stages.
        dataset, n_train, start_loss, target_loss, max_steps, device: as in `flatness.Config`.
    """

    rate: float
    batch: int
    seed: int
    steps: int = 250
    label_noise: float = 0.0
    dataset: str = "fashion-mnist-subset"
    n_train: int = 500
    width: int = 48
    loss: str = "mse"
    small_rate: float = 0.02
    start_loss: float = 0.15
    target_loss: float = 0.05
    max_steps: int = 8000
    device: str = "cpu"


def run(config: Config) -> dict[str, object]:
    """The three stages and the measurements after them; see the columns in `TOLERANCES`.

    Raises:
        sweep.Diverged: if the second or the third stage diverges.
        RuntimeError: if the first stage does not come down to its loss.
    """
    images, test = stages.images(config)
    shape, options = tuple(images[0].shape[1:]), {"seed": config.seed, "device": config.device}
    model = stages.network("mlp", config.width, shape, **options)
    risk = EmpiricalRisk(model, config.loss, images)
    values = stages.approach(risk, config)
    treated = treat(risk, config)
    values |= account(treated)
    if treated.diverged:
        raise sweep.Diverged(f"at step {treated.diverged_at} of the second stage", values)
    values = stages.cool(risk, config, config.small_rate, values)
    return values | stages.measure(risk, EmpiricalRisk(model, config.loss, test))


def treat(risk: EmpiricalRisk, config: Config) -> History:
    """The second stage, in place."""
    generator = torch.Generator().manual_seed(config.seed)
    treated = risk
    if config.label_noise:
        noisy = NoisyOutputs(risk.model, config.label_noise, generator)
        treated = EmpiricalRisk(noisy, risk.loss_function, risk.data)
    measured = {"sharpness": probes.Sharpness(), "loss": probes.TrainingLoss()}
    batches = {"batch_size": config.batch, "generator": generator} if config.batch else {}
    return gradient_descent(
        treated,
        config.rate,
        config.steps,
        probes={name: on(risk, probe) for name, probe in measured.items()},
        probe_every=max(config.steps // PROBES, 1),
        progress=False,
        **batches,
    )


class NoisyOutputs(nn.Module):
    """Outputs with fresh Gaussian noise, which under the squared loss is noise on the labels.

    The residual f + xi - y is that of labels y - xi, and xi has no preferred sign.
    """

    def __init__(self, model: nn.Module, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.scale, self.generator = model, scale, generator

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.model(inputs)
        noise = torch.randn(outputs.shape, generator=self.generator, dtype=outputs.dtype)
        return outputs + self.scale * noise.to(outputs.device)


def on(risk: EmpiricalRisk, probe: probes.Probe) -> probes.Probe:
    """The probe of that risk: where labels are noisy, that of the network itself, without noise."""
    return lambda state: probe(replace(state, risk=risk))


def account(history: History) -> dict[str, object]:
    """What happened in the second stage; None for what a run that diverged at once has not.

    ``late_sharpness`` is the mean over the probes of its second half, ``highest_sharpness`` that of
    all probes after the first update; both are of the full-batch loss.
    """
    sharpness, loss = history.probes["sharpness"], history.probes["loss"]
    late = sharpness[len(sharpness) // 2 :]
    ended = not history.diverged
    return {
        "treated_loss": loss[-1] if ended else None,
        "treated_highest_loss": loss.max() if len(loss) else None,
        "highest_sharpness": sharpness[1:].max() if len(sharpness) > 1 else None,
        "late_sharpness": late.mean() if ended else None,
    }


CONTROL, SMALL, LARGE = 0.01, 0.02, (0.05, 0.08)
BATCHES = (8, 32)
LABEL_NOISE = 1.0
"""About as strong as minibatches of 8. With residuals of variance v per output, the mean gradient
over a batch of B has the noise of labels with variance v / B each, to leading order, if outputs err
independently; the mean over all n with label noise has that of variance LABEL_NOISE**2 / n. At the
loss of 0.1 in the second stage v = 2 * 0.1 / 10, and v / 8 = 0.0025 stands against 1 / 500."""


def grid(preset: str) -> list[Config]:
    """The configs of a preset; its label noise, control and long run are at the small rate."""
    if preset == "ci":
        return design(range(3), LARGE[1:], BATCHES[:1], width=24)
    if preset == "default":
        return design(range(7), LARGE, BATCHES)
    cifar = {"dataset": "cifar10", "n_train": 5000, "width": 200, "device": "cuda"}
    cifar |= {"steps": 2000, "start_loss": 0.35, "target_loss": 0.2, "max_steps": 40_000}
    return design(range(10), LARGE, (8, 32, 128), **cifar)


def design(
    seeds: range, large: tuple[float, ...], batches: tuple[int, ...], **settings: object
) -> list[Config]:
    """All cells of the decomposition, with the controls."""
    steps = int(settings.pop("steps", Config.steps))
    longer = round(steps * max(large) / SMALL)
    rates = (SMALL, *large)
    cells = [{"rate": r, "batch": b, "steps": steps} for b in (0, *batches) for r in rates]
    cells += [
        {"rate": CONTROL, "batch": 0, "steps": steps},
        {"rate": SMALL, "batch": min(batches), "steps": longer},
        {"rate": SMALL, "batch": 0, "steps": steps, "label_noise": LABEL_NOISE},
    ]
    return [Config(seed=seed, **cell, **settings) for seed in seeds for cell in cells]


# --- what the runs show


class Cells:
    """The cells of the design, for the seeds all of whose runs are matched in loss.

    Attributes:
        seeds: all seeds; ``kept`` those that are used.
        small, control: the small rate, and the half of it.
        large, batches: the large rates and the sizes of the minibatches, ascending.
        steps, longer: updates of the second stage, and of the long run of noise.
        label_noise: the standard deviation of the noise on the labels.

    Raises:
        ValueError: if fewer than `stages.FEWEST` seeds are matched.
    """

    def __init__(self, stored: Result) -> None:
        bad = (stored["status"] != "done") | ~(np.abs(stored["undershoot"].astype(float)) < MATCHED)
        self._stored = stored
        self.seeds = np.unique(stored["seed"])
        self.kept = [seed for seed in self.seeds if not bad[stored["seed"] == seed].any()]
        if len(self.kept) < stages.FEWEST:
            raise ValueError(
                f"at least {stages.FEWEST} seeds must end within {MATCHED:.0%} of the target loss "
                f"in all their runs, got {len(self.kept)} of {len(self.seeds)}"
            )
        self.small, self.control = float(stored["small_rate"][0]), float(np.min(stored["rate"]))
        self.large = [float(rate) for rate in np.unique(stored["rate"]) if rate > self.small]
        self.batches = [int(batch) for batch in np.unique(stored["batch"]) if batch > 0]
        self.steps, self.longer = (int(f(stored["steps"])) for f in (np.min, np.max))
        self.label_noise = float(np.max(stored["label_noise"]))

    def __call__(
        self, quantity: str, rate: float, batch: int = 0, steps: int = 0, label_noise: float = 0.0
    ) -> np.ndarray:
        """One value for each seed in ``kept``, after ``steps`` updates, or the usual ones."""
        cell = {"rate": rate, "batch": batch, "label_noise": label_noise}
        rows = self._stored.where(steps=steps or self.steps, **cell)
        return np.array([rows.where(seed=s)[quantity][0] for s in self.kept], dtype=float)

    def fall(self, rate: float, batch: int = 0, **options: object) -> np.ndarray:
        """Flattening against the stable cell: the fall of log sharpness, for each seed."""
        stable = self("sharpness", self.small)
        return np.log(stable / self("sharpness", rate, batch, **options))


def effects(stored: Result) -> dict[str, Interval]:
    """The effects of instability and of noise on the logarithm of the sharpness; flatter is more.

    Returns:
        ``<rate>-<batch>-<part>`` for each large rate and batch size, with the parts instability,
        noise, interaction, difference (instability minus noise) and persists (the fall from the
        small rate to this one, both in minibatches);
        ``control``, half the small rate; ``long``, noise for as much training time; ``label``,
        label noise; with ``<rate>-long-difference`` and ``<rate>-label-difference``, instability
        minus these; ``late-<rate>-<batch>``, the late sharpness over 2/eta.

    Raises:
        ValueError: as `Cells`.
    """
    cells = Cells(stored)
    samples = {
        "control": cells.fall(cells.control),
        "long": cells.fall(cells.small, min(cells.batches), steps=cells.longer),
        "label": cells.fall(cells.small, label_noise=cells.label_noise),
    }
    for rate in cells.large:
        instability = cells.fall(rate)
        for name in ("long", "label"):
            samples[f"{rate:g}-{name}-difference"] = instability - samples[name]
        for batch in cells.batches:
            noise, both = cells.fall(cells.small, batch), cells.fall(rate, batch)
            samples |= {
                f"{rate:g}-{batch}-instability": instability,
                f"{rate:g}-{batch}-noise": noise,
                f"{rate:g}-{batch}-interaction": both - instability - noise,
                f"{rate:g}-{batch}-difference": instability - noise,
                f"{rate:g}-{batch}-persists": both - noise,
            }
        for batch in (0, *cells.batches):
            late = cells("late_sharpness", rate, batch)
            samples[f"late-{rate:g}-{batch}"] = late * rate / 2
    return {name: stages.interval(values) for name, values in samples.items()}


def predictions(stored: Result) -> dict[str, bool]:
    """What the design of the experiment needs, and what was predicted.

    ``control``: half the small rate ends at the same sharpness, in every seed. (Either loss is off
    the target by a share of MATCHED at most, and the sharpness changes less than in proportion.)
    ``noise-alone``: noise at the small rate stays well below the full-batch edge.
    ``past-the-edge``: the largest rate begins beyond it. ``stable-cooling``: the last stage does
    not flatten. ``outweighs-<batch>``: instability minus noise at the largest rate has its interval
    above zero. ``edge-<rate>``: under SGD the late sharpness is below 2/eta, in every seed.
    """
    cells, found = Cells(stored), effects(stored)
    highest = [cells("highest_sharpness", cells.small, batch) for batch in cells.batches]
    top = max(cells.large)
    held = {
        "control": np.all(np.abs(cells.fall(cells.control)) < 2 * MATCHED),
        "noise-alone": np.all(np.array(highest) < 0.9 * 2 / cells.small),
        "past-the-edge": np.all(cells("start_sharpness", top) > 2 / top),
        "stable-cooling": np.nanmax(stored["sharpness"].astype(float)) < 2 / cells.small,
    }
    for batch in cells.batches:
        held[f"outweighs-{batch}"] = found[f"{top:g}-{batch}-difference"].low > 0
    for rate in cells.large:
        late = [cells("late_sharpness", rate, batch) for batch in cells.batches]
        held[f"edge-{rate:g}"] = np.all(np.array(late) * rate / 2 < 1)
    return {name: bool(value) for name, value in held.items()}


# The first stage is stable, and as accurate as said in flatness.py.
TOLERANCES = {
    "start_steps": 1e-2,
    "start_sharpness": 2e-4,
    **stages.spread(
        "treated_loss treated_highest_loss highest_sharpness late_sharpness",
        *stages.COOLING,
        *stages.AT_THE_END,
    ),
}

EXPERIMENT = Experiment(
    name="sgd",
    summary="Flattening by instability and by noise at matched loss, over batch sizes and rates",
    function=run,
    grid=grid,
    depends_on=stages.DECISIVE,
    tolerances=TOLERANCES,
    effects=effects,
    predictions=predictions,
)
"""Instability and noise, as `results.compute` takes them."""
