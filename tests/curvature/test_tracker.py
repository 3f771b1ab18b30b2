"""curvature.tracker: trajectories of networks and of matrices whose every step is known."""

import math

import numpy as np
import pytest
import torch
from curvature_cases import CASES, SMOOTH

from flatminima.curvature import (
    ConvergenceError,
    EigenTracker,
    MatrixOperator,
    top_eigenpairs,
)

N = 60


def basis(seed=0, n=N):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


def operator(eigenvalues, vectors):
    """The matrix of these eigenvalues, its eigenvectors the columns given."""
    matrix = (vectors * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ vectors.T
    return MatrixOperator((matrix + matrix.T) / 2)


def turning(angle, vectors, planes=((0, 10), (1, 11), (2, 12))):
    """The vectors after a rotation by ``angle`` in planes that mix leading and other columns."""
    turned = vectors.clone()
    for i, j in planes:
        turned[:, i] = math.cos(angle) * vectors[:, i] + math.sin(angle) * vectors[:, j]
        turned[:, j] = math.cos(angle) * vectors[:, j] - math.sin(angle) * vectors[:, i]
    return turned


def spectrum(*leading):
    """The leading eigenvalues, then a bulk from 1 down to -1."""
    bulk = torch.linspace(1, -1, N - len(leading), dtype=torch.float64)
    return torch.cat([torch.tensor(leading, dtype=torch.float64), bulk])


def largest_angle(rows, true):
    outside = rows - rows @ true.T @ true
    return torch.linalg.matrix_norm(outside, 2).item()


def check(pairs, matrix, k, tol, which="largest"):
    """Against the dense matrix: values, residuals, and the span where a gap sets it apart."""
    exact, vectors = torch.linalg.eigh(matrix)
    scale = exact.abs().max().item()
    end = slice(-k, None) if which == "largest" else slice(0, k)
    # Values err by a residual at most; a missed eigenvalue would be off by a gap.
    allowed = (tol + 1e-13) * scale
    assert (pairs.eigenvalues - exact[end].flip(0)).abs().max() <= allowed
    gram = pairs.eigenvectors @ pairs.eigenvectors.T
    assert (gram - torch.eye(k)).abs().max() <= 1e-12
    residuals = pairs.eigenvectors @ matrix - pairs.eigenvalues[:, None] * pairs.eigenvectors
    assert torch.allclose(residuals.norm(dim=1), pairs.residuals, rtol=1e-6, atol=1e-13 * scale)
    assert torch.all(pairs.residuals <= allowed)
    if k == len(matrix):
        return
    cut = len(exact) - k if which == "largest" else k
    gap = (exact[cut] - exact[cut - 1]).item()
    true = vectors[:, end].T
    if gap > 0:
        bound = 2 * math.sqrt(k) * allowed / gap
        assert largest_angle(pairs.eigenvectors, true) <= min(bound, 1) + 1e-12


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.parametrize("case", [*SMOOTH, CASES[4]], ids=str)
def test_descent_of_networks_against_dense_hessians(case, which):
    """Descent beyond the edge of stability of its start, so that the leading space moves."""
    problem = case.build()
    k, tol = 3, 1e-7
    tracker = EigenTracker(k, tol, which=which, look_every=5)
    exact = torch.linalg.eigvalsh(problem.dense_hessian())
    rate = 2.2 / exact[-1].item()
    for step in range(12):
        hessian = problem.hessian()
        pairs = tracker.update(hessian)
        assert pairs.products == hessian.products == tracker.products[step]
        dense = problem.dense_hessian()
        check(pairs, (dense + dense.T) / 2, k, tol, which)
        with torch.no_grad():
            for p, g in zip(problem.parameters, hessian.split(hessian.gradient), strict=True):
                p.sub_(rate * g)
    assert len(tracker.products) == 12


def test_a_smooth_path_costs_one_product_a_vector():
    """To and fro along one coordinate, with a drift: the edge of stability in little."""
    vectors, leading = basis(), spectrum(5, 4, 3, 1.5)
    costs = {}
    for known in (True, False):
        tracker = EigenTracker(3, 1e-3, look_every=0)
        for step in range(40):
            x = 0.1 * (-1) ** step * (1 + 0.01 * step) + 0.001 * step
            matrix = operator(leading, turning(x, vectors))
            point = torch.tensor([x, 0.002 * step], dtype=torch.float64) if known else None
            pairs = tracker.update(matrix, point=point)
            check(pairs, matrix.matrix, 3, 1e-3)
        costs[known] = tracker.products[10:]
    # Predicted, a step is the product of each of the 3 + 1 vectors, and nothing else.
    assert np.median(costs[True]) == 4
    assert np.median(costs[False]) > np.median(costs[True])


def test_a_prediction_is_exact_for_a_path_that_repeats():
    vectors, leading = basis(), spectrum(5, 4, 3, 1.5)
    tracker = EigenTracker(3, 1e-8, look_every=0)
    kinds = []
    for step in range(20):
        x = 0.2 * (-1) ** step
        point = torch.tensor([x], dtype=torch.float64)
        pairs = tracker.update(operator(leading, turning(x, vectors)), point=point)
        kinds.append(pairs.kind)
    assert kinds[0] == "cold"
    assert kinds[1] == "corrected"
    assert kinds[-5:] == ["predicted"] * 5


def test_standing_still_costs_the_check_alone():
    matrix = operator(spectrum(5, 4, 3, 1.5), basis())
    tracker = EigenTracker(3, 1e-4, look_every=0)
    for _ in range(4):
        pairs = tracker.update(matrix, point=torch.zeros(2).double())
    assert tracker.products[1:] == [4, 4, 4]
    assert pairs.kind == "predicted"
    # What a residual of 1e-4 * 5 and a gap of 1.5 allow, twice.
    assert pairs.angles.max() <= 2 * 2 * math.sqrt(3) * 1e-4 * 5 / 1.5


# The rest of the spectrum is not out of sight.


def test_an_eigenvalue_that_rises_from_outside_is_seen_by_the_next_search():
    vectors = basis(1)
    tracker = EigenTracker(2, 1e-3, look_every=8)
    late = 0
    for step in range(60):
        eigenvalues = spectrum(5, 4, 3)
        eigenvalues[-1] = -1 + 0.2 * step  # from the bottom of the spectrum beyond the top
        exact = eigenvalues.sort(descending=True).values[:2]
        pairs = tracker.update(operator(eigenvalues, vectors))
        right = torch.allclose(pairs.eigenvalues, exact, rtol=0, atol=1e-2)
        late = 0 if right else late + 1
        assert late <= 8
    assert late == 0


@pytest.mark.parametrize("jump", [4.5, 50.0])
def test_an_eigenvalue_that_jumps_is_seen_by_the_next_search(jump):
    vectors = basis(2)
    tracker = EigenTracker(2, 1e-3, look_every=6)
    for step in range(14):
        eigenvalues = spectrum(5, 4, 3)
        eigenvalues[-1] = jump if step >= 7 else -1
        pairs = tracker.update(operator(eigenvalues, vectors))
    exact = eigenvalues.sort(descending=True).values[:2]
    assert torch.allclose(pairs.eigenvalues, exact, rtol=0, atol=1e-3 * jump)


@pytest.mark.parametrize("k", [1, 3])
def test_what_has_risen_unseen_is_younger_than_the_last_search(k):
    """100 sequences: eigenvalues cross in directions that nothing else leads to."""
    missed = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        vectors, tracker = basis(seed, 30), EigenTracker(k, 1e-3, look_every=int(seed % 7) + 2)
        start, end = random.normal(size=(2, 30))
        for step in range(25):
            share = step / 24
            eigenvalues = torch.as_tensor((1 - share) * start + share * end)
            pairs = tracker.update(operator(eigenvalues, vectors))
            exact = eigenvalues.sort(descending=True).values[:k]
            right = (pairs.eigenvalues - exact).abs().max() <= 3e-3 * eigenvalues.abs().max()
            missed += not bool(right)
            assert right or 0 < pairs.looked < tracker.look_every
            # Its products may end a search before the doubt is the one asked for.
            assert pairs.doubt <= 0.05
    # It says so because it happens.
    assert missed > 0


def test_without_any_search_the_doubt_is_total():
    tracker = EigenTracker(2, doubt=1)
    found = [tracker.update(operator(spectrum(5, 4, 3), basis())) for _ in range(3)]
    assert [(pairs.doubt, pairs.looked) for pairs in found] == [(1, 1), (1, 2), (1, 3)]


def test_results_are_the_callers_own():
    """What is done to them does not reach the tracker."""
    results = []
    for meddle in (False, True):
        tracker = EigenTracker(3, 1e-6)
        for step in range(4):
            pairs = tracker.update(operator(spectrum(5, 4, 3), turning(0.05 * step, basis())))
            overlaps = pairs.overlaps.clone()
            if meddle:
                for mine in (pairs.eigenvectors, pairs.eigenvalues, pairs.overlaps):
                    mine.mul_(7)
        results.append(overlaps)
    assert torch.equal(*results)


@pytest.mark.parametrize("k", [1, 3])
def test_where_parameters_leap_a_step_costs_no_more_than_lanczos(k):
    """Each matrix has nothing to do with the one before, so that predictions are in vain."""
    tracker, start = EigenTracker(k, 1e-3, look_every=0), None
    counts = {"tracker": [], "lanczos": []}
    kinds = []
    for step in range(60):
        matrix = operator(spectrum(5, 4, 3), basis(step))
        point = torch.full((2,), float(step)).double()
        pairs = tracker.update(matrix, point=point)
        kinds.append(pairs.kind)
        counts["tracker"].append(pairs.products)
        warm = top_eigenpairs(matrix, k, tol=1e-3, start=start, doubt=1)
        start = warm.eigenvectors
        counts["lanczos"].append(warm.products)
    # Of 60 steps the other way is tried at 1, 10 and 27, or where an error happens to be small.
    assert kinds.count("corrected") <= 5
    tries = sum(n for n, kind in zip(counts["tracker"], kinds, strict=True) if kind == "corrected")
    others = [n for n, kind in zip(counts["tracker"], kinds, strict=True) if kind == "lanczos"]
    # The rest is the same method on the same matrices; the means differ by their random starts.
    mean, rival = np.mean(others), np.array(counts["lanczos"][1:])
    assert abs(mean - rival.mean()) <= 4 * rival.std() * math.sqrt(2 / len(others))
    assert tries <= 5 * 2 * rival.max()


def test_without_a_search_a_jump_outside_of_the_span_is_missed():
    """Why there are searches: here the tracked space is exactly invariant."""
    tracker = EigenTracker(2, 1e-3, look_every=0)
    eye = torch.eye(N, dtype=torch.float64)
    vectors = eye[:2].clone()
    for step in range(10):
        eigenvalues = spectrum(5, 4)
        pairs = tracker.update(operator(eigenvalues, eye))
        if step == 0:
            tracker._newest = tracker._newest.__class__(None, vectors, vectors, 0.0)
    eigenvalues[-1] = 6
    pairs = tracker.update(operator(eigenvalues, eye))
    assert pairs.eigenvalues.tolist() == pytest.approx([5, 4], rel=1e-6)


def test_a_step_to_another_matrix_altogether_is_still_right():
    tracker = EigenTracker(3, 1e-6)
    for seed in range(4):
        matrix = operator(spectrum(5, 4, 3), basis(seed))
        point = torch.full((2,), float(seed)).double()
        check(tracker.update(matrix, point=point), matrix.matrix, 3, 1e-6)


# Crossings and repeated eigenvalues


def test_a_crossing_permutes_the_overlaps_and_leaves_the_angles():
    vectors = basis(3)
    tracker = EigenTracker(3, 1e-9)
    for step in range(2):
        first, second = (5, 4) if step == 0 else (4, 5)
        pairs = tracker.update(operator(spectrum(first, second, 3), vectors))
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]).double()
    # Both bases are within residual / gap, 1e-9 * 5, of the same vectors.
    assert torch.allclose(pairs.overlaps, expected, rtol=0, atol=1e-7)
    assert pairs.angles.max() <= 1e-7


