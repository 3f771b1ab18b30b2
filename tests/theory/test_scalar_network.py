"""The scalar network: its calculus, its gradient descent, and Statements D1 to D9."""

import time
import tracemalloc

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flatminima.theory import instability
from flatminima.theory.scalar_network import (
    ScalarNetwork,
    residual_imbalance_dynamics,
)

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


# --- D1: gradient, Hessian, minima ------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_D1_gradient_and_hessian_symbolically(depth):
    theta, y, loss = symbolic(depth)
    pi = sp.prod(theta)
    r = pi - y
    inverse = sp.diag(*[1 / t for t in theta])
    ones = sp.ones(depth, depth)
    hessian = inverse * ((pi**2 + r * pi) * ones - r * pi * sp.eye(depth)) * inverse
    assert sp.simplify(sp.hessian(loss, theta) - hessian) == sp.zeros(depth, depth)
    for t in theta:
        assert sp.simplify(sp.diff(loss, t) - r * pi / t) == 0


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
    assert np.isnan(network.minimum_sharpness([0.5, -0.5]))
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
    pi = s**depth
    r = pi - y
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
    r, pi = network.residual([a, b]), a * b
    assume(abs(r * (2 * pi + r)) > 1e-9)
    assert (network.lambda_min([a, b]) < 0) == (r * (2 * pi + r) > 0)
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


# --- D5 to D7, D9: the imbalance --------------------------------------------------------------


def test_D5_closed_dynamics_symbolically():
    a, b, y, eta = sp.symbols("a b y eta", real=True)
    r, kappa, s = a * b - y, b**2 - a**2, a**2 + b**2
    a1, b1 = a - eta * r * b, b - eta * r * a
    assert sp.expand(a1 * b1 - y - r * (1 - eta * s + eta**2 * r * (r + y))) == 0
    assert sp.expand(b1**2 - a1**2 - kappa * (1 - eta**2 * r**2)) == 0
    assert sp.expand(s**2 - kappa**2 - 4 * (r + y) ** 2) == 0


@given(entries, entries, targets, st.floats(0.01, 0.5))
def test_D5_closed_dynamics_follow_gradient_descent(a, b, y, eta):
    network = ScalarNetwork(2, y)
    run = network.descend([a, b], eta, 1)
    r, kappa = residual_imbalance_dynamics(
        network.residual([a, b]), network.kappa([a, b]), y, eta, 1
    )
    scale = 50 * EPS * (1 + eta * magnitude(np.array([a, b]), y)) ** 2 * 16
    assert abs(run.residual[1] - r[1]) <= scale
    assert abs(run.kappa[1] - kappa[1]) <= scale


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_D6_pairwise_imbalance_symbolically(depth):
    theta, y, loss = symbolic(depth)
    eta = sp.symbols("eta", real=True)
    new = [t - eta * sp.diff(loss, t) for t in theta]
    i, j = 0, depth - 1
    rest = sp.prod([theta[k] for k in range(depth) if k not in (i, j)])
    factor = 1 - eta**2 * (sp.prod(theta) - y) ** 2 * rest**2
    assert sp.expand(new[i] ** 2 - new[j] ** 2 - (theta[i] ** 2 - theta[j] ** 2) * factor) == 0


@given(points(2, 5), targets, st.floats(0.01, 0.3))
def test_D6_pairwise_imbalance(theta, y, eta):
    network = ScalarNetwork(len(theta), y)
    new = theta - eta * network.gradient(theta)
    d = len(theta)
    rest = np.array([[np.prod(np.delete(theta, list({i, j}))) for j in range(d)] for i in range(d)])
    factor = 1 - (eta * network.residual(theta) * rest) ** 2
    tolerance = 20 * d * EPS * (np.abs(theta).max() + eta * magnitude(theta, y)) ** 2 * 4
    error = network.imbalance(new) - network.imbalance(theta) * factor
    assert np.abs(error).max() <= tolerance


