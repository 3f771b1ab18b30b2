"""episodes: alignment, errors by seed, displaced rotations, the turn over a stretch, mutations."""

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch.func import functional_call

from flatminima import curvature, datasets, models, training
from flatminima.statistics import Interval, rank_correlation
from flatminima.theory.instability import find_episodes
from flatminima.training import episodes


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 6, generator=generator)
    return inputs, torch.randint(3, (40,), generator=generator)


@pytest.fixture(scope="module")
def trained(data):
    model = models.mlp([6, 8, 8, 3], scale=0.5, seed=1)
    training.gradient_descent(model, *data, learning_rate=0.2, steps=400, progress=False)
    return model


def test_align_cuts_windows_and_marks_what_is_outside():
    cut = episodes.align(np.arange(5.0), [0, 3], 1, 2)
    assert np.array_equal(cut, [[np.nan, 0, 1, 2], [2, 3, 4, np.nan]], equal_nan=True)
    with pytest.raises(ValueError, match="between 0 and 4"):
        episodes.align(np.arange(5.0), [5], 1, 1)


def test_average_counts_seeds_not_episodes():
    found = episodes.average([0.0, 0.0, 0.0, 2.0], [0, 0, 0, 1])
    # Means of the groups 0 and 2: their mean is 1, and sqrt(2) / sqrt(2) its error.
    assert found == (1.0, 1.0)
    assert np.isnan(episodes.average([1.0, 2.0], [0, 0]).error)


def bumps(generator):
    t = np.arange(400)
    peaks = np.arange(40, 400, 60)
    trace = sum(np.exp(-(((t - p) / 4) ** 2)) for p in peaks)
    return trace + 0.05 * generator.standard_normal(len(t)), peaks


def test_contrast_sees_the_bumps_and_not_where_peaks_are_shuffled():
    generator = np.random.default_rng(0)
    trace, peaks = bumps(generator)
    groups = np.arange(len(peaks)) % 3
    there = episodes.contrast(episodes.align(trace, peaks, 20, 20), 20, 1, 8, groups)
    assert there.mean > 3 * there.error > 0
    # The mutation: peaks halfway between the bumps. The criterion of the chapter must fail.
    away = episodes.contrast(episodes.align(trace, peaks - 30, 20, 20), 20, 1, 8, groups)
    assert not away.mean > 2 * away.error
    with pytest.raises(ValueError, match="near"):
        episodes.contrast(trace[None], 20, 8, 8, [0])