def test_a_crossing_of_the_last_with_the_next_turns_one_direction_by_a_right_angle():
    vectors = basis(3)
    tracker = EigenTracker(2, 1e-9)
    tracker.update(operator(spectrum(5, 4, 3), vectors))
    pairs = tracker.update(operator(spectrum(5, 3, 4), vectors))
    assert pairs.eigenvalues.tolist() == pytest.approx([5, 4], abs=1e-8)
    assert pairs.angles.tolist() == pytest.approx([0, math.pi / 2], abs=1e-7)


@pytest.mark.parametrize("split", [0.0, 1e-12, 1e-7, 1e-3])
def test_nearly_repeated_eigenvalues_have_a_steady_span(split):
    """The single vectors of the pair may turn at will; what is reported of the span may not."""
    vectors = basis(4)
    tracker = EigenTracker(3, 1e-8)
    for step in range(10):
        turned = turning(0.3 * step, vectors, planes=((0, 1),))
        matrix = operator(spectrum(5, 5 - split, 3), turned)
        pairs = tracker.update(matrix, point=torch.tensor([0.3 * step]).double())
        check(pairs, matrix.matrix, 3, 1e-8)
        assert pairs.angles.max() <= 4 * math.sqrt(3) * 1e-8 * 5 / 2


def test_signs_follow_the_step_before():
    vectors = basis(5)
    tracker = EigenTracker(3, 1e-6)
    before = None
    for step in range(8):
        pairs = tracker.update(operator(spectrum(5, 4, 3), turning(0.05 * step, vectors)))
        if before is not None:
            assert torch.all((pairs.eigenvectors * before).sum(1) > 0.9)
            assert torch.allclose(pairs.overlaps, pairs.eigenvectors @ before.T, atol=1e-12)
        before = pairs.eigenvectors


