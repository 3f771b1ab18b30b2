"""The experiment `sgd`: its stages, what it records, its cells, and the gpu preset at toy size."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from flatminima import datasets, models, sweep, training
from flatminima.curvature import EmpiricalRisk, mse
from study.experiments import sgd

TOY = {
    "dataset": "fashion-mnist-subset", "n_train": 60, "width": 8, "steps": 20, "device": "cpu",
    "start_loss": 0.3, "target_loss": 0.25, "max_steps": 3000, "small_rate": 0.004,
}  # fmt: skip
"""A network so narrow begins sharp: the small rate is that much smaller."""


def toy(rate=TOY["small_rate"], batch=0, seed=0, **settings):
    return sgd.Config(rate, batch, seed, **{**TOY, **settings})


CELLS = {
    "neither": toy(),
    "slower": toy(rate=TOY["small_rate"] / 2),
    "noise": toy(batch=8),
    "labels": toy(label_noise=1.0),
    "another seed": toy(batch=8, seed=1),
}


@pytest.fixture(scope="module")
def runs():
    return {name: sgd.run(config) for name, config in CELLS.items()}


def test_every_value_has_a_tolerance_and_every_tolerance_a_value(runs):
    for values in runs.values():
        assert set(values) == set(sgd.TOLERANCES)
        assert all(value is not None and np.isfinite(value) for value in values.values())


def test_the_runs_of_a_seed_share_their_first_stage_and_all_end_at_the_matched_loss(runs):
    alike = ("neither", "slower", "noise", "labels")
    for name in ("start_steps", "start_sharpness"):
        assert len({runs[cell][name] for cell in alike}) == 1
        assert runs["another seed"][name] != runs["neither"][name]
    for values in runs.values():
        assert values["reached"]
        assert values["final_loss"] <= TOY["target_loss"]
        # The last of about 100 steps that lower the loss by a sixth: two thousandths on average.
        assert 0 <= values["undershoot"] < 0.01
        share = 1 - values["final_loss"] / TOY["target_loss"]
        assert values["undershoot"] == pytest.approx(share, abs=1e-12)
        assert values["cooling_steps"] > 0


def test_the_second_stage_ends_where_its_own_updates_lead(runs):
    """Against plain gradient descent, written out: the same start, ``steps`` updates."""
    config = CELLS["neither"]
    risk = started(config)
    model, (x, y) = risk.model, risk.data
    outputs = datasets.one_hot(y)
    losses = []
    for _ in range(config.steps + 1):
        loss = ((model(x) - outputs) ** 2).sum(1).mean() / 2
        losses.append(float(loss.detach()))
        for p, g in zip(
            model.parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            p.data -= config.rate * g
    # The same float32 sums in another order: some hundreds of roundings, each at most 6e-8.
    assert runs["neither"]["treated_loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert losses[-1] < losses[0]
    # At a stable rate the loss falls, so that the highest is that of the start.
    assert runs["neither"]["treated_highest_loss"] == pytest.approx(losses[0], rel=1e-4)


def started(config):
    """The risk of the network after the first stage."""
    data = datasets.load(config.dataset, n_train=config.n_train, seed=config.seed)
    model = models.mlp([784, config.width, config.width, 10], "tanh", seed=config.seed)
    risk = EmpiricalRisk(model, config.loss, (data.x_train, data.y_train))
    rate = {"learning_rate": config.small_rate, "progress": False}
    training.train_to_loss(risk, config.start_loss, config.max_steps, **rate)
    return risk


def test_half_the_rate_ends_at_the_same_sharpness_and_noise_does_not_stay_on_the_path(runs):
    stable, slower = runs["neither"], runs["slower"]
    # Both follow one curve. The eigenvalues are known to 1e-4 each; the losses differ by a share of
    # 1e-2 at most, and log sharpness varies far more slowly than log loss: from the start to the
    # end, the loss a sixth lower, by less than a hundredth.
    assert abs(np.log(stable["sharpness"] / stable["start_sharpness"])) < 0.01
    assert abs(np.log(stable["sharpness"] / slower["sharpness"])) < 2e-4 + 1e-2 * 0.01 / 0.18
    assert runs["noise"]["treated_loss"] != stable["treated_loss"]
    assert runs["labels"]["treated_loss"] != stable["treated_loss"]


def test_a_stage_that_overshoots_the_target_is_kept_and_its_undershoot_tells():
    values = sgd.run(toy(steps=200, target_loss=0.29))
    assert values["reached"]
    assert values["cooling_steps"] == 0
    assert values["final_loss"] == pytest.approx(values["treated_loss"], rel=1e-5)
    assert values["undershoot"] == pytest.approx(1 - values["final_loss"] / 0.29, rel=1e-12)
    assert values["undershoot"] > 0.05


def test_a_run_that_does_not_reach_the_target_is_kept_and_says_so():
    enough = sgd.run(toy())["start_steps"]
    values = sgd.run(toy(target_loss=1e-4, max_steps=enough))
    assert not values["reached"]
    assert values["cooling_steps"] == enough
    assert values["undershoot"] < 0
    with pytest.raises(RuntimeError, match=f"after {enough - 1} steps"):
        sgd.run(toy(max_steps=enough - 1))


def test_a_diverging_second_stage_is_recorded_with_what_was_measured():
    with pytest.raises(sweep.Diverged, match="of the second stage") as caught:
        sgd.run(toy(rate=100.0))
    assert caught.value.values["start_sharpness"] > 0
    run = sweep.perform(sgd.run, toy(rate=100.0))
    assert run.status == "diverged"
    assert run.values["start_steps"] > 0
    assert run.values["treated_loss"] is None
    assert run.values["late_sharpness"] is None
    assert "sharpness" not in run.values
    assert set(run.values) <= set(sgd.TOLERANCES)


def test_account_by_hand():
    history = training.History(
        learning_rate=0.1,
        steps=np.arange(5),
        loss=np.array([1.0, 2.0, 0.5, 0.4, 0.3]),
        gradient_norm=np.ones(5),
        probe_steps=np.arange(5),
        probes={
            "sharpness": np.array([30.0, 21.0, 22.0, 18.0, 14.0]),
            "loss": np.array([1.0, 2.0, 0.5, 0.4, 0.3]),
        },
    )
    assert sgd.account(history) == {
        "treated_loss": 0.3,
        "treated_highest_loss": 2.0,
        "highest_sharpness": 22.0,  # after the first update: not the 30 of the start
        "late_sharpness": 18.0,  # the mean of 22, 18 and 14
    }


# The noise on the labels


def test_label_noise_is_additive_fresh_and_of_the_size_that_is_said():
    model = nn.Linear(3, 4)
    x = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0))
    noisy = sgd.NoisyOutputs(model, 0.5, torch.Generator().manual_seed(1))
    first, second = ((noisy(x) - model(x)).detach() for _ in range(2))
    assert not torch.equal(first, second)
    # 20,000 independent normal numbers: mean and deviation within 5 standard errors.
    for noise in (first, second):
        assert abs(float(noise.mean())) < 5 * 0.5 / np.sqrt(20_000)
        assert abs(float(noise.std()) - 0.5) < 5 * 0.5 / np.sqrt(2 * 20_000)
    again = sgd.NoisyOutputs(model, 0.5, torch.Generator().manual_seed(1))
    assert torch.equal((again(x) - model(x)).detach(), first)


def test_the_gradient_under_label_noise_is_that_of_shifted_labels():
    generator = torch.Generator().manual_seed(2)
    model, x = nn.Linear(3, 2).double(), torch.randn(7, 3, generator=generator).double()
    y = torch.randn(7, 2, generator=generator).double()
    noisy = sgd.NoisyOutputs(model, 0.3, torch.Generator().manual_seed(3))
    xi = 0.3 * torch.randn(7, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parameters = list(model.parameters())
    found = torch.autograd.grad(mse(noisy(x), y), parameters)
    expected = torch.autograd.grad(mse(model(x), y - xi), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_probes_see_the_network_without_the_noise(runs):
    """The sharpness before the first update is that of the start; the noise would change it."""
    config = CELLS["labels"]
    history = sgd.treat(started(config), config)
    # Two solutions of the same eigenproblem, one to 1e-4 and one to the probe's 1e-2 at most.
    assert history.probes["sharpness"][0] == pytest.approx(
        runs["neither"]["start_sharpness"], rel=1e-2
    )
    assert history.probes["loss"][0] <= config.start_loss


# The cells


@pytest.mark.parametrize("preset", ["ci", "default", "gpu"])
def test_every_preset_has_all_cells_of_the_decomposition_for_every_seed(preset):
    grid = sgd.grid(preset)
    assert len(set(grid)) == len(grid)
    for seed in {config.seed for config in grid}:
        rows = [config for config in grid if config.seed == seed]
        plain = {(c.rate, c.batch) for c in rows if not c.label_noise}
        batches = {batch for _, batch in plain} - {0}
        large = {rate for rate, _ in plain if rate > sgd.SMALL}
        for batch in batches | {0}:
            assert {(rate, batch) for rate in (sgd.SMALL, *large)} <= plain
        assert batches
        assert large
        assert (sgd.CONTROL, 0) in plain
        assert sum(c.label_noise > 0 for c in rows) == 1
        # The long run has the training time of the largest rate, to a rounding of its updates.
        (longest,) = [c for c in rows if c.steps > min(c.steps for c in rows)]
        time = max(large) * min(c.steps for c in rows)
        assert longest.steps * longest.rate == pytest.approx(time, abs=longest.rate)
        assert longest.batch == min(batches)
    assert len({c.seed for c in grid}) >= 3


def test_the_cells_of_the_gpu_preset_run_at_toy_size():
    grid = sgd.grid("gpu")
    assert {(c.dataset, c.device, c.n_train) for c in grid} == {("cifar10", "cuda", 5000)}
    cells = [c for c in grid if c.seed == 0]
    kinds = [
        next(c for c in cells if c.batch == 0 and not c.label_noise),
        next(c for c in cells if c.batch == 128),
        next(c for c in cells if c.steps > min(k.steps for k in cells)),
        next(c for c in cells if c.label_noise),
    ]
    for config in kinds:
        # With 60 images the largest batch is cut to 30.
        batch = min(config.batch, 30)
        small = dataclasses.replace(config, **TOY, rate=TOY["small_rate"], batch=batch)
        values = sgd.run(small)
        assert values["reached"]
        assert set(values) == set(sgd.TOLERANCES)
