"""The arithmetic of the live figures beyond two weights at a threshold, against the library's.

TOLERANCE is that of test_live_arithmetic.py, and so are the reasons for it.
"""

import numpy as np
import pytest
from test_live_figures import TOLERANCE, numerics, scripts  # noqa: F401

from flatminima.theory import averaged, instability, label_noise, manifold, quadratic, rotation
from flatminima.theory.matrix_network import MatrixNetwork
from flatminima.theory.scalar_network import ScalarNetwork

TARGET = 1.0
METHODS = {"gd": None, "heavy_ball": "momentum", "nesterov": "momentum", "adam": "beta1"}


@pytest.mark.parametrize("method", METHODS)
def test_methods_with_memory_are_those_of_the_library(numerics, method):  # noqa: F811
    rng = np.random.default_rng(1)
    steps, cases = 40, rng.uniform([0.1, 0.01, 0], [6, 1, 0.95], size=(60, 3))
    found = numerics(
        """cases.map(([lambda, eta, beta]) => [
            quadratic.iterate(method, [lambda], [1], eta, steps, beta),
            quadratic.spectralRadius(method, lambda, eta, beta),
            quadratic.stabilityThreshold(method, eta, beta)])""",
        cases=cases,
        method=method,
        steps=steps,
    )
    stable = set()
    for (path, radius, threshold), (value, eta, beta) in zip(found, cases, strict=True):
        extra = {METHODS[method]: beta} if METHODS[method] else {}
        expected = quadratic.iterate(method, [[value]], [1.0], eta, steps, **extra)
        size = np.abs(expected).max()
        # JSON writes a large number without its point.
        got = np.array(path, dtype=float)
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE * size)
        matrix = quadratic.companion_matrix(method, value, eta, **extra)
        # Next to a double root, an eigenvalue is known to the root of the rounding.
        assert radius == pytest.approx(float(quadratic.spectral_radius(matrix)), abs=1e-7)
        assert threshold == pytest.approx(
            float(quadratic.stability_threshold(method, eta, **extra)), rel=1e-14
        )
        assert (radius < 1) == (value < threshold)
        stable.add(radius < 1)
    assert stable == {True, False} or method == "adam"


def third_order_loss(first, second, slope):
    """Gradient and Hessian of (first x^2 + second y^2 + slope x^2 y) / 2, for NumPy."""

    def gradient(p):
        x, y = p
        return np.array([first * x + slope * x * y, second * y + slope * x**2 / 2])

    def hessian(p):
        x, y = p
        return np.array([[first + slope * y, slope * x], [slope * x, second]])

    return gradient, hessian


def test_v1_and_the_gradient_turn_as_two_theorems_say(numerics):  # noqa: F811
    rng = np.random.default_rng(2)
    cases = rng.uniform([1.5, 0, 0.1, 0.05], [2.3, 1.4, 2, 0.6], size=(80, 4))
    found = numerics(
        """cases.map(([first, second, slope, x]) => {
            const loss = {first, second, slope}, run = turn.descend(loss, [x, 0], 1, 12);
            return [turn.angle(loss, [x, 0]), turn.sharpness(loss, [x, -x / 2]), turn.tilt(loss, x),
                turn.turning(loss), turn.twoSteps(loss, x, 1), run.xs, run.ys,
                turn.twoSteps(loss, 1e-3, 1), turn.descend(loss, [-1e-3, 0], 1, 2).ys[2]];
        })""",
        cases=cases,
    )
    for row, (first, second, slope, x) in zip(found, cases, strict=True):
        angle, sharp, tilt, rate, drift, xs, ys, small, step = row
        gradient, hessian = third_order_loss(first, second, slope)
        v = np.linalg.eigh(hessian((x, 0)))[1][:, -1]
        assert angle == pytest.approx(np.arctan2(*(v * np.sign(v[0]))[::-1]), abs=1e-12)
        assert sharp == pytest.approx(np.linalg.eigvalsh(hessian((x, -x / 2)))[-1], rel=1e-13)
        assert tilt == pytest.approx(np.arctan2(*gradient((x, 0))[::-1]), rel=1e-13)
        values, columns = np.linalg.eigh(hessian((0, 0)))
        rho = rotation.rotation_field(values[::-1], columns.T[::-1], np.array([0, slope]))
        assert rate == pytest.approx(np.linalg.norm(rho), rel=1e-12)
        # The tilt is half of the turn times 1 - lambda_2 / lambda_1, to first order (G3).
        assert np.tan(tilt) == pytest.approx(x * rate * (1 - second / first) / 2, rel=1e-12)
        m, across = first - 1, np.array([0, slope])
        expected = -(x**2) / 2 * ((1 + m**2) * across - hessian((0, 0)) @ across)
        assert drift == pytest.approx(expected[1], rel=1e-12)
        # What is left of second order at x = 1e-3 is of third, and here of fourth.
        assert step == pytest.approx(small, abs=100 * 1e-3**4)
        point = np.array([x, 0.0])
        for t in range(len(xs)):
            if np.abs(point).max() > 10:
                break
            np.testing.assert_allclose([xs[t], ys[t]], point, rtol=1e-9, atol=TOLERANCE)
            point = point - gradient(point)