def test_angles_are_those_the_space_turned_by():
    vectors = basis(5)
    tracker = EigenTracker(3, 1e-10)
    tracker.update(operator(spectrum(5, 4, 3), vectors))
    pairs = tracker.update(operator(spectrum(5, 4, 3), turning(0.02, vectors)))
    assert pairs.angles.tolist() == pytest.approx([0.02] * 3, abs=1e-8)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_smallest_are_the_largest_of_the_negative(which):
    vectors = basis(6)
    tracker, mirror = EigenTracker(2, 1e-8, which="smallest"), EigenTracker(2, 1e-8)
    for step in range(5):
        turned = turning(0.1 * step, vectors)
        low = tracker.update(operator(-spectrum(5, 4, 3), turned))
        high = mirror.update(operator(spectrum(5, 4, 3), turned))
    assert low.eigenvalues.tolist() == pytest.approx((-high.eigenvalues.flip(0)).tolist())
    assert low.eigenvalues.tolist() == pytest.approx([-4, -5], abs=1e-7)
    assert torch.allclose(low.overlaps.abs(), high.overlaps.flip(0, 1).abs(), atol=1e-6)


# Reports


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions(dtype):
    problem, reference = CASES[0].build(dtype), CASES[0].build()
    tracker = EigenTracker(3, 1e-4)
    for _ in range(5):
        hessian = problem.hessian()
        pairs = tracker.update(hessian)
        assert pairs.eigenvectors.dtype == dtype
        assert pairs.eigenvalues.dtype == torch.float64
        with torch.no_grad():
            for target, p in zip(reference.parameters, problem.parameters, strict=True):
                target.copy_(p)
        exact = torch.linalg.eigvalsh(reference.dense_hessian())
        # A residual, and about as much again for the rounding of float32.
        assert (pairs.eigenvalues - exact[-3:].flip(0)).abs().max() <= 2e-4 * exact.abs().max()
        with torch.no_grad():
            for p, g in zip(problem.parameters, hessian.split(hessian.gradient), strict=True):
                p.sub_(0.5 * g)


