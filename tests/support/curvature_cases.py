"""Small networks x losses x data that the curvature tests share, with their dense Hessians.

The dense Hessians come from ``torch.func.hessian`` of a function of one flat vector, through
``functional_call``: nothing of ``flatminima.curvature`` takes part. Use it as

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_products(case):
        problem = case.build()
        operator = problem.hessian()
        hessian = problem.dense_hessian()
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flatminima import models
from flatminima.curvature import EmpiricalRisk

EXAMPLES, CLASSES = 12, 3


class Problem(EmpiricalRisk):
    """A risk on one pair of inputs and targets, with its dense derivatives."""

    def in_batches(self, sizes: list[int]) -> EmpiricalRisk:
        """The same risk with its data in consecutive batches of these sizes."""
        inputs, targets = self.data
        batches = list(zip(inputs.split(sizes), targets.split(sizes), strict=True))
        return EmpiricalRisk(self.model, self.loss_function, batches)

    def at(self, vector: Tensor) -> Tensor:
        """The loss at a flat vector (n,) of parameters: a function for torch.func to transform."""
        inputs, targets = self.data
        outputs = torch.func.functional_call(self.model, self.unflatten(vector), (inputs,))
        return self.loss_function(outputs, targets)

    def dense_hessian(self) -> Tensor:
        """(n, n) Hessian at the current parameters, symmetric up to rounding."""
        return torch.func.hessian(self.at)(self.flat())

    def dense_third(self, vector: Tensor) -> Tensor:
        """(n, n) derivative of the Hessian along a vector (n,): T[vector, ., .]."""
        return torch.func.jvp(torch.func.hessian(self.at), (self.flat(),), (vector,))[1]


@dataclass(frozen=True)
class Case:
    """A named problem, built anew by each call so that no test sees what another did to it.

    Attributes:
        smooth: whether the loss is infinitely often differentiable (ReLU networks are not).
    """

    name: str
    make_model: Callable[[], nn.Module]
    loss: str
    input_shape: tuple[int, ...] = (4,)
    smooth: bool = True

    def __str__(self) -> str:
        return self.name

    def build(
        self, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Problem:
        generator = torch.Generator().manual_seed(7)
        shape = (EXAMPLES, *self.input_shape)
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
        targets = torch.randint(CLASSES, (EXAMPLES,), generator=generator)
        model = self.make_model().to(device, dtype)
        return Problem(model, self.loss, (inputs.to(device, dtype), targets.to(device)))


def _randomized(model: nn.Module, seed: int = 3) -> nn.Module:
    """Standard normal values / 2 for every parameter, biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


def _mlp(activation: str, widths: tuple[int, ...] = (4, 5, 3)) -> Callable[[], nn.Module]:
    return lambda: models.mlp(widths, activation, seed=1, dtype=torch.float64)


def _batch_norm() -> nn.Module:
    """Batch normalization in evaluation mode, its running averages away from their defaults."""
    layers = [nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, CLASSES)]
    model = _randomized(nn.Sequential(*layers).double())
    model[1].running_mean.copy_(torch.linspace(-1, 1, 5))
    model[1].running_var.copy_(torch.linspace(0.5, 2, 5))
    return model.eval()


class Tied(nn.Module):
    """One weight in two layers, and its transpose in a third."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, dtype=torch.float64)
        self.second = nn.Linear(4, 4, dtype=torch.float64)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, CLASSES, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(hidden @ self.first.weight)


class Idle(nn.Module):
    """The output depends on the network alone: two parameters, first and last, do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
        self.body = models.mlp([4, 5, CLASSES], seed=1, dtype=torch.float64)
        self.behind = nn.ParameterList([torch.ones(3, dtype=torch.float64)])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def _frozen() -> nn.Module:
    model = models.mlp([4, 6, 4, CLASSES], "gelu", seed=1, dtype=torch.float64)
    model[1].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    return model


CASES = [
    Case("mlp-tanh-mse", _mlp("tanh"), "mse"),
    Case("mlp-tanh-cross-entropy", _mlp("tanh"), "cross_entropy"),
    Case("deep-softplus-mse", _mlp("softplus", (4, 4, 4, 4, 3)), "mse"),
    Case("deep-gelu-cross-entropy", _mlp("gelu", (4, 4, 4, 3)), "cross_entropy"),
    Case("mlp-relu-mse", _mlp("relu", (4, 6, 5, 3)), "mse", smooth=False),
    Case("mlp-relu-cross-entropy", _mlp("relu", (4, 6, 5, 3)), "cross_entropy", smooth=False),
    Case(
        "cnn-relu-cross-entropy",
        lambda: models.cnn([2], input_shape=(1, 6, 6), outputs=3, seed=1, dtype=torch.float64),
        "cross_entropy",
        (1, 6, 6),
        smooth=False,
    ),
    Case(
        "cnn-tanh-mse",
        lambda: models.cnn(
            [2], "tanh", input_shape=(1, 4, 4), outputs=3, seed=1, dtype=torch.float64
        ),
        "mse",
        (1, 4, 4),
    ),
    # A constant Hessian, one copy of the input covariance for each output: repeated eigenvalues.
    Case("linear-mse", lambda: models.linear(4, 3, seed=1, dtype=torch.float64), "mse"),
    Case("batch-norm-eval-cross-entropy", _batch_norm, "cross_entropy"),
    Case("tied-weights-mse", lambda: _randomized(Tied()), "mse"),
    Case("idle-parameters-mse", Idle, "mse"),
    Case("frozen-parameters-cross-entropy", _frozen, "cross_entropy"),
]
SMOOTH = [case for case in CASES if case.smooth]
