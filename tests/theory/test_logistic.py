"""Logistic loss on separable data: Theorem L1, and the rotation of eigenvectors at depth one."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from flatminima.theory.logistic import LogisticLoss

seeds = st.integers(0, 2**32 - 1)


def separable(generator, n, d, smallest=0.05):
    """Examples of which all have a margin of at least ``smallest`` along a random direction."""
    unit = generator.normal(size=d)
    unit /= np.linalg.norm(unit)
    z = generator.normal(size=(n, d)) * generator.uniform(0.3, 3)
    along = z @ unit
    return z + (np.maximum(np.abs(along), smallest) - along)[:, None] * unit, unit


def check_end(loss, path, eta, slack=1e-9):
    """From the first loss below the level on, it falls and the sharpness is below 2/eta."""
    losses, level = loss.loss(path), float(loss.settles_below(eta))
    first = int(np.argmax(losses < level))
    if losses[first] >= level:
        return False
    assert np.all(np.diff(losses[first:]) <= slack * losses[first:-1])
    assert np.all(loss.sharpness(path[first:]) < 2 / eta)
    # Along the steps as well, where the descent lemma needs it.
    between = (path[first:-1] + path[first + 1 :]) / 2
    assert np.all(loss.sharpness(between) < 2 / eta)
    return True


@settings(deadline=None, max_examples=60)
@given(seeds, st.integers(1, 8), st.integers(1, 5), st.floats(-1, 4))
def test_L1_ends_stable_at_every_learning_rate(seed, n, d, power):
    generator = np.random.default_rng(seed)
    z, unit = separable(generator, n, d)
    loss, eta = LogisticLoss(z), 10**power
    start = generator.normal(size=d) * generator.choice([0.0, 1.0, 10.0])
    path = loss.descend(start, eta, 400)
    losses = loss.loss(path)
    steps = np.arange(1, 401)
    means = np.cumsum(losses[:-1]) / steps
    # Sums of numbers up to eta R^2, each rounded.
    assert np.all(means <= loss.average_bound(start, unit, eta, steps) * (1 + 1e-12))
    sharpness = loss.sharpness(path)
    assert np.all(sharpness <= loss.radius**2 * losses * (1 + 1e-12))
    check_end(loss, path, eta)


def test_L1_over_a_thousand_data_sets():
    """All of them, at learning rates up to 1,000: whenever the bound promises an end, it comes."""
    generator, ended = np.random.default_rng(0), 0
    for _ in range(1000):
        z, unit = separable(generator, 5, 2, 0.3)
        loss, eta = LogisticLoss(z), 10 ** generator.uniform(-1, 3)
        start = generator.normal(size=2)
        path = loss.descend(start, eta, 300)
        losses = loss.loss(path)
        bound = loss.average_bound(start, unit, eta, np.arange(1, 301))
        assert np.all(np.cumsum(losses[:-1]) / np.arange(1, 301) <= bound * (1 + 1e-12))
        promised = np.flatnonzero(bound < loss.settles_below(eta))
        done = check_end(loss, path, eta)
        assert done or not promised.size
        ended += done
    assert ended > 900


ADVERSARIAL = {
    "one example": ([[1.0]], [0.0]),
    "the same twice": ([[1.0, 2.0], [1.0, 2.0]], [-3.0, 1.0]),
    "opposed up to a small margin": ([[1.0, 0.01], [-1.0, 0.01]], [0.0, 0.0]),
    "opposed, from a bad start": ([[1.0, 0.05], [-0.9, 0.05]], [50.0, 0.0]),
    "far on the wrong side": ([[1.0, 0.0], [0.0, 1.0]], [-100.0, -100.0]),
    "a large and a small one": ([[100.0, 0.0], [0.0, 0.1]], [0.0, 0.0]),
    "nearly unseparated by the large one": ([[10.0, 1.0], [-10.0, 1.0]], [0.0, 0.0]),
    "a zero example's neighbor": ([[1e-3, 0.0], [1.0, 0.0]], [0.0, 5.0]),
    "many against one": ([[1.0, 0.1]] * 20 + [[-1.0, 0.1]], [0.0, 0.0]),
    "orthogonal": (np.eye(4).tolist(), [0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("eta", [0.5, 20.0, 500.0])
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_L1_in_adversarial_cases(name, eta):
    z, start = ADVERSARIAL[name]
    loss = LogisticLoss(z)
    # The direction of the largest margin by a linear program would do; here one that has some.
    unit = {"opposed, from a bad start": [0.0, 1.0]}.get(name, np.sum(z, axis=0))
    if "opposed" in name or "unseparated" in name or "many" in name:
        unit = [0.0, 1.0]
    path = loss.descend(start, eta, 3000)
    losses = loss.loss(path)
    steps = np.arange(1, 3001)
    bound = loss.average_bound(start, unit, eta, steps)
    assert np.all(np.cumsum(losses[:-1]) / steps <= bound * (1 + 1e-12))
    assert check_end(loss, path, eta) or bound.min() >= loss.settles_below(eta)


def test_L1_bound_needs_its_second_part():
    """Without the comparison point moved by eta R^2 / (2 gamma), the bound is exceeded."""
    loss, eta = LogisticLoss([[1.0, 0.05], [-1.0, 0.05]]), 100.0
    path = loss.descend([1.0, 0.0], eta, 50)
    steps = np.arange(1, 51)
    means = np.cumsum(loss.loss(path)[:-1]) / steps
    unit, gamma = np.array([0.0, 1.0]), 0.05
    near = np.log1p(eta * gamma**2 * steps) / gamma
    distance = np.sum((path[0] - near[:, None] * unit) ** 2, axis=1)
    naive = np.log1p(np.exp(-gamma * near)) + distance / (2 * eta * steps)
    assert np.any(means > naive)


def test_L1_level_is_where_the_argument_ends():
    x = 0.85260550201372549
    assert x * np.exp(x) == pytest.approx(2, rel=1e-12)
    loss = LogisticLoss([[2.0, 0.0], [0.0, 1.0]])
    assert float(loss.settles_below(3.0)) == pytest.approx(x / (3 * 4), rel=1e-12)


def test_L1_two_inequalities_of_the_logistic_function():
    """0 < l'' <= -l' <= l, and l(m - d) <= e^d l(m): what the proof rests on."""
    m = np.concatenate([np.linspace(-40, 40, 4001), [-700.0, 700.0]])
    value, slope = np.logaddexp(0, -m), expit(-m)
    second = expit(m) * expit(-m)
    assert np.all((second <= slope) & (slope <= value * (1 + 1e-15)))
    for d in (1e-3, 0.5, 2.0, 30.0):
        assert np.all(np.logaddexp(0, d - m) <= np.exp(d) * value * (1 + 1e-14))


