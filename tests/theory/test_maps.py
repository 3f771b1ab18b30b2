"""maps: Proposition Q5 in all its parts, Theorem M8, and the functions that embody them."""

from itertools import permutations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cycles import exact_cycles, random_loss

from flatminima.theory import maps
from flatminima.theory.tanh_network import TanhNetwork

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


@given(s=st.floats(-2, 2), q=st.floats(-2, 2))
def test_Q5_small_cycles_attract_past_the_threshold_with_the_stated_multiplier(s, q):
    """On L = x^2/2 + s x^3/6 + q x^4/24, and with the fifth and sixth power added."""
    strength = s**2 / 2 - q / 6
    if abs(strength) < 0.1:
        return
    for more in ((), (0.3, -0.2)):
        loss = maps.Polynomial((0, 0, 0.5, s / 6, q / 24, *more))
        errors = []
        for amplitude in (1e-2, 5e-3):
            m = 0.0
            for _ in range(60):
                m -= (loss.derivative(m + amplitude) + loss.derivative(m - amplitude)) / 2
            cycle = np.array([m + amplitude, m - amplitude])
            eta = -4 * amplitude / np.diff(loss.derivative(cycle))[0]
            value = maps.multiplier(loss, cycle, eta)
            assert (eta > 2) == (strength > 0) == (value < 1)
            errors.append(abs(value - (1 - 4 * (eta - 2))))
            # Nothing else is near: A^4 times derivatives of order one, up to a few hundred.
            assert errors[-1] < 1e3 * amplitude**4
    assert maps.period_two(1.0, s, q, eta).strength == pytest.approx(strength)


def test_Q5_small_cycles_beyond_polynomials():
    """Losses with all derivatives: the amplitude law at two scales, s^2/2 - q/6 by hand."""
    losses = [  # (L', L'', s, q) with L''(0) = 1
        (lambda x: np.expm1(x), np.exp, 1.0, 1.0),
        (np.tanh, lambda x: 1 / np.cosh(x) ** 2, 0.0, -2.0),
        (np.sin, np.cos, 0.0, -1.0),
        (lambda x: x * np.exp(x), lambda x: (1 + x) * np.exp(x), 2.0, 3.0),
        (np.log1p, lambda x: 1 / (1 + x), -1.0, 2.0),
    ]
    for slope, curvature, s, q in losses:
        errors = []
        for amplitude in (0.02, 0.01):
            m = 0.0
            for _ in range(60):
                m -= (slope(m + amplitude) + slope(m - amplitude)) / 2
            inverse = (slope(m + amplitude) - slope(m - amplitude)) / (2 * amplitude)
            steps = 1 - curvature(m + amplitude * np.array([1, -1])) / (inverse / 2)
            law = 1 - inverse - (s**2 / 2 - q / 6) * amplitude**2
            attraction = np.prod(steps) - (1 - 4 * (2 / inverse - 2))
            errors.append(np.abs([law, attraction, m + s * amplitude**2 / 2]))
        gain = np.array(errors[0]) / np.maximum(errors[1], 1e-13)
        # Fourth order: 2^4, up to A^2 = 4e-4 times numbers of order one; less only where there
        # is nothing left but rounding.
        assert np.all((gain > 14) | (errors[0] < 1e-11)), (s, q, gain)


# --- M8: cycles of two points with any number of parameters --------------------------------


