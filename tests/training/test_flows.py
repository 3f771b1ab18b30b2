"""Gradient flow and central flow: against closed forms, against NumPy, and where they end."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from flatminima import models
from flatminima.curvature import EmpiricalRisk
from flatminima.theory.central_flow import complementarity
from flatminima.theory.tanh_network import TanhNetwork
from flatminima.training import central_flow, flows, gradient_descent, gradient_flow


class Landscape(nn.Module):
    """A function of a few numbers, as a model."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, _):
        return self.function(self.theta)


def landscape(function, start):
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    return EmpiricalRisk(Landscape(function, start), lambda value, _: value, (nothing, nothing))


def theta(state):
    return state.risk.flat().double().numpy()


def path(run):
    return run.probes["theta"]


def network(width=3, m=6, seed=0, steps=400):
    """A tanh network of the theory at a point where its sharpness rises, and the same in torch."""
    generator = np.random.default_rng(seed)
    inputs, targets = generator.normal(size=(m, 2)), generator.normal(size=m)
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 1, bias=False)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.as_tensor(generator.normal(size=tuple(parameter.shape)) * 0.7))
    risk = EmpiricalRisk(model, "mse", (torch.as_tensor(inputs), torch.as_tensor(targets)[:, None]))
    gradient_descent(risk, 0.05, steps, progress=False)
    return TanhNetwork(width, inputs, targets), risk


def in_order(risk):
    """The parameters in the order of the theory: unit by unit (outer, bias, inputs)."""
    inner, bias, outer = (p.detach().numpy() for p in risk.parameters)
    return np.column_stack([outer[0], bias, inner]).ravel()


# The gradient flow


def test_on_a_quadratic_the_gradient_flow_decays_exponentially_to_fourth_order():
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = inputs.T @ inputs / 20
    rate, steps, errors = 1.0 / float(torch.linalg.eigvalsh(covariance)[-1]), 6, []
    for substeps in (2, 4, 8):
        model = models.linear(3, 1, bias=False, dtype=torch.float64)
        start = model[1].weight.detach().clone()
        risk = EmpiricalRisk(model, "mse", (inputs, torch.zeros(20, 1, dtype=torch.float64)))
        run = gradient_flow(risk, rate, steps, substeps=substeps, probes={"theta": theta})
        exact = start @ torch.linalg.matrix_exp(-steps * rate * covariance)
        errors.append(float((model[1].weight.detach() - exact).norm()))
        assert run.steps.tolist() == list(range(steps + 1))
        assert run.loss[-1] == pytest.approx(risk.value(), rel=1e-12)
        assert np.allclose(run.probes["sharpness"] * rate, 1)
    # A method of fourth order: half the step, a sixteenth of the error, and not an eighth.
    assert np.all(np.array(errors[:-1]) / errors[1:] > 8 * math.sqrt(2))


def test_parts_of_a_step_follow_the_sharpness():
    """Where eta lambda is large, a step of fixed size would explode."""
    risk = landscape(lambda t: 500 * t[0] ** 2 / 2 + t[1] ** 2 / 2, [1.0, 1.0])
    run = gradient_flow(risk, 0.5, 4)
    end = risk.flat().numpy()
    assert not run.diverged
    assert end == pytest.approx([0.0, math.exp(-2)], abs=1e-6)


# The central flow where it can be solved: curvature 2/eta + z across, a slope alpha along z


def ridge(pairs=1, slopes=(0.03, 0.03), starts=(-0.1, -0.1), factor=1.0):
    """sum (4 + a z) x^2 / 2 - alpha z: the curvature rises at the rate a alpha, at x = 0."""
    alpha = torch.tensor(slopes[:pairs], dtype=torch.float64)

    def function(t):
        x, z = t[:pairs], t[pairs:]
        return ((4 + factor * z) * x**2 / 2 - alpha * z).sum()

    return landscape(function, [0.0] * pairs + list(starts[:pairs]))


