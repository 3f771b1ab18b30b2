"""The two fixed workloads, each near initialization and at the edge of stability."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima import datasets, models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent

IMAGES = 1000


@dataclass(frozen=True)
class Workload:
    """A network, its data, its loss, and the gradient descent that leads it to the edge."""

    name: str
    summary: str
    loss: str
    learning_rate: float
    steps: dict[str, int]

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        data = datasets.load("fashion-mnist-subset", n_train=IMAGES, n_test=10, seed=0)
        images = data.x_train
        if self.name == "cnn":
            images = functional.avg_pool2d(images, 2)
        return images.to(dtype), data.y_train

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        if self.name == "cnn":
            model = models.cnn((8, 16), "relu", input_shape=(1, 14, 14), seed=0)
        else:
            model = models.mlp([784, 200, 200, 10], "tanh", scale=0.3, seed=0)
        return model.to(dtype)


WORKLOADS = [
    Workload(
        "mlp",
        "MLP 784-200-200-10, tanh, squared loss, 1,000 images of 28 x 28",
        "mse",
        0.05,
        {"early": 20, "edge": 1400},
    ),
    Workload(
        "cnn",
        "CNN of 8 and 16 channels, ReLU, cross-entropy, 1,000 images averaged to 14 x 14",
        "cross_entropy",
        0.05,
        {"early": 20, "edge": 300},
    ),
]


class Problem(EmpiricalRisk):
    """The risk of a workload's network at one point of its training, in one precision."""

    def __init__(self, workload: Workload, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        super().__init__(model, workload.loss, data)
        self.workload = workload

    def descend(self) -> None:
        """One step of gradient descent."""
        gradient = torch.autograd.grad(self.loss(), self.parameters)
        with torch.no_grad():
            torch._foreach_add_(self.parameters, gradient, alpha=-self.workload.learning_rate)

    def in_double(self) -> "Problem":
        """The same point in float64."""
        model = self.workload.model(torch.float64)
        model.load_state_dict({k: v.double() for k, v in self.model.state_dict().items()})
        return Problem(self.workload, model, self.workload.data(torch.float64))


def problem(workload: Workload, state: dict[str, Tensor] | None = None) -> Problem:
    """The workload at initialization, or at a saved state."""
    model = workload.model()
    if state is not None:
        model.load_state_dict(state)
    return Problem(workload, model, workload.data())


def checkpoints(workload: Workload) -> dict[str, dict[str, Tensor]]:
    """Train by full-batch gradient descent; the state of the network at each named step."""
    current = problem(workload)
    done, states = 0, {}
    for name, steps in workload.steps.items():
        gradient_descent(current, workload.learning_rate, steps - done, progress=False)
        done = steps
        states[name] = {k: v.clone() for k, v in current.model.state_dict().items()}
    return states
