"""Backward error analysis: Proposition B1."""

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from small_cycles import random_loss, slopes

from flatminima.theory.backward_error import modified_factor, modified_gradient
from flatminima.theory.tanh_network import TanhNetwork

NETWORK = TanhNetwork(3, np.linspace(-2, 2, 9), np.sin(2 * np.linspace(-2, 2, 9)))


def flow(start, time, rate):
    """The flow of L + (rate/4) |g|^2 of the network over a time."""

    def slope(_, theta):
        gradient, hessian = NETWORK.derivatives(theta, 2)
        return -(modified_gradient(gradient, hessian, rate) if rate else gradient)

    return solve_ivp(slope, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]


def test_B1_modified_gradient_is_the_gradient_of_the_modified_loss():
    a, b, y, eta = sp.symbols("a b y eta", positive=True)
    loss = (a * b - y) ** 2 / 2
    g = sp.Matrix([loss]).jacobian([a, b])
    modified = loss + eta / 4 * (g * g.T)[0]
    exact = sp.Matrix([modified]).jacobian([a, b])
    hessian = sp.hessian(loss, (a, b))
    point = {a: 1.3, b: -0.4, y: 0.7, eta: 0.2}
    numbers = [np.array(m.subs(point), dtype=float) for m in (g, hessian, exact)]
    found = modified_gradient(numbers[0][0], numbers[1], 0.2)
    assert found == pytest.approx(numbers[2][0], rel=1e-13)


def test_B1_error_of_one_step_is_of_third_order():
    generator = np.random.default_rng(0)
    for _ in range(10):
        start, errors = generator.normal(size=NETWORK.size), []
        for eta in (0.02, 0.01):
            step = start - eta * NETWORK.gradient(start)
            ends = [flow(start, eta, rate) for rate in (eta, 0)]
            errors.append([np.linalg.norm(step - end) for end in ends])
        gain = np.divide(*errors)
        # 2^3 and 2^2 up to eta |H|, a few hundredths, times the ratio of the next orders.
        assert 7 < gain[0] < 9
        assert 3.5 < gain[1] < 4.5


def one_step_errors(losses, x, eta, factor=1.0):
    """Distances of a step from the flow of L + factor (eta/4)|g|^2 over eta, by Runge and Kutta."""

    def slope(z):
        return -modified_gradient(*slopes(z, *losses), factor * eta)

    end, h = x.copy(), eta / 8
    for _ in range(8):
        k1 = slope(end)
        k2 = slope(end + h / 2 * k1)
        k3 = slope(end + h / 2 * k2)
        end = end + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(end + h * k3))
    return np.linalg.norm(x - eta * slopes(x, *losses)[0] - end, axis=1)


def test_B1_over_a_thousand_losses():
    """Third order on every one of them; with another factor, second."""
    generator = np.random.default_rng(4)
    losses = random_loss(generator, 1000, 3)
    x = generator.normal(size=(1000, 3)) * 0.5
    coarse, fine = (one_step_errors(losses, x, eta) for eta in (0.004, 0.002))
    # 2^3 up to eta times a ratio of derivatives; the fourth-order method adds errors of fifth.
    low, middle, high = np.quantile(coarse / fine, [0.01, 0.5, 0.99])
    assert abs(middle - 8) < 0.1
    assert low > 7
    assert high < 9
    wrong = [np.median(one_step_errors(losses, x, eta, 0.9)) for eta in (0.004, 0.002)]
    assert wrong[0] / wrong[1] < 5


@pytest.mark.parametrize(
    ("values", "start"),
    [
        ([1.0, 0.0], [1.0, 1.0]),  # a flat direction
        ([1.0, 1.0], [1.0, -2.0]),  # a repeated eigenvalue
        ([1.0, -1.0], [0.3, 0.4]),  # a saddle
        ([-1.0, -2.0], [0.1, 0.2]),  # a maximum
        ([1.0, 1e-6], [0.0, 1.0]),  # no step along the sharp direction
        ([1.0, 1e3], [1.0, 1e-3]),  # an ill-conditioned one
        ([0.0, 0.0], [1.0, 1.0]),  # no second derivative at the origin
        ([1.0, 0.5], [0.0, 0.0]),  # a start at a critical point
        ([5.0, 0.1], [3.0, 3.0]),  # far away
        ([1.0, 0.9], [1e-4, 1e-4]),  # next to the minimum
    ],
)
def test_B1_in_adversarial_cases(values, start):
    third, fourth = (x[:1] for x in random_loss(np.random.default_rng(5), 1, 2)[1:])
    losses = np.diag(values)[None], third, fourth
    x, size = np.array([start]), max(np.abs(values).max(), 1) * (1 + np.abs(start).max()) ** 2
    etas = 0.01 / size / np.array([1, 2])
    coarse, fine = (one_step_errors(losses, x, eta)[0] for eta in etas)
    # Where there is no error to speak of, what is left is rounding.
    assert fine < max(coarse / 7, 1e-15 * (1 + np.abs(start).max()))