def test_at_the_edge_the_oscillation_holds_the_curvature_as_the_closed_form_says():
    rate, alpha, factor = 0.5, 0.03, 1.5
    risk = ridge(slopes=(alpha,), factor=factor)
    run = central_flow(risk, rate, 20, probes={"theta": theta})
    z, X = path(run)[:, 1], run.probes["variance"]
    arrival = 0.1 / (alpha * rate)
    before, after = run.steps < arrival - 1, run.steps >= arrival
    assert before.any()
    assert np.allclose(z[before], -0.1 + alpha * rate * run.steps[before], atol=1e-12)
    # Without oscillation; then the one for which z' = alpha - a X / 2 = 0.
    assert np.allclose(X[before], 0)
    assert np.allclose(z[after], 0, atol=1e-12)
    assert np.allclose(X[run.steps > arrival + 1], 2 * alpha / factor)
    assert np.allclose(run.probes["sharpness"][after], 4)
    assert np.array_equal(run.probes["oscillating"] > 0, X > 0)
    assert np.allclose(run.probes["averaged_loss"], run.loss + X / rate)
    # Gradient descent that starts with nearly this keeps it, and the curvature, on average.
    descent = ridge(slopes=(alpha,), starts=(0.0,), factor=factor)
    with torch.no_grad():
        descent.parameters[0][0] = 0.9 * math.sqrt(2 * alpha / factor)
    rough = gradient_descent(descent, rate, 168, probes={"theta": theta}, progress=False)
    x, z = path(rough).T
    # Four turns of the period 2 pi / (eta sqrt(2 a alpha)) = 42 around the fixed point.
    assert np.mean(x**2) == pytest.approx(2 * alpha / factor, rel=0.02)
    assert abs(np.mean(z)) < 0.005
    assert np.ptp(z) > 1e-4


def test_directions_enter_one_by_one_and_two_that_are_alike_together():
    run = central_flow(ridge(2, starts=(-0.1, -0.4)), 0.5, 36)
    count = run.probes["oscillating"]
    arrivals = [0.1 / 0.015, 0.4 / 0.015]
    expected = [sum(t >= a for a in arrivals) for t in run.steps]
    # At the step of an arrival itself the part that begins there may be the first or not.
    apart = np.min(np.abs(run.steps[:, None] - np.array(arrivals)), axis=1) > 1
    assert np.array_equal(count[apart], np.array(expected)[apart])
    assert run.probes["variance"][-1] == pytest.approx(2 * 2 * 0.03)
    alike = central_flow(ridge(2), 0.5, 12)
    assert alike.probes["oscillating"][-1] == 2
    assert alike.probes["variance"][-1] == pytest.approx(2 * 2 * 0.03)


def test_a_direction_leaves_where_its_curvature_falls_by_itself():
    """z follows b sin(s), s being the time: the curvature rises to the edge and falls again."""

    def function(t):
        x, z, s = t
        return (4 + z) * x**2 / 2 + 2 * (z - 0.2 * torch.sin(s)) ** 2 / 2 - s

    run = central_flow(landscape(function, [0.0, -0.1, 0.0]), 0.5, 11)
    free = gradient_flow(landscape(function, [0.0, -0.1, 0.0]), 0.5, 11)
    held, without = (r.probes["sharpness"] for r in (run, free))
    count = run.probes["oscillating"]
    (at,) = np.nonzero(count)
    assert 0 < at[0] < at[-1] < 11, "it enters, and leaves"
    assert np.all(np.diff(at) == 1), "once"
    # What a part leaves is half its length squared times the second derivative, 0.2, or less.
    assert np.allclose(held[at[1:]], 4, atol=0.25**2 * 0.2)
    assert without.max() > 4.1
    assert np.all(run.probes["variance"][at[-1] + 1 :] == 0)
    assert held[-1] < 3.95


def test_a_start_beyond_the_edge_is_put_back_to_it_and_a_quadratic_cannot_be():
    run = central_flow(ridge(starts=(0.5,)), 0.5, 4)
    assert run.probes["sharpness"].round(3).tolist() == [4.5, 4.0, 4.0, 4.0, 4.0]
    steep = central_flow(landscape(lambda t: 4.2 * t[0] ** 2 / 2, [1.0]), 0.5, 4)
    assert steep.diverged
    assert steep.diverged_at == 1
    assert steep.loss.tolist() == [2.1]
    flat = central_flow(landscape(lambda t: 3.9 * t[0] ** 2 / 2, [1.0]), 0.5, 4)
    assert not flat.diverged
    assert np.all(flat.probes["variance"] == 0)


# The central flow of networks


