"""curvature.eigensolver: both ends of dense Hessians and of random spectra, and refusals."""

import math

import numpy as np
import pytest
import torch
from curvature_cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from flatminima.curvature import (
    ConvergenceError,
    MatrixOperator,
    SymmetricOperator,
    top_eigenpairs,
)

TOL = 1e-10
ENDS = ("largest", "smallest", "both")


def wanted(eigenvalues, k, which):
    """Descending, the k from the end asked for, of eigenvalues that ascend."""
    low, high = eigenvalues[:k].flip(0), eigenvalues[-k:].flip(0)
    return {"largest": high, "smallest": low, "both": torch.cat([high, low])}[which]


def check_pairs(matrix, pairs, tol=TOL):
    """Orthonormal rows, and residuals that are small and are what is reported."""
    scale = torch.linalg.matrix_norm(matrix, 2).item()
    k = len(pairs.eigenvalues)
    gram = pairs.eigenvectors @ pairs.eigenvectors.T
    # Two orthogonalizations each: a few tens of units of rounding.
    assert (gram - torch.eye(k, dtype=matrix.dtype)).abs().max() <= 1e-13
    assert torch.all(pairs.eigenvalues.diff() <= 1e-14 * scale)
    residuals = pairs.eigenvectors @ matrix - pairs.eigenvalues[:, None] * pairs.eigenvectors
    rounding = 1e-13 * scale
    assert torch.allclose(residuals.norm(dim=1), pairs.residuals, rtol=1e-6, atol=rounding)
    assert torch.all(pairs.residuals <= tol * scale * (1 + 1e-12))
    assert pairs.converged.all()


def check_subspace(matrix, pairs, which, k, tol=TOL):
    """The span of the k eigenvectors, when a gap sets it apart: angle <= residual / gap."""
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    if which == "both" or k == len(matrix):
        return
    cut = len(matrix) - k if which == "largest" else k
    gap = (eigenvalues[cut] - eigenvalues[cut - 1]).item()
    scale = eigenvalues.abs().max().item()
    # 1e-13: rounding of eigh itself, seen through the gap.
    allowed = (math.sqrt(k) * tol + 1e-13) * scale / gap if gap > 0 else math.inf
    if allowed > 1e-3:
        return
    true = vectors[:, cut:] if which == "largest" else vectors[:, :cut]
    outside = pairs.eigenvectors - pairs.eigenvectors @ true @ true.T
    assert torch.linalg.matrix_norm(outside, 2) <= 2 * allowed


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_eigenpairs_of_networks_agree_with_the_dense_hessian(case, which):
    problem = case.build()
    hessian = problem.dense_hessian()
    hessian = (hessian + hessian.T) / 2
    k = 4
    # Three classes: an exactly repeated eigenvalue of the linear model has three copies.
    pairs = top_eigenpairs(problem, k, which, TOL, block=3)
    exact = torch.linalg.eigvalsh(hessian)
    error = (pairs.eigenvalues - wanted(exact, k, which)).abs().max()
    assert error <= 1e-8 * exact.abs().max()
    check_pairs(hessian, pairs)
    check_subspace(hessian, pairs, which, k)


