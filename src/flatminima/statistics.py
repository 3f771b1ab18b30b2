"""Effects with their intervals, from runs that are repeated over seeds.

The seed is what is drawn at random, and so it is seeds that are counted, or resampled, each with
all its runs: runs that share a seed share their images and initial weights, and are not
independent. Seeds stand along the first axis. A mean has its interval by Student's t; for other
statistics, and many seeds, ``generator`` draws them anew ``resamples`` times, with replacement.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import numpy as np

from flatminima._text import number_text
from flatminima._validation import a_function, a_generator, finite_array, numbers, positive_int

__all__ = [
    "LEVEL",
    "Estimate",
    "Interval",
    "bootstrap_interval",
    "contrast",
    "rank_correlation",
    "student_interval",
]

LEVEL = 0.95
"""Coverage of the intervals, nominally."""


class Estimate(NamedTuple):
    """A number estimated from random draws, with its standard error over them.

    Example:
        >>> Estimate(41.0, error=2.5).value
        41.0
    """

    value: float
    error: float


class Interval(NamedTuple):
    """An estimate with the ends of its interval; it can be scaled, shifted, and mapped.

    ``*`` and ``+`` are those of numbers, so that a change of unit is written once.

    Example:
        >>> gain = Interval(0.021, low=0.012, high=0.034)
        >>> f"{100 * gain:+.1f}"
        '+2.1 [+1.2, +3.4]'
        >>> f"{-gain + 1:.2f}"
        '0.98 [0.97, 0.99]'
    """

    value: float
    low: float
    high: float

    # A NumPy number on the left leaves the arithmetic to the interval.
    __array_ufunc__ = None

    def __format__(self, spec: str) -> str:
        """``format(interval, ".2f")`` gives ``0.41 [0.12, 0.63]``."""
        value, low, high = (number_text(v, spec or ".3g") for v in self)
        return f"{value} [{low}, {high}]"

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval of a function of the quantity that rises or falls throughout.

        Example:
            A difference of logarithms as a ratio, and the ratio the other way round:

            >>> import math
            >>> difference = Interval(0.0, low=math.log(0.5), high=math.log(4.0))
            >>> f"{difference.map(math.exp)}"
            '1 [0.5, 4]'
            >>> f"{difference.map(lambda x: math.exp(-x))}"
            '1 [0.25, 2]'
        """
        a_function("function", function)
        value, low, high = (float(function(part)) for part in self)
        return Interval(value, min(low, high), max(low, high))

    def __mul__(self, factor: float) -> Interval:
        return self.map(lambda part: part * factor) if _is_number(factor) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Interval:
        return self.map(lambda part: -part)

    def __add__(self, shift: float) -> Interval:
        return self.map(lambda part: part + shift) if _is_number(shift) else NotImplemented

    __radd__ = __add__

    def __sub__(self, shift: float) -> Interval:
        return self.map(lambda part: part - shift) if _is_number(shift) else NotImplemented


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def bootstrap_interval(
    samples: object,
    generator: np.random.Generator,
    statistic: Callable[[np.ndarray], float] = np.mean,
    resamples: int = 2000,
) -> Interval:
    """A statistic of runs over seeds, with its percentile bootstrap interval at LEVEL.

    ``samples`` have shape (seeds, ...), and ``statistic`` is a function of such an array, with as
    many or as few seeds. ValueError for fewer than 3 seeds, or entries that are not finite: leave
    out a run that has no value together with its seed, and say so. Source: Efron & Tibshirani, *An
    Introduction to the Bootstrap* (1993), chapter 13.

    Example:
        >>> accuracy = [0.81, 0.79, 0.84, 0.80, 0.82]  # of five seeds
        >>> f"{bootstrap_interval(accuracy, np.random.default_rng(0)):.2f}"
        '0.81 [0.80, 0.83]'
    """
    samples = finite_array("samples", samples)
    a_function("statistic", statistic)
    if samples.ndim == 0 or len(samples) < 3:
        raise ValueError(f"samples must hold at least 3 seeds, got shape {samples.shape}")
    if statistic is np.mean:
        seeds = samples.reshape(len(samples), -1).mean(axis=1)
        return _bootstrap(samples, lambda chosen: seeds[chosen].mean(axis=-1), generator, resamples)

    def each(chosen: np.ndarray) -> np.ndarray:
        return np.apply_along_axis(lambda seeds: float(statistic(samples[seeds])), -1, chosen)

    return _bootstrap(samples, each, generator, resamples)


def _bootstrap(
    samples: np.ndarray,
    statistics: Callable[[np.ndarray], np.ndarray],
    generator: np.random.Generator,
    resamples: int,
) -> Interval:
    """The interval of a statistic that is given for many choices of seeds, shape (..., seeds)."""
    from scipy.stats import bootstrap

    resamples = positive_int("resamples", resamples)
    a_generator("generator", generator)
    everyone = np.arange(len(samples))
    value = float(statistics(everyone[None])[0])
    if np.all(samples == samples[:1]):
        return Interval(value, value, value)
    ends = bootstrap(
        (everyone,),
        lambda chosen, axis: statistics(np.moveaxis(chosen, axis, -1)),
        confidence_level=LEVEL,
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        rng=generator,
    ).confidence_interval
    return Interval(value, float(ends.low), float(ends.high))


