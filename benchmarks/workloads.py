"""The fixed workloads: networks, their data, and the descent that leads them to the edge."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatminima import datasets, models
from flatminima.curvature import EmpiricalRisk
from flatminima.training import gradient_descent


class Transformer(nn.Module):
    """One block on the rows of 14 x 14 images, a token each: attention, then a tanh layer.

    The norm is a group norm over all of an image, whose second derivative is right in every mode.
    """

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(14, width)
        self.place = nn.Parameter(0.1 * torch.randn(14, width))
        self.norm = nn.GroupNorm(1, width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.flatten(1).view(-1, 14, 14)) + self.place
        normal = self.norm(x.transpose(1, 2)).transpose(1, 2)
        parts = self.attend(normal).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        x = x + self.down(torch.tanh(self.up(x)))
        return self.head(x.mean(1))


class Residual(nn.Module):
    """x + conv(relu(norm(conv(x)))), the identity averaged and padded where the shape changes."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if inside != outside else nn.Identity()
        self.extra = outside - inside
        self.first = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm = nn.GroupNorm(4, outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        inner = self.second(functional.relu(self.norm(self.first(x))))
        return functional.pad(x, (0, 0, 0, 0, 0, self.extra)) + inner


def resnet() -> nn.Module:
    """Four residual blocks with group norms, on images of 3 x 32 x 32."""
    blocks = [Residual(8, 8), Residual(8, 16), Residual(16, 16), Residual(16, 32)]
    head = [nn.GroupNorm(4, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *blocks, *head, nn.Linear(32, 10))


def _halved(images: Tensor) -> Tensor:
    return functional.avg_pool2d(images, 2)


def _like_cifar(images: Tensor) -> Tensor:
    return functional.pad(images, (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()


@dataclass(frozen=True)
class Workload:
    """A network, its data, its loss, and the gradient descent that leads it to the edge."""

    name: str
    summary: str
    loss: str
    learning_rate: float
    steps: dict[str, int]
    build: Callable[[], nn.Module]
    images: int
    view: Callable[[Tensor], Tensor] = torch.clone

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        data = datasets.load("fashion-mnist-subset", n_train=self.images, n_test=10, seed=0)
        return self.view(data.x_train).to(dtype), data.y_train

    def model(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            return self.build().to(dtype)


WORKLOADS = [
    Workload(
        "mlp",
        "MLP 784-200-200-10, tanh, squared loss, 1,000 images of 28 x 28",
        "mse",
        0.05,
        {"edge": 1400},
        lambda: models.mlp([784, 200, 200, 10], "tanh", scale=0.3, seed=0),
        1000,
    ),
    Workload(
        "cnn",
        "CNN of 8 and 16 channels, ReLU, cross-entropy, 1,000 images averaged to 14 x 14",
        "cross_entropy",
        0.05,
        {"edge": 300},
        lambda: models.cnn((8, 16), "relu", input_shape=(1, 14, 14), seed=0),
        1000,
        _halved,
    ),
    Workload(
        "small",
        "MLP 784-32-32-10, tanh, squared loss, 200 images of 28 x 28",
        "mse",
        0.1,
        {"edge": 400},
        lambda: models.mlp([784, 32, 32, 10], "tanh", seed=0),
        200,
    ),
    Workload(
        "transformer",
        "transformer of one block and width 16, cross-entropy, 200 images averaged to 14 x 14",
        "cross_entropy",
        0.1,
        {"edge": 600},
        Transformer,
        200,
        _halved,
    ),
    Workload(
        "resnet",
        "residual network of four blocks with group norms, cross-entropy, 100 images padded to "
        "3 x 32 x 32",
        "cross_entropy",
        0.1,
        {"edge": 200},
        resnet,
        100,
        _like_cifar,
    ),
]


class Problem(EmpiricalRisk):
    """The risk of a workload's network at one point of its training, in one precision."""

    def __init__(self, workload: Workload, model: nn.Module, data: tuple[Tensor, Tensor]) -> None:
        super().__init__(model, workload.loss, data)
        self.workload = workload

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
