"""The arithmetic of the live figures against the library's, in Node.js.

JavaScript and NumPy round each operation alike, but sum some of them in another order. A step here
has some ten operations, and a run at most some hundred steps, through which a rounding grows or
shrinks with the motion itself; the cases are such that it grows by less than a thousandfold.
TOLERANCE = 1e-10 is a million roundings.
"""

import numpy as np
import pytest
import torch
from test_live_figures import TOLERANCE, numerics, scripts  # noqa: F401

from flatminima.curvature import EmpiricalRisk
from flatminima.theory import instability
from flatminima.theory.scalar_network import ScalarNetwork
from flatminima.training import ClippedAdam
from flatminima.training.interventions import CenteredDescent
from study.experiments import interventions

TARGET = 1.0
network = ScalarNetwork(2, TARGET)


def start_at(sharpness, residual):
    """The point of this residual whose minimum ahead has this sharpness."""
    return network.at(residual, np.sqrt(sharpness**2 - 4))


@pytest.mark.parametrize("fourth", [0.0, -4.0, 1.0])
def test_coupled_dynamics_are_those_of_the_library(numerics, fourth):  # noqa: F811
    rng = np.random.default_rng(1)
    steps, count = 120, 60
    given = {
        "x": rng.uniform(0.01, 0.4, count),
        "excess": rng.uniform(-0.2, 0.2, count),
        "alpha": rng.uniform(0, 0.03, count),
        "beta": rng.uniform(0.3, 2, count),
    }
    expected = instability.coupled_dynamics(
        given["x"], given["excess"], 1.0, given["alpha"], given["beta"], steps, fourth
    )
    found = numerics(
        """x.map((_, i) => coupled.coupledDynamics({x: x[i], excess: excess[i], eta: 1,
            alpha: alpha[i], beta: beta[i], q, steps}))""",
        **given,
        q=fourth,
        steps=steps,
    )
    bounded = 0
    for i, run in enumerate(found):
        assert run["diverged"] == expected.diverged[i]
        # A large orbit of these maps is chaotic.
        if expected.diverged[i] or np.abs(expected.x[:, i]).max() > 0.8:
            continue
        bounded += 1
        np.testing.assert_allclose(run["x"], expected.x[:, i], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(run["excess"], expected.excess[:, i], rtol=0, atol=TOLERANCE)
    assert bounded > 10


def test_the_curves_of_the_portrait_are_what_the_flow_keeps(numerics):  # noqa: F811
    rng = np.random.default_rng(2)
    cases = rng.uniform([0.01, 0, 0, 0.2], [1, 0.5, 0.1, 3], size=(100, 4))
    cases[:20, 2] = 0
    found = numerics(
        """cases.map(([x, e, alpha, beta]) => {
            const value = coupled.conserved(x, e, alpha, beta);
            return [value, coupled.levelCurve(x, value, alpha, beta)];
        })""",
        cases=cases,
    )
    x, e, alpha, beta = cases.T
    values, levels = np.array(found).T
    np.testing.assert_allclose(
        values, e**2 + beta * x**2 / 2 - 2 * alpha * np.log(x), rtol=TOLERANCE
    )
    # The excess is found from its square, of which rounding leaves 1e-16 of the other terms.
    np.testing.assert_allclose(levels**2, e**2, rtol=0, atol=1e-13)


def test_the_phase_diagram_is_where_runs_of_the_library_end(numerics):  # noqa: F811
    rates = np.geomspace(0.05, 1.5, 20)
    sharpness = np.geomspace(2.01, 100, 20)
    found = numerics(
        """[...phase.phaseDiagram({rates, sharpness, y: 1, r: 0.01, steps: 3000})]
            .map((v) => Number.isFinite(v) ? v : String(v))""",
        rates=rates,
        sharpness=sharpness,
    )
    found = np.array(found, dtype=float).reshape(len(sharpness), len(rates))
    start = start_at(sharpness[:, None], 0.01)
    run = network.descend(start, rates, 3000)
    swing = np.nanmax(np.abs(run.residual), axis=0) * rates
    assert np.array_equal(np.isinf(found), network.escape_margin(start, rates) < 0)
    last = rates * np.abs(run.residual[-1])
    # Past a swing of sqrt(2) the end is a matter of chaos, and next to 2/eta one of patience.
    clear = ~run.diverged & (swing < np.sqrt(2)) & (last < 1e-10)
    assert clear.sum() > 100
    np.testing.assert_allclose(
        found[clear], network.minimum_sharpness(run.theta[-1])[clear], rtol=1e-9
    )
    moving = ~run.diverged & (last > 1e-3)
    assert moving.any()
    assert np.isnan(found[moving]).all()


class Product(torch.nn.Module):
    """The network of two weights."""

    def __init__(self, point):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(point, dtype=torch.float64))

    def forward(self, x):
        return x * self.weights[0] * self.weights[1]


