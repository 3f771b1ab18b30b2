"""curvature.directional: quotients, critical rates and batches against dense derivatives."""

import math

import pytest
import torch
from curvature_cases import CASES, EXAMPLES
from torch import nn

from flatminima import curvature
from flatminima.curvature import (
    ConvergenceError,
    EmpiricalRisk,
    MatrixOperator,
    NondeterministicRiskError,
)

EPS = torch.finfo(torch.float64).eps


def case(name):
    return next(c for c in CASES if c.name == name).build()


def quotient(matrix, vector):
    return float(vector @ matrix @ vector / (vector @ vector))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_directional_sharpness_is_the_quotient_of_the_dense_hessian(case):
    problem = case.build()
    hessian = problem.dense_hessian()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(problem.size, generator=generator, dtype=torch.float64)
    # As a product of the operator, by its tests, with a unit vector on both sides.
    allowed = 1000 * EPS * max(1, float(hessian.abs().sum(0).max()))
    found = curvature.directional_sharpness(problem, direction)
    assert abs(found - quotient(hessian, direction)) <= allowed
    gradient = torch.func.grad(problem.at)(problem.flat())
    along = curvature.directional_sharpness(problem)
    assert abs(along - quotient(hessian, gradient)) <= allowed * 10
    assert curvature.directional_sharpness(problem.hessian()) == along


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_length_of_a_direction_does_not_matter(dtype):
    matrix = MatrixOperator(torch.diag(torch.tensor([3.0, 1.0, -2.0], dtype=dtype)))
    direction = torch.tensor([1.0, 2.0, -1.0], dtype=dtype)
    expected = (3 + 4 - 2) / 6
    for factor in (1e-30, 1.0, 1e30):  # squares of the first and the last are out of float32
        found = curvature.directional_sharpness(matrix, factor * direction)
        assert found == pytest.approx(expected, rel=20 * torch.finfo(dtype).eps)


def test_it_lies_between_the_eigenvalues_and_reaches_the_largest():
    problem = case("mlp-tanh-mse")
    values, vectors = torch.linalg.eigh(problem.dense_hessian())
    top = curvature.directional_sharpness(problem, vectors[:, -1])
    assert top == pytest.approx(float(values[-1]), rel=1e-10)
    assert values[0] < curvature.directional_sharpness(problem) < values[-1]


def at_minimum():
    """A risk with no loss and so no gradient."""
    model = nn.Linear(2, 1).double()
    x = torch.ones(3, 2, dtype=torch.float64)
    return EmpiricalRisk(model, "mse", (x, model(x).detach()))


def test_bad_directions_are_refused():
    problem = case("mlp-tanh-mse")
    n = problem.size
    matrix = MatrixOperator(torch.eye(2))
    for attempt, message in (
        (lambda: curvature.directional_sharpness(matrix), "given for a MatrixOperator, got none"),
        (lambda: curvature.directional_sharpness(matrix, torch.zeros(2)), "must not be zero"),
        (lambda: curvature.directional_sharpness(matrix, torch.ones(3)), r"\(2,\), got \(3,\)"),
        (lambda: curvature.directional_sharpness(at_minimum()), "the gradient must not be zero"),
        (lambda: curvature.critical_sharpness(at_minimum()), "update must not be zero"),
        (lambda: curvature.critical_sharpness(problem, torch.full((n,), math.nan)), "finite"),
        (lambda: curvature.critical_sharpness(problem, torch.ones(n - 1)), f"got .{n - 1},."),
        (lambda: curvature.critical_sharpness(problem, rate=0), "rate must be"),
        (lambda: curvature.critical_sharpness(problem, tol=1.0), "tol must be less than 1"),
        (lambda: curvature.critical_sharpness(problem, max_passes=2), "max_passes must be"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(TypeError, match="EmpiricalRisk or an operator"):
        curvature.directional_sharpness(torch.eye(2))


# --- critical sharpness


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1e-5, 0.51, 1.0, 1.9, 1e5])
def test_on_a_quadratic_it_is_the_directional_sharpness(dtype, factor):
    problem = next(c for c in CASES if c.name == "linear-mse").build(dtype)
    expected = curvature.directional_sharpness(problem)
    tol = 1 / 64
    found = curvature.critical_sharpness(problem, rate=factor * 2 / expected, tol=tol)
    # The loss crosses its first value with a slope of |g|^2: rounding moves the crossing by less
    # than 1e-4 even in float32, where the loss is of order one and so is the gradient.
    assert found.sharpness == pytest.approx(expected, rel=tol / (1 - tol) + 1e-4)
    assert found.sharpness == 2 / found.rate
    if 0.5 <= factor <= 2:  # the loss here, the guess and its double or half, and five bisections
        assert found.passes <= 8
        assert curvature.critical_sharpness(problem, rate=factor * 2 / expected).passes <= 6


