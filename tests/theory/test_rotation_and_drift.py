"""No rotation, no drift: Theorem F1."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory.rotation import rotation_field

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


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


def test_F1_a_slope_of_second_order_adds_two_steps_that_relax():
    """Without the relaxation of the first one, 2 in place of 2 - eta lambda_k, it is wrong."""
    generator = np.random.default_rng(1)
    for _ in range(50):
        values, basis, T = critical_point(generator, 4)
        eta, x = generator.uniform(1.0, 1.3), 1e-6
        g = x**2 * generator.normal(size=4)
        _, _, two = along_basis(values, basis, T, x, np.eye(4)[0], eta, g)
        v, m = basis[:, 0], 2 * eta - 1
        c = (T @ v @ v) @ basis[:, 1:]
        table = -eta / 2 * (m * (m - 1) + eta * (2 - values[1:])) * c
        added = -eta * (2 - eta * values[1:]) * (g @ basis[:, 1:]) / x**2
        slack = 100 * x * (1 + np.sum(T**2) + g @ g / x**4)
        assert np.allclose(two[1:], table + added, atol=slack)
        wrong = -2 * eta * (g @ basis[:, 1:]) / x**2
        assert not np.allclose(two[1:], table + wrong, atol=slack)
