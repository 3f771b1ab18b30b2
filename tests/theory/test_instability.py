"""instability: reflection, budget, and Definition G5; G4 has its own file."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensor_losses import eigenpairs, random_network, random_quartic

from flatminima.theory import instability
from flatminima.theory.instability import coupled_dynamics
from flatminima.theory.scalar_network import ScalarNetwork

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


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