def by_hand(theory, point, rate, steps, parts, k):
    """The scheme of the module with dense derivatives, in NumPy: points, and X at each step."""
    points, variances, h = [point], [], rate / parts
    for _ in range(steps):
        for part in range(parts):
            g, H, T = theory.derivatives(point, 3)
            values, vectors = np.linalg.eigh(H)
            values, vectors = values[::-1], vectors[:, ::-1]
            slopes = np.einsum("abc,ai,bj->ijc", T, vectors[:, :k], vectors[:, :k])
            # One eigenvector more is followed than are at the edge.
            V, z = vectors[:, : k + 1], h * values[: k + 1]
            Phi = np.eye(len(g)) - (V * (1 + np.expm1(-z) / z)) @ V.T
            A = np.diag(2 / rate - values[:k]) / h + slopes @ Phi @ g
            B = np.einsum("ija,ab,klb->ijkl", slopes, Phi, slopes) / 2
            X = complementarity(A, B).covariance
            force = -np.einsum("ij,ijc->c", X, slopes) / 2
            if part == 0:
                variances.append(np.trace(X))
            stages = [force - g]
            for ahead in (h / 2, h / 2, h):
                stages.append(force - theory.gradient(point + ahead * stages[-1]))
            point = point + h / 6 * (stages[0] + 2 * stages[1] + 2 * stages[2] + stages[3])
        points.append(point)
    return np.array(points), np.array(variances)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_it_is_the_flow_of_the_same_network_in_numpy(monkeypatch, k):
    theory, risk = network(steps=700)
    point = in_order(risk)
    values = np.linalg.eigvalsh(theory.hessian(point))[::-1]
    rate = 2 / values[0]
    # Directions away from the edge take part as well, and have no oscillation.
    monkeypatch.setattr(flows, "MARGIN", 1 - (values[k - 1] + values[k]) / 2 / values[0])
    expected, variances = by_hand(theory, point, rate, 4, 2, k)
    run = central_flow(risk, rate, 4, tol=1e-9)
    assert (run.probes["variance"] > 0).all()
    # Eigenvectors known to 1e-9 of the sharpness over its gap, and derivatives of the order of one.
    assert np.allclose(in_order(risk), expected[-1], atol=1e-7)
    assert np.allclose(run.probes["variance"][:4], variances, rtol=1e-5, atol=1e-8)


def test_it_is_of_first_order_in_the_parts_at_the_edge_and_does_not_drift_from_it():
    ends, edges = [], []
    for substeps in (2, 4, 8, 32):
        _, risk = network(steps=700)
        rate = 2 / flows.curvature.sharpness(risk)
        run = central_flow(risk, rate, 10, substeps=substeps, tol=1e-6)
        assert (run.probes["variance"] > 0).all()
        ends.append(in_order(risk))
        edges.append(abs(run.probes["sharpness"][-1] * rate / 2 - 1))
    errors = np.array([np.linalg.norm(end - ends[-1]) for end in ends[:-1]])
    # By two each time; against a flow that is itself off by a quarter of the last of them or less.
    assert np.all(errors[:-1] / errors[1:] > math.sqrt(2))
    # What one part leaves is of second order, and is not added to by the next.
    assert np.all(np.array(edges[:-1]) / edges[1:] > 2 * math.sqrt(2))
    assert edges[0] < 1e-3


def test_batches_and_single_precision_flow_alike():
    ends = []
    for kind in ("pair", "batches", "single"):
        _, risk = network()
        inputs, targets = risk.data
        if kind == "batches":
            batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
            risk = EmpiricalRisk(risk.model, "mse", batches)
        if kind == "single":
            risk = EmpiricalRisk(risk.model.float(), "mse", (inputs.float(), targets.float()))
        run = central_flow(risk, 0.2, 10, tol=1e-5)
        ends.append((run.loss[-1], run.probes["sharpness"][-1]))
    assert ends[1] == pytest.approx(ends[0], rel=1e-8)
    # Ten steps of float32, each of whose Hessian products is good to some 1e-6.
    assert ends[2] == pytest.approx(ends[0], rel=1e-4)


def test_probes_are_called_as_in_training_and_rest_when_not_asked():
    runs = []
    for every in (1, 4):
        risk = ridge()
        options = {"probes": {"theta": theta}, "probe_every": every}
        runs.append(central_flow(risk, 0.5, 10, **options))
    assert runs[1].probe_steps.tolist() == [0, 4, 8, 10]
    assert np.allclose(path(runs[1]), path(runs[0])[[0, 4, 8, 10]], atol=1e-12)
    assert len(runs[1].loss) == 11


def test_wrong_arguments_are_named():
    risk = ridge()
    for flow in (gradient_flow, central_flow):
        with pytest.raises(TypeError, match="EmpiricalRisk, got Landscape"):
            flow(risk.model, 0.5, 3)
        for wrong in ({"learning_rate": 0.0}, {"steps": 0}, {"substeps": 0}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                flow(risk, **({"learning_rate": 0.5, "steps": 3} | wrong))
        with pytest.raises(ValueError, match="probes must not be called sharpness"):
            flow(risk, 0.5, 3, probes={"sharpness": theta})
        with pytest.raises(ValueError, match="tol"):
            flow(risk, 0.5, 3, tol=0.0)
    before = risk.flat()
    with pytest.raises(ValueError, match="variance"):
        central_flow(risk, 0.5, 3, probes={"variance": theta})
    assert torch.equal(risk.flat(), before)
