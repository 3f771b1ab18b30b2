"""Instability episodes in the trace of a run: where they are, and averages over many of them.

The averages are over windows around the peaks, with errors that count seeds, not episodes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    a_list,
    checked_rates,
    finite_array,
    finite_float,
    numbers,
    positive_float,
    positive_int,
    shown,
)

__all__ = [
    "FLOAT32_LOSS",
    "Average",
    "Episode",
    "average",
    "find_episodes",
    "peak_contrast",
    "windows",
]

FLOAT32_LOSS = 32 * 2.0**-24
"""The accuracy of one loss value evaluated in float32, relative to the largest loss so far. With
unit rounding u = 2^-24, pairwise summation of n terms errs by at most log2(n) u; 32 u covers 2^30
terms and two roundings in each."""


class Episode(NamedTuple):
    """One instability in a training trace, as steps of that trace; see `find_episodes`."""

    start: int
    """The last step at which the loss was at its minimum since the previous episode."""
    peak: int
    """The step of the largest loss."""
    end: int
    """The first step at which the loss is back where it was, or the trace's last step."""


class Average(NamedTuple):
    """A mean over groups (seeds), with its standard error; NaN where there is no data."""

    mean: np.ndarray
    error: np.ndarray
    """Standard error over the means of the groups; NaN for a single group."""


def find_episodes(
    loss: object,
    sharpness: object,
    learning_rate: object,
    *,
    threshold: object = None,
    loss_accuracy: float = FLOAT32_LOSS,
    minimum_rise: float = 0.0,
) -> list[Episode]:
    """Find the instability episodes in the trace of a full-batch run.

    An episode is a stretch during which the loss stays above its running minimum, and which is
    explained by the sharpness. Two conditions, neither of them tuned:

    1. *The loss rises.* Below the threshold gradient descent does not raise the loss (descent
       lemma, Q2), so a rise above the running minimum by more than rounding is the mark of an
       instability. Rounding: two loss values, each off by ``loss_accuracy`` times the largest
       loss so far. The oscillation along v_1 has period two, and on a skewed valley it shows as
       a loss that alternates; the loss is therefore compared through the larger of each two
       successive values, which falls when the oscillation shrinks and rises when it grows.
    2. *The sharpness explains it.* Some probe between the last one at or before the start and
       the peak, both included, exceeds the threshold. Probe at least as often as an episode
       lasts: one that no probe sees above the threshold is not reported.

    Minibatch losses rise for other reasons; give this function the full-batch loss.

    Args:
        loss: the loss at every step, shape (steps,).
        sharpness: the sharpness at every step, NaN where it was not measured, same shape.
        learning_rate: eta > 0, a number or one for each step, shape (steps,).
        threshold: sharpness at which training turns unstable, a number or one for each step; 2/eta
            unless given (38/eta for the preconditioned sharpness of Adam at beta_1 = 0.9, say).
        loss_accuracy: accuracy of one loss value relative to the largest loss so far; the
            default is that of a float32 evaluation, also of losses stored as float64.
        minimum_rise: leave out episodes whose peak exceeds the loss at their start by less than
            this fraction of it; 0 keeps all.

    Returns:
        The episodes in order of time. One that does not come back ends at the last step.

    Raises:
        ValueError: for arrays of different or empty shape, a non-finite loss (cut a diverged
            trace first), an infinite sharpness, no probe at all, or a number out of range.

    Example:
        The loss rises and comes back twice; the sharpness exceeds 2/eta = 2 the first time only:

        >>> loss = [1.0, 0.5, 0.8, 0.9, 0.4, 0.6, 0.7, 0.3]
        >>> find_episodes(loss, [1.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0], learning_rate=1.0)
        [Episode(start=1, peak=3, end=4)]
    """
    loss = finite_array("loss", loss)
    sharpness = numbers("sharpness", sharpness)
    limit = 2 / checked_rates(learning_rate)
    if threshold is not None:
        limit = finite_array("threshold", threshold)
        if np.any(limit <= 0):
            raise ValueError(f"threshold must be greater than 0, got {shown(limit)}")
    accuracy = positive_float("loss_accuracy", loss_accuracy)
    minimum_rise = finite_float("minimum_rise", minimum_rise)
    if minimum_rise < 0:
        raise ValueError(f"minimum_rise must be at least 0, got {minimum_rise!r}")
    if loss.ndim != 1 or loss.size == 0 or sharpness.shape != loss.shape:
        raise ValueError(
            "loss and sharpness must be one-dimensional and equally long (NaN where the sharpness "
            f"was not measured), got shapes {loss.shape} and {sharpness.shape}"
        )
    if limit.shape not in ((), loss.shape):
        raise ValueError(
            "learning_rate and threshold must be a number or one for each of the "
            f"{len(loss)} steps, got shape {limit.shape}"
        )
    limit = np.broadcast_to(limit, loss.shape)
    probes = np.flatnonzero(~np.isnan(sharpness))
    if probes.size == 0:
        raise ValueError("sharpness must hold at least one measured value, got NaN alone")
    episodes: list[Episode] = []
    for first, last in _excursions(loss, accuracy):
        # Episodes do not overlap: a start is looked for from the end of the one before.
        since = episodes[-1].end if episodes else 0
        episodes.append(_locate(loss, since, first, last))
    return [
        e
        for e in episodes
        if _explained(e, sharpness, probes, limit)
        and loss[e.peak] - loss[e.start] >= minimum_rise * abs(loss[e.start])
    ]


