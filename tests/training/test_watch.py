"""Watch: every column against automatic differentiation, and the smallest eigenvalue."""

import numpy as np
import pytest
import small_networks
import torch
from torch.func import functional_call

from flatminima import curvature, datasets, models
from flatminima.curvature import EmpiricalRisk, mse
from flatminima.training import gradient_descent, probes


def test_every_column_of_watch_against_automatic_differentiation_in_float64():
    """Each quantity from its definition: dense Hessian, derivatives along v_1, gradient of v'Hv."""
    x, labels = small_networks.points()
    x, y = x.double(), torch.nn.functional.one_hot(labels, 3).double()
    model = models.mlp([6, 5, 5, 3], scale=0.5, seed=1, dtype=torch.float64)
    risk = EmpiricalRisk(model, "mse", (x, y))
    gradient_descent(risk, 0.2, 200, progress=False)
    names, shapes = zip(*((n, p.shape) for n, p in model.named_parameters()), strict=True)
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(theta):
        parts = torch.split(theta, [shape.numel() for shape in shapes])
        parameters = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return mse(functional_call(model, parameters, (x,)), y)

    hessian = torch.func.hessian(loss)(flat)
    values, vectors = torch.linalg.eigh(hessian)
    v = vectors[:, -1]
    gradient = torch.func.grad(loss)(flat)
    third = torch.func.grad(lambda theta: v @ torch.func.hessian(loss)(theta) @ v)(flat)

    def line(t):
        return loss(flat + t * v)

    for _ in range(4):
        line = torch.func.grad(line)
    expected = {
        "sharpness": values[-1],
        "lambda_min": values[0],
        "displacement": abs(gradient @ v) / values[-1],
        "along": abs(third @ v),
        "across": torch.linalg.norm(third - (third @ v) * v),
        "fourth": line(torch.zeros((), dtype=torch.float64)),
    }
    assert tuple(expected) == probes.QUANTITIES

    def at(tol):
        return probes.Watch(tol)(probes.State(0, risk, 1e-12))

    # The vector is off by an angle of at most tol lambda_1 over the gap, and each quantity in
    # proportion, with a factor of the order of the largest derivative over its own size.
    angle = 1e-9 * float(values[-1] / (values[-1] - values[-2]))
    largest = torch.func.jacfwd(torch.func.hessian(loss))(flat).abs().sum((1, 2)).max()
    for value, (name, known) in zip(at(1e-9), expected.items(), strict=True):
        scale = max(float(largest / abs(known)), 1.0)
        assert value == pytest.approx(float(known), rel=max(10 * angle * scale, 1e-9)), name


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_watch_finds_a_smallest_eigenvalue_of_one_percent_of_the_largest(seed):
    """From a cold start, and not an eigenvalue near zero, whose residual may be as small."""
    images = datasets.load("fashion-mnist-subset", n_train=200, n_test=10, seed=0)
    model = models.mlp([784, 16, 16, 10], scale=0.3, seed=seed)
    risk = EmpiricalRisk(model, "mse", (images.x_train, images.y_train))
    gradient_descent(risk, 0.1, 200, progress=False)
    found = probes.Watch()(probes.State(0, risk, 0.1))
    known = curvature.top_eigenpairs(risk, which="smallest", tol=1e-5)
    # Each within its residual, of 5e-4 and of 1e-5 of lambda_1.
    assert float(known.eigenvalues[0]) < -0.005 * found[0]
    assert found[1] == pytest.approx(float(known.eigenvalues[0]), abs=5.2e-4 * found[0])


def test_watch_agrees_with_the_dense_hessian_and_no_episode_is_in_a_stable_step():
    risk = small_networks.trained()
    run = gradient_descent(risk, 1e-6, 1, probes={"w": probes.Watch()}, progress=False)
    operator, found = risk.hessian(), run.probes["w"][-1]
    rows = [operator.matvec(e).numpy() for e in torch.eye(risk.size)]
    dense = np.linalg.eigvalsh(np.array(rows).astype(float))
    # A Ritz value errs by at most its residual, 5e-4 of the largest eigenvalue.
    assert found[0] == pytest.approx(dense[-1], abs=5e-4 * dense[-1])
    assert found[1] == pytest.approx(dense[0], abs=5e-4 * dense[-1])
    assert run.episodes("w") == []
