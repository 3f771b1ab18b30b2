"""Instability episodes of networks: what is watched, averages aligned at the peak, and rotation.

`instability.find_episodes` says where the episodes of a run are. Here is what is measured around
them: a probe for the quantities of Definition G5, averages over many episodes with errors that
count seeds, not episodes, and two tests of rotation: displacement along v_1 against Theorem G2,
and the turn of the leading eigenvectors over a stretch of training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flatminima import curvature, training
from flatminima._validation import finite_array, positive_float, positive_int
from flatminima.statistics import Interval
from flatminima.theory.instability import Episode, find_episodes
from flatminima.theory.rotation import subspace_overlap
from flatminima.training.probes import State, trainable

__all__ = [
    "QUANTITIES",
    "RESIDUAL",
    "Average",
    "Polarity",
    "Stretch",
    "Watch",
    "align",
    "average",
    "contrast",
    "displaced_rotation",
    "polarity_predictions",
    "stands_out",
    "turn_over",
    "turns_with_the_rate",
    "unresolved_turn",
]

QUANTITIES = ("sharpness", "smallest", "displacement", "along", "across", "fourth")
"""The columns of what `Watch` measures, in this order."""


RESIDUAL = 1e-3
"""Residual of the leading spaces of `turn_over`, relative to the largest eigenvalue."""


class Average(NamedTuple):
    """A mean over groups (seeds), with its standard error; NaN where there is no data."""

    mean: np.ndarray
    error: np.ndarray
    """Standard error over the means of the groups; NaN for a single group."""


class Polarity(NamedTuple):
    """What `displaced_rotation` measures, one entry for each distance x > 0."""

    distances: np.ndarray
    turn: np.ndarray
    """Norm of the rotation on either side, shape (2, k): at +x, at -x."""
    deviation: np.ndarray
    """Relative error of the prediction x * rho on either side, shape (2, k)."""
    odd_deviation: np.ndarray
    """Relative error of x * rho for the odd part of the two rotations, shape (k,)."""
    cosine: np.ndarray
    """Cosine between the rotations at +x and -x: -1 under odd symmetry, shape (k,)."""
    sharpness: np.ndarray
    """lambda_1 at +x and at -x, shape (2, k)."""
    center: float
    """lambda_1 at x = 0."""
    rate: float
    """The norm of the rotation field rho."""
    rotations: np.ndarray
    """The rotations themselves, at +x and at -x, shape (2, k, n)."""


class Stretch(NamedTuple):
    """What `turn_over` measures over one stretch of training."""

    overlap: float
    """Mean squared cosine of the principal angles between the leading spaces, in [0, 1]."""
    episodes: list[Episode]
    before: float
    """lambda_1 at the start."""
    after: float
    """lambda_1 at the center of the last oscillation; NaN if the run diverged."""
    diverged: bool


class Watch:
    r"""Probe for the quantities of one instability at a step, an array in the order of QUANTITIES.

    The displacement is :math:`\langle\nabla L, v_1\rangle/\lambda_1`, the distance along v_1 from
    the point where the slope along v_1 vanishes, on the quadratic model; its sign, and that of
    T[v_1, v_1, v_1], depend on the sign of v_1, so the absolute values are returned. Each call
    starts from the eigenvectors of the call before; make a new one for each run.

    Args:
        tol: residual of the leading pair, relative to lambda_1; that of lambda_min may be a quarter
            of it. It has to be small against lambda_min, which is far the smaller of the two: an
            eigenvalue near zero passes for the smallest where the residual may be as large.
    """

    def __init__(self, *, tol: float = 2e-3) -> None:
        self._tol = positive_float("tol", tol)
        self._starts: dict[str, Tensor | None] = {"largest": None, "smallest": None}

    def _pair(self, state: State, which: str, tol: float) -> tuple[float, Tensor]:
        pairs = curvature.top_eigenpairs(
            state.hessian,
            which=which,
            tol=tol,
            start=self._starts[which],
            generator=torch.Generator().manual_seed(0),
        )
        self._starts[which] = pairs.eigenvectors
        return float(pairs.eigenvalues[0]), pairs.eigenvectors[0]

    def __call__(self, state: State) -> np.ndarray:
        operator = state.hessian
        value, v = self._pair(state, "largest", self._tol)
        smallest, _ = self._pair(state, "smallest", self._tol / 4)
        gradient = curvature.sharpness_gradient(operator, eigenvector=v)
        along = float(gradient @ v)
        fourth = float(curvature.directional_derivatives(operator, v)[4])
        across = float((gradient - along * v).norm())
        x = float(operator.gradient @ v) / value
        return np.array([value, smallest, abs(x), abs(along), across, fourth])


def align(trace: object, steps: Sequence[int], before: int, after: int) -> np.ndarray:
    """Cut out the trace around each of ``steps``: shape (len(steps), before + 1 + after).

    Entries outside the trace are NaN; column ``before`` is the step itself.

    Raises:
        ValueError: for a trace that is not one-dimensional, a step outside it, or a negative width.
    """
    trace = np.asarray(trace, dtype=float)
    before = positive_int("before", before, minimum=0)
    after = positive_int("after", after, minimum=0)
    if trace.ndim != 1:
        raise ValueError(f"trace must be one-dimensional, got shape {trace.shape}")
    steps = np.asarray(steps, dtype=int).reshape(-1)
    if np.any((steps < 0) | (steps >= len(trace))):
        raise ValueError(f"steps must lie between 0 and {len(trace) - 1}, got {steps.tolist()}")
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
    """
    samples, groups = np.asarray(samples, dtype=float), np.asarray(groups)
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


