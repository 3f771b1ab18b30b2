"""How many seeds a comparison of accuracies needs, and the spreads that pilots found.

The spreads stand here, apart from the experiments, since they are known only after the pilots: a
run is stored under the code of its experiment, which does not change when they are written down.
"""

import itertools

import numpy as np

__all__ = ["FIRST", "GAIN", "HALF_WIDTH", "PILOT", "RESTORING", "seeds_needed"]

HALF_WIDTH = 0.003
"""Half of the interval of a difference in accuracy, at most: 0.3 points."""
RESTORING = {"tuned": 20, "common": 6}
"""Seeds of the two comparisons of the experiment ``restoring``. At the tuned rates there were 12
first, by a pilot of three seeds with a spread of 0.24 points; those had one of 0.62, pooled over
the clipped forms, for which `seeds_needed` gives 20. The spread alone decided for more."""
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


def seeds_needed(spread: float) -> int:
    """The least number of seeds whose interval by Student's t has a half-width of HALF_WIDTH.

    Args:
        spread: the standard deviation of a paired difference in accuracy.
    """
    from scipy.stats import t

    return next(
        n for n in itertools.count(2) if t.ppf(0.975, n - 1) * spread / np.sqrt(n) <= HALF_WIDTH
    )
