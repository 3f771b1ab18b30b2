"""The experiments of the reviewers' questions: what each measures, at sizes that take seconds.

``exploration``, ``timing``, ``decay`` and ``starts``: the runs themselves, known effects planted in
tables, and the mutations that take the effects away.
"""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from flatminima import sweep, training
from flatminima.training import Episode, probes
from study import results
from study.experiments import decay, exploration, starts, timing

TINY = {"n_train": 40, "width": 8}


def table(rows):
    """A result of these rows, as if they were stored."""
    return results.Result(pa.Table.from_pylist(rows), {})


def complete(module, values):
    """A run's values hold what the experiment has tolerances for, and nothing else."""
    assert set(values) == set(module.EXPERIMENT.tolerances)


# --- exploration


SHORT = {**TINY, "time": 12.0, "times": 4, "start_loss": 0.3}


@pytest.mark.parametrize(("factor", "arm"), [(0.5, "gd"), (1.5, "split"), (1.5, "no-across")])
def test_exploration_measures_every_arm(factor, arm):
    values = exploration.run(exploration.Config(factor, 0, arm, **SHORT))
    complete(exploration, values)
    assert 1 <= values["dimension"] <= SHORT["times"] + 1
    assert values["space_dimension"] >= exploration.LEADING
    assert 0 <= values["novel"] <= 1
    assert values["outside_net"] <= values["outside"]
    assert values["function_net"] <= values["function_path"]
    assert (values["capped"] > 0) <= (arm == "no-across")


def test_stable_training_explores_along_its_way_alone():
    values = exploration.run(exploration.Config(0.5, 0, **SHORT))
    assert values["rises"] == 0
    # The path of gradient flow is nearly straight, and v_1 stays where it is.
    assert values["outside_net"] > 0.9 * values["outside"]
    assert values["dimension"] < 1.2


def test_a_stretch_that_diverges_says_so():
    run = sweep.perform(exploration.run, exploration.Config(500.0, 0, **SHORT, max_steps=8000))
    assert run.status in ("diverged", "failed")
    config = exploration.Config(50.0, 0, **{**SHORT, "time": 600.0})
    run = sweep.perform(exploration.run, config)
    assert run.status == "diverged"
    assert run.values["start_steps"] > 0


def explored(more, rotation=1.0):
    """Six seeds: each measure grows by the factor ``more`` past the threshold."""
    rows = []
    for seed, (factor, arm) in itertools.product(
        range(6), [(0.5, "gd"), (1.5, "gd"), (2.0, "gd"), (1.5, "split"), (1.5, "no-across")]
    ):
        size = (1 + 0.1 * seed) * (more if factor > 1 else 1.0)
        size /= rotation if arm == "no-across" else 1.0
        row = dict.fromkeys(exploration.MEASURES.values(), size)
        row |= {"dimension_wandering": 2 * size, "space_dimension_wandering": size}
        rows.append({"factor": factor, "seed": seed, "arm": arm, **row})
    return table(rows)


def test_known_effects_of_exploration_come_out():
    found = exploration.effects(explored(3.0, 2.0))
    for name in exploration.MEASURES:
        for factor in ("1.5", "2"):
            assert found[f"{name}-{factor}"] == pytest.approx([np.log(3)] * 3, abs=1e-12)
        assert found[f"rotation-{name}"] == pytest.approx([np.log(2)] * 3, abs=1e-12)
    assert found["wandering-1-2"] == pytest.approx([-np.log(2)] * 3, abs=1e-12)
    assert found["wandering-space-0.5"] == pytest.approx([0] * 3, abs=1e-12)
    assert all(exploration.predictions(explored(3.0, 2.0)).values())


def test_exploration_without_effect_meets_no_criterion():
    assert not any(exploration.predictions(explored(1.0)).values())
    held = exploration.predictions(explored(3.0, rotation=0.5))
    assert all(held[f"more-{name}"] for name in exploration.MEASURES)
    assert not any(held[f"rotation-{name}"] for name in exploration.MEASURES)


# --- timing


def history(loss, watch):
    """A watched run with these traces, of which all are at the edge 2 / eta = 20."""
    steps = np.arange(len(loss))
    traces = np.tile(np.ones(len(loss)), (len(probes.QUANTITIES), 1)).T
    for name, trace in {"sharpness": 21 + 0 * loss, **watch}.items():
        traces[:, probes.QUANTITIES.index(name)] = trace
    return training.History(0.1, steps, loss, np.ones(len(loss)), steps, {"watch": traces})


def bump(center, width, steps=60):
    return np.exp(-(((np.arange(steps) - center) / width) ** 2))


