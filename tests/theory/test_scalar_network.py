"""The scalar network: its calculus, its gradient descent, and Statements D1 to D4."""

import sys
import tracemalloc

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scalar_points import EPS, entries, magnitude, points, symbolic, targets

from flatminima.theory import instability
from flatminima.theory.scalar_network import ScalarNetwork, residual_imbalance_dynamics

# --- D1: gradient, Hessian, minima ------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_D1_gradient_and_hessian_symbolically(depth):
    theta, y, loss = symbolic(depth)
    f = sp.prod(theta)
    r = f - y
    inverse = sp.diag(*[1 / t for t in theta])
    ones = sp.ones(depth, depth)
    hessian = inverse * ((f**2 + r * f) * ones - r * f * sp.eye(depth)) * inverse
    assert sp.simplify(sp.hessian(loss, theta) - hessian) == sp.zeros(depth, depth)
    for t in theta:
        assert sp.simplify(sp.diff(loss, t) - r * f / t) == 0


@given(points(), targets)
def test_D1_gradient_and_hessian_against_products(theta, y):
    network = ScalarNetwork(len(theta), y)
    d = len(theta)
    p = np.array([np.prod(np.delete(theta, i)) for i in range(d)])
    q = np.array(
        [[0 if i == j else np.prod(np.delete(theta, [i, j])) for j in range(d)] for i in range(d)]
    )
    r = np.prod(theta) - y
    # d products and two sums, each rounded once, of numbers below the magnitude.
    tolerance = 4 * (d + 2) * EPS * magnitude(theta, y)
    assert np.abs(network.gradient(theta) - r * p).max() <= tolerance
    assert np.abs(network.hessian(theta) - (np.outer(p, p) + r * q)).max() <= tolerance


@given(st.integers(2, 5), targets, st.floats(0, 4), st.integers(0, 2**32 - 1))
def test_D1_minima_are_rank_one_with_the_stated_eigenpair(depth, y, log_ratio, seed):
    network = ScalarNetwork(depth, y)
    sharpness = network.flattest_sharpness * np.exp(log_ratio)
    theta = network.start_with_sharpness(sharpness, np.random.default_rng(seed))
    # The entries are exponentials of numbers up to (log_ratio + log d) sqrt(d (d - 1)) < 26, each
    # with a few roundings of its own size: a relative error below 100 EPS an entry.
    scale = 100 * depth**2 * EPS * sharpness
    assert abs(network.residual(theta)) <= 100 * depth * EPS * abs(y)
    assert abs(network.sharpness(theta) - y**2 * np.sum(theta**-2.0)) <= scale
    assert abs(network.sharpness(theta) - sharpness) <= scale
    assert np.abs(network.eigenvalues(theta)[1:]).max() <= scale
    inverse = 1 / theta / np.linalg.norm(1 / theta)
    # Davis and Kahan: an error of the matrix over the gap, which is the sharpness.
    assert abs(abs(inverse @ network.leading_eigenvector(theta)) - 1) <= 100 * depth**2 * EPS


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_start_is_a_minimum_where_the_random_direction_nearly_vanishes(depth):
    # Among thousands of draws some nearly agree, and what is left of them is mostly rounding.
    network = ScalarNetwork(depth, 1.0)
    sharpness = np.full(4000, network.flattest_sharpness * np.exp(3.0))
    theta = network.start_with_sharpness(sharpness, np.random.default_rng(1))
    assert np.abs(network.residual(theta)).max() <= 100 * depth * EPS


@given(st.integers(2, 6), targets, st.integers(0, 2**32 - 1))
def test_D1_no_minimum_is_flatter_than_the_balanced_one(depth, y, seed):
    network = ScalarNetwork(depth, y)
    theta = np.exp(np.random.default_rng(seed).normal(size=depth))
    theta[-1] *= y / np.prod(theta)
    floor = network.flattest_sharpness
    assert y**2 * np.sum(theta**-2.0) >= floor * (1 - 20 * depth * EPS)
    balanced = np.full(depth, abs(y) ** (1 / depth))
    balanced[0] *= np.sign(y)
    assert network.sharpness(balanced) == pytest.approx(floor, rel=100 * depth * EPS)


@given(points(2, 5), targets)
def test_D1_minimum_keeps_every_imbalance(theta, y):
    size = np.sort(np.abs(theta))
    assume(size[0] > 1e-3 and np.diff(size).min() > 1e-3)
    network = ScalarNetwork(len(theta), y)
    minimum = network.minimum(theta)
    # Newton on log q ends within rounding of the goal, amplified by at most 1 / slope <= d.
    largest = np.abs(network.imbalance(theta)).max() + np.max(minimum**2)
    assert np.abs(network.imbalance(minimum) - network.imbalance(theta)).max() <= 1e-12 * largest
    assert abs(network.residual(minimum)) <= 1e-11 * max(1, abs(y))


