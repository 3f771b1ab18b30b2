"""polarity: displaced rotations against Theorem G2, and the turn over a stretch of training."""

import numpy as np
import pytest
import small_networks
import torch

from flatminima import models
from flatminima.curvature import EmpiricalRisk
from flatminima.training.polarity import displaced_rotation, turn_over


@pytest.fixture(scope="module")
def data():
    return small_networks.points()


@pytest.fixture(scope="module")
def trained():
    return small_networks.trained()


def test_displaced_rotation_obeys_g2_to_first_order_and_restores_the_parameters(trained, data):
    model = models.mlp([6, 8, 8, 3], dtype=torch.float64)
    model.load_state_dict(trained.model.state_dict())
    before = [p.detach().clone() for p in model.parameters()]
    found = displaced_rotation(
        EmpiricalRisk(model, "mse", (data[0].double(), data[1])), [1e-4, 2e-4]
    )
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    # The error is of second order: relative to x it doubles with x, up to a relative O(x).
    assert np.all(found.deviation < 0.05)
    assert np.allclose(found.deviation[:, 1] / found.deviation[:, 0], 2, rtol=0.1)
    assert np.all(found.cosine < -0.99)


def test_displaced_rotation_refuses_float32(trained):
    with pytest.raises(ValueError, match="float64"):
        displaced_rotation(trained, [0.1])


@pytest.mark.parametrize("distances", [[], [0.0], [-0.1, 0.1], 0.1])
def test_distances_must_be_positive(data, distances):
    risk = EmpiricalRisk(
        models.mlp([6, 3], dtype=torch.float64), "mse", (data[0].double(), data[1])
    )
    with pytest.raises(ValueError, match="distances must be positive"):
        displaced_rotation(risk, distances)


def test_only_a_rate_above_the_threshold_brings_episodes(trained):
    stable = turn_over(trained, ratio=0.5, time=60)
    unstable = turn_over(trained, ratio=1.5, time=60)
    assert not stable.episodes
    assert unstable.diverged or unstable.episodes
    assert stable.before == unstable.before


def test_the_parameters_are_put_back_also_when_the_run_diverges(trained):
    before = [p.detach().clone() for p in trained.parameters]
    with np.errstate(all="ignore"):
        found = turn_over(trained, ratio=1e6, time=1e8)
    assert found.diverged
    assert np.isnan(found.overlap)
    assert all(torch.equal(p, q) for p, q in zip(trained.parameters, before, strict=True))
