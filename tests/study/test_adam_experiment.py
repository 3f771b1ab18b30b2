"""The experiment `adam`: its splits, its matched loss, the choice of rates, and its criterion."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

from flatminima import sweep
from study import results
from study.experiments import adam
from study.results import Result

TINY = {
    "n_train": 60, "n_validation": 50, "width": 8, "target_loss": 0.1, "max_steps": 1000,
}  # fmt: skip


def table(rows):
    """A result as the sweep would store it, from (method, rate, seed, measured values)."""
    blank = {"cap": None, "status": "done", "reached": True, "sharpness": 10.0}
    blank |= {"test_accuracy": 0.5, "validation_accuracy": 0.5}
    return Result(pa.Table.from_pylist([blank | row for row in rows]), {})


def rows(method, rate, **columns):
    length = len(next(iter(columns.values())))
    return [
        {"method": method, "learning_rate": rate, "seed": seed}
        | {name: values[seed] for name, values in columns.items()}
        for seed in range(length)
    ]


def test_training_validation_and_test_images_are_apart():
    config = adam.Config("adam", 0.01, 3, **TINY)
    parts = [x.flatten(1) for x, _ in adam.images(config)]
    assert [len(part) for part in parts[:2]] == [60, 50]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert torch.cdist(parts[one], parts[other]).min() > 0
    again, another = (adam.images(dataclasses.replace(config, seed=seed))[0][0] for seed in (3, 4))
    assert torch.equal(again.flatten(1), parts[0])
    assert not torch.equal(another.flatten(1), parts[0])


@pytest.mark.parametrize("method", adam.METHODS)
def test_every_method_ends_at_the_matched_loss_with_everything_measured(method):
    cap = 0.05 if method == "absolute" else None
    rate = 0.1 if method == "gd" else 0.005
    values = adam.run(adam.Config(method, rate, 1, cap, **TINY))
    assert values["reached"]
    assert values["final_loss"] <= 0.1
    # The last step of the cooling began above the target, and lowered the loss by a few percent.
    assert 0 <= values["undershoot"] < 0.1
    assert values["cooling_steps"] > 0
    assert set(values) == set(adam.TOLERANCES)
    assert all(value is not None and np.isfinite(value) for value in values.values())
    if method == "gd":
        assert values["preconditioned_sharpness"] == pytest.approx(values["sharpness"], rel=2e-4)
    if method in ("gd", "adam"):
        assert values["clipped"] == 0


def test_the_networks_of_the_gpu_preset_run_at_toy_size():
    configs = [c for c in adam.grid("gpu") if c.method == "adam"]
    kinds = {c.model: c for c in configs}
    assert set(kinds) == {"mlp", "cnn"}
    for config in kinds.values():
        toy = {**TINY, "width": 2, "dataset": "fashion-mnist-subset", "device": "cpu"}
        values = adam.run(dataclasses.replace(config, **toy, learning_rate=0.01))
        assert set(values) == set(adam.TOLERANCES)


def test_a_diverging_run_says_so_with_what_was_measured():
    with pytest.raises(sweep.Diverged, match="of the training") as caught:
        adam.run(adam.Config("gd", 50.0, 1, **TINY))
    assert caught.value.values["steps"] > 0
    assert "test_accuracy" not in caught.value.values


def test_the_threshold_is_that_of_the_method():
    assert adam.threshold(adam.Config("gd", 0.1, 0)) == pytest.approx(20, rel=1e-14)
    assert adam.threshold(adam.Config("rise", 0.1, 0)) == pytest.approx(380, rel=1e-14)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sgd"}, "method must be one of gd, adam"),
        ({"method": "adam", "cap": 1.0}, "cap belongs"),
        ({"method": "absolute"}, "cap belongs"),
        ({"method": "adam", "model": "rnn"}, "model must be"),
    ],
)
def test_a_bad_config_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adam.run(adam.Config(learning_rate=0.1, seed=0, **options, **TINY))


# The choice of rates


def test_rates_are_chosen_on_the_validation_images_and_never_on_the_test_images():
    result = table(
        rows("adam", 0.1, validation_accuracy=[0.6, 0.8], test_accuracy=[0.1, 0.2])
        + rows("adam", 0.2, validation_accuracy=[0.6, 0.7], test_accuracy=[0.9, 0.9])
    )
    chosen = adam.tuned(result, "adam")
    assert chosen["learning_rate"].tolist() == [0.1, 0.1]
    assert chosen["seed"].tolist() == [0, 1]


def test_a_rate_at_which_a_seed_missed_the_target_or_diverged_is_not_chosen():
    good = {"validation_accuracy": [0.9, 0.9]}
    result = table(
        rows("adam", 0.1, **good, reached=[True, False])
        + rows("adam", 0.2, **good, status=["done", "diverged"], reached=[True, None])
        + rows("adam", 0.3, validation_accuracy=[0.5, 0.5])
    )
    assert adam.tuned(result, "adam")["learning_rate"].tolist() == [0.3, 0.3]
    assert adam.tuned(result.where(learning_rate=0.1), "adam") is None
    assert adam.tuned(result, "rise") is None


def test_rate_and_cap_are_chosen_together():
    result = table(
        rows("absolute", 0.1, cap=[1.0, 1.0], validation_accuracy=[0.5, 0.5])
        + rows("absolute", 0.1, cap=[2.0, 2.0], validation_accuracy=[0.7, 0.7])
        + rows("absolute", 0.2, cap=[2.0, 2.0], validation_accuracy=[0.6, 0.6])
    )
    chosen = adam.tuned(result, "absolute")
    assert chosen["cap"].tolist() == [2.0, 2.0]
    assert chosen["learning_rate"].tolist() == [0.1, 0.1]


# The criterion


def test_the_criterion_by_hand():
    gains = np.array([0.02, 0.03, 0.025, 0.02])
    result = table(
        rows("adam", 0.1, test_accuracy=[0.5, 0.6, 0.7, 0.8], sharpness=[10.0, 20.0, 30.0, 40.0])
        + rows(
            "rise", 0.1,
            test_accuracy=list(np.array([0.5, 0.6, 0.7, 0.8]) + gains),
            sharpness=[20.0, 41.0, 59.0, 80.0],
        )
    )  # fmt: skip
    (found,) = adam.compare(result, ["rise"])
    interval = stats.t.interval(0.95, 3, gains.mean(), stats.sem(gains))
    assert found.accuracy == pytest.approx((gains.mean(), *interval), rel=1e-12)
    assert found.improvement == "better"
    ratios = np.array([0.5, 20 / 41, 30 / 59, 0.5])
    assert found.flatness.value == pytest.approx(np.log(ratios).mean(), rel=1e-12)
    assert found.flatter == "sharper"
    # Compared with many others at once, the same data say less.
    many = adam.compare(result, ["rise", *["episode"] * 50])
    assert many[0].accuracy.low < interval[0]
    assert many[0].improvement == "no difference"


def test_a_best_rate_at_the_end_of_its_range_is_flagged():
    for best, at_end in ((0.1, True), (0.2, False), (0.3, True)):
        result = table(
            row
            for rate in (0.1, 0.2, 0.3)
            for row in rows("adam", rate, validation_accuracy=[0.8 if rate == best else 0.7] * 2)
        )
        (found,) = adam.compare(result, ["adam"])
        assert (found.learning_rate, found.at_end) == (best, at_end)


def test_a_best_cap_at_the_end_of_its_range_is_flagged():
    for best, at_end in ((1.0, True), (2.0, False), (3.0, True)):
        result = table(
            rows("adam", 0.2, validation_accuracy=[0.5, 0.5])
            + [
                row
                for cap in (1.0, 2.0, 3.0)
                for rate in (0.1, 0.2, 0.3)
                for row in rows(
                    "absolute", rate, cap=[cap] * 2,
                    validation_accuracy=[0.6 + 0.1 * (cap == best) + 0.01 * (rate == 0.2)] * 2,
                )
            ]
        )  # fmt: skip
        (found,) = adam.compare(result, ["absolute"])
        assert (found.learning_rate, found.cap, found.at_end) == (0.2, best, at_end)


def test_every_tuned_setting_of_the_stored_runs_lies_inside_of_its_range():
    found = adam.compare(results.load("adam", "default"), [*adam.METHODS])
    assert {c.method for c in found} == set(adam.METHODS)
    assert not [c for c in found if c.at_end]


def test_adam_does_not_differ_from_itself_or_from_noise():
    rng = np.random.default_rng(0)
    accuracy = rng.normal(0.7, 0.01, 6)
    result = table(
        rows("adam", 0.1, test_accuracy=list(accuracy))
        + rows("rise", 0.1, test_accuracy=list(accuracy + rng.permutation([-1, 1] * 3) * 0.01))
    )
    same, noise = adam.compare(result, ["adam", "rise"])
    assert (same.accuracy.value, same.improvement, same.flatter) == (0.0, *["no difference"] * 2)
    assert noise.improvement == "no difference"


def test_a_method_that_cannot_be_compared_is_left_out_and_adam_must_be_there():
    result = table(
        rows("adam", 0.1, reached=[True, True]) + rows("rise", 0.1, reached=[True, False])
    )
    assert adam.compare(result, ["rise"]) == []
    with pytest.raises(ValueError, match="no learning rate brings Adam"):
        adam.compare(result.where(method="rise"), ["rise"])
    with pytest.raises(ValueError, match="seeds"):
        adam.compare(
            table(rows("adam", 0.1, reached=[True] * 3) + rows("rise", 0.1, reached=[True] * 2)),
            ["rise"],
        )


def test_every_grid_holds_every_method_with_the_same_seeds():
    for preset, least in (("ci", 2), ("default", 5), ("gpu", 5)):
        configs = adam.grid(preset)
        assert len(set(configs)) == len(configs)
        assert {c.method for c in configs} == set(adam.METHODS)
        seeds = {}
        for c in configs:
            seeds.setdefault(dataclasses.replace(c, seed=0), set()).add(c.seed)
        assert all(len(s) >= least for s in seeds.values())
        assert len({frozenset(s) for s in seeds.values()}) == 1