def contrast(aligned: object, center: int, near: int, gap: int, groups: object) -> Average:
    """Mean of the columns within ``near`` of the center minus that of those further than ``gap``.

    Positive: the quantity rises in the middle of an episode; negative: it falls.

    Args:
        aligned: shape (m, w), from `align`.
        center: the column of the peak.
        groups: as for `average`.

    Raises:
        ValueError: if no column is further than ``gap``, or near >= gap.
    """
    aligned = np.asarray(aligned, dtype=float)
    if aligned.ndim != 2 or not 0 <= near < gap:
        raise ValueError(
            f"aligned must have shape (m, w) and 0 <= near < gap, got shape {aligned.shape}, "
            f"near {near} and gap {gap}"
        )
    distance = np.abs(np.arange(aligned.shape[1]) - center)
    if not np.any(distance > gap):
        raise ValueError(f"gap must leave columns further than it from {center}, got {gap}")
    inner, outer = aligned[:, distance <= near], aligned[:, distance > gap]
    return average(np.nanmean(inner, axis=1) - np.nanmean(outer, axis=1), groups)


def stands_out(measured: object, control: object) -> bool:
    """Whether a contrast is positive in every seed, and its mean three times that of a control.

    Args:
        measured: the contrast around the peaks of episodes, one value a seed, with the sign that
            was predicted.
        control: the same around steps drawn at random: what is left of it is chance.
    """
    measured, control = finite_array("measured", measured), finite_array("control", control)
    return bool(np.all(measured > 0) and np.mean(measured) > 3 * abs(np.mean(control)))


def turns_with_the_rate(ratios: object, overlap: object, trend: Interval) -> bool:
    """Whether leading eigenvectors turn more at larger rates, by what `turn_over` found.

    In every seed the overlap at the largest rate is below that at each stable one; and the rank
    correlation of rate and overlap has its interval below zero.

    Args:
        ratios: rates in units of 2 / lambda_1, ascending, shape (k,), some below 1 and some above.
        overlap: shape (seeds, k).
        trend: `statistics.rank_correlation` of the two.

    Raises:
        ValueError: for shapes that do not match, or rates on one side of 1 only.
    """
    ratios, overlap = finite_array("ratios", ratios), finite_array("overlap", overlap)
    if ratios.ndim != 1 or overlap.shape[1:] != ratios.shape or not ratios[0] < 1 < ratios[-1]:
        raise ValueError(
            "ratios must lie on both sides of 1, and overlap have one column for each, got "
            f"{ratios.tolist()} and shape {overlap.shape}"
        )
    more = overlap[:, -1] < overlap[:, ratios < 1].min(axis=1)
    return bool(np.all(more) and trend.high < 0)


