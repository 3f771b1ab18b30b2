"""The experiments `adam_tuned_rates` and `adam_tuned`: grids, seeds, effects, and the claim."""

import numpy as np
import pyarrow as pa
import pytest

from flatminima.statistics import student_interval
from study import claims, results
from study.experiments import adam_tuned, adam_tuned_rates, cifar, power, restoring
from study.results import Result

STORED = {name for preset, name in results.stored() if preset == "default"}
stored_only = pytest.mark.skipif(
    not {"adam_tuned", "adam_tuned_rates"} <= STORED, reason="needs the stored runs"
)


def test_the_pilot_tries_rates_of_every_method_in_every_setting():
    grid = adam_tuned_rates.grid("default")
    assert len(set(grid)) == len(grid)
    for name, setting in adam_tuned_rates.SETTINGS.items():
        rows = [c for c in grid if c.setting == name]
        assert {c.method for c in rows} == set(setting.methods)
        assert {c.batch for c in rows} == {setting.batch}
        for method in setting.methods:
            assert len({c.learning_rate for c in rows if c.method == method}) >= 3
    assert {c.dataset for c in grid if c.setting == adam_tuned_rates.NATURAL} == {"cifar10-subset"}
    assert adam_tuned_rates.NATURAL not in {c.setting for c in adam_tuned_rates.grid("ci")}


def test_natural_images_are_checked_before_a_run_and_others_are_not(monkeypatch):
    checked = []
    monkeypatch.setattr(cifar, "require", lambda: checked.append("images"))
    monkeypatch.setattr(restoring, "run", lambda config: checked.append(config.setting) or {})
    for setting in adam_tuned_rates.SETTINGS:
        config = next(c for c in adam_tuned_rates.grid("default") if c.setting == setting)
        adam_tuned_rates.run(config)
    assert checked == ["images", *adam_tuned_rates.SETTINGS]
    assert checked[1] == adam_tuned_rates.NATURAL


def table(gains, settings=tuple(adam_tuned_rates.SETTINGS), seeds=8):
    """Runs in which a method is so much more accurate than Adam, with a spread over seeds."""
    rows = []
    for name in settings:
        for method in adam_tuned_rates.SETTINGS[name].methods:
            for seed in range(1, seeds + 1):
                jitter = 1e-4 * (seed * len(method) % 5 - 2)
                gain = gains.get((name, method), 0.0)
                rows.append({
                    "setting": name, "comparison": "tuned", "method": method, "seed": seed,
                    "dataset": "d", "width": 32, "status": "done", "reached": True,
                    "test_accuracy": 0.7 + 0.01 * seed + gain + jitter, "sharpness": 10.0 + seed,
                })  # fmt: skip
    return Result(pa.Table.from_pylist(rows), {"devices": ["cpu"]})


NATURAL = adam_tuned_rates.NATURAL
FORESEEN = {(s, m): 0.01 for s, methods in adam_tuned.GAIN.items() for m in methods}


def test_effects_are_joint_over_the_forms_of_a_setting():
    stored = table(FORESEEN)
    found = adam_tuned.EXPERIMENT.effects(stored)
    where = (stored, "test_accuracy", NATURAL, "tuned")
    growth, adam, slow = (restoring.of_method(*where, m) for m in ("growth", "adam", "slow"))
    assert len(growth) == 8
    assert found[f"accuracy-tuned-{NATURAL}-growth"] == student_interval(growth - adam, 5)
    assert found[f"accuracy-tuned-{NATURAL}-slow"] == student_interval(slow - adam)
    assert not [n for n in found if "common" in n]


def test_predictions_can_hold_and_fail():
    held = adam_tuned.predictions(table(FORESEEN))
    assert len(held) == 5 + 5 + 5 + 4 + 4
    assert all(held.values()), held
    foreseen = {f"{setting}-{method}" for setting, method in FORESEEN}
    large = {(s, m): 0.02 for s in adam_tuned_rates.SETTINGS for m in restoring.CLIPPED}
    for name, met in adam_tuned.predictions(table(large)).items():
        assert met == (name in foreseen), name
    for name, met in adam_tuned.predictions(table({})).items():
        assert met == (name not in foreseen), name


def test_the_claim_follows_the_effects_of_all_settings():
    (claim,) = [c for c in claims.CLAIMS if c.key == "adam-tuned"]

    def met(stored):
        def load(name, preset):
            if preset != "default":
                raise results.MissingResultError(preset)
            return {"adam_tuned": stored}[name]

        effects = claims.judge(claim, claims.Evidence({}, {}, load)).effects
        assert len(effects) == 5 + 5 + 5 + 4 + 4
        return [e.what for e in effects if e.met]

    assert not met(table({}))
    found = met(table(FORESEEN))
    assert len(found) == 4
    assert all("full batch" in what for what in found)


@stored_only
def test_the_stored_runs_have_the_chosen_rates_and_as_many_seeds_as_the_spread_asks():
    rates, stored = (results.load(n, "default") for n in ("adam_tuned_rates", "adam_tuned"))
    assert not set(rates["seed"]) & set(stored["seed"])
    for setting in adam_tuned_rates.SETTINGS:
        forms = [m for m in restoring.CLIPPED if m in rates.where(setting=setting)["method"]]
        needed = power.seeds_needed(max(restoring.spreads(rates, setting)), len(forms))
        count = min(max(needed, adam_tuned.FEWEST), adam_tuned.MOST)
        for method in adam_tuned_rates.SETTINGS[setting].methods:
            rows = stored.where(setting=setting, method=method)
            assert len(rows) == count
            rate, factor = restoring.best(rates, setting, method)
            assert set(rows["learning_rate"]) == {rate}
            assert set(np.nan_to_num(rows["factor"].astype(float))) == {factor or 0.0}
