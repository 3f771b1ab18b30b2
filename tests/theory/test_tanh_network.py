"""tanh_network: the derivative tensors against SymPy and against differences of the loss."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory.tanh_network import TanhNetwork

EPS = np.finfo(float).eps


def network(generator, width=2, m=5, d=2):
    return TanhNetwork(width, generator.normal(size=(m, d)), generator.normal(size=m))


def test_derivatives_equal_sympy():
    net = TanhNetwork(1, [0.7, -1.2], [0.3, 0.5])
    a, b, w = variables = sp.symbols("a b w")
    loss = sum(
        (a * sp.tanh(w * sp.Rational(x) + b) - sp.Rational(y)) ** 2 / 4
        for x, y in ((0.7, 0.3), (-1.2, 0.5))
    )
    theta = np.array([0.9, -0.4, 1.3])
    at = dict(zip(variables, map(sp.Rational, theta), strict=True))
    assert np.isclose(net.loss(theta), float(loss.subs(at)), rtol=20 * EPS)
    for order, tensor in enumerate(net.derivatives(theta), start=1):
        for index in np.ndindex(tensor.shape):
            exact = float(sp.diff(loss, *[variables[i] for i in index]).subs(at).evalf(30))
            # Sums of some ten terms of the size of the largest entry, each rounded a few times.
            assert abs(tensor[index] - exact) <= 200 * EPS * (1 + np.abs(tensor).max()), order


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 3), d=st.integers(1, 3))
def test_derivatives_are_symmetric_and_each_differentiates_the_one_before(seed, width, d):
    generator = np.random.default_rng(seed)
    net = network(generator, width, 4, d)
    theta, u = generator.normal(size=(2, net.size))
    u /= np.linalg.norm(u)
    # The five-point formula errs by h^4 f^(5) / 30. Four orders up from the tensor, the ninth
    # derivative of tanh reaches 1e4: up to 1e4 h^4 / 30 = 3e-6 times powers of the inputs.
    h = 1e-2
    points = [theta + k * h * u for k in (-2, -1, 1, 2)]
    values = [(np.array(net.loss(p)), *net.derivatives(p)) for p in points]
    for order, tensor in enumerate(net.derivatives(theta)):
        assert all(
            np.allclose(
                tensor,
                np.swapaxes(tensor, i, i + 1),
                rtol=0,
                atol=200 * EPS * (1 + np.abs(tensor).max()),
            )
            for i in range(order)
        )
        far, near, near2, far2 = (v[order] for v in values)
        difference = (far - 8 * near + 8 * near2 - far2) / (12 * h)
        scale = 1 + max(np.abs(v).max() for v in values[0])
        assert np.abs(difference - tensor @ u).max() < 1e-4 * scale


def test_descent_steps_along_the_gradient_and_reports_divergence():
    net = network(np.random.default_rng(0))
    start = np.random.default_rng(1).normal(size=net.size)
    path = net.descend(start, 0.1, 5)
    assert path.shape == (6, net.size)
    for before, after in pairwise(path):
        assert np.array_equal(after, before - 0.1 * net.gradient(before))
    assert np.array_equal(net.hessian(start), net.derivatives(start, 2)[1])
    lost = net.descend(start, 1e90, 5)
    assert np.isnan(lost[-1]).all()
    assert np.isfinite(lost[0]).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: TanhNetwork(0, [1.0], [1.0]),
        lambda: TanhNetwork(1, [1.0], [1.0, 2.0]),
        lambda: TanhNetwork(1, [np.nan], [1.0]),
        lambda: TanhNetwork(1, [], []),
        lambda: TanhNetwork(1, [1.0], [1.0]).loss([1.0]),
        lambda: TanhNetwork(1, [1.0], [1.0]).loss([1.0, 2.0, np.inf]),
        lambda: TanhNetwork(1, [1.0], [1.0]).derivatives(np.ones(3), 5),
        lambda: TanhNetwork(1, [1.0], [1.0]).descend(np.ones(3), 0.0, 1),
        lambda: TanhNetwork(1, [1.0], [1.0]).descend(np.ones(2), 0.1, 1),
        lambda: TanhNetwork(1, [1.0], [1.0]).descend(np.ones(3), 0.1, 0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
