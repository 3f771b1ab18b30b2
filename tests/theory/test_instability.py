"""instability: coupled dynamics, reflection, budget, and Statements G4 and G5."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensor_losses import eigenpairs, random_network, random_quartic

from flatminima.theory import instability
from flatminima.theory.instability import coupled_dynamics
from flatminima.theory.scalar_network import ScalarNetwork

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


def test_G4_map_jacobian_symbolically():
    w, eps, eta, alpha, beta, q = sp.symbols("w epsilon eta alpha beta q")
    new = sp.Matrix(
        [(1 + eta * eps + eta * q * w**2 / 6) * w, eps + eta * (alpha - beta * w**2 / 2)]
    )
    J = new.jacobian([w, eps])
    at = {eps: -q * w**2 / 6}
    expected = sp.Matrix([[1 + eta * q * w**2 / 3, eta * w], [-eta * beta * w, 1]])
    assert sp.simplify(J.subs(at) - expected) == sp.zeros(2)
    # In (log w, eps), with q = 0, areas grow by 1 + eta^2 beta w^2 / (1 + eta eps).
    p = sp.symbols("p")
    logs = sp.Matrix([p + sp.log(1 + eta * eps), eps + eta * (alpha - beta * sp.exp(2 * p) / 2)])
    area = logs.jacobian([p, eps]).det()
    assert sp.simplify(area - 1 - eta**2 * beta * sp.exp(2 * p) / (1 + eta * eps)) == 0


@given(x=st.floats(0.05, 1), excess=st.floats(-0.3, 0.3), alpha=st.floats(0.05, 0.2))
@settings(max_examples=15, deadline=None)
def test_G4_flow_has_closed_orbits(x, excess, alpha):
    """The quantity of the flow is conserved, its curves close: a center, not a limit cycle."""
    from scipy.integrate import solve_ivp

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


# --- reflection and budget --------------------------------------------------------------------


@given(before=st.floats(0, 1e3), eta=st.floats(1e-3, 1e2))
def test_reflection_is_an_involution_with_the_threshold_fixed(before, eta):
    after = instability.reflected_sharpness(before, eta)
    # One subtraction each way, of numbers of at most the larger size.
    assert abs(instability.reflected_sharpness(after, eta) - before) <= 4 * EPS * (before + 4 / eta)
    assert (after < 2 / eta) == (before > 2 / eta) or abs(before - 2 / eta) < 4 * EPS * before
    assert instability.reflected_sharpness(2 / eta, eta) == pytest.approx(2 / eta, rel=4 * EPS)


def test_reflection_broadcasts_and_agrees_with_a_network():
    table = instability.reflected_sharpness([[21.0], [24.0]], [0.1, 0.09])
    assert table.shape == (2, 2)
    assert np.isclose(table[0, 0], 19)
    network = ScalarNetwork(2, 1.0)
    start = network.start_with_sharpness(20.4, np.random.default_rng(0), 1e-5)
    run = network.descend(start, 0.1, 4000, record_every=None)
    predicted = instability.reflected_sharpness(20.4, 0.1)
    # Relative excess h = 0.02: D8's error is of second order, here below 2 h^2 of the threshold.
    assert abs(run.sharpness[-1] - predicted) < 2 * 0.02**2 * 20


@settings(deadline=None, max_examples=30)
@given(seed=seeds, ratio=st.floats(1.02, 1.3))
def test_budget_pays_for_the_flattening_of_a_network(seed, ratio):
    eta, network = 0.1, ScalarNetwork(2, 1.0)
    start = network.start_with_sharpness(20 * ratio, np.random.default_rng(seed), 1e-3)
    run = network.descend(start, eta, 600)
    residuals = run.residual[:-1]
    kappa = np.abs(run.theta[:, 1] ** 2 - run.theta[:, 0] ** 2)
    budget = instability.instability_budget(residuals, eta)
    logs = instability.log_imbalance_factor(residuals, eta)
    # D7: exact up to rounding in 600 steps, of kappa relative to theta^2 ~ 26, kappa > 1 here.
    assert np.isclose(np.log(kappa[-1] / kappa[0]), logs, rtol=0, atol=600 * 100 * EPS)
    assert logs <= -budget
    stable = network.start_with_sharpness(15.0, np.random.default_rng(seed), 1e-3)
    calm = network.descend(stable, eta, 600).residual[:-1]
    assert instability.instability_budget(calm, eta) < 1e-3 * budget


def test_budget_edge_cases():
    assert instability.instability_budget(np.zeros((0, 3)), 0.1).tolist() == [0, 0, 0]
    assert np.isclose(instability.instability_budget([1.0, -2.0], 0.5), 1.25)
    assert instability.log_imbalance_factor([2.0], 0.5) == -np.inf  # eta r = 1 balances exactly
    batch = instability.instability_budget(np.ones((4, 2)), [0.1, 0.2])
    assert np.allclose(batch, [0.04, 0.16])


# --- G5: curvature beyond the Hessian ---------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(1, 5), smooth=st.booleans())
def test_G5_quantities_are_what_the_definition_says(seed, n, smooth):
    generator = np.random.default_rng(seed)
    if smooth:
        loss, theta = random_network(generator)
    else:
        loss, theta = random_quartic(generator, n), np.zeros(n)
    tensors = loss.derivatives(theta)
    values, vectors = eigenpairs(tensors[1])
    assume(len(values) == 1 or values[0] - values[1] > 0.3)
    found = instability.curvature_beyond_hessian(*tensors[1:])
    v = vectors[0]

    def along(x):  # the second derivative of the loss along the fixed line through theta
        return v @ loss.derivatives(theta + x * v, 2)[1] @ v

    def sharpness(x, u):
        return np.linalg.eigvalsh(loss.derivatives(theta + x * u, 2)[1])[-1]

    # Central differences err by h^2 times the derivatives two orders up, below 1e4 here.
    h, size = 1e-4, 1 + max(np.abs(t).max() for t in tensors)
    tolerance = 1e4 * size * h**2 + 20 * EPS * size / h**2
    third = (along(h) - along(-h)) / (2 * h)
    fourth = (along(h) - 2 * along(0.0) + along(-h)) / h**2
    assert abs(found.gradient_along - abs(third)) < tolerance
    assert abs(found.fourth - fourth) < tolerance
    gradient = [(sharpness(h, e) - sharpness(-h, e)) / (2 * h) for e in np.eye(len(theta))]
    across = np.linalg.norm(gradient - (gradient @ v) * v)
    assert abs(found.gradient_across - across) < (10 / 0.3) ** 3 * size * h**2 + tolerance
    assert found.sharpness == values[0]
    assert found.smallest == values[-1]
    power = np.eye(len(theta))
    for moment in found.moments:
        power = power @ tensors[1]
        assert np.isclose(moment, np.trace(power), rtol=1e-9, atol=1e-9 * size**4)


@given(seed=seeds, n=st.integers(1, 5), scale=st.floats(0.1, 10))
def test_G5_does_not_depend_on_the_basis_and_has_its_units(seed, n, scale):
    """Rotating the parameters changes nothing; scaling them by 1/c multiplies order k by c^k."""
    generator = np.random.default_rng(seed)
    _, *tensors = random_quartic(generator, n).derivatives(np.zeros(n))
    q = np.linalg.qr(generator.normal(size=(n, n)))[0]
    turned = []
    for tensor in tensors:
        for axis in range(tensor.ndim):
            tensor = np.moveaxis(np.tensordot(tensor, q, axes=(axis, 0)), -1, axis)
        turned.append(tensor * scale**tensor.ndim)
    a = instability.curvature_beyond_hessian(*tensors)
    b = instability.curvature_beyond_hessian(*turned)
    powers = {"sharpness": 2, "smallest": 2, "gradient_along": 3, "gradient_across": 3}
    for name, power in (powers | {"fourth": 4, "rotation": 1}).items():
        before = getattr(a, name)
        # Rounding over the gap of 0.5, of tensors with up to 5^4 entries of order one.
        assert np.isclose(getattr(b, name), before * scale**power, rtol=1e-9, atol=1e-9)
    assert np.allclose(
        b.moments, a.moments * scale ** (2.0 * np.arange(1, 5)), rtol=1e-8, atol=1e-9
    )


def test_G5_on_a_loss_with_known_values():
    # L = x^2 - y^2 / 2 + x^2 y + x^3 / 3 + x^4 / 12 at zero: v_1 = e_x, T_xxx = 2, T_xxy = 2.
    third, fourth = np.zeros((2, 2, 2)), np.zeros((2, 2, 2, 2))
    third[0, 0, 0] = third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 2.0
    fourth[0, 0, 0, 0] = 2.0
    c = instability.curvature_beyond_hessian(np.diag([2.0, -1.0]), third, fourth)
    assert (c.sharpness, c.smallest, c.gradient_along, c.gradient_across, c.fourth) == (
        2,
        -1,
        2,
        2,
        2,
    )
    assert np.isclose(c.rotation, 2 / 3)
    assert np.allclose(c.moments, [1, 5, 7, 17])


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coupled_dynamics(0.1, 0.1, 0.0, 0.0, 1.0, 5), "learning_rate"),
        (lambda: coupled_dynamics(0.1, 0.1, 1.0, 0.0, -1.0, 5), "self_stabilization"),
        (lambda: coupled_dynamics(0.1, 0.1, 1.0, 0.0, 1.0, 0), "steps"),
        (lambda: coupled_dynamics(np.nan, 0.1, 1.0, 0.0, 1.0, 5), "x"),
        (lambda: coupled_dynamics(0.1, 0.1, 1.0, np.inf, 1.0, 5), "progressive_sharpening"),
        (lambda: coupled_dynamics(0.1, 0.1, 1.0, 0.0, 1.0, 5, fourth=np.nan), "fourth"),
        (lambda: instability.reflected_sharpness(1.0, -1.0), "learning_rate"),
        (lambda: instability.reflected_sharpness(np.inf, 1.0), "before"),
        (lambda: instability.instability_budget(1.0, 1.0), "time axis"),
        (lambda: instability.instability_budget([np.nan], 1.0), "residuals"),
        (lambda: instability.log_imbalance_factor([1.0], 0.0), "learning_rate"),
        (lambda: instability.curvature_beyond_hessian(np.eye(2), 0.0, 0.0), "third"),
        (
            lambda: instability.curvature_beyond_hessian(
                np.eye(2), np.zeros((2,) * 3), np.zeros((2,) * 4)
            ),
            "simple",
        ),
        (
            lambda: instability.curvature_beyond_hessian(
                [[1.0, 1.0], [0.0, 0.0]], np.zeros((2,) * 3), np.zeros((2,) * 4)
            ),
            "symmetric",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
