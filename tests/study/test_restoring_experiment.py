"""The experiment `restoring`: its images, its runs, the choice of rates and seeds, its effects."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from flatminima import sweep
from flatminima.statistics import student_interval
from study import claims, results
from study.claims import Evidence
from study.experiments import power, restoring, restoring_rates
from study.results import Result

TINY = {"n_train": 60, "n_validation": 100, "width": 8, "max_steps": 400}
STORED = {name for preset, name in results.stored() if preset == "default"}
stored_only = pytest.mark.skipif(
    not {"restoring", "restoring_rates"} <= STORED, reason="needs the stored runs"
)


def config(setting="full-mse", method="adam", rate=0.01, comparison="tuned", **more):
    own = restoring.SETTINGS[setting]
    factor = {"absolute": 0.003, "ratio": 1.0, "floor": 0.001}.get(method)
    chosen = {"loss": own.loss, "batch": own.batch and 20, "target_loss": 0.2}
    return restoring.Config(
        setting, comparison, method, rate, factor, more.pop("seed", 1), **(chosen | TINY | more)
    )


def test_no_image_is_in_two_parts_and_the_validation_images_are_everybodys():
    one, other = (restoring.images(config(seed=seed)) for seed in (1, 2))
    x = [one[name][0].flatten(1) for name in ("train", "validation", "test")]
    assert [len(part) for part in x] == [60, 100, 6840]
    assert x[0].shape[1] == 14 * 14
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert torch.cdist(x[a], x[b]).min() > 0
    assert torch.equal(one["validation"][0], other["validation"][0])
    assert not torch.equal(one["train"][0], other["train"][0])


@pytest.mark.parametrize("setting", restoring.SETTINGS)
@pytest.mark.parametrize("method", restoring.METHODS)
def test_each_run_ends_at_the_common_loss_with_everything_measured(setting, method):
    if method not in restoring.SETTINGS[setting].methods:
        pytest.skip("not run on minibatches")
    c = config(setting, method, {"gd": 0.3, "growth": 0.002}.get(method, 0.005), max_steps=1000)
    values = restoring.run(c)
    watched = {"episodes", "edge", "edge_highest"}
    assert set(values) == set(restoring.TOLERANCES) - watched
    assert values["reached"]
    assert 0 < values["final_loss"] <= c.target_loss
    assert 0 <= values["undershoot"] < 0.25
    assert all(np.isfinite(value) for value in values.values())
    if setting == "full-mse" and method in ("adam", "gd"):
        assert values["clipped"] == 0


def test_instabilities_are_counted_where_all_have_one_rate():
    values = restoring.run(config(method="growth", comparison="common"))
    assert set(values) == set(restoring.TOLERANCES)
    assert values["edge_highest"] > 0


def test_a_diverging_run_says_so():
    for setting in ("full-mse", "mini-mse"):
        with pytest.raises(sweep.Diverged, match="of the training"):
            restoring.run(config(setting, "gd", 500.0))


def test_a_method_without_a_name_is_refused():
    with pytest.raises(ValueError, match="method must be one of gd, adam, slow"):
        restoring.run(config(method="sgd"))


def test_jumps_by_hand():
    # Above 1.1 times the minimum so far at 1.2 and 1.3, and again at 0.8.
    assert restoring.jumps(np.array([1.0, 1.2, 1.3, 0.7, 0.76, 0.8, 0.6, 0.65])) == 2
    assert restoring.jumps(np.array([3.0, 2.0, 1.0])) == 0
    assert restoring.jumps(np.array([])) == 0


def test_an_adam_that_remembers_further_has_a_longer_memory():
    model = torch.nn.Linear(2, 1)
    decay = {}
    for method in ("adam", "slow"):
        optimizer = restoring.make_optimizer(config(method=method), model)
        decay[method] = optimizer.param_groups[0]["betas"]
    assert decay == {"adam": (0.9, 0.95), "slow": (0.9, 0.99)}


# The choice of the rates, and of the number of seeds


def rates_table(rows):
    blank = {"setting": "full-mse", "factor": None, "status": "done", "reached": True}
    blank |= {"test_accuracy": 0.5, "validation_accuracy": 0.5}
    schema = pa.schema(
        [("setting", pa.string()), ("method", pa.string()), ("learning_rate", pa.float64()),
         ("factor", pa.float64()), ("seed", pa.int64()), ("status", pa.string()),
         ("reached", pa.bool_()), ("test_accuracy", pa.float64()),
         ("validation_accuracy", pa.float64())]
    )  # fmt: skip
    return Result(pa.Table.from_pylist([blank | row for row in rows], schema), {})


def test_the_best_setting_is_that_of_the_validation_images():
    def row(rate, seed, value, **more):
        own = {"method": "absolute", "learning_rate": rate, "seed": seed, "factor": 0.1}
        return own | {"validation_accuracy": value, "test_accuracy": 0.9 - rate} | more

    rows = [row(0.1, s, 0.6) for s in (0, 1)] + [row(0.2, s, 0.7) for s in (0, 1)]
    assert restoring.best(rates_table(rows), "full-mse", "absolute") == (0.2, 0.1)
    rows += [row(0.2, s, 0.8, factor=0.3) for s in (0, 1)]
    assert restoring.best(rates_table(rows), "full-mse", "absolute") == (0.2, 0.3)
    rows += [row(0.4, 0, 0.9), row(0.4, 1, None, reached=None, status="diverged")]
    assert restoring.best(rates_table(rows), "full-mse", "absolute") == (0.2, 0.3)
    rows += [row(0.1, s, 0.8, factor=0.3) for s in (0, 1)]
    assert restoring.best(rates_table(rows), "full-mse", "absolute") == (0.1, 0.3)
    with pytest.raises(ValueError, match="no rate brings adam"):
        restoring.best(rates_table(rows), "full-mse", "adam")


def test_the_spread_is_pooled_over_the_forms():
    gains = {m: np.array([0.0, 0.01, 0.02]) * k for k, m in enumerate(restoring.CLIPPED, 1)}
    adam = np.array([0.7, 0.75, 0.72])
    rows = [
        {"method": m, "learning_rate": 0.1, "seed": s, "test_accuracy": adam[s] + g[s]}
        for m, g in {"adam": 0 * adam, **gains}.items()
        for s in range(3)
    ]
    each = restoring.spreads(rates_table(rows), "full-mse")
    assert each == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05], rel=1e-12)
    expected = 0.01 * np.sqrt(np.mean(np.arange(1, 6) ** 2))
    assert restoring.spread(rates_table(rows), "full-mse") == pytest.approx(expected, rel=1e-12)


# The effects


def table(gain=0.0, ratio=1.0, more=0, settings=tuple(restoring.SETTINGS), seeds=6):
    """Runs in which the restoring forms differ from Adam by so much, with a spread over seeds."""
    rows = []
    for name in settings:
        for method in restoring.SETTINGS[name].methods:
            for comparison in ("tuned", "common")[: 1 if method == "gd" else 2]:
                for seed in range(1, seeds + 1):
                    differs = method in restoring.RESTORING and comparison == "common"
                    jitter = 1e-4 * ((seed * len(method)) % 5)
                    rows.append({
                        "setting": name, "comparison": comparison, "method": method, "seed": seed,
                        "dataset": "d", "width": 8, "status": "done", "reached": True,
                        "test_accuracy": 0.7 + 0.01 * seed + gain * differs + jitter,
                        "sharpness": (10.0 + seed + jitter) / (ratio if differs else 1.0),
                        "episodes": (seed % 2 + more * differs) if name[:4] == "full" else None,
                    })  # fmt: skip
    return Result(pa.Table.from_pylist(rows), {"devices": ["cpu"]})


def test_effects_are_those_that_were_put_in():
    found = restoring.effects(table(gain=0.02, ratio=4.0, more=3))
    gain = found["accuracy-common-full-mse-growth"]
    assert gain.low < 0.02 < gain.high
    assert found["flatter-common-mini-mse-ratio"].value == pytest.approx(np.log(4), abs=1e-4)
    assert found["episodes-common-full-cross_entropy-absolute"].value == 3
    assert found["over-slow-common-full-mse-growth"].value == pytest.approx(0.02, abs=5e-4)
    assert not [n for n in found if n.startswith("episodes") and "mini" in n]
    assert not [n for n in found if n.startswith("over-slow") and n.endswith(("-gd", "-slow"))]
    assert abs(found["accuracy-tuned-full-mse-growth"].value) < 5e-4
    held = restoring.predictions(table(gain=0.02, ratio=4.0, more=3))
    assert all(held.values()), held


def test_predictions_fail_where_there_is_no_effect():
    held = restoring.predictions(table())
    assert held
    for name, met in held.items():
        assert met == name.startswith(("floor", "tuned")), name
    large = restoring.predictions(table(gain=-0.02, ratio=0.25, more=-1))
    assert not any(met for name, met in large.items() if name[:4] in ("rest", "flat", "bett"))


def test_the_level_is_joint_over_the_clipped_forms():
    stored = table(gain=0.02)
    where = (stored, "test_accuracy", "full-mse", "common")
    adam, growth, slow = (restoring.of_method(*where, m) for m in ("adam", "growth", "slow"))
    found = restoring.effects(stored)
    assert found["accuracy-common-full-mse-growth"] == student_interval(growth - adam, 5)
    assert found["accuracy-common-full-mse-slow"] == student_interval(slow - adam)
    batches = [restoring.of_method(*where[:2], "mini-mse", "tuned", m) for m in ("growth", "adam")]
    assert found["accuracy-tuned-mini-mse-growth"] == student_interval(batches[0] - batches[1], 4)


def test_a_run_that_missed_the_loss_leaves_the_pair():
    rows = table(gain=0.02).table.to_pylist()
    for row in rows:
        if (row["method"], row["comparison"], row["setting"]) == ("ratio", "common", "full-mse"):
            row |= {"reached": False} if row["seed"] < 3 else {}
            row |= {"reached": None, "test_accuracy": None} if row["seed"] == 6 else {}
    found = restoring.effects(Result(pa.Table.from_pylist(rows), {}))
    assert found["accuracy-common-full-mse-ratio"].value == pytest.approx(0.02, abs=5e-4)
    for row in rows:
        if row["method"] == "ratio" and row["seed"] < 5:
            row["reached"] = False
    found = restoring.effects(Result(pa.Table.from_pylist(rows), {}))
    assert "accuracy-common-full-mse-ratio" not in found, "one seed is left"


# The claims


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("adam-restores", {"more": 3}),
        ("adam-small-rate-flatter", {"ratio": 4.0}),
        ("adam-small-rate-accurate", {"gain": 0.02}),
    ],
)
def test_a_claim_follows_its_effect(key, options):
    (claim,) = [c for c in claims.CLAIMS if c.key == key]

    def met(stored):
        def load(name, preset):
            if preset != "default" or name != "restoring":
                raise results.MissingResultError(preset)
            return stored

        found = claims.judge(claim, Evidence({}, {}, load)).effects
        return {e.what.split("`")[1] for e in found if e.met}

    assert met(table(**options)) == set(restoring.RESTORING)
    assert not met(table())


# The stored runs


@stored_only
def test_the_stored_runs_have_the_chosen_rates_and_as_many_seeds_as_the_spread_asks():
    rates, stored = (results.load(n, "default") for n in ("restoring_rates", "restoring"))
    assert set(rates["seed"]) == set(restoring_rates.SEEDS)
    assert not set(rates["seed"]) & set(stored["seed"])
    (setting,) = restoring_rates.TUNED
    needed = power.seeds_needed(restoring.spread(rates, setting))
    for method in restoring.SETTINGS[setting].methods:
        rows = stored.where(setting=setting, comparison="tuned", method=method)
        assert len(rows) == power.TUNED >= needed
        chosen = rows["learning_rate"][0], np.nan_to_num(rows["factor"].astype(float)[0])
        rate, factor = restoring.best(rates, setting, method)
        assert chosen == (rate, factor or 0.0)


@stored_only
def test_the_stored_runs_without_their_differences_show_nothing():
    stored = results.load("restoring", "default")
    rows = stored.table.to_pylist()
    place = ("setting", "comparison", "seed")
    adam = {tuple(r[p] for p in place): r for r in rows if r["method"] == "adam"}
    kept = ("method", "learning_rate", "factor")
    alike = [r | {k: v for k, v in adam[tuple(r[p] for p in place)].items() if k not in kept}
             if r["method"] != "gd" else r for r in rows]  # fmt: skip
    same = Result(pa.Table.from_pylist(alike, stored.table.schema), stored.provenance)
    assert any(restoring.predictions(stored)[n] for n in ("flatter-growth", "better-growth"))
    held = restoring.predictions(same)
    assert not any(met for name, met in held.items() if name[:4] in ("rest", "flat", "bett"))


def test_every_grid_pairs_its_seeds():
    for preset in ("ci", "default", "gpu"):
        configs = restoring_rates.grid(preset)
        assert len(set(configs)) == len(configs)
        seeds = {}
        for c in configs:
            seeds.setdefault(dataclasses.replace(c, seed=0), set()).add(c.seed)
        assert {frozenset(s) for s in seeds.values()} == {frozenset(restoring_rates.SEEDS)}
        assert {c.method for c in configs} == set(restoring.METHODS)