def unresolved_turn(eigenvalues: object, k: int, tol: float = RESIDUAL) -> float:
    """Largest one minus overlap that `turn_over` may find where nothing turns.

    Each of the two spaces is known to a residual of tol * lambda_1, hence to an angle of at most
    that over the gap below the k-th eigenvalue (Davis and Kahan), and the overlap is the mean of
    squared cosines.

    Args:
        eigenvalues: the largest of the operator, descending, more than k of them.
    """
    values = finite_array("eigenvalues", eigenvalues)
    k = positive_int("k", k)
    if values.ndim != 1 or len(values) <= k or values[k - 1] <= values[k]:
        raise ValueError(f"more than k = {k} eigenvalues, with a gap, are needed, got {values}")
    return float((2 * tol * values[0] / (values[k - 1] - values[k])) ** 2)


def displaced_rotation(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    distances: object,
    *,
    tol: float = 1e-8,
) -> Polarity:
    """Displace the parameters by +-x along v_1, and compare the turn of v_1 with Theorem G2.

    The rotation at a displaced point is v_1 there, scaled to product one with v_1 at the center,
    minus the latter: a tangent vector whose norm is the tangent of the angle, x rho + O(x^2).
    The parameters are put back at the end.

    Args:
        loss: function of no arguments, as for `curvature.HessianOperator`.
        parameters: float64 tensors.
        distances: x > 0, shape (k,).
        tol: relative residual of the eigenpairs.

    Raises:
        ValueError: for other dtypes than float64, or distances that are not positive.
    """
    xs = finite_array("distances", distances)
    if xs.ndim != 1 or xs.size == 0 or np.any(xs <= 0):
        raise ValueError(f"distances must be positive and of shape (k,), got {distances!r}")
    parameters = list(parameters)
    if any(p.dtype != torch.float64 for p in parameters):
        raise ValueError("parameters must be float64: the rotations are differences of vectors")
    center = [p.detach().clone() for p in parameters]

    def pairs_at(x: float, start: Tensor | None) -> tuple[curvature.HessianOperator, object]:
        if start is not None:
            with torch.no_grad():
                for p, c, d in zip(parameters, center, direction, strict=True):
                    p.copy_(c + x * d)
        operator = curvature.HessianOperator(loss, parameters)
        generator = torch.Generator().manual_seed(0)
        return operator, curvature.top_eigenpairs(
            operator, k=4, tol=tol, start=start, generator=generator
        )

    operator, pairs = pairs_at(0.0, None)
    field = curvature.rotation_field(operator, pairs=pairs, tol=1e-6).field
    v, direction = pairs.eigenvectors[0], operator.split(pairs.eigenvectors[0])
    turns, values = np.empty((2, len(xs), len(v))), np.empty((2, len(xs)))
    try:
        for side, sign in enumerate((1.0, -1.0)):
            start = pairs.eigenvectors
            for i in np.argsort(xs):
                _, found = pairs_at(sign * float(xs[i]), start)
                start, u = found.eigenvectors, found.eigenvectors[0]
                turns[side, i] = (u / (u @ v) - v).numpy()
                values[side, i] = float(found.eigenvalues[0])
    finally:
        with torch.no_grad():
            for p, c in zip(parameters, center, strict=True):
                p.copy_(c)
    rho = field.numpy()
    rate = float(np.linalg.norm(rho))
    norms = np.linalg.norm(turns, axis=2)
    signed = np.array([1.0, -1.0])[:, None, None] * xs[:, None] * rho
    odd = (turns[0] - turns[1]) / 2 - xs[:, None] * rho
    return Polarity(
        distances=xs,
        turn=norms,
        deviation=np.linalg.norm(turns - signed, axis=2) / (xs * rate),
        odd_deviation=np.linalg.norm(odd, axis=1) / (xs * rate),
        cosine=np.sum(turns[0] * turns[1], axis=1) / (norms[0] * norms[1]),
        sharpness=values,
        center=float(pairs.eigenvalues[0]),
        rate=rate,
        rotations=turns,
    )


