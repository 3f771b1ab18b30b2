"""Several directions at the edge at once: Theorem M3."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smooth_networks import NETWORKS, edge_minimum

from flatminima.theory import averaged, manifold
from flatminima.theory.instability import coupled_dynamics

EPS = np.finfo(float).eps
SCALES = np.array([0.008, 0.004, 0.002])
SEEDS = {"tanh, one hidden layer": 2}
every_network = pytest.mark.parametrize("name", NETWORKS)


def random_couplings(generator, count, m, r):
    """Symmetric matrices (count, m, r, r), of which one combination is positive definite."""
    A = generator.normal(size=(count, m, r, r))
    A = (A + np.swapaxes(A, -1, -2)) / 2
    n = generator.normal(size=(count, m))
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    root = generator.normal(size=(count, r, r))
    positive = root @ np.swapaxes(root, -1, -2) / r + np.eye(r) / 2
    across = np.einsum("ck,ckab->cab", n, A)
    return A + n[..., None, None] * (positive - across)[:, None]


def random_starts(generator, count, m, r):
    """Positions and displacements of radius one in all directions."""
    z = generator.normal(size=(count, m + r))
    z[:, m:] *= np.sqrt(2)
    z /= np.sqrt(np.sum(z[:, :m] ** 2, -1) + np.sum(z[:, m:] ** 2, -1) / 2)[:, None]
    return z[:, :m], z[:, m:]


def orders(errors):
    """The powers of h by which errors over a batch shrink from one radius to the next."""
    sizes = np.array([np.linalg.norm(error) for error in errors])
    return np.log2(sizes[:-1] / sizes[1:])


# --- the averaged flow ----------------------------------------------------------------------------


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 4), r=st.integers(1, 4))
def test_M3_averaged_flow_conserves_the_radius(seed, m, r):
    generator = np.random.default_rng(seed)
    A = random_couplings(generator, 1, m, r)[0]
    G, X = (part[0] for part in random_starts(generator, 1, m, r))
    path = averaged.averaged_flow(A, G, X, np.linspace(0, 5, 20))
    # Some 100 steps at most, each accurate to 1e-10.
    assert np.abs(path.radius - 1).max() < 1e-7
    # The unequal weights of the statement are needed: |G|^2 + |X|^2 is not conserved.
    other = np.sum(path.position**2, -1) + np.sum(path.displacement**2, -1)
    turned = np.ptp(np.sum(path.position**2, -1))
    assert np.isclose(np.ptp(other), turned, rtol=1e-3, atol=1e-6)  # it is 2 - |G|^2


def test_M3_averaged_flow_ends_on_the_sphere_where_nothing_grows():
    generator = np.random.default_rng(0)
    for m, r in ((1, 1), (2, 2), (3, 2), (4, 3)):
        A = random_couplings(generator, 12, m, r)
        end = averaged.averaged_end(A, *random_starts(generator, 12, m, r))
        assert np.allclose(np.linalg.norm(end, axis=-1), 1, atol=1e-7)
        top = np.linalg.eigvalsh(np.einsum("ck,ckab->cab", end, A))[:, -1]
        assert np.all(top < 0)


# --- gradient descent -----------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "r"), [(1, 1), (3, 1), (2, 2), (3, 3)])
def test_M3_sphere_law_on_the_simplest_loss(m, r):
    """Radius and place of the end, for a hundred couplings each."""
    generator = np.random.default_rng(7)
    A = random_couplings(generator, 100, m, r)
    G, X = random_starts(generator, 100, m, r)
    place = averaged.averaged_end(A, G, X)
    radius, wrong, where = [], [], []
    for h in SCALES:
        path = averaged.sphere_dynamics(A, h * G, h * X, 1.0, int(60 / h))
        end = path.position[-1]
        resting = np.linalg.norm(path.displacement[-1], axis=-1) < 1e-4 * h
        assert resting.mean() > 0.9
        radius.append((np.linalg.norm(end, axis=-1) - h)[resting])
        other = h * np.sqrt(np.sum(G**2, -1) + np.sum(X**2, -1))
        wrong.append((np.linalg.norm(end, axis=-1) - other)[resting])
        where.append((end - h * place)[resting])
        if h == SCALES[0]:
            rest = resting
        assert np.array_equal(resting, rest)
    assert np.all((orders(radius) > 1.5) & (orders(radius) < 2.5))
    assert np.all((orders(where) > 1.5) & (orders(where) < 2.5))
    assert np.all(orders(wrong) < 1.5), "|X|^2 in place of |X|^2 / 2 misses by first order"


@every_network
def test_M3_sphere_law_of_a_network_with_two_equal_eigenvalues(name):
    network, theta, frame, _ = edge_minimum(name, 2, SEEDS.get(name, 1))
    generator = np.random.default_rng(5)
    eta, count = 2 / frame.eigenvalues[0], 12
    G, X = random_starts(generator, count, len(frame.tangent), 2)
    stiff = generator.normal(size=(count, network.size))
    for rows in (frame.leading, frame.tangent):
        stiff -= stiff @ rows.T @ rows
    slope = np.linalg.norm(frame.couplings) / frame.eigenvalues[0]
    radius, wrong, below = [], [], []
    for h in SCALES / slope:
        start = theta + h * (G @ frame.tangent + X @ frame.leading + 0.3 * stiff)
        ahead = network.minimum_near(start)
        end = network.descend(start, eta, int(50 / (h * slope)), record_every=None)[-1]
        end = network.minimum_near(end)
        across = (start - ahead) @ frame.leading.T
        place = np.sum((ahead - theta) ** 2, -1)
        found = np.linalg.norm(end - theta, axis=-1)
        radius.append(found - np.sqrt(place + np.sum(across**2, -1) / 2))
        wrong.append(found - np.sqrt(place + np.sum(across**2, -1)))
        below.append(manifold.minimum_frame(network, end, 2).eigenvalues[:, 0] * eta < 2)
    assert np.all(below)
    assert np.all((orders(radius) > 1.5) & (orders(radius) < 2.5))
    assert np.all(orders(wrong) < 1.5)


def test_M3_fourfold_eigenvalue_of_a_matrix_network():
    """U V' = I with U = s I: four eigenvalues s^2 + s^-2 at once, and no stiff direction."""
    s = 1.5
    network = manifold.layered_network((2, 2, 2), np.eye(2), "linear")
    theta = np.concatenate([s * np.eye(2).ravel(), np.eye(2).ravel() / s])
    network = network.with_minimum_at(theta)
    frame = manifold.minimum_frame(network, theta, 4)
    assert np.allclose(frame.eigenvalues[:4], (s**2 + s**-2) / 2, rtol=100 * EPS)
    n = averaged.stabilizing_direction(frame.couplings)
    assert np.linalg.eigvalsh(np.tensordot(n, frame.couplings, 1))[0] > 0
    eta, generator = 2 / frame.eigenvalues[0], np.random.default_rng(6)
    G, X = random_starts(generator, 20, 4, 4)
    place, errors, where = averaged.averaged_end(frame.couplings, G, X), [], []
    for h in SCALES:
        start = theta + h * (G @ frame.tangent + X @ frame.leading)
        end = network.descend(start, eta, int(40 / h), record_every=None)[-1]
        end = network.minimum_near(end)
        errors.append(np.linalg.norm(end - theta, axis=-1) - h)
        where.append((end - theta) @ frame.tangent.T - h * place)
    assert np.all((orders(errors) > 1.5) & (orders(errors) < 2.5))
    assert np.all((orders(where) > 1.5) & (orders(where) < 2.5))


