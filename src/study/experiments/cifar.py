"""The experiment ``flatness`` on natural images, a subset of CIFAR-10.

The same three stages and measurements, with the file that ``tools/make_cifar10_subset.py`` makes of
the official archive: of each of the five training batches the first 1,000 images, and the first
1,000 of the test batch. The rates and losses were chosen on a pilot run with seed 100, which is not
among the seeds; its sharpness at the start, 110, asks for a small rate whose threshold is 200. The
pilot had two runs: at factor 2 its end was flatter, and one point more accurate, than at 0.9.

Asked, and written down before the runs were made: whether the predictions of
`flatness.predictions` (flatter past the edge; more accurate at factor 2 than at 1/2; paid
for by the budget; divergence at the largest factor) hold here too, by the same criteria.
"""

import hashlib
from collections.abc import Mapping

import numpy as np

from flatminima import datasets
from study.experiments import flatness
from study.results import Experiment

__all__ = ["DATASET", "EXPERIMENT", "SHA256", "fingerprint", "grid", "require", "run"]

DATASET = "cifar10-subset"
"""The name of the natural images in `datasets.load`."""
SHA256 = "e6fb7fdaffd12982b31c2571a13736b7d59e7eb648d3ffd01e85302d5203c2a0"
"""Of the arrays x_train, y_train, x_test and y_test, one after the other."""
FACTORS = (0.5, 0.9, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
SEEDS = range(5)


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of the four arrays of a subset."""
    digest = hashlib.sha256()
    for name in ("x_train", "y_train", "x_test", "y_test"):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def require() -> None:
    """Be sure that the file in FLATMINIMA_DATA holds the right images.

    Raises:
        datasets.CorruptDataError: if it holds others.
        datasets.DataUnavailableError: if it is not there.
    """
    found = fingerprint(datasets.SOURCES[DATASET][0]())
    if found != SHA256:
        raise datasets.CorruptDataError(
            f"{datasets.CIFAR_SUBSET} must hold the arrays with the SHA-256 {SHA256}, got {found}; "
            "tools/make_cifar10_subset.py makes it"
        )


def run(config: flatness.Config) -> dict[str, object]:
    """As `study.experiments.flatness.run`, once it is sure that the images are the right ones.

    Raises:
        datasets.CorruptDataError: as `require`.
    """
    require()
    return flatness.run(config)


def grid(preset: str) -> list[flatness.Config]:
    """The configs of a preset."""
    common = {"dataset": DATASET, "start_loss": 0.15, "target_loss": 0.04}
    if preset == "ci":
        small = {**common, "n_train": 100, "width": 16, "large_steps": 200, "small_rate": 0.02}
        return [flatness.Config(c, seed, **small) for c in (0.5, 2.0, 6.0) for seed in range(3)]
    common |= {"small_rate": 0.01, "large_steps": 600}
    settings = [{**common, "n_train": 1000}]
    if preset == "gpu":
        common |= {"n_train": 5000, "device": "cuda", "max_steps": 20_000}
        settings = [{**common, "width": 200}, {**common, "model": "cnn", "width": 32}]
    return [flatness.Config(c, seed, **s) for s in settings for c in FACTORS for seed in SEEDS]


EXPERIMENT = Experiment(
    name="cifar",
    summary="Flatness and test accuracy at matched loss on natural images",
    function=run,
    grid=grid,
    depends_on=(*flatness.EXPERIMENT.depends_on, "study.experiments.flatness"),
    tolerances=flatness.TOLERANCES,
    effects=flatness.effects,
    predictions=flatness.predictions,
)
"""The runs on natural images, as `results.compute` takes them."""