def test_the_first_step_is_a_cold_solve_and_restart_makes_another():
    matrix = operator(spectrum(5, 4, 3), basis())
    tracker = EigenTracker(2)
    kinds = [tracker.update(matrix).kind for _ in range(2)]
    tracker.restart()
    assert [*kinds, tracker.update(matrix).kind] == ["cold", "predicted", "cold"]
    assert len(tracker.products) == 3


def test_the_same_generator_makes_the_same_run():
    runs = []
    for _ in range(2):
        tracker = EigenTracker(2, generator=torch.Generator().manual_seed(3), look_every=2)
        for step in range(5):
            pairs = tracker.update(operator(spectrum(5, 4, 3), turning(0.1 * step, basis())))
        runs.append(pairs.eigenvectors)
    assert torch.equal(*runs)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_all_eigenvalues_of_a_small_matrix(n):
    tracker = EigenTracker(n, 1e-9, look_every=1)
    for step in range(3):
        matrix = operator(torch.arange(n) + 0.1 * step, basis(step, n))
        check(tracker.update(matrix), matrix.matrix, n, 1e-9)


def test_a_zero_matrix_has_converged():
    tracker = EigenTracker(2)
    for _ in range(2):
        pairs = tracker.update(MatrixOperator(torch.zeros(5, 5, dtype=torch.float64)))
    assert pairs.eigenvalues.tolist() == [0, 0]


