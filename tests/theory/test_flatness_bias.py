"""The imbalance of a scalar network and what changes it: Statements D5 to D7, D9 and M4."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scalar_points import EPS, entries, magnitude, points, symbolic, targets

from flatminima.theory import instability
from flatminima.theory.scalar_network import ScalarNetwork, residual_imbalance_dynamics

targets_or_zero = st.one_of(targets, st.just(0.0))


def test_D5_closed_dynamics_symbolically():
    a, b, y, eta = sp.symbols("a b y eta", real=True)
    r, kappa, s = a * b - y, b**2 - a**2, a**2 + b**2
    a1, b1 = a - eta * r * b, b - eta * r * a
    assert sp.expand(a1 * b1 - y - r * (1 - eta * s + eta**2 * r * (r + y))) == 0
    assert sp.expand(b1**2 - a1**2 - kappa * (1 - eta**2 * r**2)) == 0
    assert sp.expand(s**2 - kappa**2 - 4 * (r + y) ** 2) == 0


@given(entries, entries, targets_or_zero, st.floats(0.01, 0.5))
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


@given(points(2, 5), targets_or_zero, st.floats(0.01, 0.3))
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


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 3), st.floats(0.2, 4), st.floats(1e-3, 0.1), st.sampled_from([1, -1]))
def test_D7_flatness_bias_at_target_zero(kappa, product, size, sign):
    """The sharpness ahead is |kappa|, and the flattest minimum, the origin, is no manifold."""
    network, eta = ScalarNetwork(2, 0.0), product / kappa
    start = network.at(sign * size, kappa)
    assert network.minimum_sharpness(start) == pytest.approx(kappa, rel=1e-12)
    assert network.sharpness(network.minimum(start)) == pytest.approx(kappa, rel=1e-12)
    run = network.descend(start, eta, 3000)
    assume(not run.diverged and np.all(eta * np.abs(run.residual) < np.sqrt(2)))
    assert np.all(np.diff(np.abs(run.kappa)) <= 50 * EPS * kappa)
    assume(0 < abs(run.residual[-1]) < 1e-13)
    slack = 1 + 3000 * 10 * EPS
    assert np.abs(run.kappa[-1]) <= min(kappa, 2 / eta) * slack
    exact = kappa * np.prod(1 - (eta * run.residual[:-1]) ** 2)
    assert abs(run.kappa[-1] - exact) <= 3000 * 50 * EPS * kappa


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


@pytest.mark.parametrize("sign", [1, -1])
def test_D9_a_perfect_overshoot_leads_to_the_saddle(sign):
    """Balanced by an overshoot a run ends in the saddle, by an undershoot in a flattest minimum."""
    network, eta = ScalarNetwork(2, float(sign)), 0.5
    # Every number of the first step is a binary fraction, so that the balance is exact.
    over = network.descend([1.5, 2.0 * sign], eta, 100)
    assert eta * over.residual[0] == sign
    assert over.kappa[0] != 0
    assert np.all(over.kappa[1:] == 0)
    # Where |a| = |b| = u and a b = -u^2 sign: u' = u (1 - eta (1 + u^2)), at most u / 2.
    assert np.all(np.abs(over.theta[-1]) < 0.5**98)

    under = network.descend([-0.5, 2.0 * sign], eta, 100)
    assert eta * under.residual[0] == -sign
    assert np.all(under.kappa[1:] == 0)
    assert under.residual[-1] == pytest.approx(0, abs=1e-14)
    assert under.sharpness[-1] == pytest.approx(network.flattest_sharpness, rel=1e-14)


def test_D9_next_to_a_perfect_overshoot_runs_end_next_to_the_flattest_minimum():
    network, eta, steps = ScalarNetwork(2, 1.0), 0.5, 400
    off = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    start = np.stack([np.full(4, 1.5), 2.0 + off], axis=-1)
    run = network.descend(start, eta, steps)
    assert np.abs(run.residual[-1]).max() < 1e-12
    assert np.abs(eta * run.residual[1:]).max() < np.sqrt(2)
    excess = run.sharpness[-1] - network.flattest_sharpness
    # The bound of the proof, with T = 1; and kappa_1 is of the order of the distance.
    bound = np.sqrt(run.kappa[1] ** 2 + 4) - 2
    assert np.all((excess >= -1e-12) & (excess <= bound + 1e-12))
    assert np.all(np.abs(run.kappa[1]) < 10 * off)


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


@pytest.mark.parametrize("product", [0.0, 0.3, -0.6, 0.9, 1.3, -1.6])
def test_D9_divergence_dichotomy_of_bounded_runs(product):
    """A run inside the ellipse converges to a minimum or balances, |b| - |a| -> 0."""
    eta, generator = 0.3, np.random.default_rng(11)
    network = ScalarNetwork(2, product / eta)
    start = generator.uniform(-1, 1, (3000, 2)) * 3 / np.sqrt(eta)
    start = start[network.escape_margin(start, eta) > 1e-3]
    run = network.descend(start, eta, 40000, record_every=None)
    last = run.theta[-1]
    apart = np.abs(np.abs(last[:, 1]) - np.abs(last[:, 0])) * np.sqrt(eta)
    converged = np.abs(eta * run.residual[-1]) < 1e-6
    balanced = apart < 1e-6
    assert np.all(converged | balanced)
    assert len(start) > 500
    # Below eta |y| = 1 there are stable minima, which attract an open set; above it there are none.
    assert converged.any() == (abs(product) < 1)
    assert (balanced & ~converged).any() == (abs(product) > 1)


@pytest.mark.parametrize("product", [0.0, 0.4, -1.2, 1.7])
def test_D9_divergence_outside_never_comes_back(product):
    """Outside the ellipse |theta| tends to infinity: no run that has been far away comes near."""
    eta, generator = 0.3, np.random.default_rng(12)
    network = ScalarNetwork(2, product / eta)
    start = generator.uniform(-1, 1, (3000, 2)) * 3 / np.sqrt(eta)
    start = start[network.escape_margin(start, eta) < -1e-6]
    run = network.descend(start, eta, 200)
    assert len(start) > 500
    assert run.diverged.all()
    size = eta * np.sum(run.theta**2, axis=-1)
    size = np.where(np.isnan(size), np.inf, size)
    far = np.logical_or.accumulate(size > 27, axis=0)
    assert np.all(size[far] > 27)
    # The size itself is monotone at y = 0 alone, which is why the bound is needed.
    falls = size[1:][np.isfinite(size[1:])] < size[:-1][np.isfinite(size[1:])]
    assert falls.any() == (product != 0)


@given(st.floats(0, 1.99), st.floats(0, 400), st.floats(0, 400), st.floats(27, 100))
def test_D9_divergence_no_return_inequality(Y, U, W, bound):
    """What comes to eta s' <= C with W' <= 1 was at eta s <= C, for every C >= 27."""
    R = (U - W) / 4 - Y
    new_U, new_W = U * (1 - R) ** 2, W * (1 + R) ** 2
    assume(new_W <= 1 and (new_U + new_W) / 2 <= bound)
    assert bound >= (U + W) / 2


@given(st.floats(0, 1.99), st.floats(-5, 5))
def test_D9_divergence_lyapunov_inequality(Y, R):
    """1 + Y R + R^2 >= |1 + R|^Y (1 + R^2)^(1 - Y/2), which makes M_t grow."""
    right = abs(1 + R) ** Y * (1 + R**2) ** (1 - Y / 2)
    assert right * (1 - 1e-13) - 1e-15 <= 1 + Y * R + R**2


# --- M4: every depth --------------------------------------------------------------------------


def rises(theta, y, product):
    """By how much a step of the given swing raises the sharpness ahead, and what rounding may."""
    network = ScalarNetwork(theta.shape[-1], y)
    unit = network.swing(theta, 1.0)
    # Next to a critical point any rate does.
    eta = np.where(unit > 1e-9, product / np.maximum(unit, 1e-9), 1.0)
    new = theta - eta[..., None] * network.gradient(theta)
    before, after = network.minimum_sharpness(theta), network.minimum_sharpness(new)
    # An entry of the new point is rounded to a few EPS of the old or the new size, its square, and
    # so each square of the minimum, to 16 EPS of the larger square; the sharpness is a sum of d
    # products of d - 1 squares. Newton's method leaves about 1e-13 of it.
    d, size = theta.shape[-1], np.maximum(np.abs(theta), np.abs(new)).max(axis=-1) ** 2
    largest = size + abs(y) ** (2 / d)
    rounding = 2 * d**2 * largest ** (d - 2) * 16 * EPS * size + 1e-12 * before
    return after - before, rounding


def random_points(generator, depth, count):
    """Points of all kinds: generic, nearly balanced, with a zero, with a tie."""
    theta = generator.normal(size=(count, depth)) * np.exp(0.7 * generator.normal(size=(count, 1)))
    kind = generator.integers(0, 4, count)
    near = np.exp(0.05 * generator.normal(size=theta.shape))
    theta = np.where((kind == 1)[:, None], theta[:, :1] * near, theta)
    theta[kind == 2, 0] = 0.0
    theta[kind == 3, 1] = -theta[kind == 3, 0]
    return theta


@pytest.mark.parametrize("depth", [2, 3, 4, 5, 6])
def test_M4_a_swing_of_at_most_one_never_sharpens(depth):
    generator = np.random.default_rng(depth)
    worse = 0
    for y in (0.0, 1e-3, 0.01, 0.3, -1.0, 5.0):
        theta = random_points(generator, depth, 1000)
        product = np.where(generator.random(1000) < 0.5, 1.0, generator.random(1000))
        rise, rounding = rises(theta, y, product)
        assert np.all(rise <= rounding)
        beyond, rounding = rises(theta, y, generator.uniform(1, 1.41, 1000))
        worse += np.count_nonzero(beyond > rounding)
    # At depth two sqrt 2 is enough (D7); from depth three on the same steps do sharpen.
    assert (worse > 0) == (depth > 2)


@settings(deadline=None)
@given(points(2, 6), targets_or_zero, st.floats(0, 1))
def test_M4_holds_at_any_point(theta, y, product):
    rise, rounding = rises(theta, y, max(product, 1e-9))
    assert rise <= rounding


@given(
    st.floats(0.3, 1),
    st.lists(st.tuples(st.floats(0.1, 0.5), st.booleans()), min_size=1, max_size=5),
    targets_or_zero,
    st.floats(0.1, 1),
)
def test_M4_flattens_strictly_where_entries_differ(least, rises_by, y, product):
    sizes = least + np.cumsum([0.0, *(rise for rise, _ in rises_by)])
    theta = sizes * np.array([1, *(1 if up else -1 for _, up in rises_by)])
    assume(abs(ScalarNetwork(len(theta), y).residual(theta)) > 1e-3)
    rise, rounding = rises(theta, y, product)
    assert rise < -rounding


def test_M4_the_root_of_two_does_not_suffice_at_depth_three():
    """Every pairwise imbalance shrinks, and the minimum ahead sharpens."""
    network, theta = ScalarNetwork(3, 0.01), np.array([1.0, 1.0, 1.1])
    eta = 1.3 / network.swing(theta, 1.0)
    new = theta - eta * network.gradient(theta)
    assert np.all(np.abs(network.imbalance(new)) <= np.abs(network.imbalance(theta)) + 1e-15)
    before, after = network.minimum_sharpness(np.stack([theta, new]))
    assert before == pytest.approx(0.01004, abs=5e-6)
    assert after == pytest.approx(0.01105, abs=5e-6)


@given(st.integers(3, 6), st.floats(1.01, 1.4), st.floats(0.5, 2), st.booleans())
def test_M4_no_constant_above_one_suffices(depth, constant, scale, zero):
    """theta = (1, ..., 1, 1 + delta) with 1 + delta < constant, at y = 0 or close to it."""
    last = (1 + constant) / 2
    theta = np.append(np.ones(depth - 1), last) * scale
    # With y = 0 the sharpness ahead is 0 before the step, and gap^(d - 1) after it.
    gap = scale**2 * (last**2 - 1) * ((constant / last) ** 2 - 1)
    # Otherwise at most d y^(2 - 2/d) is added before: (squares of the tied) <= y^(2 / d).
    y = 0.0 if zero else (0.01 * gap ** (depth - 1)) ** (depth / (2 * depth - 2)) / depth**2
    network = ScalarNetwork(depth, y)
    eta = constant / network.swing(theta, 1.0)
    before, after = network.minimum_sharpness(
        np.stack([theta, theta - eta * network.gradient(theta)])
    )
    assert after > 0.5 * gap ** (depth - 1)
    assert after > before


def test_M4_the_logarithms_are_majorized():
    """The squares at the minimum ahead: their logarithms come closer, which is more than D6."""
    generator = np.random.default_rng(5)
    network = ScalarNetwork(4, 0.8)
    theta = generator.normal(size=(2000, 4))
    theta = theta[np.abs(theta).min(axis=-1) > 0.05]
    eta = generator.random(len(theta)) / network.swing(theta, 1.0)
    new = theta - eta[:, None] * network.gradient(theta)
    logs = []
    for point in (theta, new):
        squares = np.sort(point**2, axis=-1)
        # q + gap with product y^2, by bisection: independent of the library's Newton method.
        gaps = squares - squares[:, :1]
        low, high = np.full(len(gaps), -80.0), np.full(len(gaps), 10.0)
        for _ in range(100):
            middle = (low + high) / 2
            large = np.log(np.exp(middle)[:, None] + gaps).sum(axis=-1) > 2 * np.log(0.8)
            low, high = np.where(large, low, middle), np.where(large, middle, high)
        logs.append(np.log(np.exp(low)[:, None] + gaps))
    assert np.abs(logs[0].sum(axis=-1) - logs[1].sum(axis=-1)).max() < 1e-9
    assert np.all(np.cumsum(logs[1] - logs[0], axis=-1) > -1e-9)
    sharpness = 0.8**2 * np.exp(-logs[1]).sum(axis=-1)
    assert network.minimum_sharpness(new) == pytest.approx(sharpness, rel=1e-9)