def test_D1_zero_entries_are_exact():
    network = ScalarNetwork(3, 1.5)
    assert network.gradient([0.0, 2.0, 3.0]).tolist() == [-9.0, 0.0, 0.0]
    assert network.hessian([0.0, 0.0, 2.0]).tolist() == [[0, -3, 0], [-3, 0, 0], [0, 0, 0]]
    assert ScalarNetwork(2, 1.0).sharpness([0.0, 0.0]) == 1.0


def test_D1_minimum_of_a_tie_with_the_wrong_sign_is_a_saddle():
    network = ScalarNetwork(2, 1.0)
    assert np.isnan(network.minimum([0.5, -0.5])).all()
    # What the imbalances say is defined all the same: the balanced minima, of sharpness 2 |y|.
    assert network.minimum_sharpness([0.5, -0.5]) == pytest.approx(2, abs=1e-14)
    # A single smallest entry passes through zero instead.
    assert network.residual(network.minimum([0.5, -0.7])) == pytest.approx(0, abs=1e-14)


# --- D2 to D4: rotation -----------------------------------------------------------------------


@given(st.floats(-3, 3), st.floats(-3, 3), targets)
def test_D2_depth_one_has_a_constant_hessian(theta, other, y):
    network = ScalarNetwork(1, y)
    assert network.hessian([theta]).tolist() == network.hessian([other]).tolist() == [[1.0]]


@given(st.integers(2, 5), st.floats(0.3, 1.6), st.floats(0.2, 2), st.floats(0.01, 0.3))
def test_D2_balanced_points_stay_balanced_and_pin_the_eigenvector(depth, s, y, eta):
    network = ScalarNetwork(depth, y)
    run = network.descend(np.full(depth, s), eta, 20)
    finite = run.theta[~np.isnan(run.theta).any(axis=-1)]
    # The steps of equal entries multiply the same numbers in another order.
    assert np.all(np.ptp(finite, axis=-1) <= 1e-10 * (1 + np.abs(finite).max(axis=-1)))
    f = s**depth
    r = f - y
    gap = depth * s ** (2 * depth - 2) + depth * r * s ** (depth - 2)
    rest = -r * s ** (depth - 2)
    values = network.eigenvalues(np.full(depth, s))
    expected = np.sort(np.r_[np.full(depth - 1, rest), rest + gap])[::-1]
    assert np.abs(values - expected).max() <= 200 * EPS * magnitude(np.full(depth, s), y)
    assume(gap > 1e-3)
    v = network.leading_eigenvector(np.full(depth, s))
    bound = 200 * EPS * magnitude(np.full(depth, s), y) / gap
    assert np.abs(v - depth**-0.5).max() <= bound


def test_D3_angle_formula_and_determinant_symbolically():
    a, b, y = sp.symbols("a b y", real=True)
    (t1, t2), target, loss = symbolic(2)
    hessian = sp.hessian(loss, (t1, t2)).subs({t1: a, t2: b, target: y})
    r = a * b - y
    kappa, mixed = b**2 - a**2, y + 2 * r
    assert sp.expand(hessian - sp.Matrix([[b**2, mixed], [mixed, a**2]])) == sp.zeros(2, 2)
    assert sp.expand(hessian.det() + r * (2 * a * b + r)) == 0
    # With cos 2 phi = kappa / R and sin 2 phi = 2 mixed / R, R = |(kappa, 2 mixed)|, the vector
    # at angle phi is an eigenvector to the eigenvalue (tr H + R) / 2.
    phi = sp.symbols("phi", positive=True)
    v = sp.Matrix([sp.cos(phi), sp.sin(phi)])
    turned = sp.Matrix([[sp.cos(2 * phi), sp.sin(2 * phi)], [sp.sin(2 * phi), -sp.cos(2 * phi)]])
    assert sp.simplify(turned * v - v) == sp.zeros(2, 1)
    halves = hessian - (hessian.trace() / 2) * sp.eye(2)
    assert sp.expand(2 * halves - sp.Matrix([[kappa, 2 * mixed], [2 * mixed, -kappa]])) == sp.zeros(
        2, 2
    )
    # The rate at which it turns with r, at fixed kappa.
    k, res, tgt = sp.symbols("kappa r y", positive=True)
    rate = sp.diff(sp.atan(2 * (tgt + 2 * res) / k) / 2, res)
    assert sp.simplify(rate - 2 * k / (k**2 + 4 * (tgt + 2 * res) ** 2)) == 0


