"""What the experiments share: their stages, the measurements at the end, and how to compare runs.

Runs that differ in their way are made alike in all else: the same images, an approach without
instability, the stretch in which they differ, and a cooling down to one loss. What is measured
there is compared seed by seed.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import curvature, datasets, models, sweep
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, rank_correlation, student_interval
from flatminima.training import probes, train_to_loss

__all__ = [
    "AT_THE_END",
    "COOLING",
    "DECISIVE",
    "FEWEST",
    "MARGIN",
    "MEASURES",
    "approach",
    "cool",
    "correlation",
    "images",
    "interval",
    "measure",
    "network",
    "reached",
    "spread",
]

Images = tuple[Tensor, Tensor]
"""Images (n, c, h, w), and their labels (n,)."""

MARGIN = 1.25
"""A stretch stops at this many times the target loss, so that every run is cooled."""
RADIUS = 0.1
"""Size of the noise of the average-case sharpness, relative to each weight."""
SAMPLES = 20
"""Random directions for each of the measures that are averages."""
MEASURES = ("sharpness", "trace", "adaptive_sharpness", "average_sharpness", "relative_flatness")
"""The measures of flatness."""
AT_THE_END = (
    *MEASURES,
    "trace_error",
    "average_sharpness_error",
    "relative_flatness_error",
    "test_accuracy",
    "test_loss",
)
"""The columns that `measure` returns."""
COOLING = ("reached", "cooling_steps", "final_loss", "undershoot")
"""What `cool` tells of itself."""
DECISIVE = (
    "flatminima.curvature",
    "flatminima.datasets",
    "flatminima.models",
    "flatminima.training",
    "study.experiments.stages",
)
"""The modules that decide the result of every experiment here."""
FEWEST = 3
"""Seeds that an interval needs."""


# --- the runs


def images(config: object) -> tuple[Images, Images]:
    """The images of a run, for training and for the test, on its device."""
    # All that is measured is in single precision; a GPU would round the factors of convolutions.
    torch.backends.cudnn.allow_tf32 = False
    data = datasets.load(config.dataset, n_train=config.n_train, seed=config.seed)
    train, test = (data.x_train, data.y_train), (data.x_test, data.y_test)
    return tuple(tuple(part.to(config.device) for part in pair) for pair in (train, test))


def network(
    kind: str, width: int, shape: tuple[int, ...], activation: str = "tanh", **options: object
) -> nn.Sequential:
    """An untrained network for images of a shape (c, h, w) and ten classes.

    Args:
        kind: ``"mlp"`` (two hidden layers of ``width``), ``"cnn"`` (blocks of ``width`` and twice
            that), ``"vgg"`` (a third of four times that) or ``"resnet"`` (with residual blocks of
            these); with ``"half-"`` before it, on the images averaged to half their side.
        activation, options: as `models.mlp` takes them.

    Raises:
        ValueError: for another kind.
    """
    if kind.startswith("half-"):
        channels, *sides = shape
        half = (channels, *(side // 2 for side in sides))
        inner = network(kind.removeprefix("half-"), width, half, activation, **options)
        return nn.Sequential(nn.AvgPool2d(2), *inner)
    if kind == "mlp":
        return models.mlp([int(np.prod(shape)), width, width, 10], activation, **options)
    if kind == "cnn":
        return models.cnn([width, 2 * width], activation, input_shape=shape, **options)
    if kind in ("vgg", "resnet"):
        build = models.cnn if kind == "vgg" else models.resnet
        return build([width, 2 * width, 4 * width], activation, input_shape=shape, **options)
    raise ValueError(f"model must be mlp, cnn, vgg or resnet, or half- one of these, got {kind!r}")


def approach(risk: EmpiricalRisk, config: object) -> dict[str, object]:
    """Train in place down to ``start_loss`` at ``small_rate``, and measure the sharpness there.

    Raises:
        RuntimeError: if the loss is not reached.
    """
    rate = {"learning_rate": config.small_rate, "progress": False}
    first = train_to_loss(risk, config.start_loss, config.max_steps, **rate)
    if not first.reached:
        raise RuntimeError(f"the loss was still {first.loss:g} after {first.steps} steps")
    return {"start_steps": first.steps, "start_sharpness": curvature.sharpness(risk)}


def cool(
    risk: EmpiricalRisk,
    config: object,
    learning_rate: float,
    values: Mapping[str, object],
    optimizer: torch.optim.Optimizer | None = None,
) -> dict[str, object]:
    """Train in place down to ``target_loss``, so that runs are compared at one loss.

    Args:
        learning_rate: small enough that the cooling itself flattens nothing.
        values: what was measured before.
        optimizer: what trained the network, if its state is kept; None for plain descent.

    Returns:
        The values, and those of COOLING.

    Raises:
        sweep.Diverged: if it diverges; the values are all these.
    """
    how = {"learning_rate": learning_rate, "optimizer": optimizer, "progress": False}
    end = train_to_loss(risk, config.target_loss, config.max_steps, **how)
    told = end.reached, end.steps, end.loss, end.undershoot
    values = {**values, **dict(zip(COOLING, told, strict=True))}
    if end.history.diverged:
        raise sweep.Diverged(f"at step {end.history.diverged_at} of the cooling", values)
    return values


def measure(risk: EmpiricalRisk, test: EmpiricalRisk) -> dict[str, object]:
    """Flatness by five measures, and how well the same model does on images it has not seen."""
    generator = torch.Generator().manual_seed(0)
    hessian = risk.hessian()
    trace = curvature.trace(hessian, products=3 * SAMPLES, generator=generator)
    options = {"samples": SAMPLES, "generator": generator}
    sharpness = curvature.sharpness(hessian)
    last = [p for p in risk.parameters if p.ndim == 2][-1]
    relative = curvature.relative_flatness(risk, last, **options)
    adaptive = curvature.adaptive_sharpness(risk, generator=generator)
    # Last, since it moves the parameters, and puts them back: the operator would not know.
    average = curvature.average_sharpness(risk, radius=RADIUS, **options)
    return {
        "sharpness": sharpness,
        "trace": trace.value,
        "trace_error": trace.error,
        "adaptive_sharpness": adaptive,
        "average_sharpness": average.value,
        "average_sharpness_error": average.error,
        "relative_flatness": relative.value,
        "relative_flatness_error": relative.error,
        "test_accuracy": probes.Accuracy(*test.data).of(test.model),
        "test_loss": test.value(),
    }


# --- the results


def spread(names: str, *columns: str) -> dict[str, str]:
    """The columns, those of the names in a text and others, with the tolerance ``"spread"``.

    Once an instability or noise has amplified rounding, nothing is reproducible on another
    processor but in distribution: such a value is held to the spread over the stored seeds.
    """
    return dict.fromkeys((*names.split(), *columns), "spread")


def reached(values: np.ndarray) -> np.ndarray:
    """Whether runs came to the common loss, from the column of that name.

    A run that diverged has no entry: it did not.
    """
    came = [value is not None and value == 1 for value in values.flat]
    return np.array(came, bool).reshape(values.shape)


def interval(samples: np.ndarray) -> Interval:
    """The mean over (seeds,) with its interval by Student's t; a seed that has NaN is left out.

    Raises:
        ValueError: for fewer than FEWEST values.
    """
    kept = samples[np.isfinite(samples)]
    if len(kept) < FEWEST:
        raise ValueError(f"samples must hold at least {FEWEST} seeds, got {len(kept)}")
    return student_interval(kept)


def correlation(x: np.ndarray, y: np.ndarray) -> Interval:
    """The rank correlation over all runs, both (seeds, conditions), as `rank_correlation`."""
    return rank_correlation(x, y, np.random.default_rng(0))