def test_displaced_rotation_obeys_g2_to_first_order_and_restores_the_parameters(trained, data):
    model = models.mlp([6, 8, 8, 3], dtype=torch.float64)
    model.load_state_dict(trained.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    inputs = data[0].double()
    found = episodes.displaced_rotation(
        lambda: training.mse(model(inputs), data[1]), model.parameters(), [1e-4, 2e-4]
    )
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    # The error is of second order: relative to x it doubles with x, up to a relative O(x).
    assert np.all(found.deviation < 0.05)
    assert np.allclose(found.deviation[:, 1] / found.deviation[:, 0], 2, rtol=0.1)
    assert np.all(found.cosine < -0.99)


def test_displaced_rotation_refuses_float32(trained, data):
    with pytest.raises(ValueError, match="float64"):
        episodes.displaced_rotation(
            lambda: training.mse(trained(data[0]), data[1]), trained.parameters(), [0.1]
        )


# The polarity of the displaced rotations


@pytest.fixture(scope="module")
def displaced(data):
    """Three networks, each displaced along its v_1 by the same distances."""
    inputs, found = data[0].double(), []
    for seed in (1, 2, 3):
        model = models.mlp([6, 8, 8, 3], scale=0.5, seed=seed, dtype=torch.float64)
        targets = torch.nn.functional.one_hot(data[1], 3).double()
        training.gradient_descent(
            model, inputs, targets, learning_rate=0.2, steps=400, progress=False
        )
        found.append(
            episodes.displaced_rotation(
                lambda model=model: training.mse(model(inputs), data[1]),
                model.parameters(),
                [1e-4, 1e-3, 1e-2, 1.0],
            )
        )
    return found


def test_the_criterion_of_polarity_is_met(displaced):
    held = episodes.polarity_predictions(displaced)
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
    assert not episodes.polarity_predictions(shuffled)["opposite"]
    # Turning to the same side on both sides is what an even effect would do.
    alike = [with_rotations(test, test.rotations[0], test.rotations[0]) for test in displaced]
    assert not episodes.polarity_predictions(alike)["opposite"]
    assert not episodes.polarity_predictions(alike)["decays"]


def test_the_first_order_fails_where_the_prediction_is_off_by_a_fixed_factor(displaced):
    wrong = [test._replace(deviation=np.ones_like(test.deviation)) for test in displaced]
    assert not episodes.polarity_predictions(wrong)["first-order"]


# The turn over a stretch of training


def test_turn_over_leaves_the_model_and_a_linear_model_does_not_turn(data):
    model = models.linear(6, 1, bias=False)
    target = (data[1] == 1).float()[:, None]
    before = model[1].weight.detach().clone()
    pairs = curvature.top_eigenpairs(
        lambda: training.mse(model(data[0]), target), training.trainable(model), 4
    )
    bound = episodes.unresolved_turn(pairs.eigenvalues, 3)
    for ratio in (0.9, 1.05):
        found = episodes.turn_over(model, data[0], target, ratio=ratio, time=40, k=3)
        assert torch.equal(model[1].weight, before)
        assert bool(found.episodes) == (ratio > 1)
        assert 1 - found.overlap <= bound


def test_a_network_fails_the_control(trained, data):
    """The bound that the linear model keeps is none that anything would keep."""
    pairs = curvature.top_eigenpairs(
        lambda: training.mse(trained(data[0]), data[1]), training.trainable(trained), 4
    )
    found = episodes.turn_over(trained, *data, ratio=0.9, time=60)
    assert 1 - found.overlap > episodes.unresolved_turn(pairs.eigenvalues, 3)


def test_unresolved_turn_bounds_what_a_residual_does():
    """A symmetric error of norm tol * lambda_1 turns a space by no more than half the bound's."""
    rng = np.random.default_rng(0)
    values, tol = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]), 1e-3
    assert episodes.unresolved_turn(values, 3, tol) == pytest.approx((2e-3 * 5) ** 2, rel=1e-12)
    for _ in range(20):
        error = rng.standard_normal((6, 6))
        error = error + error.T
        error *= tol * values[0] / np.linalg.norm(error, 2)
        _, vectors = np.linalg.eigh(np.diag(values) + error)
        inside = np.linalg.svd(vectors[:3, -3:], compute_uv=False)
        assert 1 - np.mean(inside**2) <= episodes.unresolved_turn(values, 3, tol)
    with pytest.raises(ValueError, match="with a gap"):
        episodes.unresolved_turn([2.0, 1.0, 1.0], 2)
    with pytest.raises(ValueError, match="more than k = 3"):
        episodes.unresolved_turn([3.0, 2.0, 1.0], 3)


RATIOS = np.array([0.5, 0.9, 1.2, 1.4, 1.6])


def turned(generator, seeds=4, fall=0.3):
    """Overlaps that fall past the threshold, with differences between seeds and noise."""
    base = 0.9 + 0.02 * generator.standard_normal((seeds, 1))
    noise = 0.01 * generator.standard_normal((seeds, len(RATIOS)))
    return base + noise - fall * np.clip(RATIOS - 1, 0, None)


def turns(overlap):
    trend = rank_correlation(np.tile(RATIOS, (len(overlap), 1)), overlap, np.random.default_rng(0))
    return episodes.turns_with_the_rate(RATIOS, overlap, trend)


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
            episodes.turns_with_the_rate(ratios, np.ones((3, 2)), trend)
    with pytest.raises(ValueError, match="one column for each"):
        episodes.turns_with_the_rate([0.5, 1.5], np.ones((3, 3)), trend)


def test_only_a_rate_above_the_threshold_brings_episodes(trained, data):
    stable = episodes.turn_over(trained, *data, ratio=0.5, time=60)
    unstable = episodes.turn_over(trained, *data, ratio=1.5, time=60)
    assert not stable.episodes
    assert unstable.diverged or unstable.episodes
    assert stable.before == unstable.before


def test_a_contrast_stands_out_in_every_seed_and_against_chance():
    assert episodes.stands_out([1.0, 2.0, 3.0], [0.1, -0.1, 0.2])
    assert not episodes.stands_out([1.0, -0.1, 3.0], [0.0, 0.0, 0.0])
    assert not episodes.stands_out([1.0, 2.0, 3.0], [1.0, 0.5, 0.6])
    # The quantity around random steps in the place of that around the peaks.
    generator = np.random.default_rng(2)
    measured, control = [], []
    for _ in range(4):
        trace, peaks = bumps(generator)
        for places, found in ((peaks, measured), (generator.integers(0, 400, 200), control)):
            cuts = episodes.align(trace, places, 20, 20)
            found.append(float(episodes.contrast(cuts, 20, 1, 8, np.zeros(len(cuts))).mean))
    assert episodes.stands_out(measured, control)
    assert not episodes.stands_out(control, control)


