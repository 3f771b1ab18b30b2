"""The experiment `rotation`: what it measures, and that its criteria can fail."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatminima import models
from flatminima.curvature import EmpiricalRisk, MatrixOperator, top_eigenpairs
from flatminima.training import Episode
from flatminima.training.polarity import RESIDUAL
from study.criteria import unresolved_turn
from study.experiments import rotation
from study.results import Result, load

TINY = {"n_train": 40, "width": 8, "most": 1}


def pairs(values, vectors):
    """The leading eigenpairs of a matrix with these eigenvalues and eigenvectors (rows)."""
    vectors = torch.tensor(vectors, dtype=torch.float64)
    matrix = vectors.T @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ vectors
    return top_eigenpairs(MatrixOperator(matrix), rotation.LEADING, tol=1e-10)


# What is measured


def test_an_exchange_of_order_turns_v1_and_nothing_else():
    before = pairs([5.0, 4.0, 3.0, 1.0], np.eye(4))
    after = pairs([3.5, 4.0, 3.0, 1.0], np.eye(4))
    found = rotation.turned(before, after)
    expected = {"v1": 1.0, "followed": 0.0, "space": 0.0, "inside": 1.0, "change": np.log(4 / 5)}
    assert found == pytest.approx(expected, abs=1e-9)


@given(st.floats(0.01, 0.7))
def test_a_rotation_out_of_the_space_turns_all_of_it(angle):
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(4)
    turn[[0, 0, 3, 3], [0, 3, 0, 3]] = c, s, -s, c
    found = rotation.turned(pairs([5.0, 4.0, 3.0, 1.0], np.eye(4)), pairs([6.0, 4, 3, 1], turn))
    # One of the three principal angles is the angle, the others are 0.
    expected = {
        "v1": s**2, "followed": s**2, "space": s**2 / 3, "inside": c**2, "change": np.log(6 / 5)
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-8)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=5),
    st.integers(1, 10),
    st.integers(0, 40),
)
def test_a_quiet_window_is_free_and_none_is_nearer(places, length, near):
    steps = 50
    episodes = [Episode(a, a, min(a + b, steps)) for a, b in places]
    found = rotation.quiet(episodes, length, steps, near)

    def free(first):
        last = first + length + 1  # the center at the end needs the step after it
        inside = first > 0 and last <= steps
        return inside and not any(e.start <= last and e.end >= first for e in episodes)

    every = [t for t in range(steps) if free(t)]
    assert (found is None) == (not every)
    if every:
        assert abs(found - near) == min(abs(t - near) for t in every)
        assert found in every


@pytest.mark.parametrize(
    "config",
    [
        rotation.Config("mlp", 0.5, 0, 100, **TINY),
        rotation.Config("cnn", 0.1, 0, 5, n_train=40, width=2),
        rotation.Config("transformer", 0.05, 0, 5, "adam", n_train=4, width=8, scale=1.0),
    ],
    ids=lambda c: c.model,
)
def test_every_value_has_a_tolerance_and_every_tolerance_a_value(config):
    values = rotation.run(config)
    assert set(values) == set(rotation.EXPERIMENT.tolerances)
    opening = rotation.opening(config)
    assert {name: values[name] for name in opening} == pytest.approx(opening, rel=2e-3)
    if config.model == "mlp":
        assert values["measured"] == values["measured_stable"] == 1
        for kind in ("", "_stable"):
            assert 0 <= values[f"followed{kind}"] <= values[f"v1{kind}"] <= 1


def test_without_depth_neither_an_unstable_nor_a_stable_stretch_turns_anything():
    config = rotation.Config("mlp", 0.1, 0, 30, n_train=60)
    data = rotation.problem(config).data
    risk = EmpiricalRisk(models.linear(196, 1, seed=1), "mse", (data[0], data[1][:, None].float()))
    values = top_eigenpairs(risk, rotation.LEADING + 1, tol=RESIDUAL).eigenvalues
    config = dataclasses.replace(config, rate=float(1.02 * 2 / values[0]))
    path = rotation.recorded(risk, config)
    assert not path.history.diverged
    before, after = rotation._window(risk, config, path, 3, 20)
    later = rotation._stable(risk, config, path, Episode(3, 10, 20), before)
    assert rotation.turned(before, after)["space"] <= unresolved_turn(values, rotation.LEADING)
    assert rotation.turned(before, later)["space"] <= unresolved_turn(values, rotation.LEADING)


def test_a_center_has_less_of_the_oscillation_than_its_iterates():
    config = rotation.Config("mlp", 0.5, 0, 60, **TINY)
    path = rotation.recorded(rotation.problem(config), config)
    late = range(40, 58)
    swing = [np.linalg.norm(path.points[t + 1] - path.points[t]) for t in late]
    drift = [np.linalg.norm(path.center(t + 1) - path.center(t)) for t in late]
    assert np.mean(drift) < np.mean(swing) / 2


def test_adam_goes_on_from_its_state_at_a_smaller_rate():
    config = rotation.Config("transformer", 0.05, 0, 8, "adam", n_train=4, width=8, scale=1.0)
    risk = rotation.problem(config)
    path = rotation.recorded(risk, config)
    optimizer = rotation._placed(risk, config, path, 4)
    assert optimizer.state[risk.parameters[0]]["step"] == 5
    assert torch.equal(risk.flat(), torch.from_numpy(path.center(4)))
    # What went on from there has left the stored states as they were.
    rotation._stable(risk, config, path, Episode(4, 5, 6), rotation._leading(risk, optimizer))
    assert path.states[5]["state"][0]["step"] == 5


def test_every_preset_has_all_its_cells_with_the_same_seeds():
    for preset in ("ci", "default", "gpu"):
        configs = rotation.grid(preset)
        assert len(set(configs)) == len(configs)
        if preset != "ci":
            assert {(c.model, c.method) for c in configs} == set(rotation.SETTINGS)
        for model, rates in rotation.RATES.items():
            own = [c for c in configs if (c.model, c.method) == (model, "gd")]
            assert not own or {c.rate for c in own} == set(rates)
            seeds = {r: {c.seed for c in own if c.rate == r} for r in rates}
            assert len({frozenset(s) for s in seeds.values()}) == 1


# The criteria fail where the effect is absent


def table(turn, null, *, paired=True):
    """Four seeds of one setting at two rates: turns of episodes, and of both nulls."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(4):
        for rate in (0.1, 0.2):

            def noisy(value):
                return value + rng.normal(0, 0.01)

            row = {"model": "mlp", "method": "gd", "rate": rate, "seed": seed, "status": "done"}
            row |= {"parameters": 1000, "level": noisy(1.05), "inside": noisy(0.95)}
            for name in ("v1", "followed", "space"):
                row[name] = noisy(turn * (1 + rate))
                row[f"{name}_stable"] = noisy(null)
                row[f"{name}_paired"] = row[name] if paired else None
                row[f"{name}_quiet"] = noisy(null) if paired else None
            rows.append(row | {"change": noisy(-0.1), "change_stable": noisy(0.1)})
    columns = dict.fromkeys(rotation._NUMBERS)
    return Result(pa.Table.from_pylist([columns | row for row in rows]), {})  # fmt: skip


