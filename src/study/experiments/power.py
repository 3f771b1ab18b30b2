"""How many seeds a comparison needs, and the spreads that pilots and first seeds found.

The spreads stand here, apart from the experiments, since they are known only after the pilots: a
run is stored under the code of its experiment, which does not change when they are written down.
"""

import itertools
from typing import NamedTuple

import numpy as np

__all__ = ["FIRST", "GAIN", "HALF_WIDTH", "PILOT", "SECOND", "TUNED", "Second", "seeds_needed"]

HALF_WIDTH = 0.003
"""Half of the interval of a difference in accuracy, at most: 0.3 points."""
TUNED = 20
"""Seeds at the tuned rates of the experiment ``restoring``. There were 12 first, by a pilot of
three seeds with a spread of 0.24 points; those had one of 0.62, pooled over the clipped forms, for
which `seeds_needed` gives 20. The spread alone decided for more."""


class Second(NamedTuple):
    """A second stage: what the first seeds said about how many it takes, as in Stein (1945).

    That they left something open is why there is one. Which way their differences lay had no part
    in how many seeds it has: their spread alone decides.

    Attributes:
        first: how many seeds there were first.
        spread: the largest standard deviation over them of the differences that are judged.
        half_width: half of the interval that is aimed at, in the unit of the spread.
        comparisons: how many of them have a joint level.
    """

    first: int
    spread: float
    half_width: float = HALF_WIDTH
    comparisons: int = 1

    @property
    def seeds(self) -> int:
        """How many there are in all."""
        return max(self.first, seeds_needed(self.spread, self.comparisons, self.half_width))


SECOND: dict[str, Second] = {
    "arrival": Second(9, 0.1024, 0.0477),
    "comparison": Second(8, 0.009259),
    "flatness": Second(5, 0.004328),
    "gap": Second(4, 1.1942, 0.3466, 3),
    "noise": Second(6, 0.0868, 0.05),
    "onset": Second(4, 0.0630, 0.05, 3),
    "restoring full-mse": Second(6, 0.006589, comparisons=5),
    "restoring full-cross_entropy": Second(6, 0.009276, comparisons=5),
    "restoring mini-mse": Second(6, 0.003983, comparisons=4),
    "rotation": Second(3, 0.4082, 0.25),
    "timing": Second(8, 0.8806, 0.35),
}
"""Experiment, and setting where there are several -> its second stage. Accuracies have HALF_WIDTH.
Other half-widths are half of what tells the answers of a question apart: of the logarithm of two in
``gap``, of 0.1 in ``noise``, of the logarithm of 1.1 in ``arrival``. In ``onset`` it is a step of
its rates, and in ``timing`` about a third of the mean that a fall is measured in. A test holds each
spread to the stored runs of the first seeds."""
PILOT: dict[tuple[str, str, float], float] = {
    ("fashion-mnist-subset", "mse", 0.0): 0.004141,
    ("fashion-mnist-subset", "cross_entropy", 0.0): 0.006109,
    ("cifar10-subset", "mse", 0.0): 0.004682,
    ("cifar10-subset", "cross_entropy", 0.0): 0.007101,
    ("fashion-mnist-subset", "mse", 0.2): 0.007280,
    ("fashion-mnist-subset", "cross_entropy", 0.2): 0.007211,
    ("cifar10-subset", "mse", 0.2): 0.003053,
    ("cifar10-subset", "cross_entropy", 0.2): 0.008064,
}
"""Of the experiment ``gain``: (images, loss, share of wrong labels) -> standard deviation of the
difference at its named factor, in accuracy; a test holds it to the stored runs of the pilot."""
FIRST: dict[tuple[str, str, float], int] = {
    ("fashion-mnist-subset", "mse", 0.0): 10,
    ("fashion-mnist-subset", "cross_entropy", 0.0): 19,
    ("cifar10-subset", "mse", 0.0): 12,
    ("cifar10-subset", "mse", 0.2): 8,
}
"""The seeds that there were first, by the pilot, where there are more now."""
GAIN = PILOT | {
    ("fashion-mnist-subset", "mse", 0.0): 0.006483,
    ("fashion-mnist-subset", "cross_entropy", 0.0): 0.008488,
    ("cifar10-subset", "mse", 0.0): 0.006624,
    ("fashion-mnist-subset", "cross_entropy", 0.2): 0.011525,
    ("cifar10-subset", "mse", 0.2): 0.005090,
    ("cifar10-subset", "cross_entropy", 0.2): 0.008740,
}
"""The spread that decides the number of seeds of ``gain``. Four seeds of a pilot know a spread but
roughly. Where the first seeds had a larger one than the pilot, that of the architecture that had
the largest stands here, and there are as many seeds as it asks for, up to `gain.MOST`. What the
gains were had no part in this, as in the procedure of two stages of Stein (1945)."""


def seeds_needed(spread: float, comparisons: int = 1, half_width: float = HALF_WIDTH) -> int:
    """The least number of seeds whose interval by Student's t is expected to be narrow enough.

    Args:
        spread: the standard deviation of a paired difference.
        comparisons: of so many differences the intervals have a joint level of 95 percent.
        half_width: of the interval, at most, in the unit of the spread.
    """
    from scipy.stats import t

    level = 1 - 0.025 / comparisons
    return next(
        n for n in itertools.count(2) if t.ppf(level, n - 1) * spread / np.sqrt(n) <= half_width
    )
