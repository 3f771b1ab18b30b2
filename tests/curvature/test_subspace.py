"""curvature._subspace: orthonormal, true residuals, the same at every scale, and it always ends."""

import contextlib

import numpy as np
import pytest
import torch
from curvature_cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from flatminima.curvature import (
    ConvergenceError,
    DerivativeError,
    EigenTracker,
    EmpiricalRisk,
    HessianOperator,
    MatrixOperator,
    SymmetricOperator,
    top_eigenpairs,
)
from flatminima.curvature._subspace import Subspace

F64 = torch.float64
EPS = torch.finfo(F64).eps


def symmetric(n, seed=0):
    draw = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return (draw + draw.T) / 2


@given(seed=st.integers(0, 10**6), sign=st.sampled_from([1.0, -1.0]), n=st.integers(1, 12))
def test_the_basis_is_orthonormal_and_the_images_are_products(seed, sign, n):
    matrix = symmetric(n, seed)
    space = Subspace(MatrixOperator(matrix), 100, sign)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(4):
        space.expand(torch.randn(3, n, generator=generator, dtype=F64))
    rows, images = space.rows[: space.used], space.images[: space.used]
    assert space.used == min(n, 12) == space.products
    assert (rows @ rows.T - torch.eye(len(rows), dtype=F64)).abs().max() <= 100 * EPS
    size = float(matrix.abs().sum())
    assert (images * space.unit - sign * rows @ matrix).abs().max() <= 100 * EPS * size
    if space.used == n:
        exact = torch.linalg.eigvalsh(sign * matrix).flip(0).numpy()
        assert np.allclose(space.unit * space.values, exact, rtol=0, atol=1e-13 * size)


def test_directions_that_are_there_already_cost_nothing():
    space = Subspace(MatrixOperator(symmetric(5)), 100)
    row = torch.arange(1.0, 6.0, dtype=F64)[None]
    assert space.expand(row) == 1
    assert space.expand(torch.cat([-3 * row, 0 * row, 1e-200 * row])) == 0
    assert space.products == 1


@pytest.mark.parametrize("exponent", [-900, -60, 60, 900])
def test_eigenpairs_are_equivariant_under_scaling_to_the_bit(exponent):
    matrix = symmetric(30)
    for which in ("largest", "smallest", "both"):
        one = top_eigenpairs(MatrixOperator(matrix), 3, which)
        other = top_eigenpairs(MatrixOperator(matrix * 2.0**exponent), 3, which)
        assert torch.equal(other.eigenvalues, one.eigenvalues * 2.0**exponent)
        assert torch.equal(other.eigenvectors, one.eigenvectors)
        assert torch.equal(other.residuals, one.residuals * 2.0**exponent)
        assert other.products == one.products
    trackers = EigenTracker(2), EigenTracker(2)
    for step in range(4):
        moved = matrix + 0.1 * step * torch.diag(torch.arange(30.0, dtype=F64))
        point = torch.full((30,), 0.1 * step, dtype=F64)
        one, other = (
            tracker.update(MatrixOperator(moved * scale), point=point)
            for tracker, scale in zip(trackers, (1.0, 2.0**exponent), strict=True)
        )
        assert torch.equal(other.eigenvalues, one.eigenvalues * 2.0**exponent)
        assert torch.equal(other.eigenvectors, one.eigenvectors)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1e-22), (torch.float64, 1e160)])
@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_a_loss_of_any_scale_has_its_eigenvalues(case, dtype, factor):
    """Squares of such products under- or overflow; their sizes do not."""
    problem = case.build(dtype)
    exact = torch.linalg.eigvalsh(case.build().dense_hessian()).flip(0)[:3]
    scaled = HessianOperator(lambda: factor * problem.loss(), problem.parameters)
    for pairs in (top_eigenpairs(scaled, 3), EigenTracker(3, 1e-4).update(scaled)):
        assert torch.allclose(
            pairs.eigenvalues / factor, exact, rtol=0, atol=2e-4 * float(exact[0])
        )


# --- it ends, and says so, where the products are not those of one symmetric matrix


class Noisy(SymmetricOperator):
    """Another matrix at each product."""

    def __init__(self, n=20):
        super().__init__(n, F64, torch.device("cpu"))
        self.generator = torch.Generator().manual_seed(0)

    def _products(self, rows):
        noise = torch.randn(rows.shape, generator=self.generator, dtype=F64)
        return rows * torch.arange(self.shape[0]) + noise


class Skewed(SymmetricOperator):
    """A matrix of rank two that is not symmetric by one part in ten thousand."""

    def __init__(self, n=30):
        super().__init__(n, F64, torch.device("cpu"))
        u, v = torch.randn(2, n, generator=torch.Generator().manual_seed(1), dtype=F64)
        self.matrix = torch.outer(u, u) + 0.5 * torch.outer(v, v) + 1e-4 * torch.outer(u, v)

    def _products(self, rows):
        return rows @ self.matrix.T


@pytest.mark.parametrize("make", [Noisy, Skewed])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_it_ends_within_its_products(make, tol):
    for attempt in (
        lambda operator: top_eigenpairs(operator, 2, tol=tol, max_products=60),
        lambda operator: EigenTracker(2, tol, max_products=30).update(operator),
    ):
        operator = make()
        with contextlib.suppress(ConvergenceError):
            attempt(operator)
        assert operator.products <= 100


def test_a_stochastic_loss_and_one_near_zero_end():
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-9.0], [9.0]]))
    x = torch.cat([torch.linspace(-3, -1, 10), torch.linspace(1, 3, 10)])[:, None]
    for dtype in (torch.float32, F64):
        data = x.to(dtype), (x[:, 0] > 0).long()
        operator = EmpiricalRisk(model.to(dtype), "cross_entropy", data).hessian()
        # In float32 p (1 - p) is all rounding: products of no symmetric matrix, so that it may end
        # with an error, or that is seen before.
        with contextlib.suppress(ConvergenceError, DerivativeError):
            pairs = EigenTracker(1).update(operator)
        assert operator.products <= 600
    exact = float(torch.linalg.eigvalsh(operator.matmat(torch.eye(2, dtype=F64)))[-1])
    assert float(pairs.eigenvalues[0]) == pytest.approx(exact, rel=2e-3)

    layers = torch.nn.Linear(4, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 2)
    noisy = EmpiricalRisk(
        torch.nn.Sequential(*layers), "mse", (torch.randn(8, 4), torch.ones(8, 2)), check=False
    )
    operator = noisy.hessian()  # one graph, hence one draw
    EigenTracker(1).update(operator)
    assert operator.products <= 500
