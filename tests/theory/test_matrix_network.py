"""Matrix networks of any width: Statement M5, their minima, and what is left of its law."""

from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory.diagonal_network import DiagonalNetwork
from flatminima.theory.matrix_network import MatrixNetwork
from flatminima.theory.scalar_network import ScalarNetwork, residual_imbalance_dynamics

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 4)
targets = st.one_of(st.floats(-2, 2, allow_subnormal=False), st.just(0.0))


def nuclear(matrix):
    return np.linalg.svd(matrix, compute_uv=False).sum(axis=-1)


def case(a, b, width, seed):
    """A network, a point of any scale, and the generator that made them."""
    generator = np.random.default_rng(seed)
    network = MatrixNetwork(generator.normal(size=(a, b)), width)
    theta = generator.normal(size=(a + b, width)) * np.exp(generator.normal() / 2)
    return network, theta, generator


def magnitude(network, theta):
    """A bound on the intermediate numbers in gradient and Hessian."""
    size = np.sum(np.square(theta))
    return (1 + size) * (1 + size + np.abs(network.target).sum())


# --- calculus ---------------------------------------------------------------------------------


@given(sides, sides, sides, seeds)
def test_derivatives_against_differences_of_the_loss(a, b, width, seed):
    network, theta, generator = case(a, b, width, seed)
    direction = generator.normal(size=theta.shape)

    # The loss is a polynomial of degree 4 along a line: fitting five values gives it exactly.
    times = np.arange(-2.0, 3.0)
    losses = network.loss(theta + times[:, None, None] * direction)
    by_power = np.linalg.solve(np.vander(times, increasing=True), losses)
    size = 1e4 * EPS * magnitude(network, np.abs(theta) + 2 * np.abs(direction))
    assert abs(np.sum(network.gradient(theta) * direction) - by_power[1]) <= size
    product = network.hessian_product(theta, direction)
    assert abs(np.sum(product * direction) / 2 - by_power[2]) <= size
    hessian = network.hessian(theta)
    assert np.abs(hessian - hessian.T).max() <= size
    assert np.abs(hessian @ direction.ravel() - product.ravel()).max() <= size


def test_shapes_and_bad_input():
    network = MatrixNetwork(np.ones((2, 3)), 4)
    theta = np.random.default_rng(0).normal(size=(6, 5, 4))
    assert network.residual(theta).shape == (6, 2, 3)
    assert network.hessian(theta).shape == (6, 20, 20)
    assert network.minimum_eigenvalues(theta).shape == (6, 6)
    assert network.imbalance(theta).shape == (6, 4, 4)
    run = network.descend(theta, np.full(6, 0.01), 10, record_every=5)
    assert run.steps.tolist() == [0, 5, 10]
    assert run.sharpness.shape == run.imbalance_size.shape == (3, 6)
    calls = {
        "target": lambda: MatrixNetwork([1.0], 1),
        "width": lambda: MatrixNetwork([[1.0]], 0),
        "theta": lambda: network.loss(np.ones((5, 3))),
        "twin": lambda: network.twin(theta),
        "stretch": lambda: network.minimum(np.zeros(3)),
        "turn must have shape": lambda: network.minimum(np.zeros(2), np.eye(2)),
        "orthonormal": lambda: network.minimum(np.zeros(2), np.ones((4, 2))),
        "width of at least 2": lambda: MatrixNetwork(np.ones((2, 3)), 1).minimum(np.zeros(2)),
        "learning_rate": lambda: network.imbalance_change(theta, 0.0),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name):
            call()


def test_a_diverged_run_is_reported():
    network = MatrixNetwork(np.eye(2), 2)
    start = np.stack([np.full((4, 2), 0.3), np.full((4, 2), 30.0)])
    run = network.descend(start, 0.1, 60)
    assert run.diverged.tolist() == [False, True]
    assert np.isnan(run.theta[-1, 1]).all()
    assert np.isnan(run.sharpness[-1, 1])
    assert np.isfinite(run.sharpness[:, 0]).all()


# --- M5: one output, any width ----------------------------------------------------------------


