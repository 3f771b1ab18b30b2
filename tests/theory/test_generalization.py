"""What flatness can prove about new data: Theorem M7."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from flatminima.theory.diagonal_network import DiagonalNetwork
from flatminima.theory.generalization import l1_gap, pac_bayes_bound, relu_flatness

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


# --- (a) diagonal networks


@settings(deadline=None)
@given(seeds, st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_M7_trace_of_a_diagonal_network_bounds_a_norm_of_its_weights(seed, n, m, depth):
    generator = np.random.default_rng(seed)
    network = DiagonalNetwork(generator.normal(size=(n, m)), generator.normal(size=n), depth)
    theta = generator.normal(size=(20, depth, m)) * 10 ** generator.uniform(-2, 1, (20, depth, m))
    trace, weights = network.trace(theta), network.weights(theta)
    least = network.least_trace(weights)
    exact = np.trace(network.hessian(theta), axis1=-2, axis2=-1)
    assert np.allclose(trace, exact, rtol=1e-12)
    assert np.all(trace >= least * (1 - 1e-12))
    if depth == 2:
        norm = np.abs(weights) @ np.diag(network.gram)
        assert np.allclose(least, 2 * norm, rtol=1e-12)
        assert np.all(np.abs(weights).sum(-1) * np.diag(network.gram).min() <= trace / 2 + 1e-12)
    # Attained at the balanced point: a depth-th root of |w_k|, with the sign in the first factor.
    roots = np.repeat(np.abs(weights)[:, None] ** (1 / depth), depth, axis=1)
    roots[:, 0] *= np.sign(weights)
    assert np.allclose(network.trace(roots), least, rtol=1e-9)


def test_M7_the_factor_two_is_needed_and_cannot_be_larger():
    network = DiagonalNetwork([[1.0]], [1.0])
    assert network.trace([[1.0], [1.0]]) == network.least_trace([1.0]) == 2.0


@settings(deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_M7_sharpness_bounds_the_trace_at_a_minimum_up_to_the_rank(seed, n, m):
    generator = np.random.default_rng(seed)
    inputs, theta = generator.normal(size=(n, m)), generator.normal(size=(2, m))
    network = DiagonalNetwork(inputs, inputs @ np.prod(theta, axis=0))
    trace, sharpness = network.trace(theta), network.sharpness(theta)
    assert trace <= min(n, m) * sharpness * (1 + 1e-9)


@pytest.mark.parametrize(("n", "m"), [(7, 7), (3, 7), (7, 3), (1, 4), (4, 1)])
def test_M7_sharpness_alone_leaves_the_factor_min_n_m(n, m):
    """Orthogonal rows or columns of one norm, all s_k equal: tr H = min(n, m) lambda_1."""
    generator = np.random.default_rng(n + 10 * m)
    orthogonal = np.linalg.qr(generator.normal(size=(max(n, m),) * 2))[0]
    inputs, theta = orthogonal[:n, :m], np.ones((2, m))
    network = DiagonalNetwork(inputs, inputs @ np.ones(m))
    assert network.residual(theta) == pytest.approx(np.zeros(n))
    assert network.trace(theta) == pytest.approx(min(n, m) * network.sharpness(theta))


def exact_complexity(inputs):
    """E sup over the l1 ball of the mean of s_i <w, x_i>, over all signs s."""
    n = len(inputs)
    signs = 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1.0
    return np.abs(signs @ inputs).max(axis=1).mean() / n


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 50), (2, 3), (6, 1), (8, 40), (12, 300)])
def test_M7_rademacher_complexity_of_the_l1_ball(n, m):
    generator, tight = np.random.default_rng(n * m), []
    for _ in range(20):
        inputs = generator.choice([-1.0, 1.0], (n, m)) * generator.uniform(0.1, 1, m)
        moments = np.mean(inputs**2, axis=0)
        bound = np.sqrt(2 * moments.max() * np.log(2 * m) / n)
        tight.append(exact_complexity(inputs) / bound)
    assert max(tight) <= 1
    if m == n == 1:
        assert min(tight) > 0.5, "half of the bound would fail"


def test_M7_gap_is_made_of_complexity_and_confidence():
    moments = np.array([1.0, 2.0, 4.0])
    gap = l1_gap([2.0, 8.0], moments, 100, 0.9, lipschitz=3.0)
    complexity = np.sqrt(2 * 4 * np.log(6) / 100)
    levels, share = np.array([0.0, 2.0]), 0.1 / (3 * np.array([1, 9]))
    expected = 6 * 2**levels * complexity + 3 * np.sqrt(np.log(2 / share) / 200)
    assert gap == pytest.approx(expected, rel=1e-12)
    # All levels together may fail with probability delta: sum of 1/(1 + |j|)^2 is below 3.
    j = np.arange(-10_000, 10_001)
    assert 2.2 < np.sum(1 / (1 + np.abs(j)) ** 2.0) < 3


def test_M7_gap_holds_in_simulation():
    """No run of sparse regression on few examples misses by more than the bound says."""
    generator, misses = np.random.default_rng(1), 0
    truth = np.zeros(20)
    truth[:2] = 0.5
    for _ in range(20):
        inputs = generator.choice([-1.0, 1.0], (2000, 20))
        targets = inputs @ truth + 0.3 * generator.normal(size=2000)
        network = DiagonalNetwork(inputs, targets)
        start = generator.normal(size=(2, 20)) * 0.3
        theta = network.descend(start, 0.2, 500, record_every=None).theta[-1]
        fresh = generator.choice([-1.0, 1.0], (4000, 20))
        unseen = np.minimum(
            np.abs(fresh @ (network.weights(theta) - truth) + 0.3 * generator.normal(size=4000)), 1
        ).mean()
        seen = np.minimum(np.abs(network.residual(theta)), 1).mean()
        bound = l1_gap(network.trace(theta), np.diag(network.gram), 2000, 0.95)
        misses += unseen - seen > bound
        assert bound < 1, "and it says something"
    assert misses == 0


# --- (b) two-layer ReLU networks


def relu_gradients(a, w, x):
    """The gradient of f at each input, by hand: (n, width * (d + 1))."""
    rows = []
    for point in x:
        active = w @ point > 0
        inner = (a * active)[:, None] * point
        rows.append(np.concatenate([active * (w @ point), inner.ravel()]))
    return np.array(rows)


def test_M7_relu_trace_over_two_thousand_networks():
    generator, ratios = np.random.default_rng(2), []
    for _ in range(2000):
        n, d, width = generator.integers(1, 9, 3)
        x = generator.normal(size=(n, d)) * 10 ** generator.uniform(-1, 1)
        w, a = generator.normal(size=(width, d)), generator.normal(size=width)
        found = relu_flatness(a, w, x)
        exact = np.mean(np.sum(relu_gradients(a, w, x) ** 2, axis=1))
        assert found.trace == pytest.approx(exact, rel=1e-12)
        assert found.trace >= found.least_trace * (1 - 1e-12)
        assert found.least_trace >= found.path_norm * (1 - 1e-12)
        # The path norm bounds what the network says on the data.
        outputs = np.maximum(x @ w.T, 0) @ a
        said = 2 * np.mean(np.linalg.norm(x, axis=1) * np.abs(outputs))
        assert found.path_norm >= said * (1 - 1e-12)
        ratios.append(found.trace / found.path_norm if found.path_norm else np.inf)
        scale = 10 ** generator.uniform(-2, 2, width)
        rescaled = relu_flatness(a / scale, w * scale[:, None], x)
        assert rescaled[1:] == pytest.approx(found[1:], rel=1e-12)
    assert min(ratios) >= 1


def test_M7_least_trace_is_reached_by_rescaling():
    generator = np.random.default_rng(3)
    for _ in range(200):
        x, w = generator.normal(size=(6, 3)), generator.normal(size=(4, 3))
        a = generator.normal(size=4)
        first = np.mean(np.maximum(w @ x.T, 0) ** 2, axis=1)
        second = a**2 * np.mean((w @ x.T > 0) * np.sum(x**2, axis=1), axis=1)
        seen = first > 0
        scale = np.ones(4)
        scale[seen] = (second[seen] / first[seen]) ** 0.25
        best = relu_flatness(a / scale, w * scale[:, None], x)
        assert best.trace == pytest.approx(best.least_trace, rel=1e-12)


def adversarial_relu():
    e = np.eye(2)
    return {
        "dead unit": ([1.0], [[-1.0, 0.0]], [[1.0, 0.0]]),
        "zero outer weight": ([0.0], [[1.0, 0.0]], [[1.0, 1.0]]),
        "zero inner weight": ([3.0], [[0.0, 0.0]], [[1.0, 1.0]]),
        "zero input": ([1.0], [[1.0, 0.0]], [[0.0, 0.0]]),
        "one example, balanced": ([1.0], [[1.0, 0.0]], [[1.0, 0.0]]),
        "canceling units": ([1.0, -1.0], [[1.0, 0.0]] * 2, [[1.0, 2.0]]),
        "orthogonal to the data": ([1.0], [[0.0, 1.0]], [[1.0, 0.0]]),
        "very unbalanced": ([1e6], [[1e-6, 0.0]], e.tolist()),
        "opposite examples": ([1.0, 1.0], [[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.0], [-1.0, 0.0]]),
        "many equal examples": ([1.0], [[1.0, 1.0]], [[1.0, 2.0]] * 50),
    }


@pytest.mark.parametrize("name", adversarial_relu())
def test_M7_relu_inequalities_in_adversarial_cases(name):
    a, w, x = (np.array(value) for value in adversarial_relu()[name])
    found = relu_flatness(a, w, x)
    assert found.trace >= found.least_trace * (1 - 4 * EPS)
    assert found.least_trace >= found.path_norm * (1 - 4 * EPS)
    if name == "one example, balanced":
        assert found == (2.0, 2.0, 2.0), "equality: no larger factor than 2"


def test_M7_flatness_does_not_see_a_unit_that_no_example_wakes():
    """The same trace, the same outputs on the data, any output elsewhere."""
    x = np.array([[1.0, 0.0], [0.8, 0.2]])
    a, w = np.array([1.0]), np.array([[1.0, 0.5]])
    more = np.append(a, 1e3), np.vstack([w, [-1.0, 1.0]])
    assert relu_flatness(*more, x) == relu_flatness(a, w, x)
    elsewhere = np.array([-1.0, 1.0])
    assert np.maximum(more[1] @ elsewhere, 0) @ more[0] > 1e3


# --- (c) PAC-Bayes


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1e4), st.integers(8, 10**6), st.floats(0.01, 0.999))
def test_M7_pac_bayes_bound_inverts_the_divergence(training, divergence, n, confidence):
    level = (divergence + np.log(2 * np.sqrt(n) / (1 - confidence))) / n

    def miss(q):
        first = training * np.log(training / q) if training else 0.0
        second = (1 - training) * np.log((1 - training) / (1 - q)) if training < 1 else 0.0
        return first + second - level

    found = float(pac_bayes_bound(training, divergence, n, confidence))
    top = 1 - 1e-14
    inside = training < top and miss(top) > 0
    expected = brentq(miss, max(training, 1e-300), top, xtol=1e-14) if inside else 1.0
    assert found == pytest.approx(expected, abs=1e-9)
    # Pinsker's inequality: the simpler bound is the larger.
    assert found <= training + np.sqrt(level / 2) + 1e-12


def test_M7_noise_raises_the_loss_by_half_the_trace():
    """E L(theta + s z) = L + s^2 tr H / 2 + O(s^4), exactly on a polynomial of degree four."""
    network = DiagonalNetwork([[1.0, 0.5], [0.2, -1.0], [0.3, 0.3]], [1.0, -0.5, 0.2])
    theta = np.array([[0.8, -0.4], [0.9, 1.2]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)  # exact up to degree 7
    grid = np.stack(np.meshgrid(*[nodes] * 4, indexing="ij"), axis=-1).reshape(-1, 2, 2)
    mass = np.prod(np.stack(np.meshgrid(*[weights] * 4, indexing="ij"), axis=-1).reshape(-1, 4), -1)
    mass = mass / mass.sum()
    misses = []
    for s in (0.1, 0.05):
        mean = mass @ network.loss(theta + s * grid)
        misses.append(mean - network.loss(theta) - s**2 / 2 * network.trace(theta))
    assert misses[0] / misses[1] == pytest.approx(16, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: relu_flatness([1.0], [1.0], [[1.0]]), "outer"),
        (lambda: l1_gap(0.0, [1.0], 10, 0.9), "trace"),
        (lambda: l1_gap(1.0, [0.0], 10, 0.9), "second_moments"),
        (lambda: l1_gap(1.0, [1.0], 10, 1.0), "confidence"),
        (lambda: pac_bayes_bound(1.5, 1.0, 10, 0.9), "training"),
        (lambda: pac_bayes_bound(0.5, -1.0, 10, 0.9), "divergence"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