def test_planted_differences_come_out_and_meet_the_criteria():
    found = rotation.effects(table(0.6, 0.1))
    for name in ("v1", "followed", "space"):
        for null in rotation.NULLS:
            # The mean over the two rates is 0.6 * 1.15 - 0.1, up to noise of 0.01.
            assert found[f"mlp-gd-{name}-{null}"].value == pytest.approx(0.59, abs=0.02)
    assert found["mlp-gd-rates-v1"].value == pytest.approx(0.06, abs=0.03)
    assert found["mlp-gd-kept"].value == pytest.approx(0.947, abs=0.02)
    held = rotation.predictions(table(0.6, 0.1))
    assert set(held) == set(found) - {"mlp-gd-level", "mlp-gd-flattens-stable"}
    assert all(held.values())


def test_episodes_that_turn_no_more_than_their_nulls_fail():
    held = rotation.predictions(table(0.1, 0.1 * 1.15))
    for name in ("v1", "followed", "space"):
        assert not held[f"mlp-gd-{name}-stable"]
        assert not held[f"mlp-gd-{name}-quiet"]
    # v_1 is where it was: that is no exchange.
    assert not held["mlp-gd-exchanged"]
    still = table(0.1, 0.2)
    assert not any(met for name, met in rotation.predictions(still).items() if "stable" in name)


def test_where_no_window_is_quiet_nothing_is_said_of_it():
    found = rotation.effects(table(0.6, 0.1, paired=False))
    assert not [name for name in found if name.endswith("quiet")]
    assert "mlp-gd-v1-stable" in found


def test_seeds_without_a_value_are_left_out():
    part = table(0.6, 0.1)
    values = np.arange(8.0)
    values[[0, 1, 2]] = np.nan
    assert rotation.per_seed(part, values).tolist() == [3.0, 4.5, 6.5]
    apart = rotation._between_rates(part, "v1")
    assert len(apart) == 4
    assert np.all(np.abs(apart - 0.06) < 0.05)


# The stored runs


def test_in_the_stored_runs_the_episodes_of_other_runs_do_as_well_as_nulls():
    """With each null in the place of its episode no criterion on turns is met."""
    rows = load("rotation", "default").table.to_pylist()
    for row in rows:
        for name in ("v1", "followed", "space"):
            row[name], row[f"{name}_paired"] = row[f"{name}_stable"], row[f"{name}_quiet"]
    held = rotation.predictions(Result(pa.Table.from_pylist(rows), {}))
    assert not [name for name, met in held.items() if met and name.endswith(("-stable", "-quiet"))]
