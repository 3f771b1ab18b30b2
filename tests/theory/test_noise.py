"""Label noise at depth two: Statement D10, the rate of flattening, and its functions."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory import label_noise
from flatminima.theory.diagonal_network import DiagonalNetwork
from flatminima.theory.instability import instability_budget
from flatminima.theory.scalar_network import ScalarNetwork

EPS = np.finfo(float).eps

targets = st.floats(0.2, 3.0).flatmap(lambda y: st.sampled_from([y, -y]))
seeds = st.integers(0, 2**32 - 1)


# --- D10: the exact identity and the exact split -----------------------------------------------


def test_D10_identity_symbolically():
    a, b, y, eta, xi = sp.symbols("a b y eta xi", real=True)
    r, kappa, s = a * b - y, b**2 - a**2, a**2 + b**2
    e = r + xi
    a1, b1 = a - eta * e * b, b - eta * e * a
    assert sp.expand(b1**2 - a1**2 - kappa * (1 - eta**2 * e**2)) == 0
    assert sp.expand(a1 * b1 - y - (r - eta * e * s + eta**2 * e**2 * (r + y))) == 0
    share = kappa * eta**2 * (r**2 + xi**2 + 2 * r * xi)
    assert sp.expand(kappa - (b1**2 - a1**2) - share) == 0


@settings(deadline=None)
@given(targets, st.floats(-2, 2), st.floats(-2, 2), st.floats(0.001, 0.2), st.floats(0, 1), seeds)
def test_D10_identity_and_split_along_runs(y, a, b, eta, sigma, seed):
    network = ScalarNetwork(2, y)
    steps = 40
    run = network.descend([a, b], eta, steps, sigma, np.random.default_rng(seed))
    errors = run.residual[:-1] + run.noise
    biggest = np.abs(run.theta).max() ** 2 * (1 + eta * np.abs(errors).max()) ** 2
    tolerance = 40 * EPS * biggest  # of one step: squares and a difference, rounded
    change = run.kappa[1:] - run.kappa[:-1] * (1 - eta**2 * errors**2)
    assert np.abs(change).max() <= tolerance
    shares = label_noise.split_flattening(run.residual[:-1], run.noise, eta, run.kappa[:-1])
    assert abs(shares.total - (run.kappa[0] - run.kappa[-1])) <= 2 * steps * tolerance
    budget = label_noise.split_flattening(run.residual[:-1], run.noise, eta)
    scale = eta**2 * np.sum(run.residual[:-1] ** 2 + run.noise**2)
    assert abs(budget.total - eta**2 * np.sum(errors**2)) <= 10 * steps * EPS * scale
    # The budget and the fall of the logarithm: x <= -log(1 - x) <= x / (1 - x) for 0 <= x < 1.
    largest = np.max(eta * np.abs(errors)) ** 2
    if largest < 1 and abs(run.kappa[-1]) > 1e-6 * biggest:
        fall = -np.log(abs(run.kappa[-1] / run.kappa[0]))
        slack = 2 * steps * tolerance / abs(run.kappa[-1])
        assert budget.total - slack <= fall <= budget.total / (1 - largest) + slack


def test_D10_without_noise_is_the_instability_budget():
    network = ScalarNetwork(2, 1.0)
    start = network.at(1e-3, 22.0)
    run = network.descend(start, 0.1, 500)
    shares = label_noise.split_flattening(run.residual[:-1], 0.0, 0.1)
    assert shares.noise == shares.cross == 0
    assert shares.residual == pytest.approx(instability_budget(run.residual[:-1], 0.1), rel=1e-13)


def test_D10_the_cross_term_vanishes_in_expectation():
    """Exactly, over all sequences of signs: the noise is independent of the past."""
    y, eta, sigma, steps = 1.0, 0.1, 0.3, 6
    signs = sigma * (2 * ((np.arange(2**steps)[:, None] >> np.arange(steps)) & 1) - 1.0)
    a, b = np.full(2**steps, 0.3), np.full(2**steps, 2.0)
    kappa, residual = [], []
    for t in range(steps):
        r = a * b - y
        kappa.append(b**2 - a**2)
        residual.append(r)
        a, b = a - eta * (r + signs[:, t]) * b, b - eta * (r + signs[:, t]) * a
    shares = label_noise.split_flattening(residual, signs.T, eta, kappa)
    assert abs(shares.cross.mean()) <= 100 * EPS
    assert np.abs(shares.cross).max() > 1e-3
    mean_fall = shares.residual.mean() + eta**2 * sigma**2 * np.sum(np.mean(kappa, axis=1))
    assert mean_fall == pytest.approx(np.mean(kappa[0] - (b**2 - a**2)), rel=1e-13)


@settings(deadline=None)
@given(seeds, st.floats(0.001, 0.1), st.floats(0, 1))
def test_D10_split_holds_for_each_feature(seed, eta, sigma):
    generator = np.random.default_rng(seed)
    network = DiagonalNetwork(generator.normal(size=(3, 4)), generator.normal(size=3), 2)
    start = generator.normal(size=(2, 4))
    run = network.descend(start, eta, 30, sigma, generator=generator)
    signal = network.weight_gradient(run.theta[:-1])
    shares = label_noise.split_flattening(signal, run.weight_gradient - signal, eta, run.kappa[:-1])
    biggest = np.abs(run.theta).max() ** 2 * (1 + eta * np.abs(run.weight_gradient).max()) ** 2
    assert np.abs(shares.total - (run.kappa[0] - run.kappa[-1])).max() <= 30 * 100 * EPS * biggest


# --- the rate of flattening --------------------------------------------------------------------


def expected_fall(network, sharpness, eta, sigma, steps):
    """E[log |kappa_0 / kappa_T|] over all sequences of signs times sigma, from a minimum."""
    kappa = np.sqrt(sharpness**2 - 4 * network.target**2)
    signs = 2 * ((np.arange(2**steps)[:, None] >> np.arange(steps)) & 1) - 1.0
    a, b = np.moveaxis(np.tile(network.at(0.0, kappa), (2**steps, 1)), -1, 0)
    for t in range(steps):
        e = a * b - network.target + sigma * signs[:, t]
        a, b = a - eta * e * b, b - eta * e * a
    return np.mean(np.log(kappa / np.abs(b**2 - a**2)))


@pytest.mark.parametrize("product", [0.2, 1.0, 1.9, 2.2])
def test_rate_to_leading_order_over_all_sequences(product):
    """The expectation is exact, so halving sigma divides the remainder, of order 4, by 16."""
    network, sharpness, steps = ScalarNetwork(2, 1.0), 4.0, 8
    eta = product / sharpness
    t = np.arange(steps)
    variance = product**2 * np.array([np.sum((1 - product) ** (2.0 * np.arange(k))) for k in t])
    closed = product / (2 - product) * (1 - (1 - product) ** (2.0 * t))
    assert variance == pytest.approx(closed, rel=1e-12)
    sigmas = np.array([0.02, 0.01, 0.005])
    errors = []
    for sigma in sigmas:
        leading = eta**2 * sigma**2 * np.sum(1 + variance)
        errors.append(expected_fall(network, sharpness, eta, sigma, steps) - leading)
    ratios = np.abs(np.array(errors[:-1]) / errors[1:])
    assert np.all((ratios > 12) & (ratios < 20))


@given(st.floats(0.01, 1.9), st.floats(0.01, 1), st.floats(0.1, 10))
def test_rate_is_that_of_descent_on_the_regularizer_of_damian(product, sigma, sharpness):
    """d kappa = -4 kappa F'(s) for descent on F(s) along the minima, F = -lambda log(1 - eta s / 2)
    / (2 eta) with lambda = eta sigma^2 (Damian, Ma and Lee 2021)."""
    eta = product / sharpness
    slope = eta * sigma**2 / (2 * eta) * (eta / 2) / (1 - product / 2)
    rate = label_noise.flattening_rate(sharpness, sigma, eta)
    assert 4 * eta * slope == pytest.approx(float(rate), rel=1e-12)


@settings(deadline=None)
@given(st.floats(0.1, 5), targets, st.floats(0.05, 0.95))
def test_steps_to_imbalance_integrates_the_rate(start, y, product):
    from scipy.integrate import quad

    eta, sigma = 2 * product / np.hypot(start, 2 * y), 0.1

    def inverse_rate(log_k):
        s = np.hypot(np.exp(log_k), 2 * y)
        return 1 / label_noise.flattening_rate(s, sigma, eta)

    end = start * 0.05
    expected, error = quad(inverse_rate, np.log(end), np.log(start), epsabs=0, epsrel=1e-10)
    steps = label_noise.steps_to_imbalance([start, end], start, y, sigma, eta)
    # The differences of logarithms and of integrals are of order 1 and so lose few digits.
    assert steps == pytest.approx([0, expected], rel=1e-8, abs=10 * error)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: label_noise.split_flattening(1.0, 0.0, 0.1), "residuals"),
        (lambda: label_noise.split_flattening([1.0], np.nan, 0.1), "noise"),
        (lambda: label_noise.split_flattening([1.0], 0.0, 0.0), "learning_rate"),
        (lambda: label_noise.flattening_rate(20.0, 0.1, 0.1), "sharpness"),
        (lambda: label_noise.flattening_rate(1.0, -0.1, 0.1), "label_noise"),
        (lambda: label_noise.flattening_rate(1.0, 0.1, -0.1), "learning_rate"),
        (lambda: label_noise.steps_to_imbalance(2.0, 1.0, 1.0, 0.1, 0.1), "kappa"),
        (lambda: label_noise.steps_to_imbalance(0.5, 1.0, 1.0, 0.0, 0.1), "label_noise"),
        (lambda: label_noise.steps_to_imbalance(0.5, 99.0, 1.0, 0.1, 0.1), "sharpness"),
    ],
)
def test_bad_input_is_refused_by_name(call, names):
    with pytest.raises(ValueError, match=names):
        call()
