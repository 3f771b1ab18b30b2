"""The experiment `average`: what it measures of descent and the flows, and its criteria."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from flatminima import curvature, sweep
from flatminima.training import History
from study import results
from study.experiments import average

EXPERIMENT = average.EXPERIMENT
TOY = average.Config("mlp", "mse", 0, 4, 0.03, 0.3, steps=6, pooled=7, n_train=20)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Runs of a few steps, whose gradient flow gets nowhere: a sharpness that rises is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(average, "PAST", 0.0)
        yield


@pytest.fixture(scope="module")
def toy(short):
    """The problem of a toy run, what is known of it, and its three runs."""
    risk, known = average.start(TOY)
    return risk, known, average.side_by_side(risk, known["learning_rate"], TOY.steps)


def test_all_three_start_at_the_edge_and_gradient_descent_off_the_center(toy):
    risk, known, runs = toy
    start = risk.flat().numpy()
    assert known["learning_rate"] * curvature.sharpness(risk) == pytest.approx(2, rel=1e-4)
    slope = float(curvature.sharpness_gradient(risk) @ risk.gradient())
    assert slope < 0, "the gradient flow raises the sharpness"
    for name in ("central", "gradient"):
        assert np.array_equal(runs[name].probes["theta"][0], start)
    off = runs["descent"].probes["theta"][0] - start
    leading = curvature.top_eigenpairs(risk).eigenvectors[0].numpy()
    assert abs(off @ leading) == pytest.approx(np.linalg.norm(off))
    assert np.sum(off**2) == pytest.approx(runs["central"].probes["variance"][0])
    kicked = average.descend(risk, known["learning_rate"], 2, 0.01)
    assert np.linalg.norm(kicked.probes["theta"][0] - start) == pytest.approx(0.01)
    assert len(kicked.loss) == 3


def made(path, loss, **more):
    """A history that consists of a path, as the comparison wants it."""
    n = len(path)
    probes = {"theta": np.array(path)} | {name: np.full(n, value) for name, value in more.items()}
    return History(0.1, np.arange(n), np.full(n, loss), np.zeros(n), np.arange(n), probes)


def test_swings_are_free_of_drift_and_centers_of_swings():
    drift, swing = np.array([0.3, -0.2]), np.array([0.05, 0.01])
    path = [t * drift + (-1) ** t * swing for t in range(12)]
    times = np.arange(1, 11)
    centers, swings = average.swings(made(path, 1.0), times)
    assert np.allclose(centers, times[:, None] * drift)
    assert np.allclose(np.sum(swings**2, axis=1), swing @ swing)


def test_the_comparison_averages_what_its_names_say(toy):
    risk = average._copied(toy[0])
    start = risk.flat().numpy()
    edge = 2 / 0.1
    away = 1e-3 * np.ones_like(start)
    descent = made([start + (-1) ** t * away for t in range(12)], 3.0)
    told = {"averaged_loss": 2.5, "variance": 7.0, "sharpness": edge, "oscillating": 2.0}
    central = made([start + 2 * away] * 12, 2.0, **told)
    gradient = made([start - away] * 12, 1.0, sharpness=2 * edge)
    runs = {"descent": descent, "central": central, "gradient": gradient}
    found = average.compare(risk, runs, np.arange(1, 11))
    squared = away @ away
    average._move(risk, torch.as_tensor(start))
    expected = {
        "sharpness_descent": curvature.sharpness(risk) / edge,
        "sharpness_central": 1.0,
        "sharpness_gradient": 2.0,
        "loss_descent": 3.0,
        "loss_central": 2.5,
        "loss_bare": 2.0,
        "loss_gradient": 1.0,
        "variance_descent": squared,
        "variance_central": 7.0,
        "distance_central": 2 * np.sqrt(squared),
        "distance_gradient": np.sqrt(squared),
        "oscillating": 2.0,
    }
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_a_run_says_what_was_known_before_it(network, loss):
    config = dataclasses.replace(TOY, network=network, loss=loss, start_loss=1.0, pooled=4)
    done = sweep.perform(EXPERIMENT.function, config)
    assert done.status == "done", done.error
    known = average.ahead(config)
    assert set(known) == set(EXPERIMENT.tolerances)
    assert all(done.values[name] == pytest.approx(known[name], rel=1e-9) for name in known)
    assert done.values["loss_central"] >= done.values["loss_bare"]


def test_a_run_starts_where_the_gradient_flow_will_leave_the_edge(monkeypatch):
    steps = {}
    for past in (0.0, 0.01, 0.02):
        monkeypatch.setattr(average, "PAST", past)
        risk, known = average.start(dataclasses.replace(TOY, steps=150))
        slope = -float(curvature.sharpness_gradient(risk) @ risk.gradient())
        assert 150 * known["learning_rate"] * slope >= past * known["start_sharpness"]
        steps[past] = known["start_steps"]
    assert steps[0.0] <= steps[0.01] <= steps[0.02]
    monkeypatch.setattr(average, "PAST", 1e9)
    with pytest.raises(RuntimeError, match="rise fast enough"):
        average.start(dataclasses.replace(TOY, max_steps=steps[0.02]))


def test_a_start_that_is_not_found_is_named():
    with pytest.raises(RuntimeError, match="after 3 steps"):
        average.start(dataclasses.replace(TOY, max_steps=3))
    with pytest.raises(ValueError, match="model must be mlp, cnn"):
        average.start(dataclasses.replace(TOY, network="transformer"))


def test_gpu_preset_at_toy_size():
    configs = EXPERIMENT.grid("gpu")
    assert {config.device for config in configs} == {"cuda"}
    small = {"device": "cpu", "units": 4, "pooled": 7, "n_train": 20, "start_loss": 0.4}
    values = average.ahead(dataclasses.replace(configs[0], **small, small_rate=0.03))
    assert set(values) == set(EXPERIMENT.tolerances)


# --- criteria


def table(near, seeds=8, **changed):
    """Runs in which the central flow misses by ``near`` of what the gradient flow misses by."""
    generator = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        error = near * generator.uniform(0.9, 1.1)
        row = {"network": "mlp", "loss": "mse", "seed": seed, "status": "done"}
        for quantity, size in (("sharpness", 1.0), ("loss", 0.1)):
            row |= {
                f"{quantity}_descent": size,
                f"{quantity}_central": size * (1 + 0.2 * error),
                f"{quantity}_gradient": size * 1.2,
            }
        row |= {"distance_central": 0.3 * error, "distance_gradient": 0.3, "loss_bare": 0.12}
        rows.append(row | {"variance_descent": 2e-4, "variance_central": 1e-4} | changed)
    return results.Result(pa.Table.from_pylist(rows), {})


def test_a_central_flow_nearer_by_an_order_of_magnitude_meets_the_criteria():
    runs = table(0.05)
    assert average.predictions(runs) == {f"mlp-mse-{q}": True for q in average.QUANTITIES}
    found = average.effects(runs)
    for quantity in average.QUANTITIES:
        assert found[f"mlp-mse-{quantity}"].value == pytest.approx(0.05, rel=0.1)
    assert found["mlp-mse-bare"].value == pytest.approx(1)
    assert found["mlp-mse-variance"].value == pytest.approx(2)


@pytest.mark.parametrize("near", [1.0, 0.3, 0.1])
def test_each_criterion_fails_where_the_flow_is_no_nearer_or_not_by_enough(near):
    assert not any(average.predictions(table(near)).values())


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"sharpness_central": 1.2}, "sharpness"),
        ({"sharpness_central": 0.8}, "sharpness"),  # as far away, on the other side
        ({"loss_central": 0.12}, "loss"),
        ({"distance_central": 0.3}, "distance"),
    ],
)
def test_each_criterion_is_about_its_own_quantity(changed, missed):
    held = average.predictions(table(0.05, **changed))
    assert {name for name, met in held.items() if not met} == {f"mlp-mse-{missed}"}


def test_runs_that_diverged_do_not_count_and_settings_are_kept_apart():
    good, bad = table(0.05).table.to_pylist(), table(1.0).table.to_pylist()
    lost = [row | {"status": "diverged", "seed": 9} for row in bad[:1]]
    other = [row | {"network": "cnn"} for row in bad]
    held = average.predictions(results.Result(pa.Table.from_pylist(good + lost + other), {}))
    assert all(met == name.startswith("mlp") for name, met in held.items())
    assert len(held) == 6