def with_spectrum(eigenvalues, seed):
    generator = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    matrix = (basis * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return (matrix + matrix.T) / 2


@st.composite
def spectra(draw, copies=3):
    """Clusters around a few centers: their width may be 0, so that eigenvalues repeat."""
    eigenvalues = []
    for _ in range(draw(st.integers(1, 8))):
        center = draw(st.floats(-10, 10))
        width = draw(st.sampled_from([0.0, 1e-9, 1e-5, 1e-2]))
        count = draw(st.integers(1, copies))
        eigenvalues += [center + width * i for i in range(count)]
    return eigenvalues


@settings(max_examples=80, deadline=None)
@given(
    eigenvalues=spectra(), k=st.integers(1, 4), which=st.sampled_from(ENDS), seed=st.integers(0, 99)
)
def test_random_spectra_clustered_repeated_and_negative(eigenvalues, k, which, seed):
    matrix = with_spectrum(eigenvalues, seed)
    n = len(matrix)
    k = min(k, n // 2 if which == "both" else n)
    if k == 0:
        return
    pairs = top_eigenpairs(MatrixOperator(matrix), k=k, which=which, tol=TOL, block=3)
    exact = torch.linalg.eigvalsh(matrix)
    scale = exact.abs().max().item()
    # An eigenvalue lies within a residual of each value; which one, the next line bounds only if
    # no copy is missed, which a block as large as any multiplicity ensures.
    assert (pairs.eigenvalues - wanted(exact, k, which)).abs().max() <= 1e-8 * scale + 1e-300
    check_pairs(matrix, pairs)
    check_subspace(matrix, pairs, which, k)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(150, 260), block=st.integers(1, 3))
def test_restarts_lose_nothing(seed, size, block):
    """A basis far too small for the spectrum, so that many restarts are needed."""
    generator = torch.Generator().manual_seed(seed)
    eigenvalues = torch.rand(size, generator=generator, dtype=torch.float64)
    matrix = with_spectrum(eigenvalues, seed)
    pairs = top_eigenpairs(
        MatrixOperator(matrix), k=3, tol=1e-9, block=block, max_basis=20, max_products=20000
    )
    exact = torch.linalg.eigvalsh(matrix)
    # A missed eigenvalue would show as a difference of a spacing, about 1 / size.
    assert (pairs.eigenvalues - exact[-3:].flip(0)).abs().max() <= 1e-8
    check_pairs(matrix, pairs, 1e-9)
    assert pairs.products > 20


def test_one_vector_sees_one_copy_and_a_block_sees_them_all():
    matrix = with_spectrum([5.0, 5, 5, 2, 1, 0, -1, -2], 0)
    one = top_eigenpairs(MatrixOperator(matrix), k=2, tol=1e-10)
    three = top_eigenpairs(MatrixOperator(matrix), k=3, tol=1e-10, block=3)
    assert one.eigenvalues[0].item() == pytest.approx(5, abs=1e-9)
    assert torch.allclose(three.eigenvalues, torch.full((3,), 5.0).double(), rtol=0, atol=1e-9)


# Small residuals are no proof that the pairs are the outermost.


def adversarial(seed):
    """A spectrum in which one random vector, or a block, is likely to miss something."""
    random = np.random.default_rng(seed)
    n = int(random.integers(6, 120))
    outlier, width = random.normal(), 10.0 ** -random.integers(3, 9)
    kinds = [
        np.repeat(random.normal(size=n // 4 + 1), 4),  # copies
        np.append(np.zeros(n - 1), 3 * outlier),  # rank one
        np.repeat([outlier, 0.0], [n // 2, n - n // 2]),  # two values
        np.repeat([1.0, 0.0], n // 2) + width * random.normal(size=2 * (n // 2)),  # two clusters
        np.repeat([0.0, -1.0], [4, n]),
        random.normal(size=n),
        10.0 ** -np.arange(n) * random.choice([1, -1], n),  # graded
        np.append([5, 5, 5, 4, 4], 0.3 * random.normal(size=n)),
        np.linspace(0, 1, n),
        np.append([2, 2, 2, 2 - width, 2 - 2 * width], random.uniform(-1, 1, n)),
    ]
    return kinds[seed % len(kinds)], random


def solved(seed, **options):
    """Found and true eigenvalues of one case of the suite, in units of its scale."""
    eigenvalues, random = adversarial(seed)
    matrix = with_spectrum(eigenvalues, seed)
    scale = np.abs(eigenvalues).max()
    which, n = ENDS[seed % 3], len(matrix)
    k, block = int(min(random.integers(1, 6), n // 2)), int(random.choice([1, 1, 2, 3]))
    pairs = top_eigenpairs(MatrixOperator(matrix), k, which, block=min(block, n), **options)
    exact = wanted(torch.linalg.eigvalsh(matrix), k, which)
    return pairs, float((pairs.eigenvalues - exact).abs().max() / scale)


def test_nothing_is_missed_in_400_adversarial_matrices():
    products = {}
    for doubt in (1e-3, 1.0):
        results = [solved(seed, doubt=doubt) for seed in range(400)]
        # By 2 tol an eigenvalue beyond may be passed over, and by tol a value err.
        products[doubt] = sum(pairs.products for pairs, _ in results)
        missed = sum(error > 3e-4 for _, error in results)
        assert missed == 0 if doubt < 1 else missed > 20
        assert all(pairs.doubt <= doubt for pairs, _ in results)
    # The search costs about as much as half of the rest.
    assert products[1e-3] <= 1.6 * products[1.0]


def test_a_copy_that_the_block_cannot_see_is_not_passed_over():
    matrix = with_spectrum([0.0, 0, 0, 0, -1, -1, -1], 0)
    pairs = top_eigenpairs(MatrixOperator(matrix), k=4, tol=TOL, block=3)
    assert pairs.eigenvalues.abs().max() <= 1e-8


def test_a_start_without_a_part_in_the_leading_eigenvector_is_mended():
    """The default start is the same for everyone, so that a matrix can be made to hide from it."""
    n = 50
    seeded = torch.randn(n, generator=torch.Generator().manual_seed(0))
    start = seeded.double() / seeded.double().norm()
    basis = torch.linalg.qr(torch.cat([start[:, None], torch.randn(n, n - 1).double()], 1))[0]
    eigenvalues = torch.linspace(0, 1, n).double()
    eigenvalues[-1] = 3  # along the last column, orthogonal to the start
    matrix = (basis * eigenvalues) @ basis.T
    pairs = top_eigenpairs(MatrixOperator((matrix + matrix.T) / 2))
    assert float(pairs.eigenvalues[0]) == pytest.approx(3, abs=1e-3)
    blind = top_eigenpairs(MatrixOperator((matrix + matrix.T) / 2), doubt=1)
    assert blind.doubt == 1


@pytest.mark.parametrize("doubt", [0.5, 0.1])
def test_a_doubt_is_the_chance_of_a_miss(doubt):
    """A hidden copy is passed over by the share of random starts that the doubt says, at most."""
    matrix = MatrixOperator(with_spectrum([1.0, 1.0, *np.linspace(0, 0.98, 60)], 3))
    missed, tries = 0, 300
    for seed in range(tries):
        generator = torch.Generator().manual_seed(seed)
        pairs = top_eigenpairs(matrix, 2, generator=generator, doubt=doubt)
        missed += float(pairs.eigenvalues[1]) < 0.999
    # Three standard deviations of the count above.
    assert missed / tries <= doubt + 3 * math.sqrt(doubt * (1 - doubt) / tries)


def test_values_alone_cost_fewer_products_and_are_as_exact():
    operator = MatrixOperator(with_spectrum([5.0, 4, 3, *np.linspace(-1, 1, 200)], 1))
    both = top_eigenpairs(operator, 3, tol=1e-3, doubt=1)
    values = top_eigenpairs(operator, 3, tol=1e-3, doubt=1, vectors=False)
    assert values.products < both.products
    exact = torch.tensor([5.0, 4, 3], dtype=torch.float64)
    assert (values.eigenvalues - exact).abs().max() <= 5e-3
    assert values.converged.all()
    assert values.residuals.max() > both.residuals.max()


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_multiples_of_the_identity(which, value):
    matrix = value * torch.eye(6, dtype=torch.float64)
    pairs = top_eigenpairs(MatrixOperator(matrix), k=3, which=which)
    assert pairs.eigenvalues.tolist() == pytest.approx([value] * (6 if which == "both" else 3))
    gram = pairs.eigenvectors @ pairs.eigenvectors.T
    assert torch.allclose(gram, torch.eye(len(gram)).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_all_of_a_small_matrix(n):
    matrix = with_spectrum(list(range(n)), 1)
    pairs = top_eigenpairs(MatrixOperator(matrix), k=n)
    assert pairs.eigenvalues.tolist() == pytest.approx(list(range(n))[::-1], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectors_have_the_dtype_of_the_operator_and_numbers_are_double(dtype):
    problem = CASES[0].build(dtype)
    pairs = top_eigenpairs(problem, 3, tol=1e-4)
    assert pairs.eigenvectors.dtype == dtype
    assert {pairs.eigenvalues.dtype, pairs.residuals.dtype} == {torch.float64}
    exact = torch.linalg.eigvalsh(CASES[0].build().dense_hessian())
    assert (pairs.eigenvalues - exact[-3:].flip(0)).abs().max() <= 1e-4 * exact.abs().max()
    gram = (pairs.eigenvectors @ pairs.eigenvectors.T).double()
    assert (gram - torch.eye(3)).abs().max() <= 100 * torch.finfo(dtype).eps


def test_a_warm_start_costs_less_and_a_wrong_one_is_harmless():
    spectrum = torch.cat([torch.linspace(0, 1, 300), torch.tensor([3.0, 2.5, 2.0])])
    operator = MatrixOperator(with_spectrum(spectrum, 4))
    cold = top_eigenpairs(operator, k=3, tol=1e-6)
    warm = top_eigenpairs(operator, k=3, tol=1e-3, start=cold.eigenvectors)
    assert warm.products < top_eigenpairs(operator, k=3, tol=1e-3).products
    exact = torch.linalg.eigvalsh(operator.matrix)
    wrong = torch.linalg.eigh(operator.matrix)[1][:, 0]
    pairs = top_eigenpairs(operator, k=3, tol=1e-8, start=wrong)
    assert torch.allclose(pairs.eigenvalues, exact[-3:].flip(0), rtol=0, atol=1e-7)
    # Vectors whose sum vanishes are no start; the first of them is.
    opposed = torch.stack([wrong, -wrong])
    pairs = top_eigenpairs(operator, k=3, tol=1e-8, start=opposed)
    assert torch.allclose(pairs.eigenvalues, exact[-3:].flip(0), rtol=0, atol=1e-7)


def test_the_same_generator_makes_the_same_result():
    operator = MatrixOperator(with_spectrum(np.linspace(-1, 1, 40), 2))
    results = [
        top_eigenpairs(operator, k=2, generator=torch.Generator().manual_seed(5)) for _ in "ab"
    ]
    assert torch.equal(results[0].eigenvectors, results[1].eigenvectors)


def test_products_are_those_the_operator_counted():
    operator = MatrixOperator(with_spectrum(np.linspace(-1, 1, 60), 2))
    pairs = top_eigenpairs(operator, k=3, block=2)
    assert pairs.products == operator.products


# What has not converged is never returned silently.


def slow():
    return MatrixOperator(with_spectrum(np.linspace(0, 1, 200), 3))


def test_unconverged_pairs_raise_and_carry_what_there_is():
    with pytest.raises(ConvergenceError, match="0 of 3 eigenpairs converged") as caught:
        top_eigenpairs(slow(), k=3, tol=1e-9, max_products=12)
    result = caught.value.result
    assert result.products <= 12
    assert not result.converged.any()
    assert torch.all(result.residuals > 1e-9)


def test_fewer_products_than_pairs_is_not_convergence():
    with pytest.raises(ConvergenceError):
        top_eigenpairs(slow(), k=5, tol=0.9, max_products=3)


class Broken(SymmetricOperator):
    def _products(self, rows):
        return rows * math.nan


def test_products_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        top_eigenpairs(Broken(4, torch.float64, torch.device("cpu")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"k": 9}, "n = 8 eigenpairs in all, got 9"),
        ({"k": 5, "which": "both"}, "n = 8 eigenpairs in all, got 10"),
        ({"which": "middle"}, "which must be one of"),
        ({"tol": 0.0}, "tol must"),
        ({"tol": 1e-17}, "tol must lie between"),
        ({"tol": 1.0}, "tol must lie between"),
        ({"block": 0}, "block must"),
        ({"max_basis": 2}, "max_basis must"),
        ({"max_products": 0}, "max_products must"),
        ({"doubt": 0}, "doubt must"),
        ({"doubt": 1.5}, "doubt must be a probability"),
        ({"start": torch.ones(7)}, "dimension 8"),
        ({"start": torch.zeros(8)}, "not all zero"),
        ({"start": torch.full((8,), math.nan)}, "finite"),
    ],
)
def test_bad_arguments_are_named(options, message):
    operator = MatrixOperator(with_spectrum(np.arange(8.0), 0))
    with pytest.raises(ValueError, match=message):
        top_eigenpairs(operator, **options)


def test_what_is_neither_a_risk_nor_an_operator_is_refused():
    with pytest.raises(TypeError, match="EmpiricalRisk or an operator"):
        top_eigenpairs(lambda: torch.ones(()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_eigenpairs_on_the_gpu():
    problem, hessian = CASES[0].build(device="cuda"), CASES[0].build().dense_hessian()
    operator = problem.hessian()
    pairs = top_eigenpairs(operator, k=3, tol=TOL)
    exact = torch.linalg.eigvalsh(hessian)
    assert pairs.eigenvectors.is_cuda
    assert not pairs.eigenvalues.is_cuda
    assert (pairs.eigenvalues - exact[-3:].flip(0)).abs().max() <= 1e-8 * exact.abs().max()