def test_M3_directions_without_coupling_keep_their_position():
    generator = np.random.default_rng(8)
    A = random_couplings(generator, 30, 3, 2)
    A[:, 2] = 0
    G, X = random_starts(generator, 30, 3, 2)
    end = averaged.sphere_dynamics(A, 0.01 * G, 0.01 * X, 1.0, 4000).position[-1]
    assert np.array_equal(end[:, 2], 0.01 * G[:, 2])
    assert not np.any(end[:, :2] == 0.01 * G[:, :2])


def test_M3_without_a_stabilizing_direction_an_oscillation_can_stay():
    A = np.diag([1.0, -1.0])[None]
    path = averaged.sphere_dynamics(A, [0.0], [0.01, 0.01], 1.0, 1000)
    assert np.abs(path.position).max() < 10 * EPS
    assert np.allclose(np.abs(path.displacement), 0.01, rtol=1e-9)
    assert averaged.stabilizing_direction(A) is None
    with pytest.raises(ValueError, match="did not come to rest"):
        averaged.averaged_end(A, [0.0], [0.01, 0.01])


def test_M3_without_a_stabilizing_direction_the_radius_of_two_oscillations_grows():
    """At eta = 1 by (x^2 - y^2)^2 / 4 + G^2 (x^2 + y^2) / 2 in each step: they do not die."""
    A = np.diag([1.0, -1.0])[None]
    path = averaged.sphere_dynamics(A, [0.0], [0.02, 0.019], 1.0, 3000)
    x, y = path.displacement[:-1].T
    gain = (x**2 - y**2) ** 2 / 4 + path.position[:-1, 0] ** 2 * (x**2 + y**2) / 2
    # The radius squared, here below 1e-3, is rounded a few times.
    assert np.allclose(np.diff(path.radius**2), gain, rtol=0, atol=10 * EPS * 1e-3)
    assert np.all(gain > 1e3 * EPS * 1e-3)
    assert np.abs(path.position[-500:]).max() > 2 * np.abs(path.position[:500]).max()


