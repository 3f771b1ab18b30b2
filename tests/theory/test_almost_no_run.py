"""Almost no run ends above the threshold: Theorem M6, its hypothesis, and its exceptions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory.diagonal_network import DiagonalNetwork
from flatminima.theory.scalar_network import ScalarNetwork
from flatminima.theory.tanh_network import TanhNetwork

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_M6_scalar_networks_end_at_or_below_the_threshold(depth):
    network, generator = ScalarNetwork(depth, 1.0), np.random.default_rng(depth)
    starts = generator.normal(size=(1500, depth)) * generator.uniform(0.5, 2, (1500, 1))
    rates = generator.uniform(0.05, 1.2, 1500) * 2 / network.flattest_sharpness
    run = network.descend(starts, rates, 20_000, record_every=None)
    gradient = np.linalg.norm(network.gradient(run.theta[-1]), axis=-1)
    done = ~run.diverged & (gradient < 1e-10)
    eigenvalues = np.linalg.eigvalsh(network.hessian(run.theta[-1][done]))
    assert done.sum() > 500
    # A run with a residual of 1e-10 has moved its sharpness by no more than 1e-9 of what is left.
    assert np.all(eigenvalues[:, -1] * rates[done] <= 2 + 1e-6)
    assert np.all(eigenvalues[:, 0] * rates[done] >= -1e-6), "nor at a saddle"


def test_M6_diagonal_networks_with_a_unique_minimizer_end_at_or_below_the_threshold():
    """The 2/eta of Theorem D11, part 5: from random starts, most of them too sharp."""
    generator, ended = np.random.default_rng(3), 0
    for _ in range(10):
        inputs = generator.normal(size=(6, 3))
        network = DiagonalNetwork(inputs, inputs @ generator.normal(size=3))
        starts = generator.normal(size=(60, 2, 3)) * 1.5
        sharpness = network.minimum_sharpness(starts)
        rates = generator.uniform(0.8, 1.6, 60) * 2 / sharpness
        run = network.descend(starts, rates, 10_000, record_every=None)
        done = ~run.diverged & (network.loss(run.theta[-1]) < 1e-20)
        ended += np.sum(done & (rates * sharpness > 2))
        assert np.all(network.sharpness(run.theta[-1][done]) * rates[done] <= 2 + 1e-6)
    assert ended > 150, "among them many that began above"


def test_M6_tanh_networks_end_at_or_below_the_threshold():
    generator, ended = np.random.default_rng(4), 0
    for _ in range(60):
        network = TanhNetwork(2, generator.normal(size=1), generator.normal(size=1) / 2)
        start = generator.normal(size=network.size) * 1.5
        eta = generator.uniform(0.7, 1.5) * 2 / np.linalg.eigvalsh(network.hessian(start))[-1]
        end = network.descend(start, eta, 1000)[-1]
        if not np.all(np.abs(end) < 1e3) or np.linalg.norm(network.gradient(end)) > 1e-10:
            continue
        ended += 1
        assert np.linalg.eigvalsh(network.hessian(end))[-1] * eta <= 2 + 1e-6
    assert ended >= 30


def test_M6_exceptional_starts_exist():
    """One step from (0, 1) lands on the minimum (4, 1), of sharpness 17 at the threshold 2."""
    network = ScalarNetwork(2, 4.0)
    run = network.descend([0.0, 1.0], 1.0, 100)
    assert run.theta[-1].tolist() == [4.0, 1.0]
    assert run.sharpness[-1] == 17.0
    nearby = np.array([0.0, 1.0]) + 1e-9 * np.random.default_rng(0).normal(size=(1000, 2))
    later = network.descend(nearby, 1.0, 2000, record_every=None)
    still = np.linalg.norm(later.theta[-1] - [4.0, 1.0], axis=-1) < 0.1
    assert not np.any(still & ~later.diverged), "none of 1,000 neighbors stays"


def test_M6_rounding_decides_whether_an_exceptional_start_stays():
    """Starts (a, 1/a) at sharp minima: those stay whose residual rounds to zero, and no others."""
    network = ScalarNetwork(2, 1.0)
    a = np.random.default_rng(1).uniform(2.5, 3.6, 2000)
    starts = np.stack([a, 1 / a], axis=-1)
    at_rest = network.residual(starts) == 0
    run = network.descend(starts, 0.5, 4000, record_every=None)
    stays = ~run.diverged & np.all(run.theta[-1] == starts, axis=-1)
    assert np.array_equal(stays, at_rest)
    assert at_rest.sum() > 1000, "it often does"
    away = ~at_rest & ~run.diverged
    assert away.sum() > 50
    assert np.all(run.sharpness[-1][away] <= 4 + 1e-6), "the others leave, and end below or nowhere"


def test_M6_the_diagonal_leads_to_the_saddle():
    network = ScalarNetwork(2, 1.0)
    run = network.descend([1.0, -1.0], 0.5, 4000)
    assert np.abs(run.theta[-1]).max() < 1e-100


def test_M6_needs_its_hypothesis():
    """A twice differentiable loss with 1/eta as second derivative on an interval: all of the
    interval jumps to an unstable minimum, and stays."""

    def slope(x):
        return x + 2 * x * np.where(np.abs(x) < 1, (1 - x**2) ** 2, 0)

    h = 1e-6
    curvature = (slope(h) - slope(-h)) / (2 * h)
    assert curvature == pytest.approx(3, abs=1e-9), "above 2/eta at eta = 1"
    grid = np.linspace(-3, 3, 3001)
    smooth = np.diff(slope(grid)) / np.diff(grid)
    assert np.abs(np.diff(smooth)).max() < 0.1, "its second derivative is continuous"
    starts = np.random.default_rng(0).uniform(1, 2, 1000)
    assert np.all(starts - slope(starts) == 0)
    # At any other learning rate none does, as the theorem says of almost every one.
    x = starts.copy()
    for _ in range(500):
        x = x - 1.001 * slope(x)
    assert not np.any(np.abs(x) < 0.05)


@settings(deadline=None)
@given(seeds, st.integers(1, 4), st.floats(0.05, 3))
def test_M6_hypothesis_for_diagonal_networks_of_depth_two(seed, m, eta):
    """det(I - eta H) at (t, 0) is that of I - eta T C T - eta^2 B^2, which is not always zero."""
    generator = np.random.default_rng(seed)
    inputs, targets = generator.normal(size=(m + 2, m)), generator.normal(size=m + 2)
    network = DiagonalNetwork(inputs, targets)
    t, b = generator.normal(size=m), inputs.T @ targets / (m + 2)
    theta = np.stack([t, np.zeros(m)])
    found = np.linalg.det(np.eye(2 * m) - eta * network.hessian(theta))
    small = np.eye(m) - eta * t[:, None] * network.gram * t - eta**2 * np.diag(b**2)
    size = np.linalg.norm(np.eye(2 * m) + eta * np.abs(network.hessian(theta))) ** (2 * m)
    assert abs(found - np.linalg.det(small)) <= 1e-13 * size


def test_M6_hypothesis_where_the_origin_does_not_help():
    """eta |b| = 1 makes I - eta H singular at the origin, and next to it it is not."""
    network = DiagonalNetwork([[1.0]], [2.0])
    at = [np.linalg.det(np.eye(2) - 0.5 * network.hessian([[t], [0.0]])) for t in (0.0, 0.1)]
    assert at[0] == 0
    assert at[1] == pytest.approx(-0.5 * 0.1**2)


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_M6_hypothesis_for_deeper_networks(depth):
    assert np.all(ScalarNetwork(depth, 1.7).hessian(np.zeros(depth)) == 0)


def step_pairs(generator, size, bend, spread=1e-2):
    """Pairs of points near a fixed point of x -> A x + bend x * x, and their images, with what
    the lemma needs: growth mu, and a bound of the derivative's change on the ball."""
    p = int(generator.integers(2, 6))
    unstable = int(generator.integers(1, p))
    mu = generator.uniform(1.05, 3)
    values = np.concatenate(
        [mu * generator.choice([-1, 1], unstable), generator.uniform(-1, 1, p - unstable)]
    )
    mix = generator.normal(size=(p, p, p)) * bend
    x, y = generator.uniform(-spread, spread, (2, size, p)) / np.sqrt(p)
    images = [z * values + np.einsum("kij,ni,nj->nk", mix, z, z) for z in (x, y)]
    change = 2 * spread * np.sqrt(np.sum(mix**2))
    difference, image = x - y, images[0] - images[1]
    return unstable, mu, change, difference, image


