"""Random points and targets of scalar networks, and their loss in symbols."""

import numpy as np
import sympy as sp
from hypothesis import strategies as st

EPS = np.finfo(float).eps

targets = st.floats(0.2, 3.0).flatmap(lambda y: st.sampled_from([y, -y]))
entries = st.floats(-2.0, 2.0, allow_subnormal=False)


def points(min_depth=1, max_depth=5):
    return st.lists(entries, min_size=min_depth, max_size=max_depth).map(np.array)


def symbolic(depth):
    """Symbols, target and the loss of the network of some depth."""
    theta = sp.symbols(f"theta1:{depth + 1}", real=True)
    y = sp.symbols("y", real=True)
    return theta, y, (sp.prod(theta) - y) ** 2 / 2


def magnitude(theta, target):
    """A bound on every intermediate number in the gradient and Hessian at theta."""
    biggest = np.maximum(1, np.abs(theta)).prod()
    return (biggest + abs(target)) * biggest
