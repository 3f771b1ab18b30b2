"""The diagonal network with several features: its calculus, its descent, and Statement D11."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flatminima.theory.diagonal_network import DiagonalNetwork
from flatminima.theory.scalar_network import ScalarNetwork

EPS = np.finfo(float).eps

seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))  # n, features, depth


def random_case(shape, seed, zeros=False):
    """A network with random data, a random point of it, and the generator that made them."""
    n, m, d = shape
    generator = np.random.default_rng(seed)
    network = DiagonalNetwork(generator.normal(size=(n, m)), generator.normal(size=n), d)
    theta = generator.normal(size=(d, m))
    if zeros:
        theta[generator.random((d, m)) < 0.3] = 0.0
    return network, theta, generator


def magnitude(network, theta):
    """A bound on every intermediate number in the gradient and Hessian at theta."""
    biggest = np.maximum(1, np.abs(theta)).prod(axis=0).max()
    data = max(1, np.abs(network.inputs).max()) * network.features
    return data * (data * biggest + np.abs(network.targets).max()) * biggest


def balanced_point(weights, depth):
    """Factors of equal size, the first with the signs of the weights."""
    theta = np.tile(np.abs(weights) ** (1 / depth), (depth, 1))
    theta[0] *= np.sign(weights)
    return theta


def products_without(theta, *left_out):
    return np.prod(np.delete(theta, list(set(left_out)), axis=0), axis=0)


# --- D11: gradient, Hessian, minima ------------------------------------------------------------


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 2), (2, 2, 2), (1, 2, 3), (2, 3, 1)])
def test_D11_gradient_and_hessian_symbolically(n, m, d):
    X = sp.Matrix(n, m, sp.symbols(f"x0:{n * m}", real=True))
    y = sp.Matrix(sp.symbols(f"y0:{n}", real=True))
    u = sp.Matrix(d, m, sp.symbols(f"u0:{d * m}", real=True))
    flat = list(u)
    w = sp.Matrix([sp.prod(u[:, k]) for k in range(m)])
    r = X * w - y
    gamma, C = X.T * r / n, X.T * X / n
    loss = (r.T * r)[0] / (2 * n)

    def rest(k, *left_out):
        return sp.prod([u[i, k] for i in range(d) if i not in left_out])

    for i in range(d):
        for k in range(m):
            assert sp.expand(sp.diff(loss, u[i, k]) - gamma[k] * rest(k, i)) == 0
    hessian = sp.hessian(loss, flat)
    for i, k in np.ndindex(d, m):
        for j, q in np.ndindex(d, m):
            entry = C[k, q] * rest(k, i) * rest(q, j)
            if k == q and i != j:
                entry += gamma[k] * rest(k, i, j)
            assert sp.expand(hessian[i * m + k, j * m + q] - entry) == 0


@settings(deadline=None)
@given(shapes, seeds, st.booleans())
def test_D11_gradient_and_hessian_against_products(shape, seed, zeros):
    network, theta, _ = random_case(shape, seed, zeros)
    n, m, d = shape
    X, y = network.inputs, network.targets
    r = X @ theta.prod(axis=0) - y
    gamma = X.T @ r / n
    # Sums of n * m products, each rounded d times or so, of numbers below the magnitude.
    tolerance = 8 * (n + m + d) * EPS * magnitude(network, theta) ** 2
    gradient = np.array([gamma * products_without(theta, i) for i in range(d)])
    assert np.abs(network.gradient(theta) - gradient).max() <= tolerance
    assert abs(network.loss(theta) - r @ r / (2 * n)) <= tolerance
    hessian = np.empty((d, m, d, m))
    for i in range(d):
        for j in range(d):
            outer = np.outer(products_without(theta, i), products_without(theta, j))
            within = 0 if i == j else gamma * products_without(theta, i, j)
            hessian[i, :, j, :] = X.T @ X / n * outer + np.diag(np.broadcast_to(within, m))
    assert np.abs(network.hessian(theta) - hessian.reshape(d * m, d * m)).max() <= tolerance


@settings(deadline=None)
@given(shapes, seeds)
def test_D11_sharpness_of_minima(shape, seed):
    """Where X^T r = 0, the Hessian's nonzero eigenvalues are those of X S X^T / n."""
    network, theta, generator = random_case(shape, seed)
    n, m, d = shape
    assume(np.abs(theta).min() > 0.1)
    w = theta.prod(axis=0)
    # Any residual orthogonal to the columns makes w a least-squares solution.
    offset = generator.normal(size=n)
    offset -= network.inputs @ np.linalg.lstsq(network.inputs, offset)[0]
    network = DiagonalNetwork(network.inputs, network.inputs @ w - offset, d)
    squares = sum(products_without(theta, i) ** 2 for i in range(d))
    small = np.linalg.eigvalsh(network.inputs * squares @ network.inputs.T / n)[::-1]
    large = network.eigenvalues(theta)
    # gamma is zero to rounding only, and enters times a product of d - 2 entries.
    tolerance = 100 * (n + d * m) * EPS * magnitude(network, theta) ** 2
    common = min(n, d * m)
    assert np.abs(small[:common] - large[:common]).max() <= tolerance
    assert np.abs(large[common:]).max(initial=0) <= tolerance
    assert np.abs(small[common:]).max(initial=0) <= tolerance
    assert abs(network.minimum_sharpness(theta) - small[0]) <= tolerance
    trace = np.sum(np.diag(network.gram) * squares)
    assert abs(np.trace(network.hessian(theta)) - trace) <= tolerance