@settings(deadline=None)
@given(targets, st.floats(0.3, 1.7), st.floats(1.02, 6), st.floats(-0.05, 0.05))
def test_D7_flatness_bias(y, product, ratio, residual):
    network = ScalarNetwork(2, y)
    sharpness = network.flattest_sharpness * ratio
    kappa = np.sqrt(sharpness**2 - 4 * y**2)
    start = network.at(residual * abs(y), kappa)
    eta = product / sharpness
    run = network.descend(start, eta, 3000)
    assume(not run.diverged and np.all(eta * np.abs(run.residual) < np.sqrt(2)))
    imbalance = np.abs(run.kappa)
    assert np.all(np.diff(imbalance) <= 50 * EPS * sharpness)
    assume(abs(run.residual[-1]) < 1e-13)
    final = np.hypot(run.kappa[-1], 2 * y)
    slack = 1 + 3000 * 10 * EPS
    assert final <= min(sharpness, 2 / eta) * slack
    exact = kappa * np.prod(1 - (eta * run.residual[:-1]) ** 2)
    assert abs(run.kappa[-1] - exact) <= 3000 * 50 * EPS * sharpness
    budget = instability.instability_budget(run.residual[:-1], eta)
    if np.all(eta * np.abs(run.residual) < 1):
        assert np.log(abs(run.kappa[-1]) / kappa) <= -budget + 3000 * 50 * EPS


@settings(deadline=None, max_examples=30)
@given(targets, st.floats(2.02, 2.3), st.floats(1.3, 6), st.sampled_from([1e-3, -1e-3]))
def test_D7_an_unstable_start_ends_below_the_threshold(y, product, ratio, residual):
    network = ScalarNetwork(2, y)
    sharpness = network.flattest_sharpness * ratio
    start = network.at(residual, np.sqrt(sharpness**2 - 4 * y**2))
    eta = product / sharpness
    assume(network.flattest_sharpness < 1.9 / eta)
    run = network.descend(start, eta, 20000, record_every=None)
    assume(not run.diverged and abs(run.residual[-1]) < 1e-12)
    assert run.sharpness[-1] <= 2 / eta * (1 + 1e-9)


@given(targets, st.floats(0.02, 1.9), st.floats(1.0, 8), st.floats(-0.3, 0.3))
def test_D7_stable_training_spends_next_to_nothing(y, product, ratio, residual):
    network = ScalarNetwork(2, y)
    sharpness = network.flattest_sharpness * ratio
    eta, rho = product / sharpness, abs(residual * y)
    kappa = np.sqrt(sharpness**2 - 4 * y**2)
    widest = np.hypot(kappa, 2 * (abs(y) + rho))
    q = max(1 - 2 * eta * (abs(y) - rho), eta * widest - 1) + eta**2 * rho * (abs(y) + rho)
    assume(q < 1)
    run = network.descend(network.at(residual * y, kappa), eta, 300)
    # Rounding of r is absolute, of the order of EPS * y a step.
    assert np.all(
        np.abs(run.residual[1:]) <= q * np.abs(run.residual[:-1]) + 50 * EPS * (1 + widest)
    )
    budget = instability.instability_budget(run.residual[:-1], eta)
    bound = eta**2 * rho**2 / (1 - q**2)
    assert budget <= bound * (1 + 1e-9) + 300 * (50 * EPS * eta * (1 + widest)) ** 2 / (1 - q) ** 2


@given(st.lists(st.floats(-0.9, 0.9), min_size=1, max_size=30), st.floats(0.01, 2))
def test_D7_budget_bounds_the_flattening_on_both_sides(overshoots, eta):
    residuals = np.array(overshoots) / eta
    budget = instability.instability_budget(residuals, eta)
    factor = instability.log_imbalance_factor(residuals, eta)
    q = np.abs(overshoots).max()
    slack = 100 * EPS * (1 + budget)
    assert -budget / (1 - q**2) - slack <= factor <= -budget + slack