def test_B1_error_over_a_fixed_time_is_of_second_order():
    start, errors = np.random.default_rng(1).normal(size=NETWORK.size), []
    for eta in (0.02, 0.01):
        end = NETWORK.descend(start, eta, round(2 / eta))[-1]
        errors.append([np.linalg.norm(end - flow(start, 2, rate)) for rate in (eta, 0)])
    gain = np.divide(*errors)
    assert 3.6 < gain[0] < 4.4
    assert 1.8 < gain[1] < 2.2


def test_B1_no_other_multiple_of_the_squared_gradient_will_do():
    """With eta/3 or eta/8 for eta/4 a step is missed at second order, as by gradient flow."""
    start = np.random.default_rng(2).normal(size=NETWORK.size)
    for factor in (4 / 3, 0.5):
        errors = [
            np.linalg.norm(start - eta * NETWORK.gradient(start) - flow(start, eta, factor * eta))
            for eta in (0.02, 0.01)
        ]
        assert errors[0] / errors[1] < 4.5


def test_B1_factors_of_every_order_on_a_quadratic():
    """In (0, 1) at every order; the limit is 1 - eta lambda, exactly up to eta lambda = 1."""
    product = np.concatenate([np.linspace(1e-3, 2.2, 1001), [1, 2]])
    for order in (1, 2, 3, 10):
        factor = modified_factor(product, order)
        assert np.all((factor > 0) & (factor < 1)), "stable, and on one side, at any rate"
        assert np.all(np.diff(modified_factor(np.linspace(0, 2.2, 101), order)) < 0)
    inside = product[product < 0.9]
    # The tail of the series of log(1 - x) beyond k is below x^k / (k (1 - x)).
    assert modified_factor(inside, 400) == pytest.approx(1 - inside, rel=1e-12)
    ones = [float(modified_factor(1.0, order)) for order in (10, 100, 1000)]
    assert ones == pytest.approx([np.exp(-0.5772) / k for k in (10, 100, 1000)], rel=0.06)
    assert np.all(modified_factor(np.array([1.1, 2.0, 2.5]), 100) < 1e-30), "not 1 - eta lambda"


def test_B1_factors_agree_with_a_step_to_the_stated_order():
    for order in (1, 2, 3, 4):
        miss = [abs(modified_factor(x, order) - (1 - x)) for x in (0.02, 0.01)]
        assert miss[0] / miss[1] == pytest.approx(2 ** (order + 1), rel=0.05)


def test_B1_a_flow_keeps_its_orientation_and_a_step_past_one_over_eta_does_not():
    """det of the derivative of a flow is the exponential of an integral, hence positive."""
    hessian = NETWORK.hessian(np.random.default_rng(3).normal(size=NETWORK.size))
    values = np.linalg.eigvalsh(hessian)[::-1]
    assert values[0] > values[1] > 0
    for eta in (1.05 / values[0], 0.5 * (1 / values[0] + 1 / values[1])):
        assert np.linalg.det(np.eye(NETWORK.size) - eta * hessian) < 0
    # With two eigenvalues beyond 1/eta the sign is back, and on a quadratic with two equal ones a
    # flow exists: half a turn a step.
    eta = 0.5 * (1 / values[1] + 1 / values[2])
    assert np.linalg.det(np.eye(NETWORK.size) - eta * hessian) > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: modified_gradient([1.0], np.eye(2), 0.1), "hessian"),
        (lambda: modified_gradient([1.0], [[1.0]], 0.0), "learning_rate"),
        (lambda: modified_factor(-1.0, 1), "product"),
        (lambda: modified_factor(1.0, 0), "order"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
