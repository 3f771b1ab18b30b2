"""Noise holds the sharpness below the threshold: Theorem F4."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory import instability

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


def left_over(run, eta, alpha, beta, s):
    """What the draws of a path add to its gap: a mean over its steps of terms of mean zero."""
    x, e = run.x, run.excess
    drawn = x[1:] + (1 + eta * e[:-1]) * x[:-1]
    terms = drawn**2 - (eta * s) ** 2 - 2 * (1 + eta * e[:-1]) * x[:-1] * drawn
    return beta / (4 * eta * alpha) * terms.mean(axis=0)


def size_of(run, eta, alpha, beta):
    """The largest of the numbers that the identity adds up: rounding is relative to it."""
    x, e = run.x, run.excess
    squares = e**2 + beta * x**2 * (1 + (eta * e) ** 2) + (eta * (alpha - beta * x**2 / 2)) ** 2
    return squares.max(axis=0) / (eta * alpha)


@settings(max_examples=40)
@given(seed=seeds)
def test_F4_identity_holds_path_by_path(seed):
    """For 25 random sets of constants each; the random part is known from the path itself."""
    draws = np.random.default_rng(seed)
    eta = 10 ** draws.uniform(-3, 0)
    alpha, beta, s = 10 ** draws.uniform([[-3], [-2], [-3]], [[0], [1], [1]], (3, 25)) / eta
    start = draws.normal(size=(2, 25)) * 0.1 / eta
    run = instability.stochastic_dynamics(*start, eta, alpha, beta, s, 60, draws)
    # A path that ran off the numbers has no mean; one that is about to has no digits left.
    kept = np.abs(np.nan_to_num(run.excess, nan=np.inf)).max(axis=0) < 1e3 / eta
    assert kept.sum() >= 5
    run = instability.CoupledTrajectory(run.x[:, kept], run.excess[:, kept], run.diverged[kept])
    alpha, beta, s = alpha[kept], beta[kept], s[kept]
    gap = instability.stochastic_gap(run, eta, alpha, beta, s)
    error = gap.measured - gap.predicted - left_over(run, eta, alpha, beta, s)
    assert np.all(np.abs(error) <= 60 * EPS * size_of(run, eta, alpha, beta))
    # Half the weight on any term breaks it, wherever this term can be seen.
    for term in (gap.noise, gap.coupling, gap.spread, gap.boundary):
        seen = np.abs(term) > 1e-3 * size_of(run, eta, alpha, beta)
        assert np.all(np.abs(error + term / 2) > 1e-4 * np.abs(term), where=seen)


ADVERSE = {
    "at rest": (0.0, 0.0, 0.1, 0.5, 1.0, 0.0),
    "no noise, at the fixed point": (1.0, 0.0, 0.1, 0.5, 1.0, 0.0),
    "no self-stabilization": (1.0, -0.5, 0.1, 0.5, 0.0, 1.0),
    "hardly any sharpening": (1.0, -0.5, 0.1, 1e-9, 1.0, 1.0),
    "very fast sharpening": (0.1, 0.0, 0.1, 50.0, 1.0, 0.1),
    "much noise": (0.0, -1.0, 0.1, 0.5, 1.0, 30.0),
    "far below the edge": (1.0, -9.0, 0.1, 0.5, 1.0, 1.0),
    "x is set to zero": (1.0, -10.0, 0.1, 0.5, 1.0, 0.0),
    "far above the edge": (1e-3, 8.0, 0.1, 0.5, 1.0, 0.01),
    "beyond return": (5.0, -25.0, 0.1, 0.5, 1.0, 1.0),
}


@pytest.mark.parametrize("name", ADVERSE)
def test_F4_identity_in_adverse_cases(name):
    *start, eta, alpha, beta, s = ADVERSE[name]
    draws = np.random.default_rng(0)
    steps = {"beyond return": 2, "very fast sharpening": 3, "far above the edge": 8}.get(name, 40)
    run = instability.stochastic_dynamics(*start, eta, alpha, beta, s, steps, draws)
    gap = instability.stochastic_gap(run, eta, alpha, beta, s)
    error = gap.measured - gap.predicted - left_over(run, eta, alpha, beta, s)
    assert abs(error) <= 40 * EPS * size_of(run, eta, alpha, beta)


SETTINGS = [
    (eta, alpha, beta, s)
    for eta in (0.02, 0.05, 0.1)
    for alpha, beta, s in (
        (0.1, 1.0, 0.5),
        (0.1, 1.0, 2.0),
        (0.3, 1.0, 1.0),
        (0.02, 0.5, 1.0),
        (0.1, 4.0, 1.0),
    )
]
"""Steps, sharpening, self-stabilization and noise of fifteen simulations."""


def simulate(eta, alpha, beta, s, count=300, steps=3000):
    """Paths from the fixed point, and how many steps each has settled for: all of them."""
    draws = np.random.default_rng(7)
    x = np.sqrt(2 * alpha / beta) * np.ones(count)
    settled = instability.stochastic_dynamics(x, 0.0, eta, alpha, beta, s, steps, draws)
    start = settled.x[-1], settled.excess[-1]
    run = instability.stochastic_dynamics(*start, eta, alpha, beta, s, steps, draws)
    assert not settled.diverged.any()
    assert not run.diverged.any()
    return instability.stochastic_gap(run, eta, alpha, beta, s)


@pytest.mark.parametrize("constants", SETTINGS)
def test_F4_gap_is_the_sum_of_its_terms_in_the_mean(constants):
    gap = simulate(*constants)
    rest = gap.measured - gap.predicted
    error = rest.std(ddof=1) / np.sqrt(len(rest))
    # Four standard errors: one chance in 16,000 each, and the draws are always the same.
    assert abs(rest.mean()) < 4 * error
    assert gap.measured.mean() > 0
    # A leading term with another constant misses by many.
    assert abs((rest - gap.noise).mean()) > 8 * error


@pytest.mark.parametrize(
    ("s", "least", "most"), [(0.1, 0.2, 0.5), (0.4, 0.5, 0.85), (1.6, 0.95, 1)]
)
def test_F4_leading_term_alone_needs_much_noise(s, least, most):
    """Here beta s^2 / (4 alpha^2) is 1/4, 4 and 64, and eta times the gap below 0.01."""
    gap = simulate(0.02, 0.1, 1.0, s, count=60, steps=6000)
    inner = (gap.noise + gap.coupling + gap.spread).mean()
    assert least < gap.noise.mean() / inner < most


@pytest.mark.parametrize("s", [0.1, 1.0])
def test_F4_every_state_can_escape(s):
    """Two large draws, then any moderate ones: the excess goes to minus infinity."""
    eta, alpha, beta = 0.1, 0.5, 1.0
    draws = np.random.default_rng(3)
    x, e = 3 * draws.normal(size=(2, 200))
    for t in range(6):
        drawn = 4000 / s if t < 2 else draws.uniform(-2, 2, size=200)
        x, e = eta * s * drawn - (1 + eta * e) * x, e + eta * (alpha - beta * x**2 / 2)
    assert np.all(eta * e < -1e6)
    assert np.all(np.abs(x) > 1e6)
    # On the way the loss of the model, <x, (2 / eta + e) x> / 2 - alpha e / beta, falls.
    assert np.all((2 / eta + e) * x**2 / 2 - alpha * e / beta < -1e12)


@pytest.mark.parametrize("seed", range(10))
def test_F4_identity_until_a_state_is_left(seed):
    """A stopping time that depends on the path; all draws of +-1, so the means are exact."""
    draws = np.random.default_rng(seed)
    eta, most = 10 ** draws.uniform(-2, 0), 6
    alpha, beta, s = 10 ** draws.uniform(-1.5, 1, size=3)
    # So that one sign of the first draw leads past `wide`, and the other one does not.
    start = eta * s * draws.uniform(1, 4), -draws.uniform(0, 0.05) / eta
    wide = start[0] + 0.5 * eta * s
    total, lengths = np.zeros(4), []
    for signs in itertools.product((-1.0, 1.0), repeat=most):
        x, e = start
        for t in range(most):
            rest = alpha - beta * x**2 / 2
            total[:3] += e, (e * x) ** 2, rest**2
            x, e = -(1 + eta * e) * x + eta * s * signs[t], e + eta * rest
            if abs(x) > wide:
                break
        lengths.append(t + 1)
        total[3] += e**2 + beta * x**2 / 2 - (start[1] ** 2 + beta * start[0] ** 2 / 2)
    excess, coupling, spread, climb = total / sum(lengths)
    assert len(set(lengths)) > 1
    terms = [
        eta * beta * s**2 / (4 * alpha),
        eta * beta * coupling / (4 * alpha),
        eta * spread / (2 * alpha),
        -climb / (2 * eta * alpha),
    ]
    size = np.sum(np.abs(terms)) + abs(excess)
    assert np.isclose(-excess, sum(terms), rtol=0, atol=1e3 * EPS * size)
    assert not np.isclose(-excess, sum(terms) - terms[0] / 2, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize(("eta", "beta", "s"), [(0.1, 1.0, 1.0), (0.5, 2.0, 0.3), (1.0, 0.1, 5.0)])
def test_F4_bounded_noise_may_have_a_stationary_law(eta, beta, s):
    """Draws of +-1 send x = +-eta s, excess -1 / eta to themselves: the gap is known exactly."""
    alpha = beta * (eta * s) ** 2 / 2
    for x, sign in itertools.product((-eta * s, eta * s), (-1, 1)):
        e = -1 / eta
        assert np.isclose(-(1 + eta * e) * x + eta * s * sign, eta * s * sign)
        assert np.isclose(e + eta * (alpha - beta * x**2 / 2), e)
    leading = eta * beta * s**2 / (4 * alpha)
    assert np.isclose(eta * beta / (4 * alpha) * (s**2 + (e * x) ** 2), -e)
    assert np.isclose(-e, 2 * leading)


def test_F4_without_noise_the_gap_of_a_run_at_rest_is_zero():
    run = instability.coupled_dynamics(1.0, 0.0, 0.1, 0.5, 1.0, 50)
    gap = instability.stochastic_gap(run, 0.1, 0.5, 1.0, 0.0)
    assert gap.measured == gap.predicted == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"progressive_sharpening": 0.0}, "progressive_sharpening must be greater than 0"),
        ({"self_stabilization": -1.0}, "self_stabilization must be at least 0"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_other_arguments_are_refused(change, message):
    right = {
        "learning_rate": 0.1, "progressive_sharpening": 0.5, "self_stabilization": 1.0,
        "noise": 1.0,
    }  # fmt: skip
    run = instability.coupled_dynamics(1.0, 0.0, 0.1, 0.5, 1.0, 5)
    with pytest.raises(ValueError, match=message):
        instability.stochastic_gap(run, **(right | change))
    if "progressive_sharpening" not in change:
        with pytest.raises(ValueError, match=message):
            instability.stochastic_dynamics(
                0.0, 0.0, **(right | change), steps=5, generator=np.random.default_rng(0)
            )


def test_draws_come_from_a_generator():
    with pytest.raises(ValueError, match="generator must be a numpy Generator"):
        instability.stochastic_dynamics(0.0, 0.0, 0.1, 0.5, 1.0, 1.0, 5, 7)