@given(entries, entries, targets)
def test_D3_angle_is_that_of_the_eigenvector(a, b, y):
    network = ScalarNetwork(2, y)
    hessian = network.hessian([a, b])
    values, vectors = np.linalg.eigh(hessian)
    gap = values[1] - values[0]
    assume(gap > 1e-6)
    phi = network.angle([a, b])
    assert -np.pi / 2 < phi <= np.pi / 2
    v = np.array([np.cos(phi), np.sin(phi)])
    assert abs(v[0] * vectors[1, 1] - v[1] * vectors[0, 1]) <= 50 * EPS * np.abs(values).max() / gap
    exact = network.eigenvalues([a, b])
    assert np.abs(exact - values[::-1]).max() <= 20 * EPS * max(1, np.abs(values).max())


@given(st.floats(0.05, 5), targets, st.floats(-3, 3), st.floats(1e-3, 3), st.sampled_from([1, -1]))
def test_D3_polarity(size, y, residual, rise, side):
    kappa = side * size
    network = ScalarNetwork(2, y)
    low, high = network.angle(network.at([residual, residual + rise], kappa))
    # Increasing in r at kappa > 0; at kappa < 0 read from the other axis, modulo a line's pi.
    low, high = (low, high) if kappa > 0 else (np.mod(low, np.pi), np.mod(high, np.pi))
    change = (high - low) * side
    assert change > 0
    # tan 2 phi is affine in r with slope 4 / kappa: exactly odd around any residual.
    tangents = np.tan(2 * network.angle(network.at(np.array([-rise, 0, rise]), kappa)))
    terms = 2 * (abs(y) + 2 * rise) / size
    # tan amplifies the rounding of the angle by 1 + tan^2.
    assert abs(tangents.sum() - 3 * tangents[1]) <= 50 * EPS * (1 + terms**2)


@given(entries, entries, targets)
def test_D3_negative_curvature_needs_the_stated_sign(a, b, y):
    network = ScalarNetwork(2, y)
    r, f = network.residual([a, b]), a * b
    assume(abs(r * (2 * f + r)) > 1e-9)
    assert (network.lambda_min([a, b]) < 0) == (r * (2 * f + r) > 0)
    if y > 0 and r > 0:
        assert network.lambda_min([a, b]) < 0


def test_D3_angle_is_undefined_where_the_eigenvalue_is_repeated():
    network = ScalarNetwork(2, 2.0)
    assert np.isnan(network.angle([1.0, 1.0]))  # kappa = 0 and y + 2 r = 0
    assert np.isnan(network.leading_eigenvector([1.0, 1.0])).all()


@given(targets, st.floats(-5, 5))
def test_D4_sharpness_is_an_angle(y, kappa):
    network = ScalarNetwork(2, y)
    theta = network.at(0.0, kappa)
    sharpness, phi = network.sharpness(theta), network.angle(theta)
    assert abs(sharpness * np.sin(2 * phi) - 2 * y) <= 50 * EPS * sharpness
    assert abs(sharpness - np.hypot(kappa, 2 * y)) <= 50 * EPS * sharpness


# --- gradient descent as a tool ----------------------------------------------------------------


@given(points(1, 4), targets, st.floats(0.01, 0.3), st.integers(1, 80))
@settings(deadline=None)
def test_descent_equals_a_plain_loop(theta, y, eta, steps):
    network = ScalarNetwork(len(theta), y)
    run = network.descend(theta, eta, steps)
    point = theta
    for t in range(min(steps, 3)):
        point = point - eta * network.gradient(point)
        # The two multiply in different orders: a few roundings, amplified by the first steps.
        scale = max(1.0, np.abs(point).max()) * (1 + eta * magnitude(theta, y)) ** 6
        assert np.abs(run.theta[t + 1] - point).max() <= 100 * EPS * scale


def test_batches_equal_single_runs_and_the_stride_keeps_the_ends():
    network = ScalarNetwork(3, 1.0)
    generator = np.random.default_rng(0)
    start = generator.normal(size=(4, 1, 3))
    rates = np.array([0.02, 0.1, 0.6])
    whole = network.descend(start, rates, 101)
    ends = network.descend(start, rates, 101, record_every=None)
    some = network.descend(start, rates, 101, record_every=25)
    assert whole.theta.shape == (102, 4, 3, 3)
    assert some.steps.tolist() == [0, 25, 50, 75, 100, 101]
    assert np.array_equal(ends.theta[-1], whole.theta[-1], equal_nan=True)
    assert np.array_equal(some.theta, whole.theta[some.steps], equal_nan=True)
    for i in range(4):
        for j in range(3):
            single = network.descend(start[i, 0], rates[j], 101)
            assert np.array_equal(single.theta, whole.theta[:, i, j], equal_nan=True)


def test_divergence_is_reported():
    network = ScalarNetwork(2, 1.0)
    run = network.descend([[0.5, 0.5], [5.0, 9.0]], 0.2, 200)
    assert run.diverged.tolist() == [False, True]
    assert np.isnan(run.sharpness[-1, 1])
    assert np.isfinite(run.theta[:, 0]).all()