def test_M6_cone_of_the_proof_is_kept_and_its_vectors_grow():
    generator, used = np.random.default_rng(5), 0
    for _ in range(200):
        unstable, mu, change, before, after = step_pairs(generator, 200, 0.3)
        if mu - np.sqrt(2) * change <= 1 + np.sqrt(2) * change:
            continue
        u, s = (np.linalg.norm(z, axis=1) for z in (before[:, :unstable], before[:, unstable:]))
        u1, s1 = (np.linalg.norm(z, axis=1) for z in (after[:, :unstable], after[:, unstable:]))
        cone = u > s
        used += cone.sum()
        assert np.all(u1[cone] > s1[cone])
        assert np.all(u1[cone] >= (mu - np.sqrt(2) * change) * u[cone] * (1 - 1e-12))
    assert used > 10_000


def test_M6_cone_needs_a_small_ball():
    generator, left = np.random.default_rng(6), 0
    for _ in range(50):
        unstable, _, _, before, after = step_pairs(generator, 200, 200.0)
        u, s = (np.linalg.norm(z, axis=1) for z in (before[:, :unstable], before[:, unstable:]))
        u1, s1 = (np.linalg.norm(z, axis=1) for z in (after[:, :unstable], after[:, unstable:]))
        left += np.sum((u > s) & (u1 <= s1))
    assert left > 0


