"""Small networks with exact derivatives at their manifolds of minima: the library."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from smooth_networks import NETWORKS, directions, starts_at, torch_outputs, well_posed_minima

from flatminima.theory import manifold
from flatminima.theory.rotation import rotation_field

EPS = np.finfo(float).eps
every_network = pytest.mark.parametrize("name", NETWORKS)


@every_network
def test_derivatives_are_those_of_autodiff(name):
    """Outputs, gradient and Hessian anywhere, and the third derivative at a minimum."""
    network = NETWORKS[name]
    outputs = torch_outputs(name)
    generator = np.random.default_rng(1)
    theta, targets_at = generator.normal(size=(2, 4, network.size))
    network = network.with_minimum_at(targets_at)
    v = generator.normal(size=(4, 2, network.size))
    third = network.third_at_minimum(targets_at, v)
    for k in range(4):
        y = torch.tensor(network.targets[k])

        def loss(t, y=y):
            return ((outputs(t) - y) ** 2).sum() / (2 * network.examples)

        at, minimum = torch.tensor(theta[k]), torch.tensor(targets_at[k])
        hessian = torch.func.hessian(loss)
        pairs = (
            (outputs(at), network.outputs(theta)[k]),
            (loss(at), network.loss(theta)[k]),
            (torch.func.grad(loss)(at), network.gradient(theta)[k]),
            (hessian(at), network.hessian(theta)[k]),
            (torch.func.jacrev(hessian)(minimum), third[k]),
        )
        for expected, found in pairs:
            expected = expected.numpy()
            if expected.ndim == 3:
                expected = np.einsum("pqs,ap,bq->abs", expected, v[k], v[k])
            # Sums of some dozen products, each rounded a few times.
            assert np.allclose(
                found, expected, rtol=0, atol=1e4 * EPS * (1 + np.abs(expected).max())
            )


# --- M1: the reflection law -----------------------------------------------------------------------


SCALES = (0.016, 0.008, 0.004)
"""Radii h in units of the sharpness."""


def orders(errors):
    """The powers of h by which errors over a batch shrink from one radius to the next.

    The norm over the batch is C h^2 (1 + O(h)) where the law holds, and of first order where not.
    """
    sizes = np.linalg.norm(errors, axis=-1)
    return np.log2(sizes[:-1] / sizes[1:])


@pytest.fixture(scope="module")
def runs():
    """By network: the problem, the learning rates, and starts and ends for each h, cached."""
    cache = {}

    def get(name):
        if name not in cache:
            network, theta, frame = well_posed_minima(name, 8, seed=2)
            rates = 2 / frame.eigenvalues[:, 0]
            starts = [starts_at(theta, frame, h, np.random.default_rng(3)) for h in SCALES]
            steps = int(20 / SCALES[-1])
            ends = network.descend(np.array(starts), rates, steps, record_every=None)[-1]
            ends = network.minimum_near(ends)
            after = manifold.minimum_frame(network, ends).eigenvalues[..., 0]
            cache[name] = network, theta, frame, rates, np.array(starts), after
        return cache[name]

    return get


def law(network, starts, rates, share=0.5):
    """2/eta - sqrt(eps^2 + share * beta x^2), and eps, at the minimum ahead."""
    minimum = network.minimum_near(starts)
    frame = manifold.minimum_frame(network, minimum)
    x = np.sum((starts - minimum) * frame.leading[..., 0, :], axis=-1)
    excess = frame.eigenvalues[..., 0] - 2 / rates
    return 2 / rates - np.sqrt(excess**2 + share * frame.slope_squared * x**2), excess


@every_network
def test_M1_error_is_of_second_order(name, runs):
    """In every direction of the start, above and below the threshold."""
    network, _, _, rates, starts, after = runs(name)
    predicted, excess = law(network, starts, rates)
    assert np.all(excess[:, :4] > 0)
    assert np.all(excess[:, 4:] < 0)
    assert np.array_equal(predicted, manifold.reflected_end(network, starts, rates))
    assert np.all(after < 2 / rates), "every run ends below the threshold"
    found = orders((after - predicted) * rates)
    assert np.all((found > 1.5) & (found < 2.5))


@every_network
def test_M1_needs_the_factor_one_half(name, runs):
    """The law with beta x^2 in place of beta x^2 / 2 has an error of first order."""
    network, _, _, rates, starts, after = runs(name)
    wrong, _ = law(network, starts, rates, share=1.0)
    assert np.all(orders((after - wrong) * rates) < 1.5)


@every_network
def test_M1_one_step_moves_the_minimum_ahead_down_the_slope(name):
    """By -(eta/2) x^2 grad_M lambda_1, in which the leading order is quadratic, up to x^3."""
    network, theta, frame = well_posed_minima(name, 5, seed=4)
    rates, errors = 2 / frame.eigenvalues[:, :1], []
    for x in (1e-2, 5e-3):
        moved = theta + x * frame.leading[:, 0]
        after = network.minimum_near(moved - rates * network.gradient(moved))
        before = network.minimum_near(moved)
        drift = -rates / 2 * x**2 * frame.couplings[..., 0, 0]
        found = np.einsum("bkp,bp->bk", frame.tangent, after - before)
        errors.append(np.linalg.norm(found - drift, axis=-1))
        assert np.all(errors[-1] < 0.5 * np.linalg.norm(drift, axis=-1))
    assert np.median(errors[0] / errors[1]) > 2**2.5  # 2^3 up to the next order, or 2^4


def test_M1_exceptional_starts_form_a_hypersurface_and_keep_their_excess():
    """The x at which a start with a stiff displacement w stays is of the order of w^2."""
    name = "tanh, one hidden layer"
    network, theta, frame = well_posed_minima(name, 5, seed=5)
    rates = 2 / frame.eigenvalues[:, 0] * 1.01
    stiff, edge = directions(frame, np.random.default_rng(6))[2], frame.leading[:, 0]
    found, steps = [], 300
    for w in (0.04, 0.02):
        low, high = np.full((2, 5), -1.0) * [[1], [-1]] * w
        for _ in range(40):
            x = (low + high) / 2
            end = network.descend(theta + w * stiff + x[:, None] * edge, rates, steps, None)[-1]
            # After an even number of steps the side on which the run leaves shows.
            side = np.sum((end - network.minimum_near(end)) * edge, axis=-1)
            low, high = np.where(side < 0, x, low), np.where(side < 0, high, x)
        found.append(np.abs(x))
        stays = network.descend(theta + w * stiff + x[:, None] * edge, rates, steps, None)[-1]
        kept = manifold.minimum_frame(network, network.minimum_near(stays)).eigenvalues[:, 0]
        ahead = network.minimum_near(theta + w * stiff)
        before = manifold.minimum_frame(network, ahead).eigenvalues[:, 0]
        assert np.all(np.abs(kept / before - 1) < w)
    assert np.all(found[1] < found[0])
    assert 2**1.5 < np.median(found[0] / found[1]) < 2**2.5


# --- M2: rotation pays for flatness ---------------------------------------------------------------


@every_network
def test_M2_rotation_along_the_minima_is_the_gradient_of_the_logarithm(name):
    """P_T rho of Theorem G2 is grad_M log lambda_1, here against a difference quotient too."""
    network, theta, frame = well_posed_minima(name, 5, seed=7)
    h, p = 1e-4, network.size
    sharpness = frame.eigenvalues[:, 0]
    third = network.third_at_minimum(theta, frame.leading)[:, 0, 0]
    values, columns = np.linalg.eigh(network.hessian(theta))
    rho = rotation_field(values[:, ::-1], np.swapaxes(columns, -1, -2)[:, ::-1], third)
    found = np.einsum("bkp,bp->bk", frame.tangent, rho)
    slope = frame.couplings[..., 0, 0] / sharpness[:, None]
    assert np.allclose(found, slope, rtol=0, atol=p * 1e4 * EPS * np.abs(slope).max())
    logs = []
    for sign in (1, -1):
        at = theta[:, None] + sign * h * frame.tangent
        own = replace(network, targets=network.targets[:, None])
        logs.append(np.log(manifold.minimum_frame(own, own.minimum_near(at)).eigenvalues[..., 0]))
    size = np.abs(slope).max() + np.linalg.norm(network.hessian(theta)) / sharpness.min()
    assert np.allclose((logs[0] - logs[1]) / (2 * h), slope, atol=100 * size**3 * h**2 + 1e-9)


@every_network
def test_M2_squared_angles_add_up_to_the_logarithm_of_the_sharpness(name):
    network, theta, frame = well_posed_minima(name, 3, seed=8)
    rates, errors, wrong = 2 / frame.eigenvalues[:, 0], [], []
    for h in SCALES:
        starts = starts_at(theta, frame, h, np.random.default_rng(9))
        path = network.descend(starts, rates, int(16 / h))
        spent = np.sum(turns_toward_flat_in_parts(network, path) ** 2, axis=0)
        ends = network.minimum_near(path[[0, -1]])
        before, after = manifold.minimum_frame(network, ends).eigenvalues[..., 0]
        errors.append(np.log(before / after) - spent)
        wrong.append(np.log(before / after) - spent / 2)
    assert np.all((orders(errors) > 1.5) & (orders(errors) < 2.5))
    assert np.all(orders(wrong) < 1.5), "half of the sum misses by first order"


def turns_toward_flat_in_parts(network, path):
    parts = np.array_split(path, 1 + len(path) // 500)
    return np.concatenate([manifold.turns_toward_flat(network, part) for part in parts])


def adverse_runs():
    """Ten runs at h, h/2 and h/4 next to M = {x = w = 0}, on a loss with everything that M1 allows.

    L = (2 + z_1 + z_1 z_2) x^2 / 2 + <mu, w^2> / 2 + c x^2 w_1 / 2 + d x w_1^2 / 2 + e x^3 / 6
    + k x^4 / 24 with z and w in R^2, eta = 1 and beta = 1. M is a plane, so the nearest minimum of
    a point is exactly its z. Returns two arrays (h, case): the logarithm of what the sharpness
    falls by, and the sum of the squared angles.
    """
    pi = np.pi
    # psi, sign of x, w_1 / h, z_2 / h, mu_1, mu_2, c, d, e, k
    cases = np.array(
        [
            [pi / 2, 1, 0, 0, 1, 0.5, 1, 1, 0, 0],  # the minimum ahead is on the threshold
            [pi / 2, -1, 1, 0, 1, 0.5, 1, 1, 1, 0],  # so it is, on the other side
            [0.0, 1, 1, 0, 0.7, 0.5, 1, 1, 0, 0],  # no displacement along v_1, and not in Z
            [1.2, 1, 1, 0, 0.8, 0.8, 1, 1, 1, 1],  # a repeated stiff eigenvalue
            [0.8, 1, 1, 0, 0.1, 0.1, 0.3, 0.3, 0, 0],  # stiff near zero
            [0.8, -1, 1, 0, 1.9, 0.6, 0.5, 0.5, 0, 0],  # stiff near 2 / eta
            [1.0, 1, -1, 0, 1, 1, 1, -1, 1, 0],  # stiff at 1 / eta: DF is singular
            [0.5, -1, 0, 5, 1, 0.5, 0, 0, 0, 0],  # far along M, where beta differs by 10 h
            [2.8, 1, 1, -5, 1, 0.5, 1, 1, 0, 1],  # from below the threshold
            [1e-3, -1, 0, 0, 1, 0.5, 1, 0, 2, 3],  # almost at rest, cubic and quartic terms
        ]
    )
    psi, sign, w1, z2, mu1, mu2, c, d, e, k = cases.T
    lost, paid = [], []
    for h in (0.008, 0.004, 0.002):
        x, z = sign * h * np.sin(psi) * np.sqrt(2), np.stack([h * np.cos(psi), h * z2])
        w, before, total = np.stack([h * w1, 0 * w1]), 2 + z[0] + z[0] * z[1], 0.0
        for _ in range(int(20 / h)):
            H = np.zeros((len(cases), 5, 5))
            H[:, 0, 0] = 2 + z[0] + z[0] * z[1] + c * w[0] + e * x + k * x**2 / 2
            H[:, 0, 1] = x * (1 + z[1])
            H[:, 0, 2] = x * z[0]
            H[:, 1, 2] = x**2 / 2
            H[:, 0, 3] = c * x + d * w[0]
            H[:, 3, 3] = mu1 + d * x
            H[:, 4, 4] = mu2
            leading = np.linalg.eigh(H, UPLO="U")[1][..., -1]
            total = total + np.arcsin(np.linalg.norm(leading[:, 1:3], axis=-1)) ** 2
            slope = np.stack([1 + z[1], z[0]]) * x**2 / 2
            kick = c * x * w[0] + d * w[0] ** 2 / 2 + e * x**2 / 2 + k * x**3 / 6
            push = c * x**2 / 2 + d * x * w[0]
            x, z = x - (2 + z[0] + z[0] * z[1]) * x - kick, z - slope
            w = w - np.stack([mu1 * w[0] + push, mu2 * w[1]])
        assert np.all(np.abs(x) < 1e-4 * h), "every run is at rest"
        lost.append(np.log(before / (2 + z[0] + z[0] * z[1])))
        paid.append(total)
    return np.array(lost), np.array(paid)


def test_M2_pays_in_ten_adverse_cases():
    """Each error is of second order: from h to h/4 it falls by more than 8, half way to 16."""
    lost, paid = adverse_runs()
    assert lost.shape == (3, 10)
    error = np.abs(lost - paid)
    assert np.all(lost > 0)
    assert np.all(error[2] < error[0] / 8 + 1e4 * EPS)
    # Half of the sum misses half of what is lost, up to second order.
    assert np.all(np.abs(lost - paid / 2)[2] > lost[2] / 3)


# --- the fibers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.4, 1.0, 1.7])
@pytest.mark.parametrize("excess", [-0.05, 0.0, 0.03])
def test_fibers_are_tangent_to_the_stiff_directions(mu, excess):
    """On (2 + z) x^2 / 2 + mu w^2 / 2 + x w^2 / 2, eta = 1, Z is x = alpha w^2 + O(w^3).

    alpha is that of the exercise, with the excess z: a start on Z ends without oscillation, and one
    beside it with an oscillation of the distance from Z, which alternates and grows by 1 + z.
    """
    alpha = -0.5 / (1 + excess + (1 - mu) ** 2)
    left = []
    for w0 in (0.02, 0.01):
        x, w, z = alpha * w0**2 + w0**2 * np.array([0.0, 0.1, -0.2]), w0, excess
        for _ in range(40):
            x, w, z = -(1 + z) * x - w**2 / 2, (1 - mu - x) * w, z - x**2 / 2
        left.append(x / (1 + excess) ** 40 / w0**2)
    # The next order in w: it halves. Steps of 40, all shrink w by 0.7^40 at least.
    assert np.all(np.abs(left[1] - [0.0, 0.1, -0.2]) < 0.02)
    assert np.all(np.abs(left[1] - [0, 0.1, -0.2]) <= 0.6 * np.abs(left[0] - [0, 0.1, -0.2]) + 1e-9)


# --- bad input ------------------------------------------------------------------------------------


LINE = manifold.layered_network((1, 1, 1), [[1.0]], "linear")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: manifold.layered_network((2,), np.ones((1, 2))), "two entries"),
        (lambda: manifold.layered_network((3, 1), np.ones((1, 2))), "widths must begin"),
        (lambda: manifold.layered_network((2, 1), np.ones(2)), "inputs must have shape"),
        (lambda: manifold.layered_network((1, 1), [[1.0]], "relu"), "activation"),
        (lambda: manifold.attention_network(np.ones((2, 2)), 1), "inputs must have shape"),
        (lambda: manifold.convolution_network(np.ones((1, 2)), 1, 3), "kernel must be at most"),
        (lambda: LINE.outputs([1.0]), "theta must have shape"),
        (lambda: LINE.gradient([1.0, 1.0]), "no targets"),
        (lambda: LINE.with_minimum_at([1.0, np.nan]), "finite"),
        (lambda: manifold.minimum_frame(LINE, [0.0, 0.0]), "full row rank"),
        (lambda: manifold.minimum_frame(LINE, [1.0, 1.0], 2), "2 directions"),
        (lambda: LINE.with_minimum_at([1.0, 1.0]).minimum_near([0.0, 0.0]), "lost rank"),
        (lambda: LINE.with_minimum_at([1.0, 1.0]).descend([1.0, 1.0], -1.0, 3), "learning_rate"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_divergence_is_an_error_and_not_a_number():
    network = LINE.with_minimum_at([1.0, 1.0])
    with pytest.raises(FloatingPointError, match="diverged at step"):
        network.descend([3.0, 1.0], 5.0, 100)


def test_paths_are_recorded_as_asked():
    network = LINE.with_minimum_at([2.0, 1.0])
    full = network.descend([2.0, 1.1], 0.1, 7)
    assert full.shape == (8, 2)
    assert np.array_equal(network.descend([2.0, 1.1], 0.1, 7, record_every=3), full[[0, 3, 6, 7]])
    assert np.array_equal(network.descend([2.0, 1.1], 0.1, 7, record_every=None), full[[0, 7]])
