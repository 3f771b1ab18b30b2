"""The experiment `natural`: its stretches, its effects, and that it and its claims can fail."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from study import claims, results
from study.claims import natural as claimed
from study.claims import verdicts
from study.experiments import natural

TOY = dataclasses.replace(natural.grid("ci")[0], n_train=60, large_steps=100)


def test_every_value_has_a_tolerance_and_all_stretches_leave_from_the_same_weights():
    values = natural.run(TOY)
    assert set(values) == set(natural.EXPERIMENT.tolerances)
    # The first probe of a stretch is at its start: eta lambda_1 / 2 is c there, to the tolerance of
    # that probe.
    for c in natural.FACTORS:
        assert values[f"highest-{c:g}"] > 0.98 * c
    assert values[f"rises-{natural.STABLE:g}"] == 0
    assert values[f"reached-{natural.STABLE:g}"]
    assert not values["reached-8"]
    assert values["accuracy-8"] is None


def test_the_grid_has_both_losses_of_each_seed_in_turn():
    grid = natural.grid("default")
    assert [c.loss for c in grid[:2]] == ["mse", "cross_entropy"]
    assert [c.seed for c in grid[::2]] == list(natural.SEEDS)
    assert len(set(grid)) == len(grid) == 2 * len(natural.SEEDS)
    assert {c.device for c in natural.grid("gpu")} == {"cuda"}


def table(accuracy, sharpness, reached=lambda loss, seed, c: True):
    """A stored result of made-up ends: functions of (seed, c)."""
    rows = []
    for seed in range(10):
        for loss in ("mse", "cross_entropy"):
            row = {"model": "cnn", "dataset": "cifar10-subset", "width": 32, "loss": loss}
            row |= {"seed": seed, "status": "done"}
            for c in natural.FACTORS:
                there = reached(loss, seed, c)
                row[f"reached-{c:g}"] = there
                row[f"accuracy-{c:g}"] = accuracy(seed, c) if there else None
                row[f"sharpness-{c:g}"] = sharpness(seed, c) if there else None
            rows.append(row)
    return results.Result(pa.Table.from_pylist(rows), {"preset": "default", "devices": ["a CPU"]})


NOISE = np.random.default_rng(0).normal(0, 1e-3, (10, 9))
NOISE -= NOISE.mean(axis=0)


def better(seed, c):
    """Best at c = 4, and worse than at c = 2 by far at c = 8."""
    return 0.3 + 0.01 * min(c, 4.0) - 0.1 * (c > 4) + NOISE[seed, int(c)]


def flat(seed, c):
    return 40 * 2.0**-c * (1 + 0.01 * seed)


def judged(key, stored):
    def load(name, preset):
        if (name, preset) != ("natural", "default"):
            raise results.MissingResultError(name)
        return stored

    claim = next(claim for claim in claims.CLAIMS if claim.key == key)
    return claims.judge(claim, claims.Evidence({}, load=load))


def test_effects_are_those_that_were_put_in():
    stored = table(better, flat)
    found = natural.effects(stored)
    for loss in ("mse", "cross_entropy"):
        assert found[f"gain-{loss}-2"].value == pytest.approx(0.0165, rel=1e-9)
        assert found[f"flatter-{loss}-2"].value == pytest.approx(-1.65 * np.log(2), rel=1e-9)
        assert found[f"fall-{loss}"].value == pytest.approx(-0.08, rel=1e-9)
    held = natural.predictions(stored)
    assert held == {
        "flatter-mse": True, "better-mse": True, "diverges-mse": False,
        "flatter-cross_entropy": True, "better-cross_entropy": True, "ends-cross_entropy": True,
    }  # fmt: skip


def test_seeds_that_did_not_arrive_leave_the_pair():
    stored = table(better, flat, lambda loss, seed, c: c < 4 or seed < (2 if c == 8 else 4))
    found = natural.effects(stored)
    assert "gain-mse-8" not in found, "two seeds make no interval here"
    assert found["fall-mse"].value == pytest.approx(0.02, abs=2e-3), "that of c = 4"
    assert natural.predictions(stored)["diverges-mse"]
    assert natural.reached(stored, "mse", 8.0).sum() == 2


def test_the_claims_can_be_met_and_missed():
    def one(loss, seed, c):
        return loss != "mse" or c < 4 or seed < 3

    def every(loss, seed, c):
        return True

    good, none = table(better, flat, one), table(lambda s, c: 0.3 + NOISE[s, int(c)], flat, every)
    worse = table(lambda s, c: 0.4 - better(s, c), lambda s, c: 1 / flat(s, c), every)
    for key in ("beyond-natural", "flatter-natural", "ends-natural"):
        assert judged(key, good).verdict == verdicts.REPRODUCED, key
    assert judged("beyond-natural", none).verdict == verdicts.EXCLUDED
    assert judged("beyond-natural", worse).verdict == verdicts.CONTRADICTED
    assert judged("flatter-natural", worse).verdict == verdicts.CONTRADICTED
    assert judged("ends-natural", worse).verdict not in (verdicts.REPRODUCED, verdicts.PARTLY)
    assert len(list(claimed.ends(claims.Evidence({}, load=lambda *_: good)))) == 4
