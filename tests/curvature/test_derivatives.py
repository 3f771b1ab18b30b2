"""curvature.derivatives: sharpness gradient (G1), rotation field (G2), directional derivatives."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import sympy as sp
import torch
from curvature_cases import CASES, SMOOTH
from numpy.polynomial import Polynomial

from flatminima import curvature
from flatminima.curvature import HessianOperator, MatrixOperator
from flatminima.theory.scalar_network import ScalarNetwork

EPS = np.finfo(float).eps
# Derivatives are sums of a few thousand products, nested three or four deep, whose intermediate
# terms are larger than the result by a factor of ten at most.
ROUNDING = 1e4 * EPS
REPEATED = "linear-mse"
SIMPLE = [case for case in CASES if str(case) != REPEATED]
ROTATING = [case for case in SMOOTH if str(case) != REPEATED]


def dense_pairs(problem):
    values, columns = torch.linalg.eigh(problem.dense_hessian())
    return values.flip(0), columns.T.flip(0)


def dense_rotation(problem):
    values, vectors = dense_pairs(problem)
    gradient = problem.dense_third(vectors[0]) @ vectors[0]
    rates = (vectors[1:] @ gradient) / (values[0] - values[1:])
    return rates @ vectors[1:], gradient, values, vectors


def diagonal(depth, target, theta):
    """A loss of torch on the parameters of a ScalarNetwork, and a direction."""
    theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    return HessianOperator(lambda: 0.5 * (theta.prod() - target) ** 2, [theta])


@functools.cache
def depth_two_exactly():
    """Gradient of lambda_1 and the rotation field at depth two, by SymPy: functions of a, b, y."""
    a, b, y = sp.symbols("a b y", real=True)
    hessian = sp.hessian((a * b - y) ** 2 / 2, (a, b))
    half = hessian.trace() / 2
    sharpness = half + sp.sqrt(half**2 - hessian.det())
    gradient = [sp.diff(sharpness, t) for t in (a, b)]
    angle = sp.atan2(2 * hessian[0, 1], hessian[0, 0] - hessian[1, 1]) / 2
    vector = sp.Matrix([sp.cos(angle), sp.sin(angle)])
    turn = sp.diff(angle, a) * vector[0] + sp.diff(angle, b) * vector[1]
    return sp.lambdify((a, b, y), (gradient, [-turn * vector[1], turn * vector[0]]))


POINTS = [(2.0, 0.6, 1.0), (0.5, 1.7, 1.0), (1.2, -0.9, -2.0), (3.0, 0.1, 0.5), (1.0, 1.5, 2.5)]


@pytest.mark.parametrize(("a", "b", "y"), POINTS)
def test_G1_sharpness_gradient_at_depth_two(a, b, y):
    exact = np.array(depth_two_exactly()(a, b, y)[0])
    operator = diagonal(2, y, [a, b])
    v = torch.tensor(ScalarNetwork(2, y).leading_eigenvector([a, b]))
    result = curvature.sharpness_gradient(operator, eigenvector=v)
    np.testing.assert_allclose(result, exact, rtol=0, atol=ROUNDING * np.linalg.norm(exact))
    # By default the eigenvector is found by the eigensolver, exactly in two dimensions.
    result = curvature.sharpness_gradient(operator)
    np.testing.assert_allclose(result, exact, rtol=0, atol=ROUNDING * np.linalg.norm(exact))


@pytest.mark.parametrize("case", SIMPLE, ids=str)
def test_G1_sharpness_gradient_against_the_dense_third_derivative(case):
    problem = case.build()
    _, gradient, values, vectors = dense_rotation(problem)
    scale = max(float(gradient.norm()), float(values.abs().max()))
    for sign, factor in ((1, 1.0), (-1, 3.0)):  # neither sign nor length matters
        result = curvature.sharpness_gradient(problem, eigenvector=sign * factor * vectors[0])
        assert (result - gradient).norm() <= ROUNDING * scale
    # With its own eigenvector: twice the angle, at most residual / gap, times T, and once more
    # the square of it for the second order.
    tol = 1e-6
    result = curvature.sharpness_gradient(problem, tol=tol)
    turn = tol * float(values.abs().max() / (values[0] - values[1]))
    third = float(torch.linalg.matrix_norm(problem.dense_third(vectors[0]), 2))
    assert (result - gradient).norm() <= 2 * turn * (1 + turn) * third + ROUNDING * scale


@pytest.mark.parametrize("case", ROTATING, ids=str)
def test_G1_is_the_slope_of_the_sharpness(case):
    problem = case.build()
    gradient = curvature.sharpness_gradient(problem, tol=1e-10)
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(len(gradient), generator=generator, dtype=torch.float64)
    direction /= direction.norm()

    def slope(h):
        ends = [
            torch.linalg.eigvalsh(torch.func.hessian(problem.at)(problem.flat() + s * direction))
            for s in (h, -h)
        ]
        return float(ends[0][-1] - ends[1][-1]) / (2 * h)

    # The central difference errs by c h^2: three step sizes give c, and confirm the power.
    exact = float(gradient @ direction)
    coarse, fine = slope(2e-2) - exact, slope(1e-2) - exact
    floor = 100 * EPS * float(problem.dense_hessian().abs().max()) * len(gradient) / 1e-2
    assert abs(fine) <= abs(coarse) / 3 + floor, "halving h quarters the error"
    assert abs(slope(1e-3) - exact) <= abs(coarse) / 200 + 10 * floor


def test_sharpness_gradient_needs_a_simple_eigenvalue():
    problem = next(case for case in CASES if str(case) == REPEATED).build()
    with pytest.raises(ValueError, match="simple"):
        curvature.sharpness_gradient(problem)
    # The Hessian of a linear model is constant: along any eigenvector the gradient is zero.
    vector = torch.ones(len(problem.flat()), dtype=torch.float64)
    result = curvature.sharpness_gradient(problem, eigenvector=vector)
    assert result.abs().max() == 0


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_directional_derivatives_of_a_polynomial(depth):
    generator = np.random.default_rng(depth)
    theta, direction = generator.normal(size=(2, depth))
    residual = -0.7 + math.prod(Polynomial(pair) for pair in zip(theta, direction, strict=True))
    coefficients = np.zeros(5)
    exact = (residual**2 / 2).coef[:5]
    coefficients[: len(exact)] = exact
    expected = coefficients * [math.factorial(k) for k in range(5)]
    operator = diagonal(depth, 0.7, theta)
    result = curvature.directional_derivatives(operator, torch.tensor(direction))
    np.testing.assert_allclose(result, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_directional_derivatives_against_dense_tensors(case):
    problem = case.build()
    operator = problem.hessian()
    n = operator.shape[0]
    generator = torch.Generator().manual_seed(2)
    d = torch.randn(n, generator=generator, dtype=torch.float64)
    expected = [problem.loss().detach(), operator.gradient @ d, d @ problem.dense_hessian() @ d]
    expected.append(d @ problem.dense_third(d) @ d)
    # The fourth, by forward mode over the third: not the way in which the library takes it.
    point, value = problem.flat(), problem.at

    def third(s):
        inner = lambda r: torch.func.jvp(value, (point + (s + r) * d,), (d,))[1]  # noqa: E731
        second = lambda r: torch.func.jvp(inner, (r,), (torch.ones_like(r),))[1]  # noqa: E731
        return torch.func.jvp(second, (torch.zeros_like(s),), (torch.ones_like(s),))[1]

    zero = torch.zeros((), dtype=torch.float64)
    fourth = torch.func.jvp(third, (zero,), (torch.ones_like(zero),))[1]
    expected = torch.stack([*expected, fourth])
    result = curvature.directional_derivatives(operator, d)
    assert torch.allclose(result, expected, rtol=0, atol=ROUNDING * float(expected.abs().max()))
    for order in (1, 2, 3):
        lower = curvature.directional_derivatives(operator, d, order=order)
        assert torch.equal(lower, result[: order + 1])


@pytest.mark.parametrize("case", [SMOOTH[0], SMOOTH[1]], ids=str)
def test_batches_give_the_same_derivatives(case):
    problem = case.build()
    whole = problem.hessian()
    batched = problem.in_batches([5, 4, 3]).hessian()
    v = dense_pairs(problem)[1][0]
    one, many = (curvature.directional_derivatives(o, v) for o in (whole, batched))
    assert torch.allclose(one, many, rtol=0, atol=ROUNDING * float(one.abs().max()))
    one, many = (curvature.sharpness_gradient(o, eigenvector=v) for o in (whole, batched))
    assert torch.allclose(one, many, rtol=0, atol=ROUNDING * float(one.norm()))


@pytest.mark.parametrize(("a", "b", "y"), POINTS)
def test_G2_rotation_field_at_depth_two(a, b, y):
    exact = np.array(depth_two_exactly()(a, b, y)[1])
    operator = diagonal(2, y, [a, b])
    for tol in (None, 1e-12):
        result = curvature.rotation_field(operator, tol=tol)
        # The gap divides the rounding of the gradient; it exceeds 1/10 of lambda_1 at all points.
        np.testing.assert_allclose(
            result.field, exact, rtol=0, atol=10 * ROUNDING * np.linalg.norm(exact)
        )


@pytest.mark.parametrize("case", ROTATING, ids=str)
def test_G2_rotation_field_truncated_and_exact(case):
    problem = case.build()
    exact, gradient, values, vectors = dense_rotation(problem)
    operator = problem.hessian()
    gap = float(values[0] - values[1])
    # Pairs to a residual of 1e-9 turn v_1 by 1e-9 lambda_1 / gap; the gradient follows with twice
    # that times T, and dividing by the gap makes it an error of the field.
    third = float(torch.linalg.matrix_norm(problem.dense_third(vectors[0]), 2))
    turn = 1e-9 * float(values.abs().max()) / gap
    slack = 4 * turn * (third + float(gradient.norm())) / gap + turn * float(exact.norm())
    truncated = {}
    for k in (2, 5):
        pairs = curvature.top_eigenpairs(operator, k=k, tol=1e-9)
        truncated[k] = result = curvature.rotation_field(operator, pairs=pairs)
        error = float((result.field - exact).norm())
        assert error <= result.error_bound + slack, "the bound holds"
        assert abs(result.field @ pairs.eigenvectors[0]) <= ROUNDING * float(exact.norm()) + slack
        tol = 1e-8
        solved = curvature.rotation_field(operator, pairs=pairs, tol=tol)
        assert solved.residual <= tol * float(gradient.norm())
        assert (solved.field - exact).norm() <= solved.error_bound + slack
        assert solved.error_bound <= 2 * tol * float(gradient.norm()) / gap
    # All eigenpairs: nothing is truncated.
    full = dataclasses.replace(
        pairs, eigenvalues=values, eigenvectors=vectors, residuals=torch.zeros_like(values),
        converged=torch.ones_like(values, dtype=torch.bool),
    )  # fmt: skip
    whole = curvature.rotation_field(operator, pairs=full)
    assert (whole.field - exact).norm() <= ROUNDING * float(gradient.norm()) / gap


@pytest.mark.parametrize("case", [ROTATING[0], ROTATING[1]], ids=str)
def test_G2_the_eigenvector_turns_with_the_rotation_field(case):
    problem = case.build()
    _, _, _, vectors = dense_rotation(problem)
    v = vectors[0]
    field = curvature.rotation_field(problem, k=10, tol=1e-10).field

    def error(x):
        hessian = torch.func.hessian(problem.at)(problem.flat() + x * v)
        w = torch.linalg.eigh(hessian)[1][:, -1]
        w = w / (w @ v)  # to first order a rotation leaves the component along v at one
        return float((w - v - x * field).norm())

    assert error(1e-3) <= 1e-3 * float(field.norm()), "the turn itself is of first order"
    assert error(5e-4) <= error(1e-3) / 3, "and what is left is of second order"


def test_rotation_field_counts_its_products_and_stops():
    problem = ROTATING[0].build()
    operator = problem.hessian()
    pairs = curvature.top_eigenpairs(operator, k=3, tol=1e-8)
    before = operator.products
    result = curvature.rotation_field(operator, pairs=pairs)
    assert result.products == operator.products - before == 1
    with pytest.raises(curvature.ConvergenceError) as caught:
        curvature.rotation_field(operator, pairs=pairs, tol=1e-10, max_products=4)
    assert caught.value.result.products == 4
    assert caught.value.result.error_bound < result.error_bound


def test_float32_agrees_with_float64_to_its_rounding():
    double, single = (ROTATING[0].build(dtype) for dtype in (torch.float64, torch.float32))
    exact, gradient, values, vectors = dense_rotation(double)
    result = curvature.sharpness_gradient(single, eigenvector=vectors[0].float())
    assert result.dtype == torch.float32
    rounding = ROUNDING * np.finfo(np.float32).eps / EPS
    assert (result - gradient).norm() <= rounding * gradient.norm()
    field = curvature.rotation_field(single, k=4, tol=1e-4).field
    # The eigenvector to 1e-5 and the solution to 1e-4, both over the gap.
    condition = float(values[0] / (values[0] - values[1]))
    assert (field - exact).norm() <= 1e-3 * condition**2 * exact.norm()


def test_bad_arguments_are_named():
    problem = SMOOTH[0].build()
    operator = problem.hessian()
    n = operator.shape[0]
    ones = torch.ones(n, dtype=torch.float64)
    with pytest.raises(ValueError, match="order must be at most 4"):
        curvature.directional_derivatives(operator, ones, order=5)
    with pytest.raises(ValueError, match="direction must be finite"):
        curvature.directional_derivatives(operator, ones[1:])
    with pytest.raises(ValueError, match="eigenvector must hold"):
        curvature.sharpness_gradient(operator, eigenvector=ones * torch.nan)
    with pytest.raises(ValueError, match="eigenvector must not be zero"):
        curvature.sharpness_gradient(operator, eigenvector=0 * ones)
    with pytest.raises(ValueError, match="HessianOperator"):
        curvature.sharpness_gradient(MatrixOperator(torch.eye(3)))
    with pytest.raises(ValueError, match="k must be a whole number of at least 2"):
        curvature.rotation_field(operator, k=1)
    one = curvature.top_eigenpairs(operator, k=1)
    with pytest.raises(ValueError, match="at least 2 eigenvectors"):
        curvature.rotation_field(operator, pairs=one)
    low = curvature.top_eigenpairs(operator, k=2, which="smallest")
    with pytest.raises(ValueError):  # which check meets it first depends on the signs
        curvature.rotation_field(operator, pairs=low, tol=1e-6)
    with torch.no_grad():
        problem.parameters[0].add_(1.0)
    with pytest.raises(RuntimeError, match="changed"):
        curvature.sharpness_gradient(operator, eigenvector=ones)