def misses_of(losses, amplitude):
    """How far exact cycles are from Theorem M8: amplitude, multiplier, center, and direction."""
    hessian, third, fourth = losses
    eta, m, z, spectrum = exact_cycles(*losses, amplitude)
    cycle = maps.period_two(hessian, third, fourth, eta)
    values, vectors = np.linalg.eigh(hessian)
    first, top = vectors[..., -1], values[:, -1]
    bend = np.einsum("nijk,nj,nk->ni", third, first, first)
    back = np.linalg.solve(hessian, bend[..., None])[..., 0]
    nearest = np.abs(spectrum - 1).argmin(axis=1)
    critical = spectrum[np.arange(len(spectrum)), nearest].real
    found = {
        "amplitude": np.abs(top - 2 / eta - cycle.strength * amplitude**2),
        "multiplier": np.abs(critical - cycle.multiplier),
        "center": np.linalg.norm(m + amplitude**2 / 2 * back, axis=1),
        "direction": np.linalg.norm(z - amplitude * first, axis=1),
    }
    others = np.delete(np.abs(spectrum), 0, axis=1) if spectrum.shape[1] == 1 else np.array(
        [np.delete(np.abs(row), k) for row, k in zip(spectrum, nearest, strict=True)]
    )  # fmt: skip
    return found, cycle, eta, critical, others


@pytest.mark.parametrize("p", [1, 2, 3, 5])
def test_M8_small_cycles_in_p_dimensions(p):
    losses = random_loss(np.random.default_rng(p), 300, p)
    (coarse, *_), (fine, cycle, eta, critical, others) = (
        misses_of(losses, amplitude) for amplitude in (0.01, 0.005)
    )
    for name, order in {"amplitude": 4, "multiplier": 4, "center": 4, "direction": 3}.items():
        if p == 1 and name == "direction":
            continue
        gain = coarse[name] / np.maximum(fine[name], 1e-16)
        # 2^order up to A^2 = 1e-4 times ratios of derivatives, which random losses may make large
        # in a few cases: 98 of 100 are within a tenth, and all the rest still fall.
        low, middle, high = np.quantile(gain, [0.01, 0.5, 0.99])
        assert abs(middle / 2**order - 1) < 0.01, name
        assert low > 0.9 * 2**order, name
        assert high < 1.1 * 2**order, name
    # Which side, and whether it attracts: 3 sum c_k^2 / lambda_k > q.
    clear = np.abs(cycle.strength) > 0.05
    assert np.array_equal((eta > 2)[clear], (cycle.strength > 0)[clear])
    assert np.array_equal((critical < 1)[clear], (cycle.strength > 0)[clear])
    assert np.all(others < 1), "across v_1 the cycle attracts: (1 - eta lambda_k)^2 + O(A^2)"


def test_M8_fails_with_another_constant():
    """The law with q/4 for q/6, or without the stiff directions, is off at second order."""
    hessian, third, fourth = random_loss(np.random.default_rng(9), 200, 3)
    sizes = []
    for amplitude in (0.01, 0.005):
        eta, *_ = exact_cycles(hessian, third, fourth, amplitude)
        vectors = np.linalg.eigh(hessian)[1][..., -1]
        q = np.einsum("nijkl,ni,nj,nk,nl->n", fourth, *[vectors] * 4)
        right = maps.period_two(hessian, third, fourth, eta).strength
        wrong = [right + q / 6 - q / 4, -q / 6]
        sizes.append([np.median(np.abs(1 - 2 / eta - a * amplitude**2)) for a in wrong])
    assert np.all(np.array(sizes[0]) / sizes[1] < 4.5)


def adversarial_losses():
    """Minima at which the law is strained; (Hessian, T, Q) of a single loss each."""
    zero3, zero4 = (np.zeros((1, *(2,) * k)) for k in (3, 4))

    def third(**entries):
        tensor = np.zeros((1, 2, 2, 2))
        for name, value in entries.items():
            for order in permutations(int(i) for i in name[1:]):
                tensor[(0, *order)] = value
        return tensor

    def fourth(value):
        tensor = zero4.copy()
        tensor[0, 0, 0, 0, 0] = value
        return tensor

    two = np.diag([1.0, 0.5])[None]
    return {
        "quartic alone": (two, zero3, fourth(-6.0)),
        "wrong sign": (two, zero3, fourth(6.0)),
        "cubic alone": (two, third(t000=1.0), zero4),
        "stiff direction alone": (two, third(t001=1.0), zero4),
        "soft direction": (np.diag([1.0, 0.02])[None], third(t001=0.2), zero4),
        "almost double": (np.diag([1.0, 0.97])[None], third(t001=0.5), fourth(-1.0)),
        "nearly balanced": (two, third(t001=1.0), fourth(5.0)),
        "strong": (two, third(t000=3.0, t001=-4.0), fourth(20.0)),
        "turned": (two, third(t000=1.0, t001=2.0, t011=1.0), fourth(-2.0)),
        "scaled": (1e6 * two, 1e6 * third(t001=1.0), fourth(-1e6)),
    }