def test_along_any_update_of_a_quadratic():
    problem = case("linear-mse")
    gradient, hessian = problem.gradient(), problem.dense_hessian()
    update = gradient.sign()
    # L(theta - eta D) - L(theta) = -eta g.D + eta^2 D.H D / 2 crosses zero at 2 g.D / D.H D.
    expected = float(update @ hessian @ update / (gradient @ update))
    found = curvature.critical_sharpness(problem, update, tol=1e-6)
    assert found.sharpness == pytest.approx(expected, rel=1e-6 + 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_falls_below_the_critical_rate_and_rises_above_it(case):
    problem = case.build()
    start, update, base = problem.flat(), problem.gradient(), problem.value()
    tol = 0.01
    found = curvature.critical_sharpness(problem, rate=0.5, tol=tol)
    assert torch.equal(problem.flat(), start), "put back to the bit"
    assert problem.at(start - found.rate * (1 - 2 * tol) * update) <= base
    assert problem.at(start - found.rate * (1 + 2 * tol) * update) > base


def test_batches_have_the_critical_rate_of_the_whole():
    problem = case("mlp-tanh-cross-entropy")
    parts = problem.in_batches([5, EXAMPLES - 5])
    whole = curvature.critical_sharpness(problem, tol=1e-6)
    assert curvature.critical_sharpness(parts, tol=1e-6).rate == pytest.approx(whole.rate, rel=2e-6)


def test_a_loss_that_is_not_finite_has_risen():
    model = nn.Linear(1, 1, bias=False).double()
    risk = EmpiricalRisk(
        model, lambda z, y: z.exp().mean() + (-z).exp().mean(), (real_ones(1), real_ones(1))
    )
    with torch.no_grad():
        model.weight.fill_(1.0)
    # L = e^w + e^-w is even: from w = 1 it is back at its value at w = -1.
    expected = 2 / float(risk.gradient())
    found = curvature.critical_sharpness(risk, rate=1e6, tol=1e-6)
    assert found.rate == pytest.approx(expected, rel=1.1e-6)


def real_ones(n):
    return torch.ones(n, 1, dtype=torch.float64)


@pytest.mark.parametrize("ascent", [True, False])
def test_where_there_is_no_critical_rate_it_says_so(ascent):
    """Along an ascent the loss rises at once, and a linear loss falls for ever."""
    problem = case("mlp-tanh-mse")
    if ascent:
        risk, update = problem, -problem.gradient()
    else:
        risk, update = EmpiricalRisk(nn.Linear(1, 1), lambda z, y: z.sum(), tensors()), None
    before = risk.flat()
    with pytest.raises(ConvergenceError, match="a direction of descent") as error:
        curvature.critical_sharpness(risk, update, max_passes=30)
    assert error.value.result.passes == 30
    assert (error.value.result.rate < 1e-6) == ascent
    assert torch.equal(risk.flat(), before)


def tensors():
    return torch.ones(2, 1), torch.ones(2, 1)


def test_parameters_are_put_back_after_an_error():
    problem = case("mlp-tanh-mse")
    before = problem.flat()
    calls = iter(range(5))

    def failing(outputs, targets):
        if next(calls) == 4:
            raise FloatingPointError("fails when the parameters have moved")
        return problem.loss_function(outputs, targets)

    risk = EmpiricalRisk(problem.model, failing, problem.data)
    with pytest.raises(FloatingPointError):
        curvature.critical_sharpness(risk)
    assert torch.equal(problem.flat(), before)


def test_a_noisy_risk_has_no_critical_rate():
    model = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    with pytest.raises(NondeterministicRiskError):
        curvature.critical_sharpness(EmpiricalRisk(model, "mse", tensors()))


# --- batch sharpness


@pytest.mark.parametrize("name", ["mlp-tanh-mse", "cnn-relu-cross-entropy"])
def test_batch_sharpness_is_the_mean_over_the_batches(name):
    problem = case(name)
    sizes = [5, 4, 3]
    values, start = [], 0
    for size in sizes:
        part = tuple(t[start : start + size] for t in problem.data)
        alone = type(problem)(problem.model, problem.loss_function, part)
        gradient = torch.func.grad(alone.at)(alone.flat())
        values.append(quotient(alone.dense_hessian(), gradient))
        start += size
    values = torch.tensor(values, dtype=torch.float64)
    found = curvature.batch_sharpness(problem.in_batches(sizes))
    assert found.value == pytest.approx(float(values.mean()), rel=1e-10)
    assert found.error == pytest.approx(float(values.std()) / math.sqrt(3), rel=1e-9)


def test_of_equal_batches_it_is_the_directional_sharpness():
    problem = case("mlp-tanh-mse")
    risk = EmpiricalRisk(problem.model, "mse", [problem.data, problem.data])
    along = curvature.directional_sharpness(problem)
    found = curvature.batch_sharpness(risk)
    assert found.value == pytest.approx(along, rel=1e-12)
    assert found.error == pytest.approx(0, abs=1e-12 * along)


def test_what_has_no_batches_is_refused():
    problem = case("mlp-tanh-mse")
    x = problem.data[0]
    fitted = problem.model(x).detach()
    for risk, message in (
        (problem, "data are batches, got one pair"),
        (problem.hessian(), "got HessianOperator"),
        (problem.in_batches([EXAMPLES]), "at least 2 batches, got 1"),
        (
            EmpiricalRisk(problem.model, "mse", [(x, fitted + 1), (x, fitted)]),
            "the gradient of batch 1 must not be zero",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            curvature.batch_sharpness(risk)
