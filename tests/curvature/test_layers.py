"""curvature.layers: each block against the part of the dense Hessian that it is."""

import pytest
import torch
from curvature_cases import CASES

from flatminima import curvature


def case(name):
    return next(c for c in CASES if c.name == name).build()


def blocks_of(problem, by):
    """The dense diagonal blocks, in the order in which the names come."""
    places, start = {}, 0
    for name, p in zip(problem.names, problem.parameters, strict=True):
        places[name] = range(start, start := start + p.numel())
    hessian = problem.dense_hessian()
    for block, names in by.items():
        chosen = [i for name in names for i in places[name]]
        yield block, hessian[chosen][:, chosen]


@pytest.mark.parametrize("name", ["mlp-tanh-cross-entropy", "cnn-tanh-mse", "tied-weights-mse"])
def test_layers_are_blocks_of_the_dense_hessian(name):
    problem = case(name)
    layers = {}
    for parameter in problem.names:
        layers.setdefault(parameter.rpartition(".")[0], []).append(parameter)
    found = curvature.layer_curvature(problem, tol=1e-8)
    assert list(found) == list(layers)
    for block, dense in blocks_of(problem, layers):
        values = torch.linalg.eigvalsh(dense)
        layer = found[block]
        assert layer.size == len(dense)
        assert abs(layer.sharpness - values[-1]) <= 1.1e-8 * values.abs().max()
        # Up to 20 parameters the trace is exact; beyond, five standard errors.
        rounding = 1e-12 * values.abs().sum()
        assert abs(layer.trace.value - values.sum()) <= 5 * layer.trace.error + rounding
        assert (layer.trace.error == 0) == (len(dense) <= 20)


def test_blocks_by_names_and_by_a_function():
    problem = case("mlp-tanh-mse")
    kinds = {
        kind: [name for name in problem.names if name.endswith(kind)] for kind in ("weight", "bias")
    }
    named = curvature.layer_curvature(problem, kinds)
    by_function = curvature.layer_curvature(problem, lambda name: name.rpartition(".")[2])
    assert named == by_function
    assert {block: layer.size for block, layer in named.items()} == {
        kind: sum(p.numel() for n, p in problem.model.named_parameters() if n in names)
        for kind, names in kinds.items()
    }


def test_parameters_of_the_model_itself_are_blocks_of_their_own():
    problem = case("idle-parameters-mse")
    found = curvature.layer_curvature(problem)
    assert found["before"] == (4, 0.0, (0.0, 0.0)), "it does nothing, and has no curvature"


def test_names_that_are_none_are_refused():
    problem = case("mlp-tanh-mse")
    for by in ({"all": ["nothing"]}, {"none": []}):
        with pytest.raises(ValueError, match=r"must hold names of the risk's parameters \("):
            curvature.layer_curvature(problem, by)