@settings(deadline=None)
@given(shapes, seeds)
def test_D11_no_minimum_with_the_same_weights_is_flatter_than_the_balanced_one(shape, seed):
    network, theta, _ = random_case(shape, seed)
    w = network.weights(theta)
    balanced = balanced_point(w, shape[2])
    assert np.abs(network.weights(balanced) - w).max() <= 20 * shape[2] * EPS * np.abs(w).max()
    squares = shape[2] * np.abs(w) ** (2 - 2 / shape[2])
    slack = 1 + 100 * sum(shape) * EPS
    assert np.all(network.tangent_squares(theta) * slack >= squares)
    assert network.tangent_squares(balanced) == pytest.approx(squares, rel=100 * shape[2] * EPS)
    assert network.minimum_sharpness(theta) * slack >= network.minimum_sharpness(balanced)


# --- D11: the imbalances -----------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_D11_imbalance_symbolically(depth):
    """Per coordinate, and for every number e in the place of the weight gradient."""
    u = sp.symbols(f"u1:{depth + 1}", real=True)
    eta, e = sp.symbols("eta e", real=True)
    new = [u[i] - eta * e * sp.prod(u[:i] + u[i + 1 :]) for i in range(depth)]
    i, j = 0, depth - 1
    rest = sp.prod([u[k] for k in range(depth) if k not in (i, j)])
    factor = 1 - eta**2 * e**2 * rest**2
    assert sp.expand(new[i] ** 2 - new[j] ** 2 - (u[i] ** 2 - u[j] ** 2) * factor) == 0


@settings(deadline=None)
@given(shapes, seeds, st.floats(0.001, 0.3), st.sampled_from([None, 0.5]), st.booleans())
def test_D11_imbalance_under_descent_noise_and_minibatches(shape, seed, eta, sigma, rows):
    network, theta, generator = random_case(shape, seed, zeros=True)
    d = shape[2]
    assume(d > 1)
    run = network.descend(theta, eta, 3, sigma, batch_size=1 if rows else None, generator=generator)
    for t in range(3):
        point, new = run.theta[t], run.theta[t + 1]
        biggest = max(1, np.abs(point).max(), np.abs(new).max()) ** d
        tolerance = (
            40 * d * EPS * biggest**2 * (1 + eta * np.abs(run.weight_gradient[t]).max()) ** 2
        )
        for i in range(d):
            for j in range(d):
                factor = 1 - (eta * run.weight_gradient[t] * products_without(point, i, j)) ** 2
                error = network.imbalance(new)[i, j] - network.imbalance(point)[i, j] * factor
                assert np.abs(error).max() <= tolerance


def test_D11_descent_uses_the_gradient_with_noise_and_rows():
    network, theta, generator = random_case((4, 3, 2), 0)
    run = network.descend(theta, 0.05, 20, 0.3, generator=generator)
    for t in range(20):
        used = network.weight_gradient(run.theta[t]) + run.noise[t] @ network.inputs / 4
        assert np.abs(used - run.weight_gradient[t]).max() <= 100 * EPS * magnitude(network, theta)
    # With one row a step, the gradient is that of one row, and each row is drawn.
    run = network.descend(theta, 0.01, 60, batch_size=1, generator=generator)
    drawn = set()
    for t in range(60):
        rows = network.inputs * network.residual(run.theta[t])[:, None]
        distance = np.abs(rows - run.weight_gradient[t]).max(axis=1)
        assert distance.min() <= 1e-12
        drawn.add(int(distance.argmin()))
    assert drawn == {0, 1, 2, 3}  # a row is missed with probability 4 * 0.75^60 < 2e-7