def test_M3_one_direction_is_the_mirror():
    end = averaged.averaged_end([[[0.7]]], [0.4], [1e-4])
    assert np.isclose(end[0], -0.4, atol=1e-7)
    run = coupled_dynamics(0.01, 0.02, 0.5, 0.0, 0.7**2, 400)  # beta = A^2, excess = A G
    path = averaged.sphere_dynamics([[[0.7]]], [0.02 / 0.7], [0.01], 0.5, 400)
    assert np.allclose(path.displacement[:, 0], run.x, rtol=1e-9)
    assert np.allclose(0.7 * path.position[:, 0], run.excess, rtol=1e-9)


# --- adverse cases --------------------------------------------------------------------------------


def edge_step(G, X, w, A, mu, c=0.5, d=0.5, e=0.0, k=0.0):
    """One step at eta = 1 on a loss with M = {X = w = 0} and stiff directions, batch axes in front.

    L = <X, (2 + A(G) + G_1 G_3 B) X> / 2 + <mu, w^2> / 2 + c w_1 <X, B X> / 2 + d w_1^2 X_1 / 2
    + e X_1^3 / 6 + k |X|^4 / 24 with a fixed B. The nearest minimum is exactly G.
    """
    B = np.array([[0.4, 0.7], [0.7, -0.5]])
    BX = X @ B
    curved = np.sum(X * BX, axis=-1) / 2
    AX = np.einsum("...kab,...b->...ka", A, X)
    slope = np.einsum("...ka,...a->...k", AX, X) / 2
    slope[..., 0] += G[..., 2] * curved
    slope[..., 2] += G[..., 0] * curved
    along = G[..., 0] * G[..., 2] + c * w[..., 0]
    g = 2 * X + np.einsum("...k,...ka->...a", G, AX) + along[..., None] * BX
    g += (k / 6 * np.sum(X**2, axis=-1))[..., None] * X
    g[..., 0] += d * w[..., 0] ** 2 / 2 + e * X[..., 0] ** 2 / 2
    push = mu * w
    push[..., 0] += c * curved + d * w[..., 0] * X[..., 0]
    return G - slope, X - g, w - push


def excess_at(G, A):
    """The excess A(m) at the minimum G of the loss of edge_step."""
    B = np.array([[0.4, 0.7], [0.7, -0.5]])
    return np.einsum("...k,...kab->...ab", G, A) + (G[..., 0] * G[..., 2])[..., None, None] * B


