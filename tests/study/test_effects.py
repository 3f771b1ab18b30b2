"""Effects: known ones come out, the stored results meet the chapters' criteria, mutations do not.

A mutation takes a stored table and removes the effect from it, in one of three ways: runs at the
large rates get the values of stable ones; the labels of the runs of a seed are shuffled or
exchanged; or runs lose the common loss. The criterion of the chapter must then fail.
"""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom

from study import results
from study.experiments import adam as adam_experiment
from study.experiments import comparison, flatness, stages
from study.experiments import edge as edge_experiment
from study.experiments import sgd as sgd_experiment
from study.experiments.edge import MODELS
from study.experiments.stages import MEASURES


def mutated(stored, change):
    """The result with each row changed: ``change(row, peers)``, peers the rows of its seed."""
    rows = stored.table.to_pylist()
    by_seed = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row)
    changed = [{**row, **change(row, by_seed[row["seed"]])} for row in rows]
    return results.Result(pa.Table.from_pylist(changed, stored.table.schema), stored.provenance)


MEASURED = (*MEASURES, "test_accuracy")


def values(row, names):
    return {name: row[name] for name in names}


# Stochastic gradient descent

CELL = ("rate", "batch", "steps", "label_noise")


@pytest.fixture(scope="module")
def sgd():
    return results.load("sgd", "default")


def sgd_table(effect):
    """Five seeds of every cell, with log sharpness ``effect(rate, batch, steps)`` below 4."""
    rows = []
    for seed in range(5):
        for rate, batch, steps, label_noise in (
            *((rate, batch, 10, 0.0) for rate in (0.02, 0.08) for batch in (0, 8)),
            (0.01, 0, 10, 0.0), (0.02, 8, 40, 0.0), (0.02, 0, 10, 1.0),
        ):  # fmt: skip
            sharpness = np.exp(4 + 0.1 * seed - effect(rate, batch, steps, label_noise))
            rows.append({
                "rate": rate, "batch": batch, "seed": seed, "steps": steps, "small_rate": 0.02,
                "label_noise": label_noise, "status": "done", "undershoot": 0.001,
                "sharpness": sharpness, "start_sharpness": 60.0, "highest_sharpness": 70.0,
                "late_sharpness": 20.0,
            })  # fmt: skip
    return results.Result(pa.Table.from_pylist(rows), {})