def test_D7_exception_lands_on_a_sharp_minimum_exactly():
    # 1 - eta s + eta^2 r (r + y) = 0 at (0, 1) with y = 4 and eta = 1: the step ends at r = 0,
    # where it stays, however sharp the minimum. All numbers are exact.
    network = ScalarNetwork(2, 4.0)
    run = network.descend([0.0, 1.0], 1.0, 50)
    assert run.theta[1].tolist() == run.theta[-1].tolist() == [4.0, 1.0]
    assert run.sharpness[-1] == 17.0 > 2 / 1.0


@pytest.mark.parametrize("product", [0.5, 1.0, 1.3, 1.5, 2.0])
def test_D9_the_imbalance_grows_exactly_past_the_root_of_two(product):
    # eta |r| = product, with y = 1 and any kappa.
    network = ScalarNetwork(2, 1.0)
    eta, kappa = 0.5, 3.0
    theta = network.at(product / eta, kappa)
    run = network.descend(theta, eta, 1)
    ratio = abs(run.kappa[1] / run.kappa[0])
    assert ratio == pytest.approx(abs(1 - product**2), abs=1e-12)
    assert (ratio > 1) == (product > np.sqrt(2))


def test_D9_final_sharpness_is_not_monotone_in_the_excess():
    network, eta = ScalarNetwork(2, 1.0), 0.1
    products = np.array([1.05, 1.2, 1.4, 1.6, 1.8])
    sharpness = 2 / eta * products
    start = network.at(1e-3, np.sqrt(sharpness**2 - 4))
    run = network.descend(start, eta, 20000, record_every=None)
    assert not run.diverged.any()
    final = run.sharpness[-1] * eta / 2
    lowest = np.argmin(final)
    assert 0 < lowest < len(products) - 1
    assert np.all(np.diff(final[: lowest + 1]) < 0)
    assert final[-1] > 2 * final[lowest]


def test_D9_overshoot_between_one_and_the_root_of_two_already_bends_the_curve():
    """The final sharpness rises with the excess again while every eta |r| is below sqrt 2."""
    network, eta = ScalarNetwork(2, 1.0), 0.1
    sharpness = 2 / eta * np.array([1.6, 1.65])
    run = network.descend(network.at(1e-3, np.sqrt(sharpness**2 - 4)), eta, 5000)
    assert np.all(np.abs(eta * run.residual) < np.sqrt(2))
    assert run.sharpness[-1, 1] > 1.5 * run.sharpness[-1, 0]


def test_D9_a_sign_change_of_the_imbalance_encloses_a_balanced_run():
    """kappa_T changes its sign with the start only through 0, where eta |r_t| = 1 at a step."""
    network, eta, steps = ScalarNetwork(2, 1.0), 0.1, 400

    def final(product):
        start = network.at(1e-3, np.sqrt((2 / eta * product) ** 2 - 4))
        return network.descend(start, eta, steps)

    low, high = 1.4, 1.6
    assert final(low).kappa[-1] > 0 > final(high).kappa[-1]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if final(middle).kappa[-1] > 0 else (low, middle)
    run = final(low)
    # A bisection to rounding leaves 1 - eta |r| of the order of rounding, amplified by the run.
    assert np.abs(1 - np.abs(eta * run.residual)).min() < 1e-9
    assert run.sharpness[-1] == pytest.approx(network.flattest_sharpness, rel=1e-9)


def test_D9_divergence_identities_symbolically():
    a, b, y, eta = sp.symbols("a b y eta", real=True)

    def state(a, b):
        r = a * b - y
        return eta * r, 4 - eta * (a**2 + b**2) + eta**2 * y * r

    R, Q = state(a, b)
    Y = eta * y
    new_R, new_Q = state(a - R * b, b - R * a)
    assert sp.expand(new_R - R * (R**2 - 3 + Q)) == 0
    assert sp.expand(new_Q - Q * (1 + Y * R + R**2)) == 0
    U, W = eta * (a + b) ** 2, eta * (a - b) ** 2
    assert sp.expand(Q - (4 - Y**2 - (2 - Y) * U / 4 - (2 + Y) * W / 4)) == 0
    # On the ellipse Q = 0 the angle triples.
    t, target = sp.symbols("t Y", real=True)
    u, w = 2 * sp.sqrt(2 + target) * sp.cos(t), 2 * sp.sqrt(2 - target) * sp.sin(t)
    residual = (u**2 - w**2) / 4 - target
    assert sp.simplify(residual - 2 * sp.cos(2 * t)) == 0
    tripled = 2 * sp.sqrt(2 + target) * sp.cos(3 * t), 2 * sp.sqrt(2 - target) * sp.sin(3 * t)
    assert sp.simplify(sp.expand_trig(u * (1 - residual) + tripled[0])) == 0
    assert sp.simplify(sp.expand_trig(w * (1 + residual) - tripled[1])) == 0


