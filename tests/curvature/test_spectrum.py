"""curvature.spectrum: trace, spectral density and lambda_min, against dense Hessians."""

import numpy as np
import pytest
import torch
from curvature_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima import curvature
from flatminima.curvature import MatrixOperator
from flatminima.curvature._subspace import random_rows

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**31 - 1)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def matrix_with(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues and random eigenvectors, with its parts."""
    values = torch.as_tensor(np.sort(eigenvalues), dtype=torch.float64)
    draw = torch.randn(len(values), len(values), generator=generator(seed), dtype=torch.float64)
    vectors = torch.linalg.qr(draw)[0]
    matrix = (vectors * values) @ vectors.T
    return MatrixOperator((matrix + matrix.T) / 2), values.numpy(), vectors.numpy()


NETWORK_LIKE = np.concatenate(
    [[40.0, 38.0, 30.0, -3.0], np.random.default_rng(3).normal(scale=0.2, size=120)]
)


# --- Trace ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_trace_is_exact_once_the_sketch_spans_everything(case):
    problem = case.build()
    hessian, operator = problem.dense_hessian(), problem.hessian()
    n = len(hessian)
    result = curvature.trace(operator, products=3 * n)
    assert operator.products == 2 * n
    assert result.error == 0
    assert abs(result.value - hessian.trace()) <= n * n * EPS * hessian.norm()


def test_trace_is_exact_on_a_matrix_of_low_rank():
    operator, values, _ = matrix_with([5.0, -2.0, 1.0] + 97 * [0.0])
    result = curvature.trace(operator, products=30)
    assert operator.products == 30
    rounding = 100 * 100 * EPS * 5
    assert abs(result.value - values.sum()) <= rounding
    assert result.error <= rounding


def test_trace_is_unbiased_and_knows_its_error():
    operator, values, _ = matrix_with(NETWORK_LIKE)
    runs = [curvature.trace(operator, products=24, generator=generator(s)) for s in range(400)]
    errors = np.array([run.value for run in runs]) - values.sum()
    spread = errors.std(ddof=1)
    assert abs(errors.mean()) <= 5 * spread / 20, "five standard errors of the mean"
    # Both variances come from 400 runs. The spread's has a relative error of sqrt(2 / 400) = 0.07
    # for normal errors, the mean of the stated ones, each from eight samples, about 0.03: 0.5 is
    # more than five standard errors of their ratio, with room for tails.
    stated = np.mean([run.error**2 for run in runs])
    assert 0.5 <= stated / spread**2 <= 1.5
    # And far better than signs alone at equal cost, whose variance is twice the sum of squares
    # off the diagonal.
    plain = 2 * (operator.matrix**2).sum() - 2 * (operator.matrix.diagonal() ** 2).sum()
    assert spread < 0.5 * float(plain / 24) ** 0.5


@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_trace_of_networks_in_batches(case):
    problem = case.build()
    whole, parts = problem.hessian(), problem.in_batches([5, 7])
    one, two = (curvature.trace(o, products=12, generator=generator(1)) for o in (whole, parts))
    size = float(problem.dense_hessian().norm()) * whole.shape[0]
    assert abs(one.value - two.value) <= 1e4 * EPS * size


# --- Density --------------------------------------------------------------------------------


def seen_by(values, vectors, operator, count, seed, grid, width):
    """The smoothed density as each of the random vectors sees it, from the dense eigenvectors."""
    source = generator(seed)
    n = len(values)
    kernels = np.exp(-0.5 * ((grid[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    rows = [random_rows(operator, 1, source, kind="signs")[0].numpy() for _ in range(count)]
    return np.array([kernels @ ((vectors.T @ row) ** 2 / n) for row in rows])


@given(seed=seeds, n=st.integers(2, 25))
@settings(max_examples=30, deadline=None)
def test_density_is_exact_at_full_length(seed, n):
    spectrum = np.random.default_rng(seed).normal(size=n)
    operator, values, vectors = matrix_with(spectrum, seed)
    result = curvature.spectral_density(operator, vectors=3, steps=n, generator=generator(seed))
    samples = seen_by(values, vectors, operator, 3, seed, result.grid, result.width)
    peak = 1 / (result.width * np.sqrt(2 * np.pi))
    # A node errs by n eps |H|, and the kernel's slope is at most peak / width.
    shift = 10 * n * EPS * np.abs(values).max() / result.width
    # Weights of a cluster with tiny gaps mix, but only within it, where the kernel is as flat.
    assert np.abs(result.density - samples.mean(0)).max() <= peak * (shift + 100 * n * EPS)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_density_integrates_to_one_and_carries_the_right_moments(seed):
    operator, values, vectors = matrix_with(NETWORK_LIKE, seed)
    result = curvature.spectral_density(operator, steps=20, vectors=4, generator=generator(seed))
    assert result.products == operator.products == 80
    np.testing.assert_allclose(result.weights.sum(1), 1, rtol=0, atol=200 * EPS)
    # The trapezoid rule is exact to rounding on Gaussians sampled at half their width; six widths
    # leave 2e-9 outside.
    assert np.trapezoid(result.density, result.grid) == pytest.approx(1, abs=1e-8)
    assert np.all(result.density >= 0)
    source, n = generator(seed), len(values)
    rows = [random_rows(operator, 1, source, kind="signs")[0].numpy() for _ in range(4)]
    for power in (0, 1, 2, 3, 8):  # a Gauss rule of 20 nodes: exact to degree 39
        exact = np.mean([((vectors.T @ row) ** 2) @ values**power for row in rows])
        size = n * np.abs(values).max() ** power
        assert abs(result.moment(power).value - exact) <= 100 * n * EPS * size


def test_density_with_fewer_steps_is_as_good_as_it_says():
    operator, values, vectors = matrix_with(np.random.default_rng(8).uniform(-1, 1, 300))
    for steps in (30, 60, 90):
        result = curvature.spectral_density(operator, steps=steps, vectors=3, width=0.03)
        samples = seen_by(values, vectors, operator, 3, 0, result.grid, result.width)
        peak = 1 / (result.width * np.sqrt(2 * np.pi))
        error = np.abs(result.density - samples.mean(0)).max() / peak
        # The stated size is that of one Chebyshev coefficient; some 1 / (s k) of them, a dozen
        # here, count on either side of the rule, beside the rounding of the basis.
        stated = np.exp(-8 * (steps * result.width / np.ptp(result.nodes)) ** 2)
        assert error <= 30 * stated + 1e-10
    assert stated < 1e-6


def test_density_and_moments_lie_within_their_errors_of_the_truth():
    operator, values, _ = matrix_with(NETWORK_LIKE)
    result = curvature.spectral_density(operator, steps=60, vectors=100)
    n = len(values)
    # Five standard errors from 100 vectors: each fails with a chance below 1e-5.
    for power in (1, 2, 3, 4):
        moment = result.moment(power)
        assert abs(moment.value - np.sum(values**power)) <= 5 * moment.error
    for low, high, count in ((20, np.inf, 3), (-np.inf, -1.5, 1), (-1.5, 20, n - 4)):
        share = result.share(low, high)
        assert abs(share.value - count / n) <= 5 * share.error
    assert result.share().value == pytest.approx(1, abs=200 * EPS)
    kernels = np.exp(-0.5 * ((result.grid[:, None] - values) / result.width) ** 2)
    exact = kernels.mean(1) / (result.width * np.sqrt(2 * np.pi))
    seen = result.error > 1e-3 * exact.max()
    assert seen.sum() > 20
    assert np.all(np.abs(result.density - exact)[seen] <= 6 * result.error[seen])


@pytest.mark.parametrize("case", [CASES[0], CASES[6], CASES[8], CASES[11]], ids=str)
def test_density_of_networks(case):
    """Repeated eigenvalues and rows of zeros among them: the recurrence ends early."""
    problem = case.build()
    operator = problem.hessian()
    values, vectors = (x.numpy() for x in torch.linalg.eigh(problem.dense_hessian()))
    result = curvature.spectral_density(operator, vectors=2, width=0.05, steps=200)
    assert np.trapezoid(result.density, result.grid) == pytest.approx(1, abs=1e-8)
    # The first vector's draw comes before any that the recurrence may have made.
    row = random_rows(operator, 1, generator(0), kind="signs")[0].numpy()
    weights = (vectors.T @ row) ** 2 / len(values)
    for power in (1, 2, 5):
        ours = result.weights[0] @ result.nodes[0] ** power
        size = np.abs(values).max() ** power
        assert abs(ours - weights @ values**power) <= 1e4 * EPS * size


def test_density_of_a_multiple_of_the_identity():
    operator = MatrixOperator(-3 * torch.eye(7, dtype=torch.float64))
    result = curvature.spectral_density(operator, vectors=2)
    assert result.share(-3 - 1e-9, -3 + 1e-9).value == pytest.approx(1, abs=100 * EPS)
    assert np.trapezoid(result.density, result.grid) == pytest.approx(1, abs=1e-8)


# --- The lower end --------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_lambda_min_against_the_dense_hessian(case):
    problem = case.build()
    values = torch.linalg.eigvalsh(problem.dense_hessian())
    result = curvature.lambda_min(problem, tol=1e-9)
    assert abs(result - values[0]) <= 1.1e-9 * values.abs().max()


def test_bad_arguments_are_named():
    operator = MatrixOperator(torch.eye(9))
    with pytest.raises(ValueError, match="products must be a whole number of at least 6"):
        curvature.trace(operator, products=5)
    with pytest.raises(ValueError, match="vectors must be a whole number of at least 2"):
        curvature.spectral_density(operator, vectors=1)
    with pytest.raises(ValueError, match="width must be a finite number greater than 0"):
        curvature.spectral_density(operator, width=0)
    result = curvature.spectral_density(operator, vectors=2)
    with pytest.raises(ValueError, match="low must be at most high"):
        result.share(1, 0)
    with pytest.raises(ValueError, match="power must be a whole number"):
        result.moment(-1)