def test_known_effects_of_sgd_come_out():
    def planted(rate, batch, steps, label_noise):
        unstable, noise = rate > 0.05, batch > 0
        return 0.5 * unstable + 0.2 * noise * steps / 10 + 0.3 * (unstable and noise) + label_noise

    found = sgd_experiment.effects(sgd_table(planted))
    expected = {
        "0.08-8-instability": 0.5, "0.08-8-noise": 0.2, "0.08-8-interaction": 0.3,
        "0.08-8-difference": 0.3, "0.08-8-persists": 0.8, "long": 0.8, "label": 1.0,
        "0.08-long-difference": -0.3, "0.08-label-difference": -0.5, "control": 0.0,
        "late-0.08-0": 0.8, "late-0.08-8": 0.8,
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, value in expected.items():  # the same in all seeds: the intervals have no width
        assert found[name] == pytest.approx((value, value, value), abs=1e-12)
    assert all(sgd_experiment.predictions(sgd_table(planted)).values())


def test_the_stored_runs_of_sgd_meet_the_predictions(sgd):
    held = sgd_experiment.predictions(sgd)
    assert all(held.values()), held


def outcome(row):
    return values(row, ("sharpness", "late_sharpness", "highest_sharpness"))


def test_sgd_with_stable_rates_only_fails(sgd):
    """Every run at a large rate gets what the run of its seed and batch got at the small rate."""
    small = float(sgd["small_rate"][0])

    def stable(row, peers):
        if row["rate"] <= small:
            return {}
        cell = {**values(row, CELL), "rate": small}
        (peer,) = [p for p in peers if values(p, CELL) == cell]
        return outcome(peer)

    held = sgd_experiment.predictions(mutated(sgd, stable))
    assert not any(held[name] for name in held if name.startswith("outweighs"))
    assert held["control"]


def test_sgd_with_instability_and_noise_exchanged_fails(sgd):
    cells = sgd_experiment.Cells(sgd)

    def exchanged(row, peers):
        one = {"rate": max(cells.large), "batch": 0, "steps": cells.steps, "label_noise": 0.0}
        others = [{**one, "rate": cells.small, "batch": batch} for batch in cells.batches]
        now = values(row, CELL)
        target = others[0] if now == one else one if now in others else None
        return {} if target is None else outcome(
            next(p for p in peers if values(p, CELL) == target)
        )  # fmt: skip

    held = sgd_experiment.predictions(mutated(sgd, exchanged))
    assert not any(held[name] for name in held if name.startswith("outweighs"))


def test_sgd_with_shuffled_cells_succeeds_as_often_as_chance(sgd):
    """Within a seed any two cells are then alike, so that only chance puts an interval above 0.

    By Student's t that is 1 time in 40; one batch size alone succeeds about so often, and 40
    shuffles scatter.
    """
    cells = sgd_experiment.Cells(sgd)
    assert len(cells.kept) == 7
    rng, trials, met = np.random.default_rng(0), 40, dict.fromkeys(cells.batches, 0)
    for _ in range(trials):
        orders = {seed: rng.permutation(len(sgd.where(seed=seed))) for seed in cells.seeds}

        def shuffled(row, peers, orders=orders):
            place = next(i for i, p in enumerate(peers) if values(p, CELL) == values(row, CELL))
            return outcome(peers[orders[row["seed"]][place]])

        mixed = sgd_experiment.Cells(mutated(sgd, shuffled))
        for batch in cells.batches:
            gap = mixed.fall(max(cells.large)) - mixed.fall(cells.small, batch)
            met[batch] += stages.interval(gap).low > 0
    assert max(met.values()) <= binom.ppf(1 - 1e-6, trials, 0.025)


def test_sgd_at_the_full_batch_edge_fails_the_prediction_about_its_threshold(sgd):
    def at_the_edge(row, peers):
        cell = {**values(row, CELL), "batch": 0}
        found = [p for p in peers if values(p, CELL) == cell]
        return values(found[0], ("late_sharpness",)) if found else {}

    held = sgd_experiment.predictions(mutated(sgd, at_the_edge))
    assert not any(held[name] for name in held if name.startswith("edge"))


def test_a_rate_that_acts_by_itself_fails_the_control(sgd):
    cells = sgd_experiment.Cells(sgd)

    def slower(row, peers):
        return {"sharpness": 1.05 * row["sharpness"]} if row["rate"] == cells.control else {}

    held = sgd_experiment.predictions(mutated(sgd, slower))
    assert not held["control"]


@pytest.mark.parametrize("name", ["undershoot", "status"])
def test_a_seed_with_an_unmatched_or_diverged_run_is_left_out(sgd, name):
    bad = {"undershoot": 0.5, "status": "diverged"}[name]

    def of_two_seeds(row, peers):
        return {name: bad} if row["seed"] in (1, 3) and row["batch"] == 8 else {}

    cells = sgd_experiment.Cells(mutated(sgd, of_two_seeds))
    assert [int(seed) for seed in cells.kept] == [0, 2, 4, 5, 6]
    assert len(cells("sharpness", cells.small)) == 5
    with pytest.raises(ValueError, match="at least 3 seeds"):
        sgd_experiment.Cells(mutated(sgd, lambda row, peers: {name: bad}))


# Flatness after a large rate


@pytest.fixture(scope="module")
def flat():
    return results.load("flatness", "default")


def flat_table(rows):
    blank = {"reached": True, "status": "done", "budget": 0.0}
    return results.Result(pa.Table.from_pylist([blank | row for row in rows]), {})


def test_known_effects_of_a_large_rate_come_out():
    rows = [
        {
            "factor": c, "seed": seed, "budget": max(c - 1, 0.0) + 0.001 * seed,
            "test_accuracy": 0.7 + 0.01 * seed + 0.1 * (c == 2.0) - 0.2 * (c == 3.0),
            **dict.fromkeys(MEASURES, (1 + seed) * (0.5 if c > 1 else 1.0)),
        }
        for c in (0.5, 0.9, 2.0, 3.0) for seed in range(4)
    ]  # fmt: skip
    rows.append({**rows[-1], "factor": 9.0, "reached": None, "status": "diverged"})
    found = flatness.effects(flat_table(rows))
    half = np.log(0.5)
    for name in MEASURES:
        assert found[name] == pytest.approx((half, half, half), abs=1e-12)
    assert found["sharpness_difference"].value == pytest.approx(-0.5 * 2.5, abs=1e-12)
    assert found["gain-2"] == pytest.approx((0.1, 0.1, 0.1), abs=1e-12)
    assert found["gain-0.9"] == pytest.approx((0, 0, 0), abs=1e-12)
    assert found["fall"] == pytest.approx((-0.3, -0.3, -0.3), abs=1e-12)
    assert "gain-9" not in found


def test_the_stored_runs_at_large_rates_meet_the_predictions(flat):
    held = flatness.predictions(flat)
    assert all(held.values()), held


def test_flatness_with_stable_rates_only_fails(flat):
    """Every run that reached the loss gets what the run of its seed at c = 1/2 got."""

    def stable(row, peers):
        (peer,) = [p for p in peers if p["factor"] == flatness.STABLE]
        return values(peer, MEASURED) | {"status": "done"} if row["reached"] else {"status": "done"}

    held = flatness.predictions(mutated(flat, stable))
    assert not any(held.values()), held


def test_flatness_with_shuffled_factors_fails(flat):
    """Under shuffled labels, and shuffled budgets, the effect of a seed is as likely up as down.

    By Student's t an interval excludes zero on one side 1 time in 40. A percentile interval of
    5 resampled seeds, as that of a rank correlation, does so beyond 1.96 sqrt(4/5) = 1.75 of
    Student's t with 4 degrees of freedom: 8 percent of it.
    """
    rng, trials, met = np.random.default_rng(1), 40, np.zeros(2, dtype=int)
    for _ in range(trials):
        orders = {}
        for seed in np.unique(flat["seed"]):
            reached = flat.where(seed=seed, reached=True)["factor"]
            orders[seed] = dict(zip(reached.tolist(), rng.permutation(reached), strict=True))

        def taken(names, orders=orders):
            def change(row, peers):
                if not row["reached"]:
                    return {}
                other = orders[row["seed"]][row["factor"]]
                return values(next(p for p in peers if p["factor"] == other), names)

            return flatness.effects(mutated(flat, change))

        met += (
            taken(MEASURED)["sharpness_difference"].high < 0,
            taken(["budget"])["budget"].high < 0,
        )
    assert np.all(met <= binom.ppf(1 - 1e-6, trials, [0.025, 0.08]))


# Ways of training


@pytest.fixture(scope="module")
def ways():
    return results.load("comparison", "default")


PREDICTED = (
    "rate-flatter", "init-better", "init-sharper",
    "ranks-adaptive_sharpness", "ranks-relative_flatness",
)  # fmt: skip


def test_the_stored_comparison_shows_what_the_chapter_says(ways):
    held = comparison.predictions(ways)
    assert all(held[name] for name in PREDICTED), held
    assert not held["ranks-sharpness"]


def test_a_comparison_of_equal_ways_shows_nothing(ways):
    """Every run gets what the run of its seed and architecture got with ``gd-small``."""

    def equal(row, peers):
        (peer,) = [
            p for p in peers
            if (p["architecture"], p["method"]) == (row["architecture"], "gd-small")
        ]  # fmt: skip
        return values(peer, MEASURED)

    held = comparison.predictions(mutated(ways, equal))
    assert not any(held[name] for name in PREDICTED[:3]), held


def test_a_comparison_with_exchanged_starts_is_turned_around(ways):
    other = {"gd-small-init": "gd-large-init", "gd-large-init": "gd-small-init"}

    def exchanged(row, peers):
        return {"method": other.get(row["method"], row["method"])}

    before, after = comparison.effects(ways), comparison.effects(mutated(ways, exchanged))
    for name in ("tanh", "relu", "deep"):
        for value in ("sharpness", "test_accuracy"):
            one, two = (found[f"init-{name}-{value}"] for found in (before, after))
            assert two.value == pytest.approx(-one.value, rel=1e-12)
    assert not comparison.predictions(mutated(ways, exchanged))["init-better"]


def test_accuracies_shuffled_over_ways_have_no_rank_correlation(ways):
    rng = np.random.default_rng(0)

    def shuffled(row, peers):
        same = [p for p in peers if p["architecture"] == row["architecture"]]
        return {"test_accuracy": same[rng.integers(len(same))]["test_accuracy"]}

    held = comparison.predictions(mutated(ways, shuffled))
    of_accuracy = [name for name in PREDICTED if name not in ("rate-flatter", "init-sharper")]
    assert not any(held[name] for name in of_accuracy), held


def test_a_run_that_missed_the_loss_is_left_out_with_its_partner(ways):
    def missed(row, peers):
        gone = row["seed"] == 0 and row["method"] == "gd-large"
        return {"reached": False, "sharpness": 1e9} if gone else {}

    found = comparison.effects(mutated(ways, missed))
    gap = np.concatenate([
        comparison.of_method(ways, "sharpness", "tanh", m)[None] for m in comparison.PAIRS["rate"]
    ])  # fmt: skip
    assert found["rate-tanh-sharpness"].value == pytest.approx(
        np.mean(gap[0, 1:] - gap[1, 1:]), rel=1e-12
    )


# Adam


@pytest.fixture(scope="module")
def adam():
    return results.load("adam", "default")


def test_adam_and_its_variants_alike_show_nothing(adam):
    """Each variant gets, at each rate and seed, what Adam got there."""

    def as_adam(row, peers):
        if row["method"] in ("gd", "adam"):
            return {}
        place = ("adam", row["learning_rate"])
        (peer,) = [p for p in peers if (p["method"], p["learning_rate"]) == place]
        kept = ("method", "cap", "seed", "learning_rate")
        return {name: value for name, value in peer.items() if name not in kept}

    found, alike = adam_experiment.effects(adam), adam_experiment.effects(mutated(adam, as_adam))
    variants = {name for name in found if not name.endswith("-gd")}
    assert any(found[name].low > 0 for name in variants if name.startswith("flatter"))
    assert all(tuple(alike[name]) == (0, 0, 0) for name in variants)


def test_the_effects_of_adam_are_those_of_its_criterion(adam):
    found = adam_experiment.effects(adam)
    compared = [adam_experiment.compare(adam, m) for m in (adam_experiment.VARIANTS, ["gd"])]
    for c in itertools.chain(*compared):
        assert found[f"flatter-{c.method}"] == c.flatness
        assert found[f"accuracy-{c.method}"] == c.accuracy
        assert (found[f"flatter-{c.method}"].low > 0) == (c.flatter == "flatter")


def test_the_predictions_about_adam_are_met_as_the_chapter_says(adam):
    held = adam_experiment.predictions(adam)
    assert not any(met for name, met in held.items() if name.startswith("better"))
    flatter = {name.partition("-")[2] for name, met in held.items() if met}
    assert {"minimum", "growth"} <= flatter
    assert not {"rise", "episode"} & flatter


# The edge


@pytest.fixture(scope="module")
def edge():
    return results.load("edge", "default")


def test_the_stored_runs_at_the_edge_meet_the_predictions_but_in_the_convolutional_network(edge):
    held = edge_experiment.predictions(edge)
    missed = {name for name, met in held.items() if not met}
    assert missed == {"level-cnn", "monotony-cnn", "fading-cnn"}
    assert set(edge_experiment.effects(edge)) == {"depth", *(f"faded-{m}" for m in MODELS)}


def test_an_edge_that_the_rate_does_not_move_fails(edge):
    """Each run gets the sharpness and the rises of the control of its seed, network and loss."""
    names = ("level", "rises_before", "rises_after")

    def as_the_control(row, peers):
        same = ("study", "model", "loss", "depth")
        alike = [p for p in peers if values(p, same) == values(row, same)]
        return values(min(alike, key=lambda p: p["rate"]), names)

    held = edge_experiment.predictions(mutated(edge, as_the_control))
    assert not any(held[name] for name in held if name.startswith(("level", "monotony")))


def test_an_edge_that_cross_entropy_does_not_leave_fails(edge):
    """Each run with cross-entropy ends as far from the edge as that with the squared loss."""

    def alike(row, peers):
        if row["loss"] == "mse" or row["end_sharpness"] is None:
            return {}
        own, other = (
            sorted(
                (p for p in peers if (p["study"], p["model"], p["loss"]) == (*kind, loss)),
                key=lambda p: p["rate"],
            )
            for kind in [(row["study"], row["model"])]
            for loss in (row["loss"], "mse")
        )
        peer = other[own.index(row)]
        return {"end_sharpness": peer["end_sharpness"] * peer["rate"] / row["rate"]}

    held = edge_experiment.predictions(mutated(edge, alike))
    assert not any(held[name] for name in held if name.startswith("fading"))


def test_sharpening_shuffled_over_depths_fails(edge):
    rng = np.random.default_rng(0)

    def shuffled(row, peers):
        others = [p for p in peers if p["study"] == row["study"] == "depth"]
        return {"sharpening": others[rng.integers(len(others))]["sharpening"]} if others else {}

    assert not edge_experiment.predictions(mutated(edge, shuffled))["depth"]