# What is watched


def test_every_column_of_watch_against_automatic_differentiation_in_float64(data):
    """Each quantity from its definition: dense Hessian, derivatives along v_1, gradient of v'Hv."""
    x, y = data[0].double(), torch.nn.functional.one_hot(data[1], 3).double()
    model = models.mlp([6, 5, 5, 3], scale=0.5, seed=1, dtype=torch.float64)
    training.gradient_descent(model, x, y, learning_rate=0.2, steps=200, progress=False)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(theta):
        parts = torch.split(theta, [shape.numel() for shape in shapes])
        parameters = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return training.mse(functional_call(model, parameters, (x,)), y)

    hessian = torch.func.hessian(loss)(flat)
    values, vectors = torch.linalg.eigh(hessian)
    v = vectors[:, -1]
    gradient = torch.func.grad(loss)(flat)
    third = torch.func.grad(lambda theta: v @ torch.func.hessian(loss)(theta) @ v)(flat)

    def line(t):
        return loss(flat + t * v)

    for _ in range(4):
        line = torch.func.grad(line)
    expected = {
        "sharpness": values[-1],
        "smallest": values[0],
        "displacement": abs(gradient @ v) / values[-1],
        "along": abs(third @ v),
        "across": torch.linalg.norm(third - (third @ v) * v),
        "fourth": line(torch.zeros((), dtype=torch.float64)),
    }
    assert tuple(expected) == episodes.QUANTITIES

    def at(tol):
        run = training.gradient_descent(
            model, x, y, learning_rate=1e-12, steps=1, probes={"w": episodes.Watch(tol=tol)},
            progress=False,
        )  # fmt: skip
        return run.probes["w"][0]

    # The vector is off by an angle of at most tol lambda_1 over the gap, and each quantity in
    # proportion, with a factor of the order of the largest derivative over its own size.
    angle = 1e-9 * float(values[-1] / (values[-1] - values[-2]))
    largest = torch.func.jacfwd(torch.func.hessian(loss))(flat).abs().sum((1, 2)).max()
    for value, (name, known) in zip(at(1e-9), expected.items(), strict=True):
        scale = max(float(largest / abs(known)), 1.0)
        assert value == pytest.approx(float(known), rel=max(10 * angle * scale, 1e-9)), name


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_watch_finds_a_smallest_eigenvalue_of_one_percent_of_the_largest(seed):
    """From a cold start, and not an eigenvalue near zero, whose residual may be as small."""
    images = datasets.load("fashion-mnist-subset", n_train=200, n_test=10, seed=0)
    model = models.mlp([784, 16, 16, 10], scale=0.3, seed=seed)
    pictures = images.x_train, images.y_train
    training.gradient_descent(model, *pictures, learning_rate=0.1, steps=200, progress=False)
    found = training.gradient_descent(
        model, *pictures, learning_rate=1e-6, steps=1, probes={"w": episodes.Watch()},
        progress=False,
    ).probes["w"][0]  # fmt: skip
    operator = curvature.HessianOperator(
        lambda: training.mse(model(pictures[0]), pictures[1]), training.trainable(model)
    )
    known = curvature.top_eigenpairs(operator, which="smallest", tol=1e-5)
    # Within the residual of a quarter of 2e-3 of lambda_1, and what one tiny step moves.
    assert float(known.eigenvalues[0]) < -0.005 * found[0]
    assert found[1] == pytest.approx(float(known.eigenvalues[0]), abs=6e-4 * found[0])


def spectrum(model, data):
    operator = curvature.HessianOperator(
        lambda: training.mse(model(data[0]), data[1]), training.trainable(model)
    )
    rows = [operator.matvec(e).numpy() for e in torch.eye(len(operator.gradient))]
    return np.linalg.eigvalsh(np.array(rows).astype(float))


def test_watch_agrees_with_the_dense_hessian_and_no_episode_is_in_a_stable_step(trained, data):
    run = training.gradient_descent(
        trained, *data, learning_rate=1e-6, steps=1, probes={"w": episodes.Watch()}, progress=False
    )
    dense, found = spectrum(trained, data), run.probes["w"][-1]
    # A Ritz value errs by at most its residual: 2e-3 times the largest eigenvalue, and a quarter.
    assert found[0] == pytest.approx(dense[-1], abs=2e-3 * dense[-1])
    assert found[1] == pytest.approx(dense[0], abs=5e-4 * dense[-1])
    assert find_episodes(run.loss, run.probes["w"][:, 0], 1e-6) == []
