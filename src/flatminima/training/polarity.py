"""Two tests of rotational polarity in a network: a displacement along v_1, a stretch of training.

The first compares the turn of v_1 at a displaced point with Theorem G2, the second measures how the
leading eigenvectors turn while the network trains on at some rate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatminima import curvature
from flatminima._validation import (
    finite_array,
    instance_of,
    positive_float,
    positive_int,
    shown,
)
from flatminima.curvature import EmpiricalRisk
from flatminima.theory.rotation import subspace_overlap
from flatminima.training.episodes import Episode
from flatminima.training.loop import gradient_descent
from flatminima.training.probes import Sharpness

__all__ = [
    "RESIDUAL",
    "Polarity",
    "Stretch",
    "displaced_rotation",
    "turn_over",
]

RESIDUAL = 1e-3
"""Residual of the leading spaces of `turn_over`, relative to the largest eigenvalue."""


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


def displaced_rotation(risk: EmpiricalRisk, distances: object, *, tol: float = 1e-8) -> Polarity:
    """Displace the parameters by +-x along v_1, and compare the turn of v_1 with Theorem G2.

    The rotation at a displaced point is v_1 there, scaled to product one with v_1 at the center,
    minus the latter: a tangent vector whose norm is the tangent of the angle, x rho + O(x^2).
    The parameters are put back at the end.

    Args:
        risk: a model in float64, a loss and data.
        distances: x > 0, shape (k,).
        tol: relative residual of the eigenpairs.

    Raises:
        ValueError: for other dtypes than float64, or distances that are not positive.

    Example:
        Close to the point the two rotations are nearly opposite:

        >>> from flatminima import models
        >>> model = models.mlp([2, 3, 1], seed=1, dtype=torch.float64)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
        >>> risk = EmpiricalRisk(model, "mse", (x, x.sum(1, keepdim=True)))
        >>> bool(displaced_rotation(risk, [1e-4]).cosine[0] < -0.99)
        True
    """
    xs = finite_array("distances", distances)
    if xs.ndim != 1 or xs.size == 0 or np.any(xs <= 0):
        raise ValueError(f"distances must be positive and of shape (k,), got {shown(distances)}")
    parameters = instance_of("risk", risk, EmpiricalRisk).parameters
    if any(p.dtype != torch.float64 for p in parameters):
        raise ValueError(
            "the model must be float64, since the rotations are differences of vectors; got "
            f"{parameters[0].dtype}"
        )
    center = [p.detach().clone() for p in parameters]

    operator = risk.hessian()
    pairs = curvature.top_eigenpairs(operator, k=4, tol=tol)
    field = curvature.rotation_field(operator, pairs=pairs, tol=1e-6).field
    v, direction = pairs.eigenvectors[0], operator.split(pairs.eigenvectors[0])
    turns, values = np.empty((2, len(xs), len(v))), np.empty((2, len(xs)))
    try:
        for side, sign in enumerate((1.0, -1.0)):
            start = pairs.eigenvectors
            for i in np.argsort(xs):
                x = sign * float(xs[i])
                _put(risk, [c + x * d for c, d in zip(center, direction, strict=True)])
                found = curvature.top_eigenpairs(risk, k=4, tol=tol, start=start)
                start, u = found.eigenvectors, found.eigenvectors[0]
                turns[side, i] = (u / (u @ v) - v).cpu().numpy()
                values[side, i] = float(found.eigenvalues[0])
    finally:
        _put(risk, center)
    rho = field.cpu().numpy()
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


def turn_over(risk: EmpiricalRisk, *, ratio: float, time: float, k: int = 3) -> Stretch:
    r"""Train on at the rate ratio * 2 / lambda_1, and measure how the k leading eigenvectors turn.

    The stretch lasts for ``time`` units of eta * lambda_1 / 2 summed over steps with lambda_1 at
    its start, so that ``ratio`` changes the step size but not the training time. The space at the
    end is that at the center of the last oscillation, the mean of the last two iterates: at an
    iterate off the center, polarity (G2) would turn v_1 whatever the stretch had done.

    The parameters are put back at the end.

    Args:
        risk: a model, a loss and data.
        ratio: the learning rate in units of 2 / lambda_1; above 1 the stretch begins unstable.
        time: the length of the stretch, > 0; it takes about time / ratio steps.
        k: dimension of the leading space.

    Raises:
        ValueError: for arguments that are not positive.

    Example:
        The eigenvectors of a linear model do not turn, and below the threshold nothing is unstable:

        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> risk = EmpiricalRisk(model, "mse", (x, torch.ones(2, 1)))
        >>> found = turn_over(risk, ratio=0.9, time=10, k=1)
        >>> round(found.overlap, 4), found.episodes
        (1.0, [])
    """
    ratio, time = positive_float("ratio", ratio), positive_float("time", time)
    k = positive_int("k", k)
    positive_int("time / ratio", round(time / ratio), 0)
    center = [p.detach().clone() for p in instance_of("risk", risk, EmpiricalRisk).parameters]
    try:
        return _stretch(risk, ratio, time, k)
    finally:
        _put(risk, center)


def _stretch(risk: EmpiricalRisk, ratio: float, time: float, k: int) -> Stretch:
    """What `turn_over` measures; the parameters end elsewhere."""
    first = curvature.top_eigenpairs(risk, k, tol=RESIDUAL)
    sharpness = float(first.eigenvalues[0])
    rate, steps = ratio * 2 / sharpness, max(round(time / ratio), 2)
    watched = {"probes": {"sharpness": Sharpness()}, "probe_every": 5}
    run = gradient_descent(risk, rate, steps - 1, progress=False, **watched)
    episodes = run.episodes()
    previous = [p.detach().clone() for p in risk.parameters]
    if not run.diverged:
        run = gradient_descent(risk, rate, 1, progress=False)
    if run.diverged:
        return Stretch(float("nan"), episodes, sharpness, float("nan"), True)
    _put(risk, [(p.detach() + q) / 2 for p, q in zip(risk.parameters, previous, strict=True)])
    last = curvature.top_eigenpairs(risk, k, tol=RESIDUAL, start=first.eigenvectors)
    cosines = subspace_overlap(first.eigenvectors.cpu().numpy(), last.eigenvectors.cpu().numpy())
    after = float(last.eigenvalues[0])
    return Stretch(float(np.mean(cosines**2)), episodes, sharpness, after, False)


def _put(risk: EmpiricalRisk, values: list[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(risk.parameters, values, strict=True):
            parameter.copy_(value)
