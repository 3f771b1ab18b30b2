"""The experiment on flatness after a large learning rate, at sizes that take a second."""

import dataclasses

import numpy as np
import pytest
import torch

from flatminima import datasets, sweep, training
from study import results

EXPERIMENT = results.experiment("flatness")
Config = type(EXPERIMENT.grid("ci")[0])
TOY = {"dataset": "fashion-mnist-subset", "n_train": 60, "width": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def runs():
    """The runs of the ci preset's first seed, by factor."""
    configs = [config for config in EXPERIMENT.grid("ci") if config.seed == 0]
    return {config.factor: sweep.perform(EXPERIMENT.function, config) for config in configs}


def test_every_value_has_a_tolerance_and_every_tolerance_a_value(runs):
    for run in runs.values():
        assert run.status == "done", run.error
        assert set(run.values) == set(EXPERIMENT.tolerances)


def test_runs_of_a_seed_start_alike_and_end_at_the_same_loss(runs):
    first, *others = (run.values for run in runs.values())
    for values in others:
        for name in ("start_steps", "start_sharpness", "start_accuracy"):
            assert values[name] == first[name]
    for factor, run in runs.items():
        rate = factor * 2 / run.values["start_sharpness"]
        assert run.values["learning_rate"] == pytest.approx(rate, rel=1e-12)
        assert run.values["reached"]
        assert 0 <= run.values["undershoot"] < 0.2


def test_instability_flattens_and_stability_spends_no_budget(runs):
    stable, unstable = runs[0.5].values, runs[2.0].values
    assert stable["episodes"] == stable["budget"] == 0
    assert stable["after_first"] is None
    assert unstable["episodes"] > 0
    assert unstable["budget"] > 0
    # Past the edge the sharpness falls to that of the large rate, 1/2 of what it was at factor 2;
    # half of that effect would already be far beyond the spread of the seeds.
    assert unstable["sharpness"] < 0.75 * stable["sharpness"]
    assert unstable["lowest_sharpness"] <= unstable["after_first"] < unstable["start_sharpness"]


def test_a_large_factor_diverges_and_keeps_what_was_measured_before():
    config = Config(1000.0, 0, **TOY, start_loss=0.4)
    with pytest.raises(sweep.Diverged, match="of the large rate") as caught:
        EXPERIMENT.function(config)
    assert caught.value.values["start_steps"] > 0
    run = sweep.perform(EXPERIMENT.function, config)
    assert run.status == "diverged"
    assert run.values["learning_rate"] > 0
    assert "sharpness" not in run.values


def test_a_run_that_does_not_reach_its_loss_is_kept():
    config = Config(0.5, 0, **TOY, start_loss=0.3, target_loss=1e-6, large_steps=5)
    # Enough for the first stage, which takes the same number of steps each time, and no more.
    enough = EXPERIMENT.function(dataclasses.replace(config, target_loss=0.29))["start_steps"]
    values = EXPERIMENT.function(dataclasses.replace(config, max_steps=enough))
    assert not values["reached"]
    assert values["cooling_steps"] == enough
    assert values["undershoot"] < 0
    assert np.isfinite(values["sharpness"])
    with pytest.raises(RuntimeError, match=f"after {enough - 1} steps"):
        EXPERIMENT.function(dataclasses.replace(config, max_steps=enough - 1))


def test_gpu_preset_at_toy_size():
    settings = {}
    for config in EXPERIMENT.grid("gpu"):
        assert config.device == "cuda"
        settings[config.dataset, config.model] = config
    assert len(settings) == 3
    for config in settings.values():
        small = dataclasses.replace(config, **TOY, factor=1.5, start_loss=0.4, target_loss=0.38)
        values = EXPERIMENT.function(small)
        assert values["reached"]
        assert set(values) == set(EXPERIMENT.tolerances)
    with pytest.raises(ValueError, match="model must be mlp, cnn"):
        EXPERIMENT.function(dataclasses.replace(small, model="transformer"))


def test_budget_is_that_of_a_scalar_residual():
    """On a descent of known losses: eta^2 r^2 with r^2 = 2 L, above the running minimum alone."""
    from study.experiments import flatness

    loss = np.array([1.0, 0.5, 0.8, 0.4, 0.9, 0.3])
    probed = np.arange(len(loss))
    history = training.History(
        learning_rate=0.1,
        steps=probed,
        loss=loss,
        gradient_norm=np.ones(6),
        probe_steps=probed,
        probes={"sharpness": np.array([21.0, 22.0, 21.0, 20.5, 19.0, 18.0])},
    )
    values = flatness.account(history, 0.1)
    assert values["budget"] == pytest.approx(0.1**2 * 2 * (0.3 + 0.5), rel=1e-12)
    assert values["lowest_sharpness"] == values["large_sharpness"] == 18.0
    assert values["highest_loss"] == 1.0
    assert values["large_steps_made"] == 5


def test_networks_fit_their_data():
    from study.experiments import flatness

    data = datasets.load("fashion-mnist-subset", n_train=10)
    shape = tuple(data.x_train.shape[1:])
    for model in ("mlp", "cnn"):
        network = flatness.build(Config(1.0, 0, model=model, width=4), shape)
        assert network(data.x_train).shape == (10, 10)
    again = flatness.build(Config(1.0, 0, model="cnn", width=4), shape)
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