def test_what_leads_by_three_steps_is_found_to_lead_by_three():
    falling = np.linspace(1.0, 0.9, 60)
    run = history(falling + bump(25, 5), {"lambda_min": -bump(22, 5), "along": bump(25, 5)})
    (episode,) = timing.whole(run)
    assert episode.peak == 25
    values = timing.account(run)
    complete(timing, values)
    assert values["episodes"] == 1
    assert values["lambda_min_turn"] == 3
    assert values["along_turn"] == values["loss_turn"] == 0
    assert values["along_end"] == values["loss_end"] == episode.end - 25
    # A quantity that never moves falls at the first step of any window, and by nothing.
    assert values["fourth_fall"] == values["fourth_fall_null"] == 0
    assert values["fourth_turn"] == values["fourth_turn_null"]
    assert values["lambda_min_fall"] > 1 > abs(values["lambda_min_fall_null"])


def test_an_episode_that_is_cut_off_does_not_count():
    falling = np.linspace(1.0, 0.9, 60)
    run = history(falling + bump(58, 8), {})
    assert timing.whole(run) == []
    values = timing.account(run)
    complete(timing, values)
    assert values["episodes"] == 0
    assert values["loss_turn"] is None


def test_windows_of_the_null_do_not_touch_the_episode_and_stay_in_the_run():
    episode = Episode(10, 14, 18)
    found = timing.shifted(episode, 40)
    assert {e.start for e in found} == {0, 1, *range(19, 32)}
    assert all((e.peak - e.start, e.end - e.start) == (4, 8) for e in found)
    assert max(e.end for e in found) == 39


def test_timing_watches_a_network_at_the_edge():
    config = timing.Config(0, **TINY, settle=20, steps=4)
    complete(timing, timing.run(config))
    run = sweep.perform(timing.run, dataclasses.replace(config, rate=100.0, settle=50))
    assert run.status == "diverged"


def timed(fall, lead):
    """Six seeds in which every quantity falls and leads by so much, the null by nothing."""
    rows = []
    for seed in range(6):
        row = {"seed": seed, "episodes": 3, "length": 10.0}
        for name in ("loss", *probes.QUANTITIES):
            own = {"fall": fall + 0.01 * seed, "turn": lead + 0.1 * seed, "end": 5.0}
            row |= {f"{name}_{part}": value for part, value in own.items()}
            row |= {f"{name}_{part}_null": 0.01 * seed for part in own}
        rows.append(row)
    return table(rows)


def test_known_leads_come_out_and_absent_ones_do_not():
    found = timing.effects(timed(0.5, 2.0))
    assert found["falls-lambda_min"] == pytest.approx([0.5] * 3, abs=1e-12)
    assert found["leads-lambda_min"].value == pytest.approx(2.25)
    assert all(timing.predictions(timed(0.5, 2.0)).values())
    assert not any(timing.predictions(timed(-0.5, -2.0)).values())
    late = timing.predictions(timed(0.5, -2.0))
    assert all(late[f"falls-{name}"] for name in timing.BEYOND)
    assert not any(late[f"leads-{name}"] for name in timing.BEYOND)


# --- decay


@pytest.mark.parametrize("arm", decay.ARMS)
def test_decay_measures_every_arm(arm, monkeypatch):
    monkeypatch.setattr(decay, "LOSSES", {"early": 0.42, "late": 0.4, "last": 0.38})
    monkeypatch.setattr(decay, "MATCHED", 0.36)
    values = decay.run(decay.Config(arm, 0.05, 0, **TINY, more=1.0))
    complete(decay, values)
    assert values["reached"]
    assert values["steps"] > 0
    # The arms share a rate down to the loss at which the first of two is lowered.
    same = decay.run(decay.Config("last", 0.05, 0, **TINY, more=1.0))["at_early"]
    assert (values["at_early"] == same) == (arm != "never")


def decayed(ratios):
    """Six seeds, two rates: the sharpness of each arm over that of never, at MATCHED."""
    rows = []
    for seed, arm, rate in itertools.product(range(6), decay.ARMS, (0.03, 0.05)):
        sharpness = (1 + 0.1 * seed) * ratios[arm]
        rows.append({
            "arm": arm, "seed": seed, "final_rate": rate, "reached": True, "end": sharpness,
            "at_matched": sharpness, "at_late": sharpness / 2,
            "test_accuracy": 0.8 - 0.1 * ratios[arm],
        })  # fmt: skip
    return table(rows)