@settings(deadline=None)
@given(seeds, st.integers(1, 6), st.integers(1, 4))
def test_derivatives_are_those_of_the_loss(seed, n, d):
    generator = np.random.default_rng(seed)
    loss, w = LogisticLoss(generator.normal(size=(n, d)) + 0.1), generator.normal(size=d)
    step = 1e-5 * np.eye(d)
    gradient = (loss.loss(w + step) - loss.loss(w - step)) / 2e-5
    assert np.allclose(gradient, loss.gradient(w), atol=1e-8)
    hessian = (loss.gradient(w + step) - loss.gradient(w - step)) / 2e-5
    assert np.allclose(hessian, loss.hessian(w), atol=1e-8)


def test_L1_eigenvectors_turn_at_depth_one():
    """Of two examples, v_1 tends to the one with the smaller margin: tan 2 phi as stated."""
    p1, p2, psi = sp.symbols("p_1 p_2 psi", positive=True)
    z1, z2 = sp.Matrix([1, 0]), sp.Matrix([sp.cos(psi), sp.sin(psi)])
    hessian = (p1 * z1 * z1.T + p2 * z2 * z2.T) / 2
    tangent = 2 * hessian[0, 1] / (hessian[0, 0] - hessian[1, 1])
    stated = p2 * sp.sin(2 * psi) / (p1 + p2 * sp.cos(2 * psi))
    assert sp.simplify(tangent - stated) == 0
    angle = 0.7
    z = np.array([[1.0, 0.0], [np.cos(angle), np.sin(angle)]])
    loss = LogisticLoss(z)
    weights = np.linalg.solve(z, np.array([[0.0, 20.0], [0.0, 0.0], [20.0, 0.0]]).T).T
    first = np.linalg.eigh(loss.hessian(weights))[1][..., -1]
    turned = np.arctan2(first[:, 1], first[:, 0]) % np.pi
    assert turned == pytest.approx([0, angle / 2, angle], abs=1e-7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LogisticLoss([1.0]), "examples"),
        (lambda: LogisticLoss([[0.0]]), "examples"),
        (lambda: LogisticLoss([[1.0]]).loss([1.0, 2.0]), "weights"),
        (lambda: LogisticLoss([[1.0]]).descend([0.0], -1.0, 5), "learning_rate"),
        (lambda: LogisticLoss([[1.0]]).average_bound([0.0], [-1.0], 1.0, 5), "direction"),
        (lambda: LogisticLoss([[1.0]]).average_bound([0.0], [1.0], 1.0, 0), "steps"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