def test_it_follows_what_the_eigensolver_finds():
    problem = CASES[1].build()
    tracked = EigenTracker(3, 1e-9).update(problem)
    solved = top_eigenpairs(problem, 3, tol=1e-9)
    assert torch.allclose(tracked.eigenvalues, solved.eigenvalues, rtol=0, atol=1e-8)


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must"),
        ({"tol": 0.0}, "tol must"),
        ({"tol": 2.0}, "tol must"),
        ({"which": "both"}, "which must be one of largest, smallest"),
        ({"history": -1}, "history must"),
        ({"look_every": -1}, "look_every must"),
        ({"doubt": 0.0}, "doubt must"),
        ({"doubt": 2.0}, "doubt must"),
        ({"max_products": 3}, "max_products must"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        EigenTracker(**({"k": 3} | options))


def test_operators_that_do_not_follow_each_other_are_refused():
    tracker = EigenTracker(2)
    with pytest.raises(ValueError, match="k must be at most n = 1"):
        tracker.update(MatrixOperator(torch.eye(1, dtype=torch.float64)))
    tracker.update(operator(spectrum(5, 4), basis()), point=torch.zeros(3))
    with pytest.raises(ValueError, match="operator must be of dimension 60"):
        tracker.update(MatrixOperator(torch.eye(5, dtype=torch.float64)))
    with pytest.raises(ValueError, match="operator must be of dimension 60"):
        tracker.update(MatrixOperator(torch.eye(N)))
    for point, message in ((torch.zeros(2), "shape"), (torch.tensor([math.nan]), "finite")):
        with pytest.raises(ValueError, match=message):
            tracker.update(operator(spectrum(5, 4), basis()), point=point)
    with pytest.raises(ValueError, match="tol must lie between"):
        EigenTracker(2, 1e-9).update(MatrixOperator(torch.eye(5)))


def test_a_step_that_does_not_converge_says_so_and_the_tracker_keeps_the_one_before():
    tracker = EigenTracker(2, 1e-10, max_products=4, look_every=0)
    flat = operator(torch.linspace(0, 1, N), basis(9))
    matrix = operator(spectrum(5, 4), basis())
    tracker.update(matrix)
    with pytest.raises(ConvergenceError, match="eigenpairs converged") as caught:
        tracker.update(flat)
    assert not caught.value.result.converged.all()
    assert tracker.products[-1] == caught.value.result.products
    assert tracker.update(matrix).kind == "predicted"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tracking_on_the_gpu(dtype):
    results = []
    for device in ("cpu", "cuda"):
        problem = CASES[0].build(dtype, device)
        tracker = EigenTracker(3, 1e-4, look_every=3)
        for _ in range(6):
            hessian = problem.hessian()
            pairs = tracker.update(hessian)
            with torch.no_grad():
                for p, g in zip(problem.parameters, hessian.split(hessian.gradient), strict=True):
                    p.sub_(0.5 * g)
        results.append(pairs.eigenvalues)
    # Each within its residual; float32 steps differ by rounding besides.
    assert torch.allclose(*results, rtol=0, atol=4e-4 * results[0].abs().max().item())