def plain_loop(a, b, eta, steps):
    for _ in range(steps):
        r = a * b - 1.0
        a, b = a - eta * r * b, b - eta * r * a
    return a, b


def lines_run(call):
    """How many lines of Python a call runs; work that NumPy does on whole arrays counts once."""
    count, before = 0, sys.gettrace()

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def test_a_grid_of_a_million_points_is_left_to_numpy():
    network, steps = ScalarNetwork(2, 1.0), 500
    sharpness = np.linspace(2.01, 30, 1000)
    start = network.at(1e-2, np.sqrt(sharpness**2 - 4))
    rates = np.linspace(0.01, 0.2, 1000)[:, None]
    one = lines_run(lambda: network.descend(start[0], rates[0, 0], 20, record_every=None))
    many = lines_run(lambda: network.descend(start, rates, 20, record_every=None))
    # It goes through the grid in blocks, each of many thousand points.
    assert 20 < many < 10 * one
    run = network.descend(start, rates, steps, record_every=None)
    for i, j in np.random.default_rng(0).integers(1000, size=(40, 2)):
        end = plain_loop(*map(float, start[j]), float(rates[i, 0]), steps)
        assert run.diverged[i, j] or np.allclose(run.theta[-1, i, j], end, rtol=1e-6, atol=1e-6)


def test_memory_does_not_grow_with_the_steps():
    network = ScalarNetwork(2, 1.0)
    start = network.at(1e-2, np.linspace(0.1, 9, 20000))

    def peak(steps):
        tracemalloc.start()
        network.descend(start, 0.15, steps, record_every=None)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(1000) < 1.2 * peak(100)


def test_noise_is_recorded_and_enters_the_residual():
    network = ScalarNetwork(2, 1.0)
    run = network.descend([0.8, 1.5], 0.05, 10, label_noise=0.3, generator=np.random.default_rng(1))
    theta = np.array([0.8, 1.5])
    for t in range(10):
        theta = theta - 0.05 * (theta.prod() - 1.0 + run.noise[t]) * theta[::-1]
        assert np.abs(run.theta[t + 1] - theta).max() <= 100 * EPS


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: ScalarNetwork(0, 1.0), "depth"),
        (lambda: ScalarNetwork(2, np.nan), "target"),
        (lambda: ScalarNetwork(2, [1.0]), "target"),
        (lambda: ScalarNetwork(2, 1.0).loss([1.0]), "theta"),
        (lambda: ScalarNetwork(2, 1.0).loss([np.inf, 1.0]), "theta"),
        (lambda: ScalarNetwork(3, 1.0).kappa([1.0, 1.0, 1.0]), "kappa"),
        (lambda: ScalarNetwork(2, 1.0).descend([1.0, 1.0], 0.0, 5), "learning_rate"),
        (lambda: ScalarNetwork(2, 1.0).descend([1.0, 1.0], np.nan, 5), "learning_rate"),
        (lambda: ScalarNetwork(2, 1.0).descend([1.0, np.nan], 0.1, 5), "start"),
        (lambda: ScalarNetwork(2, 1.0).descend([1.0, 1.0], 0.1, 0), "steps"),
        (
            lambda: ScalarNetwork(2, 1.0).descend([1.0, 1.0], 0.1, 5, label_noise=0.1),
            "Generator",
        ),
        (
            lambda: ScalarNetwork(2, 1.0).descend(np.ones((3, 2)), [0.1, 0.2], 5),
            "broadcast",
        ),
        (
            lambda: ScalarNetwork(2, 1.0).start_with_sharpness(1.0, np.random.default_rng(0)),
            "sharpness",
        ),
        (
            lambda: ScalarNetwork(2, 0.0).start_with_sharpness(1.0, np.random.default_rng(0)),
            "target",
        ),
        (lambda: residual_imbalance_dynamics(0.1, 1.0, 1.0, -0.1, 5), "learning_rate"),
        (lambda: ScalarNetwork(3, 1.0).escape_margin(np.ones(3), 0.1), "escape_margin"),
        (lambda: ScalarNetwork(2, 1.0).escape_margin([1.0, 1.0], 0.0), "learning_rate"),
        (lambda: ScalarNetwork(3, 1.0).swing(np.ones(3), -0.1), "learning_rate"),
        (lambda: ScalarNetwork(2, 0.0).stabilization([1.0, 0.0], 0.1), "target"),
        (lambda: instability.reflected_sharpness(25.0, 0.1, target=10.0), "target"),
    ],
)
def test_bad_input_is_refused_by_name(call, names):
    with pytest.raises(ValueError, match=names):
        call()
