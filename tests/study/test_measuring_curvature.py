"""The two propositions of the chapter on measuring curvature, and the stored benchmark."""

import importlib
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from flatminima import curvature, models
from study import ROOT

EPS = np.finfo(float).eps


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 8),
    noise=st.floats(1e-6, 1),
    cluster=st.integers(1, 3),
)
def test_residual_proves_what_the_chapter_says(seed, n, noise, cluster):
    generator = np.random.default_rng(seed)
    values = np.sort(generator.normal(size=n))[::-1]
    values[:cluster] = values[0] - 1e-3 * np.arange(len(values[:cluster]))  # nearly repeated
    values = np.sort(values)[::-1]
    vectors = np.linalg.qr(generator.normal(size=(n, n)))[0]
    matrix = (vectors * values) @ vectors.T
    k = generator.integers(n)
    w = vectors[:, k] + noise * generator.normal(size=n)
    w /= np.linalg.norm(w)
    rounding = 20 * n * EPS * np.abs(values).max()
    # (3) with the Rayleigh quotient, (1) and (2) with any number.
    quotient = w @ matrix @ w
    sine = np.linalg.norm(w - vectors[:, k] * (vectors[:, k] @ w))
    assert abs(quotient - values[k]) <= (values[0] - values[-1]) * sine**2 + rounding
    for mu in (quotient, quotient + generator.normal()):
        residual = np.linalg.norm(matrix @ w - mu * w)
        assert np.abs(values - mu).min() <= residual + rounding
        for count in range(1, n):  # the nearest eigenvalues as the cluster
            near = np.argsort(np.abs(values - mu))[:count]
            outside = np.delete(np.arange(n), near)
            distance = np.abs(values[outside] - mu).min()
            assume(distance > 0)
            sine = np.linalg.norm(vectors[:, outside].T @ w)
            assert sine <= (residual + rounding) / distance + rounding


@given(
    widths=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    examples=st.integers(1, 7),
    loss=st.sampled_from(list(curvature.LOSSES)),
)
@settings(max_examples=25, deadline=None)
def test_cost_of_a_product(widths, examples, loss):
    """Matrix multiplications only, as the counter does: exact equality."""
    model = models.mlp(widths, "tanh", seed=1)
    inputs = torch.ones(examples, widths[0])
    targets = torch.zeros(examples, dtype=torch.int64)
    parameters = list(model.parameters())

    def value():
        return curvature.LOSSES[loss](model(inputs), targets)

    operator = curvature.HessianOperator(value, parameters)
    vector = torch.ones(operator.shape[0])
    counts = []
    for task in (
        lambda: torch.autograd.grad(value(), parameters),
        lambda: operator.matvec(vector),
    ):
        with FlopCounterMode(display=False) as counter:
            task()
        counts.append(counter.get_total_flops())
    layers = [2 * examples * a * b for a, b in itertools.pairwise(widths)]
    assert counts == [3 * sum(layers) - layers[0], 6 * sum(layers) - 4 * layers[0]]


@pytest.fixture(scope="module")
def benchmark():
    return importlib.import_module("benchmarks.__main__")


def stored(part):
    folder = ROOT / "results" / "benchmarks"
    record = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
    return record, (folder / f"{part}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("part", ["cold", "product", "tracking"])
def test_stored_table_is_that_of_the_stored_measurement(benchmark, part):
    record, text = stored(part)
    assert text.endswith("\n".join(benchmark.PARTS[part](record["results"])) + "\n")
    assert set(record["results"]) == {w.name for w in benchmark.WORKLOADS}
    assert set(record["machine"]["versions"]) == set(benchmark.PACKAGES)


def test_stored_medians_and_ratios_follow_from_the_stored_times():
    record, _ = stored("cold")
    for points in record["results"].values():
        for result in points.values():
            methods = result["methods"]
            ours = np.array(methods["flatminima"]["seconds"])
            assert len(ours) == record["rounds"]
            for row in methods.values():
                assert row["median_seconds"] == np.median(row["seconds"])
                assert row["ratio"] == np.median(np.array(row["seconds"]) / ours)


def test_a_follower_is_summarized_without_its_first_step(benchmark):
    ours = {"seconds": [9.0, 1.0, 1.0, 2.0]}
    row = {
        "products": [50, 6, 8, 7],
        "seconds": [9.0, 2.0, 4.0, 6.0],
        "checks": [[1, 1e-6, 2e-3], [3, 3e-6, 1e-3]],
    }
    assert benchmark.summary(row, ours) == {
        "median_products": 7, "mean_products": 7, "most_products": 8, "median_seconds": 4,
        "ratio": 3, "checks": 2, "value_error": 3e-6, "angle": 2e-3,
    }  # fmt: skip


def test_accuracy_check_sees_a_wrong_value_and_a_wrong_space(benchmark):
    exact = np.array([3.0, 2.0]), torch.eye(4)[:2]
    assert benchmark.good(benchmark.errors(exact, exact))
    turned = torch.tensor([[0.0, 1.0, 0, 0], [1.0, 0, 0, 0]])
    assert benchmark.good(benchmark.errors((exact[0], turned), exact)), "the same space"
    assert not benchmark.good(benchmark.errors((exact[0] * 1.002, exact[1]), exact))
    tilted = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0.02, 0]])
    assert not benchmark.good(benchmark.errors((exact[0], tilted), exact))
