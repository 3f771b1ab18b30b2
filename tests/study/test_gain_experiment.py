"""The experiment `gain`: its stretches, its wrong labels, its power, and that it can fail."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from study import results
from study.experiments import gain, power

EXPERIMENT = gain.EXPERIMENT
TOY = dataclasses.replace(
    next(c for c in gain.grid("ci") if c.loss == "mse" and c.label_noise == 0),
    n_train=60, width=8, start_loss=0.4, target_loss=0.3, large_steps=60,
)  # fmt: skip
STORED = [preset for preset, name in results.stored() if name == "gain"]


@pytest.fixture(scope="module")
def values():
    return gain.run(TOY)


def test_every_value_has_a_tolerance_and_every_tolerance_a_value(values):
    assert set(values) == set(EXPERIMENT.tolerances)


def test_all_stretches_leave_from_the_same_weights(values):
    # The first probe of a stretch is at its start: eta lambda_1 / 2 is c there, to the tolerance of
    # that probe, and no stable stretch can have had less.
    for c in gain.FACTORS:
        assert values[f"highest-{c:g}"] > 0.98 * c
    assert values["rises-0.5"] == 0
    assert values["reached-0.5"]
    assert values["image_error-0.5"] == 0
    # A standard error of a mean of differences in {-1, 0, 1} over 6,940 images.
    assert 0 < values["image_error-2"] <= 1 / np.sqrt(6939)


def test_a_stretch_that_diverges_says_so_and_the_others_are_kept():
    found = gain.run(dataclasses.replace(TOY, target_loss=0.01, start_loss=0.39, max_steps=2000))
    for c in gain.FACTORS:
        if not found[f"reached-{c:g}"]:
            assert found[f"accuracy-{c:g}"] is found[f"sharpness-{c:g}"] is None
        else:
            assert 0 < found[f"accuracy-{c:g}"] < 1


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_wrong_labels_are_that_many_and_all_wrong(share):
    labels = torch.arange(50) % 10
    changed = gain.noisy(labels, share, seed=3)
    assert int((changed != labels).sum()) == round(50 * share)
    assert changed.min() >= 0
    assert changed.max() <= 9
    assert torch.equal(labels, torch.arange(50) % 10)


def test_no_image_is_used_for_training_and_test():
    train, test = gain.images(TOY)
    assert len(train[0]) == 60
    assert len(test[0]) == 5000 - 60 + 2000
    seen = {row.numpy().tobytes() for row in train[0].flatten(1)}
    # Two different photographs may agree at a quarter of the pixels; the same one always does.
    assert sum(row.numpy().tobytes() in seen for row in test[0].flatten(1)) <= 2


def table(accuracy, sharpness, **fields):
    """A stored result of made-up ends: functions of (seed, c)."""
    rows = []
    for seed in range(10):
        row = {"model": "tanh", "dataset": "d", "loss": "mse", "label_noise": 0.0, "seed": seed}
        row |= {"pilot": False, "status": "done", **fields}
        for c in gain.FACTORS:
            row[f"reached-{c:g}"] = True
            row[f"accuracy-{c:g}"] = accuracy(seed, c)
            row[f"sharpness-{c:g}"] = sharpness(seed, c)
            row[f"highest-{c:g}"] = c
        rows.append(row)
    return results.Result(pa.Table.from_pylist(rows), {})


def test_effects_are_those_that_were_put_in_and_absent_where_there_are_none():
    noise = np.random.default_rng(0).normal(0, 1e-3, (10, 5))

    def flat(seed, c):
        return 40 * 2.0 ** -(c - 0.5) * (1 + 0.01 * seed)

    def better(seed, c):
        return 0.7 + 0.01 * seed + 0.01 * (c - 0.5) + noise[seed, int(c)]

    found = gain.effects(table(better, flat))
    assert found["flatter-tanh-d-mse-0-2"].value == pytest.approx(-1.5 * np.log(2), rel=1e-12)
    assert found["gain-tanh-d-mse-0-2"].low < 0.015 < found["gain-tanh-d-mse-0-2"].high
    assert found["slope-tanh-d-mse-0"].value == pytest.approx(0.01, abs=1e-3)
    held = gain.predictions(table(better, flat))
    assert held["better-tanh-d-mse-0"]
    assert held["flatter-tanh-d-mse-0"]
    none = gain.predictions(table(lambda s, c: 0.7 + noise[s, int(c)], lambda s, c: 40.0 + s))
    assert not none["better-tanh-d-mse-0"]
    assert not none["flatter-tanh-d-mse-0"]


def test_seeds_that_did_not_arrive_leave_the_pair():
    stored = table(lambda s, c: 0.5 + 0.01 * c, lambda s, c: 40 / c)
    rows = stored.table.to_pylist()
    for row in rows[:8]:
        row |= {"reached-4": False, "accuracy-4": None, "sharpness-4": None}
    found = gain.effects(results.Result(pa.Table.from_pylist(rows), {}))
    assert "gain-tanh-d-mse-0-4" not in found, "two seeds make no interval here"
    assert found["fall-tanh-d-mse-0"].value == pytest.approx(0.01)


def first_spread(stored, place, model):
    """That of the gain at the named factor over the seeds that the pilot asked for."""
    dataset, loss, share = place
    chosen = {"dataset": dataset, "loss": loss, "label_noise": share, "model": model}
    rows = stored.where(pilot=False, **chosen).table.to_pylist()
    first = [row for row in rows if row["seed"] < power.FIRST.get(place, gain.MOST)]
    both = [row for row in first if row["reached-0.5"] and row["reached-2"]]
    gains = [row["accuracy-2"] - row["accuracy-0.5"] for row in both]
    return np.std(gains, ddof=1) if gains else 0.0


@pytest.mark.skipif("default" not in STORED, reason="needs the stored runs")
def test_the_spreads_are_those_of_the_pilot_or_of_the_first_seeds():
    stored = results.load("gain", "default")
    measured = gain.pilot_spread(stored)
    assert power.PILOT.keys() == measured.keys() == power.GAIN.keys()
    for place, spread in measured.items():
        assert power.PILOT[place] == pytest.approx(spread, abs=5e-6)
        models = ("tanh", "relu", "cnn") if place[2] == 0 else ("tanh",)
        largest = max(first_spread(stored, place, model) for model in models)
        assert power.GAIN[place] == pytest.approx(max(largest, power.PILOT[place]), abs=5e-7)
    pilot = set(stored.where(pilot=True)["seed"])
    assert not pilot & set(stored.where(pilot=False)["seed"])
