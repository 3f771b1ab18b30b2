"""The central flow (F2), and that of the scalar network (F3)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory import central_flow as cf
from flatminima.theory.scalar_network import ScalarNetwork
from flatminima.theory.tanh_network import TanhNetwork

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)

# --- F2: the problem of an instant ---------------------------------------------------------------


def random_edge(generator, k, p, stabilized=True):
    """Gradients of the entries of V^T H V, in which some direction lowers all, and of the loss."""
    G = generator.normal(size=(k, k, p))
    G = (G + np.swapaxes(G, 0, 1)) / 2
    if stabilized:
        n = generator.normal(size=p)
        root = generator.normal(size=(k, k))
        lowers = np.tensordot(G, n, 1)
        G = G + (root @ root.T + np.eye(k) / 2 - lowers)[:, :, None] * n / (n @ n)
    return G, generator.normal(size=p)


def solved(G, g):
    form = np.einsum("ijp,klp->ijkl", G, G) / 2
    found = cf.complementarity(G @ g, form)
    return found, -g - np.einsum("ij,ijp->p", found.covariance, G) / 2


@settings(max_examples=50)
@given(seed=seeds, k=st.integers(1, 4), p=st.integers(1, 12))
def test_instant_velocity_is_the_nearest_that_raises_no_curvature(seed, k, p):
    generator = np.random.default_rng(seed)
    for _ in range(4):
        G, g = random_edge(generator, k, p)
        found, u = solved(G, g)
        scale = np.linalg.norm(g)
        # It raises none, it is orthogonal to what holds it, and its cone has no nearer point.
        assert np.linalg.eigvalsh(G @ u)[-1] < 1e-8 * scale * (1 + np.linalg.norm(G))
        assert abs((-g - u) @ u) < 1e-8 * scale**2
        normal = -g - u
        for other in generator.normal(size=(20, p)):
            if np.linalg.eigvalsh(G @ other)[-1] <= 0:
                assert normal @ other <= 1e-8 * scale * np.linalg.norm(other)
        # With a whole in place of the half the curvatures fall that should be held.
        if found.covariance.any():
            wrong = -g - np.einsum("ij,ijp->p", found.covariance, G)
            assert abs((-g - wrong) @ wrong) > 1e-6 * (normal @ normal)


def test_instant_one_direction_in_closed_form():
    generator = np.random.default_rng(1)
    for _ in range(100):
        G, g = random_edge(generator, 1, 5)
        alpha, beta = -G[0, 0] @ g, G[0, 0] @ G[0, 0]
        X = solved(G, g)[0].covariance[0, 0]
        assert np.isclose(X, max(0.0, 2 * alpha / beta), rtol=1e-12)


def test_instant_exists_where_one_direction_lowers_all_and_may_not_elsewhere():
    E = np.eye(3)
    # V^T H V = [[2 u, w], [w, 0]]: an oscillation in the second direction pairs with any other.
    G = np.zeros((2, 2, 3))
    G[0, 0], G[0, 1], G[1, 0] = 2 * E[0], E[1], E[1]
    distances = []
    for large in (1.0, 10.0, 100.0):
        # X = [[1/L, -1], [-1, L]] >= 0 comes as near to the gradient E[1] as one likes.
        X = np.array([[1 / large, -1.0], [-1.0, large]])
        distances.append(np.linalg.norm(E[1] + np.einsum("ij,ijp->p", X, G) / 2))
    assert np.allclose(distances, [1.0, 0.1, 0.01])
    # And where gradients cancel, solutions are a whole ray.
    G = np.zeros((2, 2, 3))
    G[0, 0], G[1, 1] = E[0], -E[0]
    X = solved(G, -E[0])[0].covariance
    form = np.einsum("ijp,klp->ijkl", G, G) / 2
    more = X + 5 * np.eye(2)
    assert np.allclose(G @ -E[0] + np.einsum("ijkl,kl->ij", form, more), 0, atol=1e-8)


# --- F2: the flow --------------------------------------------------------------------------------


def random_sharpening(generator, k):
    """Constants A and B of the oscillation at the edge, B positive definite; X of F2 for them."""
    G, g = random_edge(generator, k, 3 * k * k)
    form = np.einsum("ijp,klp->ijkl", G, G) / 2
    return G @ g, form


def oscillate(A, B, z, E, time, dt):
    """Means of z z^T, and E at the end, of z' = E z, E' = -A - B[z z^T], over a batch (n, ...).

    Half a step in E, one in z, half a step in E: of second order, and stable for any E.
    """
    total = np.zeros_like(E)
    for _ in range(round(time / dt)):
        E = E - dt / 2 * (A + np.einsum("nijkl,nk,nl->nij", B, z, z))
        values, vectors = np.linalg.eigh(E)
        z = np.einsum("nij,nj,nkj,nk->ni", vectors, np.exp(values * dt), vectors, z)
        E = E - dt / 2 * (A + np.einsum("nijkl,nk,nl->nij", B, z, z))
        total += dt * z[:, :, None] * z[:, None, :]
    return total / time, E


def test_F2_means_do_not_depend_on_the_size_of_the_oscillation():
    """One direction: each orbit is closed, and over it the mean of z^2 is 2 alpha / beta."""
    alpha, beta, time = np.repeat([0.5, 2.0], 5), 1.5, 60.0
    sizes = np.tile([0.01, 0.3, 1.0, 2.0, 4.0], 2)
    A, B = -alpha[:, None, None], np.full((10, 1, 1, 1, 1), beta / 2)
    star = np.sqrt(2 * alpha / beta)[:, None]
    mean, _ = oscillate(A, B, star, sizes[:, None, None], time, 0.01)
    # What is missing is (E(0) - E(T)) / T, and |E| stays below that of the start.
    off = np.abs(mean[:, 0, 0] - 2 * alpha / beta)
    assert np.all(off < 2 * sizes / time / (beta / 2) + 1e-3)
    assert np.all(off < np.abs(mean[:, 0, 0] - alpha / beta)), "it is not half of that"


def test_F2_means_solve_the_complementarity_problem():
    generator, count = np.random.default_rng(0), 25
    drawn = [random_sharpening(generator, 2) for _ in range(count)]
    A = np.array([a / np.linalg.norm(a) for a, _ in drawn])
    B = np.array([b / np.linalg.norm(b) for _, b in drawn])
    X = np.array([cf.complementarity(a, b).covariance for a, b in zip(A, B, strict=True)])
    ranks = np.sum(np.linalg.eigvalsh(X) > 1e-6, axis=-1)
    assert set(ranks) >= {1, 2}
    errors = []
    for time in (40.0, 160.0):
        start = 0.3 * np.random.default_rng(1).normal(size=(count, 2))
        mean, E = oscillate(A, B, start, np.zeros((count, 2, 2)), time, 0.05)
        errors.append(np.linalg.norm(mean - X, axis=(-2, -1)))
        # E(T) / T tends to minus the slack.
        slack = A + np.einsum("nijkl,nkl->nij", B, X)
        assert np.abs(E / time + slack).max() < 4 / time
    # The error is O(1/T), with an oscillating constant: four times the time, a quarter of it.
    assert errors[1].mean() < errors[0].mean() / 2.5
    assert errors[1].mean() < 0.02 * np.linalg.norm(X, axis=(-2, -1)).mean()


ONE = np.einsum("ik,jl->ijkl", np.eye(2), np.eye(2))
IDENTITY = (ONE + np.swapaxes(ONE, 0, 1)) / 2
TRACE = IDENTITY + np.einsum("ij,kl->ijkl", np.eye(2), np.eye(2))
RISING = {
    "nothing rises": (np.zeros((2, 2)), IDENTITY, [0.3, 0.2], 0.0),
    "both rise alike": (-np.eye(2), IDENTITY, [0.3, 0.1], 0.0),
    "one rises faster": (np.diag([-1, -0.3]), IDENTITY, [0.3, 0.1], 0.0),
    "one rises, one falls": (np.diag([-1.0, 1.0]), IDENTITY, [0.3, 0.1], 0.0),
    "one rises, one rests": (np.diag([-1.0, 0.0]), IDENTITY, [0.3, 0.1], 0.0),
    "a pull on the mixed entry": (np.array([[-1, 0.9], [0.9, -1]]), TRACE, [0.3, 0.1], 0.0),
    "far above the edge": (-np.eye(2), TRACE, [0.3, 0.1], 3.0),
    "far below the edge": (-np.eye(2), TRACE, [0.3, 0.1], -5.0),
    "a large oscillation": (-np.eye(2), TRACE, [5.0, 0.1], 0.0),
    "hardly any oscillation": (-np.eye(2), TRACE, [1e-30, 1e-31], 0.0),
}
"""A, B, z and the excess (times the identity) at the start."""


def test_F2_means_in_adverse_cases():
    A, B, z, E = (np.array(part, float) for part in zip(*RISING.values(), strict=True))
    X = np.array([cf.complementarity(a, b).covariance for a, b in zip(A, B, strict=True)])
    errors = []
    for time in (75.0, 300.0):
        mean, _ = oscillate(A, B, z, E[:, None, None] * np.eye(2), time, 0.05)
        errors.append(np.linalg.norm(mean - X, axis=(-2, -1)))
    # What is missing is of the order of the largest excess, some 5 at most, over the time.
    assert np.all(errors[1] < 10 / 300)
    assert errors[1].mean() < errors[0].mean() / 2.5


def test_F2_an_oscillation_in_an_invariant_line_holds_this_line_alone():
    """The hypothesis that no curvature rises for good is needed: here one does."""
    start = np.array([[0.3, 0.0]]), np.zeros((1, 2, 2))
    mean, E = oscillate(-np.eye(2)[None], IDENTITY[None], *start, 100.0, 0.05)
    assert np.allclose(mean[0], np.diag([1.0, 0.0]), atol=0.05)
    assert np.isclose(E[0, 1, 1], 100.0)
    assert np.allclose(cf.complementarity(-np.eye(2), IDENTITY).covariance, np.eye(2), atol=1e-5)


def valley(push, eta=0.5):
    """L = x^2 / eta + z x^2 / 2 - push z + z^2 / 2: the sharpness at x = 0 is 2 / eta + z."""

    def derivatives(theta):
        x, z = theta
        third = np.zeros((2, 2, 2))
        third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 1.0
        gradient = np.array([(2 / eta + z) * x, x**2 / 2 - push + z])
        return gradient, np.array([[2 / eta + z, x], [x, 1.0]]), third

    return derivatives


@pytest.mark.parametrize("push", [0.02, 0.1, 0.3])
def test_F2_rests_where_the_oscillation_balances_the_gradient(push):
    flow = cf.central_flow(valley(push), [0.0, -0.5], 0.5, 120)
    assert np.allclose(flow.theta[-1], 0, atol=1e-9)
    # g + X grad(lambda_1) / 2 = 0, and the mean loss of x = +-sqrt(X) is tr X / eta exactly.
    assert np.isclose(flow.variance[-1], 2 * push)
    x = np.sqrt(flow.variance[-1])
    gradient, *_ = valley(push)(np.array([x, 0.0]))
    assert np.isclose(x - 0.5 * gradient[0], -x), "gradient descent goes on from x to -x"
    assert np.isclose(gradient[1], 0)


BASIS = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 0.5**0.5], [0.5**0.5, 0]]])
"""Of the symmetric matrices."""


def two_valleys(push, eta):
    """L = <x, (2 / eta + M) x> / 2 - <push, M> with x in R^2, and M = sum G_k BASIS_k."""

    def derivatives(theta):
        x, M = theta[:2], np.tensordot(theta[2:], BASIS, 1)
        third, hessian = np.zeros((5, 5, 5)), np.zeros((5, 5))
        for k, E in enumerate(BASIS, start=2):
            third[k, :2, :2] = third[:2, k, :2] = third[:2, :2, k] = E
            hessian[k, :2] = hessian[:2, k] = E @ x
        hessian[:2, :2] = 2 / eta * np.eye(2) + M
        slopes = np.einsum("kij,ij->k", BASIS, np.outer(x, x) / 2 - push)
        return np.concatenate([hessian[:2, :2] @ x, slopes]), hessian, third

    return derivatives


def test_F2_two_directions_of_gradient_descent_and_of_the_flow():
    """The oscillation's covariance has rank two, which no state of it has."""
    eta, push = 0.05, np.array([[0.5, 0.15], [0.15, 0.2]])
    start = np.array([0.0, 0.0, -0.1, -0.2, 0.05])
    flow = cf.central_flow(two_valleys(push, eta), start, eta, 200)
    assert np.allclose(flow.covariance[-1, :2, :2], 2 * push, atol=1e-6)
    assert np.isclose(flow.sharpness[-1], 2 / eta)
    derivatives = two_valleys(push, eta)
    theta, total, count = start + np.array([0.3, -0.2, 0, 0, 0]), np.zeros((2, 2)), 6000
    for _ in range(count):
        total += np.outer(theta[:2], theta[:2]) / count
        theta = theta - eta * derivatives(theta)[0]
    # Exactly, half the mean is push - (M_T - M_0) / (eta T), and |M| stays of the order of one.
    moved = np.tensordot(theta[2:] - start[2:], BASIS, 1) / (eta * count)
    assert np.allclose(total / 2, push - moved, atol=1e-9)
    assert np.abs(total - 2 * push).max() < 0.02