@settings(deadline=None)
@given(seeds, st.floats(0.01, 0.2))
def test_D11_closed_dynamics_at_depth_two(seed, eta):
    network, theta, _ = random_case((3, 4, 2), seed)
    w, kappa = network.weights(theta), network.kappa(theta)
    gamma = network.weight_gradient(theta)
    new = theta - eta * network.gradient(theta)
    s = np.hypot(kappa, 2 * w)
    tolerance = 100 * EPS * (1 + eta * magnitude(network, theta)) ** 2
    expected = w - eta * gamma * s + eta**2 * gamma**2 * w
    assert np.abs(network.weights(new) - expected).max() <= tolerance
    assert np.abs(network.kappa(new) - kappa * (1 - eta**2 * gamma**2)).max() <= tolerance


@settings(deadline=None, max_examples=30)
@given(shapes, seeds)
def test_D11_a_diagonal_gram_matrix_decouples(shape, seed):
    """X^T X diagonal: coordinate k is the scalar network of target b_k / C_kk, rate eta C_kk."""
    _, m, d = shape
    generator = np.random.default_rng(seed)
    n = m + 1
    scales = generator.uniform(0.5, 1.5, size=m)
    inputs = np.linalg.qr(generator.normal(size=(n, m)))[0] * scales * np.sqrt(n)
    network = DiagonalNetwork(inputs, generator.normal(size=n), d)
    theta = generator.uniform(0.5, 1.2, size=(d, m))
    eta, steps = 0.02, 30
    run = network.descend(theta, eta, steps)
    diagonal = scales**2
    targets = inputs.T @ network.targets / n / diagonal
    for k in range(m):
        scalar = ScalarNetwork(d, targets[k])
        alone = scalar.descend(theta[:, k], eta * diagonal[k], steps)
        # Roundings of the Gram matrix and of 30 steps whose Jacobian is at most 1.5 in norm here.
        assert np.abs(run.theta[:, :, k] - alone.theta).max() <= 1e-8


@given(st.integers(1, 4), seeds, st.floats(0.2, 3))
@settings(deadline=None)
def test_D11_one_feature_is_the_scalar_network(depth, seed, y):
    network, scalar = DiagonalNetwork([[1.0]], [y], depth), ScalarNetwork(depth, y)
    theta = np.random.default_rng(seed).normal(size=(3, depth))
    column = theta[..., None]
    scale = 50 * depth * EPS * (np.maximum(1, np.abs(theta)).prod() + y) ** 2
    assert np.abs(network.loss(column) - scalar.loss(theta)).max() <= scale
    assert np.abs(network.gradient(column)[..., 0] - scalar.gradient(theta)).max() <= scale
    assert np.abs(network.hessian(column) - scalar.hessian(theta)).max() <= scale
    assert np.abs(network.imbalance(column)[..., 0] - scalar.imbalance(theta)).max() == 0
    flattest = network.minimum_sharpness(balanced_point(np.array([y]), depth))
    assert flattest == pytest.approx(scalar.flattest_sharpness, rel=100 * EPS)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.5, 2.4))
def test_D11_flatness_bias_where_the_minimizer_is_unique(seed, product):
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(6, 3))
    best = generator.normal(size=3)
    network = DiagonalNetwork(inputs, inputs @ best, 2)
    kappa = generator.normal(size=3) * 2
    sharpness = network.minimum_sharpness(network.at(best, kappa))
    eta = product / sharpness
    start = network.at(best * (1 + 1e-3 * generator.normal(size=3)), kappa)
    run = network.descend(start, eta, 2000)
    kept = eta * np.abs(run.weight_gradient) <= np.sqrt(2)
    assume(not run.diverged and kept.all())
    minima = network.minimum_sharpness(network.at(best, run.kappa))
    assert np.all(np.diff(np.abs(run.kappa), axis=0) <= 50 * EPS * np.abs(run.theta).max() ** 2)
    assert np.all(np.diff(minima) <= 500 * EPS * sharpness)


def test_D11_flatness_bias_needs_a_unique_minimizer():
    """Every imbalance shrinks at every step, and yet the run ends sharper than small steps do."""
    network = DiagonalNetwork([[0.0, 1.0, 2.0], [-1.0, 3.0, 0.0]], [3.0, 1.0], 2)
    start = np.array([[2.0, 0.5, 0.0], [-0.5, 0.5, 0.5]])
    rates = np.array([[0.18], [0.002]])
    run = network.descend(start, rates[:, 0], 40000)
    assert network.loss(run.theta[-1]).max() < 1e-25
    assert np.all(rates * np.abs(run.weight_gradient) < np.sqrt(2))
    large, small = network.minimum_sharpness(run.theta[-1])
    assert large > 1.01 * small
    assert large < 2 / 0.18  # both are stable minima
    # The small step stands for gradient flow: its imbalances have hardly moved.
    assert np.abs(run.kappa[-1, 1] - run.kappa[0, 1]).max() < 0.02 * np.abs(run.kappa[0, 1]).max()