COUPLED = np.array([[[1, 0.2], [0.2, 0.7]], [[0.3, 0.5], [0.5, -0.6]], [[0, 0], [0, 0]]])
"""The first lowers both, the third direction is not coupled."""


def test_M3_sphere_law_in_ten_adverse_cases():
    """Each error is of second order: from h to h/4 it falls by more than 8, half way to 16."""
    # G / h, X / h, w_1 / h, mu_1, e, k; the radius is then made one
    cases = [
        ([0, 0, 0], [1, 1], 0, 1.2, 0, 0),  # excess zero: all of A(G) vanishes
        ([1, -0.2, 0], [0, 0], 1, 0.8, 0, 0),  # no displacement, and not in Z
        ([0.9, 0, 0], [0.3, -0.2], 0, 1, 0, 0),  # equal eigenvalues that move together
        ([0.5, 0.2, 0.8], [0.5, -0.4], 0.5, 0.6, 0, 1),  # an uncoupled direction takes part
        ([0.6, 0.5, 0], [-0.4, 0.6], 0.5, 0.1, 0, 0),  # stiff near zero
        ([0.6, -0.5, 0], [0.4, 0.6], 1, 1.9, 0, 0),  # stiff near 2 / eta
        ([0.3, 0.9, 0], [-0.2, -0.3], 1, 1, 1, 0),  # stiff at 1 / eta: DF is singular
        ([1, 0.3, 2], [0.5, 0.4], 0, 1, 0, 0),  # far along M, where nothing is coupled
        ([-0.9, 0.1, 0], [-0.6, -0.8], -1, 1, -1, 1),  # from where both are stable
        ([0.8, 0.5, 0.1], [1e-3, -1e-3], 0, 1, 1, 2),  # almost at rest, cubic and quartic terms
    ]
    assert len(cases) == 10
    G0, X0, w1, mu1, e, k = (np.array(column, dtype=float) for column in zip(*cases, strict=True))
    radius = np.sqrt(np.sum(G0**2, -1) + np.sum(X0**2, -1) / 2)[:, None]
    G0, X0 = G0 / radius, X0 / radius
    A = np.repeat(COUPLED[None], len(cases), axis=0)
    A[2] = [np.eye(2), 0 * np.eye(2), 0 * np.eye(2)]
    mu = np.stack([mu1, np.full_like(mu1, 0.5)], axis=-1)
    error, across, uncoupled = [], [], []
    for h in SCALES:
        G, X, w = h * G0, h * X0, h * np.stack([w1, 0 * w1], axis=-1)
        for _ in range(int(70 / h)):
            G, X, w = edge_step(G, X, w, A, mu, e=e, k=k)
        # What is left of X can still change the radius by |X|^2 / (4 h).
        assert np.all(np.linalg.norm(X, axis=-1) < 1e-3 * h), "every run is at rest"
        assert np.all(np.linalg.eigvalsh(excess_at(G, A))[:, -1] < 0), "and stable: part 5"
        end = np.linalg.norm(G, axis=-1)
        error.append(np.abs(end - h))
        across.append(np.abs(end - h * np.sqrt(np.sum(G0**2, -1) + np.sum(X0**2, -1))))
        uncoupled.append(np.abs(G - h * G0)[:, 2])
    floor = 1e6 * EPS * SCALES[0]  # fewer than 10^5 steps, each rounded a few times
    assert np.all(error[2] < error[0] / 8 + floor)
    assert np.all(uncoupled[2] < uncoupled[0] / 8 + floor)
    swinging = np.linalg.norm(X0, axis=-1) > 0.2
    assert np.all(across[2][swinging] > across[0][swinging] / 8), "|X|^2 misses by first order"