def test_F2_leaves_the_edge_where_the_gradient_leads_away():
    flow = cf.central_flow(valley(-0.2), [0.0, 0.0], 0.5, 40)
    free = cf.central_flow(valley(-0.2), [0.0, 0.0], 0.5, 40, oscillating=False)
    assert flow.variance.max() == 0
    assert np.array_equal(flow.theta, free.theta)
    assert np.all(np.diff(flow.sharpness) < 0)


def test_F2_minima_that_gradient_descent_accepts_are_at_rest():
    network = ScalarNetwork(3, 1.0)
    for excess in (-0.3, -1e-3, -1e-9):
        theta = network.start_with_sharpness(8 * (1 + excess), np.random.default_rng(1))
        flow = cf.central_flow(cf.scalar_derivatives(network), theta, 0.25, 5)
        assert np.allclose(flow.theta[-1], theta, atol=1e-9)


def edge_network():
    inputs = np.linspace(-2, 2, 8)
    return TanhNetwork(3, inputs, np.sin(4 * inputs)), 0.6


def edge_run(first, steps):
    """Gradient descent, centers of its oscillation, and the center around one step."""
    network, eta = edge_network()
    path = network.descend(np.random.default_rng(0).normal(size=9), eta, first + steps + 1)
    centers = (path[:-2] + 2 * path[1:-1] + path[2:]) / 4
    return path[first:], centers[first - 1 :]