def test_M5_the_law_symbolically():
    u, v = sp.Matrix(sp.symbols("u1:4", real=True)), sp.Matrix(sp.symbols("v1:4", real=True))
    y, eta = sp.symbols("y eta", real=True)
    r = u.dot(v) - y
    new_u, new_v = u - eta * r * v, v - eta * r * u
    delta = v * v.T - u * u.T
    change = new_v * new_v.T - new_u * new_u.T - (1 - eta**2 * r**2) * delta
    assert change.applyfunc(sp.expand) == sp.zeros(3, 3)
    # The nonzero eigenvalues have the sum |v|^2 - |u|^2 and the product f^2 - |u|^2 |v|^2 <= 0, so
    # that the square of their distance, the nuclear norm, is (|u|^2 + |v|^2)^2 - 4 f^2.
    uu, vv, f = u.dot(u), v.dot(v), u.dot(v)
    assert sp.expand(delta.trace() - (vv - uu)) == 0
    assert sp.expand((delta**2).trace() - (vv - uu) ** 2 + 2 * (f**2 - uu * vv)) == 0
    assert sp.expand((vv - uu) ** 2 - 4 * (f**2 - uu * vv) - (uu + vv) ** 2 + 4 * f**2) == 0


@given(st.integers(1, 6), targets, st.floats(0.01, 0.5), seeds)
def test_M5_imbalance_and_size(width, y, eta, seed):
    generator = np.random.default_rng(seed)
    network = MatrixNetwork([[y]], width)
    theta = generator.normal(size=(2, width)) * np.exp(generator.normal())
    if seed % 3 == 0:
        theta[1] = theta[0] * generator.choice([-1.0, 1.0, 0.0])
    residual, delta = network.residual(theta)[0, 0], network.imbalance(theta)
    new = theta - eta * network.gradient(theta)
    size = np.sum(theta**2) * (1 + eta * abs(residual)) ** 2
    rounding = 100 * EPS * size
    factor = 1 - eta**2 * residual**2
    assert np.abs(network.imbalance(new) - factor * delta).max() <= rounding
    s, f = np.sum(theta**2), residual + y
    assert abs(np.hypot(nuclear(delta), 2 * f) - s) <= 1e-7 * s
    assert network.imbalance_size(theta) == pytest.approx(nuclear(delta), abs=100 * EPS * s)
    # Another norm of Delta would do at width one alone.
    frobenius = np.linalg.norm(delta)
    if nuclear(delta) > 1.2 * frobenius:
        assert np.hypot(frobenius, 2 * f) < s * (1 - 1e-3)


@settings(deadline=None)
@given(st.integers(1, 6), targets, seeds)
def test_M5_every_run_is_one_of_width_one(width, y, seed):
    generator = np.random.default_rng(seed)
    network, scalar = MatrixNetwork([[y]], width), ScalarNetwork(2, y)
    theta = generator.normal(size=(2, width)) / np.sqrt(width)
    # Inside the ellipse: eta s + eta |y| <= 1 leaves a margin of 4 - 1 - |eta y| |eta r| > 0.
    eta = generator.uniform(0.05, 1) / (np.sum(theta**2) + abs(y))
    twin = network.twin(theta)
    wide, narrow = network.descend(theta, eta, 6), scalar.descend(twin, eta, 6)
    # There a step multiplies rounding by less than ten.
    rounding = 1e6 * EPS * (1 + np.sum(theta**2) + abs(y)) ** 2
    assert np.abs(wide.residual[:, 0, 0] - narrow.residual).max() <= rounding
    assert np.abs(wide.imbalance_size - np.abs(narrow.kappa)).max() <= rounding
    r, kappa = residual_imbalance_dynamics(narrow.residual[0], narrow.kappa[0], y, eta, 6)
    assert np.abs(wide.residual[:, 0, 0] - r).max() <= rounding
    assert np.abs(wide.imbalance_size - np.abs(kappa)).max() <= rounding


