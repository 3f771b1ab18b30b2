"""A probe of one's own around an EigenTracker: against the dense Hessian, and when it resumes."""

import numpy as np
import pytest
import torch
from crashing import StopAt

from flatminima import models
from flatminima.curvature import EigenTracker, EmpiricalRisk, mse
from flatminima.training import gradient_descent

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
        return mse(torch.func.functional_call(model, weights, (INPUTS,)), TARGETS)

    point = torch.cat([p.detach().flatten() for p in model.parameters()])
    values, vectors = torch.linalg.eigh(torch.func.hessian(value)(point))
    return values.flip(0).numpy(), vectors.T.flip(0).numpy()


class Following:
    """Eigenvalues, angles, and in further columns the eigenvectors, from one tracker."""

    def __init__(self, k, tol=5e-4, **options):
        self.tracker = EigenTracker(k, tol, **options)

    def __call__(self, state):
        pairs = self.tracker.update(state.hessian)
        first = [pairs.eigenvalues, pairs.angles]
        return np.column_stack([*first, pairs.eigenvectors.double()])

    def state_dict(self):
        return self.tracker.state_dict()

    def load_state_dict(self, state):
        self.tracker.load_state_dict(state)


def run(pairs, extra=None, **options):
    risk = EmpiricalRisk(network(), "mse", (INPUTS, TARGETS))
    watched = {"pairs": pairs} | (extra or {})
    return gradient_descent(risk, 0.3, 20, progress=False, probes=watched, probe_every=2, **options)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_the_pairs_are_those_of_the_dense_hessian(which):
    exact = []
    pairs = Following(2, tol=1e-9, which=which)
    history = run(pairs, {"exact": lambda s: exact.append(dense(s.risk.model)) or 0.0})
    every = history.probes["pairs"]
    found = {"values": every[..., 0], "angles": every[..., 1], "vectors": every[..., 2:]}
    assert len(pairs.tracker.products) == len(exact) == 11
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


@pytest.mark.parametrize("broken_at", [2, 10, 18])
def test_a_resumed_run_measures_the_same_bits(tmp_path, broken_at):
    options = {"look_every": 3}
    first = Following(2, **options)
    expected = run(first, {"stop": StopAt(-1)}).probes
    again = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        run(Following(2, **options), {"stop": StopAt(broken_at)}, **again)
    second = Following(2, **options)
    found = run(second, {"stop": StopAt(-1)}, **again).probes
    for name, values in expected.items():
        assert np.array_equal(values, found[name]), name
    assert first.tracker.products == second.tracker.products
