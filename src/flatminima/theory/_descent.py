"""Gradient descent of many trajectories at once: what the small networks share.

A network checks its arguments with :func:`prepare`, fills a record with :func:`carry`, which also
marks divergence, and takes its noise from :func:`draws`. Trajectories stand along one axis here;
:attr:`Plan.batch` is the shape to give that axis back. :func:`advance` lets those go that have come
to rest, and :func:`in_blocks` spreads them over threads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from flatminima._validation import (
    LARGEST,
    a_generator,
    checked_rates,
    common_shape,
    finite_array,
    nonnegative_array,
    numbers,
    positive_int,
)

# Trajectories a thread carries at a time. With fewer, threads were measured to wait for one another
# between NumPy calls; with more, cores are left without work.
BLOCK = 65536

# Steps between two searches for trajectories that have come to rest or have diverged.
CHECK_EVERY = 32


class Plan(NamedTuple):
    """The arguments of a descent, checked and broadcast over all trajectories."""

    start: np.ndarray
    """(size, ...), the batch axes in one."""
    rates: np.ndarray
    """(size,)"""
    scale: np.ndarray | None
    """Standard deviations of the label noise, (size,); None without noise."""
    times: np.ndarray
    """The steps to record: the first, every so many after it, and the last."""
    batch: tuple[int, ...]

    def each_step(self, *shape: int) -> np.ndarray | None:
        """An array (steps, size, ...) to keep something of each step in, if each is recorded."""
        shape = int(self.times[-1]), len(self.rates), *shape
        return np.empty(shape) if len(self.times) > shape[0] else None

    def unfold(self, kept: np.ndarray | None, axis: int = 1) -> np.ndarray | None:
        """Give the axis of trajectories the shape of the batch."""
        if kept is None:
            return None
        return kept.reshape(*kept.shape[:axis], *self.batch, *kept.shape[axis + 1 :])


def parameters(theta: object, shape: tuple[int, ...], name: str = "theta") -> np.ndarray:
    """Return theta as an array (..., *shape), or raise ValueError; NaN marks divergence."""
    array = numbers(name, theta)
    if array.shape[-len(shape) :] != shape:
        expected = ", ".join(map(str, shape))
        raise ValueError(f"{name} must have shape (..., {expected}), got {array.shape}")
    return array


def without_missing(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace matrices that are not finite by zero, as LAPACK demands, and say which they were."""
    missing = ~np.isfinite(matrix).all(axis=(-2, -1))
    return np.where(missing[..., None, None], 0.0, matrix), missing


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """The eigenvalues of symmetric matrices in decreasing order; NaN where one is not finite."""
    matrix, missing = without_missing(matrix)
    return np.where(missing[..., None], np.nan, np.linalg.eigvalsh(matrix)[..., ::-1])


def needs_depth_two(network: object, name: str) -> None:
    """Raise ValueError unless the network has depth 2."""
    if network.depth != 2:
        raise ValueError(f"{name} is defined at depth 2 only, got depth {network.depth}")


def recurrence(step: Callable[..., object], start: Sequence[object], steps: int) -> np.ndarray:
    """The states of step after step from the start, arrays of one shape: (k, steps + 1, ...)."""
    states = np.empty((len(start), positive_int("steps", steps) + 1, *start[0].shape))
    states[:, 0] = start
    with np.errstate(over="ignore", invalid="ignore"):
        for t in range(steps):
            states[:, t + 1] = step(*states[:, t])
    return states


