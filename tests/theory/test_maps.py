"""maps: Proposition Q5 in all its parts, and the functions that embody it."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.theory import maps

EPS = np.finfo(float).eps
lams = st.floats(0.1, 10)
negative = st.floats(-5, -0.1)


# --- Q5: cycles of one variable -------------------------------------------------------------


def test_Q5_symmetric_orbit_symbolically():
    eta, lam, c = sp.symbols("eta lambda c", nonzero=True)
    x = sp.sqrt((2 - eta * lam) / (eta * c))
    step = x - eta * (lam * x + c * x**3)
    assert sp.simplify(step + x) == 0
    half = 1 - eta * (lam + 3 * c * x**2)
    assert sp.simplify(half - (2 * eta * lam - 5)) == 0


def test_Q5_asymmetric_orbit_symbolically():
    # With x^2 + y^2 = 1 - 1/eta and xy = -1/eta both points map to each other (lambda = -c = 1).
    eta, x, y = sp.symbols("eta x y")
    relations = [x**2 + y**2 - (1 - 1 / eta), x * y + 1 / eta]
    for a, b in ((x, y), (y, x)):
        image = (1 - eta) * a + eta * a**3
        ideal = sp.groebner(relations, x, y, domain=sp.QQ.frac_field(eta))
        assert ideal.reduce(sp.expand(image - b))[1] == 0
    product = sp.expand((1 - eta + 3 * eta * x**2) * (1 - eta + 3 * eta * y**2))
    assert sp.simplify(ideal.reduce(product)[1] - (9 - 2 * (eta - 1) ** 2)) == 0


@given(lam=lams, c=negative, product=st.floats(2.001, 3.9))
def test_Q5_period_two_orbit_is_one_and_its_multiplier_is_as_stated(lam, c, product):
    eta = product / lam
    loss = maps.quartic(lam, c)
    x = maps.period_two_orbit(lam, c, eta)
    image = x - eta * loss.derivative(x)
    # Rounding of sums of terms up to 4 x.
    assert abs(image + x) <= 40 * EPS * x
    value = maps.multiplier(loss, np.array([x, -x]), eta)
    assert abs(value - (2 * product - 5) ** 2) <= 1e3 * EPS


@given(lam=lams, c=st.floats(0.1, 5), product=st.floats(0.1, 4).filter(lambda p: abs(p - 2) > 1e-6))
def test_Q5_past_the_threshold_a_period_two_orbit_needs_falling_curvature(lam, c, product):
    positive = maps.period_two_orbit(lam, c, product / lam)
    negative = maps.period_two_orbit(lam, -c, product / lam)
    assert np.isnan(positive) == (product > 2)
    assert np.isnan(negative) == (product < 2)


@settings(deadline=None, max_examples=30)
@given(product=st.floats(2.1, 2.9), lam=lams, c=negative)
def test_Q5_orbits_settle_on_the_attracting_cycle(product, lam, c):
    eta = product / lam
    star = float(maps.period_two_orbit(lam, c, eta))
    run = maps.orbit(maps.quartic(lam, c), 0.3 * star, eta, 600, keep=2)
    # Distances shrink by |2 p - 5| <= 0.8 a step once near: 0.8^500 is far below rounding.
    assert np.allclose(np.abs(run.x), star, rtol=1e-9)
    assert run.x[0] * run.x[1] < 0


def test_Q5_windows_of_the_cascade():
    rates = np.array([1.5, 2.5, 3.1, 3.2, 1 + np.sqrt(5) + 0.01, 3.9])
    cycles = maps.cycle_length(maps.bifurcation_diagram(maps.quartic(1, -1), rates, settle=4000))
    assert cycles[0, :5].tolist() == [1, 2, 2, 2, 4]
    sides = maps.bifurcation_diagram(
        maps.quartic(1, -1), [2.5, 3.1], [0.1, -0.1], keep=2, settle=4000
    )
    means = sides.x.mean(axis=0)
    assert np.allclose(means[:, 0], 0, atol=1e-9)  # symmetric
    assert means[0, 1] * means[1, 1] < 0  # two mirror images beyond 3
    assert np.isclose(np.prod(sides.x[:, 0, 1]), -1 / 3.1)
    assert np.isclose(np.sum(sides.x[:, 0, 1] ** 2), 1 - 1 / 3.1)


@given(product=st.floats(0.01, 4), x0=st.floats(-1, 1))
def test_Q5_orbits_stay_between_the_maxima_up_to_four(product, x0):
    run = maps.orbit(maps.quartic(1, -1), x0, product, 200)
    assert not run.diverged
    # At the end points of the interval the map is expanding: rounding grows by up to 9 a step
    # while the orbit is outside by rounding, but the fixed points +-1 themselves are exact.
    assert np.abs(run.x).max() <= 1 + 1e-9


@given(s=st.floats(-3, 3), q=st.floats(-3, 3), lam=st.floats(0.5, 3))
def test_Q5_amplitude_law_and_drift_near_the_threshold(s, q, lam):
    strength = s**2 / (2 * lam) - q / 6
    if abs(strength) < 0.2:
        return
    loss = maps.quartic(lam, q / 6, s)
    # Solve the two equations of a cycle m +- A for a small amplitude by Newton's method.
    amplitude = 1e-3
    m, excess = 0.0, 0.0
    for _ in range(50):
        m -= (loss.derivative(m + amplitude) + loss.derivative(m - amplitude)) / (2 * lam)
    slope = (loss.derivative(m + amplitude) - loss.derivative(m - amplitude)) / (2 * amplitude)
    excess = lam - slope  # lambda - 2/eta
    # Corrections are of the order A^4 with coefficients bounded by a few hundred here.
    assert abs(m + s * amplitude**2 / (2 * lam)) < 1e3 * amplitude**4 + 1e-12
    assert abs(excess - strength * amplitude**2) < 1e4 * amplitude**4 + 1e-10


def test_Q5_wide_loss_has_an_attracting_cycle_at_every_rate_past_the_threshold():
    eta = sp.Symbol("eta", positive=True)
    x = sp.sqrt(eta**2 / 4 - 1)
    assert sp.simplify(eta * x / sp.sqrt(1 + x**2) - 2 * x) == 0
    assert sp.simplify(1 - eta * (1 + x**2) ** sp.Rational(-3, 2) - (1 - 8 / eta**2)) == 0
    rates = np.array([2.2, 3.0, 5.0, 20.0])
    run = maps.orbit(maps.Wide(), 0.1, rates, 4000, keep=2)
    assert np.allclose(np.abs(run.x), np.sqrt(rates**2 / 4 - 1), rtol=1e-9)


def test_Q5_feigenbaum_ratio():
    rates = maps.superstable_rates(9)
    gaps = np.diff(rates)
    ratios = gaps[:-1] / gaps[1:]
    # Rates are known to about 1e-14 (roots of a function that is steep there), the last gap is
    # about 3e-6, so the last ratio to 1e-8; what is left is the convergence of the sequence,
    # by about the ratio itself per level.
    assert abs(ratios[-1] - 4.669201609) < abs(ratios[-1] - ratios[-2])
    assert (np.diff(np.abs(ratios - 4.669201609)) < 0).all()


# --- Q5: the catapult -----------------------------------------------------------------------


def test_Q5_uv_model_closes_symbolically():
    eta, m = sp.symbols("eta m", positive=True)
    u, v = sp.symbols("u1:3"), sp.symbols("v1:3")
    f = sum(a * b for a, b in zip(u, v, strict=True)) / sp.sqrt(m)
    lam = sum(a**2 for a in (*u, *v)) / m
    loss = f**2 / 2
    new_u = [a - eta * sp.diff(loss, a) for a in u]
    new_v = [b - eta * sp.diff(loss, b) for b in v]
    f2 = sum(a * b for a, b in zip(new_u, new_v, strict=True)) / sp.sqrt(m)
    lam2 = sum(a**2 for a in (*new_u, *new_v)) / m
    assert sp.simplify(f2 - f * (1 - eta * lam + eta**2 * f**2 / m)) == 0
    assert sp.simplify(lam2 - lam - eta * f**2 / m * (eta * lam - 4)) == 0


@settings(deadline=None)
@given(
    product=st.floats(0.05, 3.95),
    share=st.floats(0.001, 1),
    width=st.integers(1, 1000),
    lam=st.floats(0.1, 10),
)
def test_Q5_catapult_converges_below_four_at_every_width(product, share, width, lam):
    f0 = share * lam * np.sqrt(width) / 2
    run = maps.uv_model(f0, lam, product / lam, 20_000, width)
    assert not run.diverged
    assert (np.diff(run.curvature) <= 8 * EPS * lam).all()
    assert np.abs(run.output).max() <= lam * np.sqrt(width) / 2 * (1 + 1e-9)
    # sum f^2 <= m lambda_0 / (eta (4 - eta lambda_0)) bounds how long |f| can stay large.
    count = width * lam / (product / lam * (4 - product))
    assert np.sum(run.output[:-1] ** 2) <= count * (1 + 1e-9)


@given(product=st.floats(4.05, 8), share=st.floats(0.01, 0.9), lam=st.floats(0.1, 10))
def test_Q5_catapult_diverges_beyond_four(product, share, lam):
    run = maps.uv_model(share * lam / 2, lam, product / lam, 2000)
    rising = run.curvature[~np.isnan(run.curvature)]
    assert (np.diff(rising) >= -8 * EPS * lam).all()
    assert run.diverged


# --- machinery ------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32 - 1), order=st.integers(0, 4))
def test_polynomial_derivatives(seed, order):
    c = np.random.default_rng(seed).normal(size=5)
    x = sp.Symbol("x")
    exact = sp.diff(sum(float(a) * x**k for k, a in enumerate(c)), x, order)
    value = float(exact.subs(x, sp.Rational(7, 10))) if order else float(exact.subs(x, 0.7))
    assert np.isclose(maps.Polynomial(tuple(c)).derivative(0.7, order), value, rtol=1e-9, atol=1e-9)


def test_orbit_keeps_the_end_and_marks_divergence():
    loss = maps.quartic(1, 1)
    full = maps.orbit(loss, np.array([0.1, 3.0]), 1.9, 50)
    assert full.x.shape == (51, 2)
    assert full.diverged.tolist() == [False, True]
    last = maps.orbit(loss, np.array([0.1, 3.0]), 1.9, 50, keep=3)
    assert np.array_equal(last.x, full.x[-3:], equal_nan=True)


def test_grids_broadcast():
    diagram = maps.bifurcation_diagram(maps.quartic(1, -1), [1.0, 2.5, 3.1], [0.1, 0.2], keep=64)
    assert diagram.x.shape == (64, 2, 3)
    assert maps.cycle_length(diagram)[0].tolist() == [1, 2, 2]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: maps.orbit(maps.Wide(), 0.1, 0.0, 5), "learning_rate"),
        (lambda: maps.orbit(maps.Wide(), np.nan, 0.1, 5), "start"),
        (lambda: maps.orbit(maps.Wide(), 0.1, 0.1, 5, keep=7), "keep"),
        (lambda: maps.orbit(maps.Wide(), 0.1, 0.1, 0), "steps"),
        (lambda: maps.period_two_orbit(1.0, 0.0, 1.0), "c must"),
        (lambda: maps.Polynomial((1.0, np.inf)), "coefficients"),
        (lambda: maps.Wide().derivative(1.0, 3), "order"),
        (lambda: maps.uv_model(5.0, 1.0, 0.1, 5), "curvature"),
        (lambda: maps.multiplier(maps.Wide(), 1.0, 0.1), "cycle"),
        (lambda: maps.cycle_length(maps.orbit(maps.Wide(), 0.1, 0.1, 5)), "orbits"),
        (lambda: maps.superstable_rates(1), "levels"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