def quadratic_part(values):
    """Bad points of many kinds: a step F(x) = x - eta g(x) of a polynomial loss at the origin."""
    values = np.array(values)
    mix = np.random.default_rng(7).normal(size=(len(values),) * 3)
    mix = sum(np.transpose(mix, order) for order in
              ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))) / 6  # fmt: skip
    return lambda x: values * x + np.einsum("ijk,nj,nk->ni", mix, x, x) / 2


@pytest.mark.parametrize(
    "values",
    [
        [2.5, 0.5],  # too sharp
        [2.5, 1.0],  # and the step map is singular there
        [2.5, 2.5],  # a repeated eigenvalue beyond the threshold
        [2.5, 2.0],  # one beyond and one on it
        [2.5, 0.0],  # a flat direction
        [2.5, -0.5],  # too sharp, and a saddle
        [0.5, -0.5],  # a saddle that is not sharp
        [-1.0, -2.0],  # a maximum
        [2.001, 0.3],  # hardly too sharp
        [2.5],  # one parameter
    ],
)
def test_M6_no_neighbor_of_a_bad_point_stays(values):
    """At eta = 1: of 1,000 starts next to it, none is still in a small ball after many steps."""
    slope, radius = quadratic_part(values), 1e-3
    x = np.random.default_rng(8).uniform(-radius, radius, (1000, len(values))) / 10
    stays = np.ones(1000, dtype=bool)
    factor = np.abs(1 - np.array(values)).max()
    # From 1e-12 of the radius, smaller than any of these starts, to the radius.
    for _ in range(int(np.log(1e12) / np.log(factor)) + 1):
        x = np.clip(x - slope(x), -1, 1)
        stays &= np.linalg.norm(x, axis=1) < 10 * radius
    assert not stays.any()


def test_M6_neighbors_of_a_good_point_do_stay():
    """With all eigenvalues inside (0, 2) the same count finds all of them."""
    slope = quadratic_part([1.9, 0.5])
    x = np.random.default_rng(8).uniform(-1e-4, 1e-4, (1000, 2))
    for _ in range(1000):
        x = x - slope(x)
    assert np.all(np.linalg.norm(x, axis=1) < 1e-3)
