"""The reflection law, to first and second order: Theorem D8."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st
from scalar_points import EPS, targets

from flatminima.theory import instability
from flatminima.theory.scalar_network import ScalarNetwork


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


def misses_from(network, eta, minimum, direction, sizes):
    """|final sharpness - law| from starts minimum + size * direction, and the h of each."""
    c, found = network.stabilization(minimum, eta), []
    for size in sizes:
        start = minimum + size * direction
        excess = network.minimum_sharpness(start) - 2 / eta
        h = np.sqrt(excess**2 + c * network.residual(start) ** 2)
        run = network.descend(start, eta, int(60 / (eta * h)), record_every=None)
        found.append((abs(run.sharpness[-1] - (2 / eta - h)), h, excess))
    return np.array(found).T


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_D8_from_starts_in_general_directions(depth):
    """Both signs of the excess, and the residual as large as the excess: the miss is O(h^2)."""
    network = ScalarNetwork(depth, 1.0)
    limit = 2.2 * network.flattest_sharpness
    eta, generator, signs = 2 / limit, np.random.default_rng(depth), []
    minimum = network.start_with_sharpness(limit, np.random.default_rng(1))
    for _ in range(12):
        direction = generator.normal(size=depth)
        direction /= np.linalg.norm(direction)
        slope = network.minimum_sharpness(minimum + 1e-4 * direction) - limit
        scale = 0.01 * limit / max(abs(slope) / 1e-4, limit / 10)
        sizes = scale / np.array([1, 2, 4])
        misses, h, excess = misses_from(network, eta, minimum, direction, sizes)
        signs.append(excess[0] > 0)
        # C tends to a constant; an error of first order would double it each time.
        constants = misses / h**2
        assert constants[2] < 1.3 * constants[1] + 0.1 / limit, (direction, constants)
    assert 2 <= sum(signs) <= 10, "starts on both sides of the threshold"


@pytest.mark.parametrize("share", [0.0, -0.5, -2.0])
def test_D8_below_and_on_the_threshold(share):
    """An excess of zero or below, in units of sqrt(c) |r|: the law with h, not with the excess."""
    for depth in (2, 3):
        network = ScalarNetwork(depth, 1.0)
        limit = 2 * network.flattest_sharpness
        eta, misses, naive = 2 / limit, [], []
        c = network.stabilization(
            network.start_with_sharpness(limit, np.random.default_rng(2)), eta
        )
        for residual in (0.02, 0.01):
            excess = share * np.sqrt(c) * residual
            start = network.start_with_sharpness(limit + excess, np.random.default_rng(2), residual)
            h = np.sqrt(excess**2 + c * residual**2)
            run = network.descend(start, eta, int(60 / (eta * h)), record_every=None)
            misses.append(abs(run.sharpness[-1] - limit + h))
            naive.append(abs(run.sharpness[-1] - limit + abs(excess)))
        assert 3 < misses[0] / misses[1] < 5, (depth, misses)
        assert 1.5 < naive[0] / naive[1] < 2.5, "without the residual it would be of first order"


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_D8_a_stable_run_flattens_by_its_small_budget(depth):
    """From below the threshold the fall is c r^2 / (|excess| + |final|), to a relative O(h)."""
    network = ScalarNetwork(depth, 1.0)
    limit = 2.5 * network.flattest_sharpness
    eta, misses = 2 / limit, []
    c = network.stabilization(network.start_with_sharpness(limit, np.random.default_rng(4)), eta)
    for share in (0.04, 0.02, 0.01):
        # c r^2 = h^4 / limit^2: the fall is of third order, below the error C h^2 of the law.
        h = share * limit
        residual = h**2 / limit / np.sqrt(c)
        start = network.start_with_sharpness(limit - h, np.random.default_rng(4), residual)
        run = network.descend(start, eta, int(60 / (eta * h)), record_every=None)
        final = limit - network.minimum_sharpness(run.theta[-1])
        misses.append((final - h) * (final + h) / (c * residual**2) - 1)
    misses = np.abs(misses)
    assert misses[0] < 0.5
    # First order: each halving of h divides the miss by 2 (1 + O(h)), or by more.
    assert np.all(misses[:-1] / misses[1:] > 1.7)