@given(st.integers(1, 5), targets, seeds)
def test_M5_the_spectrum_is_that_of_width_one_and_the_residual(width, y, seed):
    generator = np.random.default_rng(seed)
    network, scalar = MatrixNetwork([[y]], width), ScalarNetwork(2, y)
    theta = generator.normal(size=(2, width)) * np.exp(generator.normal() / 2)
    if seed % 4 == 0:
        theta[1] = -theta[0]
    residual = network.residual(theta)[0, 0]
    pair = scalar.eigenvalues(network.twin(theta))
    expected = np.concatenate([pair, np.repeat([residual, -residual], width - 1)])
    size = 1 + np.sum(theta**2) + abs(y)
    assert np.abs(network.eigenvalues(theta) - np.sort(expected)[::-1]).max() <= 1e3 * EPS * size
    assert network.sharpness(theta) == pytest.approx(pair[0], abs=1e3 * EPS * size)
    if width > 1:
        least = network.eigenvalues(theta)[-1]
        assert least == pytest.approx(-abs(residual), abs=1e3 * EPS * size)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_M5_the_ellipse_decides_at_every_width(width):
    y, eta, generator = 1.0, 0.6, np.random.default_rng(width)
    network, scalar = MatrixNetwork([[y]], width), ScalarNetwork(2, y)
    start = generator.normal(size=(2000, 2, width)) * np.sqrt(3 / eta / width)
    margin = scalar.escape_margin(network.twin(start), eta)
    assert np.allclose(margin, 4 - eta * np.sum(start**2, axis=(-2, -1)) + eta**2 * y * (
        network.residual(start)[:, 0, 0]))  # fmt: skip
    start = start[np.abs(margin) > 1e-6]
    run = network.descend(start, eta, 2000, record_every=None)
    assert np.array_equal(run.diverged, margin[np.abs(margin) > 1e-6] < 0)
    assert 0.1 < run.diverged.mean() < 0.9


@pytest.mark.parametrize("width", [2, 6])
def test_M5_the_mirror_holds_at_every_width(width):
    """D8: the error over the square of the excess tends to a constant, as at width one."""
    y, eta, generator = 0.7, 0.5, np.random.default_rng(width)
    network, scalar, misses = MatrixNetwork([[y]], width), ScalarNetwork(2, y), []
    for excess in (0.04, 0.02, 0.01):
        a, b = scalar.at(1e-3 * excess, np.sqrt((2 / eta + excess) ** 2 - 4 * y**2))
        e, g = generator.normal(size=(2, width))
        total, gap = (a + b) * e / np.linalg.norm(e), (b - a) * g / np.linalg.norm(g)
        start = np.stack([total - gap, total + gap]) / 2
        run = network.descend(start, eta, int(80 / excess), record_every=None)
        end = np.sum(run.theta[-1] ** 2)
        misses.append((end - (2 / eta - excess)) / excess**2)
        assert end - 2 / eta == pytest.approx(-excess, rel=0.02)
    # A constant up to the next order in the excess: halving it halves the change.
    first, second = np.diff(misses)
    assert abs(second) < 0.7 * abs(first) < 0.01


@given(st.integers(1, 6), st.floats(0.5, 3.9), seeds)
@settings(deadline=None, max_examples=30)
def test_M5_at_target_zero_is_the_catapult(width, product, seed):
    generator = np.random.default_rng(seed)
    network = MatrixNetwork([[0.0]], width)
    theta = generator.normal(size=(2, width))
    eta = product / np.sum(theta**2)
    run = network.descend(theta, eta, 400)
    size = np.sum(run.theta**2, axis=(-2, -1))
    assert np.all(np.diff(size) <= 100 * EPS * size[0])
    assert np.all(np.abs(run.residual[:, 0, 0]) <= size / 2 * (1 + 100 * EPS))
    beyond = network.descend(theta, (8 - product) / np.sum(theta**2), 3000)
    assert product > 3.8 or beyond.diverged


@pytest.mark.parametrize("y", [1.0, -0.7, 0.0])
def test_M5_flow_reaches_a_minimum_unless_the_halves_cancel(y):
    generator = np.random.default_rng(3)
    network = MatrixNetwork([[y]], 3)
    theta = generator.normal(size=(40, 2, 3))
    sign = 1.0 if y <= 0 else -1.0
    opposed = np.stack([theta[0, 0], sign * theta[0, 0]])
    delta = network.imbalance(theta)
    for _ in range(6000):
        # Runge-Kutta of fourth order, error (0.01 s)^5 a step.
        steps = []
        for at, weight in ((0, 0.0), (0, 0.005), (1, 0.005), (2, 0.01)):
            moved = theta if not steps else theta - weight * steps[at]
            steps.append(network.gradient(moved))
        theta = theta - 0.01 / 6 * (steps[0] + 2 * steps[1] + 2 * steps[2] + steps[3])
        opposed = opposed - 0.01 * network.gradient(opposed)
    assert np.abs(network.residual(theta)).max() < 1e-4
    assert np.abs(network.imbalance(theta) - delta).max() < 1e-4
    expected = np.hypot(nuclear(delta), 2 * y)
    assert np.abs(network.sharpness(theta) - expected).max() < 1e-3
    assert np.sum(opposed**2) < 0.1, "u = -v with f y < 0, or y = 0: the origin"


