"""Functions of parameters together with their first and second derivatives, in plain NumPy.

A jet holds the value of an array that depends on p parameters, shape (..., *own), and its exact
derivatives, shapes (..., *own, p) and (..., *own, p, p), over batch axes in front. Products and
smooth functions of jets follow the rules of calculus, so that a network is written down once, as
its outputs, and not again for each derivative. For p of a few dozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np


class Jet(NamedTuple):
    """A value and its derivatives; the second ones are None in jets of order one."""

    value: np.ndarray
    first: np.ndarray
    second: np.ndarray | None


def variables(theta: np.ndarray, shapes: Sequence[tuple[int, ...]], order: int) -> list[Jet]:
    """The parameters theta (..., p) as arrays of the given shapes, with their derivatives."""
    batch, p = theta.shape[:-1], theta.shape[-1]
    found, at = [], 0
    for shape in shapes:
        size = prod(shape)
        first = np.eye(p)[at : at + size].reshape(*shape, p)
        second = np.zeros((*shape, p, p)) if order == 2 else None
        found.append(Jet(theta[..., at : at + size].reshape(*batch, *shape), first, second))
        at += size
    return found


def contract(spec: str, a: Jet | np.ndarray, b: Jet) -> Jet:
    """The product of a jet or a constant array with a jet, in the notation of einsum."""
    inputs, out = spec.split("->")
    s, t = inputs.split(",")

    def product(x: np.ndarray, y: np.ndarray, dx: str = "", dy: str = "") -> np.ndarray:
        return np.einsum(f"...{s}{dx},...{t}{dy}->...{out}{dx}{dy}", x, y)

    if isinstance(a, np.ndarray):
        second = None if b.second is None else product(a, b.second, "", "PQ")
        return Jet(product(a, b.value), product(a, b.first, "", "P"), second)
    first = product(a.first, b.value, "P") + product(a.value, b.first, "", "P")
    second = None
    if a.second is not None:
        mixed = product(a.first, b.first, "P", "Q")
        second = mixed + np.swapaxes(mixed, -1, -2)
        second = second + product(a.second, b.value, "PQ") + product(a.value, b.second, "", "PQ")
    return Jet(product(a.value, b.value), first, second)


def _apply(a: Jet, value: np.ndarray, slope: np.ndarray, bend: Callable[[], np.ndarray]) -> Jet:
    """The chain rule for a function of one variable, given with its two derivatives at a."""
    second = None
    if a.second is not None:
        squares = a.first[..., :, None] * a.first[..., None, :]
        second = slope[..., None, None] * a.second + bend()[..., None, None] * squares
    return Jet(value, slope[..., None] * a.first, second)


def tanh(a: Jet) -> Jet:
    """The hyperbolic tangent, entry by entry."""
    t = np.tanh(a.value)
    return _apply(a, t, 1 - t**2, lambda: -2 * t * (1 - t**2))


def softmax(a: Jet) -> Jet:
    """exp(a) over its sum along the last axis of its own."""
    # The largest entry is subtracted as a constant: it cancels, and nothing overflows.
    e = np.exp(a.value - a.value.max(axis=-1, keepdims=True))
    powers = _apply(a, e, e, lambda: e)
    total = contract("t,nt->n", np.ones(e.shape[-1]), powers)
    inverse = 1 / total.value
    share = _apply(total, inverse, -(inverse**2), lambda: 2 * inverse**3)
    return contract("nt,n->nt", powers, share)
