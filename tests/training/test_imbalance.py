"""The imbalance of two layers under gradient descent: the proposition of sharpness_limits."""

import pytest
import torch

from flatminima import models, training
from flatminima.curvature import EmpiricalRisk

F64 = torch.float64
EPS = torch.finfo(F64).eps


def network(seed, activation="relu", loss="mse", widths=(4, 5, 3, 2)):
    """A network with biases that are not zero, and its risk."""
    generator = torch.Generator().manual_seed(seed)
    model = models.mlp(list(widths), activation, seed=seed, dtype=F64)
    for module in model[1::2]:
        torch.nn.init.normal_(module.bias, generator=generator)
    x = torch.randn(12, widths[0], dtype=F64, generator=generator)
    outputs = torch.randn(12, widths[-1], dtype=F64, generator=generator)
    y = outputs if loss == "mse" else outputs.argmax(dim=1)
    return model, EmpiricalRisk(model, loss, (x, y))


def squares(tensors, signs):
    return sum(s * t.detach().square().sum().item() for t, s in zip(tensors, signs, strict=True))


def change(seed, rate, layer, activation="relu", loss="mse"):
    """The measured change of the imbalance in a step, the stated one, and the size of its terms."""
    model, risk = network(seed, activation, loss)
    signs = (-1, -1, 1)  # of W_1, b_1 and W_2
    parameters = list(model.parameters())[2 * layer : 2 * layer + 3]
    gradients = torch.autograd.grad(risk.loss(), parameters)
    before, size = squares(parameters, signs), squares(parameters, (1, 1, 1))
    training.gradient_descent(risk, rate, 1, progress=False)
    stated = rate**2 * squares(gradients, signs)
    size += squares(parameters, (1, 1, 1)) + rate**2 * squares(gradients, (1, 1, 1))
    return squares(parameters, signs) - before, stated, size


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("rate", [1e-3, 0.1, 3.0])
def test_layer_imbalance_changes_by_the_gradients_alone(rate, loss, layer):
    for seed in range(10):
        measured, stated, size = change(seed, rate, layer, loss=loss)
        # Sums of up to 25 squares round 25 times, the step twice, and gradients, which enter beside
        # the weights, some hundred times. The stated change stands far above that.
        assert abs(measured - stated) <= 200 * EPS * size
        assert abs(stated) > 1e4 * EPS * size


def test_layer_imbalance_needs_an_activation_that_rescaling_leaves_alone():
    """With tanh the terms of first order stay, and gradient flow does not keep the imbalance."""
    off = []
    for rate in (1e-3, 1e-4):
        measured, stated, _ = change(0, rate, 0, activation="tanh")
        off.append(abs(measured - stated) / rate)
    assert off[1] > 1e-3
    assert abs(off[0] / off[1] - 1) < 0.01, "of first order in the rate"


def test_layer_imbalance_counts_the_inner_bias_and_not_the_outer_one():
    model, risk = network(3)
    four = list(model.parameters())[:4]
    gradients = torch.autograd.grad(risk.loss(), four)
    w1, b1, w2, b2 = ((p * g).sum().item() for p, g in zip(four, gradients, strict=True))
    assert abs(w1 + b1 - w2) < 1e3 * EPS * (abs(w1) + abs(b1) + abs(w2))
    assert abs(w1 - w2) > 1e-3
    assert abs(w1 + b1 - w2 - b2) > 1e-3
