"""criteria: each is met where its effect is, and fails where it has been taken away."""

import numpy as np
import pytest
import small_networks
import torch
from scipy.stats import binom

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval, rank_correlation
from flatminima.training import episodes, gradient_descent
from flatminima.training.polarity import displaced_rotation, turn_over
from study import criteria


@pytest.fixture(scope="module")
def data():
    return small_networks.points()


@pytest.fixture(scope="module")
def trained():
    return small_networks.trained()


# The polarity of the displaced rotations


@pytest.fixture(scope="module")
def displaced(data):
    """Three networks, each displaced along its v_1 by the same distances."""
    inputs, found = data[0].double(), []
    for seed in (1, 2, 3):
        model = models.mlp([6, 8, 8, 3], scale=0.5, seed=seed, dtype=torch.float64)
        targets = torch.nn.functional.one_hot(data[1], 3).double()
        risk = EmpiricalRisk(model, "mse", (inputs, targets))
        gradient_descent(risk, 0.2, 400, progress=False)
        found.append(displaced_rotation(risk, [1e-4, 1e-3, 1e-2, 1.0]))
    return found


def test_the_criterion_of_polarity_is_met(displaced):
    held = criteria.polarity_predictions(displaced)
    assert all(held.values()), held
    for test in displaced:
        norms = np.linalg.norm(test.rotations, axis=2)
        assert np.allclose(norms, test.turn, rtol=1e-12)
        inner = np.sum(test.rotations[0] * test.rotations[1], axis=1)
        assert np.allclose(inner / (norms[0] * norms[1]), test.cosine, rtol=1e-12)


def with_rotations(test, plus, minus):
    """The measurement with other rotations in the place of its own."""
    cosine = np.sum(plus * minus, axis=1)
    cosine = cosine / (np.linalg.norm(plus, axis=1) * np.linalg.norm(minus, axis=1))
    return test._replace(cosine=cosine)


def test_polarity_fails_for_rotations_shuffled_over_networks_or_turned_alike(displaced):
    """The rotation at +x of one network with that at -x of the next: no relation is left.

    Two unrelated directions in n = 155 dimensions have a cosine of about 1/sqrt(n) = 0.08.
    """
    following = [*displaced[1:], displaced[0]]
    shuffled = [
        with_rotations(one, one.rotations[0], other.rotations[1])
        for one, other in zip(displaced, following, strict=True)
    ]
    assert not criteria.polarity_predictions(shuffled)["opposite"]
    # Turning to the same side on both sides is what an even effect would do.
    alike = [with_rotations(test, test.rotations[0], test.rotations[0]) for test in displaced]
    assert not criteria.polarity_predictions(alike)["opposite"]
    assert not criteria.polarity_predictions(alike)["decays"]


def test_the_first_order_fails_where_the_prediction_is_off_by_a_fixed_factor(displaced):
    wrong = [test._replace(deviation=np.ones_like(test.deviation)) for test in displaced]
    assert not criteria.polarity_predictions(wrong)["first-order"]


# The turn over a stretch of training


def test_turn_over_leaves_the_model_and_a_linear_model_does_not_turn(data):
    model = models.linear(6, 1, bias=False)
    target = (data[1] == 1).float()[:, None]
    before = model[1].weight.detach().clone()
    risk = EmpiricalRisk(model, "mse", (data[0], target))
    pairs = curvature.top_eigenpairs(risk, 4)
    bound = criteria.unresolved_turn(pairs.eigenvalues, 3)
    for ratio in (0.9, 1.05):
        found = turn_over(risk, ratio=ratio, time=40, k=3)
        assert torch.equal(model[1].weight, before)
        assert bool(found.episodes) == (ratio > 1)
        assert 1 - found.overlap <= bound


def test_a_network_fails_the_control(trained):
    """The bound that the linear model keeps is none that anything would keep."""
    pairs = curvature.top_eigenpairs(trained, 4)
    found = turn_over(trained, ratio=0.9, time=60)
    assert 1 - found.overlap > criteria.unresolved_turn(pairs.eigenvalues, 3)