# --- gradient descent as a tool ----------------------------------------------------------------


def test_batches_equal_single_runs_and_the_stride_keeps_the_ends():
    network, _, generator = random_case((5, 3, 3), 1)
    start = generator.uniform(0.3, 0.9, size=(4, 1, 3, 3))
    rates = np.array([0.01, 0.05])
    whole = network.descend(start, rates, 101)
    ends = network.descend(start, rates, 101, record_every=None)
    some = network.descend(start, rates, 101, record_every=25)
    assert whole.theta.shape == (102, 4, 2, 3, 3)
    assert whole.weight_gradient.shape == (101, 4, 2, 3)
    assert some.steps.tolist() == [0, 25, 50, 75, 100, 101]
    assert ends.weight_gradient is None
    assert np.array_equal(ends.theta[-1], whole.theta[-1])
    assert np.array_equal(some.theta, whole.theta[some.steps])
    single = network.descend(start[2, 0], rates[1], 101)
    # Matrix products may round differently for another batch size; stable steps keep that small.
    assert np.abs(single.theta - whole.theta[:, 2, 1]).max() <= 1e-12


def test_noise_is_independent_across_trajectories_and_repeats_with_the_seed():
    network, theta, _ = random_case((3, 2, 2), 2)
    start = np.tile(theta, (2, 1, 1))

    def noisy():
        return network.descend(start, 0.01, 50, [0.2, 0.4], None, np.random.default_rng(3))

    run = noisy()
    assert np.array_equal(run.theta, noisy().theta)
    assert run.noise.shape == (50, 2, 3)
    # 150 draws each: a sample deviation is within 5 / sqrt(300) of the truth, in 5 sigma.
    assert np.std(run.noise[:, 0]) == pytest.approx(0.2, rel=0.29)
    assert np.std(run.noise[:, 1]) == pytest.approx(0.4, rel=0.29)
    assert abs(np.corrcoef(run.noise[:, 0].ravel(), run.noise[:, 1].ravel())[0, 1]) < 5 / 150**0.5


def test_divergence_is_reported():
    network = DiagonalNetwork(np.eye(2), [1.0, 1.0], 2)
    start = np.array([np.full((2, 2), 0.5), np.full((2, 2), 40.0)])
    run = network.descend(start, 0.5, 300)
    assert run.diverged.tolist() == [False, True]
    assert np.isnan(run.theta[-1, 1]).all()
    assert np.isnan(run.sharpness[-1, 1])
    assert np.isnan(network.minimum_sharpness(run.theta[-1]))[1]
    assert np.isfinite(run.theta[:, 0]).all()


SMALL = DiagonalNetwork(np.eye(2), [1.0, 1.0], 2)
ONES = np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: DiagonalNetwork([1.0], [1.0]), "inputs"),
        (lambda: DiagonalNetwork([[np.inf]], [1.0]), "inputs"),
        (lambda: DiagonalNetwork([[1.0]], [1.0, 2.0]), "targets"),
        (lambda: DiagonalNetwork([[1.0]], [1.0], 0), "depth"),
        (lambda: SMALL.loss([1.0, 1.0]), "theta"),
        (lambda: SMALL.loss("theta"), "theta"),
        (lambda: SMALL.loss(ONES * np.inf), "theta"),
        (lambda: SMALL.at([1.0], [1.0]), "weights"),
        (lambda: SMALL.at([1.0, np.nan], 1.0), "weights"),
        (lambda: DiagonalNetwork([[1.0]], [1.0], 3).kappa(np.ones((3, 1))), "kappa"),
        (lambda: DiagonalNetwork([[1.0]], [1.0], 3).at([1.0], [1.0]), "at"),
        (lambda: SMALL.descend(ONES, 0.0, 5), "learning_rate"),
        (lambda: SMALL.descend(ONES * np.nan, 0.1, 5), "start"),
        (lambda: SMALL.descend(ONES, 0.1, 0), "steps"),
        (lambda: SMALL.descend(ONES, 0.1, 5, label_noise=0.1), "Generator"),
        (lambda: SMALL.descend(ONES, 0.1, 5, batch_size=1), "Generator"),
        (lambda: SMALL.descend(ONES, 0.1, 5, batch_size=3), "batch_size"),
        (lambda: SMALL.descend(np.ones((3, 2, 2)), [0.1, 0.2], 5), "broadcast"),
    ],
)
def test_bad_input_is_refused_by_name(call, names):
    with pytest.raises(ValueError, match=names):
        call()