def test_M3_parts_2_and_5_only_one_direction_of_the_start_ends_above_the_threshold():
    """Between two signs of what grows there is one start that keeps an excess, and no more.

    Bisected: its X turns into the span of the eigenvectors with eigenvalues <= 0 at its end, and
    the starts beside it end stable. The displacement is the coordinate X, as d = 0.
    """
    generator, h, quarter = np.random.default_rng(3), 0.02, 200
    # Angles of G_0 at which A(G) has one eigenvalue of either sign, away from zero.
    angle = generator.uniform(0.9, 1.5, 10)
    G0 = h * np.stack([np.cos(angle), np.sin(angle), generator.uniform(-0.3, 0.3, 10)], axis=-1)
    w0, mu = h * generator.uniform(-1, 1, (10, 2)), np.array([0.7, 0.5])
    values, columns = np.linalg.eigh(excess_at(G0, COUPLED))
    assert np.all(values[:, 0] < -0.2 * h)
    assert np.all(values[:, 1] > 0.2 * h)

    def start(turn):
        a, b = np.cos(turn)[:, None], np.sin(turn)[:, None]
        return G0, 0.2 * h * (a * columns[:, :, 0] + b * columns[:, :, 1]), w0

    def run(state, steps):
        for _ in range(steps):
            state = edge_step(*state, COUPLED, mu, d=0.0)
        return state

    def growing(state, last):
        """The share of X along the eigenvector with a positive eigenvalue at the end last."""
        top = np.linalg.eigh(excess_at(last[0], COUPLED))[1][..., -1]
        top *= np.sign(np.sum(top * columns[:, :, 1], axis=-1))[:, None]
        return np.sum(top * state[1], axis=-1) / np.linalg.norm(state[1], axis=-1)

    low, high = np.full((2, 10), 0.7) * [[-1], [1]]
    for _ in range(55):
        turn = (low + high) / 2
        end = run(start(turn), 4 * quarter)
        above = growing(end, end) > 0
        low, high = np.where(above, low, turn), np.where(above, turn, high)
    states = [start(turn)]
    for _ in range(4):
        states.append(run(states[-1], quarter))
    end = states[-1]
    assert np.all(np.linalg.eigvalsh(excess_at(end[0], COUPLED))[:, -1] > 0), "above the threshold"
    shares = np.abs([growing(state, end) for state in states[:3]])
    sizes = np.array([np.linalg.norm(state[1], axis=-1) for state in states[:3]])
    # The runs that stay lie on a smooth surface: the share falls at least as fast as |X|.
    assert np.all(shares[2] < shares[1] * sizes[2] / sizes[1])
    for beside in (turn - 1e-6, turn + 1e-6):
        G, X, _ = run(start(beside), int(100 / h))
        assert np.all(np.linalg.norm(X, axis=-1) < 1e-4 * h)
        assert np.all(np.linalg.eigvalsh(excess_at(G, COUPLED))[:, -1] < 0)


# --- the functions --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), m=st.integers(1, 5), r=st.integers(1, 4))
def test_stabilizing_direction_is_found_where_there_is_one(seed, m, r):
    A = random_couplings(np.random.default_rng(seed), 1, m, r)[0]
    n = averaged.stabilizing_direction(A, steps=20_000)
    assert np.isclose(np.linalg.norm(n), 1)
    assert np.linalg.eigvalsh(np.tensordot(n, A, 1))[0] > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: averaged.averaged_flow([[1.0]], [0.0], [1.0], [0.0]), "got shapes"),
        (lambda: averaged.averaged_flow([[[1.0]]], [0.0], [1.0, 0.0], [0.0]), "got shapes"),
        (lambda: averaged.averaged_flow([[[1.0]]], [0.0], [1.0], [1.0, 0.5]), "times"),
        (lambda: averaged.averaged_end([[[0, 1.0], [0, 0]]], [0.0], [1.0, 0.0]), "symmetric"),
        (lambda: averaged.sphere_dynamics([[[1.0]]], [0.0], [1.0], 0.0, 3), "learning_rate"),
        (lambda: averaged.sphere_dynamics([[[1.0]]], [0.0], [1.0], 1.0, 0), "steps"),
        (lambda: averaged.stabilizing_direction([[1.0]]), "couplings"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