@pytest.mark.parametrize("name", adversarial_losses())
def test_M8_in_adversarial_cases(name):
    losses = adversarial_losses()[name]
    scale = losses[0].max()
    amplitudes = (2e-3, 1e-3)
    (coarse, *_), (fine, cycle, eta, critical, others) = (misses_of(losses, a) for a in amplitudes)
    for miss, order, unit in (("amplitude", 4, scale), ("multiplier", 4, 1), ("center", 4, 1)):
        floor = 1e-14 * unit
        assert fine[miss][0] < max(coarse[miss][0] / 2 ** (order - 0.3), floor), miss
    assert (eta * scale > 2) == (cycle.strength > 0) == (critical < 1)
    assert np.all(others < 1)


def test_M8_on_a_network():
    """Gradient descent on a tanh network with an isolated minimum settles on the cycle."""
    network = TanhNetwork(1, [0.4, -2.5, -1.4, -0.5, 0.0], [-0.5, 0.2, 3.3, 0.7, 0.5])
    minimum = network.descend([-1.6, -0.2, 1.4], 0.5, 1000)[-1]
    assert np.linalg.norm(network.gradient(minimum)) < 1e-12
    _, hessian, third, fourth = network.derivatives(minimum)
    top = np.linalg.eigvalsh(hessian)[-1]
    misses = []
    for excess in (0.01, 0.005):
        eta = (2 + excess) / top
        cycle = maps.period_two(hessian, third, fourth, eta)
        assert cycle.strength > 0
        found = network.descend(minimum + 1.1 * cycle.points[0], eta, int(15 / excess))[-2:]
        found = found - minimum
        match = min((0, 1), key=lambda k: np.linalg.norm(found[0] - cycle.points[k]))
        size = float(cycle.amplitude)
        misses.append(np.linalg.norm(found - cycle.points[[match, 1 - match]]) / size)
    # The points are known to O(A^3) and A to A O(A^2): relative misses fall with A^2, by two.
    assert misses[1] < 0.1
    assert 1.7 < misses[0] / misses[1] < 2.3


def test_Q5_up_to_its_sign_the_map_has_one_extremum_on_an_interval_it_keeps():
    eta, x = sp.symbols("eta x", positive=True)
    step = (1 - eta) * x + eta * x**3
    turned = -step
    assert sp.expand(turned.subs(x, turned) - step.subs(x, step)) == 0
    (extremum,) = sp.solve(sp.diff(turned, x), x)
    assert sp.simplify(extremum**2 - (eta - 1) / (3 * eta)) == 0
    rates = np.array([1.5, 2.5, 3.3, 1 + 1.5 * np.sqrt(3)])
    right = np.sqrt(1 - 1 / rates)
    top = 2 / 3 * (rates - 1) * np.sqrt((rates - 1) / (3 * rates))
    assert np.all(top <= right * (1 + 4 * EPS))
    assert top[-1] == pytest.approx(right[-1])


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
        (lambda: maps.period_two(-1.0, 0.0, 0.0, 1.0), "hessian"),
        (lambda: maps.period_two(np.eye(2), np.zeros((2,) * 3), np.zeros((2,) * 4), 1.0), "simple"),
        (lambda: maps.period_two(np.eye(2), 0.0, 0.0, 1.0), "shapes"),
        (lambda: maps.period_two(1.0, 0.0, -1.0, 0.0), "learning_rate"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
