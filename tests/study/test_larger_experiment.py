"""The experiment `larger`: what it measures, and that its criteria can fail."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from torch import nn

from study.experiments import edge, larger
from study.results import Result, load


def kinds(config, shape=(1, 14, 14)):
    return [type(layer) for layer in larger.network(config, shape)]


def config_of(study, **options):
    (first, *_) = [c for c in larger.grid("default") if c.study == study]
    return dataclasses.replace(first, **options)


@pytest.mark.parametrize("norm", larger.NORMS)
def test_every_value_has_a_tolerance_and_every_tolerance_a_value(norm):
    config = config_of("norm", norm=norm, n_train=40, width=2, steps=4)
    values = larger.run(config)
    assert set(values) == set(larger.TOLERANCES)
    assert larger.opening(config)["start_sharpness"] == values["start_sharpness"]


def test_networks_are_what_the_config_says():
    layer = {"none": None, "group": nn.GroupNorm, "batch": nn.BatchNorm2d}
    for norm, expected in layer.items():
        found = kinds(config_of("norm", norm=norm))
        assert found.count(nn.Conv2d) == 2
        assert [found[i + 1] for i, kind in enumerate(found) if kind is nn.Conv2d] == 2 * [
            expected or nn.ReLU
        ]
    assert kinds(config_of("depth", depth=8)).count(nn.Tanh) == 8


def test_the_slow_runs_are_those_of_edge_and_longer():
    theirs = [
        c for c in edge.grid("default")
        if (c.study, c.model, c.loss, c.rate) == ("architecture", "cnn", "mse", larger.SLOW)
    ]  # fmt: skip
    ours = [c for c in larger.grid("default") if c.study == "arrival"]
    for one, other in zip(theirs, ours, strict=True):
        same = dataclasses.asdict(other) | {"study": one.study, "steps": one.steps}
        assert same.pop("norm") == "none"
        assert same == dataclasses.asdict(one)
        assert other.steps > one.steps


def test_every_preset_has_all_its_cells_with_the_same_seeds():
    for preset in ("ci", "default", "gpu"):
        configs = larger.grid(preset)
        assert len(set(configs)) == len(configs)
        assert {c.study for c in configs} == {"arrival", "depth", "norm"}
        for study in ("depth", "norm"):
            seeds = {}
            for c in (c for c in configs if c.study == study):
                seeds.setdefault(dataclasses.replace(c, seed=0), set()).add(c.seed)
            assert len({frozenset(s) for s in seeds.values()}) == 1


# The criteria fail where the effect is absent


def table(level=1.1, growth=0.5, rises=0.3):
    """Four seeds: levels in units of 2 / eta, growth of the sharpness by depth, unsteady steps."""
    rng, rows = np.random.default_rng(0), []

    def row(seed, study, rate, **more):
        found = {"study": study, "rate": rate, "seed": seed, "depth": 2, "norm": "none"}
        found |= {"level": (level + rng.normal(0, 0.02)) * 2 / rate, "arrival": 100}
        found |= {"rises_after": rises + rng.normal(0, 0.01), "sharpening": 1.0}
        rows.append(found | more)

    for seed in range(4):
        row(seed, "arrival", 0.06)
        for depth in larger.DEPTHS:
            row(seed, "depth", 0.2, depth=depth)
            grown = np.exp(growth * depth + rng.normal(0, 0.1))
            row(seed, "depth", 0.02, depth=depth, sharpening=grown)
        for norm in larger.NORMS:
            row(seed, "norm", 0.1, norm=norm)
    return Result(pa.Table.from_pylist(rows), {})


def test_planted_effects_come_out_and_meet_the_criteria():
    found = larger.effects(table())
    for name, interval in found.items():
        if name.startswith("level"):
            assert interval.value == pytest.approx(0.1, abs=0.04)
    # A rank correlation of depth with what grows by e^1 from depth to depth, noise 0.1.
    assert found["depth"].value > 0.9
    assert all(larger.predictions(table()).values())


def test_levels_apart_from_the_edge_fail_on_either_side():
    for level in (0.6, 1.4):
        held = larger.predictions(table(level=level))
        assert not any(met for name, met in held.items() if name.startswith("level"))


def test_without_influence_of_depth_and_with_steady_runs_the_criteria_fail():
    assert not larger.predictions(table(growth=0.0))["depth"]
    assert not larger.predictions(table(growth=-0.5))["depth"]
    held = larger.predictions(table(rises=0.02))
    assert not any(met for name, met in held.items() if name.startswith("unsteady"))


def test_a_run_that_does_not_arrive_or_settle_is_seen():
    rows = table().table.to_pylist()
    rows[0] |= {"arrival": None, "level": None}
    stored = Result(pa.Table.from_pylist(rows), {})
    assert not larger.predictions(stored)["arrival"]
    assert len(larger.apart(stored.where(study="arrival"))) == 3


# The stored runs


def test_stored_factors_of_sharpening_fail_in_the_reverse_order_of_depths():
    stored = load("larger", "default")
    rows = stored.table.to_pylist()
    for row in rows:
        if row["study"] == "depth":
            row["depth"] = 10 - row["depth"]
    assert larger.predictions(stored)["depth"]
    assert not larger.predictions(Result(pa.Table.from_pylist(rows), {}))["depth"]