def polarity_predictions(tests: Sequence[Polarity]) -> dict[str, bool]:
    """Theorem G2 in several networks, each displaced by the same distances, ascending.

    ``opposite``: at the smallest distance the cosine of the two rotations is below -0.9, in every
    network; ``first-order``: the error of the prediction x * rho grows with the distance over the
    three smallest; ``decays``: at the largest distance the rotations are less opposite.
    """
    cosine = np.array([test.cosine for test in tests])
    deviation = np.array([test.deviation.max(axis=0) for test in tests])
    return {
        "opposite": bool(np.all(cosine[:, 0] < -0.9)),
        "first-order": bool(np.all(np.diff(deviation[:, :3], axis=1) > 0)),
        "decays": bool(np.all(cosine[:, -1] > cosine[:, 0])),
    }


def turn_over(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    ratio: float,
    time: float,
    k: int = 3,
    loss: str = "mse",
) -> Stretch:
    r"""Train on at the rate ratio * 2 / lambda_1, and measure how the k leading eigenvectors turn.

    The stretch lasts for ``time`` units of eta * lambda_1 / 2 summed over steps with lambda_1 at
    its start, so that ``ratio`` changes the step size but not the training time. The space at the
    end is that at the center of the last oscillation, the mean of the last two iterates: at an
    iterate off the center, polarity (G2) would turn v_1 whatever the stretch had done.

    ``model`` is left as it was.

    Args:
        ratio: the learning rate in units of 2 / lambda_1; above 1 the stretch begins unstable.
        time: the length of the stretch, > 0; it takes about time / ratio steps.
        k: dimension of the leading space.

    Raises:
        ValueError: for arguments that are not positive.
    """
    ratio, time = positive_float("ratio", ratio), positive_float("time", time)
    k = positive_int("k", k)
    model = copy.deepcopy(model)

    def leading(start: Tensor | None = None) -> curvature.EigenResult:
        return curvature.top_eigenpairs(
            curvature.HessianOperator(
                lambda: training.LOSSES[loss](model(inputs), targets), trainable(model)
            ),
            k=k,
            tol=RESIDUAL,
            start=start,
            generator=torch.Generator().manual_seed(0),
        )

    first = leading()
    sharpness = float(first.eigenvalues[0])
    rate, steps = ratio * 2 / sharpness, max(round(time / ratio), 2)
    options = {"learning_rate": rate, "loss": loss, "progress": False}
    run = training.gradient_descent(
        model,
        inputs,
        targets,
        steps=steps - 1,
        probes={"sharpness": training.sharpness()},
        probe_every=5,
        **options,
    )
    trace = np.full(len(run.loss), np.nan)
    inside = run.probe_steps < len(trace)
    trace[run.probe_steps[inside]] = run.probes["sharpness"][inside]
    episodes = find_episodes(run.loss, trace, rate) if np.isfinite(run.loss).all() else []
    previous = [p.detach().clone() for p in trainable(model)]
    if not run.diverged:
        run = training.gradient_descent(model, inputs, targets, steps=1, **options)
    if run.diverged:
        return Stretch(float("nan"), episodes, sharpness, float("nan"), True)
    with torch.no_grad():
        for p, q in zip(trainable(model), previous, strict=True):
            p.add_(q).div_(2)
    last = leading(first.eigenvectors)
    cosines = subspace_overlap(first.eigenvectors.numpy(), last.eigenvectors.numpy())
    after = float(last.eigenvalues[0])
    return Stretch(float(np.mean(cosines**2)), episodes, sharpness, after, False)
