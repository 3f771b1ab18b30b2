"""Dimensions visited, the walk that they are compared with, and movement outside a space."""

import numpy as np
import pytest

from flatminima.training import exploration

RNG = np.random.default_rng(0)


def rows(array, rng=RNG):
    """Orthonormal rows with the span of columns (..., n, k); LAPACK's signs are not random."""
    basis = np.linalg.qr(array)[0]
    signs = rng.choice([-1.0, 1.0], (*basis.shape[:-2], 1, basis.shape[-1]))
    return np.swapaxes(signs * basis, -1, -2)


def frames(m, k, n, rng=RNG):
    """m random spaces of dimension k, as orthonormal rows (m, k, n)."""
    return rows(rng.standard_normal((m, n, k)), rng)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 1, 1), (1, 2, 5), (6, 1, 9), (5, 3, 20), (9, 2, 4)])
def test_visited_dimension_is_the_participation_ratio_of_the_mean_projector(m, k, n):
    spaces = frames(m, k, n)
    mean = np.mean(spaces.transpose(0, 2, 1) @ spaces, axis=0) / k
    assert exploration.visited_dimension(spaces) == pytest.approx(1 / np.sum(mean**2), rel=1e-12)


def test_visited_dimension_lies_between_that_of_one_space_and_that_of_orthogonal_ones():
    same = np.repeat(frames(1, 3, 12), 4, axis=0)
    assert exploration.visited_dimension(same) == pytest.approx(3, rel=1e-12)
    apart = np.eye(12).reshape(4, 3, 12)
    assert exploration.visited_dimension(apart) == pytest.approx(12, rel=1e-12)


def test_no_sign_and_no_basis_matters():
    spaces = frames(6, 3, 15)
    turned = frames(6, 3, 3) @ spaces
    for measure in (exploration.visited_dimension, exploration.wandering_dimension):
        assert measure(turned) == pytest.approx(measure(spaces), rel=1e-12)
        lines = spaces[:, 0]
        signs = RNG.choice([-1.0, 1.0], (6, 1))
        assert measure(signs * lines) == pytest.approx(measure(lines), rel=1e-12)


def walk(shares, k, n, rng):
    """Spaces of which successive ones share what is given, at random otherwise."""
    spaces = [frames(1, k, n, rng)[0]]
    for q in shares:
        now = frames(1, k, k, rng)[0] @ spaces[-1]
        fresh = rng.standard_normal((n, k))
        fresh = rows(fresh - now.T @ (now @ fresh), rng)
        spaces.append(np.sqrt(q) * now + np.sqrt(1 - q) * fresh)
    return np.array(spaces)


@pytest.mark.parametrize(("k", "n"), [(1, 5), (2, 7), (1, 40)])
def test_wandering_dimension_is_that_of_a_simulated_walk(k, n):
    """The mean of 1 / dimension over many walks, within five standard errors of it."""
    shares, rng = (0.9, 0.3, 0.7, 0.5), np.random.default_rng(1)
    walks = [walk(shares, k, n, rng) for _ in range(2000)]
    found = np.array([1 / exploration.visited_dimension(spaces) for spaces in walks])
    expected = [1 / exploration.wandering_dimension(spaces) for spaces in walks[:3]]
    # The model knows what successive spaces share, and nothing else of a walk.
    assert np.ptp(expected) < 1e-12
    error = found.std(ddof=1) / np.sqrt(len(found))
    assert abs(found.mean() - expected[0]) < 5 * error
    assert error < 0.01 * expected[0]


def test_a_walk_that_comes_back_visits_less_and_one_that_leads_on_visits_more():
    angles = np.pi / 3 * np.arange(12)
    circle = np.zeros((12, 50))
    circle[:, 0], circle[:, 1] = np.cos(angles), np.sin(angles)
    visited, expected = (
        measure(circle)
        for measure in (exploration.visited_dimension, exploration.wandering_dimension)
    )
    assert visited == pytest.approx(2, rel=1e-12)
    assert expected > 2
    # A line that turns by one degree a step, in a plane: no walk gets as far.
    steady = np.zeros((45, 50))
    steady[:, 0], steady[:, 1] = (f(np.radians(np.arange(45))) for f in (np.cos, np.sin))
    assert exploration.visited_dimension(steady) > exploration.wandering_dimension(steady)


def test_a_walk_in_fewer_dimensions_visits_fewer():
    spaces = frames(20, 2, 30)
    dimensions = [exploration.wandering_dimension(spaces, n) for n in (3, 10, 30)]
    assert dimensions == sorted(dimensions)
    assert dimensions[-1] == exploration.wandering_dimension(spaces)
    assert dimensions[0] <= 3 + 1e-12


def test_the_center_keeps_what_is_straight_and_a_quarter_of_the_growth_squared():
    straight = np.linspace(0, 1, 8)[:, None] * RNG.standard_normal(3)
    found = exploration.oscillation_centers(straight)
    assert found == pytest.approx(straight[1:-1], abs=1e-15)
    for growth in (0.0, 0.1, 1.0):
        swing = (-(1 + growth)) ** np.arange(3.0)
        assert exploration.oscillation_centers(swing)[0] == pytest.approx(growth**2 / 4, abs=1e-15)


def test_movement_inside_and_outside_add_up():
    path, (space,) = RNG.standard_normal((5, 8)), frames(1, 3, 8)
    found = exploration.movement(path[:2], space)
    whole = np.linalg.norm(path[1] - path[0])
    assert np.hypot(found.inside, found.outside) == pytest.approx(whole, rel=1e-12)
    assert found.net == pytest.approx(found.outside, rel=1e-12)
    longer = exploration.movement(path, space)
    assert longer.net < longer.outside
    there_and_back = exploration.movement(path[[0, 1, 0]], space)
    assert there_and_back.net == pytest.approx(0, abs=1e-14)
    assert there_and_back.outside == pytest.approx(2 * found.outside, rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exploration.visited_dimension(np.ones(3)), r"shape \(m, k, n\)"),
        (lambda: exploration.visited_dimension(np.ones((2, 3, 2))), "k <= n"),
        (lambda: exploration.visited_dimension(np.ones((1, 2, 3))), "independent"),
        (lambda: exploration.visited_dimension([[np.nan, 1.0]]), "finite"),
        (lambda: exploration.wandering_dimension(frames(1, 2, 5)), "two at least"),
        (lambda: exploration.wandering_dimension(frames(3, 2, 5), 2), "dimension"),
        (lambda: exploration.oscillation_centers(np.ones((2, 4))), "three points"),
        (lambda: exploration.movement(np.ones((1, 4)), np.eye(4)[:2]), "m >= 2"),
        (lambda: exploration.movement(np.ones((3, 4)), np.eye(3)), r"space \(k, n\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
