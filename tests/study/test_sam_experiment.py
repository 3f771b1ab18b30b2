"""The experiment on sharpness-aware minimization: what it measures, and what its effects say."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from study import claims, results
from study.experiments import power, sam
from study.experiments.sam import ARMS, COMPARED, EXPERIMENT, Config

TOY = {"n_train": 40, "width": 8, "start_loss": 0.35, "target_loss": 0.25, "small_rate": 0.05}
FLATTER = {"stable": 1.0, "unstable": 0.6, "near": 0.5, "far": 0.3}
BETTER = {"stable": 0.7, "unstable": 0.71, "near": 0.712, "far": 0.72}


@pytest.fixture(scope="module")
def toy():
    return sam.run(Config(0, **TOY, large_steps=400))


def table(flatter=FLATTER, better=BETTER, seeds=8, **given):
    """Seeds that differ in level, and whose arms differ by what is planted and a little noise."""
    rng, rows = np.random.default_rng(0), []
    for seed in range(seeds):
        row = {"seed": seed}
        for arm in ARMS:
            row |= {
                f"reached-{arm}": True,
                f"sharpness-{arm}": (20 + seed) * flatter[arm] * np.exp(0.01 * rng.normal()),
                f"accuracy-{arm}": 0.01 * seed + better[arm] + 0.001 * rng.normal(),
                f"highest-{arm}": 0.6,
                f"edge-{arm}": 1.05 + 0.01 * rng.normal(),
            }
        rows.append(row | {k: v[seed] for k, v in given.items()})
    return results.Result(pa.Table.from_pylist(rows), {})


def test_a_run_returns_what_has_a_tolerance_and_ends_at_the_loss(toy):
    assert set(toy) == set(EXPERIMENT.tolerances)
    assert all(toy[f"reached-{arm}"] for arm in ARMS)
    assert toy["highest-stable"] < 1 < toy["highest-unstable"]


def test_a_step_of_sharpness_aware_minimization_counts_twice(toy):
    for arm, (_, radius) in ARMS.items():
        steps, gradients = toy[f"steps-{arm}"], toy[f"gradients-{arm}"]
        assert gradients == steps if radius == 0 else steps < gradients < 2 * steps


def test_the_arms_of_a_seed_leave_from_the_same_weights(monkeypatch, toy):
    """With one way for all of them all end alike, to the last bit."""
    monkeypatch.setattr(sam, "ARMS", dict.fromkeys(ARMS, (0.5, 0.0)))
    alike = sam.run(Config(0, **TOY, large_steps=400))
    for value in ("sharpness", "accuracy", "steps"):
        assert len({alike[f"{value}-{arm}"] for arm in ARMS}) == 1
    assert alike["sharpness-stable"] == toy["sharpness-stable"]


def test_an_arm_that_does_not_come_to_the_loss_says_so():
    short = sam.run(Config(0, **TOY, large_steps=2))
    for arm in ARMS:
        assert short[f"reached-{arm}"] is False
        assert short[f"sharpness-{arm}"] is None
        assert short[f"steps-{arm}"] == 2


def test_known_effects_come_out():
    found = sam.effects(table())
    for arm, other in COMPARED:
        # Eight seeds: six standard errors of differences of two draws, 0.001 and 0.01 each.
        error = 6 * np.sqrt(2 / 8)
        expected = BETTER[arm] - BETTER[other]
        assert abs(found[f"gain-{arm}-{other}"].value - expected) < 0.001 * error
        expected = np.log(FLATTER[arm] / FLATTER[other])
        assert abs(found[f"flatter-{arm}-{other}"].value - expected) < 0.01 * error
    assert all(sam.predictions(table()).values())


def test_without_effects_no_prediction_of_one_is_met():
    none = sam.predictions(table(dict.fromkeys(ARMS, 1.0), dict.fromkeys(ARMS, 0.7)))
    assert [name for name, met in none.items() if met] == ["stable", "edge-near", "edge-far"]
    reverse = sam.predictions(
        table({a: 1 / x for a, x in FLATTER.items()}, {a: -x for a, x in BETTER.items()})
    )
    assert not any(reverse[name] for name in reverse if name.startswith(("flat", "better")))
    off = table(**{"edge-near": [1.3] * 8, "highest-stable": [1.01] * 8})
    held = sam.predictions(off)
    assert [held[name] for name in ("stable", "edge-near", "edge-far")] == [False, False, True]


def test_the_intervals_are_joint_over_the_comparisons():
    stored = table()
    found = sam.effects(stored)["gain-far-stable"]
    differences = stored["accuracy-far"] - stored["accuracy-stable"]
    quantile = stats.t.ppf(1 - 0.025 / 5, len(differences) - 1)
    expected = quantile * differences.std(ddof=1) / np.sqrt(len(differences))
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=1e-9)
    spread = differences.std(ddof=1)
    assert sam.half_width(spread, len(differences)) == pytest.approx(expected, rel=1e-9)


def test_a_seed_that_missed_the_loss_is_left_out_of_its_pairs_alone():
    reached = [False] + [True] * 7
    stored = table(**{"reached-far": reached, "accuracy-far": [None] + [0.8] * 7})
    found = sam.effects(stored)
    assert found["gain-near-stable"] == sam.effects(table())["gain-near-stable"]
    assert np.isfinite(found["gain-far-stable"].value)
    with pytest.raises(ValueError, match="at least 3 seeds must reach the loss in far and stable"):
        sam.effects(table(**{"reached-far": [False] * 6 + [True] * 2}))


def test_the_head_says_what_the_pilot_made_one_expect():
    worst = max(sam.PILOT.values())
    assert f"{100 * sam.half_width(worst):.2f} points" in sam.__doc__
    needed = power.seeds_needed(worst, len(COMPARED))
    assert sam.half_width(worst, needed) <= power.HALF_WIDTH < sam.half_width(worst, needed - 1)
    assert f"it to 0.3 points, {needed}." in sam.__doc__
    assert set(sam.PILOT) == {"-".join(pair) for pair in COMPARED}
    assert not set(sam.PILOT_SEEDS) & {config.seed for config in sam.grid("default")}


def test_the_stored_runs_are_judged_by_their_intervals():
    """What the chapter says of them, so that other runs would not pass for these."""
    stored = results.load("sam", "default")
    held = sam.predictions(stored)
    assert len(stored) == len(sam.SEEDS)
    assert set(claims.VERDICTS) > {
        claims.decided(found, smallest=claims.SMALLEST_GAIN)
        for name, found in sam.effects(stored).items()
        if name.startswith("gain")
    }
    assert [name for name, met in held.items() if not met] == ["better-unstable", "better-near"]