def test_known_effects_of_a_lowered_rate_come_out():
    ratios = {"never": 1.0, "early": 0.9, "late": 0.7, "last": 0.5}
    found = decay.effects(decayed(ratios))
    for rate, (arm, ratio) in itertools.product(("0.03", "0.05"), ratios.items()):
        if arm != "never":
            assert found[f"flatter-{arm}-{rate}"] == pytest.approx([np.log(ratio)] * 3, abs=1e-12)
            gain = 0.1 * (1 - ratio)
            assert found[f"accuracy-{arm}-{rate}"] == pytest.approx([gain] * 3, abs=1e-12)
    assert found["later-0.05"] == pytest.approx([np.log(0.5 / 0.9)] * 3, abs=1e-12)
    assert found["regained-0.05"] == pytest.approx([np.log(2)] * 3, abs=1e-12)
    assert all(decay.predictions(decayed(ratios)).values())


def test_a_flatness_that_fades_meets_no_criterion_of_flatness():
    held = decay.predictions(decayed(dict.fromkeys(decay.ARMS, 1.0)))
    assert [name for name, met in held.items() if met] == ["regained"]


def test_a_run_that_misses_a_loss_is_left_out():
    rows = decayed(dict.fromkeys(decay.ARMS, 1.0)).table.to_pylist()
    rows[0] |= {"reached": False, "at_matched": 1e9}
    column = decay.of_arm(table(rows), "at_matched", rows[0]["arm"], rows[0]["final_rate"])
    assert np.isnan(column[rows[0]["seed"]])
    assert np.isfinite(column).sum() == 5


# --- starts


@pytest.mark.parametrize("start", starts.SCALES)
def test_starts_measures_every_start(start):
    config = starts.Config(start, 0, **TINY, target_loss=0.36, slow_rate=0.01)
    values = starts.run(config)
    complete(starts, values)
    assert values["reached"]
    assert values["unstable"] == (values["highest"] >= 1 or values["episodes"] > 0)
    if start in ("standard", "tiny"):
        assert values["unstable"] == (start == "standard")
    assert values["highest"] >= values["start_sharpness"]


def test_starts_differ_in_size_alone():
    def weights(start):
        model = starts.build(starts.Config(start, 3, **TINY), (1, 28, 28))
        return [p.detach() for p in model.parameters() if p.ndim == 2]

    standard = weights("standard")
    for start, scale in starts.SCALES.items():
        last = scale / np.sqrt(TINY["width"]) if start == "mup" else scale
        for w, w0, factor in zip(weights(start), standard, (scale, scale, last), strict=True):
            assert np.allclose(w, factor * w0, rtol=1e-6, atol=0)


def started(sharper, gain, unstable=False):
    """Six seeds: flat starts ``sharper`` times as sharp as standard, ``gain`` more accurate."""
    rows = []
    for seed, start in itertools.product(range(6), starts.SCALES):
        flat = start in starts.FLAT
        sharpness = (1 + 0.1 * seed) * (sharper if flat else 4.0 if start == "slow" else 1.0)
        rows.append({
            "start": start, "seed": seed, "reached": True, "sharpness": sharpness,
            "test_accuracy": 0.7 + gain * flat, "unstable": unstable or start == "standard",
        })  # fmt: skip
    return table(rows)


def test_flat_starts_are_told_from_sharp_ones():
    found = starts.effects(started(0.8, 0.02))
    assert found["flat-tiny"] == pytest.approx([np.log(0.8)] * 3, abs=1e-12)
    assert found["accurate-mup"] == pytest.approx([0.02] * 3, abs=1e-12)
    assert found["instability"] == pytest.approx([-np.log(4)] * 3, abs=1e-12)
    assert all(starts.predictions(started(0.8, 0.02)).values())
    worse = starts.predictions(started(1.2, -0.02))
    assert [name for name, met in worse.items() if met] == ["instability"]
    # Within the bounds: as flat, as accurate.
    assert all(starts.predictions(started(1.09, -0.009)).values())


def test_a_start_that_was_unstable_is_no_evidence():
    assert set(starts.effects(started(0.8, 0.02, unstable=True))) == {"instability"}


# --- the stored runs, and what each preset asks for


@pytest.mark.parametrize("module", [exploration, timing, decay, starts])
def test_each_condition_of_a_grid_has_seeds_enough(module):
    for preset, least in (("ci", 3), ("default", 8), ("gpu", 3)):
        grid = module.EXPERIMENT.grid(preset)
        assert len(set(grid)) == len(grid)
        assert {c.device for c in grid} == {"cuda" if preset == "gpu" else "cpu"}
        seeds = Counter(dataclasses.replace(config, seed=0) for config in grid)
        assert min(seeds.values()) >= least
