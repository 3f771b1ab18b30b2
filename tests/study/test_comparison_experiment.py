"""The experiment `comparison`: its ways of training, its records, its gpu preset at toy size."""

import dataclasses

import numpy as np
import pytest
import torch

from flatminima import sweep
from study.experiments import comparison

TOLERANCES = comparison.EXPERIMENT.tolerances
TOY = {
    "dataset": "fashion-mnist-subset", "n_train": 60, "width": 8, "sgd_steps": 10, "device": "cpu",
    "target_loss": 0.25, "max_steps": 3000, "small_rate": 0.01, "large_rate": 0.03,
}  # fmt: skip


@pytest.mark.parametrize("method", comparison.METHODS)
def test_every_way_ends_at_the_matched_loss_with_everything_measured(method):
    values = comparison.run(comparison.Config("tanh", method, 0, **TOY))
    assert set(values) == set(TOLERANCES)
    assert all(value is not None and np.isfinite(value) for value in values.values())
    assert values["reached"]
    assert values["steps"] > 0
    # The cooling begins a fifth above the target, and each step lowers the loss by far less.
    assert values["cooling_steps"] > 0
    assert 0 <= values["undershoot"] < 0.05
    if method == "sgd":
        assert values["steps"] == TOY["sgd_steps"]


def test_the_ways_differ_in_nothing_but_what_is_said():
    def weights(method, seed=3, architecture="tanh"):
        config = comparison.Config(architecture, method, seed, **TOY)
        return [p.detach() for p in comparison.network(config, (1, 28, 28)).parameters()]

    plain, other = weights("gd-small"), weights("gd-small", seed=4)
    small, large = weights("gd-small-init"), weights("gd-large-init")
    for p, half, more in zip(plain, small, large, strict=True):
        torch.testing.assert_close(half, p / 2, rtol=1e-6, atol=0)
        torch.testing.assert_close(more, 1.5 * p, rtol=1e-6, atol=0)
    assert not torch.equal(plain[0], other[0])
    for method in ("gd-large", "sgd", "adam"):
        assert all(map(torch.equal, weights(method), plain))
    depths = {
        name: sum(p.ndim == 2 for p in weights("sgd", architecture=name))
        for name in comparison.ARCHITECTURES
    }
    assert depths == {"tanh": 3, "relu": 3, "deep": 5}


def test_a_diverging_run_says_so_with_what_was_measured():
    run = sweep.perform(
        comparison.run, comparison.Config("relu", "gd-large", 0, **{**TOY, "large_rate": 100.0})
    )
    assert run.status == "diverged"
    assert set(run.values) == {"steps"}
    assert run.error == f"at step {run.values['steps'] + 1}"


def test_a_run_that_does_not_reach_the_target_is_kept_and_says_so():
    short = {**TOY, "max_steps": 3}
    values = comparison.run(comparison.Config("tanh", "gd-small", 0, **short))
    assert not values["reached"]
    assert values["cooling_steps"] == values["steps"] == 3
    assert values["undershoot"] < 0


@pytest.mark.parametrize("preset", ["ci", "default", "gpu"])
def test_every_preset_has_every_way_for_every_seed(preset):
    grid = comparison.grid(preset)
    assert len(set(grid)) == len(grid)
    by_place = {}
    for config in grid:
        by_place.setdefault((config.architecture, config.seed), set()).add(config.method)
    assert all(methods == set(comparison.METHODS) for methods in by_place.values())
    assert len({config.seed for config in grid}) >= 3


def test_the_networks_of_the_gpu_preset_run_at_toy_size():
    grid = comparison.grid("gpu")
    assert {(c.dataset, c.device, c.n_train) for c in grid} == {("cifar10", "cuda", 5000)}
    assert {c.architecture for c in grid} == set(comparison.ARCHITECTURES)
    for config in grid:
        if config.seed == 0 and config.method in ("gd-large", "adam"):
            values = comparison.run(dataclasses.replace(config, **TOY))
            assert values["reached"]
            assert set(values) == set(TOLERANCES)
