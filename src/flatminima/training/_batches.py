"""What an update is made of: the whole data, minibatches, or what stands for their noise."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only

from flatminima._validation import one_of, positive_int
from flatminima.curvature.losses import LOSSES
from flatminima.curvature.operator import Closure
from flatminima.curvature.risk import EmpiricalRisk, call


class WholeBatch:
    """Endless sequence of the whole risk, each time as its terms."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.risk = risk

    def terms(self) -> Iterator[tuple[float, Closure]]:
        return self.risk.terms()

    def advance(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class ShuffledBatches:
    """Endless sequence of minibatches, a fresh permutation for each epoch."""

    def __init__(self, risk: EmpiricalRisk, batch_size: int, generator: torch.Generator) -> None:
        self.risk, self.batch_size, self.generator = risk, batch_size, generator
        self.count = len(risk.data[1])
        self.order = torch.empty(0, dtype=torch.int64)
        self.first = 0

    def terms(self) -> Iterator[tuple[float, Closure]]:
        inputs, targets = self.pair
        yield 1.0, lambda: self.risk.batch_loss(inputs, targets)

    def advance(self) -> None:
        """Go on to the next minibatch, ``pair``."""
        chosen = self.indices().to(self.risk.device)
        self.pair = tree_map_only(Tensor, lambda tensor: tensor[chosen], self.risk.data)

    def indices(self) -> Tensor:
        """Positions (batch_size,) of the next minibatch, on the CPU."""
        if self.first + self.batch_size > len(self.order):
            self.order = torch.randperm(self.count, generator=self.generator)
            self.first = 0
        chosen = self.order[self.first : self.first + self.batch_size]
        self.first += self.batch_size
        return chosen

    def state_dict(self) -> dict[str, Any]:
        state = {"order": self.order, "first": self.first}
        return state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order, self.first = state["order"], state["first"]
        self.generator.set_state(state["generator"])


class IndependentBatches(ShuffledBatches):
    """Endless sequence of minibatches, each drawn from all the data, whatever was drawn before."""

    def indices(self) -> Tensor:
        return torch.randperm(self.count, generator=self.generator)[: self.batch_size]


class CovarianceNoise(IndependentBatches):
    r"""The whole data, with Gaussian noise of the covariance that a minibatch's gradient has here.

    The gradient of sum_i (1/n + w_i) l_i, where w_i = (z_i - mean z) sqrt(c / (n B)), z is standard
    normal and c = (n - B) / (n - 1). Given the parameters it is normal, its mean is that of all l_i
    and its covariance (c / B) (1/n) sum_i (g_i - g)(g_i - g)^T: that of the mean of B of the g_i
    drawn without replacement. It takes one pass, and no gradient of a single example.
    """

    def advance(self) -> None:
        """Go on to the next multipliers w, (n,)."""
        n, size = self.count, self.batch_size
        drawn = torch.randn(n, generator=self.generator, dtype=self.risk.parameters[0].dtype)
        scale = math.sqrt((n - size) / (max(n - 1, 1) * n * size))
        self.multipliers = (scale * (drawn - drawn.mean())).to(self.risk.device)

    def terms(self) -> Iterator[tuple[float, Closure]]:
        yield 1.0, lambda: (1 / self.count + self.multipliers) @ example_losses(self.risk)


class IsotropicNoise(CovarianceNoise):
    """The whole data, with noise that prefers no direction and is as large as a minibatch's here.

    The noise is |zeta| / sqrt(p) times a standard normal vector, where zeta is what CovarianceNoise
    draws at these parameters: its covariance is the identity times E |zeta|^2 / p.
    """

    def advance(self) -> None:
        super().advance()
        generator, parameters = self.generator, self.risk.parameters
        drawn = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        self.directions = [d.to(self.risk.device) for d in drawn]

    def terms(self) -> Iterator[tuple[float, Closure]]:
        yield 1.0, self._loss

    def _loss(self) -> Tensor:
        parameters = self.risk.parameters
        losses = example_losses(self.risk)
        found = torch.autograd.grad(
            self.multipliers @ losses, parameters, retain_graph=True, materialize_grads=True
        )
        size = torch.stack(torch._foreach_norm(found)).norm() / math.sqrt(self.risk.size)
        # Of value zero, and with the noise for its gradient.
        pairs = zip(self.directions, parameters, strict=True)
        return losses.mean() + size * sum((d * (p - p.detach())).sum() for d, p in pairs)


NOISES = {
    "epochs": ShuffledBatches,
    "independent": IndependentBatches,
    "covariance": CovarianceNoise,
    "isotropic": IsotropicNoise,
}
"""What the noise of an update can be, by name."""


def example_losses(risk: EmpiricalRisk) -> Tensor:
    """The loss (n,) of each example, of which the risk is the mean; they can be differentiated."""
    inputs, targets = risk.data
    with sdpa_kernel(SDPBackend.MATH):
        outputs = call(risk.model, inputs)
        return torch.vmap(lambda o, t: risk.loss_function(o[None], t[None]))(outputs, targets)


def _check_mean(risk: EmpiricalRisk) -> None:
    """ValueError unless the risk is the mean of the losses of its examples."""
    with torch.no_grad(), undisturbed(risk.model):
        mean, whole = float(example_losses(risk).mean()), risk.value()
    if not math.isclose(mean, whole, rel_tol=1e-3, abs_tol=1e-12):
        raise ValueError(
            "noise must be epochs or independent for a loss that is not the mean of the losses of "
            f"its examples: it is {whole:g}, and their mean {mean:g}"
        )


def make_batches(
    risk: EmpiricalRisk,
    batch_size: int | None,
    generator: torch.Generator | None,
    noise: str = "epochs",
) -> WholeBatch | ShuffledBatches:
    """Endless sequence of batches, as `train` says; arguments are checked at once."""
    kind = NOISES[one_of("noise", noise, NOISES)]
    if batch_size is None:
        if noise != "epochs":
            raise ValueError(f"batch_size must be given for the noise {noise!r}, got None")
        return WholeBatch(risk)
    if not risk.pair:
        raise ValueError(
            "batch_size needs a risk whose data are one pair (inputs, targets), to draw from; got "
            f"data in batches, {type(risk.data).__name__}: leave batch_size out to train on all"
        )
    batch_size = positive_int("batch_size", batch_size)
    n = len(risk.data[1])
    if batch_size > n:
        raise ValueError(f"batch_size must be at most the {n} examples given, got {batch_size}")
    if generator is None:
        raise ValueError("generator must be a torch.Generator when batch_size is given, got None")
    if issubclass(kind, CovarianceNoise):
        _check_mean(risk)
    return kind(risk, batch_size, generator)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each module is in the mode it was in afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluations that leave the model and the run as they were.

    Batch normalization's running averages, and the generators that dropout draws from, are put
    back: who watches a run must not change it.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def check_data(risk: EmpiricalRisk) -> None:
    """Raise ValueError unless the data fit together, and fit the model and its loss."""
    if any(parameter.is_inference() for parameter in risk.parameters):
        raise ValueError("model must be made outside of torch.inference_mode(), to be trained")
    for inputs, targets in [risk.data] if risk.pair else risk.batches():
        _check_inputs(inputs, targets, risk.parameters[0])
        with torch.no_grad(), evaluating(risk.model):
            outputs = call(risk.model, inputs[:1] if isinstance(inputs, Tensor) else inputs)
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            _check_targets(targets, outputs, risk)


def _check_inputs(inputs: Any, targets: Any, parameter: Tensor) -> None:
    if isinstance(inputs, Tensor):
        if inputs.ndim < 1 or len(inputs) == 0:
            raise ValueError(f"inputs must have shape (n, ...), n >= 1; got {tuple(inputs.shape)}")
        if len(inputs) != len(targets):
            raise ValueError(
                "inputs and targets must hold the same number of examples, got "
                f"{len(inputs)} and {len(targets)}"
            )
    for name, tree in (("inputs", inputs), ("targets", targets)):
        for tensor in tree_leaves(tree):
            if not isinstance(tensor, Tensor):
                continue
            if tensor.device != parameter.device:
                raise ValueError(
                    f"{name} must be on the model's device {parameter.device}, got {tensor.device}"
                )
            if name == "inputs" and tensor.is_floating_point() and tensor.dtype != parameter.dtype:
                raise ValueError(
                    f"inputs must have the model's dtype {parameter.dtype}, got {tensor.dtype}"
                )
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} must hold finite numbers only, got a NaN or an infinity")