@pytest.mark.parametrize("name", ["linear", "tanh"])
def test_two_weights_near_their_minima_are_a_network_of_the_library(numerics, name):  # noqa: F811
    at_one = [1.0, 1 / np.tanh(1.0)] if name == "tanh" else [1.0, 1.0]
    network = manifold.layered_network((1, 1, 1), [[1.0]], name).with_minimum_at(at_one)
    starts = np.array([[0.44, 2.28], [0.4, 2.64], [0.62, 2.05], [0.5, 2.0], [0.9, 1.6]])
    eta, steps = 0.4, 80
    found = numerics(
        """starts.map((start) => {
            const run = pair.descend(name, start, 1, eta, steps), ahead = run.ahead[0];
            const {sharpness, vector, tangent, slope} = pair.frame(name, ahead);
            const sums = pair.account(run);
            const law = pair.reflectedEnd(name, start, 1, eta);
            return {...run, frame: [sharpness, slope * slope], law,
                lead: pair.leading(name, start, 1).sharpness, curve: pair.second(name, start[0], 1),
                spent: sums.spent[run.last], lost: sums.lost[run.last]};
        })""",
        starts=starts,
        name=name,
        eta=eta,
        steps=steps,
    )
    path = network.descend(starts, eta, steps)
    ahead = network.minimum_near(path)
    frames = manifold.minimum_frame(network, ahead)
    turns = manifold.turns_toward_flat(network, path)
    laws = manifold.reflected_end(network, starts, eta)
    for k, run in enumerate(found):
        assert run["last"] == steps
        got = np.stack([run["a"], run["b"]], axis=-1)
        np.testing.assert_allclose(got, path[:, k], rtol=0, atol=TOLERANCE)
        # Gauss-Newton steps stop at 1e-9 of theta and converge quadratically.
        np.testing.assert_allclose(run["ahead"], ahead[:, k], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(run["sharpness"], frames.eigenvalues[:, k, 0], rtol=TOLERANCE)
        # Of a small angle the library sees a sine that is a sum of larger numbers.
        np.testing.assert_allclose(run["turn"], turns[:, k], rtol=0, atol=1e-9)
        expected = [frames.eigenvalues[0, k, 0], frames.slope_squared[0, k]]
        np.testing.assert_allclose(run["frame"], expected, rtol=1e-9)
        assert run["law"] == pytest.approx(laws[k], rel=TOLERANCE)
        assert run["lead"] == pytest.approx(
            np.linalg.eigvalsh(network.hessian(starts[k]))[-1], rel=1e-13
        )
        assert network.outputs([starts[k, 0], run["curve"]]) == pytest.approx([1.0])
        assert run["spent"] == pytest.approx(np.sum(turns[:-1, k] ** 2), abs=1e-9)
        levels = frames.eigenvalues[[0, -1], k, 0]
        assert run["lost"] == pytest.approx(np.log(levels[0] / levels[1]), abs=TOLERANCE)
    assert found[0]["lost"] > 0.1 or name == "tanh", "an instability"


COUPLINGS = {
    "mixed": [[[1.3, 0], [0, 0.7]], [[0.5, 0.8], [0.8, -0.5]]],
    "two mirrors": [[[1, 0], [0, 0]], [[0, 0], [0, 1]]],
    "opposed": [[[1, 0], [0, -1]], [[0, 0], [0, 0]]],
}


@pytest.mark.parametrize("kind", COUPLINGS)
def test_two_directions_at_the_edge_move_as_in_the_library(numerics, kind):  # noqa: F811
    rng = np.random.default_rng(3)
    matrices, steps = np.array(COUPLINGS[kind], dtype=float), 300
    entries = matrices[:, [0, 0, 1], [0, 1, 1]]
    starts = rng.uniform(-0.05, 0.05, (20, 4))
    found = numerics(
        """starts.map(([g1, g2, x1, x2]) => {
            const options = {couplings: entries, position: [g1, g2], displacement: [x1, x2]};
            const run = sphere.sphereDynamics({...options, eta: 1, steps});
            const both = sphere.eigenvalues(sphere.excess(entries, [g1, g2]));
            return [run.positions, run.displacements, both, sphere.radius([g1, g2], [x1, x2]),
                sphere.signs(entries, 360)];
        })""",
        starts=starts,
        entries=entries,
        steps=steps,
    )
    path = averaged.sphere_dynamics(matrices, starts[:, :2], starts[:, 2:], 1.0, steps)
    direction = averaged.stabilizing_direction(matrices)
    for k, (positions, displacements, both, radius, signs) in enumerate(found):
        np.testing.assert_allclose(positions, path.position[:, k], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(displacements, path.displacement[:, k], rtol=0, atol=TOLERANCE)
        values = np.linalg.eigvalsh(np.einsum("k,kab->ab", starts[k, :2], matrices))
        np.testing.assert_allclose(both, values[::-1], rtol=0, atol=1e-15)
        assert radius == pytest.approx(path.radius[0, k], rel=1e-14)
        # What lowers both is the opposite of what raises both.
        assert (0 in signs) == (2 in signs) == (direction is not None)
        middle = (np.arange(360) + 0.5) * np.pi / 180
        around = np.stack([np.cos(middle), np.sin(middle)], axis=-1)
        all_values = np.linalg.eigvalsh(np.einsum("ik,kab->iab", around, matrices))
        assert signs == np.sum(all_values > 1e-15, axis=-1).tolist()


@pytest.mark.parametrize("width", [1, 3, 40])
def test_a_wide_network_is_that_of_the_library_and_its_twin(numerics, width):  # noqa: F811
    eta, steps = 0.1, 60
    twin = ScalarNetwork(2, TARGET).at(0.05, np.sqrt(26.0**2 - 4))
    found = numerics(
        "wide.descend({...wide.startLike(twin, width, 5), y: 1, eta, steps})",
        twin=twin,
        width=width,
        eta=eta,
        steps=steps,
    )
    theta = np.stack([found["u"], found["v"]], axis=1)  # (steps + 1, 2, width)
    network = MatrixNetwork([[TARGET]], width)
    run = network.descend(theta[0], eta, steps)
    # As in the chapter: rounding grows by at most 1.7 a step for about 20 steps.
    growth = 100 * 30 * np.finfo(float).eps * 1.7**20
    np.testing.assert_allclose(theta, run.theta, rtol=0, atol=growth)
    np.testing.assert_allclose(found["residual"], run.residual[:, 0, 0], rtol=0, atol=growth)
    np.testing.assert_allclose(found["imbalance"], run.imbalance_size, rtol=0, atol=growth)
    np.testing.assert_allclose(found["sharpness"], run.sharpness, rtol=0, atol=10 * growth)
    expected = np.hypot(run.imbalance_size, 2 * TARGET)
    np.testing.assert_allclose(found["ahead"], expected, rtol=0, atol=growth)
    small = ScalarNetwork(2, TARGET).descend(twin, eta, steps)
    np.testing.assert_allclose(found["residual"], small.residual, rtol=0, atol=growth)


def test_an_oscillation_that_comes_late_is_that_of_three_formulas(numerics):  # noqa: F811
    rng = np.random.default_rng(4)
    steps = 250
    cases = np.stack(
        [10 ** rng.uniform(-8, -1, 30), -rng.uniform(0, 0.1, 30), rng.uniform(2e-4, 4e-3, 30)], -1
    )
    found = numerics(
        """cases.map(([x, excess, alpha]) => {
            const grown = late.growth({x, excess, eta: 1, alpha, steps});
            return [grown, late.heldSize(alpha, 1), late.arrival(grown, 0.03, -excess / alpha),
                [0, 7, steps].map((t) => late.gradientFlow(excess, 1, alpha, t)),
                [0, 7, steps].map((t) => late.centralFlow(excess, 1, alpha, t))];
        })""",
        cases=cases,
        steps=steps,
    )
    came = set()
    for (grown, held, arrival, flow, central), (x, excess, alpha) in zip(found, cases, strict=True):
        times = np.arange(steps + 1)
        along = excess + alpha * times
        np.testing.assert_allclose(flow, along[[0, 7, -1]], rtol=0, atol=1e-15)
        np.testing.assert_allclose(central, np.minimum(along[[0, 7, -1]], 0), rtol=0, atol=1e-15)
        # x is multiplied by eta lambda_1 - 1 in size, with lambda_1 = 2 / eta + excess.
        sizes = x * np.concatenate([[1], np.cumprod(np.abs(2 + along[:-1] - 1))])
        grown = np.array(grown, dtype=float)  # JSON writes a large number without its point
        np.testing.assert_allclose(grown, sizes, rtol=1e-12)
        reached = (grown >= 0.03) & (times >= np.ceil(-excess / alpha))
        assert arrival == (np.argmax(reached) if reached.any() else -1)
        # With this variance of x, gradient descent keeps its excess on average (G4).
        run = instability.coupled_dynamics(held, 0.0, 1.0, alpha, 1.0, 1)
        assert abs(float(run.excess[1])) < 1e-15
        # As long as it is small, the growth is that of the whole dynamics.
        run = instability.coupled_dynamics(x, excess, 1.0, alpha, 1.0, steps)
        small = np.abs(run.x) < 1e-3 * held
        until = steps if small.all() else int(np.argmin(small))
        np.testing.assert_allclose(np.abs(run.x[:until]), sizes[:until], rtol=0.01)
        came.add(arrival >= 0)
    assert came == {True, False}


def test_label_noise_splits_and_flattens_as_in_the_library(numerics):  # noqa: F811
    sigma, eta, steps, copies = 0.3, 0.1, 120, 6
    network = ScalarNetwork(2, TARGET)
    start = network.at(0.01, np.sqrt(14.0**2 - 4))
    found = numerics(
        """({...noise.ensemble({start, y: 1, sigma, eta, steps, copies}),
            rate: [3, 10, 19].map((s) => noise.flatteningRate(s, sigma, eta)),
            past: Number.isNaN(noise.flatteningRate(20, sigma, eta)),
            path: noise.rateEquation({kappa: 12, y: 1, sigma, eta, steps: 900})})""",
        start=start,
        sigma=sigma,
        eta=eta,
        steps=steps,
        copies=copies,
    )
    kappas, residual, noises = [], [], []
    for run in found["runs"]:
        a, b = np.array(run["a"]), np.array(run["b"])
        r = a * b - TARGET
        # What the step took away from a tells the noise that it saw.
        xi = (a[:-1] - a[1:]) / (eta * b[:-1]) - r[:-1]
        np.testing.assert_allclose(b[1:], b[:-1] - eta * (r[:-1] + xi) * a[:-1], atol=1e-12)
        kappa = b**2 - a**2
        split = label_noise.split_flattening(r[:-1], xi, eta, kappa[:-1])
        assert float(split.total) == pytest.approx(kappa[0] - kappa[-1], abs=1e-9)
        kappas.append(np.abs(kappa))
        residual.append(np.sum((eta * r[:-1]) ** 2))
        noises.append(np.sum((eta * xi) ** 2))
    assert found["diverged"] == 0
    np.testing.assert_allclose(found["kappa"], np.mean(kappas, axis=0), rtol=1e-12)
    assert found["residual"][-1] == pytest.approx(np.mean(residual), rel=1e-9)
    assert found["noise"][-1] == pytest.approx(np.mean(noises), rel=1e-9)
    # Ten standard errors of a mean of squares of normal numbers.
    expected = steps * (eta * sigma) ** 2
    assert np.mean(noises) == pytest.approx(expected, rel=10 * np.sqrt(2 / (steps * copies)))
    np.testing.assert_allclose(
        found["rate"], label_noise.flattening_rate([3.0, 10.0, 19.0], sigma, eta), rtol=1e-13
    )
    assert found["past"]
    places = np.array([100, 400, 900])
    level = np.array(found["path"])[places]
    # The midpoint rule in steps of 1/4 of rates below 0.01 errs by less than 1e-6 of them.
    told = label_noise.steps_to_imbalance(level, 12.0, TARGET, sigma, eta)
    np.testing.assert_allclose(told, places, rtol=1e-5)
