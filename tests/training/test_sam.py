"""sam: sharpness-aware minimization against its definition, its edge, its rest, and refusals."""

import copy
import pickle

import numpy as np
import pytest
import small_networks
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from flatminima import models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent, train
from flatminima.training.sam import SharpnessAware, sharpness_aware_edge


def network(seed=1):
    inputs, labels = small_networks.points()
    model = models.mlp([6, 8, 3], seed=seed, dtype=torch.float64)
    return EmpiricalRisk(model, "mse", (inputs.double(), labels))


def put(risk, theta):
    with torch.no_grad():
        for part, parameter in zip(risk.unflatten(theta).values(), risk.parameters, strict=True):
            parameter.copy_(part)


def quadratic(curvature, start, dtype=torch.float64):
    """The loss curvature x^2 / 2, from a start."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=dtype)
    with torch.no_grad():
        model.weight.fill_(start)
    x = torch.full((1, 1), curvature**0.5, dtype=dtype)
    return EmpiricalRisk(model, "mse", (x, 0 * x))


def after(curvature, start, steps, **options):
    risk = quadratic(curvature, start)
    sam = SharpnessAware(risk.parameters, **options)
    # However far off it ends: the orbit may lie much higher than the start.
    train(risk, steps, optimizer=sam, divergence_factor=1e30, progress=False)
    return risk.flat().item()


# The step


def test_a_step_is_the_definition():
    risk = network()
    theta = risk.flat().detach().clone()
    g = risk.gradient().detach().clone()
    put(risk, theta + 0.2 * g / g.norm())
    uphill = risk.gradient().detach().clone()
    assert (uphill - g).norm() > 0.01 * g.norm(), "the radius makes a difference"
    put(risk, theta)
    train(risk, 1, optimizer=SharpnessAware(risk.parameters, lr=0.3, radius=0.2), progress=False)
    # One rounding of a number of size one, a few times over.
    assert torch.allclose(risk.flat(), theta - 0.3 * uphill, rtol=0, atol=1e-14)


def test_groups_share_the_norm_and_have_radii_of_their_own():
    """The weights alone are moved uphill, by the norm of the whole gradient."""
    risk = network()
    theta = risk.flat().detach().clone()
    g = risk.gradient().detach().clone()
    first = [p for p in risk.parameters if p.ndim == 2]
    second = [p for p in risk.parameters if p.ndim == 1]
    mask = torch.cat([torch.full_like(p, p.ndim == 2).flatten() for p in risk.parameters])
    put(risk, theta + 0.2 * mask * g / g.norm())
    uphill = risk.gradient().detach().clone()
    put(risk, theta)
    groups = [{"params": first}, {"params": second, "radius": 0.0, "lr": 0.1}]
    train(risk, 1, optimizer=SharpnessAware(groups, lr=0.3, radius=0.2), progress=False)
    rates = 0.1 + 0.2 * mask
    assert torch.allclose(risk.flat(), theta - rates * uphill, rtol=0, atol=1e-14)


def test_without_a_radius_it_is_gradient_descent_to_the_last_bit():
    ours, plain = network(), network()
    sam = SharpnessAware(ours.parameters, lr=0.3, radius=0.0)
    train(ours, 20, optimizer=sam, progress=False)
    gradient_descent(plain, 0.3, 20, progress=False)
    assert torch.equal(ours.flat(), plain.flat())


def test_at_rest_it_stays():
    assert after(2.0, 0.0, 3, lr=0.1, radius=0.5) == 0.0


def test_it_follows_a_schedule_and_a_copy_goes_on_alike():
    risk = network()
    sam = SharpnessAware(risk.parameters, lr=1.0, radius=0.1)
    train(risk, 3, optimizer=sam, learning_rate=lambda t: 0.1 + 0.1 * t, progress=False)
    assert sam.param_groups[0]["lr"] == pytest.approx(0.3)
    assert pickle.loads(pickle.dumps(sam)).state_dict() == sam.state_dict()
    other = copy.deepcopy(risk)
    again = SharpnessAware(other.parameters, lr=9.0)
    again.load_state_dict(sam.state_dict())
    for r, optimizer in ((risk, sam), (other, again)):
        train(r, 5, optimizer=optimizer, progress=False)
    assert torch.equal(risk.flat(), other.flat())


def test_a_parameter_without_gradient_is_left_alone():
    x, idle = (torch.ones(2, requires_grad=True) for _ in range(2))
    sam = SharpnessAware([x, idle], lr=0.5, radius=0.1)

    def closure():
        sam.zero_grad()
        loss = x.square().sum()
        loss.backward()
        return loss

    assert sam.step(closure).item() == 2.0
    assert torch.equal(idle, torch.ones(2))
    assert (x < 1).all()


# What it does on a quadratic

POSITIVE = st.floats(0.05, 20.0)


@given(POSITIVE, st.floats(0.05, 0.95), POSITIVE, POSITIVE)
@example(1.0, 0.5, 0.25, 1.0)
def test_it_ends_on_either_side_of_a_minimum(curvature, c, radius, start):
    """At c = eta lambda / 2 < 1 it tends to the sides +-X, X = c rho / (1 - c).

    For c < 1/2 it first comes down: x + rho by the factor 1 - 2c, until x <= 2c rho / (1 - 2c), in
    T < 57 steps here. From there, and for c >= 1/2 at once, it changes sides, and |x| - X goes by
    the factor 2c - 1. At T it is at most X / (1 - 2c), and (1 - 2c)^T at least rho / (start + rho).
    """
    rate, steps = 2 * c / curvature, 60
    side = c * radius / (1 - c)
    left = abs(1 - 2 * c) ** (steps - 1) * (start + radius) * max(1, side / radius)
    ends = [after(curvature, start, n, lr=rate, radius=radius) for n in (steps, steps + 1)]
    assert abs(abs(ends[0]) - side) <= left + 1e-9 * side
    assert ends[0] * ends[1] < 0


@given(st.floats(0.01, 10.0), st.floats(0.0, 10.0), st.floats(1e-6, 1e6))
@example(0.1, 0.0, 1.0)
@example(0.1, 1e-9, 1e6)
def test_the_edge_solves_its_equation(rate, radius, norm):
    edge = float(sharpness_aware_edge(rate, radius, norm))
    assert rate * edge * (1 + radius * edge / norm) == pytest.approx(2, rel=1e-12)
    assert 0 < edge <= 2 / rate * (1 + 1e-15)


@given(st.floats(0.1, 2.0), st.floats(0.01, 1.0), st.floats(0.1, 10.0), st.floats(0.8, 1.2))
def test_a_step_shrinks_below_the_edge_and_grows_beyond(rate, radius, norm, share):
    edge = float(sharpness_aware_edge(rate, radius, norm))
    curvature = share * edge
    x = norm / curvature  # where the gradient has that norm
    moved = after(curvature, x, 1, lr=rate, radius=radius)
    # The factor is 1 - share 2 (1 + rho share edge / |g|) / (1 + rho edge / |g|).
    if share < 1 - 1e-9:
        assert abs(moved) < x
    if share > 1 + 1e-9:
        assert abs(moved) > x


def test_the_edge_at_the_ends():
    assert np.array_equal(sharpness_aware_edge(0.1, 0.0, [0.0, 1.0]), [20.0, 20.0])
    assert np.array_equal(sharpness_aware_edge(0.1, 0.05, [0.0]), [0.0])
    small = 1e-12
    # Up to the next order, |g| / 2 rho, a millionth of it.
    expected = np.sqrt(2 * small / (0.1 * 0.05))
    assert float(sharpness_aware_edge(0.1, 0.05, small)) == pytest.approx(expected, rel=1e-5)
    assert sharpness_aware_edge(0.1, 0.05, np.ones((2, 3))).shape == (2, 3)


# Refusals


@pytest.mark.parametrize(
    "wrong", [{"lr": -1.0}, {"lr": float("nan")}, {"radius": -0.1}, {"radius": "0.1"}]
)
def test_a_wrong_option_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SharpnessAware([torch.ones(1, requires_grad=True)], **wrong)


def test_what_is_no_parameter_or_closure_is_refused():
    with pytest.raises(TypeError, match="params must be tensors"):
        SharpnessAware([])
    sam = SharpnessAware([torch.ones(1, requires_grad=True)])
    with pytest.raises(ValueError, match="closure must evaluate the loss"):
        sam.step()
    with pytest.raises(TypeError, match="closure"):
        sam.step(3)
    with pytest.raises(ValueError, match="param_group must be a dict"):
        sam.add_param_group({"lr": 0.1})
    for name, arguments in (
        ("learning_rate", (0.0, 0.1, 1.0)),
        ("radius", (0.1, -0.1, 1.0)),
        ("gradient_norm", (0.1, 0.1, -1.0)),
    ):
        with pytest.raises(ValueError, match=name):
            sharpness_aware_edge(*arguments)