def student_interval(samples: object, comparisons: int = 1) -> Interval:
    """The mean of values over seeds, with its interval at LEVEL by Student's t.

    ``samples`` have shape (seeds,), such as the differences of pairs of runs. With several
    ``comparisons`` the level is joint: each interval is as wide as Bonferroni's inequality asks.
    Exact for normal values; for few seeds a bootstrap is too narrow. ValueError for fewer than 2
    seeds, or entries that are not finite. Source: Student, *Biometrika* 6 (1908), 1-25.

    Example:
        >>> gain = [0.008, 0.011, 0.004, 0.010, 0.0045]  # in accuracy, of five seeds
        >>> f"{100 * student_interval(gain):+.2f}"
        '+0.75 [+0.36, +1.14]'
        >>> f"{100 * student_interval(gain, comparisons=6):+.2f}"
        '+0.75 [+0.06, +1.44]'
    """
    from scipy.stats import t

    samples = finite_array("samples", samples)
    comparisons = positive_int("comparisons", comparisons)
    if samples.ndim != 1 or len(samples) < 2:
        raise ValueError(f"samples must hold at least 2 seeds, got shape {samples.shape}")
    mean, n = float(np.mean(samples)), len(samples)
    quantile = t.ppf(1 - (1 - LEVEL) / (2 * comparisons), n - 1)
    half = float(quantile * np.std(samples, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def rank_correlation(
    x: object, y: object, generator: np.random.Generator, resamples: int = 2000
) -> Interval:
    """Spearman's rank correlation over all runs, with an interval from resampled seeds.

    Both quantities have the shape (seeds, conditions) or (seeds,). ValueError for other shapes,
    fewer than 3 seeds, entries that are not finite, or a quantity that is the same in all runs and
    has no ranks.

    Example:
        >>> rate = np.tile([0.1, 0.2, 0.4], (4, 1))  # three conditions for each of four seeds
        >>> sharpness = 2 / rate
        >>> f"{rank_correlation(rate, sharpness, np.random.default_rng(0))}"
        '−1 [−1, −1]'
    """
    from scipy.stats import rankdata

    x, y = finite_array("x", x), finite_array("y", y)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have the same shape, got {x.shape} and {y.shape}")
    for name, array in (("x", x), ("y", y)):
        if array.size and np.all(array == array.flat[0]):
            raise ValueError(f"{name} must not be the same in all runs: it has no ranks")
    if x.ndim == 0 or len(x) < 3:
        raise ValueError(f"samples must hold at least 3 seeds, got shape {x.shape}")
    pairs = np.stack([x, y], axis=-1).reshape(len(x), -1, 2)

    def statistics(chosen: np.ndarray) -> np.ndarray:
        drawn = pairs[chosen].reshape(*chosen.shape[:-1], -1, 2)
        ranks = rankdata(drawn, axis=-2)
        ranks -= ranks.mean(axis=-2, keepdims=True)
        square = np.einsum("...ij,...ik->...jk", ranks, ranks)
        norm = np.sqrt(square[..., 0, 0] * square[..., 1, 1])
        # A resample may draw one seed only; without spread there is no association to see.
        return np.divide(square[..., 0, 1], norm, out=np.zeros_like(norm), where=norm > 0)

    return _bootstrap(pairs, statistics, generator, resamples)


def contrast(values: object, treated: object) -> Interval:
    """Mean over the treated conditions minus mean over the others, within each seed.

    ``values`` have shape (seeds, conditions), NaN for a run that has no value; ``treated``, boolean
    (conditions,), says which are compared with the rest. The interval is that of
    `student_interval`. ValueError for other shapes, fewer than 2 seeds, no condition on one of the
    sides, or a seed without a value on one of them.

    Example:
        >>> values = [[3.0, 1.0, 2.0], [4.0, 2.0, np.nan], [5.0, 3.0, 3.0]]  # three seeds
        >>> f"{contrast(values, [False, True, True]):.1f}"
        '−1.8 [−2.6, −1.1]'
    """
    values, treated = numbers("values", values), numbers("treated", treated, bool)
    if values.ndim != 2 or treated.shape != values.shape[1:]:
        raise ValueError(
            "values must have shape (seeds, conditions) and treated (conditions,), got "
            f"{values.shape} and {treated.shape}"
        )
    sides = values[:, treated], values[:, ~treated]
    if any(side.size == 0 or np.isnan(side).all(axis=1).any() for side in sides):
        raise ValueError(
            "values must hold one of each seed among the treated conditions and the rest"
        )
    gap = np.nanmean(sides[0], axis=1) - np.nanmean(sides[1], axis=1)
    return student_interval(gap)