@pytest.mark.parametrize("product", [0.0, 0.1, -0.5, 0.9, 1.4, -1.8])
def test_D9_divergence_boundary_on_random_starts(product):
    eta = 0.3
    network = ScalarNetwork(2, product / eta)
    generator = np.random.default_rng(7)
    start = generator.uniform(-1, 1, (20000, 2)) * 3 / np.sqrt(eta)
    margin = network.escape_margin(start, eta)
    # The margin is rounded to a few EPS * 4; each step multiplies it by 1 - y^2 eta^2 / 4 > 0.19
    # at least, so that margins above 1e-9 keep their sign as long as a run is near the ellipse.
    start, margin = start[np.abs(margin) > 1e-9], margin[np.abs(margin) > 1e-9]
    run = network.descend(start, eta, 3000, record_every=None)
    assert np.array_equal(run.diverged, margin < 0)
    assert 0.1 < run.diverged.mean() < 0.9
    inside = network.descend(start[margin > 0], eta, 100)
    assert np.all(np.abs(eta * inside.residual) < 2)


@given(st.floats(0, 1.99), st.floats(-5, 5))
def test_D9_divergence_lyapunov_inequality(Y, R):
    """1 + Y R + R^2 >= |1 + R|^Y (1 + R^2)^(1 - Y/2), which makes M_t grow."""
    right = abs(1 + R) ** Y * (1 + R**2) ** (1 - Y / 2)
    assert right * (1 - 1e-13) - 1e-15 <= 1 + Y * R + R**2


# --- D8: the reflection law --------------------------------------------------------------------


def reflection(depth, target, limit, excess, residual, seed):
    """Start above a threshold ``limit`` and return the final excess over it, all over limit."""
    network = ScalarNetwork(depth, target)
    eta = 2 / limit
    generator = np.random.default_rng(seed)
    start = network.start_with_sharpness(limit * (1 + excess), generator, residual)
    steps = int(60 / excess)
    run = network.descend(start, eta, steps, record_every=None)
    return run.sharpness[-1] / limit - 1


def stabilization(theta, target, eta):
    """The constant c of Theorem D8 at a minimum theta."""
    w = np.asarray(theta) ** -2.0
    return eta * target**4 * (np.sum(w**3) - np.sum(w**2) ** 2 / np.sum(w))


@given(st.integers(2, 6), targets, st.floats(0.01, 3), st.integers(0, 2**32 - 1))
def test_D8_constant_vanishes_at_the_flattest_minimum_only(depth, y, log_ratio, seed):
    network, eta = ScalarNetwork(depth, y), 0.2
    sharpness = network.flattest_sharpness * np.exp(log_ratio)
    theta = network.start_with_sharpness(sharpness, np.random.default_rng(seed))
    w = theta**-2.0
    # Two sums of d terms, each rounded a few times, are subtracted in the plain formula.
    tolerance = 100 * depth * EPS * eta * y**4 * np.sum(w**3)
    c = network.stabilization(theta, eta)
    assert abs(c - stabilization(theta, y, eta)) <= tolerance
    assert c > 0
    flattest = network.start_with_sharpness(network.flattest_sharpness, np.random.default_rng(0))
    assert network.stabilization(flattest, eta) <= (100 * EPS) ** 2 * eta * y**4 * np.sum(w**3)