# --- one example, ReLU neurons ----------------------------------------------------------------


def relu_run(weights, outer, x, y, eta, steps):
    """Gradient descent of f(x) = sum_j v_j relu(w_j . x) on one example, written out."""
    rows = []
    for _ in range(steps + 1):
        active = weights @ x > 0
        residual = outer @ np.maximum(weights @ x, 0) - y
        rows.append((residual, weights.copy(), outer.copy(), active))
        slope = np.where(active, outer, 0.0)
        weights, outer = (
            weights - eta * residual * slope[:, None] * x,
            outer - eta * residual * np.maximum(weights @ x, 0),
        )
    return rows


def test_relu_neurons_on_one_example_follow_the_law():
    """Exactly while none dies; a death removes rows of Delta, which shrinks it further."""
    generator, deaths, steps, unscaled = np.random.default_rng(9), 0, 0, 0
    for _ in range(300):
        width, size = generator.integers(1, 6), generator.integers(1, 4)
        x, y = generator.normal(size=size), generator.normal()
        weights, outer = generator.normal(size=(width, size)), generator.normal(size=width)
        scale = np.linalg.norm(x)
        eta = generator.uniform(0.1, 1.5) / scale**2 / (np.sum(outer**2) + np.sum(weights**2))
        rows = relu_run(weights, outer, x, y, eta, 12)
        for old, new in pairwise(rows):
            alive, later = old[3], new[3]
            assert np.all(alive[later]), "a neuron that is off gets no gradient and stays off"
            u, v = old[1][alive] @ x / scale, old[2][alive]
            factor = 1 - (eta * scale * old[0]) ** 2
            delta = np.outer(v, v) - np.outer(u, u)
            kept = later[alive]
            u, v = new[1][later] @ x / scale, new[2][later]
            stated = factor * delta[np.ix_(kept, kept)]
            rounding = 1e3 * EPS * (1 + np.abs(delta).sum())
            assert np.abs(np.outer(v, v) - np.outer(u, u) - stated).max(initial=0) <= rounding
            if kept.any():
                assert nuclear(stated) <= abs(factor) * nuclear(delta) + rounding
                # Without |x| in the factor, as a mutation.
                wrong = (1 - (eta * old[0]) ** 2) * delta[np.ix_(kept, kept)]
                unscaled += np.abs(wrong - stated).max() > 10 * rounding
            deaths += np.count_nonzero(alive) - np.count_nonzero(later)
            steps += 1
    assert deaths > 20
    assert steps > 1000
    assert unscaled > 500


# --- matrices ---------------------------------------------------------------------------------


@given(sides, sides, sides, seeds)
def test_matrix_minima_eigenvalues_are_sums_of_squares(a, b, width, seed):
    _, theta, _ = case(a, b, width, seed)
    network = MatrixNetwork(theta[:a] @ theta[a:].T, width)
    size = np.sum(theta**2)
    full = network.eigenvalues(theta)
    stated = network.minimum_eigenvalues(theta)
    count = min(len(full), len(stated))
    assert np.abs(full[:count] - stated[:count]).max() <= 1e3 * EPS * size
    assert np.abs(full[count:]).max(initial=0) <= 1e3 * EPS * size
    assert np.abs(stated[count:]).max(initial=0) <= 1e3 * EPS * size
    norms = [np.linalg.norm(factor, 2) ** 2 for factor in (theta[:a], theta[a:])]
    assert full[0] == pytest.approx(sum(norms), abs=1e3 * EPS * size)
    assert full[0] >= network.flattest_sharpness - 1e3 * EPS * size
    # The trace, and, as a mutation, the Frobenius norm, which is too large beyond rank one.
    first, second = np.sum(theta[:a] ** 2), np.sum(theta[a:] ** 2)
    assert full.sum() == pytest.approx(b * first + a * second, abs=1e4 * EPS * size)
    if np.linalg.matrix_rank(theta[:a], tol=0.1) > 1:
        assert first + second > full[0] + 1e-3


