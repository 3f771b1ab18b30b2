"""The coupled dynamics of an instability: Proposition G4, and the function that iterates them."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from tensor_losses import eigenpairs, random_quartic

from flatminima.theory.instability import coupled_dynamics

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


# --- G4: the coupled dynamics -----------------------------------------------------------------


def plain_descent(x, excess, eta, alpha, beta, q, steps):
    """Gradient descent on the two-variable loss, by the derivatives that SymPy finds."""
    X, Z = sp.symbols("x z")
    root = sp.sqrt(sp.Float(beta, 40))
    loss = (2 / sp.Float(eta, 40) + root * Z) * X**2 / 2 + q * X**4 / 24 - alpha / root * Z
    slope = sp.lambdify((X, Z), (sp.diff(loss, X), sp.diff(loss, Z)))
    z = excess / np.sqrt(beta)
    path = [(x, excess)]
    for _ in range(steps):
        gx, gz = (float(g) for g in slope(x, z))
        x, z = x - eta * gx, z - eta * gz
        path.append((x, np.sqrt(beta) * z))
    return np.array(path).T


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(-0.3, 0.3),
    excess=st.floats(-0.5, 0.5),
    eta=st.floats(0.1, 1),
    alpha=st.floats(-0.2, 0.2),
    beta=st.floats(0.1, 3),
    q=st.floats(-3, 3),
)
def test_G4_is_gradient_descent_on_the_two_variable_loss(x, excess, eta, alpha, beta, q):
    found = coupled_dynamics(x, excess, eta, alpha, beta, 6, fourth=q)
    expected = plain_descent(x, excess, eta, alpha, beta, q, 6)
    size = max(1.0, np.abs(expected).max())
    assume(size < 10)
    # Six steps, each of which multiplies an error by at most 1 + eta (|eps| + 2 size^2) < 250;
    # in practice the growth is that of the run, and six digits are far more than a wrong term.
    assert np.allclose(found.x, expected[0], rtol=0, atol=1e-7 * size**2)
    assert np.allclose(found.excess, expected[1], rtol=0, atol=1e-7 * size**2)
    assert not found.diverged


def test_G4_is_gradient_descent_symbolically():
    x, z, eta, alpha, q = sp.symbols("x z eta alpha q")
    beta = sp.symbols("beta", positive=True)
    root = sp.sqrt(beta)
    loss = (2 / eta + root * z) * x**2 / 2 + q * x**4 / 24 - alpha / root * z
    eps = root * z
    new_x, new_z = x - eta * sp.diff(loss, x), z - eta * sp.diff(loss, z)
    assert sp.expand(new_x + (1 + eta * eps) * x + eta * q * x**3 / 6) == 0
    assert sp.expand(root * new_z - eps - eta * (alpha - beta * x**2 / 2)) == 0
    # It is the loss of its own statement: sharpness 2/eta + eps on the axis, and grad lambda_1
    # across v_1 of square beta there.
    hessian = sp.hessian(loss, (x, z)).subs(x, 0)
    assert sp.simplify(hessian - sp.diag(2 / eta + eps, 0)) == sp.zeros(2)
    assert sp.diff(loss, x, 2, z) ** 2 == beta
    assert sp.diff(loss, x, 4) == q


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(2, 5), scale=st.sampled_from([1e-2, 3e-3]))
def test_G4_one_step_on_a_general_loss(seed, n, scale):
    """The new center and displacement of G4.1, to their stated orders in delta."""
    generator = np.random.default_rng(seed)
    loss = random_quartic(generator, n)
    # Center: a point with <v_1, g> = 0, here zero by construction, and |g| = delta^2.
    values, vectors = eigenpairs(loss.tensors[1])
    v = vectors[0]
    across = loss.tensors[0] - (loss.tensors[0] @ v) * v
    errors = []
    eta = generator.uniform(0.9, 1.1)  # 2 / eta near lambda_1 = 2
    for delta in (scale, scale / 2):
        x = delta * generator.choice([-1, 1])
        loss.tensors[0] = delta**2 * across / np.linalg.norm(across)
        g, _, third, _ = loss.derivatives(np.zeros(n))
        gradient = third @ v @ v
        s = gradient @ v
        P = gradient - s * v
        center = -eta * g - eta / 2 * x**2 * P
        excess = values[0] - 2 / eta
        moved = x * v - eta * loss.derivatives(x * v, 1)[0]
        predicted = center + (-(1 + eta * excess) * x - eta / 2 * s * x**2) * v
        new_sharpness = np.linalg.eigvalsh(loss.derivatives(center, 2)[1])[-1]
        alpha, beta = -gradient @ g, P @ P
        rise = eta * (alpha - beta * x**2 / 2)
        errors.append(
            (np.abs(moved - predicted).max(), abs(new_sharpness - values[0] - rise)),
        )
    size = sum(np.abs(t).sum() for t in loss.tensors[1:])
    assert errors[0][0] <= size * scale**3
    assert errors[0][1] <= size**2 / 0.5 * (2 + size) ** 2 * scale**4
    # Third and fourth order: halving delta divides the errors by 8 and 16.
    if errors[1][0] > 1e-12:
        assert errors[0][0] / errors[1][0] > 6
    if errors[1][1] > 1e-12:
        assert errors[0][1] / errors[1][1] > 10


def test_G4_one_step_holds_with_one_constant_on_a_compact_set():
    """On a segment of centers of one loss the errors over delta^3 and delta^4 stay bounded."""
    eta = 1.0
    constants = []
    for delta in (1e-2, 1e-3):
        errors = []
        for center in np.linspace(-0.4, 0.4, 41):
            # L(x, z) = (2 + z + z^2) x^2 / 2 + x^3 / 6 + x^4 / 24 - delta^2 z, v_1 = e_x at x = 0.
            def gradient(x, z, delta=delta):
                along = (2 + z + z**2) * x + x**2 / 2 + x**3 / 6
                return np.array([along, (1 + 2 * z) * x**2 / 2 - delta**2])

            slope = 1 + 2 * center
            new = np.array([delta, center]) - eta * gradient(delta, center)
            excess = center + center**2
            moved = -(1 + eta * excess) * delta - eta / 2 * delta**2
            rise = eta * delta**2 - eta / 2 * delta**2 * slope
            there = center + rise
            gain = eta * slope * delta**2 - eta / 2 * slope**2 * delta**2
            errors.append((np.abs(new - [moved, there]).max() / delta**3,
                           abs(there + there**2 - excess - gain) / delta**4))  # fmt: skip
        constants.append(np.max(errors, axis=0))
    # The constants tend to 1/6, from x^4/24, and to max (1 - slope/2)^2 = 0.81. The last digits of
    # an excess of order one are lost in a difference of order delta^4, hence not at 1e-3.
    assert np.allclose(constants[0], [1 / 6, 0.81], rtol=1e-3)
    assert np.isclose(constants[1][0], 1 / 6, rtol=1e-3)


def energy(run, beta):
    return run.excess**2 + beta * run.x**2 / 2


@given(
    seed=seeds,
    eta=st.floats(0.05, 2),
    beta=st.floats(0.1, 10),
    start=st.floats(0.03, 0.5),
)
def test_G4_reflection_of_the_exact_map(seed, eta, beta, start):
    """alpha = 0, q = 0: the identity for E, and the two-sided bound on the final excess."""
    generator = np.random.default_rng(seed)
    turn = generator.uniform(-np.pi / 2 * 0.99, np.pi / 2 * 0.99)
    root = start / eta  # the root of E_0
    excess, x = root * np.sin(turn), root * np.cos(turn) * np.sqrt(2 / beta)
    run = coupled_dynamics(x, excess, eta, 0.0, beta, 60)
    E = energy(run, beta)
    growth = 1 + eta**2 * beta * run.x[:-1] ** 2 / 2
    assert np.allclose(E[1:], E[:-1] * growth, rtol=20 * EPS, atol=20 * EPS * root**2)
    assert np.all(np.diff(run.excess) <= 0)
    # x grows and then shrinks by about exp(-start) a step: by e^-100 in all, from e^-4 at least.
    end = coupled_dynamics(x, excess, eta, 0.0, beta, int(100 / start))
    assert abs(end.x[-1]) * np.sqrt(beta) < 1e-9 * root
    final = end.excess[-1]
    assert not end.diverged
    assert final >= -1.14 / eta
    assert -final >= root * (1 - 1e-6)
    assert -final <= root * np.exp(eta * (excess - final) / 2) * (1 + 1e-6)


def test_G4_energy_identity_symbolically():
    x, eps, eta, beta = sp.symbols("x epsilon eta beta")
    new_x, new_eps = -(1 + eta * eps) * x, eps - eta * beta * x**2 / 2
    E = eps**2 + beta * x**2 / 2
    new = new_eps**2 + beta * new_x**2 / 2
    assert sp.expand(new - E * (1 + eta**2 * beta * x**2 / 2)) == 0


def test_G4_small_excess_is_reflected_to_first_order():
    # From a negligible x, |final| / excess = 1 + eta excess + O(excess^2).
    excess = np.array([0.1, 0.05, 0.025, 0.0125])
    final = -coupled_dynamics(1e-9, excess, 1.0, 0.0, 1.0, 8000).excess[-1]
    error = final / excess - 1 - excess
    assert np.all(final > excess)
    # Second order: each halving divides the error by 4 (1 + O(excess)).
    assert np.all((error[:-1] / error[1:] > 3.3) & (error[:-1] / error[1:] < 5))


@given(eta=st.floats(0.1, 1), alpha=st.floats(1e-3, 0.1), beta=st.floats(0.1, 5))
def test_G4_fixed_point_and_multipliers(eta, alpha, beta):
    """The oscillation +-x* at the edge, and the q beyond which it attracts."""
    for factor, attracts in ((0.5, False), (0.0, False), (1.5, True)):
        q = -3 * eta * beta * factor
        x = np.sqrt(2 * alpha / beta)
        excess = -q * x**2 / 6
        run = coupled_dynamics(x, excess, eta, alpha, beta, 4, fourth=q)
        assert np.allclose(np.abs(run.x), x, rtol=200 * EPS)
        assert np.all(run.x[:-1] * run.x[1:] < 0)
        w2 = x**2
        J = np.array([[1 + eta * q * w2 / 3, eta * x], [-eta * beta * x, 1]])
        determinant = 1 + 2 * eta * alpha / beta * (eta * beta + q / 3)
        assert np.isclose(np.linalg.det(J), determinant, rtol=100 * EPS)
        # alpha eta^2 <= 0.1, so the second condition of G4 holds here.
        assert (np.abs(np.linalg.eigvals(J)).max() < 1) == attracts


@given(
    eta=st.floats(0.1, 1),
    beta=st.floats(0.1, 5),
    first=st.floats(-1, 6),
    second=st.floats(0.1, 3),
)
def test_G4_attracts_if_both_inequalities_hold_and_not_if_one_is_reversed(eta, beta, first, second):
    """q = -3 eta beta first; alpha makes the left side of the second inequality 2 second."""
    assume(min(abs(first - 1), abs(second - 1), abs(first - 0.5)) > 1e-3)
    alpha = 2 * second / (eta**2 * abs(2 * first - 1))
    q = -3 * eta * beta * first
    holds = (first > 1, eta * alpha * (2 * abs(q) / (3 * beta) - eta) < 2)
    start = np.array([np.sqrt(2 * alpha / beta), -q * alpha / (3 * beta)])

    def step(w, excess):
        run = coupled_dynamics(w, excess, eta, alpha, beta, 1, fourth=q)
        return np.array([-run.x[1], run.excess[1]])

    # The map is a cubic: central differences err by h^2 q eta / 6, and by EPS size / h.
    size = 1 + np.abs(start).max()
    J = np.column_stack([(step(*(start + h)) - step(*(start - h))) / 2e-5 / size
                         for h in 1e-5 * size * np.eye(2)])  # fmt: skip
    error = 1e-10 * size**2 * abs(q) * eta + 1e-10 * size**2
    radius = np.abs(np.linalg.eigvals(J)).max()
    determinant, trace = np.linalg.det(J), np.trace(J)
    margin = min(abs(1 - determinant), abs(1 + trace + determinant))
    assume(margin > 100 * error * (1 + np.abs(J).max()))
    assert (radius < 1) == all(holds)


def test_G4_the_second_inequality_alone_may_fail():
    """It then loses its stability to an oscillation of the oscillation, of twice the period."""
    eta, beta, q = 1.0, 1.0, -12.0  # 2 |q| / (3 beta) - eta = 7
    for alpha, settles in ((0.9 * 2 / 7, True), (1.1 * 2 / 7, False)):
        w = np.sqrt(2 * alpha)
        run = coupled_dynamics(w * (1 + 1e-6), 4 * alpha, eta, alpha, beta, 400, fourth=q)
        off = np.abs(np.abs(run.x) / w - 1)
        assert (off[-1] < 1e-8) == settles
        assert (np.nanmax(off) > 1e-3) == (not settles)


def test_G4_map_jacobian_symbolically():
    w, eps, eta, alpha, beta, q = sp.symbols("w epsilon eta alpha beta q")
    new = sp.Matrix(
        [(1 + eta * eps + eta * q * w**2 / 6) * w, eps + eta * (alpha - beta * w**2 / 2)]
    )
    J = new.jacobian([w, eps])
    at = {eps: -q * w**2 / 6}
    expected = sp.Matrix([[1 + eta * q * w**2 / 3, eta * w], [-eta * beta * w, 1]])
    assert sp.simplify(J.subs(at) - expected) == sp.zeros(2)


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_G4_period_of_small_cycles(alpha, beta):
    """The time between crossings of the edge, as the size of the orbit halves."""

    def crossing(_, u):
        return u[1]

    crossing.direction = 1
    stated, errors = 2 * np.pi / np.sqrt(2 * alpha), []
    for size in (0.1, 0.05):
        start = [np.log(2 * alpha / beta) / 2 + size, 0.0]
        flow = solve_ivp(lambda _, u: [u[1], alpha - beta / 2 * np.exp(2 * u[0])],
                         (0, 3.2 * stated), start, rtol=1e-11, atol=1e-13,
                         events=crossing)  # fmt: skip
        times = flow.t_events[0]
        errors.append(np.diff(times)[-1] / stated - 1)
    # Even in the size: of second order, and 2 pi / sqrt(alpha) would be 41 % off.
    assert errors[0] < 0.1**2
    assert 3.5 < errors[0] / errors[1] < 4.5
    # In steps of the map: the angle of its multipliers, arctan(eta sqrt(2 alpha)).
    for eta in (1e-2, 1e-3):
        w = np.sqrt(2 * alpha / beta)
        J = np.array([[1, eta * w], [-eta * beta * w, 1]])
        turn = 2 * np.pi / np.abs(np.angle(np.linalg.eigvals(J)[0]))
        assert abs(turn * eta / stated - 1) < (eta * np.sqrt(2 * alpha)) ** 2


def test_G4_climb_symbolically():
    w, alpha, beta, eta = sp.symbols("w alpha beta eta", positive=True)
    eps = sp.symbols("epsilon", real=True)
    u, a = eta * eps, beta * w**2 / 2
    new_w, new_eps = (1 + u) * w, eps + eta * (alpha - a)
    # The logarithm enters through ln w' - ln w = ln(1 + u).
    change = new_eps**2 - eps**2 + beta * (new_w**2 - w**2) / 2 - 2 * alpha * sp.log(1 + u)
    stated = 2 * alpha * (u - sp.log(1 + u)) + eta**2 * (alpha - a) ** 2 + eta**2 * eps**2 * a
    assert sp.expand(change - stated) == 0
    # At alpha = 0 it is the identity for E of part 3.
    E = eps**2 + a
    assert sp.expand((stated - eta**2 * a * E).subs(alpha, 0)) == 0


@settings(max_examples=200)
@given(
    w=st.floats(1e-6, 30),
    excess=st.floats(-0.99, 3),
    eta=st.floats(0.01, 3),
    alpha=st.floats(1e-4, 3),
    beta=st.floats(1e-2, 30),
)
def test_G4_every_step_climbs(w, excess, eta, alpha, beta):
    """In the region w > 0 and eta eps > -1, by at least each of the three terms of the identity."""
    run = coupled_dynamics(w, excess / eta, eta, alpha, beta, 30)
    inside = np.logical_and.accumulate(eta * run.excess > -1)
    w, eps = np.abs(run.x[inside]), run.excess[inside]
    w, eps = w[np.isfinite(w)], eps[np.isfinite(w)]
    parts = eps**2, beta * w**2 / 2, -2 * alpha * np.log(w)
    u, a = eta * eps[:-1], parts[1][:-1]
    terms = 2 * alpha * (u - np.log1p(u)), eta**2 * (alpha - a) ** 2, eta**2 * eps[:-1] ** 2 * a
    size = sum(map(np.abs, parts))
    # Each part is right to some roundings, relative to itself and to what eps' was made from.
    rounding = 20 * EPS * (size[1:] + size[:-1] + (eta * (alpha + a) + np.abs(eps[:-1])) ** 2)
    change = np.diff(sum(parts))
    assert np.all(np.abs(change - sum(terms)) <= rounding)
    assert np.all(np.min(terms, axis=0) >= 0)
    # Without any one of the terms the identity fails wherever that term can be seen.
    for left_out in terms:
        seen = left_out > 2 * rounding
        assert not np.any(np.abs(change - sum(terms) + left_out)[seen] <= rounding[seen])


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.3, 2.0])
def test_G4_every_orbit_leaves_the_neighborhood_of_the_fixed_point(size):
    alpha, beta, eta = 0.05, 1.0, 1.0
    w = np.sqrt(2 * alpha / beta) * np.exp(size)
    run = coupled_dynamics(w, 0.0, eta, alpha, beta, 2000)
    inside = np.logical_and.accumulate(run.excess > -1)
    w, eps = np.abs(run.x[inside]), run.excess[inside]
    assert len(w) < 2000, "it leaves the region"
    V = eps**2 + beta * w**2 / 2 - 2 * alpha * np.log(w)
    V -= alpha - alpha * np.log(2 * alpha / beta)  # zero at the fixed point
    small = (V[:-1] > 1e-8) & (V[:-1] < 1e-5)
    if size <= 1e-3:
        # Near the fixed point each step multiplies V by 1 + 2 eta^2 alpha, up to its square root.
        assert small.sum() > 10
        assert np.allclose(V[1:][small] / V[:-1][small], 1 + 2 * alpha, atol=0.01)


def test_G4_the_climb_needs_its_region():
    """At eta eps = -2 the loss has a critical point: x rests, and w changes its sign for ever."""
    alpha, beta, eta = 0.25, 2.0, 1.0
    run = coupled_dynamics(np.sqrt(2 * alpha / beta), -2.0 / eta, eta, alpha, beta, 10)
    # Every number on the way is a multiple of a power of two, so nothing is rounded.
    assert np.all(run.x == 0.5)
    assert np.all(run.excess == -2.0)


@given(x=st.floats(0.05, 1), excess=st.floats(-0.3, 0.3), alpha=st.floats(0.05, 0.2))
@settings(max_examples=15, deadline=None)
def test_G4_flow_has_closed_orbits(x, excess, alpha):
    """The quantity of the flow is conserved, its curves close: a center, not a limit cycle."""
    beta = 1.0

    def flow(_, u):
        return [u[1], alpha - beta / 2 * np.exp(2 * u[0])]

    def crossing(_, u):
        return u[1]

    start = [np.log(x), excess]
    solution = solve_ivp(flow, (0, 150), start, rtol=1e-10, atol=1e-12, events=crossing)
    p, eps = solution.y
    conserved = eps**2 + beta / 2 * np.exp(2 * p) - 2 * alpha * p
    # The solver is asked for ten digits per step.
    assert np.ptp(conserved) < 1e-6 * (1 + np.abs(conserved).max())
    crossings = solution.y_events[0][:, 0]
    assert len(crossings) >= 4
    assert np.ptp(crossings[::2]) < 1e-4
    assert np.ptp(crossings[1::2]) < 1e-4


def test_G4_exact_map_spirals_outward_without_a_fourth_derivative_and_inward_with_one():
    alpha, beta, eta = 0.01, 1.0, 1.0
    x = 1.2 * np.sqrt(2 * alpha / beta)
    quantity = {}
    for q in (0.0, -4.0):
        run = coupled_dynamics(x, 0.0, eta, alpha, beta, 300, fourth=q)
        w = np.abs(run.x)
        level = run.excess**2 + beta * w**2 / 2 - 2 * alpha * np.log(w)
        quantity[q] = level - (alpha - alpha * np.log(2 * alpha / beta))  # zero at the fixed point
        assert not run.diverged
    assert quantity[0.0][-100:].min() > 2 * quantity[0.0][0]
    assert abs(quantity[-4.0][-1]) < quantity[-4.0][0]
    assert coupled_dynamics(x, 0.0, eta, alpha, beta, 5000).diverged  # q = 0: in the end it leaves
    settled = coupled_dynamics(x, 0.0, eta, alpha, beta, 5000, fourth=-4.0)
    assert np.isclose(abs(settled.x[-1]), np.sqrt(2 * alpha / beta), rtol=1e-6)
    assert np.isclose(settled.excess[-1], 4 * alpha / 3, rtol=1e-6)


# --- coupled_dynamics as code -----------------------------------------------------------------


def test_coupled_dynamics_broadcasts_and_marks_divergence():
    run = coupled_dynamics(np.array([0.1, 5.0]), 0.1, 1.0, 0.0, np.array([[1.0], [2.0]]), 200)
    assert run.x.shape == run.excess.shape == (201, 2, 2)
    assert run.diverged.tolist() == [[False, True], [False, True]]
    assert np.isfinite(run.x[:, :, 0]).all()
    assert np.isnan(run.x[-1, :, 1]).all()
    for trace in (run.x, run.excess):  # NaN once diverged, and never finite after
        lost = np.isnan(trace)
        assert np.array_equal(lost, np.logical_or.accumulate(lost, axis=0))
    single = coupled_dynamics(0.1, 0.1, 1.0, 0.0, 2.0, 200)
    assert np.array_equal(single.x, run.x[:, 1, 0])
    assert single.diverged.shape == ()


def test_coupled_dynamics_without_displacement_or_feedback():
    rest = coupled_dynamics(0.0, 0.5, 1.0, 0.25, 1.0, 4)
    assert (rest.x == 0).all()
    assert rest.excess.tolist() == [0.5, 0.75, 1.0, 1.25, 1.5]
    linear = coupled_dynamics(1.0, 0.5, 1.0, 0.0, 0.0, 4)
    assert linear.x.tolist() == [1.0, -1.5, 2.25, -3.375, 5.0625]