def test_D8_one_step_moves_the_minimum_ahead_as_stated():
    """The minimum ahead changes its sharpness by -eta c r^2 + O(r^3) (at depth 2: + O(r^4))."""
    for depth in (3, 4, 5):
        network, eta = ScalarNetwork(depth, 1.2), 0.05
        errors = []
        for r in (1e-2, 5e-3):
            minimum = network.start_with_sharpness(30.0, np.random.default_rng(depth))
            theta = network.start_with_sharpness(30.0, np.random.default_rng(depth), r)
            new = theta - eta * network.gradient(theta)
            change = network.minimum_sharpness(new) - network.minimum_sharpness(theta)
            errors.append(change + eta * network.stabilization(minimum, eta) * r**2)
        assert 6 < errors[0] / errors[1] < 10  # 2^3 up to the next order


def test_D8_constant_at_depth_two_symbolically():
    w1, w2, y, eta = sp.symbols("w1 w2 y eta", positive=True)
    c = eta * y**4 * (w1**3 + w2**3 - (w1**2 + w2**2) ** 2 / (w1 + w2))
    S = y**2 * (w1 + w2)
    # On the manifold w1 w2 = 1 / y^2.
    difference = (c - eta * (S**2 - 4 * y**2) / S).subs(w2, 1 / (y**2 * w1))
    assert sp.simplify(difference) == 0


def test_D8_two_step_expansion_at_depth_two_symbolically():
    """The odd terms cancel over two steps, and the excess falls by 2 eta c r^2."""
    r, eps, h, y, eta = sp.symbols("r epsilon h y eta", positive=True)

    def step(res, kappa_squared):
        s = sp.sqrt(kappa_squared + 4 * (res + y) ** 2)
        new = res * (1 - eta * s + eta**2 * res * (res + y))
        return new, kappa_squared * (1 - eta**2 * res**2) ** 2

    kappa_squared = (2 / eta + h * eps) ** 2 - 4 * y**2
    one = step(h * r, kappa_squared)
    two = step(*one)
    ratio = sp.series(sp.simplify(two[0] / (h * r)), h, 0, 2).removeO()
    assert sp.simplify(ratio - (1 + 2 * eta * eps * h)) == 0
    excess = sp.series(sp.sqrt(two[1] + 4 * y**2) - 2 / eta, h, 0, 3).removeO()
    expected = h * eps - 4 * eta * (1 - eta**2 * y**2) * h**2 * r**2
    assert sp.simplify(excess - expected) == 0


def test_D8_second_order_invariant_at_depth_two_symbolically():
    """The cubic E of the corollary changes by R^2 times third order over two steps."""
    R, d, Y, h = sp.symbols("R delta Y h")

    def truncate(expression, order):
        expression = sp.expand(expression)
        return sum(sp.cancel(expression.coeff(h, k)) * h**k for k in range(order + 1))

    def step(res, dev):
        square = (2 + dev) ** 2
        s = sp.series(sp.sqrt(square + 8 * Y * res + 4 * res**2), h, 0, 4).removeO()
        shrunk = 4 * Y**2 + (square - 4 * Y**2) * (1 - res**2) ** 2
        new = sp.series(sp.sqrt(shrunk) - 2, h, 0, 5).removeO()
        return truncate(res * (1 - s + res * (res + Y)), 4), truncate(new, 4)

    two = step(*step(h * R, h * d))
    c, beta = 2 - 2 * Y**2, 2 - 6 * Y**2
    alpha = sp.Rational(2, 3) * (1 - 4 * Y**2) / (1 - Y**2)

    def invariant(res, dev):
        cubic = alpha * dev**3 + beta * dev * res**2 + c * Y * res**3
        return dev**2 + c * res**2 + cubic

    change = truncate(invariant(*two) - invariant(h * R, h * d), 4)
    assert sp.simplify(change) == 0


