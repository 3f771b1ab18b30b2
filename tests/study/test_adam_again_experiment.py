"""The experiment `adam_again`: what it takes from `adam`, its effects, and the claims on it."""

import numpy as np
import pyarrow as pa
import pytest

from flatminima.statistics import student_interval
from study import claims, results
from study.experiments import adam, adam_again, power
from study.results import Result

STORED = {name for preset, name in results.stored() if preset == "default"}


def table(flatter=(), better=(), missed=(), seeds=9):
    """Runs in which some methods are flatter, or more accurate, than Adam, by the same in each."""
    rows = []
    for method in adam.METHODS:
        for seed in range(101, 101 + seeds):
            jitter = 1e-3 * (seed * len(method) % 5 - 2)
            rows.append({
                "method": method, "seed": seed, "learning_rate": 0.1, "cap": None, "width": 8,
                "dataset": "d", "model": "mlp", "status": "done",
                "reached": (method, seed) not in missed,
                "test_accuracy": 0.7 + 0.01 * seed + 0.02 * (method in better) + jitter,
                "sharpness": np.exp(3.0 - (method in flatter) + jitter),
            })  # fmt: skip
    return Result(pa.Table.from_pylist(rows), {"devices": ["cpu"]})


def test_effects_are_joint_over_the_variants_and_leave_out_a_pair_that_missed():
    stored = table(flatter=["growth"], better=["gd"], missed=[("rise", 103), ("adam", 104)])
    found = adam_again.effects(stored)
    assert found["flatter-growth"].low < 1 < found["flatter-growth"].high
    assert found["accuracy-gd"].value == pytest.approx(0.02, abs=1e-3)
    gain = adam_again.of_method(stored, "test_accuracy", "rise")
    gain -= adam_again.of_method(stored, "test_accuracy", "adam")
    assert np.isnan(gain).tolist() == [False, False, True, True] + 5 * [False]
    kept = gain[np.isfinite(gain)]
    assert found["accuracy-rise"] == student_interval(kept, len(adam.VARIANTS))
    lost = table(missed=[("median", 101 + i) for i in range(7)])
    assert "accuracy-median" not in adam_again.effects(lost), "two seeds are left"


def test_predictions_can_hold_and_fail():
    held = adam_again.predictions(table(flatter=["minimum", "growth"]))
    assert len(held) == 2 + len(adam.VARIANTS)
    assert all(held.values()), held
    failed = adam_again.predictions(table(better=adam.VARIANTS))
    assert not any(failed.values()), failed


@pytest.mark.parametrize(
    ("key", "options"), [("adam-flatter", "flatter"), ("adam-accurate", "better")]
)
def test_a_claim_follows_its_effect(key, options):
    (claim,) = [c for c in claims.CLAIMS if c.key == key]

    def met(stored):
        def load(name, preset):
            if (name, preset) != ("adam_again", "default"):
                raise results.MissingResultError(preset)
            return stored

        found = claims.judge(claim, claims.Evidence({}, {}, load)).effects
        assert len(found) == len(adam.VARIANTS), "gradient descent is no variant"
        assert all(effect.joint for effect in found)
        return {e.what.split("`")[1] for e in found if e.met}

    assert met(table(**{options: ["median", "gd"]})) == {"median"}
    assert not met(table())


@pytest.mark.skipif("adam" not in STORED, reason="needs the stored runs")
def test_the_settings_are_those_that_adam_chose_and_the_seeds_are_new():
    chosen, grid = results.load("adam", "default"), adam_again.grid("default")
    for method in adam.METHODS:
        rows, runs = adam.tuned(chosen, method), [c for c in grid if c.method == method]
        assert {c.learning_rate for c in runs} == set(rows["learning_rate"])
        assert {c.cap or 0.0 for c in runs} == set(np.nan_to_num(rows["cap"].astype(float)))
        assert not {c.seed for c in runs} & set(chosen["seed"])
    spreads = [
        np.std(
            adam.tuned(chosen, m)["test_accuracy"] - adam.tuned(chosen, "adam")["test_accuracy"],
            ddof=1,
        )
        for m in adam.VARIANTS
    ]
    needed = power.seeds_needed(max(spreads), len(adam.VARIANTS))
    assert len(adam_again.seeds(chosen)) == min(needed, adam_again.MOST)