def test_F2_central_flow_follows_gradient_descent_where_gradient_flow_does_not():
    """Criterion, set before the run: ten times nearer in parameters and in sharpness."""
    network, eta = edge_network()
    first, steps = 500, 200
    path, centers = edge_run(first, steps)

    def derivatives(theta):
        return network.derivatives(theta, 3)

    central = cf.central_flow(derivatives, centers[0], eta, steps)
    gradient = cf.central_flow(derivatives, centers[0], eta, steps, oscillating=False)
    late = slice(steps // 2, steps)
    apart = [
        np.linalg.norm(flow.theta[late] - centers[late], axis=-1).mean()
        for flow in (central, gradient)
    ]
    assert apart[0] < apart[1] / 10
    sharpness = np.array([np.linalg.eigvalsh(network.hessian(t))[-1] for t in centers[:steps:10]])
    off = [
        np.abs(flow.sharpness[:steps:10] - sharpness)[10:].mean() for flow in (central, gradient)
    ]
    assert off[0] < off[1] / 10
    # The oscillation's mean square and what it adds to the loss, without a free parameter.
    around = np.sum((path[:steps] - centers[:steps]) ** 2, axis=-1)
    assert abs(central.variance[late].mean() / around[late].mean() - 1) < 0.1
    losses = np.array([network.loss(theta) for theta in path[:steps]])[late].mean()
    quiet = np.array([network.loss(theta) for theta in central.theta[late]])
    predicted = (quiet + central.variance[late] / eta).mean()
    assert abs(predicted - losses) < 0.1 * abs(quiet.mean() - losses)


def test_F2_loss_falls_along_the_flow_by_the_square_of_the_speed():
    network, eta = edge_network()
    _, centers = edge_run(500, 2)
    flow = cf.central_flow(
        lambda theta: network.derivatives(theta, 3), centers[0], eta, 60, substeps=16
    )
    losses = np.array([network.loss(theta) for theta in flow.theta])
    speed = np.linalg.norm(np.diff(flow.theta, axis=0), axis=-1) / eta
    falls = -np.diff(losses) / eta
    assert np.all(falls > 0)
    # The first steps bring the start to the edge; after them the speed changes slowly.
    assert np.allclose(falls[20:], speed[20:] ** 2, rtol=0.05)
    assert flow.sharpness[20:].max() < 2 / eta * (1 + 1e-3)


# --- F3: the scalar network ----------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_third_derivative_of_a_scalar_network(depth):
    network = ScalarNetwork(depth, 0.7)
    derivatives = cf.scalar_derivatives(network)
    theta = np.random.default_rng(depth).normal(size=depth)
    if depth > 2:
        theta[1] = 0.0
    h = 1e-5
    difference = [
        (network.hessian(theta + h * e) - network.hessian(theta - h * e)) / (2 * h)
        for e in np.eye(depth)
    ]
    gradient, hessian, third = derivatives(theta)
    assert np.allclose(third, difference, atol=1e-8)
    assert np.array_equal(gradient, network.gradient(theta))
    assert np.array_equal(hessian, network.hessian(theta))


@settings(max_examples=60)
@given(seed=seeds, depth=st.integers(2, 5))
def test_F3_imbalances_fall_as_under_gradient_descent_with_the_mean_square_residual(seed, depth):
    generator = np.random.default_rng(seed)
    for _ in range(20):
        y = generator.choice([-1, 1]) * 10 ** generator.uniform(-1, 1)
        network = ScalarNetwork(depth, y)
        theta = generator.uniform(0.3, 2, size=depth) * generator.choice([-1, 1], size=depth)
        theta[0] *= y / np.prod(theta)
        _, hessian, third = cf.scalar_derivatives(network)(theta)
        values, vectors = np.linalg.eigh(hessian)
        v = vectors[:, -1]
        X = generator.uniform(0.1, 2)
        velocity = -X / 2 * (third @ v @ v)
        change = 2 * theta * velocity
        q = np.abs(y / np.outer(theta, theta))
        predicted = -2 * X * q**2 * network.imbalance(theta)
        found = change[:, None] - change[None, :]
        size = np.abs(change).max() + np.abs(predicted).max()
        assert np.allclose(found, predicted, atol=1e-11 * size)
        # <r^2> = lambda_1 X is the residual's mean square: D6 has eta <r^2> q^2 = 2 X q^2.
        assert np.isclose((vectors[:, -1] @ (y / theta)) ** 2, values[-1], rtol=1e-9)
        assert not np.allclose(found, predicted / 2, atol=1e-6 * np.abs(predicted).max())


def lean(network, theta):
    """The squared sine of the angle between the gradients of the sharpness and of the output."""
    gradient, hessian, third = cf.scalar_derivatives(network)(theta)
    v = np.linalg.eigh(hessian)[1][:, -1]
    slope = third @ v @ v
    return 1 - (slope @ gradient) ** 2 / ((slope @ slope) * (gradient @ gradient))


def starts_below(generator, depth, sign, count):
    """Scalar networks, rates and starts in reach of the edge, half of them sharper ahead."""
    found = []
    while len(found) < count:
        network = ScalarNetwork(depth, sign)
        limit = network.flattest_sharpness * generator.uniform(1.5, 3.0)
        ahead = limit * (1 + (-1) ** len(found) * generator.uniform(0.002, 0.02))
        residual = sign * generator.uniform(-0.05, 0.01)
        start = network.start_with_sharpness(ahead, generator, residual)
        # Along the edge the residual falls by exp(-2 lean) a step.
        if network.sharpness(start) < limit and lean(network, start) > 0.1:
            found.append((network, 2 / limit, start, ahead, residual))
    return found


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_F3_central_flow_ends_on_the_threshold_or_at_the_minimum_ahead(depth, sign):
    above = 0
    for network, eta, start, ahead, residual in starts_below(
        np.random.default_rng(depth), depth, sign, 4
    ):
        limit = 2 / eta
        path = cf.central_flow(cf.scalar_derivatives(network), start, eta, 50)
        left = network.residual(path.theta[-1])
        assert abs(left) < 1e-2 * abs(residual)
        # What is left of the residual still moves the sharpness of the minimum ahead: it lies
        # above the threshold by the slope of lambda_1 in r, some 3 (d - 1) lambda / (d |y|). And
        # Euler's steps change the imbalances by D6, at a quarter of eta: (4/3) (swing/4)^2 in all.
        room = limit * (4 * abs(left) + network.swing(start, eta) ** 2 / 4)
        assert abs(network.minimum_sharpness(path.theta[-1]) - min(ahead, limit)) < room
        assert room < 0.5 * abs(ahead - limit)
        above += ahead > limit
    assert above == 2


@pytest.mark.parametrize("depth", [2, 3])
def test_F3_the_overshoot_is_what_the_average_loses(depth):
    """From one start: gradient descent ends h below the threshold, the flow on it, up to h^2."""
    network, limit = ScalarNetwork(depth, 1.0), 2.5 * depth
    eta = 2 / limit

    def start(ahead, residual, seed):
        return network.start_with_sharpness(ahead, np.random.default_rng(seed), residual)

    # Where the two gradients are nearly parallel, the constants of the theorem are large.
    seed = next(k for k in range(99) if lean(network, start(limit, -1e-3, k)) > 0.25)
    c = network.stabilization(start(limit, 0.0, seed), eta)
    rates = []
    for h in (0.02, 0.01, 0.005):
        # An angle of 70 degrees from the axis of the excess, so that the start is in reach.
        residual = -h * limit / np.sqrt(c) * np.sin(1.22)
        begin = start(limit * (1 + h * np.cos(1.22)), residual, seed)
        assert network.sharpness(begin) < limit
        run = network.descend(begin, eta, round(30 / h), record_every=None)
        flow = cf.central_flow(cf.scalar_derivatives(network), begin, eta, 40)
        lost = network.minimum_sharpness(flow.theta[-1]) - run.sharpness[-1]
        rates.append(abs(lost / (h * limit) - 1))
    assert rates[2] < 0.15
    # Halving h halves the relative error, up to terms of the next order.
    assert rates[2] < 0.65 * rates[1] < 0.65**2 * rates[0]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("angle", [90, 120, -150, 180])
def test_F3_where_the_minimum_ahead_lies_below_the_edge_less_is_lost(depth, angle):
    """The difference is h + eps_0 for eps_0 <= 0, on either side of the minima: h at the edge."""
    network, limit, turn = ScalarNetwork(depth, 1.0), 2.5 * depth, np.radians(angle)
    eta, errors = 2 / limit, []
    c = network.stabilization(network.start_with_sharpness(limit, np.random.default_rng(1)), eta)
    for h in (0.01, 0.005):
        excess = h * limit * np.cos(turn)
        # For 180 degrees the residual is of the order of h^2, and nothing is lost to first order.
        residual = -h * limit / np.sqrt(c) * (np.sin(turn) if angle != 180 else h)
        begin = network.start_with_sharpness(limit + excess, np.random.default_rng(1), residual)
        assert network.sharpness(begin) < limit
        run = network.descend(begin, eta, round(30 / h), record_every=None)
        flow = cf.central_flow(cf.scalar_derivatives(network), begin, eta, 40)
        lost = network.minimum_sharpness(flow.theta[-1]) - run.sharpness[-1]
        radius = np.hypot(excess, np.sqrt(c) * residual)
        errors.append(abs(lost - (radius + excess)) / radius)
        # What the theorem would say with |eps_0| left out is wrong by the whole of it.
        assert angle == 90 or abs(lost - radius) > 0.4 * radius
    assert errors[0] < 0.1
    # Relative to h, an error of O(h^2) halves, up to terms of the next order.
    assert errors[1] < 0.65 * errors[0]


def test_F3_at_depth_two_the_flow_ends_there_from_everywhere_below():
    generator, network, seen = np.random.default_rng(0), ScalarNetwork(2, 1.0), 0
    while seen < 6:
        eta = 2 / generator.uniform(2.5, 6)
        begin = network.at(-generator.uniform(0.05, 0.95), generator.uniform(0.5, 7))
        ahead = float(network.minimum_sharpness(begin))
        if network.sharpness(begin) >= 2 / eta or abs(ahead * eta / 2 - 1) < 0.02:
            continue
        seen += 1
        flow = cf.central_flow(cf.scalar_derivatives(network), begin, eta, 50, substeps=20)
        end = network.minimum_sharpness(flow.theta[-1])
        left = abs(network.residual(flow.theta[-1]))
        assert left < 0.02
        # The slope of the sharpness in r is below 6 here, and Euler's steps of eta/20 lower kappa
        # by (eta r / 20)^2 each, where r decays at the rate a^2 + b^2 >= kappa.
        steps = eta * network.residual(begin) ** 2 / (20 * network.kappa(flow.theta[-1]))
        assert abs(end - min(ahead, 2 / eta)) < 6 * left + end * steps
        assert steps < 0.05


# --- arguments -----------------------------------------------------------------------------------


def test_flow_refuses_other_arguments():
    derivatives = cf.scalar_derivatives(ScalarNetwork(2, 1.0))
    with pytest.raises(ValueError, match="start must be a vector"):
        cf.central_flow(derivatives, [[1.0, 2.0]], 0.1, 3)
    with pytest.raises(ValueError, match="substeps"):
        cf.central_flow(derivatives, [1.0, 2.0], 0.1, 3, substeps=0)
    with pytest.raises(ValueError, match="time must be"):
        cf.edge_problem([1.0], [1.0], [[[1.0]]], 1.0, 0.0)


def test_a_start_beyond_the_threshold_is_brought_to_it():
    flow = cf.central_flow(cf.scalar_derivatives(ScalarNetwork(2, 1.0)), [0.45, 2.2], 0.5, 5)
    assert flow.sharpness[0] > 4.5
    assert abs(flow.sharpness[5] - 4) < 1e-2
