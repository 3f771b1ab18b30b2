"""How many seeds a comparison of accuracies needs, and the spreads that pilots found.

The spreads stand here, apart from the experiments, since they are known only after the pilots: a
run is stored under the code of its experiment, which does not change when they are written down.
"""

import itertools

import numpy as np

__all__ = ["GAIN", "HALF_WIDTH", "RESTORING", "seeds_needed"]

HALF_WIDTH = 0.003
"""Half of the interval of a difference in accuracy, at most: 0.3 points."""
RESTORING = {"tuned": 20, "common": 6}
"""Seeds of the two comparisons of the experiment ``restoring``. At the tuned rates there were 12
first, by a pilot of three seeds with a spread of 0.24 points; those had one of 0.62, pooled over
the clipped forms, for which `seeds_needed` gives 20. The spread alone decided for more."""
GAIN: dict[tuple[str, str, float], float] = {
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


def seeds_needed(spread: float) -> int:
    """The least number of seeds whose interval by Student's t has a half-width of HALF_WIDTH.

    Args:
        spread: the standard deviation of a paired difference in accuracy.
    """
    from scipy.stats import t

    return next(
        n for n in itertools.count(2) if t.ppf(0.975, n - 1) * spread / np.sqrt(n) <= HALF_WIDTH
    )