def prepare(
    start: np.ndarray,
    axes: int,
    learning_rate: object,
    steps: int,
    label_noise: object,
    generator: np.random.Generator | None,
    record_every: int | None,
) -> Plan:
    """Check the arguments of a descent; the last ``axes`` axes of start are the parameters'."""
    """Check the arguments of a descent; the last ``axes`` axes of start are the parameters'."""
    steps = positive_int("steps", steps)
    start, rates = finite_array("start", start), checked_rates(learning_rate)
    scale = np.zeros(()) if label_noise is None else nonnegative_array("label_noise", label_noise)
    if label_noise is not None and generator is None:
        raise ValueError("label_noise needs a numpy Generator as generator, got None")
    if generator is not None:
        a_generator("generator", generator)
    cut = start.ndim - axes
    batch, shape = start.shape[:cut], start.shape[cut:]
    batch = common_shape(start=batch, learning_rate=rates.shape, label_noise=scale.shape)
    stride = steps if record_every is None else positive_int("record_every", record_every)
    return Plan(
        start=np.broadcast_to(start, (*batch, *shape)).reshape(-1, *shape),
        rates=np.broadcast_to(rates, batch).reshape(-1),
        scale=None if label_noise is None else np.broadcast_to(scale, batch).reshape(-1),
        times=np.append(np.arange(0, steps, stride), steps),
        batch=batch,
    )


def draws(
    source: np.random.Generator, scale: np.ndarray, kept: np.ndarray | None
) -> Iterator[np.ndarray]:
    """The noise of one step after another, in the shape of ``scale``; each is put into ``kept``."""
    for step in range(sys.maxsize):
        draw = source.standard_normal(scale.shape) * scale
        if kept is not None:
            kept[step] = draw
        yield draw


def carry(
    record: np.ndarray,
    times: np.ndarray,
    advance: Callable[[np.ndarray, int, int], np.ndarray],
    loss: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Fill a record (times, size, ...) from its first entry on; NaN once a trajectory is lost.

    ``advance(parameters, step, later)`` takes those of all trajectories from a step to a later one;
    ``loss(record)`` is a number for each point, (times, size), finite where the loss is.
    """
    # Overflow is divergence, which is looked for here; error states belong to threads.
    with np.errstate(over="ignore", invalid="ignore"):
        for k, (first, last) in enumerate(pairwise(times)):
            record[k + 1] = advance(record[k], first, last)
        finite = (np.abs(record) <= LARGEST).all(axis=tuple(range(2, record.ndim)))
        lost = np.logical_or.accumulate(~(finite & np.isfinite(loss(record))), axis=0)
    record[lost] = np.nan


def advance(
    theta: np.ndarray,
    rates: np.ndarray,
    noise: Iterator[np.ndarray] | None,
    steps: int,
    step: Callable[..., None],
) -> np.ndarray:
    """Return theta, shape (depth, n), after some steps.

    ``step(old, new, work, rates, noise)`` writes one step from ``old`` into ``new``.
    """
    result = theta.copy()
    moving = np.arange(theta.shape[1])
    old, new, work = result.copy(), np.empty_like(theta), np.empty_like(theta)
    for count in range(1, steps + 1):
        step(old, new, work, rates, None if noise is None else next(noise))
        old, new = new, old
        if noise is None and count % CHECK_EVERY == 0:
            # Now new is one step behind old. One more step that leads back there closes a cycle
            # of period one or two, and NaN and infinity never become finite again.
            ahead = np.empty_like(old)
            step(old, ahead, work, rates, None)
            goes_on = np.any(ahead != new, axis=0) & np.isfinite(ahead).all(axis=0)
            if 4 * np.count_nonzero(goes_on) < 3 * goes_on.size:
                result[:, moving] = old if (steps - count) % 2 == 0 else ahead
                moving, rates, old = moving[goes_on], rates[goes_on], old[:, goes_on]
                if moving.size == 0:
                    return result
                new, work = np.empty_like(old), np.empty_like(old)
    result[:, moving] = old
    return result


def in_blocks(
    function: Callable[[slice, np.random.Generator | None], None],
    size: int,
    generator: np.random.Generator | None,
) -> None:
    """Call the function on blocks of trajectories, each with its own generator if there is one."""
    blocks = [slice(i, i + BLOCK) for i in range(0, size, BLOCK)]
    generators = [None] * len(blocks) if generator is None else generator.spawn(len(blocks))
    # NumPy releases the interpreter lock inside its loops. A browser has no threads.
    cores = 1 if sys.platform == "emscripten" else os.cpu_count() or 1
    workers = min(cores, len(blocks))
    if workers <= 1:
        list(map(function, blocks, generators))
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(function, blocks, generators))
