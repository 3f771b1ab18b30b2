"""episodes: alignment, errors by seed, displaced rotations, the turn over a stretch, mutations."""

import numpy as np
import pytest
import torch

from flatminima import curvature, episodes, models, training
from flatminima.instability import find_episodes


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


def test_turn_over_leaves_the_model_and_a_linear_model_does_not_turn(data):
    model = models.linear(6, 3, bias=False)
    before = model[1].weight.detach().clone()
    found = episodes.turn_over(model, *data, ratio=1.1, time=20, k=3)
    assert torch.equal(model[1].weight, before)
    # Three outputs share each eigenvalue, so the leading space has dimension 3. Eigenpairs to 1e-3
    # of lambda_1, over a gap of a few percent of it at least: squared, far below one percent.
    assert found.overlap > 0.99


def test_only_a_rate_above_the_threshold_brings_episodes_and_stable_rates_turn_alike(trained, data):
    stable = episodes.turn_over(trained, *data, ratio=0.5, time=60)
    unstable = episodes.turn_over(trained, *data, ratio=1.5, time=60)
    assert not stable.episodes
    assert unstable.diverged or unstable.episodes
    # The mutation: with stable rates only there is no effect of the size that the chapter wants.
    other = episodes.turn_over(trained, *data, ratio=0.8, time=60)
    assert abs(stable.overlap - other.overlap) < 0.03


def test_watch_agrees_with_the_dense_hessian(trained, data):
    run = training.gradient_descent(
        trained, *data, learning_rate=1e-6, steps=1, probes={"w": episodes.Watch()}, progress=False
    )
    operator = curvature.HessianOperator(
        lambda: training.mse(trained(data[0]), data[1]), training.trainable(trained)
    )
    dense = np.linalg.eigvalsh(
        np.array([operator.matvec(e).numpy() for e in torch.eye(len(operator.gradient))]).astype(
            float
        )
    )
    found = run.probes["w"][-1]
    # A Ritz value errs by at most its residual, tol and 10 tol times the largest eigenvalue.
    assert found[0] == pytest.approx(dense[-1], rel=4e-3)
    assert found[1] == pytest.approx(dense[0], abs=0.04 * dense[-1])
    assert find_episodes(run.loss, run.probes["w"][:, 0], 1e-6) == []
