"""Statements D1 to D4 beyond single formulas: critical points, orbits, rotation, polarity."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scalar_points import EPS, targets
from scipy.integrate import solve_ivp

from flatminima.theory import rotation
from flatminima.theory.scalar_network import ScalarNetwork

kappas = st.floats(0.05, 5.0)
seeds = st.integers(0, 2**32 - 1)


def output_hessian(depth, theta):
    """The matrix Q of Theorem D1: the Hessian at two targets one apart differs by it."""
    return ScalarNetwork(depth, 0.0).hessian(theta) - ScalarNetwork(depth, 1.0).hessian(theta)


# --- D1 ---------------------------------------------------------------------------------------


@given(st.integers(2, 5), targets, st.floats(-3, 3), seeds)
def test_D1_the_residual_changes_the_spectrum_but_not_its_sum(depth, y, factor, seed):
    # Exercise ex-d1-trace: the one exception is depth two at r = -2 pi.
    generator = np.random.default_rng(seed)
    theta = generator.choice([-1.0, 1.0], depth) * generator.uniform(0.5, 1.5, depth)
    output = np.prod(theta)
    p = output / theta
    alone = np.zeros(depth)
    alone[0] = p @ p
    for r in (factor * output, -2 * output):
        values = ScalarNetwork(depth, output - r).eigenvalues(theta)
        rounding = 100 * depth * EPS * (p @ p) * (1 + abs(r / output))
        assert abs(values.sum() - p @ p) <= rounding
        same = np.abs(values - alone).max() <= rounding
        if r == -2 * output:
            assert same == (depth == 2)
        elif abs(factor) > 1e-3 and abs(factor + 2) > 1e-3:
            assert not same


@given(st.integers(2, 5), st.integers(2, 5), targets, seeds)
def test_D1_critical_points(depth, zeros, y, seed):
    assume(zeros <= depth)
    generator = np.random.default_rng(seed)
    network = ScalarNetwork(depth, y)
    theta = generator.choice([-1.0, 1.0], depth) * generator.uniform(0.5, 1.5, depth)
    empty = generator.permutation(depth)[:zeros]
    one_zero = theta.copy()
    one_zero[empty[0]] = 0.0
    assert np.any(network.gradient(one_zero) != 0), "a single zero is no critical point"
    theta[empty] = 0.0
    assert np.all(network.gradient(theta) == 0)
    values = network.eigenvalues(theta)
    if zeros == 2:
        rest = np.prod(np.delete(theta, empty))
        expected = np.zeros(depth)
        expected[[0, -1]] = abs(y * rest), -abs(y * rest)
        assert np.abs(values - expected).max() <= 100 * EPS * abs(y * rest)
    else:
        assert np.all(values == 0)
    # The loss falls and rises nearby: the output is +-1e-3^zeros times a number of at least 1/8.
    losses = []
    for sign in (1.0, -1.0):
        near = theta.copy()
        near[empty] = 1e-3
        near[empty[0]] *= sign
        losses.append(network.loss(near))
    assert min(losses) < network.loss(theta) < max(losses)


@given(st.integers(2, 6), targets, seeds)
def test_D1_signs_of_the_curvature(depth, y, seed):
    generator = np.random.default_rng(seed)
    network = ScalarNetwork(depth, y)
    theta = generator.choice([-1.0, 1.0], depth) * generator.uniform(0.4, 1.6, depth)
    pi, r = np.prod(theta), network.residual(theta)
    last = depth * abs(pi) - (depth - 1) * abs(r)
    assume(abs(r) > 1e-6 and abs(last) > 1e-6)
    values = network.eigenvalues(theta)
    if r * pi > 0:
        assert values[0] > 0 > values[1]
    else:
        assert values[-2] > 0
        assert np.sign(values[-1]) == np.sign(last)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 4), targets, seeds)
def test_D1_gradient_flow_reaches_the_minimum_of_its_orbit(depth, y, seed):
    generator = np.random.default_rng(seed)
    network = ScalarNetwork(depth, y)
    start = generator.choice([-1.0, 1.0], depth) * generator.uniform(0.5, 1.5, depth)
    size = np.sort(np.abs(start))
    assume(size[1] - size[0] > 0.1)
    minimum = network.minimum(start)
    # The slowest rate is about the square of the product of the other entries, at least 0.01.
    flow = solve_ivp(lambda t, w: -network.gradient(w), (0, 3000), start, "LSODA", rtol=1e-9,
                     atol=1e-11)  # fmt: skip
    assert flow.success
    # An error of at most rtol in each step, of numbers below 3, none amplified for long.
    assert np.abs(flow.y[:, -1] - minimum).max() <= len(flow.t) * 1e-9 * 10
    kept = np.argsort(np.abs(start))[1:]
    assert np.all(np.sign(flow.y[kept]) == np.sign(start[kept])[:, None])


@given(st.integers(2, 5), st.integers(1, 5), seeds)
def test_D1_target_zero(depth, zeros, seed):
    assume(zeros <= depth)
    generator = np.random.default_rng(seed)
    network = ScalarNetwork(depth, 0.0)
    theta = generator.choice([-1.0, 1.0], depth) * generator.uniform(0.5, 1.5, depth)
    assert network.loss(theta) > 0
    theta[generator.permutation(depth)[:zeros]] = 0.0
    assert network.loss(theta) == 0
    rest = np.prod(theta[theta != 0] ** 2) if zeros == 1 else 0.0
    values = network.eigenvalues(theta)
    assert values[0] == pytest.approx(rest, rel=100 * EPS)
    assert np.abs(values[1:]).max() <= 100 * EPS * max(rest, 1)
    assert network.minimum_sharpness(theta) == pytest.approx(rest, rel=1e-12)


@pytest.mark.parametrize("ties", [1, 2, 3])
def test_D1_gradient_flow_at_target_zero(ties):
    network, generator = ScalarNetwork(4, 0.0), np.random.default_rng(ties)
    sizes = np.concatenate([np.full(ties, 0.6), generator.uniform(0.9, 1.5, 4 - ties)])
    start = sizes * generator.choice([-1.0, 1.0], 4)
    time = 400.0
    flow = solve_ivp(lambda t, w: -network.gradient(w), (0, time), start, "LSODA", rtol=1e-10,
                     atol=1e-13)  # fmt: skip
    end = flow.y[:, -1]
    ahead = np.sign(start) * np.sqrt(sizes**2 - 0.36)
    # A tie of k entries falls as du/dt = -u^(2k - 1) prod (u^2 + gap) <= -c u^(2k - 1) with c the
    # product of the gaps; one entry as du/dt <= -c u.
    c = np.prod(sizes[ties:] ** 2 - 0.36)
    bound = (2 * (ties - 1) * c * time) ** (-0.5 / (ties - 1)) if ties > 1 else np.exp(-c * time)
    assert np.abs(end[:ties]).max() <= bound + 1e-9
    assert np.abs(end[ties:] ** 2 - ahead[ties:] ** 2).max() <= bound**2 + 1e-8
    assert np.all(np.sign(end[ties:]) == np.sign(start[ties:]))
    expected = np.prod(ahead[1:] ** 2) if ties == 1 else 0.0
    assert network.minimum_sharpness(start) == pytest.approx(expected, abs=1e-12)
    assert np.abs(network.minimum(start)[:ties]).max() == 0


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_D1_a_tie_keeps_its_signs(target):
    network = ScalarNetwork(3, target)
    start = np.array([0.5, -0.5 * target, -1.2])
    assert np.all(np.sign(network.minimum(start)) == np.sign(start))
    wrong = start * [1.0, -1.0, 1.0]
    flow = solve_ivp(lambda t, w: -network.gradient(w), (0, 60), wrong, rtol=1e-10, atol=1e-13)
    assert np.isnan(network.minimum(wrong)).all()
    assert np.abs(flow.y[:2, -1]).max() < 1e-9
    assert flow.y[2, -1] == pytest.approx(-np.sqrt(1.2**2 - 0.5**2), abs=1e-7)


# --- D2 ---------------------------------------------------------------------------------------


@given(st.integers(2, 5), targets, st.floats(1.05, 8.0), seeds)
def test_D2_unbalanced_minima_turn_at_the_stated_rate(depth, y, ratio, seed):
    network = ScalarNetwork(depth, y)
    generator = np.random.default_rng(seed)
    theta = network.start_with_sharpness(ratio * network.flattest_sharpness, generator)
    p = y / theta
    v, size = p / np.linalg.norm(p), np.linalg.norm(p)
    Q = output_hessian(depth, theta)
    stated = 2 / size * (Q @ v - (v @ Q @ v) * v)
    assert np.linalg.norm(stated) > 0
    # In units of the length |p| / |Q|, over which the residual's part becomes as large as p p^T.
    step = 1e-4 * size / np.linalg.norm(Q, 2)
    ends = [rotation.align(network.leading_eigenvector(theta + s * v), v) for s in (step, -step)]
    measured = (ends[0] - ends[1]) / 2
    # Truncation is of third order in 1e-4, rounding a few eps over a relative gap near one.
    assert np.abs(measured - stated * step).max() <= 100 * 1e-4**3 + 1000 * EPS


@given(st.integers(2, 5), targets, seeds)
def test_D2_balanced_minima_do_not_turn(depth, y, seed):
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], depth)
    signs[-1] = np.sign(y) * np.prod(signs[:-1])
    theta = signs * abs(y) ** (1 / depth)
    v = signs / np.sqrt(depth)
    Q = output_hessian(depth, theta)
    rate = Q @ v - (v @ Q @ v) * v
    assert np.abs(rate).max() <= 100 * EPS * np.linalg.norm(Q, 2)


def test_D2_balance_alone_does_not_fix_the_leading_eigenvector():
    # 2 s^d > y fails: the leading eigenvector is orthogonal to the balanced line.
    assert ScalarNetwork(2, 2.0).angle([0.5, 0.5]) == pytest.approx(-np.pi / 4)


# --- D3 ---------------------------------------------------------------------------------------


@given(kappas, targets, st.floats(-40, 40))
def test_D3_turns_within_a_right_angle(size, y, residual):
    network = ScalarNetwork(2, y)
    phi = network.angle(network.at(residual, size))
    tangent = 2 * (y + 2 * residual) / size
    assert abs(phi) < np.pi / 4
    assert phi == pytest.approx(np.arctan(tangent) / 2, abs=20 * EPS * (1 + abs(tangent)))
    # kappa < 0 is the mirror image in the diagonal: the same angle, from the other axis.
    other = network.angle(network.at(residual, -size))
    mirrored = np.pi / 2 - phi
    apart = np.mod(other - mirrored + np.pi / 2, np.pi) - np.pi / 2
    assert abs(apart) <= 40 * EPS * (1 + abs(tangent))


@given(kappas, targets, st.floats(-3, 3))
def test_D3_a_negative_target_is_a_mirror_image(size, y, residual):
    network, mirror = ScalarNetwork(2, y), ScalarNetwork(2, -y)
    theta = network.at(residual, size)
    reflected = theta * [-1.0, 1.0]
    assert mirror.residual(reflected) == -network.residual(theta)
    assert mirror.angle(reflected) == -network.angle(theta)
    assert np.array_equal(mirror.eigenvalues(reflected), network.eigenvalues(theta))


def test_D3_expansion_in_the_residual_symbolically():
    k, y, r = sp.symbols("kappa y r", positive=True)
    limit = sp.sqrt(k**2 + 4 * y**2)
    phi = sp.atan(2 * (y + 2 * r) / k) / 2
    expected = phi.subs(r, 0) + 2 * k / limit**2 * r - 16 * k * y / limit**4 * r**2
    for order in range(3):
        assert sp.simplify(sp.diff(phi - expected, r, order).subs(r, 0)) == 0
    s, R = sp.sqrt(k**2 + 4 * (y + r) ** 2), sp.sqrt(k**2 + 4 * (y + 2 * r) ** 2)
    sine = 2 * y / limit
    assert sp.simplify(sp.diff((s + R) / 2, r).subs(r, 0) - 3 * sine) == 0
    assert sp.simplify(sp.diff((s - R) / 2, r).subs(r, 0) + sine) == 0


@given(kappas, st.floats(0.2, 3.0), st.floats(0, 5), st.floats(1e-3, 3))
def test_D3_negative_curvature_grows_with_the_overshoot(size, y, residual, rise):
    network = ScalarNetwork(2, y)
    for side in (1.0, -1.0):
        low, high = network.lambda_min(network.at([residual, residual + rise], side * size))
        assert high < low <= 20 * EPS * network.sharpness(network.at(residual, size))
        low, high = network.sharpness(network.at([residual, residual + rise], side * size))
        assert high > low


@given(kappas, targets, st.floats(0.01, 3))
def test_D3_undershooting_turns_further(size, y, residual):
    network = ScalarNetwork(2, y)
    overshoot, undershoot = np.sign(y) * residual, -np.sign(y) * residual
    for side in (1.0, -1.0):
        minimum, over, under = (
            network.leading_eigenvector(network.at(r, side * size))
            for r in (0.0, overshoot, undershoot)
        )
        assert rotation.angle(under, minimum) > rotation.angle(over, minimum) > 0


# --- D4 ---------------------------------------------------------------------------------------


@given(targets, st.floats(-5, 5), st.floats(0.05, 1.5))
def test_D4_stable_minima_are_those_turned_far_enough(y, kappa, eta):
    network = ScalarNetwork(2, y)
    theta = network.at(0.0, kappa)
    sine = abs(np.sin(2 * network.angle(theta)))
    assume(abs(sine - eta * abs(y)) > 1e-9)
    assert (network.sharpness(theta) < 2 / eta) == (sine > eta * abs(y))


def test_D4_derivative_symbolically():
    y, phi = sp.symbols("y varphi", real=True)
    sharpness = 2 * y / sp.sin(2 * phi)
    kappa = sharpness * sp.cos(2 * phi)
    assert sp.simplify(sharpness**2 - kappa**2 - 4 * y**2) == 0
    assert sp.simplify(sp.diff(sharpness, phi) + 2 * kappa / sp.sin(2 * phi)) == 0
