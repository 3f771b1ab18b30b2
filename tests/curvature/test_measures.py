"""Measures of flatness against dense Hessians and sums, and what a rescaling may change."""

import pytest
import torch

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk

F64 = torch.float64


def case(activation="relu", seed=0, widths=(5, 4, 3, 2)):
    generator = torch.Generator().manual_seed(seed)
    model = models.mlp(list(widths), activation, seed=seed, dtype=F64)
    with torch.no_grad():
        for module in model:
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(generator=generator)
    x = torch.randn(20, widths[0], dtype=F64, generator=generator)
    y = torch.randn(20, widths[-1], dtype=F64, generator=generator)
    return model, x, EmpiricalRisk(model, "mse", (x, y))


def dense_hessian(risk, parameters):
    gradient = torch.autograd.grad(
        risk.loss(), parameters, create_graph=True, materialize_grads=True
    )
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        for entry in flat
    ]
    return torch.stack([torch.cat([r.flatten() for r in row]) for row in rows])


def flat(parameters):
    return torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("exponent", [-6, 3])
def test_rescaling_by_a_power_of_two_keeps_the_function_to_the_bit(layer, exponent):
    model, x, _ = case()
    before, weights = model(x), flat(model.parameters())
    curvature.rescale(model, layer, 2.0**exponent)
    assert torch.equal(model(x), before)
    assert not torch.equal(flat(model.parameters()), weights)


def test_rescaling_makes_a_network_as_sharp_as_one_likes_but_not_adaptively():
    model, _, risk = case()
    sharpness, adaptive = [], []
    for _ in range(4):
        sharpness.append(curvature.sharpness(risk, tol=1e-9))
        adaptive.append(curvature.adaptive_sharpness(risk, tol=1e-9))
        curvature.rescale(model, 0, 0.125)
    # The block of the rescaled layer grows 64-fold each time, and lambda_1 is at least its largest.
    assert sharpness[3] > 100 * sharpness[2] / 2
    assert sharpness[3] > 1000 * sharpness[0]
    # The eigensolver's tolerance is 1e-9 of the largest eigenvalue.
    assert adaptive == pytest.approx([adaptive[0]] * 4, rel=4e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_adaptive_sharpness_is_that_of_the_scaled_dense_hessian(activation):
    _, _, risk = case(activation)
    parameters = risk.parameters
    with torch.no_grad():
        parameters[0][0, 0] = 0.0  # a weight of zero is not perturbed at all
    sizes = flat(parameters).abs()
    matrix = sizes[:, None] * dense_hessian(risk, parameters) * sizes
    expected = float(torch.linalg.eigvalsh(matrix)[-1])
    assert curvature.adaptive_sharpness(risk, tol=1e-9) == pytest.approx(expected, rel=2e-9)


def test_relative_flatness_is_the_weighted_sum_of_traces():
    model, _, risk = case("tanh")
    weight = model[-1].weight
    m, n = weight.shape
    blocks = dense_hessian(risk, [weight]).reshape(m, n, m, n)
    traces = torch.einsum("ajbj->ab", blocks)
    expected = (weight @ weight.T * traces).sum().item()
    generator = torch.Generator().manual_seed(0)
    estimate = curvature.relative_flatness(risk, weight, samples=2000, generator=generator)
    # A normal estimate is more than 5 standard errors off once in a million runs.
    assert abs(estimate.value - expected) < 5 * estimate.error
    assert estimate.error < 0.1 * expected


def test_relative_flatness_does_not_change_under_rescaling():
    model, _, risk = case()
    values = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        weight = model[-1].weight
        values.append(
            curvature.relative_flatness(risk, weight, samples=5, generator=generator).value
        )
        curvature.rescale(model, 1, 8.0)
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def scaled_estimate(risk, radius):
    estimate = curvature.average_sharpness(
        risk, radius=radius, samples=2000, generator=torch.Generator().manual_seed(0)
    )
    return estimate.value / radius**2, estimate.error / radius**2


def test_average_sharpness_is_half_the_scaled_trace_for_a_small_radius():
    _, _, risk = case("tanh")
    parameters = risk.parameters
    sizes, hessian = flat(parameters).abs(), dense_hessian(risk, parameters)
    expected = float((sizes**2 * hessian.diagonal()).sum()) / 2
    before = flat(parameters)
    radius = 1e-3
    value, error, doubled = [
        estimate for r in (radius, 2 * radius) for estimate in scaled_estimate(risk, r)
    ][:3]
    # Sampling error; and the fourth-order term, of which doubling the radius shows three times.
    assert abs(value - expected) < 5 * error + abs(doubled - value)
    assert error < 0.1 * expected
    assert torch.equal(flat(parameters), before)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: curvature.rescale(case()[0], 2, 2.0), "layer must be from 0 to 1"),
        (lambda: curvature.rescale(case()[0], 0, 0.0), "factor"),
        (lambda: curvature.rescale(case("tanh")[0], 0, 2.0), "Tanh"),
        (
            lambda: curvature.relative_flatness(
                case()[2], case()[0][-1].bias, samples=2, generator=torch.Generator()
            ),
            "weight must have shape",
        ),
        (
            lambda: curvature.average_sharpness(
                case()[2], radius=1.0, samples=1, generator=torch.Generator()
            ),
            "samples",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, names):
    with pytest.raises(ValueError, match=names):
        call()