@pytest.mark.parametrize("product", [0.05, 0.3, 0.5, 0.8])
def test_D8_second_order_at_depth_two(product):
    eta, errors = 0.25, []
    network = ScalarNetwork(2, -product / eta)
    for excess in (0.02, 0.01, 0.005):
        before = 2 / eta * (1 + excess)
        # A residual of the order e^3 / eta adds to the excess at fifth order only.
        start = network.at(excess**3 / eta, np.sqrt(before**2 - 4 * network.target**2))
        run = network.descend(start, eta, int(60 / excess), record_every=None)
        predicted = instability.reflected_sharpness(before, eta, network.target)
        errors.append(float(run.sharpness[-1] - predicted) * eta / 2)
    errors = np.abs(errors)
    # Third order: halving the excess divides the error by 8 (1 + O(e)), or by more where the
    # coefficient of the third order happens to be zero.
    assert np.all(errors[:-1] / errors[1:] > 6.5)


@pytest.mark.parametrize(("depth", "ratio"), [(2, 3.0), (3, 2.0), (4, 1.5), (5, 1.5)])
@pytest.mark.parametrize("target", [1.0, -0.8])
def test_D8_error_is_of_second_order(depth, ratio, target):
    limit = ScalarNetwork(depth, target).flattest_sharpness * ratio
    excess = np.array([0.01, 0.005, 0.0025])
    # A residual of the order of the excess squared contributes at third order only.
    final = [float(reflection(depth, target, limit, e, target * e**2 / 10, seed=3)) for e in excess]
    error = np.abs(np.array(final) + excess)
    # Halving the excess divides an error C e^2 + O(e^3) by 4 / (1 + O(e)): in [3, 5] here.
    assert np.all(np.array(final) < 0)
    assert np.all((error[:-1] / error[1:] > 3) & (error[:-1] / error[1:] < 5))


@pytest.mark.parametrize("depth", [2, 3])
def test_D8_counts_the_starting_residual(depth):
    """The excess ends at minus the root of excess^2 + c r^2, to second order."""
    network = ScalarNetwork(depth, 1.0)
    limit = network.flattest_sharpness * 2
    eta = 2 / limit
    errors = []
    for h in (0.02, 0.01):
        excess = h * limit
        generator = np.random.default_rng(5)
        minimum = network.start_with_sharpness(limit + excess, generator)
        c = stabilization(minimum, 1.0, eta)
        residual = excess / np.sqrt(c)
        start = network.start_with_sharpness(limit + excess, np.random.default_rng(5), residual)
        run = network.descend(start, eta, int(60 / h), record_every=None)
        predicted = -np.sqrt(excess**2 + c * residual**2)
        errors.append(abs(run.sharpness[-1] - limit - predicted) / limit)
    assert 3 < errors[0] / errors[1] < 5


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


def test_grid_takes_a_fiftieth_of_the_processor_time_of_a_loop():
    # Processor time, over all threads: on two idle cores the wall time is half of it.
    network, steps = ScalarNetwork(2, 1.0), 2000
    sharpness = np.linspace(2.01, 30, 1000)
    start = network.at(1e-2, np.sqrt(sharpness**2 - 4))
    rates = np.linspace(0.01, 0.2, 1000)
    grid, loop = [], []
    cells = np.random.default_rng(0).integers(1000, size=(2, 40)).T
    for _ in range(3):
        begin = time.process_time()
        run = network.descend(start, rates[:, None], steps, record_every=None)
        grid.append(time.process_time() - begin)
        begin = time.process_time()
        ends = [plain_loop(*map(float, start[j]), float(rates[i]), steps) for i, j in cells]
        loop.append((time.process_time() - begin) / len(cells) * 1e6)
    for (i, j), end in zip(cells, ends, strict=True):
        assert run.diverged[i, j] or np.allclose(run.theta[-1, i, j], end, rtol=1e-6, atol=1e-6)
    assert min(loop) / min(grid) >= 50


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
        (lambda: ScalarNetwork(2, 0.0).stabilization([1.0, 0.0], 0.1), "target"),
        (lambda: instability.reflected_sharpness(25.0, 0.1, target=10.0), "target"),
    ],
)
def test_bad_input_is_refused_by_name(call, names):
    with pytest.raises(ValueError, match=names):
        call()