@given(sides, sides, st.integers(0, 2), seeds)
def test_matrix_minima_with_prescribed_spectrum(a, b, spare, seed):
    generator = np.random.default_rng(seed)
    count = min(a, b)
    network = MatrixNetwork(generator.normal(size=(a, b)), count + spare)
    turn = np.linalg.qr(generator.normal(size=(network.width, network.width)))[0][:, :count]
    stretch = generator.normal(size=(3, count)) / 2
    theta = network.minimum(stretch, turn)
    values = np.linalg.svd(network.target, compute_uv=False)
    rounding = 1e3 * EPS * (1 + np.sum(theta**2))
    assert np.abs(network.residual(theta)).max() <= rounding
    squares = np.sort(values * np.exp(2 * stretch), axis=-1)[:, ::-1]
    found = np.linalg.svd(network.factors(theta)[0], compute_uv=False)[:, :count] ** 2
    assert np.abs(found - squares).max() <= rounding
    sharpness = (values * np.exp(2 * stretch)).max(-1) + (values * np.exp(-2 * stretch)).max(-1)
    assert np.abs(network.sharpness(theta) - sharpness).max() <= rounding
    # The flattest: all balanced, or only the largest, with the others within sqrt(s_1 / s_i).
    room = np.log(values[0] / np.maximum(values, 1e-12)) / 2
    loose = generator.uniform(-1, 1, count) * np.minimum(room, 3)
    assert network.sharpness(network.minimum(loose, turn)) == pytest.approx(
        network.flattest_sharpness, abs=rounding
    )
    tight = loose.copy()
    tight[0] += 0.1
    assert (
        network.sharpness(network.minimum(tight, turn))
        > network.flattest_sharpness + 1e-3 * (values[0])
    )


@given(sides, sides, sides, seeds)
def test_matrix_imbalance_what_a_step_adds(a, b, width, seed):
    network, theta, generator = case(a, b, width, seed)
    eta = generator.uniform(0.01, 0.3)
    new = theta - eta * network.gradient(theta)
    stated = network.imbalance_change(theta, eta)
    rounding = 1e3 * EPS * (np.sum(theta**2) + np.sum(new**2)) * (1 + eta)
    measured = network.imbalance(new) - network.imbalance(theta)
    assert np.abs(measured - stated).max() <= rounding
    first, second = network.factors(theta)
    middle = network.residual(theta)
    law = first.T @ middle @ middle.T @ first - second.T @ middle.T @ middle @ second
    assert np.abs(stated - eta**2 * law).max() <= rounding
    budget = eta**2 * np.sum(network.gradient(theta) ** 2)
    assert nuclear(stated) <= budget * (1 + 1e-12)
    if np.abs(law).max() > 1e-3:
        # The other sign, as a mutation.
        assert np.abs(measured + stated).max() > rounding


def test_matrix_imbalance_balance_is_not_kept():
    """V = Y = diag(2, 1) and U with U'U = V'V, turned: Delta = 0 before the step, not after."""
    network = MatrixNetwork(np.diag([2.0, 1.0]), 2)
    turned = np.array([[0.0, 1.0], [2.0, 0.0]])
    theta = np.concatenate([turned, np.diag([2.0, 1.0])])
    assert np.all(network.imbalance(theta) == 0)
    change = network.imbalance_change(theta, 0.1)
    assert nuclear(change) > 0.1
    balanced = network.minimum(np.zeros(2))
    assert nuclear(network.imbalance_change(balanced * 1.1, 0.1)) < 1e-14


