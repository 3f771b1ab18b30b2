"""Two propositions of the chapter on measuring curvature, and the stored benchmarks."""

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
    operator.matvec(vector)  # the first is held against differences of the gradient, too
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


PARTS = ["cold", "counts", "following", "memory", "product"]


@pytest.mark.parametrize("part", PARTS)
def test_stored_table_is_that_of_the_stored_measurement(benchmark, part):
    record, text = stored(part)
    assert text == benchmark.table(part, record)
    assert set(record["results"]) <= set(benchmark.PARTS[part][1])
    assert set(record["machine"]["versions"]) == set(benchmark.PACKAGES)


def test_every_part_is_stored(benchmark):
    assert sorted(benchmark.PARTS) == PARTS


def test_stored_ratios_follow_from_the_stored_rounds():
    record, _ = stored("cold")
    for points in record["results"].values():
        for result in points.values():
            for name, row in result["methods"].items():
                rounds = len(row["ratios"])
                assert rounds == len(row["products"]) <= record["rounds"]
                assert rounds == record["rounds"] or name.startswith("pyhessian")
                assert row["ratio"] == np.median(row["ratios"])


def test_stored_means_follow_from_the_stored_products():
    record, _ = stored("following")
    for cells in record["results"].values():
        for cell in cells:
            for row in cell["methods"]:
                assert len(row["products"]) == cell["probes"]
                assert row["mean_products"] == np.mean(row["products"][1:])
                assert min(row["products"]) >= row["k"]


def test_a_follower_is_summarized_without_its_first_probe():
    followers = importlib.import_module("benchmarks.followers")
    row = {"products": [50, 6, 8, 7], "errors": [1e-6, 3e-6]}
    assert followers.summary({**row, "off": 0}) == {
        "products": [50, 6, 8, 7], "mean_products": 7, "off": 0, "error": 3e-6,
    }  # fmt: skip


def test_a_count_is_that_of_the_loosest_setting_that_is_good():
    """A solver whose error and products are known, at each of its settings."""
    counts = importlib.import_module("benchmarks.counts")
    matrix = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    operator = curvature.MatrixOperator(matrix)

    def solver(operator, k, tol, seed):
        operator.matmat(torch.ones(int(1 / tol), 3, dtype=torch.float64))
        columns = np.eye(3)[:, :k]
        columns[2, 0] = tol
        return np.array([3.0, 2.0])[:k] * (1 + 0.9 * tol), columns

    found = counts.cheapest(operator, solver, 2, 0, np.array([3.0, 2.0, 1.0]), counts.LADDER)
    # Values are off by 0.9 tol of the largest: 1e-4 is met last; residuals are about sqrt(5) tol.
    assert found == {"residual": 3333, "values": 10000}
    assert counts.cheapest(operator, solver, 2, 0, np.array([9.0, 2.0]), [0.1])["values"] is None


def test_accuracy_check_sees_a_wrong_value_and_a_wrong_space():
    benchmark = importlib.import_module("benchmarks.times")
    exact = np.array([3.0, 2.0]), torch.eye(4)[:2]
    assert benchmark.good(benchmark.errors(exact, exact))
    turned = torch.tensor([[0.0, 1.0, 0, 0], [1.0, 0, 0, 0]])
    assert benchmark.good(benchmark.errors((exact[0], turned), exact)), "the same space"
    assert not benchmark.good(benchmark.errors((exact[0] * 1.002, exact[1]), exact))
    tilted = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0.02, 0]])
    assert not benchmark.good(benchmark.errors((exact[0], tilted), exact))
