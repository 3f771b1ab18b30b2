"""tracking: eigenpairs along a run against the dense Hessian, and across a resumption."""

import numpy as np
import pytest
import torch

from flatminima import models, training
from flatminima.training import tracking

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = torch.arange(24) % 3


def network():
    return models.mlp([5, 6, 3], dtype=torch.float64)


def dense(model):
    """Eigenvalues and eigenvectors (rows) in descending order, without flatminima.curvature."""
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def value(vector):
        pieces = vector.split([s.numel() for s in shapes.values()])
        weights = {k: v.reshape(s) for (k, s), v in zip(shapes.items(), pieces, strict=True)}
        return training.mse(torch.func.functional_call(model, weights, (INPUTS,)), TARGETS)

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    values, vectors = torch.linalg.eigh(torch.func.hessian(value)(point))
    return values.flip(0).numpy(), vectors.T.flip(0).numpy()


def probes(pairs):
    return {
        "values": pairs,
        "angles": pairs.angles,
        "overlaps": pairs.overlaps,
        "vectors": pairs.eigenvectors,
    }


def run(pairs, extra=None, model=None, **options):
    return training.gradient_descent(
        model or network(), INPUTS, TARGETS, learning_rate=0.3, steps=20, progress=False,
        probes=probes(pairs) | (extra or {}), probe_every=2, **options,
    )  # fmt: skip


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_pairs_are_those_of_the_dense_hessian(which):
    exact = []
    pairs = tracking.Eigenpairs(2, tol=1e-9, which=which)
    history = run(pairs, {"exact": lambda s: exact.append(dense(s.model)) or 0.0})
    found = history.probes
    chosen = slice(None, 2) if which == "largest" else slice(-2, None)
    before = None
    for t, (values, vectors) in enumerate(exact):
        # An eigenvalue is off by at most its residual, tol * |lambda|_max; an eigenvector by that
        # over the gap, which is above 1e-3 |lambda|_max for these.
        scale = np.abs(values).max()
        assert np.allclose(found["values"][t], values[chosen], rtol=0, atol=2e-9 * scale)
        gaps = np.abs(np.diff(values))
        assert min(gaps[:2] if which == "largest" else gaps[-2:]) > 1e-3 * scale
        inner = found["vectors"][t] @ vectors[chosen].T
        assert np.allclose(np.abs(inner), np.eye(2), rtol=0, atol=4e-6)
        if before is not None:
            cosines = np.linalg.svd(vectors[chosen] @ before.T, compute_uv=False)
            sines = np.sqrt(np.clip(1 - cosines**2, 0, None))
            assert np.allclose(np.sin(found["angles"][t]), np.sort(sines), rtol=0, atol=1e-5)
        before = vectors[chosen]
    assert not found["angles"][0].any()


def test_four_probes_cost_one_solution():
    one, four = (tracking.Eigenpairs(2) for _ in range(2))
    training.gradient_descent(
        network(), INPUTS, TARGETS, learning_rate=0.3, steps=20, progress=False,
        probes={"values": one}, probe_every=2,
    )  # fmt: skip
    run(four)
    assert len(four.tracker.products) == 11
    assert four.tracker.products == one.tracker.products


@pytest.mark.parametrize("broken_at", [2, 10, 18])
def test_a_resumed_run_measures_the_same_bits(tmp_path, broken_at):
    def stop(step):
        def probe(state):
            if state.step == step:
                raise KeyboardInterrupt
            return 0.0

        return {"stop": probe}

    options = {"scan_every": 3}
    first = tracking.Eigenpairs(2, **options)
    expected = run(first, stop(-1)).probes
    again = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(tracking.Eigenpairs(2, **options), stop(broken_at), **again)
    second = tracking.Eigenpairs(2, **options)
    found = run(second, stop(-1), **again).probes
    for name, values in expected.items():
        assert np.array_equal(values, found[name]), name
    assert first.tracker.products == second.tracker.products
