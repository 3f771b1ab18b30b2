"""The experiments on noise: what each measures, by hand, and what its criteria make of a table."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional

from flatminima import models
from flatminima.curvature import EmpiricalRisk
from flatminima.statistics import Interval
from flatminima.theory import instability, quadratic
from study import claims, results
from study.claims import Evidence
from study.claims.noise import within
from study.experiments import arrival, gap, mirror, noise, onset, stages

TOY = {"n_train": 60, "width": 8, "device": "cpu", "dataset": "fashion-mnist-subset"}
STAGED = TOY | {"start_loss": 0.3, "target_loss": 0.25, "max_steps": 4000, "small_rate": 0.004}


def table(rows):
    rows = [{"dataset": "fashion-mnist-subset", **row} for row in rows]
    return results.Result(pa.Table.from_pylist(rows), {"devices": ["CPU"]})


def complete(values, experiment):
    """Every value has a tolerance and every tolerance a value, which is a finite number."""
    assert set(values) == set(experiment.tolerances)
    assert all(value is not None and np.isfinite(value) for value in values.values())


# Kinds and amounts of noise


def test_images_are_pooled_and_keep_their_size():
    config = noise.Config(0.1, "none", 0, 0, 1, n_train=5, pooled=2)
    (found, labels), _ = noise.images(config)
    (whole, same), _ = stages.images(config)
    assert found.shape == (5, 1, 14, 14)
    assert torch.equal(labels, same)
    assert torch.allclose(found[3, 0, 4, 6], whole[3, 0, 8:10, 12:14].mean() * 2)
    # An image without detail keeps its inner products exactly.
    flat = functional.avg_pool2d(torch.full((1, 1, 28, 28), 0.5), 2) * 2
    assert float(flat.square().sum()) == pytest.approx(28 * 28 * 0.25, rel=1e-6)


def test_minibatches_are_drawn_from_all_and_without_repeats():
    data = torch.arange(7.0)[:, None], torch.zeros(7, 1)
    risk = EmpiricalRisk(nn.Linear(1, 1), "mse", data)
    drawn = noise.batches_of(risk, 3, 200, torch.Generator().manual_seed(0))
    assert {len(set(x.flatten().tolist())) for x, _ in drawn} == {3}
    counts = np.bincount(torch.cat([x for x, _ in drawn]).flatten().int().numpy())
    # 600 draws in all, of seven images: binomial, 200 * 3/7 each, to five deviations.
    assert np.all(np.abs(counts - 600 / 7) < 5 * np.sqrt(200 * 3 / 7 * 4 / 7))


@pytest.mark.parametrize("kind", ["none", *noise.KINDS, "epochs"])
def test_a_run_of_each_kind_of_noise_is_complete_and_matched(kind):
    batch = 0 if kind == "none" else 8
    values = noise.run(noise.Config(0.004, kind, batch, 0, 20, **STAGED))
    complete(values, noise.EXPERIMENT)
    assert 0 <= values["undershoot"] < noise.MATCHED
    if kind == "none":
        assert values["batch_sharpness_error"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("preset", ["ci", "default", "gpu"])
def test_matched_noise_has_as_much_time_and_diffusion(preset):
    for c in noise.grid(preset):
        if c.noise != "none" and c.steps > min(k.steps for k in noise.grid(preset)):
            large = next(k for k in noise.grid(preset) if k.rate > c.rate and k.noise == c.noise)
            assert c.rate * c.steps == pytest.approx(large.rate * large.steps)
            if c.batch < large.batch:
                assert c.rate / c.batch == pytest.approx(large.rate / large.batch)


def planted(fall):
    """Six seeds of every cell, with log sharpness ``fall(cell)`` below 4 and a little spread."""
    rows, spread = [], np.random.default_rng(0)
    for seed in range(6):
        for c in noise.design([seed], 250):
            rows.append(
                {**dataclasses.asdict(c), "status": "done", "undershoot": 1e-3,
                 "sharpness": math.exp(4 - fall(c) + 0.003 * spread.normal()),
                 "start_sharpness": 30.0, "batch_sharpness": 40.0}
            )  # fmt: skip
    return table(rows)


def as_found(c):
    unstable = 0.4 * (c.rate > noise.SMALL)
    if c.noise in ("none", "isotropic"):
        return unstable
    return unstable + {10: 0.1, 2: 0.6}[c.batch] * c.steps / (250 if c.batch == 10 else 1250)


def test_known_effects_of_noise_come_out():
    found = noise.effects(planted(as_found))
    expected = {
        "instability": 0.4, "independent-matched": 0.6, "independent-both": 0.5, "gaussian": 0.0,
        "isotropic": -0.15, "adds": -0.1, "updates-difference": 0.3, "time-difference": -0.1,
        "matched-difference": -0.2, "share-instability": 0.8, "updates-share-noise": 0.2,
        "updates-share-rest": 0.0, "matched-share-rest": -1.0, "epochs-matched": 0.6,
    }  # fmt: skip
    for name, value in expected.items():
        # The noise planted, 0.003 for each of up to three cells, over shares of 0.5.
        assert found[name].value == pytest.approx(value, abs=0.02), name
        assert found[name].low < found[name].value < found[name].high
    held = noise.predictions(planted(as_found))
    opposite = {f"outweighs-{way}-opposite" for way in ("time", "matched")}
    met = {"control", "past-the-edge", "stable-cooling", "gaussian", "isotropic", "still"}
    met |= {"outweighs-updates"} | opposite
    assert {name for name, value in held.items() if value} == met


def test_criteria_of_noise_fail_without_the_effects():
    def any_noise(c):
        return 0.3 * (c.noise != "none")

    held = noise.predictions(planted(any_noise))
    assert held["gaussian"]
    assert not held["isotropic"]
    assert not held["outweighs-updates"]
    assert not held["adds"]

    def minibatches_only(c):
        return 0.3 * (c.noise in ("independent", "epochs"))

    assert not noise.predictions(planted(minibatches_only))["gaussian"]
    rate_alone = noise.predictions(planted(lambda c: 10 * c.rate))
    assert not rate_alone["control"]
    unmatched = planted(as_found).table.to_pylist()
    for row in unmatched:
        row["undershoot"] = 0.5 if row["seed"] < 4 and row["batch"] == 2 else 0.0
    with pytest.raises(ValueError, match="got 2 of 6"):
        noise.effects(table(unmatched))


# The gap below the threshold


class Model(nn.Module):
    """The loss of Proposition G4: (2 / eta + sqrt(beta) z) x^2 / 2 - alpha / sqrt(beta) z."""

    def __init__(self, rate, alpha, beta):
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.rate, self.alpha, self.root = rate, alpha, math.sqrt(beta)

    def forward(self, inputs):
        x, z = self.theta
        loss = (2 / self.rate + self.root * z) * x**2 / 2 - self.alpha / self.root * z
        return loss + inputs * x


def model_risk(rate=0.1, alpha=0.3, beta=4.0):
    inputs = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    model = Model(rate, alpha, beta)
    return EmpiricalRisk(model, lambda outputs, targets: outputs.mean(), (inputs, 0 * inputs))


def test_a_look_finds_the_constants_of_the_model():
    risk, x, z = model_risk(), 0.02, -0.5
    iterates = torch.tensor([[x, z], [-x, z], [x, z]], dtype=torch.float64)
    found, vectors = gap.look(risk, iterates)
    assert found["sharpness"] == pytest.approx(2 / 0.1 + 2 * z, rel=1e-6)
    assert found["alpha"] == pytest.approx(0.3, rel=1e-6)
    assert found["beta"] == pytest.approx(4.0, rel=1e-6)
    assert abs(found["x"]) == pytest.approx(x, rel=1e-6)
    assert found["variance"] == pytest.approx(2 / 3, rel=1e-6)
    assert vectors.shape == (2, 2)
    assert not risk.flat().any()  # left alone
    # A center that is off along v_1 does not spoil alpha.
    off = iterates + torch.tensor([0.005, 0.0], dtype=torch.float64)
    assert gap.look(risk, off)[0]["alpha"] == pytest.approx(0.3, rel=1e-3)


def test_the_terms_are_those_of_the_theorem():
    rate, alpha, beta = 0.05, 0.3, 2.0
    path = instability.stochastic_dynamics(
        0.3, 0.1, rate, alpha, beta, 0.8, 400, np.random.default_rng(0)
    )
    late = {
        "sharpness": 2 / rate + path.excess[:-1], "x": path.x[:-1], "alpha": np.full(400, alpha),
        "beta": np.full(400, beta), "second": np.ones(400),
    }  # fmt: skip
    found = gap.terms(rate, 0.8**2, late)
    theory = instability.stochastic_gap(path, rate, alpha, beta, 0.8)
    for name, value in (
        ("gap", theory.measured), ("leading", theory.noise), ("coupling", theory.coupling),
        ("spread", theory.spread),
    ):  # fmt: skip
        assert found[name] == pytest.approx(float(value) * rate / 2, rel=1e-12), name
    assert found["predicted"] == found["leading"] + found["coupling"] + found["spread"]
    falling = gap.terms(rate, 0.8**2, late | {"alpha": np.full(400, -alpha)})
    assert falling["predicted"] is None
    assert falling["gap"] == found["gap"]


def test_the_noise_along_a_direction_is_that_of_single_gradients():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    risk = EmpiricalRisk(models.mlp([3, 4, 2], "tanh", seed=0), "mse", (x, torch.arange(5) % 2))
    direction = torch.randn(risk.size, generator=torch.Generator().manual_seed(1))
    single = [EmpiricalRisk(risk.model, "mse", (x[i : i + 1], torch.tensor([i % 2])))
              for i in range(5)]  # fmt: skip
    expected = torch.stack([one.gradient() @ direction for one in single])
    torch.testing.assert_close(gap.along(risk, direction), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", *gap.KINDS])
def test_a_run_at_the_edge_is_complete(kind):
    toy = {name: value for name, value in STAGED.items() if name != "target_loss"}
    config = gap.Config(kind, 0 if kind == "none" else 20, 0, steps=40, **toy)
    values = gap.run(config)
    assert set(values) == set(gap.EXPERIMENT.tolerances)
    assert values["learning_rate"] == pytest.approx(2 / values["start_sharpness"])
    assert (values["scale"] > 0) == (kind != "none")
    assert np.isfinite(values["gap"])


def gap_table(ratio, every=1.2, none=0.0):
    rows, spread = [], np.random.default_rng(1)
    for seed in range(5):
        rows.append({"kind": "none", "batch": 0, "seed": seed, "gap": none, "predicted": None})
        for batch in (32, 64, 128):
            for kind, factor in (("leading", 1.0), ("independent", every)):
                measured = factor * 6 / batch * math.exp(0.02 * spread.normal())
                rows.append({"kind": kind, "batch": batch, "seed": seed, "gap": measured,
                             "predicted": 6 / batch / ratio})  # fmt: skip
    return table(rows)


def test_criteria_of_the_gap():
    held = gap.predictions(gap_table(1.3))
    assert all(held[f"ratio-leading-{batch}"] for batch in (32, 64, 128))
    assert held["more-leading"]
    assert held["more-independent"]
    assert held["beyond"]
    for ratio in (3.0, 1 / 3):
        assert not any(gap.predictions(gap_table(ratio))[f"ratio-leading-{b}"] for b in (32, 128))
    assert not gap.predictions(gap_table(1.0, every=1.0))["beyond"]
    beyond_none = gap.effects(gap_table(1.3, none=-0.5))
    for name in ("added-leading-64", "added-independent-128"):
        assert beyond_none[name].value > beyond_none[name.replace("added", "off")].value + 0.1
    assert gap.effects(gap_table(1.3))["off-leading-64"].value == pytest.approx(
        math.log(1.3), abs=0.05
    )


# The onset at a minimum

FEATURES = np.random.default_rng(3).normal(size=(5, 3))


def test_thresholds_by_hand_and_in_order():
    # One feature: (1 - eta h)^2 averaged, for h = 1 and 9.
    found = onset.rates(np.array([[1.0], [3.0]]), 1)
    assert found["full"] == pytest.approx(2 / 5)
    assert found["one"] == pytest.approx(2 * 5 / (25 + 16))
    assert found["matrix"] == pytest.approx(found["one"], rel=1e-8)
    for batch in (1, 2, 4):
        found = onset.rates(FEATURES, batch)
        assert found["matrix"] < found["one"] < found["full"]
        step = quadratic.sgd_covariance_step(FEATURES, found["matrix"], batch, replacement=False)
        assert np.abs(np.linalg.eigvals(step)).max() == pytest.approx(1, abs=1e-6)
    whole = onset.rates(FEATURES, 5)
    assert whole["matrix"] == pytest.approx(whole["full"], rel=1e-8)


def test_the_leading_matrix_is_kept_by_a_step():
    rate = onset.matrix_rate(FEATURES, 2)
    found = onset.leading_matrix(FEATURES, rate, 2)
    step = quadratic.sgd_covariance_step(FEATURES, rate, 2, replacement=False)
    assert np.allclose(step @ found.flatten(), found.flatten(), atol=1e-7)
    assert np.trace(found) == pytest.approx(1)
    assert np.linalg.eigvalsh(found)[0] > -1e-12


def test_a_single_run_grows_later_than_the_second_moment():
    matrix = onset.matrix_rate(FEATURES, 1)
    typical = onset.typical_rate(FEATURES, 1, matrix, 0)
    assert typical > matrix
    # One feature: log |1 - eta h| over h = 1 and 9 has mean zero at (1 - eta)(1 - 9 eta) = -1. The
    # error of its mean over 64,000 draws is far below what the search can tell.
    rows = np.array([[1.0], [3.0]])
    found = onset.typical_rate(rows, 1, onset.matrix_rate(rows, 1), 0)
    assert found == pytest.approx((10 - np.sqrt(28)) / 18, rel=onset.STEP / 5)


@pytest.fixture(scope="module")
def linear():
    """A linear network at a minimum of zero loss."""
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    theta = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    inputs = torch.as_tensor(FEATURES)
    return mirror.Problem(model, inputs, (inputs @ theta)[:, None]), theta


def test_replicas_make_updates_of_sgd(linear):
    problem, theta = linear
    replicas = onset.Replicas(problem, theta, 2)
    generator = torch.Generator().manual_seed(0)
    start = replicas.near(4, torch.eye(3, dtype=torch.float64), generator)
    chosen = torch.rand(4, 5, generator=torch.Generator().manual_seed(5)).argsort(1)[:, :2]
    rates = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = replicas.step(start, rates, torch.Generator().manual_seed(5))
    for i in range(4):
        rows = problem.inputs[chosen[i]]
        gradient = rows.T @ (rows @ (start[i] - theta)) / 2
        torch.testing.assert_close(found[i], start[i] - rates[i] * gradient, rtol=0, atol=1e-14)
    assert torch.allclose(replicas.squares(start), (start - theta).square().sum(1))


def test_the_onset_of_a_linear_network_is_the_threshold(linear):
    problem, theta = linear
    replicas, matrix = onset.Replicas(problem, theta, 2), onset.matrix_rate(FEATURES, 2)
    values, vectors = np.linalg.eigh(onset.leading_matrix(FEATURES, matrix, 2))
    root = torch.as_tensor(vectors * np.sqrt(np.clip(values, 0, None))).T
    found = onset.onset(replicas, root, matrix, torch.Generator().manual_seed(0))
    assert found == pytest.approx(matrix, rel=onset.TOLERANCE)
    gone = onset.escape(replicas, root, matrix, torch.Generator().manual_seed(0))
    assert gone is None or gone > matrix
    # Far beyond it all leave at the first rate that is tried; far below none ever does.
    assert onset.escape(replicas, root, 3 * matrix, torch.Generator()) == pytest.approx(
        2.7 * matrix
    )
    assert onset.escape(replicas, root, matrix / 4, torch.Generator()) is None


def onset_table(measured, escape, typical=1.2):
    rows = []
    for seed, (one, matrix) in enumerate([(0.8, 0.6), (0.82, 0.62), (0.84, 0.58)]):
        for batch in (1, 4):
            wobble = 1 + 0.001 * seed
            rows.append({"batch": batch, "seed": seed, "status": "done", "full": 1.0, "one": one,
                         "matrix": matrix, "typical": typical * matrix,
                         "measured": measured * matrix * wobble,
                         "escape": escape * matrix * wobble})  # fmt: skip
    return table(rows)


def test_criteria_of_the_onset():
    held = onset.predictions(onset_table(1.0, 1.2))
    assert {name for name, value in held.items() if value} == {
        f"{name}-{batch}" for name in ("matrix", "late", "escape") for batch in (1, 4)
    }
    assert not any(v for k, v in onset.predictions(onset_table(1.1, 1.2)).items() if "matrix" in k)
    assert not any(v for k, v in onset.predictions(onset_table(1.0, 0.9)).items() if "late" in k)
    assert not any(v for k, v in onset.predictions(onset_table(1.0, 1.5)).items() if "escape" in k)


# The sharpness of the batches


def test_the_quotient_of_means_by_hand():
    x, y = torch.tensor([[1.0], [1.0], [3.0]]), torch.zeros(3, 1)
    model = nn.Linear(1, 1, bias=False)
    batches = EmpiricalRisk(model, "mse", [(x[:2], y[:2]), (x[1:], y[1:])])
    found = arrival.quotient_of_means(batches)  # of curvatures 1 and 5: (1 + 125) / (1 + 25)
    assert found.value == pytest.approx(126 / 26, rel=1e-6)
    rest = np.array([1 - 126 / 26, 125 - 126 / 26 * 25]) / 13
    assert found.error == pytest.approx(rest.std(ddof=1) / math.sqrt(2), rel=1e-6)


def test_a_run_of_sgd_is_complete_and_its_late_values_are_means():
    values = arrival.run(arrival.Config(0.02, 10, 0, steps=16, **TOY))
    complete(values, arrival.EXPERIMENT)
    late = [values[f"batch_{i}"] for i in (6, 7, 8)]
    assert values["batch_late"] == pytest.approx(np.mean(late))
    assert values["batch_error"] > 0


def arrival_table(batch, whole, middle):
    rows = []
    for seed in range(3):
        wobble = 1 + 0.002 * seed
        rows.append({"batch": 10, "seed": seed, "status": "done", "whole_late": whole * wobble,
                     "batch_late": batch * wobble, "weighted_late": batch, "batch_error": 0.01,
                     f"batch_{arrival.LOOKS // 2}": middle})  # fmt: skip
    return table(rows)


def test_criteria_of_the_arrival():
    assert all(arrival.predictions(arrival_table(1.02, 0.5, 0.7)).values())
    assert not any(arrival.predictions(arrival_table(0.6, 0.7, 0.7)).values())


# The claims


def judged(key, name, stored):
    """The verdict on a claim, of a table in place of the stored one."""

    def load(asked, preset):
        if preset != "default" or asked != name:
            raise results.MissingResultError(f"no {asked} at {preset}")
        return stored

    (claim,) = [claim for claim in claims.CLAIMS if claim.key == key]
    return claims.judge(claim, Evidence({}, load=load)).verdict


def test_a_quantity_is_within_a_limit_or_beyond_or_it_is_open():
    assert within(Interval(0.0, -0.2, 0.2), 0.3) == "reproduced"
    assert within(Interval(0.5, 0.4, 0.6), 0.3) == "contradicted"
    assert within(Interval(-0.5, -0.6, -0.4), 0.3) == "contradicted"
    assert within(Interval(0.0, -0.4, 0.2), 0.3) == "undecided"
    assert within(Interval(0.0, -0.4, 0.4), 0.3) == "undecided"


def test_claims_about_noise_follow_the_tables():
    assert judged("noise-gaussian", "noise", planted(as_found)) == "reproduced"
    assert judged("noise-isotropic", "noise", planted(as_found)) == "reproduced"
    assert judged("outweighs-matched", "noise", planted(as_found)) == "partly"
    assert judged("instability-adds", "noise", planted(as_found)) == "contradicted"
    stronger = planted(lambda c: 0.9 * (c.rate > noise.SMALL) + 0.3 * (c.noise != "none"))
    assert judged("outweighs-matched", "noise", stronger) == "reproduced"
    assert judged("instability-adds", "noise", stronger) == "reproduced"
    assert judged("noise-isotropic", "noise", stronger) == "contradicted"
    some = planted(lambda c: 0.3 * (c.noise == "covariance"))
    assert judged("noise-gaussian", "noise", some) == "contradicted"


def test_claims_about_thresholds_follow_the_tables():
    assert judged("batch-sharpness", "arrival", arrival_table(1.02, 0.5, 0.7)) == "reproduced"
    assert judged("batch-sharpness", "arrival", arrival_table(0.6, 0.5, 0.7)) == "contradicted"
    assert judged("gap", "gap", gap_table(1.3)) == "reproduced"
    assert judged("gap", "gap", gap_table(4.0)) == "contradicted"
    assert judged("gap-minibatches", "gap", gap_table(1.0, every=4.0)) == "contradicted"
    assert judged("second-moment", "onset", onset_table(1.0, 1.2)) == "reproduced"
    assert judged("second-moment", "onset", onset_table(1.1, 1.2)) == "contradicted"
    assert judged("single-runs", "onset", onset_table(1.0, 1.2)) == "reproduced"
    assert judged("single-runs", "onset", onset_table(1.0, 0.9)) == "contradicted"