def _check_targets(targets: Tensor, outputs: Tensor, risk: EmpiricalRisk) -> None:
    """Under the losses by name: labels of the model's classes, or targets shaped as outputs."""
    loss = next((name for name, f in LOSSES.items() if f is risk.loss_function), None)
    if loss is None:
        return
    shape, labels = tuple(outputs.shape[1:]), targets.dtype == torch.int64
    if labels and targets.shape[1:] == shape[:-1] and (loss == "cross_entropy" or len(shape) == 1):
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= shape[-1]:
            raise ValueError(
                f"labels must lie between 0 and {shape[-1] - 1}, the model's last class; got "
                f"{low} to {high}"
            )
        return
    allowed = f"int64 labels ({', '.join(['n', *map(str, shape[:-1])])}{',' * (len(shape) < 2)})"
    if loss == "mse":
        if targets.is_floating_point() and targets.shape[1:] == shape:
            return
        real = f"real targets ({', '.join(['n', *map(str, shape)])})"
        allowed = f"{allowed} or {real}" if len(shape) == 1 else real
    raise ValueError(
        f"targets must be {allowed} for the loss {loss!r}, got {targets.dtype} of shape "
        f"{tuple(targets.shape)}"
    )


def scalar(value: object) -> Tensor:
    """What a loss returned; ValueError unless it is a scalar tensor, finite or not."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss must return a scalar tensor, got {given}")
    return value


def loss_of_zero(risk: EmpiricalRisk) -> float:
    """Size of the loss of outputs that are all zero, the scale of the problem.

    0 where outputs are no tensor, or the loss of zeros is not finite.
    """
    total = 0.0
    with torch.no_grad(), evaluating(risk.model):
        for (weight, _), (inputs, targets) in zip(risk.terms(), risk.batches(), strict=True):
            zeros = _zero_outputs(risk.model, inputs)
            if zeros is None:
                return 0.0
            total += weight * float(scalar(risk.loss_function(zeros, targets)))
    return abs(total) if abs(total) < float("inf") else 0.0


def _zero_outputs(model: nn.Module, inputs: Any) -> Tensor | None:
    """Zeros in the shape of the outputs; as a rule one example tells it."""
    if isinstance(inputs, Tensor):
        outputs = call(model, inputs[:1])
        if isinstance(outputs, Tensor) and outputs.ndim and len(outputs) == 1:
            return outputs.new_zeros(len(inputs), *outputs.shape[1:])
    outputs = call(model, inputs)
    return torch.zeros_like(outputs) if isinstance(outputs, Tensor) else None