def _excursions(loss: np.ndarray, accuracy: float) -> list[tuple[int, int]]:
    """Runs [first, last] of steps whose two-step maximum is above its running minimum."""
    larger = loss.copy()
    larger[1:] = np.maximum(loss[1:], loss[:-1])
    floor = np.minimum.accumulate(larger)
    rounding = 2 * accuracy * np.maximum.accumulate(np.abs(loss))
    above = np.concatenate([[False], larger > floor + rounding, [False]])
    edges = np.flatnonzero(np.diff(above.astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _locate(loss: np.ndarray, since: int, first: int, last: int) -> Episode:
    """Turn a run of steps above the running minimum into start, peak and end."""
    # The first step above compares with the larger of the two before it, so its rise began at
    # the last minimum before it; the steps between are above by less than rounding.
    before = loss[since:first]
    start = first - 1 - int(np.argmin(before[::-1]))
    peak = first + int(np.argmax(loss[first : last + 1]))
    # The two-step maximum stays high one step longer than the loss: `last` is the first step back.
    return Episode(start, peak, last)


def _explained(
    episode: Episode, sharpness: np.ndarray, probes: np.ndarray, limit: np.ndarray
) -> bool:
    """Whether a probe from the last one before the episode to its peak exceeds the limit."""
    earlier = probes[probes <= episode.start]
    since = earlier[-1] if earlier.size else 0
    window = probes[(probes >= since) & (probes <= episode.peak)]
    return bool(np.any(sharpness[window] > limit[window]))


def windows(trace: object, steps: Sequence[int], before: int, after: int) -> np.ndarray:
    """Cut out the trace around each of ``steps``: shape (len(steps), before + 1 + after).

    Entries outside the trace are NaN; column ``before`` is the step itself.

    Args:
        trace: shape (steps,).
        steps: where to cut, shape (m,).
        before, after: width of the window on either side.

    Raises:
        ValueError: for a trace that is not one-dimensional, a step outside it, or a negative width.

    Example:
        >>> windows([5.0, 6.0, 7.0], [0, 1], 1, 1)
        array([[nan,  5.,  6.],
               [ 5.,  6.,  7.]])
    """
    trace = numbers("trace", trace)
    before = positive_int("before", before, minimum=0)
    after = positive_int("after", after, minimum=0)
    if trace.ndim != 1:
        raise ValueError(f"trace must be one-dimensional, got shape {trace.shape}")
    steps = finite_array("steps", steps)
    if np.any((steps < 0) | (steps >= len(trace)) | (steps != np.floor(steps))):
        raise ValueError(
            f"steps must lie between 0 and {len(trace) - 1}, whole numbers within the trace, got "
            f"{shown(steps)}"
        )
    steps = steps.astype(int).reshape(-1)
    padded = np.concatenate([np.full(before, np.nan), trace, np.full(after, np.nan)])
    return padded[steps[:, None] + np.arange(before + 1 + after)]


def average(samples: object, groups: object) -> Average:
    """Mean of the group means along the first axis, ignoring NaN, and its standard error.

    Episodes of one run are not independent, hence the error counts groups: the standard deviation
    of the group means over the square root of their number.

    Args:
        samples: shape (m, ...).
        groups: the group (seed) of each, shape (m,).

    Raises:
        ValueError: for no samples, or a different number of groups.

    Example:
        Three episodes of seed 0 and one of seed 1 are two means, 0 and 2:

        >>> found = average([0.0, 0.0, 0.0, 2.0], [0, 0, 0, 1])
        >>> float(found.mean), float(found.error)
        (1.0, 1.0)
    """
    samples, groups = numbers("samples", samples), _groups(groups)
    if samples.ndim == 0 or len(samples) == 0 or groups.shape != samples.shape[:1]:
        raise ValueError(
            f"samples (m, ...) and groups (m,), m >= 1, are needed, got shapes {samples.shape} "
            f"and {groups.shape}"
        )
    means = []
    for group in np.unique(groups):
        chosen = samples[groups == group]
        count = np.sum(~np.isnan(chosen), axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.where(count > 0, np.nansum(chosen, axis=0) / count, np.nan))
    means = np.array(means)
    count = np.sum(~np.isnan(means), axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(count > 0, np.nansum(means, axis=0) / count, np.nan)
        variance = np.nansum((means - mean) ** 2, axis=0) / (count - 1)
        error = np.where(count > 1, np.sqrt(variance / count), np.nan)
    return Average(mean, error)


def _groups(value: object) -> np.ndarray:
    """What each sample belongs to: numbers or text, one for each."""
    try:
        groups = np.array(a_list("groups", value))
    except ValueError:  # lists of different lengths
        groups = np.array(None)
    if groups.dtype.kind not in "biufU" or groups.ndim != 1:
        raise ValueError(f"groups must be numbers or names of shape (m,), got {shown(value)}")
    return groups


def peak_contrast(cuts: object, center: int, near: int, gap: int, groups: object) -> Average:
    """Mean of the columns within ``near`` of the center minus that of those further than ``gap``.

    Positive: the quantity rises in the middle of an episode; negative: it falls.

    Args:
        cuts: shape (m, w), from `windows`.
        center: the column of the peak.
        near, gap: distances from it, 0 <= near < gap; columns between them are left out.
        groups: as for `average`.

    Raises:
        ValueError: if no column is further than ``gap``, or near >= gap.

    Example:
        >>> cuts = windows([0.0, 0.0, 3.0, 0.0, 1.0], [2], 2, 2)
        >>> float(peak_contrast(cuts, 2, near=0, gap=1, groups=[0]).mean)
        2.5
    """
    cuts, groups = numbers("cuts", cuts), _groups(groups)
    near, gap = positive_int("near", near, 0), positive_int("gap", gap)
    if cuts.ndim != 2 or cuts.size == 0 or len(cuts) != len(groups) or near >= gap:
        raise ValueError(
            f"cuts (m, w), groups (m,) and near < gap are needed, got shapes {cuts.shape} and "
            f"{groups.shape}, near {near} and gap {gap}"
        )
    center = positive_int("center", center, 0, maximum=cuts.shape[1] - 1)
    distance = np.abs(np.arange(cuts.shape[1]) - center)
    if not np.any(distance > gap):
        raise ValueError(f"gap must leave columns further than it from {center}, got {gap}")
    inner, outer = cuts[:, distance <= near], cuts[:, distance > gap]
    with warnings.catch_warnings():
        # A cut without a value on one of the sides is left out, as NaN.
        warnings.simplefilter("ignore", RuntimeWarning)
        gaps = np.nanmean(inner, axis=1) - np.nanmean(outer, axis=1)
    return average(gaps, groups)