DATA = torch.ones(1, 1, dtype=torch.float64), TARGET * torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize("clip", ["none", "episode"])
@pytest.mark.parametrize("beta2", [0.9, 0.99])
def test_adam_is_that_of_the_library(numerics, clip, beta2):  # noqa: F811
    steps, eta, scale = 60, 0.1, 0.0152
    start = start_at(6.0, 0.001)
    model = Product(start)
    optimizer = ClippedAdam(model.parameters(), lr=eta, betas=(0.9, beta2), clip=clip)
    # So late that the corrections of both averages are one to the last bit.
    late = {"step": torch.tensor(1e5), "count": 10**5, "exp_avg": torch.zeros(2).double()}
    optimizer.state[model.weights] = {
        **late, "exp_avg_sq": torch.full((2,), scale**2, dtype=torch.float64)
    }  # fmt: skip
    path, losses = [], []

    def closure():
        optimizer.zero_grad()
        loss = ((model(DATA[0]) - DATA[1]) ** 2).mean() / 2
        loss.backward()
        return loss

    for _ in range(steps + 1):
        path.append(model.weights.detach().clone().numpy())
        losses.append(optimizer.step(closure).item())
    path = np.array(path)
    run = numerics(
        "adam.adam({start, y: 1, eta: 0.1, beta2, scale, steps, held})",
        start=start,
        beta2=beta2,
        scale=scale,
        steps=steps,
        held=clip == "episode",
    )
    assert np.max(losses) > 100 * losses[0], "an instability"
    np.testing.assert_allclose(run["a"], path[:, 0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(run["b"], path[:, 1], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(run["loss"], losses, rtol=0, atol=TOLERANCE)
    flat = network.minimum_sharpness(path)
    np.testing.assert_allclose(run["minimumSharpness"], flat, rtol=TOLERANCE)


def test_preconditioned_sharpness_is_an_eigenvalue(numerics):  # noqa: F811
    rng = np.random.default_rng(3)
    points, scales = rng.normal(size=(100, 2)) * 2, rng.uniform(0.01, 2, size=(100, 2))
    found = numerics(
        "points.map(([a, b], i) => adam.preconditionedSharpness(a, b, 1, scales[i]))",
        points=points,
        scales=scales,
    )
    for value, point, scale in zip(found, points, scales, strict=True):
        roots = np.sqrt(scale)
        matrix = network.hessian(point) / np.outer(roots, roots)
        largest = np.abs(matrix).max()
        assert value == pytest.approx(np.linalg.eigvalsh(matrix)[-1], abs=1e-13 * largest)


@pytest.mark.parametrize("factor", [1.1, 1.2, 1.3])
def test_arms_are_those_of_the_training_code(numerics, factor):  # noqa: F811
    eta, steps, offset = 0.4, 40, 1e-3
    start = start_at(factor * 2 / eta, 0.03)
    found = numerics(
        "interventions.runArms({start, y: 1, eta, steps, offset})",
        start=start,
        eta=eta,
        steps=steps,
        offset=offset,
    )
    assert set(found) == set(interventions.ARMS)
    motions = {}
    angle = network.angle(start)
    leading = torch.tensor([np.cos(angle), np.sin(angle)])
    for name, parts in interventions.ARMS.items():
        risk = EmpiricalRisk(Product(start), "mse", DATA)
        # The sign of an eigenvector is nobody's choice: take that of the page.
        turned = CenteredDescent(risk, eta, offset=offset).displacement @ leading < 0
        risk = EmpiricalRisk(Product(start), "mse", DATA)
        signed = -offset if turned else offset
        descent = CenteredDescent(risk, eta, offset=signed, tol=1e-12, **parts)
        how = {}
        if name in interventions.CAPPED:
            size = motions["control"].size
            how["limits"] = np.append(size[1:], size[-1])
        if name == "reversed":
            how["amplitudes"] = motions["drift"].amplitudes
        motions[name] = motion = descent.run(steps, **how)
        arm = found[name]
        np.testing.assert_allclose(arm["sharpness"][:-1], motion.sharpness, rtol=TOLERANCE)
        np.testing.assert_allclose(arm["size"][:-1], motion.size, rtol=0, atol=TOLERANCE)
        if name in interventions.CAPPED:
            continue  # the training code has no limit for the last step but that before it
        ends = [arm[key][-1] for key in ("a", "b", "seenA", "seenB")]
        np.testing.assert_allclose(
            ends, [*descent.center.numpy(), *descent.theta.numpy()], rtol=TOLERANCE
        )
    # With every part left as it is, the parameters are those of gradient descent.
    plain = network.descend(start, eta, steps).theta
    np.testing.assert_allclose(found["control"]["seenA"], plain[:, 0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found["control"]["seenB"], plain[:, 1], rtol=0, atol=TOLERANCE)
