"""The experiment `interventions`: its arms, what they share, and its criteria."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import small_networks
import torch

from flatminima import curvature, models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent, probes
from study import results
from study.experiments import interventions

EXPERIMENT = interventions.EXPERIMENT
TOY = {
    "width": 8,
    "n_train": 20,
    "steps": 6,
    "start_loss": 0.3,
    "target_loss": 0.2,
    "device": "cpu",
}


@pytest.fixture
def risk():
    inputs, labels = small_networks.points()
    model = models.mlp([6, 5, 3], seed=1, dtype=torch.float64)
    risk = EmpiricalRisk(model, "mse", (inputs.double(), labels))
    gradient_descent(risk, 0.1, 100, progress=False)
    return risk


def test_all_arms_begin_at_one_start_and_the_control_is_gradient_descent(risk):
    rate, steps = 3 / curvature.sharpness(risk), 12
    arms = interventions.train(risk, rate, steps)
    assert list(arms) == [*interventions.PLAIN, *interventions.ARMS]
    assert torch.allclose(arms["control"].center, arms["descent"].center, rtol=1e-9, atol=1e-10)
    motions = {name: arm.motion for name, arm in arms.items() if arm.motion is not None}
    assert set(motions) == set(interventions.ARMS)
    for name, motion in motions.items():
        assert len(motion.loss) == steps
        # The center is off the start by the displacement at most; the sharpness is that of both.
        assert motion.sharpness[0] * rate / 2 == pytest.approx(1.5, rel=0.02), name
        assert motion.size[0] == pytest.approx(interventions.OFFSET, rel=1e-9)
    for name in interventions.CAPPED:
        assert np.all(motions[name].size[1:] <= motions["control"].size[1:] * (1 + 1e-9))
        assert motions[name].capped.any()
    shared = zip(motions["reversed"].amplitudes, motions["drift"].amplitudes, strict=True)
    for replayed, forward in shared:
        same = min(len(replayed), len(forward))
        assert np.allclose(replayed[:same], forward[:same])


def test_arms_that_diverge_are_left_out_with_those_that_need_them(risk):
    arms = interventions.train(risk, 1e6, 12)
    assert not {"descent", "control", "drift", *interventions.CAPPED, "reversed"} & set(arms)


def test_a_run_returns_what_its_tolerances_name():
    config = dataclasses.replace(EXPERIMENT.grid("ci")[0], **TOY)
    values = interventions.run(config)
    assert set(values) == set(EXPERIMENT.tolerances)
    assert values["apart"] < 1e-4
    assert values["learning_rate"] * values["start_sharpness"] == pytest.approx(3)
    for arm in (*interventions.PLAIN, *interventions.ARMS):
        assert values[f"reached_{arm}"]
        assert 0 <= values[f"turned_{arm}"] <= 1


def test_an_arm_that_is_not_cooled_has_no_value(risk):
    config = dataclasses.replace(EXPERIMENT.grid("ci")[0], small_rate=1e7)
    accuracy = probes.Accuracy(*risk.data)
    assert interventions.end(risk, accuracy, config) == {"reached": False}


def test_grids_take_pilot_seeds_in_tests_alone():
    for preset, device in (("default", "cpu"), ("gpu", "cuda")):
        configs = EXPERIMENT.grid(preset)
        assert {config.device for config in configs} == {device}
        assert not {config.seed for config in configs} & {0, 100, 101}
        assert len(set(configs)) == len(configs)


# --- criteria

KEEPS = {"control": 1.0, "none": 0.0, "within": 0.0, "across": 1.0, "drift": 1.0, "reversed": -1.0}


def table(keeps=KEEPS, flattening=0.5, seeds=8, **changed):
    """Runs of two settings in which each arm keeps its share of the flattening."""
    rng, rows = np.random.default_rng(0), []
    for loss in ("mse", "cross_entropy"):
        for seed in range(seeds):
            row = {"model": "mlp", "loss": loss, "factor": 1.5, "seed": seed}
            row |= {"dataset": "fashion-mnist-subset", "status": "done"}
            level = 50 * np.exp(0.1 * rng.normal())
            shares = {"descent": 1.0, "stable": 0.0, **keeps}
            for arm, share in shares.items():
                sharpness = level * np.exp(-flattening * (share + 0.02 * rng.normal()))
                row |= {f"sharpness_{arm}": sharpness, f"trace_{arm}": 10 * sharpness}
                row |= {f"test_accuracy_{arm}": 0.7, f"turned_{arm}": 0.2, f"reached_{arm}": True}
            rows.append(row | changed)
    return results.Result(pa.Table.from_pylist(rows), {})


def held(stored):
    """The names of the criteria that are met in every setting."""
    found = interventions.predictions(stored)
    names = {name.rpartition("-")[2] for name in found}
    return {n for n in names if all(v for k, v in found.items() if k.endswith(n))}


ALL = {"power", "same", "necessary", "sufficient", "backwards"}


def test_a_cause_meets_every_criterion_in_each_setting():
    stored = table()
    assert set(interventions.settings(stored)) == {"mlp-mse-1.5", "mlp-cross_entropy-1.5"}
    assert held(stored) == ALL
    found = interventions.effects(stored)
    assert found["mlp-mse-1.5-flattening"].value == pytest.approx(0.5, abs=0.05)
    assert found["mlp-mse-1.5-kept-across"].value == pytest.approx(1, abs=0.05)
    assert found["mlp-mse-1.5-trace-within"].value == pytest.approx(0, abs=0.05)
    assert found["mlp-mse-1.5-gain-descent"].value == 0


@pytest.mark.parametrize(
    ("keeps", "missed"),
    [
        # The oscillation flattens by itself, in whole or by a third.
        ({"none": 1.0, "within": 1.0}, "necessary"),
        ({"within": 0.33}, "necessary"),
        ({"none": 0.33}, "necessary"),
        # The part across does nothing, or half; or only together with the oscillation.
        ({"across": 0.0, "drift": 0.0}, "sufficient"),
        ({"across": 0.5}, "sufficient"),
        ({"drift": 0.5}, "sufficient"),
        # Backwards it flattens, too; and a form that is not gradient descent.
        ({"reversed": 0.5}, "backwards"),
        ({"reversed": 0.0}, "backwards"),
        ({"control": 0.6}, "same"),
    ],
)
def test_each_criterion_fails_where_its_effect_is_absent(keeps, missed):
    assert held(table({**KEEPS, **keeps})) == ALL - {missed}


def test_without_flattening_there_is_nothing_to_keep():
    assert "power" not in held(table(flattening=0.05))


def test_a_seed_that_missed_the_loss_is_left_out():
    rows = table().table.to_pylist()
    for row in rows:
        if row["seed"] == 3:
            row |= {"sharpness_within": 1.0, "reached_within": False}
    assert held(results.Result(pa.Table.from_pylist(rows), {})) == ALL
    few = table(reached_drift=False)
    with pytest.raises(ValueError, match="at least 3 seeds"):
        interventions.effects(few)


def test_another_data_set_is_a_setting_of_its_own():
    stored = table(dataset="cifar10-subset")
    assert "mlp-mse-1.5-cifar10-subset" in interventions.settings(stored)


def test_the_stored_runs_meet_the_criteria_where_there_is_flattening_to_keep():
    stored = results.load("interventions", "default")
    assert len(stored) == len(EXPERIMENT.grid("default"))
    found = interventions.predictions(stored)
    missed = {name for name, met in found.items() if not met}
    assert missed == {"mlp-cross_entropy-2-power", "mlp-cross_entropy-2-sufficient"}
    # The split is gradient descent: the two ends agree to what an instability makes of rounding.
    assert np.max(stored["apart"]) < 1e-2