def test_unresolved_turn_bounds_what_a_residual_does():
    """A symmetric error of norm tol * lambda_1 turns a space by no more than half the bound's."""
    rng = np.random.default_rng(0)
    values, tol = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]), 1e-3
    assert criteria.unresolved_turn(values, 3, tol) == pytest.approx((2e-3 * 5) ** 2, rel=1e-12)
    for _ in range(20):
        error = rng.standard_normal((6, 6))
        error = error + error.T
        error *= tol * values[0] / np.linalg.norm(error, 2)
        _, vectors = np.linalg.eigh(np.diag(values) + error)
        inside = np.linalg.svd(vectors[:3, -3:], compute_uv=False)
        assert 1 - np.mean(inside**2) <= criteria.unresolved_turn(values, 3, tol)
    with pytest.raises(ValueError, match="with a gap"):
        criteria.unresolved_turn([2.0, 1.0, 1.0], 2)
    with pytest.raises(ValueError, match="more than k = 3"):
        criteria.unresolved_turn([3.0, 2.0, 1.0], 3)


RATIOS = np.array([0.5, 0.9, 1.2, 1.4, 1.6])


def turned(generator, seeds=4, fall=0.3):
    """Overlaps that fall past the threshold, with differences between seeds and noise."""
    base = 0.9 + 0.02 * generator.standard_normal((seeds, 1))
    noise = 0.01 * generator.standard_normal((seeds, len(RATIOS)))
    return base + noise - fall * np.clip(RATIOS - 1, 0, None)


def turns(overlap):
    trend = rank_correlation(np.tile(RATIOS, (len(overlap), 1)), overlap, np.random.default_rng(0))
    return criteria.turns_with_the_rate(RATIOS, overlap, trend)


def test_the_criterion_of_rotation_is_met_by_an_effect_and_not_by_stable_rates():
    generator = np.random.default_rng(0)
    overlap = turned(generator)
    assert turns(overlap)
    # Stable rates only: past the threshold each seed has what it has at a stable rate.
    stable = overlap.copy()
    stable[:, RATIOS > 1] = overlap[:, generator.integers(0, 2, 3)]
    assert not turns(stable)
    # One seed without the effect is enough to fail.
    one = overlap.copy()
    one[0, RATIOS > 1] = overlap[0, 0]
    assert not turns(one)
    # And so is an effect with the opposite sign.
    assert not turns(turned(generator, fall=-0.05))


def test_rotations_shuffled_over_the_rates_meet_the_criterion_by_chance_only():
    """Of three places (two stable rates and the largest) the last is lowest with probability 1/3.

    In four seeds at once that is 1/81, before the demand on the trend.
    """
    generator, trials = np.random.default_rng(1), 200
    met = sum(turns(generator.permuted(turned(generator), axis=1)) for _ in range(trials))
    assert met <= binom.ppf(1 - 1e-6, trials, 3**-4)


def test_the_criterion_of_rotation_needs_rates_on_both_sides():
    trend = Interval(-1.0, -1.0, -1.0)
    for ratios in ([0.5, 0.9], [1.2, 1.5]):
        with pytest.raises(ValueError, match="both sides of 1"):
            criteria.turns_with_the_rate(ratios, np.ones((3, 2)), trend)
    with pytest.raises(ValueError, match="one column for each"):
        criteria.turns_with_the_rate([0.5, 1.5], np.ones((3, 3)), trend)


def bumps(generator):
    t = np.arange(400)
    peaks = np.arange(40, 400, 60)
    trace = sum(np.exp(-(((t - p) / 4) ** 2)) for p in peaks)
    return trace + 0.05 * generator.standard_normal(len(t)), peaks


def test_a_contrast_stands_out_in_every_seed_and_against_chance():
    assert criteria.stands_out([1.0, 2.0, 3.0], [0.1, -0.1, 0.2])
    assert not criteria.stands_out([1.0, -0.1, 3.0], [0.0, 0.0, 0.0])
    assert not criteria.stands_out([1.0, 2.0, 3.0], [1.0, 0.5, 0.6])
    # The quantity around random steps in the place of that around the peaks.
    generator = np.random.default_rng(2)
    measured, control = [], []
    for _ in range(4):
        trace, peaks = bumps(generator)
        for places, found in ((peaks, measured), (generator.integers(0, 400, 200), control)):
            cuts = episodes.windows(trace, places, 20, 20)
            found.append(float(episodes.peak_contrast(cuts, 20, 1, 8, np.zeros(len(cuts))).mean))
    assert criteria.stands_out(measured, control)
    assert not criteria.stands_out(control, control)
