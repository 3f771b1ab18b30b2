"""No rotation, no drift (F1), the central flow (F2), and that of the scalar network (F3)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory import central_flow as cf
from flatminima.theory.rotation import rotation_field
from flatminima.theory.scalar_network import ScalarNetwork
from flatminima.theory.tanh_network import TanhNetwork

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)

# --- F1: no rotation, no drift -------------------------------------------------------------------


def critical_point(generator, p, edge=1):
    """A Hessian with an eigenvalue 2 of given multiplicity, a random third derivative, a basis."""
    values = np.concatenate([np.full(edge, 2.0), generator.uniform(-1.5, 1.8, size=p - edge)])
    basis = np.linalg.qr(generator.normal(size=(p, p)))[0]
    T = generator.normal(size=(p, p, p))
    T = sum(np.transpose(T, order) for order in PERMUTATIONS) / 6
    return values, basis, T


PERMUTATIONS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def along_basis(values, basis, T, x, z, eta, gradient=0.0):
    """Even part of the gradient, and motion in one and two steps, in coordinates of the basis.

    The loss is <g, u> + <u, H u> / 2 + T[u, u, u] / 6, and the displacement x z, z in the basis.
    """
    H = basis * values @ basis.T

    def slope(u):
        return gradient + H @ u + T @ u @ u / 2

    def step(u):
        return u - eta * slope(u)

    u = x * basis @ z
    even = (slope(u) + slope(-u)) / 2 - gradient
    one, two = step(u) - u + eta * gradient, step(step(u)) - u
    return even @ basis / x**2, one @ basis / x**2, two @ basis / x**2


def without_mixed(T, v):
    """T without the parts T[v, v, w], w orthogonal to v: the sharpness has no slope across v."""
    c = T @ v @ v
    c = c - (c @ v) * v
    mixed = np.einsum("i,j,k->ijk", c, v, v)
    return T - mixed - np.moveaxis(mixed, 0, 1) - np.moveaxis(mixed, 0, 2)


@settings(max_examples=60)
@given(seed=seeds, p=st.integers(2, 6))
def test_F1_drift_rotation_and_even_part_are_one_vector(seed, p):
    generator = np.random.default_rng(seed)
    for _ in range(20):
        values, basis, T = critical_point(generator, p)
        eta, x = generator.uniform(1.0, 1.3), 1e-6
        v = basis[:, 0]
        c = (T @ v @ v) @ basis[:, 1:]
        rates = 2 - values[1:]
        order = np.argsort(-values)
        rho = rotation_field(values[order], basis.T[order], T @ v @ v) @ basis[:, 1:]
        even, one, two = (w[1:] for w in along_basis(values, basis, T, x, np.eye(p)[0], eta))
        m = 2 * eta - 1
        # The remainders are of the order of x |T|^2, with room for powers of eta and H.
        slack = 100 * x * (1 + np.sum(T**2))
        assert np.allclose(rho, c / rates, atol=1e-8 * np.abs(c / rates).max())
        assert np.allclose(even, c / 2, atol=1e-3 * slack + 1e-8 * np.abs(T).max())
        assert np.allclose(one, -eta * c / 2, atol=slack)
        assert np.allclose(two, -eta / 2 * (m * (m - 1) + eta * rates) * c, atol=slack)
        # The mutation: without the factor for the return, two steps drift otherwise.
        wrong = -eta / 2 * (1 + m**2) * c
        told_apart = np.abs(eta**2 / 2 * values[1:] * c).max() > 10 * slack
        assert not (told_apart and np.allclose(two, wrong, atol=slack))
        # Without c all of them are gone.
        flat = without_mixed(T, v)
        gone = [w[1:] for w in along_basis(values, basis, flat, x, np.eye(p)[0], eta)]
        assert np.abs(gone).max() < slack
        assert np.linalg.norm(rotation_field(values[order], basis.T[order], flat @ v @ v)) < 1e-8


def turn_of_the_edge(values, basis, T, z, h=1e-6):
    """How fast the span of the leading eigenvectors turns z, moving along z, in the basis."""
    k = len(z)
    H = basis * values @ basis.T
    u = basis[:, :k] @ z
    turned = []
    for sign in (1, -1):
        vectors = np.linalg.eigh(H + sign * h * T @ u)[1][:, -k:]
        turned.append(vectors @ (vectors.T @ u))
    return (turned[0] - turned[1]) @ basis / (2 * h)


@settings(max_examples=40)
@given(seed=seeds, k=st.integers(1, 3), p=st.integers(4, 6))
def test_F1_in_several_directions(seed, k, p):
    generator = np.random.default_rng(seed)
    values, basis, T = critical_point(generator, p, k)
    z = generator.normal(size=k)
    z /= np.linalg.norm(z)
    u = basis[:, :k] @ z
    x = 1e-6
    full = np.concatenate([z, np.zeros(p - k)])
    even, one, two = along_basis(values, basis, T, x, full, 1.0)
    slack = 100 * x * (1 + np.sum(T**2))
    across = (T @ u @ u) @ basis[:, k:]
    # Across the edge: one vector again, with the turn of z out of the span.
    turn = turn_of_the_edge(values, basis, T, z)[k:]
    rates = 2 - values[k:]
    gap = rates.min()
    assert np.allclose(turn, across / rates, atol=1e-8 * (1 + np.sum(T**2)) ** 2 / gap**3)
    assert np.allclose(even[k:], across / 2, atol=slack)
    assert np.allclose(two[k:], -rates * across / 2, atol=slack)
    # Within the edge: even in one step, and nothing in two.
    assert np.allclose(one[:k] + 2 * full[:k] / x, -(T @ u @ u) @ basis[:, :k] / 2, atol=slack)
    assert np.abs(two[:k]).max() < slack


def test_F1_a_slope_adds_a_step_and_terms_odd_in_x():
    generator = np.random.default_rng(0)
    for _ in range(50):
        values, basis, T = critical_point(generator, 4)
        g = generator.normal(size=4)
        x = 1e-5
        v, e = basis[:, 0], np.eye(4)[0]
        _, one, _ = along_basis(values, basis, T, x, e, 1.0, g)
        c = (T @ v @ v) @ basis[:, 1:]
        assert np.allclose(one[1:], -c / 2, atol=1e3 * EPS / x**2)


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
