"""The experiment `edge`: what it measures, and that its criteria can fail."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

from flatminima import sweep, training
from study.experiments import edge
from study.results import Result, load

TINY = {"n_train": 60, "width": 8, "steps": 60, "dataset": "fashion-mnist-subset", "device": "cpu"}
RATES = np.array([0.06, 0.1, 0.15])


def history(loss, sharpness, rate=0.1, every=1, diverged_at=None):
    """A run as the training loop would record it."""
    steps = np.arange(len(loss))
    return training.History(
        learning_rate=rate,
        steps=steps,
        loss=np.array(loss),
        gradient_norm=np.ones(len(loss)),
        probe_steps=steps[::every],
        probes={"sharpness": np.array(sharpness)},
        diverged=diverged_at is not None,
        diverged_at=diverged_at,
    )


# What is measured


@pytest.mark.parametrize("model", edge.MODELS)
@pytest.mark.parametrize("loss", edge.LOSSES)
def test_every_value_has_a_tolerance_and_every_tolerance_a_value(model, loss):
    values = edge.run(edge.Config("architecture", model, loss, 0.05, 0, **TINY))
    assert set(values) == set(edge.TOLERANCES)
    assert values["final_loss"] > 0
    assert 0 <= values["test_accuracy"] <= 1
    assert values["lowest_sharpness"] <= values["start_sharpness"] <= values["highest_sharpness"]


def test_a_run_by_hand():
    # The edge is at 20. It is reached at step 4; the level begins SETTLE steps later.
    after = 2 * edge.SETTLE
    loss = [1.0, 0.9, 0.8, 0.7, 0.6, *[0.5, 0.55] * (after // 2)]
    sharpness = [10.0, 8.0, 12.0, 18.0, 22.0, *[30.0] * (edge.SETTLE - 1), *[24.0, 20.0] * 50, 24.0]
    values = edge.account(history(loss, sharpness))
    assert values["arrival"] == 4
    # The probes from step 104 to the last one: 24 and 20 by turns, 24 once more.
    settled = np.array(sharpness[4 + edge.SETTLE :])
    assert values["level"] == pytest.approx(settled.mean(), rel=1e-12)
    assert values["spread"] == pytest.approx(settled.std(), rel=1e-12)
    assert values["sharpening"] == pytest.approx(30 / 8, rel=1e-12)
    assert values["rises_before"] == 0
    assert values["rises_after"] == pytest.approx(0.5, rel=1e-12)
    assert values["final_loss"] == 0.55
    stable = edge.account(history([1.0, 0.8, 0.7, 0.6], [1.0, 2.0, 3.0, 4.0]))
    assert stable["arrival"] is stable["rises_after"] is None
    assert stable["level"] == 3.5
    assert stable["falls"]


def test_a_rise_within_rounding_is_none():
    loss = np.array([1.0, 1 + edge.FLOAT32_LOSS, 1.0, 1 + 3 * edge.FLOAT32_LOSS])
    assert edge.rises(loss).tolist() == [False, False, True]


def test_a_constant_hessian_does_not_sharpen_and_diverges_beyond_the_edge():
    config = edge.Config("depth", "tanh", "mse", edge.BELOW, 0, depth=0, scale=0.7, **TINY)
    values = edge.run(config)
    # Each eigenvalue is off by 1e-3 of itself at most.
    assert values["sharpening"] == pytest.approx(1, abs=2.1e-3)
    assert values["rises_before"] == 0
    assert values["arrival"] is None
    beyond = sweep.perform(edge.run, dataclasses.replace(config, rate=edge.BEYOND))
    assert beyond.status == "diverged"
    assert beyond.values["start_sharpness"] == pytest.approx(values["start_sharpness"], rel=2e-3)
    assert beyond.values["level"] is beyond.values["final_loss"] is None


def test_a_run_that_diverges_at_once_has_nothing():
    values = edge.account(history([], [], diverged_at=0))
    assert set(values.values()) == {None}


def test_networks_and_images_are_what_the_config_says():
    def layers(model, depth, shape=(1, 28, 28)):
        config = edge.Config("depth", model, "mse", 0.1, 0, 1, depth=depth, width=4)
        weights = edge.build(config, shape).parameters()
        return [tuple(p.shape[:2]) for p in weights if p.ndim > 1]

    assert layers("tanh", 0) == [(10, 784)]
    assert layers("relu", 3) == [(4, 784), (4, 4), (4, 4), (10, 4)]
    assert layers("cnn", 2) == [(4, 1), (8, 4), (10, 8 * 7 * 7)]
    assert layers("cnn", 2, (1, 14, 14)) == [(4, 1), (8, 4), (10, 8 * 3 * 3)]
    with pytest.raises(ValueError, match="model must be tanh, relu or cnn"):
        layers("transformer", 1)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    config = edge.Config("depth", "cnn", "mse", 0.1, 0, 1, pooled=2)
    assert edge.shrunk(image, config).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert edge.shrunk(image, dataclasses.replace(config, pooled=1)) is image


def test_gpu_preset_at_toy_size():
    kinds = {(c.study, c.model, c.dataset): c for c in edge.grid("gpu")}
    assert {c.device for c in kinds.values()} == {"cuda"}
    assert {(c.model, c.depth) for c in kinds.values()} >= {("cnn", 3), ("relu", 2), ("tanh", 2)}
    assert {c.dataset for c in kinds.values()} == {"cifar10", "fashion-mnist"}
    for config in kinds.values():
        toy = dataclasses.replace(config, **TINY | {"width": 2, "steps": 20}, rate=0.01)
        assert set(edge.run(toy)) == set(edge.TOLERANCES)


def test_every_preset_has_all_cells_with_the_same_seeds():
    for preset in ("ci", "default", "gpu"):
        configs = edge.grid(preset)
        assert len(set(configs)) == len(configs)
        cells = {(c.model, c.loss, c.rate) for c in configs if c.study == "architecture"}
        assert cells == {(*key, rate) for key, rates in edge.RATES.items() for rate in rates}
        seeds = {}
        for c in configs:
            seeds.setdefault(dataclasses.replace(c, seed=0), set()).add(c.seed)
        assert len({frozenset(s) for s in seeds.values()}) == 1
        assert all(len(s) >= 3 for s in seeds.values())


# The criteria fail where the effect is absent


@pytest.fixture(scope="module")
def live():
    """Sharpness levels (seeds, rates) of small networks beyond the edge, and of stable ones."""

    def levels(rates, steps):
        common = {**TINY, "width": 16, "steps": steps}
        configs = [
            [edge.Config("architecture", "relu", "mse", r, seed, **common) for r in rates]
            for seed in range(2)
        ]
        return [[edge.run(config) for config in row] for row in configs]

    return {"beyond": levels(RATES, 600), "stable": levels(RATES / 20, 200)}


def column(runs, name):
    return np.array([[np.nan if v[name] is None else v[name] for v in row] for row in runs])


def test_level_is_met_beyond_the_edge_and_not_with_stable_rates_alone(live):
    assert edge.keeps_to_the_edge(column(live["beyond"], "level"), RATES)
    stable = column(live["stable"], "level")
    assert np.isnan(column(live["stable"], "arrival")).all()
    assert np.isfinite(stable).all()
    assert not edge.keeps_to_the_edge(stable, RATES / 20)
    # Not because it is far from the edge alone: the rate itself has no such influence.
    assert np.all(edge.exponents(stable, RATES) > -0.5)


def test_level_is_not_met_when_it_is_shuffled_over_the_rates(live):
    level = column(live["beyond"], "level")
    for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]):
        assert not edge.keeps_to_the_edge(level[:, order], RATES)


def test_level_is_not_met_without_a_value_or_by_a_level_apart_from_the_edge():
    exact = np.tile(2 / RATES, (3, 1))
    assert edge.exponents(exact, RATES) == pytest.approx(-np.ones(3), abs=1e-12)
    assert edge.keeps_to_the_edge(exact, RATES)
    assert edge.keeps_to_the_edge((1 + 0.99 * edge.NEAR) * exact, RATES)
    assert not edge.keeps_to_the_edge((1 + 1.01 * edge.NEAR) * exact, RATES)
    exact[0, 0] = np.nan
    assert not edge.keeps_to_the_edge(exact, RATES)


def test_monotony_is_not_met_by_stable_runs_or_by_ones_never_monotone(live):
    stable, after = column(live["stable"], "rises_before"), column(live["beyond"], "rises_after")
    assert edge.turns_unsteady(stable, after)
    assert not edge.turns_unsteady(after, after)
    assert not edge.turns_unsteady(stable, stable)
    # What never arrives has no share of its steps after the arrival.
    assert not edge.turns_unsteady(stable, column(live["stable"], "rises_after"))


def test_fading_is_not_met_when_the_losses_are_exchanged_or_alike():
    rng = np.random.default_rng(0)
    squared, entropy = (rng.normal(mean, 0.03, (5, 3)) for mean in (1.05, 0.7))
    interval, met = edge.fades(entropy, squared, np.random.default_rng(0))
    assert met
    assert interval.value == pytest.approx(entropy.mean(), rel=1e-12)
    assert not edge.fades(squared, entropy, np.random.default_rng(0))[1]
    assert not edge.fades(squared, squared, np.random.default_rng(0))[1]
    assert not edge.fades(entropy, entropy, np.random.default_rng(0))[1]


def test_depth_is_not_met_when_the_depths_are_shuffled_within_each_seed():
    depths = np.array([0, 1, 2, 4, 6])
    rng = np.random.default_rng(0)
    factors = np.exp(0.3 * depths + rng.normal(0, 0.1, (5, 5)))
    assert edge.sharpens_with_depth(factors, depths, np.random.default_rng(0))[1]
    # A shuffle can look like an effect by chance, at the level of the interval.
    met = [
        edge.sharpens_with_depth(
            np.array([rng.permutation(row) for row in factors]), depths, np.random.default_rng(0)
        )[1]
        for _ in range(20)
    ]
    assert np.mean(met) < 0.5
    assert not edge.sharpens_with_depth(factors[:, ::-1], depths, np.random.default_rng(0))[1]


# Reading the table


def test_cells_controls_and_depths_are_read_from_the_right_rows():
    rows = [
        {"study": "architecture", "model": model, "loss": loss, "rate": rate, "seed": seed,
         "depth": 2, "level": 100 * m + 10 * rate + seed}
        for m, model in enumerate(("tanh", "cnn")) for loss in ("mse",)
        for rate in (0.1, 0.2, 0.3) for seed in (0, 1)
    ] + [
        {"study": "depth", "model": "tanh", "loss": "mse", "rate": rate, "seed": seed,
         "depth": depth, "level": 10 * rate + depth + seed}
        for rate in (0.1, 0.2) for depth in (1, 4) for seed in (0, 1)
    ]  # fmt: skip
    result = Result(pa.Table.from_pylist(rows), {})
    rates, values = edge.cell(result, "level", "cnn", "mse")
    assert rates.tolist() == [0.2, 0.3]
    assert values == pytest.approx(np.array([[102, 103], [103, 104]]), rel=1e-12)
    assert edge.control(result, "level", "tanh", "mse") == pytest.approx([1, 2], rel=1e-12)
    depths, values = edge.by_depth(result, "level", beyond=True)
    assert depths.tolist() == [1, 4]
    assert values == pytest.approx(np.array([[3, 6], [4, 7]]), rel=1e-12)
    below = edge.by_depth(result, "level", beyond=False)[1]
    assert below == pytest.approx(np.array([[2, 5], [3, 6]]), rel=1e-12)


# The stored runs


@pytest.mark.parametrize("model", ["tanh", "relu"])
def test_stored_levels_meet_the_criterion_in_their_own_order_alone(model):
    stored = load("edge", "default")
    rates, level = edge.cell(stored, "level", model, "mse")
    orders = [list(order) for order in itertools.permutations(range(len(rates)))]
    met = [edge.keeps_to_the_edge(level[:, order], rates) for order in orders]
    assert met == [True] + [False] * (len(orders) - 1)
    # Nor with the same sharpness at every rate, as if the rate had no influence.
    alike = np.broadcast_to(level.mean(axis=1, keepdims=True), level.shape)
    assert not edge.keeps_to_the_edge(alike, rates)


def test_stored_factors_of_sharpening_meet_the_criterion_unless_reversed():
    depths, factors = edge.by_depth(load("edge", "default"), "sharpening", beyond=False)
    assert edge.sharpens_with_depth(factors, depths, np.random.default_rng(0))[1]
    assert not edge.sharpens_with_depth(factors[:, ::-1], depths, np.random.default_rng(0))[1]
