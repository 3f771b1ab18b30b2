"""The complementarity problem under the central flow, against other ways to solve it."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from flatminima.theory.central_flow import complementarity

EPS = np.finfo(float).eps
seeds = st.integers(0, 2**32 - 1)


def gram(gradients, gradient):
    """A and B of the central flow, from the gradients G_ij (k, k, p) of V^T H V and that of L."""
    return gradients @ gradient, np.einsum("ijp,klp->ijkl", gradients, gradients) / 2


def random_problem(generator, k, p):
    G = generator.normal(size=(k, k, p))
    return gram(G + np.swapaxes(G, 0, 1), generator.normal(size=p))


def applied(B, X):
    return np.einsum("ijkl,kl->ij", B, X)


def violation(A, B, X):
    """How far X is from the three conditions, relative to the data and to X."""
    S = A + applied(B, X)
    size = np.linalg.norm(A)
    return max(
        -np.linalg.eigvalsh(S)[0] / size,
        -np.linalg.eigvalsh(X)[0] / max(np.linalg.norm(X), EPS),
        abs(np.sum(X * S)) / (size * max(np.linalg.norm(X), EPS)),
    )


def by_factors(A, B):
    """Another method: minimize over X = F F^T, which has no bad local minima for a square F."""
    k = len(A)

    def objective(flat):
        F = flat.reshape(k, k)
        X = F @ F.T
        BX = applied(B, X)
        return np.sum(A * X) + np.sum(X * BX) / 2, (2 * (A + BX) @ F).ravel()

    found = minimize(
        objective, np.eye(k).ravel(), jac=True, options={"gtol": 1e-9, "maxiter": 2000}
    )
    F = found.x.reshape(k, k)
    return F @ F.T


# --- solutions -----------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=seeds, k=st.integers(1, 5), p=st.integers(1, 30))
def test_all_three_conditions_hold(seed, k, p):
    A, B = random_problem(np.random.default_rng(seed), k, p)
    found = complementarity(A, B)
    assert violation(A, B, found.covariance) < 1e-9
    assert np.allclose(found.slack, A + applied(B, found.covariance), atol=1e-9)
    # A form without its half, and the other sign of A, have other solutions.
    if found.covariance.any():
        assert violation(A, 2 * B, found.covariance) > 1e-3
        assert violation(-A, B, found.covariance) > 1e-3


@settings(max_examples=25)
@given(seed=seeds, k=st.integers(2, 4))
def test_another_method_finds_the_same(seed, k):
    # p is large enough for B to be positive definite, and X unique.
    A, B = random_problem(np.random.default_rng(seed), k, 4 * k * k)
    other = by_factors(A, B)
    found = complementarity(A, B).covariance
    # The other one stops at a gradient of 1e-9 in F, the square root of X.
    assert np.abs(found - other).max() < 1e-3 * max(np.abs(other).max(), 1)
    ours, theirs = (np.sum(A * X) + np.sum(X * applied(B, X)) / 2 for X in (found, other))
    assert ours <= theirs + 1e-11 * np.sum(A**2)


@settings(max_examples=50)
@given(seed=seeds)
def test_in_two_directions_by_a_scan_over_all_ranks(seed):
    """X = 0, S = 0, or X = s u u^T with S u = 0: the best of a fine grid of u."""
    A, B = random_problem(np.random.default_rng(seed), 2, 8)
    turn = np.linspace(0, np.pi, 2001)
    u = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    outer = u[:, :, None] * u[:, None, :]
    slope = np.einsum("nij,ij->n", outer, A)
    bend = np.einsum("nij,ijkl,nkl->n", outer, B, outer)
    best = min(0.0, np.min(-(np.maximum(0, -slope) ** 2) / (2 * bend)))
    flat = np.einsum("aij,ijkl,bkl->ab", BASIS, B, BASIS)
    full = np.tensordot(np.linalg.solve(flat, -np.einsum("aij,ij->a", BASIS, A)), BASIS, 1)
    if np.linalg.eigvalsh(full)[0] >= 0:
        best = min(best, np.sum(A * full) / 2)
    X = complementarity(A, B).covariance
    ours = np.sum(A * X) + np.sum(X * applied(B, X)) / 2
    # The least value is a smooth function of the angle: the grid misses it by a square.
    spread = np.ptp(-(np.maximum(0, -slope) ** 2) / (2 * bend))
    assert ours <= best + 1e-11 * np.sum(A**2)
    assert best - ours <= 1e-4 * spread + 1e-11


BASIS = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 1]], [[0, 0.5**0.5], [0.5**0.5, 0]]])


def test_one_direction_in_closed_form():
    assert complementarity([[-3.0]], [[[[1.5]]]]).covariance.tolist() == [[2.0]]
    found = complementarity([[3.0]], [[[[1.5]]]])
    assert found.covariance.tolist() == [[0.0]]
    assert found.residual == 0


@settings(max_examples=25)
@given(seed=seeds, k=st.integers(1, 4), a=st.integers(-60, 60), b=st.integers(-60, 60))
def test_units_scale_out(seed, k, a, b):
    A, B = random_problem(np.random.default_rng(seed), k, 20)
    X = complementarity(A, B).covariance
    scaled = complementarity(2.0**a * A, 2.0**b * B).covariance
    # Powers of two round nothing; what is left is the square root of the solver's goal at most.
    assert np.allclose(scaled * 2.0 ** (b - a), X, rtol=0, atol=1e-5 * (1 + np.abs(X).max()))


@settings(max_examples=25)
@given(seed=seeds, k=st.integers(2, 4))
def test_the_basis_of_the_edge_does_not_matter(seed, k):
    generator = np.random.default_rng(seed)
    A, B = random_problem(generator, k, 4 * k * k)
    Q = np.linalg.qr(generator.normal(size=(k, k)))[0]
    turned = complementarity(
        Q @ A @ Q.T, np.einsum("ai,bj,ck,dl,ijkl->abcd", Q, Q, Q, Q, B)
    ).covariance
    assert np.allclose(Q.T @ turned @ Q, complementarity(A, B).covariance, atol=1e-5)


# --- cases on the border -------------------------------------------------------------------------

E = np.eye(4)
OPPOSED = np.zeros((2, 2, 4))
OPPOSED[0, 0], OPPOSED[1, 1] = E[0], -E[0]
EQUAL = np.zeros((2, 2, 4))
EQUAL[0, 0] = EQUAL[1, 1] = E[0]
UNFELT = np.zeros((2, 2, 4))
UNFELT[0, 0] = E[0]


@pytest.mark.parametrize(
    ("gradients", "gradient", "trace"),
    [
        (OPPOSED, -E[0], None),  # what holds one curvature down lifts the other: X is not unique
        (OPPOSED, E[0], None),
        (OPPOSED, E[1], 0.0),
        (EQUAL, -E[0], 2.0),  # only the trace of X counts
        (UNFELT, -E[0], None),  # the second oscillation does nothing
        (UNFELT, E[0], 0.0),
        (EQUAL, 0 * E[0], 0.0),
    ],
)
def test_singular_forms_that_have_solutions(gradients, gradient, trace):
    A, B = gram(gradients, gradient)
    X = complementarity(A, B).covariance
    if A.any():
        assert violation(A, B, X) < 1e-9
    assert trace is None or np.isclose(np.trace(X), trace, atol=1e-9)


@pytest.mark.parametrize("size", [1e-14, 1e-9, 1e-5, 0.0, -1e-14, -1e-9, -1e-5])
def test_a_curvature_that_hardly_changes(size):
    identity = np.einsum("ik,jl->ijkl", np.eye(2), np.eye(2))
    identity = (identity + np.swapaxes(identity, 0, 1)) / 2
    X = complementarity(np.diag([size, 1.0]), identity).covariance
    # Without strict complementarity X is known to the square root of the goal, 1e-6.
    assert np.allclose(X, np.diag([max(0.0, -size), 0.0]), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1e1])
@pytest.mark.parametrize("k", [2, 3])
def test_gradients_of_very_different_sizes(scale, k):
    generator = np.random.default_rng(k)
    sizes = scale ** np.arange(k)
    for _ in range(20):
        G = generator.normal(size=(k, k, 12)) * sizes[:, None, None] * sizes[None, :, None]
        A, B = gram(G + np.swapaxes(G, 0, 1), generator.normal(size=12))
        assert violation(A, B, complementarity(A, B).covariance) < 1e-8


def test_ten_directions():
    A, B = random_problem(np.random.default_rng(0), 10, 80)
    assert violation(A, B, complementarity(A, B).covariance) < 1e-9


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("A", "B"),
    [
        ([[-1.0]], [[[[0.0]]]]),
        (np.diag([-1.0, -1.0]), np.einsum("ij,kl->ijkl", np.diag([1.0, 0]), np.diag([1.0, 0]))),
        (np.diag([1.0, -1.0]), np.einsum("ij,kl->ijkl", np.diag([1.0, 0]), np.diag([1.0, 0]))),
        (np.diag([-1.0, -1.0]), np.einsum("ij,kl->ijkl", np.diag([1.0, -1]), np.diag([1.0, -1]))),
    ],
)
def test_no_solution_is_an_error(A, B):
    with pytest.raises(ValueError, match="no solution"):
        complementarity(A, B)


@pytest.mark.parametrize(
    ("A", "B", "message"),
    [
        (np.eye(2), np.zeros((2, 2, 2)), "got (2, 2) and (2, 2, 2)"),
        (np.zeros((0, 0)), np.zeros((0,) * 4), "are needed"),
        ([[0.0, 1.0], [0.0, 0.0]], np.zeros((2,) * 4), "A must be symmetric"),
        (np.eye(2), np.arange(16.0).reshape((2,) * 4), "B must be symmetric"),
        ([[-1.0]], [[[[-1.0]]]], "positive semidefinite"),
        ([[np.nan]], [[[[1.0]]]], "finite"),
    ],
)
def test_other_arguments_are_refused(A, B, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        complementarity(A, B)
