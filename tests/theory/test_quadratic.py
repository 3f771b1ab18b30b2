"""quadratic: Theorems Q1 and Q2, Propositions Q3 and Q4, and the functions that embody them."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import eigvals

from flatminima.theory import quadratic

EPS = np.finfo(float).eps
COEFFICIENT = {
    "heavy_ball": "momentum",
    "nesterov": "momentum",
    "rmsprop": "momentum",
    "adam": "beta1",
}
seeds = st.integers(0, 2**32 - 1)
methods = st.sampled_from(list(quadratic.METHODS))


def options(method, beta):
    return {} if method == "gd" else {COEFFICIENT[method]: beta}


def random_hessian(generator, eigenvalues):
    q, _ = np.linalg.qr(generator.normal(size=(len(eigenvalues),) * 2))
    matrix = (q * eigenvalues) @ q.T
    return (matrix + matrix.T) / 2, q


# --- Q1 -------------------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(1, 6), steps=st.integers(1, 20))
def test_Q1_solution_in_the_eigenbasis(seed, n, steps):
    generator = np.random.default_rng(seed)
    eigenvalues = generator.uniform(-1, 3, n)
    matrix, q = random_hessian(generator, eigenvalues)
    eta = generator.uniform(0.1, 1)
    start = generator.normal(size=n)
    path = quadratic.descend(matrix, start, eta, steps)
    predicted = (1 - eta * eigenvalues) ** np.arange(steps + 1)[:, None] * (start @ q)
    # One step errs by about (n + 3) eps times the largest growth, and errors grow as the run does.
    growth = max(1, np.abs(1 - eta * eigenvalues).max())
    bound = 20 * (n + 3) * (steps + 1) * EPS * growth**steps * np.linalg.norm(start)
    assert np.abs(path @ q - predicted).max() <= bound


@given(
    product=st.floats(0.01, 4).filter(lambda x: abs(x - 1) > 0.01 and abs(x - 2) > 0.01),
    x0=st.floats(0.1, 10),
)
def test_Q1_ranges(product, x0):
    x = quadratic.descend([product], [x0], 1.0, 5)[:, 0]
    assert (x[1:] * x[:-1] > 0).all() == (product < 1)
    assert (x[1:] * x[:-1] < 0).all() == (product > 1)
    assert (np.abs(x[1:]) < np.abs(x[:-1])).all() == (product < 2)
    assert (np.abs(x[1:]) > np.abs(x[:-1])).all() == (product > 2)


def test_Q1_edge_cases():
    x = quadratic.descend([1.0, 2.0, 0.0, -1.0], np.ones(4), 1.0, 6)
    assert x[1, 0] == 0  # eta lambda = 1: one step
    assert x[:, 1].tolist() == [1, -1, 1, -1, 1, -1, 1]  # = 2: turns for ever
    assert (x[:, 2] == 1).all()  # = 0: stays
    assert x[-1, 3] == 2**6  # negative: leaves at any learning rate


@given(seed=seeds, n=st.integers(2, 6), excess=st.floats(-0.5, 0.5).filter(lambda e: abs(e) > 0.01))
def test_Q1_loss_falls_below_the_threshold_and_rises_beyond_along_v1(seed, n, excess):
    generator = np.random.default_rng(seed)
    eigenvalues = np.append(generator.uniform(0, 1, n - 1), 1.0)
    matrix, q = random_hessian(generator, eigenvalues)
    eta = 2 + excess
    along = quadratic.loss(matrix, quadratic.descend(matrix, q[:, -1], eta, 4))
    anywhere = quadratic.descend(matrix, generator.normal(size=n), eta, 4)
    if excess < 0:
        assert (np.diff(along) < 0).all()
        assert (np.diff(quadratic.loss(matrix, anywhere)) < 0).all()
    else:
        assert (np.diff(along) > 0).all()


def test_Q1_decrease_of_the_loss_symbolically():
    eta, lam, x = sp.symbols("eta lambda x")
    change = lam / 2 * ((1 - eta * lam) * x) ** 2 - lam / 2 * x**2
    assert sp.expand(change + eta / 2 * lam**2 * (2 - eta * lam) * x**2) == 0


@given(seed=seeds, n=st.integers(2, 8))
def test_best_step_is_best_and_has_its_rate(seed, n):
    generator = np.random.default_rng(seed)
    eigenvalues = generator.uniform(0.1, 5, n)
    matrix, _ = random_hessian(generator, eigenvalues)
    eta, rate = quadratic.best_learning_rate(matrix)
    others = generator.uniform(0.01, 4, 50)
    factors = np.abs(1 - others[:, None] * eigenvalues).max(axis=1)
    assert np.isclose(np.abs(1 - eta * eigenvalues).max(), rate, atol=100 * n * EPS)
    assert (factors >= rate - 100 * n * EPS).all()
    # The largest stable step, 2/lambda_1, is as bad as any: its factor is one.
    assert np.abs(1 - 2 / eigenvalues.max() * eigenvalues).max() > rate


@given(st.floats(1.01, 50), st.floats(-1, 1), st.floats(-1, 1))
def test_Q1_no_two_steps_beat_the_schedule_of_chebyshev(condition, u, v):
    low, high = 1 / condition, 1.0
    middle, width = (high + low) / 2, (high - low) / 2
    steps = 1 / (middle + np.array([1, -1]) * width / np.sqrt(2))

    def worst(first, second):
        # A polynomial of degree two has its extremes at the ends or at its vertex.
        roots = np.array([first, second])
        at = [low, high]
        if roots.prod() != 0:
            at.append(np.clip(np.mean(1 / roots), low, high))
        return np.abs((1 - first * np.array(at)) * (1 - second * np.array(at))).max()

    best = worst(*steps)
    assert np.isclose(best, 1 / (2 * (middle / width) ** 2 - 1), rtol=1e-6)
    assert worst(steps[0] + u, steps[1] + v) >= best * (1 - 1e-9)
    if abs(condition - (1 + np.sqrt(2))) > 1e-9:
        assert (steps.max() > 2 / high) == (condition > 1 + np.sqrt(2))


@settings(max_examples=50, deadline=None)
@given(seed=seeds, kernel=st.integers(0, 3), others=st.integers(1, 4))
def test_Q1_limit_is_the_projection_on_the_kernel(seed, kernel, others):
    generator = np.random.default_rng(seed)
    products = np.concatenate([np.zeros(kernel), generator.uniform(0.1, 1.9, others)])
    matrix, q = random_hessian(generator, products)
    start = generator.normal(size=kernel + others)
    end = quadratic.descend(matrix, start, 1.0, 400)[-1]
    flat = q[:, :kernel]
    # Factors are at most 0.9: 400 steps leave 1e-18. Each step rounds at n EPS and forgets none
    # of it along the kernel.
    assert np.abs(end - flat @ (flat.T @ start)).max() < 400 * 20 * EPS * np.linalg.norm(start)
    assert np.abs(matrix @ end).max() < 400 * 40 * EPS * np.linalg.norm(start)
    # One product outside of [0, 2) and there is no limit: on the threshold, beyond it, below 0.
    for wrong in (2.0, 2.1, -0.1):
        matrix, q = random_hessian(generator, np.append(products, wrong))
        path = quadratic.descend(matrix, q[:, -1] + q[:, 0], 1.0, 400)
        assert np.linalg.norm(path[-1] - path[-2]) > 0.05


# --- Q2 -------------------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(1, 5), product=st.floats(0.05, 1.95))
def test_Q2_descent_lemma_on_random_smooth_losses(seed, n, product):
    # L = sum_j c_j cos(w_j . theta + b_j): curvature at most ell = sum_j |c_j| |w_j|^2.
    generator = np.random.default_rng(seed)
    c, b, w = generator.normal(size=4), generator.normal(size=4), generator.normal(size=(4, n))
    ell = np.sum(np.abs(c) * np.sum(w**2, axis=1))

    def loss(theta):
        return np.sum(c * np.cos(w @ theta + b))

    theta = generator.normal(size=n)
    gradient = -(c * np.sin(w @ theta + b)) @ w
    eta = product / ell
    bound = loss(theta) - eta * (1 - eta * ell / 2) * gradient @ gradient
    assert loss(theta - eta * gradient) <= bound + 50 * EPS * np.sum(np.abs(c))


@given(seed=seeds, n=st.integers(1, 5), product=st.floats(0.1, 3))
def test_Q2_is_tight_along_v1_and_only_there(seed, n, product):
    generator = np.random.default_rng(seed)
    eigenvalues = np.append(np.sort(generator.uniform(0.1, 0.9, n)), 1.0)
    gap = []
    for theta in (np.eye(n + 1)[-1], generator.uniform(0.5, 1, n + 1)):
        g = eigenvalues * theta
        before, after = quadratic.loss(eigenvalues, np.stack([theta, theta - product * g]))
        gap.append(before - product * (1 - product / 2) * g @ g - after)
    assert abs(gap[0]) < 50 * EPS * max(1, product**2)
    assert gap[1] > 1e-6 * product**2  # (eta^2/2) sum (1 - lambda_k) c_k^2, no term tiny


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(1, 5), product=st.floats(0.05, 1.95), steps=st.integers(1, 60))
def test_Q2_gradients_fall_at_the_stated_rate(seed, n, product, steps):
    generator = np.random.default_rng(seed)
    c, b, w = generator.normal(size=4), generator.normal(size=4), generator.normal(size=(4, n))
    ell = np.sum(np.abs(c) * np.sum(w**2, axis=1))
    eta = product / ell
    theta, losses, squares = generator.normal(size=n), [], []
    for _ in range(steps + 1):
        losses.append(np.sum(c * np.cos(w @ theta + b)))
        gradient = -(c * np.sin(w @ theta + b)) @ w
        squares.append(gradient @ gradient)
        theta = theta - eta * gradient
    # The least loss of the run serves as its lower bound: no other is as strict.
    bound = (losses[0] - min(losses)) / (steps * eta * (1 - eta * ell / 2))
    rounding = 100 * EPS * np.sum(np.abs(c)) / (steps * eta * (1 - eta * ell / 2))
    assert min(squares[:steps]) <= bound + rounding


@given(product=st.floats(0.05, 1.95), x=st.floats(0.1, 10))
def test_Q2_rate_is_attained_by_one_step_on_a_quadratic(product, x):
    """So no constant in it can be improved: half of the term with ell would be too little."""
    before, after = x**2 / 2, (1 - product) ** 2 * x**2 / 2
    for share, holds in ((1 / 2, True), (1 / 4, False)):
        bound = (before - after) / (product * (1 - product * share))
        assert (x**2 <= bound * (1 + 100 * EPS / (2 - product))) == holds


def test_Q2_gradients_tend_to_zero():
    path = np.zeros((2001, 2))
    path[0] = 1.0, -0.7  # L = cos(x) + cos(x + 2 y), ell = 1 + 5
    for t in range(2000):
        x, y = path[t]
        gradient = -np.sin(x) - np.sin(x + 2 * y), -2 * np.sin(x + 2 * y)
        path[t + 1] = path[t] - 0.3 * np.array(gradient)
    x, y = path.T
    assert np.hypot(np.sin(x) + np.sin(x + 2 * y), 2 * np.sin(x + 2 * y))[-1] < 1e-12


# --- Q3 -------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(
    method=methods,
    beta=st.floats(0, 0.99),
    eta=st.floats(1e-3, 10),
    ratio=st.floats(0.01, 3).filter(lambda r: abs(r - 1) > 1e-4),
)
def test_Q3_threshold_is_where_the_spectral_radius_passes_one(method, beta, eta, ratio):
    extra = options(method, beta)
    threshold = float(quadratic.stability_threshold(method, eta, **extra))
    matrix = quadratic.companion_matrix(method, ratio * threshold, eta, **extra)
    radius = np.abs(eigvals(matrix)).max()
    assert (radius < 1) == (ratio < 1)


@pytest.mark.parametrize("method", quadratic.METHODS)
def test_Q3_grid_of_scipy_eigenvalues(method):
    for beta in (0.0, 0.3, 0.9):
        extra = options(method, beta)
        grid = np.linspace(0.01, 60, 997)
        stable = np.array(
            [
                np.abs(eigvals(m)).max() < 1
                for m in quadratic.companion_matrix(method, grid, 1.0, **extra)
            ]
        )
        assert (stable == (grid < quadratic.stability_threshold(method, 1.0, **extra))).all()


def inside(p, q):
    """Whether both roots of mu^2 - p mu + q lie inside the unit circle, from the roots."""
    root = np.emath.sqrt(p**2 - 4 * q)
    return max(abs(p + root), abs(p - root)) < 2


def conditions(p, q):
    return abs(q) < 1, abs(p) < 1 + q


@settings(max_examples=500)
@given(p=st.floats(-3, 3), q=st.floats(-2, 2))
def test_jury_conditions_are_those_of_the_roots(p, q):
    margin = min(abs(abs(q) - 1), abs(abs(p) - 1 - q))
    assume(margin > 1e-6)  # on the boundary rounding decides; the next test has its cases
    assert inside(p, q) == all(conditions(p, q))


def test_jury_conditions_are_strict_and_both_are_needed():
    # Roots 1, 1; i, -i; 1, -1; -1, -1/2; 1, 1/2: one at least on the circle.
    for p, q in ((2, 1), (0, 1), (0, -1), (-1.5, 0.5), (1.5, 0.5)):
        assert not inside(p, q)
        assert not all(conditions(p, q))
    # Roots 3/2 and 1/2 meet the first condition alone, 2 i and -2 i the second alone.
    for (p, q), met in {(2, 0.75): (True, False), (0, 4): (False, True)}.items():
        assert not inside(p, q)
        assert conditions(p, q) == met
    for p, q in ((1.8, 0.81), (0, 0)):  # double roots, at 0.9 and 0
        assert inside(p, q)
        assert all(conditions(p, q))


def test_Q3_jury_conditions_symbolically():
    # z^2 - p z + q has both roots inside the unit circle iff |q| < 1 and |p| < 1 + q. At the
    # threshold 1 + p + q = 0: the multiplier that leaves is -1.
    x, beta = sp.symbols("x beta", positive=True)
    cases = {
        "heavy_ball": (1 + beta - x, beta, 2 * (1 + beta)),
        "nesterov": ((1 + beta) * (1 - x), beta * (1 - x), 2 * (1 + beta) / (1 + 2 * beta)),
        "adam": (1 + beta - (1 - beta) * x, beta, 2 * (1 + beta) / (1 - beta)),
    }
    for p, q, threshold in cases.values():
        assert sp.simplify((1 + p + q).subs(x, threshold)) == 0
        assert sp.simplify(sp.solve(1 + p + q, x)[0] - threshold) == 0
        assert sp.simplify((1 - p + q).subs(x, 0)) == 0  # the other end is at lambda = 0


@given(method=methods, beta=st.floats(0, 0.95), product=st.floats(0.01, 5), seed=seeds)
def test_Q3_companion_matrix_describes_the_iterates(method, beta, product, seed):
    extra = options(method, beta)
    path = quadratic.iterate(method, [product], [1.0], 1.0, 8, **extra)[:, 0]
    matrix = quadratic.companion_matrix(method, product, 1.0, **extra)
    state = np.array([path[1], path[0]])
    for t in range(1, 8):
        state = matrix @ state
        # Rounding of eight steps, relative to the largest iterate, grown by at most 7 a step.
        assert abs(state[0] - path[t + 1]) <= 1e3 * EPS * np.abs(path).max() * 7 ** (t / 2)


@pytest.mark.parametrize("method", quadratic.METHODS)
def test_Q3_a_start_at_rest_decides_the_same(method):
    for beta in (0.0, 0.5, 0.9):
        extra = options(method, beta)
        threshold = float(quadratic.stability_threshold(method, 1.0, **extra))
        for ratio in (0.95, 1.05):
            matrix = quadratic.companion_matrix(method, ratio * threshold, 1.0, **extra)
            rest = np.ones(2)
            assert np.linalg.det([rest, matrix @ rest]) > 0, "rest and its image span the plane"
            path = quadratic.iterate(method, [ratio * threshold], [1.0], 1.0, 400, **extra)
            # 0.98^400 < 4e-4 and 1.01^400 > 50 leave room for eigenvectors that are not orthogonal.
            radius = np.abs(eigvals(matrix)).max()
            assert radius < 0.98 if ratio < 1 else radius > 1.01
            assert np.abs(path[-2:]).max() < 0.1 if ratio < 1 else np.abs(path[-2:]).max() > 10


def test_Q3_values():
    assert quadratic.stability_threshold("gd", 0.1) == 20
    assert np.isclose(quadratic.stability_threshold("heavy_ball", 0.1, momentum=0.9), 38)
    assert np.isclose(quadratic.stability_threshold("adam", 1.0, beta1=0.9), 38)
    assert quadratic.stability_threshold("rmsprop", 0.1) == 20
    assert np.isclose(quadratic.stability_threshold("rmsprop", 0.1, momentum=0.9), 38)
    for method in quadratic.METHODS:  # without memory every method is gradient descent
        assert np.isclose(quadratic.stability_threshold(method, 0.5, **options(method, 0.0)), 4)


# --- Q4 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize(("ratio", "stable"), [(0.95, True), (1.05, False)])
def test_Q3_rmsprop_of_pytorch_turns_unstable_at_its_threshold(momentum, ratio, stable):
    """Its P held fixed: alpha = 1 keeps the average of squares where it is put, at 4, P at 2."""
    torch = pytest.importorskip("torch")
    rate = 0.1
    threshold = float(quadratic.stability_threshold("rmsprop", rate, momentum=momentum))
    curvature = 2 * ratio * threshold  # P^{-1/2} H P^{-1/2} = H / 2
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    method = torch.optim.RMSprop([theta], rate, alpha=1.0, eps=0.0, momentum=momentum)
    method.state[theta] = {
        "step": torch.zeros(()), "square_avg": torch.full_like(theta, 4.0),
        "momentum_buffer": torch.zeros_like(theta),
    }  # fmt: skip
    for _ in range(200):
        theta.grad = curvature * theta.detach()
        method.step()
    assert (abs(theta.item()) < 1) == stable
    path = quadratic.iterate("rmsprop", [curvature / 2], [1.0], rate, 200, momentum=momentum)
    assert np.isclose(path[-1, 0], theta.item(), rtol=1e-9)


def test_Q4_threshold_symbolically():
    eta, lam, s2, batch = sp.symbols("eta lambda s2 B", positive=True)
    factor = (1 - eta * lam) ** 2 + eta**2 * s2 / batch
    assert sp.simplify(sp.solve(sp.Eq(factor, 1), eta)[0] - 2 * lam / (lam**2 + s2 / batch)) == 0


@given(lam=st.floats(0.1, 5), s2=st.floats(0, 10), batch=st.integers(1, 64))
def test_Q4_noise_lowers_the_threshold(lam, s2, batch):
    threshold = 2 * lam / (lam**2 + s2 / batch)
    assert threshold <= 2 / lam * (1 + 4 * EPS)
    assert quadratic.sgd_second_moment(lam, s2, 0.999 * threshold, batch) < 1
    assert quadratic.sgd_second_moment(lam, s2, 1.001 * threshold, batch) > 1


@settings(max_examples=20, deadline=None)
@given(seed=seeds, replacement=st.booleans(), batch=st.integers(1, 3))
def test_Q4_covariance_step_is_the_exact_average_over_all_batches(seed, replacement, batch):
    from itertools import combinations, product

    generator = np.random.default_rng(seed)
    features = generator.normal(size=(4, 2))
    eta = generator.uniform(0.05, 0.5)
    sigma = np.cov(generator.normal(size=(2, 10)))
    draws = product(range(4), repeat=batch) if replacement else combinations(range(4), batch)
    results = []
    for draw in draws:
        rows = features[list(draw)]
        step = np.eye(2) - eta * rows.T @ rows / batch
        results.append(step @ sigma @ step.T)
    matrix = quadratic.sgd_covariance_step(features, eta, batch, replacement=replacement)
    predicted = (matrix @ sigma.reshape(-1)).reshape(2, 2)
    scale = np.abs(results).max()
    assert np.abs(np.mean(results, axis=0) - predicted).max() < 1000 * EPS * max(scale, 1)


def test_Q4_mean_may_converge_while_the_second_moment_diverges():
    # h = 0 or 2 with equal chance: lambda = 1, s^2 = 1, threshold eta = 1 < 2/lambda.
    eta, steps, runs = 1.2, 12, 200_000
    generator = np.random.default_rng(0)
    h = 2.0 * generator.integers(0, 2, size=(steps, runs))
    x = np.prod(1 - eta * h, axis=0)
    for values, factor in ((x, 1 - eta), (x**2, quadratic.sgd_second_moment(1.0, 1.0, eta))):
        error = values.std() / np.sqrt(runs)
        # Five standard errors: a false alarm once in two million.
        assert abs(values.mean() - factor**steps) < 5 * error
    assert abs(1 - eta) < 1 < quadratic.sgd_second_moment(1.0, 1.0, eta)


def test_Q4_covariance_with_one_feature_is_the_scalar_factor():
    features = np.array([[0.0], [2.0], [1.0]])
    h = features[:, 0] ** 2
    factor = quadratic.sgd_second_moment(h.mean(), h.var(), 0.3, 2)
    assert np.isclose(quadratic.sgd_covariance_step(features, 0.3, 2)[0, 0], factor, rtol=10 * EPS)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 6), p=st.integers(1, 3), product=st.floats(0.1, 3))
def test_Q4_noise_never_raises_the_threshold_of_a_matrix(seed, n, p, product):
    """The covariance grows at least as the mean squared, and with the full batch just so."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(n, p))
    values = np.linalg.eigvalsh(features.T @ features / n)
    eta = product / values[-1]
    mean = np.abs(1 - eta * values).max() ** 2
    for batch, replacement in ((1, True), (n - 1, False), (n, True), (n, False)):
        step = quadratic.sgd_covariance_step(features, eta, batch, replacement=replacement)
        radius = quadratic.spectral_radius(step)
        # A matrix of size p^2 with entries up to (1 + 3 n)^2, symmetric as a map of covariances.
        rounding = 1e3 * EPS * max(1, np.abs(step).max())
        assert radius >= mean - rounding
        if radius < 1 - rounding:
            assert product < 2
        if not replacement and batch == n:
            assert abs(radius - mean) <= rounding
        elif p == 1:
            assert radius > mean, "one parameter, and noise that is not zero"