@given(sides, sides, sides, seeds)
def test_trace_bracket_holds(a, b, width, seed):
    _, theta, generator = case(a, b, width, seed)
    if seed % 3 == 0:
        theta[a:] = generator.normal(size=(b, a)) @ theta[:a]
    if seed % 3 == 1 and a == b:
        theta[a:] = np.linalg.qr(generator.normal(size=(a, a)))[0] @ theta[:a]
    first, second = theta[:a], theta[a:]
    size = np.sum(theta**2)
    delta, output = nuclear(second.T @ second - first.T @ first), nuclear(first @ second.T)
    low, high = np.hypot(delta, 2 * output), delta + 2 * output
    assert low <= size * (1 + 1e-12)
    assert size <= high * (1 + 1e-12)
    if min(a, b, width) == 1 and max(a, b) == 1:
        assert low == pytest.approx(size, rel=1e-7)


def test_trace_bracket_is_tight_at_both_ends():
    # Below: one row each. Above: Delta and the output live on different singular vectors.
    first, second = np.diag([1.0, 2.0]), np.diag([1.0, 0.0])
    size = np.sum(first**2) + np.sum(second**2)
    delta, output = nuclear(second**2 - first**2), nuclear(first @ second)
    assert size == delta + 2 * output == 6.0
    assert np.hypot(delta, 2 * output) < 0.8 * size, "the lower end alone would be wrong"


@settings(deadline=None)
@given(sides, sides, seeds)
def test_matrix_imbalance_aligned_networks_are_scalar_networks(a, b, seed):
    """Singular vectors shared with the target are kept, and each value runs by itself."""
    generator = np.random.default_rng(seed)
    count = min(a, b)
    network = MatrixNetwork(generator.normal(size=(a, b)), count)
    stretch = generator.normal(size=count) / 2
    left, values, right = np.linalg.svd(network.target, full_matrices=False)
    scale = generator.uniform(0.7, 1.2, size=(2, count))
    first = left * (np.sqrt(values) * np.exp(stretch) * scale[0])
    second = right.T * (np.sqrt(values) * np.exp(-stretch) * scale[1])
    theta = np.concatenate([first, second])
    eta = 1 / np.sum(theta**2)
    end = network.descend(theta, eta, 30).theta[-1]
    for i in range(count):
        pair = np.array([np.linalg.norm(first[:, i]), np.linalg.norm(second[:, i])])
        twin = ScalarNetwork(2, values[i]).descend(pair, eta, 30).theta[-1]
        assert left[:, i] @ end[:a, i] == pytest.approx(twin[0], abs=1e-11 * np.sum(theta**2))
        assert right[i] @ end[a:, i] == pytest.approx(twin[1], abs=1e-11 * np.sum(theta**2))


# --- M4 for several features ------------------------------------------------------------------


def test_several_features_a_small_swing_never_sharpens():
    """Diagonal networks with a single minimizer w: each feature by itself, then all together."""
    generator, tried, worse = np.random.default_rng(4), 0, 0
    for _ in range(300):
        depth, m = generator.integers(2, 5), generator.integers(1, 4)
        inputs = generator.normal(size=(m + 2, m))
        network = DiagonalNetwork(inputs, generator.normal(size=m + 2), depth)
        best = np.linalg.lstsq(inputs, network.targets, rcond=None)[0]
        if generator.random() < 0.2:
            network = DiagonalNetwork(inputs, inputs[:, 0] * 0, depth)
            best = np.zeros(m)

        def ahead(theta, best=best, depth=depth, inputs=inputs):
            columns = zip(theta.T, best, strict=True)
            squares = [ScalarNetwork(depth, w).minimum_sharpness(u) for u, w in columns]
            return np.linalg.eigvalsh(inputs * np.array(squares) @ inputs.T)[-1] / len(inputs)

        for _ in range(5):
            theta = generator.normal(size=(depth, m))
            gamma = network.weight_gradient(theta)
            # The swing at target w has the residual w_k(theta) - w_k, of another size than gamma.
            pairs = [
                ScalarNetwork(depth, w).swing(u, 1.0) / abs(np.prod(u) - w)
                for u, w in zip(theta.T, best, strict=True)
            ]
            eta = 1 / np.max(np.abs(gamma) * pairs)
            before = ahead(theta)
            assert ahead(theta - eta * network.gradient(theta)) <= before * (1 + 1e-9) + 1e-9
            worse += ahead(theta - 1.7 * eta * network.gradient(theta)) > before * (1 + 1e-6)
            tried += 1
    assert tried == 1500
    assert worse > 0