# --- bad input ------------------------------------------------------------------------------


X = np.ones((3, 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: quadratic.descend([1.0], [1.0], 0.0, 1), "learning_rate"),
        (lambda: quadratic.descend([1.0], [1.0], -1.0, 1), "learning_rate"),
        (lambda: quadratic.descend([1.0], [1.0], np.nan, 1), "learning_rate"),
        (lambda: quadratic.descend([1.0], [1.0], 0.1, 0), "steps"),
        (lambda: quadratic.descend(np.eye(2, k=1), [1.0, 1.0], 0.1, 1), "symmetric"),
        (lambda: quadratic.descend(np.ones((2, 3)), [1.0], 0.1, 1), "shape"),
        (lambda: quadratic.descend([1.0, 2.0], [1.0], 0.1, 1), "start"),
        (lambda: quadratic.descend([np.nan], [1.0], 0.1, 1), "hessian"),
        (lambda: quadratic.stability_threshold("adamw", 0.1), "adamw"),
        (lambda: quadratic.stability_threshold("gd", 0.1, momentum=0.9), "no coefficient"),
        (lambda: quadratic.stability_threshold("heavy_ball", 0.1), "momentum"),
        (lambda: quadratic.stability_threshold("adam", 0.1, beta=0.9), "beta1"),
        (lambda: quadratic.stability_threshold("heavy_ball", 0.1, momentum=1.0), "momentum"),
        (lambda: quadratic.best_learning_rate([1.0, 0.0]), "positive definite"),
        (lambda: quadratic.sgd_second_moment(1.0, -1.0, 0.1), "variance"),
        (lambda: quadratic.sgd_covariance_step(np.ones(3), 0.1, 1), "features"),
        (lambda: quadratic.sgd_covariance_step(X, 0.1, 4, replacement=False), "batch_size"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_learning_rates_broadcast_against_the_batch():
    path = quadratic.descend([1.0, 0.5], np.ones((3, 1, 2)), np.array([0.1, 0.2]), 4)
    assert path.shape == (5, 3, 2, 2)
    alone = quadratic.descend([1.0, 0.5], np.ones(2), 0.2, 4)
    assert np.array_equal(path[:, 1, 1], alone)
